"""relay_tornado/forwarding/disabling.py: an output whose destination is gone sends nothing until it is disabled."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from structlog.testing import capture_logs

from relay_tornado.errors import Unavailable
from relay_tornado.forwarding import forwarder
from tests.failing import once
from tests.forwarding.target import Target, answer
from tests.forwarding.world import World, public, world
from tests.waiting import until


@pytest.mark.gen_test
async def test_410_disables() -> None:
    """410 disables the output: nothing more is sent, the event is dead, and the reason stands in the registry. Enabled
    again it goes on where it stopped."""
    async with Target(lambda got: answer(410)) as target, world(public(target.url)) as w:
        await w.append(b"1", b"2")
        await target.until(1)
        await until(lambda: w.disabled)
        await w.idle()
        assert (w.bucket.outputs[0].disabled, w.bucket.outputs[0].disabled_reason) == (True, "410 Gone")
        await w.turn(100)
        await w.idle()
        assert target.bodies == [b"1"]
        assert (await w.dead())[0].reason == "410 Gone"
        assert (await w.stored(1))[0].status == "failed"
        target.answers = lambda got: answer()
        await w.change(replace(w.bucket.outputs[0], disabled=False))
        await target.until(2)
        assert target.bodies == [b"1", b"2"]


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
async def test_an_output_that_can_not_be_disabled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its destination is asked nothing more, also after changes of other outputs, what comes waits, and it is disabled
    as soon as that can be stored."""
    disable, stores = World._disable, False

    async def refused(self: World, *told: Any) -> None:
        if not stores:
            raise Unavailable("no")
        await disable(self, *told)

    monkeypatch.setattr(World, "_disable", refused)
    async with Target(lambda got: answer(410)) as target, world(public(target.url)) as w:
        await w.append(b"1", b"2")
        with capture_logs() as lines:
            await w.settled(target, 1)
            await w.change(public(target.url), public(target.url, 2, disabled=True))
            for _ in range(9):
                await w.turn(11)
                await w.idle()
        assert [line["event"] for line in lines].count("output_not_disabled") == 1
        assert w.forwarder()._timer.at is not None
        assert target.bodies == [b"1"]
        assert [letter.seq for letter in await w.dead()] == [1]
        assert [each.status for each in await w.stored(1)] == ["failed"]
        stores = True
        await w.turn(5)
        await w.idle()
        assert w.disabled == []
        await w.turn(6)
        await w.idle()
        assert w.disabled == ["410 Gone"]
        target.answers = lambda got: answer()
        await w.change(public(target.url))
        await w.settled(target, 2)
        assert target.bodies == [b"1", b"2"]


@pytest.mark.gen_test
async def test_an_output_is_not_disabled_after_a_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though it was about to be."""
    asked = []

    async def refused(self: World, *told: Any) -> None:
        asked.append(told)
        raise Unavailable("no")

    monkeypatch.setattr(World, "_disable", refused)
    async with Target(lambda got: answer(410)) as target, world(public(target.url)) as w:
        await w.append(b"1")
        await w.settled(target, 1)
        w.now += 11
        w.forwarder().poke()
        await w.forwarding.stop()
        for _ in range(3):
            await asyncio.sleep(0)
        assert len(asked) == 1


@pytest.mark.gen_test
async def test_an_output_is_disabled_once_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long that takes."""
    stored, asked = asyncio.Event(), []
    disable = World._disable

    async def slow(self: World, *told: Any) -> None:
        asked.append(told)
        await stored.wait()
        await disable(self, *told)

    monkeypatch.setattr(World, "_disable", slow)
    async with Target(lambda got: answer(410)) as target, world(public(target.url)) as w:
        await w.append(b"1")
        await until(lambda: asked)
        for _ in range(3):
            await w.turn(11)
        stored.set()
        await w.idle()
        assert (len(asked), w.disabled) == (1, ["410 Gone"])


@pytest.mark.gen_test
async def test_a_destination_that_is_gone_is_asked_nothing_while_that_is_stored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where several events may be out at once."""
    stored, calls = asyncio.Event(), []
    throttle = {"enabled": True, "mode": "concurrency", "max_concurrent": 2}
    async with Target(lambda got: answer(410)) as target, world(public(target.url, throttle=throttle)) as w:
        record = w.results.record

        async def slow(*args: Any) -> None:
            calls.append(args)
            await stored.wait()
            await record(*args)

        monkeypatch.setattr(w.results, "record", slow)
        await w.append(b"1")
        await until(lambda: calls)
        await w.append(b"2")
        await w.turn(0)
        assert w.forwarder().in_flight == 1
        stored.set()
        await w.idle()
        assert (w.disabled, target.bodies) == (["410 Gone"], [b"1"])


@pytest.mark.gen_test
async def test_a_new_destination_while_an_output_is_being_disabled(monkeypatch: pytest.MonkeyPatch) -> None:
    """It stays enabled, and the log does not say otherwise."""

    async def moved(self: World, *told: Any) -> None:
        await self.change(public(other.url))

    monkeypatch.setattr(World, "_disable", moved)
    async with Target(lambda got: answer(410)) as target, Target() as other, world(public(target.url)) as w:
        with capture_logs() as lines:
            await w.append(b"1", b"2")
            await w.settled(other, 1)
        assert [line["event"] for line in lines if line["event"].startswith("output_")] == []
        assert other.bodies == [b"2"]


@pytest.mark.gen_test
async def test_a_new_destination_is_not_disabled_where_the_old_one_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """It gets what comes next, though the old one's 410 is stored after the change."""
    async with Target(lambda got: answer(410)) as target, Target() as other, world(public(target.url)) as w:
        record = w.results.record

        async def moved(*args: Any) -> None:
            if w.bucket.outputs[0].destination == target.url:
                await w.change(public(other.url))
            await record(*args)

        monkeypatch.setattr(w.results, "record", moved)
        await w.append(b"1", b"2")
        await w.settled(other, 1)
        assert (w.disabled, other.bodies) == ([], [b"2"])


@pytest.mark.gen_test
async def test_a_change_of_an_output_that_could_not_be_disabled(monkeypatch: pytest.MonkeyPatch) -> None:
    """It sends again, and stays enabled."""

    async def refused(self: World, *told: Any) -> None:
        raise Unavailable("no")

    disable = World._disable
    monkeypatch.setattr(World, "_disable", refused)
    async with Target(lambda got: answer(410)) as target, world(public(target.url)) as w:
        await w.append(b"1", b"2")
        await w.settled(target, 1)
        monkeypatch.setattr(World, "_disable", disable)
        target.answers = lambda got: answer()
        await w.change(public(target.url, timeout=5))
        await w.settled(target, 2)
        await w.turn(100)
        await w.idle()
        assert (w.disabled, target.bodies) == ([], [b"1", b"2"])
