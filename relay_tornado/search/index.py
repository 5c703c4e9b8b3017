"""The search index: it follows the log in the background, and gives way to all other work.

It begins at a bucket's head. New events are indexed within seconds, and those before from the newest to the oldest,
until all are indexed or the index has its largest size; then its oldest part is dropped. If its file is missing or
unusable it is made anew; if that fails, the relay runs without it.
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
from relay_tornado.low_memory import run_in_thread
from relay_tornado.model import MIB, Bounds, Bucket, BucketId, Cursor
from relay_tornado.pieces import Pieces
from relay_tornado.search import file, pages
from relay_tornado.search.file import Place, State, Stretch
from relay_tornado.search.pacing import Pacing
from relay_tornado.storage import database_files, disk_check, sidecar
from relay_tornado.storage.connection import Connection
from relay_tornado.storage.damage import code_of
from relay_tornado.storage.location_check import LocationCheck

SEGMENTS: Final = 32
"""About how many segments a full index has."""
LEAST: Final = 64 * MIB
"""The smallest bound on the index's size, in bytes: many times what one step adds."""

_ROOM: Final = 64 * MIB
"""Bytes that have to be free on the disk, beyond the relay's own reserve."""
_SETTLE: Final = 0.5
"""Seconds for which new events wait for more. Older ones are indexed meanwhile."""
_TIDY: Final = 30.0
"""Seconds between two checks for events that left the log, and for free space in the file."""
_AGAIN: Final = 30.0
"""Seconds until a retry after an error."""
_FULL: Final = 0.8
"""Older events are indexed up to this part of the bound."""
_SEARCHES: Final = 16
"""The most look-ups in progress at once."""
_USELESS: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR})
"""The errors of a file that is damaged, no database, of another version, or gone: a new file helps, unless the disk
only fails to read this one."""

T = TypeVar("T")

_log = structlog.get_logger(__name__)


class _Found(NamedTuple):
    """A stretch to be indexed, and what is indexed of its bucket afterwards."""

    bucket_id: BucketId
    place: Place
    stretch: Stretch


class Covered(NamedTuple):
    """The seqs of a bucket that can be looked up."""

    low: int
    high: int


class Index:
    """The search index: `run` maintains it, `find` looks up, `covered` says in which events."""

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
        """`bound` is the largest size in bytes, `room` returns the bytes that may be used on the disk, `events` the
        number of events ever received, which may include deliveries by what they cost."""
        self.path = folder / file.NAME
        self._log = log
        self._buckets = buckets
        if bound < LEAST:
            _log.warning(
                "search_index_raised", asked=bound, bytes=LEAST, hint="this is the minimum; none turns the index off"
            )
        self._bound = max(bound, LEAST)
        self._room = room
        self._state = State()
        self._writer: Connection | None = None
        self._reader: Connection | None = None
        self._location: LocationCheck | None = None
        self._searches = 0
        self._dirty: dict[BucketId, None] = {}
        self._behind: dict[BucketId, None] = {}
        self._woken = asyncio.Event()
        self._tidied = self._settled = -math.inf
        """When it was tidied last, and when new events have waited long enough."""
        self._used = 0
        self._pacing = Pacing(events)
        self._whole = False
        self._more = False
        """Whether the last step left some of the new events that it was to index."""

    # looking up

    def covered(self, bucket_id: BucketId) -> Covered | None:
        """The seqs of a bucket that can be looked up; None if there are none."""
        place = self._state.places.get(bucket_id)
        if place is None or self._reader is None or place.high < place.low:
            return None
        return Covered(place.low, place.high)

    async def find(self, bucket_id: BucketId, match: str, first: int, last: int, limit: int) -> list[int] | None:
        """The seqs from `first` to `last` whose text may match the expression: at most `limit`, newest first.

        None if some of the range can't be looked up (any more). Raises Overloaded.
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
            return None  # a segment was dropped, or the file is gone
        finally:
            self._searches -= 1

    # following

    async def run(self) -> None:
        """Follows the log until it is cancelled. Failures are logged, and affect nothing else."""
        watch = self._log.watch(None, self._wake)
        anew = -math.inf
        try:
            while True:
                try:
                    await self._open()
                    await self._follow()
                except sqlite3.DatabaseError as error:
                    await self._close()
                    if code_of(error) == sqlite3.SQLITE_CORRUPT and await self._disk_fails():
                        _log.warning("search_index_waits", reason=f"the disk fails to read it ({error})")
                    elif code_of(error) in _USELESS:
                        _log.warning("search_index_made_anew", reason=str(error))
                        with suppress(OSError):  # if it stays, it is unusable the next time, too
                            database_files.remove(self.path)
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
        self._tidied = -math.inf
        while True:
            if time.monotonic() - self._tidied > _TIDY:
                await self._tidy()
            if self._location is not None and self._location.missing():
                raise sqlite3.DatabaseError("its file was taken away")
            done = await self._step() if self._room() > _ROOM else 0
            if done:
                continue
            if self._room() > _ROOM and not self._whole:
                self._whole = True
                _log.info("search_index_ready", bytes=self._used)
            self._woken.clear()
            if not self._dirty or self._room() <= _ROOM:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_TIDY):
                        await self._woken.wait()
            await asyncio.sleep(_SETTLE)

    async def _step(self) -> int:
        """Indexes some new events, or if there are none, or they wait for more, some old ones; at most one stretch per
        bucket, as the next one begins where this one ends. Returns the number of events."""
        found: list[_Found] = []
        self._more = False
        pieces = Pieces()
        self._pacing.begin()
        for bucket_id in list(self._dirty) if time.monotonic() >= self._settled else ():
            await pieces.done()
            if _full(found):
                break
            del self._dirty[bucket_id]
            try:
                found += await self._upwards(bucket_id)
            except BucketGone:
                self._behind.pop(bucket_id, None)
        if found and not (self._more or _full(found)):
            self._settled = time.monotonic() + _SETTLE
        backwards = not found and self._used < self._bound * _FULL
        for bucket_id in list(self._behind) if backwards else ():
            await pieces.done()
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
        """The first stretch after the newest indexed event."""
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
        """The last stretch before the oldest indexed event."""
        bounds = await self._log.bounds(bucket_id)
        place = await self._placed(bucket_id, bounds)
        if place.low <= bounds.first or bounds.head < bounds.first:
            return []
        found = await pages.below(self._log, bucket_id, min(place.low, bounds.head + 1), bounds.first)
        if found.first > bounds.first:
            self._behind[bucket_id] = None
        return [_Found(bucket_id, place._replace(low=found.first), found)]

    async def _placed(self, bucket_id: BucketId, bounds: Bounds) -> Place:
        """What is indexed of a bucket. Events that the log lost are removed from the index first; if it is another log,
        the index begins anew."""
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
        """Drops what left the log, and buckets that are gone; then makes the file smaller."""
        self._tidied = time.monotonic()
        live = {bucket.id for bucket in self._buckets()}
        left: list[Callable[[sqlite3.Connection], None]] = []
        pieces = Pieces()
        for bucket_id, place in list(self._state.places.items()):
            await pieces.done()
            try:
                bounds = await self._log.bounds(bucket_id) if bucket_id in live else None
            except BucketGone:
                bounds = None
            if bounds is None:
                left.append(partial(file.forget_bucket, bucket=bucket_id))
            elif any(part.last < bounds.first for part in self._state.parts.get(place.key, ())):
                left.append(partial(file.cut, key=place.key, first=bounds.first, last=file.MOST_SEQ))
        if left:
            # All at once, as the state is loaded again after each write.
            await self._write(lambda raw: [each(raw) for each in left])
        for segment in await self._connection().run(file.empty_segments):
            await self._write(partial(file.drop_segment, segment=segment))
        await self._connection().run(lambda raw: file.give_back(raw, self._bound // 4))
        self._used = await self._connection().run(file.used)

    # the file

    async def _write(self, job: Callable[[sqlite3.Connection], T]) -> T:
        """Runs a job in a transaction, and loads the state afterwards."""
        result, self._state = await self._transact(lambda raw: (job(raw), file.load(raw)))
        return result

    async def _transact(self, job: Callable[[sqlite3.Connection], T]) -> T:
        return await self._connection().run(lambda raw: sidecar.transact(raw, job))

    def _connection(self) -> Connection:
        assert self._writer is not None, "it was opened"
        return self._writer

    async def _open(self) -> None:
        if self._writer is not None:
            return
        try:
            self._writer, self._state = await sidecar.writer(self.path, lambda raw: file.prepare(raw, self.path))
            self._reader = await Connection.reader(self.path)
            self._location = LocationCheck(self.path)
        except BaseException:
            await self._close()
            raise

    async def _disk_fails(self) -> bool:
        """Whether the disk fails to read the file, or there is no telling. For a closed file: SQLite loses its locks if
        another descriptor of the file is closed."""

        def look() -> bool:
            try:
                with self.path.open("rb") as opened:
                    return disk_check.fails(opened.fileno())
            except FileNotFoundError:
                return False
            except OSError:
                return True

        try:
            async with asyncio.timeout(_AGAIN):
                return await run_in_thread(look)
        except (TimeoutError, RuntimeError):
            return True

    async def _close(self) -> None:
        """Closes the file at once: what is being indexed is rolled back, and the WAL stays for the next `_open`."""
        self._whole = False
        # The reader last: the last connection would copy the WAL into the file if it could write.
        connections = [each for each in (self._reader, self._writer) if each is not None]
        self._reader = self._writer = None
        try:
            async with AsyncExitStack() as closing:  # both, even if one raises: an open one's thread keeps the process
                for connection in connections:
                    connection.interrupt()
                    closing.push_async_callback(connection.close)
        except sqlite3.Error as error:
            _log.warning("search_index_not_closed", reason=str(error))


def _size(found: Sequence[_Found]) -> int:
    return sum(each.stretch.last - each.stretch.first + 1 for each in found)


def _full(found: Sequence[_Found]) -> bool:
    """Whether they are enough for a step. (`pages` bounds the stretch of one bucket.)"""
    return _size(found) >= pages.EVENTS or _characters(found) >= pages.BYTES


def _characters(found: Sequence[_Found]) -> int:
    return sum(each.stretch.characters for each in found)


def _shrink(raw: sqlite3.Connection) -> int:
    segment = file.oldest_segment(raw)
    if segment is None:
        return 0
    file.drop_segment(raw, segment)
    return file.used(raw)
