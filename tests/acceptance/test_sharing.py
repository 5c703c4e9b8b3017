"""Clients that share a consumer, as processes: whatever becomes of them or of the relay, all events are handled."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.clients import Sender
from tests.acceptance.relay import Relay, wait_for

EVENTS = 400
ACK_WAIT = 10.0


class Process:
    """A running worker; `handled` are the bodies that it has acked, or is about to."""

    def __init__(self, relay: Relay, token: tuple[str, str], output: Path, fields: dict[str, Any]) -> None:
        self.output = output
        script = str(Path(__file__).with_name("worker.py"))
        with output.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, script, relay.ws_url, *token, json.dumps(fields)], stdout=file, stderr=file
            )

    def lines(self) -> list[str]:
        return self.output.read_text().rpartition("\n")[0].splitlines()

    @property
    def handled(self) -> list[str]:
        return [line for line in self.lines() if line.startswith("event ")]

    def end(self) -> None:
        self.process.kill()
        self.process.wait(60)


@contextmanager
def workers(relay: Relay, token: tuple[str, str], folder: Path, count: int, **fields: Any) -> Iterator[list[Process]]:
    started = [Process(relay, token, folder / f"worker-{number}", fields) for number in range(count)]
    try:
        for each in started:
            wait_for(lambda each=each: "status subscribed" in each.lines(), "a worker to subscribe")
        yield started
    finally:
        for each in started:
            each.end()


async def send(relay: Relay, path: str, first: int, count: int) -> None:
    async with Sender(relay, path) as sender:
        for number in range(first, first + count):
            assert await sender.post(b"event %d" % number) == 200


def consumer(relay: Relay, secret: str) -> dict[str, Any]:
    (found,) = relay.rest(secret, "GET", "/v1/buckets/orders/consumers")
    return found  # type: ignore[no-any-return]


@pytest.mark.parametrize("count", [2, 5])
def test_one_is_killed(relay: Relay, tmp_path: Path, count: int) -> None:
    """What a worker that is killed had goes to the others at once, and what one that hangs had after `ack_wait`: all
    events are acked, and without them hardly any twice."""
    path = relay.create_bucket("orders")
    token = relay.create_token()
    fields = {"buckets": ["orders"], "consumer": "w", "ack_wait": ACK_WAIT, "max_deliver": 0, "max_in_flight": 20}
    with workers(relay, token, tmp_path, count, **fields) as those:
        asyncio.run(send(relay, path, 0, EVENTS // 2))
        wait_for(lambda: all(each.handled for each in those), "everybody to have had something")
        if count > 2:
            os.kill(those[1].process.pid, signal.SIGSTOP)
        asyncio.run(send(relay, path, EVENTS // 2, EVENTS // 2))
        those[0].process.kill()
        wait_for(lambda: consumer(relay, token[1])["pending"] == 0, "all events to be acked")
        if count > 2:
            os.kill(those[1].process.pid, signal.SIGCONT)
        wanted = {f"event {number}" for number in range(EVENTS)}
        wait_for(lambda: wanted <= {line for each in those for line in each.handled}, "the workers' last words")
        handled = [line for each in those for line in each.handled]
        assert len(handled) <= EVENTS + 2 * fields["max_in_flight"]  # type: ignore[operator]


def test_the_relay_is_killed(relay: Relay, tmp_path: Path) -> None:
    """What was not acked comes again after kill -9 of the relay, what was stored as acked does not."""
    path = relay.create_bucket("orders")
    token = relay.create_token()
    fields = {"buckets": ["orders"], "consumer": "w"}
    with workers(relay, token, tmp_path, 1, **fields) as (first,):
        os.kill(first.process.pid, signal.SIGSTOP)
        asyncio.run(send(relay, path, 0, 20))
        os.kill(first.process.pid, signal.SIGCONT)
        wait_for(lambda: len(first.handled) == 20, "the first events")
        wait_for(lambda: consumer(relay, token[1])["pending"] == 0, "their acks")
        os.kill(first.process.pid, signal.SIGSTOP)
        asyncio.run(send(relay, path, 20, 20))
        wait_for(lambda: consumer(relay, token[1])["out"] == 20, "the next ones to be out")
        relay.restart()
    assert consumer(relay, token[1])["pending"] == 20
    with workers(relay, token, tmp_path, 1, **fields) as (second,):
        wait_for(lambda: len(second.handled) == 20, "what was not acked")
        assert second.handled == [f"event {number}" for number in range(20, 40)]
