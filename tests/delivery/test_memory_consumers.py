"""Consumers, where memory is short as somebody takes part in one."""

from __future__ import annotations

import asyncio
from typing import NoReturn

import pytest

from relay_tornado.delivery.bound_consumers import BoundConsumers
from relay_tornado.delivery.consumer_binding import ConsumerBinding, open_bound
from relay_tornado.delivery.deliver import Delivery
from relay_tornado.delivery.group import Group
from relay_tornado.delivery.receipts import Receipt, Receipts
from relay_tornado.log.ledgers import Ledger, Ledgers
from tests.delivery.virtual import event_loop as event_loop
from tests.delivery.virtual import virtual_test
from tests.delivery.workers import KEY, worker
from tests.delivery.world import stocked, until
from tests.failing import once


@virtual_test
@pytest.mark.parametrize(
    ("of", "step"), [(Delivery, "take"), (BoundConsumers, "enter"), (Group, "join"), (Group, "_wake")]
)
async def test_a_subscribe_that_fails(monkeypatch: pytest.MonkeyPatch, of: type, step: str) -> None:
    """Nobody has the consumer in use then, and the next one gets its events."""
    world = await stocked(1)
    monkeypatch.setattr(of, step, once(getattr(of, step)))
    with pytest.raises(MemoryError):
        await worker(world)
    assert world.deliveries.subscribers == world.deliveries.connections(KEY) == 0
    assert world.ledgers.find(KEY) is None
    one = await worker(world)
    await until(lambda: one.seqs == [1])
    assert one.ack(1)
    assert await world.floor(KEY) == 1


@virtual_test
async def test_a_consumer_that_can_not_be_noted() -> None:
    """Nobody would close it later, so it is closed at once."""

    class Full(dict):  # type: ignore[type-arg]
        def __setitem__(self, *_: object) -> NoReturn:
            raise MemoryError

    world = await stocked(1)
    binding = ConsumerBinding(KEY.kind, KEY.name, receipt=False)
    with pytest.raises(MemoryError):
        await open_bound(world.ledgers, binding, KEY.bucket_id, Full(), 0, binding.terms())
    assert world.ledgers.find(KEY) is None


@virtual_test
@pytest.mark.parametrize(("of", "step"), [(Group, "_failed"), (Group, "_close"), (Ledgers, "close")])
async def test_an_end_that_fails(monkeypatch: pytest.MonkeyPatch, of: type, step: str) -> None:
    """It may be repeated, and then nobody has the consumer in use; what was out comes again."""
    world = await stocked(1)
    one = await worker(world)
    await until(lambda: one.seqs == [1])
    monkeypatch.setattr(of, step, once(getattr(of, step)))
    with pytest.raises(MemoryError):
        world.deliveries.end(one.delivery)
    world.deliveries.end(one.delivery)
    assert world.deliveries.subscribers == world.deliveries.connections(KEY) == 0
    assert world.ledgers.find(KEY) is None
    other = await worker(world)
    await until(lambda: other.seqs == [1])
    assert other.tries() == [(1, 2)]


@virtual_test
@pytest.mark.parametrize(("of", "step"), [(Receipts, "add"), (Ledger, "watch"), (BoundConsumers, "_astray")])
async def test_a_subscribe_by_receipt_that_fails(monkeypatch: pytest.MonkeyPatch, of: type, step: str) -> None:
    """Nobody has the consumer in use then, and the next one gets its events and has them acknowledged."""
    world = await stocked(3)
    monkeypatch.setattr(of, step, once(getattr(of, step)))
    with pytest.raises(MemoryError):
        await worker(world, ack="receipt")
    assert not world.deliveries._receipts._held
    assert world.ledgers.find(KEY) is None
    one = await worker(world, ack="receipt")
    await until(lambda: one.seqs == [1, 2, 3])
    for _ in range(3):
        await asyncio.sleep(1)
        one.read()
    assert await world.floor(KEY) == 3


@virtual_test
@pytest.mark.parametrize(
    ("of", "step"), [(Receipts, "remove"), (Ledger, "leave"), (Ledger, "save"), (Ledgers, "close")]
)
async def test_an_end_by_receipt_that_fails(monkeypatch: pytest.MonkeyPatch, of: type, step: str) -> None:
    """It may be repeated: then nobody has the consumer in use, no clock runs, and what was not read comes again."""
    world = await stocked(3)
    one = await worker(world, ack="receipt")
    await until(lambda: one.seqs == [1, 2, 3])
    monkeypatch.setattr(of, step, once(getattr(of, step)))
    with pytest.raises(MemoryError):
        world.deliveries.end(one.delivery)
    world.deliveries.end(one.delivery)
    assert not world.deliveries._receipts._held
    assert world.deliveries._receipts._timer.at is None
    assert world.ledgers.find(KEY) is None
    other = await worker(world, ack="receipt")
    await until(lambda: other.seqs == [1, 2, 3])


@virtual_test
@pytest.mark.parametrize("step", ["_ping", "tick"])
async def test_a_ping_that_fails(monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """Another one goes out in its place, though nothing new comes: what was read is known."""
    world = await stocked(3)
    one = await worker(world, ack="receipt")
    await until(lambda: one.seqs == [1, 2, 3])
    receipt = one.delivery.consumers._receipt
    of = receipt if step == "_ping" else Receipt
    monkeypatch.setattr(of, step, once(getattr(of, step)))
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    for _ in range(4):
        await asyncio.sleep(1)
        one.read()
    assert await world.floor(KEY) == 3
