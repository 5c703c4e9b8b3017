"""Acks to a consumer. The relay takes one only on the connection that the event came on, so what is acknowledged later
is remembered, and said when the event comes again: then the application does not get it twice. No I/O here.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Final

from relay_tornado.client.messages import Document, encode
from relay_tornado.client.positions import SURE, drop_oldest

MEMORY: Final = 600.0
"""Seconds for which a late ack is kept for its event."""
REMEMBERED: Final = 10_000
"""Events of earlier connections that may still be acknowledged, or were; acks that a silence may have swallowed."""


class Acks:
    """Of one subscription, over all its connections."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._open: dict[str, str] = {}
        """What came on this connection and is not acknowledged, in its order; with its bucket's id, as all of these."""
        self._before: dict[str, str] = {}
        """The same of earlier connections."""
        self._untaken: set[str] = set()
        """Those among them that the application did not get."""
        self._sent: OrderedDict[str, tuple[str, float]] = OrderedDict()
        """When what was acknowledged on this connection was so. Each ack looks at the oldest, which a dict whose front
        was deleted takes long to find."""
        self._late: dict[str, tuple[str, float]] = {}
        """What was acknowledged and the relay may not know, and since when."""
        self._past: dict[str, tuple[str, float]] = {}
        """The same once the bucket was caught up with: a relay that took the connection before for alive still had it
        out there."""
        self._known: dict[str, str] = {}
        """What was acknowledged on earlier connections, and the relay knows."""
        self._again: list[str] = []

    def came(self, id: str, bucket: str, attempt: int = 1) -> bool:
        """An event came, for the `attempt`th time as the relay counts, which begins anew where a consumer is moved;
        whether it is acknowledged already, and not for the application."""
        now = self._clock()
        if id in self._known:
            # The relay sends it again because its consumer was moved back, and so it does with what comes behind it.
            self._known = {each: of for each, of in self._known.items() if of != bucket}
            self.caught_up(bucket)
        past, late = self._past.pop(id, None), self._late.pop(id, None)
        late = late or (past if attempt > 1 else None)
        if late is not None and late[1] > now - MEMORY:
            self._again.append(_message("ack", id))
            self._note(id, bucket, now)
            return True
        self._before.pop(id, None)
        self._untaken.discard(id)
        self._open.pop(id, None)
        self._open[id] = bucket
        return False

    def caught_up(self, bucket: str) -> None:
        """Everything of it was handed out anew: what comes again from now on is meant, as where a consumer was moved
        back, unless it is one more attempt."""
        self._past |= {each: late for each, late in self._late.items() if late[0] == bucket}
        drop_oldest(self._past, REMEMBERED)
        self._late = {each: late for each, late in self._late.items() if late[0] != bucket}

    def late(self) -> list[str]:
        """Messages that are to be sent now."""
        again, self._again = self._again, []
        return again

    def ack(self, id: str, everything: bool) -> str | None:
        """The message that acknowledges it, None where that has to wait for the event to come again."""
        now = self._clock()
        mine = id in self._open
        if mine and not everything:
            self._note(id, self._open.pop(id), now)
            return _message("ack", id)
        order = self._open if mine else self._before
        if everything and id in order:
            for each in tuple(order):
                if not mine and each in self._untaken and each != id:
                    continue
                bucket = order.pop(each)
                if mine:
                    self._note(each, bucket, now)
                else:
                    self._late[each] = (bucket, now)
                if each == id:
                    break
        elif id in self._before:
            self._late[id] = (self._before.pop(id), now)
        return _message("ack", id, all=True) if mine else None

    def nak(self, id: str, delay: float | None) -> str | None:
        """The message that gives it back, None where the relay has taken it back already."""
        if id not in self._open:
            self._before.pop(id, None)
            return None
        del self._open[id]
        return _message("nak", id) if delay is None else _message("nak", id, delay=delay)

    def cut(self, silence: float = 0.0, untaken: Iterable[str] = ()) -> None:
        """The connection ended, after nothing had come for so many seconds; the application did not get these."""
        now = self._clock()
        sure = now - silence - SURE
        self._late, self._past = (
            {each: (bucket, at) for each, (bucket, at) in kept.items() if at > now - MEMORY}
            for kept in (self._late, self._past)
        )
        self._late |= {each: (bucket, now) for each, (bucket, at) in self._sent.items() if at > sure}
        self._known |= {each: bucket for each, (bucket, at) in self._sent.items() if at <= sure}
        self._before |= self._open
        for kept in (self._before, self._known):
            drop_oldest(kept, REMEMBERED)
        self._untaken = (self._untaken | set(untaken)) & self._before.keys()
        self._sent, self._open, self._again = OrderedDict(), {}, []

    def _note(self, id: str, bucket: str, now: float) -> None:
        self._sent[id] = (bucket, now)
        while self._sent[oldest := next(iter(self._sent))][1] < now - (
            SURE if len(self._sent) > REMEMBERED else MEMORY
        ):
            del self._sent[oldest]


def _message(action: str, id: str, **more: object) -> str:
    document: Document = {"action": action, "id": id, **more}
    return encode(document)
