"""Looks whether what stands in a file's small tables is what its schema allows, and whether rows belong to something.

SQLite looks at no CHECK of a file that it may only read.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterator
from typing import Final

from relay_tornado.model import STATUSES, counted

LARGE_TABLES: Final = frozenset({"event", "dedupe", "delivery"})
"""Tables that grow with the events."""

CHECK: Final = re.compile(r"\bCHECK \(((?:[^()]|\([^()]*\))*)\)")
_FOLLOWERS = (
    ("delivery", "results of deliveries", f"json_valid(delivery.headers) AND delivery.status IN {STATUSES!r}"),
    ("dedupe", "digests of webhooks", "length(hash) = 32"),
)
"""Tables, what is in them, and what is true of each sound row."""


def check_conditions(raw: sqlite3.Connection, model: sqlite3.Connection, tell: Callable[[str], None]) -> None:
    """Has each CHECK of the small tables hold; `model` is an empty database with the file's schema. `tell` is told of
    each that does not."""
    tables = model.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'table'").fetchall()
    for table, sql in tables:
        for condition in () if table in LARGE_TABLES else CHECK.findall(sql):
            (count,) = raw.execute(f"SELECT count(*) FROM main.{table} WHERE NOT ({condition})").fetchone()  # noqa: S608
            if count:
                tell(f"{counted(count, 'row')} of {table} should not be as they are: {condition}")


def check_followers(raw: sqlite3.Connection) -> Iterator[tuple[int, str]]:
    """How many of the rows that go with events are wrong, and how, as far as the file's version has such. Each is one
    look, so that what comes and leaves meanwhile is in none."""
    there = {name for (name,) in raw.execute("SELECT name FROM main.sqlite_schema WHERE type = 'table'")}
    for table, what, sound in _FOLLOWERS:
        if table in there:
            sql = (
                f"SELECT count(*) FILTER (WHERE log.id IS NULL OR seq NOT BETWEEN 1 AND head),"  # noqa: S608
                f" count(*) FILTER (WHERE NOT ({sound})) FROM {table} LEFT JOIN log ON log.id = {table}.log"
            )
            strange, damaged = raw.execute(sql).fetchone()
            yield strange, f"{what} are of events that never were"
            yield damaged, f"{what} can't be understood"
