"""The list of logs: newest first over any number of buckets, in pages that stay consistent while events arrive.

The order is by time, newest first, then by bucket, then by seq, newest first. So a new event comes before everything
that a page has shown.
"""

from __future__ import annotations

import heapq
import time
from collections import OrderedDict, deque
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from relay_tornado.admin.lookup import output_of
from relay_tornado.admin.stored import MOST_SCANNED, Found, Judging, Key, Stored, document_of, page_size
from relay_tornado.copies import Goes
from relay_tornado.errors import BucketGone, CursorLost, Invalid, NotFound, Unavailable
from relay_tornado.log.contract import EventLog, Outline
from relay_tornado.log.lineage import position_id
from relay_tornado.log.results import Results
from relay_tornado.model import MIB, Bounds, Bucket, Output, Token
from relay_tornado.pieces import Pieces
from relay_tornado.wire.fields import Document
from relay_tornado.wire.logs import RECEIVED

LIMIT: Final = 50
MOST: Final = 500
PAGE_BYTES: Final = 16 * MIB
"""Maximum size of a page in bytes; a single log may be larger."""

LOOKED: Final = 64 * MIB
"""Maximum bytes of events that rules examine for a page."""

_CHUNKS: Final = (16, 256)
_CHUNK_BYTES: Final = 4 * MIB
_AT_ONCE: Final = 16
_ANCHORS: Final = 256
_ANCHORED: Final = 600.0
"""Seconds for which later offsets are counted from the newest event of the first page."""


@dataclass(frozen=True, slots=True)
class Filter:
    """A request's filter. `since` and `until` are unix seconds: received at or after `since`, and before `until`."""

    bucket: str
    output: str
    status: str
    since: float | None
    until: float | None


class Listing:
    """Builds the pages of the list."""

    def __init__(self, stored: Stored) -> None:
        self._stored = stored
        self._anchors: OrderedDict[tuple[str, Filter], tuple[Key, float]] = OrderedDict()

    async def page(
        self,
        token: Token,
        *,
        bucket: str = "",
        output: str = "",
        status: str = "",
        since: float | None = None,
        until: float | None = None,
        limit: int = 0,
        offset: int = 0,
        cursor: str = "",
    ) -> Document:
        """One Log per event, newest first, with its newest delivery; with `output`, of that copy only.

        `bucket`: name or id; "" is all of them. `since`, `until`: unix seconds, received at or after, and before.
        `limit`: 0 means 50, at most 500. `cursor`: the id after which (towards older ones) the page begins; it stays
        valid while events arrive. `offset` counts from there. Without a cursor it counts from the event that was newest
        when the same token made the same request with offset 0, for 10 minutes. A page has at most 16 MiB.

        With `output`, the list has the copies that exist with the output as it is now, and those that have a delivery.
        With `status` or `output`, at most 10,000 events and 64 MiB are examined; then the page is `truncated` and has a
        cursor to continue, and `total` counts the matches among them. Damaged events are left out. Raises Invalid for a
        cursor that can't be honoured, and, without a cursor, Unavailable if there are events and none can be read.
        """
        wanted = Filter(bucket, output, status, since, until)
        limit = page_size(limit, LIMIT, MOST)
        if offset > MOST_SCANNED:
            raise Invalid(f"is over {MOST_SCANNED}: to go on, send next_cursor as cursor instead", "offset")
        buckets, only = self._scope(token, wanted)
        if bucket:
            wanted = replace(wanted, bucket=buckets[0].id)  # another one may get the name
        copy = None if only is None else only.n
        places = await self._places(buckets, wanted)
        total = sum(place.count for place in places)
        below = self._anchored(token, wanted) if offset and not cursor else None
        if cursor:
            below = await self._stored.key([place.bucket for place in places], cursor)
        if below is not None:
            await self._begin(places, below)
        due = [] if cursor else [(each.bucket.id, each.low, each.high) for each in places if each.low <= each.high]
        merged = _Merged(places, status, only)
        chosen, counted = await self._choose(merged, limit, offset)
        if merged.newest is None:
            await self._check_none(due)
        if not cursor and not offset:
            self._anchor(token, wanted, merged.newest)
        data = await self._render(chosen, copy)
        cut = len(data) < len(chosen)
        stopped = merged.filtered and merged.left()
        after = chosen[len(data) - 1] if data else None
        if stopped and not cut and len(chosen) < limit:
            after = merged.last
        more = cut or merged.left() or counted > offset + len(chosen)
        page: Document = {
            "data": data,
            "total": counted if merged.filtered else total,
            "limit": limit,
            "offset": offset,
        }
        if more and after is not None:
            page["next_cursor"] = after.id
        return {**page, "truncated": True} if cut or stopped else page

    def _scope(self, token: Token, wanted: Filter) -> tuple[list[Bucket], Output | None]:
        buckets = self._stored.buckets(token, wanted.bucket)
        if not wanted.output:
            return buckets, None
        for bucket in buckets:
            if any(wanted.output == each.id for each in bucket.outputs):
                return [bucket], output_of(bucket, wanted.output)
        if len(buckets) != 1:
            raise Invalid("there is no output with this id; to find it by its name, name its `bucket`, too", "output")
        return buckets, output_of(buckets[0], wanted.output)

    async def _places(self, buckets: Sequence[Bucket], wanted: Filter) -> list[_Place]:
        places, pieces = [], Pieces()
        log = self._stored.log
        for bucket in buckets:
            await pieces.done()
            try:
                bounds = await log.bounds(bucket.id)
                low, high = await self._stored.span(bucket.id, bounds.first, bounds.head, wanted.since, wanted.until)
            except BucketGone:
                continue
            places.append(_Place(log, self._stored.results, bucket, bounds, low, high))
        return places

    async def _begin(self, places: Sequence[_Place], below: Key) -> None:
        """Has the list begin behind this place."""
        for place in places:
            with suppress(BucketGone):  # then nothing of it is listed
                place.high = min(place.high, await self._stored.behind(below, place.bucket.id))

    async def _check_none(self, due: Sequence[tuple[str, int, int]]) -> None:
        """Nothing was found of these (a bucket's id, the first seq and the last). Raises Unavailable if a log still has
        some of them."""
        pieces, left = Pieces(), 0
        for bucket_id, low, high in due:
            await pieces.done()
            try:
                bounds = await self._stored.log.bounds(bucket_id)
            except BucketGone:
                continue
            left += max(min(high, bounds.head) - max(low, bounds.first) + 1, 0)
        if left:
            raise Unavailable(
                f"none of these {left} events can be read: relay.db is damaged, or was changed while the relay ran; "
                "/readyz or relay check says more"
            )

    def _anchored(self, token: Token, wanted: Filter) -> Key | None:
        """The place right before the event that was newest."""
        key, at = self._anchors.get((token.key, wanted), (None, 0.0))
        return key if time.monotonic() - at < _ANCHORED else None

    def _anchor(self, token: Token, wanted: Filter, newest: Key | None) -> None:
        if newest is None:
            self._anchors.pop((token.key, wanted), None)
            return
        self._anchors[token.key, wanted] = (newest._replace(seq=newest.seq + 1), time.monotonic())
        self._anchors.move_to_end((token.key, wanted))
        if len(self._anchors) > _ANCHORS:
            self._anchors.popitem(last=False)

    async def _choose(self, merged: _Merged, limit: int, offset: int) -> tuple[list[_Item], int]:
        """The items of the page, and how many matched the filter: with a filter all within the bounds are counted,
        without one only as many as are needed."""
        chosen: list[_Item] = []
        counted = scanned = 0
        while (scanned < MOST_SCANNED and merged.looked < LOOKED) if merged.filtered else len(chosen) < limit:
            item = await merged.next()
            if item is None:
                break
            scanned += 1
            if item.fits:
                counted += 1
                if counted > offset and len(chosen) < limit:
                    chosen.append(item)
        return chosen, counted

    async def _render(self, chosen: Sequence[_Item], copy: int | None) -> list[Document]:
        """The documents of the first items that fit into a page's bytes, at least one."""
        data: list[Document] = []
        room = PAGE_BYTES
        for start in range(0, len(chosen), _AT_ONCE):
            some = chosen[start : start + _AT_ONCE]
            latest = await self._stored.latest([item.key for item in some], copy)
            for item in some:
                newest = latest.get(item.key)
                room -= item.outline.size + (0 if newest is None else len(newest.result.body))
                if data and (room < 0 or (newest is not None and newest.result.left_out)):
                    return data
                data.append(document_of(item.place.bucket, await self._found(item), copy, newest))
        return data

    async def _found(self, item: _Item) -> Found:
        try:
            return await self._stored.find(item.place.bucket, item.place.bounds, item.outline)
        except BucketGone:
            raise NotFound("a bucket was deleted meanwhile: ask again") from None


class _Place:
    """The list's place in one bucket: seqs `low` to `high` are still to come, newest first."""

    def __init__(self, log: EventLog, results: Results, bucket: Bucket, bounds: Bounds, low: int, high: int) -> None:
        self._log = log
        self._results = results
        self.bucket = bucket
        self.bounds = bounds
        self.low = low
        self.high = high
        self.count = max(high - low + 1, 0)
        self.looked = 0
        """Bytes of events that were read to be examined."""
        self._chunk = _CHUNKS[0]

    async def next(self, status: str, output: Output | None) -> list[_Item]:
        """The next events, newest first; empty at the end."""
        while self.high >= self.low:
            start = max(self.high - self._chunk + 1, self.low)
            outlines = await self._log.outline(self.bucket.id, start, self.high)
            if output is not None:
                outlines = _newest(outlines)
                start = outlines[0].seq if outlines else start
            statuses: Mapping[int, str] = {}
            if status or output is not None:
                number = None if output is None else output.n
                statuses = await self._results.statuses(self.bucket.id, start, self.high, number)
            fitting = {each.seq for each in outlines if not status or statuses.get(each.seq, RECEIVED) == status}
            if output is not None:
                fitting -= await self._without(output, [seq for seq in fitting if seq not in statuses])
            self.high = start - 1
            self._chunk = min(self._chunk * 2, _CHUNKS[1])
            if outlines:
                return [_Item(self, each, each.seq in fitting) for each in reversed(outlines)]
        return []

    async def _without(self, output: Output, seqs: Collection[int]) -> set[int]:
        """The seqs of these events that have no copy for this output. An event without content counts as having one if
        the output may have copies at all."""
        goes = Goes(self.bucket, output)
        if not goes.perhaps:
            return set(seqs)
        without: set[int] = set()
        judging = Judging()
        after, last = (min(seqs) - 1, max(seqs)) if seqs else (0, 0)
        while after < last:
            try:
                events = await self._log.read(self.bucket.id, after, last - after, MIB)
            except CursorLost as lost:
                after = lost.first - 1
                continue
            for event in events:
                if not await judging.fits(event, goes.there):
                    without.add(event.seq)
            self.looked += sum(event.size for event in events)
            after = events[-1].seq
        return without.intersection(seqs)


def _newest(outlines: Sequence[Outline]) -> Sequence[Outline]:
    """The last ones of these that may be read together, at least one."""
    room = _CHUNK_BYTES
    for index in range(len(outlines) - 1, -1, -1):
        room -= outlines[index].size
        if room < 0:
            return outlines[min(index + 1, len(outlines) - 1) :]
    return outlines


class _Item(NamedTuple):
    """An event of the list."""

    place: _Place
    outline: Outline
    fits: bool

    @property
    def key(self) -> Key:
        return Key(self.outline.received_at, self.place.bucket.id, self.outline.seq)

    @property
    def id(self) -> str:
        return position_id(self.place.bounds, self.outline.seq)


class _Merged:
    """Merges the events of several buckets into one order."""

    def __init__(self, places: Sequence[_Place], status: str, output: Output | None) -> None:
        self._new = list(places)
        self._status = status
        self._output = output
        self._heap: list[tuple[float, str, deque[_Item]]] = []
        self.filtered = bool(status) or output is not None
        self.newest: Key | None = None
        self.last: _Item | None = None
        """The last item returned."""
        self.looked = 0
        """Bytes of events that were read to be examined."""

    async def next(self) -> _Item | None:
        pieces = Pieces()
        while self._new:
            await self._push(self._new.pop(), deque())
            await pieces.done()
        if not self._heap:
            return None
        _, _, waiting = heapq.heappop(self._heap)
        item = self.last = waiting.popleft()
        if self.newest is None:
            self.newest = item.key
        await self._push(item.place, waiting)
        return item

    async def _push(self, place: _Place, waiting: deque[_Item]) -> None:
        if not waiting:
            before = place.looked
            try:
                waiting.extend(await place.next(self._status, self._output))
            except BucketGone:
                return
            finally:
                self.looked += place.looked - before
        if waiting:
            heapq.heappush(self._heap, (-waiting[0].outline.received_at, place.bucket.id, waiting))

    def left(self) -> bool:
        """Whether there is more."""
        return bool(self._heap)
