"""Clients that are cut at random while events come in, old ones leave, and the relay is restarted.

What each received, its repeats across reconnects left out, is the log; what it lacks, a gap told exactly.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from pathlib import Path
from typing import Any

from websockets.exceptions import ConnectionClosed, InvalidHandshake

from tests.acceptance.clients import Sender, Subscriber, webhook
from tests.acceptance.relay import Relay
from tests.faults.outcome import Outcome
from tests.waiting import until

RATE = 500
LEAST = 0.8
"""Share of it that has to be reached while the relay runs."""
CLIENTS = 20
SENDERS = 5
LONG_AWAY = 4
"""So many of the clients are away long enough to come back through SQLite, or to find that retention was there."""
KEPT = 1_500
LONG = 300
"""So many events come in at least while one of these is away: more than the tail in memory has."""
EVERY = 100
"""Cuts between two restarts of the relay, which are kill -9 and SIGTERM in turn."""

_GONE = (OSError, EOFError, ConnectionClosed, InvalidHandshake)


class World:
    """What all clients share: which body each id has, and when it is over."""

    def __init__(self, relay: Relay, token: tuple[str, str], outcome: Outcome, cuts: int) -> None:
        self.relay = relay
        self.token = token
        self.outcome = outcome
        self.cuts_left = cuts
        self.acknowledged: set[bytes] = set()
        self.bodies: dict[str, bytes] = {}
        self.end = 0
        """The last seq, once nothing more comes."""

    def saw(self, id: str, body: bytes) -> None:
        known = self.bodies.setdefault(id, body)
        if known != body:
            self.outcome.broken.append(f"{id} named two events")


class Client:
    """Reads a bucket, is cut at random, and comes back with the last id that it has."""

    def __init__(self, world: World, away: tuple[float, float], missing: int = 0, steady: bool = False) -> None:
        """It is away for so many seconds, and until so many events came in."""
        self.world = world
        self.away = away
        self.missing = missing
        self.steady = steady
        self.last = ""
        self.seq = 0
        """Everything up to it was received, or told to be missing."""
        self.received = self.repeats = self.told = self.longest = 0
        self.gaps = 0
        self.subscriber: Subscriber | None = None

    async def run(self) -> None:
        """Returns once it has everything up to the end."""
        while not self._done():
            with contextlib.suppress(*_GONE):
                await self._connection()
            await self._stay_away()

    async def _stay_away(self) -> None:
        world = self.world
        wanted = len(world.acknowledged) + self.missing if self.last else 0
        await asyncio.sleep(0.02 if world.end or self.steady else random.uniform(*self.away))
        await until(lambda: world.end or len(world.acknowledged) >= wanted, "enough events to miss", 240)

    def _done(self) -> bool:
        return 0 < self.world.end <= self.seq

    async def _connection(self) -> None:
        world = self.world
        since = self.last or "earliest"
        async with Subscriber(world.relay, world.token, "orders", since) as subscriber:
            self.subscriber = subscriber
            answer = subscriber.subscribed
            gap = answer["gap"]
            if gap is not None:
                self._gap(gap)
                left = answer["head"] - KEPT
                self._expect(gap["to"] <= left, f"the gap {gap} was told, and what came after {left} is kept")
            if self.last:
                self._expect(answer["start"] == self.seq + 1, f"{since} was answered with {answer}, at {self.seq}")
            else:
                self.seq = answer["start"] - 1
            self.longest = max(self.longest, answer["head"] - self.seq)
            timer = None
            if not (self.steady or world.end):
                loop = asyncio.get_running_loop()
                timer = loop.call_later(random.uniform(0.05, 1.0), self._cut, subscriber)
            try:
                await self._follow(subscriber)
            finally:
                if timer is not None:
                    timer.cancel()

    async def _follow(self, subscriber: Subscriber) -> None:
        while not self._done():
            frame = await subscriber.receive()
            if frame["type"] == "webhook":
                event = webhook(frame)
                self._expect(event.seq == self.seq + 1, f"{event.seq} came where {self.seq + 1} was due")
                self.world.saw(event.id, event.body)
                self.seq, self.last = event.seq, event.id
                self.received += 1
            elif frame["status"] == "gap":
                self._gap(frame["gap"])

    def _gap(self, gap: dict[str, Any]) -> None:
        exact = gap["from"] == self.seq + 1 and gap["count"] == gap["to"] - self.seq
        self._expect(gap["reason"] == "retention" and exact, f"the gap {gap} was told at {self.seq}")
        self.gaps += 1
        self.told += gap["count"] or 0
        self.seq = gap["to"] or self.seq

    def _cut(self, subscriber: Subscriber) -> None:
        self.world.cuts_left -= 1
        subscriber.socket.transport.abort()

    def _expect(self, holds: bool, otherwise: str) -> None:
        self.world.outcome.expect(holds, otherwise)


def run(folder: Path, cuts: int) -> Outcome:
    """Cuts 20 clients so many times in all at least, at 500 events a second; it ends after a long replay."""
    outcome = Outcome()
    relay = Relay(folder / "replayed", tail="256KiB", page_cache="256KiB", retention_interval="0.5")
    relay.start()
    try:
        path = relay.create_bucket("orders", f"--retention-events={KEPT}")
        world = World(relay, relay.create_token(), outcome, cuts)
        clients = [Client(world, (2.0, 5.0), LONG + 1) for _ in range(LONG_AWAY)]
        clients += [Client(world, (0.0, 0.3)) for _ in range(CLIENTS - LONG_AWAY - 1)]
        clients.append(Client(world, (0.0, 0.1), steady=True))
        restarts, seconds = asyncio.run(_run(world, clients, path))
    finally:
        relay.kill()
    rate = len(world.acknowledged) / seconds
    bodies = set(world.bodies.values())
    lost = world.acknowledged - bodies
    outcome.figures = {
        "cuts": cuts - world.cuts_left,
        "restarts": restarts,
        "acknowledged": len(world.acknowledged),
        "events/s while it ran": rate,
        "received": sum(client.received for client in clients),
        "gaps told": sum(client.gaps for client in clients),
        "events in them": sum(client.told for client in clients),
        "longest replay": max(client.longest for client in clients),
        "nobody got": len(lost),
        "twice in the log": len(world.bodies) - len(bodies),
    }
    outcome.expect_in_time(rate >= LEAST * RATE, f"only {rate:.0f} events/s came in, not {RATE}")
    # On a slow machine too little comes in while they are away.
    outcome.expect_in_time(any(client.gaps for client in clients), "nobody was away for long enough to be told a gap")
    outcome.expect(not lost, f"{len(lost)} acknowledged events reached nobody")
    outcome.expect(len(world.bodies) == len(bodies), "an event is in the log twice")
    outcome.expect(clients[-1].gaps == 0, f"the client that was never away was told {clients[-1].gaps} gaps")
    return outcome


async def _run(world: World, clients: list[Client], path: str) -> tuple[int, float]:
    """How often the relay was restarted, and for how many seconds it ran while events came in."""
    restarts = 0
    stopped = 0.0
    sending = True

    async def send(number: int) -> None:
        count = 0
        loop = asyncio.get_running_loop()
        while sending:
            with contextlib.suppress(*_GONE):
                async with Sender(world.relay, path) as sender:
                    due = loop.time()
                    while sending:
                        due += SENDERS / RATE
                        await asyncio.sleep(due - loop.time())
                        count += 1
                        body = b"%d/%d " % (number, count) + random.randbytes(300).hex().encode()
                        if await sender.post(body) == 200:
                            world.acknowledged.add(body)
            await asyncio.sleep(0.02)

    async with asyncio.timeout(240 + world.cuts_left), asyncio.TaskGroup() as group:
        reading = [group.create_task(client.run()) for client in clients]
        senders = [group.create_task(send(number)) for number in range(SENDERS)]
        begun = time.monotonic()
        next_restart = world.cuts_left - EVERY // 2
        while world.cuts_left > 0 or not any(client.longest > LONG for client in clients):
            if world.cuts_left <= next_restart:
                next_restart -= EVERY
                restarts += 1
                since = time.monotonic()
                await asyncio.to_thread(world.relay.kill if restarts % 2 else world.relay.stop)
                await asyncio.to_thread(world.relay.start)
                stopped += time.monotonic() - since
            await asyncio.sleep(0.05)
        sending = False
        await asyncio.wait(senders)
        seconds = time.monotonic() - begun - stopped
        world.end = await _head(world)
        for client in clients:  # nobody is to wait for more
            if client.subscriber is not None:
                client.subscriber.socket.transport.abort()
        await asyncio.wait(reading)
    return restarts, seconds


async def _head(world: World) -> int:
    async with Subscriber(world.relay, world.token, "orders", "latest") as subscriber:
        return int(subscriber.subscribed["head"])
