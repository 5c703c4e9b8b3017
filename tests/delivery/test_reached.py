"""relay_tornado/delivery: whom an event counts as reaching that is not new any more, as a sender's repeat finds it."""

from __future__ import annotations

import asyncio

import pytest

from relay_tornado.delivery import deliveries, filter_time
from relay_tornado.delivery.frames import FrameCache
from relay_tornado.model import Event
from relay_tornado.rules import Rules
from tests.delivery.virtual import event_loop as event_loop
from tests.delivery.virtual import virtual_test
from tests.delivery.workers import KEY, parked, worker
from tests.delivery.world import Reader, World, quiet, stocked, until

NEVER = {"match": {"type": "value", "value": "x", "parameter": {"source": "header", "name": "X-None"}}}
"""Rules that let nothing through."""


async def reached(world: World, seq: int) -> bool:
    (event,) = await world.log.read("id-orders", seq - 1, 1, 1)
    return world.deliveries.reaches("id-orders", event, None)


@virtual_test
async def test_what_a_consumer_gives_again() -> None:
    """It reaches whoever shares the consumer by then, until it is acked or dead; what was acked before, does not."""
    world = await stocked(3)
    one = await worker(world, max_deliver=3)
    await until(lambda: one.seqs == [1, 2, 3])
    assert one.ack(1)
    assert one.ack(3)
    one.leave()
    assert not await reached(world, 2)
    two = await worker(world)
    await until(lambda: two.tries() == [(2, 2)])
    assert [await reached(world, seq) for seq in (1, 2, 3)] == [False, True, False]
    assert two.nak(2, delay=60)
    assert await parked(world) == [2]
    three = await worker(world)
    two.leave()
    assert await reached(world, 2), "it is to come"
    await asyncio.sleep(61)
    assert three.ack(2)
    assert not await reached(world, 2)


@virtual_test
async def test_what_a_consumer_was_moved_back_to() -> None:
    """By receipt: whoever is connected gets it once more."""
    world = await stocked(5)
    await world.subscribe("orders", consumer="w", ack="receipt", since="latest")
    await quiet()
    assert not await reached(world, 4)
    async with world.ledgers.using(KEY) as ledger:
        ledger.progress.seek(3)
        ledger.tell()
    await quiet()
    assert [await reached(world, seq) for seq in (3, 4)] == [False, True]


@pytest.mark.gen_test
async def test_what_a_connection_had_before_it_subscribed_anew() -> None:
    """It has it still; in a bucket that it has left it answers for nothing."""
    world = await stocked(1)
    reader, first, _ = await world.subscribe("orders")
    await world.append()
    await until(lambda: reader.seqs() == [2])
    _, second, _ = await world.subscribe("orders", "other", reader=reader, replaces=first)
    assert [await reached(world, seq) for seq in (1, 2)] == [False, True]
    await world.subscribe("other", reader=reader, replaces=second)
    assert not await reached(world, 2)


@pytest.mark.gen_test
async def test_what_comes_while_a_connection_subscribes_anew() -> None:
    """It waits for a write that is under way, and gets then what has come meanwhile, where it still asks for that."""
    world = await stocked(0)
    await world.bucket("other")
    reader = Reader()
    _, first, _ = await world.subscribe(reader=reader)
    await until(lambda: not first.busy)
    reader.paused = True
    await world.append(2)
    await until(lambda: reader.waiting > 0)
    subscribing = asyncio.ensure_future(world.subscribe("orders", reader=reader, replaces=first))
    await quiet()
    await world.append()
    await world.append(1, "id-other")
    (other,) = await world.log.read("id-other", 0, 1, 1)
    assert await reached(world, 3)
    assert not world.deliveries.reaches("id-other", other, None)
    reader.resume()
    await subscribing
    await until(lambda: reader.seqs() == [1, 2, 3])
    assert await reached(world, 3)
    assert reader.seqs("other") == []


@pytest.mark.gen_test
async def test_what_comes_before_a_new_bucket_is_placed_reaches_its_subscriber() -> None:
    """Who subscribes to every bucket begins with the first event of a new one."""
    world = World()
    reader, _, _ = await world.subscribe()
    await world.bucket()
    await world.append()
    assert await reached(world, 1)
    await until(lambda: reader.seqs() == [1])


@pytest.mark.gen_test
@pytest.mark.parametrize("slow", ["none", "one", "all"])
async def test_slow_filters_are_not_all_asked(monkeypatch: pytest.MonkeyPatch, slow: str) -> None:
    """Each may take a tenth of a second, and nothing else runs meanwhile: once they have taken too long, or those of
    the token have to wait, the event may reach somebody."""
    asked = 0

    def passes(self: FrameCache, event: Event, filter: Rules) -> bool:
        nonlocal asked
        asked += 1
        return False

    monkeypatch.setattr(FrameCache, "passes", passes)
    world = await stocked(0)
    for _ in range(20):
        await world.subscribe("orders", since="latest", filter=NEVER, start=False)
    await world.append(1)
    if slow == "one":
        monkeypatch.setattr(filter_time, "rest", lambda seconds: 3600.0)
    elif slow == "all":
        monkeypatch.setattr(deliveries, "_FILTERING", 0.0)
    assert await reached(world, 1) == (slow != "none")
    assert asked == (20 if slow == "none" else 1)


@pytest.mark.gen_test
async def test_a_copy_for_an_output_that_is_gone() -> None:
    """It reaches nobody, also where the bucket has no outputs any more."""
    world = await stocked(0)
    reader, _, _ = await world.subscribe("orders")
    await world.append(target=1)
    await world.append()
    await until(lambda: reader.seqs() == [2])
    assert [await reached(world, seq) for seq in (1, 2)] == [False, True]
