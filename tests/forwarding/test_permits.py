"""relay_tornado/forwarding/permits.py: what a permit that is not used leaves to the next one."""

from __future__ import annotations

import math

import pytest

from relay_tornado.forwarding.circuit import FAILURES, LONGEST
from relay_tornado.forwarding.permits import Permit, Permits
from tests.forwarding.world import World, public


def taken(permits: Permits) -> Permit:
    assert permits.wait() == 0
    permit = permits.take()
    assert permit is not None
    return permit


@pytest.mark.gen_test
async def test_one_try_finds_out_whether_a_destination_is_back() -> None:
    """Where there is nothing to send after all it is the next one, and no other beside that."""
    world = World()
    permits = Permits(world.forwarding._shared, public("http://127.0.0.1:1"), lambda: None)
    for _ in range(FAILURES):
        permit = taken(permits)
        permit.begin()
        permit.failed()
        permit.release()
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
