"""Searching over REST: what is found, in which order, page by page."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from relay_tornado.admin import searching
from relay_tornado.admin.searching import Wanted
from relay_tornado.log.sqlite import SqliteEventLog
from relay_tornado.search import file, index
from tests.admin.logs_world import ROOT, forget
from tests.handlers.rest.world import World, world


async def find(here: World, token: str = "administrator", **query: Any) -> Any:
    answer = await here.call("GET", "/v1/search?" + urlencode(query), token=token)
    assert answer.status == 200, answer.document
    return answer.document


async def pages(here: World, **query: Any) -> AsyncIterator[Any]:
    """One page after the other, to the end."""
    cursor = ""
    while cursor is not None:
        page = await find(here, **query, cursor=cursor)
        cursor = page["next_cursor"]
        yield page


async def all_ids(here: World, **query: Any) -> list[str]:
    return [each["id"] async for page in pages(here, **query) for each in page["data"]]


async def seqs(here: World, **query: Any) -> list[int]:
    return [each["seq"] for each in (await find(here, **query))["data"]]


@pytest.fixture(params=["indexed", "unindexed", "none"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What is found is the same with the index, before it has anything, and without one."""
    monkeypatch.setattr(index, "_SETTLE", 3600.0 if request.param == "unindexed" else 0.01)
    return str(request.param)


async def ready(here: World, bucket: Any, way: str) -> None:
    while way == "indexed":
        page = await find(here, bucket=bucket.id, q="xxx")
        status = (await here.call("GET", "/v1/status")).document["buckets"]
        if page["indexed_up_to"] == next(each["position"] for each in status if each["id"] == bucket.id):
            return
        await asyncio.sleep(0.01)


def options(way: str) -> dict[str, Any]:
    return {"search_index": None} if way == "none" else {}


@pytest.mark.gen_test
async def test_filters(tmp_path: Path, way: str) -> None:
    """By text, method, path, header, verdict, delivery and time, and by all of them at once."""
    async with world(tmp_path, **options(way)) as here:
        bucket = await here.bucket("orders")
        await here.call(
            "PUT",
            f"/v1/buckets/orders/inputs/{bucket.inputs[0].id}",
            {"verify": {"provider": "gitlab", "secrets": ["hush"], "on_failure": "mark"}},
        )
        first = await here.send(
            bucket, b'{"id": "evt_A1", "kind": "paid"}', "/shop", **{"X-Kind": "Paid", "X-Url": "a:b"}
        )
        await here.send(bucket, b'{"id": "evt_A2", "kind": "refund"}', "/shop/9?x=needle", **{"X-Gitlab-Token": "hush"})
        await here.send(bucket, b"\xff\xfe binary", "/Other")
        assert (await here.call("PUT", f"/v1/logs/{first}", {"status_code": 200})).status == 200
        await ready(here, bucket, way)
        for expected, query in (
            ([3, 2, 1], {}),
            ([2, 1], {"q": "EVT_a"}),
            ([1], {"q": "evt_a paid"}),
            ([2], {"q": "needle"}),
            ([2, 1], {"q": '"id": "'}),
            ([], {"q": "binary"}),
            ([3, 2, 1], {"method": "post"}),
            ([], {"method": "PUT"}),
            ([2, 1], {"q": "evt", "method": "post"}),
            ([], {"q": "evt", "method": "PUT"}),
            ([2, 1], {"path": "shop"}),
            ([3], {"path": "oTHER"}),
            ([1], {"header": "x-kind"}),
            ([1], {"header": " x-kind : pai "}),
            ([1], {"header": "x-url: A:B"}),
            ([1], {"header": "X-Kind: PAI"}),
            ([], {"header": "X-Kind: order"}),
            ([2], {"verified": "true"}),
            ([3, 1], {"verified": "false"}),
            ([], {"verified": "none"}),
            ([1], {"delivery": "sent"}),
            ([3, 2], {"delivery": "received"}),
            ([3, 2, 1], {"from": 1}),
            ([], {"to": 1}),
            ([3, 2, 1], {"from": "2026-01-31", "to": "9999-12-31T12:00:00Z"}),
            ([], {"to": "2026-01-31T12:00:00+01:00"}),
            ([1], {"q": "ev", "path": "/shop", "header": "X-Kind", "verified": "false", "delivery": "sent"}),
        ):
            assert await seqs(here, bucket="orders", **query) == expected, query
        assert [each["ephemeral"] for each in (await find(here))["data"]] == [False] * 3
        one = (await find(here, q="evt_A1"))["data"][0]
        assert (one["id"], one["status"], "body" in one, one["size"] > 30) == (first, "sent", False, True)
        assert one["headers"]["X-Kind"] == ["Paid"]


@pytest.mark.gen_test
async def test_pages_over_several_buckets(tmp_path: Path, way: str) -> None:
    """Newest first over all buckets, every event once, whatever arrives meanwhile; a cursor of nothing is refused."""
    async with world(tmp_path, **options(way)) as here:
        buckets = [await here.bucket(f"b{number}") for number in range(3)]
        sent = [await here.send(buckets[number % 3], b"needle %d" % number) for number in range(20)]
        for bucket in buckets:
            await ready(here, bucket, way)
        for query in ({"q": "needle"}, {"q": "ne"}, {}):
            found: list[str] = []
            async for page in pages(here, **query, limit=7):
                found += [each["id"] for each in page["data"]]
                assert page["complete"]
                if len(found) == 7:
                    await here.send(buckets[0], b"needle that came later")
            assert found[-20:] == sent[::-1], query
            assert len(set(found)) == len(found)
            assert len(found) - 20 in (0, 1, 2)
        for cursor in ("x", "k3v9x1q7m2ab-1"):
            await here.refused("cursor", "GET", f"/v1/search?cursor={cursor}")


@pytest.mark.gen_test
async def test_a_page_has_so_many_events(tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as are asked for, within bounds; `indexed_up_to` is of one bucket that is named and has events."""
    monkeypatch.setattr(searching, "LIMIT", 2)
    monkeypatch.setattr(searching, "MOST", 3)
    async with world(tmp_path, **options(way)) as here:
        bucket = await here.bucket("orders")
        sent = [await here.send(bucket, b"needle") for _ in range(5)]
        await ready(here, bucket, way)
        for query in ({}, {"q": "needle"}, {"q": "needle", "bucket": "orders"}):
            for asked, number in (({}, 2), ({"limit": 1}, 1), ({"limit": 3}, 3), ({"limit": 4}, 3)):
                page = await find(here, **query, **asked)
                assert [each["id"] for each in page["data"]] == sent[: -number - 1 : -1]
                assert page["next_cursor"] == sent[-number]
                up_to = sent[-1] if way == "indexed" and "bucket" in query else None
                assert way == "unindexed" or page["indexed_up_to"] == up_to
        await here.bucket("empty")
        page = await find(here, bucket="empty", q="needle")
        assert page == {"data": [], "next_cursor": None, "complete": True, "indexed_up_to": None}


@pytest.mark.gen_test
async def test_a_request_looks_at_so_many_bytes(tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the page ends, and its cursor goes on."""
    monkeypatch.setattr(searching, "READ", 1500)
    monkeypatch.setattr(searching, "_CHUNKS", (2, 2))
    async with world(tmp_path, **options(way)) as here:
        bucket = await here.bucket("orders")
        sent = [await here.send(bucket, b"needle".ljust(400)) for _ in range(9)]
        await ready(here, bucket, way)
        found = [[each["id"] for each in page["data"]] async for page in pages(here, q="needle")]
        assert (list(chain(*found)), len(found)) == (sent[::-1], 3)


@pytest.mark.gen_test
async def test_events_that_one_read_has_no_room_for(tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next read begins with them, so none is passed over."""
    monkeypatch.setattr(searching, "_CHUNK", 1000)
    async with world(tmp_path, **options(way)) as here:
        bucket = await here.bucket("orders")
        sent = [await here.send(bucket, b"needle".ljust(400)) for _ in range(9)]
        await ready(here, bucket, way)
        for wanted in ({"q": "needle"}, {"method": "POST"}):
            assert await all_ids(here, **wanted) == sent[::-1], wanted


@pytest.mark.gen_test
async def test_a_text_in_a_span_of_time(tmp_path: Path, way: str) -> None:
    """Nothing older or newer is found, whether the index names it or not."""
    async with world(tmp_path, **options(way)) as here:
        bucket = await here.bucket("orders")
        for _ in range(6):
            await here.send(bucket, b"needle")
            await asyncio.sleep(0.002)
        await ready(here, bucket, way)
        search = here.site.rest.logs.search
        at = [each["received_at"] for each in (await search(ROOT, Wanted("needle")))["data"]]
        for since, until, fitting in ((at[3], at[1], [4, 3]), (at[1], None, [6, 5]), (None, at[3], [2, 1])):
            page = await search(ROOT, Wanted("needle", since=since, until=until))
            assert [each["seq"] for each in page["data"]] == fitting


@pytest.mark.gen_test
async def test_older_buckets_are_not_looked_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as there are newer events than theirs: a page of one of many buckets costs no more than of the only."""
    looked: set[str] = set()
    real = SqliteEventLog.outline

    async def outline(log: SqliteEventLog, bucket_id: str, *arguments: Any) -> Any:
        looked.add(bucket_id)
        return await real(log, bucket_id, *arguments)

    async with world(tmp_path, search_index=None) as here:
        buckets = [await here.bucket(name) for name in "abc"]
        sent = [await here.send(bucket, b"x") for bucket in buckets for _ in range(3)]
        monkeypatch.setattr(SqliteEventLog, "outline", outline)
        page = await find(here, limit=2)
        assert ([each["id"] for each in page["data"]], looked) == (sent[:-3:-1], {buckets[2].id})
        page = await find(here, limit=2, cursor=page["next_cursor"])
        assert ([each["id"] for each in page["data"]], looked) == (sent[-3:-5:-1], {each.id for each in buckets[1:]})


@pytest.mark.gen_test
async def test_pages_with_an_ephemeral_bucket(tmp_path: Path, way: str) -> None:
    """Its events have no text to be looked up, and stand in their order all the same."""
    async with world(tmp_path, **options(way)) as here:
        kept, ephemeral = await here.bucket("kept"), await here.bucket("ephemeral", ephemeral=True)
        sent = [await here.send(bucket, b"needle") for bucket in (kept, ephemeral, kept, ephemeral, ephemeral)]
        for bucket in (kept, ephemeral):
            await ready(here, bucket, way)
        assert await all_ids(here, limit=2) == sent[::-1]


@pytest.mark.gen_test
async def test_an_index_that_has_other_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of an earlier version has none of ephemeral events: the log's count."""
    monkeypatch.setattr(index, "_SETTLE", 0.01)
    async with world(tmp_path) as here:
        buckets = [await here.bucket(name) for name in "ab"]
        sent = [await here.send(buckets[number % 2]) for number in range(6)]
        for bucket in buckets:
            await ready(here, bucket, "indexed")
    with closing(sqlite3.connect(tmp_path / "data" / file.NAME)) as raw, raw:
        raw.execute("UPDATE part SET newest = 0.0 WHERE key = (SELECT max(key) FROM part)")
    async with world(tmp_path) as here:
        for bucket in buckets:
            await ready(here, bucket, "indexed")
        assert [each["id"] for each in (await find(here, limit=6))["data"]] == sent[::-1]


@pytest.mark.gen_test
async def test_events_whose_content_left(tmp_path: Path, way: str) -> None:
    """They are found by what is left of them, and by nothing that may have stood in their content."""
    async with world(tmp_path, **options(way)) as here:
        bucket = await here.bucket("ephemeral", ephemeral=True)
        for _ in range(2):
            await here.send(bucket, b"needle", "/shop")
        await ready(here, bucket, way)
        forget(here.relay.administration.logs.stored.log)
        found = (await find(here, method="post", delivery="received"))["data"]
        assert [(each["seq"], each["ephemeral"], each["headers"]) for each in found] == [(2, True, {}), (1, True, {})]
        for query in ({"q": "needle"}, {"path": "shop"}, {"header": "Host"}, {"verified": "none"}, {"method": "PUT"}):
            assert await seqs(here, **query) == [], query


@pytest.mark.parametrize("step", ["bounds", "outline"])
@pytest.mark.gen_test
async def test_a_bucket_that_is_deleted_meanwhile(here: World, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """What is in the others is found."""
    gone, bucket = await here.bucket("gone"), await here.bucket("orders")
    for each in (gone, bucket, gone):
        await here.send(each, b"hay")
    real = getattr(SqliteEventLog, step)

    async def dropped(log: SqliteEventLog, bucket_id: Any, *arguments: Any) -> Any:
        if bucket_id == gone.id:
            await log.drop(gone.id)
        return await real(log, bucket_id, *arguments)

    monkeypatch.setattr(SqliteEventLog, step, dropped)
    page = await find(here)
    assert [each["bucket_id"] for each in page["data"]] == [bucket.id]
    assert page["next_cursor"] is None


@pytest.mark.gen_test
async def test_a_request_looks_at_so_many_events(tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the page ends, perhaps empty, and the cursor goes on: nothing is passed over."""
    monkeypatch.setattr(searching, "LOOKED_AT", 8)
    monkeypatch.setattr(searching, "_CHUNKS", (4, 4))

    async with world(tmp_path, **options(way)) as here:
        bucket, other = await here.bucket("orders"), await here.bucket("other")
        await here.send(bucket, b"first needle")
        for number in range(30):
            await here.send(other if number % 3 else bucket, b"hay %d" % number)
        await ready(here, bucket, way)
        await ready(here, other, way)
        for query in ({"q": "first ne"}, {"q": "st"}, {"header": "Host", "q": "needle"}):
            found = [[each["seq"] for each in page["data"]] async for page in pages(here, **query)]
            assert list(chain(*found)) == [1], query
            assert len(found) < 20
            if query == {"q": "st"}:
                assert len(found) > 2


@pytest.mark.gen_test
async def test_a_bucket_that_is_looked_at_last(tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others have taken all that one request may look at: some of it is looked at all the same, and the cursor goes
    on."""
    monkeypatch.setattr(searching, "LOOKED_AT", 4)
    monkeypatch.setattr(searching, "_CHUNKS", (4, 4))
    async with world(tmp_path, **options(way)) as here:
        older, newer = await here.bucket("older"), await here.bucket("newer")
        sent = [await here.send(older, b"needle") for _ in range(6)]
        for _ in range(4):
            await here.send(newer, b"hay")
        for bucket in (older, newer):
            await ready(here, bucket, way)
        for query in ({"q": "ne"}, {"q": "needle"}):
            assert await all_ids(here, **query) == sent[::-1], query


@pytest.mark.gen_test
async def test_what_is_not_indexed_is_said(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what came since, the newest are looked at; where there is too much of it the page is not complete."""
    monkeypatch.setattr(searching, "_UNINDEXED", 5)
    monkeypatch.setattr(searching, "_CHUNKS", (4, 4))
    monkeypatch.setattr(index, "_SETTLE", 0.01)

    bucket = await here.bucket("orders")
    await here.send(bucket, b"needle")
    await ready(here, bucket, "indexed")
    monkeypatch.setattr(index, "_SETTLE", 3600.0)
    for _ in range(4):
        await here.send(bucket, b"needle")
    await asyncio.sleep(0.05)
    few = await find(here, bucket="orders", q="needle")
    for _ in range(8):
        await here.send(bucket, b"hay")
    many = await find(here, bucket="orders", q="needle")
    assert [each["seq"] for each in few["data"]] == [5, 4, 3, 2, 1]
    assert few["complete"]
    assert many["data"][-1]["seq"] == 1
    assert not many["complete"] or len(many["data"]) == 5


@pytest.mark.gen_test
async def test_what_the_index_has_no_more_is_said(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what is older than what it has, the newest are looked at, and the page is not complete."""
    monkeypatch.setattr(searching, "_UNINDEXED", 5)
    monkeypatch.setattr(searching, "_CHUNKS", (4, 4))
    monkeypatch.setattr(index, "_SETTLE", 0.01)

    bucket = await here.bucket("orders")
    for _ in range(12):
        await here.send(bucket, b"needle")
    await ready(here, bucket, "indexed")
    monkeypatch.setattr(index.Index, "covered", lambda *_: index.Covered(9, 12))
    page = await find(here, bucket="orders", q="needle")
    assert [each["seq"] for each in page["data"]] == list(range(12, 4, -1))
    assert (page["complete"], page["next_cursor"]) == (False, None)


@pytest.mark.gen_test
async def test_what_leaves_the_index_meanwhile_is_found(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two looks of one request it may come to its bound: what it had is looked at as it stands."""
    monkeypatch.setattr(index, "_SETTLE", 0.01)
    real, left = index.Index.find, []

    async def find_later(self: index.Index, *arguments: Any) -> Any:
        if not left:
            left.append(await self._write(index._shrink))
        return await real(self, *arguments)

    bucket = await here.bucket("orders")
    for _ in range(3):
        await here.send(bucket, b"needle")
    await ready(here, bucket, "indexed")
    monkeypatch.setattr(index.Index, "find", find_later)
    page = await find(here, bucket="orders", q="needle")
    assert left
    assert [each["seq"] for each in page["data"]] == [3, 2, 1]
    assert page["complete"]


@pytest.mark.gen_test
async def test_a_token_finds_what_is_its_own(here: World) -> None:
    """Nothing of other buckets is in a page, its cursors or its status."""
    mine, other = await here.bucket("mine"), await here.bucket("other")
    await here.token("scoped", buckets=["mine"])
    one, hidden = await here.send(mine, b"needle"), await here.send(other, b"needle")
    page = await find(here, token="scoped", q="needle")
    assert [each["id"] for each in page["data"]] == [one]
    await here.refused("cursor", "GET", f"/v1/search?cursor={hidden}", token="scoped")
    status = (await here.call("GET", "/v1/status", token="scoped")).document
    assert [each["name"] for each in status["buckets"]] == ["mine"]
