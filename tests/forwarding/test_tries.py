"""Forwarding: when a try is made again, and when no more."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from structlog.testing import capture_logs

from relay_tornado.admin.consumers import ConsumerAdministration
from relay_tornado.forwarding import forwarder
from tests.forwarding.target import Got, Target, answer, once_open
from tests.forwarding.world import B, World, public, quick_tries, without_room, world
from tests.waiting import until


@pytest.mark.gen_test
async def test_quick_tries_then_dead() -> None:
    """Three tries, which keep later events waiting; then it is given up, a dead letter, and the later ones come."""

    def answers(got: Got) -> bytes:
        return answer(500, b"no") if got.body == b"bad" else answer()

    async with Target(answers) as target, world(public(target.url)) as w:
        await w.append(b"bad", b"good")
        await w.settled(target, 1)
        await w.turn(0.5)
        await w.idle()
        assert target.bodies == [b"bad"]
        await w.turn(0.6)
        await w.settled(target, 2)
        await w.turn(3.1)
        await w.settled(target, 4)
        assert target.bodies == [b"bad", b"bad", b"bad", b"good"]
        assert [(each.status, each.retries) for each in await w.stored(1)] == [
            ("stalled", 0),
            ("stalled", 1),
            ("failed", 2),
        ]
        letter = (await w.dead())[0]
        assert (letter.seq, letter.attempts, letter.reason) == (1, 3, "retries: 500")
        assert w.counters.forward_attempts["rejected"] == 3
        assert w.counters.forward_given_up == 1


@pytest.mark.gen_test
async def test_the_first_and_the_last_answer_are_stored_whole() -> None:
    """Of the first failed try and of the last its whole body, of those in between the beginning; how long it took, in
    milliseconds; and no status that no server may answer with."""
    statuses = [500, 600, 500]

    def answers(got: Got) -> bytes:
        w.now += 1.5
        return answer(statuses.pop(0), b"x" * 10_000)

    async with Target(answers) as target, world(public(target.url)) as w:
        await w.append(b"1")
        await w.settled(target, 1)
        for count in (2, 3):
            await w.turn(10)
            await w.settled(target, count)
        stored = await w.stored(1)
        assert [len(each.body) for each in stored] == [10_000, 4096, 10_000]
        assert [each.status_code for each in stored] == [500, 0, 500]
        assert [each.duration_ms for each in stored] == [1500] * 3
        assert [each.headers.get("X-Relay-Truncated") for each in stored] == [None, ["after 4096 bytes"], None]


@pytest.mark.gen_test
async def test_the_first_answer_is_whole_if_there_was_none_before() -> None:
    """The sender that waits for it gets it; after a restart, too, one is known to be the first."""
    answers = [b"HTTP/1.1 200", answer(500, b"x" * 10_000), answer(500, b"y" * 10_000), answer()]

    async with Target(lambda got: answers.pop(0)) as target, world(public(target.url, retries=1)) as w:
        await w.append(b"1")
        await w.settled(target, 1)
        for count in (2, 3, 4):
            await w.turn(12)
            await w.settled(target, count)
            if count == 2:
                await w.restart()
        stored = await w.stored(1)
        assert [(each.status_code, len(each.body)) for each in stored[1:]] == [(500, 10_000), (500, 4096), (200, 0)]
        first = await w.results.first(B, 1, 1)
        assert first is not None
        assert first.body == b"x" * 10_000


@pytest.mark.gen_test
async def test_no_retries() -> None:
    """With retries -1 there is one try."""
    async with Target(lambda got: answer(404)) as target, world(public(target.url, retries=-1)) as w:
        await w.append(b"1", b"2")
        await w.settled(target, 2)
        assert [letter.attempts for letter in await w.dead()] == [1, 1]


@pytest.mark.gen_test
async def test_the_retry_schedule_lets_later_ones_pass() -> None:
    """Behind its quick tries an event goes by `retries`, and later ones pass it."""
    bad = True

    def answers(got: Got) -> bytes:
        return answer(503) if got.body == b"1" and bad else answer()

    async with Target(answers) as target, world(public(target.url, retries=2)) as w:
        await quick_tries(w, target)
        await w.append(b"2")
        await w.settled(target, 4)
        assert target.bodies[-1] == b"2"
        await w.turn(9.0)
        await w.idle()
        assert len(target.got) == 4
        bad = False
        await w.turn(1.1)
        await w.settled(target, 5)
        assert target.bodies[-1] == b"1"
        assert await w.dead() == []
        assert w.forwarder().ledger.progress.floor == 2


@pytest.mark.gen_test
async def test_where_several_are_sent_at_once_none_is_held_back() -> None:
    """There is no order to keep: later events pass one in its quick tries, also where the destination asks for a while
    for that one."""
    throttle = {"enabled": True, "mode": "concurrency", "max_concurrent": 2}
    async with (
        Target(lambda got: answer(500, b"", "Retry-After: 60") if got.body == b"1" else answer()) as target,
        world(public(target.url, throttle=throttle)) as w,
    ):
        await w.append(b"1")
        await w.settled(target, 1)
        await w.append(b"2", b"1")
        await w.settled(target, 3)
        assert target.bodies == [b"1", b"2", b"1"]
        assert w.forwarding.parked == 2


@pytest.mark.gen_test
async def test_the_clock_of_day_is_set_back() -> None:
    """A try that is due in a second is made in a second, so later events are kept waiting no longer."""
    statuses = [500, 200, 200]
    async with Target(lambda got: answer(statuses.pop(0))) as target, world(public(target.url)) as w:
        await w.append(b"one", b"two")
        await w.settled(target, 1)
        w.back = 3600
        await w.turn(0)
        await w.idle()
        assert target.bodies == [b"one"]
        await w.turn(1.1)
        await target.until(3)
        assert target.bodies == [b"one", b"one", b"two"]


@pytest.mark.gen_test
async def test_a_try_that_waits_is_made_when_the_clock_of_day_is_set_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for its time is looked at now and then, however far that time is."""
    monkeypatch.setattr(forwarder, "_LOOK", 0.01)
    answers = iter([answer(500, b"", "Retry-After: 3600"), answer()])
    async with Target(lambda got: next(answers)) as target, world(public(target.url)) as w:
        await w.append(b"1")
        await w.settled(target, 1)
        w.now += 3600
        await target.until(2)


@pytest.mark.gen_test
async def test_the_clock_of_day_is_set_back_as_a_try_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one is due in a second by the clock as it is then."""
    statuses = [500, 200]
    async with Target(lambda got: answer(statuses.pop(0))) as target, world(public(target.url)) as w:
        record = w.results.record

        async def late(*args: Any) -> None:
            w.back = 3600
            w.forwarder().ledger.progress.look(w.day())
            await record(*args)

        monkeypatch.setattr(w.results, "record", late)
        await w.append(b"one")
        await w.settled(target, 1)
        await w.turn(1.1)
        await target.until(2)


@pytest.mark.gen_test
async def test_strict_order_waits() -> None:
    """With strict_order no later event is sent before one that failed is delivered or given up."""
    bad = True

    def answers(got: Got) -> bytes:
        return answer(500) if got.body == b"1" and bad else answer()

    async with Target(answers) as target, world(public(target.url, strict_order=True, retries=5)) as w:
        await w.append(b"1", b"2", b"3")
        for step in (1.1, 3.1, 10.1):
            await w.idle()
            await w.turn(step)
            await w.idle()
        await target.until(4)
        assert set(target.bodies) == {b"1"}
        bad = False
        await w.turn(20.1)
        await target.until(7)
        assert target.bodies[4:] == [b"1", b"2", b"3"]


async def again(w: World, *seqs: int) -> None:
    """An administrator has these events sent again."""
    ledger = w.forwarder().ledger
    ledger.progress.schedule(dict.fromkeys(seqs, w.now), w.now)
    ledger.save()
    ledger.tell()
    await w.turn(0)
    await w.idle()


@pytest.mark.gen_test
async def test_what_is_sent_again_waits_for_none_that_failed() -> None:
    """Without strict_order. Later events that were not sent yet do, while that one is in its quick tries."""
    bad = {b"1"}
    async with Target(lambda got: answer(500 if got.body in bad else 200)) as target, world(public(target.url)) as w:
        bad.clear()
        await w.append(b"1", b"2")
        await w.settled(target, 2)
        bad.add(b"1")
        await again(w, 1)
        await again(w, 2)
        await w.append(b"3")
        await w.idle()
        assert target.bodies[2:] == [b"1", b"2"]


@pytest.mark.parametrize(
    "fields",
    [{"throttle": {"enabled": True, "deadline": 5 * 10**9}}, {"durability": {"enabled": True, "schedule": "seconds"}}],
)
@pytest.mark.gen_test
async def test_a_deadline_counts_from_when_an_event_is_sent_again(fields: dict[str, Any]) -> None:
    """Where it was over by then: it came in a day before."""
    async with Target() as target, world(public(target.url, **fields)) as w:
        await w.append(b"1")
        await w.settled(target, 1)
        w.now += 86_400
        target.answers = lambda got: answer(500 if len(target.got) == 2 else 200)
        await again(w, 1)
        await w.turn(1.1)
        await w.settled(target, 3)
        assert await w.dead() == []


@pytest.mark.gen_test
async def test_strict_order_holds_for_what_is_sent_again() -> None:
    """Neither a dead letter nor a replayed event passes one before it that failed; one before that may go."""
    bad = {b"2"}
    async with (
        Target(lambda got: answer(500 if got.body in bad else 200)) as target,
        world(public(target.url, strict_order=True)) as w,
    ):
        bad.clear()
        await w.append(b"1", b"2", b"3", b"4")
        await w.settled(target, 4)
        target.got.clear()
        bad.add(b"2")
        await again(w, 2, 3)
        await again(w, 4)
        assert target.bodies == [b"2"]
        await again(w, 1)
        assert target.bodies == [b"2", b"1"]
        bad.clear()
        await w.turn(1.1)
        await w.settled(target, 5)
        assert target.bodies == [b"2", b"1", b"2", b"3", b"4"]


async def give_up(w: World, seq: int, output: str = "output:1") -> None:
    administration = ConsumerAdministration(w.log, w.ledgers, w.results)
    (event,) = await w.log.read(B, seq - 1, 1, 1)
    await administration.give_up(w.bucket, output, f"{event.epoch}-{seq}")


@pytest.mark.gen_test
async def test_an_event_that_is_given_up_holds_no_other_back() -> None:
    """It is failed then, and a dead letter; with strict_order, too, the next one is sent at once."""
    async with (
        Target(lambda got: answer(500 if got.body == b"1" else 200)) as target,
        world(public(target.url, strict_order=True)) as w,
    ):
        await w.append(b"1", b"2")
        await w.settled(target, 1)
        await give_up(w, 1)
        await w.settled(target, 2)
        await w.turn(1000)
        await w.idle()
        assert target.bodies == [b"1", b"2"]
        assert [each.status for each in await w.stored(1)] == ["stalled", "failed"]
        assert [(each.seq, each.attempts, each.reason) for each in await w.dead()] == [(1, 1, "given_up")]
        assert w.counters.forward_given_up == 1


@pytest.mark.gen_test
@pytest.mark.parametrize("status", [200, 500, 410])
async def test_an_event_that_is_given_up_in_flight(status: int) -> None:
    """Its request goes on. If it is accepted, the event is sent after all; else it failed, and is not tried again. The
    next one is sent when it has ended."""
    gate = asyncio.Event()

    async def answers(got: Got) -> bytes:
        if got.body == b"1":
            await gate.wait()
        return answer(status if got.body == b"1" else 200)

    async with Target(answers) as target, world(public(target.url)) as w:
        await w.append(b"1", b"2")
        await target.until(1)
        await give_up(w, 1)
        await w.turn(0)
        assert target.bodies == [b"1"]
        gate.set()
        if status != 410:  # which disables it
            await w.settled(target, 2)
        await w.idle()
        await w.turn(1000)
        await w.idle()
        assert target.bodies == [b"1", b"2"][: 1 if status == 410 else 2]
        assert [each.status for each in await w.stored(1)] == ["sent" if status == 200 else "failed"]
        assert [(each.seq, each.reason) for each in await w.dead()] == [(1, "given_up")] * (status != 200)


@pytest.mark.gen_test
async def test_an_event_that_is_given_up_while_it_waits_for_memory() -> None:
    """It is not sent, and the next one is."""
    gate = asyncio.Event()
    async with without_room(gate) as (w, one, other):
        await give_up(w, 2, "output:2")
        gate.set()
        await w.settled(one, 2)
        await w.append(b"last")
        await w.settled(other, 1)
        await w.idle(2)
        assert other.bodies == [b"last"]
        assert [(each.seq, each.attempts, each.reason) for each in await w.dead(2)] == [(2, 0, "given_up")]
        assert not w.forwarder(2).ledger.progress._gone


@pytest.mark.gen_test
@pytest.mark.parametrize(
    "asking",
    [
        ("Retry-After: 60",),
        ("Retry-After: Thu, 01 Jan 1970 00:01:40 GMT", "Date: Thu, 01 Jan 1970 00:00:40 GMT"),
        ("Retry-After: Mon, 12 Jan 1970 13:31:00 GMT",),
    ],
)
async def test_retry_after(asking: tuple[str, ...]) -> None:
    """429 and 503 with Retry-After hold the whole output for so long; no try is used up meanwhile. A date is one of the
    destination's clock, whatever the relay's says, or of the relay's clock of day where the destination tells none."""
    answers = iter([answer(429, b"", *asking), answer(), answer()])
    async with Target(lambda got: next(answers)) as target, world(public(target.url, retries=1)) as w:
        w.back = 1_000.0  # the clock of day is at 13:30:00 on 12 January 1970
        await w.append(b"1", b"2")
        await w.settled(target, 1)
        await w.turn(59)
        await w.idle()
        assert len(target.got) == 1
        await w.turn(1.1)
        await w.settled(target, 3)
        assert target.bodies == [b"1", b"1", b"2"]


@pytest.mark.gen_test
async def test_circuit() -> None:
    """Ten tries in vain open it: then nothing is tried but one event now and then, until that succeeds."""
    up = False
    async with Target(lambda got: answer() if up else answer(500)) as target:
        output = public(target.url, retries=-1)
        async with world(output) as w:
            await w.append(*(b"%d" % number for number in range(30)))
            await w.settled(target, 10)
            assert w.forwarding.circuits_open == 1
            assert w.forwarding.failures() == {output.id: "it answers 500"}
            assert len(await w.dead()) == 10
            await w.turn(14)
            await w.idle()
            assert len(target.got) == 10
            await w.turn(1.1)
            await w.settled(target, 11)
            assert len(target.got) == 11
            await w.turn(16)
            await w.idle()
            assert len(target.got) == 11, "it is left alone for twice as long"
            up = True
            await w.turn(15)
            await w.settled(target, 30)
            assert target.bodies == [b"%d" % number for number in range(30)]
            assert len(await w.dead()) == 11
            assert w.forwarding.circuits_open == 0
            assert w.forwarding.failures() == {}


@pytest.mark.gen_test
async def test_why_the_circuit_opened() -> None:
    """The log says why the last try failed, once, also where nobody answered."""
    output = public("http://127.0.0.1:9", retries=-1)
    with capture_logs() as lines:
        async with world(output) as w:
            await w.append(*(b"%d" % number for number in range(12)))
            await until(lambda: w.forwarding.circuits_open == 1)
    (line,) = [line for line in lines if line["event"] == "circuit_opened"]
    assert (line["name"], line["last"]) == (output.name, "unreachable")
    assert line["reason"] == "No answer: it can't be reached: Connection refused."


@pytest.mark.gen_test
async def test_an_echo_is_not_logged() -> None:
    """What a destination sends that does not speak HTTP may be the request, with its secrets: only who reads the
    event's deliveries sees it."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readuntil(b"\r\n\r\n"))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    output = public(f"http://127.0.0.1:{port}/canary", retries=-1)
    with capture_logs() as lines:
        async with world(output) as w:
            await w.append(*(b"%d" % number for number in range(10)))
            await until(lambda: w.forwarding.circuits_open == 1)
            assert w.forwarding.failures() == {output.id: "No answer: its answer is no HTTP."}
    (line,) = [line for line in lines if line["event"] == "circuit_opened"]
    assert line["reason"] == "No answer: its answer is no HTTP."
    assert "canary" not in str(lines)
    server.close()


@pytest.mark.gen_test
async def test_queue_depth_and_deadline() -> None:
    """A queue as long as it may be is full, as long as the output is active; past the throttle's deadline an event is
    marked failed without a try."""
    gate = asyncio.Event()
    throttle = {
        "enabled": True,
        "mode": "concurrency",
        "max_concurrent": 1,
        "max_queue_depth": 3,
        "deadline": 5 * 10**9,
    }
    async with Target(once_open(gate)) as target, world(public(target.url, throttle=throttle)) as w:
        await w.append(b"1", b"2")
        assert not w.forwarding.full(B, 0)
        await w.append(b"3")
        assert w.forwarding.full(B, 0)
        for paused in (True, False):
            await w.change(public(target.url, throttle=throttle, paused=paused))
            assert w.forwarding.full(B, 0) is not paused
        await target.until(1)
        w.now += 6
        gate.set()
        await w.idle()
        assert target.bodies == [b"1"]
        assert [letter.reason for letter in await w.dead()] == ["deadline", "deadline"]
        assert [each.status for each in await w.stored(2)] == ["failed"]
        assert not w.forwarding.full(B, 0)
        await w.append(b"4")
        await target.until(2)


@pytest.mark.gen_test
async def test_the_queue_of_one_output_is_full_whatever_the_others_are() -> None:
    gate = asyncio.Event()
    throttle = {"enabled": True, "mode": "concurrency", "max_concurrent": 1, "max_queue_depth": 1}
    async with (
        Target(once_open(gate)) as slow,
        Target() as target,
        world(public(slow.url, throttle=throttle), public(target.url, 2, throttle=throttle)) as w,
    ):
        await w.append(b"1", b"2")
        await slow.until(1)
        await target.until(2)
        await w.idle(2)
        assert w.forwarding.full(B, 0)
        gate.set()


@pytest.mark.gen_test
async def test_an_event_on_the_retry_schedule_is_not_in_the_queue() -> None:
    """Neither while it waits for its retry, nor instead of one that waits while the retry is in flight."""
    retried, slow = asyncio.Event(), asyncio.Event()

    async def answers(got: Got) -> bytes:
        if got.body == b"1":
            if len(target.got) > 3:
                await retried.wait()
            return answer(500)
        if got.body == b"slow":
            await slow.wait()
        return answer()

    throttle = {"enabled": True, "mode": "concurrency", "max_concurrent": 2, "max_queue_depth": 1}
    async with Target(answers) as target, world(public(target.url, retries=3, throttle=throttle)) as w:
        await quick_tries(w, target)
        await w.append(b"slow")
        await target.until(4)
        await w.turn(13)
        await target.until(5)
        assert not w.forwarding.full(B, 0)
        await w.append(b"waits")
        assert w.forwarding.full(B, 0)
        retried.set()
        await target.until(6)
        await until(lambda: w.forwarder().in_flight == 1)
        assert w.forwarder().parked == 1
        assert not w.forwarding.full(B, 0)
        slow.set()
