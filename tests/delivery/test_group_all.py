"""relay_tornado/delivery/in_flight.py: what an ack of everything before an event includes."""

from __future__ import annotations

import asyncio

import pytest

from relay_tornado.model import Cursor
from relay_tornado.wire.acks import Ack
from relay_tornado.wire.control import Unsubscribe
from tests.delivery.virtual import event_loop as event_loop
from tests.delivery.virtual import virtual_test
from tests.delivery.workers import KEY, Worker, held_up, parked, worker
from tests.delivery.world import quiet, stocked, until


@virtual_test
async def test_all_acks_what_came_before_in_the_order_given() -> None:
    """Not what came later, though it be older, and in all buckets of the connection."""
    world = await stocked(0)
    await world.bucket("other")
    await world.append(4)
    one = await worker(world, "orders", "other")
    await until(lambda: len(one.seqs) == 4)
    one.nak(2)
    await quiet()
    await world.append(1, "id-other")
    await quiet()
    assert one.tries() == [(1, 1), (2, 1), (3, 1), (4, 1), (2, 2), (1, 1)]
    assert one.ack(4, all=True)
    assert await world.floor(KEY) == 4
    assert await parked(world) == [2], "it was given again after 4"
    await world.append(1)
    await quiet()
    assert one.ack(5, all=True)
    assert await world.floor(KEY) == 5
    assert await world.floor(KEY._replace(bucket_id="id-other")) == 1


@virtual_test
@pytest.mark.parametrize("then", ["nothing", "ack_wait", "nak", "subscribe"])
async def test_all_leaves_out_what_was_given_since_the_first_time(then: str) -> None:
    """A client that is behind acks an event as it came before it was taken back, and has yet to read what came since:
    that comes again if the client dies, whatever became of the event meanwhile."""
    world = await stocked(0)
    one = await worker(world, ack_wait=10, max_deliver=0)
    await world.append(2)
    await until(lambda: len(one.seqs) == 2)
    await asyncio.sleep(6)
    await world.append(2)
    await until(lambda: len(one.seqs) == 4)
    await asyncio.sleep(5)
    assert one.tries() == [(1, 1), (2, 1), (3, 1), (4, 1), (1, 2), (2, 2)]
    match then:
        case "ack_wait":
            await asyncio.sleep(10)
        case "nak":
            assert one.nak(2)
            await quiet()
        case "subscribe":
            again = await world.subscribe("orders", reader=one.reader, replaces=one.delivery, consumer="w")
            one = Worker(world, *again)
            await quiet()
    assert one.ack(2, all=True)
    one.leave()
    other = await worker(world)
    await until(lambda: other.seqs == [3, 4])


@virtual_test
async def test_all_leaves_out_what_was_refused() -> None:
    """The client refuses an event and then acks all up to the next, both as they came before they were taken back. What
    it refused comes again if it dies, though it was not in flight at that moment."""
    world = await stocked(0)
    one = await worker(world, ack_wait=10, max_deliver=0)
    await world.append(2)
    await until(lambda: len(one.seqs) == 2)
    gate = held_up(world)
    await asyncio.sleep(11)
    assert not one.nak(1)
    gate.set()
    await until(lambda: one.tries() == [(1, 1), (2, 1), (1, 2), (2, 2)])
    assert one.ack(2, all=True)
    one.leave()
    other = await worker(world)
    await until(lambda: other.seqs == [1])


@virtual_test
@pytest.mark.parametrize("unsubscribes", [False, True])
async def test_all_leaves_out_what_was_given_since_a_bucket_was_left(unsubscribes: bool) -> None:
    """The client acks an event as it came before it left the bucket, and has yet to read what came since it is back:
    that comes again if the client dies."""
    world = await stocked(2)
    await world.bucket("other")
    one = await worker(world, "orders", "other")
    await until(lambda: len(one.seqs) == 2)
    epoch = one.events[0]["meta"]["epoch"]

    async def subscribe(*buckets: str) -> None:
        nonlocal one
        one = Worker(world, *await world.subscribe(*buckets, reader=one.reader, replaces=one.delivery, consumer="w"))
        await quiet()

    if unsubscribes:
        one.delivery.unsubscribe(Unsubscribe())
    await subscribe("other")
    await world.append(1, "id-other")
    await until(lambda: one.reader.seqs("other") == [1])
    await subscribe("orders", "other")
    assert one.tries()[-2:] == [(1, 2), (2, 2)]
    assert one.delivery.settle(Ack(Cursor(epoch, 2), all=True))
    assert await world.floor(KEY) == 2
    one.leave()
    other = await worker(world, "orders", "other")
    await until(lambda: other.reader.seqs("other") == [1])


@virtual_test
async def test_all_leaves_out_what_was_given_since_a_seek() -> None:
    """The client acks an event as it came before its consumer was moved, and has yet to read what came since, from this
    bucket and others: that comes again if the client dies."""
    world = await stocked(2)
    await world.bucket("other")
    one = await worker(world, "orders", "other")
    await until(lambda: one.reader.seqs("orders") == [1, 2])
    epoch = one.events[0]["meta"]["epoch"]
    assert one.delivery.settle(Ack(Cursor(epoch, 1)))
    await world.append(1, "id-other")
    await until(lambda: one.reader.seqs("other") == [1])
    async with world.ledgers.using(KEY) as ledger:
        ledger.progress.seek(0)
        ledger.save()
        ledger.tell()
        await until(lambda: one.reader.seqs("orders") == [1, 2, 1, 2])
    assert one.delivery.settle(Ack(Cursor(epoch, 2), all=True))
    one.leave()
    other = await worker(world, "orders", "other")
    await until(lambda: other.reader.seqs("other") == [1])
    assert other.reader.seqs("orders") == [1], "the repeat is not acked by what came before it"
