"""Quiet moments: what the live tree was, and the number of the event after which it was so.

Kept as files in the scratch directory, `moments/NNN-SEQ.listing`, because each step runs in a process of
its own. At the end every one of them is compared with `history/@SEQ`.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.listing import listing
from harness.outcome import Failed
from harness.world import World

# How often the tree may change under the listing before the moment counts as anything but quiet.
ATTEMPTS = 5


@dataclass(frozen=True)
class Moment:
    """One quiet moment: the event it followed, and the listing of the tree."""

    seq: int
    text: str


def keep_moment(world: World) -> int:
    """Keeps the live tree as it is now and returns its sequence number.

    Fails the step if the sequence moves although no step is running: something writes that should not.
    """
    server = world.main
    for _ in range(ATTEMPTS):
        seq = server.seq()
        text = listing(server.current, with_root=True)
        if server.seq() == seq:
            folder = world.scratch / "moments"
            folder.mkdir(exist_ok=True)
            number = len(list(folder.iterdir()))
            (folder / f"{number:03}-{seq}.listing").write_text(text, errors="surrogateescape")
            print(f"moment {number}: @{seq}, {text.count(chr(10))} entries", flush=True)
            return seq
    raise Failed(f"the tree is never quiet: its sequence went on during {ATTEMPTS} listings")


def kept_moments(world: World) -> list[Moment]:
    """All moments kept so far, oldest first."""
    folder = world.scratch / "moments"
    if not folder.is_dir():
        return []
    return [
        Moment(
            seq=int(path.stem.partition("-")[2]),
            text=path.read_text(errors="surrogateescape"),
        )
        for path in sorted(folder.iterdir())
    ]
