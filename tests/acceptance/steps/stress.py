"""Load: fio with verification, and every filesystem stressor of stress-ng beside ext4."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from enum import Enum
from pathlib import Path

from harness.command import Argument, run
from harness.outcome import Failed, require
from harness.step import step
from harness.world import JOBS, World

# A smoke run asks the quick ones that meet the most different operations.
SMOKE = (
    "access",
    "chmod",
    "dir",
    "fallocate",
    "getdent",
    "iomix",
    "link",
    "lockf",
    "rename",
    "utime",
    "xattr",
)
# Seconds until a stressor that runs for 3 s is taken for hung; some of them clean up for long.
HUNG = 60.0


@step("fio", smoke=60, full=240, tools=("fio",))
def fio(world: World) -> str:
    """Does fio read back what it wrote, in blocks of all sizes and through mappings?"""
    place = world.work("fio")
    job = JOBS / f"verify-{world.size.value}.fio"
    # It leaves the state of its verification in the current directory.
    done = run(
        ["fio", f"--directory={place}", job], cwd=world.aside("fio"), timeout=world.time_left()
    )
    rates = re.findall(r"^\s+(READ|WRITE): bw=(\S+)", done.stdout, flags=re.MULTILINE)
    require({kind for kind, _ in rates} == {"READ", "WRITE"}, "fio did not write and read back")
    shutil.rmtree(place)
    return ", ".join(f"{kind.lower()} {rate}" for kind, rate in rates)


class Verdict(Enum):
    """What became of one stressor."""

    PASSED = "passed"
    FAILED = "failed"
    # Not for this kernel, filesystem or user: it says so itself and ends at once.
    UNSUPPORTED = "unsupported"


@step("stress-ng", smoke=90, full=660, tools=("stress-ng",), root=True)
def stress_ng(world: World) -> str:
    """Does every stressor of the class `filesystem` that passes on ext4 pass here?"""
    names = _names(world)
    seconds = world.pick(smoke=1, full=3)
    expected = _all(world, names, world.aside("stress-ng"), seconds)
    found = _all(world, names, world.work("stress-ng"), seconds)
    # On a loaded machine a stressor now and then fails on any filesystem, so each has a second try on both.
    weak = [name for name in names if expected[name] is Verdict.FAILED]
    expected |= _all(world, weak, world.aside("stress-ng again"), seconds)
    good = [name for name in names if expected[name] is Verdict.PASSED]
    worse = [name for name in good if found[name] is Verdict.FAILED]
    found |= _all(world, worse, world.work("stress-ng"), seconds)
    failed = [name for name in worse if found[name] is Verdict.FAILED]
    require(not failed, f"pass on ext4 and fail here, twice: {', '.join(failed)}")
    require(
        len(good) > len(names) // 2,
        f"only {len(good)} of {len(names)} pass on ext4: nothing is shown",
    )
    remarks = {
        "at the second try only": worse,
        "unsupported here, not on ext4": [
            name for name in good if found[name] is Verdict.UNSUPPORTED
        ],
        "failing on ext4 too": [name for name in names if expected[name] is Verdict.FAILED],
    }
    said = [f"{remark}: {', '.join(which)}" for remark, which in remarks.items() if which]
    return "; ".join([f"{len(good)} of {len(names)} pass on ext4", *said])


def _names(world: World) -> list[str]:
    """What `--class filesystem --sequential 2` would run: without the stressors that endanger a machine."""
    argv = ["stress-ng", "--class", "filesystem", "--sequential", "2", "--dry-run"]
    said = run(argv, timeout=20).output
    dispatched = re.search(r"dispatching hogs: (.*)", said)
    names = re.findall(r"\d+ ([\w-]+)", dispatched[1]) if dispatched else []
    require(len(names) > 30, f"stress-ng names only {len(names)} stressors of the class")
    return world.pick(smoke=[name for name in names if name in SMOKE], full=names)


def _all(world: World, names: Iterable[str], place: Path, seconds: int) -> dict[str, Verdict]:
    """Runs each stressor in a process of its own, so that each has a verdict, also if one hangs."""
    verdicts = {name: _one(name, place, seconds) for name in names}
    # A stressor that is ended amid its work may leave a file immutable, where the filesystem has that.
    run(["chattr", "-R", "-f", "-i", "-a", place], timeout=60, codes=None)
    shutil.rmtree(place)
    return verdicts


def _one(name: str, place: Path, seconds: int) -> Verdict:
    argv: list[Argument] = [
        "stress-ng",
        "--temp-path",
        place,
        f"--{name}",
        "2",
        "--timeout",
        f"{seconds}s",
        "--verify",
    ]
    try:
        done = run(argv, timeout=HUNG, codes=None)
    except Failed as hung:
        print(hung, flush=True)
        return Verdict.FAILED
    if "skipping stress" in done.output or done.code in (3, 4):
        return Verdict.UNSUPPORTED
    if done.code == 0 and "unsuccessful run" not in done.output and " fail: " not in done.output:
        return Verdict.PASSED
    return Verdict.FAILED


STEPS = (fio, stress_ng)
