"""A client of a consumer by receipt, whose connections end at any moment: it misses nothing untold."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from relay_tornado.delivery.deliver import Delivery
from relay_tornado.log.consumers import Key
from relay_tornado.model import Retention
from tests.delivery.virtual import run
from tests.delivery.world import Reader, World, quiet

KEY = Key("id-orders", "client", "r")


class Client:
    """One program and its connections, one after the other. `begun`: the first event that it was to get; `had`: what it
    read; `told`: what it was told is missing."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.begun = 0
        self.had: set[int] = set()
        self.told: set[int] = set()
        self.on: tuple[Reader, Delivery] | None = None
        self._read = self._answered = 0

    async def connect(self) -> None:
        """On a new connection, or once more on the one that there is."""
        how: dict[str, Any] = {"consumer": "r", "ack": "receipt", "since": "earliest", "extended": True}
        if self.on is None:
            reader, delivery, (answer,) = await self.world.subscribe(
                "orders", reader=Reader(self.world.log.chance), **how
            )
            self._read = self._answered = 0
        else:
            self.read()
            reader, before = self.on
            _, delivery, (answer,) = await self.world.subscribe("orders", reader=reader, replaces=before, **how)
        self.begun = self.begun or answer["start"]
        self._missing(answer["gap"])
        self.on = (reader, delivery)

    def read(self) -> None:
        """Its library reads what has come."""
        assert self.on is not None
        messages = self.on[0].messages
        for each in messages[self._read :]:
            if each["type"] == "webhook":
                self.had.add(each["meta"]["seq"])
            elif each["status"] == "gap":
                self._missing(each["gap"])
        self._read = len(messages)

    def answer(self) -> None:
        """It reads, and answers the pings among that."""
        assert self.on is not None
        self.read()
        reader, delivery = self.on
        for payload in reader.pings[self._answered :]:
            delivery.ponged(payload)
        self._answered = len(reader.pings)

    def cut(self) -> None:
        """What it has not read is gone."""
        assert self.on is not None
        reader, delivery = self.on
        self.on = None
        reader.close()
        self.world.deliveries.end(delivery)

    def _missing(self, gap: dict[str, Any] | None) -> None:
        if gap is not None:
            self.told.update(range(gap["from"], gap["to"] + 1))


@given(seed=st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_every_event_is_read_or_told_to_be_missing(seed: int) -> None:
    """Connections come, go, subscribe again, hang; old events leave, time passes, the relay starts again."""

    async def test() -> None:
        chance = random.Random(seed)
        world = World(seed)
        await world.bucket()
        client, total = Client(world), 0
        for _ in range(120):
            paused = client.on is not None and client.on[0].paused
            match chance.randrange(9):
                case 0 | 1 | 2:
                    number = chance.randrange(1, 6)
                    total += number
                    await world.append(number)
                case 3 if not paused and (client.on is None or chance.random() < 0.3):
                    await client.connect()
                case 4 if client.on is not None:
                    if chance.random() < 0.5:
                        if chance.random() < 0.5:
                            client.read()
                        client.cut()
                    elif paused:
                        client.on[0].resume()
                    else:
                        client.on[0].paused = True
                case 5 if client.on is not None and not paused:
                    client.answer()
                case 6:
                    await asyncio.sleep(chance.choice((0, 0.4, 1.2, 3)))
                case 7 if chance.random() < 0.5:
                    await world.log.trim("id-orders", Retention(None, chance.randrange(12), None), None)
                    await quiet(chance.randrange(20))
                    world.ledgers.trimmed("id-orders", (await world.log.bounds("id-orders")).first)
                case 8 if chance.random() < 0.2:
                    if client.on is not None:
                        client.on[0].close()
                        client.on = None
                    world.restart()
            await quiet(chance.randrange(25))
        if client.on is None:
            await client.connect()
        assert client.on is not None
        client.on[0].resume()
        for _ in range(10):
            await asyncio.sleep(1.1)
            client.answer()
        assert {*client.had, *client.told} >= set(range(client.begun, total + 1))
        assert await world.floor(KEY) == total
        client.cut()
        await quiet()
        assert world.ledgers.find(KEY) is None
        assert world.deliveries.budget.outstanding == 0

    run(test)
