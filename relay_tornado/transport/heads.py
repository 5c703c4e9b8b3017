"""Reads request heads for the relay's own transport, if they are plain enough.

It reads a head that is valid in every byte and framed in the one plain way: a Content-Length or no body, one Host,
HTTP/1.1. It judges no other head: those go to Tornado's parser, which reads or rejects them. So no request is read in
two ways, and requests are rejected in one place only. Pure: bytes in, values out.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TypeAlias

from relay_tornado.wire.headers import SESSION_COOKIE

_HEAD = re.compile(
    rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]{1,40}+) (/[\x21-\x7e\x80-\xff]*+) HTTP/1\.1\r\n"
    rb"((?:[!#$%&'*+\-.^_`|~0-9A-Za-z]++:[\t\x20-\x7e\x80-\xff]*+\r\n)*+)\r\n"
)
_END = re.compile(rb"\r?\n\r?\n")
"""The end of a head as Tornado recognises it."""

_DECISIVE = re.compile(
    rb"\n(?:host|content-length|connection|transfer-encoding|expect|cookie(?=:[^\r]*%b=)):[^\r]*+"
    % SESSION_COOKIE.encode()
)
"""The lines, of a block in lower case, that determine the request's length and whether the connection stays open, each
with the line end before it; and the session cookie of the relay's page, whose requests are not read here."""

_BLANKS = b" \t"
_LONGEST_LENGTH = 15
"""Digits of a Content-Length."""

_LONGEST_KNOWN = 512
"""Decisive lines of up to this many bytes are cached with their meaning."""

Request: TypeAlias = tuple[str, bytes, bytes, int, str, int, bool]
"""A head that may be a webhook's: method, target, header lines as received, length of the whole head, Host, length of
the body, and whether the connection stays open after it."""


def read_head(data: bytes | bytearray, size: int) -> Request | None:
    """The head at the beginning of the first `size` bytes of the data; None if it is incomplete, or not to be read
    here."""
    match = _HEAD.match(data, 0, size)
    if match is None:
        return None
    method, target, block = match.groups()
    lines = b"".join(_DECISIVE.findall(b"\n" + block.lower()))
    framing = _known(lines) if len(lines) <= _LONGEST_KNOWN else _framing(lines)
    if framing is None:
        return None
    host, length, keeps = framing
    return method.decode("ascii"), target, block, match.end(), host, length, keeps


def _framing(lines: bytes) -> tuple[str, int, bool] | None:
    """Host, length of the body, and whether the connection stays open, from the decisive lines of a head; None if they
    are not to be read here."""
    host: bytes | None = None
    digits: bytes | None = None
    keeps: bool | None = None
    for line in lines.split(b"\n")[1:]:
        name, _, value = line.partition(b":")
        value = value.strip(_BLANKS)
        if name == b"host" and host is None:
            host = value
        elif name == b"content-length" and digits is None and value.isdigit() and len(value) <= _LONGEST_LENGTH:
            digits = value
        elif name == b"connection" and keeps is None and value in (b"keep-alive", b"close"):
            keeps = value == b"keep-alive"
        else:
            return None
    if host is None:
        return None
    return host.decode("latin-1"), 0 if digits is None else int(digits), keeps is not False


_known = lru_cache(maxsize=4096)(_framing)
"""Cached, since the same senders send the same lines again and again."""


def has_end(data: bytes, start: int) -> bool:
    """Whether a head ends in the data at or after `start`."""
    return _END.search(data, start) is not None
