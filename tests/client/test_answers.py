"""What a client does until an answer to an event is stored, against a service that a test writes."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Sized

import pytest

from relay_tornado.client import Refused, Rejected, RelayClientError
from tests.client.peer import AUTHENTICATED, ENTRY, Peer, Talk, at, service, webhook
from tests.client.world import SOON, client_test, run, take
from tests.waiting import until

STORED = {"type": "status", "status": "responded"}


async def give(peer: Peer, number: int) -> None:
    """So many events, on the connection for events."""
    await peer.welcome(buckets=[ENTRY])
    await peer.send(*(webhook(f"abcdefghijkl-{seq}") for seq in range(1, number + 1)))
    await peer.stay()


async def begin(peer: Peer) -> None:
    """A connection for answers."""
    assert (await peer.receive())["action"] == "auth"
    await peer.send(AUTHENTICATED)


def closing(answers: int, code: int, reason: str = "") -> Talk:
    """Gives two events. The first connection for answers is closed behind so many of them; the next one stores."""

    async def talk(peer: Peer) -> None:
        if peer.number == 1:
            await give(peer, 2)
        await begin(peer)
        for _ in range(answers if peer.number == 2 else 1):
            await peer.receive()
        if peer.number == 2:
            await peer.socket.close(code, reason)
        await peer.send(STORED)
        await peer.stay()

    return talk


@client_test
async def test_an_answer_is_sent_until_it_is_stored() -> None:
    """Again where its connection ended without a word; over another one where nothing is said for too long, and then
    what was given up is sent no more."""
    sent: list[tuple[int, str]] = []

    async def talk(peer: Peer) -> None:
        if peer.number == 1:
            await give(peer, 3)
        await begin(peer)
        async for text in peer.socket:
            sent.append((peer.number, str(text).partition("abcdefghijkl-")[2][:1]))
            if peer.number == 2:
                return
            if sent[-1] != (3, "2"):
                await peer.send(STORED)

    async with service(talk) as url, at(url) as events:
        one, two, three = await take(events, 3)
        await one.respond()
        with pytest.raises(TimeoutError):
            await two.respond(timeout=5.0)
        await three.respond()
    assert sent == [(2, "1"), (3, "1"), (3, "2"), (4, "3")]


async def the_first_is_given_up(talk: Talk, received: Sized, cancelled: asyncio.Event) -> None:
    """Two answers are sent; nobody waits for the first one any more, of which `cancelled` tells, and the second is
    stored."""
    async with service(talk) as url, at(url) as events:
        one, two = await take(events, 2)
        first, second = asyncio.create_task(one.respond()), asyncio.create_task(two.respond())
        await until(lambda: len(received) == 2, "both")
        first.cancel()
        await asyncio.wait((first,))
        cancelled.set()
        await second


def test_each_word_is_about_the_answer_that_it_was_said_of() -> None:
    """Also where nobody waits for the one before it any more."""
    received: list[str] = []
    cancelled = asyncio.Event()

    async def talk(peer: Peer) -> None:
        if peer.number == 1:
            await give(peer, 2)
        await begin(peer)
        received.append((await peer.receive())["id"])
        received.append((await peer.receive())["id"])
        await cancelled.wait()
        await peer.send({"type": "status", "status": "error", "code": "not_found", "message": "gone"}, STORED)
        await peer.stay()

    run(the_first_is_given_up(talk, received, cancelled))
    assert received == ["abcdefghijkl-1", "abcdefghijkl-2"]


@client_test
async def test_a_word_that_names_its_event_is_about_that() -> None:
    """In whatever order it comes; one that names an event of which nothing was sent is about none."""
    first, second = "abcdefghijkl-1", "abcdefghijkl-2"
    stored = asyncio.Event()

    async def talk(peer: Peer) -> None:
        if peer.number == 1:
            await give(peer, 2)
        await begin(peer)
        assert {(await peer.receive())["id"], (await peer.receive())["id"]} == {first, second}
        await peer.send(STORED | {"id": "abcdefghijkl-3"}, STORED | {"id": second})
        await stored.wait()
        await peer.send({"type": "status", "status": "error", "code": "x", "message": "gone", "id": first})
        await peer.stay()

    async with service(talk) as url, at(url) as events:
        one, two = await take(events, 2)
        waiting = asyncio.create_task(one.respond())
        await two.respond()
        assert not waiting.done()
        stored.set()
        with pytest.raises(Rejected, match="gone"):
            await waiting


def test_an_answer_that_is_too_big_and_given_up_is_no_other_one() -> None:
    """The relay closes over it; the one that was sent behind it is sent again, and stored."""
    received: list[tuple[int, str]] = []
    cancelled = asyncio.Event()

    async def talk(peer: Peer) -> None:
        if peer.number == 1:
            await give(peer, 2)
        await begin(peer)
        received.append((peer.number, (await peer.receive())["id"]))
        if peer.number == 2:
            received.append((2, (await peer.receive())["id"]))
            await cancelled.wait()
            await peer.socket.close(1009)
        await peer.send(STORED)
        await peer.stay()

    run(the_first_is_given_up(talk, received, cancelled))
    assert received == [(2, "abcdefghijkl-1"), (2, "abcdefghijkl-2"), (3, "abcdefghijkl-2")]


@client_test
async def test_an_answer_that_is_too_big_behind_another() -> None:
    """The relay may close over it before it has said that the other one is stored, which is sent again."""
    async with service(closing(2, 1009)) as url, at(url) as events:
        one, two = await take(events, 2)
        first = asyncio.create_task(one.respond())
        with pytest.raises(Rejected, match="too big"):
            await two.respond(200, b"large")
        await first


@client_test
async def test_an_answer_that_is_given_up_before_its_turn_is_not_sent() -> None:
    """While the one before it waits for the network: else the word about it would count for the one behind it."""
    go = asyncio.Event()

    async def talk(peer: Peer) -> None:
        if peer.number == 1:
            await give(peer, 3)
        await begin(peer)
        peer.socket.transport.pause_reading()
        await go.wait()
        peer.socket.transport.resume_reading()
        refused = {"type": "status", "status": "error", "code": "not_found", "message": "gone"}
        async for text in peer.socket:
            await peer.send(refused if "abcdefghijkl-3" in str(text) else STORED)

    async with service(talk) as url, at(url) as events:
        one, two, three = await take(events, 3)
        assert events._core is not None
        answers = events._core._answers
        large = [asyncio.create_task(one.respond(200, b"x" * 600_000)) for _ in range(20)]
        await until(lambda: len(answers._waiting) == 20 and answers._waiting[0].sent, "the first")
        assert not answers._waiting[-1].sent
        large.pop().cancel()
        await until(lambda: len(answers._waiting) == 19, "one that is given up")
        second, third = asyncio.create_task(two.respond()), asyncio.create_task(three.respond())
        await until(lambda: len(answers._waiting) == 21, "the others")
        go.set()
        await asyncio.gather(*large, second)
        with pytest.raises(Rejected, match="gone"):
            await third


@client_test
async def test_where_nothing_waits_nothing_is_dialled() -> None:
    """A connection for answers that ends is made again for the next answer, and not before."""
    numbers: list[int] = []

    async def talk(peer: Peer) -> None:
        numbers.append(peer.number)
        if peer.number == 1:
            await give(peer, 2)
        await begin(peer)
        await peer.receive()
        await peer.send(STORED)

    async with service(talk) as url, at(url) as events:
        one, two = await take(events, 2)
        await one.respond()
        await asyncio.sleep(5 * SOON.longest)
        assert numbers == [1, 2]
        await two.respond()
        assert numbers == [1, 2, 3]


@client_test
async def test_an_answer_that_was_refused_keeps_no_other_from_being_sent() -> None:
    """The next one gets a connection of its own."""
    async with service(closing(1, 4503, "because")) as url, at(url) as events:
        one, two = await take(events, 2)
        with pytest.raises(Refused, match="because"):
            await one.respond()
        await two.respond(timeout=10)


@client_test
async def test_the_connection_for_answers_ends_with_it() -> None:
    """Once the subscription is closed, nothing of it runs any more; who waits for an answer to be stored is told."""
    received = asyncio.Event()

    async def talk(peer: Peer) -> None:
        if peer.number == 1:
            await give(peer, 2)
        await begin(peer)
        await peer.receive()
        await peer.send(STORED)
        await peer.receive()
        received.set()
        await peer.stay()

    async with service(talk) as url, at(url) as events:
        one, two = await take(events, 2)
        await one.respond()
        waiting = asyncio.create_task(two.respond())
        await received.wait()
        await events.aclose()
        with pytest.raises(RelayClientError, match="closed"):
            await waiting
        assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("relay client")]


@client_test
async def test_nothing_of_a_dropped_subscription_stays() -> None:
    """Neither its connection for events nor that for answers; who still holds an event is told."""
    ended: list[int] = []

    async def talk(peer: Peer) -> None:
        if peer.number == 1:
            await give(peer, 1)
        else:
            await begin(peer)
            await peer.receive()
            await peer.send(STORED)
            await peer.stay()
        ended.append(peer.number)

    async with service(talk) as url:
        events = at(url, consumer="c")
        event = await anext(events)
        await event.respond()
        del events
        gc.collect()
        await until(lambda: len(ended) == 2, "the end of both connections")
        for doing in (event.ack(), event.nak(), event.respond()):
            with pytest.raises(RelayClientError, match="closed"):
                await doing
