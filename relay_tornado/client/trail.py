"""The events of a bucket that an application was given: those that are not done, and stretches that are. No I/O here.

A stretch is everything between two ids of one epoch, including both. So the done events behind one that is not done
take the same memory, however many there are.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from relay_tornado.client.messages import Position, parse_position

Stretch: TypeAlias = tuple[str, str]
"""The first and the last id."""


@dataclass(slots=True, eq=False)
class _Part:
    """An event that is not done, or a stretch that is; `event` says whether a stretch has events. `earlier` is the same
    event from when the application was given it before."""

    first: str
    last: str
    done: bool
    event: bool
    before: _Part | None = None
    after: _Part | None = None
    earlier: _Part | None = None


class Trail:
    """The parts in the order in which the application was given them; everything up to the position `settled` is
    done."""

    def __init__(self, settled: str) -> None:
        self.settled = settled
        self._oldest: _Part | None = None
        self._newest: _Part | None = None
        self._open: dict[str, _Part] = {}

    def given(self, id: str) -> None:
        """Notes that the application got this event. If it is not done with it from before, it is once it is done with
        either."""
        self._open[id] = self._append(_Part(id, id, done=False, event=True, earlier=self._open.get(id)))

    def passed(self, id: str, event: bool) -> None:
        """Notes that this position was reached without an event for the application; `event`: an earlier run was done
        with one."""
        self._join(self._append(_Part(id, id, done=True, event=event)))
        self._settle()

    def done(self, id: str) -> bool:
        """Notes that the application is done with this event; returns False if it does not have it."""
        part = self._open.pop(id, None)
        if part is None:
            return False
        while part is not None:
            part.done = True
            after = part.after
            self._join(part)
            if after is not None:
                self._join(after)
            part = part.earlier
        self._settle()
        return True

    def beyond(self) -> list[Stretch]:
        """The stretches that are done after `settled`, in order."""
        found, part = [], self._oldest
        while part is not None:
            if part.done and part.event:
                found.append((part.first, part.last))
            part = part.after
        return found

    def _settle(self) -> None:
        while self._oldest is not None and self._oldest.done:
            self.settled = self._oldest.last
            self._remove(self._oldest)

    def _join(self, part: _Part) -> None:
        """Joins a part to the one before it, if both are done."""
        before = part.before
        if before is not None and before.done and part.done and _leads(before.last, part.first):
            before.last = part.last
            if not before.event:
                # A position without an event may be that of an event that is not done: a stretch begins after it.
                before.first, before.event = part.first, part.event
            self._remove(part)

    def _append(self, part: _Part) -> _Part:
        part.before, self._newest = self._newest, part
        if part.before is None:
            self._oldest = part
        else:
            part.before.after = part
        return part

    def _remove(self, part: _Part) -> None:
        if part.before is None:
            self._oldest = part.after
        else:
            part.before.after = part.after
        if part.after is None:
            self._newest = part.before
        else:
            part.after.before = part.before


class Known:
    """The events after `settled` that an earlier run was done with; they are dropped once they are passed."""

    def __init__(self, stretches: Iterable[Stretch] = ()) -> None:
        """The stretches may be in any order, and overlap; ids of other services are ignored."""
        self._stretches: dict[str, list[tuple[Position, Position]]] = {}
        positions = ((parse_position(first), parse_position(last)) for first, last in stretches)
        known = [(first, last) for first, last in positions if first and last and first.epoch == last.epoch]
        for first, last in sorted(known, key=lambda each: each[0].order):
            found = self._stretches.setdefault(first.epoch, [])
            if found and first.order <= found[-1][1].order:
                found[-1] = (found[-1][0], max(found[-1][1], last, key=lambda position: position.order))
            else:
                found.append((first, last))

    def __contains__(self, id: str) -> bool:
        position, found = self._near(id)
        if position is None or not found:
            return False
        at = bisect_right(found, position.order, key=lambda each: each[0].order) - 1
        return at >= 0 and position.order <= found[at][1].order

    def pass_by(self, id: str) -> None:
        """Drops everything up to this position, which does not come any more."""
        position, found = self._near(id)
        if position is None or not found:
            return
        del found[: bisect_right(found, position.order, key=lambda each: each[1].order)]
        if not found:
            del self._stretches[position.epoch]

    def _near(self, id: str) -> tuple[Position | None, list[tuple[Position, Position]]]:
        """The position that an id names, and the stretches of its epoch."""
        position = parse_position(id) if self._stretches else None
        return position, [] if position is None else self._stretches.get(position.epoch, [])

    def stretches(self) -> list[Stretch]:
        return [(str(first), str(last)) for found in self._stretches.values() for first, last in found]


def _leads(earlier: str, later: str) -> bool:
    """Whether the first position is not after the second, in the same epoch."""
    before, after = parse_position(earlier), parse_position(later)
    return before is not None and after is not None and before.epoch == after.epoch and before.order <= after.order
