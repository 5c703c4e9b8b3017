"""The consumers in use: one `Ledger` each, shared by all parts that deliver to it or administer it.

So there is one state of a consumer in memory, and a seek, a replay or a deletion reaches those that deliver at once.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Final
from weakref import WeakValueDictionary

from relay_tornado.consumer_changes import Changes
from relay_tornado.consumer_progress import Missed, Progress
from relay_tornado.counters import Counters
from relay_tornado.errors import BucketGone, CursorLost, Damaged, NotFound
from relay_tornado.log.consumers import Consumers, Key, Stored, Terms, with_untold
from relay_tornado.log.contract import EventLog
from relay_tornado.log.gap_lines import GapLines
from relay_tornado.low_memory import Lock
from relay_tornado.model import BucketId, Gap

DAMAGED: Final = "damaged"
"""The reason of a dead letter whose event the log can't read."""
EPHEMERAL: Final = "ephemeral"
"""The reason of a dead letter whose event's content was only in memory, and is gone."""


def progress_of(stored: Stored) -> Progress:
    """The progress of a consumer that is not in use, so no event is out."""
    progress = Progress(stored.floor, stored.done, stored.parked, stored.updated_at)
    # A forwarder gives up by its output's schedule.
    most = stored.terms.max_deliver if stored.key.kind == "client" else 0
    progress.interrupted(stored.tried, stored.updated_at, most)
    return progress


class Ledger:
    """A consumer in use. After a change of `progress`, the caller calls `save`; if the change may concern others (a
    seek, a schedule, a deletion), `tell` too."""

    def __init__(self, ledgers: Ledgers, stored: Stored) -> None:
        self.key = stored.key
        self.terms = stored.terms
        self.progress = progress_of(stored)
        self.gone = False
        """The consumer or its bucket was deleted: nothing is saved any more."""
        self.gap: Gap | None = None
        """The last gap that it met since it was opened."""
        self.untold: Sequence[Gap] = stored.untold
        """The gaps that no client was told of yet: the next subscriber is."""
        self.users = 0
        """How many users have it open."""
        self.given: Callable[[], int] = lambda: 0
        """Returns the seq up to which events were sent to clients that are connected and may still confirm receipt."""
        self._first = 1
        """The highest seq that was passed to `leave`."""
        self._read = 0
        """The seq up to which a receipt moved the position last."""
        self._ledgers = ledgers
        self._saving = False
        self._watchers: dict[Callable[[], None], None] = {}

    @property
    def live(self) -> bool:
        """Whether it is in use. If not, another ledger may represent the consumer by now."""
        return self._ledgers.find(self.key) is self

    def save(self) -> None:
        """Has the changes committed soon. Cheap, however often it is called."""
        if not self._saving and not self.gone:
            self._saving = True
            try:
                self._ledgers.store.save(self.key, self._changes)
            except MemoryError:
                self._saving = False
                raise

    def _changes(self) -> Changes | None:
        if not self.gone:
            # What is stored of parked events has to go with the time that is stored with it, also if the clock was set
            # back since somebody looked at it: after a crash they would wait for as much longer.
            self.progress.look(self._ledgers.clock())
        changes = None if self.gone else self.progress.changes()
        self._saving = False
        return changes

    def watch(self, changed: Callable[[], None]) -> Callable[[], object]:
        """Calls `changed` at every `tell`; it must be quick and must not raise. Returns a function that ends that."""
        end = partial(self._watchers.pop, changed, None)
        self._watchers[changed] = None
        return end

    def tell(self) -> None:
        """Informs the others of a change."""
        for changed in list(self._watchers):
            changed()

    def trim(self, first: int) -> Missed:
        """The log holds nothing below `first` any more. Removed events that were never tried are a gap, which is
        logged, counted and stored. Events that the log never held are not part of it."""
        now = self._ledgers.clock()
        self.progress.advance(self._ledgers.begin(self.key.bucket_id) - 1)
        missed = self.progress.trim(first, now)
        if self.key.kind == "output":
            self._ledgers.counters.forward_given_up += len(missed.started)
        self.save()
        gap = gap_of(missed)
        if gap is not None:
            self.met(gap, now)
        return missed

    def read(self, seq: int) -> None:
        """A client has read everything up to `seq`."""
        if self.progress.advance(seq):
            self._read = seq
            self.save()

    def leave(self, first: int = 1) -> Missed:
        """As `trim`, but if everything that is removed was `given`, the receipts are waited for. Whoever removes a
        client from `given` calls this again. The wait is not stored: after a crash the events count as a gap."""
        self._first = max(self._first, first)
        # `given` looks at every connection, so it is asked only if needed.
        waits = self.progress.floor < self._first - 1 <= self.given()
        return Missed((), ()) if self.gone or waits else self.trim(self._first)

    def miss(self, seq: int, lost: CursorLost) -> str:
        """An event that was taken can't be read, although it is within the log. Returns the reason for its dead letter.

        If it was never tried, it and the unreadable events that follow it are a gap, which is reported once.
        """
        ephemeral = lost.reason == EPHEMERAL
        gap = Gap("ephemeral" if ephemeral else "reset", seq, max(lost.first - 1, seq))
        last = self.gap or Gap(gap.reason)
        known = last.reason == gap.reason and seq in range(last.from_seq or 0, (last.to_seq or -1) + 1)
        if not known and seq not in self.progress.parked:
            self.met(gap, self._ledgers.clock())
        return EPHEMERAL if ephemeral else DAMAGED

    def lose(self, head: int) -> bool:
        """See `Progress.lose`."""
        self._first = min(self._first, head + 1)
        self._read = min(self._read, head)
        return self.progress.lose(head)

    def has_met(self, gap: Gap) -> bool:
        """Whether this gap of one of its connections was logged and counted as the consumer's. If another connection
        has read some of these events, it was not."""
        if gap.from_seq is None or gap.to_seq is None or gap.from_seq > self._read:
            return True
        last = self.gap or Gap(gap.reason)
        return (last.from_seq or gap.to_seq + 1) <= gap.from_seq and gap.to_seq <= (last.to_seq or 0)

    def met(self, gap: Gap, now: float) -> None:
        """The consumer met a gap, which is logged (now and then), counted and stored."""
        self.gap = gap
        self.untold = with_untold(self.key, self.untold, gap)
        self._ledgers.counters.gaps[gap.reason] += 1
        self._ledgers.gap_lines.tell(self.key, self._ledgers.bucket_name(self.key.bucket_id), gap)
        if not self.gone:
            self._ledgers.store.met(self.key, gap, now)


class Ledgers:
    """Opens each consumer once, however many use it. Each `open` needs one `close`."""

    def __init__(
        self, store: Consumers, log: EventLog, clock: Callable[[], float] = time.time, counters: Counters | None = None
    ) -> None:
        """`log` gives the first event that each bucket ever had. `clock` gives unix seconds. `counters` counts gaps and
        outputs' dead letters."""
        self.store = store
        self.clock = clock
        self.counters = Counters() if counters is None else counters
        self.bucket_name: Callable[[BucketId], str] = lambda bucket_id: ""
        """Returns a bucket's name, for the log; set by the composition root."""
        self.gap_lines = GapLines()
        self._log = log
        self._live: dict[BucketId, dict[Key, Ledger]] = {}
        self._opening: dict[Key, list[int]] = {}
        """The consumers that are being opened, with the heads to which their log went back meanwhile."""
        self._locks: WeakValueDictionary[Key, Lock] = WeakValueDictionary()
        store.watch_losses(self.lost)

    def told(self, ledger: Ledger, gaps: Sequence[Gap]) -> None:
        """A client was told of these gaps of a consumer, which need not be in use any more."""
        live = self.find(ledger.key)
        if ledger.gone or (live is not None and not any(gap in live.untold for gap in gaps)):
            return
        if live is not None:
            live.untold = tuple(gap for gap in live.untold if gap not in gaps)
        self.store.told(ledger.key, gaps)

    def begin(self, bucket_id: BucketId) -> int:
        """See `EventLog.begin`; 1 if there is no log."""
        try:
            return self._log.begin(bucket_id)
        except BucketGone:
            return 1

    def find(self, key: Key) -> Ledger | None:
        """The consumer's ledger, if it is in use."""
        those = self._live.get(key.bucket_id)
        return None if those is None else those.get(key)

    def _of(self, bucket_id: BucketId) -> list[Ledger]:
        """The ledgers in use of a bucket."""
        return list(self._live.get(bucket_id, {}).values())

    def trimmed(self, bucket_id: BucketId, first: int) -> None:
        """The bucket's log holds nothing below `first` any more. Tells the ledgers in use."""
        for ledger in self._of(bucket_id):
            if ledger.leave(first):
                ledger.tell()

    def lost(self, bucket_id: BucketId, head: int) -> None:
        """The bucket's log ends at `head` again: the file lost what came after it."""
        for key, heads in self._opening.items():
            if key.bucket_id == bucket_id:
                heads.append(head)
        for ledger in self._of(bucket_id):
            known = ledger.lose(head)
            ledger.save()
            if known:
                ledger.met(Gap("reset"), self.clock())
                ledger.tell()

    async def open(self, key: Key, floor: int | None = None, terms: Terms | None = None) -> Ledger:
        """Opens a consumer. One that does not exist is created after `floor` with these terms, or is NotFound if they
        are None. One that exists keeps its own terms (see `agree`).

        Raises NotFound, BucketGone, and what the store raises.
        """
        async with self._locks.setdefault(key, Lock()):
            ledger = self.find(key) or await self._load(key, floor, terms)
        ledger.users += 1
        return ledger

    async def _load(self, key: Key, floor: int | None, terms: Terms | None) -> Ledger:
        """Called under the consumer's lock."""
        heads = self._opening[key] = []
        try:
            stored = await self.store.get(key)
            if stored is None and floor is None:
                raise NotFound(f"there is no {key.kind} consumer {key.name!r}")
            if stored is None:
                stored = await self.store.create(key, floor or 0, terms or Terms(), self.clock())
            bounds = await self._log.bounds(key.bucket_id)
        finally:
            del self._opening[key]
        ledger = Ledger(self, stored)
        for head in heads:
            ledger.lose(head)
        ledger.trim(bounds.first)
        self._live.setdefault(key.bucket_id, {})[key] = ledger
        return ledger

    async def agree(self, ledger: Ledger, terms: Terms) -> None:
        """Sets the consumer's terms for all its users. Nothing happens if the consumer or its bucket is gone. Raises
        what the store raises."""
        async with self._locks.setdefault(ledger.key, Lock()):
            if not ledger.gone and terms != ledger.terms:
                with suppress(BucketGone):
                    ledger.terms = (await self.store.create(ledger.key, 0, terms, self.clock())).terms

    def close(self, ledger: Ledger) -> None:
        """Ends one use. Its changes were saved before."""
        if ledger.users == 1:
            self._drop(ledger)
        ledger.users -= 1

    @asynccontextmanager
    async def using(self, key: Key) -> AsyncIterator[Ledger]:
        """Opens an existing consumer for a moment. Raises NotFound."""
        ledger = await self.open(key)
        try:
            yield ledger
            ledger.save()
        finally:
            self.close(ledger)

    async def renew(self, key: Key, floor: int) -> None:
        """Lets a consumer whose record is damaged, so that it can't be opened, start again after `floor`."""
        async with self._locks.setdefault(key, Lock()):
            if self.find(key) is None:
                await self.store.renew(key, floor, self.clock())

    async def delete(self, key: Key) -> bool:
        """Deletes a consumer, and tells its users. Returns False if there is none. If the store raises, its users
        continue; it may lack some dead letters."""
        async with self._locks.setdefault(key, Lock()):
            ledger = self.find(key)
            deleted = await self.store.delete(key)
            self.gap_lines.forget(key)
            if ledger is not None and not ledger.gone:
                self._end(ledger)
        return deleted

    async def recover(self) -> None:
        """At a start: events that were being tried when the last process ended are tried again, or are dead, even if
        nobody opens their consumer. A damaged consumer waits for `renew`."""
        for stored in await self.store.list():
            if stored.tried:
                with suppress(NotFound, Damaged):
                    async with self.using(stored.key):
                        pass

    def forget(self, bucket_id: BucketId) -> None:
        """The bucket is gone, and so are its consumers."""
        for ledger in self._of(bucket_id):
            self._end(ledger)
        self.store.forget(bucket_id)

    def _end(self, ledger: Ledger) -> None:
        """The consumer is gone. It may have been closed before, and then is not in use any more."""
        ledger.gone = True
        self._drop(ledger)
        ledger.tell()

    def _drop(self, ledger: Ledger) -> None:
        if ledger.live:
            those = self._live[ledger.key.bucket_id]
            del those[ledger.key]
            if not those:
                del self._live[ledger.key.bucket_id]


def gap_of(missed: Missed) -> Gap | None:
    """The gap of removed events that were never tried; None if all of them were."""
    ends = [*missed.untried, *(seq for ends in missed.fresh for seq in ends)]
    return Gap("retention", min(ends), max(ends)) if ends else None
