"""/v1/stream: what a client of server-sent events gets, over its connections and their cuts."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import json
import random
import re
import time
from pathlib import Path
from urllib.parse import quote

import pytest
from websockets.asyncio.client import connect

from relay_tornado.handlers import feed, stream
from relay_tornado.ids import hash_secret, new_epoch
from relay_tornado.model import Output, Retention
from tests.handlers.edge import BUCKET
from tests.handlers.raw import TIMEOUT, basic
from tests.handlers.streams import here, ids
from tests.waiting import until

# the form


@pytest.mark.gen_test
async def test_replay_and_live_come_as_they_do_on_a_websocket() -> None:
    """The data is what a WebSocket gets, byte for byte, and the id is the event's own."""
    async with here() as site:
        await site.append(2, body='{"ä": "\u2028\\n"}'.encode())
        await site.append(1, body=b"\xff\xfe\n\r")
        async with site.source("bucket=orders&since=earliest") as source:
            assert source.status == 200
            assert source.headers["content-type"] == "text/event-stream"
            assert source.headers["cache-control"] == "no-store, no-transform"
            assert source.headers["x-accel-buffering"] == "no"
            subscribed = await source.hear("subscribed")
            (entry,) = subscribed.document["buckets"]
            assert (entry["bucket_name"], entry["start"], entry["gap"]) == ("orders", 1, None)
            assert subscribed.id == f"{entry['epoch']}-0"
            assert source.parser.retry is not None
            assert 1_000 <= source.parser.retry <= 3_000
            replayed = [await source.hear("webhook") for _ in range(3)]
            caught_up = await source.hear("caught_up")
            assert caught_up.document["id"] == caught_up.id == replayed[-1].id
            await site.append(body=b"x" * 70_000)
            live = await source.hear("webhook")
            for each in (*replayed, live):
                assert each.id == each.document["meta"]["id"]
                assert each.document["meta"]["bucket_name"] == "orders"
        url = f"ws://127.0.0.1:{site.edge.port}/v1/socket"
        async with asyncio.timeout(TIMEOUT), connect(url, proxy=None) as socket:
            await socket.send(json.dumps({"action": "auth", "key": "whr", "secret": site.secret}))
            await socket.recv()
            await socket.send(json.dumps({"action": "subscribe", "since": "earliest"}))
            await socket.recv()
            frames = [await socket.recv() for _ in range(5)]
        assert [each.data for each in (*replayed, live)] == frames[:4]


@pytest.mark.gen_test
async def test_a_name_of_no_bucket_beside_a_cursor() -> None:
    """The buckets that are there are continued."""
    async with here() as site:
        await site.append(2)
        async with site.source("bucket=orders&since=earliest") as source:
            await source.hear("subscribed")
            cursor = (await source.hear("webhook")).id
        async with site.source(f"bucket=orders,other&since={cursor}") as source:
            buckets = (await source.hear("subscribed")).document["buckets"]
            assert [each.get("error") for each in buckets] == [None, "not_found"]
            assert await source.seqs(1) == [2]


@pytest.mark.gen_test
async def test_a_slash_at_the_end_of_the_path() -> None:
    """It counts for nothing, as in REST."""
    async with here() as site:
        source = site.source("bucket=orders")
        source.request = source.request.replace(b"/v1/stream?", b"/v1/stream/?")
        async with source:
            assert source.status == 200
            await source.hear("subscribed")


@pytest.mark.gen_test
async def test_basic_credentials_and_http_1_0_do_as_well() -> None:
    """The body is not chunked there, and a key of one's own is looked at."""
    async with here() as site:
        key = hash_secret(site.secret)
        for authorization in (basic(key, site.secret), basic("whr", site.secret)):
            async with site.source(version="1.0", Authorization=authorization) as source:
                assert "transfer-encoding" not in source.headers
                assert source.headers["connection"] == "close"
                await source.hear("subscribed")
                await source.hear("caught_up")
                await site.append()
                await source.hear("webhook")
        async with site.source(Authorization=basic("other", site.secret)) as source:
            assert source.status == 401


@pytest.mark.gen_test
async def test_copies_filters_and_bodies_are_as_on_a_websocket() -> None:
    """Ids of copies lead on between two of them; `outputs`, `max_body` and `filter` do what they do there."""
    async with here() as site:
        outputs = tuple(Output(f"o-{n}", n, f"o{n}", 0, 0) for n in (1, 2))
        await site.edge.change(outputs=outputs)
        await site.append(2, body=b'{"n": 1}', headers=b"X-Kind: order\r\n")
        await site.append(1, body=b"x" * 100)
        for query in ("", "&outputs=all"):
            async with site.source(f"bucket=orders&since=earliest{query}") as source:
                await source.hear("subscribed")
                copies = [await source.hear("webhook") for _ in range(6)]
                epoch = copies[0].id.partition("-")[0]
                assert [each.id for each in copies] == [f"{epoch}-{seq}-{n}" for seq in (1, 2, 3) for n in (1, 2)]
        for query in ("bucket=orders", ""):
            last = copies[2].id if query else f"{copies[2].id}@{int(time.time()) + 5}"
            async with site.source(query, last=last) as source:
                begin = await source.hear("subscribed")
                assert begin.id.partition("@")[0] == copies[2].id
                assert ids([await source.hear("webhook") for _ in range(3)]) == [each.id for each in copies[3:]]
        rules = quote(json.dumps({"match": {"type": "value", "parameter": {"source": "header", "name": "X-Kind"},
                                            "value": "order"}}))  # fmt: skip
        async with site.source(f"bucket=orders&since=earliest&outputs=none&max_body=4&filter={rules}") as source:
            await source.hear("subscribed")
            assert await source.seqs(2) == [1, 2]
            await source.hear("caught_up")
            assert source.id == f"{epoch}-3"
        async with site.source("since=earliest&outputs=none&max_body=4&on_gap=resume") as source:
            await source.hear("subscribed")
            first = await source.hear("webhook")
            assert first.document["truncated"] is True
            assert "body" not in first.document


@pytest.mark.parametrize(
    ("since", "seqs"),
    [("latest", []), ("earliest", [1, 2, 3]), ('{"last": 2}', [2, 3]), ('{"time": 1}', [1, 2, 3]),
     ('{"orders": {"last": 1}}', [3]), ('{"*": "earliest"}', [1, 2, 3])],
)  # fmt: skip
@pytest.mark.gen_test
async def test_since_is_a_position_or_a_map(since: str, seqs: list[int]) -> None:
    """As on the WebSocket."""
    async with here() as site:
        await site.append(3)
        async with site.source(f"bucket=orders&since={quote(since)}") as source:
            await source.hear("subscribed")
            assert await source.seqs(len(seqs)) == seqs
            await source.hear("caught_up")


# going on


@pytest.mark.gen_test
async def test_a_client_that_got_nothing_yet_misses_nothing() -> None:
    """Its first event tells where it began, so that what comes while it is away is there when it is back."""
    async with here() as site:
        for query in ("bucket=orders", ""):
            await site.append(2)
            async with site.source(query) as source:
                await source.hear("subscribed")
                last = source.id
            head = (await site.edge.log.bounds(BUCKET.id)).head
            await site.append(2)
            async with site.source(query, last=last) as source:
                await source.hear("subscribed")
                assert await source.seqs(2) == [head + 1, head + 2]
                await source.hear("caught_up")


@pytest.mark.parametrize(
    "query", ["bucket=orders&since=earliest", "since=earliest", "bucket=orders,b&bucket=c&since=earliest"]
)
@pytest.mark.gen_test
async def test_over_cuts_everything_comes_once_and_in_order(query: str) -> None:
    """Replay, live and everything between: 30 cuts at random places while events come in."""
    dice = random.Random(7)

    async with here() as site:
        await site.bucket("b")
        await site.bucket("c")
        names = {BUCKET.id: "orders", "id-b": "b", "id-c": "c"}
        if query.startswith("bucket=orders&"):
            names = {BUCKET.id: "orders"}
        sent = dict.fromkeys(names.values(), 0)
        total = 1_200
        await site.append(200)
        sent["orders"] += 200
        go = asyncio.Event()

        async def send() -> None:
            for number in range(total - 200):
                bucket_id = dice.choice(list(names))
                sent[names[bucket_id]] += 1
                await site.append(1, bucket_id, body=b"x" * dice.choice((2, 2, 2, 9_000)))
                if number % 30 == 0:
                    go.clear()
                    await asyncio.wait_for(go.wait(), TIMEOUT)

        sender = asyncio.create_task(send())
        got: dict[str, list[int]] = {name: [] for name in names.values()}
        last, cuts = "", 0
        while sum(map(len, got.values())) < total:
            go.set()
            async with site.source(query, last=last) as source:
                subscribed = await source.hear("subscribed")
                assert all(entry["gap"] is None for entry in subscribed.document["buckets"])
                for _ in range(dice.randrange(60)):
                    if sum(map(len, got.values())) == total:
                        break
                    go.set()
                    message = await source.next()
                    assert message is not None
                    if message.kind == "webhook":
                        meta = message.document["meta"]
                        got[meta["bucket_name"]].append(meta["seq"])
                last = source.id
            cuts += 1
        await sender
        assert cuts > 15
        assert got == {name: list(range(1, count + 1)) for name, count in sent.items()}


@pytest.mark.gen_test
async def test_a_new_bucket_joins_from_its_first_event() -> None:
    """Where it was made during the stream, and where it was made while the client was away; an older one that the
    client had not had begins as for anybody."""
    async with here() as site:
        old = await site.bucket("old")
        await site.edge.registry.put("bucket", old.id, dataclasses.replace(old, created_at=5))
        await site.append(3, old.id)
        secret = await site.token([BUCKET.id, "id-during", "id-away"])
        async with site.source(secret=secret) as source:
            await source.hear("subscribed")
            await source.hear("caught_up")
            during = await site.bucket("during")
            await site.append(2, during.id)
            assert await source.seqs(2) == [1, 2]
            last = source.id
        away = await site.bucket("away")
        await site.append(3, away.id)
        async with site.source(last=last) as source:
            await source.hear("subscribed")
            metas = [(await source.until("webhook")).document["meta"] for _ in range(3)]
            assert [(meta["bucket_name"], meta["seq"]) for meta in metas] == [("away", seq) for seq in (1, 2, 3)]
            await site.append(1, old.id)
            message = await source.until("webhook")
            assert (message.document["meta"]["bucket_name"], message.document["meta"]["seq"]) == ("old", 4)


@pytest.mark.gen_test
async def test_a_new_bucket_joins_a_stream_that_had_one_bucket() -> None:
    """The stream was of all buckets, also where its last id is about one."""
    async with here() as site:
        async with site.source() as source:
            await source.hear("subscribed")
            await source.hear("caught_up")
            await site.append()
            await source.until("webhook")
            last = source.id
        away = await site.bucket("away")
        await site.append(2, away.id)
        async with site.source(last=last) as source:
            await source.hear("subscribed")
            metas = [(await source.until("webhook")).document["meta"] for _ in range(2)]
            assert [(meta["bucket_name"], meta["seq"]) for meta in metas] == [("away", 1), ("away", 2)]


@pytest.mark.gen_test
async def test_ids_of_one_name_that_two_buckets_had() -> None:
    """A bucket that takes the name of the one that was asked for joins it: from then on an id is about both."""
    async with here() as site:
        async with site.source("bucket=orders") as source:
            await source.hear("subscribed")
            await site.append(1)
            first = await source.until("webhook")
            assert source.id == first.document["meta"]["id"]
            named = dataclasses.replace(site.edge.registry.get("bucket", BUCKET.id), name="orders-old")
            await site.edge.registry.put("bucket", BUCKET.id, named)
            other = await site.bucket("orders")
            await site.append(2, other.id)
            metas = [(await source.until("webhook")).document["meta"] for _ in range(2)]
            assert [meta["bucket_id"] for meta in metas] == [other.id] * 2
            assert metas[-1]["id"] in source.id
            last = source.id
        await site.append(1, other.id)
        async with site.source("bucket=orders", last=last) as source:
            assert (await source.hear("subscribed")).document["buckets"][0]["gap"] is None
            assert (await source.until("webhook")).document["meta"]["seq"] == 3


@pytest.mark.gen_test
async def test_a_bucket_that_is_deleted_is_told_and_leaves_the_ids() -> None:
    """The others go on; and where it was the only one that was named, a client that comes back is told for good."""
    async with here() as site:
        gone = await site.bucket("gone")
        await site.append(1, gone.id)
        async with site.source("since=earliest") as source, site.source("bucket=gone") as single:
            for each in (source, single):
                await each.hear("subscribed")
            await source.until("webhook")
            await site.edge.registry.delete("bucket", gone.id)
            await site.edge.log.drop(gone.id)
            message = await source.until("bucket_deleted")
            assert message.document["bucket_name"] == "gone"
            assert message.id.count("-") == 1
            await site.append()
            await source.until("webhook")
            assert source.id.count("-") == 1
            last = source.id
        async with site.source(last=last) as source:
            assert (await source.hear("subscribed")).document["buckets"][0]["gap"] is None
        async with site.source("bucket=gone") as source:
            assert source.status == 404


@pytest.mark.gen_test
async def test_what_the_log_does_not_know_is_a_gap_and_never_a_guess() -> None:
    """An id of another relay, alone or among several: each bucket that it may have been about has gap reset."""
    async with here() as site:
        await site.append(3)
        await site.edge.change(created_at=1)
        foreign = f"{new_epoch()}-5"
        for query, last in (("bucket=orders", foreign), ("", foreign), ("", f"{foreign}@{int(time.time())}")):
            async with site.source(query, last=last) as source:
                assert (await source.hear("subscribed")).document["buckets"][0]["gap"]["reason"] == "reset"
                gap = await source.hear("gap")
                assert gap.document["gap"] == {"from": None, "to": None, "count": None, "reason": "reset"}
                assert await source.seqs(3) == [1, 2, 3]
        async with site.source("bucket=orders", last="nonsense") as source:
            assert source.status == 400
            assert source.error["field"] == "Last-Event-ID"


@pytest.mark.gen_test
async def test_a_gap_is_an_event_or_a_refusal() -> None:
    """By retention, at the beginning: told, or 410 with the gaps, which an EventSource does not try again."""
    async with here() as site:
        await site.append(5)
        bounds = await site.edge.log.bounds(BUCKET.id)
        last = f"{bounds.epochs[0].epoch}-1"
        await site.edge.log.trim(BUCKET.id, Retention(max_events=2), None)
        async with site.source("bucket=orders", last=last) as source:
            await source.hear("subscribed")
            gap = (await source.hear("gap")).document
            assert gap == {"type": "status", "status": "gap", "bucket_name": "orders",
                           "gap": {"from": 2, "to": 3, "count": 2, "reason": "retention"}}  # fmt: skip
            assert await source.seqs(2) == [4, 5]
        async with site.source("bucket=orders&on_gap=fail", last=last) as source:
            assert (source.status, source.error["code"]) == (410, "cursor_lost")
            assert source.error["buckets"][0]["gap"]["count"] == 2
        await until(lambda: not site.edge.site.clients.count)


def test_everything_is_documented() -> None:
    """docs/stream.md has every parameter, every event and every code, and none that there is not."""
    text = (Path(__file__).parent.parent.parent / "docs" / "stream.md").read_text()
    parameters, _, events = text.partition("## Events")
    assert re.findall(r"^\| `(\w+)` \|", parameters, re.MULTILINE) == list(stream.PARAMETERS)
    told = re.findall(r"^\| `(\w+)` \|", events, re.MULTILINE)
    assert told == ["subscribed", "webhook", "gap", "caught_up", "bucket_deleted", "ping", "error"]
    ended = set(re.findall(r'_end\("(\w+)"', inspect.getsource(feed)))
    assert ended == set(re.findall(r"`(\w+)`", events.partition("`code` is")[2].partition("A client")[0]))
    assert str(stream.MAX_BUCKETS) in parameters
