"""Stores of consumers over each engine, and what their tests do with them."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from relay_tornado.consumer_changes import Changes
from relay_tornado.log.consumers import Consumers, Key, Stored, Terms
from relay_tornado.log.sqlite_consumers import SqliteConsumers
from relay_tornado.model import Retention
from tests.log.memory_consumers import MemoryConsumers
from tests.log.worlds import SqliteWorld, World, make

KEY = Key("b", "client", "worker")
OTHER = Key("b", "output", "1")
TERMS = Terms(12.5, 3, False)


def store_of(world: World) -> Consumers:
    return SqliteConsumers(world.database) if isinstance(world, SqliteWorld) else MemoryConsumers(world.log)


async def begin(world: SqliteWorld, *names: str) -> SqliteConsumers:
    """A store with consumers of these names, of a log with 20 events."""
    await make(world.log, events=20)
    store = SqliteConsumers(world.database)
    for name in names:
        await store.create(KEY._replace(name=name), 0, TERMS, 1.0)
    return store


def floors(path: Path) -> dict[str, int]:
    """Where consumers stand in a file, by their names."""
    with closing(sqlite3.connect(path)) as raw:
        return dict(raw.execute("SELECT name, floor FROM consumer").fetchall())


async def keep_last(world: World, count: int) -> None:
    await world.log.trim("b", Retention(None, count, None), None)


async def save(store: Consumers, changes: Changes, key: Key = KEY) -> None:
    store.save(key, lambda: changes)
    await store.saved()


async def there(store: Consumers, key: Key = KEY) -> Stored:
    """A consumer that there is."""
    stored = await store.get(key)
    assert stored is not None
    return stored


async def letters(store: Consumers, key: Key | None = KEY) -> list[tuple[int, str]]:
    return [(letter.seq, letter.reason) for letter in await store.dead("b", key, 0, 10_000)]
