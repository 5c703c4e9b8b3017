"""Consumers that are moved by receipt, through kills of their relay: nothing that was not read is skipped, and nothing
comes again that the relay had stored as read."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from websockets.exceptions import WebSocketException

from relay_tornado.cli.answers import Refused
from tests.acceptance.clients import Subscriber
from tests.acceptance.relay import Relay
from tests.faults.outcome import Outcome
from tests.waiting import until


class Reader:
    """A client that acknowledges nothing itself: a consumer by receipt, or a stock client with a durable token. Its
    library answers pings."""

    def __init__(self, relay: Relay, outcome: Outcome, durable: bool) -> None:
        self.last = 0
        """Everything up to this seq has been read."""
        self.repeats = 0
        self._relay = relay
        self._outcome = outcome
        self._stored = 0
        self._subscriber: Subscriber
        self._token = relay.create_token("--durable") if durable else relay.create_token()
        self._name = f"token:{self._token[0]}" if durable else "reader"
        self._kind = _Stock if durable else _ByReceipt

    async def follow(self) -> None:
        """Reads until the relay is gone, which may be before there is a connection."""
        with contextlib.suppress(OSError, EOFError, WebSocketException):
            await self._follow()

    async def _follow(self) -> None:
        due = None
        async with self._kind(self._relay, self._token, "orders", "earliest") as subscriber:
            self._subscriber = subscriber
            async for event in subscriber.webhooks():
                if due is None:
                    self._outcome.expect(
                        self._stored < event.seq <= self.last + 1,
                        f"{self._name} had read {self.last}, which was stored up to {self._stored}: {event.seq} came",
                    )
                    self.repeats += max(self.last + 1 - event.seq, 0)
                else:
                    self._outcome.expect(event.seq == due, f"{event.seq} came to {self._name} where {due} was due")
                due = event.seq + 1
                self.last = max(self.last, event.seq)

    async def settle(self) -> None:
        """Waits until the relay knows that everything was read, which the next commit stores, and reads no more until
        after `leave`."""
        await until(lambda: asyncio.to_thread(self._settled), f"{self._name} to be known to have read everything")
        await until(lambda: self.last >= self._stored, f"{self._name} to have read {self._stored}")
        self._subscriber.socket.transport.pause_reading()

    def leave(self) -> None:
        """Who does not read hears of no end."""
        self._subscriber.socket.transport.abort()

    def _settled(self) -> bool:
        try:
            shown = self._relay.call("consumer.show", bucket="orders", consumer=self._name)
        except Refused:
            return False  # it was never there before: its subscribe is on its way
        self._stored = int(shown["floor"].partition("-")[2])
        return bool(shown["lag"]["events"] == 0)


class _ByReceipt(Subscriber):
    async def send(self, message: dict[str, Any]) -> None:
        fields = {"consumer": "reader", "ack": "receipt"} if message["action"] == "subscribe" else {}
        await super().send(message | fields)


class _Stock(Subscriber):
    async def send(self, message: dict[str, Any]) -> None:
        await super().send({name: value for name, value in message.items() if name != "since"})
