"""relay_tornado/delivery/keeping.py: a durable token's consumers, where the token goes meanwhile."""

from __future__ import annotations

from typing import Any

import pytest

from relay_tornado.errors import NoSpace
from relay_tornado.log.consumers import Key, Stored
from relay_tornado.log.ledgers import Ledger
from tests.delivery.test_receipts import DURABLE, KEY
from tests.delivery.virtual import day, virtual_test
from tests.delivery.virtual import event_loop as event_loop
from tests.delivery.world import World


async def durable() -> World:
    """A bucket, and a durable token that has no position in it yet."""
    world = World(clock=day)
    await world.bucket()
    await world.registry.put("token", DURABLE.key, DURABLE)
    return world


@virtual_test
async def test_a_token_that_is_revoked_leaves_nothing_behind() -> None:
    """Also where its client subscribes at that moment: what it was about to make is not there afterwards."""
    world = await durable()
    opened = world.ledgers.open

    async def revoked(key: Key, *how: Any) -> Ledger:
        if how:
            await world.registry.delete("token", DURABLE.key)
            await world.ledgers.delete(KEY)
        return await opened(key, *how)

    world.ledgers.open = revoked  # type: ignore[method-assign]
    _, delivery, (answer,) = await world.subscribe("orders", token=DURABLE)
    assert "consumer" not in answer
    assert await world.consumers.get(KEY) is None
    assert world.ledgers.find(KEY) is None
    world.deliveries.end(delivery)


@virtual_test
async def test_a_new_consumer_costs_no_look_at_all_the_others() -> None:
    """A bucket may have a thousand, each made by a client of its own: they are counted, and not read."""
    world = World()
    await world.bucket()

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
