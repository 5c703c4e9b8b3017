"""A random program over the stores on SQLite while statements of theirs fail, each time another one: what was
acknowledged is there, what was refused is not, and no id ever means another event."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sqlite3
from collections.abc import Awaitable, Callable
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import pytest
from structlog.testing import capture_logs

from relay_tornado.errors import RelayError, Unknown
from relay_tornado.ids import new_epoch
from relay_tornado.log.ledgers import Ledger, Ledgers
from relay_tornado.log.sqlite import SqliteEventLog
from relay_tornado.log.sqlite_consumers import SqliteConsumers
from relay_tornado.log.sqlite_results import SqliteResults
from relay_tornado.model import Event, Result, Retention
from relay_tornado.settings import Settings
from relay_tornado.storage import writer as writers
from relay_tornado.storage.database import Database
from tests.log.stores import KEY
from tests.log.worlds import event, read_all
from tests.storage.faults import Faults
from tests.waiting import until

T = TypeVar("T")

STEPS = 60
MOST = 5
"""Events that are sent at once."""

STATEMENTS = (
    *("BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT", "RELEASE", "PRAGMA", "SELECT", "WITH", "INSERT OR FAIL INTO event"),
    *("INSERT INTO epoch", "INSERT INTO log", "INSERT INTO delivery", "UPDATE log", "UPDATE meta", "UPDATE consumer"),
    *("DELETE FROM event", "DELETE FROM epoch", "DELETE FROM log", "INSERT", "UPDATE", "DELETE"),
)
ERRORS = (
    *(sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY),
    *(sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_INTERRUPT),
)


class Fate:
    """What became of things that were asked for: each is named once."""

    def __init__(self) -> None:
        self.there: set[Any] = set()
        self.refused: set[Any] = set()

    def check(self, found: list[Any], what: str, expected: Callable[[Any], bool] = lambda name: True) -> None:
        assert len(found) == len(set(found)), f"{what} is there twice"
        assert not self.refused & set(found), f"{what} is there that was refused"
        lost = {name for name in self.there - set(found) if expected(name)}
        assert not lost, f"{what} is lost: {lost}"


class Program:
    """Steps that are drawn, and what has to be true after them. The consumer is in the bucket "b", which stays; "c"
    comes, takes an export over, and goes."""

    def __init__(self, seed: int, path: Path) -> None:
        self.random = random.Random(seed)
        self.settings = Settings(data=path / "data", tail=self.random.choice((0, 1 << 20)), page_cache=0)
        self.faults = Faults()
        self.numbers = count(1)
        self.events = Fate()
        self.results = Fate()
        self.places: dict[bytes, tuple[str, int]] = {}
        """Where the events are that were acknowledged."""
        self.bodies: dict[tuple[str, int], bytes] = {}
        """By epoch and seq, what was ever read there."""
        self.most_first = {"b": 1, "c": 1}
        """Up to where retention was ever told that events may leave."""
        self.alive: dict[str, bool | None] = {"b": True, "c": False}
        """None: nobody knows."""
        self.done: set[int] = set()
        self.failed = 0

    async def run(self) -> None:
        await self.open()
        await self.log.create("b", new_epoch())
        await self.use()
        steps = (*((self.append,) * 4), *((self.consume,) * 4), self.trim, self.drop, self.create, self.take_over)
        steps += (self.record, self.record)
        for number in range(1, STEPS + 1):
            self.arm()
            await asyncio.wait_for(self.random.choice(steps)(), 60)
            if not self.random.randrange(3):
                self.faults.heal()
            if number % 15 == 0:
                await asyncio.wait_for(self.check(), 60)
            if number % 30 == 0:
                await self.reopen()
                await asyncio.wait_for(self.check(), 60)
        await self.close()

    # the stores

    async def open(self) -> None:
        self.database = await Database.open(self.settings, factory=self.faults.factory)
        assert self.database.loss is None
        self.log = await SqliteEventLog.open(self.database, self.settings)
        self.deliveries = SqliteResults(self.database, self.settings)
        self.store = SqliteConsumers(self.database)
        self.ledgers = Ledgers(self.store, self.log)

    async def use(self) -> None:
        self.ledger: Ledger = await self.ledgers.open(KEY, 0)

    async def reopen(self) -> None:
        await self.close()
        await self.open()
        await self.use()

    async def close(self) -> None:
        self.faults.heal()
        self.ledgers.close(self.ledger)
        await self.store.close()
        await self.deliveries.close()
        await self.log.close()
        await self.database.close()

    def arm(self) -> None:
        """From here on one statement fails, before it is done or after that, once or each time; perhaps the file can't
        be opened either."""
        draw = self.random
        if not draw.randrange(3):
            return
        self.faults.heal()
        code = draw.choice(ERRORS)
        if draw.randrange(2):
            begins, skipped = draw.choice(STATEMENTS), draw.choice((0, 0, 1, 3))
        else:
            begins, skipped = "", draw.randrange(12)
        left, always = [skipped], not draw.randrange(4)

        def fault(sql: str) -> int | None:
            if not sql.startswith(begins) or (left[0] < 0 and not always):
                return None
            left[0] -= 1
            return None if left[0] >= 0 else code

        # A full disk is met before anything is committed.
        if draw.randrange(2) or code == sqlite3.SQLITE_FULL:
            self.faults.before = fault
        else:
            self.faults.after = fault
        if not draw.randrange(5):
            self.faults.opening = sqlite3.SQLITE_CANTOPEN

    async def outcome(self, what: Awaitable[T]) -> T | Exception:
        try:
            return await what
        except (RelayError, sqlite3.Error, MemoryError) as error:
            self.failed += 1
            return error

    # the steps

    async def append(self) -> None:
        await self._append(self.random.choice("bbc"))

    async def _append(self, bucket: str) -> bool:
        """Whether all of them were taken."""
        bodies = [b"%d" % next(self.numbers) for _ in range(self.random.randint(1, MOST))]
        found = await asyncio.gather(*(self.outcome(self.log.append(bucket, event(body))) for body in bodies))
        for body, one in zip(bodies, found, strict=True):
            if isinstance(one, Exception):
                if not isinstance(one, Unknown):
                    self.events.refused.add(body)
            else:
                self.events.there.add(body)
                self.places[body] = (bucket, one.seq)
                assert self.bodies.setdefault((one.epoch, one.seq), body) == body
        return all(not isinstance(one, Exception) for one in found)

    async def trim(self) -> None:
        bucket = self.random.choice("bc")
        if self.alive[bucket]:
            keep = self.random.randrange(4, 20)
            # An append of unknown outcome may be in the file, and not in memory yet.
            most_head = (await self.log.bounds(bucket)).head + MOST
            self.most_first[bucket] = max(self.most_first[bucket], most_head - keep + 1)
            await self.outcome(self.log.trim(bucket, Retention(None, keep, None), None))
            if bucket == "b":
                self.ledgers.trimmed("b", (await self.log.bounds("b")).first)

    async def drop(self) -> None:
        if self.alive["c"] is None:  # it may be in the file and not in memory yet
            return
        if isinstance(error := await self.outcome(self.log.drop("c")), Exception):
            if isinstance(error, Unknown):
                self.alive["c"] = None
        else:
            self._gone()

    def _gone(self) -> None:
        self.alive["c"] = False
        self.events.there -= {body for body, place in self.places.items() if place[0] == "c"}
        self.most_first["c"] = 1

    async def create(self) -> None:
        if self.alive["c"] is False:
            error = await self.outcome(self.log.create("c", new_epoch()))
            self.alive["c"] = not isinstance(error, Exception) or (None if isinstance(error, Unknown) else False)

    async def take_over(self) -> None:
        await self.create()
        if self.alive["c"] and (await self.log.bounds("c")).head == 0:
            first = self.random.randrange(1, 50)
            numbers = [next(self.numbers) for _ in range(self.random.randrange(1, 9))]
            fields = ("i", "POST", b"", b"", b"A: b\r\n")
            events = [
                Event(first + place, "zzzzzzzzzzzz", 1000.0, *fields, b"%d" % number, "::1")
                for place, number in enumerate(numbers)
            ]
            bodies = {each.body: ("c", each.seq) for each in events}
            error = await self.outcome(self.log.import_events("c", events, {}))
            self.places |= bodies
            if not isinstance(error, Exception):
                self.events.there |= bodies.keys()
            elif not isinstance(error, Unknown):
                self.events.refused |= bodies.keys()
            self.most_first["c"] = max(self.most_first["c"], first)

    async def record(self) -> None:
        bounds = await self.log.bounds("b")
        if bounds.head >= bounds.first:
            seq, number = self.random.randint(bounds.first, bounds.head), next(self.numbers)
            result = Result("sent", 200, {}, b"", number, 0, 1.0)
            error = await self.outcome(self.deliveries.record("b", seq, 0, result))
            if not isinstance(error, Exception):
                self.results.there.add((seq, number))
            elif not isinstance(error, Unknown):
                self.results.refused.add((seq, number))

    async def consume(self) -> None:
        progress = self.ledger.progress
        for taken in progress.take((await self.log.bounds("b")).head, self.random.randrange(1, 6), 100.0):
            way = self.random.randrange(3)
            if way == 0:
                progress.fail(taken, 50.0, 100.0)
            elif progress.done(taken):
                self.done.add(taken.seq)
        self.ledger.save()
        await self.outcome(self.store.saved())

    # what has to be true

    async def check(self) -> None:
        """Nothing fails any more: it takes events by itself, and has all that it should."""
        self.faults.heal()
        await until(self.writes)
        if self.alive["c"] is None:
            self.alive["c"] = "c" in await self.log.buckets()
            if not self.alive["c"]:
                self._gone()
        assert ("c" in await self.log.buckets()) == self.alive["c"]
        found = []
        for bucket in (each for each, alive in self.alive.items() if alive):
            assert await self._append(bucket)
            found += await self.check_events(bucket)
        first = {bucket: (await self.log.bounds(bucket)).first for bucket, alive in self.alive.items() if alive}

        def stays(body: bytes) -> bool:
            bucket, seq = self.places[body]
            return seq >= first[bucket]

        self.events.check(found, "an event", stays)
        await self.check_results(first["b"])
        await self.consume()
        await self.check_consumer(first["b"])
        self.check_file()

    async def writes(self) -> bool:
        with contextlib.suppress(RelayError):
            await self.database.write(lambda raw: None)
            return not self.database.problem
        return False

    async def check_events(self, bucket: str) -> list[bytes]:
        bounds = await self.log.bounds(bucket)
        assert bounds.first <= max(self.most_first[bucket], bounds.begin)
        events = await read_all(self.log, bucket, bounds.first - 1)
        assert [each.seq for each in events] == list(range(bounds.first, bounds.head + 1))
        for each in events:
            assert self.bodies.setdefault((each.epoch, each.seq), each.body) == each.body
            assert self.places.setdefault(each.body, (bucket, each.seq)) == (bucket, each.seq)
        return [each.body for each in events]

    async def check_results(self, first: int) -> None:
        stored = await self.deliveries.of("b", first, 1 << 40)
        found = [(seq, each.duration_ms) for (seq, _), results in stored.items() for each in results]
        self.results.check(found, "a result", lambda name: name[0] >= first)

    async def check_consumer(self, first: int) -> None:
        """All that it was said to be done with, and nothing else; and what is tried again."""
        stored = await self.store.get(KEY)
        assert stored is not None
        again = {seq: one for seq, one in self.ledger.progress.parked.items() if seq >= first}
        assert {seq: one for seq, one in stored.parked.items() if seq >= first} == again
        over = set(range(first, stored.floor + 1)).union(*(range(start, end + 1) for start, end in stored.done))
        letters = {each.seq for each in await self.store.dead("b", KEY, 0, 10_000)}
        over -= again.keys() | letters
        assert over == {seq for seq in self.done if seq >= first}

    def check_file(self) -> None:
        with contextlib.closing(sqlite3.connect(self.database.path)) as raw:
            assert raw.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert not raw.execute(
                "SELECT bucket FROM log WHERE dropped = 0"
                " AND bytes <> (SELECT coalesce(sum(size), 0) FROM event WHERE log = log.id)"
            ).fetchall()


@pytest.mark.parametrize("seed", range(12))
def test_a_random_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    monkeypatch.setattr(writers, "_BACKOFF", (0.001, 0.01))
    program = Program(seed, tmp_path)
    with capture_logs():
        asyncio.run(program.run())
    assert program.failed > 5
