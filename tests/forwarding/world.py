"""Forwarding over a log, a registry and consumers in memory, with a clock that the test turns."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from relay_tornado.admin.consumers import ConsumerAdministration
from relay_tornado.counters import Counters
from relay_tornado.delivery.responses import Responses
from relay_tornado.forwarding.forwarder import Forwarder
from relay_tornado.forwarding.forwarding import Forwarding
from relay_tornado.ids import new_epoch
from relay_tornado.log.consumers import DeadLetter, Key, Stored, output_key
from relay_tornado.log.ledgers import Ledgers
from relay_tornado.model import Bucket, Event, Input, NewEvent, Output, Result
from relay_tornado.registry.memory import MemoryRegistry
from relay_tornado.registry.routes import Routes
from relay_tornado.settings import Settings
from tests.forwarding.target import Target, once_open
from tests.log.memory import MemoryEventLog
from tests.log.memory_consumers import MemoryConsumers
from tests.log.memory_results import MemoryResults
from tests.waiting import until

B = "b-1"
INPUT = Input("in-1", "public", 0, 0)


def public(url: str, n: int = 1, **fields: Any) -> Output:
    return Output(f"out-{n}", n, f"output {n}", 0, 0, destination=url, internal=False, **fields)


class Nobody:
    def reaches(self, bucket_id: str, event: Event, output: int | None) -> bool:
        return False


class World:
    """`now` is the monotonic clock and, less the seconds that it was set `back`, the wall clock; `turn` moves it and
    lets everybody look."""

    def __init__(self, **settings: Any) -> None:
        settings.setdefault("forward_allow", "127.0.0.0/8 ::1/128")
        self.settings = replace(Settings(), **settings)
        self.now = 1_000_000.0
        self.back = 0.0
        self.log = MemoryEventLog(lambda: self.now)
        self.registry = MemoryRegistry()
        self.consumers = MemoryConsumers(self.log, self.day)
        self.counters = Counters()
        self.ledgers = Ledgers(self.consumers, self.log, self.day, self.counters)
        self.results = MemoryResults(self.log)
        self.responses = Responses(self.results, self.log, self.registry, Nobody())
        self.disabled: list[str] = []
        self.own: Collection[tuple[str, int]] = ()
        self.forwarding = self._make()

    def day(self) -> float:
        """The wall clock."""
        return self.now - self.back

    def _make(self) -> Forwarding:
        return Forwarding(
            self.log,
            self.registry,
            Routes(self.registry),
            self.ledgers,
            self.responses,
            self.settings,
            self._disable,
            counters=self.counters,
            own=lambda: self.own,
            clock=self.day,
            monotonic=lambda: self.now,
            spread=lambda: 1.0,
        )

    async def _disable(self, bucket: Bucket, output: Output, reason: str) -> None:
        self.disabled.append(reason)
        now = self.bucket
        outputs = tuple(
            replace(each, disabled=True, disabled_reason=reason) if each.n == output.n else each for each in now.outputs
        )
        await self.change(*outputs)

    async def open(self, *outputs: Output, bucket_id: str = B, **fields: Any) -> None:
        """A bucket with these outputs, and forwarding begun."""
        await self.add(*outputs, bucket_id=bucket_id, **fields)
        await self.forwarding.start()

    async def add(self, *outputs: Output, bucket_id: str = B, **fields: Any) -> None:
        await self.log.create(bucket_id, new_epoch())
        bucket = Bucket(
            bucket_id, f"name-{bucket_id}", 0, 0, inputs=(replace(INPUT, id=f"in-{bucket_id}"),), outputs=outputs,
            next_output=99, **fields,
        )  # fmt: skip
        await self.registry.put("bucket", bucket_id, bucket)

    @property
    def bucket(self) -> Bucket:
        found = self.registry.get("bucket", B)
        assert found is not None
        return found

    async def change(self, *outputs: Output) -> None:
        """As the administration does it."""
        before = {each.n: each.destination for each in self.bucket.outputs}
        await self.registry.put("bucket", B, replace(self.bucket, outputs=outputs))
        for output in outputs:
            if not output.internal and before.get(output.n, output.destination) != output.destination:
                await ConsumerAdministration(self.log, self.ledgers, self.results).hasten(B, output.n)

    async def append(self, *bodies: bytes, bucket_id: str = B, **fields: Any) -> None:
        for body in bodies:
            event = {"method": "POST", "path": b"", "query": b"", "headers": b"", "remote_ip": "1.2.3.4", **fields}
            await self.log.append(bucket_id, NewEvent(input_id="in-1", body=body, **event))

    def forwarder(self, n: int = 1, bucket_id: str = B) -> Forwarder:
        return self.forwarding._forwarders[bucket_id][n]

    async def turn(self, seconds: float) -> None:
        """Time passes, and whoever waits for it looks."""
        self.now += seconds
        for each in list(self.forwarding._all()):
            each.poke()
        for _ in range(3):
            await asyncio.sleep(0)

    async def idle(self, n: int = 1) -> None:
        """Waits until an output has nothing out, and what came of it is stored."""
        await asyncio.sleep(0)
        await until(lambda: not self.forwarder(n)._tasks and self.forwarder(n)._poked.at is None)

    async def settled(self, target: Target, count: int) -> None:
        """Waits until so many requests have come to the target, and what came of them is stored."""
        await target.until(count)
        await self.idle()

    async def stored(self, seq: int, n: int = 1) -> Sequence[Result]:
        return (await self.results.of(B, seq, seq)).get((seq, n), [])

    async def dead(self, n: int = 1) -> list[DeadLetter]:
        return list(await self.consumers.dead(B, output_key(B, n), 0, 1000))

    async def restart(self) -> None:
        """As after kill -9: only what was stored is there."""
        await self.forwarding.stop()
        self.ledgers = Ledgers(self.consumers, self.log, self.day, self.counters)
        self.log.reopen()
        self.forwarding = self._make()
        await self.forwarding.start()


@asynccontextmanager
async def world(*outputs: Output, **settings: Any) -> AsyncIterator[World]:
    made = World(**settings)
    try:
        await made.open(*outputs)
        yield made
    finally:
        await made.forwarding.stop()
        made.responses.close()


@asynccontextmanager
async def without_room(gate: asyncio.Event) -> AsyncIterator[tuple[World, Target, Target]]:
    """A world and its two outputs' destinations. A large event is in flight to the first one, which answers when the
    gate is open; until then there is no memory for the next event, which is for both."""
    body = b"x" * 100_000
    async with Target(once_open(gate)) as one, Target() as other:
        outputs = public(one.url), public(other.url, 2)
        async with world(outputs[0], forward_buffer=1) as made:
            await made.append(body)
            await one.until(1)
            await made.change(*outputs)
            await until(lambda: 2 in made.forwarding._forwarders[B])
            await made.append(body)
            await until(lambda: made.forwarder(2).in_flight == 1)
            assert other.bodies == []
            yield made, one, other


async def quick_tries(w: World, target: Target) -> None:
    """An event is turned away until it has only its retries left."""
    await w.append(b"1")
    for step in (1.1, 3.1):
        await w.idle()
        await w.turn(step)
    await w.settled(target, 3)


def slow_to_read(monkeypatch: pytest.MonkeyPatch, w: World) -> tuple[asyncio.Event, asyncio.Event]:
    """From here on a position is read once `going` is set. Returns `asked`, which is set when one is wanted, and
    `going`."""
    asked, going = asyncio.Event(), asyncio.Event()
    get = w.consumers.get

    async def slow(key: Key) -> Stored | None:
        asked.set()
        await going.wait()
        return await get(key)

    monkeypatch.setattr(w.consumers, "get", slow)
    return asked, going
