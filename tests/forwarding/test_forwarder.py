"""relay_tornado/forwarding/forwarder.py: nothing is lost, order and tries are kept, whatever a destination does."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from typing import Any

import pytest

from relay_tornado.forwarding import forwarder
from relay_tornado.forwarding.request import encode
from relay_tornado.log.consumers import Key, output_key
from relay_tornado.model import Appended, Event
from relay_tornado.signatures import Verifier
from relay_tornado.wire.answers import Answer
from tests.failing import lose_timers
from tests.forwarding.target import Got, Target, answer, once_open
from tests.forwarding.world import B, public, world
from tests.waiting import until


@pytest.mark.gen_test
async def test_what_a_forwarder_waits_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """New events go out, and what failed goes out again, also where there was no memory to set a timer."""
    async with (
        Target(lambda got: answer(503 if len(target.got) == 1 else 200)) as target,
        world(public(target.url)) as w,
    ):
        lose_timers(monkeypatch)
        await w.append(b"1")
        await until(lambda: w.forwarder()._timer.at is not None)
        w.now += 2
        await target.until(2)
        await w.append(b"2")
        await target.until(3)
        assert target.bodies == [b"1", b"1", b"2"]


@pytest.mark.gen_test
async def test_an_event_arrives_as_it_came() -> None:
    """Method, path, query, headers (repeats and order, too) and body are the sender's; the result is stored."""
    async with Target(lambda got: answer(201, b"made", "X-Kind: a", "X-Kind: b")) as target:
        output = public(f"{target.url}/hook?key=1", headers={"X-Own": ["1", "2"], "x-over": ["mine"]})
        async with world(output) as w:
            await w.append(
                b"\x00\xffbody",
                method="pUrGe",
                path=b"/a%2Fb/caf\xc3\xa9/\xff",
                query=b"x=1&x=%20?a#b",
                headers=b"Host: relay\r\nx-B: 1\r\nX-A: \xe9\r\nX-Over: theirs\r\nx-B: 2\r\n"
                b"Connection: close, X-Hop\r\n"
                b"X-Hop: 1\r\nTE: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n",
            )
            await w.settled(target, 1)
            got = target.got[0]
            assert (got.method, got.body) == ("pUrGe", b"\x00\xffbody")
            assert got.target == b"/hook/a%2Fb/caf\xc3\xa9/\xff?key=1&x=1&x=%20?a#b"
            assert got.lines == [
                b"Host: " + target.url.removeprefix("http://").encode(),
                b"x-B: 1",
                b"X-A: \xe9",
                b"x-B: 2",
                b"X-Own: 1",
                b"X-Own: 2",
                b"x-over: mine",
                b"Content-Length: 6",
            ]
            result = (await w.stored(1))[0]
            assert (result.status, result.status_code, result.body, result.retries) == ("sent", 201, b"made", 0)
            assert result.headers["X-Kind"] == ["a", "b"]
            assert w.forwarder().ledger.progress.floor == 1


@pytest.mark.gen_test
async def test_order() -> None:
    """One after the other, in order, on one connection; caught up, it has no task."""
    async with Target() as target, world(public(target.url)) as w:
        bodies = [b"%d" % number for number in range(200)]
        await w.append(*bodies)
        await w.settled(target, 200)
        assert target.bodies == bodies
        assert target.most_busy == target.connections == 1
        assert not [task for task in asyncio.all_tasks() if "_work" in repr(task.get_coro())]


@pytest.mark.gen_test
async def test_slow_beside_fast() -> None:
    """A destination that answers nothing delays no other one, however many of them there are."""
    gate = asyncio.Event()

    async def never(got: Got) -> bytes:
        await gate.wait()
        return answer()

    async with Target(never) as slow, Target() as fast:
        outputs = [public(slow.url, n) for n in range(2, 30)]
        async with world(public(fast.url), *outputs, forward_requests=1, forward_buffer=1) as w:
            bodies = [b"x" * 100_000, *(b"%d" % number for number in range(100))]
            await w.append(*bodies[1:], bodies[0])
            await fast.until(100)
            assert fast.bodies[:100] == bodies[1:]
            assert slow.most_busy == 28
            gate.set()
            await fast.until(101)


@pytest.mark.gen_test
async def test_concurrency_is_bounded() -> None:
    """A throttle of 5 at once: never more, and all arrive; over all outputs only so many more than one each."""

    async def answers(got: Got) -> bytes:
        await asyncio.sleep(0.005)
        return answer()

    throttle = {"enabled": True, "mode": "concurrency", "max_concurrent": 5}
    async with Target(answers) as target, Target(answers) as other:
        async with world(public(target.url, throttle=throttle), public(other.url, 2, throttle=throttle)) as w:
            await w.append(*(b"%d" % number for number in range(60)))
            await target.until(60)
            await other.until(60)
            await w.idle(1)
            await w.idle(2)
            assert target.most_busy == other.most_busy == 5
            assert sorted(target.bodies, key=int) == [b"%d" % number for number in range(60)]
        async with world(
            public(target.url, throttle=throttle), public(other.url, 2, throttle=throttle), forward_requests=2
        ) as w:
            target.most_busy = other.most_busy = 0
            await w.append(*(b"%d" % number for number in range(30)))
            await target.until(90)
            await other.until(90)
            assert target.most_busy + other.most_busy <= 6


@pytest.mark.gen_test
async def test_rate() -> None:
    """A throttle of 2 a second: as the clock goes on, so many go out, and never more in any second."""
    throttle = {"enabled": True, "mode": "rate", "rate": 2, "interval": "second"}
    async with Target() as target, world(public(target.url, throttle=throttle)) as w:
        await w.append(*(b"%d" % number for number in range(6)))
        await w.settled(target, 2)
        assert len(target.got) == 2
        for count in (2, 4, 4, 6):
            await w.turn(0.51)
            await w.settled(target, count)
            assert len(target.got) == count


@pytest.mark.gen_test
async def test_what_cannot_be_sent_stops_nobody() -> None:
    """Events whose paths climb out, whoever sends them: each is a dead letter at once, without a try; the throttle, the
    circuit and the events behind them don't notice."""
    throttle = {"enabled": True, "mode": "rate", "rate": 1, "interval": "hour", "deadline": 10**9}
    for fields in ({"retries": -1}, {"retries": 3}, {"strict_order": True}, {"throttle": throttle}):
        async with Target() as target, world(public(f"{target.url}/in", **fields)) as w:
            for _ in range(30):
                await w.append(b"evil", path=b"/../x")
            await w.append(b"good")
            await w.settled(target, 1)
            assert [got.target for got in target.got] == [b"/in"]
            letters = await w.dead()
            assert [letter.seq for letter in letters] == list(range(1, 31))
            assert {letter.attempts for letter in letters} == {0}
            assert {letter.reason for letter in letters} == {
                "invalid: the event's path climbs out of the destination's by '..'"
            }
            result = (await w.stored(1))[0]
            assert (result.status, result.retries) == ("failed", 0)
            assert result.body == b"Not sent: the event's path climbs out of the destination's by '..'."
            assert w.forwarding.circuits_open == 0
            assert w.counters.forward_attempts["invalid"] == w.counters.forward_given_up == 30
            assert w.counters.forward_attempts["refused"] == 0
            assert sum(w.counters.forward_seconds.counts) == 1


@pytest.mark.gen_test
async def test_what_cannot_be_sent_probes_nothing() -> None:
    """While the circuit is open, the try that finds out whether the destination is back is one that can be made."""
    async with Target(lambda got: answer(500)) as target, world(public(target.url, retries=-1)) as w:
        await w.append(*(b"%d" % number for number in range(10)))
        await w.settled(target, 10)
        for _ in range(30):
            await w.append(b"evil", method="CONNECT")
        await w.append(b"good")
        await w.turn(14)
        assert w.forwarding.circuits_open == 1
        target.answers = lambda got: answer()
        await w.turn(1.1)
        await w.settled(target, 11)
        assert target.bodies[10:] == [b"good"]
        assert w.forwarding.circuits_open == 0
        assert len(await w.dead()) == 40


@pytest.mark.gen_test
async def test_when_an_open_circuit_is_tried_again() -> None:
    """At a time, which is passed while nothing is there to be sent, or in flight. A closed one has none, and neither
    have other consumers."""
    gate = asyncio.Event()
    async with Target(lambda got: answer(500)) as target, world(public(target.url, retries=-1)) as w:
        key = output_key(B, 1)
        await w.append(*(b"%d" % number for number in range(9)))
        await w.settled(target, 9)
        assert w.forwarding.next_probe(key) is None
        await w.append(b"9")
        await w.settled(target, 10)
        assert w.forwarding.next_probe(key) == w.day() + 15
        assert w.forwarding.next_probe(output_key(B, 2)) is None
        assert w.forwarding.next_probe(Key(B, "client", "shop")) is None
        await w.turn(20)
        assert w.forwarding.next_probe(key) == w.day()
        target.answers = once_open(gate)
        await w.append(b"10")
        await target.until(11)
        assert w.forwarding.next_probe(key) == math.inf
        gate.set()
        await w.idle()
        assert w.forwarding.next_probe(key) is None


@pytest.mark.gen_test
async def test_what_fails_inside_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """An event that the relay itself fails on is given up without a try, and its reason says where to look."""

    def broken(event: Event, *more: Any) -> Any:
        if event.body == b"odd":
            raise RuntimeError("odd")
        return encode(event, *more)

    monkeypatch.setattr("relay_tornado.forwarding.attempt.encode", broken)

    async with Target() as target, world(public(target.url)) as w:
        await w.append(b"odd", b"good")
        await w.settled(target, 1)
        assert target.bodies == [b"good"]
        assert [letter.reason for letter in await w.dead()] == ["invalid: the relay failed on it, see its log"]
        assert w.counters.forward_attempts["invalid"] == 1


@pytest.mark.gen_test
async def test_the_reason_of_a_dead_letter_is_short() -> None:
    """However long the destination is that it quotes."""
    async with world(public(f"http://{'x' * 1000}/")) as w:
        await w.append(b"1")
        await w.idle()
        (letter,) = await w.dead()
        assert letter.reason.startswith("invalid: destination: 'xxx")
        assert len(letter.reason) == 200


@pytest.mark.parametrize("method", ["POST", "NO METHOD"])
@pytest.mark.parametrize(("strict", "stored_at_once", "in_flight"), [(False, 4, 0), (True, 1, 1)])
@pytest.mark.gen_test
async def test_the_next_event_waits_while_many_results_are_stored(
    strict: bool, stored_at_once: int, in_flight: int, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With strict_order it waits, as the one before would be sent again after a crash; else it waits if many results
    do. So it is with events of which no request can be made."""
    monkeypatch.setattr(forwarder, "_RECORDS", 3)
    go, calls = asyncio.Event(), []
    async with Target() as target, world(public(target.url, strict_order=strict)) as w:
        record = w.results.record

        async def slow(*args: Any) -> bool:
            calls.append(args)
            await go.wait()
            return await record(*args)

        monkeypatch.setattr(w.results, "record", slow)
        await w.append(*(b"%d" % number for number in range(9)), method=method)
        await until(lambda: len(calls) == stored_at_once)
        await w.turn(0)
        assert (len(w.forwarder()._tasks), w.forwarder().in_flight) == (stored_at_once, in_flight)
        assert w.forwarder().ledger.progress.floor == 0
        go.set()
        await until(lambda: w.forwarder().ledger.progress.floor == 9)


@pytest.mark.gen_test
async def test_rules_that_pass_many_over_stop_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many: the output goes on behind them by itself."""
    monkeypatch.setattr(forwarder, "_TURNS", 10)
    rules = {"match": {"type": "value", "parameter": {"source": "payload"}, "value": "last"}}
    async with Target() as target, world(public(target.url, rules=rules, paused=True)) as w:
        await w.append(*[b"other"] * 35, b"last")
        await w.change(public(target.url, rules=rules))
        await w.settled(target, 1)
        assert target.bodies == [b"last"]
        assert w.forwarder().ledger.progress.floor == 36


@pytest.mark.gen_test
async def test_rules_targets_and_force() -> None:
    """Only what rules let through, what goes to no other output alone, and what is forced past the rules."""
    rules = {"match": {"type": "value", "parameter": {"source": "header", "name": "X-Kind"}, "value": "order"}}
    async with Target() as target, world(public(target.url, rules=rules), public(target.url + "/2", 2)) as w:
        await w.append(b"1", headers=b"X-Kind: order\r\n")
        await w.append(b"2", headers=b"X-Kind: other\r\n")
        await w.append(b"3", headers=b"X-Kind: order\r\n", target=2)
        await w.append(b"4", target=1, force=True)
        await w.settled(target, 5)
        first = [got.body for got in target.got if got.target == b"/"]
        assert first == [b"1", b"4"]
        assert [got.body for got in target.got if got.target == b"/2"] == [b"1", b"2", b"3"]
        assert w.forwarder().ledger.progress.floor == 4
        assert w.forwarding.reaches(B, (await w.log.read(B, 0, 1, 99))[0], 1)
        assert not w.forwarding.reaches(B, (await w.log.read(B, 1, 1, 99))[0], 1)


@pytest.mark.gen_test
async def test_paused_and_resumed() -> None:
    """Nothing is forwarded while it is paused; its position stays, also over a restart."""
    async with Target() as target, world(public(target.url)) as w:
        await w.change(public(target.url, paused=True))
        await w.append(b"1", b"2")
        await w.restart()
        await w.idle()
        assert target.got == []
        await w.change(public(target.url))
        await target.until(2)
        assert target.bodies == [b"1", b"2"]


@pytest.mark.gen_test
async def test_signed() -> None:
    """Signed by Standard Webhooks; the id is the copy's and the same over retries, and a sender's own are replaced."""
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    answers = iter([answer(500), answer()])
    async with Target(lambda got: next(answers)) as target, world(public(target.url, secret=secret)) as w:
        await w.append(b'{"a":1}', headers=b"Webhook-Id: theirs\r\nwebhook-signature: v1,x\r\n")
        await w.settled(target, 1)
        await w.turn(2)
        await target.until(2)
        epoch = (await w.log.bounds(B)).epochs[0].epoch
        assert [got.header("webhook-id") for got in target.got] == [f"{epoch}-1-1"] * 2
        times = [int(got.header("webhook-timestamp") or 0) for got in target.got]
        assert times[1] - times[0] == 2
        for got, time in zip(target.got, times, strict=True):
            block = b"".join(line + b"\r\n" for line in got.lines)
            assert sum(line.lower().startswith(b"webhook-") for line in got.lines) == 3
            assert Verifier("standard-webhooks", [secret]).verify(block, got.body, time).verified


@pytest.mark.gen_test
async def test_seek_and_send_again() -> None:
    """An administrator's seek and replay reach the output at once; what was out before counts no more."""
    async with Target() as target, world(public(target.url)) as w:
        await w.append(b"1", b"2", b"3")
        await w.settled(target, 3)
        ledger = w.forwarder().ledger
        ledger.progress.schedule({2: w.now}, w.now)
        ledger.save()
        ledger.tell()
        await w.settled(target, 4)
        assert target.bodies[3] == b"2"
        ledger.progress.seek(1)
        ledger.save()
        ledger.tell()
        await target.until(6)
        assert target.bodies[4:] == [b"2", b"3"]


@pytest.mark.gen_test
@pytest.mark.parametrize("strict", [False, True])
async def test_a_failure_from_before_a_seek_holds_nothing_back(strict: bool) -> None:
    """If the position was moved past an event during its request, later events do not wait for it."""
    gate = asyncio.Event()

    async def answers(got: Got) -> bytes:
        if got.body == b"1":
            await gate.wait()
            return answer(500)
        return answer()

    async with Target(answers) as target, world(public(target.url, strict_order=strict)) as w:
        await w.append(b"1")
        await target.until(1)
        ledger = w.forwarder().ledger
        ledger.progress.seek(1)
        ledger.save()
        ledger.tell()
        gate.set()
        await w.idle()
        await w.append(b"2")
        await w.settled(target, 2)
        assert target.bodies == [b"1", b"2"]


@pytest.mark.gen_test
async def test_the_sender_waits_for_the_destinations_answer() -> None:
    """`response_from_output` of a public output: the destination's first answer wakes the sender; where it is paused
    the sender is told at once."""
    async with Target(lambda got: answer(202, b"theirs", "X-Key: v")) as target, world(public(target.url)) as w:
        w.responses.forwarding = w.forwarding
        answers: list[Answer] = []
        epoch = (await w.log.bounds(B)).epochs[0].epoch
        for output in ("out-1", "anyOutput"):
            await w.append(b"1")
            head = (await w.log.bounds(B)).head
            waits = replace(w.bucket.inputs[0], response_from_output=output)
            w.responses.wait(w.bucket, waits, Appended(epoch, head), answers.append)
        await until(lambda: len(answers) == 2)
        assert [(each.status, each.body) for each in answers] == [(202, b"theirs")] * 2
        assert ("X-Key", "v") in answers[0].headers
        await w.change(public(target.url, paused=True))
        await w.append(b"2")
        w.responses.wait(w.bucket, waits, Appended(epoch, 3), answers.append)
        await until(lambda: len(answers) == 3)
        assert answers[2].status == 504


@pytest.mark.gen_test
async def test_no_answer_is_waited_for_that_does_not_come_now() -> None:
    """Nothing is sent while the circuit is open, or the relay is stopping."""
    async with Target(lambda got: answer(500)) as target, world(public(target.url, retries=-1)) as w:
        await w.append(*(b"%d" % number for number in range(10)))
        await w.settled(target, 10)
        (event,) = await w.log.read(B, 0, 1, 99)
        assert not w.forwarding.reaches(B, event, 1)
        await w.change(public(target.url, retries=-1, timeout=7.0))
        assert w.forwarding.reaches(B, event, 1)
        await w.forwarding.finish(1)
        assert not w.forwarding.reaches(B, event, 1)


@pytest.mark.gen_test
async def test_the_answer_of_an_event_that_was_lost_meanwhile() -> None:
    """It is not that of the event that has its seq now, and not for whoever sent that."""
    go = asyncio.Event()

    async def late(got: Got) -> bytes:
        await go.wait()
        return answer(202, b"of " + got.body)

    async with Target(late) as target, world(public(target.url)) as w:
        w.responses.forwarding = w.forwarding
        await w.append(b"1")
        await target.until(1)
        w.log.lose(B, 1)
        await w.append(b"2")
        answers: list[Answer] = []
        epoch = (await w.log.bounds(B)).epochs[-1].epoch
        waits = replace(w.bucket.inputs[0], response_from_output="out-1")
        w.responses.wait(w.bucket, waits, Appended(epoch, 1), answers.append)
        go.set()
        await w.idle()
        assert answers == []
        assert await w.stored(1) == []
