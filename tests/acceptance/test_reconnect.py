"""Clients that come and go under load: what each received, without its repeats, is the log."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable

import pytest
from websockets.exceptions import ConnectionClosed

from tests.acceptance.clients import Sender, Subscriber, Webhook, read_log
from tests.acceptance.relay import TIMEOUT, Relay

RATE = 500
SECONDS = 8
CLIENTS = 20
SENDERS = 5
LONG_AWAY = 5
"""So many of the clients are away long enough to come back through SQLite, the tail and live."""


class Client:
    """Reads a bucket, is cut at random, and comes back with the last id that it has."""

    def __init__(self, relay: Relay, token: tuple[str, str], away: tuple[float, float]) -> None:
        self.relay = relay
        self.token = token
        self.away = away
        self.received: list[Webhook] = []
        self.connections = 0
        self.longest_replay = 0

    async def run(self, end: asyncio.Future[int]) -> None:
        """Returns once it has every seq up to the result of `end`."""
        while not (end.done() and self.received and self.received[-1].seq >= end.result()):
            await self._connection(end)
            if not end.done():
                await asyncio.sleep(random.uniform(*self.away))

    async def _connection(self, end: asyncio.Future[int]) -> None:
        since = self.received[-1].id if self.received else "earliest"
        async with Subscriber(self.relay, self.token, "orders", since) as subscriber:
            self.connections += 1
            answer = subscriber.subscribed
            assert answer["gap"] is None
            assert answer["start"] == (self.received[-1].seq + 1 if self.received else 1)
            self.longest_replay = max(self.longest_replay, answer["head"] - answer["start"] + 1)
            cut = asyncio.get_running_loop().create_future()
            timer = asyncio.get_running_loop().call_later(random.uniform(0.05, 1.0), self._cut, subscriber, cut)
            expected = answer["start"]
            try:
                async for event in until(subscriber, cut):
                    assert event.seq == expected, f"{event.seq} came where {expected} was due"
                    expected += 1
                    self.received.append(event)
                    if end.done() and event.seq >= end.result():
                        return
            finally:
                timer.cancel()

    @staticmethod
    def _cut(subscriber: Subscriber, cut: asyncio.Future[None]) -> None:
        cut.set_result(None)
        subscriber.socket.transport.abort()


async def until(subscriber: Subscriber, cut: asyncio.Future[None]) -> AsyncIterator[Webhook]:
    """The webhooks of a connection, until it is cut; a close that was not asked for is an error."""
    with contextlib.suppress(ConnectionClosed):
        async for event in subscriber.webhooks():
            yield event
    assert cut.done(), f"the relay closed with {subscriber.socket.close_code}"


@pytest.mark.heavy
def test_20_clients_cut_at_random(new_relay: Callable[..., Relay]) -> None:
    """20 clients are cut at random while 500 events a second come in; each gets the whole log, in order, with nothing
    missing and nothing twice on one connection."""
    relay = new_relay(tail="256KiB", page_cache="256KiB")
    relay.start()
    path = relay.create_bucket("orders")
    token = relay.create_token()
    away = [(1.5, 4.0)] * LONG_AWAY + [(0.0, 0.3)] * (CLIENTS - LONG_AWAY)
    clients = [Client(relay, token, span) for span in away]
    bodies: list[bytes] = []

    async def send(number: int) -> None:
        async with Sender(relay, path) as sender:
            loop = asyncio.get_running_loop()
            start = loop.time()
            for count in range(RATE * SECONDS // SENDERS):
                await asyncio.sleep(start + count * SENDERS / RATE - loop.time())
                body = b"%d/%d " % (number, count) + random.randbytes(300).hex().encode()
                assert await sender.post(body) == 200
                bodies.append(body)

    async def run() -> list[Webhook]:
        end = asyncio.get_running_loop().create_future()
        async with asyncio.timeout(2 * TIMEOUT), asyncio.TaskGroup() as group:
            for client in clients:
                group.create_task(client.run(end))
            async with asyncio.TaskGroup() as senders:
                for number in range(SENDERS):
                    senders.create_task(send(number))
            log = await read_log(relay, token, "orders")
            end.set_result(log[-1].seq)
        return log

    log = asyncio.run(run())
    assert sorted(event.body for event in log) == sorted(bodies)
    for client in clients:
        assert [(event.id, event.body) for event in client.received] == [(event.id, event.body) for event in log]
    assert all(client.connections > 1 for client in clients)
    assert max(client.longest_replay for client in clients) * 1000 > 2 * 256 * 1024, "nobody had to read from SQLite"
    assert relay.stop() == 0
