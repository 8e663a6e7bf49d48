"""The runner: which steps, in which order, each in a process of its own with a deadline.

A step runs in a forked child, because a system call on a mount that hangs can be ended by nobody but
whoever aborts the connection. When a step is over its budget, the runner aborts every FUSE connection
below the scratch directory, kills the step's session, and goes on with the next step.

A step that runs `beside` the others has a world of its own, so that nothing done to theirs, a kill or an abort, is done
to it. It is waited for at the end.

Invariants: the scratch directories and every mount in them are gone at the end, also after ^C, unless
`--keep`; the last line is `N passed, N failed, N skipped`; the exit code is 1 exactly if a step failed
or the run was broken off, 2 for wrong usage.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import io
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

from harness import kernel
from harness.moments import keep_moment
from harness.mount import Server
from harness.outcome import Failed, Outcome, Skipped, Verdict
from harness.step import Step
from harness.world import REPOSITORY, Size, World
from steps import STEPS

# Seconds for the whole run: a run that is over it fails, whatever its steps say.
TOTAL = {Size.SMOKE: 10 * 60.0, Size.FULL: 60 * 60.0}
# GiB of the disk that a full run takes; on a disk that fills, history gives way, and the last steps miss it.
ROOM_OF_FULL = 56
BUILD_TIMEOUT = 20 * 60.0
# Lines of a failed step's log that are printed.
LOG_TAIL = 30


def main(argv: Sequence[str] | None = None) -> int:
    """Runs what the command line asks for and returns the exit code."""
    options = _parse(argv)
    if options.list:
        for step in STEPS:
            sizes = " ".join(size.value for size in step.budget)
            print(f"{step.name:<22} {sizes:<10} {step.question}")
        return 0
    chosen = _chosen(options)
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)
    kernel.adopt_orphans()
    if options.install:
        subprocess.run([REPOSITORY / ".ci" / "tools", "--into", options.tools], check=False)
    binary = options.binary or _build(needed=options.against is None)
    scratch = _scratch(options.scratch)
    if Size(options.size) is Size.FULL and not options.only and options.against is None:
        _need_room(scratch)
    against = _tree_in(options.against)
    world = World(
        size=Size(options.size),
        scratch=scratch,
        binary=binary,
        against=against,
        tools=options.tools.resolve(),
        seed=options.seed,
        transport=options.transport,
    )
    tally = {verdict: 0 for verdict in Verdict}
    broken_off = False
    beside: list[_Asked] = []
    try:
        over = f", transport {world.transport}" if world.transport else ""
        _say(f"acceptance, size {world.size.value}, seed {world.seed}{over}, in {scratch}")
        until = time.monotonic() + TOTAL[world.size]
        with _ring(wanted=world.transport == "uring"):
            for step in chosen:
                # Against a plain directory there is no server to have one's own of.
                if step.beside and world.served and step is not chosen[-1]:
                    own = replace(world, scratch=_scratch(options.scratch))
                    beside.append(_ask_in_child(own, step, until))
                    continue
                outcome = _finish(_ask_in_child(world, step, until))
                tally[outcome.verdict] += 1
            for asked in beside:
                outcome = _finish(asked)
                tally[outcome.verdict] += 1
    except KeyboardInterrupt:
        print("broken off", flush=True)
        broken_off = True
    finally:
        for asked in beside:
            _break_off(asked)
            _clean_up(asked.world, keep=options.keep)
        _clean_up(world, keep=options.keep)
    print(
        f"{tally[Verdict.PASSED]} passed, {tally[Verdict.FAILED]} failed, "
        f"{tally[Verdict.SKIPPED]} skipped"
    )
    return 1 if tally[Verdict.FAILED] or broken_off else 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tests/acceptance/run",
        description="Asks of a real mount what a user would: real programs, real crashes, real sizes.",
    )
    parser.add_argument("--size", choices=[size.value for size in Size], default="smoke")
    parser.add_argument(
        "--only",
        metavar="STEP",
        action="append",
        default=[],
        help="run only this step; may be repeated",
    )
    parser.add_argument("--list", action="store_true", help="list the steps and end")
    parser.add_argument(
        "--keep", action="store_true", help="keep the scratch directory and its logs"
    )
    parser.add_argument(
        "--against",
        metavar="DIR",
        type=Path,
        help="try the steps on a plain directory instead of a mount; what needs a server is skipped",
    )
    parser.add_argument(
        "--binary", metavar="PATH", type=Path, help="the binary to test; otherwise it is built"
    )
    parser.add_argument(
        "--scratch",
        metavar="DIR",
        type=Path,
        default=Path(os.environ.get("TMPDIR", "/var/tmp")),
        help="where to make the scratch directory; a disk filesystem such as ext4",
    )
    parser.add_argument(
        "--tools",
        metavar="DIR",
        type=Path,
        default=REPOSITORY / "target" / "tools",
        help="where .ci/tools puts what cargo installs",
    )
    parser.add_argument(
        "--no-install", dest="install", action="store_false", help="do not call .ci/tools first"
    )
    parser.add_argument(
        "--transport",
        choices=["dev", "uring"],
        help="what the servers are told; io_uring is switched on in the kernel for so long",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=random.SystemRandom().randrange(1 << 32),
        help="for what is random",
    )
    options = parser.parse_args(argv)
    if options.binary is not None:
        options.binary = options.binary.resolve()
        if not os.access(options.binary, os.X_OK):
            parser.error(f"{options.binary} is no program")
    if options.against is not None and not options.against.is_dir():
        parser.error(f"{options.against} is no directory")
    known = {step.name for step in STEPS}
    for name in options.only:
        if name not in known:
            parser.error(f"no step is named `{name}`; --list names them")
    return options


def _chosen(options: argparse.Namespace) -> list[Step]:
    """The steps to run, in their own order. A step asked for by name runs at its larger size too."""
    size = Size(options.size)
    if options.only:
        return [step for step in STEPS if step.name in options.only]
    return [step for step in STEPS if size in step.budget]


def _build(*, needed: bool) -> Path:
    """Builds the release binary, unless no server will be needed."""
    binary = REPOSITORY / "target" / "release" / "lighthouse-fuse"
    if needed:
        subprocess.run(
            ["cargo", "build", "--release", "--bin", "lighthouse-fuse"],
            cwd=REPOSITORY,
            check=True,
            timeout=BUILD_TIMEOUT,
        )
    return binary


def _scratch(parent: Path) -> Path:
    """A fresh directory that other users may enter, as the steps that run as `nobody` must."""
    parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="acceptance.", dir=parent)).resolve()
    scratch.chmod(0o755)
    for name in ("logs", "aside"):
        (scratch / name).mkdir()
    return scratch


def _need_room(scratch: Path) -> None:
    """Ends the program where the disk has not the room that a full run takes."""
    free = shutil.disk_usage(scratch).free >> 30
    if free < ROOM_OF_FULL:
        shutil.rmtree(scratch)
        sys.exit(
            f"{scratch.parent} has {free} GiB free, and --size full takes {ROOM_OF_FULL}; "
            "make room there, or name a larger disk with --scratch"
        )


def _tree_in(against: Path | None) -> Path | None:
    if against is None:
        return None
    tree = Path(tempfile.mkdtemp(prefix="acceptance.", dir=against)).resolve()
    tree.chmod(0o755)
    return tree


@dataclass
class _Asked:
    """A step that is being asked, or that could not be."""

    world: World
    step: Step
    log: Path
    started: float
    # What is known without asking it.
    outcome: Outcome | None = None
    # The child, a descriptor that tells when it has ended, and the pipe with its verdict.
    child: int = 0
    descriptor: int = -1
    pipe: int = -1


def _ask_in_child(world: World, step: Step, until: float) -> _Asked:
    """Starts a step in a process of its own, unless it is known how it ends."""
    budget = step.budget.get(world.size, step.budget[Size.FULL])
    started = time.monotonic()
    world.deadline = min(started + budget, until)
    asked = _Asked(world, step, world.scratch / "logs" / f"{step.name}.log", started)
    if world.deadline <= started:
        reason = f"no time is left of the {TOTAL[world.size]:.0f} s"
        asked.outcome = Outcome(Verdict.FAILED, reason)
    elif (obstacle := _obstacle(world, step)) is not None:
        asked.outcome = Outcome(Verdict.SKIPPED, obstacle)
    else:
        sys.stdout.flush()
        asked.pipe, writer = os.pipe()
        asked.child = os.fork()
        if asked.child == 0:
            os.close(asked.pipe)
            _child(world, step, asked.log, writer)
        os.close(writer)
        kernel.awaited.add(asked.child)
        asked.descriptor = os.pidfd_open(asked.child)
    return asked


def _finish(asked: _Asked) -> Outcome:
    """Waits for a step, and prints its line, and the end of its log if it failed."""
    outcome = asked.outcome or _wait_for(asked)
    seconds = time.monotonic() - asked.started
    remark = f": {outcome.reason}" if outcome.reason else ""
    _say(f"{outcome.verdict.value:<5} {asked.step.name:<22} {seconds:7.1f} s{remark}")
    if outcome.verdict is Verdict.FAILED and asked.log.exists():
        for line in asked.log.read_text(errors="replace").splitlines()[-LOG_TAIL:]:
            _say(f"      | {line[:300]}")
    return outcome


def _break_off(asked: _Asked) -> None:
    """Ends a step that nobody waits for any more."""
    if asked.descriptor >= 0:
        kernel.abort_connections(asked.world.scratch)
        kernel.kill_session(asked.child)
        kernel.awaited.discard(asked.child)
        os.close(asked.descriptor)
        os.close(asked.pipe)
        asked.descriptor = -1


@contextlib.contextmanager
def _ring(*, wanted: bool) -> Iterator[None]:
    """FUSE over io_uring, switched on where it is wanted, and put back."""
    switch = Path("/sys/module/fuse/parameters/enable_uring")
    if not wanted:
        yield
        return
    was = switch.read_text()
    switch.write_text("Y")
    try:
        yield
    finally:
        switch.write_text(was)


def _obstacle(world: World, step: Step) -> str | None:
    """Why the step cannot be asked here, if so."""
    if step.served and not world.served:
        return "needs a server, and this run is against a plain directory"
    if step.root and os.geteuid() != 0:
        return "needs root"
    if world.served and os.geteuid() != 0 and step.main:
        return "needs root to mount"
    for tool in step.tools:
        try:
            world.tool(tool)
        except Skipped as skipped:
            return str(skipped)
    return None


def _wait_for(asked: _Asked) -> Outcome:
    """Lets the child run the step, and stops it at its deadline."""
    world = asked.world
    left = max(0.0, world.deadline - time.monotonic())
    try:
        ended = bool(select.select([asked.descriptor], [], [], left)[0])
    except KeyboardInterrupt:
        _break_off(asked)
        raise
    os.close(asked.descriptor)
    asked.descriptor = -1
    if not ended:
        # The connection is lost with that, so the next step needs a new server.
        kernel.abort_connections(world.scratch)
        with _quiet():
            world.main.kill()
    kernel.kill_session(asked.child)
    kernel.awaited.discard(asked.child)
    kernel.reap()
    _stop_servers(world, but=world.main)
    with os.fdopen(asked.pipe, "rb") as pipe:
        told = pipe.read() if ended else b""
    if not ended:
        return Outcome(Verdict.FAILED, "over its budget; mounts aborted")
    if not told:
        return Outcome(Verdict.FAILED, "its process died")
    verdict, reason = json.loads(told)
    return Outcome(Verdict(verdict), reason)


def _child(world: World, step: Step, log: Path, writer: int) -> None:
    """The child's whole life: a session and a log of its own, the step, the verdict on the pipe."""
    os.setsid()
    # Also SIGINT: it would be inherited ignored by every program that the step starts.
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_DFL)
    with log.open("ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout = os.fdopen(1, "w", buffering=1, errors="replace", closefd=False)
    sys.stderr = sys.stdout
    # Where it hung, should it hang.
    faulthandler.dump_traceback_later(max(1.0, world.time_left() - 1.0), file=2)
    # What the steps make has the modes they ask for, whatever the caller's umask.
    os.umask(0o022)
    outcome = _ask(world, step)
    os.write(writer, json.dumps([outcome.verdict.value, outcome.reason]).encode())
    sys.stdout.flush()
    os._exit(0)


def _ask(world: World, step: Step) -> Outcome:
    """Asks the step's question, the main server running, and keeps a quiet moment afterwards."""
    try:
        if step.main and world.served and world.main.running() is None:
            world.main.start()
        remark = step.ask(world) or ""
        if step.moment and world.served:
            keep_moment(world)
        return Outcome(Verdict.PASSED, remark)
    except Skipped as skipped:
        return Outcome(Verdict.SKIPPED, str(skipped))
    except Failed as failed:
        # Where it was seen; the rest of the stack is this runner.
        traceback.print_exc(limit=-2)
        return Outcome(Verdict.FAILED, str(failed))
    except Exception as err:
        traceback.print_exc()
        return Outcome(Verdict.FAILED, f"{type(err).__name__}: {err}")


def _stop_servers(world: World, but: Server | None = None) -> None:
    """Kills servers that a step left behind, and detaches their mounts."""
    with _quiet():
        _kill_servers(world, but)
    kept = but.mountpoint if but is not None and but.running() is not None else None
    for entry in reversed(kernel.mounts_below(world.scratch)):
        if entry.mountpoint != kept:
            kernel.detach(entry.mountpoint)
    kernel.reap()


def _kill_servers(world: World, but: Server | None) -> None:
    for pidfile in world.scratch.glob("*.pid"):
        mountpoint = pidfile.with_suffix("")
        if but is not None and mountpoint == but.mountpoint:
            continue
        Server(world.binary, mountpoint, mountpoint, world.scratch).kill()
        pidfile.unlink()


def _quiet() -> contextlib.redirect_stdout[io.StringIO]:
    """Keeps the commands of the runner's own tidying out of its output, which may be a closed pipe."""
    return contextlib.redirect_stdout(io.StringIO())


def _say(text: str) -> None:
    """Prints a line at once. A reader that has gone breaks the run off, as ^C does, once."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise KeyboardInterrupt from None


def _clean_up(world: World, *, keep: bool) -> None:
    """Leaves nothing behind: no process, no mount, and no file unless `--keep`."""
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)
    with _quiet():
        if world.served and world.main.running() is not None:
            try:
                world.main.stop()
            except Failed:
                # Whether a server stops is asked by steps; here it only has to be gone.
                kernel.abort_connections(world.scratch)
        _stop_servers(world)
    kernel.detach_all(world.scratch)
    if kernel.mounts_below(world.scratch):
        print(f"still mounted below {world.scratch}: nothing is removed", flush=True)
        return
    if keep:
        print(f"kept: {world.scratch}", flush=True)
    else:
        shutil.rmtree(world.scratch, ignore_errors=True)
    if world.against is not None and not keep:
        shutil.rmtree(world.against, ignore_errors=True)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
