"""The SQLite that Python comes with: the oldest supported version, and workarounds for older ones."""

from __future__ import annotations

import sqlite3
from typing import Final

import msgspec

from relay_tornado.errors import StartupError

LEAST_SQLITE: Final = (3, 38, 0)
"""Older versions lack syntax that the schema and the statements use."""

NEWER_SQLITE: Final = "use a Python that comes with a newer one"

JUDGES_JSON: Final = (3, 42, 0)
"""From this version on, SQLite's own `json_valid` does what the schema needs."""


def old_sqlite() -> str | None:
    """What to tell the operator if Python's SQLite is too old; None if it is not."""
    if sqlite3.sqlite_version_info >= LEAST_SQLITE:
        return None
    return f"SQLite {sqlite3.sqlite_version} is older than {'.'.join(map(str, LEAST_SQLITE))}"


def check_sqlite() -> None:
    """Raises StartupError if Python's SQLite is too old."""
    if (old := old_sqlite()) is not None:
        raise StartupError(f"{old}: {NEWER_SQLITE}.")


def guard_schema(raw: sqlite3.Connection) -> None:
    """Lets the file's schema call only harmless functions, and makes its JSON checks work.

    SQLite before 3.42, as in Debian 12, takes NULL for malformed JSON, and before 3.41 takes its own `json_valid` for
    harmful, so that nothing could be written. There the schema calls our function.
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
