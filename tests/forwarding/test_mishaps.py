"""Forwarding where something fails that has nothing to do with the destination, as for want of memory: it costs time,
and neither an event nor a place."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from relay_tornado.copies import Goes
from relay_tornado.forwarding import attempt, forwarder, lanes
from relay_tornado.model import Retention
from tests.failing import once
from tests.forwarding.target import Got, Target, answer
from tests.forwarding.world import B, public, world
from tests.waiting import until


@pytest.mark.parametrize(
    ("place", "name"), [(Goes, "there"), (lanes, "Lane"), (forwarder.Forwarder, "_work"), (attempt, "encode")]
)
@pytest.mark.gen_test
async def test_no_memory_for_a_moment(place: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever on its way to its request: the event is sent a second later, before those behind it."""
    async with Target() as target, world(public(target.url)) as w:
        monkeypatch.setattr(place, name, once(getattr(place, name)))
        await w.append(b"1", b"2")
        await w.idle()
        assert target.bodies == []
        await w.turn(1.1)
        await w.settled(target, 2)
        assert target.bodies == [b"1", b"2"]
        assert await w.dead() == []
        assert w.forwarder().ledger.progress.floor == 2


@pytest.mark.parametrize("name", ["_bury", "_disable"])
@pytest.mark.gen_test
async def test_no_memory_to_say_that_a_destination_is_gone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked once more, and the output is disabled then."""
    async with Target(lambda got: answer(410)) as target, world(public(target.url)) as w:
        monkeypatch.setattr(forwarder.Forwarder, name, once(getattr(forwarder.Forwarder, name)))
        await w.append(b"1", b"2")
        await w.settled(target, 1)
        assert w.disabled == []
        await w.turn(1.1)
        await w.settled(target, 2)
        assert w.disabled == ["410 Gone"]
        assert target.bodies == ([b"1", b"1"] if name == "_bury" else [b"1", b"2"])


@pytest.mark.gen_test
async def test_one_finds_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the circuit is open there is one try at a time, also behind an event that can't be sent at all."""
    gate, stored = asyncio.Event(), asyncio.Event()

    async def answers(got: Got) -> bytes:
        if got.body == b"bad":
            return answer(500)
        await gate.wait()
        return answer()

    throttle = {"enabled": True, "mode": "concurrency", "max_concurrent": 3}
    async with Target(answers) as target, world(public(target.url, retries=-1, throttle=throttle)) as w:
        await w.append(*[b"bad"] * 10)
        await w.settled(target, 10)
        assert w.forwarding.circuits_open == 1
        record = w.results.record

        async def slow(*args: Any) -> bool:
            await stored.wait()
            return await record(*args)

        monkeypatch.setattr(w.results, "record", slow)
        await w.append(b"strange", method="CONNECT")
        await w.append(b"1", b"2", b"3")
        await w.turn(15.1)
        await target.until(11)
        stored.set()
        await until(lambda: len(w.forwarder()._tasks) == 1)
        await w.turn(0)
        assert (w.forwarder().trying, target.busy) == (1, 1)
        gate.set()
        await w.settled(target, 13)
        assert target.bodies[10:] == [b"1", b"2", b"3"]


@pytest.mark.gen_test
async def test_what_retention_overtook_leaves_nothing() -> None:
    """Of an event that was taken and had left by then the state keeps nothing, however often that happens."""
    async with Target() as target, world(public(target.url, paused=True)) as w:
        await w.append(b"1", b"2", b"3")
        await w.log.trim(B, Retention(None, 1, None), None)
        await w.change(public(target.url))
        await w.settled(target, 1)
        progress = w.forwarder().ledger.progress
        assert (target.bodies, progress.floor, progress.out, progress._gone) == ([b"3"], 3, 0, {})
