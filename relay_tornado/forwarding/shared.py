"""The state and services that all public outputs share: the log, the way out, clocks, and what bounds them together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from relay_tornado.copies import Subjects
from relay_tornado.counters import Counters
from relay_tornado.forwarding.bounds import Memory, Slots
from relay_tornado.log.contract import EventLog
from relay_tornado.model import Bucket, BucketId, Cursor, Output, Result
from relay_tornado.outgoing.transport import Transport
from relay_tornado.wire.destination import Destination


class Answers(Protocol):
    """Stores results, and passes answers to waiting senders."""

    async def answered(self, bucket_id: BucketId, copy: Cursor, result: Result) -> None:
        """Stores a result of a copy, then answers the senders that wait for it."""

    async def has_answer(self, bucket_id: BucketId, copy: Cursor) -> bool:
        """Whether an answer to a copy is stored."""


@dataclass(frozen=True, slots=True)
class Shared:
    """The state and services that all outputs of a relay share."""

    log: EventLog
    answers: Answers
    transport: Transport
    memory: Memory
    slots: Slots
    subjects: Subjects
    counters: Counters
    head: Callable[[BucketId], int]
    """The newest published seq."""
    own: Callable[[Destination, bytes], bool]
    """Whether a destination leads back into this relay, with an event's path behind it."""
    disable: Callable[[Bucket, Output, str], Awaitable[None]]
    """Disables an output for a reason."""
    clock: Callable[[], float]
    """Unix seconds."""
    monotonic: Callable[[], float]
    spread: Callable[[], float]
    """Returns a factor from 0.8 to 1.2."""
