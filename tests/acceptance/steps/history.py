"""The test that matters most: every tree that was kept on the way is found again in the past."""

from __future__ import annotations

from harness.listing import difference, listing
from harness.moments import keep_moment, kept_moments
from harness.outcome import Skipped, require
from harness.step import step
from harness.world import World

# What a full run must have kept; a smoke run or one with `--only` compares what there is.
MOMENTS = 20


@step("history", smoke=60, full=300, served=True, root=True, moment=False)
def history(world: World) -> str:
    """Is history/@N, for each quiet moment that was kept, the tree of that moment?"""
    server = world.main
    keep_moment(world)
    kept = kept_moments(world)
    compared: set[int] = set()
    for moment in kept:
        if moment.seq in compared:
            continue
        differs = difference(moment.text, listing(server.at(moment.seq), with_root=True))
        require(differs is None, f"@{moment.seq} is not what it was: {differs}")
        compared.add(moment.seq)
    # Once more after a stop and a start, when nothing is in memory.
    server.stop()
    server.start()
    for moment in (kept[0], kept[len(kept) // 2], kept[-1]):
        differs = difference(moment.text, listing(server.at(moment.seq), with_root=True))
        require(differs is None, f"after a restart @{moment.seq} is not what it was: {differs}")
    return f"{len(kept)} moments up to @{kept[-1].seq} equal"


@step("moments", smoke=None, full=10, served=True, root=True, moment=False)
def moments(world: World) -> str:
    """Were at least 20 quiet moments kept, at different sequences?"""
    sequences = {moment.seq for moment in kept_moments(world)}
    if not sequences:
        raise Skipped("no step that changes the tree has run")
    require(len(sequences) >= MOMENTS, f"only {len(sequences)} of {MOMENTS} moments were kept")
    return f"{len(sequences)} different sequences"


STEPS = (history, moments)
