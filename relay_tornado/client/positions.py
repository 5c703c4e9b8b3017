"""A subscriber's progress in each bucket: the events received, and those that its application is done with.

There are three ways to track it, with one interface (`Tracker`): `Positions` for a subscriber that resumes by itself,
`Recent` if repeats are known only by their ids (the stock protocol, consumers by receipt), and `Untracked` if
redeliveries are intended. No I/O here: the text of a checkpoint goes in and comes out.
"""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from relay_tornado.client.errors import CheckpointError
from relay_tornado.client.event import EventData
from relay_tornado.client.messages import Document, Position, parse_position
from relay_tornado.client.trail import Known, Stretch, Trail

REMEMBERED: Final = 4_096
"""The number of ids by which `Recent` recognises repeats."""
SURE: Final = 10.0
"""Seconds before the last byte of a connection for which it is uncertain whether the relay heard that an event was
received or acknowledged."""
EXACT: Final = 2.0
"""Uncertainty of a server's time in seconds: it is told in whole seconds."""
KEPT: Final = 1_000
"""Maximum number of ids in the text of `Recent`: of events that came within `SURE` before the last one."""
STRETCHES: Final = 10_000
"""Maximum number of done stretches per bucket in the text of `Positions`."""

ABSENT: Final = 1_000
"""The number of absent buckets whose positions `Positions` keeps, since they may come back."""


@dataclass(frozen=True, slots=True)
class Passed:
    """The position of a bucket moved to `id`, without an event for the application."""

    bucket_id: str
    id: str


@dataclass(frozen=True, slots=True, eq=False)
class Left:
    """The bucket was deleted, or left the token's scope. It may come back."""

    bucket_id: str


class Tracker:
    """Tracks a subscriber. The methods of this base class do nothing unless a way of tracking needs them."""

    def dialled(self, now: float) -> None:
        """A connection was made; `now` is the server's time then, in unix seconds."""

    def since(self) -> Any:
        """The `since` to subscribe with, None for none."""

    def began(self, now: float) -> None:
        """The subscribe was answered; `now` as in `dialled`."""

    def subscribed(self, entry: Document) -> Passed | None:
        """One bucket's entry in the answer to the subscribe."""
        return None

    def listed(self, bucket_ids: Container[str]) -> None:
        """The answer had entries for exactly these buckets."""

    def received(self, event: EventData) -> bool | Passed:
        """Whether the application gets the event; `Passed` if an earlier run was done with it."""
        raise NotImplementedError

    def passed(self, bucket_id: str, id: str) -> Passed | None:
        """The server reported `id` as this bucket's position."""
        return None

    def caught_up(self, bucket_id: str) -> None:
        """The server has sent all stored events of this bucket."""

    def left(self, left: Left) -> None:
        """The server reported that the bucket is gone."""

    def deleted(self, left: Left) -> None:
        """The application got everything from before the bucket was gone."""

    def cut(self, silence: float = 0.0) -> None:
        """The connection ended after `silence` seconds without data."""

    def given(self, event: EventData) -> None:
        """The application gets the event now."""

    def reached(self, passed: Passed) -> None:
        """The application got everything before this position."""

    def done(self, event: EventData) -> bool:
        """The application is done with the event; returns whether `text` changed."""
        raise NotImplementedError

    def text(self) -> str:
        """The text for a checkpoint."""
        raise NotImplementedError

    def load(self, text: str) -> None:
        """Continues from a saved `text`. Raises CheckpointError."""


@dataclass(slots=True)
class _Bucket:
    name: str
    received: str
    trail: Trail
    """The events that the application was given, and which of them are done."""
    ahead: Known = field(default_factory=Known)
    """Events after those that an earlier run was done with; they are not given again."""
    gone: Left | None = None
    """Set if the bucket is gone; events received before that may not have been given yet."""


class Positions(Tracker):
    """Tracks a subscriber that resumes from its own positions, such as those of a checkpoint."""

    def __init__(self, since: Any, clock: Callable[[], float] = time.monotonic) -> None:
        """`since` is the position requested by the application, as on the wire; None for the default."""
        self._asked = since
        self._clock = clock
        self._buckets: dict[str, _Bucket] = {}
        self._begun: float | None = None
        self._offset: float | None = None
        """The smallest lead of the server's clock over this one, in seconds."""
        self._first = True
        """Whether this run has not subscribed yet."""

    def dialled(self, now: float) -> None:
        offset = now - self._clock()
        back = 0.0 if self._offset is None else self._offset - offset
        if self._offset is None or back > EXACT:
            self._offset = offset
        if self._begun is not None and back > EXACT:
            # The server's clock was set back, so later events may have times before `_begun`.
            self._begun -= back
        if self._begun is not None and self._begun > now + EXACT:
            self._begun = 0.0  # the clock was set back between two runs, by an unknown amount

    def since(self) -> Any:
        if self._begun is None:
            return self._asked
        asked: Document = dict(self._asked) if _is_map(self._asked) else {}
        rest = asked.pop("*", None) if _is_map(self._asked) else self._asked
        # Buckets that existed at the first subscribe have positions. A newer bucket is read from its first event, and
        # one that became visible later from the time at which this subscriber began.
        begun = {"time": self._begun}
        positions: Document = {
            # An id is where a new run begins; in later subscribes, the name may be another bucket's.
            key: at if _stands(at) or (self._first and isinstance(at, str) and at != "latest") else begun
            for key, at in asked.items()
        }
        positions |= {bucket_id: bucket.received for bucket_id, bucket in self._buckets.items()}
        positions["*"] = rest if _stands(rest) else begun
        return positions

    def began(self, now: float) -> None:
        self._first = False
        if self._begun is None:
            self._begun = now

    def subscribed(self, entry: Document) -> Passed | None:
        bucket_id, name = str(entry.get("bucket_id")), str(entry.get("bucket_name"))
        bucket = self._buckets.get(bucket_id)
        if bucket is not None:
            bucket.name, bucket.gone = name, None
            if entry.get("gap") is None:
                return None
        at = f"{entry.get('epoch')}-{int(entry.get('start', 1)) - 1}"
        asked = self._position(bucket_id, name)
        position = parse_position(asked) if isinstance(asked, str) else None
        if position is not None and position.output != float("inf") and entry.get("start") == position.seq:
            at = str(asked)  # delivery begins within that event, after one of its copies
        if bucket is None:
            self._buckets[bucket_id] = _Bucket(name, at, Trail(at))
        else:
            bucket.received = at
        return Passed(bucket_id, at)

    def listed(self, bucket_ids: Container[str]) -> None:
        # These were deleted while nobody listened: nothing else reports that, and a relay accepts only so many
        # positions.
        absent = [bucket_id for bucket_id in self._buckets if bucket_id not in bucket_ids]
        for bucket_id in absent[:-ABSENT]:
            del self._buckets[bucket_id]

    def received(self, event: EventData) -> bool | Passed:
        bucket = self._buckets.get(event.bucket_id)
        if bucket is None:
            # The bucket was added later, so it begins at its first event.
            before = f"{event.epoch}-{max(event.seq - 1, 0)}"
            bucket = self._buckets[event.bucket_id] = _Bucket(event.bucket, before, Trail(before))
        elif not _follows(parse_position(event.id), parse_position(bucket.received), otherwise=True):
            bucket.gone = None
            return False
        bucket.gone = None
        bucket.name = event.bucket
        bucket.received = event.id
        if event.id in bucket.ahead:
            return Passed(event.bucket_id, event.id)
        return True

    def passed(self, bucket_id: str, id: str) -> Passed | None:
        bucket = self._buckets.get(bucket_id)
        # If the bucket left and came back, the relay begins at the position requested before.
        if bucket is None or _follows(parse_position(bucket.received), parse_position(id), otherwise=False):
            return None
        bucket.received = id
        return Passed(bucket_id, id)

    def left(self, left: Left) -> None:
        bucket = self._buckets.get(left.bucket_id)
        if bucket is not None:
            bucket.gone = left

    def deleted(self, left: Left) -> None:
        bucket = self._buckets.get(left.bucket_id)
        if bucket is not None and bucket.gone is left:
            del self._buckets[left.bucket_id]

    def given(self, event: EventData) -> None:
        bucket = self._buckets.get(event.bucket_id)
        if bucket is not None:
            bucket.trail.given(event.id)
            bucket.ahead.pass_by(event.id)

    def reached(self, passed: Passed) -> None:
        bucket = self._buckets.get(passed.bucket_id)
        if bucket is not None:
            bucket.trail.passed(passed.id, event=passed.id in bucket.ahead)
            bucket.ahead.pass_by(passed.id)

    def done(self, event: EventData) -> bool:
        bucket = self._buckets.get(event.bucket_id)
        return bucket is not None and bucket.trail.done(event.id)

    def text(self) -> str:
        buckets = {}
        for bucket_id, bucket in self._buckets.items():
            stretches = (bucket.trail.beyond() + bucket.ahead.stretches())[:STRETCHES]
            done = [first if first == last else [first, last] for first, last in stretches]
            buckets[bucket_id] = {"name": bucket.name, "id": bucket.trail.settled} | ({"done": done} if done else {})
        return json.dumps({"version": 1, "begun": self._begun, "buckets": buckets}, indent=1) + "\n"

    def load(self, text: str) -> None:
        document = _read(text, "buckets")
        try:
            self._begun = float(document["begun"])
            for bucket_id, each in document["buckets"].items():
                name, at = str(each["name"]), str(each["id"])
                ahead = Known(_stretch(done) for done in each.get("done", ()))
                self._buckets[bucket_id] = _Bucket(name, at, Trail(at), ahead)
        except (AttributeError, KeyError, TypeError, ValueError):
            raise CheckpointError(_DAMAGED) from None

    def _position(self, bucket_id: str, name: str) -> Any:
        if not _is_map(self._asked):
            return self._asked
        return next((self._asked[key] for key in (bucket_id, name, "*") if key in self._asked), None)


def drop_oldest(kept: dict[str, Any], most: int) -> None:
    """Keeps at most `most` entries, the newest ones."""
    while len(kept) > most:
        del kept[next(iter(kept))]


_NEVER: Final = ("", -math.inf)


class Recent(Tracker):
    """Tracks by ids only. It leaves out events of the last seconds of the previous connection, and of an earlier run if
    that was done with them.

    Redeliveries on one connection are intended, and so is every repeat after a bucket was caught up with.
    """

    def __init__(self, since: Any = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._since = since
        self._clock = clock
        self._before: dict[str, str] = {}
        """Events that the relay may repeat unintentionally: ids with their buckets."""
        self._known: dict[str, str] = {}
        """Events whose receipt the relay knows of: if it repeats one, its consumer was moved back, and later repeats
        are intended."""
        self._seen: dict[str, tuple[str, float]] = {}
        """The newest events of this connection: ids with their buckets, and when they arrived."""
        self._dropped = _NEVER
        """The bucket and the arrival of the last one that was dropped from them."""
        self._begun = math.inf
        self._done: deque[str] = deque(maxlen=KEPT)

    def since(self) -> Any:
        return self._since

    def began(self, now: float) -> None:
        self._begun = self._clock()

    def received(self, event: EventData) -> bool | Passed:
        if event.id in self._known:
            self._known = {each: bucket for each, bucket in self._known.items() if bucket != event.bucket_id}
            self.caught_up(event.bucket_id)
        repeated = self._before.pop(event.id, None) is not None
        self._seen.pop(event.id, None)
        self._seen[event.id] = (event.bucket_id, self._clock())
        if len(self._seen) > REMEMBERED:
            self._dropped = self._seen.pop(next(iter(self._seen)))
        return not repeated

    def caught_up(self, bucket_id: str) -> None:
        self._before = {each: bucket for each, bucket in self._before.items() if bucket != bucket_id}

    def cut(self, silence: float = 0.0) -> None:
        sure = self._clock() - silence - SURE
        if self._begun < sure:
            self._before = {}  # otherwise the relay may still repeat those of earlier connections
        for each, (bucket, at) in self._seen.items():
            (self._before if at > sure else self._known)[each] = bucket
        for kept in (self._before, self._known):
            drop_oldest(kept, REMEMBERED)
        self._seen, self._dropped, self._begun = {}, _NEVER, math.inf

    def done(self, event: EventData) -> bool:
        if event.id in self._done:
            return False
        self._done.append(event.id)
        return True

    def text(self) -> str:
        # What a cut right after the last event would leave uncertain. When the connection will end is not known.
        _, newest = next(reversed(self._seen.values()), _NEVER)
        sure = newest - SURE
        before = () if self._begun < sure else self._before
        recent = [each for each in self._done if each in before or self._seen.get(each, self._dropped)[1] > sure]
        return json.dumps({"version": 1, "recent": recent}) + "\n"

    def load(self, text: str) -> None:
        recent = _read(text, "recent")["recent"]
        if not isinstance(recent, list):
            raise CheckpointError(_DAMAGED)
        self._done.extend(map(str, recent))
        self._before = dict.fromkeys(self._done, "")


class Untracked(Recent):
    """For a consumer with explicit acks: a redelivery was not acknowledged, and is intended."""

    def received(self, event: EventData) -> bool | Passed:
        return True


_DAMAGED: Final = "the checkpoint is not what a subscriber of this kind wrote: name another, or delete it to begin anew"


def _read(text: str, part: str) -> Document:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise CheckpointError(_DAMAGED) from None
    if not isinstance(document, dict) or document.get("version") != 1 or part not in document:
        raise CheckpointError(_DAMAGED)
    return document


def _stretch(done: Any) -> Stretch:
    """A stretch in the form of a checkpoint: an id, or the first and the last one. Raises ValueError."""
    if isinstance(done, list):
        first, last = done
        return str(first), str(last)
    return str(done), str(done)


def _is_map(since: Any) -> bool:
    """Whether `since` maps buckets to positions, by the protocol's rule."""
    if not isinstance(since, Mapping):
        return False
    if len(since) == 1:
        [(key, value)] = since.items()
        return not (key in ("last", "time") and isinstance(value, int | float))
    return True


def _stands(asked: Any) -> bool:
    """Whether this `since` always means the same place, also in a bucket that was created meanwhile."""
    return asked == "earliest" or (isinstance(asked, Mapping) and "time" in asked)


def _follows(event: Position | None, at: Position | None, *, otherwise: bool) -> bool:
    """Whether the event comes after this place; `otherwise` if their epochs differ, so that only the relay knows."""
    if event is None or at is None or event.epoch != at.epoch:
        return otherwise
    return event.order > at.order
