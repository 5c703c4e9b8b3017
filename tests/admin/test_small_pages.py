"""However small its pages are, and however little may be looked at for one: all of them together hold the same."""

from __future__ import annotations

import random
from pathlib import Path
from types import ModuleType

import pytest

from relay_tornado.admin import listing, polling, searching
from relay_tornado.admin.searching import Wanted
from relay_tornado.model import Retention
from tests.admin.logs_world import ROOT, LogsWorld, forget, ids
from tests.admin.world import memory_world

RULES = {"match": {"type": "contains", "substring": "yes", "parameter": {"source": "payload", "name": ""}}}

BOUNDS: tuple[tuple[ModuleType, str, tuple[object, ...]], ...] = (
    (listing, "PAGE_BYTES", (1, 2_000, 10**9)),
    (listing, "MOST_SCANNED", (1, 7, 10**9)),
    (listing, "LOOKED", (1, 3_000, 10**9)),
    (listing, "_CHUNKS", ((1, 1), (2, 5), (16, 256))),
    (listing, "_CHUNK_BYTES", (1, 500, 10**9)),
    (searching, "LOOKED_AT", (1, 7, 10**9)),
    (searching, "_CHUNKS", ((1, 1), (2, 5), (16, 256))),
    (searching, "_CHUNK", (1, 700, 10**9)),
    (polling, "PAGE_BYTES", (1, 500, 10**9)),
    (polling, "MOST_SCANNED", (1, 3, 10**9)),
)


async def fill(world: LogsWorld, chance: random.Random, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three buckets with events of all kinds, some at one moment; some are answered, removed, or without content."""
    now = 1_900_000_000.0
    monkeypatch.setattr("time.time", lambda: now)
    buckets = [await world.bucket(name, outputs=2) for name in ("a", "b", "c")]
    for bucket in buckets:
        await world.administration.set_output("out-1", bucket, rules=RULES)
    for _ in range(60):
        now += chance.choice((0, 0, 1))
        body = chance.choice((b"yes", b"no")) + b"x" * chance.choice((0, 300, 900))
        await world.send(chance.choice(buckets), body, ephemeral=chance.random() < 0.2)
    for bucket in buckets:
        head = (await world.log.bounds(bucket)).head
        for seq in range(1, head + 1):
            if chance.random() < 0.3:
                await world.answer(bucket, seq, chance.choice((0, 1, 2)), chance.choice((0, 200)))
        await world.log.trim(bucket, Retention(None, head - chance.choice((0, 2)), None), None)
    forget(world.log)


async def everything(world: LogsWorld, limit: int) -> list[list[str]]:
    """The ids of lists, searches and polls, each from its first page to its last."""
    (output, *_) = world.administration.find_bucket("a").outputs
    lists: tuple[dict[str, object], ...] = ({}, {"status": "sent"}, {"status": "received"}, {"output": output.id})
    found = [ids(*await world.pages(limit=limit, **asked)) for asked in lists]
    for wanted in (Wanted(), Wanted("yes"), Wanted(delivery="sent"), Wanted(header="X-A: 1", since=1_900_000_009)):
        pages, cursor = [], ""
        while cursor is not None:
            pages.append(await world.logs.search(ROOT, wanted, limit=limit, cursor=cursor))
            cursor = pages[-1]["next_cursor"]
        found.append(ids(*pages))
    for name in ("", "out-1"):
        pages = [await world.logs.page(ROOT, "a", output=name, limit=limit)]
        while pages[-1]["has_more"]:
            pages.append(await world.logs.page(ROOT, "a", output=name, limit=limit, cursor=pages[-1]["next_cursor"]))
        found.append(ids(*pages))
    return found


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.gen_test
async def test_small_pages_hold_what_large_ones_do(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the same order: none is passed over, and none comes twice."""
    chance = random.Random(seed)
    async with memory_world(tmp_path, LogsWorld) as world:
        await fill(world, chance, monkeypatch)
        whole = await everything(world, 500)
        for module, name, values in BOUNDS:
            monkeypatch.setattr(module, name, chance.choice(values))
        assert await everything(world, chance.choice((1, 2, 5, 50))) == whole
