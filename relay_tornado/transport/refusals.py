"""The answers to what can't be read as a request, ready to be sent: each is the last one on its connection."""

from __future__ import annotations

from typing import Final

from relay_tornado.proxy_trust import speaks_proxy_protocol
from relay_tornado.wire.answers import CLOSE, text_answer

MOST_LINES: Final = 256
"""Maximum number of header lines that Tornado parses. A head full of short ones would take a megabyte, and more than 10
ms of everybody's time."""


def last_answer(status: int, text: str) -> bytes:
    """An answer that says that the connection closes."""
    return text_answer(status, text).encode(CLOSE)


LATE: Final = last_answer(408, "The body did not arrive in time. Send the request again.")
NOT_HTTPS: Final = last_answer(400, "This port speaks no HTTPS: write http:// or ws:// in front of its address.")
NOT_TLS: Final = last_answer(400, "This port speaks HTTPS: write https:// or wss:// in front of its address.")
TOO_MANY_LINES: Final = last_answer(431, f"The request has more than {MOST_LINES} header lines.")
MALFORMED: Final = last_answer(
    400,
    "This request can't be read: its request line, its headers or its body's framing are not what RFC 9112 allows, its"
    " length is given twice, its chunks have extensions or trailers, which the relay does not read, or its body is too"
    " large.",
)
_PROXIED: Final = last_answer(
    400,
    "This is the PROXY protocol, which the relay does not speak. Switch it off in the load balancer, let that set"
    " X-Forwarded-For instead, and name its address in --proxy-trust.",
)
_PERHAPS_PROXIED: Final = last_answer(
    400,
    "This is the PROXY protocol, which the relay does not speak, or a request behind empty lines. Switch the protocol"
    " off in the load balancer, let that set X-Forwarded-For instead, and name its address in --proxy-trust.",
)


def malformed(head: bytes) -> bytes:
    """The answer to a malformed request with this head."""
    if not speaks_proxy_protocol(head):
        return MALFORMED
    # Of version 2, only the empty lines that it begins with are in the head.
    return _PROXIED if head.strip() else _PERHAPS_PROXIED
