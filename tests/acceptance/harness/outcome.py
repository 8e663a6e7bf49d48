"""How a step ends other than by returning.

A step that returns has passed. One that raises `Failed` has found the product wrong; one that raises
`Skipped` could not ask its question here. Any other exception is a failure too, with its traceback.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Failed(Exception):
    """The product did not keep a promise; the message says which, and what was seen."""


class Skipped(Exception):
    """The step cannot run on this machine or in this mode; the message says why."""


class Verdict(Enum):
    """The three ways a step can end, by the word that is printed."""

    PASSED = "ok"
    FAILED = "FAIL"
    SKIPPED = "skip"


@dataclass(frozen=True)
class Outcome:
    """One step's end: the verdict, and the reason unless it passed without a remark."""

    verdict: Verdict
    reason: str


def require(holds: object, message: str) -> None:
    """Fails the step with `message` unless `holds`. An `assert` that `python -O` does not remove."""
    if not holds:
        raise Failed(message)
