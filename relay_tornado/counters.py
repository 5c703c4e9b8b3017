"""What the relay counts, as plain numbers: whoever does something adds to them, and `metrics` reads them at a scrape.

Adding to a slot costs 20 ns where a metric of a library costs 260, so counting can stand on the path of every event.
`Counters` only grows; `Levels` is a reading of what goes up and down. Both are touched in the event loop alone.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias, get_args

from relay_tornado import errors
from relay_tornado.model import GapReason

_OTHER: Final = errors.RelayError.code


def _codes(kind: type[errors.RelayError]) -> Iterator[str]:
    yield kind.code
    for child in kind.__subclasses__():
        if child is not errors.StartupError:
            yield from _codes(child)


REJECTIONS: Final = tuple(
    dict.fromkeys((*_codes(errors.RelayError), "timeout", "rate_limited", "queue_full", "signature"))
)
"""Why a webhook is refused: the codes of errors.py; `timeout`: its body came too slowly; `rate_limited`: its input's
or bucket's rate is used up; `queue_full`: as many events wait for a public output as may; `signature`: it does not pass
its input's check."""

GAPS: Final[tuple[str, ...]] = get_args(GapReason)

Outcome: TypeAlias = Literal["sent", "rejected", "timeout", "unreachable", "broken", "refused", "invalid"]
"""What comes of a try to forward an event: 2xx; another answer; none in time, no connection, a connection broken off;
an address that is not called; what can't be sent."""

OUTCOMES: Final[tuple[str, ...]] = get_args(Outcome)

FORWARD_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 180.0)
COMMIT_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
COMMIT_EVENTS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Distribution:
    """How often a value fell at or below each of the `bounds` (ascending), and above the last: `counts` has one
    entry more than there are bounds."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


def _zeros(names: Sequence[str]) -> dict[str, int]:
    return field(default_factory=lambda: dict.fromkeys(names, 0))


def _distribution(bounds: Sequence[float]) -> Distribution:
    return field(default_factory=lambda: Distribution(bounds))


@dataclass(eq=False, slots=True)
class Counters:
    """What has happened since the start. Add to a number where it happens: `counters.events += 1`."""

    events: int = 0
    event_bytes: int = 0
    duplicates: int = 0
    rejections: dict[str, int] = _zeros(REJECTIONS)
    commit_seconds: Distribution = _distribution(COMMIT_SECONDS)
    commit_events: Distribution = _distribution(COMMIT_EVENTS)
    tail_hits: int = 0
    tail_misses: int = 0
    deliveries: int = 0
    delivered_bytes: int = 0
    redeliveries: int = 0
    gaps: dict[str, int] = _zeros(GAPS)
    auth_failures: int = 0
    forward_attempts: dict[str, int] = _zeros(OUTCOMES)
    forward_seconds: Distribution = _distribution(FORWARD_SECONDS)
    forward_given_up: int = 0
    retention_events: int = 0
    connections_refused: int = 0

    def rejected(self, code: str) -> None:
        """Counts a webhook that was refused; `code` is one of `REJECTIONS`."""
        self.rejections[code if code in self.rejections else _OTHER] += 1

    def committed(self, events: int, size: int, seconds: float) -> None:
        """Counts a commit of so many events and bytes, which took so long."""
        self.events += events
        self.event_bytes += size
        self.commit_events.add(events)
        self.commit_seconds.add(seconds)


@dataclass(frozen=True, slots=True)
class Backups:
    """What is known of backups. `interval` is how often one is due, `last_success` when one was last made (unix
    seconds, by the files where this process made none); `last_size` is that one's bytes and `last_seconds` how long
    it took; `last_ok` is whether the last try succeeded. None is not known."""

    interval: float | None = None
    last_success: float | None = None
    last_size: int | None = None
    last_seconds: float | None = None
    last_ok: bool | None = None


@dataclass(frozen=True, slots=True)
class ConsumerLevel:
    """A consumer, and its bucket by its name, or where that is said by its id: how many events it is not done with, how
    many seconds the oldest of them has waited, and how many it gave up."""

    bucket: str
    consumer: str
    events: int
    seconds: float
    dead: int


@dataclass(frozen=True, slots=True)
class Levels:
    """What is the case at this moment. Sizes are bytes; None is not known, or does not apply.

    `lag` is by bucket's name, in the order in which the buckets were made: how many events lie between the head and
    the slowest subscriber. A bucket without subscribers may be left out. `consumers` are in an order that stays.
    """

    ready: bool = True
    append_queue: int = 0
    append_queue_limit: int = 0
    ingest_buffer: int = 0
    replay_buffer: int = 0
    connections: int = 0
    connections_limit: int = 0
    subscribers: int = 0
    forward_requests: int = 0
    forward_circuits_open: int = 0
    forward_retries: int = 0
    lag: Mapping[str, int] = field(default_factory=dict)
    consumers: Sequence[ConsumerLevel] = ()
    buckets: int = 0
    database: int | None = None
    wal: int | None = None
    space_free: int | None = None
    space_reserve: int | None = None
    space_seconds_left: float | None = None
    events_missing: int = 0
    certificate_expires: float | None = None
    certificate_ok: bool | None = None
    backups: Backups = Backups()
