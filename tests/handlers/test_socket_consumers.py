"""Consumers over a real socket: acks by message, receipts by the pongs of the client's library."""

from __future__ import annotations

import pytest

from relay_tornado.delivery import receipts
from relay_tornado.log import consumers
from relay_tornado.log.consumers import Key, Stored, Terms, damaged
from relay_tornado.model import Retention
from tests.handlers.sockets import Client, Live, live
from tests.waiting import until


async def floor(server: Live, key: Key) -> int:
    stored = await server.ledgers.store.get(key)
    return -1 if stored is None else stored.floor


async def reaches(server: Live, key: Key, seq: int) -> None:
    async def reached() -> bool:
        return await floor(server, key) == seq

    await until(reached)


async def ids(client: Client, count: int) -> list[str]:
    """The ids of the next events."""
    return [event["meta"]["id"] for event in await client.webhooks(count)]


@pytest.mark.gen_test
async def test_acks(server: Live) -> None:
    """They move the consumer, and have no answer; one about nothing has an error. The next connection goes on there."""
    await server.bucket()
    key = Key("id-orders", "client", "w")
    client = await server.subscribed("orders", consumer="w")
    assert [each.consumer for each in server.clients.subscribed] == ["w"]
    await client.hear_status("caught_up")
    await server.append(4)
    came = await ids(client, 4)
    await client.say({"action": "ack", "id": came[1], "all": True})
    await reaches(server, key, 2)
    await client.say({"action": "ack", "id": came[0]})
    error = await client.hear_status("error")
    assert error["code"] == "not_found"
    await client.say({"action": "nak", "id": came[2]})
    again = await client.hear()
    assert (again["meta"]["id"], again["meta"]["attempt"]) == (came[2], 2)
    client.abort()
    await until(lambda: server.clients.deliveries.connections(key) == 0)
    other = await server.subscribed("orders", consumer="w")
    assert await ids(other, 2) == [came[2], came[3]]


@pytest.mark.gen_test
async def test_a_conflict(server: Live) -> None:
    """An error frame; the subscription that was there goes on."""
    await server.bucket()
    client = await server.subscribed("orders", consumer="w")
    await client.hear_status("caught_up")
    await client.say({"action": "subscribe", "buckets": ["orders"], "consumer": "w", "ack": "receipt"})
    assert (await client.hear_status("error"))["code"] == "conflict"
    await server.append(1)
    await client.webhooks(1)


@pytest.mark.gen_test
async def test_too_many(server: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound of a bucket an error frame says what to do; what is there is there for whoever names it, and the
    subscription that was there goes on."""
    monkeypatch.setattr(consumers, "MOST_CONSUMERS", 1)
    await server.bucket()
    client = await server.subscribed("orders", consumer="w")
    await client.hear_status("caught_up")
    await client.say({"action": "subscribe", "buckets": ["orders"], "consumer": "x"})
    error = await client.hear_status("error")
    assert (error["code"], "'orders' has 1 consumers" in error["message"]) == ("conflict", True)
    await server.append(1)
    await client.webhooks(1)
    again = await server.subscribed("orders", consumer="w")
    await again.hear_status("caught_up")


@pytest.mark.gen_test
@pytest.mark.parametrize("on_gap", ["resume", "fail"])
async def test_a_gap_is_told_once_it_was_read(server: Live, on_gap: str) -> None:
    """Every library that reads answers the ping behind it, also where the close frame follows; who is cut off before
    has not read it."""
    await server.bucket()
    key = Key("id-orders", "client", "w")
    await server.ledgers.store.create(key, 0, Terms(), 0.0)
    await server.append(5)
    await server.log.trim("id-orders", Retention(max_events=1), None)
    cut = await server.authenticated()
    cut.socket.transport.pause_reading()
    await cut.say({"action": "subscribe", "buckets": ["orders"], "consumer": "w", "on_gap": on_gap})
    await until(lambda: server.ledgers.counters.gaps["retention"] == 1)
    cut.abort()
    await until(lambda: server.ledgers.find(key) is None)
    client = await server.authenticated()
    answer = await client.subscribe("orders", consumer="w", on_gap=on_gap)
    assert (answer["buckets"][0]["gap"]["from"], answer["buckets"][0]["gap"]["to"]) == (1, 4)
    if on_gap == "fail":
        assert (await client.end())[0] == 4509
    else:
        assert (await client.hear())["meta"]["seq"] == 5

    async def told() -> bool:
        stored = await server.ledgers.store.get(key)
        return stored is not None and not stored.untold

    await until(told)
    again = await server.authenticated()
    answer = await again.subscribe("orders", consumer="w", on_gap=on_gap)
    assert answer["buckets"][0]["gap"] is None


@pytest.mark.gen_test
async def test_receipts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that reads answers the pings by itself; one that does not moves nothing."""
    monkeypatch.setattr(receipts, "INTERVAL", 0.05)
    async with live(ping_interval=0.1) as server:
        await server.bucket()
        token = await server.token(durable=True)
        key = Key("id-orders", "token", token[0])
        await server.ledgers.store.create(key, 0, Terms(receipt=True), 0.0)
        client = await server.subscribed("orders", token=token)
        await server.append(3)
        assert await client.hear_events(3) == [1, 2, 3]
        await reaches(server, key, 3)
        deaf = await server.subscribed("orders", token=token)
        client.abort()
        deaf.socket.transport.pause_reading()
        await until(lambda: server.clients.deliveries.connections(key) == 1)
        await server.append(2)
        (held,) = server.clients.deliveries._receipts._held["id-orders"]
        await until(lambda: held.pinged == 5)
        await until(lambda: len(held.receipt._pings) > 1)
        assert await floor(server, key) == 3
        deaf.abort()
        third = await server.subscribed("orders", token=token)
        assert await third.hear_events(2) == [4, 5]
        await reaches(server, key, 5)


@pytest.mark.gen_test
async def test_a_damaged_position_of_a_stock_client(server: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is closed, to come back: there is no frame that would tell it, and it waits for an answer. One that may be
    told stays. Both are served once the record is mended."""
    bucket = await server.bucket()
    token = await server.token(durable=True)
    await server.ledgers.store.create(Key(bucket.id, "token", token[0]), 0, Terms(receipt=True), 0.0)

    async def get(key: Key) -> Stored:
        raise damaged(key, "it is no JSON")

    client = await server.authenticated(token)
    with monkeypatch.context() as patch:
        patch.setattr(server.ledgers.store, "get", get)
        stock = await server.authenticated(token)
        await stock.say({"action": "subscribe", "buckets": ["orders"]})
        assert (await stock.end())[0] == 1001
        await client.say({"action": "subscribe", "buckets": ["orders"], "extended": True})
        assert (await client.hear_status("error"))["code"] == "conflict"
    await client.subscribe("orders", extended=True)
    await server.subscribed("orders", token=token)
