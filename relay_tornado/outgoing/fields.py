"""The methods and headers that a request to an HTTP server may have, and headers of events that are not forwarded."""

from __future__ import annotations

import re
from typing import Final

from relay_tornado.wire.headers import HOP_BY_HOP

NOT_FORWARDED: Final = frozenset(
    (
        *(name.encode() for name in HOP_BY_HOP),
        *(b"host", b"connection", b"http2-settings", b"content-length", b"expect"),
    )
)
"""Header names (in lower case) that concern one hop: the server gets its own Host and the body's true length, and is
not asked whether it wants a body that is complete already."""

_TOKEN: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_NOT_IN_VALUE: Final = re.compile(rb"[\x00\r\n]")


def is_method(name: bytes) -> bool:
    """Whether a request can have this method."""
    return _TOKEN.fullmatch(name) is not None


def is_header(name: bytes, value: bytes) -> bool:
    """Whether a request can have this header."""
    return _TOKEN.fullmatch(name) is not None and _NOT_IN_VALUE.search(value) is None
