"""Stored events for those who read them: by id, in a token's scope, with or without their content."""

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
"""Maximum number of events that one request examines."""

_WHOLE: Final = 1 << 62

_SLICE: Final = 0.003
"""Seconds after which other work gets a turn."""


@dataclass(frozen=True, slots=True)
class Located:
    """An event's id resolved to its bucket as it is now; `copy` is the number of the output whose copy is meant."""

    bucket: Bucket
    bounds: Bounds
    seq: int
    copy: int | None


@dataclass(frozen=True, slots=True)
class Found:
    """An event. If `stub`, its content is not stored or is gone, and its parts are empty."""

    event: Event
    stub: bool
    ephemeral: bool

    @property
    def damaged(self) -> bool:
        """Whether its content should be stored, and can't be read; or it was removed a moment ago."""
        return self.stub and not self.ephemeral


class Key(NamedTuple):
    """An event's place in a list over several buckets: by time, newest first, then by bucket, then by seq, newest
    first."""

    at: float
    bucket_id: str
    seq: int


class Stored:
    """Shared by the services of this package. A bucket outside the token's scope counts as missing."""

    def __init__(self, log: EventLog, results: Results, registry: Registry) -> None:
        self.log = log
        self.results = results
        self._registry = registry

    def buckets(self, token: Token, reference: str = "") -> list[Bucket]:
        """The bucket with this id or name, or for "" every bucket in the token's scope, oldest first. Raises
        NotFound."""
        if reference:
            return [self.bucket(token, reference)]
        return [bucket for bucket in self._registry.list("bucket") if token.reads(bucket.id)]

    def bucket(self, token: Token, reference: str) -> Bucket:
        """The bucket with this id or name. Raises NotFound."""
        found = self._registry.find_bucket(reference)
        if found is None or not token.reads(found.id):
            raise NotFound(f"there is no bucket {reference[:100]!r}: GET /v1/buckets lists those that you have")
        return found

    async def locate(self, token: Token, log_id: str) -> Located:
        """The event with this id, whose seq must be in its epoch's range. Raises NotFound."""
        try:
            cursor = parse_id(log_id)
        except Invalid:
            raise NotFound(f"there is no log {log_id[:100]!r}: a whole id is like k3v9x1q7m2ab-42") from None
        missing = NotFound(f"there is no log {log_id[:100]!r}: it was removed, or never existed")
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
            raise Invalid("is of none of these buckets: begin without a cursor", "cursor")
        honoured(await self.log.bounds(bucket.id), cursor)
        outlines = await self.log.outline(bucket.id, parsed.seq, parsed.seq)
        if outlines:
            return Key(outlines[0].received_at, bucket.id, parsed.seq)
        if len(buckets) == 1:
            return Key(math.inf, bucket.id, parsed.seq)
        raise Invalid("its event was removed meanwhile: begin without a cursor", "cursor")

    async def behind(self, key: Key, bucket_id: BucketId) -> int:
        """The newest seq of a bucket after a place in the list. Raises BucketGone."""
        if bucket_id == key.bucket_id:
            return key.seq - 1
        return await self.log.seek(bucket_id, math.nextafter(key.at, math.inf) if bucket_id > key.bucket_id else key.at)

    async def span(
        self, bucket_id: BucketId, first: int, last: int, since: float | None, until: float | None
    ) -> tuple[int, int]:
        """The first and the last of the seqs `first` to `last` that were received at `since` (unix seconds) or later,
        and before `until`; None does not restrict. Raises BucketGone."""
        if since is not None:
            first = max(first, await self.log.seek(bucket_id, since) + 1)
        if until is not None:
            last = min(last, await self.log.seek(bucket_id, until))
        return first, last

    async def latest(self, keys: Sequence[Key], copy: int | None) -> dict[Key, Latest]:
        """As `Results.latest`, for events of several buckets."""
        seqs: dict[BucketId, list[int]] = {}
        for key in keys:
            seqs.setdefault(key.bucket_id, []).append(key.seq)
        found = {bucket_id: await self.results.latest(bucket_id, some, copy) for bucket_id, some in seqs.items()}
        return {key: found[key.bucket_id][key.seq] for key in keys if key.seq in found[key.bucket_id]}

    def has_copy(self, bucket: Bucket, copy: int, found: Found) -> bool:
        """Whether an event has a copy for this output, with the current outputs and rules."""
        output = bucket.output(copy)
        if output is None:
            return False
        goes = Goes(bucket, output)
        return goes.perhaps if found.stub else goes.there(found.event)

    async def one(self, located: Located) -> Found:
        """The event that was located. Raises NotFound if it was removed meanwhile, or is damaged altogether."""
        outlines = await self.log.outline(located.bucket.id, located.seq, located.seq)
        if not outlines:
            raise NotFound(
                f"there is no event {located.seq} in the bucket {located.bucket.name!r}: it was removed, or is damaged"
            )
        return await self.find(located.bucket, located.bounds, outlines[0])


class Judging:
    """Evaluates events, for example by rules, which may take 0.1 s for one, and lets other work run between two.
    `seconds` is the time spent so far."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._since = time.perf_counter()

    async def fits(self, event: Event, judge: Callable[[Event], bool]) -> bool:
        """Whether `judge` accepts the event."""
        began = time.perf_counter()
        fits = judge(event)
        now = time.perf_counter()
        pause = rest(now - began)
        if pause or now - self._since > _SLICE:
            await asyncio.sleep(pause)
            self._since = now = time.perf_counter()
        self.seconds += now - began
        return fits


def page_size(asked: int, default: int, most: int) -> int:
    """How many entries a page has at most; `asked` is the request's `limit`, 0 for the default."""
    return min(asked, most) if asked > 0 else default


def without_content(bounds: Bounds, outline: Outline) -> Found:
    """An event of which only the outline exists."""
    epoch = epoch_at(bounds.epochs, outline.seq)
    event = Event(outline.seq, epoch, outline.received_at, outline.input_id, outline.method, b"", b"", b"", b"", "")
    return Found(event, True, outline.stub)


def cursor_of(text: str, field: str = "cursor") -> Cursor:
    """The position that a cursor names; `field` is that of the request. Raises Invalid."""
    try:
        return parse_id(text)
    except Invalid as error:
        raise error.within(field) from None


def honoured(bounds: Bounds, text: str, field: str = "cursor") -> Cursor:
    """The position in this log that a cursor names (`field` is that of the request), even if retention has removed
    events after it. Raises Invalid if the cursor refers to events that this log does not have: there is no right place
    to continue."""
    cursor = cursor_of(text, field)
    gap = place_cursor(bounds, cursor).gap
    if gap is not None and gap.reason != "retention":
        instead = "begin without a cursor" if field == "cursor" else "name another event, or `earliest` or `latest`"
        raise Invalid(
            f"{text[:80]} names no event of this bucket, which ends at {position_id(bounds, bounds.head)}: "
            f"it is of another one, or what it names was lost; {instead}",
            field,
        )
    return cursor


def document_of(bucket: Bucket, found: Found, copy: int | None, latest: Latest | None) -> Document:
    """The Log of an event, or of its copy."""
    output = copy if latest is None else latest.output
    result = None if latest is None else latest.result
    return log_document(bucket, found.event, copy, output, result, ephemeral=found.ephemeral, damaged=found.damaged)
