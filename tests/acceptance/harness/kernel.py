"""What the kernel knows: mounts, FUSE connections, and which processes belong to a session.

Invariant: nothing here touches a mount outside the scratch directory, nor a process we did not start.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
from dataclasses import dataclass
from pathlib import Path

CONNECTIONS = Path("/sys/fs/fuse/connections")
MNT_DETACH = 2
PR_SET_CHILD_SUBREAPER = 36

# Children that somebody waits for: as long as they are not collected, nobody else is given their number.
awaited: set[int] = set()

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class MountEntry:
    """One line of mountinfo: where, which type, from what, and the minor device number."""

    mountpoint: Path
    kind: str
    source: str
    minor: int


def mounts_below(root: Path) -> list[MountEntry]:
    """The mounts at or below `root`, innermost last."""
    entries = []
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        left, _, right = line.partition(" - ")
        fields, kind_and_source = left.split(" "), right.split(" ")
        where = Path(re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), fields[4]))
        if where == root or root in where.parents:
            minor = int(fields[2].partition(":")[2])
            entries.append(MountEntry(where, kind_and_source[0], kind_and_source[1], minor))
    return entries


def abort_connections(root: Path) -> None:
    """Aborts every FUSE connection mounted below `root`: whoever waits for it gets an error."""
    for entry in mounts_below(root):
        if entry.kind.startswith("fuse"):
            try:
                (CONNECTIONS / str(entry.minor) / "abort").write_text("1")
            except OSError:
                # Already gone, or fusectl is not mounted: the lazy unmount below is what is left.
                pass


def detach(mountpoint: Path) -> bool:
    """Unmounts lazily; false if nothing was mounted there."""
    code: int = _libc.umount2(os.fsencode(mountpoint), MNT_DETACH)
    return code == 0


def detach_all(root: Path) -> None:
    """Detaches every mount below `root`, however often something is mounted over something."""
    for _ in range(64):
        entries = mounts_below(root)
        if not entries:
            return
        for entry in reversed(entries):
            detach(entry.mountpoint)


def adopt_orphans() -> None:
    """Makes this process the parent of whatever its children leave behind."""
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _fields(process: Path) -> list[str]:
    """What `/proc/PID/stat` says behind the command: state, parent, group, session, and so on."""
    try:
        # The command's name may hold spaces and brackets, so count from its closing one.
        return (process / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def session_members(session: int) -> list[int]:
    """The processes of `session`: all that a step started and did not give a session of its own."""
    members = []
    for process in Path("/proc").glob("[0-9]*"):
        fields = _fields(process)
        if fields and int(fields[3]) == session and fields[0] not in "ZX":
            members.append(int(process.name))
    return members


def kill_session(session: int) -> None:
    """Kills every process of `session` until none is left that can be killed."""
    for _ in range(20):
        members = session_members(session)
        if not members:
            return
        for pid in members:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        reap()


def reap() -> None:
    """Collects children that have ended and that nobody waits for, so that none stays behind as a zombie."""
    for process in Path("/proc").glob("[0-9]*"):
        fields = _fields(process)
        pid = int(process.name)
        if fields and fields[0] == "Z" and int(fields[1]) == os.getpid() and pid not in awaited:
            try:
                os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                pass
