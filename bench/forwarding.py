"""`python -m bench.forwarding [--quick]`: what it costs that a public output sends events on.

The destination runs on the load's core and answers at once. A relay without an output stands beside, and both take the
same events: at a steady pace, and as fast as 64 connections go. Both take turns; what is printed are medians.
"""

from __future__ import annotations

import os
import socket
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Self

import click

from bench import report
from bench.ingest import BODY
from bench.load import CHUNK, END, LENGTH, Loop, Senders
from bench.servers import PinnedRelay, folder

CONNECTIONS = 64
PACE = 200
"""Events a second at a steady pace."""
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"


class Destination:
    """An HTTP server on the load's loop that answers each request with 200 and counts it."""

    def __init__(self, loop: Loop) -> None:
        self.arrived: list[float] = []
        """When each request was there whole, by `time.perf_counter`."""
        self._loop = loop
        self._sockets: dict[int, socket.socket] = {}
        self._partial: dict[int, bytes] = {}
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
        loop.add(self._listening.fileno(), self._accept)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for each in (self._listening, *self._sockets.values()):
            each.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listening.getsockname()[1]}/hook"

    def _accept(self, _: int) -> None:
        made, _ = self._listening.accept()
        self._sockets[made.fileno()] = made
        self._loop.add(made.fileno(), self._read)

    def _read(self, fd: int) -> None:
        data = os.read(fd, CHUNK)
        if not data:
            self._partial.pop(fd, None)
            self._sockets.pop(fd).close()
            return
        data = self._partial.pop(fd, b"") + data
        head = data.find(END)
        length = LENGTH.search(data, 0, head + 2)
        if head < 0 or len(data) < head + len(END) + (int(length[1]) if length else 0):
            self._partial[fd] = data
            return
        self.arrived.append(time.perf_counter())
        os.write(fd, _ANSWER)


class _Run:
    """A relay of its own, its senders, and where it forwards to, if it does."""

    def __init__(self, stack: ExitStack, data: Path, *, forwards: bool) -> None:
        self.loop = stack.enter_context(Loop())
        self._destination = stack.enter_context(Destination(self.loop))
        self._forwards = forwards
        self.relay = stack.enter_context(PinnedRelay(data, forward_allow="127.0.0.0/8"))
        path = self.relay.create_bucket("bench")
        if forwards:
            self.relay.command("output", "create", "bench", "--public", "--destination", self._destination.url)
        self.senders = stack.enter_context(Senders(self.loop, self.relay.port, path, CONNECTIONS, BODY))
        self.senders.post(CONNECTIONS)
        self._settle()

    def paced(self, seconds: float) -> dict[str, float]:
        """At a steady pace: CPU µs an event, and ms from the POST to the answer, or to the destination."""
        answered, arrived = len(self.senders.latencies), len(self._destination.arrived)
        sent: list[float] = []
        spent, start = self.relay.cpu(), time.perf_counter()
        for number in range(int(PACE * seconds)):
            self.loop.wait(start + number / PACE)
            sent.append(time.perf_counter())
            self.senders.post(1)
        self._settle()
        ways = self.senders.latencies[answered:]
        if self._forwards:
            ways = [there - here for here, there in zip(sent, self._destination.arrived[arrived:], strict=True)]
        return {
            "cpu at the pace": (self.relay.cpu() - spent) / len(sent) * 1e6,
            "p50": report.percentile(ways, 0.5) * 1000,
            "p99": report.percentile(ways, 0.99) * 1000,
        }

    def full(self, seconds: float) -> dict[str, float]:
        """As fast as answers come: events a second until the last is there, and CPU µs an event."""
        before, spent, start = self.senders.sent, self.relay.cpu(), time.perf_counter()
        self.senders.post(1 << 60)
        self.loop.wait(start + seconds)
        self.senders.limit = self.senders.sent
        self._settle()
        count = self.senders.sent - before
        return {"rate": count / (time.perf_counter() - start), "cpu": (self.relay.cpu() - spent) / count * 1e6}

    def _settle(self) -> None:
        self.senders.settle()
        if self._forwards:
            arrived, sent = self._destination.arrived, self.senders
            self.loop.until(lambda: len(arrived) >= sent.sent, "all to be forwarded", 300)


def measure(*, forwards: bool, seconds: float) -> dict[str, float]:
    """Of one relay, alone."""
    with folder() as data, ExitStack() as stack:
        run = _Run(stack, data / "data", forwards=forwards)
        return run.paced(seconds) | run.full(seconds)


@click.command()
@click.option("--quick", is_flag=True, help="A moment, to see that it works; the figures mean little.")
def main(quick: bool) -> None:
    """Measure what forwarding costs. Data goes to TMPDIR."""
    seconds, rounds = (0.2, 1) if quick else (4.0, 3)
    ways = [partial(measure, forwards=forwards, seconds=seconds) for forwards in (False, True)]
    found = report.repeat(rounds, ways)
    rows: list[dict[str, Any]] = [
        {
            "events are": name,
            f"CPU µs an event at {PACE}/s": one["cpu at the pace"],
            "p50 ms": one["p50"],
            "p99 ms": one["p99"],
            f"events/s from {CONNECTIONS} connections": one["rate"],
            "CPU µs an event": one["cpu"],
        }
        for name, one in zip(("stored", "stored and forwarded"), found, strict=True)
    ]
    report.table("Events of 1 KiB to a public output: ms to the answer, and to the destination", rows)


if __name__ == "__main__":
    main(prog_name="python -m bench.forwarding")
