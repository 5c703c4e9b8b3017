"""Bad input from everywhere at once disturbs nobody else, and leaves no traceback in the log."""

import asyncio
import contextlib

import msgspec
import pytest
import websockets.asyncio.client
from websockets.exceptions import ConnectionClosed

from tests.acceptance.clients import Sender, Subscriber
from tests.acceptance.relay import TIMEOUT, Relay

EVENTS = 300

RAW = {
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200) + b"\r\n\r\n", b""),
    "a bad request line": (b"HELLO\r\n\r\n", b"400"),
    "a header without a colon": (b"POST /v1/webhooks/x HTTP/1.1\r\nHost: x\r\nnonsense\r\n\r\n", b"400"),
    "a huge head": (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 70_000 + b"\r\n\r\n", b"431"),
    "an unknown input": (b"POST /v1/webhooks/none HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx", b"404"),
    "an unknown page": (b"GET /none HTTP/1.1\r\nHost: x\r\n\r\n", b"404"),
    "a length that is none": (b"POST /v1/webhooks/x HTTP/1.1\r\nHost: x\r\nContent-Length: many\r\n\r\n", b"400"),
    "a chunk that is none": (
        b"POST %PATH HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n",
        b"400",
    ),
    "two lengths": (b"POST %PATH HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx", b"400"),
    "a length and chunks": (
        b"POST %PATH HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"400",
    ),
}
"""What is sent, and the status that comes back; where it is empty, any answer or none."""


async def raw(relay: Relay, path: str, request: bytes) -> bytes:
    """The first line of what comes back before the relay closes or the answer is complete."""
    reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
    try:
        with contextlib.suppress(OSError):
            writer.write(request.replace(b"%PATH", path.encode()))
            await writer.drain()
        async with asyncio.timeout(TIMEOUT):
            with contextlib.suppress(OSError):
                return await reader.readline()
        return b""
    finally:
        writer.transport.abort()


async def converse(relay: Relay, *messages: str | bytes) -> int | None:
    """Sends messages on a new socket and returns the code with which the relay closes it."""
    socket = await websockets.asyncio.client.connect(relay.ws_url, compression=None, proxy=None)
    try:
        with contextlib.suppress(ConnectionClosed):
            for message in messages:
                await socket.send(message)
            async with asyncio.timeout(TIMEOUT):
                while True:
                    await socket.recv()
        return socket.close_code
    finally:
        socket.transport.abort()


def action(name: str, **fields: object) -> str:
    return msgspec.json.encode({"action": name, **fields}).decode()


@pytest.mark.heavy
def test_bad_input_disturbs_nobody(relay: Relay) -> None:
    """While broken requests, unfinished ones and broken sockets come in, a sender and a subscriber notice nothing."""
    path = relay.create_bucket("orders")
    token = relay.create_token()
    key, secret = token

    async def send() -> None:
        async with Sender(relay, path) as sender:
            for number in range(EVENTS):
                assert await sender.post(b"%d" % number) == 200

    async def receive(subscriber: Subscriber) -> None:
        bodies: list[bytes] = []
        async for event in subscriber.webhooks():
            bodies.append(event.body)
            if len(bodies) == EVENTS:
                break
        assert bodies == [b"%d" % number for number in range(EVENTS)]

    async def misbehave() -> None:
        for name, (request, status) in RAW.items():
            line = await raw(relay, path, request)
            assert not status or line.split(b" ")[1:2] == [status], f"{name}: {line!r}"

    async def misbehave_on_sockets() -> None:
        assert await converse(relay, action("subscribe", buckets=["orders"])) == 4001
        assert await converse(relay, "{", "[]", '"auth"', action("auth", key=7, secret=[]), b"\xff\xfe") == 4001
        assert await converse(relay, action("auth", key=key, secret=secret + "x")) == 4001
        assert await converse(relay, "x" * 10_000) == 1009
        assert await converse(relay, action("auth", key=key, secret=secret), "x" * 2_000_000) == 1009

    async def run() -> None:
        unfinished = [await asyncio.open_connection("127.0.0.1", relay.port) for _ in range(100)]
        for number, (_, writer) in enumerate(unfinished):
            head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n".encode()
            writer.write(head if number % 2 else head + b"\r\nhalf a body")
        try:
            async with asyncio.timeout(TIMEOUT), Subscriber(relay, token, "orders", "latest") as subscriber:
                await asyncio.gather(send(), receive(subscriber), misbehave(), misbehave_on_sockets())
        finally:
            for _, writer in unfinished:
                writer.transport.abort()

    asyncio.run(run())
    assert relay.stop() == 0
    said = relay.said()
    assert "Traceback" not in said
    assert secret not in said
    assert path not in said
