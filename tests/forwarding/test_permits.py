"""relay_tornado/forwarding/permits.py: how many permits there are, and what each leaves to the next one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from relay_tornado.forwarding.circuit import FAILURES, LONGEST
from relay_tornado.forwarding.permits import Permit, Permits
from tests.forwarding.world import World, public

URL = "http://127.0.0.1:1"
AT_ONCE = {"enabled": True, "mode": "concurrency", "max_concurrent": 3}


class Output:
    """The permits of an output, and how often it was told that there may be one again."""

    def __init__(self, world: World, **fields: Any) -> None:
        self.freed = 0
        self.permits = Permits(world.forwarding._shared, public(URL, **fields), self._free)

    def _free(self) -> None:
        self.freed += 1


def taken(permits: Permits) -> Permit:
    assert permits.wait() == 0
    permit = permits.take()
    assert permit is not None
    return permit


def fail(permit: Permit) -> None:
    permit.begin()
    permit.failed()
    permit.release()


@pytest.mark.gen_test
async def test_one_try_finds_out_whether_a_destination_is_back() -> None:
    """Where there is nothing to send after all it is the next one, and no other beside that."""
    world = World()
    permits = Permits(world.forwarding._shared, public("http://127.0.0.1:1"), lambda: None)
    for _ in range(FAILURES):
        fail(taken(permits))
    assert permits.circuit.opened
    world.now += 2 * LONGEST
    nothing = taken(permits)
    nothing.cancel()
    nothing.release()
    probe = taken(permits)
    probe.begin()
    nothing.cancel()
    nothing.release()
    assert permits.wait() == math.inf
    assert permits.in_use == 1
    assert probe.succeeded()
    assert permits.wait() == 0


@pytest.mark.gen_test
async def test_outputs_share_what_is_beyond_their_own() -> None:
    """A permit that is released makes room, once, for whoever waits for it."""
    world = World(forward_requests=2)
    one, other = (Output(world, throttle=AT_ONCE) for _ in range(2))
    first, second, third = (taken(one.permits) for _ in range(3))
    own = taken(other.permits)
    for _ in range(2):
        assert other.permits.take() is None
    assert (one.permits.in_use, other.permits.in_use, other.freed) == (3, 1, 0)
    for _ in range(2):
        second.release()
    assert (one.permits.in_use, one.freed, other.freed) == (2, 1, 1)
    beyond = taken(other.permits)
    assert one.permits.take() is None
    one.permits.close()
    for permit in (own, beyond, first, third):
        permit.release()
    assert (one.permits.in_use, other.permits.in_use) == (0, 0)
    assert one.freed == 3, "it waits no more"
    for _ in range(3):
        taken(one.permits)
    assert one.permits.in_use == 3


@pytest.mark.gen_test
async def test_a_rate_counts_what_was_begun() -> None:
    """From when it began, which is told. One that was cancelled before counts no more, and one cancelled later does."""
    world = World()
    output = Output(world, throttle={"enabled": True, "rate": 2, "max_concurrent": 3})
    permits = output.permits
    one, two = taken(permits), taken(permits)
    assert permits.wait() == math.inf
    for _ in range(2):
        one.cancel()
    three = taken(permits)
    assert permits.wait() == math.inf
    two.begin()
    assert output.freed == 1
    assert permits.wait() == 1.0
    two.cancel()
    three.begin()
    assert permits.wait() == 1.0
    world.now += 1.0
    assert permits.wait() == 0


@pytest.mark.gen_test
async def test_a_rate_does_not_count_what_is_taken_back() -> None:
    """Whether or not others began since, or it is out of the interval."""
    world = World()
    permits = Output(world, throttle={"enabled": True, "rate": 3, "max_concurrent": 3}).permits
    begun = [taken(permits) for _ in range(3)]
    for permit in begun:
        permit.begin()
        world.now += 0.2
    begun[1].take_back()
    assert permits.wait() == 0
    taken(permits).begin()
    assert permits.wait() == pytest.approx(0.4)
    world.now += 0.5
    begun[0].take_back()
    taken(permits).begin()
    assert permits.wait() == pytest.approx(0.3)


@pytest.mark.gen_test
async def test_a_hold_keeps_the_next_one_back() -> None:
    """That of a permit goes with its circuit: a changed output has another one, and an unchanged one has not."""
    world = World()
    permits = Output(world, throttle=AT_ONCE).permits
    permit = taken(permits)
    for each, seconds in ((permit, 5.0), (permits, 7.0)):
        each.hold(seconds)
        assert permits.wait() == seconds
    permits.change(permits.output)
    assert permits.wait() == 7.0
    permits.change(replace(permits.output, name="changed"))
    assert permits.wait() == 0
    permit.hold(9.0)
    assert permits.wait() == 0


@pytest.mark.gen_test
async def test_a_result_from_before_a_change() -> None:
    """It neither opens the circuit that the changed output has, nor closes it."""
    permits = Output(World(), throttle={"enabled": True, "mode": "concurrency", "max_concurrent": FAILURES + 1}).permits
    before = [taken(permits) for _ in range(FAILURES + 1)]
    permits.change(replace(permits.output, name="changed"))
    *failing, succeeding = before
    for permit in failing:
        fail(permit)
    assert not permits.circuit.opened
    for _ in range(FAILURES):
        fail(taken(permits))
    assert permits.circuit.opened
    succeeding.begin()
    succeeding.succeeded()
    assert permits.circuit.opened


@pytest.mark.gen_test
async def test_a_probe_from_before_a_change() -> None:
    """One that is not made after all makes no room for a second one beside that of the changed output."""
    world = World()
    permits = Output(world, throttle=AT_ONCE).permits

    def probing() -> Permit:
        for _ in range(FAILURES):
            fail(taken(permits))
        world.now += 2 * LONGEST
        return taken(permits)

    before = probing()
    permits.change(replace(permits.output, name="changed"))
    probing()
    before.cancel()
    assert permits.wait() == math.inf


@pytest.mark.parametrize("end", [Permit.begin, Permit.cancel])
@pytest.mark.gen_test
async def test_a_rate_counts_none_from_before_a_change(end: Callable[[Permit], None]) -> None:
    permits = Output(World(), throttle={"enabled": True, "rate": 2, "max_concurrent": 3}).permits
    before = taken(permits)
    permits.change(replace(permits.output, throttle={"enabled": True, "rate": 1, "max_concurrent": 3}))
    end(before)
    taken(permits)
    assert permits.wait() == math.inf


@pytest.mark.gen_test
async def test_a_change_of_the_output() -> None:
    """What is to begin goes to the new destination; a throttle that is the same knows what it was, and an order that is
    strict has one at once."""
    permits = Output(World(), throttle={"enabled": True, "rate": 1, "max_concurrent": 3}).permits
    permit = taken(permits)
    assert not permit.moved
    permits.change(replace(permits.output, destination="http://127.0.0.1:2"))
    assert permit.moved
    assert permits.wait() == math.inf
    permit.begin()
    assert (permit.moved, permit.destination) == (False, "http://127.0.0.1:2")
    permits.change(replace(permits.output, strict_order=True))
    assert (permits.wait(), permits.at_once) == (1.0, 1)
    permits.change(replace(permits.output, strict_order=False, throttle=AT_ONCE))
    assert (permits.wait(), permits.at_once) == (0, 3)
