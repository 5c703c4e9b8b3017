"""A TCP proxy that keeps what went through it, and reads WebSocket messages and HTTP requests out of that."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from typing import Any, Self


class Wiretap:
    """Listens on a port of its own and goes on to another one. A context manager."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self._sockets: list[socket.socket] = []
        self._sent: list[bytearray] = []
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._run(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(60)
        for each in self._sockets:
            each.close()

    def _run(self, function: Any, *arguments: Any) -> None:
        thread = threading.Thread(target=function, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._to))
            self._sockets += [near, far]
            sent = bytearray()
            self._sent.append(sent)
            self._run(self._pump, near, far, sent)
            self._run(self._pump, far, near, bytearray())

    def _pump(self, source: socket.socket, to: socket.socket, kept: bytearray) -> None:
        try:
            while data := source.recv(65536):
                kept += data
                to.sendall(data)
            to.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def messages(self) -> list[Any]:
        """Every text message that clients sent, as JSON."""
        found: list[Any] = []
        for sent in self._sent:
            head, _, rest = bytes(sent).partition(b"\r\n\r\n")
            if b"upgrade: websocket" in head.lower():
                found += [json.loads(payload) for opcode, payload in _frames(rest) if opcode == 1]
        return found

    def requests(self) -> list[tuple[bytes, bytes]]:
        """Head and body of every plain HTTP request; one a connection."""
        parts = [bytes(sent).partition(b"\r\n\r\n") for sent in self._sent]
        return [(head, body) for head, _, body in parts if b"upgrade: websocket" not in head.lower()]


def _frames(data: bytes) -> list[tuple[int, bytes]]:
    """Opcode and payload of each whole masked frame (RFC 6455, section 5.2)."""
    found = []
    while len(data) >= 6:
        length, at = data[1] & 0x7F, 2
        if length >= 126:
            size = 2 if length == 126 else 8
            length, at = int.from_bytes(data[2 : 2 + size], "big"), 2 + size
        mask, payload = data[at : at + 4], data[at + 4 : at + 4 + length]
        if len(payload) < length:
            break
        found.append((data[0] & 0x0F, bytes(each ^ mask[n % 4] for n, each in enumerate(payload))))
        data = data[at + 4 + length :]
    return found
