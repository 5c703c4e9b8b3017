"""Forwarding over ends of the relay, losses and changes: nothing is lost, and tries are counted."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from structlog.testing import capture_logs

from relay_tornado.errors import CursorLost
from relay_tornado.log.consumers import Key, Stored, damaged, output_key
from relay_tornado.model import Event, Gap, Retention
from tests.forwarding.target import Got, Target, answer, once_open
from tests.forwarding.world import B, public, quick_tries, slow_to_read, world
from tests.waiting import until


@pytest.mark.gen_test
async def test_restart_holds_what_was_held() -> None:
    """After a restart an event in its quick tries still keeps later ones waiting, and its tries go on counting."""
    async with Target(lambda got: answer(500)) as target, world(public(target.url)) as w:
        await w.append(b"1", b"2")
        await w.settled(target, 1)
        await w.restart()
        await w.turn(0.5)
        await w.idle()
        assert target.bodies == [b"1"]
        for _ in range(2):
            await w.turn(3.1)
            await w.idle()
        await target.until(4)
        assert target.bodies == [b"1", b"1", b"1", b"2"]
        assert (await w.dead())[0].attempts == 3


@pytest.mark.parametrize(("killed", "retries"), [(False, 0), (True, 1)], ids=["stopped", "killed"])
@pytest.mark.gen_test
async def test_what_was_out_at_an_end_is_sent_again(killed: bool, retries: int) -> None:
    """A request that was out when the process ended comes again: as its second try where it ended with no word."""
    gate = asyncio.Event()
    async with Target(once_open(gate)) as target, world(public(target.url)) as w:
        await w.append(b"1")
        await target.until(1)
        if killed:
            ledger = w.forwarder().ledger
            await w.consumers.saved()
            ledger.gone = True  # nothing that it does from now on is stored
        await w.restart()
        await target.until(2)
        gate.set()
        await w.idle()
        assert target.bodies == [b"1", b"1"]
        assert [each.retries for each in await w.stored(1)] == [retries]


@pytest.mark.gen_test
async def test_a_position_that_can_not_be_opened_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The start waits for one try of each output, and the others are open then; it is tried again until it works."""
    monkeypatch.setattr("relay_tornado.forwarding.forwarding._PATIENCE", 3600.0)
    async with Target() as target, world(*(public(target.url, n) for n in (1, 2, 3))) as w:
        get, broken, tries = w.consumers.get, {"1", "2"}, []

        async def refused(key: Key) -> Stored | None:
            if key.kind == "output" and key.name in broken:
                tries.append(key.name)
                raise damaged(key, "a test says so")
            return await get(key)

        monkeypatch.setattr(w.consumers, "get", refused)
        with capture_logs() as lines:
            await w.restart()
            assert list(w.forwarding._forwarders[B]) == [3]
            await until(lambda: tries.count("1") > 2 and tries.count("2") > 2)
        assert lines == []  # damage is logged where it is found
        broken.clear()
        await until(lambda: len(w.forwarding._forwarders[B]) == 3)
        await w.append(b"1")
        await target.until(3)


@pytest.mark.gen_test
async def test_an_import_that_begins_later() -> None:
    """What an empty log takes over is sent from its first event on; what it never held is neither a gap nor dead."""
    events = [Event(seq, "zzzzzzzzzzzz", 1000.0, "in-1", "POST", b"", b"", b"", b"%d" % seq, "::1") for seq in (41, 42)]
    async with Target() as target, world(public(target.url)) as w:
        await w.log.import_events(B, events, {})
        await w.settled(target, 2)
        await w.consumers.saved()
        assert target.bodies == [b"41", b"42"]
        stored = await w.consumers.get(output_key(B, 1))
        assert stored is not None
        assert (stored.floor, stored.gaps, stored.dead) == (42, None, 0)


@pytest.mark.gen_test
async def test_drain() -> None:
    """What is out at a stop has the time that it is given to end, and is not sent again."""
    gate = asyncio.Event()
    async with Target(once_open(gate)) as target, world(public(target.url)) as w:
        await w.append(b"1", b"2")
        await target.until(1)
        finishing = asyncio.create_task(w.forwarding.finish(20))
        await w.turn(0)
        assert not finishing.done()
        gate.set()
        await finishing
        await w.idle()
        assert target.bodies == [b"1"]
        await w.restart()
        await target.until(2)
        assert target.bodies == [b"1", b"2"]


@pytest.mark.gen_test
async def test_an_output_that_is_made_during_a_drain_sends_nothing() -> None:
    """Its position begins there, and what came then is sent after the next start."""
    gate = asyncio.Event()
    async with Target(once_open(gate)) as target, Target() as other, world(public(target.url)) as w:
        await w.append(b"1")
        await target.until(1)
        finishing = asyncio.create_task(w.forwarding.finish(20))
        await asyncio.sleep(0)
        await w.change(public(target.url), public(other.url, 2))
        await until(lambda: 2 in w.forwarding._forwarders[B])
        await w.append(b"2")
        await w.turn(0)
        assert w.forwarder(2).in_flight == 0
        gate.set()
        await finishing
        await w.restart()
        await other.until(1)
        assert other.bodies == [b"2"]


@pytest.mark.gen_test
async def test_a_drain_waits_for_the_request_of_an_output_that_left() -> None:
    """And no longer than it is told."""
    gate = asyncio.Event()
    async with Target(once_open(gate)) as target, world(public(target.url)) as w:
        await w.append(b"1")
        await target.until(1)
        await w.change()
        await until(lambda: not w.forwarding._forwarders)
        await w.forwarding.finish(0.01)
        assert w.forwarding._leaving
        finishing = asyncio.create_task(w.forwarding.finish(60))
        await w.turn(0)
        assert not finishing.done()
        gate.set()
        await finishing


@pytest.mark.gen_test
async def test_a_stop_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a request, whose event counts as not sent, nor a connection that waits for one."""
    monkeypatch.setattr("relay_tornado.outgoing.transport._IDLE", 3600.0)
    gate = asyncio.Event()

    async def answers(got: Got) -> bytes:
        if got.body != b"1":
            await gate.wait()
        return answer()

    throttle = {"enabled": True, "mode": "concurrency", "max_concurrent": 3}
    async with Target(answers) as target, world(public(target.url, throttle=throttle)) as w:
        await w.append(b"1", b"2", b"3")
        await target.until(3)
        await until(lambda: w.forwarding.in_flight == 2)
        forwarder = w.forwarder()
        await w.forwarding.stop()
        assert forwarder.in_flight == 0
        assert forwarder.ledger.progress.out == 0
        gate.set()
        await until(lambda: not target._tasks)


@pytest.mark.gen_test
async def test_a_stop_ends_what_opens_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is sent after it, though the position can be read then."""
    async with Target() as target, world() as w:
        asked, going = slow_to_read(monkeypatch, w)
        await w.change(public(target.url))
        await asked.wait()
        await w.forwarding.stop()
        going.set()
        await w.append(b"1")
        for _ in range(9):
            await asyncio.sleep(0)
        assert not w.forwarding._forwarders


@pytest.mark.gen_test
async def test_durability() -> None:
    """By its schedule until its deadline, which counts from when the event came in."""
    second = 10**9
    durability = {
        "enabled": True,
        "schedule": "custom",
        "custom_delays": [7 * second, 11 * second],
        "deadline": 60 * second,
    }
    async with Target(lambda got: answer(500)) as target:
        output = public(target.url, retries=-1, durability=durability)
        async with world(output) as w:
            await w.append(b"1")
            begun = w.now
            times = []
            for count in range(1, 7):
                await until(lambda count=count: len(target.got) == count)
                await w.idle()
                times.append(w.now - begun)
                due = w.forwarder().ledger.progress.due()
                if due is None:
                    break
                await w.turn(due - w.now)
            assert times == [0, 7, 18, 29, 40, 51]
            assert (await w.dead())[0].reason == "deadline: 500"


@pytest.mark.gen_test
async def test_changes_at_any_moment() -> None:
    """An output is made, moved, made internal and deleted, and its bucket deleted, while events come."""
    async with Target() as one, Target() as two, world() as w:
        await w.append(b"before")
        await w.change(public(one.url))
        await w.append(b"1")
        await one.until(1)
        assert one.bodies == [b"1"], "it begins at the head"
        await w.change(public(two.url))
        await w.append(b"2")
        await two.until(1)
        await w.change(replace(public(two.url), internal=True))
        await until(lambda: B not in w.forwarding._forwarders)
        await w.append(b"3")
        await w.change(public(two.url))
        await w.append(b"4")
        await two.until(2)
        assert two.bodies == [b"2", b"4"], "public again, it begins at the head again"
        await w.change()
        await until(lambda: B not in w.forwarding._forwarders)
        await until(lambda: not w.forwarding._dirty and w.forwarding._worker is None)
        assert await w.consumers.list() == []
        await w.change(public(two.url))
        await until(lambda: B in w.forwarding._forwarders)
        await w.registry.delete("bucket", B)
        await w.log.drop(B)
        w.ledgers.forget(B)
        await until(lambda: B not in w.forwarding._forwarders)


@pytest.mark.gen_test
async def test_deleted_while_a_request_is_out() -> None:
    """The request goes on to its end, nothing is stored of it, and nothing is left behind."""
    gate = asyncio.Event()
    async with Target(once_open(gate)) as target, world(public(target.url)) as w:
        await w.append(b"1")
        await target.until(1)
        await w.registry.delete("bucket", B)
        await w.log.drop(B)
        w.ledgers.forget(B)
        await until(lambda: B not in w.forwarding._forwarders)
        gate.set()
        await until(lambda: not w.forwarding._leaving)


@pytest.mark.gen_test
async def test_retention_overtakes() -> None:
    """What left the log is passed over, and nothing is remembered of it; what is still there is sent."""
    async with Target() as target, world(public(target.url, paused=True)) as w:
        await w.append(b"1", b"2", b"3")
        await w.log.trim(B, Retention(max_events=1), None)
        await w.change(public(target.url))
        await w.settled(target, 1)
        progress = w.forwarder().ledger.progress
        assert (target.bodies, progress.floor, progress.out, progress._gone) == ([b"3"], 3, 0, {})


@pytest.mark.parametrize(("told", "reason"), [("retention", "reset"), ("ephemeral", "ephemeral")])
@pytest.mark.gen_test
async def test_what_can_not_be_read_says_nothing_of_what_can(told: Any, reason: str) -> None:
    """Damage, or content that was never stored, is one gap; an event before it that waits for its next try has it."""
    bad = True

    def answers(got: Got) -> bytes:
        return answer(503) if got.body == b"1" and bad else answer()

    async with Target(answers) as target, world(public(target.url, retries=2)) as w:
        await quick_tries(w, target)
        whole = w.log.peek

        def damaged(bucket_id: str, after: int, limit: int, max_bytes: int) -> Any:
            if 2 <= after + 1 <= 3:
                raise CursorLost(4, told)
            return whole(bucket_id, after, limit, max_bytes)

        w.log.peek = damaged  # type: ignore[method-assign]
        await w.append(b"2", b"3", b"4")
        await w.settled(target, 4)
        assert target.bodies[-1] == b"4"
        assert w.forwarder().parked == 1
        gap = w.forwarder().ledger.gap
        assert gap == Gap(reason, 2, 3)  # type: ignore[arg-type]
        bad = False
        await w.turn(11.0)
        await w.settled(target, 5)
        assert target.bodies[-1] == b"1"
        assert await w.dead() == []
        assert w.forwarder().ledger.progress.floor == 4
        assert sum(w.ledgers.counters.gaps.values()) == 1


@pytest.mark.parametrize(("told", "reason"), [("retention", "damaged"), ("ephemeral", "ephemeral")])
@pytest.mark.gen_test
async def test_what_can_not_be_read_at_its_next_try_is_given_up(told: Any, reason: str) -> None:
    """It was tried, so it is a dead letter, and its log says so; it is no gap, and those behind it are sent."""

    def answers(got: Got) -> bytes:
        return answer(503) if got.body == b"1" else answer()

    async with Target(answers) as target, world(public(target.url, retries=2)) as w:
        await quick_tries(w, target)
        whole = w.log.peek

        def gone(bucket_id: str, after: int, limit: int, max_bytes: int) -> Any:
            if after == 0:
                raise CursorLost(2, told)
            return whole(bucket_id, after, limit, max_bytes)

        w.log.peek = gone  # type: ignore[method-assign]
        await w.append(b"2")
        await w.settled(target, 4)
        await w.turn(11.0)
        await w.idle()
        assert target.bodies == [b"1", b"1", b"1", b"2"]
        assert [(each.seq, each.attempts, each.reason) for each in await w.dead()] == [(1, 3, reason)]
        assert [each.status for each in await w.stored(1)] == ["stalled"] * 3 + ["failed"]
        assert w.forwarder().ledger.gap is None
        assert w.forwarder().ledger.progress.floor == 2
