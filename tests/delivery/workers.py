"""Clients of a consumer, in a world whose clock is made up."""

from __future__ import annotations

import asyncio
from typing import Any

from relay_tornado.log.consumers import Key
from relay_tornado.model import Cursor, Output
from relay_tornado.wire.acks import Ack, Nak
from tests.delivery.world import Subscriber, World

KEY = Key("id-orders", "client", "w")


class Worker(Subscriber):
    """A client of a consumer with explicit acks."""

    @property
    def seqs(self) -> list[int]:
        return self.reader.seqs()

    @property
    def events(self) -> list[dict[str, Any]]:
        return self.reader.events()

    def tries(self) -> list[tuple[int, int]]:
        """(seq, attempt) of everything that came."""
        return [(each["meta"]["seq"], each["meta"].get("attempt", 1)) for each in self.events]

    def ack(self, id: str | int, *, all: bool = False) -> bool:
        return self.delivery.settle(Ack(self._cursor(id), all))

    def nak(self, id: str | int, delay: float = 0.0) -> bool:
        return self.delivery.settle(Nak(self._cursor(id), delay))

    def _cursor(self, id: str | int) -> Cursor:
        """From a seq, or from what stands behind the epoch of an id, as it came."""
        seq, _, output = str(id).partition("-")
        epoch = next((one["meta"]["epoch"] for one in self.events if one["meta"]["seq"] == int(seq)), "zzzzzzzzzzzz")
        return Cursor(epoch, int(seq), int(output) if output else None)

    def read(self) -> None:
        """Its library has read everything, and answered the pings."""
        for payload in self.reader.pings:
            self.delivery.ponged(payload)


async def worker(world: World, *buckets: str, consumer: str = "w", **fields: Any) -> Worker:
    fields = {"since": "earliest"} | fields
    return Worker(world, *await world.subscribe(*(buckets or ("orders",)), consumer=consumer, **fields))


async def parked(world: World, key: Key = KEY) -> list[int]:
    """What is to be tried again."""
    return sorted((await world.stored(key)).parked)


async def later(condition: Any) -> None:
    """Lets time pass until the condition holds."""
    while True:
        if condition():
            return
        await asyncio.sleep(0.01)


def outputs() -> tuple[Output, ...]:
    return tuple(Output(f"o{n}", n, f"out {n}", 0, 0, internal=True) for n in (1, 2))


def held_up(world: World) -> asyncio.Event:
    """Has the next read of the log wait for this; those behind it don't."""
    gate = asyncio.Event()
    read, peek = world.log.read, world.log.peek

    async def late(*args: Any) -> Any:
        world.log.read, world.log.peek = read, peek  # type: ignore[method-assign]
        await gate.wait()
        return await read(*args)

    world.log.read = late  # type: ignore[method-assign]
    world.log.peek = lambda *args: None  # type: ignore[method-assign]
    return gate
