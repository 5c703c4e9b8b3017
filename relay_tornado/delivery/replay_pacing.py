"""Pacing of replays: limits the event loop's time for deliveries that read the log, so that senders and live
subscribers keep theirs.

Invariants:
- In one turn of the event loop, sections take at most `SLICE` seconds plus the one that was begun, however many wait;
  first come, first served.
- While senders need the loop, one section of a far subscriber is executed in a turn, and then none for `REST_FACTOR`
  times as long as it took. So a full replay takes a tenth of the time from senders, and all the time that nobody else
  needs. How much senders need it depends on how many events they send, not on how long the disk takes for each.
- Subscribers near the head never wait for that, and never delay those that are far behind.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, TypeAlias, TypeVar

from relay_tornado.low_memory import Timer, wake

T = TypeVar("T")

SLICE: Final = 0.001
"""Seconds of a turn. A webhook is answered some three turns after it came, so this is what a reconnect storm costs a
sender."""

REST_FACTOR: Final = 9.0
"""How many times as long as its section a rest of the far subscribers is, while senders need the loop."""

READ_SECONDS: Final = 0.002
"""Seconds that another thread takes to read a page of a log, mostly while it holds the GIL."""

FAR_BEHIND: Final = 1024
"""A subscriber that is more than so many events behind the head counts as far, not as live."""

_LONGEST: Final = 0.05
"""The longest rest in seconds: the machine may have been suspended in the middle of a section."""

_LOOK: Final = 0.001
"""Seconds between two looks at a rest: it ends early when senders do not need the loop any more."""

_EVENT: Final = 0.0002
_AFTERGLOW: Final = 0.02
"""Senders that were just answered send again. So for each stored event, they need the loop for `_EVENT` seconds, up to
`_AFTERGLOW` in all. The more events come in, the less often a full replay has the loop alone."""

_WAITS: Final = 0.002
"""Seconds after the last store for which events that wait to be stored need the loop: after that they wait for the
disk."""

_Queue: TypeAlias = "deque[tuple[asyncio.Future[Any], Callable[[], Any]]]"


class ReplayPacing:
    """Runs sections: functions that do not wait."""

    def __init__(
        self, waiting: Callable[[], int], stored: Callable[[], int], clock: Callable[[], float] = time.perf_counter
    ) -> None:
        """`waiting` returns the bytes of events that wait to be stored, `stored` the number of events ever stored."""
        self._waiting = waiting
        self._stored = stored
        self._clock = clock
        self._known = stored()
        self._near: _Queue = deque()
        self._far: _Queue = deque()
        self._spent = 0.0
        self._charged = 0.0
        self._rested = 0.0
        """When far subscribers may continue."""
        self._glow = 0.0
        self._none = 0.0
        """When an event was last stored, or none waited to be."""
        self._timer = Timer(self._turn)
        self._resting = False
        """Whether the timer is for the end of a rest."""

    async def run(self, section: Callable[[], T], behind: int) -> T:
        """Runs the section in its turn, for a subscriber `behind` events behind the head. Raises what it raises."""
        if not self._near and not self._far and self._spent < SLICE and not self._pressed(began := self._clock()):
            try:
                return section()
            finally:
                self._spent += self._clock() - began
                if self._timer.at is None:
                    self._timer.soon()
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        (self._far if behind > FAR_BEHIND else self._near).append((future, section))
        if self._timer.at is None or (behind <= FAR_BEHIND and self._resting):
            self._timer.soon()
            self._resting = False
        return await future

    def charge(self, seconds: float) -> None:
        """Within a section: adds the time of work that it causes elsewhere."""
        self._charged += seconds

    def _pressed(self, now: float) -> bool:
        """Whether senders need the loop."""
        stored = self._stored()
        if stored != self._known:
            self._glow = min(max(self._glow, now) + (stored - self._known) * _EVENT, now + _AFTERGLOW)
            self._known = stored
            self._none = now
        if not self._waiting():
            self._none = now
            return now < self._glow
        return now < max(self._glow, self._none + _WAITS)

    def _turn(self) -> None:
        self._resting = False
        try:
            self._work()
        except Exception:
            # For lack of memory, for example: those that wait get their turn all the same.
            if self._near or self._far:
                self._timer.soon()
            raise

    def _work(self) -> None:
        began = now = self._clock()
        worked = bool(self._near)
        pressed = self._pressed(now)
        end = began + SLICE
        if self._far and not (pressed and now < self._rested):
            worked = True
            self._charged = 0.0
            _next(self._far)
            now = self._clock()
            self._rested = now + min((now - began + self._charged) * REST_FACTOR, _LONGEST)
        while self._near and now < end:
            _next(self._near)
            now = self._clock()
        while self._far and now < end and not pressed:
            _next(self._far)
            now = self._clock()
        self._spent = now - began if worked else 0.0
        if self._far and pressed and not self._near:
            self._timer.after(min(max(self._rested - now, 0.0), _LOOK))
            self._resting = True
        elif self._near or self._far or worked:
            # The next turn of the loop has its own time, also if nobody waits.
            self._timer.soon()


def _next(queue: _Queue) -> None:
    """Executes the next section, unless nobody waits for it any more."""
    future, section = queue.popleft()
    if future.done():
        return
    try:
        outcome = section()
    except Exception as error:
        outcome = error
    wake(future, outcome)
