"""The consumers that somebody works with now: one `Ledger` each, shared by all who deliver to it and who administer it.

So there is one truth about a consumer in memory, and a seek, a replay or a deletion reaches those who deliver at once.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Final
from weakref import WeakValueDictionary

import structlog

from relay_tornado.consumer_changes import Changes
from relay_tornado.consumer_progress import Missed, Progress
from relay_tornado.counters import Counters
from relay_tornado.errors import BucketGone, CursorLost, Damaged, NotFound
from relay_tornado.log.consumers import Consumers, Key, Stored, Terms, with_untold
from relay_tornado.log.contract import EventLog
from relay_tornado.low_memory import Lock, try_log
from relay_tornado.model import BucketId, Gap

DAMAGED: Final = "damaged"
"""Why an event is dead that the log can't read."""
EPHEMERAL: Final = "ephemeral"
"""Why an event is dead whose content was in memory only, and has left it."""

_log = structlog.get_logger(__name__)


def progress_of(stored: Stored) -> Progress:
    """How far a consumer is that nobody has in use: nothing of it is out any more."""
    progress = Progress(stored.floor, stored.done, stored.parked, stored.updated_at)
    # A forwarder has its output's schedule, and gives up by that.
    most = stored.terms.max_deliver if stored.key.kind == "client" else 0
    progress.interrupted(stored.tried, stored.updated_at, most)
    return progress


class Ledger:
    """A consumer in use. After a change of `progress`, whoever made it calls `save`; where others may have to do with
    it (a seek, what was scheduled, a deletion), `tell` too."""

    def __init__(self, ledgers: Ledgers, stored: Stored) -> None:
        self.key = stored.key
        self.terms = stored.terms
        self.progress = progress_of(stored)
        self.gone = False
        """It was deleted, or its bucket was: nothing is kept any more."""
        self.gap: Gap | None = None
        """The last gap that it met since it was opened."""
        self.untold: Sequence[Gap] = stored.untold
        """The gaps that it met and no client was told of: whoever subscribes next is."""
        self.users = 0
        """How many have it open."""
        self.given: Callable[[], int] = lambda: 0
        """How far events were given to clients that are still there to say by receipt that they read them."""
        self._first = 1
        """What `leave` was told last."""
        self._ledgers = ledgers
        self._saving = False
        self._watchers: dict[Callable[[], None], None] = {}

    @property
    def live(self) -> bool:
        """Whether somebody uses it. Where nobody does, another one may stand for its consumer by now."""
        return self._ledgers.find(self.key) is self

    def save(self) -> None:
        """Has what changed be committed soon; cheap, however often it is called."""
        if not self._saving and not self.gone:
            self._saving = True
            try:
                self._ledgers.store.save(self.key, self._changes)
            except MemoryError:
                self._saving = False
                raise

    def _changes(self) -> Changes | None:
        changes = None if self.gone else self.progress.changes()
        self._saving = False
        return changes

    def watch(self, changed: Callable[[], None]) -> Callable[[], object]:
        """Calls `changed` whenever somebody tells; returns what ends that. It must be quick and must not raise."""
        end = partial(self._watchers.pop, changed, None)
        self._watchers[changed] = None
        return end

    def tell(self) -> None:
        """Something changed that others have to look at."""
        for changed in list(self._watchers):
            changed()

    def trim(self, first: int) -> Missed:
        """The log holds nothing below `first` any more. What was never tried is a gap: it is logged and counted, and
        the consumer shows it. What the log never held is none."""
        now = self._ledgers.clock()
        self.progress.advance(self._ledgers.begin(self.key.bucket_id) - 1)
        missed = self.progress.trim(first, now)
        self.save()
        gap = gap_of(missed)
        if gap is not None:
            self.met(gap, now)
        return missed

    def leave(self, first: int = 1) -> Missed:
        """As `trim`; but where all that leaves was `given`, the clients' receipts are waited for, and whoever
        takes one of them away calls this again. Nothing of that is stored, so after a crash it is a gap."""
        self._first = max(self._first, first)
        # Whoever is past it need not be asked, which takes a look at all who are connected.
        waits = self.progress.floor < self._first - 1 <= self.given()
        return Missed((), ()) if self.gone or waits else self.trim(self._first)

    def miss(self, seq: int, lost: CursorLost) -> str:
        """An event within the log, which was taken, can't be read any more. Returns why, as its dead letter says it.

        Where it was never tried, it is a gap with what follows it, which the consumer meets once.
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
        return self.progress.lose(head)

    def met(self, gap: Gap, now: float) -> None:
        """The consumer met a gap: it is logged and counted, and the consumer shows it."""
        self.gap = gap
        self.untold = with_untold(self.key, self.untold, gap)
        self._ledgers.counters.gaps[gap.reason] += 1
        try_log(
            _log.warning,
            "consumer_gap",
            bucket_id=self.key.bucket_id,
            kind=self.key.kind,
            consumer=self.key.name,
            reason=gap.reason,
            first=gap.from_seq,
            last=gap.to_seq,
        )
        if not self.gone:
            self._ledgers.store.met(self.key, gap, now)


class Ledgers:
    """Opens consumers, each once. An opened one is let go with `close`, as often as it was opened."""

    def __init__(
        self, store: Consumers, log: EventLog, clock: Callable[[], float] = time.time, counters: Counters | None = None
    ) -> None:
        """`log` says which events there are. `clock` gives unix seconds. Gaps are counted by `counters`."""
        self.store = store
        self.clock = clock
        self.counters = Counters() if counters is None else counters
        self._log = log
        self._live: dict[BucketId, dict[Key, Ledger]] = {}
        self._opening: dict[Key, list[int]] = {}
        """Those that are being opened, with the heads that their log went back to meanwhile."""
        self._locks: WeakValueDictionary[Key, Lock] = WeakValueDictionary()
        store.watch_losses(self.lost)

    def told(self, ledger: Ledger, gaps: Sequence[Gap]) -> None:
        """A client was told of these gaps of a consumer, whether that is still in use or not."""
        live = self.find(ledger.key)
        if ledger.gone or (live is not None and not any(gap in live.untold for gap in gaps)):
            return
        if live is not None:
            live.untold = tuple(gap for gap in live.untold if gap not in gaps)
        self.store.told(ledger.key, gaps)

    def begin(self, bucket_id: BucketId) -> int:
        """See `EventLog.begin`; 1 where there is no log."""
        try:
            return self._log.begin(bucket_id)
        except BucketGone:
            return 1

    def find(self, key: Key) -> Ledger | None:
        """The ledger, where somebody uses it now."""
        those = self._live.get(key.bucket_id)
        return None if those is None else those.get(key)

    def _of(self, bucket_id: BucketId) -> list[Ledger]:
        """Those of a bucket that are in use."""
        return list(self._live.get(bucket_id, {}).values())

    def trimmed(self, bucket_id: BucketId, first: int) -> None:
        """The bucket's log holds nothing below `first` any more: those in use learn of it."""
        for ledger in self._of(bucket_id):
            if ledger.leave(first):
                ledger.tell()

    def lost(self, bucket_id: BucketId, head: int) -> None:
        """The bucket's log ends at `head` again, because the file lost what came after it."""
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
        """A consumer; one that is not there is made, behind `floor` and on these terms (None: NotFound). One that is
        there keeps its own (`agree`).

        Raises NotFound, BucketGone, and what the store raises.
        """
        async with self._locks.setdefault(key, Lock()):
            ledger = self.find(key) or await self._load(key, floor, terms)
        ledger.users += 1
        return ledger

    async def _load(self, key: Key, floor: int | None, terms: Terms | None) -> Ledger:
        """Under the consumer's lock."""
        heads = self._opening[key] = []
        try:
            stored = await self.store.get(key)
            if stored is None and floor is None:
                raise NotFound(
                    f"this bucket has no consumer {key.name!r}: a client makes one when it subscribes with it, an "
                    "output when it becomes public"
                )
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
        """These are the consumer's terms from now on, for all who use it. Nothing changes where it is gone, or its
        bucket is. Raises what the store raises."""
        async with self._locks.setdefault(ledger.key, Lock()):
            if not ledger.gone and terms != ledger.terms:
                with suppress(BucketGone):
                    ledger.terms = (await self.store.create(ledger.key, 0, terms, self.clock())).terms

    def close(self, ledger: Ledger) -> None:
        """Whoever opened it uses it no longer. What it changed was saved before."""
        if ledger.users == 1:
            self._drop(ledger)
        ledger.users -= 1

    @asynccontextmanager
    async def using(self, key: Key) -> AsyncIterator[Ledger]:
        """A consumer that is there, for a moment. Raises NotFound."""
        ledger = await self.open(key)
        try:
            yield ledger
            ledger.save()
        finally:
            self.close(ledger)

    async def renew(self, key: Key, floor: int) -> None:
        """Has a consumer whose record is damaged, so that nobody can open it, begin anew behind `floor`."""
        async with self._locks.setdefault(key, Lock()):
            if self.find(key) is None:
                await self.store.renew(key, floor, self.clock())

    async def delete(self, key: Key) -> bool:
        """Forgets a consumer, and tells those who use it. False where there is none. Nothing changes where the store
        raises: those who use it go on."""
        async with self._locks.setdefault(key, Lock()):
            ledger = self.find(key)
            deleted = await self.store.delete(key)
            if ledger is not None and not ledger.gone:
                self._end(ledger)
        return deleted

    async def recover(self) -> None:
        """At a start: what was being tried when the process before ended is tried again, or dead, also where nobody
        comes for it. A damaged one waits for whoever mends it."""
        for stored in await self.store.list():
            if stored.tried:
                with suppress(NotFound, Damaged):
                    async with self.using(stored.key):
                        pass

    def forget(self, bucket_id: BucketId) -> None:
        """The bucket is gone, and its consumers with it."""
        for ledger in self._of(bucket_id):
            self._end(ledger)

    def _end(self, ledger: Ledger) -> None:
        """It is gone. Perhaps it was closed meanwhile, and then is in use no longer."""
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
    """What was never tried of what left, None where all was."""
    ends = [*missed.untried, *(seq for ends in missed.fresh for seq in ends)]
    return Gap("retention", min(ends), max(ends)) if ends else None
