"""relay_tornado/delivery: what a subscriber is told of events that are not there any more."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from structlog.testing import capture_logs

from relay_tornado.log.consumers import Key, Terms
from relay_tornado.model import Event
from relay_tornado.wire import control
from tests.delivery.world import TOKEN, Reader, World, damage, judged_later, quiet, stocked, until


@pytest.mark.gen_test
async def test_a_future_cursor_is_told() -> None:
    """Above the head of an epoch that may still grow: gap `future`, and on at first."""
    world = await stocked(2)
    epoch = await world.epoch()
    _, _, (answer,) = await world.subscribe("orders", since=f"{epoch}-3")
    assert answer["gap"]["reason"] == "future"
    assert answer["start"] == 1


@pytest.mark.gen_test
async def test_the_log_says_who_misses_events() -> None:
    """With the bucket, and the key of the token."""
    world = await stocked(2)
    with capture_logs() as logs:
        await world.subscribe("orders", since="zzzzzzzzzzzz-3")
    lines = [each for each in logs if each["event"] == "subscriber_missed_events"]
    assert [(each["bucket"], each["token"], each["reason"]) for each in lines] == [("orders", TOKEN.key, "reset")]


@pytest.mark.gen_test
async def test_a_cursor_below_retention_is_told() -> None:
    """The gap is exact, and delivery goes on at first."""
    world = await stocked(10)
    epoch = await world.epoch()
    await world.keep(3)
    reader, _, (answer,) = await world.subscribe("orders", since=f"{epoch}-4")
    assert answer["gap"] == {"from": 5, "to": 7, "count": 3, "reason": "retention"}
    assert answer["start"] == 8
    await until(lambda: reader.seqs() == [8, 9, 10])
    _, _, (answer,) = await world.subscribe("orders", since=f"{epoch}-7")
    assert answer["recovered"]


@pytest.mark.gen_test
async def test_retention_overtakes_a_slow_reader() -> None:
    """It is told exactly what it missed, and goes on at the first event that is there."""
    world = await stocked(0)
    await world.append(4, body=b"x" * 200_000)
    reader = Reader(paused=True)
    await world.subscribe("orders", since="earliest", reader=reader)
    await until(lambda: reader.waiting > 0)
    await world.append(6, body=b"x" * 200_000)
    await world.keep(3)
    reader.resume()
    await until(lambda: reader.seqs()[-1:] == [10])
    seqs = reader.seqs()
    (gap,) = reader.gaps()
    missed = list(range(gap["from"], gap["to"] + 1))
    assert gap["reason"] == "retention"
    assert gap["count"] == len(missed)
    assert seqs + missed != sorted(seqs + missed)
    assert sorted(seqs + missed) == list(range(1, 11))
    at = [each["type"] for each in reader.messages].index("status")
    assert reader.messages[at + 1]["meta"]["seq"] == gap["to"] + 1


@pytest.mark.gen_test
async def test_a_damaged_stretch_is_a_reset() -> None:
    """Events within the log that can't be read are told as such, and passed over."""
    world = await stocked(9)
    damage(world)
    reader, delivery, _ = await world.subscribe("orders", since="earliest")
    await until(lambda: reader.seqs() == [1, 2, 6, 7, 8, 9])
    assert reader.gaps() == [{"from": 3, "to": 5, "count": 3, "reason": "reset"}]
    await until(lambda: not delivery.busy)


@pytest.mark.gen_test
async def test_on_gap_fail_ends_a_reader_that_was_overtaken() -> None:
    """It is told, and then nothing more is written."""
    world = await stocked(0)
    await world.append(2, body=b"x" * 300_000)
    reader = Reader(paused=True)
    await world.subscribe("orders", since="earliest", on_gap="fail", reader=reader)
    await until(lambda: reader.waiting > 0)
    await world.append(5)
    await world.keep(2)
    reader.resume()
    await until(lambda: reader.ends == ["gap_refused"])
    assert reader.messages[-1]["status"] == "gap"
    await world.append(1)
    await quiet()
    assert reader.messages[-1]["status"] == "gap"


@pytest.mark.gen_test
async def test_a_bucket_that_is_left_as_it_is_overtaken_has_no_gap() -> None:
    """Nothing of it is told, and the other buckets go on with on_gap "fail", too."""
    world = await stocked(5)
    await world.bucket("others")
    reader, delivery, _ = await world.subscribe(since="earliest", on_gap="fail", start=False)
    await world.keep(2)
    gate = judged_later(world)
    delivery.start()
    await quiet()
    delivery.unsubscribe(control.Unsubscribe(("orders",)))
    gate.set()
    await world.append(1, "id-others")
    await quiet()
    assert (reader.gaps(), reader.ends, reader.seqs("others")) == ([], [], [1])


@pytest.mark.gen_test
async def test_a_stock_client_that_was_overtaken_is_told_nothing() -> None:
    """The log tells; the client gets events only, and its position is known behind the gap."""
    world = await stocked(0)
    reader = Reader()
    _, delivery, _ = await world.subscribe("orders", reader=reader)
    reader.paused = True
    await world.append(2, body=b"x" * 300_000)
    await until(lambda: reader.waiting > 0)
    await world.append(5)
    await world.keep(2)
    reader.resume()
    await until(lambda: reader.seqs()[-2:] == [6, 7])
    assert reader.statuses() == []
    await until(lambda: not delivery.busy)
    assert delivery.reached() == {"id-orders": f"{await world.epoch()}-7"}


@pytest.mark.gen_test
async def test_a_kept_position_may_be_overtaken_too() -> None:
    """The second answer tells the gap."""
    world = await stocked(0)
    _, first, _ = await world.subscribe("orders")
    await quiet()
    first.end()
    await world.append(5)
    await world.keep(2)
    _, _, (answer,) = await world.subscribe("orders", replaces=first, extended=True)
    assert answer["gap"] == {"from": 1, "to": 3, "count": 3, "reason": "retention"}


async def _untold(world: World) -> tuple[Reader, Any, asyncio.Event]:
    """A subscriber of ten events that has met a gap, 1 to 8, and waits for what to write behind it, until the event
    is set."""
    await world.bucket()
    await world.append(10)
    reader, delivery, _ = await world.subscribe("orders", since="earliest", extended=True, start=False)
    await world.keep(2)
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
    await world.keep(1)
    gate.set()
    _, _, (answer,) = await second
    assert answer["gap"] == {"from": 1, "to": 9, "count": 9, "reason": "retention"}


@pytest.mark.gen_test
async def test_one_ping_asks_whether_a_gap_was_read() -> None:
    """Not one behind every write that follows."""
    world = await stocked(5)
    await world.consumers.create(Key("id-orders", "client", "w"), 0, Terms(), 0.0)
    await world.keep(2)
    reader, delivery, (answer,) = await world.subscribe("orders", consumer="w")
    assert answer["gap"]["count"] == 3
    for count in range(3, 6):
        await world.append(1)
        await until(lambda count=count: len(reader.seqs()) == count)
    assert len(reader.pings) == 1
    delivery.ponged(reader.pings[0])
    _, _, (answer,) = await world.subscribe("orders", consumer="w")
    assert answer["gap"] is None


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
