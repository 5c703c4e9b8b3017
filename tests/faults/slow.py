"""Slow senders, as slowhttptest plays them: they are closed in time, and the others' ingest goes on meanwhile.

Three ways in turn: a head that never ends, a body that never ends (a line or a byte now and then), and a connection
that says nothing at all.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.acceptance.clients import Sender
from tests.acceptance.relay import Relay
from tests.faults.outcome import Outcome, median
from tests.needs import needs


@dataclass(frozen=True)
class Size:
    """How many slow connections at once, and what is measured of them."""

    connections: int
    in_time: float
    """Seconds within which those that say something are to be closed."""
    patience: float
    """Seconds after which a connection is taken as never to be closed."""
    stretch: float
    """Seconds for which the others' rate is measured, with and without."""
    pairs: int
    drip: float
    """Seconds between two drops."""
    settings: dict[str, object] = field(default_factory=dict)


SMALL = Size(30, 10.0, 60.0, 0.5, 1, 0.2, {"idle_timeout": 5, "head_timeout": 5, "body_timeout": 5})
LONG = Size(1_000, 40.0, 120.0, 4.0, 3, 5.0)
LONG_TORNADO = Size(1_000, 80.0, 120.0, 4.0, 3, 5.0, {"transport": "tornado"})
SILENT = 80.0
"""Seconds after which a connection that never said anything is closed at the latest: it may be one that is kept."""
SHARE = 0.8
"""Of its rate that the others' ingest keeps at least."""
SENDERS = 8


def run(folder: Path, size: Size) -> Outcome:
    """Opens slow connections, and measures the others' rate beside them and, in turn, without any."""
    outcome = Outcome()
    with Relay(folder / "slow", **size.settings) as relay:
        path = relay.create_bucket("orders")
        ratios, closed, longest, silent, shortest, rates = [], 0, 0.0, 0.0, size.patience, []
        for _ in range(size.pairs):
            alone, beside, lives = asyncio.run(_pair(relay, path, size))
            ratios.append(beside / alone)
            rates.append(beside)
            closed += len(lives)
            shortest = min([shortest, *(life for _, life in lives)])
            longest = max([longest, *(life for number, life in lives if number % 3 != 2)])
            silent = max([silent, *(life for number, life in lives if number % 3 == 2)])
        opened = size.connections * size.pairs
        outcome.figures = {
            "slow connections": opened,
            "closed": closed,
            "the last after s": longest,
            "of those that said nothing": silent,
            "others' events/s": median(rates),
            "of what they are alone": median(ratios),
        }
        outcome.expect(shortest > size.drip, f"one was closed after {shortest:.1f} s, before it was slow")
        outcome.expect(closed == opened, f"{opened - closed} of {opened} were not closed within {size.patience} s")
        outcome.expect_in_time(longest <= size.in_time, f"one was closed after {longest:.0f} s only")
        outcome.expect_in_time(silent <= SILENT, f"one that said nothing was closed after {silent:.0f} s only")
        outcome.expect_in_time(median(ratios) >= SHARE, f"the others' rate fell to {median(ratios):.2f}")
        outcome.expect(relay.stop() == 0, "the relay did not end with 0")
        outcome.expect("Traceback" not in relay.said(), relay.said()[-2000:])
    return outcome


async def _pair(relay: Relay, path: str, size: Size) -> tuple[float, float, list[tuple[int, float]]]:
    """The others' events/s without slow connections and beside them; and how long each slow one lived, by number."""
    alone = await _rate(relay, path, size.stretch)
    async with asyncio.TaskGroup() as group:
        slow = [group.create_task(_slow(relay, path, number, size)) for number in range(size.connections)]
        # Once all are connected: the last of them is what connecting waits for.
        await asyncio.sleep(min(1.0, size.stretch))
        beside = await _rate(relay, path, size.stretch)
    return alone, beside, [(number, life) for number, task in enumerate(slow) if (life := task.result()) is not None]


async def _rate(relay: Relay, path: str, stretch: float) -> float:
    end = time.perf_counter() + stretch
    count = 0

    async def send() -> None:
        nonlocal count
        async with Sender(relay, path) as sender:
            while not count or time.perf_counter() < end:
                assert await sender.post(b"x" * 500) == 200
                count += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(SENDERS):
            group.create_task(send())
    return count / stretch


async def _slow(relay: Relay, path: str, number: int, size: Size) -> float | None:
    """Seconds until the relay closed the connection, None where it did not."""
    begun = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
    head = f"POST {path} HTTP/1.1\r\nHost: relay.test\r\n".encode()
    start, more = [(head, b"X-More: 1\r\n"), (head + b"Content-Length: 100000\r\n\r\n", b"x"), (b"", b"")][number % 3]
    writer.write(start)
    reading = asyncio.ensure_future(_until_closed(reader))
    try:
        while not reading.done():
            if time.monotonic() - begun > size.patience:
                return None
            writer.write(more)
            await asyncio.wait([reading], timeout=size.drip)
        return time.monotonic() - begun
    finally:
        reading.cancel()
        writer.transport.abort()


async def _until_closed(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(OSError):
        while await reader.read(1 << 16):
            pass


_TOOL = {"heads": "-H", "bodies": "-B"}
_ENDED = re.compile(r"Test ended on (\d+)th second")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def needs_tool() -> None:
    """Skips the running test where there is no slowhttptest."""
    needs("slowhttptest", "install slowhttptest")


def run_tool(folder: Path, connections: int, in_time: float) -> Outcome:
    """slowhttptest itself, with so many connections at once, first with slow heads, then with slow bodies."""
    outcome = Outcome()
    with Relay(folder / "slowhttptest") as relay:
        path = relay.create_bucket("orders")
        for name, mode in _TOOL.items():
            command = [
                "slowhttptest",
                mode,
                "-c",
                str(connections),
                "-r",
                str(connections // 2),
                "-i",
                "5",
                "-l",
                "150",
            ]
            command += ["-p", "5", "-t", "POST", "-u", relay.url + path]
            done = subprocess.run(command, capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL)
            said = _COLOUR.sub("", done.stdout)
            ended = _ENDED.search(said)
            assert ended is not None, said[-2000:]
            outcome.figures[f"slow {name} closed within s"] = int(ended[1])
            outcome.expect("No open connections left" in said, f"slow {name}: {said[-300:]}")
            outcome.expect("service available:   NO" not in said, f"slow {name}: nobody else was served")
            outcome.expect_in_time(int(ended[1]) <= in_time, f"slow {name} were closed after {ended[1]} s")
        outcome.expect(relay.stop() == 0, "the relay did not end with 0")
    return outcome
