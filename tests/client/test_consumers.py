"""Consumers and durable tokens from the client's side, against a real relay."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from relay_tornado.client import Event, Notice, Rejected, Subscription, subscribe
from relay_tornado.client.core import Core
from relay_tornado.client.event import EventData
from tests.client.peer import ENTRY, Peer, at, service, webhook
from tests.client.world import SOON, Cable, World, bodies, client_test, take
from tests.waiting import until


@client_test
async def test_explicit_acks(shared: World) -> None:
    """What is acknowledged does not come again; what is given back comes again, with its attempt; the rest, too."""
    bucket = shared.bucket()
    shared.send(*"12345", bucket=bucket)
    async with shared.subscribe(bucket, since="earliest", consumer="worker") as events:
        got = await take(events, 5)
        assert bodies(got) == list("12345")
        await got[0].ack()
        await got[2].ack()
        await got[1].nak()
        again = await anext(events)
        assert (again.text, again.attempt) == ("2", 2)
        await again.done()
    async with shared.subscribe(bucket, consumer="worker") as events:
        left = await take(events, 2)
        assert bodies(left) == ["4", "5"]
        assert all(event.attempt == 2 for event in left)
        await left[1].ack(everything=True)
        shared.send("6", bucket=bucket)
        assert (await anext(events)).text == "6"


@client_test
async def test_two_share_the_work(shared: World) -> None:
    """Every event is handled by one of two clients; when one goes away, its events go to the other."""
    bucket = shared.bucket()
    handled: list[str] = []

    async def work(events: Subscription, gone: asyncio.Event | None = None) -> None:
        async for event in events:
            if gone is not None and len(handled) > 20:
                gone.set()
                await asyncio.Event().wait()
            await asyncio.sleep(0.001)
            handled.append(event.text)
            await event.ack()

    gone = asyncio.Event()
    options = {"consumer": "shared", "max_in_flight": 4, "since": "earliest"}
    async with shared.subscribe(bucket, **options) as first, shared.subscribe(bucket, **options) as second:
        tasks = [asyncio.create_task(work(first, gone)), asyncio.create_task(work(second))]
        await asyncio.to_thread(shared.send, *map(str, range(60)), bucket=bucket)
        await gone.wait()
        await first.aclose()
        await until(lambda: len(handled) >= 60, "the rest")
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert sorted(handled, key=int) == [str(number) for number in range(60)]


@client_test
async def test_acks_over_cuts_and_kills(world: World) -> None:
    """Across cuts of the connection and kills of the relay every event is handled, hardly one twice, none missed."""
    handled: list[str] = []
    async with (
        Cable(world.relay.port) as cable,
        world.subscribe(url=cable.url, since="earliest", consumer="c") as events,
    ):
        sending = asyncio.create_task(asyncio.to_thread(world.send, *map(str, range(40))))
        async for event in events:
            if len(handled) % 7 == 3:
                cable.cut()
            if len(handled) == 20:
                await sending
                await asyncio.to_thread(world.relay.restart)
            handled.append(event.text)
            await event.ack()
            if len(set(handled)) == 40:
                break
    assert sorted(set(handled), key=int) == [str(number) for number in range(40)]
    # What was acknowledged over a cut came again, and was kept from the application.
    assert len(handled) <= 42


@asynccontextmanager
async def cut_at_the_first(shared: World) -> AsyncIterator[tuple[str, Subscription, Core, Event]]:
    """A bucket with two events, a client of a consumer of it, and the first event, at which its connection was cut; the
    second was read ahead."""
    bucket = shared.bucket()
    shared.send("1", "2", bucket=bucket)
    async with (
        Cable(shared.relay.port) as cable,
        shared.subscribe(bucket, url=cable.url, since="earliest", consumer="c") as events,
    ):
        first = await anext(events)
        core = events._core
        assert core is not None
        await until(lambda: _ahead(core) == [1], "the second")
        cable.cut()
        yield bucket, events, core, first


@client_test
async def test_an_ack_after_a_cut_keeps_the_event_from_coming_again(shared: World) -> None:
    """The application was done with it: the relay is told when it sends the event again."""
    async with cut_at_the_first(shared) as (bucket, events, core, first):
        await until(lambda: core._link is None, "the cut")
        await first.ack()
        second = await anext(events)
        assert (second.text, second.attempt) == ("2", 2)
        await second.ack()
        shared.send("3", bucket=bucket)
        assert (await anext(events)).text == "3"
    async with shared.subscribe(bucket, consumer="c") as events:
        assert (await anext(events)).text == "3"


@client_test
async def test_an_ack_of_everything_after_a_cut_spares_what_was_not_taken() -> None:
    """What was read ahead on an earlier connection, and is given later, did not come before the event."""
    received, cut, taken, gone, acked = (asyncio.Event() for _ in range(5))

    async def talk(peer: Peer) -> None:
        await peer.welcome(buckets=[ENTRY])
        if peer.number == 1:
            await peer.send(*(webhook(f"abcdefghijkl-{seq}") for seq in (1, 2, 3)))
            await peer.send({"type": "status", "status": "error", "code": "x", "message": "all are sent"})
            await received.wait()
        elif peer.number == 2:
            await peer.send(webhook("abcdefghijkl-2", attempt=2))
            await taken.wait()
        else:
            await acked.wait()
            await peer.send(*(webhook(f"abcdefghijkl-{seq}", attempt=3) for seq in (3, 4)))
            await peer.stay()

    def told(notice: Notice) -> None:
        if notice.kind == "problem":
            received.set()
        elif notice.kind == "disconnected":
            (gone if taken.is_set() else cut).set()

    async with service(talk) as url, at(url, consumer="worker", on_notice=told) as events:
        await cut.wait()
        second = await anext(events)
        assert second.seq == 2
        taken.set()
        await gone.wait()
        await second.ack(everything=True)
        acked.set()
        assert (await anext(events)).seq == 3


@client_test
async def test_an_ack_of_everything_spares_what_came_again_and_was_not_taken() -> None:
    """An event that was given on an earlier connection comes again behind another one's: that one was not given yet."""
    acks: list[Any] = []
    received, heard = asyncio.Event(), asyncio.Event()

    async def talk(peer: Peer) -> None:
        await peer.welcome(buckets=[ENTRY])
        if peer.number == 1:
            await peer.send(*(webhook(f"abcdefghijkl-{seq}") for seq in (2, 4)))
            while len(acks) < 1:
                acks.append(await peer.receive())
            return
        await peer.send(*(webhook(f"abcdefghijkl-{seq}", attempt=2) for seq in (2, 3, 4)))
        await peer.send({"type": "status", "status": "error", "code": "x", "message": "all are sent"})
        while len(acks) < 2:
            acks.append(await peer.receive())
        heard.set()
        await peer.stay()

    def told(notice: Notice) -> None:
        if notice.kind == "problem":
            received.set()

    async with service(talk) as url, at(url, consumer="worker", on_notice=told) as events:
        second, fourth = await anext(events), await anext(events)
        await second.nak()
        await received.wait()
        await fourth.ack(everything=True)
        await heard.wait()
        assert [(await anext(events)).seq for _ in range(2)] == [2, 3]
    assert acks[1] == {"action": "ack", "id": "abcdefghijkl-4"}


@client_test
@pytest.mark.parametrize(("answer", "next"), [("ack", ("3", 1)), ("nak", ("1", 3))])
async def test_an_event_that_is_answered_once_it_came_again(shared: World, answer: str, next: tuple[str, int]) -> None:
    """The application had it at the cut, and answered it when the client had read it ahead: it does not get it again,
    unless it refused it."""
    async with cut_at_the_first(shared) as (bucket, events, core, first):
        await until(lambda: _ahead(core) == [2, 2], "both")
        await (first.ack() if answer == "ack" else first.nak(delay=0.5))
        second = await anext(events)
        assert (second.text, second.attempt) == ("2", 2)
        await second.ack()
        if answer == "ack":
            shared.send("3", bucket=bucket)
        third = await anext(events)
        assert (third.text, third.attempt) == next


@client_test
@pytest.mark.parametrize("cut", [True, False], ids=["cut", "late"])
async def test_an_ack_of_everything_is_of_what_came_again_too(shared: World, cut: bool) -> None:
    """The application had them before the event, so it gets none again: neither after a cut in its batch, nor if it
    takes longer than ack_wait."""
    bucket = shared.bucket()
    shared.send(*"1234", bucket=bucket)
    options = {"since": "earliest", "consumer": "c", "ack_wait": 60 if cut else 2}
    async with Cable(shared.relay.port) as cable, shared.subscribe(bucket, url=cable.url, **options) as events:
        got = await take(events, 3)
        core = events._core
        assert core is not None
        if cut:
            cable.cut()
        await until(lambda: _ahead(core).count(2) >= 3, "what it had")
        await got[2].ack(everything=True)
        left = await anext(events)
        assert left.text == "4"
        await left.ack()
        shared.send("5", bucket=bucket)
        assert (await anext(events)).text == "5"


def _ahead(core: Core) -> list[int]:
    """The tries of what is read ahead."""
    return [item.attempt for item, _ in core.intake._items if isinstance(item, EventData)]


@client_test
async def test_by_receipt(world: World) -> None:
    """The relay keeps the place by what was read; over its kills nothing is missed, and in one run nothing repeated."""
    got: list[Event] = []
    async with world.subscribe(since="earliest", consumer="reader", ack="receipt") as events:
        for turn in range(3):
            world.send(*(str(turn * 10 + number) for number in range(10)))
            got += await take(events, 10)
            await asyncio.to_thread(world.relay.restart)
        assert bodies(got) == [str(number) for number in range(30)]
    with pytest.raises(Rejected) as rejected:
        async with world.subscribe(consumer="rea/der", ack="receipt") as events:
            await anext(events)
    assert rejected.value.code == "invalid"


@client_test
@pytest.mark.parametrize("ack", ["receipt", "explicit"])
async def test_a_consumer_that_is_moved_back_after_a_cut(shared: World, ack: str) -> None:
    """`relay consumer seek` gives the events again, also those that came on an earlier connection."""
    bucket = shared.bucket()
    shared.send("1", "2", bucket=bucket)
    said: list[str] = []
    async with (
        Cable(shared.relay.port) as cable,
        shared.subscribe(
            bucket, url=cable.url, since="earliest", consumer="c", ack=ack,
            on_notice=lambda notice: said.append(notice.kind),
        ) as events,
    ):  # fmt: skip
        for event in await take(events, 2):
            if ack == "explicit":
                await event.ack()
        waiting = asyncio.ensure_future(anext(events))
        cable.cut()
        await until(lambda: "disconnected" in said and said[-1] == "caught_up", "the reconnect")
        await asyncio.to_thread(shared.relay.command, "consumer", "seek", bucket, "c", "--to", "earliest")
        assert [(await waiting).text, (await anext(events)).text] == ["1", "2"]


@client_test
@pytest.mark.parametrize("ack", ["receipt", "explicit"])
async def test_a_consumer_that_is_moved_back_while_its_client_is_away(
    shared: World, monkeypatch: pytest.MonkeyPatch, ack: str
) -> None:
    """By more than what a cut may have swallowed: all of it is given again, also what came right before the cut."""
    monkeypatch.setattr("relay_tornado.client.acks.SURE", 0.2)
    monkeypatch.setattr("relay_tornado.client.positions.SURE", 0.2)
    bucket = shared.bucket()
    shared.send("1", bucket=bucket)
    said: list[str] = []
    async with (
        Cable(shared.relay.port) as cable,
        shared.subscribe(
            bucket, url=cable.url, since="earliest", consumer="c", ack=ack,
            on_notice=lambda notice: said.append(notice.kind),
        ) as events,
    ):  # fmt: skip
        first = await anext(events)
        if ack == "explicit":
            await first.ack()
        await asyncio.sleep(0.5)
        await asyncio.to_thread(shared.send, "2", "3", bucket=bucket)
        for event in await take(events, 2):
            if ack == "explicit":
                await event.ack()
        cable.cut_after = 1  # so it stays away
        cable.cut()
        await until(lambda: "disconnected" in said, "the cut")
        await asyncio.to_thread(shared.relay.command, "consumer", "seek", bucket, "c", "--to", "earliest")
        cable.cut_after = None
        assert bodies(await take(events, 3)) == ["1", "2", "3"]


@client_test
async def test_a_durable_token_with_the_stock_protocol(world: World) -> None:
    """A client that can resume nothing by itself misses nothing, and gets nothing twice in one run."""
    key, secret = world.relay.create_token("--durable")
    async with subscribe(world.relay.url, key, secret, buckets="orders", extended=False, backoff=SOON) as events:
        waiting = asyncio.ensure_future(anext(events))
        core = events._core
        while core is None or core._link is None:
            await asyncio.sleep(0.005)
            core = events._core
        world.send("0")
        got = [await waiting]
        for turn in range(3):
            await asyncio.to_thread(world.relay.restart)
            world.send(*(str(turn * 5 + number) for number in range(1, 6)))
            got += await take(events, 5)
        assert bodies(got) == [str(number) for number in range(16)]
