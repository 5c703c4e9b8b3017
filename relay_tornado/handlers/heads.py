"""Raw request heads: finds the header block, and cuts a head down to what Tornado has to parse.

Tornado's parser applies several regular expressions to each header, and of a webhook's it needs only four. So a head
that one expression finds valid in every byte is cut down to those four. Any other head is passed on unchanged, and
Tornado decides.
"""

from __future__ import annotations

import re

_WEBHOOK = re.compile(
    rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+ "
    rb"(?:(?i:https?)://[^\x00-\x20\x7f/?#]*)?/v1/webhooks/[^\x00-\x20\x7f]* "
    rb"HTTP/1\.[01]\r?\n"
    rb"(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[^\x00-\x08\x0a-\x1f\x7f]*+\r?\n)*+\r?\n"
)
_FRAMING = (b"\ncontent-length:", b"\ntransfer-encoding:", b"\nconnection:", b"\nexpect:")
_CONNECTION = re.compile(rb"\nconnection:([!#$%&'*+\-.^_`|~0-9a-z, \t]*+)\r", re.IGNORECASE)
_LENGTHS = re.compile(rb"\ncontent-length:(?:[^\n]*,|(?s:.*)\ncontent-length:)")
"""More lengths than one, in a head in lower case."""


def header_block(head: bytes) -> bytes:
    """The header lines of a head, each with its line end."""
    leading = len(head) - len(head.lstrip(b"\r\n"))
    begin = head.index(b"\n", leading) + 1
    return head[begin : -2 if head.endswith(b"\r\n") else -1]


def ends_lines(head: bytes) -> bool:
    """Whether every line of a head ends with CRLF. Some servers take a bare line feed for a line end and others do not,
    so behind a proxy it could hide a header or a request."""
    return head.count(b"\n") == head.count(b"\r\n")


def names_host(head: bytes) -> bool:
    """Whether a head names its host as RFC 9112 (3.2) requires: one Host line in HTTP/1.1, at most one in HTTP/1.0."""
    hosts = head.lower().count(b"\nhost:")
    return hosts == 1 or (hosts == 0 and not _is_http_1_1(head))


def frames_body(head: bytes) -> bool:
    """Whether a head may frame its body as it does. Of several equal lengths RFC 9112 (6.3) lets the recipient choose,
    so one is all that a head may have. HTTP/1.0 has no Transfer-Encoding, so a head with it came through a proxy that
    did not read it (6.1)."""
    lower = head.lower()
    return _LENGTHS.search(lower) is None and (b"\ntransfer-encoding:" not in lower or _is_http_1_1(head))


def says_close(head: bytes) -> bytes:
    """The head with `Connection: close` alone if that is one of the connection's options. RFC 9112 (9.6) allows it
    among others and in any of several lines, but Tornado only looks for the single value. A head that switches
    protocols is unchanged."""
    first = _CONNECTION.search(head)
    if first is None:
        return head
    options = {option.strip().lower() for line in _CONNECTION.findall(head) for option in line.split(b",")}
    if b"close" not in options or b"upgrade" in options:
        return head
    return head[: first.start()] + b"\nConnection: close\r" + _CONNECTION.sub(b"", head[first.end() :])


def _is_http_1_1(head: bytes) -> bool:
    return b" HTTP/1.1" in head.lstrip(b"\r\n").partition(b"\n")[0]


def essential(head: bytes) -> bytes:
    """A webhook's head with only the headers that determine its length and whether the connection stays open. Any other
    head, and one with anything unusual, is unchanged."""
    if _WEBHOOK.fullmatch(head) is None:
        return head
    lower = head.lower()
    kept = head[: head.index(b"\n") + 1]
    for name in _FRAMING:
        at = lower.find(name)
        while at >= 0:
            end = head.index(b"\n", at + 1)
            kept += head[at + 1 : end + 1]
            at = lower.find(name, end)
    return kept + b"\r\n"
