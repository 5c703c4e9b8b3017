"""Searches without an index: which events, and where the next page begins."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from relay_tornado.admin import searching
from relay_tornado.admin.searching import Wanted
from relay_tornado.log.contract import Outline
from tests.admin.logs_world import ROOT, LogsWorld, forget, ids, logs_test
from tests.admin.logs_world import world as world


async def found(world: LogsWorld, wanted: Wanted, limit: int = 0) -> list[str]:
    """The ids of all results, page by page."""
    page = await world.logs.search(ROOT, wanted, limit=limit)
    results = ids(page)
    while page["next_cursor"] is not None:
        page = await world.logs.search(ROOT, wanted, limit=limit, cursor=page["next_cursor"])
        results += ids(page)
    return results


@logs_test
async def test_a_search_of_a_span_of_time(world: LogsWorld) -> None:
    """Its beginning is in it, its end is not; a cursor leads on within it, over all buckets."""
    buckets = [await world.bucket(name) for name in "ab"]
    for number in range(8):
        await world.send(buckets[number % 2], b"x")
        await asyncio.sleep(0.002)
    newest_first = (await world.logs.list(ROOT))["data"]
    begin, end = newest_first[5]["received_at"], newest_first[2]["received_at"]
    for since, until, number in ((begin, None, 6), (None, end, 5), (begin, end, 3)):
        fitting = [
            each["id"]
            for each in newest_first
            if (since is None or each["received_at"] >= since) and (until is None or each["received_at"] < until)
        ]
        assert len(fitting) == number
        assert await found(world, Wanted(since=since, until=until), limit=2) == fitting


@logs_test
async def test_a_search_that_stops_at_an_event_without_content_passes_over_none_of_another_bucket(
    world: LogsWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cursor is that event, and stands for its time: so newer events of all buckets have been examined."""
    monkeypatch.setattr(searching, "LOOKED_AT", 1)
    monkeypatch.setattr(searching, "_CHUNK", 1)
    now = [1_900_000_000.0]
    monkeypatch.setattr("time.time", lambda: now[0])
    one, other = await world.bucket("one"), await world.bucket("other")
    sent: list[str] = []
    for bucket, gone in ((one, False), (one, True), (other, False), (one, False)):
        now[0] += 100
        sent += await world.send(bucket, b"yes" if bucket == other else b"no", ephemeral=gone)
    forget(world.log)
    assert await found(world, Wanted("yes")) == sent[2:3]


@logs_test
async def test_a_search_that_stops_where_an_event_is_missing_goes_on(
    world: LogsWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cursor is the last event that is there: over several buckets one of a missing event has no place."""
    monkeypatch.setattr(searching, "LOOKED_AT", 1)
    monkeypatch.setattr(searching, "_CHUNKS", (2, 2))
    one, other = await world.bucket("one"), await world.bucket("other")
    sent = await world.send(other, b"yes")
    await world.send(one, b"no", b"no", b"no", b"no")
    outline = world.log.outline

    async def damaged(bucket_id: str, first: int, last: int) -> Sequence[Outline]:
        return [each for each in await outline(bucket_id, first, last) if (bucket_id, each.seq) != (one, 3)]

    monkeypatch.setattr(world.log, "outline", damaged)
    assert await found(world, Wanted("yes")) == sent
