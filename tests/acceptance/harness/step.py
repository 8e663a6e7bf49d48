"""What a step is: a function, what it needs, and how long it may take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from harness.world import Size, World


@dataclass(frozen=True)
class Step:
    """One question put to the filesystem under test."""

    name: str
    question: str
    ask: Callable[[World], str | None]
    # Seconds until it is stopped and counts as failed, by size; a size that is missing does not run it.
    budget: dict[Size, float]
    tools: tuple[str, ...] = field(default=())
    # Needs a server (skipped with `--against`), and the main one if `main`.
    served: bool = False
    main: bool = True
    root: bool = False
    # A listing of the live tree is kept afterwards and compared with history at the end.
    moment: bool = True
    # Runs while the steps behind it do, in a scratch directory and on a main server of its own.
    beside: bool = False


def step(
    name: str,
    *,
    smoke: float | None,
    full: float,
    tools: tuple[str, ...] = (),
    served: bool = False,
    main: bool = True,
    root: bool = False,
    moment: bool | None = None,
    beside: bool = False,
) -> Callable[[Callable[[World], str | None]], Step]:
    """Makes a step of a function; its docstring's first line is the question it asks.

    The function may return a remark that is printed after its `ok`. `moment` is by default kept after
    every step that works in the main tree; never after one that runs `beside` the others, for its tree is another.
    """

    def make(ask: Callable[[World], str | None]) -> Step:
        budget = {Size.FULL: full}
        if smoke is not None:
            budget[Size.SMOKE] = smoke
        return Step(
            name=name,
            question=(ask.__doc__ or name).strip().splitlines()[0],
            ask=ask,
            budget=budget,
            tools=tools,
            served=served,
            main=main,
            root=root,
            moment=(main if moment is None else moment) and not beside,
            beside=beside,
        )

    return make
