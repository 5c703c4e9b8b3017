"""The client against services that are not this relay, or not well: faults that a real relay does not show."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from typing import Any

import pytest
from websockets.asyncio.server import Request, Response, ServerConnection
from websockets.exceptions import ConnectionClosed

from relay_tornado.client import Backoff, Gap, GapRefused, Notice, Refused, RelayClientError, Subscription
from tests.client.peer import AUTHENTICATED, ENTRY, Peer, at, one_event, one_event_before_the_end, service, webhook
from tests.client.world import TIMEOUT, Memory, client_test, run
from tests.waiting import until


@client_test
async def test_a_silent_service_is_left() -> None:
    """Where nothing comes for `idle_timeout`, and where a step takes longer than `open_timeout`, it dials again."""
    unanswered, silent = "the relay does not answer", "nothing came for 4 s"
    said: list[str] = []

    def note(notice: Notice) -> None:
        if notice.kind == "disconnected":
            said.append(notice.message)

    async def talk(peer: Peer) -> None:
        if unanswered in said:
            await peer.welcome(buckets=[ENTRY])
            if silent in said:
                await peer.send(webhook("abcdefghijkl-1"))
        await peer.stay()

    async with service(talk) as url, at(url, idle_timeout=4.0, open_timeout=4.0, on_notice=note) as events:
        await anext(events)
    assert list(dict.fromkeys(said)) == [unanswered, silent]


@pytest.mark.parametrize(
    ("date", "begun"),
    [
        ("Tue, 02 Jan 2001 03:04:05 GMT", 978_404_645.0),
        ("Tue, 02 Jan 20010000000000000000 03:04:05 GMT", None),
        ("yesterday", None),
        (None, None),
    ],
)
def test_the_services_clock_counts(date: str | None, begun: float | None) -> None:
    """From when on a bucket is read that comes into reach later is a time of the service's; without it, one's own."""
    saved: list[str] = []

    def dated(connection: ServerConnection, request: Request, response: Response) -> Response:
        del response.headers["Date"]
        if date is not None:
            response.headers["Date"] = date
        return response

    async def main() -> None:
        async with service(one_event, process_response=dated) as url, at(url, checkpoint=Memory(saved)) as events:
            await anext(events)

    before = time.time()
    run(main())
    found = json.loads(saved[-1])["begun"]
    assert found == begun if begun is not None else before <= found <= time.time()


@client_test
async def test_the_services_clock_is_set_back() -> None:
    """Between two connections: what was not there before is asked for from as much earlier."""
    asked: list[Any] = []

    def dated(connection: ServerConnection, request: Request, response: Response) -> Response:
        del response.headers["Date"]
        response.headers["Date"] = f"Tue, 02 Jan 2001 0{3 - len(asked)}:04:05 GMT"
        return response

    async def talk(peer: Peer) -> None:
        asked.append((await peer.welcome(buckets=[ENTRY])).get("since"))
        if peer.number == 2:
            await peer.send(webhook("abcdefghijkl-1"))
            await peer.stay()

    async with service(talk, process_response=dated) as url, at(url) as events:
        await anext(events)
    assert 978_404_645 - 3600 - TIMEOUT <= asked[1]["*"]["time"] <= 978_404_645 - 3600


@client_test
async def test_an_event_that_takes_long_is_no_silence() -> None:
    """On a slow link one event takes longer than `idle_timeout`: as long as some of it comes, the client stays."""
    payload = json.dumps(webhook("abcdefghijkl-1", "x" * 400_000)).encode()
    frame = b"\x81\x7f" + len(payload).to_bytes(8, "big") + payload
    dialled: list[int] = []

    async def talk(peer: Peer) -> None:
        dialled.append(peer.number)
        await peer.welcome(buckets=[ENTRY])
        for at_byte in range(0, len(frame), 40_000):
            peer.socket.transport.write(frame[at_byte : at_byte + 40_000])
            await asyncio.sleep(0.5)
        await peer.stay()

    async with service(talk) as url, at(url, idle_timeout=4.0) as events:
        event = await anext(events)
        assert len(event.body) == 400_000
    assert dialled == [1]


@client_test
async def test_a_dead_connection_for_answers_is_left() -> None:
    """Where nothing comes on it any more, as if a NAT had forgotten it, the next answer goes over another one."""
    stored: list[tuple[int, str]] = []
    left = asyncio.Event()

    async def talk(peer: Peer) -> None:
        if peer.number == 1:
            await peer.welcome(buckets=[ENTRY])
            await peer.send(webhook("abcdefghijkl-1"), webhook("abcdefghijkl-2"))
            while True:
                await peer.send({"type": "status", "status": "ping", "message": ""})
                await asyncio.sleep(0.05)
        assert (await peer.receive())["action"] == "auth"
        await peer.send(AUTHENTICATED)
        answer = await peer.receive()
        stored.append((peer.number, answer["id"]))
        await peer.send({"type": "status", "status": "responded", "id": answer["id"]})
        await peer.stay()
        left.set()

    async with service(talk) as url, at(url, idle_timeout=5.0) as events:
        await (await anext(events)).respond()
        await asyncio.wait_for(left.wait(), TIMEOUT)
        await (await anext(events)).respond()
    assert stored == [(2, "abcdefghijkl-1"), (3, "abcdefghijkl-2")]


@client_test
@pytest.mark.parametrize("ack", ["explicit", "receipt"])
async def test_what_a_silence_swallowed_is_not_given_twice(monkeypatch: pytest.MonkeyPatch, ack: str) -> None:
    """An application goes on with what was read ahead while its connection is dead and nobody knows: the relay hears
    of none of it, sends it again, and the application gets it once."""
    monkeypatch.setattr("relay_tornado.client.acks.SURE", 0.3)
    monkeypatch.setattr("relay_tornado.client.positions.SURE", 0.3)
    acked: list[str] = []

    async def talk(peer: Peer) -> None:
        await peer.welcome(buckets=[ENTRY])
        await peer.send(*(webhook(f"abcdefghijkl-{seq}", str(seq)) for seq in range(1, 2 + peer.number)))
        while True:
            said = await peer.receive()
            if peer.number > 1 and said["action"] == "ack":
                acked.append(said["id"])

    async with service(talk) as url, at(url, consumer="c", ack=ack, idle_timeout=5.0) as events:
        got = []
        for _ in range(3):
            event = await anext(events)
            got.append(event.text)
            if ack == "explicit":
                await event.ack()
        assert got == ["1", "2", "3"]
        if ack == "explicit":
            await until(lambda: len(acked) == 3, "the acks")
    assert acked == ([f"abcdefghijkl-{seq}" for seq in (1, 2, 3)] if ack == "explicit" else [])


@client_test
async def test_a_busy_application_shows_signs_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    """While nothing is read the client still says that it is there."""
    monkeypatch.setattr("relay_tornado.client.core.LIFE", 0.02)
    heard: list[Any] = []

    async def talk(peer: Peer) -> None:
        await peer.welcome(buckets=[ENTRY])
        sending = asyncio.create_task(
            peer.send(*(webhook(f"abcdefghijkl-{seq}", "x" * 100_000) for seq in range(1, 200)))
        )
        try:
            while True:
                heard.append(await peer.receive())
        finally:
            sending.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionClosed):
                await sending

    async with service(talk) as url, at(url, buffer=100_000) as events:
        await anext(events)
        core = events._core
        assert core is not None
        await until(lambda: core.intake.full, "a full buffer")
        before = len(heard)
        await until(lambda: len(heard) > before + 2, "signs of life")
    assert all(message == {"action": "pong"} for message in heard)


async def drain(events: Subscription, got: list[int]) -> None:
    """Appends the seqs of all that come."""
    async for event in events:
        got.append(event.seq)  # noqa: PERF401 - what came before an error counts


@client_test
async def test_an_end_is_noticed_while_the_application_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a connection of which nothing more is read, and by the next one that it is for good; what was read ahead is
    given all the same, and nothing between is left out."""
    monkeypatch.setattr("relay_tornado.client.core.LIFE", 0.02)
    go = asyncio.Event()
    asked: list[Any] = []

    async def talk(peer: Peer) -> None:
        asked.append((await peer.welcome(buckets=[ENTRY])).get("since"))
        if peer.number == 1:
            sending = asyncio.create_task(
                peer.send(*(webhook(f"abcdefghijkl-{seq}", "x" * 100_000) for seq in range(1, 200)))
            )
            await go.wait()
            peer.socket.transport.abort()
            await asyncio.gather(sending, return_exceptions=True)
        else:
            await peer.socket.close(4503, "because")

    async with service(talk) as url, at(url, buffer=100_000) as events:
        assert (await anext(events)).seq == 1
        core = events._core
        assert core is not None
        await until(lambda: core.intake.full, "a full buffer")
        go.set()
        await until(lambda: events.ended, "the end")
        got: list[int] = []
        with pytest.raises(Refused, match="because"):
            await drain(events, got)
        assert got == list(range(2, len(got) + 2))
        assert asked[1]["B"] == f"abcdefghijkl-{len(got) + 1}"


@client_test
async def test_a_message_that_is_too_big_ends_it() -> None:
    """An event over `max_message` would come again and again: it is said instead, with what to do."""

    async def talk(peer: Peer) -> None:
        await peer.welcome(buckets=[ENTRY])
        await peer.send(webhook("abcdefghijkl-1", "x" * 20_000))
        await peer.stay()

    async with service(talk) as url, at(url, max_message=10_000) as events:
        with pytest.raises(RelayClientError, match="raise max_message"):
            await anext(events)


@client_test
async def test_a_client_that_fails_says_so() -> None:
    """It is raised where events are waited for: nobody waits for ever on a client that has given up."""

    class Broken(Backoff):
        def delay(self, failures: int) -> float:
            raise RuntimeError("mine")

    async def talk(peer: Peer) -> None:
        await peer.socket.close(1001)

    async with service(talk) as url, at(url, backoff=Broken()) as events:
        with pytest.raises(RelayClientError, match="the client failed"):
            await anext(events)


@client_test
@pytest.mark.parametrize("body", [b"", b"x" * 800_000])
async def test_what_ended_it_is_said_to_whoever_acknowledges_or_answers(body: bytes) -> None:
    """An ack that goes nowhere raises, and so does an answer, whichever way it would have gone."""
    async with service(one_event_before_the_end) as url, at(url, consumer="c") as events:
        event = await anext(events)
        with pytest.raises(Refused, match="because"):
            await anext(events)
        for doing in (event.ack(), event.nak(), event.respond(200, body)):
            with pytest.raises(Refused, match="because"):
                await doing


@client_test
async def test_of_each_connection_its_own_is_told() -> None:
    """The gaps of the one that was refused, not of those before; a bucket that is missing again, after it was there."""
    gap = {"from": 1, "to": 2, "count": 2, "reason": "retention"}
    missing = {"bucket_name": "b", "error": "not_found"}
    notices: list[str] = []

    async def talk(peer: Peer) -> None:
        entries = [missing, missing, ENTRY | {"gap": gap}, missing, ENTRY | {"gap": gap}]
        await peer.welcome(buckets=[entries[peer.number - 1]])
        await peer.socket.close(4509 if peer.number == 5 else 1011)

    async with (
        service(talk) as url,
        at(url, on_gap="fail", on_notice=lambda notice: notices.append(notice.kind)) as events,
    ):
        with pytest.raises(GapRefused) as refused:
            await anext(events)
    assert [each.last for each in refused.value.gaps] == [2]
    assert notices.count("missing") == 2


@client_test
async def test_gaps_that_were_told_take_no_room() -> None:
    """A connection may last for months, and meet a gap each second."""
    told: list[Gap] = []

    async def talk(peer: Peer) -> None:
        await peer.welcome(buckets=[ENTRY])
        for seq in range(1, 101):
            gap = {"from": seq, "to": seq, "count": 1, "reason": "ephemeral"}
            await peer.send({"type": "status", "status": "gap", "bucket_name": "b", "gap": gap})
        await peer.send(webhook("abcdefghijkl-101"))
        await peer.stay()

    async with service(talk) as url, at(url, on_gap=told.append) as events:
        assert (await anext(events)).seq == 101
        core = events._core
        assert core is not None
        assert (len(told), len(core._gaps)) == (100, 0)


@client_test
async def test_notices_that_raise_break_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """A callback's fault is logged, and the client goes on."""
    told: list[str] = []

    def fail(notice: Notice) -> None:
        told.append(notice.kind)
        raise RuntimeError("mine")

    async def talk(peer: Peer) -> None:
        await peer.welcome(buckets=[ENTRY, {"bucket_name": "x", "error": "not_found"}])
        await peer.send({"type": "status", "status": "caught_up", "bucket_name": "b", "id": "abcdefghijkl-0"})
        await peer.send(webhook("abcdefghijkl-1"))
        await peer.stay()

    with caplog.at_level(logging.ERROR, "relay_tornado.client"):
        async with service(talk) as url, at(url, on_notice=fail) as events:
            await anext(events)
    assert {"missing", "caught_up"} <= set(told)
    assert [record.getMessage() for record in caplog.records] == ["on_notice failed"] * len(told)


@client_test
async def test_a_gap_that_can_not_be_taken_is_told_again() -> None:
    """What `on_gap` raises comes out of the loop, and no event behind the gap before that is mended."""
    gap = {"from": 1, "to": 2, "count": 2, "reason": "retention"}
    told: list[Gap] = []

    def take(gap: Gap) -> None:
        told.append(gap)
        if len(told) < 3:
            raise RuntimeError("mine")

    async def talk(peer: Peer) -> None:
        await peer.welcome(buckets=[ENTRY | {"start": 3, "gap": gap}])
        await peer.send(webhook("abcdefghijkl-3"))
        await peer.stay()

    async with service(talk) as url, at(url, on_gap=take) as events:
        for _ in range(2):
            with pytest.raises(RuntimeError, match="mine"):
                await anext(events)
        assert (await anext(events)).seq == 3
    assert [each.last for each in told] == [2, 2, 2]


@client_test
async def test_two_dates() -> None:
    """An answer to the upgrade with a second Date, as of a proxy, is as good as one with a single one."""

    def dated(_: ServerConnection, __: Request, response: Response) -> None:
        response.headers["Date"] = "Thu, 01 Jan 2026 00:00:00 GMT"

    async with service(one_event, process_response=dated) as url, at(url) as events:
        assert (await anext(events)).seq == 1
