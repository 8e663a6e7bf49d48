"""Moving whole trees in and out: tar, rsync, and our own import."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from harness.command import Argument, free_run, last_lines, run
from harness.listing import difference, listing
from harness.outcome import Failed, require
from harness.step import step
from harness.world import World

# Interruptions of one import, by what interrupts it and after how many seconds.
INTERRUPTIONS = (
    (signal.SIGINT, 0.1),
    (signal.SIGKILL, 0.15),
    (signal.SIGINT, 0.2),
    (signal.SIGKILL, 0.25),
)


def make_tree(root: Path, files: int, seed: int) -> None:
    """Fills `root` with everything a tree can hold, the same for the same seed.

    Of all files one in 16 is larger than 64 KiB; there are hard links, symbolic links, FIFOs, sockets, holes, odd
    modes, owners (as root), attributes and times, also of directories.
    """
    dice = random.Random(seed)
    folders = [root]
    root.mkdir(exist_ok=True)
    made: list[Path] = []
    for number in range(files):
        if number % 20 == 0:
            folder = dice.choice(folders) / f"folder {number}"
            folder.mkdir()
            folders.append(folder)
        path = dice.choice(folders) / f"file-{number}"
        size = dice.randrange(64 << 10, 1 << 20) if number % 16 == 0 else dice.randrange(0, 9000)
        path.write_bytes(dice.randbytes(size))
        made.append(path)
        match number % 11:
            case 0:
                os.link(dice.choice(made), path.with_name(f"hard-{number}"), follow_symlinks=False)
            case 1:
                link = path.with_name(f"soft-{number}")
                link.symlink_to(f"../{'x' * dice.randrange(1, 200)}")
                made.append(link)
            case 2:
                os.setxattr(path, "user.note", dice.randbytes(dice.randrange(1, 500)))
            case 3:
                path.chmod(dice.choice([0o400, 0o751, 0o1644, 0o600]))
            case 4 if os.geteuid() == 0:
                os.chown(path, dice.randrange(1, 1000), dice.randrange(1, 1000))
    os.mkfifo(root / "fifo")
    with (root / "holes").open("wb") as file:
        file.truncate(64 << 20)
        os.pwrite(file.fileno(), b"island", 32 << 20)
    with socket.socket(socket.AF_UNIX) as listener:
        # A socket's path is limited to 108 bytes, so it is bound by a short one.
        here = os.getcwd()
        os.chdir(root)
        listener.bind("socket")
        os.chdir(here)
    made += [root / name for name in ("fifo", "holes", "socket")]
    for path in (*made, *reversed(folders)):
        times = (dice.randrange(1 << 60), dice.randrange(1 << 60))
        os.utime(path, ns=times, follow_symlinks=False)


@step("tar", smoke=60, full=120, tools=("tar",))
def tar(world: World) -> None:
    """Does a tree survive tar into the mount and tar out again?"""
    place = world.aside("tar")
    source = place / "source"
    make_tree(source, world.pick(smoke=300, full=5000), world.seed)
    # tar cannot store sockets.
    (source / "socket").unlink()
    os.utime(source, ns=(1, 1_700_000_000_123_456_789))
    wanted = listing(source, with_root=True)
    keep = [
        "--xattrs",
        "--xattrs-include=*",
        "--acls",
        "--numeric-owner",
        "--sparse",
        "--format=posix",
    ]
    run(["tar", "-C", source, "-cf", place / "in.tar", *keep, "."], timeout=60)
    inside = world.work("tar")
    run(["tar", "-C", inside, "-xpf", place / "in.tar", *keep], timeout=world.time_left())
    _equal(wanted, inside, "after tar in")
    run(["tar", "-C", inside, "-cf", place / "out.tar", *keep, "."], timeout=world.time_left())
    back = place / "back"
    back.mkdir()
    run(["tar", "-C", back, "-xpf", place / "out.tar", *keep], timeout=world.time_left())
    _equal(wanted, back, "after tar out")


@step("rsync", smoke=60, full=120, tools=("rsync",))
def rsync(world: World) -> None:
    """Does rsync -aHAX copy everything, and find nothing to do the second time?"""
    source = world.aside("rsync") / "source"
    make_tree(source, world.pick(smoke=300, full=5000), world.seed + 1)
    inside = world.work("rsync")
    argv = ["rsync", "-aHAX", "--numeric-ids", "--itemize-changes", f"{source}/", f"{inside}/"]
    first = run(argv, timeout=world.time_left())
    require(
        first.stdout.count("\n") > 100, f"the first run copies too little: {first.stdout[:300]}"
    )
    _equal(listing(source, with_root=True), inside, "after rsync")
    second = run(argv, timeout=world.time_left())
    require(second.stdout == "", f"the second run changes {second.stdout[:300]!r}")
    third = run([*argv[:1], "--checksum", *argv[1:]], timeout=world.time_left())
    require(third.stdout == "", f"with --checksum it changes {third.stdout[:300]!r}")
    # Half as large at later moments; the other half is in tar's tree.
    shutil.rmtree(
        inside / next(name for name in sorted(os.listdir(inside)) if name.startswith("folder"))
    )


@step("import", smoke=90, full=180, served=True, main=False, root=True)
def import_tree(world: World) -> str:
    """Does an import that was interrupted continue, and give a tree equal to its source?"""
    source = world.aside("import") / "source"
    make_tree(source, world.pick(smoke=10_000, full=30_000), world.seed + 2)
    wanted = listing(source)
    server = world.server("import")
    argv: list[Argument] = [world.binary, "import", server.store, source]
    hits = []
    for number, (name, after) in enumerate(INTERRUPTIONS):
        log = world.scratch / "logs" / f"import-{number}.out"
        with log.open("w") as output:
            process = free_run(argv, output=output)
            time.sleep(after)
            interrupted = process.poll() is None
            process.send_signal(name)
            try:
                code = process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                raise Failed(f"`import` goes on 30 s after {name.name}") from None
        said = log.read_text(errors="replace")
        require("panicked" not in said, f"`import` panics on {name.name}: {last_lines(said)}")
        if interrupted and code != 0:
            hits.append(name.name)
    require(
        "SIGKILL" in hits and "SIGINT" in hits,
        f"every import was too quick to be interrupted: {hits}",
    )
    run(argv, timeout=world.time_left())
    server.start()
    _equal(wanted, server.current, "after import", with_root=False)
    seq = server.seq()
    server.stop()
    run(argv, timeout=world.time_left())
    server.start()
    require(server.seq() == seq, f"a further import adds {server.seq() - seq} events")
    server.stop()
    return f"interrupted by {', '.join(hits)}"


def _equal(wanted: str, tree: Path, when: str, *, with_root: bool = True) -> None:
    differs = difference(wanted, listing(tree, with_root=with_root))
    require(differs is None, f"{when} the tree differs: {differs}")


STEPS = (tar, rsync, import_tree)
