"""An index over a log in a file, and what its tests do with both."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from relay_tornado.admin.buckets import new_bucket
from relay_tornado.model import Bucket
from relay_tornado.search import file
from relay_tornado.search.index import Index
from relay_tornado.search.text import Turns, parse_query, text_of
from relay_tornado.settings import Settings
from tests.log.worlds import World, event
from tests.waiting import until

log_test = pytest.mark.gen_test
BOUND = 64 << 20


def bucket(name: str = "b") -> Bucket:
    return replace(new_bucket(name, {}, Settings(), 0.0), id=name)


@asynccontextmanager
async def indexed(
    world: World,
    folder: Path,
    names: Sequence[str] = ("b",),
    bound: int = BOUND,
    settled: bool = True,
    kind: type[Index] = Index,
    **how: Any,
) -> AsyncIterator[Index]:
    """An index that runs over these buckets, and has all of them to begin with. `settled`: it has a file at the end."""
    made = kind(folder, world.log, lambda: [bucket(name) for name in names], bound, **how)
    task = asyncio.create_task(made.run())
    try:
        yield made
        if settled:
            await as_the_file_says(made)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def as_the_file_says(made: Index) -> None:
    """Returns once what is known in memory is what a restart would read."""
    while True:
        if made._writer is not None and vars(await made._writer.run(file.load)) == vars(made._state):
            return
        await asyncio.sleep(0.01)


async def caught_up(made: Index, world: World, name: str = "b", low: int | None = None) -> None:
    """Returns once all of a bucket is in the index."""
    bounds = await world.log.bounds(name)
    wanted = bounds.first if low is None else low

    def has() -> bool:
        covered = made.covered(name)
        return covered is not None and covered.high >= bounds.head and covered.low <= wanted

    await until(has, f"the index of {name}")


async def look(made: Index, world: World, text: str, name: str = "b") -> list[int]:
    """The seqs of the events that have this text, as the index names them; the log decides."""
    query = parse_query(text)
    covered = made.covered(name)
    if covered is None:
        return []
    found = await made.find(name, query.match(), covered.low, covered.high, 5000)
    assert found is not None
    assert found == sorted(found, reverse=True)
    events = await world.log.pick(name, found, 1 << 30)
    turns = Turns()
    there = [event for event in events if event is not None]
    return [event.seq for event in there if await query.matches(await text_of(event, turns), turns)]


def noise() -> str:
    """A text that no other has anything of."""
    return secrets.token_urlsafe(1_000)


async def fill(world: World, count: int, name: str = "b", text: str = "event") -> None:
    head = (await world.log.bounds(name)).head
    await asyncio.gather(
        *(world.log.append(name, event(f"{text} number-{head + n + 1:06d}".encode())) for n in range(count))
    )
