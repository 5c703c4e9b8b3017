"""WebSocket frames as a server sends them: whole text messages, unmasked (RFC 6455, section 5.2)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

PING: Final = b"\x89\x00"
"""A ping frame with no payload."""


def ping(payload: bytes) -> bytes:
    """A ping frame with a payload of at most 125 bytes, which the pong repeats."""
    return bytes((PING[0], len(payload))) + payload


_FIN_TEXT: Final = 0x81
_TWO_BYTES: Final = 126
_EIGHT_BYTES: Final = 127
_MEDIUM: Final = struct.Struct("!BBH").pack
_LONG: Final = struct.Struct("!BBQ").pack


def text(payload: bytes) -> bytes:
    """The frame of one whole text message. The payload must be UTF-8."""
    length = len(payload)
    if length < _TWO_BYTES:
        return bytes((_FIN_TEXT, length)) + payload
    if length < 1 << 16:
        return _MEDIUM(_FIN_TEXT, _TWO_BYTES, length) + payload
    return _LONG(_FIN_TEXT, _EIGHT_BYTES, length) + payload


def payloads(frames: bytes | bytearray) -> Iterator[bytes]:
    """The payloads of consecutive whole frames, as made by `text`."""
    at = 0
    while at < len(frames):
        length = frames[at + 1]
        at += 2
        if length >= _TWO_BYTES:
            size = 2 if length == _TWO_BYTES else 8
            length = int.from_bytes(frames[at : at + size], "big")
            at += size
        yield bytes(frames[at : at + length])
        at += length
