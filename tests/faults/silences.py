"""Connections that die without a word, as where a NAT forgets them or a host is gone: nothing comes any more, from
the relay or either way, and neither end is told. Both notice, and each client has the whole log, once."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import socket
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from relay_tornado.client import Backoff, Event, Notice, subscribe
from tests.acceptance.clients import Sender
from tests.acceptance.relay import TIMEOUT, Relay, wait_for
from tests.faults.outcome import Outcome, median

SMALL: Final = 16 << 10
"""Bytes that a dead connection's other end still takes, more or less: a router would take none."""

WAYS: Final = (("up", "down"), ("down",))
"""What dies in turn, a moment apart: `up` is from the client to the relay. Where that dies so does the other soon, as
nothing is acknowledged any more; a proxy can't show that. What is acked in between reaches nobody."""

MOMENT: Final = 0.1
"""In seconds."""

KINDS: Final[tuple[dict[str, Any], ...]] = ({}, {"ack": "explicit"}, {"ack": "receipt"})
"""What clients ask for, in turn: the first keeps its position, the others have a consumer each."""

RATE: Final = 200
BODY: Final = b"x" * 1_000


@dataclass(frozen=True)
class Size:
    """How often every connection dies, how many there are, and after how many seconds the relay and its clients take
    one for dead. What the relay has not given up when its client is back it sends once more later."""

    silences: int
    clients: int
    relay: float
    client: float

    @property
    def ping(self) -> float:
        """Seconds between the relay's pings: several before anybody gives up."""
        return min(self.relay, self.client) / 4

    @property
    def clients_first(self) -> bool:
        return self.client < self.relay


QUICK = (Size(silences=2, clients=6, relay=1, client=3), Size(silences=2, clients=6, relay=3, client=1))
LONG = (Size(silences=20, clients=30, relay=4, client=5), Size(silences=20, clients=30, relay=8, client=2))
"""The relay is first, as by default, and then the clients."""


class Nat:
    """Passes connections on to the relay until it forgets them. A context manager."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._tasks: set[asyncio.Task[None]] = set()
        self._ends: set[asyncio.StreamWriter] = set()
        self._live: set[_Mapping] = set()
        self._over = asyncio.Event()

    async def __aenter__(self) -> Nat:
        listening = _socket()
        listening.bind(("127.0.0.1", 0))
        self._server = await asyncio.start_server(self._serve, sock=listening, limit=SMALL)
        self.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self._over.set()
        for end in self._ends:
            end.transport.abort()
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def forget(self, ways: tuple[str, ...]) -> None:
        """Nothing passes on those that there are any more in these directions, nor does their end."""
        mappings, self._live = self._live, set()
        for way in ways:
            for mapping in mappings:
                mapping.dead.add(way)
            await asyncio.sleep(MOMENT)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        upstream = _socket()
        await asyncio.get_running_loop().sock_connect(upstream, ("127.0.0.1", self._port))
        back, forth = await asyncio.open_connection(sock=upstream, limit=SMALL)
        ends = {writer, forth}
        self._ends |= ends
        mapping = _Mapping(self._over)
        self._live.add(mapping)
        await asyncio.gather(mapping.pass_on("up", reader, forth), mapping.pass_on("down", back, writer))
        self._live.discard(mapping)
        self._ends -= ends
        self._tasks.discard(task)


@dataclass(eq=False)
class _Mapping:
    over: asyncio.Event
    dead: set[str] = field(default_factory=set)

    async def pass_on(self, way: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while (data := await reader.read(65536)) and way not in self.dead:
                writer.write(data)
                await writer.drain()
        if self.dead:
            # Whatever happens at one end, the other one is not told.
            await self.over.wait()
        writer.transport.abort()


def _socket() -> socket.socket:
    """One that takes little of what nobody reads."""
    made = socket.socket()
    made.setblocking(False)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
    return made


@dataclass
class Client:
    """Reads the bucket in one of the ways."""

    name: str
    options: dict[str, Any]
    got: list[int] = field(default_factory=list)
    connected: int = 0

    async def run(self, url: str, token: tuple[str, str], size: Size) -> None:
        async with subscribe(
            url,
            *token,
            buckets="orders",
            since="earliest",
            consumer=self.name if self.options else None,
            idle_timeout=size.client,
            backoff=Backoff(first=0.1, longest=1),
            on_notice=self._noticed,
            **self.options,
        ) as events:
            async for event in events:
                await self._take(event)

    async def _take(self, event: Event) -> None:
        self.got.append(event.seq)
        if self.options.get("ack") == "explicit":
            await event.ack()

    def _noticed(self, notice: Notice) -> None:
        self.connected += notice.kind == "connected"

    def judge(self, sent: int, outcome: Outcome) -> None:
        """What the relay gives again is the only thing that may come out of its order."""
        missing, twice = sent - len(set(self.got)), len(self.got) - len(set(self.got))
        outcome.expect(not missing, f"{self.name} {self.options} lacks {missing} events")
        outcome.expect(not twice, f"{self.name} {self.options} got {twice} events twice")
        if self.options.get("ack") != "explicit":
            outcome.expect(self.got == sorted(self.got), f"{self.name} {self.options} got events out of order")


def run(folder: Path, *sizes: Size) -> Outcome:
    """See `Size`; one after the other."""
    outcome = Outcome()
    events = received = early = 0
    times: dict[str, object] = {}
    for size in sizes:
        name = "the clients first" if size.clients_first else "the relay first"
        with Relay(folder / name.replace(" ", "-"), stuck_timeout=size.relay, ping_interval=size.ping) as relay:
            path, token = relay.create_bucket("orders"), relay.create_token()
            kinds = itertools.islice(itertools.cycle(KINDS), size.clients)
            clients = [Client(f"client-{number}", kind) for number, kind in enumerate(kinds)]
            run = _Run()
            try:
                asyncio.run(_run(relay, path, token, clients, size, run))
            except TimeoutError:
                outcome.expect(False, f"{name}: not every client came back, and to everything")
                for client in clients:
                    client.judge(run.sent, outcome)
                return outcome
        for client in clients:
            client.judge(run.sent, outcome)
        events += run.sent
        received += sum(len(client.got) for client in clients)
        early += run.early
        times |= {
            f"{name}: all clients back after, s": median(run.back),
            f"{name}: all dead ones closed by the relay after, s": median(run.noticed),
        }
        late, last = max(run.back), max(run.noticed)
        outcome.expect_in_time(late < 2 * size.client + 10, f"{name}: clients were back after {late:.1f} s only")
        outcome.expect_in_time(last < 2 * size.relay + 12, f"{name}: the relay noticed after {last:.1f} s only")
        if size.clients_first:
            outcome.expect_in_time(run.early > 0, "the relay always gave up its connections before the clients did")
    outcome.figures = {
        "silences": sum(size.silences for size in sizes),
        "clients were back first": early,
        "connections that died": sum(size.silences * size.clients for size in sizes),
        "events": events,
        "received": received,
        **times,
    }
    return outcome


@dataclass
class _Run:
    """What a run was like: events, after how many seconds each time clients and relay had noticed, and how often the
    relay took dead connections for alive when all clients were back."""

    sent: int = 0
    back: list[float] = field(default_factory=list)
    noticed: list[float] = field(default_factory=list)
    early: int = 0


async def _run(relay: Relay, path: str, token: tuple[str, str], clients: list[Client], size: Size, run: _Run) -> None:
    sending = True
    loop = asyncio.get_running_loop()

    async def send() -> None:
        async with Sender(relay, path) as sender:
            while sending:
                await asyncio.sleep(1 / RATE)
                assert await sender.post(BODY) == 200
                run.sent += 1

    async with asyncio.timeout(TIMEOUT + size.silences * 20), Nat(relay.port) as nat:
        reading = [asyncio.create_task(client.run(nat.url, token, size)) for client in clients]
        await _until(lambda: all(client.connected for client in clients), reading)
        sender = asyncio.create_task(send())
        for _, ways in zip(range(size.silences), itertools.cycle(WAYS), strict=False):
            await asyncio.sleep(0.3)
            before = [client.connected for client in clients]
            began = loop.time()
            await nat.forget(ways)
            await _until(
                lambda were=before: all(client.connected > was for client, was in zip(clients, were, strict=True)),
                [*reading, sender],
            )
            run.back.append(loop.time() - began)
            run.early += await asyncio.to_thread(_connected, relay, token) > len(clients)
            await asyncio.to_thread(
                wait_for, lambda: _connected(relay, token) <= len(clients), "the relay to close what is dead"
            )
            run.noticed.append(loop.time() - began)
        sending = False
        await sender
        await _until(lambda: all(len(set(client.got)) >= run.sent for client in clients), reading)
        for task in reading:
            task.cancel()
        await asyncio.wait(reading)


async def _until(condition: Any, tasks: list[asyncio.Task[None]]) -> None:
    """Waits until it is true. Raises what ended one of the tasks."""
    while not condition():
        for task in tasks:
            if task.done():
                task.result()
        await asyncio.sleep(0.05)


def _connected(relay: Relay, token: tuple[str, str]) -> int:
    """How many subscribed clients the relay believes to have. One that died before that gets pings alone, which what
    stands in for the dead network goes on to take, and so lives."""
    request = urllib.request.Request(  # a relay on this machine
        f"{relay.url}/v1/connected-clients", headers={"Authorization": f"Bearer {token[1]}"}
    )
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        return sum(bool(client["buckets"]) for client in json.loads(response.read())["webhook_clients"])
