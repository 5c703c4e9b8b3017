"""relay_tornado/delivery: which events that are not there any more are a gap of a consumer, and who is told."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from structlog.testing import capture_logs

from relay_tornado.log import gap_lines
from relay_tornado.model import Gap
from tests.delivery import workers
from tests.delivery.durable import DURABLE, KEY, Client, client, with_row
from tests.delivery.virtual import event_loop as event_loop
from tests.delivery.virtual import virtual_test
from tests.delivery.world import Reader, World, damage, quiet, stocked, until


async def _leave(world: World, keep: int) -> None:
    """Retention leaves so many events, and those who use a consumer learn of it."""
    await world.keep(keep)
    world.ledgers.trimmed("id-orders", (await world.log.bounds("id-orders")).first)


async def _met(world: World) -> list[Gap]:
    return list((await world.stored(workers.KEY)).untold)


async def _read_by_receipt() -> tuple[World, Reader, Any]:
    """A client that was given 1 to 8 of 8 by receipt a moment ago, of which 1 to 6 have left."""
    world = await stocked(0)
    reader, delivery, _ = await world.subscribe("orders", extended=True, consumer="w", ack="receipt")
    await world.append(8)
    await until(lambda: len(reader.seqs()) == 8)
    await _leave(world, 2)
    return world, reader, delivery


async def overtaken() -> World:
    """A bucket with nine events, of which retention removed the first five before the durable token's client came."""
    world = await stocked(0)
    await with_row(world)
    await world.append(9)
    await world.keep(4)
    return world


@virtual_test
async def test_what_was_read_by_receipt_is_no_gap() -> None:
    """The receipt comes a second or two after the event, which may have left by then."""
    world, reader, delivery = await _read_by_receipt()
    for _ in range(2):
        await asyncio.sleep(1)
        delivery.ponged(reader.pings[-1])
    world.deliveries.end(delivery)
    assert not any(world.counters.gaps.values())
    assert await _met(world) == []
    _, _, (answer,) = await world.subscribe("orders", extended=True, consumer="w", ack="receipt", on_gap="fail")
    assert (answer["gap"], answer["start"]) == (None, 9)


@virtual_test
@pytest.mark.parametrize("crash", [False, True])
async def test_what_no_receipt_came_for_is_a_gap(crash: bool) -> None:
    """Once the connection is gone nobody will say that it was read; nor after a crash."""
    world, _, delivery = await _read_by_receipt()
    if crash:
        world.restart()
    else:
        world.deliveries.end(delivery)
        assert await _met(world) == [Gap("retention", 1, 6)]
    _, _, (answer,) = await world.subscribe("orders", extended=True, consumer="w", ack="receipt")
    assert (answer["gap"]["from"], answer["gap"]["to"], answer["start"]) == (1, 6, 7)


@virtual_test
async def test_a_receipt_consumer_that_is_overtaken_meets_a_gap() -> None:
    """What was never given is no matter of receipts: the consumer has met it when the client is told."""
    world = await stocked(0)
    reader, _, _ = await world.subscribe("orders", extended=True, consumer="w", ack="receipt")
    await world.append(1)
    await until(lambda: reader.seqs() == [1])
    reader.paused = True
    await world.append(2, body=b"x" * 300_000)
    await until(lambda: reader.waiting > 0)
    await world.append(5, body=b"x" * 300_000)
    await world.keep(1)
    reader.resume()
    await until(lambda: reader.seqs()[-1:] == [8])
    world.ledgers.trimmed("id-orders", 8)
    (told,) = reader.gaps()
    (met,) = await _met(world)
    assert (told["to"], met.to_seq) == (7, 7)
    assert world.counters.gaps["retention"] == 1


@virtual_test
async def test_what_is_on_its_way_is_no_gap() -> None:
    """A client that takes its time with what was written for it gets it, and then says so."""
    world = await stocked(0)
    reader, delivery, _ = await world.subscribe("orders", extended=True, consumer="w", ack="receipt")
    await quiet()
    reader.paused = True
    await world.append(8)
    await until(lambda: reader.waiting > 0)
    await _leave(world, 2)
    reader.resume()
    await until(lambda: len(reader.seqs()) == 8)
    assert [each["status"] for each in reader.statuses()] == ["caught_up"]
    for _ in range(3):
        await asyncio.sleep(1)
        delivery.ponged(reader.pings[-1])
    assert await _met(world) == []


@virtual_test
async def test_what_waits_for_its_ack_is_no_gap() -> None:
    """It was given: retention makes it a dead letter, and on_gap has nothing to do with it."""
    world = await stocked(0)
    reader, _, _ = await world.subscribe("orders", extended=True, consumer="w", on_gap="fail")
    await world.append(8)
    await until(lambda: len(reader.seqs()) == 8)
    await _leave(world, 2)
    await quiet()
    assert (reader.statuses()[-1]["status"], reader.ends) == ("caught_up", [])
    assert await _met(world) == []
    assert (await world.stored(workers.KEY)).dead == 6


@virtual_test
async def test_a_receipt_consumer_that_meets_damage_shows_it() -> None:
    """It is kept until a client has read of it, and counted once, whoever reads on over it."""
    world = await stocked(9)
    damage(world)
    fields = {"consumer": "w", "ack": "receipt", "since": "earliest"}
    reader, delivery, _ = await world.subscribe("orders", **fields)
    await until(lambda: reader.seqs() == [1, 2, 6, 7, 8, 9])
    assert await _met(world) == [Gap("reset", 3, 5)]
    for _ in range(3):
        await asyncio.sleep(1)
        for payload in reader.pings:
            delivery.ponged(payload)
    assert await _met(world) == []
    stored = await world.stored(workers.KEY)
    assert stored.gaps is not None
    assert (stored.floor, stored.gaps.times, stored.gaps.last) == (9, 1, Gap("reset", 3, 5))


@virtual_test
async def test_damage_that_a_receipt_has_passed_is_counted_once() -> None:
    """Whoever meets it later on the same consumer is told; it is no second gap."""
    world = await stocked(9)
    damage(world)
    fields = {"consumer": "w", "ack": "receipt", "since": "earliest", "extended": True}
    late, behind, _ = await world.subscribe("orders", start=False, **fields)
    reader, delivery, _ = await world.subscribe("orders", **fields)
    await until(lambda: len(reader.seqs()) == 6)
    for _ in range(3):
        await asyncio.sleep(1)
        delivery.ponged(reader.pings[-1])
    assert await world.floor(workers.KEY) == 9
    behind.start()
    await until(lambda: late.seqs() == [1, 2, 6, 7, 8, 9])
    assert late.gaps() == reader.gaps() == [{"from": 3, "to": 5, "count": 3, "reason": "reset"}]
    assert world.counters.gaps["reset"] == 1


@virtual_test
async def test_a_gap_under_a_stock_client() -> None:
    """Retention overtakes it while it is away: logged and counted once, kept with the consumer, delivery goes on."""
    world = await overtaken()
    one = await client(world, "orders")
    await until(lambda: one.reader.seqs() == [6, 7, 8, 9])
    stored = await world.stored(KEY)
    assert stored.gaps is not None
    assert (stored.gaps.times, stored.gaps.last.from_seq, stored.gaps.last.to_seq) == (1, 1, 5)
    assert one.reader.statuses() == []


async def with_a_slow_client() -> tuple[World, Reader, Client]:
    """A bucket with four large events, and a client that has not read them all and reads no more."""
    world = await stocked(0)
    await with_row(world)
    await world.append(4, body=b"x" * 200_000)
    reader = Reader(paused=True)
    slow = await client(world, "orders", reader=reader)
    await until(lambda: reader.waiting > 0)
    return world, reader, slow


@virtual_test
async def test_a_gap_that_a_connected_client_meets_is_logged_and_counted_once() -> None:
    """As its consumer's, also where its bucket is made or read later; not as the connection's, too."""
    world, reader, _ = await with_a_slow_client()
    await world.append(6, body=b"x" * 200_000)
    with capture_logs() as logs:
        await world.keep(3)
        reader.resume()
        await until(lambda: reader.seqs()[-1:] == [10])
    assert [each["event"] for each in logs if "reason" in each] == ["consumer_gap"]
    assert world.counters.gaps["retention"] == 1


@virtual_test
async def test_a_gap_in_a_bucket_that_comes_into_scope_is_counted_once() -> None:
    """As its consumer's, which meets it as it is opened."""
    world = await overtaken()
    late = await client(world, token=replace(DURABLE, buckets=frozenset()))
    late.delivery.rescope(DURABLE)
    await until(lambda: late.reader.seqs() == [6, 7, 8, 9])
    assert world.counters.gaps["retention"] == 1


@virtual_test
@pytest.mark.parametrize("steps", [(3,), (5, 4, 3)], ids=["at once", "in steps"])
@pytest.mark.parametrize("read", [0, 4, 10])
async def test_a_gap_of_the_slower_one_of_two_connections(
    read: int, steps: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the other one has read some of the events, they are no gap of the consumer, but one of the connection, which
    is logged and counted, too. Else the consumer's lines are all."""
    monkeypatch.setattr(gap_lines, "PAUSE", 1e-9)
    world, reader, slow = await with_a_slow_client()
    first = slow.delivery._places["id-orders"].given + 1
    other = await client(world, "orders")
    if read > 4:
        await world.append(read - 4, body=b"x" * 200_000)
    await until(lambda: other.reader.seqs() == list(range(1, max(read, 4) + 1)))
    if read:
        await other.answer(3)
    assert await world.floor(KEY) == read
    other.delivery.end()
    await world.append(10 - max(read, 4), body=b"x" * 200_000)
    with capture_logs() as logs:
        for most in steps:
            await world.keep(most)
            world.ledgers.trimmed("id-orders", 10 - most + 1)
        reader.resume()
        await until(lambda: reader.seqs()[-1:] == [10])
    told = [(each["event"], each["first"], each["last"]) for each in logs if "reason" in each]
    mine = [("subscriber_missed_events", first, 7)]
    assert [each for each in told if each[0] != "consumer_gap"] == (mine if read else [])
    assert {seq for _, begin, end in told for seq in range(begin, end + 1)} >= set(range(first, 8))
    assert world.counters.gaps["retention"] == len(told)


@virtual_test
async def test_a_gap_is_for_who_asked_for_such() -> None:
    """A stock client is told nothing, so the next one that wants to know is; a receipt alone is no word of it."""
    world = await overtaken()
    stock = await client(world, "orders")
    await stock.answer(3)
    assert await world.floor(KEY) == 9
    stock.leave()
    for _ in range(2):
        asks = await client(world, "orders", on_gap="fail")
        assert (asks.answers[0]["gap"]["from"], asks.answers[0]["gap"]["to"]) == (1, 5)
        asks.leave()
    asks.pong()
    again = await client(world, "orders", on_gap="fail")
    assert again.answers[0]["gap"] is None


@virtual_test
async def test_a_gap_that_is_met_before_the_answer_is_out_is_asked_for_once_it_is_told() -> None:
    """A pong to an earlier ping would say that it was read."""
    world = await stocked(9)
    asked: list[int] = []
    reader = Reader()
    reader.ping = lambda payload: asked.append(len(reader.gaps()))  # type: ignore[method-assign]
    _, delivery, _ = await world.subscribe("orders", reader=reader, consumer="w", since="earliest", start=False)
    await _leave(world, 4)
    delivery.start()
    await quiet()
    assert asked == [1]
