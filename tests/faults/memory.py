"""Memory that is short for a moment: in turn each allocation of Python's that a relay makes over a request fails.

The relay is a process of its own (`tests.faults.starved`), and goes on over all requests of a kind. What is held
against it, for each n: the n-th allocation fails, counted from before the request, over whatever the process does.

- The request is answered, or its connection closed, in time. A 2xx is stored, once; anything else may be, once at most.
- The next request of the kind goes well, within moments.
- A subscriber that was there before gets every event once and in order. It may be cut where the failure was its own,
  and goes on from the last event that it has.
- /readyz says 200, no bytes are held by nobody, and the log comes to rest.
- A consumer, with explicit acks or by receipt, has everything given and done in the end, nothing of it is given again
  then, and it can be taken over and deleted.
- At the end `relay check` finds nothing, and the relay stops as ever.

What no relay can mend is counted apart. Where the interpreter's own `accept` finds no memory for the address of who
called, it raises, and has lost the descriptor by then, so that this one's connection stays open (`LOST_BY_PYTHON`). And
a library in C may end the process at once: msgspec does, as it decodes. Then the relay is started again, and all that
it acknowledged has to be there. A callback that the loop has no memory to call is lost; what depends on one looks again
by itself, and a stop is cut off where it waits for one (tests/test_serve_ends.py). SQLite's memory is not Python's:
tests/storage/test_recovery.py has what its want of it does.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import re
import signal
import socket
import subprocess
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, TypeAlias

from websockets.exceptions import WebSocketException

from tests.acceptance.clients import Sender, Subscriber, Webhook, read_log
from tests.acceptance.relay import TIMEOUT, Relay
from tests.faults.outcome import Outcome
from tests.waiting import until

LOST_BY_PYTHON = "listening._accept()"
"""What the log then says: the line of the relay's that failed."""

BY_C = (-signal.SIGSEGV, -signal.SIGABRT)
"""How a process ends that a library in C has ended."""

LATE = 30.0
"""Seconds after which a request counts as one that is never answered: the relay's own times are 2."""

SOON = 4.0
"""Seconds after which a request whose connection is lost by what the log says is not waited for any more."""

ENOUGH = 20
"""So many failures in a row that came too late for a request, and it has no more allocations."""

MOST_TRACEBACKS = 10
"""What is said of one failure, and of what comes after it."""

INTERVAL = 0.05
"""Seconds between two pings of a consumer by receipt."""

RECEIPTS = 5
"""So many intervals, and everything that was read is known."""

TIMES = {"idle_timeout": 2, "head_timeout": 2, "body_timeout": 2}
"""The relay's, in seconds."""

BROKEN_OFF = (OSError, EOFError, http.client.HTTPException, WebSocketException)
"""What a client meets where its connection is closed."""

_HELD = re.compile(r"^relay_(?:append_queue|ingest_buffer|replay_buffer)_bytes (\S+)$", re.MULTILINE)


class StarvedRelay(Relay):
    """One in which an allocation fails when it is told so."""

    module = "tests.faults.starved"

    def __init__(self, data: Path, **settings: object) -> None:
        super().__init__(data, **settings)
        self._channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self._channel.close()

    def spawn(self) -> None:
        assert self.process is None
        self._channel.close()
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._channel.settimeout(TIMEOUT)
        with self.output.open("wb") as output, theirs:
            environment = self.environment() | {"STARVED": str(theirs.fileno()), "INTERVAL": str(INTERVAL)}
            self.process = subprocess.Popen(
                self.command_line(), env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                pass_fds=[theirs.fileno()],
            )  # fmt: skip

    def fail(self, n: int) -> None:
        """From here on the n-th allocation fails, counted from 0, and no other."""
        assert self._ask(b"%d" % n) == b"armed"

    def relieve(self) -> bool | None:
        """None fails any more. Returns whether one has; None where that ended the process."""
        answer = b""
        with contextlib.suppress(ConnectionError):
            answer = self._ask(b"over")
        return answer == b"came" if answer else None

    def _ask(self, words: bytes) -> bytes:
        self._channel.send(words)
        return self._channel.recv(16)

    def get(self, path: str, secret: str) -> tuple[int, str]:
        """Status and body of a GET."""
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT)) as connection:
            connection.request("GET", path, headers={"Authorization": f"Bearer {secret}"})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()


class Watcher:
    """A subscriber that comes back with the last id that it has; `seen` is all that it got."""

    def __init__(self, world: World) -> None:
        self.seen: list[Webhook] = []
        self._world = world
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Watcher:
        self._task = asyncio.create_task(self._follow())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _follow(self) -> None:
        while True:
            since = self.seen[-1].id if self.seen else "earliest"
            with contextlib.suppress(*BROKEN_OFF):
                async with Subscriber(self._world.relay, self._world.token, "orders", since) as subscriber:
                    gap = subscriber.subscribed["gap"]
                    self._world.expect(gap is None, f"a subscriber at {since} was told the gap {gap}")
                    async for event in subscriber.webhooks():
                        self.seen.append(event)
            self._world.cuts += 1
            await asyncio.sleep(0.05)

    def has(self, body: bytes) -> bool:
        """Whether it has got this."""
        assert self._task is not None
        if self._task.done():
            self._task.result()
        return any(event.body == body for event in self.seen[-10:])


@dataclass
class World:
    """A relay, and what was sent to it."""

    relay: StarvedRelay
    path: str
    token: tuple[str, str]
    outcome: Outcome
    acknowledged: list[bytes] = field(default_factory=list)
    failed: int = 0
    refused: int = 0
    cuts: int = 0
    lost: int = 0
    ends: int = 0

    @property
    def expect(self) -> Callable[[bool, str], None]:
        return self.outcome.expect

    def held(self) -> float:
        """How many bytes the relay holds for whom it serves."""
        return sum(map(float, _HELD.findall(self.relay.get("/metrics", self.token[1])[1])))

    async def post(self, body: bytes, *parts: int, chunked: bool = False) -> bool:
        """Sends a webhook on a connection of its own, cut into parts of so many bytes and the rest."""
        async with Sender(self.relay, self.path) as sender:
            if chunked:
                head = sender.head(0).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
                request = head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
            else:
                request = sender.head(len(body)) + body
            for size in parts:
                sender.writer.write(request[:size])
                request = request[size:]
                await asyncio.sleep(0.002)
            sender.writer.write(request)
            status = await sender.answer()
        if status == 200:
            self.acknowledged.append(body)
        return status == 200

    async def rest(self, method: str, path: str, document: object = None) -> tuple[int, Any]:
        """Status and answer of a request of an administrator's."""
        return await asyncio.to_thread(self._rest, method, path, document)

    def _rest(self, method: str, path: str, document: object) -> tuple[int, Any]:
        body = None if document is None else json.dumps(document)
        headers = {"Authorization": f"Bearer {self.token[1]}", "Content-Type": "application/json"}
        connection = http.client.HTTPConnection("127.0.0.1", self.relay.port, timeout=LATE)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read()) if answer.status < 300 else None


Kind: TypeAlias = Callable[[World, bytes], Awaitable[bool]]
"""Makes a request, which these bytes name; says whether it went well. A broken promise is an AssertionError."""


async def _in_one(world: World, name: bytes) -> bool:
    return await world.post(name)


async def _in_parts(world: World, name: bytes) -> bool:
    return await world.post(name, 20, 90)


async def _by_tornado(world: World, name: bytes) -> bool:
    return await world.post(name, chunked=True)


async def _subscribe(world: World, name: bytes) -> bool:
    """Authenticates, subscribes, and replays."""
    async with Subscriber(world.relay, world.token, "orders", {"last": 5}) as subscriber:
        start = subscriber.subscribed["start"]
        seqs = [event.seq for event in await subscriber.until_caught_up()]
        assert seqs == list(range(start, start + len(seqs))), f"replayed {seqs}, from {start} on"
        return True


class _Worker(Subscriber):
    """One of the one consumer that there is, with acks of a kind."""

    kind = "explicit"

    async def send(self, message: dict[str, Any]) -> None:
        fields = {"consumer": "worker", "ack": self.kind} if message["action"] == "subscribe" else {}
        await super().send(message | fields)

    async def take(self, last: bytes) -> None:
        """What comes, up to this one, is acknowledged."""
        async for event in self.webhooks():
            if self.kind == "explicit":
                await self.send({"action": "ack", "id": event.id})
            if event.body == last:
                return


class _Reader(_Worker):
    """Its library answers the pings."""

    kind = "receipt"


async def _all_done(world: World) -> bool:
    """Whether the consumer has everything done."""
    _, consumers = await world.rest("GET", "/v1/buckets/orders/consumers")
    return consumers is not None and bool(consumers[0]["lag"]["events"] == 0)


async def _ack(world: World, name: bytes) -> bool:
    """Takes what comes for a consumer, and acknowledges it."""
    async with _Worker(world.relay, world.token, "orders", "latest") as worker:
        if not await world.post(name):
            return False
        await worker.take(name)
        await (await worker.socket.ping())
        # What is acknowledged is stored a moment later.
        await asyncio.sleep(0.1)
    return await _all_done(world)


async def _receipt(world: World, name: bytes) -> bool:
    """Reads what comes for a consumer, until that is known."""
    async with _Reader(world.relay, world.token, "orders", "latest") as reader:
        if not await world.post(name):
            return False
        await reader.take(name)
        await asyncio.sleep(RECEIPTS * INTERVAL)
        return await _all_done(world)


async def _change(world: World, name: bytes) -> bool:
    """Changes a bucket."""
    status, bucket = await world.rest("PUT", "/v1/buckets/orders", {"description": name.decode()})
    assert bucket is None or bucket["description"] == name.decode()
    return status == 200


async def _drain(world: World, name: bytes) -> bool:
    """Takes events from the queue."""
    status, answer = await world.rest("GET", "/v1/events?bucket=orders&limit=5")
    return status == 200 and len(answer["logs"]) > 0


KINDS: dict[str, Kind] = {
    "webhook": _in_one,
    "webhook in parts": _in_parts,
    "webhook by Tornado": _by_tornado,
    "subscribe": _subscribe,
    "ack": _ack,
    "receipt": _receipt,
    "change": _change,
    "drain": _drain,
}


CONSUMERS = {"ack": _Worker, "receipt": _Reader}
"""Who takes part in a consumer over requests of a kind."""


def run(folder: Path, step: int = 1, kinds: Sequence[str] = tuple(KINDS)) -> Outcome:
    """Fails each allocation over requests of these kinds, or one of `step`."""
    outcome = Outcome()
    with StarvedRelay(folder / "starved", **TIMES) as relay:
        world = World(relay, relay.create_bucket("orders"), relay.create_token(), outcome)
        try:
            asyncio.run(_starve(world, step, kinds))
        except AssertionError as error:
            error.add_note(relay.said()[-4000:])
            raise
        code = relay.stop()
        outcome.expect(code == 0, f"the relay ended with {code}: {relay.said()[-2000:]}")
        check = relay.run("check")
        outcome.expect(check.returncode == 0, f"relay check says {check.stdout} {check.stderr}")
    outcome.expect(world.failed > 0, "no allocation failed")
    outcome.figures = {
        "kinds of requests": len(kinds),
        "allocations that failed": world.failed,
        "requests that did not go well": world.refused,
        "cuts of a subscriber": world.cuts,
        "acknowledged": len(world.acknowledged),
        "connections lost by Python": world.lost,
        "ends by a library in C": world.ends,
    }
    return outcome


async def _starve(world: World, step: int, kinds: Sequence[str]) -> None:
    async with Watcher(world) as watcher:
        for kind in kinds:
            await _goes_well(world, watcher, kind, b"%b, first" % kind.encode())
            in_vain = n = 0
            while in_vain < ENOUGH // step + 2:
                came = await _round(world, watcher, kind, n)
                in_vain = 0 if came else in_vain + 1
                n += step
            if kind in CONSUMERS:
                await _ends_well(world, CONSUMERS[kind])
        await until(lambda: _rests(world), "the relay's log to come to rest", LATE)
        log = [event.body for event in await read_log(world.relay, world.token, "orders")]
        world.expect(log == [event.body for event in watcher.seen], "the subscriber has not what the log has")
        world.expect(len(log) == len(set(log)), "an event is in the log twice")
        world.expect(set(world.acknowledged) <= set(log), "an acknowledged event is lost")


async def _round(world: World, watcher: Watcher, kind: str, n: int) -> bool:
    """Whether the n-th allocation failed."""
    said = len(world.relay.said())
    world.relay.fail(n)
    went = await _tried(
        world, kind, b"%b, %d" % (kind.encode(), n), lambda: LOST_BY_PYTHON in world.relay.said()[said:]
    )
    came = world.relay.relieve()
    words = world.relay.said()[said:]
    world.failed += came is not False
    world.refused += went is not True
    if came is None:
        code = world.relay.wait()
        world.expect(code in BY_C, f"{kind}, {n}: the relay ended with {code}: {words}")
        world.ends += 1
        said = 0
        world.relay.start()
    elif went is None:
        world.expect(LOST_BY_PYTHON in words, f"{kind}, {n}: the request was never answered: {words}")
        world.lost += 1
    await _goes_well(world, watcher, kind, b"%b, %d, again" % (kind.encode(), n))
    world.expect(world.relay.said()[said:].count("Traceback") <= MOST_TRACEBACKS, f"{kind}, {n}: {words}")
    return came is not False


async def _tried(world: World, kind: str, name: bytes, lost: Callable[[], bool] = lambda: False) -> bool | None:
    """Whether a request went well; None where it had no end, or is `lost`."""

    async def tried() -> bool | None:
        try:
            async with asyncio.timeout(LATE):
                return await KINDS[kind](world, name)
        except TimeoutError:
            return None
        except BROKEN_OFF:
            return False

    trying = asyncio.create_task(tried())
    try:
        await asyncio.wait((trying,), timeout=SOON)
        return None if not trying.done() and lost() else await trying
    finally:
        trying.cancel()


async def _goes_well(world: World, watcher: Watcher, kind: str, name: bytes) -> None:
    """All is as before, within moments."""
    tries = count()

    async def goes_well() -> bool:
        body = b"%b, %d" % (name, next(tries))
        return await world.post(b"a webhook before " + body) and await _tried(world, kind, body) is True

    await until(goes_well, f"a request to go well ({kind}, {name!r})", LATE)
    await until(lambda: watcher.has(world.acknowledged[-1]), f"the subscriber to get {world.acknowledged[-1]!r}", LATE)
    await until(lambda: world.relay.ready()[0] == 200, "/readyz", LATE)
    await until(lambda: world.held() == 0, f"what is held to be let go of ({kind}, {name!r})", LATE)
    seqs = [event.seq for event in watcher.seen]
    world.expect(seqs == list(range(1, len(seqs) + 1)), f"{kind}, {name!r}: a subscriber got {seqs[-10:]}")


async def _ends_well(world: World, kind: type[_Worker]) -> None:
    """The consumer has everything done, somebody else may take it over, and it can be deleted."""
    async with kind(world.relay, world.token, "orders", "latest") as worker:
        body = b"for who takes over from a " + kind.__name__.encode()
        world.expect(await world.post(body), "the last event of the consumer is not taken")
        async for event in worker.webhooks():
            world.expect(event.body == body, f"{event.body!r} was acknowledged, and is given again")
            if event.body == body:
                break
    status, _ = await world.rest("DELETE", "/v1/buckets/orders/consumers/worker")
    world.expect(status < 300, f"the consumer is not deleted: {status}")
    world.expect((await world.rest("GET", "/v1/buckets/orders/consumers"))[1] == [], "the consumer is there still")


async def _rests(world: World) -> bool:
    before = world.relay.said()
    await asyncio.sleep(1.2)
    return world.relay.said() == before
