"""Flipped bits: `verify` finds them and says where, and nothing panics over them.

Every flip is drawn from the run's seed and written to the step's log, so that it can be repeated.
"""

from __future__ import annotations

import random
import shutil
from dataclasses import dataclass
from pathlib import Path

from harness.command import last_lines, run
from harness.listing import listing
from harness.mount import Server
from harness.outcome import Failed, require
from harness.step import step
from harness.world import World

# Files of the sample whose content is known and can be found again in the content segments.
LARGE_FILES = 12
LARGE_SIZE = 150_000
SMALL_FILES = 60


@dataclass(frozen=True)
class Flip:
    """One bit of one file of a store."""

    file: str
    offset: int
    bit: int

    def apply(self, store: Path) -> None:
        """Flips the bit; a second time takes it back."""
        with (store / self.file).open("r+b") as file:
            file.seek(self.offset)
            byte = file.read(1)[0]
            file.seek(self.offset)
            file.write(bytes([byte ^ (1 << self.bit)]))


def make_sample(world: World, name: str) -> tuple[Server, list[bytes]]:
    """A stopped store with some of everything in it, and the contents of its large files."""
    server = world.server(name)
    server.start()
    dice = random.Random(world.seed)
    contents = [dice.randbytes(LARGE_SIZE) for _ in range(LARGE_FILES)]
    for number, content in enumerate(contents):
        (server.current / f"large-{number}").write_bytes(content)
    for number in range(SMALL_FILES):
        folder = server.current / f"folder-{number % 7}"
        folder.mkdir(exist_ok=True)
        (folder / f"small-{number}").write_bytes(dice.randbytes(dice.randrange(1, 4000)))
        (folder / f"link-{number}").symlink_to(f"small-{number}")
    (server.current / "folder-1" / "small-1").unlink()
    (server.current / "folder-2").rename(server.current / "renamed")
    server.stop()
    return server, contents


def segments(store: Path, folder: str, suffix: str) -> list[str]:
    """The segment files of a store, by path below it."""
    found = sorted(str(path.relative_to(store)) for path in (store / folder).glob(f"*{suffix}"))
    require(found, f"the store has no {folder}/*{suffix}")
    return found


def used_length(path: Path) -> int:
    """Up to which byte a file is written: the rest was allocated ahead and is zero."""
    return len(path.read_bytes().rstrip(b"\0"))


@step("verify", smoke=90, full=240, served=True, main=False, root=True)
def verify(world: World) -> str:
    """Does `verify` find one flipped bit in any log or content file, and say where?"""
    server, contents = make_sample(world, "verify")
    clean = run([world.binary, "verify", server.store], timeout=60)
    require("panicked" not in clean.output, "verify panics on a whole store")
    dice = random.Random(world.seed)
    flips = _log_flips(server.store, dice, world.pick(smoke=12, full=150))
    flips += _content_flips(server.store, contents, dice, world.pick(smoke=12, full=150))
    for flip in flips:
        flip.apply(server.store)
        done = run([world.binary, "verify", server.store], timeout=60, codes=None)
        flip.apply(server.store)
        require(done.code == 3, f"{flip}: verify ends with {done.code}: {last_lines(done.output)}")
        require("panicked" not in done.output, f"{flip}: verify panics")
        require(
            Path(flip.file).name in done.output,
            f"{flip}: verify does not say where: {last_lines(done.output)}",
        )
    again = run([world.binary, "verify", server.store], timeout=60)
    require("panicked" not in again.output, "with every bit taken back verify panics")
    return f"{len(flips)} flips from seed {world.seed}, each found"


def _log_flips(store: Path, dice: random.Random, count: int) -> list[Flip]:
    """Anywhere in what was written of the log; the segment allocated ahead is still blank."""
    lengths = {name: used_length(store / name) for name in segments(store, "log", ".seg")}
    begun = [name for name, length in lengths.items() if length]
    require(begun, "no segment of the log was written to")
    chosen = []
    for _ in range(count):
        name = dice.choice(begun)
        chosen.append(Flip(name, dice.randrange(lengths[name]), dice.randrange(8)))
    return chosen


def _content_flips(
    store: Path, contents: list[bytes], dice: random.Random, count: int
) -> list[Flip]:
    """In bytes that are known to be a file's: between extents lies padding that nothing refers to."""
    whole = {name: (store / name).read_bytes() for name in segments(store, "content", ".dat")}
    chosen = []
    for _ in range(count):
        content = dice.choice(contents)
        start = dice.randrange(len(content) - 64)
        part = content[start : start + 64]
        places = [(name, data.find(part)) for name, data in whole.items()]
        found = [(name, offset) for name, offset in places if offset >= 0]
        if found:
            name, offset = found[0]
            chosen.append(Flip(name, offset + dice.randrange(len(part)), dice.randrange(8)))
    require(chosen, "no content of a file was found in the content segments")
    return chosen


@step("flips", smoke=180, full=300, served=True, main=False, root=True)
def flips(world: World) -> str:
    """Flipped bits anywhere in a store: does every command end with 0, 1 or 3, and none panic?"""
    sample, _ = make_sample(world, "flips")
    dice = random.Random(world.seed + 1)
    served = refused = 0
    for turn in range(world.pick(smoke=8, full=60)):
        copy = world.server(f"flipped-{turn}")
        shutil.copytree(sample.store, copy.store, copy_function=_sparse_copy)
        drawn = _anywhere(copy.store, dice, dice.choice((1, 1, 8, 100)))
        for flip in drawn:
            flip.apply(copy.store)
        print(f"turn {turn}: {drawn[:8]}", flush=True)
        for words in (["status"], ["verify"], ["log", "--store"]):
            done = run([world.binary, *words, copy.store], timeout=60, codes=None)
            require(done.code in (0, 1, 3), f"turn {turn}: `{words[0]}` ends with {done.code}")
            require("panicked" not in done.output, f"turn {turn}: `{words[0]}` panics")
        if _serves(copy):
            served += 1
        else:
            refused += 1
        shutil.rmtree(copy.store)
    return f"{served} damaged stores served, {refused} refused, from seed {world.seed}"


def _sparse_copy(source: str, target: str) -> None:
    run(["cp", "-a", "--sparse=always", source, target], timeout=30)


def _anywhere(store: Path, dice: random.Random, count: int) -> list[Flip]:
    """In any written bytes of any files of the store, index and super included."""
    files = sorted(path for path in store.rglob("*") if path.is_file())
    lengths = {str(path.relative_to(store)): used_length(path) for path in files}
    written = [name for name, length in lengths.items() if length]
    chosen = []
    for _ in range(count):
        name = dice.choice(written)
        chosen.append(Flip(name, dice.randrange(lengths[name]), dice.randrange(8)))
    return chosen


def _serves(server: Server) -> bool:
    """Mounts a damaged store and reads all of it; errors are right, panics and hangs are not."""
    code = server.try_start()
    if code is not None:
        require(code in (1, 3), f"`mount` of a damaged store ends with {code}: {server.log_tail()}")
    else:
        try:
            listing(server.current)
        except OSError as err:
            print(f"reading a damaged store: {err}", flush=True)
        if server.running() is None:
            raise Failed(f"the server died of a damaged store: {server.log_tail()}")
        server.stop()
    require("panicked" not in server.log.read_text(errors="replace"), "the server panics")
    return code is None


STEPS = (verify, flips)
