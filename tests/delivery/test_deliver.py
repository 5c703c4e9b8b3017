"""relay_tornado/delivery: what a subscriber gets, in which order, and what it is told."""

import asyncio
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from relay_tornado.delivery.deliver import Delivery
from relay_tornado.delivery.frames import FrameCache
from relay_tornado.errors import Unavailable
from relay_tornado.wire import control
from tests.delivery.world import Reader, World, quiet, run, stocked, until


@pytest.mark.gen_test
async def test_live_events_come_in_order_and_once() -> None:
    """A subscriber that is caught up gets what is appended, at once and without a task."""
    world = await stocked(3)
    reader, delivery, _ = await world.subscribe("orders")
    await until(lambda: not delivery.busy)
    for _ in range(5):
        await world.append(2)
        await quiet(2)
    assert reader.seqs() == list(range(4, 14))
    assert not reader.writes
    assert reader.at_once == 5
    assert reader.statuses() == []


async def stuck(world: World) -> Reader:
    """Somebody in the middle of a write of three events."""
    await world.bucket()
    await world.append(3)
    reader = Reader(paused=True)
    await world.subscribe("orders", since="earliest", reader=reader)
    await until(lambda: reader.waiting > 0)
    return reader


@pytest.mark.gen_test
async def test_who_is_at_work_is_waited_for() -> None:
    """Until its write is over; what has nothing to do is not remembered."""
    world = World()
    slow = await stuck(world)
    ended = asyncio.ensure_future(world.deliveries.ended())
    await quiet()
    assert not ended.done()
    slow.resume()
    await ended
    quick, delivery, _ = await world.subscribe("orders", since="earliest")
    await until(lambda: quick.seqs() == [1, 2, 3] and not delivery.busy)
    await quiet()
    assert not world.deliveries._shared.tasks


@pytest.mark.gen_test
async def test_who_has_unsubscribed_is_behind_nobody() -> None:
    """However long its connection stays."""
    world = World()
    await stuck(world)
    (delivery,) = world.deliveries._live
    delivery.unsubscribe(control.Unsubscribe(("orders",)))
    assert world.deliveries.lag() == {}


@pytest.mark.gen_test
async def test_who_is_closed_in_the_middle_of_a_write_is_behind_nobody() -> None:
    """It counts for nothing any more, before whoever opened it says so."""
    world = World()
    slow = await stuck(world)
    await world.subscribe("orders")
    assert world.deliveries.lag() == {"id-orders": 3}, "as the slowest"
    slow.close()
    await until(lambda: world.deliveries.lag() == {"id-orders": 0})


@pytest.mark.gen_test
async def test_who_is_behind_costs_a_commit_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told once that there is something to read, and then has it at once again from when it has caught up."""
    world = await stocked(3)
    told: list[Delivery] = []
    real = Delivery.mark

    def mark(delivery: Delivery, bucket_id: str) -> bool:
        told.append(delivery)
        return real(delivery, bucket_id)

    monkeypatch.setattr(Delivery, "mark", mark)
    slow = Reader(paused=True)
    _, behind, _ = await world.subscribe("orders", since="earliest", reader=slow)
    await until(lambda: slow.waiting > 0)
    quick, _, _ = await world.subscribe("orders")
    for _ in range(10):
        await world.append(1)
        await quiet(2)
    assert quick.seqs() == list(range(4, 14))
    assert told.count(behind) == 1
    slow.resume()
    await until(lambda: slow.seqs() == list(range(1, 14)) and not behind.busy)
    await world.append(1)
    await quiet(2)
    assert slow.seqs()[-1] == 14
    assert slow.at_once == 1
    assert told.count(behind) == 1


@pytest.mark.gen_test
async def test_caught_up_comes_once_a_bucket() -> None:
    """When replay meets the head, also for latest and for an empty bucket; not of one that is made later, and stock
    clients are told nothing."""
    world = World()
    await world.bucket("a")
    await world.bucket("b")
    await world.append(3, "id-a")
    epochs = [await world.epoch(each) for each in ("id-a", "id-b")]
    reader, delivery, _ = await world.subscribe(since={"a": "earliest"})
    await until(lambda: len(reader.statuses()) == 2)
    await world.append(1, "id-a")
    await quiet()
    assert reader.statuses() == [
        {"type": "status", "status": "caught_up", "bucket_name": "b", "id": f"{epochs[1]}-0"},
        {"type": "status", "status": "caught_up", "bucket_name": "a", "id": f"{epochs[0]}-3"},
    ]
    at = [message.get("status", message.get("meta", {}).get("seq")) for message in reader.messages]
    assert at[-2:] == ["caught_up", 4]
    assert not delivery.busy
    stock, _, _ = await world.subscribe()
    await quiet()
    assert stock.messages == []
    await world.bucket("c")
    await world.append(1, "id-c")
    await until(lambda: stock.seqs("c") == reader.seqs("c") == [1])
    assert len(reader.statuses()) == 2


@pytest.mark.gen_test
async def test_large_bodies_are_cut_for_who_asks() -> None:
    """`max_body` is about the body's bytes; others get everything, replayed and live."""
    world = await stocked(0)
    await world.append(1, body=b"x" * 11)
    await world.append(1, body=b"x" * 10)
    small, delivery, _ = await world.subscribe("orders", since="earliest", max_body=10)
    whole, other, _ = await world.subscribe("orders", since="earliest")
    await until(lambda: not delivery.busy and not other.busy)
    await world.append(1, body=b"x" * 11)
    await world.append(1, body=b"x" * 10)
    await until(lambda: len(small.seqs()) == len(whole.seqs()) == 4)
    events = small.events()
    assert [each.get("truncated", False) for each in events] == [True, False, True, False]
    assert ["body" in each for each in events] == [False, True, False, True]
    assert all(len(each["body"]) > 9 for each in whole.events())


@pytest.mark.gen_test
async def test_positions_are_told_once_they_moved() -> None:
    """By name, with the epoch, and only since the last time: a ping goes behind a write that is under way."""
    world = World()
    await world.bucket("a")
    await world.bucket("b")
    epoch = await world.epoch("id-a")
    reader = Reader()
    _, delivery, _ = await world.subscribe(reader=reader, extended=True)
    await until(lambda: not delivery.busy)
    assert delivery.moved() == {}
    await world.append(2, "id-a")
    await until(lambda: len(reader.seqs("a")) == 2)
    assert delivery.moved() == {"a": f"{epoch}-2"}
    assert delivery.moved() == {}
    reader.paused = True
    await world.append(1, "id-a")
    await until(lambda: reader.waiting > 0)
    assert delivery.moved() == {"a": f"{epoch}-3"}
    assert delivery.positions() == {"id-a": (2, 0), "id-b": (0, 0)}
    reader.resume()
    await until(lambda: not delivery.busy)
    assert delivery.moved() == {}


@pytest.mark.gen_test
async def test_a_position_is_told_anew_under_a_new_name() -> None:
    """Though it has not moved: whoever keeps positions by name has it, also where another bucket takes the old name."""
    world = World()
    await world.bucket("a")
    epoch = await world.epoch("id-a")
    reader, delivery, _ = await world.subscribe(extended=True)
    await world.append(2, "id-a")
    await until(lambda: len(reader.seqs("a")) == 2)
    assert delivery.moved() == {"a": f"{epoch}-2"}
    await world.change("id-a", name="b")
    await world.bucket("a", "id-new")
    await until(lambda: not delivery.busy)
    assert delivery.moved() == {"b": f"{epoch}-2"}
    await world.change("id-a", description="renamed")
    await until(lambda: not delivery.busy)
    assert delivery.moved() == {}


@pytest.mark.gen_test
async def test_a_position_is_in_the_epoch_of_its_event() -> None:
    """The first event after a start opens an epoch, and the one before ended where it begins: an id of that would be
    told a gap. By the pass after a commit as by a replay."""
    world = await stocked(2)
    world.log.reopen()
    world.restart()
    live, delivery, _ = await world.subscribe("orders", since="earliest", extended=True)
    await until(lambda: live.seqs() == [1, 2])
    await quiet()
    await world.append(1)
    await until(lambda: live.seqs() == [1, 2, 3])
    newest = (await world.log.bounds("id-orders")).epochs[-1]
    assert newest.from_seq == 3
    assert delivery.moved() == {"orders": f"{newest.epoch}-3"}
    late, replay, _ = await world.subscribe("orders", since="earliest", extended=True)
    await until(lambda: late.seqs() == [1, 2, 3])
    await quiet()
    assert replay.moved() == {"orders": f"{newest.epoch}-3"}


@pytest.mark.gen_test
async def test_a_changed_bucket_has_new_frames() -> None:
    """A new name stands in the frames of events that were encoded before."""
    world = World()
    bucket = await world.bucket()
    await world.append(1)
    reader, _, _ = await world.subscribe("orders", since="earliest")
    await until(lambda: reader.seqs() == [1])
    await world.registry.put("bucket", bucket.id, replace(bucket, name="sales"))
    again, _, _ = await world.subscribe("sales", since="earliest")
    await until(lambda: again.seqs("sales") == [1])


@pytest.mark.gen_test
async def test_a_log_that_fails_ends_the_reader_with_words() -> None:
    """The client is told to come back; the others go on."""
    world = World()
    await world.bucket("a")
    await world.bucket("b")
    await world.append(1, "id-a")
    whole = world.log.peek

    def broken(bucket_id: str, after: int, limit: int, max_bytes: int) -> Any:
        if bucket_id == "id-a":
            raise Unavailable("the disk")
        return whole(bucket_id, after, limit, max_bytes)

    world.log.peek = broken  # type: ignore[method-assign]
    reader, _, _ = await world.subscribe("a", since="earliest")
    other, _, _ = await world.subscribe("b")
    await until(lambda: reader.ends != [])
    assert "reconnect later" in reader.ends[0]
    await world.append(1, "id-b")
    await until(lambda: other.seqs("b") == [1])


@pytest.mark.gen_test
async def test_a_closed_outlet_ends_the_delivery() -> None:
    """Its task ends, and nothing of it stays with the dispatcher."""
    world = await stocked(3)
    reader = Reader(paused=True)
    _, delivery, _ = await world.subscribe("orders", since="earliest", reader=reader)
    await until(lambda: reader.waiting > 0)
    reader.close()
    await delivery.ended()
    world.deliveries.end(delivery)
    assert world.deliveries._shared.dispatcher._places == world.deliveries._shared.dispatcher._live == {}
    assert world.deliveries._live == set()
    assert world.deliveries.budget.outstanding == 0


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1 << 32), extended=st.booleans())
def test_no_hole_and_no_repeat_however_it_interleaves(seed: int, extended: bool) -> None:
    """Appends, pauses, renewed subscribes, buckets that come and go and slow reads at random: each bucket's events
    come in order, without hole or repeat, from the answer's start to the head, replay to live."""

    async def test() -> None:
        chance = random.Random(seed)
        world = World(seed)
        names = ["a", "b"]
        for name in names:
            await world.bucket(name)
            await world.append(chance.randrange(20), f"id-{name}", body=b"x" * chance.choice([10, 10_000, 100_000]))
        since = chance.choice(["earliest", {"last": 3}, {"*": "earliest"}])
        reader, delivery, answers = await world.subscribe(since=since, extended=extended)
        starts = {answer["bucket_name"]: answer["start"] for answer in answers}
        for _ in range(chance.randrange(10, 60)):
            match chance.randrange(10):
                case 0:
                    reader.paused = True
                case 1 | 2:
                    reader.resume()
                case 3:
                    if not reader.paused:
                        reader, delivery, _ = await world.subscribe(reader=reader, replaces=delivery, extended=extended)
                case 4:
                    if len(names) < 4:
                        names.append(f"n{len(names)}")
                        await world.bucket(names[-1])
                        starts[names[-1]] = 1
                case 5:
                    await quiet(chance.randrange(5))
                case _:
                    body = b"x" * chance.choice([10, 1000, 50_000])
                    await world.append(chance.randrange(1, 5), f"id-{chance.choice(names)}", body=body)
        reader.resume()
        heads = {name: (await world.log.bounds(f"id-{name}")).head for name in names}

        def done() -> bool:
            return all(place.seq == heads[place.bucket_id[3:]] for place in delivery._places.values()) and (
                not delivery.busy and len(delivery._places) == len(names)
            )

        await until(done)
        for name in names:
            assert reader.seqs(name) == list(range(starts[name], heads[name] + 1)), name
        assert reader.ends == []
        if not extended and since != {"last": 3} and isinstance(since, dict):
            assert all(each["status"] == "caught_up" for each in reader.statuses())
        assert world.deliveries.budget.outstanding == 0

    run(test)


@pytest.mark.gen_test
async def test_what_the_pass_fails_on_comes_by_each_ones_own_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where memory is short for a moment: nobody waits for the next event, in that bucket or in another."""
    world = World()
    for name in "ab":
        await world.bucket(name)
    readers = [await world.subscribe("a", "b") for _ in range(3)]
    await quiet()
    real, failed = FrameCache.frame, []

    def frame(*args: Any, **options: Any) -> bytes:
        if not failed:
            failed.append(args)
            raise MemoryError
        return real(*args, **options)

    monkeypatch.setattr(FrameCache, "frame", frame)
    with capture_logs() as logs:
        await world.append(1, "id-a")
        await world.append(1, "id-b")
        await until(lambda: all(reader.seqs("a") == reader.seqs("b") == [1] for reader, _, _ in readers))
    assert [entry["event"] for entry in logs] == ["frames_not_made"]
