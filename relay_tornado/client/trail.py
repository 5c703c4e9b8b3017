"""What an application was given of a bucket: what it is not done with yet, and stretches of what it is. No I/O here.

A stretch is what lies between two ids of one epoch, both in it. So what is done behind one event that is not takes the
same room however much it is.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from relay_tornado.client.messages import Place, parse_place

Stretch: TypeAlias = tuple[str, str]
"""The ids that it begins and ends with."""


@dataclass(slots=True, eq=False)
class _Part:
    """An event that is not done with, or a stretch that is; `event`: there is one in it."""

    first: str
    last: str
    done: bool
    event: bool
    before: _Part | None = None
    after: _Part | None = None


class Trail:
    """In the order in which the application was given it; `settled` is the position up to which it is done."""

    def __init__(self, settled: str) -> None:
        self.settled = settled
        self._oldest: _Part | None = None
        self._newest: _Part | None = None
        self._open: dict[str, _Part] = {}

    def __len__(self) -> int:
        """How many parts there are beyond `settled`."""
        count, part = 0, self._oldest
        while part is not None:
            count, part = count + 1, part.after
        return count

    def given(self, id: str) -> None:
        """The application got this event. Where it had it before, that one counts no more."""
        self.done(id)
        self._open[id] = self._append(_Part(id, id, done=False, event=True))

    def passed(self, id: str, event: bool) -> None:
        """This position was reached, with nothing for the application; `event`: an earlier run was done with one."""
        self._join(self._append(_Part(id, id, done=True, event=event)))
        self._settle()

    def done(self, id: str) -> bool:
        """The application is done with this event; False where it does not have it."""
        part = self._open.pop(id, None)
        if part is None:
            return False
        part.done = True
        after = part.after
        self._join(part)
        if after is not None:
            self._join(after)
        self._settle()
        return True

    def beyond(self) -> list[Stretch]:
        """What is done beyond `settled`, in order."""
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
        """With what is before it, where both are done."""
        before = part.before
        if before is not None and before.done and part.done and _leads(before.last, part.first):
            before.last = part.last
            before.event = before.event or part.event
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
    """What an earlier run was done with beyond its `settled`; it is let go of as it is passed."""

    def __init__(self, stretches: Iterable[Stretch] = ()) -> None:
        """They may come in any order, and overlap; ids that are none of this relay's are left out."""
        self._stretches: dict[str, list[tuple[Place, Place]]] = {}
        places = ((parse_place(first), parse_place(last)) for first, last in stretches)
        known = [(first, last) for first, last in places if first and last and first.epoch == last.epoch]
        for first, last in sorted(known, key=lambda each: each[0].order):
            found = self._stretches.setdefault(first.epoch, [])
            if found and first.order <= found[-1][1].order:
                found[-1] = (found[-1][0], max(found[-1][1], last, key=lambda place: place.order))
            else:
                found.append((first, last))

    def __contains__(self, id: str) -> bool:
        place, found = self._near(id)
        if place is None or not found:
            return False
        at = bisect_right(found, place.order, key=lambda each: each[0].order) - 1
        return at >= 0 and place.order <= found[at][1].order

    def pass_by(self, id: str) -> None:
        """Everything up to this position comes no more."""
        place, found = self._near(id)
        if place is None or not found:
            return
        del found[: bisect_right(found, place.order, key=lambda each: each[1].order)]
        if not found:
            del self._stretches[place.epoch]

    def _near(self, id: str) -> tuple[Place | None, list[tuple[Place, Place]]]:
        """The place that it names, and the stretches of its epoch."""
        place = parse_place(id) if self._stretches else None
        return place, [] if place is None else self._stretches.get(place.epoch, [])

    def stretches(self) -> list[Stretch]:
        return [(str(first), str(last)) for found in self._stretches.values() for first, last in found]


def _leads(earlier: str, later: str) -> bool:
    """Whether the one position comes before the other, in the same epoch."""
    before, after = parse_place(earlier), parse_place(later)
    return before is not None and after is not None and before.epoch == after.epoch and before.order <= after.order
