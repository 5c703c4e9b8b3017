"""The load: senders and subscribers on raw sockets and one epoll loop, many times faster than what they load.

Requests are built once, answers are compared and frames are counted, and hardly anything is parsed.
"""

from __future__ import annotations

import json
import os
import re
import select
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any, Self

TIMEOUT = 60.0
OK = b"HTTP/1.1 20"
END = b"\r\n\r\n"
LENGTH = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: *([0-9]+)\r\n")
UPGRADE = (
    "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
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

    def wait(self, end: float) -> None:
        """Runs until this time of `time.perf_counter`."""
        while (left := end - time.perf_counter()) > 0:
            self.step(left)


def post(port: int, path: str, body: bytes) -> bytes:
    """A webhook as a request."""
    return (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUser-Agent: bench\r\nAccept: */*\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body


class Senders:
    """Keep-alive connections that post one prebuilt webhook again and again, each with one request in flight."""

    def __init__(self, loop: Loop, port: int, path: str, connections: int, body: bytes) -> None:
        self.answered = 0
        self.sent = 0
        self.limit = 0
        self.latencies: list[float] = []
        self._loop = loop
        self._sent_at: dict[int, float] = {}
        self._partial: dict[int, bytes] = {}
        self._request = post(port, path, body)
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

    def settle(self, timeout: float = TIMEOUT) -> None:
        """Runs until all is answered. Raises TimeoutError."""
        self._loop.until(lambda: self.answered == self.sent, "the last answers", timeout)

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
        if not data:
            raise RuntimeError("the server closed a sender's connection")
        if fd in self._partial:
            data = self._partial.pop(fd) + data
        if not self._complete(data):
            self._partial[fd] = data
            return
        self.answered += 1
        self.latencies.append(time.perf_counter() - self._sent_at[fd])
        self._next(fd)

    def _complete(self, data: bytes) -> bool:
        """Whether this is a whole answer, and not the beginning of one. Raises RuntimeError where it is a refusal."""
        if data[: len(OK)] != OK[: len(data)]:
            raise RuntimeError(f"no 2xx: {data[:300]!r}")
        head = data.find(END)
        if head < 0:
            return False
        length = LENGTH.search(data, 0, head + 2)
        return len(data) == head + len(END) + (int(length[1]) if length else 0)


class Readers:
    """Connections that read what comes and count the events in it, by a mark that each has once.

    `handshake`: what is sent on each, and what has to come back before the next is.
    """

    def __init__(
        self, loop: Loop, port: int, count: int, handshake: Sequence[tuple[bytes, bytes]], mark: bytes = WEBHOOK
    ) -> None:
        self.received = 0
        self.bytes = 0
        self.arrived: Callable[[], None] = lambda: None
        """Called whenever something came."""
        self.started = 0.0
        self._mark = mark
        self._tails: dict[int, bytes] = {}
        self.sockets = [socket.create_connection(("127.0.0.1", port), TIMEOUT) for _ in range(count)]
        for message, answer in handshake:
            self.started = time.perf_counter()
            self._all(message, answer)
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
        self.received += data.count(self._mark)
        # What follows the last mark whole, at most as much as a mark that is cut: nothing is counted twice.
        self._tails[fd] = data[-len(self._mark) + 1 :]
        self.arrived()


class Subscribers(Readers):
    """WebSockets that subscribe to a relay's buckets and count the webhooks that they get."""

    def __init__(self, loop: Loop, port: int, token: tuple[str, str], count: int, subscribe: dict[str, Any]) -> None:
        super().__init__(
            loop,
            port,
            count,
            [
                (UPGRADE.format(path="/v1/socket", port=port).encode(), END),
                (frame({"action": "auth", "key": token[0], "secret": token[1]}), b'"authenticated"'),
                (frame({"action": "subscribe", **subscribe}), b'"subscribed"'),
            ],
        )


def frame(message: dict[str, Any]) -> bytes:
    """A masked text frame, with a mask of zeros."""
    data = json.dumps(message).encode()
    head = bytes([0x81, 0x80 | len(data)]) if len(data) < 126 else bytes([0x81, 0xFE]) + len(data).to_bytes(2)
    return head + bytes(4) + data


def paced(
    cpu: Callable[[], float], loop: Loop, senders: Senders, readers: Readers, count: int, pace: int, seconds: float
) -> float:
    """Posts `pace` events a second, each of which `count` readers get: microseconds of the server's processor time for
    each delivery. `cpu` gives the seconds of it so far."""
    events = int(pace * seconds)
    spent, expected, start = cpu(), readers.received + events * count, time.perf_counter()
    for number in range(events):
        loop.wait(start + number / pace)
        senders.post(1)
    loop.until(lambda: readers.received >= expected, "all deliveries")
    return (cpu() - spent) / (events * count) * 1e6
