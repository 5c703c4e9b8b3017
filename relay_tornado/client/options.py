"""A subscriber's options, checked, and the subscribe message made of them."""

from __future__ import annotations

import math
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

from relay_tornado.client.backoff import Backoff
from relay_tornado.client.event import Gap, Notice
from relay_tornado.client.messages import Document, encode

OnGap: TypeAlias = Callable[[Gap], object | Awaitable[object]] | Literal["fail"] | None
OnNotice: TypeAlias = Callable[[Notice], object] | None
Since: TypeAlias = str | Mapping[str, Any] | None

MIB = 1 << 20

_WHOLE: Final = {"max_in_flight": 1, "max_deliver": 0, "max_body": 0, "buffer": 1, "max_message": 1}
"""Integer options, with the lowest value of each."""
_SECONDS: Final = ("ack_wait", "checkpoint_every", "open_timeout", "idle_timeout")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """See `subscribe`, whose parameters these are. Raises ValueError if they contradict each other."""

    key: str = field(repr=False)
    secret: str = field(repr=False)
    buckets: tuple[str, ...] = ()
    since: Since = None
    consumer: str | None = None
    ack: Literal["explicit", "receipt"] | None = None
    max_in_flight: int | None = None
    ack_wait: float | None = None
    max_deliver: int | None = None
    filter: Mapping[str, Any] | None = None
    max_body: int | None = None
    outputs: Literal["all", "none"] = "all"
    on_gap: OnGap = None
    on_notice: OnNotice = None
    auto_done: bool = True
    checkpoint_every: float = 0.0
    extended: bool = True
    ssl: ssl.SSLContext | None = field(default=None, repr=False)
    proxy: str | Literal[True] | None = field(default=True, repr=False)
    backoff: Backoff = field(default_factory=Backoff)
    buffer: int = 8 * MIB
    max_message: int = 64 * MIB
    open_timeout: float = 20.0
    idle_timeout: float = 70.0

    def check(self, checkpoint: bool) -> None:
        """`checkpoint`: whether there is one. Raises ValueError."""
        ours = [name for name in ("since", "consumer", "filter", "max_body") if getattr(self, name) is not None]
        ours += ["outputs"] if self.outputs != "all" else []
        ours += ["on_gap"] if self.on_gap is not None else []
        if ours and not self.extended:
            raise ValueError(f"{ours[0]} is an extension of the stock protocol: leave it out with extended=False")
        if self.consumer is not None and checkpoint:
            raise ValueError("a consumer's position is kept by the relay: leave checkpoint out, or consumer")
        for name in ("ack", "max_in_flight", "ack_wait", "max_deliver"):
            if getattr(self, name) is not None and self.consumer is None:
                raise ValueError(f"{name} belongs to a consumer: name one")
        for name in ("max_in_flight", "ack_wait", "max_deliver"):
            if getattr(self, name) is not None and self.ack == "receipt":
                raise ValueError(f'{name} is about acks, and nobody acks with ack="receipt": leave it out')
        if not (self.on_gap in (None, "fail") or callable(self.on_gap)):
            raise ValueError('on_gap is a function, or "fail"')
        self._check_values()

    def _check_values(self) -> None:
        for name, allowed in (("ack", (None, "explicit", "receipt")), ("outputs", ("all", "none"))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is one of {', '.join(repr(each) for each in allowed if each)}")
        buckets: tuple[object, ...] = self.buckets
        if not all(isinstance(each, str) and each for each in buckets):
            raise ValueError("buckets are names or ids, each a text that is not empty")
        for name, least in _WHOLE.items():
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise ValueError(f"{name} is a whole number, {least} or more")
        for name in _SECONDS:
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int | float) and math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} is a number of seconds")

    @property
    def explicit(self) -> bool:
        """Whether events are acknowledged one by one to a consumer."""
        return self.consumer is not None and self.ack != "receipt"

    def subscribe(self, since: Any) -> str:
        """The message that subscribes from these positions (None: the relay's default)."""
        document: Document = {"action": "subscribe", "buckets": list(self.buckets)}
        if self.extended:
            document["extended"] = True
            if since is not None:
                document["since"] = since
            if self.on_gap == "fail":
                document["on_gap"] = "fail"
            if self.consumer is not None:
                document |= {"consumer": self.consumer, "ack": self.ack or "explicit"}
            for name in ("max_in_flight", "ack_wait", "max_deliver", "filter", "max_body"):
                if getattr(self, name) is not None:
                    document[name] = getattr(self, name)
            if self.outputs != "all":
                document["outputs"] = self.outputs
        return encode(document)


def names(buckets: str | Iterable[str] | None) -> tuple[str, ...]:
    """Bucket names or ids; none means every bucket that the token may read."""
    if buckets is None:
        return ()
    return (buckets,) if isinstance(buckets, str) else tuple(buckets)
