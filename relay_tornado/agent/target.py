"""The HTTP server that events go to: one try of one request, and what came of it."""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Final, Self

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import StreamWriter
from aiohttp.payload import Payload
from yarl import URL

from relay_tornado.agent.backoff import is_transient, retry_after_of
from relay_tornado.agent.request import Request

MOST_BODY: Final = 512 * 1024
"""Bytes of an answer's body that are read and given back: as base64 they fit into a message of the socket (1 MiB)."""
_FIELD: Final = 64 * 1024
_CHUNK: Final = 64 * 1024

_NOT_BACK: Final = frozenset(
    (
        *("connection", "keep-alive", "proxy-authenticate", "proxy-connection", "te", "trailer", "transfer-encoding"),
        *("upgrade", "content-length", "date"),
    )
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the target answered. `whole` is false where its body is over `MOST_BODY`, and left out."""

    status: int
    headers: Mapping[str, list[str]]
    body: bytes
    whole: bool = True
    retry_after: float = 0.0

    @property
    def transient(self) -> bool:
        return is_transient(self.status)

    @property
    def good(self) -> bool:
        return 200 <= self.status <= 399


@dataclass(frozen=True, slots=True)
class Trouble:
    """No answer came; `words` say why. Where it is not `transient`, trying again is no use."""

    words: str
    transient: bool = True


class Target:
    """Sends requests. A context manager; `timeout` is in seconds, for one whole exchange. With `verify` off any
    certificate is taken. Redirects are not followed: they are the target's answer."""

    def __init__(self, timeout: float, verify: bool = True) -> None:
        self._timeout = timeout
        self._verify = verify
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        trace = aiohttp.TraceConfig()
        trace.on_connection_reuseconn.append(_reused)
        context = ssl.create_default_context()
        if not self._verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=context),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trace_configs=[trace],
            max_line_size=_FIELD,
            max_field_size=_FIELD,
            timeout=aiohttp.ClientTimeout(total=self._timeout),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._session is not None
        await self._session.close()

    async def send(self, request: Request) -> Answer | Trouble:
        """Sends a request once. Where a kept connection turns out to be closed, once more on another one."""
        reused = SimpleNamespace(reused=True)
        result: Answer | Trouble = Trouble("")
        while reused.reused:
            reused = SimpleNamespace(reused=False)
            try:
                return await self._try(request, reused)
            except aiohttp.ServerDisconnectedError:
                result = Trouble("the target closed the connection without an answer")
            except aiohttp.ClientConnectorCertificateError as error:
                return Trouble(f"the target's certificate is not trusted: {_words(error.certificate_error)}")
            except aiohttp.ClientConnectorSSLError as error:
                return Trouble(f"TLS with the target failed: {_words(error)}")
            except aiohttp.ClientConnectorError as error:
                return Trouble(_words(error.os_error))
            except aiohttp.ClientOSError as error:
                result = Trouble(_words(error))
            except TimeoutError:
                return Trouble(f"no whole answer within {self._timeout:g} s")
            except aiohttp.ClientPayloadError:
                return Trouble("the answer broke off")
            except (aiohttp.InvalidURL, ValueError) as error:
                # The library is given the origin alone, so this is about the target, and no event is lost by it.
                return Trouble(f"no request can be made to it: {error}")
            except aiohttp.ClientError as error:
                return Trouble(f"the answer is not HTTP: {_words(error)}")
        return result

    async def _try(self, request: Request, reused: SimpleNamespace) -> Answer:
        assert self._session is not None
        url = URL(request.origin)
        async with self._session.request(
            # The library has to know whether an answer has a body, and repeats nothing by itself.
            "HEAD" if request.method == "HEAD" else "POST",
            url,
            data=_Exact(request, url.host_port_subcomponent or ""),
            allow_redirects=False,
            trace_request_ctx=reused,
        ) as response:
            body = bytearray()
            whole = True
            async for chunk in response.content.iter_chunked(_CHUNK):
                body += chunk
                if len(body) > MOST_BODY:
                    whole = False
                    response.close()
                    break
            headers: dict[str, list[str]] = {}
            for name, value in response.headers.items():
                if name.lower() not in _NOT_BACK:
                    headers.setdefault(name, []).append(_text(value))
            wait = retry_after_of(response.headers.get("Retry-After"), response.headers.get("Date"), time.time())
            return Answer(response.status, headers, bytes(body) if whole else b"", whole, wait)


class _Exact(Payload):
    """A whole request, byte for byte: the library's own head, which has the method in upper case and every text as
    UTF-8, is replaced before it leaves."""

    _autoclose = True

    def __init__(self, request: Request, host: str) -> None:
        super().__init__(request.body)
        self._size = len(request.body)
        lines = [request.method.encode() + b" " + request.target + b" HTTP/1.1"]
        if not any(name.lower() == b"host" for name, _ in request.headers):
            lines.append(b"Host: " + host.encode())
        first = sorted(request.headers, key=lambda field: field[0].lower() != b"host")
        lines += [name + b": " + value for name, value in first]
        self._head = b"\r\n".join((*lines, b"", b""))

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return bytes(self._value).decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        assert isinstance(writer, StreamWriter)
        # It is still there: the library sends it together with the body's first bytes.
        assert writer._headers_buf
        writer._headers_buf = self._head
        if self._value:
            await writer.write(self._value)


def _text(value: str) -> str:
    """A header's value with what is not UTF-8 read as Latin-1."""
    raw = value.encode("utf-8", "surrogateescape")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


async def _reused(_session: Any, context: Any, _params: Any) -> None:
    context.trace_request_ctx.reused = True


def _words(error: BaseException | None) -> str:
    """An error of the network for people, without the addresses that the library adds."""
    if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) and error.errno and error.errno > 0:
        words = os.strerror(error.errno)
        return words[:1].lower() + words[1:]
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
