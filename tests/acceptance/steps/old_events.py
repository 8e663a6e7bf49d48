"""Logs of the Python bridge, at size: imported whole, in spite of kills, and found again at any time of their past."""

from __future__ import annotations

import json
import os
import pty
import random
import resource
import signal
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

from harness import old_events
from harness.command import run
from harness.mount import Server
from harness.old_events import Moment, Written
from harness.outcome import Failed, require
from harness.step import step
from harness.world import World

# How many events are imported for the figure, and the seconds that may take.
RATED = 100_000
RATED_SECONDS = 10.0


def _argv(world: World, server: Server, source: Path, *options: str) -> list[str | Path]:
    secret = world.scratch / "old-events.secret"
    secret.write_bytes(old_events.SECRET)
    return [world.binary, *options, "import", server.store, source, "--secret-file", secret]


def _import(world: World, server: Server, source: Path) -> dict[str, int]:
    argv = _argv(world, server, source) + ["--json"]
    report: dict[str, int] = json.loads(run(argv, timeout=world.time_left()).stdout)
    return report


def _read_so_far(pid: int, files: list[Path]) -> int:
    """How many bytes of `files`, which are read one behind the other, process `pid` has read."""
    before = 0
    for file in files:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            try:
                if descriptor.readlink() == file:
                    info = Path(f"/proc/{pid}/fdinfo/{descriptor.name}").read_text()
                    return before + int(info.split()[1])
            except OSError:
                continue
        before += file.stat().st_size
    return 0


def _kill_at(world: World, server: Server, written: Written, share: float) -> None:
    """Begins an import and kills it with SIGKILL once that share of the log is read."""
    wanted = share * sum(file.stat().st_size for file in written.files)
    source = written.files[0].parent
    process = subprocess.Popen(
        _argv(world, server, source), stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    # What looks for the first time of a log reads it too, but not as far.
    while process.poll() is None and _read_so_far(process.pid, written.files) < wanted:
        time.sleep(0.002)
    process.kill()
    code = process.wait()
    require(code == -signal.SIGKILL, f"the import ended with {code} before it was to be killed")
    print(f"killed at {share:.0%}", flush=True)


def _bytes_at(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


def _compare(server: Server, moment: Moment) -> None:
    """Compares what a moment of the past shows with what the project was then."""
    root = str(server.mountpoint / "history" / moment.name)
    if moment.directories is None:
        for path, wanted in moment.files.items():
            found = _bytes_at(root + path)
            require(found == wanted, f"{moment.name}{path} has {found!r:.200}, not {wanted!r:.200}")
        return
    files: dict[str, bytes | None] = {}
    directories: set[str] = set()
    for where, below, names in os.walk(root, onerror=_fail):
        inside = where.removeprefix(root)
        directories.update(f"{inside}/{name}" for name in below)
        files.update({f"{inside}/{name}": _bytes_at(f"{where}/{name}") for name in names})
    _same(moment.name, "directories", directories, moment.directories)
    _same(moment.name, "files", files.keys(), moment.files.keys())
    wrong = [path for path, content in files.items() if content != moment.files[path]]
    require(not wrong, f"at {moment.name} {len(wrong)} files have other content: {wrong[:5]}")


def _fail(err: OSError) -> None:
    raise Failed(f"a directory of the past cannot be listed: {err}")


def _same(name: str, what: str, found: Iterable[str], wanted: Iterable[str]) -> None:
    too_many, missing = set(found) - set(wanted), set(wanted) - set(found)
    require(
        not too_many and not missing,
        f"at {name} the {what} {sorted(missing)[:5]} are missing, {sorted(too_many)[:5]} are too many",
    )


@step("old-events", smoke=90, full=900, served=True, main=False, root=True)
def import_at_size(world: World) -> str:
    """A large log of the bridge, its import killed on the way: is the past at any time what a replay says?"""
    events = world.pick(smoke=20_000, full=1_000_000)
    rng = random.Random(world.seed)
    source = world.aside("old-events") / "events"
    written = old_events.write(
        source, world.seed, events,
        whole=world.pick(smoke=4, full=10), spots=world.pick(smoke=60, full=400),
    )  # fmt: skip
    server = world.server("old-events")
    shares = sorted(rng.uniform(0.05, 0.9) for _ in range(world.pick(smoke=2, full=4)))
    for share in shares:
        _kill_at(world, server, written, share)
    report = _import(world, server, source)
    require(report["known"] > 0, "nothing of what was imported before the kills was there")
    require(
        (report["seen"], report["known"] + report["imported"]) == (events, events),
        f"of {events} events {report} came",
    )
    again = _import(world, server, source)
    require((again["imported"], again["known"]) == (0, events), f"a second import did {again}")
    server.start()
    last = server.seq()
    for moment in written.moments:
        _compare(server, moment)
    server.stop()
    run([world.binary, "verify", server.store], timeout=world.time_left())
    require(_import(world, server, source)["imported"] == 0, "a third import added events")
    server.start()
    require(server.seq() == last, f"imports of what is there went on from @{last} to @{server.seq()}")
    server.stop()
    return f"{events} events, killed {len(shares)} times; {len(written.moments)} moments equal"


@step("old-events-rate", smoke=90, full=120, served=True, main=False)
def rate(world: World) -> str:
    """Do 100,000 events of the bridge import in 10 s, with a progress bar on a terminal?"""
    source = world.aside("old-events-rate") / "events"
    written = old_events.write(source, world.seed, RATED, whole=1, spots=0)
    server = world.server("old-events-rate")
    # The bar is drawn on a terminal only.
    terminal, inner = pty.openpty()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.monotonic()
    process = subprocess.Popen(_argv(world, server, source), stdin=inner, stdout=inner, stderr=inner)
    os.close(inner)
    drawn = b""
    while True:
        try:
            drawn += os.read(terminal, 1 << 16)
        except OSError:
            # So ends a terminal that nobody has open any more.
            break
    code = process.wait()
    seconds = time.monotonic() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    os.close(terminal)
    said = drawn.decode(errors="replace")
    require(code == 0 and f"{written.events} events are new" in said, f"{code}: {said[-500:]}")
    require("%" in said and "importing" in said, "no progress bar was drawn")
    # On a machine that has other work too, it is what a processor was needed for that counts.
    busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    require(
        min(seconds, busy) < RATED_SECONDS,
        f"{RATED} events took {seconds:.1f} s, and a processor for {busy:.1f} s",
    )
    return f"{RATED} events in {seconds:.1f} s, a processor was busy for {busy:.1f} s"


STEPS = (import_at_size, rate)
