"""relay_tornado/delivery/receipts.py: a second subscribe on one connection goes on where the first one was."""

from __future__ import annotations

import asyncio

import pytest

from relay_tornado.delivery import deliver, deliveries
from relay_tornado.log.consumers import Key, Terms
from relay_tornado.pieces import Pieces
from tests.delivery.durable import DURABLE, KEY, Client, client, with_client, with_row
from tests.delivery.virtual import START, virtual_test
from tests.delivery.virtual import event_loop as event_loop
from tests.delivery.world import World, quiet, stocked, until


async def subscribed_twice(world: World) -> Client:
    """The second subscribe of a connection on which the first wrote three events, none of them pinged."""
    await world.bucket()
    await with_row(world)
    one = await client(world, "orders")
    await world.append(3)
    await quiet()
    return Client(world, *await world.subscribe("orders", reader=one.reader, replaces=one.delivery, token=DURABLE))


@virtual_test
async def test_a_second_subscribe_repeats_nothing() -> None:
    """What was sent on this connection is not sent on it again, though no receipt has come."""
    world = World()
    again = await subscribed_twice(world)
    await world.append(1)
    await quiet()
    assert again.reader.seqs() == [1, 2, 3, 4]
    await again.answer(3)
    assert await world.floor(KEY) == 4
    assert world.deliveries.connections(KEY) == 1


@virtual_test
async def test_a_second_subscribe_goes_on_with_what_was_not_pinged() -> None:
    """What the one before it wrote on this connection counts, though nothing comes any more."""
    world = World()
    again = await subscribed_twice(world)
    await again.answer(3)
    assert again.reader.seqs() == [1, 2, 3]
    assert await world.floor(KEY) == 3


@virtual_test
async def test_a_second_subscribe_that_names_a_consumer_takes_its_position() -> None:
    """What the connection read without it is not read by the consumer."""
    world = await stocked(3)
    await world.consumers.create(Key("id-orders", "client", "w"), 0, Terms(receipt=True), 0.0)
    reader, first, _ = await world.subscribe("orders", since="latest")
    await world.append(1)
    await until(lambda: reader.seqs() == [4])
    await world.subscribe("orders", reader=reader, replaces=first, consumer="w", ack="receipt")
    await quiet()
    assert reader.seqs() == [4, 1, 2, 3, 4]


@virtual_test
async def test_a_second_subscribe_goes_where_the_position_was_moved() -> None:
    """Also where the one before it was writing, and has not gone there."""
    world, one = await with_client()
    await world.append(3)
    await quiet()
    one.reader.paused = True
    await world.append(1)
    await until(lambda: one.reader.waiting > 0)
    async with world.ledgers.using(KEY) as ledger:
        ledger.progress.seek(1)
        ledger.tell()
    subscribing = asyncio.ensure_future(client(world, "orders", reader=one.reader, replaces=one.delivery))
    await quiet()
    one.reader.resume()
    await subscribing
    await quiet()
    assert one.reader.seqs() == [1, 2, 3, 4, 2, 3, 4]


@virtual_test
@pytest.mark.parametrize("count", [3, 9])
async def test_a_second_subscribe_that_takes_long(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """As it takes the places of thousands of buckets in turn. A pong would reach the one before it: so it has no ping
    out by then, and what it took over counts once it has begun."""

    class Slow(Pieces):
        async def done(self, count: int = 1) -> None:
            await asyncio.sleep(1.5)

    world = World()
    keys = [KEY._replace(bucket_id=f"id-{number}") for number in range(count)]
    for key in keys:
        await world.bucket(key.bucket_id.removeprefix("id-"))
        await with_row(world, key=key)
    one = await client(world)
    for key in keys:
        await world.append(1, key.bucket_id)
    await until(lambda: len(one.reader.messages) == count)
    monkeypatch.setattr(deliver, "Pieces", Slow)
    monkeypatch.setattr(deliveries, "Pieces", Slow)
    again = Client(world, *await world.subscribe(reader=one.reader, replaces=one.delivery, token=DURABLE))
    again.answered = len(one.reader.pings)
    await again.answer(4)
    assert [await world.floor(key) for key in keys] == [1] * count


@virtual_test
async def test_a_second_subscribe_goes_on_in_an_ephemeral_bucket() -> None:
    """The durable token has no position there; what comes while the first one ends is not passed over."""
    world = await stocked(0, ephemeral=True, created_at=START + 1)
    one = await client(world, "orders")
    await world.append(1, ephemeral=True)
    await until(lambda: one.reader.seqs() == [1])
    one.reader.paused = True
    await world.append(1, ephemeral=True)
    await until(lambda: one.reader.waiting > 0)
    again = world.subscribe("orders", reader=one.reader, replaces=one.delivery, token=DURABLE)
    subscribing = asyncio.ensure_future(again)
    await quiet()
    await world.append(2, ephemeral=True)
    one.reader.resume()
    await subscribing
    await until(lambda: one.reader.seqs() == [1, 2, 3, 4])
