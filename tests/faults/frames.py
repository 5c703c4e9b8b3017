"""WebSocket frames that RFC 6455 does not allow, and such that it does though few send them.

The cases of Autobahn's suite that matter for a server that is no echo, on the relay's own socket: see autobahn.py for
the suite itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import Callable
from pathlib import Path

from tests.acceptance.clients import Sender, Subscriber
from tests.acceptance.relay import TIMEOUT, Relay
from tests.faults.outcome import Outcome

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
FIN = 0x80

DROPPED = None
"""The connection ends without a close frame."""


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, reserved: int = 0, masked: bool = True) -> bytes:
    """A frame as a client sends it; `reserved` holds the three reserved bits."""
    head = bytes([FIN * fin | reserved << 4 | opcode])
    size = len(payload)
    mask = FIN * masked
    if size < 126:
        head += bytes([mask | size])
    elif size < 1 << 16:
        head += bytes([mask | 126]) + size.to_bytes(2)
    else:
        head += bytes([mask | 127]) + size.to_bytes(8)
    return head + (bytes(4) if masked else b"") + payload


def close(code: int, reason: bytes = b"") -> bytes:
    return frame(CLOSE, code.to_bytes(2) + reason)


PROTOCOL_ERROR = frozenset({1002})
NO_UTF_8 = frozenset({1007})
INVALID_CODES = (0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999)
"""Autobahn's cases 7.9.1 to 7.9.9, in which plain Tornado sends the code back."""

REFUSED: dict[str, tuple[bytes, frozenset[int]]] = {
    **{f"close code {code}": (close(code), frozenset({1002})) for code in INVALID_CODES},
    **{f"close code {code}": (close(code), frozenset({1002})) for code in (5000, 65535)},
    "close with one byte": (frame(CLOSE, b"\x03"), PROTOCOL_ERROR),
    "close with a reason that is no UTF-8": (close(1000, b"\xce\xba\xe1\xbd\xb9\xcf\xed"), NO_UTF_8),
    "close too long": (frame(CLOSE, b"\x03\xe8" + b"x" * 124), PROTOCOL_ERROR),
    **{f"reserved bits {bits}": (frame(TEXT, b"{}", reserved=bits), PROTOCOL_ERROR) for bits in range(1, 8)},
    **{f"opcode {code}": (frame(code, b"x"), PROTOCOL_ERROR) for code in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    "a ping in pieces": (frame(PING, b"x", fin=False), PROTOCOL_ERROR),
    "a close in pieces": (frame(CLOSE, b"\x03\xe8", fin=False), PROTOCOL_ERROR),
    "a ping too long": (frame(PING, b"x" * 126), PROTOCOL_ERROR),
    "a piece of nothing": (frame(0, b"x"), PROTOCOL_ERROR),
    "a message within another": (frame(TEXT, b"{", fin=False) + frame(TEXT, b"}"), PROTOCOL_ERROR),
    "no UTF-8": (frame(TEXT, b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80"), NO_UTF_8),
    "no UTF-8, in pieces": (frame(TEXT, b"\xf4\x90", fin=False) + frame(0, b"\x80\x80"), NO_UTF_8),
    "a length of 63 bits": (b"\x81\xff" + (1 << 62).to_bytes(8) + bytes(4), frozenset({1009})),
    "a length with its highest bit set": (b"\x81\xff" + b"\xff" * 8 + bytes(4), frozenset({1009})),
}
"""What is sent once authenticated, and how the relay may close: with which code, or without a close frame."""

ALLOWED_CLOSES = (1000, 1001, 1003, 1007, 1011, 3000, 3999, 4000, 4999)


def run(folder: Path, rounds: int) -> Outcome:
    """Sends every case so many times, cut into pieces at random, while a sender and a subscriber go on."""
    outcome = Outcome()
    with Relay(folder / "frames") as relay:
        path = relay.create_bucket("orders")
        token = relay.create_token()
        client = _Client(relay, token, random.Random(rounds))
        asyncio.run(_run(relay, path, client, rounds, outcome))
        outcome.expect(relay.stop() == 0, "the relay did not end with 0")
        outcome.expect("Traceback" not in relay.said(), relay.said()[-2000:])
    outcome.figures = {
        "cases": len(REFUSED) + len(ALLOWED_CLOSES) + len(_ACCEPTED),
        "rounds": rounds,
        "as they should": f"{client.right} of {client.tried}",
    }
    return outcome


class _Client:
    def __init__(self, relay: Relay, token: tuple[str, str], randoms: random.Random) -> None:
        self.tried = self.right = 0
        self._relay = relay
        self._auth = json.dumps({"action": "auth", "key": token[0], "secret": token[1]}).encode()
        self._random = randoms

    async def talk(self, *, authenticate: bool = True) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._relay.port)
        writer.write(
            b"GET /v1/socket HTTP/1.1\r\nHost: relay.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        await reader.readuntil(b"\r\n\r\n")
        if authenticate:
            writer.write(frame(TEXT, self._auth))
            assert b"authenticated" in (await _frame(reader))[1]
        return reader, writer

    async def send(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        """In pieces, as a network may deliver it."""
        with contextlib.suppress(OSError):
            while data:
                size = self._random.randint(1, len(data))
                writer.write(data[:size])
                data = data[size:]
                await asyncio.sleep(0)

    async def closes(self, data: bytes) -> int | None:
        """The code with which the relay closes after this, None where it just ends."""
        reader, writer = await self.talk()
        try:
            await self.send(writer, data)
            return await _close_code(reader)
        finally:
            writer.transport.abort()

    async def accepts(self, case: Callable[[bytes], bytes], answer: Callable[[int, bytes], bool]) -> bool:
        """Whether the first frame that comes back is the answer that is due."""
        reader, writer = await self.talk(authenticate=False)
        try:
            await self.send(writer, case(self._auth))
            return answer(*await _frame(reader))
        finally:
            writer.transport.abort()

    def note(self, right: bool) -> bool:
        self.tried += 1
        self.right += right
        return right


def _in_pieces(message: bytes) -> bytes:
    return frame(TEXT, message[:3], fin=False) + frame(0, b"", fin=False) + frame(0, message[3:])


def _byte_by_byte(message: bytes) -> bytes:
    middle = b"".join(frame(0, message[place : place + 1], fin=False) for place in range(1, len(message) - 1))
    return frame(TEXT, message[:1], fin=False) + middle + frame(0, message[-1:])


_PINGED = frame(PING, b"p" * 125)

_ACCEPTED: dict[str, tuple[Callable[[bytes], bytes], Callable[[int, bytes], bool]]] = {
    "a message in pieces": (_in_pieces, lambda opcode, payload: b"authenticated" in payload),
    "byte by byte": (_byte_by_byte, lambda opcode, payload: b"authenticated" in payload),
    "a pong that nobody asked for": (
        lambda auth: frame(PONG, b"x") + frame(TEXT, auth),
        lambda opcode, payload: b"authenticated" in payload,
    ),
    "a ping": (lambda auth: _PINGED, lambda opcode, payload: (opcode, payload) == (PONG, b"p" * 125)),
    "a ping between the pieces": (
        lambda auth: frame(TEXT, auth[:5], fin=False) + _PINGED + frame(0, auth[5:]),
        lambda opcode, payload: (opcode, payload) == (PONG, b"p" * 125),
    ),
}


async def _run(relay: Relay, path: str, client: _Client, rounds: int, outcome: Outcome) -> None:
    async with Subscriber(relay, client_token(client), "orders", "latest") as subscriber, Sender(relay, path) as sender:
        events = subscriber.webhooks()
        for _ in range(rounds):
            for name, (data, codes) in REFUSED.items():
                code = await client.closes(data)
                outcome.expect(client.note(code in codes), f"{name}: closed with {code}")
            for code in ALLOWED_CLOSES:
                answer = await client.closes(close(code, b"bye"))
                outcome.expect(client.note(answer == code), f"close code {code} was answered with {answer}")
            for name, (case, due) in _ACCEPTED.items():
                outcome.expect(client.note(await client.accepts(case, due)), f"{name} was not understood")
            assert await sender.post(b"beside") == 200
            outcome.expect((await anext(events)).body == b"beside", "a subscriber beside got something else")


def client_token(client: _Client) -> tuple[str, str]:
    auth = json.loads(client._auth)
    return auth["key"], auth["secret"]


async def _frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    async with asyncio.timeout(TIMEOUT):
        first, size = await reader.readexactly(2)
        if size >= 126:
            size = int.from_bytes(await reader.readexactly(2 if size == 126 else 8))
        return first & 15, await reader.readexactly(size)


async def _close_code(reader: asyncio.StreamReader) -> int | None:
    with contextlib.suppress(OSError, EOFError):
        while True:
            opcode, payload = await _frame(reader)
            if opcode == CLOSE:
                return int.from_bytes(payload[:2]) if payload else 1005
    return DROPPED
