"""Random jobs and events on a file that fails at random: each is told its outcome once, and that outcome is true."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import Callable, Sequence

import pytest

from relay_tornado.errors import Conflict, RelayError, Unknown
from relay_tornado.storage.database import Database
from tests.storage.faults import Faults
from tests.storage.jobs import Events, names, put

_AFTER = (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOMEM)
_BEFORE = (*_AFTER, sqlite3.SQLITE_FULL)  # a full disk stores nothing
_STATEMENTS = ("BEGIN", "INSERT INTO bucket", "UPDATE meta", "COMMIT", "ROLLBACK")


def _at_random(chance: random.Random, codes: Sequence[int]) -> Callable[[str], int | None]:
    """Fails one or some kinds of statements, one in ten times."""
    kinds = tuple(kind for kind in _STATEMENTS if chance.random() < 0.2)
    return lambda sql: chance.choice(codes) if sql.startswith(kinds) and chance.random() < 0.1 else None


class _Walk:
    """Jobs with numbers for names, and what became of them: `told` is their outcomes by number. Some are `events`."""

    def __init__(self, chance: random.Random, database: Database) -> None:
        self._chance = chance
        self._database = database
        self._events = Events(database)
        self._tasks: list[asyncio.Task[None]] = []
        self.announced: list[int] = []
        self.events: set[int] = set()
        self.told: dict[int, Exception | None] = {}

    def begin(self) -> None:
        number, chance = len(self._tasks), self._chance
        refused, breaks, shared, event = (chance.random() < rate for rate in (0.03, 0.02, 0.9, 0.3))
        if event:
            self.events.add(number)

        def job(raw: sqlite3.Connection) -> int:
            put(f"{number}")(raw)
            if refused:
                raise Conflict("refused")
            return number

        def announce(done: int) -> None:
            self.announced.append(done)
            if breaks:
                raise LookupError(done)

        async def write() -> None:
            try:
                outcome = None
                if event:
                    assert await self._events.append(job) == number
                else:
                    assert await self._database.write(job, announce, shared=shared) == number
            except RelayError as error:
                outcome = error
            assert number not in self.told
            self.told[number] = outcome

        self._tasks.append(asyncio.create_task(write()))

    async def end(self) -> None:
        await asyncio.gather(*self._tasks)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.gen_test(timeout=60)
async def test_each_job_is_told_what_became_of_it(database: Database, faults: Faults, quick: None, seed: int) -> None:
    """In the order in which they came, jobs and events each, whatever shares a transaction, fails, or is tried again by
    itself."""
    chance = random.Random(seed)
    walk = _Walk(chance, database)
    for _ in range(100):
        faults.before, faults.after = _at_random(chance, _BEFORE), _at_random(chance, _AFTER)
        faults.opening = sqlite3.SQLITE_CANTOPEN if chance.random() < 0.05 else None
        for _ in range(chance.randrange(20)):
            walk.begin()
            if chance.random() < 0.1:
                await asyncio.sleep(0)
        await walk.end()
    faults.heal()
    there = [int(name) for name in await database.read(names)]
    done = {number for number, error in walk.told.items() if error is None}
    unknown = {number for number, error in walk.told.items() if isinstance(error, Unknown)}
    for events in (True, False):
        those = [number for number in there if (number in walk.events) == events]
        assert those == sorted(set(those))
    assert walk.announced == sorted(set(walk.announced))
    assert done - walk.events <= set(walk.announced)
    assert done | set(walk.announced) <= set(there) <= done | unknown
