"""The relay's metrics: the name, type and meaning of each, over the plain numbers of `counters`.

Names follow Prometheus' conventions: base units, and `_total` for counters. Every set of label values is bounded, and
no label ever holds a secret, an address or an input's id.
"""

from __future__ import annotations

import platform
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, islice
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from relay_tornado.counters import ConsumerLevel, Counters, Distribution, Levels

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4
"""Prometheus' text format, whatever the request's Accept header says."""

BUCKETS_NAMED: Final = 100
"""How many buckets, oldest first, have a series of their own; the slowest of the others represents them."""

CONSUMERS_NAMED: Final = 100
"""The same for consumers, over all buckets."""

OTHER_BUCKETS: Final = "/other"
"""The label of the others: no bucket's name contains a slash."""

_COUNTERS: Final = (
    ("events", "relay_events", "Events committed to a log."),
    ("event_bytes", "relay_event_bytes", "Bytes of the events committed: path, query, headers and body."),
    ("duplicates", "relay_duplicates", "Webhooks answered as repeats of an event that is stored already."),
    ("tail_hits", "relay_tail_hits", "Reads of events that were answered from memory."),
    ("tail_misses", "relay_tail_misses", "Reads of events that had to wait for the file."),
    ("deliveries", "relay_deliveries", "Events sent to subscribers, each time."),
    ("redeliveries", "relay_redeliveries", "Events sent once more to a consumer that had not acked them."),
    ("delivered_bytes", "relay_delivered_bytes", "Bytes of the frames of events sent to subscribers."),
    ("auth_failures", "relay_auth_failures", "Wrong, expired or revoked tokens on sockets and in requests."),
    ("retention_events", "relay_retention_events", "Events removed by retention."),
    ("forward_given_up", "relay_forward_given_up", "Events that a public output gave up: dead letters made."),
    (
        "connections_refused",
        "relay_connections_refused",
        "Connections closed unread: too many were open, or took too much memory.",
    ),
)
_LABELLED: Final = (
    ("rejections", "relay_rejections", "Webhooks refused, by the code of the error.", "reason"),
    ("gaps", "relay_gaps", "Gaps that subscribers met, told or logged, by reason.", "reason"),
    ("forward_attempts", "relay_forward_attempts", "Tries to send events to destinations, by outcome.", "outcome"),
)
_DISTRIBUTIONS: Final = (
    ("commit_seconds", "relay_commit_seconds", "How long commits of events took."),
    ("commit_events", "relay_commit_events", "How many events a commit held."),
    ("forward_seconds", "relay_forward_seconds", "How long tries to send events to destinations took."),
)
_LEVELS: Final = (
    ("ready", "relay_ready", "Whether events can be committed, as /readyz says."),
    ("append_queue", "relay_append_queue_bytes", "Events that wait for a commit."),
    ("append_queue_limit", "relay_append_queue_limit_bytes", "Size at which the append queue is full."),
    ("ingest_buffer", "relay_ingest_buffer_bytes", "Bodies of webhooks on their way in."),
    ("replay_buffer", "relay_replay_buffer_bytes", "Frames on their way out that the kernel has not taken yet."),
    ("connections", "relay_connections", "Open connections of every kind."),
    ("connections_limit", "relay_connections_limit", "Open connections at which no more are accepted."),
    ("subscribers", "relay_subscribers", "Sockets that are subscribed."),
    ("forward_requests", "relay_forward_requests", "Requests to destinations in flight."),
    (
        "forward_circuits_open",
        "relay_forward_circuits_open",
        "Public outputs that send nothing for now because their destination fails.",
    ),
    ("forward_retries", "relay_forward_retries", "Events on the retry schedules of public outputs."),
    ("buckets", "relay_buckets", "Buckets that exist."),
    ("database", "relay_database_bytes", "Size of relay.db."),
    ("wal", "relay_wal_bytes", "Size of the write-ahead log of relay.db."),
    ("space_free", "relay_space_free_bytes", "Free space beside relay.db."),
    ("space_reserve", "relay_space_reserve_bytes", "Free space at which webhooks are refused with 507."),
    (
        "space_seconds_left",
        "relay_space_seconds_left",
        "Time until free space is down to the reserve, at today's rate.",
    ),
    ("events_missing", "relay_events_missing", "Committed events found missing at this start or since."),
    ("certificate_expires", "relay_certificate_expiry_timestamp_seconds", "When the TLS certificate expires."),
    ("certificate_ok", "relay_certificate_reload_success", "Whether the files of the TLS certificate are in use."),
)
_CONSUMERS: Final = (
    ("events", "relay_consumer_lag_events", "Events that a consumer is not done with."),
    (
        "seconds",
        "relay_consumer_lag_seconds",
        "How long the oldest event that a consumer is not done with has waited since it came in.",
    ),
    ("dead", "relay_dead_letters", "Events that a consumer gave up, and that nobody has handled."),
)
_BACKUPS: Final = (
    ("interval", "relay_backup_interval_seconds", "How often a backup is due."),
    ("last_success", "relay_backup_last_success_timestamp_seconds", "When a backup was last made."),
    ("last_size", "relay_backup_last_size_bytes", "Size of the last backup."),
    ("last_seconds", "relay_backup_last_duration_seconds", "How long the last backup took."),
    ("last_ok", "relay_backup_last_success", "Whether the last try to make a backup succeeded."),
)


class Metrics:
    """The content of `/metrics`. `levels` is called at each scrape, in the event loop, and must be quick."""

    def __init__(self, counters: Counters, levels: Callable[[], Levels], version: str) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Relay(counters, levels, version))
        ProcessCollector(registry=self._registry)

    def expose(self) -> bytes:
        """The body of `/metrics`, with the content type `CONTENT_TYPE`."""
        return generate_latest(self._registry)


class _Relay(Collector):
    """Reads the numbers at each scrape."""

    def __init__(self, counters: Counters, levels: Callable[[], Levels], version: str) -> None:
        self._counters = counters
        self._levels = levels
        self._build = GaugeMetricFamily(
            "relay_build_info", "The versions that run; always 1.", labels=("version", "python", "sqlite")
        )
        self._build.add_metric((version, platform.python_version(), sqlite3.sqlite_version), 1)

    def describe(self) -> Iterable[Metric]:
        """Returns nothing, so that registering does not read the levels, which may not exist yet."""
        return ()

    def collect(self) -> Iterator[Metric]:
        counters, levels = self._counters, self._levels()
        yield self._build
        for field, name, meaning in _COUNTERS:
            yield CounterMetricFamily(name, meaning, getattr(counters, field))
        for field, name, meaning, label in _LABELLED:
            family = CounterMetricFamily(name, meaning, labels=(label,))
            for value, count in getattr(counters, field).items():
                family.add_metric((value,), count)
            yield family
        for field, name, meaning in _DISTRIBUTIONS:
            yield _histogram(name, meaning, getattr(counters, field))
        yield from _gauges(_LEVELS, levels)
        yield from _gauges(_BACKUPS, levels.backups)
        yield GaugeMetricFamily(
            "relay_lag_events",
            "Events between a head and its slowest subscriber, at most.",
            max(levels.lag.values(), default=0),
        )
        lags = GaugeMetricFamily(
            "relay_bucket_lag_events",
            "Events between a bucket's head and its slowest subscriber, by bucket.",
            labels=("bucket",),
        )
        for bucket, lag in bounded(levels.lag).items():
            lags.add_metric((bucket,), lag)
        yield lags
        yield from _consumers(levels.consumers)


def bounded(lag: Mapping[str, int]) -> Mapping[str, int]:
    """The first `BUCKETS_NAMED` entries, and the largest of the others under `OTHER_BUCKETS`.

    The order alone decides which are named, not the values, so that series do not come and go with the load.
    """
    if len(lag) <= BUCKETS_NAMED:
        return lag
    named = dict(islice(lag.items(), BUCKETS_NAMED))
    named[OTHER_BUCKETS] = max(islice(lag.values(), BUCKETS_NAMED, None))
    return named


def _consumers(those: Sequence[ConsumerLevel]) -> Iterator[Metric]:
    """The first `CONSUMERS_NAMED` one by one; of the others the largest lag, and the sum of what they gave up."""
    named, others = those[:CONSUMERS_NAMED], those[CONSUMERS_NAMED:]
    rows = list(named)
    if others:
        events, seconds = max(each.events for each in others), max(each.seconds for each in others)
        dead = sum(each.dead for each in others)
        rows.append(ConsumerLevel(OTHER_BUCKETS, OTHER_BUCKETS, events, seconds, dead))
    for field, name, meaning in _CONSUMERS:
        family = GaugeMetricFamily(name, meaning, labels=("bucket", "consumer"))
        for row in rows:
            family.add_metric((row.bucket, row.consumer), getattr(row, field))
        yield family


def _gauges(table: Sequence[tuple[str, str, str]], values: object) -> Iterator[Metric]:
    for field, name, meaning in table:
        value = getattr(values, field)
        if value is not None:
            yield GaugeMetricFamily(name, meaning, value)


def _histogram(name: str, meaning: str, values: Distribution) -> Metric:
    counts = list(accumulate(values.counts))
    bounds = [*(str(float(bound)) for bound in values.bounds), "+Inf"]
    return HistogramMetricFamily(name, meaning, buckets=list(zip(bounds, counts, strict=True)), sum_value=values.sum)
