"""The responses that senders get, as values and as bytes: status, headers and body of an HTTP/1.1 response."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from email.utils import formatdate
from http.client import responses

from relay_tornado.errors import RelayError
from relay_tornado.model import Input
from relay_tornado.wire.headers import HOP_BY_HOP, is_name, is_value

PLAIN = ("Content-Type", "text/plain; charset=utf-8")
CLOSE = b"Connection: close\r\n"
BODILESS = frozenset({204, 304})
"""Status codes whose answers have no body."""

_FENCE = (("Content-Security-Policy", "sandbox"), ("X-Content-Type-Options", "nosniff"))
"""Headers of every answer: an input's answer may come from anybody, and must not act as a page of this site."""

NOT_CONFIGURABLE = frozenset(
    (
        *HOP_BY_HOP,
        *("connection", "content-length", "date"),
        *("set-cookie", "set-cookie2", "clear-site-data", "strict-transport-security", "alt-svc", "nel", "report-to"),
        *("reporting-endpoints", "service-worker-allowed", "www-authenticate", "refresh"),
        *("x-accel-redirect", "x-accel-expires", "x-accel-limit-rate", "x-accel-buffering", "x-accel-charset"),
        *("x-sendfile", "x-lighttpd-send-file"),
        *(name.lower() for name, _ in _FENCE),
    )
)
"""Header names (in lower case) that neither the configuration nor a client can set in an answer. To a browser the
answer is a page of the relay, so headers that set state there or redirect it are excluded, as are those of the
connection and the relay's own, and those by which a proxy in front would take orders, for example to send one of its
own files."""


class Answer:
    """A response: `status` (200 to 599), `headers` in order, `body`. Immutable; it can be encoded repeatedly."""

    __slots__ = ("_start", "body", "headers", "status")

    def __init__(self, status: int, headers: Iterable[tuple[str, str]] = (), body: bytes = b"") -> None:
        self.status = status
        self.headers = (*_FENCE, *headers)
        self.body = b""
        if status not in BODILESS:
            self.body = body
            self.headers += (("Content-Length", str(len(body))),)
        lines = [f"HTTP/1.1 {status} {responses.get(status, 'Unknown')}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        self._start = "".join(line + "\r\n" for line in lines).encode("utf-8", "surrogateescape")

    def encode(self, extra: bytes = b"", *, head: bool = False) -> bytes:
        """The bytes to send. `extra` holds more header lines, each with its CRLF; `head` leaves out the body."""
        if head:
            return self._start + extra + b"\r\n"
        return b"%b%b\r\n%b" % (self._start, extra, self.body)

    def __repr__(self) -> str:
        return f"Answer({self.status})"


def text_answer(status: int, text: str, *headers: tuple[str, str]) -> Answer:
    """An answer whose body is one line of text for people."""
    return Answer(status, (PLAIN, *headers), text.encode() + b"\n")


_date = (0, b"")


def date_line() -> bytes:
    """The Date header, built once a second."""
    global _date
    now = int(time.time())
    if _date[0] != now:
        _date = (now, f"Date: {formatdate(now, usegmt=True)}\r\n".encode())
    return _date[1]


def static_answer(input: Input) -> Answer:
    """The configured answer of an input. Header names that the configuration may not set, and values that would break
    the response, are left out."""
    headers = list(_allowed(input.headers))
    body = input.body.encode("utf-8", "surrogatepass")
    if body and not any(name.lower() == "content-type" for name, _ in headers):
        headers.insert(0, PLAIN)
    return Answer(input.status_code, headers, body)


def client_answer(status: int, headers: Mapping[str, Sequence[str]], body: bytes) -> Answer:
    """A client's answer as the sender gets it; `status` is 200 to 599.

    Headers of the connection (including those that its Connection header names), the relay's own headers, and any that
    would break the response are left out.
    """
    named = {
        name.strip().lower()
        for header, values in headers.items()
        if header.lower() == "connection"
        for value in values
        for name in value.split(",")
    }
    return Answer(status, [each for each in _allowed(headers) if each[0].lower() not in named], body)


def _allowed(headers: Mapping[str, Sequence[str]]) -> Iterable[tuple[str, str]]:
    for name, values in headers.items():
        if is_name(name) and name.lower() not in NOT_CONFIGURABLE:
            for value in values:
                if is_value(value):
                    yield name, value


_WORDS = {
    "overloaded": "The relay has more webhooks on their way than it can store right now. This one was not stored:"
    " send it again.",
    "unavailable": "The relay could not store this webhook. It was not stored: send it again.",
    "unknown": "The relay could not confirm that this webhook was stored. It may have been: send it again, and expect"
    " it twice where the bucket has no dedupe.",
    "no_space": "The relay has no disk space left. This webhook was not stored: send it again once its operator has"
    " made space.",
    "internal": "The relay failed on this webhook. It may have been stored: send it again.",
}

PROBED_INPUT = "doctor"
"""The id of no input, to which `relay doctor` sends a webhook."""

NO_SUCH_INPUT = text_answer(404, "There is no input at this URL. Compare it with what `relay bucket show` prints.")


def error_answer(error: BaseException) -> Answer:
    """The answer to a webhook that could not be stored, by the map in errors.py."""
    known = error if isinstance(error, RelayError) else RelayError()
    if known.status == 404:
        return NO_SUCH_INPUT
    retry = () if known.retry_after is None else (("Retry-After", str(known.retry_after)),)
    return text_answer(known.status, _WORDS.get(known.code, _WORDS["internal"]), *retry)
