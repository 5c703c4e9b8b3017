"""kill -9 under load: what was acknowledged is there, once, in its order, every cursor stays good, and consumers by
receipt go on where they have read."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Sequence
from pathlib import Path

from relay_tornado.delivery.receipts import INTERVAL
from tests.acceptance.clients import Subscriber, Webhook, read_log
from tests.acceptance.relay import Relay
from tests.faults.load import Load, judge
from tests.faults.outcome import Outcome
from tests.faults.readers import Reader
from tests.waiting import until

SENDERS = 20
SETTLED = 5
"""Before one kill in so many, from the second on, readers wait until it is known what they have read, for some seconds,
and read nothing of what comes then."""


def run(folder: Path, rounds: int) -> Outcome:
    """Kills a relay that 20 senders load so many times."""
    outcome = Outcome()
    relay = Relay(folder / "killed")
    with relay:
        path = relay.create_bucket("orders")
        token = relay.create_token()
        readers = [Reader(relay, outcome, durable) for durable in (False, True)]
        follower = _Follower(relay, token, outcome, readers)
        loads: list[Load] = []
        false_alarms = 0
        for number in range(rounds):
            loads.append(Load(relay, path, f"round {number}", SENDERS))
            asyncio.run(follower.through_a_kill(loads[-1], settled=number % SETTLED == 1))
            relay.start()
            false_alarms += "committed_work_lost" in relay.said()
        log = asyncio.run(read_log(relay, token, "orders"))
        asyncio.run(_read_all(readers, log[-1].seq))
        outcome.figures["kills"] = rounds
        judge(outcome, log, loads)
        bodies = {event.id: event.body for event in log}
        renamed = sum(bodies.get(event.id) != event.body for event in follower.seen)
        epochs = {event.id.partition("-")[0]: event for event in log}
        refused = asyncio.run(_refused(relay, token, [*epochs.values(), *random.sample(follower.seen, rounds)]))
        outcome.figures |= {"epochs": len(epochs), "cursors refused": refused, "false alarms": false_alarms}
        outcome.figures["given to readers again"] = sum(reader.repeats for reader in readers)
        outcome.expect(not renamed, f"{renamed} ids name another event than before a kill")
        outcome.expect(not refused, f"{refused} cursors were not honoured")
        outcome.expect(not false_alarms, f"the witness told {false_alarms} losses that there were none of")
        outcome.expect(len(epochs) == rounds, f"{rounds} starts that were written to opened {len(epochs)} epochs")
        outcome.expect(relay.stop() == 0, "the relay did not end with 0")
    return outcome


class _Follower:
    """A subscriber that is there before each kill, and comes back behind it with the last id that it has."""

    def __init__(self, relay: Relay, token: tuple[str, str], outcome: Outcome, readers: Sequence[Reader]) -> None:
        self.seen: list[Webhook] = []
        self._relay = relay
        self._token = token
        self._outcome = outcome
        self._readers = readers

    async def through_a_kill(self, load: Load, settled: bool) -> None:
        """Loads the relay, kills it, and keeps what came before."""
        since = self.seen[-1].id if self.seen else "earliest"
        async with Subscriber(self._relay, self._token, "orders", since) as subscriber:
            answer, due = subscriber.subscribed, len(self.seen) + 1
            self._outcome.expect(
                answer["gap"] is None and answer["recovered"] is True and answer["start"] == due,
                f"the cursor {since} was answered with {answer}, seq {due} is due",
            )
            reading = [asyncio.ensure_future(reader.follow()) for reader in self._readers]
            if settled:
                await asyncio.gather(*(reader.settle() for reader in self._readers))
            sending = asyncio.ensure_future(load.run())
            following = asyncio.ensure_future(_all(subscriber))
            await load.until(random.randint(40, 200))
            if settled:
                await asyncio.sleep(1.5 * INTERVAL)
            self._relay.kill()
            for reader in self._readers if settled else ():
                reader.leave()
            await asyncio.gather(sending, *reading)
            new = await following
        seqs = [event.seq for event in new]
        self._outcome.expect(seqs == list(range(due, due + len(new))), f"a hole or a repeat on one connection: {seqs}")
        self.seen.extend(new)


async def _read_all(readers: Sequence[Reader], head: int) -> None:
    reading = [asyncio.ensure_future(reader.follow()) for reader in readers]
    await until(lambda: all(reader.last == head for reader in readers), f"all readers to get everything up to {head}")
    for task in reading:
        task.cancel()
    await asyncio.wait(reading)


async def _all(subscriber: Subscriber) -> list[Webhook]:
    return [event async for event in subscriber.webhooks()]


async def _refused(relay: Relay, token: tuple[str, str], events: Iterable[Webhook]) -> int:
    """How many of these events' ids are not honoured exactly as cursors."""
    refused = 0
    for event in events:
        async with Subscriber(relay, token, "orders", event.id) as subscriber:
            answer = subscriber.subscribed
            refused += answer["gap"] is not None or answer["start"] != event.seq + 1
    return refused
