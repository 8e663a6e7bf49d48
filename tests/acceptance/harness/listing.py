"""A tree as text: one line per entry, so that two trees are equal exactly when their texts are.

A line holds path, type, mode, owner, size (of files and links), modification time in nanoseconds,
link target, link count (of everything but directories), device number, the hash of the content, and the
`user.` attributes with their values. Not listed are what may differ between equal trees: inode numbers,
access and change times, and the sizes of directories.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from pathlib import Path

KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "dir",
    stat.S_IFLNK: "link",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
}
BLOCK = 1 << 20


def listing(root: Path, *, with_root: bool = False, skip: Iterable[str] = ()) -> str:
    """Lists everything below `root`, in order of path; names in `skip` directly below it are left out."""
    lines = [_line(root, ".")] if with_root else []
    left_out = set(skip)
    lines.extend(_line(root / path, path) for path in _walk(root, "", left_out))
    return "\n".join(lines) + "\n"


def _walk(root: Path, prefix: str, left_out: set[str]) -> Iterator[str]:
    with os.scandir(root / prefix) as entries:
        found = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)
    for name, is_dir in found:
        path = f"{prefix}{name}"
        if path in left_out:
            continue
        yield path
        if is_dir:
            yield from _walk(root, f"{path}/", left_out)


def _line(path: Path, name: str) -> str:
    status = os.lstat(path)
    kind = stat.S_IFMT(status.st_mode)
    fields = [
        repr(name),
        KINDS[kind],
        f"{stat.S_IMODE(status.st_mode):04o}",
        f"{status.st_uid}:{status.st_gid}",
        f"mtime={status.st_mtime_ns}",
    ]
    if kind != stat.S_IFDIR:
        fields.append(f"links={status.st_nlink}")
    if kind in (stat.S_IFREG, stat.S_IFLNK):
        fields.append(f"size={status.st_size}")
    if kind == stat.S_IFREG:
        fields.append(f"sha256={content_hash(path)}")
    if kind == stat.S_IFLNK:
        fields.append(f"target={os.readlink(path)!r}")
    if kind in (stat.S_IFCHR, stat.S_IFBLK):
        fields.append(f"device={os.major(status.st_rdev)}:{os.minor(status.st_rdev)}")
    for attribute in sorted(os.listxattr(path, follow_symlinks=False)):
        if attribute.startswith("user."):
            value = os.getxattr(path, attribute, follow_symlinks=False)
            fields.append(f"{attribute}={value!r}")
    return " ".join(fields)


def content_hash(path: Path) -> str:
    """The SHA-256 of a file's size and of its blocks with their offsets, blocks of zeros left out.

    So holes cost nothing where the filesystem tells them from data, and two files with equal bytes have
    equal hashes, whatever is a hole in the one and written zeros in the other.
    """
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        digest.update(b"%d" % size)
        offset = _next_data(file.fileno(), 0)
        while offset < size:
            block = os.pread(file.fileno(), BLOCK, offset)
            if not block:
                raise EOFError(f"{path} ends at {offset}, its size is {size}")
            # A short block in the middle would shift the ones behind it.
            if len(block) < min(BLOCK, size - offset):
                block += _rest(
                    file.fileno(), offset + len(block), min(BLOCK, size - offset) - len(block)
                )
            if block.strip(b"\0"):
                digest.update(b"@%d:" % offset)
                digest.update(block)
            offset = _next_data(file.fileno(), offset + BLOCK)
    return digest.hexdigest()


def _rest(file: int, offset: int, length: int) -> bytes:
    parts = []
    while length > 0 and (part := os.pread(file, length, offset)):
        parts.append(part)
        offset += len(part)
        length -= len(part)
    return b"".join(parts)


def _next_data(file: int, offset: int) -> int:
    """The first block boundary at or after `offset` whose block may hold data; past the end if none."""
    try:
        data = os.lseek(file, offset, os.SEEK_DATA)
    except OSError as err:
        if err.errno == errno.ENXIO:
            return sys.maxsize
        raise
    return data - data % BLOCK


def difference(wanted: str, found: str, most: int = 3) -> str | None:
    """The first lines in which two listings differ, or `None` if they are equal."""
    if wanted == found:
        return None
    left, right = set(wanted.splitlines()), set(found.splitlines())
    lost, extra = sorted(left - right), sorted(right - left)
    shown = [
        f"wanted {a or 'nothing'} / found {b or 'nothing'}"
        for a, b in list(zip_longest(lost, extra))[:most]
    ]
    return f"{len(lost)} lines lost, {len(extra)} lines new: " + "; ".join(shown)
