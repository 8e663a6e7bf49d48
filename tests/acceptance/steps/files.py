"""What one file can do: temporary files, holes, preallocation, copies by reference, mappings, exec."""

from __future__ import annotations

import errno
import mmap
import os
import random
import shutil
import stat
from pathlib import Path

from harness.command import run
from harness.outcome import Failed, require
from harness.step import step
from harness.world import World

MIB = 1 << 20
TIB = 1 << 40


@step("tmpfile", smoke=20, full=20)
def tmpfile(world: World) -> None:
    """Does a file made with O_TMPFILE appear whole when it is linked, and never otherwise?"""
    place = world.work("tmpfile")
    descriptor = os.open(place, os.O_TMPFILE | os.O_RDWR, 0o640)
    os.write(descriptor, b"written before it had a name")
    require(os.listdir(place) == [], "an O_TMPFILE file is listed")
    require(os.fstat(descriptor).st_nlink == 0, "an O_TMPFILE file has links")
    link_open_file(descriptor, place / "named")
    os.close(descriptor)
    status = (place / "named").stat()
    require(status.st_nlink == 1 and stat.S_IMODE(status.st_mode) == 0o640, f"linked as {status}")
    require(
        (place / "named").read_bytes() == b"written before it had a name", "its content is gone"
    )

    exclusive = os.open(place, os.O_TMPFILE | os.O_RDWR | os.O_EXCL, 0o600)
    try:
        link_open_file(exclusive, place / "never")
    except OSError as err:
        require(err.errno == errno.ENOENT, f"linking an O_EXCL temporary file: {err}")
    else:
        raise Failed("a temporary file made with O_EXCL can be linked")
    os.close(exclusive)


def link_open_file(descriptor: int, name: Path) -> None:
    """Gives an open file a name, as open(2) describes it for O_TMPFILE."""
    # Only with a directory descriptor does Python call linkat with AT_SYMLINK_FOLLOW; the absolute
    # source path makes linkat ignore it.
    root = os.open("/", os.O_RDONLY)
    try:
        os.link(f"/proc/self/fd/{descriptor}", name, src_dir_fd=root, follow_symlinks=True)
    finally:
        os.close(root)


@step("unlinked-open", smoke=20, full=20)
def unlinked_open(world: World) -> None:
    """Can a file be written and read on after it was unlinked or renamed over?"""
    place = world.work("unlinked-open")
    path = place / "gone"
    with path.open("wb+") as file:
        file.write(b"first")
        path.unlink()
        file.write(b" second")
        file.seek(0)
        require(file.read() == b"first second", "an unlinked file lost bytes")
        require(os.fstat(file.fileno()).st_nlink == 0, "an unlinked file still has links")
    (place / "target").write_bytes(b"old")
    (place / "source").write_bytes(b"new")
    with (place / "target").open("rb") as old:
        os.rename(place / "source", place / "target")
        require(old.read() == b"old", "a file renamed over changed under its reader")
        require((place / "target").read_bytes() == b"new", "the new name shows the old file")
    require(os.listdir(place) == ["target"], f"left: {os.listdir(place)}")


@step("sparse", smoke=30, full=30)
def sparse(world: World) -> None:
    """Does a sparse file of 1 TiB keep its holes, and do SEEK_HOLE and SEEK_DATA find them?"""
    path = world.work("sparse") / "tebibyte"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _ask_sparse(descriptor)
    finally:
        # Where holes are not told from data, later listings would read all of it.
        os.ftruncate(descriptor, 0)
        os.close(descriptor)


def _ask_sparse(descriptor: int) -> None:
    os.ftruncate(descriptor, TIB)
    middle, end = TIB // 2, TIB - 4096
    os.pwrite(descriptor, b"m" * 4096, middle)
    os.pwrite(descriptor, b"e" * 4096, end)
    os.fsync(descriptor)
    status = os.fstat(descriptor)
    require(status.st_size == TIB, f"its size is {status.st_size}")
    require(status.st_blocks * 512 <= MIB, f"it takes {status.st_blocks * 512} bytes on the disk")
    require(os.pread(descriptor, 4096, TIB // 4) == bytes(4096), "a hole does not read as zeros")
    require(
        os.pread(descriptor, 8192, middle - 4096) == bytes(4096) + b"m" * 4096,
        "the middle is wrong",
    )
    found: list[tuple[int, int]] = []
    offset = 0
    while True:
        try:
            data = os.lseek(descriptor, offset, os.SEEK_DATA)
        except OSError as err:
            require(err.errno == errno.ENXIO, f"SEEK_DATA past the last data: {err}")
            break
        offset = os.lseek(descriptor, data, os.SEEK_HOLE)
        found.append((data, offset))
        require(len(found) < 100, "SEEK_DATA and SEEK_HOLE do not come to an end")
    covered = sum(hole - data for data, hole in found)
    for wanted in (middle, end):
        require(
            any(data <= wanted < hole for data, hole in found),
            f"no data found at {wanted}: {found}",
        )
    require(covered <= MIB, f"{covered} bytes count as data, written were 8192")


@step("fallocate", smoke=30, full=30, tools=("fallocate",))
def fallocate(world: World) -> None:
    """Do the four modes of fallocate do what the manual says?"""
    place = world.work("fallocate")
    path = place / "file"
    original = random.Random(world.seed).randbytes(MIB)
    path.write_bytes(original)

    run(["fallocate", "-l", str(2 * MIB), path], timeout=20)
    require(path.stat().st_size == 2 * MIB, "allocating past the end does not grow the file")
    require(path.read_bytes() == original + bytes(MIB), "allocating changed the content")

    run(["fallocate", "-n", "-o", str(2 * MIB), "-l", str(MIB), path], timeout=20)
    require(path.stat().st_size == 2 * MIB, "--keep-size changed the size")

    hole = (100_000, 300_000)
    run(["fallocate", "-p", "-o", str(hole[0]), "-l", str(hole[1]), path], timeout=20)
    expected = bytearray(original + bytes(MIB))
    expected[hole[0] : sum(hole)] = bytes(hole[1])
    require(path.read_bytes() == expected, "punching a hole left something, or took too much")

    run(["fallocate", "-z", "-o", "700001", "-l", "50001", path], timeout=20)
    expected[700_001:750_002] = bytes(50_001)
    require(path.read_bytes() == expected, "zeroing a range left something, or took too much")


@step("copy-range", smoke=30, full=60)
def copy_range(world: World) -> None:
    """Does copy_file_range copy exactly, and stay a copy when the source changes?"""
    place = world.work("copy-range")
    length = world.pick(smoke=8, full=64) * MIB + 4097
    source, copy = place / "source", place / "copy"
    data = random.Random(world.seed).randbytes(length)
    source.write_bytes(data)
    with source.open("rb") as reader, copy.open("wb") as writer:
        copied = 0
        while copied < length:
            count = os.copy_file_range(reader.fileno(), writer.fileno(), length - copied)
            require(count > 0, f"copy_file_range stops after {copied} of {length} bytes")
            copied += count
    require(copy.read_bytes() == data, "the copy differs from its source")
    with source.open("r+b") as writer:
        writer.write(b"changed")
    require(copy.read_bytes() == data, "the copy changed with its source")
    # Odd offsets, into the middle of a file that exists.
    with source.open("rb") as reader, copy.open("r+b") as writer:
        os.copy_file_range(reader.fileno(), writer.fileno(), 5000, 4095, 70_001)
    changed = b"changed" + data[7:]
    expected = data[:70_001] + changed[4095:9095] + data[75_001:]
    require(copy.read_bytes() == expected, "a copy between odd offsets is wrong")
    shutil.rmtree(place)


@step("mmap", smoke=20, full=20)
def mapped(world: World) -> None:
    """Do shared mappings reach the file, and private ones not?"""
    path = world.work("mmap") / "file"
    path.write_bytes(b"." * 3 * 4096)
    with path.open("r+b") as file:
        with mmap.mmap(file.fileno(), 0, mmap.MAP_SHARED) as shared:
            shared[4090:4102] = b"SHARED-BYTES"
            shared.flush()
            require(path.read_bytes()[4090:4102] == b"SHARED-BYTES", "msync did not reach the file")
            shared[0:5] = b"LATER"
        private = mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
        private[0:7] = b"PRIVATE"
        require(private[0:7] == b"PRIVATE", "a private mapping does not keep its own bytes")
        private.close()
    require(
        path.read_bytes()[:7] == b"LATER..",
        "a private mapping changed the file, or a shared one did not",
    )
    with (
        path.open("r+b") as file,
        mmap.mmap(file.fileno(), 0, mmap.MAP_SHARED, mmap.PROT_READ) as shared,
    ):
        os.pwrite(file.fileno(), b"written", 8192)
        require(
            shared[8192:8199] == b"written", "a mapping does not show what was written to the file"
        )


@step("exec", smoke=20, full=20)
def execute(world: World) -> None:
    """Can programs be executed from the tree, and only when their mode says so?"""
    place = world.work("exec")
    program = place / "program"
    shutil.copy2(Path("/bin/echo").resolve(), program)
    said = run([program, "from", "the", "mount"], timeout=20).stdout
    require(said == "from the mount\n", f"the program said {said!r}")
    script = place / "script"
    script.write_text("#!/bin/sh\nexec ./program script $1\n")
    script.chmod(0o755)
    said = run(["./script", "ran"], cwd=place, timeout=20).stdout
    require(said == "script ran\n", f"the script said {said!r}")
    script.chmod(0o644)
    try:
        os.execv(script, [str(script)])
    except PermissionError:
        # The one right answer; had it been executed, this process would have ended without a verdict.
        pass


@step("names", smoke=30, full=30)
def names(world: World) -> None:
    """Can a name be any bytes up to 255, and is a longer one refused?"""
    place = os.fsencode(world.work("names"))
    chosen = [bytes([byte]) for byte in range(1, 256) if byte not in b"/."]
    chosen += [
        b"n" * 255,
        "ü".encode() * 127,
        b" leading",
        b"trailing ",
        b"new\nline",
        b"\\x41",
        b"...",
    ]
    for name in chosen:
        with open(os.path.join(place, name), "wb") as file:
            file.write(name)
    require(sorted(os.listdir(place)) == sorted(chosen), "the listing differs from what was made")
    for name in chosen:
        with open(os.path.join(place, name), "rb") as file:
            require(file.read() == name, f"{name!r} holds another file's content")
    try:
        os.open(os.path.join(place, b"n" * 256), os.O_CREAT | os.O_WRONLY)
    except OSError as err:
        require(err.errno == errno.ENAMETOOLONG, f"a name of 256 bytes: {err}")
    else:
        raise Failed("a name of 256 bytes is taken")


@step("special", smoke=20, full=20, root=True)
def special(world: World) -> None:
    """Are FIFOs, sockets, devices, set-id bits, times and renames with flags as on a local filesystem?"""
    place = world.work("special")
    os.mkfifo(place / "fifo", 0o622)
    os.mknod(place / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(place / "socket", stat.S_IFSOCK | 0o600)
    require(stat.S_ISFIFO((place / "fifo").stat().st_mode), "mkfifo makes no FIFO")
    require((place / "null").stat().st_rdev == os.makedev(1, 3), "mknod loses the device number")
    require(stat.S_ISSOCK((place / "socket").stat().st_mode), "mknod makes no socket")

    file = place / "timed"
    file.write_bytes(b"x")
    os.utime(file, ns=(1_000_000_001, 4_102_444_800_123_456_789))
    require(file.stat().st_mtime_ns == 4_102_444_800_123_456_789, "nanoseconds are lost")
    os.utime(file, ns=(-1_500_000_000, -1_500_000_000))
    require(file.stat().st_mtime_ns == -1_500_000_000, "times before 1970 are lost")

    setuid = place / "setuid"
    setuid.write_bytes(b"x")
    setuid.chmod(0o6755)
    os.chown(setuid, 1, 1)
    require(stat.S_IMODE(setuid.stat().st_mode) == 0o755, "chown keeps the set-id bits")
    sticky = place / "shared"
    sticky.mkdir()
    sticky.chmod(0o3777)
    require(stat.S_IMODE(sticky.stat().st_mode) == 0o3777, "a directory loses its special bits")
    born = run(["stat", "-c", "%W", file], timeout=10).stdout.strip()
    require(born.isdigit() and int(born) > 0, f"statx gives no birth time: {born!r}")
    statfs = os.statvfs(place)
    require(statfs.f_blocks > statfs.f_bavail > 0 and statfs.f_namemax == 255, f"statfs: {statfs}")


STEPS = (
    tmpfile,
    unlinked_open,
    sparse,
    fallocate,
    copy_range,
    mapped,
    execute,
    names,
    special,
)
