"""SIGTERM under load: every request that was accepted is answered and kept, and the relay ends in time."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from pathlib import Path

from tests.acceptance.clients import Sender, Subscriber, read_log
from tests.acceptance.relay import TIMEOUT, Relay
from tests.faults.load import Load, judge
from tests.faults.outcome import Outcome, median

SENDERS = 20
HALVES = 20
"""Requests that are half sent: of them alone a sender knows that the relay had begun with them."""
IN_TIME = 10.0
"""Seconds that a relay may take to end."""


def run(folder: Path, rounds: int) -> Outcome:
    """Ends a relay that 20 senders load so many times, each time with 20 requests half sent."""
    outcome = Outcome()
    relay = Relay(folder / "drained")
    with relay:
        path = relay.create_bucket("orders")
        token = relay.create_token()
        loads: list[Load] = []
        seconds: list[float] = []
        for number in range(rounds):
            load = Load(relay, path, f"round {number}", SENDERS, reconnects=True)
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
    """Sends SIGTERM under load, and then the rest of some requests; returns how long the relay took to end."""
    async with Subscriber(relay, token, "orders", "latest") as subscriber, contextlib.AsyncExitStack() as stack:
        halves = {
            b"%s, half of %d then." % (load.name.encode(), number): Sender(relay, load.path) for number in range(HALVES)
        }
        for body, slow in halves.items():
            await stack.enter_async_context(slow)
            slow.writer.write(slow.head(len(body)) + body[:-5])
        sending = asyncio.ensure_future(load.run())
        await load.until(random.randint(50, 150))
        begun = time.monotonic()
        relay.terminate()
        reading = asyncio.ensure_future(_read(subscriber))
        await asyncio.sleep(random.uniform(0.0, 0.5))
        for body, slow in halves.items():
            slow.writer.write(body[-5:])
        for body, slow in halves.items():
            status = await _answer(slow)
            outcome.expect(status == 200, f"a request that was half sent got {status or 'no answer'}")
            if status == 200:
                load.acknowledged.append([body])
        await sending
        await reading
        outcome.expect(subscriber.socket.close_code == 1001, f"a socket got {subscriber.socket.close_code}, not 1001")
    code = await asyncio.to_thread(relay.wait)
    outcome.expect(code == 0, f"the relay ended with {code}")
    return time.monotonic() - begun


async def _read(subscriber: Subscriber) -> None:
    async for _ in subscriber.webhooks():
        pass


async def _answer(sender: Sender) -> int:
    """The status, 0 where the connection ends without one."""
    with contextlib.suppress(OSError, EOFError):
        async with asyncio.timeout(TIMEOUT):
            return await sender.answer()
    return 0
