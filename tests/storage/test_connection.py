"""relay_tornado/storage/connection.py: the thread of a connection, and what it says of errors."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from relay_tornado.storage.connection import Connection


def test_a_text_that_is_malformed_is_not_quoted(tmp_path: Path) -> None:
    """Python's own message has all of it, and it may be a record with secrets."""

    async def run() -> None:
        connection = await Connection.writer(tmp_path / "file.db")
        try:
            with pytest.raises(sqlite3.DatabaseError) as failure:
                await connection.run(lambda raw: raw.execute("SELECT CAST(x'736563726574ff' AS TEXT)").fetchone())
            assert failure.value.sqlite_errorcode == sqlite3.SQLITE_CORRUPT
            assert "secret" not in str(failure.value)
            assert failure.value.__cause__ is None
            with pytest.raises(sqlite3.OperationalError, match="no such table: absent"):
                await connection.run(lambda raw: raw.execute("SELECT * FROM absent"))
        finally:
            await connection.close()

    asyncio.run(run())
