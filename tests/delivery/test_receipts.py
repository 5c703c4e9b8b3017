"""relay_tornado/delivery/receipts.py: positions that are moved by the pongs of the client's library."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from relay_tornado.log.consumers import Key
from relay_tornado.log.ledgers import Ledger
from relay_tornado.model import Output
from relay_tornado.wire import control
from tests.delivery.durable import DURABLE, KEY, Client, client, with_client, with_row
from tests.delivery.virtual import START, virtual_test
from tests.delivery.virtual import event_loop as event_loop
from tests.delivery.world import TOKEN, Reader, World, quiet, stocked, until


@virtual_test
async def test_a_position_counts_when_the_next_ping_is_answered() -> None:
    """One interval after its own ping: the pong of ping k + 1 stores the position of ping k."""
    world, one = await with_client()
    await world.append(3)
    await asyncio.sleep(1.1)
    assert one.reader.seqs() == [1, 2, 3]
    assert len(one.reader.pings) == 1
    assert len(one.reader.pings[0]) == 8
    one.pong()
    assert await world.floor(KEY) == 0
    await world.append(2)
    await asyncio.sleep(1)
    assert len(one.reader.pings) == 2
    one.pong()
    assert await world.floor(KEY) == 3
    await asyncio.sleep(1)
    assert len(one.reader.pings) == 3, "once more after the last event"
    one.pong()
    assert await world.floor(KEY) == 5
    await asyncio.sleep(60)
    assert len(one.reader.pings) == 3, "and no more"
    assert len(set(one.reader.pings)) == 3
    assert one.reader.statuses() == [], "a stock client gets stock messages"


@virtual_test
async def test_without_pongs_nothing_counts() -> None:
    """An event that the library never read is sent again; few pings wait for their pong."""
    world, one = await with_client()
    for _ in range(20):
        await world.append(1)
        await asyncio.sleep(1)
    assert len(one.reader.seqs()) == 20
    assert len(one.reader.pings) == 4
    one.delivery.ponged(b"")
    one.delivery.ponged(b"12345678")
    assert await world.floor(KEY) == 0
    one.pong(0)
    assert await world.floor(KEY) == 0, "the pong of its own ping, with later ones under way"
    one.leave()
    again = await client(world, "orders")
    await until(lambda: len(again.reader.seqs()) == 20)
    # A library may answer the last of several pings only.
    await world.append(1)
    await asyncio.sleep(3)
    again.pong()
    assert await world.floor(KEY) == 21


@virtual_test
async def test_pings_while_events_flow() -> None:
    """At most one a second, however many events."""
    world, one = await with_client()
    for _ in range(100):
        await world.append(5)
        await one.answer(0.1)
    assert len(one.reader.pings) in (9, 10, 11)
    assert await world.floor(KEY) >= 350
    await one.answer(3)
    assert await world.floor(KEY) == 500


@virtual_test
async def test_the_furthest_receipt_wins() -> None:
    """Receipt consumers never share: each connection gets everything, and a slow one moves nothing back."""
    world = await stocked(0)
    await with_row(world)
    fast, slow = await client(world, "orders"), await client(world, "orders")
    assert world.deliveries.connections(KEY) == 2
    await world.append(4)
    await asyncio.sleep(2.5)
    assert fast.reader.seqs() == slow.reader.seqs() == [1, 2, 3, 4]
    fast.pong()
    assert await world.floor(KEY) == 4
    await world.append(2)
    await asyncio.sleep(2.5)
    fast.pong()
    assert await world.floor(KEY) == 6
    slow.pong(1)
    assert await world.floor(KEY) == 6
    third = await client(world, "orders")
    await world.append(1)
    await quiet()
    assert third.reader.seqs() == [7]


@virtual_test
async def test_a_bucket_made_later_is_read_from_its_first_event() -> None:
    """Also where the client comes long after; one that was there before the token begins at the head."""
    world = World()
    await world.bucket("old")
    await world.append(3, "id-old")
    await world.bucket("young", created_at=START + 1)
    await world.append(3, "id-young")
    one = await client(world)
    await quiet()
    assert one.reader.seqs("old") == []
    assert one.reader.seqs("young") == [1, 2, 3]
    await world.bucket("new", created_at=START + 2)
    await world.append(2, "id-new")
    await quiet()
    assert one.reader.seqs("new") == [1, 2]
    await one.answer(3)
    assert await world.floor(KEY._replace(bucket_id="id-new")) == 2
    assert await world.floor(KEY._replace(bucket_id="id-young")) == 3


@virtual_test
async def test_whole_events_count() -> None:
    """A page that is being written is not counted, and both copies are out before a position is."""
    world = World()
    await world.bucket(outputs=tuple(Output(f"o{n}", n, f"o{n}", 0, 0, internal=True) for n in (1, 2)))
    await with_row(world)
    one = await client(world, "orders")
    await quiet()
    await world.append(1)
    await asyncio.sleep(2.5)
    one.pong()
    assert await world.floor(KEY) == 1
    one.reader.paused = True
    await world.append(1)
    await asyncio.sleep(2.5)
    assert len(one.reader.pings) == 2, "what the client has not taken has no ping"
    one.reader.resume()
    await one.answer(3)
    assert one.reader.ids() == ["1-1", "1-2", "2-1", "2-2"]
    assert await world.floor(KEY) == 2


@virtual_test
async def test_what_is_passed_over_counts() -> None:
    """Events that go nowhere move the position, too."""
    world, one = await with_client(stream=False)
    await world.append(3)
    await one.answer(3)
    assert one.reader.messages == []
    assert await world.floor(KEY) == 3


@virtual_test
async def test_a_seek_reaches_who_is_connected() -> None:
    """It gets everything from there; pongs to pings of before count for nothing."""
    world, one = await with_client()
    await world.append(5)
    await one.answer(3)
    assert await world.floor(KEY) == 5
    await world.append(2)
    await asyncio.sleep(2.5)
    async with world.ledgers.using(KEY) as ledger:
        ledger.progress.seek(2)
        ledger.tell()
    await quiet()
    assert one.reader.seqs() == [1, 2, 3, 4, 5, 6, 7, 3, 4, 5, 6, 7]
    one.pong()
    assert await world.floor(KEY) == 2
    one.answered = len(one.reader.pings)
    await one.answer(3)
    assert await world.floor(KEY) == 7


@virtual_test
async def test_what_is_read_once_more_counts_once_more() -> None:
    """Also where everything was read, and nothing new comes."""
    world, one = await with_client()
    await world.append(5)
    await one.answer(5)
    assert await world.floor(KEY) == 5
    async with world.ledgers.using(KEY) as ledger:
        ledger.progress.seek(2)
        ledger.tell()
    await one.answer(5)
    assert one.reader.seqs() == [1, 2, 3, 4, 5, 3, 4, 5]
    assert await world.floor(KEY) == 5


@virtual_test
async def test_a_bucket_that_is_deleted_as_its_consumer_is_moved() -> None:
    """Delivery goes on in the others: there is nowhere to go any more."""
    world = await stocked(0)
    await world.bucket("others")
    await with_row(world)
    one = await client(world)
    await world.append(3)
    await quiet()
    async with world.ledgers.using(KEY) as ledger:
        ledger.progress.seek(1)
        ledger.tell()
    await world.delete("id-orders")
    await world.append(1, "id-others")
    await until(lambda: one.reader.seqs("others") == [1], turns=500)
    assert one.reader.ends == []


@pytest.mark.parametrize("how", ["is cut", "unsubscribes", "may have none"])
@virtual_test
async def test_who_leaves_as_it_gets_a_consumer_has_none(how: str) -> None:
    """A bucket that is ephemeral no longer has one for the durable token whose client is just going, and none if it is
    ephemeral again by then."""
    world = await stocked(0, ephemeral=True)
    one = await client(world, "orders")
    await quiet()
    await with_row(world)
    opened, left = world.ledgers.open, asyncio.Event()

    async def slow(key: Key, *how_: Any) -> Ledger:
        ledger = await opened(key, *how_)
        if how == "is cut":
            one.leave()
        elif how == "unsubscribes":
            one.delivery.unsubscribe(control.Unsubscribe(("orders",)))
        else:
            await world.change(ephemeral=True)
        left.set()
        return ledger

    world.ledgers.open = slow  # type: ignore[method-assign]
    await world.change(ephemeral=False)
    await until(left.is_set, turns=500)
    await quiet()
    assert one.reader.closed == (how == "is cut")
    assert world.ledgers.find(KEY) is None


@virtual_test
async def test_who_has_left_leaves_nothing_behind() -> None:
    """Whoever stays on the consumer keeps nothing of them; and when the last one has left nobody does."""
    world, one = await with_client()
    ledger = world.ledgers.find(KEY)
    assert ledger is not None
    for _ in range(3):
        other = await client(world, "orders")
        await world.append(1)
        await other.answer(2)
        other.leave()
    assert len(ledger._watchers) == 1
    one.leave()
    everybody = world.deliveries._receipts
    assert not any((ledger._watchers, everybody._held, everybody._heads, everybody._active))


@virtual_test
async def test_a_named_receipt_consumer() -> None:
    """Without a durable token: the answer tells of it, `since` counts where it is made, deletion is told."""
    world = await stocked(3)
    key = Key("id-orders", "client", "w")
    fields: dict[str, Any] = {"consumer": "w", "ack": "receipt", "token": TOKEN}
    one = await client(world, "orders", since={"last": 2}, **fields)
    epoch = await world.epoch()
    assert one.answers[0]["consumer"] == {
        "name": "w", "ack": "receipt", "floor": f"{epoch}-1", "pending": 2, "ack_wait": None, "max_deliver": None,
    }  # fmt: skip
    await one.answer(3)
    assert await world.floor(key) == 3
    one.leave()
    again = await client(world, "orders", since="earliest", **fields)
    assert again.answers[0]["start"] == 4
    await world.ledgers.delete(key)
    await world.append(1)
    await again.answer(3)
    assert again.reader.seqs() == [4]
    assert "consumer_deleted" in [each["status"] for each in again.reader.statuses()]
    assert await world.consumers.get(key) is None


@virtual_test
async def test_a_token_that_is_made_durable_under_its_client() -> None:
    """The client has no receipts until it subscribes again: then it goes on where it is."""
    world = await stocked(0)
    one = await client(world, "orders", token=replace(DURABLE, durable=False))
    await world.append(3)
    await quiet()
    await with_row(world, 1)
    again = Client(world, *await world.subscribe("orders", reader=one.reader, replaces=one.delivery, token=DURABLE))
    await world.append(1)
    await quiet()
    assert again.reader.seqs() == [1, 2, 3, 4]
    await again.answer(3)
    assert await world.floor(KEY) == 4


@virtual_test
@pytest.mark.parametrize("others", [True, False])
async def test_a_late_pong_undoes_no_seek(others: bool) -> None:
    """Of who has left the consumer it counts for nothing, whether others have it or nobody does."""
    world, one = await with_client()
    if others:
        await client(world, "orders")
    await world.append(5)
    await asyncio.sleep(3)
    assert len(one.reader.pings) == 2
    one.delivery.unsubscribe(control.Unsubscribe(("orders",)))
    async with world.ledgers.using(KEY) as ledger:
        ledger.progress.seek(2)
        ledger.tell()
    one.pong()
    assert await world.floor(KEY) == 2


@virtual_test
async def test_no_ephemeral_bucket_has_one() -> None:
    """It is read as ever, also one that is made later."""
    world = World()
    await world.bucket("brief", ephemeral=True, created_at=START + 1)
    one = await client(world)
    await world.append(1, "id-brief")
    await world.bucket("later", ephemeral=True, created_at=START + 1)
    await world.append(1, "id-later")
    await one.answer(2)
    assert one.reader.seqs("brief") == [1]
    assert one.reader.seqs("later") == [1]
    assert one.reader.pings == []


@virtual_test
async def test_a_bucket_that_is_ephemeral_no_longer_has_one() -> None:
    """On the connection that reads it, too: what comes from then on is read by receipt, until it is ephemeral again."""
    world = await stocked(0, ephemeral=True)
    one = await client(world, extended=True)
    await world.append(2)
    await one.answer(2)
    await with_row(world, 2)
    await world.change(ephemeral=False)
    await world.append(1)
    await one.answer(3)
    assert one.reader.seqs() == [1, 2, 3]
    assert await world.floor(KEY) == 3
    assert world.deliveries.connections(KEY) == 1
    await world.change(ephemeral=True)
    await world.ledgers.delete(KEY)
    await world.append(1)
    await one.answer(2)
    assert one.reader.seqs() == [1, 2, 3, 4]
    assert [each["status"] for each in one.reader.statuses()] == ["caught_up", "consumer_deleted"]
    await world.change(description="other")
    await with_row(world, 4)
    await world.change(ephemeral=False)
    await world.append(1)
    await one.answer(3)
    assert await world.floor(KEY) == 5
    one.leave()
    assert world.ledgers.find(KEY) is None


@virtual_test
async def test_who_has_no_receipts_costs_nothing() -> None:
    """No clock runs; and where the last one left, it stops."""
    world = await stocked(0)
    await world.subscribe("orders")
    assert world.deliveries._receipts._timer.at is None
    await with_row(world)
    some = [await client(world, "orders") for _ in range(50)]
    assert world.deliveries._receipts._timer.at is not None
    await world.append(1)
    for each in some:
        await each.answer(0.1)
    await asyncio.sleep(2)
    for each in some:
        await each.answer(0.1)
    await asyncio.sleep(2)
    assert not world.deliveries._receipts._active, "nobody is looked at while nothing comes"
    for each in some:
        each.leave()
    assert world.deliveries._receipts._timer.at is None
    assert not world.deliveries._receipts._held
    assert world.ledgers.find(KEY) is None


@virtual_test
@pytest.mark.parametrize("pinging", [True, False])
async def test_where_there_are_no_pings_a_durable_token_has_no_position(pinging: bool) -> None:
    """A reader of server-sent events keeps its position by itself."""
    world = await stocked(0)
    await with_row(world)
    await world.append(2)
    reader = Reader()
    delivery, _ = await world.deliveries.subscribe(
        reader, control.Subscribe(("orders",)), DURABLE, extended=False, ping=reader.ping if pinging else None
    )
    delivery.start()
    await quiet()
    assert reader.seqs() == ([1, 2] if pinging else [])
