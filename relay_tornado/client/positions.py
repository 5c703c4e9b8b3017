"""How far a subscriber is in each bucket: what it received, and up to where its application is done.

Three ways to keep track, one interface (`Tracker`): `Positions` for a subscriber that resumes by itself, `Recent` where
only ids tell a repeat (the stock protocol, consumers by receipt), `Untracked` where what comes again is meant.
No I/O here: a checkpoint's text goes in and comes out.
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
from relay_tornado.client.messages import Document, Place, parse_place
from relay_tornado.client.trail import Known, Stretch, Trail

REMEMBERED: Final = 4_096
"""Ids by which `Recent` knows a repeat."""
SURE: Final = 10.0
"""Seconds before the last byte of a connection in which the relay may not have heard any more that an event was
received, or acknowledged."""
EXACT: Final = 2.0
"""Seconds by which a server's time is uncertain: it is told in whole seconds."""
KEPT: Final = 1_000
"""Ids that the text of `Recent` holds at most."""
STRETCHES: Final = 10_000
"""Stretches of what is done that the text of `Positions` holds at most, for each bucket."""

ABSENT: Final = 1_000
"""Buckets that are not there (any more), and whose positions `Positions` keeps: they may come back."""


@dataclass(frozen=True, slots=True)
class Passed:
    """The position of a bucket moved to `id`, with no event for the application there."""

    bucket_id: str
    id: str


@dataclass(frozen=True, slots=True, eq=False)
class Left:
    """The bucket was deleted, or left the token's scope. It may come back."""

    bucket_id: str


class Tracker:
    """Goes along with a subscriber. What a way of keeping track has nothing to keep of, it passes over."""

    def dialled(self, now: float) -> None:
        """There is a connection; `now` is the server's time when it was made, in unix seconds."""

    def since(self) -> Any:
        """The `since` to subscribe with, None for none."""

    def began(self, now: float) -> None:
        """The subscribe is answered; `now` as above."""

    def subscribed(self, entry: Document) -> Passed | None:
        """One bucket's entry of that answer."""
        return None

    def listed(self, bucket_ids: Container[str]) -> None:
        """That answer had entries of these buckets, and of no other one."""

    def received(self, event: EventData) -> bool | Passed:
        """Whether the application gets it; `Passed` where it is known to be done with it."""
        raise NotImplementedError

    def passed(self, bucket_id: str, id: str) -> Passed | None:
        """The server says that this bucket's position is `id`."""
        return None

    def caught_up(self, bucket_id: str) -> None:
        """The server has sent everything of this bucket that was there."""

    def left(self, left: Left) -> None:
        """The server says so."""

    def deleted(self, left: Left) -> None:
        """The application got everything before that."""

    def cut(self, silence: float = 0.0) -> None:
        """The connection ended, after nothing had come for so many seconds."""

    def given(self, event: EventData) -> None:
        """The application gets the event now."""

    def reached(self, passed: Passed) -> None:
        """The application got everything before this position."""

    def done(self, event: EventData) -> bool:
        """The application is done with it; whether `text` changed."""
        raise NotImplementedError

    def text(self) -> str:
        """What a checkpoint keeps."""
        raise NotImplementedError

    def load(self, text: str) -> None:
        """Goes on from what `text` gave. Raises CheckpointError."""


@dataclass(slots=True)
class _Bucket:
    name: str
    received: str
    trail: Trail
    """What the application was given, and up to where it is done."""
    ahead: Known = field(default_factory=Known)
    """What an earlier run was done with beyond that; it is not given again."""
    gone: Left | None = None
    """It is not there any more; what was received before that may not be given yet."""


class Positions(Tracker):
    """For a subscriber that resumes from positions of its own, the checkpoint's among them."""

    def __init__(self, since: Any, clock: Callable[[], float] = time.monotonic) -> None:
        """`since` is the position that the application asked for, as on the wire; None for the default."""
        self._asked = since
        self._clock = clock
        self._buckets: dict[str, _Bucket] = {}
        self._begun: float | None = None
        self._offset: float | None = None
        """The least by which the server's clock was ahead of ours."""
        self._first = True
        """Whether this run has not subscribed yet."""

    def dialled(self, now: float) -> None:
        offset = now - self._clock()
        back = 0.0 if self._offset is None else self._offset - offset
        if self._offset is None or back > EXACT:
            self._offset = offset
        if self._begun is not None and back > EXACT:
            # What came since it was set back bears times from before this began.
            self._begun -= back
        if self._begun is not None and self._begun > now + EXACT:
            self._begun = 0.0  # so it was between two runs, and nobody knows by how much

    def since(self) -> Any:
        if self._begun is None:
            return self._asked
        asked: Document = dict(self._asked) if _is_map(self._asked) else {}
        rest = asked.pop("*", None) if _is_map(self._asked) else self._asked
        # Whatever was there at the first subscribe has its position. A bucket that came since must be met from its
        # first event, and one that came into reach from the moment that this began.
        begun = {"time": self._begun}
        positions: Document = {
            # An id that a new run names is where it wants to begin; later its bucket may be another.
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
        place = parse_place(asked) if isinstance(asked, str) else None
        if place is not None and place.output != float("inf") and entry.get("start") == place.seq:
            at = str(asked)  # delivery begins within that event, behind one of its copies
        if bucket is None:
            self._buckets[bucket_id] = _Bucket(name, at, Trail(at))
        else:
            bucket.received = at
        return Passed(bucket_id, at)

    def listed(self, bucket_ids: Container[str]) -> None:
        # Those that were deleted while nobody listened: nothing else says so, and a relay takes only so many positions.
        absent = [bucket_id for bucket_id in self._buckets if bucket_id not in bucket_ids]
        for bucket_id in absent[:-ABSENT]:
            del self._buckets[bucket_id]

    def received(self, event: EventData) -> bool | Passed:
        bucket = self._buckets.get(event.bucket_id)
        if bucket is None:
            # It joined later, and so from its first event.
            before = f"{event.epoch}-{max(event.seq - 1, 0)}"
            bucket = self._buckets[event.bucket_id] = _Bucket(event.bucket, before, Trail(before))
        elif not _follows(parse_place(event.id), parse_place(bucket.received), otherwise=True):
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
        # Where it left and came back the relay begins where it was asked to before.
        if bucket is None or _follows(parse_place(bucket.received), parse_place(id), otherwise=False):
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
    """Leaves at most so many, those that came last."""
    while len(kept) > most:
        del kept[next(iter(kept))]


class Recent(Tracker):
    """Where only ids tell a repeat: what the connection before brought in its last seconds, or an earlier run was done
    with, is left out.

    What one connection brings twice is meant, and so is what comes again once a bucket was caught up with.
    """

    def __init__(self, since: Any = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._since = since
        self._clock = clock
        self._before: dict[str, str] = {}
        """What the relay may send again without meaning it: ids with their buckets."""
        self._known: dict[str, str] = {}
        """What it has heard of: where it sends that again, its consumer was moved back, and the rest is meant, too."""
        self._seen: dict[str, tuple[str, float]] = {}
        """What this connection brought, and when."""
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
        drop_oldest(self._seen, REMEMBERED)
        return not repeated

    def caught_up(self, bucket_id: str) -> None:
        self._before = {each: bucket for each, bucket in self._before.items() if bucket != bucket_id}

    def cut(self, silence: float = 0.0) -> None:
        sure = self._clock() - silence - SURE
        if self._begun < sure:
            self._before = {}  # else what the connections before this one left is as open as it was
        for each, (bucket, at) in self._seen.items():
            (self._before if at > sure else self._known)[each] = bucket
        for kept in (self._before, self._known):
            drop_oldest(kept, REMEMBERED)
        self._seen, self._begun = {}, math.inf

    def done(self, event: EventData) -> bool:
        if event.id in self._done:
            return False
        self._done.append(event.id)
        return True

    def text(self) -> str:
        return json.dumps({"version": 1, "recent": list(self._done)}) + "\n"

    def load(self, text: str) -> None:
        recent = _read(text, "recent")["recent"]
        if not isinstance(recent, list):
            raise CheckpointError(_DAMAGED)
        self._done.extend(map(str, recent))
        self._before = dict.fromkeys(self._done, "")


class Untracked(Recent):
    """For a consumer of explicit acks: what comes again was not acknowledged, and is meant."""

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
    """As it stands in a checkpoint: an id, or the first and the last one. Raises ValueError."""
    if isinstance(done, list):
        first, last = done
        return str(first), str(last)
    return str(done), str(done)


def _is_map(since: Any) -> bool:
    """Whether `since` is from bucket to position, as the protocol tells it from a position."""
    if not isinstance(since, Mapping):
        return False
    if len(since) == 1:
        [(key, value)] = since.items()
        return not (key in ("last", "time") and isinstance(value, int | float))
    return True


def _stands(asked: Any) -> bool:
    """Whether this `since` is the same place whenever it is said, also in a bucket that was made meanwhile."""
    return asked == "earliest" or (isinstance(asked, Mapping) and "time" in asked)


def _follows(event: Place | None, at: Place | None, *, otherwise: bool) -> bool:
    """Whether the event comes after this place; `otherwise` where their epochs differ, and only the relay knows."""
    if event is None or at is None or event.epoch != at.epoch:
        return otherwise
    return event.order > at.order
