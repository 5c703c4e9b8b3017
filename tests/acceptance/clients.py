"""What talks to a relay in the acceptance tests: senders of webhooks and subscribers, on asyncio."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any, Self

import msgspec
import websockets.asyncio.client
from websockets.exceptions import ConnectionClosed

from tests.acceptance.relay import TIMEOUT, Relay


class Sender:
    """One keep-alive HTTP connection to the relay. It sends heads as they are given, byte for byte."""

    def __init__(self, relay: Relay, path: str) -> None:
        self.relay = relay
        self.path = path

    async def __aenter__(self) -> Self:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.relay.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.transport.abort()

    def head(self, size: int, headers: bytes = b"") -> bytes:
        """The head of a POST with a body of `size` bytes; `headers` are whole lines."""
        return b"POST %s HTTP/1.1\r\nHost: relay.test\r\n%sContent-Length: %d\r\n\r\n" % (
            self.path.encode(),
            headers,
            size,
        )

    async def post(self, body: bytes, headers: bytes = b"") -> int:
        """Sends one webhook and returns the status. OSError or EOFError where the connection breaks."""
        async with asyncio.timeout(TIMEOUT):
            self.writer.write(self.head(len(body), headers) + body)
            return await self.answer()

    async def answer(self) -> int:
        """The status of the next answer."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).lower()
        length = 0
        for line in head.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            if name == b"content-length":
                length = int(value)
        await self.reader.readexactly(length)
        return int(head.split(b" ", 2)[1])


async def post(relay: Relay, path: str, body: bytes) -> int:
    """Sends one webhook on a connection of its own; see `Sender.post`."""
    async with Sender(relay, path) as sender:
        return await sender.post(body)


class Webhook(msgspec.Struct):
    """A webhook frame, as far as the tests look at it."""

    id: str
    seq: int
    body: bytes
    frame: dict[str, Any]


def webhook(frame: dict[str, Any]) -> Webhook:
    """A webhook frame with its exact body."""
    exact = frame.get("body_base64")
    body = frame["body"].encode() if exact is None else base64.b64decode(exact)
    return Webhook(frame["meta"]["id"], frame["meta"]["seq"], body, frame)


class Subscriber:
    """A client that asks for what this project adds: it names its position and reads the answers.

    Leaving the context aborts the connection, as a client that dies does.
    """

    def __init__(self, relay: Relay, token: tuple[str, str], bucket: str, since: object) -> None:
        self.relay = relay
        self.token = token
        self.bucket = bucket
        self.since = since

    async def __aenter__(self) -> Self:
        self.socket = await websockets.asyncio.client.connect(
            self.relay.ws_url, compression=None, max_size=None, ping_interval=None, open_timeout=TIMEOUT, proxy=None
        )
        try:
            key, secret = self.token
            await self.send({"action": "auth", "key": key, "secret": secret})
            assert (await self.receive())["status"] == "authenticated"
            await self.send({"action": "subscribe", "buckets": [self.bucket], "since": self.since})
            answer = await self.receive()
            assert answer["status"] == "subscribed"
            self.subscribed = answer.get("buckets", [{}])[0]
        except BaseException:
            self.socket.transport.abort()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self.socket.transport.abort()
        await self.socket.wait_closed()

    async def send(self, message: dict[str, Any]) -> None:
        await self.socket.send(msgspec.json.encode(message).decode())

    async def receive(self) -> dict[str, Any]:
        """The next frame. ConnectionClosed where the relay closed."""
        async with asyncio.timeout(TIMEOUT):
            frame: dict[str, Any] = msgspec.json.decode(await self.socket.recv())
            return frame

    async def webhooks(self) -> AsyncIterator[Webhook]:
        """Webhooks as they come, until the relay closes or dies."""
        try:
            while True:
                frame = await self.receive()
                if frame["type"] == "webhook":
                    yield webhook(frame)
        except ConnectionClosed:
            return

    async def until_caught_up(self) -> list[Webhook]:
        """What comes before `caught_up`: with `earliest`, the whole log."""
        found = []
        while True:
            frame = await self.receive()
            if frame["type"] == "webhook":
                found.append(webhook(frame))
            elif frame["status"] == "caught_up":
                return found


async def read_log(relay: Relay, token: tuple[str, str], bucket: str) -> list[Webhook]:
    """The whole log of a bucket, checked to have no hole."""
    async with Subscriber(relay, token, bucket, "earliest") as subscriber:
        log = await subscriber.until_caught_up()
        first = subscriber.subscribed["start"]
        assert [event.seq for event in log] == list(range(first, first + len(log)))
        return log
