"""What a step is given: the filesystem under test, a scratch directory, sizes and tools.

There are two kinds of filesystem under test. Usually it is a store served by the binary; with
`--against DIR` it is a plain directory, so that the steps themselves can be tried on a filesystem
that is known to be right. Steps that need a server are then skipped.

Invariant: everything a step makes is below `scratch`; everything it mounts is too.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TypeVar

from harness.mount import Server
from harness.outcome import Skipped

REPOSITORY = Path(__file__).resolve().parents[3]
JOBS = Path(__file__).resolve().parents[1] / "jobs"

# `nobody` and `nogroup` on Debian; only the numbers matter.
NOBODY = 65534

T = TypeVar("T")


class Size(Enum):
    """How much is done: `smoke` in every CI run, `full` before a release."""

    SMOKE = "smoke"
    FULL = "full"


@dataclass
class World:
    """All that a step may use."""

    size: Size
    scratch: Path
    binary: Path
    against: Path | None
    tools: Path
    seed: int
    # `dev` or `uring`: what `mount --transport` is told; `None` leaves it to the server.
    transport: str | None = None
    deadline: float = field(default=0.0)

    def pick(self, *, smoke: T, full: T) -> T:
        """The value for the size that was asked for."""
        return smoke if self.size is Size.SMOKE else full

    @property
    def main(self) -> Server:
        """The one long-lived server; its store collects the history that is compared at the end."""
        # All of its past is compared at the end, so none of it may be given back on the way.
        return Server(
            self.binary,
            self.scratch / "main.store",
            self.scratch / "main",
            self.scratch,
            ("--history", "1T", *self._options),
        )

    @property
    def _options(self) -> tuple[str, ...]:
        return () if self.transport is None else ("--transport", self.transport)

    @property
    def served(self) -> bool:
        """Whether a server is under test, and not a plain directory."""
        return self.against is None

    @property
    def current(self) -> Path:
        """The root of the live tree under test."""
        return self.main.current if self.against is None else self.against

    def server(self, name: str, parent: Path | None = None) -> Server:
        """A server of a step's own, not started yet; its store is `NAME.store` in `parent`."""
        store = (parent or self.scratch) / f"{name}.store"
        return Server(self.binary, store, self.scratch / f"{name}.mnt", self.scratch, self._options)

    def work(self, name: str) -> Path:
        """A fresh directory in the live tree under test, open to everyone as `/tmp` is."""
        path = self.current / name
        path.mkdir()
        path.chmod(0o755)
        return path

    def aside(self, name: str) -> Path:
        """A fresh directory outside the filesystem under test."""
        path = self.scratch / "aside" / name
        path.mkdir(parents=True)
        return path

    def time_left(self) -> float:
        """Seconds until the step is stopped; at least one."""
        return max(1.0, self.deadline - time.monotonic())

    def tool(self, name: str) -> Path:
        """Where a tool is, from the tools directory or PATH; skips the step if nowhere."""
        found = shutil.which(name, path=f"{self.tools / 'bin'}:{os.environ.get('PATH', '')}")
        if found is None:
            raise Skipped(f"`{name}` is not installed and .ci/tools could not install it")
        return Path(found)


def eventually(holds: Callable[[], bool], timeout: float, every: float = 0.1) -> bool:
    """Waits until `holds()`; false if it does not within `timeout` seconds."""
    until = time.monotonic() + timeout
    while not holds():
        if time.monotonic() > until:
            return False
        time.sleep(every)
    return True
