"""Fills a bucket's log past the server, which must not run: `python -m bench.fill DATA BUCKET_ID INPUT_ID COUNT`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from bench.ingest import BODY
from relay_tornado.log.sqlite import SqliteEventLog
from relay_tornado.model import NewEvent
from relay_tornado.settings import Settings
from relay_tornado.storage.database import Database

HEADERS = b"Host: relay.test\r\nUser-Agent: bench\r\nContent-Type: application/json\r\nContent-Length: 1024\r\n"


async def fill(data: Path, bucket_id: str, input_id: str, count: int) -> None:
    settings = Settings(data=data, tail=1)
    database = await Database.open(settings)
    log = await SqliteEventLog.open(database, settings)
    event = NewEvent(input_id, "POST", b"", b"", HEADERS, BODY, "127.0.0.1")
    for start in range(0, count, 1000):
        await asyncio.gather(*(log.append(bucket_id, event) for _ in range(min(1000, count - start))))
    await log.close()
    await database.close()


asyncio.run(fill(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])))
