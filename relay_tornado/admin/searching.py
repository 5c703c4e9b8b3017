"""Search: matching events of any number of buckets, newest first, in pages that stay consistent while events arrive.

For a text the index names candidates, and each is checked in the log, so that every result exists and matches. Events
that are not indexed yet are examined one by one, as far as one request may.
"""

from __future__ import annotations

import heapq
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import msgspec

from relay_tornado.admin.stored import Found, Key, Stored, document_of, page_size, without_content
from relay_tornado.errors import BucketGone
from relay_tornado.log.contract import Outline
from relay_tornado.log.lineage import position_id
from relay_tornado.model import MIB, Bounds, Bucket, Event, Token
from relay_tornado.pieces import Pieces
from relay_tornado.search.index import Covered, Index
from relay_tornado.search.text import Query, Turns, parse_query, text_of
from relay_tornado.wire import headers
from relay_tornado.wire.fields import Document
from relay_tornado.wire.logs import RECEIVED

LIMIT: Final = 50
MOST: Final = 500
LOOKED_AT: Final = 5_000
"""Maximum number of events that one request examines."""
READ: Final = 64 * MIB
"""Maximum bytes of those events."""

_UNINDEXED: Final = 2_000
"""The number of events not indexed yet, newest first, that a search in one bucket examines."""
_CHUNKS: Final = (32, 256)
_CHUNK: Final = 4 * MIB
_VERIFIED: Final[Mapping[str, bool | None]] = {"true": True, "false": False, "none": None}
_SPLIT: Final = re.compile(r"\s*:\s*")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A request's criteria; "" or None does not restrict. `text`: see search/text.py. `path`: a part of the path.
    `header`: a name, or `name: value` with a part of the value. `verified`: true, false or none (no check was made).
    `delivery`: the newest status. `since`, `until`: unix seconds, received at or after, and before."""

    text: str = ""
    method: str = ""
    path: str = ""
    header: str = ""
    verified: str = ""
    delivery: str = ""
    since: float | None = None
    until: float | None = None


class Searching:
    """Builds the pages of results. Without an `index` every event is examined."""

    def __init__(self, stored: Stored, index: Index | None) -> None:
        self._stored = stored
        self._index = index

    async def page(
        self, token: Token, wanted: Wanted, *, bucket: str = "", limit: int = 0, cursor: str = ""
    ) -> Document:
        """Matching events, newest first, without their bodies; `bucket` "" means all, `limit` 0 means 50, at most 500.

        `next_cursor` continues, None at the end. `complete` is false if events were skipped because they are not
        indexed (yet, or any more); `indexed_up_to` is the newest indexed id, if the search is in one bucket. Raises
        Invalid, NotFound, Overloaded.
        """
        limit = page_size(limit, LIMIT, MOST)
        wish = _Filter(wanted)
        buckets = self._stored.buckets(token, bucket)
        begin = await self._stored.key(buckets, cursor) if cursor else None
        budget = _Budget()
        runs, pieces = [], Pieces()
        for each in buckets:
            await pieces.done()
            try:
                bounds = await self._stored.log.bounds(each.id)
            except BucketGone:
                continue
            covered = None if self._index is None else self._index.covered(each.id)
            if bounds.head >= bounds.first:
                runs.append(_Run(self._stored, self._index, each, bounds, covered, wish, begin, budget))
        extents = await self._stored.log.extents([run.bucket.id for run in runs])
        for run in runs:
            if run.bucket.id in extents:
                run.not_after(extents[run.bucket.id].newest_at)
        heap = [(-run.newest, run.bucket.id, run) for run in runs]
        heapq.heapify(heap)
        hits: list[_Hit] = []
        stopped: Key | None = None
        while heap and len(hits) < limit:
            run = heap[0][2]
            if run.waiting:
                hits.append(run.waiting.pop(0))
            elif budget.spent and run.begun:
                stopped = run.reached
                break
            else:
                await run.advance()
            if run.over:
                heapq.heappop(heap)
            else:
                heapq.heapreplace(heap, (-run.newest, run.bucket.id, run))
        last = stopped or (hits[-1].key if heap else None)
        return {
            "data": await self._render(hits),
            "next_cursor": None if last is None else self._id(runs, last),
            "complete": all(run.complete for run in runs),
            "indexed_up_to": _up_to(runs[0]) if len(runs) == 1 and bucket else None,
        }

    def _id(self, runs: Sequence[_Run], key: Key) -> str:
        bounds = next(run.bounds for run in runs if run.bucket.id == key.bucket_id)
        return position_id(bounds, key.seq)

    async def _render(self, hits: Sequence[_Hit]) -> list[Document]:
        latest = await self._stored.latest([hit.key for hit in hits], None)
        data = []
        for hit in hits:
            document = document_of(hit.bucket, hit.found, None, latest.get(hit.key))
            del document["body"]
            data.append({**document, "size": hit.size})
        return data


class _Budget:
    """The events and bytes that one request may still examine."""

    def __init__(self) -> None:
        self.events = LOOKED_AT
        self.bytes = READ

    @property
    def spent(self) -> bool:
        return self.events <= 0 or self.bytes <= 0


class _Filter:
    """The criteria, prepared for matching."""

    def __init__(self, wanted: Wanted) -> None:
        self.query: Query = parse_query(wanted.text)
        self.match = self.query.match()
        self.since, self.until = wanted.since, wanted.until
        self.delivery = wanted.delivery
        self.method = wanted.method.upper()
        self._path = wanted.path.casefold()
        self._verified = wanted.verified
        parts = _SPLIT.split(wanted.header.strip(), maxsplit=1)
        self._name, self._value = parts[0].casefold(), parts[1].casefold() if len(parts) > 1 else ""

    async def fits(self, event: Event, turns: Turns) -> bool:
        """Whether the event meets all criteria except the delivery."""
        if self.method and event.method.upper() != self.method:
            return False
        if self._verified and event.verified is not _VERIFIED[self._verified]:
            return False
        if self._path and self._path not in headers.decode(event.path).casefold():
            return False
        if self._name and not self._has_header(event):
            return False
        await turns.give()
        return not self.query.terms or await self.query.matches(await text_of(event, turns), turns)

    @property
    def needs_content(self) -> bool:
        """Whether an event without its content can't match."""
        return bool(self.query.terms or self._path or self._name or self._verified)

    def _has_header(self, event: Event) -> bool:
        return any(
            headers.decode(name).casefold() == self._name and self._value in headers.decode(value).casefold()
            for name, value in headers.parse(event.headers)
        )


class _Hit(NamedTuple):
    key: Key
    bucket: Bucket
    found: Found
    size: int


class _Run:
    """The search in one bucket: its position, and the results that were not taken yet."""

    def __init__(
        self,
        stored: Stored,
        index: Index | None,
        bucket: Bucket,
        bounds: Bounds,
        covered: Covered | None,
        wish: _Filter,
        begin: Key | None,
        budget: _Budget,
    ) -> None:
        self.bucket = bucket
        self.bounds = bounds
        self.covered = covered
        self.waiting: list[_Hit] = []
        self.reached = Key(math.inf, bucket.id, bounds.head + 1)
        """Everything from this place on was examined."""
        self.complete = True
        self._stored = stored
        self._index = index
        self._filter = wish
        self._begin = begin
        self._budget = budget
        self._placed = False
        self._low, self._high = bounds.first, bounds.head
        self._chunk = _CHUNKS[0]
        self._unindexed = _UNINDEXED
        self._turns = Turns()
        self._upper = math.inf if begin is None else begin.at

    def not_after(self, newest: float | None) -> None:
        """Sets when the bucket's newest event was received, if that is known."""
        if newest:
            self._upper = min(self._upper, newest)

    @property
    def newest(self) -> float:
        """An upper bound for the time at which the events still to come from here were received."""
        return self.waiting[0].key.at if self.waiting else self._upper

    @property
    def begun(self) -> bool:
        """Whether any of it was examined."""
        return self.reached.at < math.inf

    @property
    def over(self) -> bool:
        """Whether nothing more is to come from here."""
        return self._high < self._low and not self.waiting

    async def advance(self) -> None:
        """Examines some more events."""
        try:
            if not self._placed:
                await self._place()
            elif self._high >= self._low:
                await self._look()
        except BucketGone:
            self._high = self._low - 1

    async def _place(self) -> None:
        self._placed = True
        self._low, self._high = await self._stored.span(
            self.bucket.id, self._low, self._high, self._filter.since, self._filter.until
        )
        if self._begin is not None:
            self._high = min(self._high, await self._stored.behind(self._begin, self.bucket.id))

    async def _look(self) -> None:
        """Takes the next candidates, and keeps those that match."""
        size = self._chunk
        self._chunk = min(self._chunk * 2, _CHUNKS[1])
        covered = self.covered
        if self._filter.match and covered is not None and self._index is not None:
            if covered.low <= self._high <= covered.high:
                await self._look_up(self._index, covered, size)
                return
            above = self._high > covered.high
            low = max(self._low, covered.high + 1 if above else 0, self._high - size + 1)
            self._unindexed -= self._high - low + 1
            if self._unindexed < 0:
                # There are too many events that are not indexed yet, or not any more, to examine them all.
                self.complete, self._high = False, covered.high if above else self._low - 1
                return
            await self._look_at(low)
        else:
            await self._look_at(max(self._low, self._high - size + 1))

    async def _look_up(self, index: Index, covered: Covered, size: int) -> None:
        low = max(self._low, covered.low)
        seqs = await index.find(self.bucket.id, self._filter.match, low, self._high, size)
        if seqs is None:
            # The index is gone: the rest is examined one by one.
            self.covered = None
        elif await self._judge(seqs) and len(seqs) < size:
            self._high = low - 1

    async def _look_at(self, low: int) -> None:
        """Examines the events from `low` on, one by one."""
        outlines = {each.seq: each for each in await self._stored.log.outline(self.bucket.id, low, self._high)}
        method = self._filter.method
        wanted = [seq for seq, each in outlines.items() if not method or each.method.upper() == method]
        if await self._judge(sorted(wanted, reverse=True), outlines):
            self._move(low, outlines[min(outlines)] if outlines else None)

    async def _judge(self, seqs: Sequence[int], outlines: Mapping[int, Outline] | None = None) -> bool:
        """Examines these events, newest first. Returns False if there was no room for all of them."""
        if not seqs:
            return True
        wish = self._filter
        events = await self._stored.log.pick(self.bucket.id, seqs, _CHUNK)
        self._budget.events -= len(events)
        self._budget.bytes -= sum(event.size for event in events if event is not None)
        hits = []
        for seq, event in zip(seqs, events, strict=False):
            outline = None if outlines is None else outlines[seq]
            if event is not None and await wish.fits(event, self._turns):
                # The body is not shown, so it is not kept.
                found = Found(msgspec.structs.replace(event, body=b""), False, outline is not None and outline.stub)
                hits.append(self._hit(event.received_at, found, event.size))
            elif event is None and outline is not None and not wish.needs_content:
                hits.append(self._hit(outline.received_at, without_content(self.bounds, outline), outline.size))
        if wish.delivery and hits:
            latest = await self._stored.results.latest(self.bucket.id, [hit.key.seq for hit in hits], None)
            status = {seq: each.result.status for seq, each in latest.items()}
            hits = [hit for hit in hits if status.get(hit.key.seq, RECEIVED) == wish.delivery]
        self.waiting += hits
        low = seqs[len(events) - 1]
        last = next((event for event in reversed(events) if event is not None), None)
        self._move(low, last if outlines is None else outlines[low])
        return len(events) == len(seqs)

    def _move(self, low: int, last: Event | Outline | None) -> None:
        """Notes that everything from this seq on was examined; `last` is the oldest event of that which is known."""
        self._high = low - 1
        if last is not None:
            # A cursor is a seq, so its time has to be that of its event: the other buckets go on from there.
            self._upper = last.received_at
            self.reached = Key(last.received_at, self.bucket.id, last.seq)

    def _hit(self, at: float, found: Found, size: int) -> _Hit:
        return _Hit(Key(at, self.bucket.id, found.event.seq), self.bucket, found, size)


def _up_to(run: _Run) -> str | None:
    return None if run.covered is None else position_id(run.bounds, run.covered.high)
