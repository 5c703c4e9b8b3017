"""The fast path: one pass after a commit sends to every subscriber that is caught up and has nothing buffered.

A subscriber that can't take it (behind, writing, or too many bytes at once) is left to its own delivery, which reads
the log. The passes skip it until its delivery has caught up, so that a commit costs nothing for subscribers that are
behind.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple, Protocol

import structlog

from relay_tornado.counters import Counters
from relay_tornado.delivery.bounds import CHUNK, SLICE
from relay_tornado.delivery.frames import FrameCache
from relay_tornado.delivery.outlet import Lane, Outlet
from relay_tornado.errors import BucketGone, CursorLost
from relay_tornado.log.contract import EventLog
from relay_tornado.low_memory import Timer, try_log
from relay_tornado.model import KIB, BucketId, Event

PAGE: Final = 256
"""The most events in one read."""

_PAGE_BYTES: Final = 64 * KIB
_AGAIN: Final = 1.0
"""Seconds until a pass that failed is repeated for the subscribers that were not served."""
_CLOCK_EVERY: Final = 16
"""Subscribers that are served between two looks at the clock."""

_log = structlog.get_logger(__name__)


class Subscriber(Protocol):
    """A delivery, as seen by the pass."""

    @property
    def lane(self) -> Lane: ...

    @property
    def outlet(self) -> Outlet: ...

    def mark(self, bucket_id: BucketId) -> bool:
        """The bucket may have something to read. Returns whether the subscriber reads by itself until it calls
        `caught_up`; if not, it has to be marked at each commit."""


class Place:
    """A subscriber's position in one bucket. Every event up to `seq`, in `epoch`, was written or passed over; of the
    next one, copies for outputs up to number `output` were received before delivery began.

    `given`, in `given_epoch`, is the last event passed to a write, which may not have ended; the pass sets only `seq`.
    `open` until the bucket leaves the subscription. `lost` is the head to which the log went back because the file lost
    events, until the subscriber has handled it; otherwise None. `name` is the bucket's name when it was placed.
    `replaying` until a client that wants it is told that it is caught up.
    """

    __slots__ = (
        "began",
        "bucket_id",
        "epoch",
        "given",
        "given_epoch",
        "lane",
        "lost",
        "name",
        "open",
        "output",
        "pinged",
        "replaying",
        "seq",
        "subscriber",
    )

    def __init__(
        self, subscriber: Subscriber, bucket_id: BucketId, seq: int, epoch: str, output: int = 0, name: str = ""
    ) -> None:
        self.subscriber = subscriber
        self.lane = subscriber.lane
        self.bucket_id = bucket_id
        self.name = name
        self.lost: int | None = None
        self.seq = seq
        self.epoch = epoch
        self.output = output
        self.open = True
        self.replaying = False
        self.given = 0
        self.given_epoch = ""
        self.began = seq
        """Where delivery began, or the lowest seq that it went back to."""
        self.pinged = seq
        """The seq in the last ping."""

    def move(self, seq: int, epoch: str) -> None:
        """Continues after `seq`, wherever it was."""
        self.seq, self.epoch, self.output, self.given = seq, epoch, 0, 0
        self.began = min(self.began, seq)

    def lose(self, head: int) -> None:
        """The log may have gone back to `head`."""
        self.lost = head if self.lost is None else min(self.lost, head)

    def told(self) -> tuple[int, str]:
        """The seq and the epoch of the last event that was passed to a write or passed over."""
        return (self.given, self.given_epoch) if self.given > self.seq else (self.seq, self.epoch)


class _Chunk(NamedTuple):
    data: bytes
    seq: int
    epoch: str
    events: int
    """How many of its events have frames."""
    largest: int
    """Bytes of the largest body in it."""


class Dispatcher:
    """Serves and wakes subscribers, with one watch on the log for all of them."""

    def __init__(self, log: EventLog, cache: FrameCache, counters: Counters) -> None:
        self._counters = counters
        self._log = log
        self._cache = cache
        self._places: dict[BucketId, dict[Place, None]] = {}
        self._live: dict[BucketId, dict[Place, None]] = {}
        """The places that have to be served or marked at each commit: not those whose deliveries are reading."""
        self._woken: dict[BucketId, None] = {}
        self._pass: Iterator[Place] | None = None
        self._bucket_id: BucketId = ""
        self._timer = Timer(self._turn)
        self._failed = False
        self._watch = log.watch(None, self.wake)

    def head(self, bucket_id: BucketId) -> int:
        """The newest published seq, without an await."""
        return self._watch.head(bucket_id)

    def add(self, place: Place) -> None:
        self._places.setdefault(place.bucket_id, {})[place] = None
        self._live.setdefault(place.bucket_id, {})[place] = None

    def caught_up(self, place: Place) -> None:
        """A place that was added is at the head, and its delivery has stopped reading."""
        self._live[place.bucket_id][place] = None

    def remove(self, place: Place) -> None:
        """The place is not woken any more. May be repeated."""
        places = self._places.get(place.bucket_id)
        if places is not None:
            places.pop(place, None)
            self._live[place.bucket_id].pop(place, None)
            if not places:
                del self._places[place.bucket_id], self._live[place.bucket_id]

    def lost(self, bucket_id: BucketId, head: int) -> None:
        """The bucket's log may have gone back to `head`, because the file lost events: their seqs will be reused.
        Subscribers that have received them, or are about to, are told a gap before the next event."""
        for place in self._places.get(bucket_id, ()):
            if place.seq > head or place.lane.busy:
                place.lose(head)
                place.subscriber.mark(bucket_id)

    def lag(self) -> dict[BucketId, int]:
        """By bucket with subscribers: how many events the slowest one is behind the head."""
        return {
            bucket_id: max(self._watch.head(bucket_id) - min(place.seq for place in places), 0)
            for bucket_id, places in self._places.items()
        }

    def close(self) -> None:
        self._watch.close()
        self._places.clear()
        self._live.clear()
        self._timer.cancel()

    def wake(self, bucket_id: BucketId) -> None:
        """The bucket may have something new."""
        if self._live.get(bucket_id):
            self._woken[bucket_id] = None
            if self._timer.at is None:
                self._timer.soon()

    def _turn(self) -> None:
        """Serves the places of the woken buckets for `SLICE` seconds, then gives the event loop a turn and
        continues."""
        try:
            if self._failed:
                self._woken.update(dict.fromkeys(self._live))
                self._failed = False
            self._go_on(time.perf_counter() + SLICE)
        except Exception:
            # For lack of memory, for example. Places that were not served are served later.
            self._failed = True
            self._pass = None
            self._timer.after(_AGAIN)
            try_log(_log.exception, "pass_failed", bucket=self._bucket_id)

    def _go_on(self, end: float) -> None:
        while True:
            if self._pass is None:
                if not self._woken:
                    return
                self._bucket_id = next(iter(self._woken))
                del self._woken[self._bucket_id]
                self._pass = iter(list(self._live.get(self._bucket_id, ())))
            if self._serve(self._pass, end):
                self._pass = None
            if time.perf_counter() > end:
                self._timer.soon()
                return

    def _serve(self, places: Iterator[Place], end: float) -> bool:
        """Sends to one subscriber after another. Returns False if the time is up before the last one."""
        bucket_id = self._bucket_id
        head = self._watch.head(bucket_id)
        turns = _CLOCK_EVERY
        # By position. Not kept beyond a turn: the bucket may change, and its frames with it.
        chunks: dict[int, _Chunk | None] = {}
        deliveries = size = 0
        in_time = True
        for place in places:
            lane = place.lane
            if lane.busy or lane.apart:
                if lane.busy or place.seq < head:
                    self._leave(place)
                continue
            behind = place.open and place.seq < head
            while behind:
                try:
                    chunk = chunks[place.seq]
                except KeyError:
                    chunk = chunks[place.seq] = self._read(place.seq)
                if chunk is None:
                    self._leave(place)
                    break
                data, seq, epoch, events, largest = chunk
                most = lane.max_body
                try:
                    declined = (most is not None and largest > most) or (data and not _send(place, data))
                except Exception:
                    self._forsake(place)
                    declined = True
                if declined:
                    self._leave(place)
                    break
                place.seq = seq
                place.epoch = epoch
                deliveries += events
                size += len(data)
                behind = seq < head
                if behind and time.perf_counter() > end:
                    self._leave(place)
                    break
            turns -= 1
            if not turns:
                turns = _CLOCK_EVERY
                if time.perf_counter() > end:
                    in_time = False
                    break
        self._counters.deliveries += deliveries
        self._counters.delivered_bytes += size
        return in_time

    def _leave(self, place: Place) -> None:
        """Leaves the place to its delivery, unless it was removed since the pass began."""
        live = self._live.get(place.bucket_id, {})
        if place in live and place.subscriber.mark(place.bucket_id):
            del live[place]

    def _in_time(self, events: Sequence[Event]) -> Sequence[Event]:
        """The first of the events that rules can match, and the cache encode, in one slice of time."""
        end = time.perf_counter() + SLICE
        for index, event in enumerate(events):
            self._cache.frame(self._bucket_id, event)
            if time.perf_counter() > end:
                return events[: index + 1]
        return events

    def _read(self, after: int) -> _Chunk | None:
        """The joined frames after a position; empty if those events have none.

        None if they are not in memory, too large to send at once, or can't be made: then only the deliveries that read
        the log meet the error, and tell their clients.
        """
        try:
            events = self._log.peek(self._bucket_id, after, PAGE, _PAGE_BYTES)
            if not events:
                return None
            if self._cache.slow(self._bucket_id):
                events = self._in_time(events)
            frames = [self._cache.frame(self._bucket_id, event) for event in events]
        except (BucketGone, CursorLost):
            return None
        except Exception:
            _log.exception("frames_not_made", bucket=self._bucket_id)
            return None
        data = frames[0] if len(frames) == 1 else b"".join(frames)
        if len(data) > CHUNK:
            return None
        last = events[-1]
        sent = sum(map(bool, frames))
        return _Chunk(data, last.seq, last.epoch, sent, max(len(event.body) for event in events))

    def _forsake(self, place: Place) -> None:
        """In an `except`: a send failed, as for lack of memory, and it is not known what was sent. The client has to
        reconnect with its position."""
        place.subscriber.outlet.unavailable("the relay failed: reconnect later, and tell its operator")
        try_log(_log.exception, "send_failed", bucket=place.bucket_id)


def _send(place: Place, data: bytes) -> bool:
    """See `Outlet.send_now`. If it raises, it is not known what was sent."""
    socket = place.lane.socket
    if socket is None:
        return place.subscriber.outlet.send_now(data)
    try:
        sent = socket.send(data)
    except OSError:
        # The buffer is full, or the socket is closed.
        return False
    if sent < len(data):
        place.subscriber.outlet.send_rest(memoryview(data)[sent:])
    return True
