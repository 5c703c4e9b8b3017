"""What a subscriber gets: events, and notices of missing events and of the connection."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

AnswerHeaders: TypeAlias = Mapping[str, str | Iterable[str]]
"""Headers of an answer: each name with one value or several."""


class Headers(Mapping[str, str]):
    """Headers by case-insensitive name; `headers["X"]` is the first value, `get_all` returns repeats in order."""

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
        """All values of this name, () if there are none."""
        return self._values.get(name.lower(), ())

    def pairs(self) -> Iterator[tuple[str, str]]:
        """Each name with each of its values."""
        for name, values in self._values.items():
            for value in values:
                yield self._names[name], value

    def lists(self) -> dict[str, list[str]]:
        """A list of values for each name: the form used on the wire."""
        return {self._names[name]: list(values) for name, values in self._values.items()}

    def __repr__(self) -> str:
        return f"<Headers {', '.join(self)}>"


@dataclass(frozen=True, slots=True, kw_only=True)
class EventData:
    """One webhook, or the copy of one that goes to an output. Fields say what they hold if the original service omits
    them."""

    id: str
    """`<epoch>-<seq>` or `<epoch>-<seq>-<n>`: used for answers and acks, and as a position."""
    seq: int
    """Its place in its bucket: 1, 2, 3, …; 0 if the service has none."""
    epoch: str
    """The stretch of the log that it is in, "" if the service has none."""
    bucket: str
    bucket_id: str
    input_id: str
    input_name: str
    output: str
    """The name of the output that this copy goes to, "" if it goes to none."""
    destination: str
    """The URL of that output, with the path behind the input's URL unless the output is locked; without the query."""
    method: str
    path: str
    """The path behind the input's URL, raw, with its slash; "" if there is none."""
    query: str = field(repr=False)
    """Raw, without the question mark."""
    headers: Headers = field(repr=False)
    body: bytes = field(repr=False)
    """The sender's bytes; b"" if `truncated`."""
    truncated: bool = False
    """Whether the body was left out, because it is over `max_body` of the subscribe."""
    received_at: float | None = None
    """Unix seconds; None if the service does not tell."""
    attempt: int = 1
    """The number of this delivery: above 1 if a consumer gets the event again."""
    verified: bool | None = None
    """The verdict on the sender's signature, None if the input checks none."""
    host: str = ""
    remote_ip: str = ""
    meta: Mapping[str, Any] = field(repr=False, default_factory=dict)
    """All metadata from the service, unchanged."""

    @property
    def raw_path(self) -> bytes:
        """The path as bytes, exactly as the sender wrote it."""
        return _raw(self.path, "path" in _latin1(self.meta))

    @property
    def raw_query(self) -> bytes:
        """The query as bytes, exactly as the sender wrote it."""
        return _raw(self.query, "query" in _latin1(self.meta))

    @property
    def raw_headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """Each name with each of its values; the values are bytes, exactly as the sender wrote them."""
        marked = _latin1(self.meta)
        return tuple(
            (_raw(name, False), _raw(value, name in marked or f"{name}:{at}" in marked))
            for name, values in self.headers.lists().items()
            for at, value in enumerate(values)
        )

    @property
    def text(self) -> str:
        """The body as UTF-8, with replacement characters for invalid bytes."""
        return self.body.decode("utf-8", "replace")

    def json(self) -> Any:
        """The body as JSON. Raises ValueError, also if it is nested deeper than Python reads."""
        try:
            return json.loads(self.body)
        except RecursionError:
            raise ValueError("the body is nested too deeply") from None


def _latin1(meta: Mapping[str, Any]) -> Sequence[Any]:
    """The parts that the relay decoded as Latin-1 because they were not UTF-8; other services do not tell."""
    told = meta.get("latin1")
    return told if isinstance(told, list) else ()


def _raw(text: str, latin1: bool) -> bytes:
    if latin1:
        try:
            return text.encode("latin-1")
        except UnicodeEncodeError:
            pass
    # Another service may send a lone surrogate, which is not valid UTF-8.
    return text.encode("utf-8", "surrogatepass")


class Handle(Protocol):
    """Performs the methods of an event."""

    async def respond(
        self, event: EventData, status: int, body: bytes, headers: Mapping[str, list[str]], timeout: float
    ) -> None: ...

    async def ack(self, event: EventData, everything: bool) -> None: ...

    async def nak(self, event: EventData, delay: float | None) -> None: ...

    async def done(self, event: EventData) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Event(EventData):
    """An event with methods to answer and acknowledge it, which work while its subscription is open."""

    _handle: Handle = field(repr=False, compare=False)

    async def respond(
        self, status: int = 200, body: bytes | str = b"", headers: AnswerHeaders | None = None, *, timeout: float = 30.0
    ) -> None:
        """Sends the application's answer: a result of this copy, and the sender's response if the input waits for it.

        `status` is 200 to 599, or 0 if there was no answer. Returns once it is stored; if the connection is cut, it is
        sent again. Raises Rejected, and TimeoutError after `timeout` seconds (it may have been stored then).
        """
        await self._handle.respond(self, status, as_bytes(body), as_lists(headers or {}), timeout)

    async def ack(self, *, everything: bool = False) -> None:
        """Acknowledges the event to the subscription's consumer (`ack="explicit"`); with `everything` also all before
        it."""
        await self._handle.ack(self, everything)

    async def nak(self, delay: float | None = None) -> None:
        """Returns the event to the consumer, to be redelivered after at least `delay` seconds."""
        await self._handle.nak(self, delay)

    async def done(self) -> None:
        """Marks the event as done: the checkpoint may move past it. With explicit acks this is `ack()`.

        Returns once that is saved (see `checkpoint_every`). Raises CheckpointError.
        """
        await self._handle.done(self)


@dataclass(frozen=True, slots=True)
class Gap:
    """Events of a bucket that this subscriber should have met and will not get. The numbers are None if unknown."""

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
    """A message about the connection, for people.

    `kind` is "connected", "disconnected" (`delay`: seconds until the next attempt), "caught_up" (all stored events of
    `bucket` are delivered), "missing" (there is no such `bucket`, yet), "bucket_deleted" or "problem".
    """

    kind: Literal["connected", "disconnected", "caught_up", "missing", "bucket_deleted", "problem"]
    message: str = ""
    bucket: str = ""
    delay: float | None = None


def as_bytes(body: bytes | str) -> bytes:
    """The body as bytes, text as UTF-8."""
    return body.encode() if isinstance(body, str) else bytes(body)


def as_lists(headers: AnswerHeaders) -> dict[str, list[str]]:
    """Headers with a list of values for each name."""
    return {name: [value] if isinstance(value, str) else list(value) for name, value in headers.items()}
