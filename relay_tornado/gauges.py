"""Values that go up and down in a running relay, read from its parts at each scrape."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from relay_tornado import counters
from relay_tornado.admin.consumers import ConsumerAdministration
from relay_tornado.errors import BucketGone, RelayError
from relay_tornado.forwarding.forwarding import Forwarding
from relay_tornado.handlers.site import Site
from relay_tornado.log.contract import EventLog
from relay_tornado.model import BucketId
from relay_tornado.ops.backup_schedule import Backups
from relay_tornado.registry.contract import Registry
from relay_tornado.series.series import Levels
from relay_tornado.settings import Settings
from relay_tornado.storage.database import Database
from relay_tornado.storage.database_files import size_of, wal_of
from relay_tornado.storage.forecast import Forecast
from relay_tornado.tls import Certificate
from relay_tornado.wire.fields import Document


class ConsumerLevels:
    """The progress of consumers, read from the file every `EVERY` seconds, as a scrape can't wait for that."""

    EVERY: Final = 15.0

    def __init__(self, consumers: ConsumerAdministration, registry: Registry) -> None:
        self._consumers = consumers
        self._registry = registry
        self.latest: Sequence[counters.ConsumerLevel] = ()
        """The last reading, with buckets by id, oldest first."""

    async def run(self) -> None:
        """Reads until it is cancelled."""
        while True:
            # If reading fails, the last values stay: /readyz says what is wrong.
            with suppress(RelayError):
                await self.read()
            await asyncio.sleep(self.EVERY)

    async def read(self) -> None:
        """Reads once. Raises Unavailable."""
        self.latest = [
            counters.ConsumerLevel(bucket.id, each.key.reference, each.pending, each.lag, each.stored.dead)
            for bucket, each in await self._consumers.standings(self._registry.list("bucket"))
        ]


@dataclass(frozen=True, slots=True)
class Gauges:
    """Reads the current values when it is called. Quick, since the event loop waits."""

    settings: Settings
    database: Database
    log: EventLog
    registry: Registry
    forecast: Forecast
    certificate: Certificate | None
    backups: Backups | None
    consumers: ConsumerLevels
    forwarding: Forwarding
    site: Site

    def __call__(self) -> counters.Levels:
        database, certificate, forwarding, site = self.database, self.certificate, self.forwarding, self.site
        space, loss = database.space, database.loss
        return counters.Levels(
            ready=not database.problem,
            append_queue=self.log.append_queue,
            append_queue_limit=self.settings.append_queue,
            ingest_buffer=site.ingest.buffered,
            replay_buffer=site.clients.deliveries.budget.outstanding,
            connections=len(site.listener.connections),
            connections_limit=site.listener.limit,
            subscribers=site.clients.deliveries.subscribers,
            forward_requests=forwarding.in_flight,
            forward_circuits_open=forwarding.circuits_open,
            forward_retries=forwarding.parked,
            lag=self._lag(),
            consumers=self._lags(),
            buckets=len(self.registry.list("bucket")),
            database=size_of(database.path),
            wal=size_of(wal_of(database.path)),
            space_free=space.free,
            space_reserve=space.least,
            space_seconds_left=self.forecast.seconds_left,
            events_missing=0 if loss is None else loss.events,
            certificate_expires=None if certificate is None else certificate.expires,
            certificate_ok=None if certificate is None else not certificate.problem,
            backups=self._made(),
        )

    def troubles(self) -> Document:
        """What `relay doctor` asks of the running parts: the connections and their limit, why the certificate's files
        and the last backup failed ("" if they did not), the outputs whose circuit is open (by id, with the reason), and
        the refused webhooks."""
        certificate, backups, listener = self.certificate, self.backups, self.site.listener
        return {
            "connections": len(listener.connections),
            "connections_limit": listener.limit,
            "certificate": "" if certificate is None else certificate.problem,
            "backup": "" if backups is None else backups.problem,
            "circuits": self.forwarding.failures(),
            "refusals": self.site.ingest.refusals.documents(),
        }

    def _lag(self) -> Mapping[str, int]:
        lag = self.site.clients.deliveries.lag()
        return {bucket.name: lag[bucket.id] for bucket in self.registry.list("bucket") if bucket.id in lag}

    def _lags(self) -> Sequence[counters.ConsumerLevel]:
        """The progress of consumers, with the current names of their buckets."""
        names = {bucket.id: bucket.name for bucket in self.registry.list("bucket")}
        latest = self.consumers.latest
        return [dataclasses.replace(each, bucket=names[each.bucket]) for each in latest if each.bucket in names]

    def _made(self) -> counters.Backups:
        backups = self.backups
        if backups is None:
            return counters.Backups()
        newest = backups.newest
        return counters.Backups(
            interval=self.settings.backup_every,
            last_success=0.0 if newest is None else newest,
            last_size=backups.size,
            last_seconds=backups.seconds,
            last_ok=not backups.problem,
        )


class Measured:
    """The values for the series, read from the parts."""

    def __init__(self, gauges: Gauges, consumers: ConsumerLevels, log: EventLog, registry: Registry) -> None:
        self._gauges = gauges
        self._consumers = consumers
        self._log = log
        self._registry = registry
        self._watch = log.watch((), lambda bucket_id: None)

    def __call__(self) -> Levels:
        buckets = self._registry.list("bucket")
        totals = {bucket.id: self._total(bucket.id) for bucket in buckets}
        levels = self._gauges()
        return Levels(
            subscribers=levels.subscribers,
            lag=max(levels.lag.values(), default=0),
            disk_free=levels.space_free,
            totals=totals,
            consumers=[each for each in self._consumers.latest if each.bucket in totals],
        )

    def _total(self, bucket_id: BucketId) -> int:
        """How many events the bucket has had in all."""
        try:
            return self._watch.head(bucket_id) - self._log.begin(bucket_id) + 1
        except BucketGone:
            return 0

    def close(self) -> None:
        self._watch.close()
