"""Acks to a consumer. No I/O here.

The relay accepts an ack only on the connection that delivered the event. A later ack is remembered and sent when the
event is redelivered; the application does not get the event again.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from itertools import takewhile
from typing import Final, NamedTuple

from relay_tornado.client.messages import Document, encode
from relay_tornado.client.positions import SURE, drop_oldest

MEMORY: Final = 600.0
"""Seconds for which a late ack waits for the redelivery of its event."""
REMEMBERED: Final = 10_000
"""Limit for events of this connection that are not acknowledged (the relay's limit of events in flight), for those of
earlier connections, acknowledged or not, and for acks that a silent connection may have lost."""


class _Open(NamedTuple):
    """An unacknowledged event: its bucket's id, and its place among everything that came on this connection, `first`
    when it came for the first time, and `last`. A relay may give an event again that it took back before."""

    bucket: str
    first: int
    last: int


class Acks:
    """The acks of one subscription, over all its connections."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._open: dict[str, _Open] = {}
        """Events of this connection that are not acknowledged, in the order in which they came the last time."""
        self._came = 0
        self._firsts: dict[str, int] = {}
        """The `first` of events that came twice before they were answered, and of those that the relay took back. The
        answer may have been about the first time, so the application may have yet to get the second."""
        self._before: dict[str, str] = {}
        """Unacknowledged events of earlier connections, and those of this one that the relay took back; like those
        below, with their bucket's id."""
        self._gave = 0
        self._given: dict[str, int] = {}
        """Those in `_open` and `_before` that the application got, on whatever connection, and the place of each among
        all that it got."""
        self._sent: OrderedDict[str, tuple[str, float]] = OrderedDict()
        """Events acknowledged on this connection, and when. Each ack looks at the oldest; an OrderedDict finds it
        quickly even after deletions at the front."""
        self._late: dict[str, tuple[str, float]] = {}
        """Acknowledged events of which the relay may not know, and when they were acknowledged."""
        self._past: dict[str, tuple[str, float]] = {}
        """The same after their bucket was caught up with: a relay that took the previous connection for alive may still
        redeliver them."""
        self._known: dict[str, str] = {}
        """Events acknowledged on earlier connections, of which the relay knows."""
        self._again: list[str] = []

    def came(self, id: str, bucket: str, attempt: int = 1) -> bool:
        """Notes an event that arrived; `attempt` is the relay's count, which starts again when a consumer is moved.
        Returns whether it is acknowledged already, and so not for the application."""
        now = self._clock()
        if id in self._known:
            # A redelivery of a known event means that the consumer was moved back, so later events are redelivered on
            # purpose.
            self._known = {each: of for each, of in self._known.items() if of != bucket}
            self.caught_up(bucket)
        past, late = self._past.pop(id, None), self._late.pop(id, None)
        late = late or (past if attempt > 1 else None)
        if late is not None and late[1] > now - MEMORY:
            self._again.append(_message("ack", id))
            self._note(id, bucket, now)
            return True
        self._before.pop(id, None)
        if attempt == 1:
            self._given.pop(id, None)
        self._came += 1
        again = self._open.pop(id, None)
        first = self._firsts.pop(id, self._came) if again is None else again.first
        self._open[id] = _Open(bucket, first, self._came)
        if len(self._open) > REMEMBERED:
            # The relay has no more in flight on a connection, so the oldest was taken back.
            oldest = next(iter(self._open))
            self._before[oldest] = self._close(oldest, answered=False)
            drop_oldest(self._before, REMEMBERED)
        return False

    def caught_up(self, bucket: str) -> None:
        """Notes that everything of the bucket was handed out again. An event that comes from now on is redelivered on
        purpose, for example because the consumer was moved back, unless it is a further attempt."""
        self._past |= {each: late for each, late in self._late.items() if late[0] == bucket}
        drop_oldest(self._past, REMEMBERED)
        self._late = {each: late for each, late in self._late.items() if late[0] != bucket}

    def late(self) -> list[str]:
        """Messages to be sent now."""
        again, self._again = self._again, []
        return again

    def given(self, id: str) -> None:
        """Notes that the application gets an event that arrived."""
        self._gave += 1
        self._given.setdefault(id, self._gave)
        drop_oldest(self._given, 2 * REMEMBERED)

    def ack(self, id: str, everything: bool) -> str | None:
        """The message that acknowledges the event; None if the ack has to wait for a redelivery. Further messages are
        in `late`."""
        now = self._clock()
        mine = self._open.get(id)
        if mine is not None:
            # The application may mean the first time, and have yet to get what came since.
            before = list(takewhile(lambda each: each != id, self._open)) if everything else []
            before = [each for each in before if self._open[each].first < mine.first]
            # It may even mean an earlier connection. To the relay, all is what came on this one.
            got = [each for each in before if self._got(each, id)]
            for each in (*got, id):
                self._note(each, self._close(each), now)
            if len(got) < len(before):
                self._again += [_message("ack", each) for each in got]
                everything = False
            return _message("ack", id, all=True) if everything else _message("ack", id)
        if id in self._before:
            before = list(takewhile(lambda each: each != id, self._before)) if everything else []
            for each in (*(each for each in before if self._got(each, id)), id):
                self._late[each] = (self._before.pop(each), now)
                self._given.pop(each, None)
        return None

    def _got(self, id: str, before: str) -> bool:
        """Whether the application got the event before the other one."""
        return self._given.get(id, self._gave) < self._given.get(before, 0)

    def answered(self, id: str) -> bool:
        """Whether the application answered an event of this connection that it has yet to get: it had it before."""
        return id not in self._open and id not in self._before

    def nak(self, id: str, delay: float | None) -> str | None:
        """The message that returns the event to the consumer; None if the relay has taken it back already."""
        if id not in self._open:
            self._before.pop(id, None)
            self._given.pop(id, None)
            return None
        self._close(id)
        return _message("nak", id) if delay is None else _message("nak", id, delay=delay)

    def cut(self, silence: float = 0.0) -> None:
        """Notes the end of the connection, after `silence` seconds without data."""
        now = self._clock()
        sure = now - silence - SURE
        self._late, self._past = (
            {each: (bucket, at) for each, (bucket, at) in kept.items() if at > now - MEMORY}
            for kept in (self._late, self._past)
        )
        self._late |= {each: (bucket, now) for each, (bucket, at) in self._sent.items() if at > sure}
        self._known |= {each: bucket for each, (bucket, at) in self._sent.items() if at <= sure}
        self._before |= {each: one.bucket for each, one in self._open.items()}
        for kept in (self._before, self._known):
            drop_oldest(kept, REMEMBERED)
        self._given = {each: place for each, place in self._given.items() if each in self._before}
        self._sent, self._open, self._firsts, self._again = OrderedDict(), {}, {}, []

    def _close(self, id: str, *, answered: bool = True) -> str:
        """The event is no longer open. Returns its bucket's id."""
        one = self._open.pop(id)
        if answered:
            self._given.pop(id, None)
        if not answered or one.first < one.last:
            self._firsts[id] = one.first
            drop_oldest(self._firsts, REMEMBERED)
        return one.bucket

    def _note(self, id: str, bucket: str, now: float) -> None:
        self._sent[id] = (bucket, now)
        while self._sent[oldest := next(iter(self._sent))][1] < now - (
            SURE if len(self._sent) > REMEMBERED else MEMORY
        ):
            del self._sent[oldest]


def _message(action: str, id: str, **more: object) -> str:
    document: Document = {"action": action, "id": id, **more}
    return encode(document)
