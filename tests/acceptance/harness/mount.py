"""One store, its server process and its mount.

A `Server` holds paths only; which process serves is in `NAME.pid` beside the mount point, so that
the step that kills a server and the next one, which run in processes of their own, mean the same.

Invariants: a server runs in a session of its own, so it outlives the step that started it until the
runner stops it; a pid is trusted only while the process's start time is the one written down.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import kernel
from harness.command import Argument, last_lines, shown
from harness.outcome import Failed

START_TIMEOUT = 30.0
# SIGTERM lets users of the mount finish for up to 10 s, then syncs.
STOP_TIMEOUT = 60.0


@dataclass(frozen=True)
class Server:
    """`lighthouse-fuse mount STORE MOUNTPOINT`, running or not."""

    binary: Path
    store: Path
    mountpoint: Path
    scratch: Path
    # Given to `mount` at every start, before those of the one start.
    options: tuple[str, ...] = ()

    @property
    def current(self) -> Path:
        """The live tree."""
        return self.mountpoint / "current"

    def at(self, seq: int) -> Path:
        """The whole tree as it was after event `seq`."""
        return self.mountpoint / "history" / f"@{seq}"

    def seq(self) -> int:
        """The sequence of the last event."""
        return int(os.getxattr(self.current, "user.lighthouse.seq"))

    @property
    def log(self) -> Path:
        """What the server printed, over all its starts."""
        return self.mountpoint.with_name(self.mountpoint.name + ".log")

    @property
    def _pidfile(self) -> Path:
        return self.mountpoint.with_name(self.mountpoint.name + ".pid")

    def running(self) -> int | None:
        """The pid of the server, or `None` if it has ended."""
        try:
            pid, _, born = self._pidfile.read_text().partition(" ")
        except FileNotFoundError:
            return None
        # One that refused at once was gone before it could be looked at.
        return int(pid) if born and _birth(int(pid)) == born else None

    def start(self, options: Sequence[str] = (), *, timeout: float = START_TIMEOUT) -> None:
        """Starts the server and returns once it serves; fails the step if it does not."""
        code = self.try_start(options, timeout=timeout)
        if code is not None:
            raise Failed(f"`mount {self.store.name}` ended with {code}: {self.log_tail()}")

    def try_start(
        self, options: Sequence[str] = (), *, timeout: float = START_TIMEOUT
    ) -> int | None:
        """Starts the server; `None` once it serves, else the exit code with which it refused."""
        argv: list[Argument] = [self.binary, "mount", *self.options, *options]
        argv += [self.store, self.mountpoint]
        print(f"$ {shown(argv)} &", flush=True)
        announced = b"serving %b at %b" % (bytes(self.store), bytes(self.mountpoint))
        with self.log.open("ab") as log:
            before = log.tell()
            process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self._pidfile.write_text(f"{process.pid} {_birth(process.pid)}")
        until = time.monotonic() + timeout
        while time.monotonic() < until:
            code = process.poll()
            if code is not None:
                return code
            if announced in self.log.read_bytes()[before:]:
                return None
            time.sleep(0.02)
        self.kill()
        raise Failed(
            f"`mount` did not say that it serves within {timeout:.0f} s: {self.log_tail()}"
        )

    def stop(self) -> None:
        """Ends the server with SIGTERM, and fails the step unless it goes, and its mount with it."""
        pid = self.running()
        if pid is None:
            raise Failed(f"the server of {self.store.name} is gone: {self.log_tail()}")
        print(f"$ kill -TERM {pid}", flush=True)
        os.kill(pid, signal.SIGTERM)
        code = _wait(pid, STOP_TIMEOUT)
        if code is None:
            raise Failed(f"the server did not end {STOP_TIMEOUT:.0f} s after SIGTERM")
        if code > 0:
            raise Failed(f"the server ended with {code} after SIGTERM: {self.log_tail()}")
        if any(entry.mountpoint == self.mountpoint for entry in kernel.mounts_below(self.scratch)):
            raise Failed("the server ended after SIGTERM, and its mount is still there")

    def kill(self) -> None:
        """Ends the server with SIGKILL, as a crash would; the dead mount stays."""
        pid = self.running()
        if pid is not None:
            print(f"$ kill -KILL {pid}", flush=True)
            os.kill(pid, signal.SIGKILL)
            _wait(pid, 10.0)

    def log_tail(self) -> str:
        """The last thing the server said."""
        try:
            return last_lines(self.log.read_text(errors="replace"))
        except FileNotFoundError:
            return "no output"


def _birth(pid: int) -> str:
    """When the process started, in ticks since boot; empty once it is a zombie or gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] in "ZX" else fields[19]


def _wait(pid: int, timeout: float) -> int | None:
    """Waits for the end of `pid`: `None` if it takes longer, -1 if only its parent may know the code."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return -1
    try:
        if not select.select([descriptor], [], [], timeout)[0]:
            return None
    finally:
        os.close(descriptor)
    try:
        _, status = os.waitpid(pid, 0)
    except ChildProcessError:
        return -1
    return max(os.waitstatus_to_exitcode(status), 0)
