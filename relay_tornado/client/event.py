"""What a subscriber is given: events, and words about events that are missing and about the connection."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

AnswerHeaders: TypeAlias = Mapping[str, str | Iterable[str]]
"""Headers of an answer: by name, a value or several."""


class Headers(Mapping[str, str]):
    """Headers by name, in whatever case; `headers["X"]` is the first value, `get_all` has the repeats in order."""

    __slots__ = ("_names", "_values")

    def __init__(self, values: Mapping[str, Iterable[str]]) -> None:
        self._values = {name.lower(): tuple(each) for name, each in values.items()}
        self._names = {name.lower(): name for name in values}

    def __getitem__(self, name: str) -> str:
        return self._values[name.lower()][0]

    def __iter__(self) -> Iterator[str]:
        return (self._names[name] for name, values in self._values.items() if values)

    def __len__(self) -> int:
        return sum(1 for values in self._values.values() if values)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and bool(self._values.get(name.lower()))

    def get_all(self, name: str) -> tuple[str, ...]:
        """Every value of this name, () where there is none."""
        return self._values.get(name.lower(), ())

    def pairs(self) -> Iterator[tuple[str, str]]:
        """Each name with each of its values."""
        for name, values in self._values.items():
            for value in values:
                yield self._names[name], value

    def lists(self) -> dict[str, list[str]]:
        """By name, the list of values: the form that they have on the wire."""
        return {self._names[name]: list(values) for name, values in self._values.items()}

    def __repr__(self) -> str:
        return f"<Headers {', '.join(self)}>"


@dataclass(frozen=True, slots=True, kw_only=True)
class EventData:
    """One webhook, or the copy of one that goes to an output. The original service gives less; its blanks are said."""

    id: str
    """`<epoch>-<seq>` or `<epoch>-<seq>-<n>`: by which it is answered and acknowledged, and a position."""
    seq: int
    """Its place in its bucket: 1, 2, 3, …; 0 where the service has none."""
    epoch: str
    """The stretch of the log that it lies in, "" where the service has none."""
    bucket: str
    bucket_id: str
    input_id: str
    input_name: str
    output: str
    """The name of the output that this copy goes to, "" where the bucket has none."""
    destination: str
    """That output's URL, with what follows the input in it where the output is not locked; without the query."""
    method: str
    path: str
    """What follows the input in the URL, raw, with its slash; ""."""
    query: str = field(repr=False)
    """Raw, without the question mark."""
    headers: Headers = field(repr=False)
    body: bytes = field(repr=False)
    """The bytes that the sender sent; b"" where `truncated`."""
    truncated: bool = False
    """The body is over the `max_body` of the subscribe, and was left out."""
    received_at: float | None = None
    """Unix seconds; None where the service does not tell."""
    attempt: int = 1
    """Which delivery of it this is: above 1 where a consumer gets it again."""
    verified: bool | None = None
    """The verdict on the sender's signature, None where the input checks none."""
    host: str = ""
    remote_ip: str = ""
    meta: Mapping[str, Any] = field(repr=False, default_factory=dict)
    """Everything that the service said of it, as it came."""

    @property
    def raw_path(self) -> bytes:
        """The path byte for byte as the sender wrote it."""
        return _raw(self.path, "path" in _latin1(self.meta))

    @property
    def raw_query(self) -> bytes:
        """The query byte for byte as the sender wrote it."""
        return _raw(self.query, "query" in _latin1(self.meta))

    @property
    def raw_headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """Each name with each of its values, these byte for byte as the sender wrote them."""
        marked = _latin1(self.meta)
        return tuple(
            (_raw(name, False), _raw(value, name in marked or f"{name}:{at}" in marked))
            for name, values in self.headers.lists().items()
            for at, value in enumerate(values)
        )

    @property
    def text(self) -> str:
        """The body as UTF-8, with replacement characters where it is not."""
        return self.body.decode("utf-8", "replace")

    def json(self) -> Any:
        """The body as JSON. Raises ValueError, also where it is nested deeper than Python reads."""
        try:
            return json.loads(self.body)
        except RecursionError:
            raise ValueError("the body is nested too deeply") from None


def _latin1(meta: Mapping[str, Any]) -> Sequence[Any]:
    """What the relay decoded as Latin-1, since it was no UTF-8; other services don't tell."""
    told = meta.get("latin1")
    return told if isinstance(told, list) else ()


def _raw(text: str, latin1: bool) -> bytes:
    if latin1:
        try:
            return text.encode("latin-1")
        except UnicodeEncodeError:
            pass
    # Another service may send a lone surrogate, which is no UTF-8.
    return text.encode("utf-8", "surrogatepass")


class Handle(Protocol):
    """What an event's methods do."""

    async def respond(
        self, event: EventData, status: int, body: bytes, headers: Mapping[str, list[str]], timeout: float
    ) -> None: ...

    async def ack(self, event: EventData, everything: bool) -> None: ...

    async def nak(self, event: EventData, delay: float | None) -> None: ...

    async def done(self, event: EventData) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Event(EventData):
    """An event with what can be done about it. Its methods work as long as its subscription is open."""

    _handle: Handle = field(repr=False, compare=False)

    async def respond(
        self, status: int = 200, body: bytes | str = b"", headers: AnswerHeaders | None = None, *, timeout: float = 30.0
    ) -> None:
        """Says what the application answers: a result of this copy, and the sender's answer where the input waits.

        `status` is 200 to 599, or 0 where there was no answer. Returns once it is stored; over a cut it is sent again.
        Raises Rejected, and TimeoutError after `timeout` seconds (then it may have been stored).
        """
        await self._handle.respond(self, status, as_bytes(body), as_lists(headers or {}), timeout)

    async def ack(self, *, everything: bool = False) -> None:
        """Acknowledges it to the subscription's consumer (`ack="explicit"`); with `everything` also all before it."""
        await self._handle.ack(self, everything)

    async def nak(self, delay: float | None = None) -> None:
        """Gives it back to the consumer, to be delivered again, after `delay` seconds at the soonest."""
        await self._handle.nak(self, delay)

    async def done(self) -> None:
        """The application is done with it: the checkpoint may move past it. With explicit acks this is `ack()`.

        Returns once that is saved (see `checkpoint_every`). Raises CheckpointError.
        """
        await self._handle.done(self)


@dataclass(frozen=True, slots=True)
class Gap:
    """Events of a bucket that this subscriber should have met and will not. The numbers are None where nobody knows."""

    bucket: str
    first: int | None
    last: int | None
    count: int | None
    reason: str
    """"retention", "reset", "future" or "ephemeral", see docs/protocol.md."""

    def __str__(self) -> str:
        if self.count == 1:
            return f"1 event ({self.first}) of {self.bucket} is missing ({self.reason})"
        what = "events" if self.count is None else f"{self.count} events ({self.first} to {self.last})"
        return f"{what} of {self.bucket} are missing ({self.reason})"


@dataclass(frozen=True, slots=True)
class Notice:
    """Something about the connection, for people.

    `kind` is "connected", "disconnected" (`delay`: seconds until the next try), "caught_up" (everything of `bucket`
    that was there is delivered), "missing" (there is no such `bucket`, yet), "bucket_deleted" or "problem".
    """

    kind: Literal["connected", "disconnected", "caught_up", "missing", "bucket_deleted", "problem"]
    message: str = ""
    bucket: str = ""
    delay: float | None = None


def as_bytes(body: bytes | str) -> bytes:
    """Text as UTF-8."""
    return body.encode() if isinstance(body, str) else bytes(body)


def as_lists(headers: AnswerHeaders) -> dict[str, list[str]]:
    """With a list of values for each name."""
    return {name: [value] if isinstance(value, str) else list(value) for name, value in headers.items()}
