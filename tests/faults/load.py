"""Senders that load a relay until it is gone, and what became of what it acknowledged."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence

from tests.acceptance.clients import Sender, Webhook
from tests.acceptance.relay import TIMEOUT, Relay
from tests.faults.outcome import Outcome

REFUSED = (503, 507)


class Load:
    """Senders that send until the relay is gone, and note in their order what was acknowledged."""

    def __init__(
        self, relay: Relay, path: str, name: str, senders: int, size: int = 500, *, reconnects: bool = False
    ) -> None:
        """`reconnects`: a sender is done only once it can't connect any more."""
        self.relay = relay
        self.path = path
        self.name = name
        self.acknowledged: list[list[bytes]] = [[] for _ in range(senders)]
        self.sent = 0
        self._reconnects = reconnects
        self.odd: set[int] = set()
        """Statuses that are neither a 200 nor a refusal."""
        self._filling = b"x" * size
        self._more = asyncio.Event()

    @property
    def count(self) -> int:
        return sum(len(bodies) for bodies in self.acknowledged)

    async def until(self, count: int) -> None:
        """Waits until so many are acknowledged."""
        async with asyncio.timeout(TIMEOUT):
            while self.count < count:
                self._more.clear()
                await self._more.wait()

    async def run(self) -> None:
        """Returns once every sender has lost its connection (and can't connect), or was refused."""
        async with asyncio.timeout(TIMEOUT), asyncio.TaskGroup() as group:
            for number in range(len(self.acknowledged)):
                group.create_task(self._send(number))

    async def _send(self, number: int) -> None:
        counts = iter(range(100_000))
        while await self._connected(number, counts) and self._reconnects:
            pass

    async def _connected(self, number: int, counts: Iterator[int]) -> bool:
        """Sends on one connection. Returns whether it was lost after it had been made."""
        connected = False
        with contextlib.suppress(OSError, EOFError):
            async with Sender(self.relay, self.path) as sender:
                connected = True
                for count in counts:
                    body = b"%s/%d/%d " % (self.name.encode(), number, count) + self._filling
                    self.sent += 1
                    status = await sender.post(body)
                    if status != 200:
                        if status not in REFUSED:
                            self.odd.add(status)
                        return False
                    self.acknowledged[number].append(body)
                    self._more.set()
        return connected


def judge(outcome: Outcome, log: Sequence[Webhook], loads: Sequence[Load]) -> None:
    """Every acknowledged event is in the log exactly once, each sender's in its order; no event is there twice."""
    place = {event.body: event.seq for event in log}
    lost = disordered = 0
    odd: set[int] = set()
    for load in loads:
        odd |= load.odd
        for bodies in load.acknowledged:
            places = [place[body] for body in bodies if body in place]
            lost += len(bodies) - len(places)
            disordered += places != sorted(places)
    outcome.figures["acknowledged"] = sum(load.count for load in loads)
    outcome.figures["lost"] = lost
    outcome.figures["repeated"] = len(log) - len(place)
    outcome.expect(lost == 0, f"{lost} acknowledged events are not in the log")
    outcome.expect(len(place) == len(log), f"{len(log) - len(place)} events are in the log twice")
    outcome.expect(not disordered, f"the events of {disordered} senders changed their order")
    outcome.expect(not odd, f"senders got {sorted(odd)}")
