"""Measures the time series every 10 seconds, writes them to their file, and reads them. If the file fails, there are
none."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Final, Literal, TypeAlias, TypeVar

import structlog

from relay_tornado.counters import ConsumerLevel, Counters
from relay_tornado.low_memory import Lock
from relay_tornado.model import BucketId
from relay_tornado.series import file
from relay_tornado.storage import database_files, sidecar
from relay_tornado.storage.connection import Connection

Span: TypeAlias = Literal["hour", "day", "month"]

SPANS: Final[Mapping[Span, tuple[int, int]]] = {"hour": (3_600, 10), "day": (86_400, 60), "month": (2_592_000, 1_800)}
"""By span, its length and the time between its points, in seconds."""

MINUTES: Final = 60
"""The number of past minutes for which each bucket's events per minute are kept in memory."""
BUCKETS: Final = 500
CONSUMERS: Final = 200
"""How many have series of their own: the buckets with the most events at that moment, and the consumers that are
furthest behind."""

_PLAIN: Final = ("events", "commit_p50", "commit_p99", "subscribers", "lag", "disk_free")
_AGAIN: Final = 60.0
"""Seconds until a file that failed is opened again."""
PATIENCE: Final = 2.0
"""Seconds that `ready` waits at most: a disk may not answer."""

T = TypeVar("T")

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Levels:
    """The values at the time of a measurement. `totals` is the number of events that each bucket ever got; `consumers`
    are the lags of consumers, with the ids of their buckets."""

    subscribers: int = 0
    lag: int = 0
    disk_free: int | None = None
    totals: Mapping[BucketId, int] = field(default_factory=dict)
    consumers: Sequence[ConsumerLevel] = ()


class Series:
    """The relay's time series: `run` measures; `rate`, `whole`, `bucket` and `consumer` read."""

    def __init__(self, folder: Path, counters: Counters, clock: Callable[[], float] = time.time) -> None:
        """`clock` returns unix seconds."""
        self.path = folder / file.NAME
        self._counters = counters
        self._clock = clock
        self._connection: Connection | None = None
        self._opening = Lock()
        self._retry = 0.0
        self._before = _Counted(counters)
        self._totals: dict[BucketId, int] = {}
        self._minutes: dict[BucketId, deque[int]] = {}
        self._minute = 0
        self._read: asyncio.Event | None = None
        self._at = clock()

    async def run(self, levels: Callable[[], Levels]) -> None:
        """Measures every 10 seconds, until it is cancelled; `levels` must be quick. Failures are logged, and affect
        nothing else."""
        totals = levels().totals
        try:
            try:
                await self.open(totals)
                while True:
                    await self._due()
                    await self._measure(levels)
            finally:
                await self._measure(levels, last=True)
        finally:
            await self.close()

    async def _due(self) -> None:
        """Waits until the clock has reached the next multiple of 10 seconds, or was set back by more."""
        due = (self._clock() // file.FINE + 1) * file.FINE
        # A timer may fire a little early: uvloop's count whole milliseconds, and a clock that is slowed down to correct
        # it is behind the loop's. A measurement then would be for the point before, and this one would stay empty.
        while 0 < (left := due - self._clock()) <= file.FINE:  # noqa: ASYNC110 - the clock has no event
            await asyncio.sleep(max(left, 0.001))

    async def _measure(self, levels: Callable[[], Levels], *, last: bool = False) -> None:
        try:
            await self.measure(levels(), last=last)
        except Exception:
            _log.exception("series_failed")

    async def open(self, totals: Mapping[BucketId, int]) -> None:
        """Opens the file, and reads the last minutes from it; `totals` as in `Levels`. A failure is logged."""
        self._read = read = asyncio.Event()
        try:
            await self._open(totals)
        finally:
            read.set()

    async def _open(self, totals: Mapping[BucketId, int]) -> None:
        self._totals = dict(totals)
        now = int(self._clock())
        self._minute = now // 60
        points = await self._do(
            lambda raw: file.read(raw, (now // 60 - MINUTES + 1) * 60, (now // 60 + 1) * 60, 60, (), ("bucket:",))
        )
        for name, values in (points or {}).items():
            counts = [round(value or 0) for value in values]
            self._minutes[name.removeprefix("bucket:")] = deque(counts, MINUTES)

    async def measure(self, levels: Levels, *, last: bool = False) -> None:
        """Measures, and writes the points. The last measurement is for the 10 seconds that are not over."""
        counted, now = _Counted(self._counters), self._clock()
        before, self._before = self._before, counted
        # Part of 10 seconds, as at a start and at a stop, is added to what was measured of the others.
        seconds, self._at = max(now - self._at, file.FINE), now
        values: dict[str, float] = {
            "events": (counted.events - before.events) / seconds,
            "subscribers": levels.subscribers,
            "lag": max((levels.lag, *(each.events for each in levels.consumers))),
        }
        if levels.disk_free is not None:
            values["disk_free"] = levels.disk_free
        commits = [after - was for after, was in zip(counted.commits, before.commits, strict=True)]
        if any(commits):
            bounds = self._counters.commit_seconds.bounds
            values["commit_p50"], values["commit_p99"] = (_quantile(bounds, commits, part) for part in (0.5, 0.99))
        for reason, count in counted.rejections.items():
            if count > before.rejections.get(reason, 0):
                values[f"errors:{reason}"] = count - before.rejections.get(reason, 0)
        values |= {f"bucket:{key}": count for key, count in self._arrived(levels.totals, int(now) // 60).items()}
        behind = sorted((each for each in levels.consumers if each.events), key=lambda each: -each.events)
        values |= {f"lag:{each.bucket}/{each.consumer}": each.events for each in behind[:CONSUMERS]}
        at = (int(now) // file.FINE + last) * file.FINE
        await self._do(lambda raw: file.write(raw, at, values) if sidecar.has_room(self.path) else None)

    def _arrived(self, totals: Mapping[BucketId, int], minute: int) -> Mapping[BucketId, int]:
        """How many events came to each bucket since the last call."""
        for _ in range(min(minute - self._minute, MINUTES)):
            for counts in self._minutes.values():
                counts.append(0)
        self._minute = max(minute, self._minute)
        came = {key: total - self._totals.get(key, 0) for key, total in totals.items()}
        self._totals = dict(totals)
        self._minutes = {key: counts for key, counts in self._minutes.items() if key in totals}
        came = {key: count for key, count in came.items() if count > 0}
        for key, count in came.items():
            counts = self._minutes.setdefault(key, deque([0] * MINUTES, MINUTES))
            counts[-1] += count
        most = sorted(came, key=lambda key: -came[key])[:BUCKETS]
        return {key: came[key] for key in most}

    # reading

    async def ready(self) -> None:
        """Returns once `open`, if it has begun, has read the last minutes, or takes long."""
        if self._read is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE):
                    await self._read.wait()

    def rate(self, bucket_id: BucketId, total: int) -> list[int]:
        """The events of a bucket in each of the last 60 minutes, oldest first, with the present one. `total` is the
        number of events that the bucket ever got."""
        counts = list(self._minutes.get(bucket_id, ())) or [0] * MINUTES
        passed = min(max(int(self._clock()) // 60 - self._minute, 0), MINUTES)
        counts = [*counts, *[0] * passed][-MINUTES:]
        counts[-1] += max(total - self._totals.get(bucket_id, 0), 0)
        return counts

    async def whole(self, span: Span) -> tuple[int, int, Mapping[str, Sequence[float | None]]]:
        """The relay's own series: where they begin (unix seconds), seconds between points, and points by name."""
        return await self._span(span, _PLAIN, ("errors:",))

    async def bucket(self, span: Span, bucket_id: BucketId) -> tuple[int, int, Sequence[float | None]]:
        """The same for a bucket's events per second."""
        first, step, found = await self._span(span, (f"bucket:{bucket_id}",), ())
        return first, step, [None if each is None else each / step for each in found[f"bucket:{bucket_id}"]]

    async def consumer(self, span: Span, bucket_id: BucketId, consumer: str) -> tuple[int, int, Sequence[float | None]]:
        """The same for the number of events that a consumer is behind."""
        name = f"lag:{bucket_id}/{consumer}"
        first, step, found = await self._span(span, (name,), ())
        return first, step, found[name]

    async def _span(
        self, span: Span, names: Sequence[str], prefixes: Sequence[str]
    ) -> tuple[int, int, dict[str, list[float | None]]]:
        seconds, step = SPANS[span]
        last = (int(self._clock()) // step + 1) * step
        first = last - seconds
        found = await self._do(lambda raw: file.read(raw, first, last, step, names, prefixes))
        return first, step, found or {name: [None] * (seconds // step) for name in names}

    # the file

    async def _do(self, job: Callable[[sqlite3.Connection], T]) -> T | None:
        """Runs a job on the file. Returns None if the file fails."""
        connection = None
        try:
            async with self._opening:
                connection = await self._opened()
            return None if connection is None else await connection.run(job)
        except (sqlite3.Error, OSError) as error:
            _log.warning("series_not_kept", reason=str(error), hint="the file may be deleted: it is made anew")
            self._retry = time.monotonic() + _AGAIN
            async with self._opening:
                if self._connection is connection:  # otherwise it was closed already
                    await self.close()
                    if type(error) is sqlite3.DatabaseError:
                        with suppress(OSError):  # if it stays, it is unusable the next time, too
                            database_files.remove(self.path)
            return None

    async def _opened(self) -> Connection | None:
        if self._connection is not None and not self.path.exists():
            await self.close()
        if self._connection is None and time.monotonic() >= self._retry:
            self._connection, _ = await sidecar.writer(self.path, file.prepare)
        return self._connection

    async def close(self) -> None:
        """Closes the file. May be repeated."""
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                await connection.close()
            except sqlite3.Error as error:
                _log.warning("series_not_closed", reason=str(error))


class _Counted:
    """The counters at one moment."""

    def __init__(self, counters: Counters) -> None:
        self.events = counters.events
        self.commits = list(counters.commit_seconds.counts)
        self.rejections = dict(counters.rejections)


def _quantile(bounds: Sequence[float], counts: Sequence[int], part: float) -> float:
    """The value below which this part of all lies, interpolated linearly between two bounds of the histogram."""
    sums = list(accumulate(counts))
    wanted = sums[-1] * part
    index = next(index for index, each in enumerate(sums) if each >= wanted)
    if index == len(bounds):
        return float(bounds[-1])
    low = bounds[index - 1] if index else 0.0
    before = sums[index - 1] if index else 0
    return low + (bounds[index] - low) * (wanted - before) / max(counts[index], 1)
