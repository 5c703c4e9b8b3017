"""What is stored of a consumer: which events it is done with, which are tried again, and which were given up.

`consumer_progress.py` says what changes; the stores of `log` keep it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NamedTuple

RETENTION: Final = "retention"
"""Why an event is dead that its log let go before it was done."""
MAX_DELIVER: Final = "max_deliver"
"""Why an event is dead that was tried as often as it may be."""


class Parked(NamedTuple):
    """An event that is tried again. `attempts`: how often it was tried. `due`: unix seconds. `since`: when it was
    tried first, in unix seconds."""

    attempts: int
    due: float
    since: float


class Dead(NamedTuple):
    """An event that was given up. `at` and `since` (when it was tried first): unix seconds."""

    attempts: int
    at: float
    since: float
    reason: str


@dataclass(slots=True)
class Changes:
    """What to store since the last time. `done` are the ranges above the floor (from, to, both in it), `tried` those of
    what is being tried: the whole of them. `cleared`: all that is parked goes before `parked` is put, which is then the
    whole, too (a seek, a loss)."""

    floor: int = 0
    done: tuple[tuple[int, int], ...] = ()
    cleared: bool = False
    parked: dict[int, Parked] = field(default_factory=dict)
    unparked: set[int] = field(default_factory=set)
    dead: dict[int, Dead] = field(default_factory=dict)
    revived: set[int] = field(default_factory=set)
    """Dead ones that are so no longer: parked again, or done after all."""
    tried: tuple[tuple[int, int], ...] = ()

    def add(self, later: Changes) -> None:
        """Takes in what changed after this."""
        self.floor, self.done, self.tried = later.floor, later.done, later.tried
        if later.cleared:
            self.cleared = True
            self.parked.clear()
            self.unparked.clear()
        for seq in later.unparked:
            self.parked.pop(seq, None)
        for seq in later.revived:
            self.dead.pop(seq, None)
        self.unparked = (self.unparked | later.unparked) - later.parked.keys()
        self.revived = (self.revived | later.revived) - later.dead.keys()
        self.parked.update(later.parked)
        self.dead.update(later.dead)
