"""Reads answers that are plain and whole, as most servers give them to a webhook, many times faster than h11.

It reads an answer that is valid in every byte, framed in the one plain way (a Content-Length, or no body at all), and
complete with its last byte. It judges no other: h11 reads or rejects those. So no answer is read in two ways. Pure:
bytes in, values out.
"""

from __future__ import annotations

import re
from typing import Final, TypeAlias

from relay_tornado.wire.headers import parse

_HEAD: Final = re.compile(
    rb"HTTP/1\.1 ([2-5][0-9]{2})(?: [\t\x20-\x7e\x80-\xff]*+)?\r\n"
    rb"((?:[!#$%&'*+\-.^_`|~0-9A-Za-z]++:[\t\x20-\x7e\x80-\xff]*+\r\n)*+)\r\n"
)
_DECISIVE: Final = re.compile(rb"\n(?:content-length|transfer-encoding|connection|upgrade):[^\r]*+")
"""The lines, of a block in lower case, that determine the answer's length and whether the connection stays open, each
with the line end before it."""
_LENGTH: Final = re.compile(rb"\ncontent-length:[ \t]*([0-9]{1,15})[ \t]*")
_KEEP: Final = re.compile(rb"\nconnection:[ \t]*keep-alive[ \t]*")
_NO_CONTENT: Final = 204
_NOT_MODIFIED: Final = 304
"""Has no body, whatever its Content-Length."""

PlainAnswer: TypeAlias = tuple[int, list[tuple[bytes, bytes]], bytes]
"""Status, headers as (name, value), and the body."""


def read_plain(data: bytes, most_head: int, most_body: int) -> PlainAnswer | None:
    """The answer to a request with any method but HEAD, if the data is one, whole, and the connection stays open after
    it; None if it is not to be read here. `most_head` and `most_body` are in bytes."""
    match = _HEAD.match(data)
    if match is None or match.end() > most_head:
        return None
    status, block = int(match[1]), match[2]
    if status == _NOT_MODIFIED:
        return None
    length = 0 if status == _NO_CONTENT else None
    for line in _DECISIVE.findall(b"\n" + block.lower()):
        if (found := _LENGTH.fullmatch(line)) and length is None:
            length = int(found[1])
        elif not _KEEP.fullmatch(line):
            return None
    if length is None or length > most_body or len(data) != match.end() + length:
        return None
    return status, parse(block), data[match.end() :]
