"""A sender that speaks bytes: what a test writes is what goes out, and an answer is read as it came."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import socket
import ssl
from typing import NamedTuple, Self

TIMEOUT = 60.0


class Reply(NamedTuple):
    """An answer: `headers` in their order, names as they came."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        """The only value of a header, None where it is not there."""
        values = [value for key, value in self.headers if key.lower() == name.lower()]
        assert len(values) <= 1, f"{name} came {len(values)} times"
        return values[0] if values else None


class Raw:
    """One connection, from the address `source` if there is one. Every wait has its time."""

    def __init__(
        self, port: int, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None, source: str | None = None
    ) -> None:
        self.address = (host, port)
        self.tls = tls
        self.source = None if source is None else (source, 0)

    async def __aenter__(self) -> Self:
        self.reader, self.writer = await asyncio.open_connection(*self.address, ssl=self.tls, local_addr=self.source)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.transport.abort()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def reply(self, *, head: bool = False) -> Reply:
        """Reads the next answer; `head` says that it answers a HEAD."""
        async with asyncio.timeout(TIMEOUT):
            lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
            version, status_code, _ = lines[0].split(" ", 2)
            assert version == "HTTP/1.1"
            status = int(status_code)
            headers = [(name, value) for name, _, value in (line.partition(": ") for line in lines[1:])]
            length = next((int(value) for name, value in headers if name == "Content-Length"), None)
            if status in (204, 304):
                assert length is None
            body = await self.reader.readexactly(length or 0) if not head else b""
            return Reply(status, headers, body)

    async def ask(self, data: bytes, *, head: bool = False) -> Reply:
        self.send(data)
        return await self.reply(head=head)

    async def closed(self, *, reset: bool = False) -> bytes:
        """Waits until the other side has closed, and returns what came before; `reset` says that it may have cut the
        connection instead."""
        async with asyncio.timeout(TIMEOUT):
            try:
                return await self.reader.read()
            except ConnectionResetError:
                assert reset, "the connection was reset"
                return b""


def request(
    path: bytes, body: bytes = b"", headers: bytes = b"", method: bytes = b"POST", version: bytes = b"HTTP/1.1"
) -> bytes:
    """A request with a Host, these header lines (each with its line end) and a Content-Length."""
    length = b"" if not body and method in (b"GET", b"HEAD") else b"Content-Length: %d\r\n" % len(body)
    return b"%b %b %b\r\nHost: relay.test\r\n%b%b\r\n%b" % (method, path, version, headers, length, body)


def basic(key: str, secret: str) -> str:
    """The Authorization of a token's holder, by both."""
    return "Basic " + base64.b64encode(f"{key}:{secret}".encode()).decode()


def bearer(secret: str) -> bytes:
    """The header line of a token's holder."""
    return f"Authorization: Bearer {secret}\r\n".encode()


HEALTH = request(b"/healthz", method=b"GET")
"""One that is no webhook, and is answered with 200."""


def small(port: int, size: int = 2048) -> socket.socket:
    """A connection that takes only a little before it is read."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
    client.connect(("127.0.0.1", port))
    return client
