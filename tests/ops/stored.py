"""What the file holds of a bucket: events, log, epochs."""

from __future__ import annotations

from typing import Any

from tests.cli.runner import Runner
from tests.ops.filling import rows

CONTENT = (
    "SELECT seq, size, crc, received_at, input_id, method, path, query, headers, remote_ip, body, resend_of, target,"
    " force, verified, verdict, edited FROM event WHERE log = (SELECT max(id) FROM log WHERE bucket = ?) ORDER BY seq"
)


def content(cli: Runner, bucket: str) -> Any:
    return rows(cli.data / "relay.db", CONTENT, cli.json("bucket", "show", bucket)["id"])


def log(cli: Runner, bucket: str) -> Any:
    sql = "SELECT first, head, bytes, last_at FROM log WHERE bucket = ? AND dropped = 0"
    return rows(cli.data / "relay.db", sql, cli.json("bucket", "show", bucket)["id"])[0]


def epochs(cli: Runner, bucket: str) -> Any:
    sql = "SELECT epoch, from_seq FROM epoch WHERE log = (SELECT id FROM log WHERE bucket = ?) ORDER BY rowid"
    return rows(cli.data / "relay.db", sql, cli.json("bucket", "show", bucket)["id"])
