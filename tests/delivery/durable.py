"""Stock clients with a durable token, whose position is moved by the pongs of their libraries, by a made-up clock."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from relay_tornado.log.consumers import Key, Terms
from tests.delivery.virtual import START, day
from tests.delivery.world import TOKEN, Subscriber, World, stocked

DURABLE = replace(TOKEN, durable=True, created_at=START)
KEY = Key("id-orders", "token", DURABLE.key)


class Client(Subscriber):
    """A stock client with a durable token: it reads, and its library answers pings when the test says so."""

    answered = 0
    """How many pings are answered."""

    def pong(self, number: int = -1) -> None:
        """Answers a ping; the last one where none is named."""
        self.delivery.ponged(self.reader.pings[number])

    async def answer(self, seconds: float) -> None:
        """Lets time pass, and answers every ping as it comes."""
        for _ in range(int(seconds * 10)):
            await asyncio.sleep(0.1)
            for payload in self.reader.pings[self.answered :]:
                self.delivery.ponged(payload)
            self.answered = len(self.reader.pings)


async def client(world: World, *buckets: str, **fields: Any) -> Client:
    fields = {"token": DURABLE} | fields
    if world.registry.get("token", DURABLE.key) is None:
        await world.registry.put("token", DURABLE.key, DURABLE)
    return Client(world, *await world.subscribe(*buckets, **fields))


async def with_client(**fields: Any) -> tuple[World, Client]:
    """A world with the bucket "orders", of these fields, and a client that is connected and whose position is kept."""
    world = await stocked(0, **fields)
    await with_row(world)
    return world, await client(world, "orders")


async def with_row(world: World, floor: int = 0, key: Key = KEY) -> None:
    """The row that was made when the token was made durable."""
    await world.consumers.create(key, floor, Terms(receipt=True), day())
