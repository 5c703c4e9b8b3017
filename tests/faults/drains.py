"""SIGTERM under load: every request that was accepted is answered and kept, and the relay ends in time."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path

from tests.acceptance.clients import Sender, Subscriber, read_log
from tests.acceptance.relay import TIMEOUT, Relay
from tests.faults.load import Load, judge
from tests.faults.outcome import Outcome, median

SENDERS = 20
IN_TIME = 10.0
"""Seconds that a relay may take to end."""


def run(folder: Path, rounds: int) -> Outcome:
    """Ends a relay that 20 senders load so many times, each time with a request half sent."""
    outcome = Outcome()
    relay = Relay(folder / "drained")
    with relay:
        path = relay.create_bucket("orders")
        token = relay.create_token()
        loads: list[Load] = []
        seconds: list[float] = []
        for number in range(rounds):
            load = Load(relay, path, f"round {number}", SENDERS)
            loads.append(load)
            seconds.append(asyncio.run(_end(relay, token, load, outcome)))
            relay.start()
        outcome.figures["SIGTERMs"] = rounds
        judge(outcome, asyncio.run(read_log(relay, token, "orders")), loads)
        outcome.figures |= {"s to the end, median": median(seconds), "most": max(seconds)}
        outcome.expect_in_time(max(seconds) <= IN_TIME, f"an end took {max(seconds):.1f} s")
        outcome.expect(relay.stop() == 0, "the relay did not end with 0")
    return outcome


async def _end(relay: Relay, token: tuple[str, str], load: Load, outcome: Outcome) -> float:
    """Sends SIGTERM under load, and then the rest of a request; returns how long the relay took to end."""
    async with Subscriber(relay, token, "orders", "latest") as subscriber, Sender(relay, load.path) as slow:
        sending = asyncio.ensure_future(load.run())
        body = b"%s, half then." % load.name.encode()
        slow.writer.write(slow.head(len(body)) + body[:-5])
        await load.until(random.randint(50, 150))
        begun = time.monotonic()
        relay.terminate()
        async for _ in subscriber.webhooks():
            pass
        outcome.expect(subscriber.socket.close_code == 1001, f"a socket got {subscriber.socket.close_code}, not 1001")
        slow.writer.write(body[-5:])
        async with asyncio.timeout(TIMEOUT):
            status = await slow.answer()
        outcome.expect(status == 200, f"a request that was half sent got {status}")
        if status == 200:
            load.acknowledged.append([body])
        await sending
    code = await asyncio.to_thread(relay.wait)
    outcome.expect(code == 0, f"the relay ended with {code}")
    return time.monotonic() - begun
