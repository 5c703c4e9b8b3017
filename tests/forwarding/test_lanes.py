"""relay_tornado/forwarding/lanes.py: what a lane that comes to nothing leaves to the next one."""

from __future__ import annotations

import math

import pytest

from relay_tornado.forwarding.circuit import FAILURES, LONGEST
from relay_tornado.forwarding.lanes import Lane, Lanes
from tests.forwarding.world import World, public


def taken(lanes: Lanes) -> Lane:
    assert lanes.wait() == 0
    lane = lanes.take()
    assert lane is not None
    return lane


@pytest.mark.gen_test
async def test_one_try_finds_out_whether_a_destination_is_back() -> None:
    """Where there is nothing to send after all it is the next one, and no other beside that."""
    world = World()
    lanes = Lanes(world.forwarding._shared, public("http://127.0.0.1:1"), lambda: None)
    for _ in range(FAILURES):
        lane = taken(lanes)
        lane.begin()
        lane.failed()
        lane.leave()
    assert lanes.circuit.opened
    world.now += 2 * LONGEST
    nothing = taken(lanes)
    nothing.cancel()
    nothing.leave()
    probe = taken(lanes)
    probe.begin()
    nothing.cancel()
    nothing.leave()
    assert lanes.wait() == math.inf
    assert lanes.trying == 1
    assert probe.succeeded()
    assert lanes.wait() == 0
