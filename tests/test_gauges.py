"""What the series and a scrape measure."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from relay_tornado.admin.buckets import new_bucket
from relay_tornado.counters import ConsumerLevel, Levels
from relay_tornado.gauges import Gauges, Measured
from relay_tornado.registry.memory import MemoryRegistry
from relay_tornado.settings import Settings
from relay_tornado.storage.database_files import wal_of
from tests.log.memory import MemoryEventLog
from tests.log.worlds import event


@pytest.mark.gen_test
async def test_the_series_are_by_bucket() -> None:
    """The slowest subscriber's lag; a consumer by its bucket's id, and none of a bucket that was deleted since. What a
    log never held did not come."""
    log, registry = MemoryEventLog(), MemoryRegistry()
    bucket = replace(new_bucket("orders", {}, Settings(), 0.0), id="b-1")
    await registry.put("bucket", bucket.id, bucket)
    await log.create(bucket.id, "aaaaaaaaaaaa")
    imported = replace(new_bucket("imported", {}, Settings(), 0.0), id="b-2")
    await registry.put("bucket", imported.id, imported)
    await log.create(imported.id, "bbbbbbbbbbbb", 1_000_000)
    read = (ConsumerLevel("b-1", "worker", 7, 1.5, 2), ConsumerLevel("b-gone", "worker", 9, 1.5, 2))
    levels = Levels(subscribers=5, lag={"orders": 12, "billing": 3}, space_free=77)
    parts: Any = (lambda: levels, SimpleNamespace(latest=read))
    measured = Measured(*parts, log, registry)
    for each in (bucket, imported):
        await log.append(each.id, event())
    found = measured()
    assert (found.subscribers, found.lag, found.disk_free, found.totals) == (5, 12, 77, {"b-1": 1, "b-2": 1})
    assert list(found.consumers) == [read[0]]
    levels = Levels()
    assert measured().lag == 0
    measured.close()
    await log.close()


def test_what_a_small_or_damaged_disk_shows(tmp_path: Path) -> None:
    """Events that are missing, not their commits; the reserve that applies; each file's own size; and where no backup
    was ever made, a time all the same, so that an alert on its age sees it."""
    path = tmp_path / "relay.db"
    path.write_bytes(bytes(300))
    wal_of(path).write_bytes(bytes(20))
    space, loss = SimpleNamespace(free=9, least=4), SimpleNamespace(events=5, commits=2)
    backups = SimpleNamespace(newest=None, size=None, seconds=None, problem="no room")
    site = Mock()
    site.listener.connections = site.clients.deliveries.lag.return_value = {}
    parts: Any = {
        "database": SimpleNamespace(problem="", path=path, space=space, loss=loss),
        "backups": backups,
        "consumers": SimpleNamespace(latest=()),
        "site": site,
        **dict.fromkeys(("log", "forecast", "forwarding"), Mock()),
    }
    found = Gauges(settings=Settings(reserve=1_000), registry=MemoryRegistry(), certificate=None, **parts)()
    assert (found.events_missing, found.space_free, found.space_reserve) == (5, 9, 4)
    assert (found.database, found.wal) == (300, 20)
    assert (found.backups.last_success, found.backups.last_ok) == (0.0, False)
    assert (found.ready, found.certificate_ok) == (True, None)
