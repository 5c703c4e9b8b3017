"""Pacing of replays: how much of the loop's time reading the log has, so that senders and live subscribers keep theirs.

Invariants:
- In one turn of the loop such work takes at most `SLICE` seconds and the section that was begun, however many want
  their turn; first come, first served.
- While senders want the loop, one section a turn of those that are far behind is worked on, and then none for
  `REST_FACTOR` times as long as it took. So a full replay takes a tenth of the time from the senders, and what
  nobody else wants. How much they want it goes by how many events they send, and not by how long the disk takes
  for each.
- Those that are near the head never wait for that, and never keep it from those that are far behind.
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
"""Seconds a turn. A webhook is answered some three turns after it came, so this is what a storm costs a sender."""

REST_FACTOR: Final = 9.0
"""How many times longer than at work those far behind are at rest, while senders want the loop."""

READ_SECONDS: Final = 0.002
"""Seconds that another thread takes to read a page of a log, mostly with the interpreter's lock in its hands."""

FAR_BEHIND: Final = 1024
"""Events behind the head from which on a subscriber does not count as live."""

_LONGEST: Final = 0.05
"""Most seconds of a rest: the machine may have been away in the middle of a section."""

_LOOK: Final = 0.001
"""Seconds until a rest is looked at again: it ends early when senders do not want the loop any more."""

_EVENT: Final = 0.0002
_AFTERGLOW: Final = 0.02
"""Senders that were just answered send again: for so many seconds for each event that was stored, and at most for so
many in all, they want the loop. So the more comes in, the less often a full replay has it alone."""

_WAITS: Final = 0.002
"""Seconds for which what waits to be stored wants the loop, after what was stored before it: from then on it waits for
the disk."""

_Queue: TypeAlias = "deque[tuple[asyncio.Future[Any], Callable[[], Any]]]"


class ReplayPacing:
    """Sections of work, each a function that does not wait."""

    def __init__(
        self, waiting: Callable[[], int], stored: Callable[[], int], clock: Callable[[], float] = time.perf_counter
    ) -> None:
        """`waiting` tells how many bytes of events wait to be stored, `stored` how many events ever were."""
        self._waiting = waiting
        self._stored = stored
        self._clock = clock
        self._known = stored()
        self._near: _Queue = deque()
        self._far: _Queue = deque()
        self._spent = 0.0
        self._charged = 0.0
        self._rested = 0.0
        """When those far behind may go on."""
        self._glow = 0.0
        self._none = 0.0
        """When something was stored last, or nothing waited for it."""
        self._timer = Timer(self._turn)
        self._resting = False
        """Whether that is for the end of a rest."""

    async def run(self, section: Callable[[], T], behind: int) -> T:
        """Runs the section in its turn, for who is so many events behind. Raises what it raises."""
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
        """Within a section: what follows from it takes so long elsewhere."""
        self._charged += seconds

    def _pressed(self, now: float) -> bool:
        """Whether senders want the loop."""
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
            # Memory is short, say: those who wait have their turn all the same.
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
            # Where nobody waits, the next turn of the loop has time of its own.
            self._timer.soon()


def _next(queue: _Queue) -> None:
    """Works on the next section, and passes over what nobody waits for any more."""
    future, section = queue.popleft()
    if future.done():
        return
    try:
        outcome = section()
    except Exception as error:
        outcome = error
    wake(future, outcome)
