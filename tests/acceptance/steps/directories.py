"""One directory with a million entries."""

from __future__ import annotations

import os
import time

from harness.command import run
from harness.outcome import require
from harness.step import step
from harness.world import World


@step("directory", smoke=60, full=600)
def directory(world: World) -> str:
    """Can a directory of a million entries be made, listed, walked and removed?"""
    count = world.pick(smoke=20_000, full=1_000_000)
    place = world.work("many")
    took = {}

    started = time.monotonic()
    descriptor = os.open(place, os.O_RDONLY)
    for number in range(count):
        os.close(
            os.open(
                f"entry-{number:07}", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644, dir_fd=descriptor
            )
        )
    os.close(descriptor)
    took["made"] = time.monotonic() - started

    started = time.monotonic()
    names = os.listdir(place)
    took["listed"] = time.monotonic() - started
    require(len(names) == count, f"listed {len(names)} of {count} entries")
    require(len(set(names)) == count, "an entry is listed twice")

    started = time.monotonic()
    found = run(
        ["find", place, "-type", "f", "-size", "0", "-printf", "."], timeout=world.time_left()
    )
    took["walked"] = time.monotonic() - started
    require(
        found.stdout.count(".") == count, f"find sees {found.stdout.count('.')} of {count} entries"
    )

    # Every second one goes while the directory is being read: each of the others must be seen once.
    started = time.monotonic()
    seen = set()
    with os.scandir(place) as entries:
        for entry in entries:
            require(
                entry.name not in seen, f"{entry.name} is listed twice while others are removed"
            )
            seen.add(entry.name)
            if int(entry.name[-1]) % 2:
                os.unlink(entry.path)
    require(
        len(seen) == count, f"{count - len(seen)} entries were not listed while others were removed"
    )
    run(["rm", "-r", place], timeout=world.time_left())
    took["removed"] = time.monotonic() - started
    require(not place.exists(), "the directory is still there")
    return ", ".join(
        f"{word} at {count / max(seconds, 1e-9):,.0f}/s" for word, seconds in took.items()
    )


STEPS = (directory,)
