"""The event log in memory: the same contract with nothing behind it, for fast tests.

It can be opened again, as after a restart, and made to lose its last events, as a crash or a damaged disk does.
"""

from __future__ import annotations

import asyncio
import time as clock
from bisect import bisect_left
from collections.abc import Callable, Collection, Mapping, Sequence

import msgspec

from relay_tornado.errors import BucketGone, CursorLost, RelayError, Unavailable
from relay_tornado.ids import new_epoch
from relay_tornado.log.batch import Entry, plan
from relay_tornado.log.contract import Done, Extent, Held, Outline
from relay_tornado.log.ephemeral import Ephemeral, EphemeralEvents
from relay_tornado.log.importing import Import
from relay_tornado.log.rows import checksum, marks_of
from relay_tornado.log.state import LogState, age_limit, excess_bytes, keep_from_count
from relay_tornado.log.watch import Registration, Watches
from relay_tornado.model import Appended, Bounds, BucketId, Epoch, Event, NewEvent, Retention


class _Log(LogState):
    """A log with its events, `first` to `head`; of ephemeral ones (`stubs`, with their sizes) their place only."""

    __slots__ = ("digests", "events", "stubs")

    def __init__(self, key: int, bucket_id: BucketId, epoch: str, first: int) -> None:
        super().__init__(key, bucket_id, (Epoch(epoch, first),), True, first)
        self.events: list[Event] = []
        self.stubs: dict[int, int] = {}
        self.digests: dict[tuple[int, bytes], tuple[int, float]] = {}


class MemoryEventLog:
    """See `log.contract.EventLog`. An append is committed before `append` returns."""

    def __init__(self, time: Callable[[], float] = clock.time) -> None:
        self._time = time
        self._logs: dict[BucketId, _Log] = {}
        self._made = 0
        self._ephemeral = Ephemeral()
        self._watches = Watches(lambda bucket_id: self._logs[bucket_id].head if bucket_id in self._logs else 0)
        self._closed = False

    def reopen(self) -> None:
        """As after a restart: registrations are gone, and no epoch is this process's own any more."""
        self._closed = False
        self._watches = Watches(self._watches.head)
        self._ephemeral.close()
        for log in self._logs.values():
            log.open = False
            log.ephemeral = EphemeralEvents()

    def lose(self, bucket_id: BucketId, count: int) -> None:
        """As after a crash that took the last `count` events with it: what was given to them is forgotten."""
        self.reopen()
        log = self._log(bucket_id)
        log.head = max(log.head - count, log.first - 1)
        lost = log.events[log.head - log.first + 1 :]
        del log.events[log.head - log.first + 1 :]
        log.bytes -= sum(log.stubs.pop(event.seq, event.size) for event in lost)
        log.epochs = log.epochs[:1] + tuple(epoch for epoch in log.epochs[1:] if epoch.from_seq <= log.head)
        log.digests = {digest: found for digest, found in log.digests.items() if found[0] <= log.head}

    def append(self, bucket_id: BucketId, event: NewEvent) -> asyncio.Future[Appended]:
        future: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
        try:
            future.set_result(self._append(self._log(bucket_id), event))
        except RelayError as error:
            future.set_exception(error)
        return future

    def submit(self, bucket_id: BucketId, event: NewEvent, done: Done) -> None:
        def finished(future: asyncio.Future[Appended]) -> None:
            error = asyncio.CancelledError() if future.cancelled() else future.exception()
            done(future.result() if error is None else error)

        self.append(bucket_id, event).add_done_callback(finished)

    def _append(self, log: _Log, event: NewEvent) -> Appended:
        if self._closed:
            raise Unavailable("the log is closed")
        entry = Entry(log, event, event.size, lambda outcome: None)
        now = self._time()
        made = plan([entry], log.digests, now, new_epoch)
        for growth in made.growths:
            if growth.opened is not None:
                log.epochs += (growth.opened,)
                log.open = True
            log.events += growth.events
            for each in growth.ephemeral:
                stub = msgspec.structs.replace(each, path=b"", query=b"", headers=b"", body=b"", remote_ip="")
                log.events.append(stub)
                log.stubs[each.seq] = each.size
            self._ephemeral.add(log.ephemeral, growth.ephemeral)
            log.head, log.last_at = growth.head, growth.at
            log.bytes += growth.bytes
            if event.dedupe is not None:
                log.digests[log.key, event.dedupe] = (growth.head, now)
            self._watches.wake(log.bucket_id)
        assert entry.outcome is not None
        return entry.outcome

    @property
    def append_queue(self) -> int:
        """None wait."""
        return 0

    def peek(self, bucket_id: BucketId, after: int, limit: int, max_bytes: int) -> Sequence[Event]:
        """See the contract; it can always answer."""
        log = self._log(bucket_id)
        if after > log.head:
            raise CursorLost(log.head + 1)
        if after + 1 < log.first:
            raise CursorLost(log.first)
        found: list[Event] = []
        kept = log.ephemeral.read(after, limit, max_bytes)
        if kept is not None:
            return kept
        if log.stubs.get(after + 1):
            raise CursorLost(self._beyond_stubs(log, after + 1), "ephemeral")
        for event in log.events[after + 1 - log.first : after + 1 - log.first + limit]:
            if log.stubs.get(event.seq):
                break
            max_bytes -= event.size
            if max_bytes < 0 and found:
                break
            found.append(event)
        return found

    async def read(self, bucket_id: BucketId, after: int, limit: int, max_bytes: int) -> Sequence[Event]:
        return self.peek(bucket_id, after, limit, max_bytes)

    async def pick(self, bucket_id: BucketId, seqs: Sequence[int], max_bytes: int) -> Sequence[Event | None]:
        found: list[Event | None] = []
        for seq in seqs:
            try:
                event = next(iter(self.peek(bucket_id, seq - 1, 1, 1)), None)
            except CursorLost:
                event = None
            max_bytes -= 0 if event is None else event.size
            if max_bytes < 0 and found:
                break
            found.append(event)
        return found

    def _beyond_stubs(self, log: _Log, seq: int) -> int:
        while seq <= log.head and log.stubs.get(seq) and seq not in log.ephemeral.events:
            seq += 1
        return seq

    async def outline(self, bucket_id: BucketId, first: int, last: int) -> Sequence[Outline]:
        log = self._log(bucket_id)
        return [
            Outline(
                event.seq,
                event.received_at,
                event.input_id,
                event.method,
                log.stubs.get(event.seq, event.size),
                checksum(event, marks_of(event)),
                bool(log.stubs.get(event.seq)),
            )
            for event in log.events[max(first - log.first, 0) : max(last - log.first + 1, 0)]
        ]

    def watch(self, bucket_ids: Collection[BucketId] | None, wake: Callable[[BucketId], None]) -> Registration:
        return self._watches.add(bucket_ids, wake)

    async def bounds(self, bucket_id: BucketId) -> Bounds:
        return self._log(bucket_id).bounds()

    def begin(self, bucket_id: BucketId) -> int:
        return self._log(bucket_id).epochs[0].from_seq

    def held(self, bucket_id: BucketId) -> Held:
        log = self._log(bucket_id)
        return Held(len(log.events), log.bytes)

    async def extents(self, bucket_ids: Collection[BucketId]) -> Mapping[BucketId, Extent]:
        found = {}
        for bucket_id in bucket_ids:
            log = self._logs.get(bucket_id)
            if log is not None:
                times = [event.received_at for event in log.events]
                found[bucket_id] = Extent(log.bytes, times[0] if times else None, times[-1] if times else None)
        return found

    async def find(self, epoch: str) -> BucketId | None:
        for log in self._logs.values():
            if any(known.epoch == epoch for known in log.epochs):
                return log.bucket_id
        return None

    async def seek(self, bucket_id: BucketId, time: float) -> int:
        log = self._log(bucket_id)
        return log.first - 1 + bisect_left(log.events, time, key=lambda event: event.received_at)

    async def create(self, bucket_id: BucketId, epoch: str, first: int = 1) -> None:
        if bucket_id in self._logs:
            return
        self._made += 1
        self._logs[bucket_id] = _Log(self._made, bucket_id, epoch, first)

    async def drop(self, bucket_id: BucketId) -> None:
        if self._logs.pop(bucket_id, None) is not None:
            self._watches.wake(bucket_id)

    async def import_events(self, bucket_id: BucketId, events: Sequence[Event], stubs: Mapping[int, int]) -> None:
        log = self._log(bucket_id)
        if self._closed:
            raise Unavailable("the log is closed")
        if not events:
            return
        made = Import(log, events, stubs, new_epoch)
        made.apply()
        for event in events:
            log.events.append(msgspec.structs.replace(event, epoch=log.epochs[-1].epoch))
        log.stubs.update(stubs)
        self._watches.wake(bucket_id)

    async def buckets(self) -> Collection[BucketId]:
        return tuple(self._logs)

    async def trim(self, bucket_id: BucketId, keep: Retention, floor: int | None) -> int:
        """See the contract; in one step."""
        log = self._log(bucket_id)
        oldest = keep_from_count(log.head, keep)
        limit = age_limit(keep, self._time())
        if limit is not None:
            oldest = max(oldest, await self.seek(bucket_id, limit) + 1)
        stop = log.head + 1 if floor is None else min(log.head + 1, floor)
        left = 0
        while log.first < stop and (log.first < oldest or excess_bytes(log.bytes, keep)):
            log.bytes -= log.stubs.pop(log.first, log.events[left].size)
            log.first += 1
            left += 1
        del log.events[:left]
        return left

    async def forget_repeats(self, bucket_id: BucketId) -> None:
        """See the contract; nothing takes space here."""
        self._log(bucket_id)

    async def close(self) -> None:
        self._closed = True
        self._ephemeral.close()

    def _log(self, bucket_id: BucketId) -> _Log:
        log = self._logs.get(bucket_id)
        if log is None:
            raise BucketGone(bucket_id)
        return log
