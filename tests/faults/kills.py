"""kill -9 under load: what was acknowledged is there, once, in its order, and every cursor stays good."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from pathlib import Path

from tests.acceptance.clients import Subscriber, Webhook, read_log
from tests.acceptance.relay import Relay
from tests.faults.load import Load, judge
from tests.faults.outcome import Outcome

SENDERS = 20


def run(folder: Path, rounds: int) -> Outcome:
    """Kills a relay that 20 senders load so many times."""
    outcome = Outcome()
    relay = Relay(folder / "killed")
    with relay:
        path = relay.create_bucket("orders")
        token = relay.create_token()
        follower = _Follower(relay, token, outcome)
        loads: list[Load] = []
        false_alarms = 0
        for number in range(rounds):
            loads.append(Load(relay, path, f"round {number}", SENDERS))
            asyncio.run(follower.through_a_kill(loads[-1]))
            relay.start()
            false_alarms += "committed_work_lost" in relay.said()
        log = asyncio.run(read_log(relay, token, "orders"))
        outcome.figures["kills"] = rounds
        judge(outcome, log, loads)
        bodies = {event.id: event.body for event in log}
        renamed = sum(bodies.get(event.id) != event.body for event in follower.seen)
        epochs = {event.id.partition("-")[0]: event for event in log}
        refused = asyncio.run(_refused(relay, token, [*epochs.values(), *random.sample(follower.seen, rounds)]))
        outcome.figures |= {"epochs": len(epochs), "cursors refused": refused, "false alarms": false_alarms}
        outcome.expect(not renamed, f"{renamed} ids name another event than before a kill")
        outcome.expect(not refused, f"{refused} cursors were not honoured")
        outcome.expect(not false_alarms, f"the witness told {false_alarms} losses that there were none of")
        outcome.expect(len(epochs) == rounds, f"{rounds} starts that were written to opened {len(epochs)} epochs")
        outcome.expect(relay.stop() == 0, "the relay did not end with 0")
    return outcome


class _Follower:
    """A subscriber that is there before each kill, and comes back behind it with the last id that it has."""

    def __init__(self, relay: Relay, token: tuple[str, str], outcome: Outcome) -> None:
        self.seen: list[Webhook] = []
        self._relay = relay
        self._token = token
        self._outcome = outcome

    async def through_a_kill(self, load: Load) -> None:
        """Loads the relay, kills it, and keeps what came before."""
        since = self.seen[-1].id if self.seen else "earliest"
        async with Subscriber(self._relay, self._token, "orders", since) as subscriber:
            answer, due = subscriber.subscribed, len(self.seen) + 1
            self._outcome.expect(
                answer["gap"] is None and answer["recovered"] is True and answer["start"] == due,
                f"the cursor {since} was answered with {answer}, seq {due} is due",
            )
            sending = asyncio.ensure_future(load.run())
            following = asyncio.ensure_future(_all(subscriber))
            await load.until(random.randint(40, 200))
            self._relay.kill()
            await sending
            new = await following
        seqs = [event.seq for event in new]
        self._outcome.expect(seqs == list(range(due, due + len(new))), f"a hole or a repeat on one connection: {seqs}")
        self.seen.extend(new)


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
