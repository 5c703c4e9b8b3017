"""relay_tornado/delivery/group.py: connections that share a consumer, and how much each of them gets."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay_tornado.delivery import filter_time
from relay_tornado.delivery.deliver import Delivery
from relay_tornado.delivery.outlet import Frames
from relay_tornado.model import Cursor, NewEvent, Retention
from relay_tornado.wire.acks import Ack, Nak
from relay_tornado.wire.control import Unsubscribe
from tests.delivery.virtual import day, run, virtual_test
from tests.delivery.virtual import event_loop as event_loop
from tests.delivery.workers import KEY, Worker, parked, worker
from tests.delivery.world import Reader, World, frames, quiet, stocked, until


@virtual_test
@pytest.mark.parametrize("members", [2, 5])
async def test_members_share_the_work(members: int) -> None:
    """Each event goes to exactly one, in order on each connection, and everybody gets about as much."""
    world = await stocked(0)
    workers = [await worker(world) for _ in range(members)]
    for _ in range(20):
        await world.append(members)
        await quiet(20)
        for each in workers:
            for seq in each.seqs:
                each.ack(seq)
    every = sorted(seq for each in workers for seq in each.seqs)
    assert every == list(range(1, 20 * members + 1))
    assert all(each.seqs == sorted(each.seqs) for each in workers)
    assert [len(each.seqs) for each in workers] == pytest.approx([20] * members, abs=2)


@virtual_test
async def test_single_events_go_round() -> None:
    """One event at a time: each idle member has its turn."""
    world = await stocked(0)
    workers = [await worker(world) for _ in range(3)]
    for _ in range(9):
        await world.append()
        await quiet(20)
    assert [each.seqs for each in workers] == [[1, 4, 7], [2, 5, 8], [3, 6, 9]]


@virtual_test
async def test_a_backlog_is_divided() -> None:
    """What is there when several wait does not go to the first one alone."""
    world = await stocked(0)
    workers = [await worker(world) for _ in range(4)]
    await quiet()
    for _ in range(40):
        await world.log.append("id-orders", _event())
    await until(lambda: sum(len(each.seqs) for each in workers) == 40)
    # How even the shares are depends on the slices of real time.
    assert all(each.seqs for each in workers)


def _event() -> NewEvent:
    return NewEvent("in-id-orders", "POST", b"", b"", b"", b"{}", "192.0.2.1")


@virtual_test
async def test_no_more_in_flight_than_asked_for() -> None:
    """Over all buckets of the connection; each ack makes room, for whichever bucket waits."""
    world = await stocked(0)
    await world.bucket("other")
    await world.append(10)
    await world.append(10, "id-other")
    one = await worker(world, "orders", "other", max_in_flight=3)
    await quiet()
    had: list[tuple[str, int]] = []
    while len(had) < 20:
        now = [(each["meta"]["bucket_name"], each["meta"]["seq"]) for each in one.events]
        assert len(now) - len(had) <= 3
        new = [each for each in now if each not in had]
        meta = next(each["meta"] for each in one.events if (each["meta"]["bucket_name"], each["meta"]["seq"]) == new[0])
        assert one.delivery.settle(Ack(Cursor(meta["epoch"], meta["seq"])))
        had.append(new[0])
        await quiet(20)
    assert sorted(had) == sorted((name, seq) for name in ("orders", "other") for seq in range(1, 11))


@pytest.mark.parametrize("freed", ["ack", "nak", "unsubscribe"])
@virtual_test
async def test_a_place_that_another_bucket_had_is_taken_at_once(freed: str) -> None:
    """By an event that came while there was none."""
    world = await stocked(0)
    await world.bucket("other")
    one = await worker(world, "orders", "other", max_in_flight=1)
    await quiet()
    await world.append(1)
    await quiet()
    await world.append(1, "id-other")
    await quiet()
    assert (one.reader.seqs("orders"), one.reader.seqs("other")) == ([1], [])
    if freed == "unsubscribe":
        one.delivery.unsubscribe(Unsubscribe(("orders",)))
    else:
        assert one.ack(1) if freed == "ack" else one.nak(1, 1000)
    await quiet()
    assert one.reader.seqs("other") == [1]


@virtual_test
async def test_who_can_not_write_keeps_nothing_from_the_others() -> None:
    """A connection whose client does not read has one write out; everything else goes to the other."""
    world = await stocked(0)
    stuck = await worker(world)
    await quiet()
    stuck.reader.paused = True
    await world.append(1)
    await quiet()
    other = await worker(world)
    await world.append(300, body=b"x" * 3000)
    await quiet(2000)
    got = set(other.seqs)
    for seq in sorted(got):
        other.ack(seq)
    await quiet(2000)
    assert len(set(other.seqs)) == 300
    assert stuck.reader.waiting < 5000


@virtual_test
async def test_what_waits_for_a_filter_goes_to_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """At once: slow filters of its token may keep one waiting for long."""
    monkeypatch.setattr(filter_time, "rest", lambda seconds: 3600.0)
    passing = {"not": {"match": {"type": "value", "value": "x", "parameter": {"source": "header", "name": "X-None"}}}}
    world = await stocked(0)
    slow, _, _ = await world.subscribe("orders", filter=passing)
    resting = await worker(world, filter=passing)
    await quiet()
    other = await worker(world)
    await quiet()
    await world.append(1)
    await quiet()
    assert (slow.seqs(), resting.seqs, other.seqs) == ([1], [], [1])
    assert asyncio.get_running_loop().time() < 0.5


@virtual_test
async def test_a_full_window_opens_for_whoever_waits() -> None:
    """Ten thousand are out, so no new ones come, and nobody has caught up; one ack at the floor is enough."""
    world = await stocked(10_002)
    one = await worker(world, max_in_flight=10_000, ack_wait=3600)
    await until(lambda: len(one.seqs) == 10_000)
    two = await worker(world)
    await quiet()
    assert two.seqs == []
    assert two.reader.statuses() == []
    one.ack(2)
    await quiet()
    assert two.seqs == []
    one.ack(1)
    await quiet()
    assert two.seqs == [10_001, 10_002]
    assert [each["status"] for each in two.reader.statuses()] == ["caught_up"]


@virtual_test
async def test_a_little_room_is_used_too() -> None:
    """A few acks make room at once, or nearly so; the order of what was given holds over several subscribes."""
    world = await stocked(60)
    one = await worker(world, max_in_flight=20)
    await until(lambda: len(one.seqs) == 20)
    one.ack(1)
    await asyncio.sleep(0.01)
    assert one.seqs[20:] == [21]
    for seq in range(2, 8):
        one.ack(seq)
    await quiet()
    assert one.seqs[21:] == list(range(22, 28)), "a quarter does not wait"
    for _ in range(2):
        again = await world.subscribe(
            "orders", reader=one.reader, replaces=one.delivery, consumer="w", max_in_flight=25
        )
        one = Worker(world, *again)
        await quiet()
    assert one.seqs[27:] == list(range(28, 33))
    assert one.nak(8)
    await asyncio.sleep(0.01)
    assert one.tries()[-1] == (8, 2)
    assert one.ack(32, all=True)
    assert await world.floor(KEY) == 32
    assert await parked(world) == [8]


@virtual_test
async def test_what_one_has_no_room_for_goes_to_one_that_was_slow() -> None:
    """At once, where what made it short of room came at the same time, in another bucket."""
    world = await stocked(0)
    await world.bucket("other")
    await world.append()
    slow = await worker(world, ack_wait=5)
    await asyncio.sleep(6)
    assert slow.tries() == [(1, 1), (1, 2)]
    one = await worker(world, "orders", "other", max_in_flight=1)
    await quiet()
    await world.append(1, "id-other")
    await world.append(1)
    await quiet()
    assert one.reader.seqs("other") == [1]
    assert slow.seqs == [1, 1, 2]


@pytest.mark.parametrize("answer", ["ack", "nak"])
@virtual_test
async def test_who_was_slow_has_its_share_once_it_answers(answer: str) -> None:
    """Whatever it says: it is there again."""
    world = await stocked(1)
    slow = await worker(world, ack_wait=5)
    await asyncio.sleep(6)
    assert slow.tries() == [(1, 1), (1, 2)]
    one = await worker(world)
    await quiet()
    assert slow.ack(1) if answer == "ack" else slow.nak(1, 1000)
    await world.append(2)
    await quiet()
    assert sorted(slow.seqs[2:] + one.seqs) == [2, 3]
    assert len(one.seqs) == 1


@virtual_test
async def test_who_was_slow_takes_nothing_from_one_that_waits() -> None:
    """Also where it looks for events on its own; it gets at once what the other has no room for."""
    world = await stocked(1)
    slow = await worker(world, ack_wait=5)
    await asyncio.sleep(6)
    assert slow.tries() == [(1, 1), (1, 2)]
    other = await worker(world, max_in_flight=1)
    await world.append()
    await quiet()
    assert other.ack(2)
    await quiet()
    async with world.ledgers.using(KEY) as ledger:
        assert ledger.progress.schedule({2: day()}, day()) == [2]
        slow.delivery.mark("id-orders")
        await quiet()
        ledger.tell()
        await quiet()
    assert other.seqs == [2, 2]
    await world.append()
    await quiet()
    assert slow.seqs == [1, 1, 3]


@virtual_test
async def test_what_one_can_not_take_goes_to_one_that_was_slow() -> None:
    """Soon, where the client of the other one reads nothing of another bucket's: nobody knows for how long. What that
    one takes in time does not."""
    world = await stocked(1)
    await world.bucket("other")
    slow = await worker(world, ack_wait=5)
    await asyncio.sleep(6)
    assert slow.tries() == [(1, 1), (1, 2)]
    one = await worker(world, "orders", "other")
    await quiet()
    one.reader.paused = True
    await world.append(1, "id-other")
    await world.append(1)
    await asyncio.sleep(0.5)
    one.reader.resume()
    await asyncio.sleep(1)
    assert (slow.seqs, one.seqs) == ([1, 1], [2])
    one.reader.paused = True
    await world.append(1, "id-other")
    await world.append(2)
    await asyncio.sleep(0.5)
    assert slow.seqs == [1, 1]
    await asyncio.sleep(0.6)
    assert slow.seqs == [1, 1, 3, 4]


@virtual_test
async def test_what_is_refused_goes_to_another_first() -> None:
    """Whoever refused it waits behind the others, however long it has waited."""
    world = await stocked(0)
    one, other = await worker(world), await worker(world)
    for _ in range(2):
        await world.append()
        await quiet()
    assert (one.seqs, other.seqs) == ([1], [2])
    assert one.nak(1)
    await quiet()
    assert other.tries() == [(2, 1), (1, 2)]


@virtual_test
async def test_one_event_wakes_one_member(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand may share a consumer."""
    world = await stocked(0)
    workers = [await worker(world) for _ in range(20)]
    await quiet()
    marked: list[Delivery] = []
    mark = Delivery.mark
    monkeypatch.setattr(Delivery, "mark", lambda self, bucket_id: (marked.append(self), mark(self, bucket_id))[1])
    await world.append()
    await quiet()
    assert sum(len(each.seqs) for each in workers) == len(marked) == 1


@given(seed=st.integers(0, 2**32), count=st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_everything_is_handled_whatever_happens(seed: int, count: int) -> None:
    """Connections come, go, subscribe again, ack, refuse, hang; time passes, old events leave, the relay starts again:
    every event is acked in the end, or has left and is not dead where it was acked; what is acked is written to nobody;
    nobody has more than agreed, nothing is out twice, and first tries come in order."""

    async def test() -> None:
        chance = random.Random(seed)
        world = World(seed)
        await world.bucket()
        acked: set[int] = set()
        again: list[int] = []
        workers: list[Worker] = []
        most = 7
        total = 0

        async def join(before: Worker | None = None) -> Worker:
            how: dict[str, Any] = {"max_in_flight": most, "max_deliver": 0, "ack_wait": 5}
            if before is not None:
                return await worker(world, reader=before.reader, replaces=before.delivery, **how)
            reader = Reader(world.log.chance)
            write = reader.write

            def watched(data: Frames) -> Awaitable[None]:
                if not reader.closed:
                    written = [each["meta"]["seq"] for each in frames(bytes(data)) if each["type"] == "webhook"]
                    again.extend(seq for seq in written if seq in acked)
                return write(data)

            reader.write = watched  # type: ignore[method-assign]
            return await worker(world, reader=reader, **how)

        def outstanding() -> list[int]:
            group = world.deliveries._groups._groups.get(KEY)
            return [] if group is None else list(group._out)

        def check() -> None:
            for each in workers:
                firsts = [seq for seq, attempt in each.tries() if attempt == 1]
                assert firsts == sorted(set(firsts))
                kept = each.delivery.consumers
                assert kept is not None
                assert len(kept._in_flight._items) <= most
            connected = [each.delivery.consumers for each in workers if each.delivery.consumers]
            assert sum(len(each._in_flight._items) for each in connected) == len(outstanding())

        def act(each: Worker) -> None:
            kept = each.delivery.consumers
            assert kept is not None
            items = list(kept._in_flight._items.values())
            if not items or each.reader.paused:
                return
            item = chance.choice(items)
            cursor = Cursor(item.epoch, item.taken.seq)
            match chance.randrange(4):
                case 0 | 1:
                    assert each.delivery.settle(Ack(cursor))
                    acked.add(item.taken.seq)
                case 2:
                    before = [one for one in items[: items.index(item)] if one.unanswered < item.first]
                    assert each.delivery.settle(Ack(cursor, all=True))
                    acked.update(one.taken.seq for one in (*before, item))
                case 3:
                    assert each.delivery.settle(Nak(cursor, chance.choice((0, 0.5, 20))))

        for _ in range(120):
            match chance.randrange(12):
                case 0 | 1 | 2:
                    number = chance.randrange(1, 6)
                    total += number
                    await world.append(number)
                case 3 | 4 | 5 if workers:
                    act(chance.choice(workers))
                case 6 if len(workers) < count:
                    workers.append(await join())
                case 7 if workers:
                    one = chance.choice(workers)
                    if chance.random() < 0.3:
                        workers.remove(one)
                        one.leave()
                    elif one.reader.paused:
                        one.reader.resume()
                    else:
                        one.reader.paused = chance.random() < 0.3
                case 8:
                    await asyncio.sleep(chance.choice((0, 0.3, 6)))
                case 9 if chance.random() < 0.2:
                    for each in workers:
                        each.reader.close()
                    old, workers[:] = list(workers), []
                    world.restart()
                    del old
                case 10 if workers:
                    at = chance.randrange(len(workers))
                    if not workers[at].reader.paused:
                        workers[at] = await join(workers[at])
                case 11 if chance.random() < 0.3:
                    await world.log.trim("id-orders", Retention(None, chance.randrange(12), None), None)
                    await quiet(chance.randrange(20))
                    world.ledgers.trimmed("id-orders", (await world.log.bounds("id-orders")).first)
            for _ in range(chance.randrange(30)):
                await asyncio.sleep(0)
            check()
        for each in workers:
            each.reader.resume()
        if not workers:
            workers.append(await join())
        for _ in range(3000):
            if await world.floor(KEY) == total and not await parked(world):
                break
            for each in workers:
                for item in list(each.delivery.consumers._in_flight._items.values()):  # type: ignore[union-attr]
                    assert each.delivery.settle(Ack(Cursor(item.epoch, item.taken.seq)))
                    acked.add(item.taken.seq)
            await asyncio.sleep(0.2)
        assert await world.floor(KEY) == total
        assert await parked(world) == []
        first = (await world.log.bounds("id-orders")).first
        assert {*acked, *range(1, first)} == set(range(1, total + 1))
        assert acked.isdisjoint(each.seq for each in await world.consumers.dead("id-orders", KEY, 0, total))
        assert again == []
        for each in workers:
            each.leave()
        await quiet()
        assert not world.deliveries._groups._groups
        assert world.ledgers.find(KEY) is None
        assert world.deliveries.budget.outstanding == 0

    run(test)
