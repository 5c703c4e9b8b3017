"""The event log on SQLite: `log.contract.EventLog` over one database.

The database is the truth. The state in memory of each log (`LogState`, the tail, the pages) changes only in the event
loop, after the commit that changed it and before the next transaction starts.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TypeVar

import structlog

from relay_tornado.counters import Counters
from relay_tornado.errors import BucketGone, CursorLost, RelayError, Unavailable
from relay_tornado.ids import new_epoch
from relay_tornado.log import reclaim, rows
from relay_tornado.log.appends import Appends
from relay_tornado.log.batch import Plan
from relay_tornado.log.contract import Done, Extent, Held, Outline
from relay_tornado.log.ephemeral import Ephemeral, EphemeralEvents
from relay_tornado.log.importing import Import
from relay_tornado.log.loading import Loaded, load, renew
from relay_tornado.log.pages import Block, Pages
from relay_tornado.log.state import LogState
from relay_tornado.log.tail import Recent, Tail
from relay_tornado.log.trimming import Trimming
from relay_tornado.log.watch import Registration, Watches
from relay_tornado.low_memory import wake
from relay_tornado.model import Appended, Bounds, BucketId, Epoch, Event, NewEvent, Retention
from relay_tornado.settings import Settings
from relay_tornado.storage.database import Database
from relay_tornado.storage.work import CLOSED

T = TypeVar("T")

_log = structlog.get_logger(__name__)


class SqliteEventLog:
    """See the contract; created by `open`. It uses half of the setting `tail`; the other half is for frames."""

    def __init__(self, database: Database, settings: Settings, counters: Counters) -> None:
        self._counters = counters
        self._database = database
        self._loop = asyncio.get_running_loop()
        self._logs: dict[BucketId, LogState] = {}
        self._epochs: dict[str, BucketId] = {}
        self._opened: set[str] = set()
        self._watches = Watches(self._head)
        self._tail = Tail(settings.tail // 2)
        self._ephemeral = Ephemeral()
        self._pages = Pages(settings.page_cache, lambda job: database.read(job, "older events"))
        self._trimming = Trimming(database, self._tail, self._pages, counters)
        self._appends = Appends(settings, database.notify, self._publish, self._announce, counters)
        self._renewals: set[asyncio.Task[None]] = set()
        self._told: dict[tuple[int, int], int] = {}
        """The first of the damaged events before a seq of a log."""
        self._closed = False

    @classmethod
    async def open(cls, database: Database, settings: Settings, counters: Counters | None = None) -> SqliteEventLog:
        """Loads all logs; `counters` counts what happens. Raises StartupError or Unavailable."""
        log = cls(database, settings, Counters() if counters is None else counters)
        log._apply(await log._read(load))
        database.keep(load, log._apply)
        database.attach(log._appends)
        return log

    @property
    def append_queue(self) -> int:
        """Bytes of the events that wait for a commit."""
        return self._appends.held

    # appending

    def append(self, bucket_id: BucketId, event: NewEvent) -> asyncio.Future[Appended]:
        future: asyncio.Future[Appended] = self._loop.create_future()

        def done(outcome: Appended | BaseException) -> None:
            if not future.done():
                wake(future, outcome)

        error = self._offer(bucket_id, event, done)
        if error is not None:
            future.set_exception(error)
        return future

    def submit(self, bucket_id: BucketId, event: NewEvent, done: Done) -> None:
        error = self._offer(bucket_id, event, done)
        if error is not None:
            self._loop.call_soon(done, error)

    def _offer(self, bucket_id: BucketId, event: NewEvent, done: Done) -> RelayError | None:
        """Queues an event, or returns the error with which it is refused; then `done` is not called."""
        if self._closed:
            return Unavailable(CLOSED)
        state = self._logs.get(bucket_id)
        if state is None:
            return BucketGone(bucket_id)
        size = len(event.body) + len(event.headers) + len(event.path) + len(event.query)  # `event.size`, without a call
        appends = self._appends
        refusal = self._database.refusal(size, appends.held)
        return refusal or appends.add(state, event, size, done)

    def _publish(self, made: Plan) -> None:
        for growth in made.growths:
            state = growth.state
            if growth.opened is not None:
                self._opened.add(growth.opened.epoch)
                self._epochs[growth.opened.epoch] = state.bucket_id
                state.epochs += (growth.opened,)
                state.open = True
            # The head first: if a later step fails, events up to the head are read from the file.
            state.head = growth.head
            state.bytes += growth.bytes
            state.last_at = growth.at
            if growth.events:
                self._tail.add(state.recent, growth.events, growth.kept)
            if growth.ephemeral:
                self._ephemeral.add(state.ephemeral, growth.ephemeral)

    def _announce(self, made: Plan) -> None:
        for growth in made.growths:
            self._watches.wake(growth.state.bucket_id)

    # reading

    def peek(self, bucket_id: BucketId, after: int, limit: int, max_bytes: int) -> Sequence[Event] | None:
        state = self._state(bucket_id)
        if after >= state.head:
            if after > state.head:
                raise CursorLost(state.head + 1)
            return ()
        found = state.recent.read(after, limit, max_bytes)
        if found is None:
            if after + 1 < state.first:
                raise CursorLost(state.first)
            found = state.ephemeral.read(after, limit, max_bytes)
        if found is None:
            block = self._pages.peek(state, after + 1)
            if block is None:
                return None
            found = block.read(after, state.head, limit, max_bytes)
        self._counters.tail_hits += 1
        return found

    async def read(self, bucket_id: BucketId, after: int, limit: int, max_bytes: int) -> Sequence[Event]:
        while True:
            found = self.peek(bucket_id, after, limit, max_bytes)
            if found is not None:
                return found
            state = self._state(bucket_id)
            self._counters.tail_misses += 1
            block = await self._pages.load(state, after + 1)
            if state.gone or not max(block.start, state.first) <= after + 1 <= min(block.end, state.head):
                continue
            if block.whole:
                return block.read(after, state.head, limit, max_bytes)
            await self._check_first(state, after + 1)
            good = block.good(after, state.head, limit, max_bytes)
            if good:
                return good
            if after + 1 in block.stubs:
                raise CursorLost(await self._beyond_stubs(state, block, after + 1), "ephemeral")
            beyond = await self._beyond_damage(state, block, after + 1)
            if beyond > after + 1:
                raise CursorLost(beyond)

    async def _check_first(self, state: LogState, seq: int) -> None:
        """Raises CursorLost or BucketGone if retention or a drop removed the event before this process noticed it; if
        not, it is damaged."""
        first = await self._read(
            lambda raw: raw.execute("SELECT first FROM log WHERE id = ? AND dropped = 0", (state.key,)).fetchone()
        )
        if first is None:
            raise BucketGone(state.bucket_id)
        if seq < first[0]:
            # The trim is committed, and announced in a moment. Whoever asks for the bounds until then would take its
            # events for damaged.
            state.first = max(state.first, first[0])
            raise CursorLost(first[0])

    async def _beyond_damage(self, state: LogState, block: Block, seq: int) -> int:
        """The next seq that can be read; head + 1 if there is none, `seq` if it can be read after all. Raises
        Unavailable if the disk fails: then nothing is known of the events, and whoever passed over them would never get
        them."""
        beyond = await self._next_good(state, block, seq)
        if not self._is_told(state, seq, beyond):
            await self._database.check_disk()
            beyond = await self._next_good(state, await self._pages.load(state, seq), seq)
        if not self._is_told(state, seq, beyond):
            self._told[state.key, beyond] = seq
            _log.error("events_damaged", bucket=state.bucket_id, first=seq, last=beyond - 1, events=beyond - seq)
        return beyond

    def _is_told(self, state: LogState, seq: int, beyond: int) -> bool:
        """Whether it is known, and was logged, that the events from `seq` to before `beyond` are damaged."""
        return seq >= self._told.get((state.key, beyond), beyond)

    async def _next_good(self, state: LogState, block: Block, seq: int) -> int:
        """The first seq from `seq` on that can be read; head + 1 if there is none."""
        while seq <= state.head:
            if not block.start <= seq <= block.end:
                # If the head is damaged, the next existing event may be far away.
                seq = await self._read(partial(rows.next_there, log=state.key, seq=seq, head=state.head))
                if seq > state.head:
                    break
                # A shared read may return a smaller block, and a trim may come in between.
                block = await self._pages.load(state, seq)
                if state.gone:
                    raise BucketGone(state.bucket_id)
                seq = max(seq, state.first)
                continue
            if block.events[seq - block.start] is not None or seq in block.stubs:
                break
            seq += 1
        return seq

    async def _beyond_stubs(self, state: LogState, block: Block, seq: int) -> int:
        """The next seq after a stub without content that is not a stub or has its content; head + 1 if there is none.
        If damage hides that, the next one that is no stub of the block, or is behind it."""
        beyond = state.ephemeral.beyond(seq)
        if beyond is None:
            key, head = state.key, state.head
            beyond = await self._read(lambda raw: rows.after_stubs(raw, key, seq, head))
            if beyond is None:
                beyond = next(each for each in range(seq + 1, block.end + 2) if each not in block.stubs)
            beyond = min(beyond, next((each for each in state.ephemeral.events if each > seq), beyond))
        return beyond

    async def pick(self, bucket_id: BucketId, seqs: Sequence[int], max_bytes: int) -> Sequence[Event | None]:
        state = self._state(bucket_id)
        known: dict[int, Event] = {}
        for seq in seqs:
            with suppress(CursorLost):
                known |= {event.seq: event for event in self.peek(bucket_id, seq - 1, 1, 1) or ()}
        key, first, head, epochs = state.key, state.first, state.head, state.epochs

        def job(raw: sqlite3.Connection) -> list[Event | None]:
            found: list[Event | None] = []
            room = max_bytes
            for seq in seqs:
                event = known.get(seq)
                if event is None and first <= seq <= head:
                    event = rows.select(raw, key, seq, seq, epochs, max_bytes).events[0]
                room -= 0 if event is None else event.size
                if room < 0 and found:
                    break
                found.append(event)
            return found

        return await self._read(job)

    async def outline(self, bucket_id: BucketId, first: int, last: int) -> Sequence[Outline]:
        state = self._state(bucket_id)
        key, start, end = state.key, max(first, state.first), min(last, state.head)
        return await self._read(lambda raw: rows.outline(raw, key, start, end))

    def watch(self, bucket_ids: Collection[BucketId] | None, wake: Callable[[BucketId], None]) -> Registration:
        return self._watches.add(bucket_ids, wake)

    async def bounds(self, bucket_id: BucketId) -> Bounds:
        return self._state(bucket_id).bounds()

    def begin(self, bucket_id: BucketId) -> int:
        return self._state(bucket_id).epochs[0].from_seq

    def held(self, bucket_id: BucketId) -> Held:
        state = self._state(bucket_id)
        return Held(state.head - state.first + 1, state.bytes)

    async def extents(self, bucket_ids: Collection[BucketId]) -> Mapping[BucketId, Extent]:
        states = [self._logs[bucket_id] for bucket_id in bucket_ids if bucket_id in self._logs]
        held = {state.bucket_id: (state.key, state.first, state.bytes, state.last_at) for state in states}
        empty = {state.bucket_id for state in states if state.first > state.head}

        def job(raw: sqlite3.Connection) -> dict[BucketId, Extent]:
            found = {}
            for bucket_id, (key, first, size, newest) in held.items():
                oldest = None if bucket_id in empty else rows.received_at(raw, key, first)
                found[bucket_id] = Extent(size, oldest, None if bucket_id in empty else newest)
            return found

        return await self._read(job)

    async def find(self, epoch: str) -> BucketId | None:
        return self._epochs.get(epoch)

    async def seek(self, bucket_id: BucketId, time: float) -> int:
        state = self._state(bucket_id)
        key, first, head = state.key, state.first, state.head
        found = await self._read(lambda raw: reclaim.seek(raw, key, first, head, time))
        return max(found, state.first - 1)

    async def buckets(self) -> Collection[BucketId]:
        return tuple(self._logs)

    # creating, trimming, dropping

    async def create(self, bucket_id: BucketId, epoch: str, first: int = 1) -> None:
        if bucket_id in self._logs:
            return

        def job(raw: sqlite3.Connection) -> int | None:
            if raw.execute("SELECT 1 FROM log WHERE bucket = ? AND dropped = 0", (bucket_id,)).fetchone() is not None:
                return None
            values = (bucket_id, first, first - 1)
            key = raw.execute("INSERT INTO log (bucket, first, head) VALUES (?, ?, ?)", values).lastrowid
            rows.insert_epochs(raw, [epoch, key, first])
            return key

        def created(key: int | None) -> None:
            if key is not None:
                self._opened.add(epoch)
                self._add(LogState(key, bucket_id, (Epoch(epoch, first),), True, first))

        await self._database.write(job, created, shared=True)

    async def import_events(self, bucket_id: BucketId, events: Sequence[Event], stubs: Mapping[int, int]) -> None:
        state = self._state(bucket_id)
        size = sum(event.size for event in events)
        if (refusal := self._database.refusal(size)) is not None:
            raise refusal

        def job(raw: sqlite3.Connection) -> Import:
            # The state in memory can't change while this runs: it changes only between two transactions.
            if state.gone:
                raise BucketGone(bucket_id)
            made = Import(state, events, stubs, new_epoch)
            made.write(raw)
            return made

        if events:
            await self._database.write(job, self._imported, size)

    def _imported(self, made: Import) -> None:
        state = made.state
        made.apply()
        if made.opened is not None:
            self._opened.add(made.opened.epoch)
            self._epochs[made.opened.epoch] = state.bucket_id
        state.recent = Recent()  # its events must be consecutive and end at the head
        self._watches.wake(state.bucket_id)

    async def trim(self, bucket_id: BucketId, keep: Retention, floor: int | None) -> int:
        return await self._trimming.trim(self._state(bucket_id), keep, floor)

    async def forget_repeats(self, bucket_id: BucketId) -> None:
        await self._trimming.forget_repeats(self._state(bucket_id))

    async def drop(self, bucket_id: BucketId) -> None:
        state = self._logs.get(bucket_id)
        if state is not None:
            await self._database.write(
                lambda raw: reclaim.drop(raw, state.key), lambda _: self._remove(state), shared=True
            )
            self._trimming.purge(state.key)

    async def close(self) -> None:
        self._closed = True
        await self._trimming.close()
        await self._appends.empty()
        if self._renewals:
            await asyncio.wait(self._renewals)
        await self._pages.close()
        self._ephemeral.close()

    # state in memory

    def _state(self, bucket_id: BucketId) -> LogState:
        state = self._logs.get(bucket_id)
        if state is None:
            raise BucketGone(bucket_id)
        return state

    def _head(self, bucket_id: BucketId) -> int:
        state = self._logs.get(bucket_id)
        return 0 if state is None else state.head

    async def _read(self, job: Callable[[sqlite3.Connection], T]) -> T:
        return await self._database.read(job, "the log")

    def _add(self, state: LogState) -> None:
        self._logs[state.bucket_id] = state
        for epoch in state.epochs:
            self._epochs[epoch.epoch] = state.bucket_id

    def _remove(self, state: LogState) -> None:
        state.gone = True
        self._pages.forget(state.key)
        if self._logs.get(state.bucket_id) is state:
            del self._logs[state.bucket_id]
        for epoch in state.epochs:
            self._epochs.pop(epoch.epoch, None)
            self._opened.discard(epoch.epoch)
        self._watches.wake(state.bucket_id)

    def _apply(self, loaded: Loaded) -> None:
        """Takes over what the file says, at the start and when it was reopened after an error."""
        made: list[str | int] = []
        for row in renew(loaded):
            made += (loaded.epochs[row.key][0].epoch, row.key, 1)
            _log.error(
                "log_without_epoch",
                bucket=row.bucket_id,
                consequence="its events have new ids, and a client with an older position is told a gap",
                hint="the file is damaged: run `relay check`",
            )
        if made:
            task = self._loop.create_task(self._store_epochs(made), name="relay-epochs")
            self._renewals.add(task)
            task.add_done_callback(self._renewals.discard)
        known = {state.key: state for state in self._logs.values()}
        for row in loaded.live:
            epochs = tuple(loaded.epochs[row.key])
            state = known.pop(row.key, None)
            if state is None:
                state = LogState(row.key, row.bucket_id, epochs, False)
                self._add(state)
            if row.head < state.head:
                lost = state.head - row.head
                _log.error("published_events_lost", bucket=row.bucket_id, events=lost, head=row.head)
                self._opened.discard(epochs[-1].epoch)
            if row.head != state.head:
                state.recent = Recent()
                state.ephemeral = EphemeralEvents()
                self._pages.forget(state.key)
            state.bytes_checked = state.bytes_checked and row.bytes == state.bytes
            state.epochs = epochs
            state.open = epochs[-1].epoch in self._opened
            self._epochs.update((epoch.epoch, row.bucket_id) for epoch in epochs)
            state.first, state.head, state.bytes, state.last_at = row.first, row.head, row.bytes, row.last_at
            # A wake may have been missed.
            self._watches.wake(row.bucket_id)
        for state in known.values():
            if state.key not in loaded.damaged:
                self._remove(state)
        for key in loaded.dropped:
            self._trimming.purge(key)

    async def _store_epochs(self, epochs: list[str | int]) -> None:
        try:
            await self._database.write(lambda raw: rows.insert_epochs(raw, epochs))
        except (RelayError, sqlite3.Error) as error:
            _log.warning("epochs_not_stored", error=str(error), consequence="ids change once more at the next start")
