"""The SQLite that Python comes with: how old it may be, and what is done for those that lack something."""

from __future__ import annotations

import sqlite3
from typing import Final

import msgspec

from relay_tornado.errors import StartupError

LEAST_SQLITE: Final = (3, 38, 0)
"""Older ones lack what the schema and the statements are written in."""

NEWER_SQLITE: Final = "use a Python that comes with a newer one"

JUDGES_JSON: Final = (3, 42, 0)
"""From here on SQLite's own `json_valid` does what the schema needs."""


def old_sqlite() -> str | None:
    """What to tell of Python's SQLite where that is too old."""
    if sqlite3.sqlite_version_info >= LEAST_SQLITE:
        return None
    return f"SQLite {sqlite3.sqlite_version} is older than {'.'.join(map(str, LEAST_SQLITE))}"


def check_sqlite() -> None:
    """Raises StartupError where Python's SQLite is too old."""
    if (old := old_sqlite()) is not None:
        raise StartupError(f"{old}: {NEWER_SQLITE}.")


def guard_schema(raw: sqlite3.Connection) -> None:
    """Has what stands in the file's schema call nothing that does harm, and hold documents against what JSON is.

    SQLite before 3.42, as Debian 12 has it, takes NULL for malformed JSON, and before 3.41 its own `json_valid` for
    harmful, so that nothing could be written: there the schema calls ours.
    """
    if sqlite3.sqlite_version_info < JUDGES_JSON:
        raw.create_function("json_valid", 1, _json_valid, deterministic=True)
    else:
        raw.execute("PRAGMA trusted_schema = OFF")


def _json_valid(text: object) -> bool | None:
    if text is None:
        return None
    try:
        msgspec.json.decode(str(text))
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return False
    return True
