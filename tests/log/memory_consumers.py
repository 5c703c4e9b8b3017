"""Where consumers stand, in memory: the same contract as on SQLite, for fast tests beside the log in memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from relay_tornado.consumer_changes import RETENTION, Changes, Dead, Parked
from relay_tornado.errors import BucketGone
from relay_tornado.log import consumers
from relay_tornado.log.consumers import MOST_MISSED, DeadLetter, Gaps, Key, Stored, Terms, too_many, with_untold
from relay_tornado.log.contract import EventLog
from relay_tornado.model import BucketId, Gap
from relay_tornado.ranges import Ranges


@dataclass(slots=True)
class _Kept:
    """One consumer."""

    terms: Terms
    floor: int
    created_at: float
    updated_at: float
    done: Sequence[tuple[int, int]] = ()
    tried: Sequence[tuple[int, int]] = ()
    parked: dict[int, Parked] = field(default_factory=dict)
    dead: dict[int, Dead] = field(default_factory=dict)
    gaps: Gaps | None = None
    untold: Sequence[Gap] = ()

    def apply(self, changes: Changes) -> None:
        self.floor, self.done, self.tried = changes.floor, changes.done, changes.tried
        if changes.cleared:
            self.parked.clear()
        for seq in changes.unparked:
            self.parked.pop(seq, None)
        for seq in changes.revived:
            self.dead.pop(seq, None)
        self.parked.update(changes.parked)
        self.dead.update(changes.dead)

    def trim(self, first: int, now: float) -> None:
        tried = Ranges(self.tried)
        tried.cut_below(first)
        self.tried = tuple(tried)
        for seq in [seq for seq in self.parked if seq < first]:
            one = self.parked.pop(seq)
            self.dead.setdefault(seq, Dead(one.attempts, now, one.since, RETENTION))
        missed = sorted(seq for seq, one in self.dead.items() if seq < first and one.reason == RETENTION)[-MOST_MISSED:]
        self.dead = {seq: one for seq, one in self.dead.items() if seq >= first or seq in missed}


class MemoryConsumers:
    """See `log.consumers.Consumers`. What is saved is committed at once. `log` says which events there are."""

    def __init__(self, log: EventLog, time: Callable[[], float] = time.time) -> None:
        self._log = log
        self._time = time
        self._kept: dict[Key, _Kept] = {}

    async def create(self, key: Key, floor: int, terms: Terms, at: float) -> Stored:
        await self._log.bounds(key.bucket_id)
        kept = self._kept.get(key)
        if kept is None:
            if key.kind == "client" and await self.clients(key.bucket_id) >= consumers.MOST_CONSUMERS:
                raise too_many(key.bucket_id)
            kept = self._kept[key] = _Kept(terms, floor, at, at)
        kept.terms = terms
        return _stored(key, kept)

    async def create_some(self, floors: Mapping[Key, int], terms: Terms, at: float) -> None:
        for key, floor in floors.items():
            with suppress(BucketGone):
                await self.create(key, floor, terms, at)

    async def get(self, key: Key) -> Stored | None:
        await self._settle(key.bucket_id)
        kept = self._kept.get(key)
        return None if kept is None else _stored(key, kept)

    async def clients(self, bucket_id: BucketId) -> int:
        return sum(each.kind == "client" and each.bucket_id == bucket_id for each in self._kept)

    async def list(self, bucket_id: BucketId | None = None, *, whole: bool = False) -> Sequence[Stored]:
        for each in {key.bucket_id for key in self._kept} if bucket_id is None else {bucket_id}:
            await self._settle(each)
        keys = sorted(key for key in self._kept if bucket_id in (None, key.bucket_id))
        found = [_stored(key, self._kept[key]) for key in keys]
        return found if whole else [each._replace(parked={}) for each in found]

    def save(self, key: Key, changes: Callable[[], Changes | None]) -> None:
        made = changes()
        kept = self._kept.get(key)
        if kept is not None and made is not None:
            kept.apply(made)
            kept.updated_at = self._time()

    def met(self, key: Key, gap: Gap, at: float) -> None:
        kept = self._kept.get(key)
        if kept is not None:
            kept.gaps = Gaps(1 if kept.gaps is None else kept.gaps.times + 1, gap, at)
            kept.untold = with_untold(key, kept.untold, gap)

    def told(self, key: Key, gaps: Sequence[Gap]) -> None:
        kept = self._kept.get(key)
        if kept is not None:
            kept.untold = tuple(gap for gap in kept.untold if gap not in gaps)

    async def saved(self) -> None:
        """See the contract."""

    async def renew(self, key: Key, floor: int, at: float) -> None:
        kept = self._kept.get(key)
        if kept is not None:
            self._kept[key] = _Kept(kept.terms, floor, kept.created_at, at, dead=kept.dead)

    async def delete(self, key: Key) -> bool:
        return self._kept.pop(key, None) is not None

    def forget(self, bucket_id: BucketId) -> None:
        """See the contract; `_settle` does that."""

    async def dead(self, bucket_id: BucketId, key: Key | None, after: int, limit: int) -> Sequence[DeadLetter]:
        await self._settle(bucket_id)
        letters = [
            DeadLetter(each, seq, one.attempts, one.since, one.at, one.reason)
            for each, kept in self._kept.items()
            if each.bucket_id == bucket_id and key in (None, each)
            for seq, one in kept.dead.items()
            if seq > after
        ]
        return sorted(letters, key=lambda letter: (letter.seq, letter.key))[:limit]

    async def forget_dead(self, key: Key, seqs: Sequence[int]) -> int:
        await self._settle(key.bucket_id)
        kept = self._kept.get(key)
        return 0 if kept is None else sum(kept.dead.pop(seq, None) is not None for seq in set(seqs))

    async def floor(self, bucket_id: BucketId, but: Collection[str] = ()) -> int | None:
        found = [
            min([kept.floor + 1, *kept.parked])
            for key, kept in self._kept.items()
            if key.bucket_id == bucket_id and key.kind != "events" and not (key.kind == "token" and key.name in but)
        ]
        return min(found, default=None)

    def watch_losses(self, lost: Callable[[BucketId, int], None]) -> None:
        """See the contract; nothing is lost here."""

    async def close(self) -> None:
        """See the contract."""

    async def _settle(self, bucket_id: BucketId) -> None:
        """What left with the bucket, or with its events, leaves here."""
        try:
            first = (await self._log.bounds(bucket_id)).first
        except BucketGone:
            self._kept = {key: kept for key, kept in self._kept.items() if key.bucket_id != bucket_id}
            return
        for key, kept in self._kept.items():
            if key.bucket_id == bucket_id:
                kept.trim(first, self._time())


def _stored(key: Key, kept: _Kept) -> Stored:
    return Stored(
        key, kept.terms, kept.floor, tuple(kept.done), dict(kept.parked), len(kept.dead), kept.created_at,
        kept.updated_at, kept.gaps, tuple(kept.tried), kept.untold,
    )  # fmt: skip
