"""relay_tornado/delivery/group.py: when an event comes again, and what clocks and timers do to that."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from relay_tornado.low_memory import watch_timers
from tests.delivery.virtual import VirtualLoop, day, virtual_test
from tests.delivery.virtual import event_loop as event_loop
from tests.delivery.workers import KEY, later, worker
from tests.delivery.world import World, quiet, stocked, until


@virtual_test
async def test_a_loop_that_stood_still_takes_nothing_back_at_once() -> None:
    """The acks may be in the socket: with a limit on tries it would make dead letters of what was done in time."""
    world = await stocked(0)
    one = await worker(world, ack_wait=30, max_deliver=2)
    await world.append(3)
    await until(lambda: one.seqs == [1, 2, 3])
    await asyncio.sleep(1)
    cast(VirtualLoop, asyncio.get_running_loop()).passed += 60
    await quiet()
    assert one.ack(1)
    await asyncio.sleep(29)
    assert one.ack(2)
    assert one.tries() == [(1, 1), (2, 1), (3, 1)]
    await asyncio.sleep(2)
    await quiet()
    assert one.tries()[3:] == [(3, 2)], "it comes again all the same"


@virtual_test
async def test_a_loop_that_stands_still_again_and_again() -> None:
    """It puts off what is over once: there would be no end to it on a machine that has no time."""
    world = await stocked(1)
    one = await worker(world, ack_wait=30)
    await until(lambda: one.seqs == [1])
    for _ in range(3):
        cast(VirtualLoop, asyncio.get_running_loop()).passed += 60
        await quiet()
    assert one.tries() == [(1, 1), (1, 2)]


@virtual_test
async def test_what_is_due_while_a_late_loop_is_put_up_with() -> None:
    """It comes when it is due, and nothing else is taken back with it."""
    world = await stocked(2)
    one = await worker(world, ack_wait=30)
    await until(lambda: one.seqs == [1, 2])
    assert one.nak(2, 70)
    cast(VirtualLoop, asyncio.get_running_loop()).passed += 60
    await asyncio.sleep(15)
    assert one.tries()[2:] == [(2, 2)]
    assert one.ack(1)


@virtual_test
async def test_ack_wait_is_one_timer() -> None:
    """However much is out: what is acked in time does not come again, what is not comes each after its own time."""
    world = await stocked(0)
    one = await worker(world, ack_wait=10)
    came = []
    for seq in range(1, 4):
        await world.append()
        await until(lambda seq=seq: len(one.seqs) == seq)
        came.append(day())
        await asyncio.sleep(3)
    assert world.deliveries._groups._groups[KEY]._timer.at is not None
    one.ack(2)
    await later(lambda: one.tries()[3:] == [(1, 2)])
    assert day() - came[0] == pytest.approx(10, abs=0.1)
    await later(lambda: one.tries()[4:] == [(3, 2)])
    assert day() - came[2] == pytest.approx(10, abs=0.1)


@virtual_test
async def test_a_nak_comes_again_after_its_delay() -> None:
    """At once without one; meanwhile later events go on."""
    world = await stocked(2)
    one = await worker(world)
    await until(lambda: one.seqs == [1, 2])
    assert one.nak(1, 5)
    assert one.nak(2)
    await world.append()
    await quiet()
    assert one.tries()[2:] == [(2, 2), (3, 1)]
    await asyncio.sleep(4.9)
    assert len(one.seqs) == 4
    await asyncio.sleep(0.2)
    await quiet()
    assert one.tries()[4:] == [(1, 2)]
    assert not one.nak(99)


@virtual_test
async def test_a_nak_while_the_client_reads_nothing() -> None:
    """It comes again when it is due, though nobody waited for events when the nak came."""
    world = await stocked(1)
    one = await worker(world)
    await until(lambda: one.seqs == [1])
    await quiet()
    one.reader.paused = True
    await world.append()
    await asyncio.sleep(2)
    assert one.nak(1, 5)
    one.reader.resume()
    await quiet()
    await asyncio.sleep(6)
    assert one.tries() == [(1, 1), (2, 1), (1, 2)]


@virtual_test
@pytest.mark.parametrize("ends", ["ack_wait", "nak", "leave"])
async def test_what_has_been_due_longest_comes_first(ends: str) -> None:
    """However the event in flight ends: one that is never acked would keep a client that takes one at a time from all
    that got a nak with a delay."""
    world = await stocked(2)
    one = await worker(world, max_in_flight=1, ack_wait=5, max_deliver=0)
    await until(lambda: one.seqs == [1])
    assert one.nak(1, 2)
    await quiet()
    await asyncio.sleep(4)
    assert one.tries() == [(1, 1), (2, 1)]
    two = one
    if ends == "ack_wait":
        await asyncio.sleep(2)
    elif ends == "nak":
        assert one.nak(2)
    else:
        one.leave()
        two = await worker(world, max_in_flight=1)
    await quiet()
    assert two.tries()[-1] == (1, 2)


def test_what_is_due_at_once_on_uvloop() -> None:
    """It makes no timer of that, but a handle that knows no time: it comes again, and what else is refused, too."""
    uvloop = pytest.importorskip("uvloop", reason="it comes with the extra `fast`")

    class Late(uvloop.Loop):  # type: ignore[misc]
        """What is due within a moment is so by the time that a timer is made of it."""

        def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> Any:
            while self.time() < when < self.time() + 0.01:
                pass
            return super().call_at(when, callback, *args, context=context)

    async def test() -> None:
        world = await stocked(3)
        one = await worker(world)
        await until(lambda: one.seqs == [1, 2, 3])
        await quiet(20)
        for seq in (1, 2, 3):
            assert one.nak(seq, 0.001)
        await until(lambda: sorted(one.tries()[3:]) == [(1, 2), (2, 2), (3, 2)])

    with asyncio.Runner(loop_factory=Late) as runner:
        runner.run(test())


@virtual_test
async def test_the_clock_of_day_is_set_back() -> None:
    """What comes again at once does so, and what got a nak waits as long as that said."""
    back = [0.0]
    world = World(clock=lambda: day() - back[0])
    await world.bucket()
    await world.append(3)
    one = await worker(world, ack_wait=60)
    await until(lambda: one.seqs == [1, 2, 3])
    one.nak(1, delay=20)
    one.leave()
    two = await worker(world, max_in_flight=2)
    back[0] = 3600
    await until(lambda: two.tries() == [(2, 2), (3, 2)])
    two.nak(2)
    two.ack(3)
    await until(lambda: two.tries() == [(2, 2), (3, 2), (2, 3)])
    await asyncio.sleep(18)
    assert two.tries()[3:] == []
    await asyncio.sleep(33)
    assert two.tries()[3:] == [(1, 2)], "at the timer's longest later"


@virtual_test
async def test_the_clock_of_day_is_set_back_while_nothing_happens() -> None:
    """What got a nak comes at the timer's longest later than it said."""
    back = [0.0]
    world = World(clock=lambda: day() - back[0])
    await world.bucket()
    await world.append()
    one = await worker(world, ack_wait=60)
    await until(lambda: one.seqs == [1])
    assert one.nak(1, delay=20)
    await asyncio.sleep(1)
    back[0] = 3600
    await asyncio.sleep(50)
    assert one.tries() == [(1, 1), (1, 2)]


@virtual_test
async def test_the_clock_of_day_is_set_back_before_a_crash() -> None:
    """What got a nak waits no longer than that said, also where nothing but an ack was stored in between."""
    back = [0.0]
    world = World(clock=lambda: day() - back[0])
    await world.bucket()
    await world.append(2)
    one = await worker(world, ack_wait=60)
    await until(lambda: one.seqs == [1, 2])
    assert one.nak(1, delay=20)
    await asyncio.sleep(1)
    back[0] = 3600
    assert one.ack(2)
    assert await world.floor(KEY) == 2
    world.restart()
    again = await worker(world)
    await asyncio.sleep(50)
    assert again.tries() == [(1, 2)]


@virtual_test
async def test_what_is_scheduled_comes_when_it_is_due() -> None:
    """A replay on the server, at once and later."""
    world = await stocked(5)
    one = await worker(world)
    await until(lambda: len(one.seqs) == 5)
    one.ack(5, all=True)
    async with world.ledgers.using(KEY) as ledger:
        assert ledger.progress.schedule({2: day(), 3: day() + 20}, day()) == [2, 3]
        ledger.save()
        ledger.tell()
    await quiet()
    assert one.tries()[5:] == [(2, 1)]
    await asyncio.sleep(21)
    assert one.tries()[5:] == [(2, 1), (3, 1)]


@virtual_test
async def test_a_naks_delay_outlasts_a_crash() -> None:
    """It comes when it would have come, as its next try, to whoever is there; what is new does not wait for it."""
    world = await stocked(1)
    one = await worker(world)
    await until(lambda: one.seqs == [1])
    due = day() + 100
    assert one.nak(1, 100)
    await asyncio.sleep(30)
    world.restart()
    two = await worker(world)
    await world.append(1)
    await quiet()
    assert two.tries() == [(2, 1)]
    assert two.ack(2)
    await later(lambda: len(two.seqs) == 2)
    assert two.tries()[1:] == [(1, 2)]
    assert day() == pytest.approx(due, abs=0.1)


@virtual_test
async def test_a_timer_that_is_lost() -> None:
    """As where the loop had no memory to call it: what is to come again does all the same."""
    world = await stocked(1)
    one = await worker(world, ack_wait=10)
    await until(lambda: one.seqs == [1])
    handle = world.deliveries._groups._groups[KEY]._timer._handle
    assert handle is not None
    handle.cancel()
    rounds = watch_timers()
    await asyncio.sleep(13)
    rounds.cancel()
    assert one.tries() == [(1, 1), (1, 2)]
