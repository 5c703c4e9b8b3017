"""Header blocks as JSON, rendered from the last block of the same shape and the lines that changed since.

A sender's requests differ in few lines (a delivery id, a signature, a length), so only those are read again. The result
is the same, byte for byte, as that of `headers.for_frame` and an encoder, which are used for a block that is not plain.
"""

from __future__ import annotations

from typing import Final

import msgspec

from relay_tornado.wire.headers import canonical, for_frame, is_shown

_encode = msgspec.json.Encoder().encode

_SHAPES: Final = 256
_BLOCK: Final = 4096
"""The number of shapes kept, and the longest block, in bytes, that becomes one."""

_LEARN: Final = 8
"""If blocks with the same number of lines alternate between shapes, only every eighth miss replaces the shape."""

_PLAIN: Final = bytes(byte for byte in range(0x20, 0x7F) if byte not in b'"\\')
"""Bytes that need no escape in JSON."""

_PLAIN_CONNECTION: Final = frozenset({b"close", b"keep-alive"})
"""Values of Connection that name no other header."""


class _Shape:
    """The last block: its lines and, for each line that is shown, the JSON around its value."""

    __slots__ = ("block", "ends", "heads", "host", "lines", "misses", "parts", "whole")

    def __init__(self) -> None:
        self.block: bytes | None = None
        self.lines: list[bytes] = []
        self.ends = b""
        self.heads: list[tuple[bytes, bytes, int] | None] = []
        self.parts: list[bytes] = []
        self.whole = b"{}"
        self.host = _encode("")
        self.misses = 0

    def render(self, lines: list[bytes]) -> bytes | None:
        """The JSON of a plain block with these lines, of the same number as here; None if it has another shape."""
        changed: list[bytes] | None = None
        for index, old in enumerate(self.lines):
            line = lines[index]
            if line != old:
                head = self.heads[index]
                if head is None or not line.startswith(head[0]):
                    return None
                if changed is None:
                    changed = self.parts.copy()
                changed[head[2]] = head[1] + line[len(head[0]) :].strip() + b'"]'
        return self.whole if changed is None else b"{" + b",".join(changed) + b"}"

    def learn(self, block: bytes, lines: list[bytes], whole: bytes, host: bytes) -> None:
        """Takes a plain block as the shape, unless its lines depend on each other."""
        heads: list[tuple[bytes, bytes, int] | None] = []
        parts: list[bytes] = []
        names: set[str] = set()
        for line in lines[:-1]:
            name, colon, value = line.partition(b":")
            value = value.strip()
            spelling = canonical(name.decode("ascii"))
            if not colon or not name or name.strip() != name or spelling in names:
                return
            if spelling == "Connection" and value.lower() not in _PLAIN_CONNECTION:
                return
            names.add(spelling)
            if is_shown(spelling):
                before = b'"' + spelling.encode() + b'":["'
                heads.append((name + b":", before, len(parts)))
                parts.append(before + value + b'"]')
            else:
                heads.append(None)
        if not lines[-1]:
            self.block, self.whole, self.host = block, whole, host
            self.lines, self.heads, self.parts = lines, [*heads, None], parts


_shapes: dict[tuple[str, int], _Shape] = {}


def render(input_id: str, block: bytes) -> tuple[bytes, bytes]:
    """The headers of an event of this input as a JSON object, and their Host (or "") as a JSON string."""
    key = (input_id, block.count(b"\r\n"))
    shape = _shapes.get(key)
    if shape is None:
        if len(_shapes) >= _SHAPES:
            _shapes.clear()
        shape = _shapes[key] = _Shape()
        shape.ends = b"\r\n" * key[1]
    elif shape.block == block:
        return shape.whole, shape.host
    lines = block.split(b"\r\n")
    # A block is plain if all its other characters are line ends.
    plain = block.translate(None, _PLAIN) == shape.ends
    if plain and shape.lines and (rendered := shape.render(lines)) is not None:
        return rendered, shape.host
    shown, name = for_frame(block)
    whole, host = _encode(shown), _encode(name)
    if plain:
        if shape.misses % _LEARN == 0 and len(block) <= _BLOCK:
            shape.learn(block, lines, whole, host)
        shape.misses += 1
    return whole, host
