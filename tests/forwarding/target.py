"""A destination: a real HTTP server on a port of its own, which keeps the raw bytes of what it gets."""

from __future__ import annotations

import asyncio
import gc
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Self


@dataclass
class Got:
    """One request, as its bytes were."""

    method: str
    target: bytes
    lines: list[bytes]
    """The header lines, in their order."""
    body: bytes

    def header(self, name: str) -> str | None:
        for line in self.lines:
            its_name, _, value = line.partition(b":")
            if its_name.lower() == name.lower().encode():
                return value.strip().decode("latin-1")
        return None


Answering = Callable[[Got], Awaitable[bytes | None] | bytes | None]


def answer(status: int = 200, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} X", *headers, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


def once_open(gate: asyncio.Event) -> Answering:
    """Takes each request, and answers when the gate is open."""

    async def answers(got: Got) -> bytes:
        await gate.wait()
        return answer()

    return answers


class Target:
    """An async context manager. `answers` makes the answer of each request: bytes, or None for a connection cut off."""

    def __init__(self, answers: Answering | None = None, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"):
        self.answers: Answering = answers or (lambda got: answer())
        self.got: list[Got] = []
        self.connections = 0
        self.busy = 0
        self.most_busy = 0
        self.port = 0
        self._tls = tls
        self._host = host
        self._tasks: set[asyncio.Task[None]] = set()
        self._news = asyncio.Event()

    @property
    def url(self) -> str:
        return f"http{'s' if self._tls else ''}://{self._host}:{self.port}"

    @property
    def bodies(self) -> list[bytes]:
        return [got.body for got in self.got]

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def open(self) -> None:
        """Listens; again on the port that it had."""
        self._server = await asyncio.start_server(self._serve, self._host, self.port, ssl=self._tls, limit=1 << 24)
        self.port = self._server.sockets[0].getsockname()[1]

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()
        # What a handshake that failed left behind goes while the loop is there.
        gc.collect()

    async def until(self, count: int) -> None:
        """Waits until so many requests have come."""
        async with asyncio.timeout(60):
            while len(self.got) < count:
                self._news.clear()
                await self._news.wait()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            while await self._one(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the other side, or the test, has had enough
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        start, *lines = head[:-4].split(b"\r\n")
        method, target, _ = start.split(b" ")
        got = Got(method.decode("latin-1"), target, lines, b"")
        got.body = await reader.readexactly(int(got.header("Content-Length") or 0))
        self.got.append(got)
        self._news.set()
        self.busy += 1
        self.most_busy = max(self.most_busy, self.busy)
        try:
            made = self.answers(got)
            data = await made if isinstance(made, Awaitable) else made
        finally:
            self.busy -= 1
        if data is None:
            return False
        writer.write(data)
        await writer.drain()
        return b"connection: close" not in data.lower()
