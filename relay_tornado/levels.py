"""What goes up and down in a running relay, read off its parts at each scrape."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from relay_tornado import counters
from relay_tornado.handlers.site import Site
from relay_tornado.ops.schedule import Backups, name_at
from relay_tornado.registry.contract import Registry
from relay_tornado.settings import Settings
from relay_tornado.storage.database import Database
from relay_tornado.storage.forecast import Forecast
from relay_tornado.tls import Certificate


class Queue(Protocol):
    """What is read of a log."""

    @property
    def append_queue(self) -> int: ...


class Gauges:
    """Reads them: a call gives what is the case at that moment. Quick, for the event loop waits."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        log: Queue,
        registry: Registry,
        forecast: Forecast,
        certificate: Certificate | None,
        backups: Backups | None,
    ) -> None:
        self._settings = settings
        self._database = database
        self._log = log
        self._registry = registry
        self._forecast = forecast
        self._certificate = certificate
        self._backups = backups
        self.site: Site | None = None

    def __call__(self) -> counters.Levels:
        database, certificate, site = self._database, self._certificate, self.site
        assert site is not None, "nothing is served yet"
        space, loss = database.space, database.loss
        return counters.Levels(
            ready=database.healthy(),
            append_queue=self._log.append_queue,
            append_queue_limit=self._settings.append_queue,
            ingest_buffer=site.ingest.buffered,
            replay_buffer=site.sockets.deliveries.flight.outstanding,
            connections=len(site.listener.connections),
            connections_limit=site.listener.limit,
            subscribers=site.sockets.deliveries.subscribers,
            lag=self._lag(site),
            buckets=len(self._registry.list("bucket")),
            database=_size(database.path),
            wal=_size(database.path.with_name(database.path.name + "-wal")),
            space_free=space.free,
            space_reserve=space.least,
            space_seconds_left=self._forecast.seconds_left,
            events_missing=0 if loss is None else loss.events,
            certificate_expires=None if certificate is None else certificate.expires,
            certificate_ok=None if certificate is None else not certificate.problem,
            backups=self._made(),
        )

    def _lag(self, site: Site) -> Mapping[str, int]:
        lag = site.sockets.deliveries.lag()
        buckets = sorted(self._registry.list("bucket"), key=lambda bucket: (bucket.created_at, bucket.id))
        return {bucket.name: lag[bucket.id] for bucket in buckets if bucket.id in lag}

    def _made(self) -> counters.Backups:
        backups = self._backups
        if backups is None or self._settings.backup_dir is None:
            return counters.Backups()
        newest = backups.newest
        return counters.Backups(
            interval=self._settings.backup_every,
            last_success=0.0 if newest is None else newest,
            last_size=None if newest is None else _size(self._settings.backup_dir / name_at(newest)),
            last_seconds=backups.seconds,
            last_ok=not backups.problem,
        )


def _size(path: Path) -> int | None:
    with suppress(OSError):
        return path.stat().st_size
    return None
