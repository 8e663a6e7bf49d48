"""The steps, in the order in which they run. One file holds one group of them.

The order matters twice: what needs a pristine tree comes first, and what kills the main server or
compares its whole history comes last.
"""

from __future__ import annotations

from harness.step import Step
from steps import (
    container,
    copying,
    crash,
    damage,
    databases,
    development,
    directories,
    files,
    fullness,
    history,
    http,
    old_events,
    posix_suites,
    readme,
    sharing,
    stress,
)

STEPS: tuple[Step, ...] = (
    *readme.STEPS,
    *files.STEPS,
    *sharing.STEPS,
    *development.STEPS,
    *databases.STEPS,
    *copying.STEPS,
    *directories.STEPS,
    *posix_suites.STEPS,
    *stress.STEPS,
    *crash.STEPS,
    *damage.STEPS,
    *fullness.STEPS,
    *http.STEPS,
    *old_events.STEPS,
    *container.STEPS,
    *history.STEPS,
)
