"""A file as the first release left it."""

from __future__ import annotations

import sqlite3
import zlib
from contextlib import closing
from pathlib import Path

from relay_tornado.storage import migrate

BUCKET = "11111111-1111-4111-8111-111111111111"
INPUT = "22222222-2222-4222-8222-222222222222"
EPOCHS = ("aaaaaaaaaaaa", "bbbbbbbbbbbb")
EVENTS = 50
DOCUMENT = (
    (
        '{"id":"BUCKET","name":"orders","created_at":1000.0,"updated_at":1000.0,"description":"","stream":true,'
        '"large_webhooks":false,"max_body":null,"auth":{"type":"none","username":"","password":"","token":""},'
        '"retention":{"max_age":null,"max_events":null,"max_bytes":null},"dedupe":null,"inputs":[{"id":"INPUT","name":"in",'
        '"created_at":1000.0,"updated_at":1000.0,"description":"","status_code":200,"body":"","headers":{}}]}'
    )
    .replace("BUCKET", BUCKET)
    .replace("INPUT", INPUT)
)


def body(seq: int) -> bytes:
    return b"event %d \xff" % seq


def first_schema(directory: Path) -> Path:
    """A file as the first release left it: 50 events in two epochs."""
    directory.mkdir(mode=0o700)
    path = directory / "relay.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as raw:
        raw.execute("PRAGMA auto_vacuum = INCREMENTAL")
        raw.execute("PRAGMA journal_mode = WAL")
        raw.executescript(migrate.steps()[0].script)
        raw.execute("BEGIN")
        raw.execute("INSERT INTO meta VALUES (1, ?, 9, ?, 1000.0, '0.1.0')", ("0" * 36, EVENTS))
        raw.execute("INSERT INTO bucket VALUES (?, 'orders', 1, ?)", (BUCKET, DOCUMENT))
        raw.execute("INSERT INTO input VALUES (?, ?)", (INPUT, BUCKET))
        raw.execute("INSERT INTO log (bucket) VALUES (?)", (BUCKET,))
        raw.executemany("INSERT INTO epoch VALUES (?, 1, ?)", [(EPOCHS[0], 1), (EPOCHS[1], 31)])
        size = 0
        for seq in range(1, EVENTS + 1):
            head = b"Host: a\r\n"
            # As the first release computed it.
            crc = zlib.crc32(body(seq), zlib.crc32(head, zlib.crc32(b"q=1", zlib.crc32(b"/x", zlib.crc32(
                f"{INPUT} POST 192.0.2.1".encode())))))  # fmt: skip
            values = (1, seq, len(head + body(seq)) + 5, crc, 1000.0 + seq, INPUT, "POST", b"/x", b"q=1", head)
            raw.execute(f"INSERT INTO event VALUES ({', '.join('?' * 12)})", (*values, "192.0.2.1", body(seq)))
            size += len(head + body(seq)) + 5
        raw.execute("UPDATE log SET head = ?, bytes = ?, last_at = ?", (EVENTS, size, 1000.0 + EVENTS))
        raw.execute("COMMIT")
    return path
