"""A small disk: history must not fill it, and a full disk must be survivable."""

from __future__ import annotations

import errno
import os
import random
import shutil
from pathlib import Path

from harness.command import run
from harness.listing import content_hash
from harness.outcome import require
from harness.step import step
from harness.world import World, eventually

MIB = 1 << 20
GIB = 1 << 30
BLOCK = MIB
# Seconds within which the space of a removed file must be there again.
SPACE_RETURNS = 60.0


def small_disk(world: World, name: str, size: int) -> Path:
    """An ext4 filesystem of `size` bytes on a loop device; only what is written takes space."""
    place = world.aside(name)
    image, mountpoint = place / "image", place / "disk"
    with image.open("wb") as file:
        file.truncate(size)
    mountpoint.mkdir()
    run(["mkfs.ext4", "-q", "-m", "0", image], timeout=60)
    run(["mount", "-o", "loop", image, mountpoint], timeout=30)
    return mountpoint


@step("rewrite", smoke=90, full=480, tools=("mkfs.ext4",), served=True, main=False, root=True)
def rewrite(world: World) -> str:
    """On a 4 GiB disk, can 1 GiB be rewritten 50 times without ENOSPC?"""
    disk = small_disk(world, "rewrite", world.pick(smoke=2, full=4) * GIB)
    size = world.pick(smoke=128, full=1024) * MIB
    turns = world.pick(smoke=20, full=50)
    server = world.server("rewrite", parent=disk)
    server.start()
    path = server.current / "rewritten"
    still = server.current / "untouched"
    still.write_bytes(random.Random(world.seed).randbytes(3 * MIB))
    before = content_hash(still)
    noise = random.Random(world.seed).randbytes(BLOCK)
    for turn in range(turns):
        with path.open("r+b" if turn else "w+b", buffering=0) as file:
            for block in range(size // BLOCK):
                file.write(_block(noise, turn, block))
            os.fsync(file.fileno())
    with path.open("rb", buffering=0) as file:
        for block in range(size // BLOCK):
            require(file.read(BLOCK) == _block(noise, turns - 1, block), f"block {block} is wrong")
    require(content_hash(still) == before, "a file that was not touched changed")
    used = shutil.disk_usage(disk).used
    server.stop()
    run([world.binary, "verify", server.store], timeout=world.time_left())
    return f"{turns} x {size // MIB} MiB, {used // MIB} MiB of the disk used at the end"


def _block(noise: bytes, turn: int, block: int) -> bytes:
    """A block that is like no other: the noise, opened by its turn and number."""
    mark = b"%08d %08d " % (turn, block)
    return mark + noise[len(mark) :]


@step("brim", smoke=90, full=120, tools=("mkfs.ext4",), served=True, main=False, root=True)
def brim(world: World) -> str:
    """Filled to the brim: does the writer get ENOSPC, is all else readable, does rm give space back?"""
    disk = small_disk(world, "brim", 2 * GIB)
    server = world.server("brim", parent=disk)
    server.start()
    place = server.current
    (place / "kept").mkdir()
    hashes = {}
    for number in range(20):
        path = place / "kept" / f"file-{number}"
        path.write_bytes(random.Random(number).randbytes(number * 70_000))
        hashes[path] = content_hash(path)
    filled = _fill(place)
    require(filled, "not even one file could be written")

    for path, wanted in hashes.items():
        require(
            content_hash(path) == wanted, f"on a full disk {path.name} does not read as written"
        )
    (place / "kept" / "file-1").rename(place / "kept" / "renamed")
    with (place / "kept" / "file-2").open("r+b") as file:
        file.truncate(10)
        os.fsync(file.fileno())
    (place / "kept" / "file-3").unlink()

    largest = max(filled, key=lambda path: path.stat().st_size)
    returned = largest.stat().st_size
    for path in filled:
        path.unlink()
    again = place / "again"
    require(
        eventually(lambda: _writable(again, returned // 2), timeout=SPACE_RETURNS, every=1.0),
        f"{SPACE_RETURNS:.0f} s after rm not even half the space is there again",
    )
    server.stop()
    # And a store that was full opens again.
    server.start()
    require(
        content_hash(place / "kept" / "file-19") == hashes[place / "kept" / "file-19"],
        "a file is lost",
    )
    server.stop()
    run([world.binary, "verify", server.store], timeout=world.time_left())
    return f"full after {len(filled)} files"


def _fill(place: Path) -> list[Path]:
    """Writes files until the disk is full, down to the last small one; any error but ENOSPC is wrong."""
    filled = []
    noise = random.Random(0).randbytes(MIB)
    for size in (128 * MIB, 8 * MIB, MIB, 4096):
        for number in range(200):
            path = place / f"fill-{size}-{number}"
            try:
                with path.open("wb", buffering=0) as file:
                    filled.append(path)
                    for offset in range(0, size, len(noise)):
                        file.write(noise[: min(size - offset, len(noise))])
                    os.fsync(file.fileno())
            except OSError as err:
                require(err.errno == errno.ENOSPC, f"a full disk is {err.strerror}, not ENOSPC")
                break
    return [path for path in filled if path.exists()]


def _writable(path: Path, size: int) -> bool:
    try:
        with path.open("wb", buffering=0) as file:
            for _ in range(0, size, MIB):
                file.write(bytes([7]) * MIB)
            os.fsync(file.fileno())
    except OSError as err:
        require(err.errno == errno.ENOSPC, f"after rm a write fails with {err.strerror}")
        return False
    return True


STEPS = (rewrite, brim)
