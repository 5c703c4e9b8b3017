"""Forwarding: an output that gets another destination has nothing to do with what the one before says."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.forwarding.target import Got, Target, answer
from tests.forwarding.world import public, world
from tests.waiting import until


@pytest.mark.parametrize("status", [429, 410, 500])
@pytest.mark.gen_test
async def test_a_late_answer_of_the_old_destination(status: int) -> None:
    """It neither holds up nor disables the output: the event, and those behind it, go to the new one at once."""
    gate = asyncio.Event()

    async def slow(got: Got) -> bytes:
        await gate.wait()
        return answer(status, b"", "Retry-After: 3600")

    async with Target(slow) as old, Target() as new, world(public(old.url)) as w:
        await w.append(b"1", b"2")
        await old.until(1)
        await w.change(public(new.url))
        gate.set()
        await until(lambda: new.bodies == [b"1", b"2"])
        await w.idle()
        assert (old.bodies, w.disabled, await w.dead()) == ([b"1"], [], [])
        assert [(each.status, each.status_code) for each in await w.stored(1)] == [("stalled", status), ("sent", 200)]


@pytest.mark.parametrize("status", [429, 500])
@pytest.mark.gen_test
async def test_what_waited_for_the_old_destination(status: int) -> None:
    """It is due at once; its tries count, and what is scheduled for later stays so."""

    def later(got: Got) -> bytes:
        return answer(status, b"", "Retry-After: 3600") if got.body == b"2" else answer()

    async with Target(later) as old, Target() as new, world(public(old.url)) as w:
        await w.append(b"1", b"2")
        await w.settled(old, 2)
        w.forwarder().ledger.progress.schedule({1: w.now + 60.0}, w.now)
        await w.append(b"3")
        await w.change(public(new.url))
        await until(lambda: new.bodies == [b"2", b"3"])
        await w.idle()
        assert [each.retries for each in await w.stored(2)] == [0, 1]


@pytest.mark.gen_test
async def test_what_waits_for_a_paused_output_that_moved() -> None:
    """What is due at once is so after a restart, too, though nothing was sent in between."""
    async with (
        Target(lambda got: answer(500, b"", "Retry-After: 3600")) as old,
        Target() as new,
        world(public(old.url)) as w,
    ):
        await w.append(b"1")
        await w.settled(old, 1)
        await w.change(public(new.url, paused=True))
        await w.consumers.saved()
        await w.restart()
        await w.change(public(new.url))
        await until(lambda: new.bodies == [b"1"])


@pytest.mark.gen_test
async def test_another_change_leaves_the_waiting_alone() -> None:
    """The destination is the same, and wants to be left alone."""
    async with Target(lambda got: answer(500, b"", "Retry-After: 3600")) as target, world(public(target.url)) as w:
        await w.append(b"1")
        await w.settled(target, 1)
        await w.change(public(target.url, timeout=7.0))
        await w.turn(1800)
        await w.idle()
        assert target.bodies == [b"1"]


@pytest.mark.parametrize("fields", [{"retries": -1}, {"durability": {"enabled": True, "schedule": "seconds"}}])
@pytest.mark.gen_test
async def test_the_old_destination_gives_nothing_up(fields: dict[str, Any]) -> None:
    """Where it was asked for the last time, or wants to be left alone until the deadline is over, the new one gets the
    event all the same."""
    gate = asyncio.Event()

    async def slow(got: Got) -> bytes:
        await gate.wait()
        return answer(503, b"", "Retry-After: 3600")

    async with Target(slow) as old, Target() as new, world(public(old.url, **fields)) as w:
        await w.append(b"1")
        await old.until(1)
        await w.change(public(new.url, **fields))
        gate.set()
        await until(lambda: new.bodies == [b"1"])
        await w.idle()
        assert await w.dead() == []
        assert [each.status for each in await w.stored(1)] == ["stalled", "sent"]


@pytest.mark.gen_test
async def test_the_old_destination_opens_no_circuit() -> None:
    """Nor does the log say so of the new one."""
    gate = asyncio.Event()

    async def fails(got: Got) -> bytes:
        if got.body == b"9":
            await gate.wait()
        return answer(500)

    async with Target(fails) as old, Target() as new, world(public(old.url, retries=-1)) as w:
        with capture_logs() as lines:
            await w.append(*(b"%d" % number for number in range(10)))
            await old.until(10)
            await w.change(public(new.url, retries=-1))
            gate.set()
            await w.settled(new, 1)
        assert [line["event"] for line in lines] == []
        assert w.forwarding.circuits_open == 0
