"""What the relay costs as it grows: by its buckets, its connections, its log, and when everybody comes back at once."""

from __future__ import annotations

import asyncio
import socket
import time
from functools import partial
from pathlib import Path
from typing import Any

from bench import replay, report
from bench.compare import CONNECTIONS, REPLAY
from bench.fill import fill
from bench.ingest import BODY
from bench.load import CHUNK, END, TIMEOUT, UPGRADE, WEBHOOK, Loop, Readers, Senders, Subscribers, frame
from bench.servers import PinnedRelay, folder, let_go
from bench.wrk import wrk
from relay_tornado.engine import open_administration
from relay_tornado.settings import Settings

BUCKETS = (1, 100, 10_000)
IDLE = (10, 1_000, 10_000)
REPLAYING = 20
STORM = 5_000
BEHIND = 1_000
STORM_PACE = 200


async def _make_buckets(data: Path, count: int) -> list[str]:
    async with open_administration(Settings(data=data)) as administration:
        made = [await administration.create_bucket(f"b{number}") for number in range(count)]
    return [f"/v1/webhooks/{bucket.inputs[0].id}" for bucket in made]


def buckets(count: int, seconds: float) -> dict[str, float]:
    """Ingest spread over so many buckets: events/s, p99 in ms, MiB after the start and at the end."""
    with folder() as data:
        paths = asyncio.run(_make_buckets(data / "data", count))
        with PinnedRelay(data / "data") as relay, Loop() as loop:
            started = relay.memory()
            found = wrk(loop, relay.port, paths, CONNECTIONS, seconds)
            return {"rate": found.rate, "p99": found.p99, "started": started / 2**20, "memory": relay.memory() / 2**20}


def connections(count: int, seconds: float) -> dict[str, float]:
    """Ingest beside so many quiet WebSockets: events/s, p99 in ms, KiB a connection."""
    with folder() as data, PinnedRelay(data / "data", max_sockets=20_000) as relay, Loop() as loop:
        path, token = relay.create_bucket("bench"), relay.create_token()
        relay.create_bucket("quiet")
        before = relay.memory()
        with Subscribers(loop, relay.port, token, count, {"buckets": ["quiet"]}):
            each = (relay.memory() - before) / count / 1024
            loop.wait(time.perf_counter() + seconds / 2)  # what a crowd costs that comes is the storm
            found = wrk(loop, relay.port, [path], CONNECTIONS, seconds)
        return {"rate": found.rate, "p99": found.p99, "each": each}


def log(relay: PinnedRelay, path: str, seconds: float) -> dict[str, float]:
    """Ingest into a log as long as it is, of which the kernel has nothing in memory: events/s and p99 in ms."""
    relay.stop()
    let_go(relay.data / "relay.db")
    relay.start()
    with Loop() as loop:
        found = wrk(loop, relay.port, [path], CONNECTIONS, seconds)
    return {"rate": found.rate, "p99": found.p99, "memory": relay.memory() / 2**20}


def replaying(relay: PinnedRelay, path: str, token: tuple[str, str], readers: int, seconds: float) -> dict[str, float]:
    """Ingest while so many clients replay from the start of the log, again and again."""
    with Loop() as loop:
        crowd = [_Again(loop, relay.port, token) for _ in range(readers)]
        found = wrk(loop, relay.port, [path], CONNECTIONS, seconds)
        replayed = sum(one.total for one in crowd)
        for one in crowd:
            one.close()
    return {"rate": found.rate, "p99": found.p99, "replayed": replayed / seconds}


class _Again:
    """A client that replays the log, and begins anew after so many events."""

    MOST = 100_000

    def __init__(self, loop: Loop, port: int, token: tuple[str, str]) -> None:
        self._loop = loop
        self._open = partial(Subscribers, loop, port, token, 1, {"buckets": ["bench"], "since": "earliest"})
        self._before = 0
        self._readers: Readers = self._open()
        self._readers.arrived = self._next

    @property
    def total(self) -> int:
        return self._before + self._readers.received

    def close(self) -> None:
        self._readers.__exit__()

    def _next(self) -> None:
        if self._readers.received >= self.MOST:
            self._before += self._readers.received
            self._readers.__exit__()
            self._readers = self._open()
            self._readers.arrived = self._next


class _Returning:
    """A client that comes back with a cursor, along with all the others: nothing here waits for it alone."""

    def __init__(self, port: int, token: tuple[str, str], cursor: str) -> None:
        self.received = 0
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.connect_ex(("127.0.0.1", port))
        self._tail = b""
        self._steps = [
            (UPGRADE.format(path="/v1/socket", port=port).encode(), END),
            (frame({"action": "auth", "key": token[0], "secret": token[1]}), b'"authenticated"'),
            (frame({"action": "subscribe", "buckets": ["bench"], "since": cursor}), b'"subscribed"'),
        ]
        self._awaited = b""

    def start(self) -> None:
        """Its connection stands: it says the first thing."""
        message, self._awaited = self._steps.pop(0)
        self.socket.sendall(message)

    def read(self, _: int) -> None:
        data = self.socket.recv(CHUNK)
        if not data:
            raise RuntimeError(f"the server closed a returning client's connection after {self._tail!r}")
        data = self._tail + data
        if self._awaited:
            at = data.find(self._awaited)
            if at < 0:
                self._tail = data
                return
            data = data[at + len(self._awaited) :]
            self._awaited = b""
            if self._steps:
                self.start()
        self.received += data.count(WEBHOOK)
        self._tail = data[-len(WEBHOOK) + 1 :]


def storm(relay: PinnedRelay, path: str, token: tuple[str, str], cursor: str, count: int) -> dict[str, float]:
    """So many clients come back at once, each `BEHIND` events behind: seconds until all are caught up, and the
    senders' p50 and p99 in ms meanwhile."""
    with Loop() as loop, Senders(loop, relay.port, path, 32, BODY) as senders:
        start = time.perf_counter()
        clients = [_Returning(relay.port, token, cursor) for _ in range(count)]
        waiting = {client.socket.fileno(): client for client in clients}
        for client in clients:
            _connected(client.socket)
            client.start()
            loop.add(client.socket.fileno(), client.read)
        posted, caught_up = 0, 0
        deadline = time.monotonic() + 300
        while waiting and time.monotonic() < deadline:
            while posted < (time.perf_counter() - start) * STORM_PACE:
                posted += 1
                senders.post(1)
            loop.step(0.002)
            for fd in [fd for fd, client in waiting.items() if client.received >= BEHIND]:
                del waiting[fd]
                caught_up += 1
        took = time.perf_counter() - start
        senders.settle()
        latencies = list(senders.latencies)
        for client in clients:
            client.socket.close()
    return {
        "clients": count,
        "caught up": caught_up,
        "seconds": took,
        "deliveries/s": caught_up * BEHIND / took,
        "senders' p50 ms": report.percentile(latencies, 0.5) * 1000,
        "senders' p99 ms": report.percentile(latencies, 0.99) * 1000,
    }


def _connected(client: socket.socket) -> None:
    """Waits until a connection stands. Raises OSError."""
    deadline = time.monotonic() + TIMEOUT
    while True:
        error = client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, "a returning client can't connect")
        try:
            client.getpeername()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.001)


def _filled(data: Path, size: int) -> tuple[PinnedRelay, str, tuple[str, str], str]:
    """A relay whose bucket holds so many events, its path, a token, and the epoch of its log."""
    relay = PinnedRelay(data / f"filled-{size}", max_sockets=20_000)
    bucket = relay.command("bucket", "create", "bench")
    token = relay.create_token()
    fill(relay.data, bucket, size)
    last = relay.command("logs", "list", "--bucket", "bench", "--limit", "1")["data"][0]["id"]
    return relay, f"/v1/webhooks/{bucket['inputs'][0]['id']}", token, last.split("-")[0]


def run(quick: bool, events: int = 1_000_000) -> dict[str, list[dict[str, Any]]]:
    """Measures, prints the tables and returns their rows. `events`: the length of the long log."""
    seconds, rounds = (0.2, 1) if quick else (4.0, 3)
    with folder() as data:
        return {
            "buckets": _buckets((1, 20) if quick else BUCKETS, rounds, seconds),
            "connections": _connections((10, 50) if quick else IDLE, rounds, seconds),
            "log": _log(data, (1_000, 5_000) if quick else (1_000, events), rounds, seconds),
            "replaying": _replaying(data, 3_000 if quick else 200_000, rounds, seconds),
            "storm": _storm(data, 20 if quick else STORM),
        }


def _buckets(sizes: tuple[int, ...], rounds: int, seconds: float) -> list[dict[str, Any]]:
    found = report.repeat(rounds, [partial(buckets, size, seconds) for size in sizes])
    rows = [
        {
            "buckets": size,
            "events/s": one["rate"],
            "p99 ms": one["p99"],
            "MiB at the start": one["started"],
            "MiB at the end": one["memory"],
        }
        for size, one in zip(sizes, found, strict=True)
    ]
    report.table(f"Ingest at {CONNECTIONS} connections, spread over buckets", rows)
    return rows


def _connections(sizes: tuple[int, ...], rounds: int, seconds: float) -> list[dict[str, Any]]:
    found = report.repeat(rounds, [partial(connections, size, seconds) for size in sizes])
    rows = [
        {"WebSockets": size, "events/s": one["rate"], "p99 ms": one["p99"], "KiB a connection": one["each"]}
        for size, one in zip(sizes, found, strict=True)
    ]
    report.table(f"Ingest at {CONNECTIONS} connections, beside quiet subscribers", rows)
    return rows


def _log(data: Path, sizes: tuple[int, ...], rounds: int, seconds: float) -> list[dict[str, Any]]:
    rows = []
    for size in sizes:
        relay, path, token, _ = _filled(data, size)
        count = min(size, REPLAY)
        with relay:
            # What was filled in past the server would come into the index of words beside the replays.
            relay.settings["search_index"] = "none"
            # What senders append is not what the log was filled with: both ends are alike before they do.
            at_start, at_end = report.repeat(
                2 * rounds - 1,
                [
                    partial(replay.measure, relay, token, "earliest", count),
                    partial(replay.measure, relay, token, {"last": count}, count),
                ],
            )
            del relay.settings["search_index"]
            (found,) = report.repeat(rounds, [partial(log, relay, path, seconds)])
        rows.append(
            {
                "events before": size,
                "events/s": found["rate"],
                "p99 ms": found["p99"],
                "MiB": found["memory"],
                "replayed from the start, events/s": at_start["rate"],
                "from the end, events/s": at_end["rate"],
            }
        )
    report.table(f"Ingest at {CONNECTIONS} connections, behind a log, and replays of it to one client", rows)
    return rows


def _replaying(data: Path, size: int, rounds: int, seconds: float) -> list[dict[str, Any]]:
    relay, path, token, _ = _filled(data, size)
    with relay:
        found = report.repeat(
            rounds, [partial(replaying, relay, path, token, readers, seconds) for readers in (0, REPLAYING)]
        )
    rows = [
        {
            "clients that replay": readers,
            "events/s": one["rate"],
            "ratio": one["rate"] / found[0]["rate"],
            "p99 ms": one["p99"],
            "replayed events/s": one["replayed"],
        }
        for readers, one in zip((0, REPLAYING), found, strict=True)
    ]
    report.table("Ingest while clients replay from the start of the log", rows)
    return rows


def _storm(data: Path, count: int) -> list[dict[str, Any]]:
    relay, path, token, epoch = _filled(data, 2 * BEHIND)
    with relay:
        rows = [storm(relay, path, token, f"{epoch}-{BEHIND}", count)]
    report.table(f"Everybody comes back at once, {BEHIND:,} events behind, beside {STORM_PACE} events/s", rows)
    return rows
