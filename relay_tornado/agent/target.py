"""The HTTP server that events are sent to: one try of one request, and its result."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

from relay_tornado.agent.request import Request, place_of
from relay_tornado.errors import Invalid
from relay_tornado.model import KIB
from relay_tornado.outgoing import transport
from relay_tornado.outgoing.names import Resolver
from relay_tornado.outgoing.transport import Bounds, NoMeans, Transport, Unanswered
from relay_tornado.wire.headers import HOP_BY_HOP, by_name, named_by_connection

MOST_BODY: Final = 512 * KIB
"""Maximum bytes of an answer's body that are returned: as base64 they fit into a message of the socket (1 MiB)."""
_BOUNDS: Final = Bounds(MOST_BODY, head=256 * KIB, idle_each=1000, idle_all=1000)

_NOT_BACK: Final = frozenset(name.encode() for name in (*HOP_BY_HOP, "connection", "content-length", "date"))


@dataclass(frozen=True, slots=True)
class Answer:
    """The target's answer. `whole` is false if its body is over `MOST_BODY` and left out."""

    status: int
    headers: Mapping[str, list[str]]
    body: bytes
    whole: bool = True
    retry_after: float = 0.0

    @property
    def transient(self) -> bool:
        """Whether the same request may succeed later: 408, 425, 429 and 5xx."""
        return self.status in (408, 425, 429) or 500 <= self.status <= 599

    @property
    def good(self) -> bool:
        return 200 <= self.status <= 399


@dataclass(frozen=True, slots=True)
class Trouble:
    """No answer arrived; `words` say why. If it is not `transient`, retrying is useless. If it is not `tried`, this
    machine had no means for a connection, which says nothing of the target."""

    words: str
    transient: bool = True
    tried: bool = True


class Target:
    """Sends requests. A context manager; `timeout` is in seconds for one whole exchange. With `verify` off, any
    certificate is accepted. Redirects are not followed: they are the target's answer."""

    def __init__(self, timeout: float, verify: bool = True) -> None:
        self._timeout = timeout
        self._verify = verify
        self._transport = Transport(Resolver(), _BOUNDS)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._transport.close()

    async def send(self, request: Request) -> Answer | Trouble:
        """Sends a request once."""
        try:
            place = place_of(request.origin)
            answer = await self._transport.send(
                _head(request, place.authority),
                request.body,
                place,
                method=request.method,
                verify=self._verify,
                timeout=self._timeout,
            )
        except Unanswered as error:
            return Trouble(str(error), tried=not isinstance(error, NoMeans))
        except (Invalid, ValueError) as error:
            # The target is at fault, so the event is retried and not lost.
            return Trouble(f"no request can be made to it: {error}")
        if answer.cut == "broken":
            return Trouble("its answer broke off")
        if answer.cut == "late":
            return Trouble(f"its answer did not end within {self._timeout:g} seconds")
        return _read(answer)


def _head(request: Request, authority: str) -> bytes:
    """The request's head, unchanged, with Host first."""
    lines = [request.method.encode() + b" " + request.target + b" HTTP/1.1"]
    if not any(name.lower() == b"host" for name, _ in request.headers):
        lines.append(b"Host: " + authority.encode())
    first = sorted(request.headers, key=lambda field: field[0].lower() != b"host")
    lines += [name + b": " + value for name, value in first]
    return b"\r\n".join((*lines, b"", b""))


def _read(answer: transport.Answer) -> Answer:
    left_out = _NOT_BACK | named_by_connection(answer.headers)
    headers = by_name(field for field in answer.headers if field[0].lower() not in left_out)
    wait = answer.retry_after(time.time()) or 0.0
    return Answer(answer.status, headers, b"" if answer.cut else answer.body, not answer.cut, wait)
