"""relay_tornado/delivery: an operator's seek of a receipt consumer while a client of it is being placed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from relay_tornado.delivery import consumer_binding
from tests.delivery.virtual import event_loop as event_loop
from tests.delivery.virtual import virtual_test
from tests.delivery.workers import KEY
from tests.delivery.world import Reader, World, until


async def _read(world: World) -> tuple[Reader, Any]:
    """A client of a receipt consumer that has read five events, and whose receipts have come."""
    await world.bucket()
    await world.append(5)
    reader, delivery, _ = await world.subscribe("orders", consumer="w", ack="receipt", since="earliest")
    await until(lambda: len(reader.seqs()) == 5)
    await _answer(reader, delivery)
    return reader, delivery


async def _answer(reader: Reader, delivery: Any) -> None:
    for _ in range(3):
        await asyncio.sleep(1)
        if reader.pings:
            delivery.ponged(reader.pings[-1])


def _seek_while_placed(monkeypatch: pytest.MonkeyPatch, world: World, *, before: bool) -> None:
    """The operator moves the consumer behind the second event, `before` or after its place was judged."""
    place_all, agree = consumer_binding.place_all, consumer_binding._agree

    def seek() -> None:
        ledger = world.ledgers.find(KEY)
        assert ledger is not None
        ledger.progress.seek(2)
        ledger.save()
        ledger.tell()

    async def agreed(*arguments: Any) -> None:
        await agree(*arguments)
        if before:
            seek()

    async def placed(*arguments: Any, **fields: Any) -> Any:
        placements = await place_all(*arguments, **fields)
        if not before:
            seek()
        return placements

    monkeypatch.setattr(consumer_binding, "_agree", agreed)
    monkeypatch.setattr(consumer_binding, "place_all", placed)


@virtual_test
@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("again", [False, True])
async def test_a_seek_while_a_client_is_placed(monkeypatch: pytest.MonkeyPatch, before: bool, again: bool) -> None:
    """The client gets what the operator wants it to get, whether it comes back or subscribes a second time."""
    world = World()
    reader, delivery = await _read(world)
    assert await world.floor(KEY) == 5
    if not again:
        world.deliveries.end(delivery)
    reader = Reader()
    _seek_while_placed(monkeypatch, world, before=before)
    replaces = delivery if again else None
    _, second, _ = await world.subscribe("orders", reader=reader, replaces=replaces, consumer="w", ack="receipt")
    await until(lambda: reader.seqs() == [3, 4, 5])
    assert await world.floor(KEY) == 2
    await _answer(reader, second)
    assert await world.floor(KEY) == 5


@virtual_test
async def test_a_deletion_while_a_client_is_placed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events go on coming, as to those who are connected, and no position is kept any more."""
    world = World()
    reader, delivery = await _read(world)
    world.deliveries.end(delivery)
    place_all = consumer_binding.place_all

    async def placed(*arguments: Any, **fields: Any) -> Any:
        placements = await place_all(*arguments, **fields)
        await world.ledgers.delete(KEY)
        return placements

    monkeypatch.setattr(consumer_binding, "place_all", placed)
    reader, second, _ = await world.subscribe("orders", consumer="w", ack="receipt")
    await world.append(2)
    await until(lambda: reader.seqs() == [6, 7])
    assert world.deliveries.connections(KEY) == 0
    await until(lambda: "consumer_deleted" in [each["status"] for each in reader.statuses()])
    await _answer(reader, second)
    assert await world.consumers.get(KEY) is None
