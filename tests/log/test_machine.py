"""Both engines side by side: whatever is done to them, they tell the same."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from relay_tornado.errors import BucketGone, CursorLost
from relay_tornado.ids import new_epoch
from relay_tornado.log.lineage import place_cursor
from relay_tornado.model import Bounds, Cursor, Retention
from tests.log.worlds import MemoryWorld, SqliteWorld, event

BUCKETS = st.sampled_from(["a", "b"])


class Engines(RuleBasedStateMachine):
    """Epochs are random, so each engine's are compared by their number: the n-th that it gave out to a bucket."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.directory = tempfile.TemporaryDirectory()
        self.memory = MemoryWorld()
        self.sqlite = self.run(SqliteWorld.open(Path(self.directory.name), tail=20_000, page_cache=20_000))
        self.ids: list[tuple[str, Cursor, Cursor]] = []
        self.alive: set[str] = set()
        self.names: tuple[dict[str, int], dict[str, int]] = ({}, {})

    def run(self, awaitable: Awaitable[Any]) -> Any:
        async def step() -> Any:
            return await asyncio.wait_for(awaitable, 60)

        return self.loop.run_until_complete(step())

    def both(self, call: Any) -> tuple[Any, Any]:
        """What each engine answers, an error as its type and what it carries."""

        async def attempt(log: Any) -> Any:
            try:
                return await call(log)
            except BucketGone:
                return "gone"
            except CursorLost as error:
                return ("lost", error.first, error.reason)

        return self.run(attempt(self.memory.log)), self.run(attempt(self.sqlite.log))

    def agree(self, call: Any) -> Any:
        mine, theirs = self.both(call)
        assert mine == theirs
        return mine

    def number(self, engine: int, epoch: str) -> int:
        return self.names[engine].setdefault(epoch, len(self.names[engine]))

    def plain(self, engine: int, bounds: Bounds | str) -> Any:
        if isinstance(bounds, str):
            return bounds
        epochs = tuple((self.number(engine, e.epoch), e.from_seq) for e in bounds.epochs)
        return bounds.first, bounds.head, epochs, bounds.open

    @initialize()
    def first(self) -> None:
        self.create("a")

    @rule(bucket=BUCKETS)
    def make(self, bucket: str) -> None:
        self.create(bucket)

    def create(self, bucket: str) -> None:
        if bucket not in self.alive:
            mine, theirs = new_epoch(), new_epoch()
            assert self.number(0, mine) == self.number(1, theirs)
            self.run(self.memory.log.create(bucket, mine))
            self.run(self.sqlite.log.create(bucket, theirs))
            self.ids.append((bucket, Cursor(mine, 0), Cursor(theirs, 0)))
            self.alive.add(bucket)

    @rule(
        bucket=BUCKETS,
        count=st.integers(1, 5),
        size=st.sampled_from([0, 10, 3000]),
        digest=st.integers(0, 6),
        ephemeral=st.booleans(),
        verdict=st.sampled_from(["", "v"]),
    )
    def append(self, bucket: str, count: int, size: int, digest: int, ephemeral: bool, verdict: str) -> None:
        for n in range(count):
            repeat = b"%d" % digest if n == 0 and digest else None
            sent = event(bytes([n]) * size, dedupe=repeat, dedupe_window=1e6, ephemeral=ephemeral, verdict=verdict)
            mine, theirs = self.both(lambda log, sent=sent: log.append(bucket, sent))
            if mine == "gone":
                assert theirs == "gone"
                return
            assert (mine.seq, mine.duplicate) == (theirs.seq, theirs.duplicate)
            assert self.number(0, mine.epoch) == self.number(1, theirs.epoch)
            self.ids.append((bucket, Cursor(mine.epoch, mine.seq), Cursor(theirs.epoch, theirs.seq)))

    @rule(bucket=BUCKETS, back=st.integers(-2, 20), limit=st.integers(1, 10), most=st.sampled_from([1, 50, 7000]))
    def read(self, bucket: str, back: int, limit: int, most: int) -> None:
        """From `back` events behind the head on."""
        head = self.run(self.memory.log.bounds(bucket)).head if bucket in self.alive else 0
        self.read_after(bucket, max(head - back, 0), limit, most)

    def read_after(self, bucket: str, after: int, limit: int, most: int) -> None:
        mine, theirs = self.both(lambda log: log.read(bucket, after, limit, most))
        if isinstance(mine, tuple | str):
            assert mine == theirs
            return
        assert bool(mine) == bool(theirs)
        for one, other in zip(mine, theirs, strict=False):  # either may return fewer
            assert (one.seq, one.body, one.verdict) == (other.seq, other.body, other.verdict)
            assert self.number(0, one.epoch) == self.number(1, other.epoch)
        times = [e.received_at for e in theirs]
        assert times == sorted(times)

    @rule(
        bucket=BUCKETS,
        events=st.none() | st.integers(0, 12),
        size=st.none() | st.sampled_from([0, 40, 5000]),
        floor=st.none() | st.integers(1, 20),
    )
    def trim(self, bucket: str, events: int | None, size: int | None, floor: int | None) -> None:
        self.agree(lambda log: log.trim(bucket, Retention(None, events, size), floor))

    @rule(bucket=BUCKETS, first=st.integers(0, 40), last=st.integers(0, 40))
    def outline(self, bucket: str, first: int, last: int) -> None:
        mine, theirs = self.both(lambda log: log.outline(bucket, first, last))
        if isinstance(mine, str):
            assert mine == theirs
            return
        assert [each._replace(received_at=0.0) for each in mine] == [each._replace(received_at=0.0) for each in theirs]

    @rule()
    def forget(self) -> None:
        """The content of ephemeral events grows old."""
        for log in (self.memory.log, self.sqlite.log):
            log._ephemeral.close()  # type: ignore[attr-defined]

    @rule(bucket=BUCKETS)
    def drop(self, bucket: str) -> None:
        self.agree(lambda log: log.drop(bucket))
        self.alive.discard(bucket)

    @rule()
    def reopen(self) -> None:
        self.run(self.memory.reopen())
        self.run(self.sqlite.reopen())

    @precondition(lambda self: self.alive)
    @rule(data=st.data(), count=st.integers(0, 6))
    def lose(self, data: Any, count: int) -> None:
        bucket = data.draw(st.sampled_from(sorted(self.alive)))
        self.run(self.memory.lose(bucket, count))
        self.run(self.sqlite.lose(bucket, count))

    @precondition(lambda self: self.ids)
    @rule(data=st.data(), ahead=st.integers(0, 3))
    def place(self, data: Any, ahead: int) -> None:
        """An id from any time, of an event or beyond it, is judged alike by both."""
        bucket, mine, theirs = data.draw(st.sampled_from(self.ids))
        owners = self.run(self.memory.log.find(mine.epoch)), self.run(self.sqlite.log.find(theirs.epoch))
        assert owners[0] == owners[1]
        if bucket in self.alive:
            bounds = self.run(self.memory.log.bounds(bucket)), self.run(self.sqlite.log.bounds(bucket))
            placed = [
                place_cursor(bound, Cursor(cursor.epoch, cursor.seq + ahead))
                for bound, cursor in zip(bounds, (mine, theirs), strict=True)
            ]
            assert placed[0] == placed[1]

    @invariant()
    def the_same_is_there(self) -> None:
        assert set(self.agree(_sorted)) == self.alive
        for bucket in "ab":
            mine, theirs = self.both(lambda log, bucket=bucket: log.bounds(bucket))
            assert self.plain(0, mine) == self.plain(1, theirs)
            if bucket in self.alive:
                self.read_after(bucket, mine.first - 1, 10, 7000)

    def teardown(self) -> None:
        self.run(self.sqlite.close())
        self.loop.close()
        self.directory.cleanup()


async def _sorted(log: Any) -> list[str]:
    return sorted(await log.buckets())


TestEngines = Engines.TestCase
TestEngines.settings = settings(
    max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
