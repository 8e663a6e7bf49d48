"""The server is killed while databases are written."""

from __future__ import annotations

import signal
import time

from harness.outcome import require
from harness.step import step
from harness.world import World
from steps.databases import MODES, check, create, join, start_writers

# Seconds of writing before the kill.
WRITING = 2.0


@step("kill", smoke=60, full=180, served=True, root=True)
def kill(world: World) -> str:
    """Killed with SIGKILL under SQLite writers and mounted again: is every committed row there?"""
    server = world.main
    place = world.work("kill")
    notes = world.aside("kill")
    kept = 0
    for turn in range(world.pick(smoke=2, full=10)):
        paths = [place / f"{mode.lower()}-{turn}.db" for mode in MODES]
        for path, mode in zip(paths, MODES, strict=True):
            create(path, mode)
        writers = [pid for path in paths for pid in start_writers(path, notes, rows=None)]
        # Another point of the writers' work in each turn.
        time.sleep(WRITING + 0.137 * turn)
        server.kill()
        codes = join(writers)
        # An error of the database or, of a page of its shared memory, SIGBUS; never success.
        require(
            set(codes) <= {1, -signal.SIGBUS},
            f"the writers of a killed server ended with {codes}",
        )
        server.start()
        for path in paths:
            noted = check(path, notes)
            require(noted > 0, f"{path.name}: not one row was committed before the kill")
            kept += noted
    return f"{kept} committed rows, none missing"


STEPS = (kill,)
