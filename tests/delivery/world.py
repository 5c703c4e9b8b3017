"""Deliveries over a log and a registry in memory, and an outlet whose reader the test controls."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from dataclasses import replace
from typing import Any, NoReturn

from relay_tornado.delivery.deliver import Delivery
from relay_tornado.delivery.deliveries import Deliveries
from relay_tornado.delivery.outlet import Frames, OutletClosed
from relay_tornado.errors import CursorLost
from relay_tornado.ids import new_epoch
from relay_tornado.log.consumers import Key, Stored
from relay_tornado.log.ledgers import Ledgers
from relay_tornado.model import Bounds, Bucket, BucketId, Event, Input, NewEvent, Retention, Token
from relay_tornado.registry.memory import MemoryRegistry
from relay_tornado.rules import compile_rules
from relay_tornado.settings import Settings
from relay_tornado.wire import control
from tests.delivery.virtual import day
from tests.log.memory import MemoryEventLog
from tests.log.memory_consumers import MemoryConsumers

TOKEN = Token(key="K", secret_hash="h", created_at=0)


def run(test: Callable[[], Awaitable[None]]) -> None:
    """Runs a test on a loop of its own."""

    async def bounded() -> None:
        async with asyncio.timeout(60):
            await test()

    asyncio.run(bounded())


class Log(MemoryEventLog):
    """The log in memory, which answers late where the test wants so."""

    def __init__(self) -> None:
        super().__init__()
        self.chance: random.Random | None = None
        """Where set, reads are answered from memory or after some turns of the loop, as it falls."""

    async def drift(self) -> None:
        for _ in range(self.chance.randrange(4) if self.chance else 0):
            await asyncio.sleep(0)

    def peek(  # type: ignore[override]
        self, bucket_id: BucketId, after: int, limit: int, max_bytes: int
    ) -> Sequence[Event] | None:
        if self.chance is not None and self.chance.random() < 0.5:
            return None
        return super().peek(bucket_id, after, limit, max_bytes)

    async def read(self, bucket_id: BucketId, after: int, limit: int, max_bytes: int) -> Sequence[Event]:
        await self.drift()
        found = self.peek(bucket_id, after, limit, max_bytes)
        if found is None:
            found = super().peek(bucket_id, after, limit, max_bytes)
        await self.drift()
        return found

    async def bounds(self, bucket_id: BucketId) -> Bounds:
        await self.drift()
        found = await super().bounds(bucket_id)
        await self.drift()
        return found


def frames(data: bytes) -> list[dict[str, Any]]:
    """The JSON messages of joined WebSocket frames."""
    found = []
    at = 0
    while at < len(data):
        assert data[at] == 0x81
        length, at = data[at + 1], at + 2
        if length == 126:
            length, at = int.from_bytes(data[at : at + 2], "big"), at + 2
        elif length == 127:
            length, at = int.from_bytes(data[at : at + 8], "big"), at + 8
        found.append(json.loads(data[at : at + length]))
        at += length
    return found


class _Write:
    """A write, which is told so many turns of the loop late."""

    def __init__(self, future: asyncio.Future[None], turns: int) -> None:
        self._future = future
        self._turns = turns

    def __await__(self) -> Generator[Any, None, None]:
        for _ in range(self._turns):
            yield
        yield from self._future


class Reader:
    """An outlet: `messages` is what its client has read. While `paused`, writes wait and nothing is sent at once."""

    def __init__(self, chance: random.Random | None = None, *, paused: bool = False) -> None:
        self.messages: list[dict[str, Any]] = []
        self.writes: list[int] = []
        self.at_once = 0
        self.ends: list[str] = []
        self.pings: list[bytes] = []
        self.closed = False
        self.chance = chance
        self._pending: list[tuple[bytes, asyncio.Future[None]]] = []
        self.paused = paused

    @property
    def waiting(self) -> int:
        """Bytes that it was given and has not read."""
        return sum(len(data) for data, _ in self._pending)

    def send_now(self, data: bytes) -> bool:
        if self.closed or self._pending or self.paused or (self.chance and self.chance.random() < 0.3):
            return False
        self.at_once += 1
        self.messages += frames(data)
        return True

    def send_rest(self, data: memoryview) -> NoReturn:
        raise AssertionError("its lane has no socket")

    def write(self, data: Frames) -> Awaitable[None]:
        if self.closed:
            raise OutletClosed
        self.writes.append(len(data))
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pending.append((data, future))
        if not self.paused:
            self.resume()
        return _Write(future, self.chance.randrange(3) if self.chance else 0)

    def resume(self) -> None:
        self.paused = False
        for data, future in self._pending:
            self.messages += frames(data)
            if not future.done():
                future.set_result(None)
        self._pending.clear()

    def close(self) -> None:
        self.closed = True
        for _, future in self._pending:
            future.set_exception(OutletClosed())
        self._pending.clear()

    def ping(self, payload: bytes) -> None:
        """Notes the ping behind what was given before it, read or not."""
        self.pings.append(payload)

    def gap_refused(self) -> None:
        self.ends.append("gap_refused")

    def unavailable(self, reason: str) -> None:
        self.ends.append(reason)

    def events(self) -> list[dict[str, Any]]:
        return [message for message in self.messages if message["type"] == "webhook"]

    def seqs(self, bucket: str = "orders") -> list[int]:
        """The seqs of the events of a bucket, as they came."""
        return [each["meta"]["seq"] for each in self.events() if each["meta"]["bucket_name"] == bucket]

    def ids(self, bucket: str = "orders") -> list[str]:
        """What stands behind the epoch in the ids of the events of a bucket: "41", or "41-2" for a copy."""
        return [each["meta"]["id"].partition("-")[2] for each in self.events() if each["meta"]["bucket_name"] == bucket]

    def statuses(self) -> list[dict[str, Any]]:
        return [message for message in self.messages if message["type"] == "status"]

    def gaps(self) -> list[dict[str, Any]]:
        """The gaps that it was told of besides those in answers."""
        return [status["gap"] for status in self.statuses() if status["status"] == "gap"]


class World:
    """A relay's delivery, with the buckets that a test makes."""

    def __init__(self, seed: int | None = None, clock: Callable[[], float] = day, **settings: Any) -> None:
        """`clock` is the consumers' clock of day."""
        self.log = Log()
        if seed is not None:
            self.log.chance = random.Random(seed)
        self.registry = MemoryRegistry()
        self.settings = Settings(**settings)
        self.consumers = MemoryConsumers(self.log, clock)
        self.clock = clock
        self.token = TOKEN
        self._begin()

    def _begin(self) -> None:
        self.ledgers = Ledgers(self.consumers, self.log, self.clock)
        self.counters = self.ledgers.counters
        self.deliveries = Deliveries(self.log, self.registry, self.settings, self.ledgers, self.counters)

    def restart(self) -> None:
        """The relay starts again on what was stored: the deliveries before are those of a process that is gone."""
        for ledger in [one for those in self.ledgers._live.values() for one in those.values()]:
            ledger.gone = True
        self._begin()

    async def bucket(self, name: str = "orders", bucket_id: str | None = None, **fields: Any) -> Bucket:
        bucket_id = bucket_id or f"id-{name}"
        await self.log.create(bucket_id, new_epoch())
        fields = {"created_at": 0, "inputs": (Input(f"in-{bucket_id}", "public", 0, 0),)} | fields
        made = Bucket(id=bucket_id, name=name, updated_at=0, **fields)
        await self.registry.put("bucket", bucket_id, made)
        return made

    async def change(self, bucket_id: BucketId = "id-orders", **fields: Any) -> None:
        """Changes a bucket's record."""
        await self.registry.put("bucket", bucket_id, replace(self.registry.get("bucket", bucket_id), **fields))

    async def keep(self, count: int, bucket_id: BucketId = "id-orders") -> None:
        """Retention leaves so many events."""
        await self.log.trim(bucket_id, Retention(max_events=count), None)

    async def epoch(self, bucket_id: BucketId = "id-orders") -> str:
        """The first epoch of a bucket."""
        return (await self.log.bounds(bucket_id)).epochs[0].epoch

    async def stored(self, key: Key) -> Stored:
        """What is stored of a consumer."""
        stored = await self.consumers.get(key)
        assert stored is not None
        return stored

    async def floor(self, key: Key) -> int:
        return (await self.stored(key)).floor

    async def delete(self, bucket_id: BucketId) -> None:
        await self.registry.delete("bucket", bucket_id)
        await self.log.drop(bucket_id)

    async def append(
        self,
        count: int = 1,
        bucket_id: BucketId = "id-orders",
        body: bytes = b"{}",
        headers: bytes = b"A: b\r\n",
        path: bytes = b"",
        **fields: Any,
    ) -> None:
        for _ in range(count):
            await self.log.append(
                bucket_id, NewEvent(f"in-{bucket_id}", "POST", path, b"", headers, body, "192.0.2.1", **fields)
            )

    async def subscribe(
        self,
        *buckets: str,
        reader: Reader | None = None,
        replaces: Delivery | None = None,
        extended: bool = False,
        start: bool = True,
        token: Token | None = None,
        **fields: Any,
    ) -> tuple[Reader, Delivery, list[dict[str, Any]]]:
        """Subscribes as a message with these buckets and fields does."""
        message = control.parse(json.dumps({"action": "subscribe", "buckets": buckets, "extended": extended, **fields}))
        assert isinstance(message.content, control.Subscribe), message.content
        reader = reader or Reader(self.log.chance)
        request = message.content
        delivery, answers = await self.deliveries.subscribe(
            reader,
            request,
            token or self.token,
            extended=message.extended,
            filter=None if request.filter is None else compile_rules(request.filter, "filter"),
            replaces=replaces,
            ping=reader.ping,
        )
        if start:
            delivery.start()
        return reader, delivery, answers


async def stocked(count: int, **fields: Any) -> World:
    """A world with the bucket "orders", of these fields, in which so many events are."""
    world = World()
    await world.bucket(**fields)
    await world.append(count)
    return world


class Subscriber:
    """A client that has subscribed."""

    def __init__(self, world: World, reader: Reader, delivery: Delivery, answers: list[dict[str, Any]]) -> None:
        self.world = world
        self.reader = reader
        self.delivery = delivery
        self.answers = answers

    def leave(self) -> None:
        """The connection is cut."""
        self.reader.close()
        self.world.deliveries.end(self.delivery)


async def until(condition: Any, turns: int | None = None) -> None:
    """Lets the loop go round until the condition holds; fails where it does not within so many turns, or a minute."""
    end = time.monotonic() + 60
    for turn in itertools.count():
        if condition():
            return
        assert turn < turns if turns else time.monotonic() < end, "what the test waits for did not happen"
        await asyncio.sleep(0)


async def quiet(turns: int = 50) -> None:
    """Lets the loop go round often enough for everything that can happen without a clock."""
    for _ in range(turns):
        await asyncio.sleep(0)


def damage(world: World) -> None:
    """Has the events 3 to 5 be unreadable."""
    whole = world.log.peek

    def damaged(bucket_id: str, after: int, limit: int, max_bytes: int) -> Any:
        if 3 <= after + 1 <= 5:
            raise CursorLost(6)
        found = whole(bucket_id, after, limit, max_bytes)
        return [event for event in found if not (after < 3 and event.seq >= 3)]

    world.log.peek = damaged  # type: ignore[method-assign]


def judged_later(world: World) -> asyncio.Event:
    """Has positions wait for this before they are judged."""
    gate = asyncio.Event()
    bounds = world.log.bounds

    async def late(bucket_id: str) -> Any:
        await gate.wait()
        return await bounds(bucket_id)

    world.log.bounds = late  # type: ignore[method-assign]
    return gate
