"""The index of events' texts: it follows the log, newest first and then back, in the background and never in its way.

It begins at a bucket's head: what comes is indexed within seconds, and what was there before from the newest to the
oldest, until all is in it or it is as large as it may be; then its oldest part leaves. Where its file is missing or of
no use it is made anew, and a relay that can't have one goes on without.
"""

from __future__ import annotations

import asyncio
import math
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

import structlog

from relay_tornado.errors import BucketGone, Overloaded, RelayError
from relay_tornado.log.contract import EventLog
from relay_tornado.log.lineage import epoch_at, place_cursor
from relay_tornado.model import MIB, Bounds, Bucket, BucketId, Cursor
from relay_tornado.search import file, pages
from relay_tornado.search.file import Place, State, Stretch
from relay_tornado.search.pacing import Pacing
from relay_tornado.storage import beside, parts
from relay_tornado.storage.connection import Connection
from relay_tornado.storage.damage import code_of
from relay_tornado.storage.whereabouts import Whereabouts

SEGMENTS: Final = 32
"""About how many segments a full index has."""
LEAST: Final = 64 * MIB
"""The smallest bound, in bytes: many times what one step adds."""

_ROOM: Final = 64 * MIB
"""Bytes that have to be free on the disk, beyond the relay's own reserve."""
_SETTLE: Final = 0.5
"""Seconds that new events wait for others."""
_TIDY: Final = 30.0
"""Seconds between two looks at what has left, and at the file itself."""
_AGAIN: Final = 30.0
"""Seconds until another try, after an error."""
_WORTH: Final = 64
"""Events of a step, below which the next one waits for more."""
_FULL: Final = 0.8
"""The part of its bound up to which older events are taken in."""
_SEARCHES: Final = 16
"""Look-ups that may wait for one another."""
_USELESS: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR})
"""Of a file that is damaged, no database, of another version, or gone: another one would help."""

T = TypeVar("T")

_log = structlog.get_logger(__name__)


class _Found(NamedTuple):
    """A stretch that is to be indexed, and where the index is in its bucket then."""

    bucket_id: BucketId
    place: Place
    stretch: Stretch


class Covered(NamedTuple):
    """The seqs of a bucket that can be looked up."""

    low: int
    high: int


class Index:
    """`run` keeps it; `find` looks something up, `covered` says in what."""

    def __init__(
        self,
        folder: Path,
        log: EventLog,
        buckets: Callable[[], Sequence[Bucket]],
        bound: int,
        *,
        room: Callable[[], int] = lambda: 1 << 62,
        events: Callable[[], int] = lambda: 0,
    ) -> None:
        """`bound` is how many bytes it may have, `room` how many the disk may lose, `events` how many were ever
        taken in; deliveries may be among them, by what they cost."""
        self.path = folder / file.NAME
        self._log = log
        self._buckets = buckets
        if bound < LEAST:
            _log.warning("search_index_raised", asked=bound, bytes=LEAST, hint="this is the least; none is no index")
        self._bound = max(bound, LEAST)
        self._room = room
        self._state = State()
        self._writer: Connection | None = None
        self._reader: Connection | None = None
        self._whereabouts: Whereabouts | None = None
        self._searches = 0
        self._dirty: dict[BucketId, None] = {}
        self._behind: dict[BucketId, None] = {}
        self._woken = asyncio.Event()
        self._tidied = 0.0
        self._used = 0
        self._pacing = Pacing(events)
        self._whole = False
        self._more = False
        """Whether the last step left some of what it was to index, as its stretches were full."""

    # looking up

    def covered(self, bucket_id: BucketId) -> Covered | None:
        """What can be looked up of a bucket; None is nothing."""
        place = self._state.places.get(bucket_id)
        if place is None or self._reader is None or place.high < place.low:
            return None
        return Covered(place.low, place.high)

    async def find(self, bucket_id: BucketId, match: str, first: int, last: int, limit: int) -> list[int] | None:
        """The newest seqs of a bucket, from `first` to `last`, whose text may fit the expression; newest first.

        None where not all of them can be looked up (any more). Raises Overloaded.
        """
        place, reader = self._state.places.get(bucket_id), self._reader
        if place is None or reader is None or first < place.low or last > place.high:
            return None
        if self._searches >= _SEARCHES:
            raise Overloaded("too many searches at once: send this one again")
        parts = tuple(self._state.parts.get(place.key, ()))
        self._searches += 1
        try:
            return await reader.run(lambda raw: file.find(raw, parts, place.key, match, first, last, limit))
        except (sqlite3.Error, ValueError):
            return None  # a segment left, or the file did
        finally:
            self._searches -= 1

    # following

    async def run(self) -> None:
        """Follows the log until it is cancelled. Nothing that happens here reaches anybody else."""
        watch = self._log.watch(None, self._wake)
        anew = -math.inf
        try:
            while True:
                try:
                    await self._open()
                    await self._follow()
                except sqlite3.DatabaseError as error:
                    await self._close()
                    if code_of(error) in _USELESS:
                        _log.warning("search_index_made_anew", reason=str(error))
                        with suppress(OSError):  # else it is of no use the next time, too
                            parts.remove(self.path)
                        if time.monotonic() - anew > _AGAIN:
                            anew = time.monotonic()
                            continue
                    else:
                        _log.warning("search_index_waits", reason=str(error))
                except (RelayError, OSError) as error:
                    _log.warning("search_index_waits", reason=str(error))
                except Exception:
                    _log.exception("search_index_failed")
                    await self._close()
                await asyncio.sleep(_AGAIN)
        finally:
            watch.close()
            self._pacing.end()
            await self._close()

    def _wake(self, bucket_id: BucketId) -> None:
        self._dirty[bucket_id] = None
        self._woken.set()

    async def _follow(self) -> None:
        for bucket in self._buckets():
            self._dirty[bucket.id] = None
            self._behind[bucket.id] = None
        self._tidied = 0.0
        while True:
            if time.monotonic() - self._tidied > _TIDY:
                await self._tidy()
            if self._whereabouts is not None and self._whereabouts.missing():
                raise sqlite3.DatabaseError("its file was taken away")
            done = await self._step() if self._room() > _ROOM else 0
            if done >= _WORTH or (done and self._more):
                continue
            if not done and self._room() > _ROOM and not self._whole:
                self._whole = True
                _log.info("search_index_ready", bytes=self._used)
            self._woken.clear()
            if not done and (not self._dirty or self._room() <= _ROOM):
                with suppress(TimeoutError):
                    async with asyncio.timeout(_TIDY):
                        await self._woken.wait()
            await asyncio.sleep(_SETTLE)

    async def _step(self) -> int:
        """Indexes some of what is new, or else of what is old, a stretch of each bucket at most: where the next one
        begins is known once this one is stored. Returns how many events that were."""
        found: list[_Found] = []
        self._more = False
        self._pacing.begin()
        for bucket_id in list(self._dirty):
            if _full(found):
                break
            del self._dirty[bucket_id]
            try:
                found += await self._upwards(bucket_id)
            except BucketGone:
                self._behind.pop(bucket_id, None)
        backwards = not found and self._used < self._bound * _FULL
        for bucket_id in list(self._behind) if backwards else ():
            if _full(found):
                break
            del self._behind[bucket_id]
            with suppress(BucketGone):
                found += await self._downwards(bucket_id)
        if found:
            await asyncio.sleep(self._pacing.due())
            await self._add(found, backwards)
        return _size(found)

    async def _upwards(self, bucket_id: BucketId) -> list[_Found]:
        """What came behind the newest event that is indexed, or the first of that."""
        bounds = await self._log.bounds(bucket_id)
        place = await self._placed(bucket_id, bounds)
        after, head = max(place.high, bounds.first - 1), min(bounds.head, file.MOST_SEQ)
        if after >= head:
            return []
        found = await pages.above(self._log, bucket_id, after, head)
        if found.last < head:
            self._more = True
            self._dirty.setdefault(bucket_id)
        low = place.low if place.high >= place.low else found.first
        epoch = epoch_at(bounds.epochs, found.last)
        return [_Found(bucket_id, place._replace(epoch=epoch, low=low, high=found.last), found)]

    async def _downwards(self, bucket_id: BucketId) -> list[_Found]:
        """What stands before the oldest event that is indexed, or the last of that."""
        bounds = await self._log.bounds(bucket_id)
        place = await self._placed(bucket_id, bounds)
        if place.low <= bounds.first or bounds.head < bounds.first:
            return []
        found = await pages.below(self._log, bucket_id, min(place.low, bounds.head + 1), bounds.first)
        if found.first > bounds.first:
            self._more = True
            self._behind[bucket_id] = None
        return [_Found(bucket_id, place._replace(low=found.first), found)]

    async def _placed(self, bucket_id: BucketId, bounds: Bounds) -> Place:
        """Where the index is in a bucket. What was lost from the log is taken back; where the log is another one, the
        index begins anew."""
        place = self._state.places.get(bucket_id)
        if place is not None:
            placed = place_cursor(bounds, Cursor(place.epoch, place.high))
            if placed.gap is None or placed.gap.reason == "retention":
                return place
            _log.info("search_index_taken_back", bucket_id=bucket_id, seq=place.high, to=placed.after)
            if placed.gap.from_seq is not None and placed.after >= place.low:
                key, end, low = place.key, placed.after, place.low
                epoch = epoch_at(bounds.epochs, end)

                def take_back(raw: sqlite3.Connection) -> None:
                    file.cut(raw, key, low, end)
                    file.move(raw, bucket_id, epoch, low, end)

                await self._write(take_back)
                return self._state.places[bucket_id]
        head = min(bounds.head, file.MOST_SEQ)
        epoch = epoch_at(bounds.epochs, head)
        key = await self._transact(partial(file.begin_bucket, bucket=bucket_id, epoch=epoch, low=head + 1, high=head))
        if place is not None:
            self._state.parts.pop(place.key, None)
        self._behind[bucket_id] = None
        self._state.places[bucket_id] = place = Place(key, epoch, head + 1, head)
        return place

    async def _add(self, found: Sequence[_Found], backwards: bool) -> None:
        most = self._bound // SEGMENTS
        room = [key for key, (size, back) in self._state.segments.items() if back is backwards and size < most]

        def job(raw: sqlite3.Connection) -> tuple[int, int]:
            self._pacing.begin()
            segment = max(room) if room else file.begin_segment(raw, backwards)
            for each in sorted(found, key=lambda each: each.place.key):
                file.insert(raw, segment, each.place.key, each.stretch, self._pacing.rest)
                file.move(raw, each.bucket_id, each.place.epoch, each.place.low, each.place.high)
            return segment, file.used(raw)

        segment, self._used = await self._transact(job)
        size = _characters(found)
        self._state.segments[segment] = (self._state.segments.get(segment, (0, backwards))[0] + size, backwards)
        for each in found:
            self._state.places[each.bucket_id] = each.place
            self._state.add(each.place.key, segment, each.stretch)
        while self._used > self._bound:
            self._used = await self._write(_shrink)

    async def _tidy(self) -> None:
        """Lets go of what the log has let go of, and of a bucket that is gone."""
        self._tidied = time.monotonic()
        live = {bucket.id for bucket in self._buckets()}
        left: list[Callable[[sqlite3.Connection], None]] = []
        for bucket_id, place in list(self._state.places.items()):
            try:
                bounds = await self._log.bounds(bucket_id) if bucket_id in live else None
            except BucketGone:
                bounds = None
            if bounds is None:
                left.append(partial(file.forget_bucket, bucket=bucket_id))
            elif any(part.last < bounds.first for part in self._state.parts.get(place.key, ())):
                left.append(partial(file.cut, key=place.key, first=bounds.first, last=file.MOST_SEQ))
        if left:
            # All at once: what the file says is read anew after each write.
            await self._write(lambda raw: [each(raw) for each in left])
        for segment in await self._connection().run(file.empty_segments):
            await self._write(partial(file.drop_segment, segment=segment))
        await self._connection().run(lambda raw: file.give_back(raw, self._bound // 4))
        self._used = await self._connection().run(file.used)

    # the file

    async def _write(self, job: Callable[[sqlite3.Connection], T]) -> T:
        """Runs it in a transaction, and takes over what the file says then."""
        result, self._state = await self._transact(lambda raw: (job(raw), file.load(raw)))
        return result

    async def _transact(self, job: Callable[[sqlite3.Connection], T]) -> T:
        return await self._connection().run(lambda raw: beside.transact(raw, job))

    def _connection(self) -> Connection:
        assert self._writer is not None, "it was opened"
        return self._writer

    async def _open(self) -> None:
        if self._writer is not None:
            return
        try:
            self._writer = await beside.writer(self.path)
            self._state = await self._writer.run(lambda raw: file.prepare(raw, self.path))
            self._used = await self._writer.run(file.used)
            self._reader = await Connection.reader(self.path)
            self._whereabouts = Whereabouts(self.path)
        except BaseException:
            await self._close()
            raise

    async def _close(self) -> None:
        self._whole = False
        self._state = State()
        connections = [each for each in (self._writer, self._reader) if each is not None]
        self._reader = self._writer = None
        try:
            async with AsyncExitStack() as closing:  # each, whatever the other one raises: its thread keeps the process
                for connection in connections:
                    closing.push_async_callback(connection.close)
        except sqlite3.Error as error:
            _log.warning("search_index_not_closed", reason=str(error))


def _size(found: Sequence[_Found]) -> int:
    return sum(each.stretch.last - each.stretch.first + 1 for each in found)


def _full(found: Sequence[_Found]) -> bool:
    """Whether they are enough for a step: of one bucket `pages` sees to it."""
    return _size(found) >= pages.EVENTS or _characters(found) >= pages.BYTES


def _characters(found: Sequence[_Found]) -> int:
    return sum(each.stretch.characters for each in found)


def _shrink(raw: sqlite3.Connection) -> int:
    segment = file.oldest_segment(raw)
    if segment is None:
        return 0
    file.drop_segment(raw, segment)
    return file.used(raw)
