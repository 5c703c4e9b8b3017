"""Which request heads the relay's own transport reads, and what it reads out of them.

It takes what is valid in every byte and framed in the one plain way: a Content-Length or no body, one Host, HTTP/1.1.
It judges nothing else: such a head goes to Tornado's parser, which reads it or refuses it. So no request is read in two
ways, and what is refused is refused in one place. Pure: bytes in, values out.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_HEAD = re.compile(
    rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]++) (/[\x21-\x7e\x80-\xff]*+) HTTP/1\.1\r\n"
    rb"((?:[!#$%&'*+\-.^_`|~0-9A-Za-z]++:[\t\x20-\x7e\x80-\xff]*+\r\n)*+)\r\n"
)
_END = re.compile(rb"\r?\n\r?\n")
"""What Tornado takes for the end of a head."""

_DECISIVE = re.compile(rb"\n(?:host|content-length|connection|transfer-encoding|expect):[^\r]*+")
"""The lines, of a block in lower case, that say how long a request is and what becomes of its connection."""

_BLANKS = b" \t"
_LONGEST_LENGTH = 15
"""Digits of a Content-Length."""


class Request(NamedTuple):
    """A webhook's head, if it is one: `block` is its header lines as they came, `size` what the whole head took.
    `keeps` is whether the connection goes on after it."""

    method: str
    target: bytes
    block: bytes
    size: int
    host: bytes
    length: int
    keeps: bool


def read_head(data: bytes) -> Request | None:
    """The head that the data begins with; None where it is not whole, or not to be read here."""
    match = _HEAD.match(data)
    if match is None:
        return None
    method, target, block = match.groups()
    host: bytes | None = None
    digits: bytes | None = None
    keeps: bool | None = None
    for line in _DECISIVE.findall(b"\n" + block.lower()):
        if line.startswith(b"\nhost:"):
            if host is not None:
                return None
            host = line[6:].strip(_BLANKS)
        elif line.startswith(b"\ncontent-length:"):
            if digits is not None:
                return None
            digits = line[16:].strip(_BLANKS)
            if not digits.isdigit() or len(digits) > _LONGEST_LENGTH:
                return None
        elif line.startswith(b"\nconnection:"):
            word = line[12:].strip(_BLANKS)
            if keeps is not None or word not in (b"keep-alive", b"close"):
                return None
            keeps = word == b"keep-alive"
        else:
            return None
    if host is None:
        return None
    length = 0 if digits is None else int(digits)
    return Request(method.decode("ascii"), target, block, match.end(), host, length, keeps is not False)


def has_end(data: bytes, start: int) -> bool:
    """Whether a head ends in the data, from `start` on."""
    return _END.search(data, start) is not None
