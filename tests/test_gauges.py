"""What the series measure."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from relay_tornado.admin.buckets import new_bucket
from relay_tornado.counters import ConsumerLevel, Levels
from relay_tornado.gauges import Measured
from relay_tornado.registry.memory import MemoryRegistry
from relay_tornado.settings import Settings
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
