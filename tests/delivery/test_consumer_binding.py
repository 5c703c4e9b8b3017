"""relay_tornado/delivery/consumer_binding.py: consumers whose token or bucket goes while they are opened."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from relay_tornado.errors import Conflict, NoSpace, Unavailable
from relay_tornado.log.consumers import Key, Stored, Terms
from relay_tornado.log.ledgers import Ledger
from relay_tornado.model import Token
from tests.delivery import workers
from tests.delivery.durable import DURABLE, KEY
from tests.delivery.virtual import event_loop as event_loop
from tests.delivery.virtual import virtual_test
from tests.delivery.world import World, judged_later, quiet, stocked, until


async def durable() -> World:
    """A bucket, and a durable token that has no position in it yet."""
    world = await stocked(0)
    await world.registry.put("token", DURABLE.key, DURABLE)
    return world


@pytest.mark.parametrize("changed", [None, replace(DURABLE, durable=False)])
@virtual_test
async def test_a_token_that_is_revoked_or_no_longer_durable_leaves_nothing_behind(changed: Token | None) -> None:
    """Also where its client subscribes at that moment: what it was about to make is not there afterwards."""
    world = await durable()
    opened = world.ledgers.open

    async def meanwhile(key: Key, *how: Any) -> Ledger:
        if how:
            if changed is None:
                await world.registry.delete("token", DURABLE.key)
            else:
                await world.registry.put("token", DURABLE.key, changed)
            await world.ledgers.delete(KEY)
        return await opened(key, *how)

    world.ledgers.open = meanwhile  # type: ignore[method-assign]
    _, delivery, (answer,) = await world.subscribe("orders", token=DURABLE)
    assert "consumer" not in answer
    assert await world.consumers.get(KEY) is None
    assert world.ledgers.find(KEY) is None
    world.deliveries.end(delivery)


@pytest.mark.parametrize("there", [True, False])
@virtual_test
async def test_a_bucket_that_is_deleted_meanwhile_ends_in_itself(there: bool) -> None:
    """Whether its consumer is made at that moment, or is put on other terms: the client has the other buckets."""
    world = await stocked(0)
    await world.bucket("others")
    if there:
        await world.consumers.create(Key("id-orders", "client", "w"), 0, Terms(), 0.0)
    create = world.consumers.create

    async def late(key: Key, *how: Any) -> Stored:
        if key.bucket_id == "id-orders":
            await world.delete(key.bucket_id)
        return await create(key, *how)

    world.consumers.create = late  # type: ignore[method-assign]
    reader, delivery, answers = await world.subscribe("orders", "others", consumer="w", ack_wait=5)
    await world.append(1, "id-others")
    await until(lambda: reader.seqs("others") == [1], turns=500)
    said = [*answers, *reader.statuses()]
    ended = [
        each["bucket_name"] for each in said if {"not_found", "bucket_deleted"}.intersection(map(str, each.values()))
    ]
    assert ended == ["orders"]
    assert reader.ends == []
    world.deliveries.end(delivery)


@virtual_test
async def test_a_bucket_that_is_deleted_as_it_joins_ends_in_itself() -> None:
    """Delivery goes on in the others, and nothing is said to have failed."""
    world = World()
    await world.bucket("others")
    reader, delivery, _ = await world.subscribe(consumer="w")
    create = world.consumers.create

    async def late(key: Key, *how: Any) -> Stored:
        await world.delete(key.bucket_id)
        return await create(key, *how)

    world.consumers.create = late  # type: ignore[method-assign]
    await world.bucket()
    await world.append(1, "id-others")
    await until(lambda: reader.seqs("others") == [1] and not delivery.busy, turns=500)
    assert reader.ends == []
    assert "id-orders" not in delivery.positions()
    world.deliveries.end(delivery)


@virtual_test
@pytest.mark.parametrize("fields", [{}, {"consumer": "w"}, {"consumer": "w", "ack": "receipt"}])
async def test_who_leaves_as_a_bucket_joins_is_not_in_it(fields: dict[str, str]) -> None:
    """Nobody waits for it, and it has no consumer open."""
    world = World()
    _, delivery, _ = await world.subscribe(**fields)
    gate = judged_later(world)
    await world.bucket()
    await quiet()
    world.deliveries.end(delivery)
    gate.set()
    await world.append(1)
    await quiet()
    assert world.deliveries.lag() == {}
    assert world.ledgers.find(workers.KEY) is None


@virtual_test
async def test_a_new_consumer_costs_no_look_at_all_the_others() -> None:
    """A bucket may have a thousand, each made by a client of its own: they are counted, and not read."""
    world = await stocked(0)

    async def read(*_: Any, **__: Any) -> list[Stored]:
        raise AssertionError("all were read")

    world.consumers.list = read  # type: ignore[method-assign]
    _, delivery, (answer,) = await world.subscribe("orders", consumer="w")
    assert answer["consumer"]["name"] == "w"
    world.deliveries.end(delivery)


@virtual_test
async def test_what_a_revoked_token_leaves_for_want_of_a_disk_is_in_nobodys_hands() -> None:
    """The subscribe fails, and nobody has the consumer open after it, as if it were given its events."""
    world = await durable()
    create = world.consumers.create

    async def full(key: Key) -> bool:
        raise NoSpace("the disk is full")

    async def revoked(*how: Any) -> Stored:
        world.consumers.delete = full  # type: ignore[method-assign]
        await world.registry.delete("token", DURABLE.key)
        return await create(*how)

    world.consumers.create = revoked  # type: ignore[method-assign]
    with pytest.raises(NoSpace):
        await world.subscribe("orders", token=DURABLE)
    assert await world.consumers.get(KEY) is not None
    assert world.ledgers.find(KEY) is None


@virtual_test
async def test_a_consumer_that_another_client_makes_with_other_acks_meanwhile() -> None:
    """The first subscribe has ended by then: the client has to come back, and is not left without delivery."""
    world = await stocked(0)
    reader, first, _ = await world.subscribe("orders")
    await quiet()
    opened = world.ledgers.open

    async def late(key: Key, *how: Any) -> Ledger:
        if how:
            await opened(key, 0, Terms())
        return await opened(key, *how)

    world.ledgers.open = late  # type: ignore[method-assign]
    with pytest.raises(Unavailable):
        await world.subscribe("orders", reader=reader, replaces=first, consumer="w", ack="receipt")
    with pytest.raises(Conflict):
        await world.subscribe("orders", consumer="w", ack="receipt")
