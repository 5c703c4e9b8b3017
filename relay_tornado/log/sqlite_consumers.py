"""The store of consumers on SQLite: `log.consumers.Consumers` over one database.

Changes gather in memory by consumer, and are written with the next transaction (`storage.piggyback`). They describe a
state, not a step, so they can be written again after a commit with an unknown outcome. Nothing else is kept in memory,
so nothing has to be reloaded when the file is reopened.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeVar

import structlog

from relay_tornado.consumer_changes import Changes
from relay_tornado.errors import BucketGone, Damaged, RelayError, Unavailable
from relay_tornado.log import consumer_rows
from relay_tornado.log.consumers import MOST_MISSED, DeadLetter, Key, Stored, Terms
from relay_tornado.model import BucketId, Gap
from relay_tornado.storage.damage import is_damage
from relay_tornado.storage.database import Database

T = TypeVar("T")

_TOGETHER = 256
"""The most consumers whose changes are written in one transaction."""

_ROUNDS = 5

_log = structlog.get_logger(__name__)


@dataclass(eq=False, slots=True)
class _Save:
    """One consumer's unsaved changes: those collected so far, and the sources that are still to be asked."""

    sources: list[Callable[[], Changes | None]] = field(default_factory=list)
    source: Callable[[], Changes | None] | None = None
    """The source that was asked last."""
    changes: Changes | None = None
    gaps: list[tuple[Gap, float | None]] = field(default_factory=list)
    """Gaps in their order, each with its time, or with None if a client was told of it."""
    waiting: list[asyncio.Future[None]] = field(default_factory=list)
    gone: bool = False
    """The consumer was deleted in the transaction that these changes were written in."""

    def collect(self) -> bool:
        """Asks the sources for their changes. Returns whether there are any. If memory runs out, the remaining sources
        are asked next time."""
        while self.sources:
            self.source = self.sources[0]
            try:
                self._add(self.source())
            except MemoryError:
                raise
            except Exception:
                _log.exception("consumer_not_asked")
            del self.sources[0]
        return self.changes is not None or bool(self.gaps)

    def follow(self, later: _Save) -> None:
        """Appends later changes."""
        self._add(later.changes)
        self.sources += later.sources
        self.gaps += later.gaps
        self.waiting += later.waiting

    def end(self) -> None:
        for future in self.waiting:
            if not future.done():
                future.set_result(None)

    def _add(self, changes: Changes | None) -> None:
        if self.changes is None:
            self.changes = changes
        elif changes is not None:
            self.changes.add(changes)


class SqliteConsumers:
    """See the contract."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        """`clock` gives unix seconds."""
        self._database = database
        self._clock = clock
        self._pending: dict[Key, _Save] = {}
        self._writing: dict[Key, _Save] = {}
        self._alone: set[Key] = set()
        """Consumers whose changes may be what failed to be written: each gets a transaction of its own."""
        self._kept: dict[Key, _Save] = {}
        """What could not be written: changes that damage prevented, and all gaps."""
        self._told: set[Key] = set()
        """Damaged consumers that were logged."""
        self._at = 0.0

    def watch_losses(self, lost: Callable[[BucketId, int], None]) -> None:
        def tell(heads: Sequence[tuple[BucketId, int]]) -> None:
            for bucket_id, head in heads:
                lost(bucket_id, head)

        self._database.keep(consumer_rows.heads, tell)

    # saving

    def save(self, key: Key, changes: Callable[[], Changes | None]) -> None:
        kept = self._kept.get(key)
        if kept is not None and kept.source != changes:
            kept.changes = None  # the new state does not build on them, but on the file
        self._to_save(key).sources.append(changes)

    def met(self, key: Key, gap: Gap, at: float) -> None:
        self._to_save(key).gaps.append((gap, at))

    def told(self, key: Key, gaps: Sequence[Gap]) -> None:
        self._to_save(key).gaps += [(gap, None) for gap in gaps]

    def _to_save(self, key: Key) -> _Save:
        found = self._pending.get(key)
        if found is None:
            found = self._pending[key] = self._kept.pop(key) if key in self._kept else _Save()
        self._database.ride(self)
        return found

    async def saved(self) -> None:
        await self._stored([*self._pending.values(), *self._writing.values()])

    async def _stored(self, saves: Sequence[_Save]) -> None:
        if not saves:
            return
        self._go_on()
        futures = []
        for save in saves:
            save.waiting.append(asyncio.get_running_loop().create_future())
            futures.append(save.waiting[-1])
        for _ in range(_ROUNDS + 2 * (len(self._pending) + len(self._writing))):
            await self._database.write(lambda raw: None, shared=True)
            if all(future.done() for future in futures):
                return
        raise Unavailable("where consumers stand can't be stored now; it is tried again")

    # as a rider (see `storage.piggyback`)

    def prepare(self) -> bool:
        if self._writing:
            self.undone()  # that failed before for lack of memory
        some = self._alone & self._pending.keys()
        keys = list(islice(some, 1)) if some else list(islice(self._pending, _TOGETHER))
        self._at = self._clock()
        for key in keys:
            save = self._pending[key]
            if save.collect():
                self._writing[key] = save
            else:
                save.end()
            del self._pending[key]
        if self._pending and not self._writing:
            self._database.ride(self)
        return bool(self._writing)

    def write(self, raw: sqlite3.Connection) -> None:
        for key, save in self._writing.items():
            consumer_rows.write(raw, key, save.changes, save.gaps, self._at)

    def committed(self) -> None:
        written, self._writing = self._writing, {}
        for key, save in written.items():
            self._alone.discard(key)
            save.end()
        self._go_on()

    def undone(self) -> None:
        for key, save in self._writing.items():
            if save.gone:
                save.end()
                continue
            later = self._pending.get(key)
            if later is not None and later is not save:
                save.follow(later)
            self._pending[key] = save
        self._writing = {}
        self._go_on()

    def failed(self, error: Exception) -> None:
        if len(self._writing) > 1:
            self._alone.update(key for key, save in self._writing.items() if not save.gone)
            self.undone()
            return
        for key, save in self._writing.items():
            if save.gone:
                save.end()
                continue
            _log.error(
                "consumer_not_saved", bucket_id=key.bucket_id, kind=key.kind, consumer=key.name, error=repr(error)
            )
            self._alone.discard(key)
            save.end()
            if not (isinstance(error, sqlite3.DatabaseError) and is_damage(error)):
                save.changes = None
            self._keep(key, save)
        self._writing = {}
        self._go_on()

    def _keep(self, key: Key, save: _Save) -> None:
        """Adds what could not be written to the consumer's next changes, which build on it."""
        if save.changes is not None:
            for seq in sorted(save.changes.dead)[:-MOST_MISSED]:
                del save.changes.dead[seq]
        del save.gaps[:-MOST_MISSED]
        save.waiting = []
        later = self._pending.get(key)
        if later is None:
            self._kept[key] = save
            return
        if later.sources and save.source not in later.sources:
            save.changes = None
        save.follow(later)
        self._pending[key] = save

    def _go_on(self) -> None:
        if self._pending:
            self._database.ride(self)

    # the rest

    async def create(self, key: Key, floor: int, terms: Terms, at: float) -> Stored:
        return await self._database.write(lambda raw: consumer_rows.make(raw, key, floor, terms, at), shared=True)

    async def create_some(self, floors: Mapping[Key, int], terms: Terms, at: float) -> None:
        def make(raw: sqlite3.Connection) -> None:
            for key, floor in floors.items():
                with suppress(BucketGone):
                    consumer_rows.make(raw, key, floor, terms, at)

        await self._database.write(make)

    async def get(self, key: Key) -> Stored | None:
        await self._stored([saves[key] for saves in (self._pending, self._writing) if key in saves])
        try:
            return await self._record(key)
        except Damaged:
            if key in self._told:  # an output's position is asked for once a second
                raise
            await self._database.check_disk()  # SQLite calls malformed what the disk can't read
        try:
            return await self._record(key)
        except Damaged as error:
            self._tell(key, str(error))
            raise

    async def _record(self, key: Key) -> Stored | None:
        return await self._read(lambda raw: consumer_rows.get(raw, key))

    async def clients(self, bucket_id: BucketId) -> int:
        return await self._read(lambda raw: consumer_rows.clients(raw, bucket_id))

    async def list(self, bucket_id: BucketId | None = None, *, whole: bool = False) -> Sequence[Stored]:
        found = await self._records(bucket_id, whole)
        if any(each.damaged and each.key not in self._told for each in found):
            await self._database.check_disk()
            found = await self._records(bucket_id, whole)
        for each in found:
            if each.damaged:
                self._tell(each.key, each.damaged)
        return found

    async def _records(self, bucket_id: BucketId | None, whole: bool) -> Sequence[Stored]:
        return await self._read(lambda raw: consumer_rows.listed(raw, bucket_id, whole=whole))

    def _tell(self, key: Key, reason: str) -> None:
        if key not in self._told:
            self._told.add(key)
            _log.error("consumer_damaged", bucket_id=key.bucket_id, kind=key.kind, consumer=key.name, reason=reason)

    async def renew(self, key: Key, floor: int, at: float) -> None:
        self._told.discard(key)
        self._kept.pop(key, None)
        await self._database.write(lambda raw: consumer_rows.renew(raw, key, floor, at), shared=True)

    async def delete(self, key: Key) -> bool:
        def step(deleted: bool | None) -> None:
            if deleted is not None:
                self._forget(key)

        if not await self._read(lambda raw: consumer_rows.exists(raw, key)):  # as of a new output; needs no commit
            self._forget(key)
            return False
        while (deleted := await self._database.write(lambda raw: consumer_rows.delete(raw, key), step)) is None:
            pass
        return deleted

    def forget(self, bucket_id: BucketId) -> None:
        known = (self._pending, self._writing, self._kept, self._alone, self._told)
        for key in {key for keys in known for key in keys if key.bucket_id == bucket_id}:
            self._forget(key)

    def _forget(self, key: Key) -> None:
        """The consumer is deleted. Its changes may be in the transaction that does it, whose riders are told later."""
        self._alone.discard(key)
        self._told.discard(key)
        self._kept.pop(key, None)
        save = self._pending.pop(key, None)
        if save is not None:
            save.end()
        if key in self._writing:
            self._writing[key].gone = True

    async def dead(self, bucket_id: BucketId, key: Key | None, after: int, limit: int) -> Sequence[DeadLetter]:
        await self.saved()
        return await self._read(lambda raw: consumer_rows.dead(raw, bucket_id, key, after, limit))

    async def forget_dead(self, key: Key, seqs: Sequence[int]) -> int:
        await self.saved()
        return await self._database.write(lambda raw: consumer_rows.forget_dead(raw, key, set(seqs)))

    async def floor(self, bucket_id: BucketId, but: Collection[str] = ()) -> int | None:
        return await self._read(lambda raw: consumer_rows.floor(raw, bucket_id, but))

    async def close(self) -> None:
        try:
            await self.saved()
        except RelayError as error:
            _log.error("consumers_not_saved", error=str(error), consequence="their last events are delivered again")

    async def _read(self, job: Callable[[sqlite3.Connection], T]) -> T:
        return await self._database.read(job, "where consumers stand")
