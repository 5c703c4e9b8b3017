"""Forwarding where something fails that has nothing to do with the destination, as for want of memory: it costs time,
and neither an event nor a place."""

from __future__ import annotations

import asyncio
import errno
import socket
from dataclasses import replace
from typing import Any, ClassVar, NoReturn

import pytest
from structlog.testing import capture_logs

from relay_tornado.copies import Goes
from relay_tornado.errors import NO_THREAD, BucketGone, NoSpace, Unavailable
from relay_tornado.forwarding import attempt, forwarder, permits
from relay_tornado.forwarding.reading import Reading
from relay_tornado.model import Retention
from relay_tornado.outgoing import transport
from tests.failing import once
from tests.forwarding.target import Got, Target, answer, once_open
from tests.forwarding.world import B, public, without_room, world
from tests.waiting import until

RULES = {"match": {"type": "value", "parameter": {"source": "header", "name": "X-Kind"}, "value": "order"}}


@pytest.mark.parametrize(
    ("place", "name"), [(Goes, "there"), (permits, "Permit"), (forwarder.Forwarder, "_work"), (attempt, "encode")]
)
@pytest.mark.gen_test
async def test_no_memory_for_a_moment(place: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever on its way to its request: the event is sent a second later, before those behind it. It has taken none
    of the requests that a throttle allows."""
    throttle = {"enabled": True, "rate": 2}
    async with Target() as target, world(public(target.url, throttle=throttle)) as w:
        monkeypatch.setattr(place, name, once(getattr(place, name)))
        await w.append(b"1", b"2")
        await w.idle()
        assert target.bodies == []
        assert w.forwarder()._timer.at is not None
        await w.turn(1.1)
        await w.settled(target, 2)
        assert target.bodies == [b"1", b"2"]
        assert await w.dead() == []
        assert w.forwarder().ledger.progress.floor == 2


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
        assert (w.forwarder().in_flight, target.busy) == (1, 1)
        gate.set()
        await w.settled(target, 13)
        assert target.bodies[10:] == [b"1", b"2", b"3"]


@pytest.mark.gen_test
async def test_an_event_that_can_not_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read again each second, which is logged once a minute, and sent before those behind it."""
    async with Target() as target, world(public(target.url)) as w:
        peek, reads = w.log.peek, []

        async def read(*asked: Any) -> Any:
            reads.append(asked)
            if len(reads) <= 3:
                raise Unavailable("no")
            return peek(*asked)

        monkeypatch.setattr(w.log, "peek", lambda *asked: [])
        monkeypatch.setattr(w.log, "read", read)
        await w.append(b"1", b"2")
        with capture_logs() as logs:
            await w.idle()
            for count in (1, 2, 3):
                assert (target.bodies, len(reads)) == ([], count)
                await w.turn(1.1)
                await w.idle()
        assert [each["event"] for each in logs] == ["event_not_read"]
        await w.settled(target, 2)
        assert target.bodies == [b"1", b"2"]


@pytest.mark.gen_test
async def test_results_that_can_not_be_stored_are_logged_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a full disk, where a line for each event would take what is left; another reason is said at once, and the
    first one no sooner if it comes in turn with that."""
    reasons = ["full"] * 3 + ["broken"] + ["full"] * 2

    async def fails(*args: Any) -> None:
        raise NoSpace(reasons.pop(0))

    async with Target() as target, world(public(target.url)) as w:
        monkeypatch.setattr(w.results, "record", fails)
        with capture_logs() as logs:
            for number in range(5):
                await w.append(b"%d" % number)
                await w.settled(target, number + 1)
            await w.turn(61)
            await w.append(b"5")
            await w.settled(target, 6)
    assert [each["reason"] for each in logs if each["event"] == "result_not_stored"] == [
        "full",
        "broken",
        "full",
    ]


@pytest.mark.gen_test
async def test_an_event_whose_result_can_not_be_stored_is_not_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has reached its destination all the same."""

    async def broken(*args: Any) -> None:
        raise RuntimeError("a test says so")

    async with Target() as target, world(public(target.url)) as w:
        monkeypatch.setattr(w.results, "record", broken)
        await w.append(b"1", b"2")
        await w.settled(target, 2)
        await w.turn(1.1)
        await w.idle()
        assert (target.bodies, w.forwarder().ledger.progress.floor) == ([b"1", b"2"], 2)


@pytest.mark.parametrize("remembered", [False, True])
@pytest.mark.gen_test
async def test_a_log_that_is_gone_is_read_once(monkeypatch: pytest.MonkeyPatch, remembered: bool) -> None:
    """Nothing is read again until the bucket has gone, too, or its output is changed; whether or not the log says at
    once that it is gone."""
    reads = []

    async def gone(*asked: Any) -> Any:
        reads.append(asked)
        raise BucketGone(B)

    def peek(*asked: Any) -> Any:
        if remembered:
            raise BucketGone(B)
        return []

    async with Target() as target, world(public(target.url)) as w:
        monkeypatch.setattr(w.log, "peek", peek)
        monkeypatch.setattr(w.log, "read", gone)
        await w.append(b"1")
        await w.turn(0)
        await w.idle()
        assert len(reads) == 1
        assert not w.forwarder().active
        monkeypatch.undo()
        await w.change(public(target.url, timeout=5.0))
        await target.until(1)


@pytest.mark.gen_test
async def test_what_is_held_is_no_more() -> None:
    """Whether retention took the event that later ones waited for, or somebody moved the position past it."""
    async with Target(lambda got: answer(500)) as target, world(public(target.url)) as w:
        await w.append(b"1", b"2", b"3")
        await w.settled(target, 1)
        await w.log.trim(B, Retention(None, 1, None), None)
        await w.turn(1.1)
        await w.settled(target, 2)
        assert target.bodies == [b"1", b"3"]
        ledger = w.forwarder().ledger
        ledger.progress.seek(3)
        ledger.save()
        ledger.tell()
        await w.append(b"4")
        await w.settled(target, 3)
        assert target.bodies == [b"1", b"3", b"4"]


@pytest.mark.gen_test
async def test_a_result_from_before_a_seek_lets_nothing_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """An event that was sent again since, and failed, still holds back those behind it."""
    stored, fails = asyncio.Event(), False

    def answers(got: Got) -> bytes:
        return answer(500 if fails else 200)

    async with Target(answers) as target, world(public(target.url)) as w:
        record, calls = w.results.record, []

        async def slow(*args: Any) -> bool:
            calls.append(args)
            if len(calls) == 1:
                await stored.wait()
            return await record(*args)

        monkeypatch.setattr(w.results, "record", slow)
        await w.append(b"1")
        await until(lambda: calls)
        fails = True
        ledger = w.forwarder().ledger
        ledger.progress.seek(0)
        ledger.save()
        ledger.tell()
        await target.until(2)
        await until(lambda: ledger.progress.parked)
        stored.set()
        await w.idle()
        await w.append(b"2")
        await w.idle()
        assert target.bodies == [b"1", b"1"]
        fails = False
        await w.turn(1.1)
        await w.settled(target, 4)
        assert target.bodies == [b"1", b"1", b"1", b"2"]


@pytest.mark.gen_test
async def test_dead_letters_made_are_counted() -> None:
    """Those of retention, too; and none is counted where the position was moved before the event was given up."""
    gate = asyncio.Event()

    async def answers(got: Got) -> bytes:
        if got.body == b"4":
            await gate.wait()
        return answer(500)

    async with Target(answers) as target, world(public(target.url)) as w:
        await w.append(b"1", b"2", b"3")
        await w.settled(target, 1)
        await w.log.trim(B, Retention(None, 1, None), None)
        w.ledgers.trimmed(B, 3)
        await w.idle()
        assert [(letter.seq, letter.reason) for letter in await w.dead()] == [(1, "retention")]
        assert w.counters.forward_given_up == 1
        await w.change(public(target.url, retries=-1))
        await w.turn(1.1)
        await w.settled(target, 3)
        assert w.counters.forward_given_up == len(await w.dead()) == 2
        await w.append(b"4")
        await target.until(4)
        ledger = w.forwarder().ledger
        ledger.progress.seek(4)
        ledger.save()
        ledger.tell()
        gate.set()
        await w.idle()
        assert w.counters.forward_given_up == len(await w.dead()) == 2


@pytest.mark.parametrize("change", [{"paused": True}, {"rules": RULES}])
@pytest.mark.gen_test
async def test_a_change_while_an_event_waits_for_memory(change: dict[str, Any]) -> None:
    """What counts is how the output is once there is room."""
    gate = asyncio.Event()
    async with without_room(gate) as (w, one, other):
        first, second = w.registry.get("bucket", B).outputs
        await w.change(first, replace(second, **change))
        gate.set()
        await w.settled(one, 2)
        await w.idle(2)
        assert other.bodies == []
        await w.change(first, second)
        await w.append(b"last")
        await w.settled(other, 2 if "paused" in change else 1)
        held = one.bodies[1:2] if "paused" in change else []
        assert other.bodies == [*held, b"last"]


@pytest.mark.gen_test
async def test_an_event_that_waits_for_memory_is_not_sent_to_a_destination_that_wants_nothing() -> None:
    """Nor, once the order is strict, beside an earlier one."""
    throttle = {"enabled": True, "mode": "concurrency", "max_concurrent": 3}
    bodies = [each * 100_000 for each in (b"1", b"2", b"3")]
    gate = asyncio.Event()

    async def full(got: Got) -> bytes:
        await gate.wait()
        return answer(503, b"", "Retry-After: 100")

    async with Target(full) as target, world(public(target.url, throttle=throttle), forward_buffer=1) as w:
        await w.append(*bodies)
        await target.until(1)
        gate.set()
        await w.settled(target, 1)
        for _ in range(10):
            await w.turn(1)
        await w.idle()
        assert target.bodies == bodies[:1]
        target.answers = lambda got: answer()
        await w.change(public(target.url, strict_order=True))
        await w.turn(100)
        await w.settled(target, 4)
        assert target.bodies == [bodies[0], *bodies]


@pytest.mark.gen_test
async def test_outputs_that_wait_for_memory_take_turns() -> None:
    """One that sends one large event after the other does not keep the others from it."""
    order: list[int] = []

    def noting(number: int) -> Any:
        def note(got: Got) -> bytes:
            order.append(number)
            return answer()

        return note

    async with (
        Target(noting(1)) as target,
        Target(noting(2)) as other,
        world(public(target.url), public(other.url, 2), forward_buffer=1) as w,
    ):
        await w.append(*[bytes(100_000)] * 5)
        await target.until(5)
        await other.until(5)
    assert order == [1, 2] * 5


@pytest.mark.parametrize(
    "change", [None, {"paused": True}, {"strict_order": True}], ids=["deleted", "paused", "made strict"]
)
@pytest.mark.gen_test
async def test_a_change_while_an_event_is_read(change: dict[str, Any] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """It counts for this event, too."""
    throttle = {"enabled": True, "mode": "concurrency", "max_concurrent": 2}
    async with Target() as target, world(public(target.url, throttle=throttle)) as w:
        read, going, asked = w.log.read, asyncio.Event(), []

        async def slow(bucket_id: str, after: int, *most: Any) -> Any:
            asked.append(after + 1)
            if after == 0:
                await going.wait()
            return await read(bucket_id, after, *most)

        monkeypatch.setattr(Reading, "peek", lambda *_: None)
        monkeypatch.setattr(w.log, "read", slow)
        await w.append(b"1", b"2")
        await until(lambda: target.bodies == [b"2"] and w.forwarder().in_flight == 1)
        sending = w.forwarder()
        await w.change(*[] if change is None else [public(target.url, throttle=throttle, **change)])
        going.set()
        await sending.ended()
        assert target.bodies == ([b"2", b"1"] if change == {"strict_order": True} else [b"2"])
        assert asked == ([1, 2, 1] if change == {"strict_order": True} else [1, 2])


class Body(bytes):
    """One that notes that it was freed."""

    freed: ClassVar[list[int]] = []

    def __del__(self) -> None:
        self.freed.append(len(self))


@pytest.mark.gen_test
async def test_an_event_that_waits_for_memory_takes_none() -> None:
    throttle = {"enabled": True, "mode": "concurrency", "max_concurrent": 2}
    gate = asyncio.Event()
    async with Target(once_open(gate)) as target, world(public(target.url, throttle=throttle), forward_buffer=1) as w:
        await w.append(b"1" * 100_000)
        await target.until(1)
        body = Body(b"2" * 100_000)
        Body.freed.clear()
        await w.append(body)
        del body
        await until(lambda: w.forwarder().in_flight == 2)
        await asyncio.sleep(0)
        await w.log.trim(B, Retention(max_events=0), None)
        assert Body.freed == [100_000]
        gate.set()
        await w.idle()
        assert len(target.bodies) == 1


@pytest.mark.gen_test
async def test_an_event_that_waits_for_memory_is_not_sent_once_it_has_left() -> None:
    """Nothing keeps it for that long, and it is read again before it is sent."""
    gate = asyncio.Event()
    async with without_room(gate) as (w, _, other):
        await w.append(b"last")
        await w.log.trim(B, Retention(max_events=1), None)
        gate.set()
        await w.settled(other, 1)
        await w.idle(2)
        assert other.bodies == [b"last"]


@pytest.mark.gen_test
async def test_an_event_that_waits_for_memory_is_not_sent_after_a_stop() -> None:
    """Also where there is room before the relay has ended."""
    gate = asyncio.Event()
    async with without_room(gate) as (w, one, other):
        await w.forwarding.finish(0)
        gate.set()
        await w.idle(1)
        await w.idle(2)
        assert (len(one.bodies), other.bodies) == (1, [])


@pytest.mark.gen_test
async def test_what_can_not_be_sent_keeps_no_memory() -> None:
    async with Target() as target, world(public(target.url), forward_buffer=1) as w:
        await w.append(b"x" * 100_000, method="CONNECT")
        await w.append(b"y" * 100_000)
        await target.until(1)
        assert target.bodies == [b"y" * 100_000]


def _failing(error: OSError) -> Any:
    async def connect(*_: object) -> NoReturn:
        raise error

    return connect


@pytest.mark.parametrize(
    "lack",
    [
        OSError(errno.EMFILE, "Too many open files"),
        OSError(errno.ENOBUFS, "No buffer space available"),
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(NO_THREAD),
        socket.gaierror(socket.EAI_MEMORY, "Memory allocation failure"),
    ],
    ids=["descriptors", "buffers", "watches", "threads", "memory for a look-up"],
)
@pytest.mark.gen_test
async def test_no_means_to_connect_for_a_while(lack: OSError, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says nothing of the destination: no try is used up, the circuit stays closed, and the log says it once."""
    async with Target() as target, world(public(target.url, retries=-1)) as w:
        with monkeypatch.context() as lacking, capture_logs() as said:
            lacking.setattr(transport, "connect", _failing(lack))
            await w.append(b"1", b"2")
            await w.idle()
            for _ in range(12):
                await w.turn(1.1)
                await w.idle()
        assert [each["event"] for each in said] == ["event_not_sent"]
        assert (w.forwarding.circuits_open, w.forwarder().parked, sum(w.counters.forward_attempts.values())) == (
            0,
            0,
            0,
        )
        await w.turn(1.1)
        await w.settled(target, 2)
        assert target.bodies == [b"1", b"2"]
        assert [each.status for each in await w.stored(1)] == ["sent"]
        assert await w.dead() == []


@pytest.mark.gen_test
async def test_no_means_take_nothing_from_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one request of the hour is made a second later."""
    hourly = {"enabled": True, "mode": "rate", "rate": 1, "interval": "hour"}
    async with Target() as target, world(public(target.url, throttle=hourly)) as w:
        with monkeypatch.context() as lacking:
            lacking.setattr(transport, "connect", _failing(OSError(errno.EMFILE, "Too many open files")))
            await w.append(b"1", b"2")
            await w.idle()
        await w.turn(1.1)
        await w.settled(target, 1)
        await w.turn(1.1)
        await w.idle()
        assert target.bodies == [b"1"]


@pytest.mark.gen_test
async def test_no_means_for_a_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """The circuit stays open, and the next probe comes a second later, not after the circuit's next delay."""
    async with Target(lambda got: answer(500)) as target, world(public(target.url, retries=-1)) as w:
        await w.append(*[b"bad"] * 10)
        await w.settled(target, 10)
        await w.append(b"1")
        target.answers = lambda got: answer()
        # No connection is kept that could be used again.
        await w.forwarding._transport.close()
        with monkeypatch.context() as lacking, capture_logs():
            lacking.setattr(transport, "connect", _failing(OSError(errno.EMFILE, "Too many open files")))
            await w.turn(15.1)
            await w.idle()
        assert w.forwarding.circuits_open == 1
        await w.turn(1.1)
        await w.settled(target, 11)
        assert (target.bodies[10:], w.forwarding.circuits_open) == ([b"1"], 0)
