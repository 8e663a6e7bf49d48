"""What several processes see of each other: locks, inotify, access control lists."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import select
import struct
import time
from collections.abc import Callable
from pathlib import Path

from harness.command import run
from harness.outcome import Failed, require
from harness.step import step
from harness.world import NOBODY, World

# Seconds a lock is held while another process waits for it.
HELD = 0.5


@step("locks", smoke=30, full=30)
def locks(world: World) -> None:
    """Do flock and fcntl locks exclude, block, and end with their holder?"""
    path = world.work("locks") / "file"
    path.write_bytes(bytes(100))
    _exclude(path, "flock", fcntl.flock)
    _exclude(path, "fcntl", fcntl.lockf)
    with path.open("rb") as one, path.open("rb") as two:
        fcntl.flock(one, fcntl.LOCK_SH)
        fcntl.flock(two, fcntl.LOCK_SH | fcntl.LOCK_NB)
    # Two ranges of one file do not meet; a third that overlaps the first does.
    holder = _hold(path, lambda file, how: fcntl.lockf(file, how, 10, 0), seconds=30)
    with path.open("r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 10)
        require(
            _refused(lambda: fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 5, 5)),
            "ranges overlap",
        )
        os.kill(holder, 9)
        os.waitpid(holder, 0)
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 0)


def _exclude(path: Path, kind: str, lock: Callable[..., object]) -> None:
    holder = _hold(path, lock, seconds=HELD)
    with path.open("r+b") as file:
        require(
            _refused(lambda: lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)),
            f"{kind}: two hold one lock",
        )
        started = time.monotonic()
        lock(file, fcntl.LOCK_EX)
        waited = time.monotonic() - started
    os.waitpid(holder, 0)
    require(HELD / 2 < waited < HELD + 5, f"{kind}: a blocking lock came after {waited:.2f} s")


def _hold(path: Path, lock: Callable[..., object], *, seconds: float) -> int:
    """Forks a process that holds a lock for `seconds`; returns once it has it."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        with path.open("r+b") as file:
            lock(file, fcntl.LOCK_EX)
            os.write(writer, b"held")
            time.sleep(seconds)
        os._exit(0)
    os.close(writer)
    require(os.read(reader, 4) == b"held", "a free lock is not given")
    os.close(reader)
    return pid


def _refused(call: Callable[[], object]) -> bool:
    try:
        call()
    except OSError as err:
        if err.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        return True
    return False


IN_MODIFY, IN_CLOSE_WRITE = 0x2, 0x8
IN_MOVED_FROM, IN_MOVED_TO, IN_CREATE, IN_DELETE = 0x40, 0x80, 0x100, 0x200
EVENT = struct.Struct("iIII")


@step("inotify", smoke=20, full=20)
def inotify(world: World) -> None:
    """Does inotify tell of every change that is made through the mount?"""
    place = world.work("inotify")
    libc = ctypes.CDLL(None, use_errno=True)
    watcher = libc.inotify_init1(os.O_NONBLOCK)
    wanted = IN_MODIFY | IN_CLOSE_WRITE | IN_MOVED_FROM | IN_MOVED_TO | IN_CREATE | IN_DELETE
    require(
        libc.inotify_add_watch(watcher, os.fsencode(place), wanted) > 0, "no watch can be added"
    )
    (place / "a").write_bytes(b"content")
    (place / "a").rename(place / "b")
    (place / "b").unlink()
    seen: list[tuple[int, str]] = []
    expected = [
        (IN_CREATE, "a"),
        (IN_MODIFY, "a"),
        (IN_CLOSE_WRITE, "a"),
        (IN_MOVED_FROM, "a"),
        (IN_MOVED_TO, "b"),
        (IN_DELETE, "b"),
    ]
    while len(seen) < len(expected) and select.select([watcher], [], [], 5)[0]:
        buffer = os.read(watcher, 65536)
        while buffer:
            _, mask, _, length = EVENT.unpack_from(buffer)
            name = buffer[EVENT.size : EVENT.size + length].rstrip(b"\0").decode()
            seen.append((mask, name))
            buffer = buffer[EVENT.size + length :]
    os.close(watcher)
    require(seen == expected, f"seen: {[(hex(mask), name) for mask, name in seen]}")


@step("acl", smoke=30, full=30, tools=("setfacl", "getfacl"), root=True)
def acl(world: World) -> None:
    """Are POSIX access control lists kept, inherited, and obeyed?"""
    place = world.work("acl")
    run(
        ["setfacl", "-m", f"u:{NOBODY}:rwx,d:u:{NOBODY}:rwx,d:g::r-x,d:o::-,d:m::rwx", place],
        timeout=20,
    )
    os.umask(0o077)
    (place / "file").write_bytes(b"secret")
    (place / "folder").mkdir()
    os.umask(0o022)
    (place / "folder" / "deeper").mkdir(mode=0o755)

    inherited = _entries(place / "file")
    require(f"user:{NOBODY}:rwx" in inherited, f"a file inherits {inherited}")
    require("mask::rw-" in inherited, f"the mask of a new file is not its mode's: {inherited}")
    require("other::---" in inherited, f"a file inherits {inherited}")
    for folder in (place / "folder", place / "folder" / "deeper"):
        entries = _entries(folder)
        require(f"default:user:{NOBODY}:rwx" in entries, f"{folder.name} inherits {entries}")

    _as_nobody(lambda: (place / "file").write_bytes(b"changed"), allowed=True)
    (place / "file").chmod(0o600)
    require("mask::---" in _entries(place / "file"), "chmod does not set the mask")
    _as_nobody(lambda: (place / "file").read_bytes(), allowed=False)
    run(["setfacl", "-b", place / "file"], timeout=20)
    require((place / "file").stat().st_mode & 0o777 == 0o600, "removing a list changes the mode")
    run(["setfacl", "-m", "g::rw,u:1:r", place / "file"], timeout=20)
    require((place / "file").stat().st_mode & 0o070 == 0o060, "a list does not show in the mode")


def _entries(path: Path) -> set[str]:
    lines = run(["getfacl", "-n", "-p", path], timeout=20).stdout.splitlines()
    return {line.partition("\t")[0].strip() for line in lines if line and not line.startswith("#")}


def _as_nobody(act: Callable[[], object], *, allowed: bool) -> None:
    pid = os.fork()
    if pid == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        try:
            act()
        except PermissionError:
            os._exit(13)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code != (0 if allowed else 13):
        raise Failed(f"access that is {'allowed' if allowed else 'refused'} ends with {code}")


STEPS = (locks, inotify, acl)
