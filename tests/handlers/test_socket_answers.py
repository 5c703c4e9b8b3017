"""Answers that a client sends in a row, over real sockets: they share a commit, and are told in their order."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog

from relay_tornado.handlers.answers import MOST
from relay_tornado.log.sqlite_results import SqliteResults
from relay_tornado.model import KIB, BucketId, Result
from tests.handlers.desk import Desk, desk
from tests.handlers.edge import URL
from tests.handlers.raw import Raw, request
from tests.handlers.sockets import HANDSHAKE, TIMEOUT, Client, masked
from tests.handlers.test_hangups import CLOSE, PING
from tests.waiting import until

pytestmark = [pytest.mark.gen_test(timeout=60), pytest.mark.usefixtures("transport")]


class Held:
    """Results that are stored once `go` is set; the first of them fail with `errors`."""

    def __init__(self, site: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go = asyncio.Event()
        self.begun: list[int] = []
        """The events whose results began to be stored."""
        self.stored: list[int] = []
        self.most = 0
        """The most that were being stored at the same time."""
        self.errors: list[Exception] = []
        self._results = site.site.site.clients.responses._results
        self._record = self._results.record
        monkeypatch.setattr(self._results, "record", self.record)

    async def record(self, bucket_id: BucketId, seq: int, output: int, result: Result) -> None:
        self.begun.append(seq)
        self.most = max(self.most, len(self.begun) - len(self.stored))
        await self.go.wait()
        if self.errors:
            raise self.errors.pop()
        await self._record(bucket_id, seq, output, result)
        self.stored.append(seq)


@asynccontextmanager
async def answering(
    count: int, monkeypatch: pytest.MonkeyPatch, **settings: Any
) -> AsyncIterator[tuple[Desk, Client, list[str], Held]]:
    """A site, a client of it, the ids of its events, and its results, held. No task is left at the end."""
    async with desk(output="", settings=settings) as site:
        client, ids = await having(site, count)
        yield site, client, ids, Held(site, monkeypatch)
        await until(lambda: not tasks())


async def having(site: Desk, count: int) -> tuple[Client, list[str]]:
    client = await site.client(extended=True)
    sender = await site.sender(b"")
    for _ in range(count):
        assert (await sender.ask(request(URL, b"x"))).status == 200
    return client, [event["meta"]["id"] for event in await client.webhooks(count)]


def tasks() -> list[asyncio.Task[Any]]:
    return [task for task in asyncio.all_tasks() if task.get_name() == "relay-answer"]


def answer(id: str, **fields: Any) -> str:
    return json.dumps({"action": "respond", "id": id, **fields}, ensure_ascii=False)


async def say(client: Client, *messages: str) -> None:
    """In one write, so that the relay may read them all."""
    data = b"".join(masked(json.loads(message)) for message in messages)
    client.socket.transport.write(data)


async def turns() -> None:
    """The relay handles what has arrived."""
    for _ in range(100):
        await asyncio.sleep(0)


async def told(client: Client, count: int) -> list[str]:
    """The ids, or the codes of errors, of the next messages; pings are passed over."""
    found: list[str] = []
    while len(found) < count:
        message = await client.hear()
        if message["status"] != "ping":
            found.append(str(message.get("id") or message.get("code") or message["status"]))
    return found


async def test_answers_in_a_row_share_a_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that come while one is being stored are stored together. What is wrong with one is told in its turn."""
    count = 40
    async with desk(tmp_path, output="") as site:
        client, ids = await having(site, count)
        results: Any = site.site.site.clients.responses._results
        commit, commits = SqliteResults._commit, []

        async def hold(self: SqliteResults, entries: list[Any]) -> None:
            commits.append(len(entries))
            if len(commits) == 1:
                await until(lambda: commits[0] + len(results._queue) == count)
            await commit(self, entries)

        monkeypatch.setattr(SqliteResults, "_commit", hold)
        stranger = f"{ids[0].split('-')[0]}-{count + 1}"
        await say(client, *map(answer, [*ids[:10], stranger, *ids[10:], stranger]))
        assert await told(client, count + 2) == [*ids[:10], "not_found", *ids[10:], "not_found"]
        assert (sum(commits), len(commits) <= 2) == (count, True)


@pytest.mark.parametrize(
    ("count", "body", "most"),
    [(MOST + 10, "x", MOST), (5, "x" * 30 * KIB, 2), (5, "€" * 10 * KIB, 2)],
    ids=["number", "bytes", "characters"],
)
async def test_the_bound(count: int, body: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many are being stored at once, and no more."""
    async with answering(count, monkeypatch, max_message=64 * KIB) as (_, client, ids, held):
        for each in ids:
            await client.say(answer(each, body=body))
        await until(lambda: len(held.begun) >= most)
        await turns()
        held.go.set()
        assert await told(client, count) == ids
        assert (held.most, held.stored) == (most, list(range(1, count + 1)))


async def test_any_other_message_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """So does another answer to the same event: which one is the first is certain."""
    async with answering(3, monkeypatch) as (_, client, ids, held):
        bad = json.dumps({"action": "respond", "id": "1"})
        unsubscribe = json.dumps({"action": "unsubscribe", "buckets": ["orders"]})
        await say(client, answer(ids[0]), answer(ids[1]), answer(ids[1], status=500), bad, unsubscribe, answer(ids[2]))
        await until(lambda: len(held.begun) >= 2)
        await turns()
        assert held.begun == [1, 2]
        held.go.set()
        assert await told(client, 6) == [ids[0], ids[1], ids[1], "invalid", "unsubscribed", ids[2]]


async def test_a_message_that_is_too_big_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its client takes the close for an answer to the oldest message that is not answered."""
    async with answering(2, monkeypatch, max_message=64 * KIB) as (_, client, ids, held):
        await client.say(answer(ids[0]))
        await client.say(answer(ids[1], body="x" * 64 * KIB))
        await until(lambda: len(held.begun) == 1)
        await turns()
        held.go.set()
        assert await told(client, 1) == ids[:1]
        assert (await client.end())[0] == 1009


@pytest.mark.parametrize(
    ("frames", "replies"),
    [(CLOSE, b"\x88\x02\x03\xe8"), (PING + CLOSE, b"\x8a\x00\x88\x02\x03\xe8")],
    ids=["close", "ping, close"],
)
async def test_a_client_that_closes_behind_its_answers(
    frames: bytes, replies: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told of them, and then gets the pong and the close frame, also if its half of the connection is closed."""
    async with answering(3, monkeypatch) as (site, client, ids, held), Raw(site.site.port) as raw:
        raw.send(HANDSHAKE)
        await raw.reader.readuntil(b"\r\n\r\n")
        key, secret = client.token
        raw.send(masked({"action": "auth", "key": key, "secret": secret}))
        await raw.reader.readuntil(b'"authenticated"')
        raw.send(b"".join(masked({"action": "respond", "id": each}) for each in ids) + frames)
        await until(lambda: len(held.begun) == 3)
        raw.writer.write_eof()
        await turns()
        held.go.set()
        data = await raw.closed()
        assert data.endswith(replies)
        assert [data.count(each.encode()) for each in ids] == [1, 1, 1]


@pytest.mark.parametrize("how", ["abort", "stop", "revoke"])
async def test_a_socket_that_ends_in_the_midst(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was being stored is stored."""
    async with answering(5, monkeypatch) as (site, client, ids, held):
        await say(client, *map(answer, ids))
        await until(lambda: len(held.begun) == 5)
        if how == "abort":
            client.abort()
            await until(lambda: site.site.site.clients.count == 0)
        elif how == "revoke":
            await site.site.registry.delete("token", client.token[0])
            assert (await client.end())[0] == 4503
        else:
            stopping = asyncio.create_task(site.site.site.stop())
            assert (await client.end())[0] == 1001
            await asyncio.wait_for(stopping, TIMEOUT)
        held.go.set()
        await until(lambda: len(held.stored) == 5)


async def test_an_answer_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for lack of memory: the connection ends, since the client can't be told, and the others are stored."""
    async with answering(5, monkeypatch) as (site, client, ids, held):
        held.errors = [MemoryError("on purpose")]
        with structlog.testing.capture_logs() as lines:
            await say(client, *map(answer, ids))
            await until(lambda: len(held.begun) == 5)
            held.go.set()
            await until(lambda: len(held.stored) == 4 and site.site.site.clients.count == 0)
        assert [line["event"] for line in lines if line["log_level"] == "error"] == ["respond_failed"]
