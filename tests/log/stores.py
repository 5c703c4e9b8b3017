"""Stores of consumers over each engine, and what their tests do with them."""

from __future__ import annotations

from relay_tornado.consumer_changes import Changes
from relay_tornado.log.consumers import Consumers, Key, Stored, Terms
from relay_tornado.log.sqlite_consumers import SqliteConsumers
from relay_tornado.model import Retention
from tests.log.memory_consumers import MemoryConsumers
from tests.log.worlds import SqliteWorld, World

KEY = Key("b", "client", "worker")
OTHER = Key("b", "output", "1")
TERMS = Terms(12.5, 3, False)


def store_of(world: World) -> Consumers:
    return SqliteConsumers(world.database) if isinstance(world, SqliteWorld) else MemoryConsumers(world.log)


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
