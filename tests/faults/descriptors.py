"""Too few descriptors: a relay that may open 256 says so once a second at most, and recovers."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path

from tests.acceptance.clients import Sender, Subscriber, post
from tests.acceptance.relay import Relay, wait_for
from tests.faults.outcome import Outcome

DESCRIPTORS = 256


class PoorRelay(Relay):
    """One that may open 256 files and sockets."""

    def command_line(self) -> list[str]:
        return ["sh", "-c", f'ulimit -n {DESCRIPTORS} && exec "$@"', "sh", *super().command_line()]


def run(folder: Path, connections: int, waves: int = 1) -> Outcome:
    """Opens so many connections at once, as often as `waves` says, while a sender and a subscriber that were there
    before go on."""
    outcome = Outcome()
    with PoorRelay(folder / "poor") as relay:
        path = relay.create_bucket("orders")
        token = relay.create_token()
        said, begun = len(relay.said()), time.monotonic()
        held, sent = asyncio.run(_waves(relay, path, token, connections, waves, outcome))
        seconds = time.monotonic() - begun
        open_then = relay.descriptors()
        wait_for(lambda: relay.descriptors() < 64, "the connections to be let go")
        status = asyncio.run(post(relay, path, b"afterwards"))
        lines = [line for line in relay.said()[said:].splitlines() if '"level": "info"' not in line]
        lasted = time.monotonic() - begun
        outcome.figures = {
            "descriptors": DESCRIPTORS,
            "connections": connections * waves,
            "held at once": held,
            "log lines": len(lines),
            "in s": seconds,
            "events of those who were there": sent,
            "afterwards": status,
        }
        outcome.expect(open_then <= DESCRIPTORS, f"{open_then} descriptors were open")
        outcome.expect(held < connections, f"all {held} connections were held: nothing was scarce")
        outcome.expect(1 <= len(lines) <= lasted + 2, f"{len(lines)} log lines in {lasted:.1f} s: {lines[:3]}")
        outcome.expect(status == 200, f"a sender gets {status} afterwards")
        outcome.expect(relay.stop() == 0, "the relay did not end with 0")
        outcome.expect("Traceback" not in relay.said(), relay.said()[-2000:])
    return outcome


async def _waves(
    relay: Relay, path: str, token: tuple[str, str], connections: int, waves: int, outcome: Outcome
) -> tuple[int, int]:
    """How many connections the relay held at once, at most; and how many events went through beside them."""
    held = sent = 0
    async with Subscriber(relay, token, "orders", "latest") as subscriber, Sender(relay, path) as sender:
        events = subscriber.webhooks()
        for _ in range(waves):
            opened = await asyncio.gather(*(_open(relay) for _ in range(connections)))
            alive = await asyncio.gather(*(_asks(*each) for each in opened if each is not None))
            held = max(held, sum(alive))
            for _ in range(20):
                status = await sender.post(b"beside")
                outcome.expect(status == 200, f"a sender that was there before got {status}")
                sent += (await anext(events)).body == b"beside"
            for each in opened:
                if each is not None:
                    each[1].transport.abort()
            await asyncio.sleep(0)
    outcome.expect(sent == 20 * waves, f"a subscriber that was there before got {sent} events")
    return held, sent


_Opened = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _open(relay: Relay) -> _Opened | None:
    with contextlib.suppress(OSError):
        return await asyncio.open_connection("127.0.0.1", relay.port)
    return None


async def _asks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Whether the relay answers on this connection."""
    with contextlib.suppress(OSError, EOFError):
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: relay.test\r\n\r\n")
        async with asyncio.timeout(60):
            return (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")
    return False
