"""The README's commands, as a new user types them.

The commands are read from README.md, so that what is tested is what is printed there. Only the current
directory differs: a fresh one, with `--manifest-path` added after `cargo run`.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
from pathlib import Path

from harness import kernel
from harness.command import free_run, run
from harness.listing import difference, listing
from harness.outcome import Failed, require
from harness.step import step
from harness.world import NOBODY, REPOSITORY, World, eventually

MOUNT = "cargo run --release -- mount ./store ./project"
RUN = "cargo run --release -- run ./store -- bash"
COPY = "cp -a project/current/ out"
UMOUNT = "cargo run --release -- umount ./project"


def promised(command: str) -> list[str]:
    """The words of `command`, which must be in README.md as a line of a code block."""
    readme = (REPOSITORY / "README.md").read_text()
    blocks = re.findall(r"^```\w*\n(.*?)^```", readme, flags=re.MULTILINE | re.DOTALL)
    lines = {line.partition(" #")[0].strip() for block in blocks for line in block.splitlines()}
    require(command in lines, f"README.md does not say `{command}`")
    return shlex.split(command)


def from_anywhere(words: list[str]) -> list[str]:
    """`cargo run` of this repository from another current directory.

    Cargo looks for its configuration from there too, so it is told: with another one it would build anew.
    """
    if words[:2] == ["cargo", "run"]:
        config = f"--config={REPOSITORY / '.cargo' / 'config.toml'}"
        manifest = f"--manifest-path={REPOSITORY / 'Cargo.toml'}"
        return [*words[:2], "--quiet", config, manifest, *words[2:]]
    return words


@step("readme-root", smoke=90, full=600, tools=("cargo",), served=True, main=False, root=True)
def readme_root(world: World) -> None:
    """Do the README's commands work for root?"""
    place = world.aside("readme-root")
    # `cargo run` builds first; that is not what the timeouts below are about.
    run(["cargo", "build", "--release", "--quiet"], cwd=REPOSITORY, timeout=world.time_left())
    server = free_run(from_anywhere(promised(MOUNT)), cwd=place)
    project = place / "project"
    if not eventually(lambda: (project / "current").is_dir(), timeout=60):
        raise Failed(f"`{MOUNT}` shows no project/current after 60 s")
    current = project / "current"
    (current / "hello").write_text("from the README\n")
    (current / "folder").mkdir()
    (current / "folder" / "again").symlink_to("../hello")
    run(promised(COPY), cwd=place, timeout=60)
    differs = difference(listing(current), listing(place / "out"))
    require(differs is None, f"`{COPY}` does not give an equal tree: {differs}")
    run(from_anywhere(promised(UMOUNT)), cwd=place, timeout=60)
    require(
        server.wait(timeout=60) == 0, f"after `umount` the server ended with {server.returncode}"
    )

    server = free_run(from_anywhere(promised(MOUNT)), cwd=place)
    if not eventually(lambda: (current / "hello").is_file(), timeout=60):
        raise Failed("mounted again, the file made before is not there")
    # ^C on a terminal reaches the whole group: cargo and the server.
    os.killpg(server.pid, signal.SIGINT)
    server.wait(timeout=60)
    require(
        eventually(lambda: not kernel.mounts_below(project), timeout=30),
        "after ^C the mount is still there",
    )


@step(
    "readme-nobody",
    smoke=60,
    full=60,
    tools=("setpriv", "unshare"),
    served=True,
    main=False,
    root=True,
)
def readme_nobody(world: World) -> str:
    """Does the README's `run` work without root?"""
    words = promised(RUN)
    place = world.aside("readme-nobody")
    os.chown(place, NOBODY, NOBODY)
    binary = _readable_copy(world, place)
    argv = [str(binary), *words[words.index("--") + 1 :]]
    drop = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--no-new-privs"]
    first = "echo kept > file && cat file && pwd && id -u"
    if os.stat("/dev/fuse").st_mode & 0o006 != 0o006:
        refused = run([*drop, *argv, "-c", first], cwd=place, timeout=30, codes=(1,))
        lines = refused.stderr.strip().splitlines()
        require(len(lines) == 1 and "/dev/fuse" in lines[0], f"not one clear line: {lines}")
        remark = "also refused with one line where /dev/fuse is closed to the user"
    else:
        remark = ""
    # On a desktop udev opens /dev/fuse to everyone; here only a private copy of it is opened.
    node = place / "fuse"
    os.mknod(node, 0o020666, os.makedev(10, 229))
    node.chmod(0o666)
    opened = ["unshare", "-m", "sh", "-c", 'mount --bind "$0" /dev/fuse && exec "$@"', str(node)]
    made = run([*opened, *drop, *argv, "-c", first], cwd=place, timeout=60)
    require("kept" in made.stdout, f"`run` printed {made.stdout!r}")
    again = run(
        [*opened, *drop, *argv, "-c", "cat file; exit 7"], cwd=place, timeout=60, codes=(7,)
    )
    require(
        "kept" in again.stdout,
        f"the second `run` does not find the first one's file: {again.output!r}",
    )
    return remark


def _readable_copy(world: World, place: Path) -> Path:
    """The binary where any user may execute it; the repository may lie in root's home."""
    copy = place / "lighthouse-fuse"
    copy.write_bytes(world.binary.read_bytes())
    copy.chmod(0o755)
    return copy


STEPS = (readme_root, readme_nobody)
