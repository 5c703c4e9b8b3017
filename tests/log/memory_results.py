"""What became of events, in memory: the same contract as on SQLite, for fast tests beside the log in memory."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress

import msgspec

from relay_tornado.errors import BucketGone, NotFound
from relay_tornado.log.contract import EventLog
from relay_tornado.log.results import DONE, MOST_RESULTS, READ_BYTES, Latest, sent, storable, surplus
from relay_tornado.model import BucketId, Result


class _Kept:
    """The results of one bucket's events, in the order in which they came."""

    def __init__(self, epoch: str) -> None:
        self.epoch = epoch
        self.results: list[tuple[int, int, Result]] = []
        self.floors: dict[int, int] = {}


class MemoryResults:
    """See `log.results.Results`; `log` says which events there are."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._buckets: dict[BucketId, _Kept] = {}

    async def _of(self, bucket_id: BucketId) -> tuple[_Kept, int, int]:
        """What is kept of a bucket, without what left with its events; and the log's first and head."""
        bounds = await self._log.bounds(bucket_id)
        epoch = bounds.epochs[0].epoch
        kept = self._buckets.get(bucket_id)
        if kept is None or kept.epoch != epoch:
            kept = self._buckets[bucket_id] = _Kept(epoch)
        kept.results = [row for row in kept.results if bounds.first <= row[0] <= bounds.head]
        return kept, bounds.first, bounds.head

    async def _results(self, bucket_id: BucketId) -> list[tuple[int, int, Result]]:
        try:
            return (await self._of(bucket_id))[0].results
        except BucketGone:
            return []

    async def record(self, bucket_id: BucketId, seq: int, output: int, result: Result) -> None:
        storable(result)
        kept, first, head = await self._of(bucket_id)
        if not first <= seq <= head:
            raise NotFound(f"the log of the bucket {bucket_id} does not hold event {seq}")
        copy = [row for row in kept.results if row[:2] == (seq, output)]
        if len(copy) >= MOST_RESULTS:
            kept.results.remove(copy[surplus([row[2].status_code for row in copy])])
        kept.results.append((seq, output, result))

    async def first(self, bucket_id: BucketId, seq: int, output: int | None) -> Result | None:
        for number, copy, result in await self._results(bucket_id):
            if number == seq and output in (None, copy) and result.status_code > 0:
                return result
        return None

    async def of(self, bucket_id: BucketId, first: int, last: int) -> Mapping[tuple[int, int], Sequence[Result]]:
        rows = [row for row in await self._results(bucket_id) if first <= row[0] <= last]
        found: dict[tuple[int, int], list[Result]] = {}
        for (seq, output, _), result in zip(rows, _within([row[2] for row in rows[::-1]])[::-1], strict=True):
            found.setdefault((seq, output), []).append(result)
        return found

    async def latest(self, bucket_id: BucketId, seqs: Collection[int], output: int | None) -> Mapping[int, Latest]:
        newest = {seq: (copy, result) for seq, copy, result in await self._results(bucket_id) if output in (None, copy)}
        there = [seq for seq in seqs if seq in newest]
        results = _within([newest[seq][1] for seq in there])
        return {seq: Latest(newest[seq][0], result) for seq, result in zip(there, results, strict=True)}

    async def statuses(self, bucket_id: BucketId, first: int, last: int, output: int | None) -> Mapping[int, str]:
        found = await self.latest(bucket_id, range(first, last + 1), output)
        return {seq: latest.result.status for seq, latest in found.items()}

    async def floor(self, bucket_id: BucketId, output: int) -> int:
        try:
            return (await self._of(bucket_id))[0].floors.get(output, 0)
        except BucketGone:
            return 0

    async def claim(
        self, bucket_id: BucketId, output: int, expect: int, seqs: Sequence[int], floor: int, at: float
    ) -> Sequence[int] | None:
        kept, first, head = await self._of(bucket_id)
        if kept.floors.get(output, 0) != expect:
            return None
        kept.floors[output] = floor
        claimed = []
        for seq in seqs:
            done = any(
                latest.result.status in DONE
                for latest in (await self.latest(bucket_id, [seq], output or None)).values()
            )
            if first <= seq <= head and not done:
                await self.record(bucket_id, seq, output, sent(at))
                claimed.append(seq)
        return claimed

    async def end_queue(self, bucket_id: BucketId, output: int) -> None:
        with suppress(BucketGone):
            (await self._of(bucket_id))[0].floors.pop(output, None)


def _within(results: Sequence[Result]) -> list[Result]:
    """The same; once there are `READ_BYTES` bytes, those of the others are left out."""
    kept, room = [], READ_BYTES
    for each in results:
        room -= storable(each)[1]
        kept.append(each if room >= 0 else msgspec.structs.replace(each, headers={}, body=b"", left_out=True))
    return kept
