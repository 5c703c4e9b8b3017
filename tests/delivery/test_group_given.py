"""relay_tornado/delivery/group.py: what becomes of events that connections were given."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from relay_tornado.consumer_changes import GIVEN_UP, MAX_DELIVER
from relay_tornado.consumer_progress import Progress
from relay_tornado.delivery.bounds import CHUNK, WriteBudget
from relay_tornado.delivery.group import Group
from relay_tornado.model import Event, Output
from relay_tornado.wire import control
from tests.delivery.virtual import day, virtual_test
from tests.delivery.virtual import event_loop as event_loop
from tests.delivery.workers import KEY, held_up, outputs, parked, worker
from tests.delivery.world import TOKEN, World, quiet, stocked, until
from tests.failing import once


@virtual_test
async def test_what_is_acked_never_comes_again() -> None:
    """The position is kept over a crash: acked events are done, the others come again, and were tried before."""
    world = await stocked(5)
    one = await worker(world)
    await until(lambda: one.seqs == [1, 2, 3, 4, 5])
    for seq in (1, 2, 4):
        assert one.ack(seq)
    assert await world.floor(KEY) == 2
    world.restart()
    again = await worker(world, since="latest")
    await until(lambda: again.seqs == [3, 5])
    assert again.answers[0]["start"] == 6
    assert again.answers[0]["consumer"]["pending"] == 2
    assert again.tries() == [(3, 2), (5, 2)]


@virtual_test
async def test_unacked_events_go_to_another() -> None:
    """After `ack_wait`, with the number of the try; who let it pass gets what others have no room for, no more."""
    world = await stocked(0)
    stuck = await worker(world, ack_wait=30)
    await quiet()
    await world.append(6)
    await until(lambda: len(stuck.seqs) == 6)
    other = await worker(world)
    await asyncio.sleep(29.9)
    assert other.seqs == []
    await asyncio.sleep(0.2)
    await quiet()
    assert other.tries() == [(seq, 2) for seq in range(1, 7)]
    for seq in other.seqs:
        assert other.ack(seq)
    await world.append(4)
    await quiet()
    assert len(other.seqs) == 10
    assert len(stuck.seqs) == 6
    assert not stuck.ack(1), "it was given to another"
    assert await world.floor(KEY) == 6
    assert world.counters.redeliveries == 6


@virtual_test
async def test_what_fails_too_often_is_dead() -> None:
    """After `max_deliver` tries, whatever they ended with; then it counts as dealt with."""
    world = await stocked(2)
    one = await worker(world, max_deliver=3, ack_wait=5)
    await until(lambda: one.seqs == [1, 2])
    one.ack(2)
    one.nak(1)
    await quiet()
    await asyncio.sleep(6)
    await quiet()
    assert one.tries() == [(1, 1), (2, 1), (1, 2), (1, 3)]
    one.leave()
    (letter,) = await world.consumers.dead("id-orders", KEY, 0, 10)
    assert (letter.seq, letter.attempts, letter.reason) == (1, 3, "max_deliver")
    assert await world.floor(KEY) == 2
    # Without end:
    two = await worker(world, consumer="patient", max_deliver=0)
    await until(lambda: two.seqs == [1, 2])
    for _ in range(50):
        assert two.nak(1)
        await quiet(10)
    assert two.tries()[-1] == (1, 51)


@virtual_test
async def test_what_a_connection_had_goes_to_another_at_once() -> None:
    """When it is cut, unsubscribes or takes another consumer."""
    world = await stocked(0)
    for number, end in enumerate(("cut", "unsubscribe", "replace"), 1):
        first = await worker(world, consumer=end)
        await world.append(3)
        await until(lambda first=first, number=number: len(first.seqs) == 3 * number)
        had = first.seqs
        second = await worker(world, consumer=end)
        await quiet()
        assert second.seqs == []
        if end == "cut":
            first.leave()
        elif end == "unsubscribe":
            first.delivery.unsubscribe(control.Unsubscribe(("orders",)))
        else:
            await world.subscribe("orders", reader=first.reader, replaces=first.delivery, consumer="another")
        await quiet()
        assert second.tries() == [(seq, 2) for seq in had]
        second.leave()


@virtual_test
async def test_tries_count_across_crashes() -> None:
    """No event is given more often than it may be, however often the relay ends with no word; what was never written
    was not tried."""
    world = await stocked(3)
    for attempt in (1, 2):
        one = await worker(world, max_deliver=2, max_in_flight=2)
        await until(lambda one=one: one.seqs == [1, 2])
        assert one.tries() == [(1, attempt), (2, attempt)]
        world.restart()
    last = await worker(world, max_deliver=2)
    await until(lambda: last.seqs == [3])
    assert last.tries() == [(3, 1)]
    letters = await world.consumers.dead("id-orders", KEY, 0, 9)
    assert [(each.seq, each.attempts, each.reason) for each in letters] == [
        (1, 2, MAX_DELIVER),
        (2, 2, MAX_DELIVER),
    ]


@virtual_test
async def test_copies_are_one_unit() -> None:
    """Done when each copy was acked, or the event by its bare id; a nak of one copy brings all again."""
    world = await stocked(3, outputs=outputs())
    one = await worker(world)
    await until(lambda: one.reader.ids() == ["1-1", "1-2", "2-1", "2-2", "3-1", "3-2"])
    assert one.ack("1-2")
    assert not one.ack("1-2"), "it was acked"
    assert not one.ack("1-3"), "there is none"
    assert await world.floor(KEY) == 0
    assert one.ack("1-1")
    assert await world.floor(KEY) == 1
    assert one.ack("2")
    assert await world.floor(KEY) == 2
    assert one.ack("3-1")
    assert one.nak("3-2")
    await quiet()
    assert one.reader.ids()[6:] == ["3-1", "3-2"]
    assert [each["meta"]["attempt"] for each in one.events[6:]] == [2, 2]
    assert one.ack("3-1", all=True)
    assert await parked(world) == [3]
    assert one.ack("3-2")
    assert await parked(world) == []
    await world.append()
    await until(lambda: one.reader.ids()[8:] == ["4-1", "4-2"])
    assert one.ack("4-2", all=True), "the copies before it are acked, too"
    assert await world.floor(KEY) == 4


@virtual_test
async def test_events_that_are_larger_than_a_write() -> None:
    """Each comes in a write of its own; with many copies, no more are in one than it may have."""
    many = tuple(Output(f"o{n}", n, f"out {n}", 0, 0, internal=True) for n in range(1, 21))
    for copies, size, most in (((), 2 * CHUNK, 3 * CHUNK), (many, CHUNK // 20, 2 * CHUNK)):
        world = await stocked(0, outputs=copies)
        one = await worker(world)
        await world.append(4, body=b"x" * size)
        await until(lambda one=one: set(one.seqs) == {1, 2, 3, 4})
        assert len(one.seqs) == 4 * max(len(copies), 1)
        assert max(one.reader.writes) < most


@virtual_test
@pytest.mark.parametrize("answers", ["not", "ack", "nak"])
async def test_what_is_given_up_while_it_is_in_flight(answers: str) -> None:
    """It does not come again: its connection gets the next one once it has answered, or `ack_wait` is over. Only an ack
    makes it done after all."""
    world = await stocked(2)
    one = await worker(world, max_deliver=0, max_in_flight=1, ack_wait=5)
    await until(lambda: one.tries() == [(1, 1)])
    await asyncio.sleep(6)
    assert one.tries() == [(1, 1), (1, 2)]
    async with world.ledgers.using(KEY) as ledger:
        assert ledger.progress.give_up(1, 2, day()) is not None
        ledger.save()
        ledger.tell()
    if answers == "ack":
        assert one.ack(1)
    elif answers == "nak":
        assert one.nak(1)
    await asyncio.sleep(6)
    assert one.seqs[:3] == [1, 1, 2]
    assert one.ack(2)
    await asyncio.sleep(60)
    assert set(one.seqs[2:]) == {2}
    assert not world.ledgers.find(KEY).progress.out  # type: ignore[union-attr]
    letters = await world.consumers.dead("id-orders", KEY, 0, 10)
    assert [(each.seq, each.attempts, each.reason) for each in letters] == [(1, 2, GIVEN_UP)] * (answers != "ack")
    assert await world.floor(KEY) == 2


@virtual_test
@pytest.mark.parametrize("seed", range(8))
async def test_what_is_given_back_comes_before_what_is_later(seed: int) -> None:
    """Large events: a share is more than one write may have, and reads take their time. First tries stay in order."""
    world = World(seed)
    await world.bucket()
    workers = [await worker(world, max_in_flight=50) for _ in range(3)]
    await quiet()
    await world.append(45, body=b"x" * 60_000)
    for _ in range(300):
        await quiet(20)
        for each in workers:
            for seq in each.seqs:
                each.ack(seq)
        if await world.floor(KEY) == 45:
            break
    assert sorted(seq for each in workers for seq in each.seqs) == list(range(1, 46))
    assert all(each.seqs == sorted(each.seqs) for each in workers)


@virtual_test
async def test_what_can_not_be_had_now_is_looked_for_again() -> None:
    """Where nothing comes of the log, what was taken is given back, and somebody tries again soon."""
    world = await stocked(0)
    one = await worker(world)
    await quiet()
    peek, looks = world.log.peek, list[object]()

    def nothing(*args: object) -> list[Event]:
        looks.append(args)
        return []

    world.log.peek = nothing  # type: ignore[method-assign]
    await world.append(3)
    await quiet()
    assert one.seqs == []
    assert 0 < len(looks) <= 4, "it tries again at once"
    world.log.peek = peek  # type: ignore[method-assign]
    await asyncio.sleep(1.1)
    assert one.tries() == [(1, 1), (2, 1), (3, 1)]


@virtual_test
@pytest.mark.parametrize("how", ["cut", "scope"])
async def test_what_was_being_read_for_a_connection_that_is_cut(how: str) -> None:
    """Also for one whose token lost the bucket meanwhile: it gets none of it, and another one that waits gets it as
    soon as it is given back, at no later time."""
    world = await stocked(0)
    one, two = await worker(world), await worker(world)
    await quiet()
    gate = held_up(world)
    await world.append()
    await quiet()
    if how == "cut":
        one.leave()
    else:
        one.delivery.rescope(replace(TOKEN, buckets=frozenset()))
    await quiet()
    assert two.seqs == []
    gate.set()
    await quiet()
    assert (one.seqs, two.seqs) == ([], [1])


@virtual_test
@pytest.mark.parametrize(("of", "step"), [(WriteBudget, "chunk"), (Group, "_give")])
async def test_a_share_that_is_not_given_for_want_of_memory(
    monkeypatch: pytest.MonkeyPatch, of: type, step: str
) -> None:
    """What was taken goes to another: nothing is out to nobody."""
    world = await stocked(0)
    one, other = await worker(world), await worker(world)
    await quiet()
    monkeypatch.setattr(of, step, once(getattr(of, step)))
    await world.append(1)
    await until(lambda: other.seqs + one.seqs == [1])
    assert one.ack(1) or other.ack(1)
    assert await world.floor(KEY) == 1


@virtual_test
async def test_a_share_whose_taking_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was taken by then goes to another, too."""
    world = await stocked(0)
    one, other = await worker(world), await worker(world)
    await quiet()
    hand_out, failing = Progress._hand_out, once(lambda: None)

    def handed_out(self: Progress, *args: Any) -> None:
        hand_out(self, *args)
        failing()

    monkeypatch.setattr(Progress, "_hand_out", handed_out)
    await world.append(1)
    await until(lambda: other.seqs + one.seqs == [1])
    assert one.ack(1) or other.ack(1)
    assert await world.floor(KEY) == 1
