"""The load: senders and subscribers on raw sockets and one epoll loop, many times faster than what they load.

Requests are built once, answers are compared and frames are counted, and nothing is parsed.
"""

from __future__ import annotations

import json
import os
import select
import socket
import time
from collections.abc import Callable
from typing import Any, Self

TIMEOUT = 60.0
OK = b"HTTP/1.1 200 "
END = b"\r\n\r\n"
WEBHOOK = b'"type":"webhook"'
CHUNK = 1 << 18


class Loop:
    """An epoll loop: each descriptor has a callback for when it can be read."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[int], None]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._epoll.close()

    def add(self, fd: int, callback: Callable[[int], None]) -> None:
        self._callbacks[fd] = callback
        self._epoll.register(fd, select.EPOLLIN)

    def step(self, timeout: float) -> None:
        """Waits at most `timeout` seconds for something to read, and reads it."""
        callbacks = self._callbacks
        for fd, _ in self._epoll.poll(timeout):
            callbacks[fd](fd)

    def until(self, condition: Callable[[], bool], what: str, timeout: float = TIMEOUT) -> None:
        """Runs until the condition is true. Raises TimeoutError."""
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {timeout} s for {what}")
            self.step(0.1)


class Senders:
    """Keep-alive connections that post one prebuilt webhook again and again, each with one request in flight."""

    def __init__(self, loop: Loop, port: int, path: str, connections: int, body: bytes) -> None:
        self.answered = 0
        self.sent = 0
        self.limit = 0
        self.latencies: list[float] = []
        self._sent_at: dict[int, float] = {}
        self._partial: dict[int, bytes] = {}
        self._request = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUser-Agent: bench\r\nAccept: */*\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode() + body
        self._sockets = [socket.create_connection(("127.0.0.1", port), TIMEOUT) for _ in range(connections)]
        for client in self._sockets:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            loop.add(client.fileno(), self._answer)
        self._idle = [client.fileno() for client in self._sockets]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._sockets:
            client.close()

    def post(self, limit: int) -> None:
        """Posts, as fast as answers come, until `limit` webhooks more were sent."""
        self.limit += limit
        idle, self._idle = self._idle, []
        for fd in idle:
            self._next(fd)

    def _next(self, fd: int) -> None:
        if self.sent >= self.limit:
            self._idle.append(fd)
            return
        self.sent += 1
        self._sent_at[fd] = time.perf_counter()
        if os.write(fd, self._request) != len(self._request):
            raise RuntimeError("the kernel took half a request")

    def _answer(self, fd: int) -> None:
        data = os.read(fd, CHUNK)
        if not (data.startswith(OK) and data.endswith(END)):
            data = self._partial.pop(fd, b"") + data
            if not OK.startswith(data[: len(OK)]) or not data:
                raise RuntimeError(f"not a 200 without a body: {data[:300]!r}")
            if not data.endswith(END):
                self._partial[fd] = data
                return
        self.answered += 1
        self.latencies.append(time.perf_counter() - self._sent_at[fd])
        self._next(fd)


class Subscribers:
    """WebSockets that subscribe to everything and count the webhooks that they get."""

    def __init__(self, loop: Loop, port: int, token: tuple[str, str], count: int, subscribe: dict[str, Any]) -> None:
        self.received = 0
        self.bytes = 0
        self._tails: dict[int, bytes] = {}
        self.sockets = [socket.create_connection(("127.0.0.1", port), TIMEOUT) for _ in range(count)]
        upgrade = (
            f"GET /v1/socket HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        ).encode()
        self._all(upgrade, END)
        self._all(frame({"action": "auth", "key": token[0], "secret": token[1]}), b'"authenticated"')
        self.started = time.perf_counter()
        self._all(frame({"action": "subscribe", **subscribe}), b'"subscribed"')
        for client in self.sockets:
            loop.add(client.fileno(), self._read)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for client in self.sockets:
            client.close()

    def _all(self, message: bytes, answer: bytes) -> None:
        """Sends a message on every socket, then reads on each until its answer has come."""
        for client in self.sockets:
            client.sendall(message)
        for client in self.sockets:
            data = b""
            while answer not in data:
                if not (more := client.recv(CHUNK)):
                    raise RuntimeError(f"closed after {data[-300:]!r}")
                data += more
            self._count(client.fileno(), data[data.index(answer) :])

    def _read(self, fd: int) -> None:
        data = os.read(fd, CHUNK)
        if not data:
            raise RuntimeError("the server closed a subscriber's connection")
        self._count(fd, data)

    def _count(self, fd: int, data: bytes) -> None:
        self.bytes += len(data)
        data = self._tails.get(fd, b"") + data
        self.received += data.count(WEBHOOK)
        # What follows the last mark whole, at most as much as a mark that is cut: nothing is counted twice.
        self._tails[fd] = data[-len(WEBHOOK) + 1 :]


def frame(message: dict[str, Any]) -> bytes:
    """A masked text frame, with a mask of zeros."""
    data = json.dumps(message).encode()
    head = bytes([0x81, 0x80 | len(data)]) if len(data) < 126 else bytes([0x81, 0xFE]) + len(data).to_bytes(2)
    return head + bytes(4) + data
