"""What a developer does all day: clone, collect garbage, build, make a virtual environment."""

from __future__ import annotations

import shutil
from pathlib import Path

from harness.command import run
from harness.moments import keep_moment
from harness.outcome import require
from harness.step import step
from harness.world import REPOSITORY, World

# A name that no branch of the repository has.
BRANCH = "made-by-the-acceptance"
# Git refuses a repository of another owner, and commits need a name.
GIT = (
    "git",
    "-c",
    "safe.directory=*",
    "-c",
    "user.name=Acceptance",
    "-c",
    "user.email=acceptance@example.invalid",
)


@step("git", smoke=60, full=120, tools=("git",))
def git(world: World) -> None:
    """Can this repository be cloned, changed, collected and checked?"""
    clone = world.current / "clone"
    _clone(clone)
    if world.served:
        keep_moment(world)
    run([*GIT, "checkout", "-q", "-b", BRANCH], cwd=clone, timeout=30)
    for number in range(world.pick(smoke=5, full=50)):
        (clone / f"note-{number % 7}.txt").write_text(f"change {number}\n" * 100)
        run([*GIT, "add", "-A"], cwd=clone, timeout=30)
        run([*GIT, "commit", "-q", "-m", f"change {number}"], cwd=clone, timeout=30)
    run([*GIT, "checkout", "-q", "HEAD~3"], cwd=clone, timeout=30)
    run([*GIT, "checkout", "-q", BRANCH], cwd=clone, timeout=30)
    if world.served:
        keep_moment(world)
    run([*GIT, "gc", "-q", "--prune=now"], cwd=clone, timeout=world.time_left())
    checked = run([*GIT, "fsck", "--strict", "--full"], cwd=clone, timeout=world.time_left())
    require("error" not in checked.output, f"git fsck: {checked.output[:300]}")
    left = run([*GIT, "status", "--porcelain"], cwd=clone, timeout=30).stdout
    require(left == "", f"git status after a clean checkout: {left[:300]}")


@step("cargo", smoke=None, full=480, tools=("cargo", "git"))
def cargo(world: World) -> None:
    """Does this repository build in the tree, and is a second build up to date?"""
    source = world.current / "build"
    _clone(source)
    build = ["cargo", "build", "--bins"]
    here = {"CARGO_TARGET_DIR": str(source / "target")}
    run(build, cwd=source, env=here, timeout=world.time_left())
    built = source / "target" / "debug" / "lighthouse-fuse"
    run([built, "--version"], timeout=20)
    again = run(build, cwd=source, env=here, timeout=world.time_left())
    require(
        "Compiling" not in again.stderr,
        f"nothing changed, and it builds again: {again.stderr[:300]}",
    )
    if world.served:
        keep_moment(world)
    # Hashing the build at every later moment would take longer than all the rest.
    shutil.rmtree(source / "target")


@step("venv", smoke=90, full=90, tools=("python3",))
def venv(world: World) -> None:
    """Does a Python virtual environment with pip work?"""
    place = world.current / "venv"
    run(["python3", "-m", "venv", place], timeout=world.time_left())
    python = place / "bin" / "python"
    found = run([python, "-c", "import sys; print(sys.prefix)"], timeout=60).stdout.strip()
    require(Path(found) == place, f"sys.prefix is {found}")
    run([python, "-m", "pip", "--version"], timeout=60)
    run([python, "-m", "compileall", "-q", "-f", place / "lib"], timeout=world.time_left())


def _clone(target: Path) -> None:
    """Clones from disk with hard links refused, so that every object is written anew."""
    run([*GIT, "clone", "-q", "--no-hardlinks", REPOSITORY, target], timeout=120)


STEPS = (git, cargo, venv)
