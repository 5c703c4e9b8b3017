"""Events as whoever looks at them finds them: by id, in a token's scope, with or without their content."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from relay_tornado.copies import Goes
from relay_tornado.errors import BucketGone, CursorLost, Invalid, NotFound
from relay_tornado.ids import parse_id
from relay_tornado.log.contract import EventLog, Outline
from relay_tornado.log.lineage import epoch_at, holds, place_cursor, position_id
from relay_tornado.log.results import Latest, Results
from relay_tornado.model import Bounds, Bucket, BucketId, Cursor, Event, Token
from relay_tornado.registry.contract import Registry
from relay_tornado.rules import rest
from relay_tornado.wire.fields import Document
from relay_tornado.wire.logs import log_document

MOST_SCANNED: Final = 10_000
"""Events that one request looks at, at most."""

_WHOLE: Final = 1 << 62

_SLICE: Final = 0.003
"""Seconds after which others have their turn."""


@dataclass(frozen=True, slots=True)
class Located:
    """An event by its id, in its bucket as it is now; `copy` is the number of the output whose copy is meant."""

    bucket: Bucket
    bounds: Bounds
    seq: int
    copy: int | None


@dataclass(frozen=True, slots=True)
class Found:
    """An event. Where `stub`, its content is not there (any more), and its parts are empty."""

    event: Event
    stub: bool
    ephemeral: bool


class Key(NamedTuple):
    """An event's place in the order of a list over several buckets: by time, newest first, then by bucket, then by seq,
    newest first."""

    at: float
    bucket_id: str
    seq: int


class Stored:
    """What the services of this package share. A bucket out of the token's scope is as one that is not there."""

    def __init__(self, log: EventLog, results: Results, registry: Registry) -> None:
        self.log = log
        self.results = results
        self._registry = registry

    def buckets(self, token: Token) -> list[Bucket]:
        """Every bucket in the token's scope, oldest first."""
        return [bucket for bucket in self._registry.list("bucket") if token.reads(bucket.id)]

    def bucket(self, token: Token, reference: str) -> Bucket:
        """The bucket with this id or name. Raises NotFound."""
        found = self._registry.find_bucket(reference)
        if found is None or not token.reads(found.id):
            raise NotFound(f"there is no bucket {reference[:100]!r}: GET /v1/buckets lists those that you have")
        return found

    async def locate(self, token: Token, log_id: str) -> Located:
        """The event with this id, which has to lie in its own epoch's stretch. Raises NotFound."""
        try:
            cursor = parse_id(log_id)
        except Invalid:
            raise NotFound(f"there is no log {log_id[:100]!r}: a whole id is like k3v9x1q7m2ab-42") from None
        missing = NotFound(f"there is no log {log_id[:100]!r}: it has left, or never was")
        bucket_id = await self.log.find(cursor.epoch)
        bucket = None if bucket_id is None else self._registry.get("bucket", bucket_id)
        if bucket is None or not token.reads(bucket.id):
            raise missing
        try:
            bounds = await self.log.bounds(bucket.id)
        except BucketGone:
            raise missing from None
        if not holds(bounds, cursor):
            raise missing
        return Located(bucket, bounds, cursor.seq, cursor.output)

    async def find(self, bucket: Bucket, bounds: Bounds, outline: Outline) -> Found:
        """The event of an outline. Raises BucketGone and Unavailable."""
        try:
            events = await self.log.read(bucket.id, outline.seq - 1, 1, _WHOLE)
        except CursorLost:
            events = ()
        if events:
            return Found(events[0], False, outline.stub)
        return without_content(bounds, outline)

    async def key(self, buckets: Sequence[Bucket], cursor: str) -> Key:
        """The place of a cursor's event in a list over these buckets. Raises Invalid, and BucketGone."""
        parsed = cursor_of(cursor)
        bucket_id = await self.log.find(parsed.epoch)
        bucket = next((each for each in buckets if each.id == bucket_id), None)
        if bucket is None:
            raise Invalid("is of none of these buckets: begin without one", "cursor")
        honoured(await self.log.bounds(bucket.id), cursor)
        outlines = await self.log.outline(bucket.id, parsed.seq, parsed.seq)
        if outlines:
            return Key(outlines[0].received_at, bucket.id, parsed.seq)
        if len(buckets) == 1:
            return Key(math.inf, bucket.id, parsed.seq)
        raise Invalid("its event has left meanwhile: begin without one", "cursor")

    async def behind(self, key: Key, bucket_id: BucketId) -> int:
        """The newest seq of a bucket that comes behind a place. Raises BucketGone."""
        if bucket_id == key.bucket_id:
            return key.seq - 1
        return await self.log.seek(bucket_id, math.nextafter(key.at, math.inf) if bucket_id > key.bucket_id else key.at)

    def has_copy(self, bucket: Bucket, copy: int, found: Found) -> bool:
        """Whether an event has a copy for this output, as outputs and rules are now."""
        output = bucket.output(copy)
        if output is None:
            return False
        goes = Goes(bucket, output)
        return goes.perhaps if found.stub else goes.there(found.event)

    async def one(self, located: Located) -> Found:
        """The event that was located. Raises NotFound where it left meanwhile, or is damaged altogether."""
        outlines = await self.log.outline(located.bucket.id, located.seq, located.seq)
        if not outlines:
            raise NotFound(
                f"there is no event {located.seq} in the bucket {located.bucket.name!r}: it has left, or is damaged"
            )
        return await self.find(located.bucket, located.bounds, outlines[0])


class Judging:
    """Has events judged, by rules perhaps, which may take a tenth of a second for one: others have their turn between
    two. `seconds` is how long it took so far."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._since = time.perf_counter()

    async def fits(self, event: Event, judge: Callable[[Event], bool]) -> bool:
        """Whether the event is what the judge wants."""
        began = time.perf_counter()
        fits = judge(event)
        now = time.perf_counter()
        pause = rest(now - began)
        if pause or now - self._since > _SLICE:
            await asyncio.sleep(pause)
            self._since = now = time.perf_counter()
        self.seconds += now - began
        return fits


def without_content(bounds: Bounds, outline: Outline) -> Found:
    """An event of which no more than its outline is there."""
    epoch = epoch_at(bounds.epochs, outline.seq)
    event = Event(outline.seq, epoch, outline.received_at, outline.input_id, outline.method, b"", b"", b"", b"", "")
    return Found(event, True, outline.stub)


def cursor_of(text: str, field: str = "cursor") -> Cursor:
    """The position that a cursor (`field` of a request) names. Raises Invalid."""
    try:
        return parse_id(text)
    except Invalid as error:
        raise error.within(field) from None


def honoured(bounds: Bounds, text: str, field: str = "cursor") -> Cursor:
    """The position in this log that a cursor (`field` of a request) names, whatever has left behind it by its age.
    Raises Invalid where it vouches for events that this log does not have: there is no right place to go on."""
    cursor = cursor_of(text, field)
    gap = place_cursor(bounds, cursor).gap
    if gap is not None and gap.reason != "retention":
        raise Invalid(
            f"{text[:80]} names no event of this bucket, which ends at {position_id(bounds, bounds.head)}: "
            "it is of another one, or what it names was lost; begin without a cursor",
            field,
        )
    return cursor


def document_of(bucket: Bucket, found: Found, copy: int | None, latest: Latest | None) -> Document:
    """The Log of an event, or of its copy."""
    output = copy if latest is None else latest.output
    result = None if latest is None else latest.result
    return log_document(bucket, found.event, copy, output, result, ephemeral=found.ephemeral)
