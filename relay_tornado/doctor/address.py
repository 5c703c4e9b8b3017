"""Checks the relay's public URL: whether it leads to this relay, its certificate, and the proxies in front; and whether
that relay can commit events."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, Final
from urllib.parse import urlsplit

from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest, HTTPResponse
from tornado.iostream import UnsatisfiableReadError
from tornado.websocket import WebSocketClientConnection, WebSocketError, websocket_connect

from relay_tornado.doctor.finding import Finding
from relay_tornado.model import DAY
from relay_tornado.wire.answers import PROBED_INPUT
from relay_tornado.wire.destination import parse

PATIENCE: Final = 10.0
"""Seconds within which each request has to be answered."""

EARLY: Final = 5.0
"""Seconds within which a refusal has to arrive while the request's body is still to come."""

EXPIRES_SOON: Final = 14 * DAY

_LARGEST: Final = 1 << 20
"""The most bytes of an answer that are read: a relay's has about a hundred."""

_ODD: Final = (OSError, HTTPClientError, ValueError, UnsatisfiableReadError, WebSocketError)
"""The errors caused by a server that does not answer, or violates the protocol."""

_ANNOUNCED: Final = 3 << 20
"""Content-Length of a body that is never sent: more than a proxy that buffers bodies passes on early, and the most that
a bucket takes by default (`max_body`), which nginx's default of 1 MiB refuses."""


class Address:
    """A URL to check, with its host in ASCII. `instance` identifies the relay that runs on this machine, "" if none
    does."""

    def __init__(self, url: str, instance: str = "") -> None:
        """Raises Invalid if it is no http or https URL."""
        parts = parse(url, "public_url")
        login, at, host = urlsplit(url).netloc.rpartition("@")
        self.secure, self.host, self.port, self.authority = parts.tls, parts.host, parts.port, parts.authority
        self.path = parts.path.decode().rstrip("/")
        if not host.isascii():  # else it may have an IPv6 zone, which the authority leaves out
            host = self.authority
        self.url = f"{parts.scheme}://{login}{at}{host}{self.path}"
        self.instance = instance


async def look(address: Address, credentials: tuple[str, str] | None, idle: float) -> AsyncIterator[Finding]:
    """Yields the findings about the URL, until one makes the other checks pointless.

    `credentials` are a token's key and secret, with which a socket is kept idle for `idle` seconds.
    """
    if address.secure:
        accepted = await certificate(address)
        yield accepted
        if accepted.level == "fail":
            return
    elif not _loopback(address.host):
        yield Finding(
            "https",
            "warn",
            f"{address.url} is not encrypted: everybody on the way reads webhooks and secrets",
            "give the relay a certificate (--tls-cert), or put nginx or Caddy in front: docs/operations.md",
        )
    found = await leads_here(address)
    yield found
    if found.level == "fail":
        return
    yield await ready(address)
    yield await streams(address)
    async for finding in socket(address, credentials, idle):
        yield finding


def _loopback(host: str) -> bool:
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


async def certificate(address: Address) -> Finding:
    """Whether clients accept the certificate, and for how long."""
    shown = f"openssl s_client -connect {address.host}:{address.port}"
    remedy = f"{shown} shows it; it has to be renewed in time, for this name, and with its intermediates"
    try:
        async with asyncio.timeout(PATIENCE):
            _, writer = await _connect(address)
    except ssl.SSLCertVerificationError as error:
        return Finding("certificate", "fail", f"clients refuse it: {error.verify_message}", remedy)
    except (OSError, TimeoutError) as error:
        return Finding("certificate", "fail", f"TLS with {address.authority} fails: {_words(error)}", remedy)
    found: Any = writer.get_extra_info("peercert")
    await _close(writer)
    left = ssl.cert_time_to_seconds(found["notAfter"]) - time.time()
    says = f"good for {left / DAY:.0f} days"
    if left < EXPIRES_SOON:
        return Finding("certificate", "warn", says, "see that its renewal runs")
    return Finding("certificate", "ok", says)


async def leads_here(address: Address) -> Finding:
    """Whether the relay that answers at the URL is the one on this machine."""
    name, url = "url", f"{address.url}/healthz"
    began = time.monotonic()
    try:
        answer = await _fetch(address, url)
    except _ODD as error:
        return Finding(
            name,
            "fail",
            f"{url} does not answer: {_words(error)}",
            "look at the name's DNS record, the firewall, and whether the proxy in front runs",
        )
    if answer.code in range(300, 400):
        target = answer.headers.get("Location", "")
        return Finding(
            name, "fail", f"{url} redirects to {target}: many senders follow no redirect", "set the public URL to that"
        )
    try:
        found = json.loads(answer.body)["instance"] if answer.code == 200 else None
    except (ValueError, RecursionError, KeyError, TypeError):
        found = None
    if found is None:
        remedy = "have the proxy in front pass every path on to the relay as it came"
        if answer.code == 400 and not address.secure:  # as a port with TLS, the relay's own too, answers plain HTTP
            remedy = f"if it speaks HTTPS, set the public URL to https{address.url.removeprefix('http')}; else {remedy}"
        return Finding(name, "fail", f"{url} is answered with {answer.code}, and not like a relay", remedy)
    if address.instance and found != address.instance:
        return Finding(
            name,
            "fail",
            f"{address.url} leads to another relay than the one that runs here",
            "correct the proxy's upstream or the DNS record, or the setting --public-url",
        )
    where = "leads to this relay" if address.instance else "is answered by a relay"
    return Finding(name, "ok", f"{address.url} {where}, in {(time.monotonic() - began) * 1000:.0f} ms")


async def ready(address: Address) -> Finding:
    """What the relay's /readyz says: whether it can commit events, and whether committed ones are missing."""
    name, url = "ready", f"{address.url}/readyz"
    try:
        found = json.loads((await _fetch(address, url)).body)
        is_ready, missing = found["status"] == "ready", found.get("events_missing")
        problem = "" if is_ready else found["problem"]
    except (*_ODD, RecursionError, KeyError, TypeError, AttributeError):
        says = f"{url} is not answered by the relay, which would say whether it can commit events"
        remedy = "have the proxy in front pass /readyz on, or ask the relay for it on its own machine"
        return Finding(name, "warn", says, remedy)
    if not is_ready:
        says = f"events can't be committed, so senders get 503 or 507: {problem}"
        return Finding(name, "fail", says, "docs/operations.md says what to do (RelayNotReady)")
    if missing is not None:
        says = f"events can be committed, but {missing} committed ones were missing when the relay started"
        return Finding(name, "warn", says, "docs/operations.md says what to do (RelayEventsMissing)")
    return Finding(name, "ok", "events can be committed")


async def streams(address: Address) -> Finding:
    """Whether a refusal comes before the body is sent: a proxy that buffers bodies would hold it back."""
    head = (
        f"POST {address.path}/v1/webhooks/{PROBED_INPUT} HTTP/1.1\r\nHost: {address.authority}\r\n"
        f"Content-Length: {_ANNOUNCED}\r\nConnection: close\r\n\r\nx"
    )
    try:
        async with asyncio.timeout(PATIENCE):
            reader, writer = await _connect(address)
    except (OSError, TimeoutError) as error:
        return Finding("bodies", "fail", f"no second connection: {_words(error)}", "look at the proxy's limits")
    try:
        writer.write(head.encode())
        async with asyncio.timeout(EARLY):
            line = await reader.readline()
    except TimeoutError:
        return Finding(
            "bodies",
            "warn",
            "the proxy in front buffers a whole body before it passes it on, so large webhooks go over its disk",
            "nginx: proxy_request_buffering off (deploy/nginx/relay.conf)",
        )
    except (OSError, ValueError) as error:  # ValueError: a line that is too long
        line = _words(error).encode()
    finally:
        await _close(writer)
    if b" 404 " in line:
        return Finding("bodies", "ok", "are not buffered on the way")
    return Finding(
        "bodies",
        "warn",
        f"a webhook for an unknown input is answered with {line.decode('latin-1').strip()!r}, not by the relay's 404",
        "have the proxy pass every request below /v1/ on, whatever its size (client_max_body_size 0)",
    )


async def socket(address: Address, credentials: tuple[str, str] | None, idle: float) -> AsyncIterator[Finding]:
    """Whether a WebSocket opens, answers at once, and stays open while it is idle."""
    url = "ws" + address.url.removeprefix("http") + "/v1/socket"
    try:
        connection = await websocket_connect(_request(address, url))
    except _ODD as error:
        yield Finding(
            "socket",
            "fail",
            f"{url} does not open: {_words(error)}",
            "have the proxy pass Upgrade and Connection on (deploy/nginx/relay.conf)",
        )
        return
    try:
        if credentials is None:
            yield Finding("socket", "ok", "opens; without a token of its relay it can't be kept open to watch it")
            return
        began = time.monotonic()
        try:
            await _subscribe(connection, credentials)
        except (TimeoutError, ConnectionError, WebSocketError):
            yield Finding(
                "socket",
                "fail",
                "opens, but a message on it is not answered in time",
                "switch off buffering of answers in the proxy (nginx: proxy_buffering off)",
            )
            return
        yield Finding("socket", "ok", f"opens, and answers in {(time.monotonic() - began) * 500:.0f} ms")
        if idle:
            yield await _watch(connection, idle)
    finally:
        connection.close()


async def _subscribe(connection: WebSocketClientConnection, credentials: tuple[str, str]) -> None:
    key, secret = credentials
    for message, status in (
        ({"action": "auth", "key": key, "secret": secret}, "authenticated"),
        ({"action": "subscribe", "buckets": ["/none"], "extended": True}, "subscribed"),  # a stock one is logged
    ):
        await connection.write_message(json.dumps(message))
        async with asyncio.timeout(PATIENCE):
            answer = await connection.read_message()
        if answer is None or _status(answer) != status:
            raise ConnectionError


def _status(answer: str | bytes) -> Any:
    try:
        return json.loads(answer)["status"]
    except (ValueError, RecursionError, KeyError, TypeError):
        return None


async def _watch(connection: WebSocketClientConnection, idle: float) -> Finding:
    began = time.monotonic()
    with suppress(TimeoutError):
        async with asyncio.timeout(idle):
            while await connection.read_message() is not None:
                pass
            seconds = time.monotonic() - began
            return Finding(
                "idle",
                "fail",
                f"an idle socket was cut after {seconds:.0f} s (code {connection.close_code})",
                "raise the proxy's time-outs above the relay's --ping-interval, to 60 s at least "
                "(nginx: proxy_read_timeout, proxy_send_timeout)",
            )
    return Finding("idle", "ok", f"a socket was idle for {idle:.0f} s and is still open")


async def _connect(address: Address) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(address.host, address.port, ssl=_context(address))


async def _fetch(address: Address, url: str) -> HTTPResponse:
    """The answer, whatever its status. Raises the errors in `_ODD`."""
    client = AsyncHTTPClient(force_instance=True, max_body_size=_LARGEST)
    return await client.fetch(_request(address, url), raise_error=False)


def _request(address: Address, url: str) -> HTTPRequest:
    return HTTPRequest(
        url,
        connect_timeout=PATIENCE,
        request_timeout=PATIENCE,
        follow_redirects=False,
        decompress_response=False,
        ssl_options=_context(address),
    )


def _context(address: Address) -> ssl.SSLContext | None:
    return ssl.create_default_context() if address.secure else None


async def _close(writer: asyncio.StreamWriter) -> None:
    # Aborted: the other side may still wait for a body.
    writer.transport.abort()
    with suppress(OSError):
        await writer.wait_closed()


def _words(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, UnsatisfiableReadError):
        return "the head of its answer has no end"
    return str(error) or type(error).__name__
