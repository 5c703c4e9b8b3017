"""What the relay counts, as plain numbers: the parts add to them, and `metrics` reads them at a scrape.

Adding to a slot costs 20 ns, while a library's metric costs 260, so every event can be counted. `Counters` only grow;
`Levels` is a reading of values that go up and down. Both are used only in the event loop.
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
"""Why a webhook is refused: a code of errors.py, or one of these: `timeout`: its body came too slowly; `rate_limited`:
the rate of its input or bucket is exceeded; `queue_full`: a public output's queue is full; `signature`: its input's
check failed."""

GAPS: Final[tuple[str, ...]] = get_args(GapReason)

Outcome: TypeAlias = Literal["sent", "rejected", "timeout", "unreachable", "broken", "refused", "invalid"]
"""The outcome of an attempt to forward an event: 2xx; another answer; no answer in time; no connection; a broken
connection; an address that is not allowed; a request that can't be sent."""

OUTCOMES: Final[tuple[str, ...]] = get_args(Outcome)

FORWARD_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 180.0)
COMMIT_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
COMMIT_EVENTS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Distribution:
    """How often a value was at or below each of the `bounds` (ascending), and above the last: `counts` has one more
    entry than there are bounds."""

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
    """What has happened since the start. Counted where it happens: `counters.events += 1`."""

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
        """Counts a refused webhook; `code` is one of `REJECTIONS`."""
        self.rejections[code if code in self.rejections else _OTHER] += 1

    def committed(self, events: int, size: int, seconds: float) -> None:
        """Counts a commit, its events and bytes, and the seconds that it took."""
        self.events += events
        self.event_bytes += size
        self.commit_events.add(events)
        self.commit_seconds.add(seconds)


@dataclass(frozen=True, slots=True)
class Backups:
    """The state of backups. `interval`: how often one is due. `last_success`: when the last one was made (unix seconds;
    by the files, if this process made none); `last_size`: its bytes; `last_seconds`: how long it took. `last_ok`:
    whether the last try succeeded. None is unknown."""

    interval: float | None = None
    last_success: float | None = None
    last_size: int | None = None
    last_seconds: float | None = None
    last_ok: bool | None = None


@dataclass(frozen=True, slots=True)
class ConsumerLevel:
    """A consumer with its bucket (the name, or the id if the context says so): how many events it is not done with, how
    many seconds the oldest of them has waited, and how many it gave up."""

    bucket: str
    consumer: str
    events: int
    seconds: float
    dead: int


@dataclass(frozen=True, slots=True)
class Levels:
    """A reading of all values. Sizes are bytes; None is unknown, or does not apply.

    `lag` is by bucket name, in the order of creation: how many events the slowest subscriber is behind the head. A
    bucket without subscribers may be left out. `consumers` are in a stable order.
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
