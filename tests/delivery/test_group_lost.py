"""relay_tornado/delivery/fetching.py: what a consumer with explicit acks takes and the log does not give any more."""

from __future__ import annotations

import asyncio

from relay_tornado.model import Retention
from tests.delivery.virtual import event_loop as event_loop
from tests.delivery.virtual import virtual_test
from tests.delivery.workers import KEY, held_up, worker
from tests.delivery.world import World, damage, quiet, stocked, until

LONGEST = 61
"""Seconds after which the content of no ephemeral event is in memory."""


async def dead(world: World) -> list[tuple[int, int, str]]:
    letters = await world.consumers.dead("id-orders", KEY, 0, 100)
    return [(letter.seq, letter.attempts, letter.reason) for letter in letters]


@virtual_test
async def test_content_that_was_never_stored_is_a_gap() -> None:
    """A bucket that was ephemeral: told as that, once however few are taken at a time, and nobody finds dead letters
    that nobody can send."""
    world = await stocked(0, ephemeral=True)
    await world.append(3, ephemeral=True)
    await asyncio.sleep(LONGEST)
    await world.change(ephemeral=False)
    await world.append(2)
    one = await worker(world, max_in_flight=1)
    await until(lambda: one.seqs == [4])
    assert one.ack(4)
    await until(lambda: one.seqs == [4, 5])
    assert one.ack(5)
    assert one.reader.gaps() == [{"from": 1, "to": 3, "count": 3, "reason": "ephemeral"}]
    assert world.counters.gaps["ephemeral"] == 1
    assert await world.floor(KEY) == 5
    assert await dead(world) == []


@virtual_test
async def test_content_that_left_before_the_next_try() -> None:
    """It was given, so it is a dead letter and no gap; what was acked beside it has nothing to do with it."""
    world = await stocked(0)
    one = await worker(world)
    await world.change(ephemeral=True)
    await world.append(3, ephemeral=True)
    await until(lambda: one.seqs == [1, 2, 3])
    assert one.ack(1)
    assert one.ack(3)
    assert one.nak(2, delay=2 * LONGEST)
    await asyncio.sleep(3 * LONGEST)
    await world.append(1, ephemeral=True)
    await until(lambda: one.seqs == [1, 2, 3, 4])
    assert one.reader.gaps() == []
    assert await dead(world) == [(2, 1, "ephemeral")]
    assert one.ack(4)
    assert await world.floor(KEY) == 4


@virtual_test
async def test_damage_is_a_gap_that_is_told_once() -> None:
    """Whatever a connection takes at a time; each event of it is a dead letter that was never tried."""
    world = await stocked(7)
    damage(world)
    one = await worker(world, max_in_flight=1)
    for seq in (1, 2, 6, 7):
        await until(lambda: one.seqs[-1:] == [seq])  # noqa: B023
        assert one.ack(seq)
    await quiet()
    assert one.reader.gaps() == [{"from": 3, "to": 5, "count": 3, "reason": "reset"}]
    assert world.counters.gaps["reset"] == 1
    assert await dead(world) == [(seq, 0, "damaged") for seq in (3, 4, 5)]
    assert await world.floor(KEY) == 7


@virtual_test
async def test_caught_up_behind_damage() -> None:
    """The position is behind it, too."""
    world = await stocked(5)
    damage(world)
    one = await worker(world)
    await until(lambda: any(each["status"] == "caught_up" for each in one.reader.statuses()))
    assert one.seqs == [1, 2]
    assert [each["id"][-2:] for each in one.reader.statuses() if each["status"] == "caught_up"] == ["-5"]


@virtual_test
async def test_what_left_while_it_was_read_for_a_connection_that_is_gone() -> None:
    """The consumer was taken up by another connection, which was given it in time and has acked it: it is neither a gap
    nor dead."""
    world = await stocked(5)
    gate = held_up(world)
    one = await worker(world)
    await quiet()
    one.leave()
    two = await worker(world)
    await until(lambda: two.seqs == [1, 2, 3, 4, 5])
    assert two.ack(4, all=True)
    assert await world.log.trim("id-orders", Retention(None, 3, None), None) == 2
    world.ledgers.trimmed("id-orders", 3)
    gate.set()
    await quiet()
    assert await world.floor(KEY) == 4
    assert await dead(world) == []
    assert sum(world.counters.gaps.values()) == 0
