"""Jobs for a writer, and what they left."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000000) SELECT count(*) FROM n"


def put(name: str) -> Callable[[sqlite3.Connection], str]:
    """A job that leaves a row."""

    def job(raw: sqlite3.Connection) -> str:
        raw.execute("PRAGMA defer_foreign_keys = ON")
        raw.execute("INSERT INTO bucket VALUES (?, ?, 1, '{}')", (name, name))
        return name

    return job


def noted(name: str, order: list[str]) -> Callable[[sqlite3.Connection], str]:
    """A job that leaves a row, and notes `run NAME`."""

    def job(raw: sqlite3.Connection) -> str:
        order.append(f"run {name}")
        return put(name)(raw)

    return job


def names(raw: sqlite3.Connection) -> list[str]:
    return [name for (name,) in raw.execute("SELECT name FROM bucket ORDER BY rowid")]


def commits(raw: sqlite3.Connection) -> int:
    return int(raw.execute("SELECT commits FROM meta").fetchone()[0])


def count_for_ever(raw: sqlite3.Connection) -> Any:
    """A read that takes minutes."""
    return raw.execute(ENDLESS).fetchone()
