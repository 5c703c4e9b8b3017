"""Fills a bucket's log past the server, which must not run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.ingest import BODY
from relay_tornado.log.sqlite import SqliteEventLog
from relay_tornado.model import NewEvent
from relay_tornado.settings import Settings
from relay_tornado.storage.database import Database

HEADERS = b"Host: relay.test\r\nUser-Agent: bench\r\nContent-Type: application/json\r\nContent-Length: 1024\r\n"


def fill(data: Path, bucket: dict[str, Any], count: int, body: Callable[[int], bytes] = lambda number: BODY) -> None:
    """Appends so many events to a bucket, whose document this is; `body` gives that of each, by its number."""
    asyncio.run(_fill(data, bucket["id"], bucket["inputs"][0]["id"], count, body))


async def _fill(data: Path, bucket_id: str, input_id: str, count: int, body: Callable[[int], bytes]) -> None:
    settings = Settings(data=data, tail=1)
    database = await Database.open(settings)
    log = await SqliteEventLog.open(database, settings)
    for start in range(0, count, 1000):
        bodies = [body(number) for number in range(start, min(start + 1000, count))]
        events = [NewEvent(input_id, "POST", b"", b"", HEADERS, each, "127.0.0.1") for each in bodies]
        await asyncio.gather(*(log.append(bucket_id, event) for event in events))
    await log.close()
    await database.close()
