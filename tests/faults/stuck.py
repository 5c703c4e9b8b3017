"""Consumers that never read: they cost the relay bounded memory, and slow nobody else."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.acceptance.clients import Sender, Subscriber
from tests.acceptance.relay import TIMEOUT, Relay, wait_for
from tests.faults.outcome import Outcome, median, percentile

MIB = 1 << 20


@dataclass(frozen=True)
class Size:
    """How many sockets never read, and what goes past them: `events` of `size` bytes at `rate` a second in each of
    `pairs` stretches, on a relay with them and on one without."""

    sockets: int
    events: int
    size: int
    pairs: int
    rate: float
    most: int
    """Bytes by which the relay's memory may grow."""
    cut: bool
    """Whether to wait until the relay cuts them off."""
    settings: dict[str, object] = field(default_factory=dict)


SMALL = Size(
    sockets=20,
    events=300,
    size=200_000,
    pairs=1,
    rate=1_000,
    most=40 * MIB,
    cut=True,
    settings={
        "search_index": "none",  # it has a bound of its own
        "tail": "4MiB",
        "page_cache": "4MiB",
        "replay_buffer": "16MiB",
        "stuck_timeout": 2,
        "ping_interval": 1,
    },
)
LONG = Size(
    sockets=100,
    events=2_500,
    size=10_000,
    pairs=4,
    rate=150,
    most=150 * MIB,
    cut=False,
    settings={"stuck_timeout": 3600},
)
RATIO = 1.5
"""Times by which the p99 of others may grow."""


def stuck_reader(relay: Relay, token: tuple[str, str]) -> socket.socket:
    """A client that subscribes to everything and then never reads again. It has a small receive buffer."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(TIMEOUT)
    client.connect(("127.0.0.1", relay.port))
    client.sendall(
        b"GET /v1/socket HTTP/1.1\r\nHost: relay.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    for message, answer in (
        (b'{"action":"auth","key":"%s","secret":"%s"}' % (token[0].encode(), token[1].encode()), b"authenticated"),
        (b'{"action":"subscribe","buckets":["orders"],"since":"earliest"}', b"subscribed"),
    ):
        client.sendall(bytes([0x81, 0xFE]) + len(message).to_bytes(2) + bytes(4) + message)
        received = b""
        while answer not in received:
            received += client.recv(1)
    return client


def run(folder: Path, size: Size) -> Outcome:
    """See `Size`."""
    outcome = Outcome()
    body = os.urandom(size.size // 2).hex().encode()
    with contextlib.ExitStack() as stack:
        relays: list[tuple[Relay, str, tuple[str, str]]] = []
        for name in ("alone", "beside"):
            relay = stack.enter_context(Relay(folder / name, **size.settings))
            relays.append((relay, relay.create_bucket("orders"), relay.create_token()))
        beside, _, token = relays[1]
        clients = [stack.enter_context(stuck_reader(beside, token)) for _ in range(size.sockets)]
        before = [relay.memory() for relay, _, _ in relays]
        p99: list[list[float]] = [[], []]
        seen = [0, 0]
        for _ in range(size.pairs):
            for place, (relay, path, each) in enumerate(relays):
                latencies = asyncio.run(_stretch(relay, path, each, body, size))
                seen[place] += len(latencies)
                p99[place].append(percentile(latencies, 0.99) * 1000)
        grown = [relay.memory() - was for (relay, _, _), was in zip(relays, before, strict=True)]
        ratio = median(with_ / without for without, with_ in zip(*p99, strict=True))
        outcome.figures = {
            "sockets that never read": size.sockets,
            "events": size.events * size.pairs,
            "of bytes": size.size,
            "memory grew, MiB": grown[1] / MIB,
            "without them": grown[0] / MIB,
            "others' p99, ms": median(p99[1]),
            "alone": median(p99[0]),
            "ratio": ratio,
        }
        outcome.expect(seen[1] == size.events * size.pairs, f"a healthy client got {seen[1]} events")
        outcome.expect(grown[1] < size.most, f"the relay grew by {grown[1] / MIB:.0f} MiB")
        outcome.expect_in_time(ratio <= RATIO, f"others' p99 grew {ratio:.2f} times")
        there = beside.connections()
        outcome.expect(size.cut or there >= size.sockets, f"{there} stuck readers were there at the end")
        if size.cut:
            wait_for(lambda: not beside.connections(), "the stuck readers to be cut off")
        for client in clients:
            client.close()
        for relay, _, _ in relays:
            outcome.expect(relay.stop() == 0, "the relay did not end with 0")
    return outcome


async def _stretch(relay: Relay, path: str, token: tuple[str, str], body: bytes, size: Size) -> list[float]:
    """How long each event took from when its sender began to when a healthy client had it, in seconds."""
    begun: list[float] = []
    latencies: list[float] = []

    async def send() -> None:
        async with Sender(relay, path) as sender:
            due = time.perf_counter()
            for number in range(size.events):
                due += 1 / size.rate
                await asyncio.sleep(due - time.perf_counter())
                begun.append(time.perf_counter())
                assert await sender.post(b"%d " % number + body) == 200

    async with asyncio.timeout(120), Subscriber(relay, token, "orders", "latest") as subscriber:
        sending = asyncio.ensure_future(send())
        async for event in subscriber.webhooks():
            number, _, rest = event.body.partition(b" ")
            assert int(number) == len(latencies)
            assert rest == body
            latencies.append(time.perf_counter() - begun[int(number)])
            if len(latencies) == size.events:
                break
        await sending
    return latencies
