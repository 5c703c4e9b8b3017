"""A file that the first release wrote: opened by this one, with everything intact."""

from __future__ import annotations

import contextlib
import sqlite3
import zlib
from pathlib import Path
from typing import Any

import pytest

from relay_tornado.log.lineage import Placed, place_cursor
from relay_tornado.log.sqlite import SqliteEventLog
from relay_tornado.log.sqlite_results import SqliteResults
from relay_tornado.model import Cursor, NewEvent
from relay_tornado.registry.sqlite import SqliteRegistry
from relay_tornado.settings import Settings
from relay_tornado.storage import migrate
from relay_tornado.storage.database import Database

storage_test = pytest.mark.gen_test

EPOCH = "k3v9x1q7m2ab"
BUCKET = (
    '{"id":"0b6c4b0e-6f0e-4a53-8f0a-0d6f6d5f6a01","name":"orders","created_at":1790000000.5,"updated_at":1790000001.5,'
    '"description":"from the shop","stream":true,"large_webhooks":false,"max_body":null,"auth":{"type":"basic",'
    '"username":"u","password":"p","token":""},"retention":{"max_age":2592000.0,"max_events":null,'
    '"max_bytes":10737418240},"dedupe":{"header":"auto","window":86400.0},"inputs":[{"id":"in-1","name":"first",'
    '"created_at":1790000000.5,"updated_at":1790000000.5,"description":"","status_code":202,"body":"ok",'
    '"headers":{"X-A":["b"]}}]}'
)
TOKEN = (
    '{"key":"t-1","secret_hash":"00ff","created_at":1790000000.5,"description":"worker",'
    '"buckets":["0b6c4b0e-6f0e-4a53-8f0a-0d6f6d5f6a01"],"api_access":false,"expires_at":null}'
)
ID = "0b6c4b0e-6f0e-4a53-8f0a-0d6f6d5f6a01"
EVENTS = [
    ("in-1", "POST", b"/a", b"x=1", b"Host: h\r\nX: \xff\r\n", b'{"n": 1}', "192.0.2.1"),
    ("in-1", "PÖST", b"", b"", b"", bytes(range(256)), "::1"),
    ("in-1", "GET", b"/b", b"", b"A: 1\r\n", b"", "192.0.2.1"),
]


def crc_of_v1(event: tuple[Any, ...]) -> int:
    input_id, method, path, query, headers, body, ip = event
    return zlib.crc32(f"{input_id} {method} {ip}".encode() + path + query + headers + body)


def write(path: Path) -> None:
    """relay.db as version 1 of the schema has it."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as raw:
        raw.execute("PRAGMA auto_vacuum = INCREMENTAL")
        raw.execute("PRAGMA journal_mode = WAL")
        raw.executescript(migrate.steps()[0].script)
        assert migrate.version(raw) == 1
        raw.execute("INSERT INTO meta VALUES (1, 'the-file', 7, 3, 1790000000.0, '0.1.0')")
        raw.execute("INSERT INTO bucket VALUES (?, 'orders', 4, ?)", (ID, BUCKET))
        raw.execute("INSERT INTO input VALUES ('in-1', ?)", (ID,))
        raw.execute("INSERT INTO token VALUES ('t-1', '00ff', 2, ?)", (TOKEN,))
        raw.execute("INSERT INTO log (id, bucket) VALUES (5, ?)", (ID,))
        raw.execute("INSERT INTO epoch VALUES (?, 5, 1)", (EPOCH,))
        for seq, event in enumerate(EVENTS, 1):
            input_id, method, path_, query, headers, body, ip = event
            size = len(path_) + len(query) + len(headers) + len(body)
            raw.execute(
                "INSERT INTO event VALUES (5, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (seq, size, crc_of_v1(event), 1790000000.0 + seq, input_id, method, path_, query, headers, ip, body),
            )
            raw.execute("UPDATE log SET head = ?, bytes = bytes + ?, last_at = ?", (seq, size, 1790000000.0 + seq))
        raw.execute("INSERT INTO dedupe VALUES (5, x'aa', 2, 1790000002.0, 9e9)")


@storage_test
async def test_a_file_of_version_1_is_migrated(tmp_path: Path) -> None:
    """Events keep their content, ids, times and CRCs, records read with defaults, and all of it goes on."""
    settings = Settings(data=tmp_path / "data")
    settings.data.mkdir()
    write(settings.data / "relay.db")
    database = await Database.open(settings)
    try:
        assert await database.read(lambda raw: raw.execute("SELECT id FROM meta").fetchone()) == ("the-file",)
        log = await SqliteEventLog.open(database, settings)
        registry = await SqliteRegistry.open(database)
        deliveries = SqliteResults(database, settings)
        events = await log.read(ID, 0, 10, 1 << 30)
        assert [each.seq for each in events] == [1, 2, 3]
        for event, before in zip(events, EVENTS, strict=True):
            found = (event.input_id, event.method, event.path, event.query, event.headers, event.body, event.remote_ip)
            assert found == before
            assert event.received_at == 1790000000.0 + event.seq
            assert (event.epoch, event.resend_of, event.target, event.force) == (EPOCH, None, None, False)
            assert (event.verified, event.verdict) == (None, "")
        assert place_cursor(await log.bounds(ID), Cursor(EPOCH, 2)) == Placed(2)
        repeat = NewEvent("in-1", "POST", b"", b"", b"", b"", "::1", dedupe=b"\xaa", dedupe_window=1e10)
        assert (await log.append(ID, repeat)).duplicate
        assert (await log.append(ID, replace_dedupe(repeat))).seq == 4
        bucket = registry.get("bucket", ID)
        assert (bucket.name, bucket.auth.password, bucket.inputs[0].status_code) == ("orders", "p", 202)
        assert (bucket.outputs, bucket.next_output, bucket.ephemeral, dict(bucket.extra)) == ((), 1, False, {})
        assert (bucket.inputs[0].verify, bucket.inputs[0].response_from_output) == (None, "")
        assert registry.revision("bucket", ID) == 4
        assert registry.get("token", "t-1").buckets == frozenset({ID})
        assert await deliveries.of(ID, 1, 9) == {}
        await deliveries.close()
        await log.close()
    finally:
        await database.close()
    with contextlib.closing(sqlite3.connect(settings.data / f"relay.db.before-v{migrate.latest()}")) as raw:
        assert migrate.version(raw) == 1
        assert raw.execute("SELECT count(*) FROM event").fetchone() == (3,)


def replace_dedupe(event: NewEvent) -> NewEvent:
    return NewEvent(event.input_id, event.method, event.path, event.query, event.headers, event.body, event.remote_ip)
