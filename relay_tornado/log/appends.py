"""The queue of appends, bounded in bytes. What has gathered in it becomes the writer's next transaction.

This is group commit without a timer: the next transaction holds what was queued while the last one was committed, and
what senders that were answered then sent at once.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Sequence
from itertools import chain

import structlog

from relay_tornado.counters import Counters
from relay_tornado.errors import BucketGone, Malformed, Overloaded, RelayError, Unavailable, Unknown
from relay_tornado.ids import new_epoch
from relay_tornado.log import rows
from relay_tornado.log.batch import Entry, Plan, digests, plan
from relay_tornado.log.contract import Done
from relay_tornado.log.slow_commits import SlowCommits
from relay_tornado.log.state import LogState
from relay_tornado.log.tail import EVENT_OVERHEAD
from relay_tornado.low_memory import try_log, wake
from relay_tornado.model import NewEvent
from relay_tornado.settings import Settings
from relay_tornado.shares import SHARE, exceeds
from relay_tornado.storage.work import Stale, Work, again

_QUICK_EVENTS = 256
_QUICK_BYTES = 256 << 10
_QUICK_LOGS = 64
_WARM = 60.0
"""A commit is quick if it holds at most so many events and bytes, for at most so many logs, all of which were appended
to within the last `_WARM` seconds. It then changes only pages that are in memory: the table's last ones, and the last
index page of each log. Digests are spread over their index, and have to be read from the disk."""

_log = structlog.get_logger(__name__)


class Appends:
    """The queue (`storage.work.Source`). Once a plan is committed, `publish` is called before the senders are
    answered, and `announce` after that."""

    def __init__(
        self,
        settings: Settings,
        notify: Callable[[], None],
        publish: Callable[[Plan], None],
        announce: Callable[[Plan], None],
        counters: Counters,
    ) -> None:
        self._counters = counters
        self._slow = SlowCommits()
        self._most_bytes = settings.append_queue
        self._uncrowded = settings.append_queue * SHARE // (SHARE + 1)
        """Up to so many bytes held, no bucket can have more than its share."""
        self._batch_events = settings.commit_events
        self._batch_bytes = settings.commit_bytes
        self._notify = notify
        self._publish = publish
        self._announce = announce
        self._queue: deque[Entry] = deque()
        self._alone: deque[Entry] = deque()
        self._taken: Sequence[Entry] = ()
        """The entries of the last batch, until all of them are answered."""
        self.held = 0
        """Bytes of the events that wait for a commit, with their overhead."""
        self._by_log: Counter[LogState] | None = None
        """The same for each log, if it was counted since something was last released."""
        self._loop = asyncio.get_running_loop()
        self._empty: asyncio.Future[None] | None = None

    def add(self, state: LogState, event: NewEvent, size: int, done: Done) -> Overloaded | None:
        """Queues an event of that size. Returns an error if its bytes do not fit, in all or in its bucket's share. An
        empty queue takes any event; a bucket's first one may take all that is free."""
        held = self.held + size + EVENT_OVERHEAD
        if held > self._uncrowded and self._crowded(state, held):
            return Overloaded("more events are coming in than can be stored; send it again in a moment")
        queue, entry = self._queue, Entry(state, event, size, done)
        if not queue:
            self._notify()
        queue.append(entry)
        self.held = held
        return None

    def _crowded(self, state: LogState, held: int) -> bool:
        """Whether an event of this log, with which so many bytes would wait, does not fit: in all, or in the share of
        its bucket, whose senders could keep all others out while the disk is slow. Counts it if it fits."""
        free = self._most_bytes - held
        if free < 0 or not self.held:
            return self.held > 0
        if self._by_log is None:
            self._by_log = self._waiting_by_log()
        cost = held - self.held
        if exceeds(self._by_log[state], cost, free):
            return True
        self._by_log[state] += cost
        return False

    def _waiting_by_log(self) -> Counter[LogState]:
        counts: Counter[LogState] = Counter()
        for entry in chain(self._taken, self._alone, self._queue):
            if entry.done is not None:
                counts[entry.state] += entry.size + EVENT_OVERHEAD
        return counts

    def waiting(self) -> int:
        """How many events wait for their transaction."""
        return len(self._queue) + len(self._alone)

    def take(self) -> Batch | None:
        """The next transaction: the oldest events, within the limits on events and bytes, but at least one."""
        if self._taken:
            self._fail_unanswered()
        for queue, most in ((self._alone, 1), (self._queue, self._batch_events)):
            while queue and queue[0].over():
                self._fail(queue[0], BucketGone(queue[0].state.bucket_id))
                queue.popleft()
            if queue:
                return self._batch(queue, most)
        return None

    def _batch(self, queue: deque[Entry], most: int) -> Batch:
        """The first entries of a queue, up to one that is over. They leave the queue last, when no step is left that
        needs memory."""
        entries: list[Entry] = []
        room = self._batch_bytes
        for entry in queue:
            room -= entry.size
            if len(entries) == most or entry.over() or (room < 0 and entries):
                break
            entries.append(entry)
        batch = Batch(self, entries)
        for _ in entries:
            queue.popleft()
        self._taken = entries
        return batch

    def _fail_unanswered(self) -> None:
        """Fails entries of the last batch that were not answered for lack of memory: their outcome is unknown."""
        for entry in self._taken:
            if entry.done is not None:
                self._fail(entry, Unknown())
        self._taken = ()
        self._release(self.held - self._waiting_by_log().total())

    def reject(self, error: RelayError) -> None:
        """Fails everything that waits."""
        for queue in (self._alone, self._queue):
            while queue:
                self._fail(queue[0], again(error))
                queue.popleft()

    async def empty(self) -> None:
        """Waits until every append is answered."""
        while self.held > 0:
            self._empty = asyncio.get_running_loop().create_future()
            await self._empty

    def _release(self, size: int) -> None:
        self._by_log = None
        self.held -= size
        if not self.held and self._empty is not None and not self._empty.done():
            wake(self._empty, None)

    def _fail(self, entry: Entry, error: RelayError) -> None:
        if entry.done is not None:
            self._loop.call_soon(entry.done, error)
            entry.done = None
            self._release(entry.size + EVENT_OVERHEAD)

    def committed(self, entries: list[Entry], made: Plan, began: float) -> None:
        """Publishes, answers and announces, in this order. If a step fails, the others still run: each sender of a
        stored event gets its answer, and events that were not published are read from the file. Then the error is
        raised."""
        try:
            self._publish(made)
            self._count(entries, made, began)
        finally:
            self._answer(entries)
            self._announce(made)
            self._release(sum([entry.size for entry in entries]) + len(entries) * EVENT_OVERHEAD)
            self._taken = ()

    def _count(self, entries: list[Entry], made: Plan, began: float) -> None:
        counters = self._counters
        size = sum(growth.bytes for growth in made.growths)
        seconds = time.perf_counter() - began
        counters.committed(made.count, size, seconds)
        self._slow.took(seconds)
        counters.duplicates += len(entries) - made.count

    def _answer(self, entries: list[Entry]) -> None:
        for entry in entries:
            done, entry.done = entry.done, None
            assert entry.outcome is not None
            assert done is not None
            try:
                done(entry.outcome)
            except Exception:
                try_log(_log.exception, "answer_failed", bucket=entry.state.bucket_id)

    def failed(self, entries: list[Entry], error: Exception) -> None:
        """Answers with the error. If an event is to blame, or damage in its log and not in the whole file, each entry
        is tried again by itself."""
        one_by_one = len(entries) > 1 and (isinstance(error, Malformed) or not isinstance(error, RelayError))
        if one_by_one:
            self._alone.extend(entries)
        elif isinstance(error, RelayError):
            for entry in entries:
                self._fail(entry, again(error))
        else:
            reason = str(error) if isinstance(error, sqlite3.Error) else type(error).__name__
            _log.error("event_not_stored", error=reason, bucket=entries[0].state.bucket_id)
            self._fail(entries[0], Unavailable("the event could not be stored as it is; nothing was stored"))
        self._taken = ()


class Batch(Work):
    """Entries that are committed as one transaction."""

    __slots__ = ("_appends", "_began", "_entries", "_plan")

    def __init__(self, appends: Appends, entries: list[Entry]) -> None:
        self._appends = appends
        self._entries = entries
        self._plan: Plan  # set by `run`, as is the next one
        self._began: float

    def quick(self) -> bool:
        entries = self._entries
        if len(entries) > _QUICK_EVENTS or sum([entry.size for entry in entries]) > _QUICK_BYTES:
            return False
        states = {entry.state for entry in entries}
        since = time.time() - _WARM
        return (
            len(states) <= _QUICK_LOGS
            and all(state.last_at >= since for state in states)
            and all(entry.event.dedupe is None for entry in entries)
        )

    def run(self, raw: sqlite3.Connection) -> int:
        """Runs inside the transaction. The logs' states do not change meanwhile: only between two transactions."""
        self._began = time.perf_counter()
        looked_up = digests(self._entries)
        known = rows.known(raw, looked_up) if looked_up else {}
        self._plan = made = plan(self._entries, known, time.time(), new_epoch)
        try:
            made.write(raw)
        except sqlite3.IntegrityError as error:
            raise Stale(str(error)) from error
        return made.count

    def pages(self) -> int:
        return self._plan.pages()

    def logs(self) -> Collection[int]:
        return self._plan.logs()

    def committed(self) -> None:
        self._appends.committed(self._entries, self._plan, self._began)

    def failed(self, error: Exception) -> None:
        self._appends.failed(self._entries, error)
