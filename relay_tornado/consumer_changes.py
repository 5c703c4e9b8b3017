"""What is stored of a consumer: its floor and done ranges, its parked events and its dead letters.

`consumer_progress.py` produces the changes; the stores of `log` write them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NamedTuple

RETENTION: Final = "retention"
"""The reason of a dead letter whose event was removed from the log before it was done."""
MAX_DELIVER: Final = "max_deliver"
"""The reason of a dead letter that was tried as often as allowed."""
GIVEN_UP: Final = "given_up"
"""The reason of a dead letter that an administrator made."""


class Parked(NamedTuple):
    """An event that is to be retried. `attempts`: the number of tries so far. `due`: unix seconds. `since`: the time of
    the first try, in unix seconds."""

    attempts: int
    due: float
    since: float


class Dead(NamedTuple):
    """An event that was given up. `at` and `since` (the time of the first try) are unix seconds."""

    attempts: int
    at: float
    since: float
    reason: str


@dataclass(slots=True)
class Changes:
    """The changes since the last time. `done` are all ranges above the floor (from, to, inclusive), `tried` all ranges
    that are being tried. `cleared`: all parked events are deleted before `parked` is written, which is then complete,
    too (after a seek or a loss)."""

    floor: int = 0
    done: tuple[tuple[int, int], ...] = ()
    cleared: bool = False
    parked: dict[int, Parked] = field(default_factory=dict)
    unparked: set[int] = field(default_factory=set)
    dead: dict[int, Dead] = field(default_factory=dict)
    revived: set[int] = field(default_factory=set)
    """Dead events that are not dead any more: parked again, or done after all."""
    tried: tuple[tuple[int, int], ...] = ()

    def add(self, later: Changes) -> None:
        """Adds changes that came after these."""
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
