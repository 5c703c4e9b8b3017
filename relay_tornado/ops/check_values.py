"""Checks the small tables against the CHECK conditions of the schema, and that deliveries and digests belong to events.

SQLite itself does not evaluate CHECK conditions in a read-only file.
"""

from __future__ import annotations

import re
import sqlite3
from typing import Final

from relay_tornado.model import STATUSES, counted
from relay_tornado.ops.findings import Report

LARGE_TABLES: Final = frozenset({"event", "dedupe", "delivery"})
"""Tables that grow with the events."""

CHECK: Final = re.compile(r"\bCHECK \(((?:[^()]|\([^()]*\))*)\)")
_FOLLOWERS = (
    ("delivery", "results of deliveries", f"json_valid(delivery.headers) AND delivery.status IN {STATUSES!r}"),
    ("dedupe", "digests of webhooks", "length(hash) = 32"),
)
"""Tables, what they contain, and a condition that each sound row meets."""


def check_conditions(raw: sqlite3.Connection, report: Report, model: sqlite3.Connection) -> None:
    """Evaluates each CHECK of the small tables. `model` is an empty database with the file's schema."""
    tables = model.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'table'").fetchall()
    for table, sql in tables:
        for condition in () if table in LARGE_TABLES else CHECK.findall(sql):
            (count,) = raw.execute(f"SELECT count(*) FROM main.{table} WHERE NOT ({condition})").fetchone()  # noqa: S608
            if count:
                report.add("damage", "value", f"the rule {condition} of {table} is broken by {counted(count, 'row')}")


def check_followers(raw: sqlite3.Connection, report: Report) -> None:
    """Checks the rows that belong to events, in the tables that the file has. Each table is checked by one statement,
    so rows that are added or deleted meanwhile do not count."""
    advice = "nothing: they take space, and nobody is given them; somebody or something changed the file"
    there = {name for (name,) in raw.execute("SELECT name FROM main.sqlite_schema WHERE type = 'table'")}
    for table, what, sound in _FOLLOWERS:
        if table in there:
            sql = (
                f"SELECT count(*) FILTER (WHERE log.id IS NULL OR seq NOT BETWEEN 1 AND head),"  # noqa: S608
                f" count(*) FILTER (WHERE NOT ({sound})) FROM {table} LEFT JOIN log ON log.id = {table}.log"
            )
            strange, damaged = raw.execute(sql).fetchone()
            if strange:
                report.add("warning", "stray", f"{strange} {what} belong to events that never existed", advice)
            if damaged:
                report.add("warning", "stray", f"{damaged} {what} can't be understood", advice)
