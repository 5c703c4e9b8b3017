"""relay_tornado/engine.py: what the parts of an open data directory know of each other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from relay_tornado.engine import administer, open_engine
from relay_tornado.log.consumers import Key, Terms
from relay_tornado.model import Gap
from relay_tornado.settings import Settings


@pytest.mark.gen_test
async def test_the_log_names_the_bucket_of_a_consumers_gap(tmp_path: Path) -> None:
    """By its name as it is now, and by its id; the name is empty once the bucket is deleted."""
    settings = replace(Settings(), data=tmp_path)
    async with open_engine(settings) as engine:
        administration = await administer(engine, settings)
        bucket = await administration.create_bucket("orders")
        ledger = await engine.ledgers.open(Key(bucket.id, "client", "worker"), 0, Terms())
        await administration.set_bucket("orders", name="sales")
        with capture_logs() as logs:
            ledger.met(Gap("retention", 1, 2), 0.0)
            await administration.delete_bucket("sales")
            ledger.met(Gap("reset"), 0.0)
        engine.ledgers.close(ledger)
    told = [each for each in logs if each["event"] == "consumer_gap"]
    assert [(each["bucket"], each["bucket_id"]) for each in told] == [("sales", bucket.id), ("", bucket.id)]
