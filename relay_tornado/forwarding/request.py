"""Encodes the request to a destination: method, path, query, headers and body of the event as received.

Left out are the headers of the sender's own connection (including those that its Connection header names), Host, Expect
and Content-Length. The output's headers replace the sender's of the same name. Added are only the destination's Host,
the body's Content-Length, the login in the output's URL, and the signature if the output has a secret.
"""

from __future__ import annotations

from typing import Final

from relay_tornado.errors import Invalid
from relay_tornado.ids import format_id
from relay_tornado.model import Event, Output
from relay_tornado.outgoing.fields import NOT_FORWARDED, is_header, is_method
from relay_tornado.signatures import sign
from relay_tornado.wire import destination as destinations
from relay_tornado.wire.destination import Destination
from relay_tornado.wire.headers import named_by_connection, parse

_BODILESS: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "DELETE"})
"""Methods whose requests have no Content-Length if they have no body."""


def encode(event: Event, output: Output, destination: Destination, now: float) -> tuple[bytes, bytes]:
    """Head and body of one request at `now` (unix seconds). Raises Invalid if it can't be made."""
    if not is_method(method := event.method.encode("latin-1", "replace")) or event.method == "CONNECT":
        raise Invalid(f"the method {event.method[:40]!r} can't be sent")
    target = destinations.target(destination, event.path, event.query, lock_path=output.lock_path)
    own: list[tuple[bytes, bytes]] = []
    for header, values in output.headers.items():
        own += [(header.encode(), value.encode()) for value in values]
    if output.secret:
        copy_id = format_id(event.epoch, event.seq, output.n)
        # The id is that of the copy, the same for every attempt; the time is that of the attempt.
        signed = sign("standard-webhooks", output.secret, event.body, now, copy_id)
        own += [(name.encode(), value.encode()) for name, value in signed]
    names = {name.lower() for name, _ in own}
    if destination.login and b"authorization" not in names:
        own.append((b"Authorization", destination.login.encode()))
        names.add(b"authorization")
    host = next((value for name, value in own if name.lower() == b"host"), destination.authority.encode())
    sent = parse(event.headers)
    dropped = NOT_FORWARDED | names | named_by_connection(sent)
    lines = [b"%b %b HTTP/1.1" % (method, target), b"Host: " + host]
    lines += [
        b"%b: %b" % (each, value) for each, value in sent if each.lower() not in dropped and is_header(each, value)
    ]
    lines += [
        b"%b: %b" % (each, value) for each, value in own if each.lower() not in NOT_FORWARDED and is_header(each, value)
    ]
    if event.body or event.method not in _BODILESS:
        lines.append(b"Content-Length: %d" % len(event.body))
    return b"\r\n".join((*lines, b"", b"")), event.body
