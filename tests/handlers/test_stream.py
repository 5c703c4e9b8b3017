"""/v1/stream: what a client of server-sent events gets, over its connections and their cuts."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import json
import random
import re
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from websockets.asyncio.client import connect

from relay_tornado.delivery.flight import CHUNK
from relay_tornado.handlers import feed, stream
from relay_tornado.ids import hash_secret, new_epoch, new_secret
from relay_tornado.model import Bucket, Input, NewEvent, Output, Retention, Token
from tests.handlers.edge import BUCKET, Edge, edge
from tests.handlers.raw import TIMEOUT, eventually
from tests.handlers.streams import Message, Source, basic


class Here:
    """A site, and what these tests do with it."""

    def __init__(self, site: Edge) -> None:
        self.edge = site
        self.secret = ""

    async def token(self, buckets: Iterable[str] | None = None, **fields: Any) -> str:
        """The secret of a new one; its key is the secret's hash."""
        secret = new_secret()
        ids = None if buckets is None else frozenset(buckets)
        key = hash_secret(secret)
        await self.edge.registry.put("token", key, Token(key, key, time.time(), buckets=ids, **fields))
        return secret

    async def bucket(self, name: str, **fields: Any) -> Bucket:
        await self.edge.log.create(f"id-{name}", new_epoch())
        now = time.time()
        bucket = Bucket(f"id-{name}", name, now, now, inputs=(Input(f"in-{name}", "i", now, now),), **fields)
        await self.edge.registry.put("bucket", bucket.id, bucket)
        return bucket

    async def append(self, count: int = 1, bucket: str = BUCKET.id, body: bytes = b"{}", headers: bytes = b"") -> None:
        for _ in range(count):
            await self.edge.log.append(bucket, NewEvent("in-1", "POST", b"", b"", headers, body, "192.0.2.1"))

    def source(self, query: str = "", last: str = "", secret: str = "", **headers: str) -> Source:
        return Source(self.edge.port, secret or self.secret, query, last=last, **headers)


@asynccontextmanager
async def here(**settings: Any) -> AsyncIterator[Here]:
    """A site whose bucket `orders` is there, with an administrator's token."""
    async with edge(**settings) as site:
        made = Here(site)
        made.secret = await made.token()
        yield made
        await eventually(lambda: not site.site.sockets.count)
        assert site.site.sockets.deliveries.flight.outstanding == 0


def ids(messages: Iterable[Message]) -> list[str]:
    return [each.document["meta"]["id"] for each in messages]


# the form


def test_replay_and_live_come_as_they_do_on_a_websocket() -> None:
    """The data is what a WebSocket gets, byte for byte, and the id is the event's own."""

    async def run() -> None:
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

    asyncio.run(run())


def test_basic_credentials_and_http_1_0_do_as_well() -> None:
    """The body is not chunked there, and a key of one's own is looked at."""

    async def run() -> None:
        async with here() as site:
            key = hash_secret(site.secret)
            for authorization in (basic(key, site.secret), basic("whr", site.secret)):
                async with site.source(version="1.0", Authorization=authorization) as source:
                    assert "transfer-encoding" not in source.headers
                    await source.hear("subscribed")
                    await source.hear("caught_up")
                    await site.append()
                    await source.hear("webhook")
            async with site.source(Authorization=basic("other", site.secret)) as source:
                assert source.status == 401

    asyncio.run(run())


def test_copies_filters_and_bodies_are_as_on_a_websocket() -> None:
    """Ids of copies lead on between two of them; `outputs`, `max_body` and `filter` do what they do there."""

    async def run() -> None:
        async with here() as site:
            outputs = tuple(Output(f"o-{n}", n, f"o{n}", 0, 0) for n in (1, 2))
            await site.edge.change(outputs=outputs)
            await site.append(2, body=b'{"n": 1}', headers=b"X-Kind: order\r\n")
            await site.append(1, body=b"x" * 100)
            async with site.source("bucket=orders&since=earliest") as source:
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

    asyncio.run(run())


@pytest.mark.parametrize(
    ("since", "seqs"),
    [("latest", []), ("earliest", [1, 2, 3]), ('{"last": 2}', [2, 3]), ('{"time": 1}', [1, 2, 3]),
     ('{"orders": {"last": 1}}', [3]), ('{"*": "earliest"}', [1, 2, 3])],
)  # fmt: skip
def test_since_is_a_position_or_a_map(since: str, seqs: list[int]) -> None:
    """As on the WebSocket."""

    async def run() -> None:
        async with here() as site:
            await site.append(3)
            async with site.source(f"bucket=orders&since={quote(since)}") as source:
                await source.hear("subscribed")
                assert await source.seqs(len(seqs)) == seqs
                await source.hear("caught_up")

    asyncio.run(run())


# going on


def test_a_client_that_got_nothing_yet_misses_nothing() -> None:
    """Its first event tells where it began, so that what comes while it is away is there when it is back."""

    async def run() -> None:
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

    asyncio.run(run())


@pytest.mark.parametrize(
    "query", ["bucket=orders&since=earliest", "since=earliest", "bucket=orders,b&bucket=c&since=earliest"]
)
def test_over_cuts_everything_comes_once_and_in_order(query: str) -> None:
    """Replay, live and everything between: 30 cuts at random places while events come in."""
    dice = random.Random(7)

    async def run() -> None:
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

    asyncio.run(run())


def test_a_new_bucket_joins_from_its_first_event() -> None:
    """Where it was made during the stream, and where it was made while the client was away; an older one that the
    client had not had begins as for anybody."""

    async def run() -> None:
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

    asyncio.run(run())


def test_ids_of_one_name_that_two_buckets_had() -> None:
    """A bucket that takes the name of the one that was asked for joins it: from then on an id is about both."""

    async def run() -> None:
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

    asyncio.run(run())


def test_a_bucket_that_is_deleted_is_told_and_leaves_the_ids() -> None:
    """The others go on; and where it was the only one that was named, a client that comes back is told for good."""

    async def run() -> None:
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

    asyncio.run(run())


def test_what_the_log_does_not_know_is_a_gap_and_never_a_guess() -> None:
    """An id of another relay, alone or among several: each bucket that it may have been about has gap reset."""

    async def run() -> None:
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

    asyncio.run(run())


def test_a_gap_is_an_event_or_a_refusal() -> None:
    """By retention, at the beginning: told, or 410 with the gaps, which an EventSource does not try again."""

    async def run() -> None:
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
            await eventually(lambda: not site.edge.site.sockets.count)

    asyncio.run(run())


# who may, and how many


@pytest.mark.parametrize("name", ["secret", "token", "access_token", "Key", "api_key", "authorization"])
def test_a_secret_in_a_url_is_refused(name: str) -> None:
    """In words that say where it belongs, and even with good credentials beside it; the answer does not repeat it."""

    async def run() -> None:
        async with here() as site, site.source(f"bucket=orders&{name}={site.secret}") as source:
            assert source.status == 400
            assert "does not belong in a URL" in source.error["message"]
            assert site.secret.encode() not in source.body

    asyncio.run(run())


@pytest.mark.parametrize(
    "query",
    ["bucket={0}", "bucket=orders,{0}", "bucket=orders&bucket={0}", "since={0}", "since=%7B%22{0}%22%3A%22latest%22%7D",
     "filter={0}", "max_body={0}", "on_gap={0}", "outputs={0}", "{0}", "{0}=1", "x={0}", "bucket={1}"],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["new", "mistyped", "other"])
def test_a_secret_anywhere_in_a_url_is_refused(query: str, kind: str) -> None:
    """What is a token's secret or looks like one, as any value or name; no answer repeats it."""

    async def run() -> None:
        async with here() as site:
            secret = {"new": site.secret, "mistyped": site.secret[:-9], "other": "hand-made"}[kind]
            hashed = hash_secret("hand-made")
            await site.edge.registry.put("token", hashed, Token(hashed, hashed, time.time()))
            encoded = "".join(f"%{byte:02x}" for byte in secret.encode())
            async with site.source(query.format(secret, encoded)) as source:
                assert source.status == 400
                assert "does not belong in a URL" in source.error["message"]
                assert secret.encode() not in source.body

    asyncio.run(run())


def test_names_that_are_not_known_are_not_repeated() -> None:
    """They are told by their place, in a stream and in a refusal."""

    async def run() -> None:
        async with here() as site:
            await site.append(3)
            async with site.source("bucket=Pass-1,orders,Pass-2&since=latest") as source:
                document = (await source.hear("subscribed")).document
                assert document["message"] == "subscribed to buckets: bucket 1, orders, bucket 3"
                assert [each["bucket_name"] for each in document["buckets"]] == ["bucket 1", "orders", "bucket 3"]
                assert document["buckets"][2] == {"bucket_name": "bucket 3", "error": "not_found"}
            for query, last in (
                ("Pass-1=x", ""),
                ("bucket=Pass-1", ""),
                ("since=Pass-1", ""),
                ("bucket=orders", "Pass-1"),
            ):
                async with site.source(query, last=last) as source:
                    assert source.status in (400, 404)
                    assert b"Pass-1" not in source.body

    asyncio.run(run())


@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ("buckets=orders", 400, "no such parameter"),
        ("consumer=w", 400, "no such parameter"),
        ("since=yesterday", 400, "since: there is no such position: write latest"),
        ("since=%7B%22o%22%3A%22yesterday%22%7D", 400, "since: there is no such position: write latest"),
        ("since=%7B%22last%22%3A-1%7D", 400, "since.last: write a whole number"),
        ("bucket=" + "x," * 101, 400, "at most 100 buckets"),
        ("&bucket=orders" * 101, 400, "at most 100 buckets"),
        ("since=%7B", 400, "since: is no JSON"),
        ("since=latest&since=latest", 400, "since: write it once"),
        ("filter=x", 400, "filter: is no JSON"),
        ("filter=%7B%22match%22%3A%7B%7D%7D", 400, "filter"),
        ("max_body=many", 400, "max_body: write a whole number"),
        ("outputs=some", 400, 'outputs: write "none"'),
        ("on_gap=stop", 400, 'on_gap: write "resume" or "fail"'),
        ("bucket=%FF", 400, "bucket: is not UTF-8"),
        ("bucket=nope", 404, "bucket 1: there is none of this name"),
        ("bucket=nope,other", 404, "bucket 1, bucket 2: there is none of this name"),
    ],
)
def test_what_can_not_be_followed_is_told(query: str, status: int, words: str) -> None:
    """Before a stream begins, as JSON; a bucket out of scope is as one that is not there."""

    async def run() -> None:
        async with here() as site:
            await site.bucket("other")
            secret = await site.token([BUCKET.id])
            async with site.source(query, secret=secret) as source:
                assert (source.status, source.headers["content-type"]) == (status, "application/json")
                assert words in source.error["message"]
            assert not site.edge.site.sockets.count

    asyncio.run(run())


def test_who_has_no_token_gets_nothing() -> None:
    """401, with a challenge that opens no window in a browser; a token without API access reads, as ever."""

    async def run() -> None:
        async with here() as site:
            for secret in ("nobody's", await site.token(expires_at=time.time() - 1)):
                async with site.source(secret=secret) as source:
                    assert source.status == 401
                    assert source.headers["www-authenticate"] == 'Bearer realm="relay"'
            async with site.source(secret="x", Authorization="") as source:
                assert source.status == 401
            plain = await site.token([BUCKET.id], api_access=False)
            async with site.source(secret=plain) as source:
                await source.hear("subscribed")

    asyncio.run(run())


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "https://elsewhere.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Sec_Fetch_Site": "same-site"}, 403),
        ({"Origin": "http://127.0.0.1:{port}"}, 200),
        ({"Origin": "https://relay.example"}, 200),
        ({"Sec_Fetch_Site": "same-origin"}, 200),
        ({"Sec_Fetch_Site": "none"}, 200),
        ({}, 200),
    ],
)
def test_a_page_of_another_site_is_refused(headers: dict[str, str], status: int) -> None:
    """The relay's own pages and programs without a page are not."""

    async def run() -> None:
        async with here(public_url="https://relay.example") as site:
            given = {name: value.format(port=site.edge.port) for name, value in headers.items()}
            async with site.source(**given) as source:
                assert source.status == status

    asyncio.run(run())


def test_streams_count_among_sockets() -> None:
    """In all; and one that has left makes room for the next."""

    async def run() -> None:
        async with here(max_sockets=2) as site:
            async with site.source() as one, site.source() as two:
                for each in (one, two):
                    await each.hear("subscribed")
                async with site.source() as three:
                    assert (three.status, three.error["code"]) == (503, "overloaded")
                    assert three.headers["retry-after"] == "1"
                assert [each.user_agent for each in site.edge.site.sockets.subscribed] == ["", ""]
                assert site.edge.site.sockets.subscribed[0].buckets == {BUCKET.id}
            await eventually(lambda: not site.edge.site.sockets.count)
            async with site.source() as source:
                await source.hear("subscribed")

    asyncio.run(run())


def test_a_stream_of_too_many_buckets_is_refused() -> None:
    """Its ids would not fit into the head of the request that goes on; named ones do."""

    async def run() -> None:
        async with here() as site:
            for number in range(100):
                await site.bucket(f"b{number}")
            async with site.source() as source:
                assert source.status == 400
                assert "at most 100" in source.error["message"]
            names = ",".join(f"b{number}" for number in range(100))
            async with site.source(f"bucket={names}") as source:
                last = (await source.hear("subscribed")).id
            await site.append(1, "id-b99")
            async with site.source(f"bucket={names}", last=last) as source:
                assert len(last) > 1_400
                await source.hear("subscribed")
                message = await source.until("webhook")
                assert message.document["meta"]["bucket_name"] == "b99"

    asyncio.run(run())


# the end


async def ended(source: Source, code: str) -> None:
    """The next event says why, and is the last one."""
    assert (await source.hear("error")).document["code"] == code
    assert await source.next() is None


def test_it_ends_with_its_token() -> None:
    """Revoked, expired, or with a secret that was rotated away; one that loses a bucket loses that one's events."""

    async def run() -> None:
        async with here() as site:
            registry = site.edge.registry
            revoked, brief, rotated, scoped = [await site.token() for _ in range(4)]
            async with site.source(secret=revoked) as source:
                await source.hear("subscribed")
                await registry.delete("token", hash_secret(revoked))
                await source.hear("caught_up")
                await ended(source, "token_revoked")
            async with site.source(secret=brief) as source:
                await source.hear("subscribed")
                await source.hear("caught_up")
                token = registry.get("token", hash_secret(brief))
                await registry.put("token", token.key, dataclasses.replace(token, expires_at=time.time() + 0.2))
                await ended(source, "token_expired")
            async with site.source(secret=rotated) as source:
                await source.hear("subscribed")
                await source.hear("caught_up")
                token = registry.get("token", hash_secret(rotated))
                fresh = dataclasses.replace(token, secret_hash="h", previous_hash=token.secret_hash,
                                            previous_until=time.time() + 0.2)  # fmt: skip
                await registry.put("token", token.key, fresh)
                await ended(source, "token_revoked")
            async with site.source("bucket=orders", secret=scoped) as source:
                await source.hear("subscribed")
                await source.hear("caught_up")
                token = registry.get("token", hash_secret(scoped))
                await registry.put("token", token.key, dataclasses.replace(token, buckets=frozenset({"id-x"})))
                await source.hear("bucket_deleted")

    asyncio.run(run())


def test_at_a_drain_it_is_told_to_come_back() -> None:
    """And nobody waits for it, nor for a client that reads nothing any more."""

    async def run() -> None:
        async with here() as site, site.source() as source, site.source() as deaf:
            await source.hear("subscribed")
            await source.hear("caught_up")
            await deaf.hear("subscribed")
            await asyncio.wait_for(site.edge.site.stop(), TIMEOUT)
            await ended(source, "going_away")

    asyncio.run(run())


def test_retention_that_overtakes_a_slow_reader_is_told() -> None:
    """As a gap; with on_gap fail it is the end."""

    async def run() -> None:
        async with here() as site:
            await site.append(400, body=b"x" * 50_000)
            async with site.source("since=earliest") as slow, site.source("since=earliest&on_gap=fail") as failing:
                for each in (slow, failing):
                    assert (await each.hear("subscribed")).document["buckets"][0]["gap"] is None
                await site.edge.log.trim(BUCKET.id, Retention(max_events=1), None)
                got = []
                while (message := await slow.next()) is not None and message.kind == "webhook":
                    got.append(message.document["meta"]["seq"])
                assert message is not None
                assert message.kind == "gap"
                assert got == list(range(1, len(got) + 1))
                assert message.document["gap"]["from"] == len(got) + 1
                assert message.document["gap"]["to"] == 399
                assert message.id.partition("@")[0].endswith("-399")
                assert await slow.seqs(1) == [400]
                while (message := await failing.next()) is not None and message.kind == "webhook":
                    pass
                assert message is not None
                assert message.kind == "gap"
                await ended(failing, "gap_refused")

    asyncio.run(run())


def test_a_slow_reader_costs_bounded_memory_and_slows_nobody() -> None:
    """40 MB that it does not read stay in the log; others get everything meanwhile, and it does when it reads on."""

    async def run() -> None:
        async with here() as site, site.source("bucket=orders") as slow, site.source("bucket=orders") as quick:
            for each in (slow, quick):
                await each.hear("subscribed")
                await each.hear("caught_up")
            feeds = site.edge.site.sockets.subscribed
            assert len(feeds) == 2
            most = 0
            for seq in range(1, 401):
                await site.append(body=b"x" * 100_000)
                assert await quick.seqs(1) == [seq]
                waiting = [len(each._stream._write_buffer) for each in feeds]  # type: ignore[attr-defined]
                most = max(most, *waiting)
            assert 0 < most <= 2 * CHUNK
            assert site.edge.site.sockets.deliveries.flight.outstanding <= 2 * CHUNK
            assert await slow.seqs(400) == list(range(1, 401))

    asyncio.run(run())


def test_one_that_reads_nothing_for_long_is_cut_off() -> None:
    """After `stuck_timeout`, while one that only has nothing to read stays."""

    async def run() -> None:
        async with here(stuck_timeout=0.8, ping_interval=0.1) as site:
            await site.append(200, body=b"x" * 100_000)
            async with site.source() as idle, site.source("since=earliest") as stuck:
                await idle.hear("subscribed")
                await stuck.hear("subscribed")
                await eventually(lambda: site.edge.site.sockets.count == 1)
                await idle.hear("caught_up")
                await site.append()
                await idle.hear("webhook")

    asyncio.run(run())


# signs of life


def test_heartbeats_are_comments_with_positions() -> None:
    """No client makes an event of them; there are positions for the buckets that moved."""

    async def run() -> None:
        async with here(ping_interval=0.05) as site, site.source("bucket=orders") as source:
            epoch = (await source.hear("subscribed")).id.partition("-")[0]
            await source.hear("caught_up")
            await site.append(2)
            assert await source.seqs(2) == [1, 2]
            moved: list[dict[str, str]] = []
            while not moved or moved[-1]:
                moved.append(json.loads(await source.comment())["positions"])
            assert {"orders": f"{epoch}-2"} in moved

    asyncio.run(run())


def test_a_filter_that_passes_nothing_still_moves_the_position() -> None:
    """By pings, which carry an id, so that a client that comes back does not begin where it once began."""
    rules = quote('{"match": {"type": "value", "parameter": {"source": "header", "name": "X"}, "value": "1"}}')

    async def run() -> None:
        async with here(ping_interval=0.05) as site:
            for query in (f"bucket=orders&filter={rules}", f"filter={rules}"):
                async with site.source(query) as source:
                    await source.hear("subscribed")
                    await source.hear("caught_up")
                    await site.append(20)
                    head = (await site.edge.log.bounds(BUCKET.id)).head
                    while True:
                        ping = await source.hear("ping")
                        if ping.id.partition("@")[0].endswith(f"-{head}"):
                            break
                    assert ping.document["positions"] == {"orders": ping.id.partition("@")[0]}

    asyncio.run(run())


def test_no_id_leads_back() -> None:
    """Also where a sign of life is made while events are on their way that delivery does not know to be written."""

    async def run() -> None:
        async with here(ping_interval=0.05) as site:
            await site.append(200, body=b"x" * 100_000)
            async with site.source("bucket=orders&since=earliest") as source:
                await source.hear("subscribed")
                (there,) = site.edge.site.sockets.subscribed
                await eventually(lambda: there._heartbeat is not None and there._stream.writing())  # type: ignore[attr-defined]
                seqs = [int(source.id.rpartition("-")[2])]
                while seqs[-1] < 200:
                    message = await source.next()
                    assert message is not None
                    seqs.append(int(message.id.rpartition("-")[2]))
                assert seqs == sorted(seqs)

    asyncio.run(run())


def test_they_come_every_15_seconds() -> None:
    """With the settings that there are, proxies' usual time-outs of 30 and 60 s are never met."""
    assert feed.HEARTBEAT == 15.0


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
