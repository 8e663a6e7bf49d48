"""POSIX suites written by others: pjdfstest in Rust and in C, and fsx.

The C one is in no package registry: a run includes it if PJDFSTEST_C names a directory with its `tests` and
the program `pjdfstest` built beside them. ext4 passes all of its 8,827 tests.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from pathlib import Path

from harness.command import Argument, run
from harness.outcome import Failed, Skipped, require
from harness.step import step
from harness.world import JOBS, World

# What the C suite runs on Linux. Fewer would mean that the run was cut short.
C_TESTS = 8827
# A directory that every system has and that nothing of ours is in.
SHORT = "/mnt"
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@step("pjdfstest", smoke=90, full=180, tools=("pjdfstest", "unshare"), root=True)
def pjdfstest(world: World) -> str:
    """Does every case of the pjdfstest crate pass?"""
    place = world.work("pjdfstest")
    aside = world.aside("pjdfstest")
    # Some cases need a second filesystem.
    elsewhere = aside / "elsewhere"
    elsewhere.mkdir()
    run(["mount", "-t", "tmpfs", "tmpfs", elsewhere], timeout=10)
    config = (JOBS / "pjdfstest.toml").read_text()
    config = config.replace("[features]", f'[features]\nsecondary_fs = "{elsewhere}"')
    passed = _cases(world, place, aside / "all.toml", config)
    if world.served:
        # In a run of their own, for other cases leave files open, and what is open for writing cannot become
        # read-only. Against a plain directory this would make the machine's own disk read-only.
        config = config.replace("[settings]", "[settings]\nallow_remount = true")
        passed += _cases(world, place, aside / "erofs.toml", config, "erofs")
    shutil.rmtree(place)
    return f"{passed} passed"


def _cases(world: World, place: Path, config: Path, text: str, *patterns: str) -> int:
    """Runs the cases that match, and returns how many passed; fails the step if one does not."""
    config.write_text(text)
    # At a short path, for the names of sockets must fit into 108 bytes; seen by the suite alone.
    shortened: list[Argument] = [
        "unshare",
        "-m",
        "sh",
        "-c",
        f'mount --bind "$0" {SHORT} && exec "$@"',
        place,
    ]
    argv: list[Argument] = [
        *shortened,
        world.tool("pjdfstest"),
        "-c",
        config,
        "-p",
        SHORT,
        *patterns,
    ]
    search = {"PATH": f"{_plain_mount(config.with_suffix('.bin'))}:{os.environ.get('PATH', '')}"}
    done = run(argv, timeout=world.time_left(), codes=None, env=search)
    output = COLOUR.sub("", done.output)
    summary = re.search(r"Summary: (\d+) failed, \d+ skipped, (\d+) passed", output)
    if summary is None:
        raise Failed(f"pjdfstest ended with {done.code} and no summary")
    failed, passed = int(summary[1]), int(summary[2])
    named = re.findall(r"^(\S+) +FAILED$", output, flags=re.MULTILINE)
    require(failed == 0, f"{failed} of {failed + passed} fail: {', '.join(named)[:400]}")
    return passed


def _plain_mount(folder: Path) -> Path:
    """Makes a directory with a `mount` for the cases that remount.

    It calls no helper, for libfuse's takes a remount for a new mount. And it tries again: to become
    read-only is refused (EBUSY) while a deleted file's last RELEASE, which nobody waits for, is under way.
    """
    folder.mkdir()
    wrapper = folder / "mount"
    wrapper.write_text(
        "#!/bin/sh\n"
        f'for _ in 1 2 3 4 5 6 7 8 9; do {shutil.which("mount")} -i "$@" && exit; sleep 0.1; done\n'
        f'exec {shutil.which("mount")} -i "$@"\n'
    )
    wrapper.chmod(0o755)
    return folder


@step("pjdfstest-c", smoke=None, full=300, tools=("prove", "perl"), root=True)
def pjdfstest_c(world: World) -> str:
    """Do all tests of the C pjdfstest pass?"""
    given = os.environ.get("PJDFSTEST_C")
    if given is None:
        raise Skipped("PJDFSTEST_C does not name a directory with pjdfstest and its tests")
    suite = Path(given).resolve()
    require((suite / "tests").is_dir(), f"{suite} holds no `tests`")
    place = world.work("pjdfstest-c")
    # Its tests mostly sleep, and each works under names of its own.
    tests = _configured(suite, world.aside("pjdfstest-c"))
    argv: list[Argument] = [world.tool("prove"), "-j4", "-r", tests]
    done = run(argv, cwd=place, timeout=world.time_left(), codes=None)
    summary = re.search(r"Files=\d+, Tests=(\d+)", done.stdout)
    broken = re.findall(r"^\S*?tests/(\S+\.t)\s+\(Wstat", done.stdout, flags=re.MULTILINE)
    require(done.code == 0 and "Result: PASS" in done.stdout, f"failing: {', '.join(broken)[:400]}")
    count = int(summary[1]) if summary else 0
    require(count >= C_TESTS, f"only {count} of {C_TESTS} tests ran")
    shutil.rmtree(place)
    return f"{count} passed"


def _configured(suite: Path, folder: Path) -> Path:
    """A copy of the tests that takes it for known that a rename moves `ctime`.

    They take the filesystem's type from `df`, and leave out the 29 of rename/22.t for any that is not in their list.
    """
    tests = folder / "tests"
    shutil.copytree(suite / "tests", tests)
    with (tests / "conf").open("a") as conf:
        conf.write('\nfs="EXT4"\n')
    (folder / "pjdfstest").symlink_to(suite / "pjdfstest")
    return tests


# Ten minutes of one process that waits for the server in turn with it: the other steps need not wait for them.
@step("fsx", smoke=40, full=780, tools=("fsx",), beside=True)
def fsx(world: World) -> str:
    """Does a file survive random operations, mapped ones included, for ten minutes?"""
    seconds = world.pick(smoke=15.0, full=600.0)
    place = world.work("fsx")
    argv: list[Argument] = [world.tool("fsx"), "-f", JOBS / "fsx.toml", "-P", world.aside("fsx")]
    started = time.monotonic()
    rounds = operations = 0
    seed = world.seed
    # In rounds, so that a slow filesystem ends in time too, and each failure can be repeated by its seed.
    while time.monotonic() - started < seconds:
        count = 2000 if rounds == 0 else 20_000
        done = run(
            [*argv, "-S", str(seed), "-N", str(count), place / "file"], timeout=120, codes=None
        )
        if done.code != 0:
            _say(done.code, seed, done.output)
        rounds, operations, seed = rounds + 1, operations + count, seed + 1
        (place / "file").unlink()
    return f"{operations:,} operations in {rounds} rounds from seed {world.seed}"


def _say(code: int, seed: int, output: str) -> None:
    how = signal.Signals(-code).name if code < 0 else str(code)
    lines = [line for line in output.splitlines() if line.strip()]
    raise Failed(f"seed {seed} ended with {how}: {' | '.join(lines[:3])[:400]}")


STEPS = (pjdfstest, pjdfstest_c, fsx)
