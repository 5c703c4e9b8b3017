"""relay_tornado/delivery: what a subscriber is told of events that are not there any more."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from structlog.testing import capture_logs

from relay_tornado.errors import CursorLost
from relay_tornado.log.consumers import Key, Terms
from relay_tornado.model import Event, Gap, Retention
from tests.delivery import virtual
from tests.delivery.world import TOKEN, Reader, World, quiet, until


@pytest.mark.gen_test
async def test_a_future_cursor_is_told() -> None:
    """Above the head of an epoch that may still grow: gap `future`, and on at first."""
    world = World()
    await world.bucket()
    await world.append(2)
    epoch = (await world.log.bounds("id-orders")).epochs[0].epoch
    _, _, (answer,) = await world.subscribe("orders", since=f"{epoch}-3")
    assert answer["gap"]["reason"] == "future"
    assert answer["start"] == 1


@pytest.mark.gen_test
async def test_the_log_says_who_misses_events() -> None:
    """With the bucket, and the key of the token."""
    world = World()
    await world.bucket()
    await world.append(2)
    with capture_logs() as logs:
        await world.subscribe("orders", since="zzzzzzzzzzzz-3")
    lines = [each for each in logs if each["event"] == "subscriber_missed_events"]
    assert [(each["bucket"], each["token"], each["reason"]) for each in lines] == [("orders", TOKEN.key, "reset")]


@pytest.mark.gen_test
async def test_a_cursor_below_retention_is_told() -> None:
    """The gap is exact, and delivery goes on at first."""
    world = World()
    await world.bucket()
    await world.append(10)
    epoch = (await world.log.bounds("id-orders")).epochs[0].epoch
    await world.log.trim("id-orders", Retention(max_events=3), None)
    reader, _, (answer,) = await world.subscribe("orders", since=f"{epoch}-4")
    assert answer["gap"] == {"from": 5, "to": 7, "count": 3, "reason": "retention"}
    assert answer["start"] == 8
    await until(lambda: reader.seqs() == [8, 9, 10])
    _, _, (answer,) = await world.subscribe("orders", since=f"{epoch}-7")
    assert answer["recovered"]


@pytest.mark.gen_test
async def test_retention_overtakes_a_slow_reader() -> None:
    """It is told exactly what it missed, and goes on at the first event that is there."""
    world = World()
    await world.bucket()
    await world.append(4, body=b"x" * 200_000)
    reader = Reader()
    reader.paused = True
    await world.subscribe("orders", since="earliest", reader=reader)
    await until(lambda: reader.waiting > 0)
    await world.append(6, body=b"x" * 200_000)
    await world.log.trim("id-orders", Retention(max_events=3), None)
    reader.resume()
    await until(lambda: reader.seqs()[-1:] == [10])
    seqs = reader.seqs()
    (gap,) = [each["gap"] for each in reader.statuses() if each["status"] == "gap"]
    missed = list(range(gap["from"], gap["to"] + 1))
    assert gap["reason"] == "retention"
    assert gap["count"] == len(missed)
    assert seqs + missed != sorted(seqs + missed)
    assert sorted(seqs + missed) == list(range(1, 11))
    at = [each["type"] for each in reader.messages].index("status")
    assert reader.messages[at + 1]["meta"]["seq"] == gap["to"] + 1


def damage(world: World) -> None:
    """Has the events 3 to 5 be unreadable."""
    whole = world.log.peek

    def damaged(bucket_id: str, after: int, limit: int, max_bytes: int) -> Any:
        if 3 <= after + 1 <= 5:
            raise CursorLost(6)
        found = whole(bucket_id, after, limit, max_bytes)
        return [event for event in found if not (after < 3 and event.seq >= 3)]

    world.log.peek = damaged  # type: ignore[method-assign]


@pytest.mark.gen_test
async def test_a_damaged_stretch_is_a_reset() -> None:
    """Events within the log that can't be read are told as such, and passed over."""
    world = World()
    await world.bucket()
    await world.append(9)
    damage(world)
    reader, delivery, _ = await world.subscribe("orders", since="earliest")
    await until(lambda: reader.seqs() == [1, 2, 6, 7, 8, 9])
    gaps = [each["gap"] for each in reader.statuses() if each["status"] == "gap"]
    assert gaps == [{"from": 3, "to": 5, "count": 3, "reason": "reset"}]
    await until(lambda: not delivery.busy)


@pytest.mark.gen_test
async def test_on_gap_fail_ends_a_reader_that_was_overtaken() -> None:
    """It is told, and then nothing more is written."""
    world = World()
    await world.bucket()
    await world.append(2, body=b"x" * 300_000)
    reader = Reader()
    reader.paused = True
    await world.subscribe("orders", since="earliest", on_gap="fail", reader=reader)
    await until(lambda: reader.waiting > 0)
    await world.append(5)
    await world.log.trim("id-orders", Retention(max_events=2), None)
    reader.resume()
    await until(lambda: reader.ends == ["gap_refused"])
    assert reader.messages[-1]["status"] == "gap"
    await world.append(1)
    await quiet()
    assert reader.messages[-1]["status"] == "gap"


@pytest.mark.gen_test
async def test_a_stock_client_that_was_overtaken_is_told_nothing() -> None:
    """The log tells; the client gets events only."""
    world = World()
    await world.bucket()
    reader = Reader()
    await world.subscribe("orders", reader=reader)
    reader.paused = True
    await world.append(2, body=b"x" * 300_000)
    await until(lambda: reader.waiting > 0)
    await world.append(5)
    await world.log.trim("id-orders", Retention(max_events=2), None)
    reader.resume()
    await until(lambda: reader.seqs()[-2:] == [6, 7])
    assert reader.statuses() == []


@pytest.mark.gen_test
async def test_a_kept_position_may_be_overtaken_too() -> None:
    """The second answer tells the gap."""
    world = World()
    await world.bucket()
    _, first, _ = await world.subscribe("orders")
    await quiet()
    first.end()
    await world.append(5)
    await world.log.trim("id-orders", Retention(max_events=2), None)
    _, _, (answer,) = await world.subscribe("orders", replaces=first, extended=True)
    assert answer["gap"] == {"from": 1, "to": 3, "count": 3, "reason": "retention"}


async def _untold(world: World) -> tuple[Reader, Any, asyncio.Event]:
    """A subscriber of ten events that has met a gap, 1 to 8, and waits for what to write behind it, until the event
    is set."""
    await world.bucket()
    await world.append(10)
    reader, delivery, _ = await world.subscribe("orders", since="earliest", extended=True, start=False)
    await world.log.trim("id-orders", Retention(max_events=2), None)
    gate = asyncio.Event()
    whole = world.log.read

    async def slow(bucket_id: str, after: int, limit: int, max_bytes: int) -> Sequence[Event]:
        if after >= 8:
            await gate.wait()
        return await whole(bucket_id, after, limit, max_bytes)

    world.log.read = slow  # type: ignore[method-assign]
    world.log.peek = lambda *_: None  # type: ignore[method-assign,assignment,return-value]
    delivery.start()
    await quiet()
    return reader, delivery, gate


@pytest.mark.gen_test
async def test_a_gap_that_was_not_written_yet_is_in_the_second_answer() -> None:
    """A subscribe that comes before the next write goes on behind the gap, and says so."""
    world = World()
    reader, first, gate = await _untold(world)
    second = asyncio.create_task(world.subscribe("orders", reader=reader, replaces=first, extended=True))
    await quiet()
    gate.set()
    _, delivery, (answer,) = await second
    assert answer["gap"] == {"from": 1, "to": 8, "count": 8, "reason": "retention"}
    await until(lambda: reader.seqs() == [9, 10])
    # It was told, and is told once.
    _, _, (answer,) = await world.subscribe("orders", reader=reader, replaces=delivery, extended=True)
    assert answer["recovered"]


@pytest.mark.gen_test
async def test_a_gap_of_another_position_is_not_told() -> None:
    """Who asks for another place has nothing to do with what was passed over before."""
    world = World()
    reader, first, gate = await _untold(world)
    second = world.subscribe("orders", reader=reader, replaces=first, extended=True, since="latest")
    asking = asyncio.create_task(second)
    await quiet()
    gate.set()
    _, _, (answer,) = await asking
    assert answer["recovered"]


@pytest.mark.gen_test
async def test_a_gap_that_grows_before_the_second_answer_is_told_whole() -> None:
    """What left meanwhile is in it, too."""
    world = World()
    reader, first, gate = await _untold(world)
    second = asyncio.create_task(world.subscribe("orders", reader=reader, replaces=first, extended=True))
    await quiet()
    await world.log.trim("id-orders", Retention(max_events=1), None)
    gate.set()
    _, _, (answer,) = await second
    assert answer["gap"] == {"from": 1, "to": 9, "count": 9, "reason": "retention"}


async def _leave(world: World, keep: int) -> None:
    """Retention leaves so many events, and those who use a consumer learn of it."""
    await world.log.trim("id-orders", Retention(max_events=keep), None)
    world.ledgers.trimmed("id-orders", (await world.log.bounds("id-orders")).first)


async def _met(world: World) -> list[Gap]:
    stored = await world.consumers.get(Key("id-orders", "client", "w"))
    assert stored is not None
    return list(stored.untold)


async def _read_by_receipt() -> tuple[World, Reader, Any]:
    """A client that was given 1 to 8 of 8 by receipt a moment ago, of which 1 to 6 have left."""
    world = World(clock=virtual.day)
    await world.bucket()
    reader, delivery, _ = await world.subscribe("orders", extended=True, consumer="w", ack="receipt")
    await world.append(8)
    await until(lambda: len(reader.seqs()) == 8)
    await _leave(world, 2)
    return world, reader, delivery


def test_what_was_read_by_receipt_is_no_gap() -> None:
    """The receipt comes a second or two after the event, which may have left by then."""

    async def test() -> None:
        world, reader, delivery = await _read_by_receipt()
        for _ in range(2):
            await asyncio.sleep(1)
            delivery.ponged(reader.pings[-1])
        world.deliveries.end(delivery)
        assert not any(world.ledgers.counters.gaps.values())
        assert await _met(world) == []
        _, _, (answer,) = await world.subscribe("orders", extended=True, consumer="w", ack="receipt", on_gap="fail")
        assert (answer["gap"], answer["start"]) == (None, 9)

    virtual.run(test)


@pytest.mark.parametrize("crash", [False, True])
def test_what_no_receipt_came_for_is_a_gap(crash: bool) -> None:
    """Once the connection is gone nobody will say that it was read; nor after a crash."""

    async def test() -> None:
        world, _, delivery = await _read_by_receipt()
        if crash:
            world.restart()
        else:
            world.deliveries.end(delivery)
            assert await _met(world) == [Gap("retention", 1, 6)]
        _, _, (answer,) = await world.subscribe("orders", extended=True, consumer="w", ack="receipt")
        assert (answer["gap"]["from"], answer["gap"]["to"], answer["start"]) == (1, 6, 7)

    virtual.run(test)


def test_a_receipt_consumer_that_is_overtaken_meets_a_gap() -> None:
    """What was never given is no matter of receipts: the consumer has met it when the client is told."""

    async def test() -> None:
        world = World(clock=virtual.day)
        await world.bucket()
        reader, _, _ = await world.subscribe("orders", extended=True, consumer="w", ack="receipt")
        await world.append(1)
        await until(lambda: reader.seqs() == [1])
        reader.paused = True
        await world.append(2, body=b"x" * 300_000)
        await until(lambda: reader.waiting > 0)
        await world.append(5, body=b"x" * 300_000)
        await world.log.trim("id-orders", Retention(max_events=1), None)
        reader.resume()
        await until(lambda: reader.seqs()[-1:] == [8])
        world.ledgers.trimmed("id-orders", 8)
        (told,) = [each["gap"] for each in reader.statuses() if each["status"] == "gap"]
        (met,) = await _met(world)
        assert (told["to"], met.to_seq) == (7, 7)
        assert world.ledgers.counters.gaps["retention"] == 1

    virtual.run(test)


@pytest.mark.gen_test
async def test_one_ping_asks_whether_a_gap_was_read() -> None:
    """Not one behind every write that follows."""
    world = World()
    await world.bucket()
    await world.append(5)
    await world.consumers.create(Key("id-orders", "client", "w"), 0, Terms(), 0.0)
    await world.log.trim("id-orders", Retention(max_events=2), None)
    reader, delivery, (answer,) = await world.subscribe("orders", consumer="w")
    assert answer["gap"]["count"] == 3
    for count in range(3, 6):
        await world.append(1)
        await until(lambda count=count: len(reader.seqs()) == count)
    assert len(reader.pings) == 1
    delivery.ponged(reader.pings[0])
    _, _, (answer,) = await world.subscribe("orders", consumer="w")
    assert answer["gap"] is None


def test_what_is_on_its_way_is_no_gap() -> None:
    """A client that takes its time with what was written for it gets it, and then says so."""

    async def test() -> None:
        world = World(clock=virtual.day)
        await world.bucket()
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

    virtual.run(test)


def test_what_waits_for_its_ack_is_no_gap() -> None:
    """It was given: retention makes it a dead letter, and on_gap has nothing to do with it."""

    async def test() -> None:
        world = World(clock=virtual.day)
        await world.bucket()
        reader, _, _ = await world.subscribe("orders", extended=True, consumer="w", on_gap="fail")
        await world.append(8)
        await until(lambda: len(reader.seqs()) == 8)
        await _leave(world, 2)
        await quiet()
        assert (reader.statuses()[-1]["status"], reader.ends) == ("caught_up", [])
        assert await _met(world) == []
        stored = await world.consumers.get(Key("id-orders", "client", "w"))
        assert stored is not None
        assert stored.dead == 6

    virtual.run(test)


def test_a_receipt_consumer_that_meets_damage_shows_it() -> None:
    """It is kept until a client has read of it, and counted once, whoever reads on over it."""

    async def test() -> None:
        world = World(clock=virtual.day)
        await world.bucket()
        await world.append(9)
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
        stored = await world.consumers.get(Key("id-orders", "client", "w"))
        assert stored is not None
        assert stored.gaps is not None
        assert (stored.floor, stored.gaps.times, stored.gaps.last) == (9, 1, Gap("reset", 3, 5))

    virtual.run(test)


@pytest.mark.gen_test
async def test_no_position_is_told_over_a_gap_that_was_not() -> None:
    """A client that is cut off between the two would go on behind the gap, and never hear of it."""
    world = World()
    reader, delivery, gate = await _untold(world)
    assert (delivery.moved(), delivery.reached()) == ({}, {})
    gate.set()
    await until(lambda: reader.seqs() == [9, 10])
    assert [each["status"] for each in reader.statuses()][:1] == ["gap"]
    await quiet()
    assert delivery.moved()["orders"].endswith("-10")
    assert delivery.reached()["id-orders"].endswith("-10")
