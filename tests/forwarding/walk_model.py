"""What a walk over forwarding knows of each output, its destination and its events."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field, fields
from email.utils import formatdate

from relay_tornado.forwarding import circuit
from relay_tornado.forwarding.circuit import FIRST, LONGEST
from relay_tornado.model import Output
from relay_tornado.outgoing.transport import Answer


@dataclass(eq=False)
class Asked:
    """A request that has begun, with what the output and its model were like then."""

    n: int
    seq: int
    place: str
    answer: asyncio.Future[Answer]
    circuit: Circuit
    generation: int
    probe: bool


@dataclass
class Circuit:
    """What is known of a destination; a change of the output makes a new one."""

    failures: int = 0
    open_for: float = 0.0
    until: float = 0.0
    held: float = 0.0
    probing: bool = False
    made_at: float = -1.0
    failed_at: float = -1.0
    """When the last try failed: what was taken before that may still be sent, in the same moment."""

    @property
    def opened(self) -> bool:
        return self.open_for > 0

    def succeeded(self) -> None:
        self.failures, self.open_for, self.probing = 0, 0.0, False

    def failed(self, now: float, probe: bool, wait: float) -> None:
        """`wait` is for how long the destination wants to be left alone."""
        self.failed_at = now
        if wait:
            self.held = max(self.held, now + wait)
        if not self.opened:
            self.failures += 1
        if (self.opened and probe) or (not self.opened and self.failures >= circuit.FAILURES):
            self.open_for = min(self.open_for * 2 or FIRST, LONGEST)
            self.until, self.probing = now + self.open_for, False


@dataclass
class Sent:
    """What became of one event at one output since it was last to be sent."""

    since: int
    """The generation: one that was taken before a seek does not count."""
    tries: int = 0
    """Those that failed, or whose process was killed."""
    due: float = 0.0
    done: bool = False
    dead: bool = False
    again: bool = False
    """It is sent once more on request, and holds its place in no order."""
    perhaps: bool = False
    """It was answered or given up, and the relay may have ended before it knew."""

    @property
    def settled(self) -> bool:
        return self.done or self.dead


@dataclass
class Standing:
    """The model of one output while it is public."""

    floor: int
    circuit: Circuit = field(default_factory=Circuit)
    events: dict[int, Sent] = field(default_factory=dict)
    generation: int = 0
    gone: bool = False
    """Whether its destination answered 410, so that it may be disabled."""
    strays: set[int] = field(default_factory=set)
    """Events that were taken when it was moved last, and not sent yet: they may be sent all the same."""
    early: set[int] = field(default_factory=set)
    """Events that were taken when it was changed last, and not sent yet: how many go at once, and which, was decided
    before."""
    loose: set[int] = field(default_factory=set)
    """Events of which it depends on the moment whether they go there: its rules changed since they came."""


def asks_to_wait(chance: random.Random) -> tuple[float, list[tuple[bytes, bytes]]]:
    """The seconds that a destination asks for, as far as the relay obeys, and the headers in which it does."""
    wait, day = chance.choice([0, 2, 40, 4000]), chance.choice([0.0, 1e9])
    headers = [(b"Retry-After", b"%d" % wait)]
    if chance.random() < 0.5:
        at, since = (formatdate(each, usegmt=True).encode() for each in (day + wait, day))
        headers = [(b"retry-after", at), (b"Date", since)]
    return min(float(wait), 3600.0), headers


def difference(before: Output | None, after: Output | None) -> str:
    """What changes of an output, in words."""
    if before is None or after is None:
        return "made" if after else "deleted"
    names = [each.name for each in fields(after) if getattr(before, each.name) != getattr(after, each.name)]
    return str({name: getattr(after, name) for name in names})
