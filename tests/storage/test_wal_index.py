"""The WAL's index: what it says of the WAL."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from relay_tornado.settings import Settings
from relay_tornado.storage.database import Database
from relay_tornado.storage.location_check import beside
from relay_tornado.storage.wal_index import FRAME_HEAD, HEAD, WalIndex
from tests.storage.jobs import put

PAGE = 4096


def in_wal_mode(path: Path) -> sqlite3.Connection:
    raw = sqlite3.connect(path, isolation_level=None)
    raw.execute("PRAGMA journal_mode = WAL")
    raw.execute("PRAGMA wal_autocheckpoint = 0")
    raw.execute("CREATE TABLE t (x)")
    return raw


def test_what_a_checkpoint_has_yet_to_copy(tmp_path: Path) -> None:
    """Everything but the WAL's header at first; nothing once it is copied, though the WAL stays as long; then what was
    added, and what a reader's snapshot holds back."""
    path = tmp_path / "x.db"
    with closing(in_wal_mode(path)) as raw, closing(sqlite3.connect(path, isolation_level=None)) as reader:
        index = WalIndex(path, PAGE)
        wal = beside(path, "-wal")
        for _ in range(3):
            raw.execute("INSERT INTO t VALUES (zeroblob(3000))")
        assert index.uncopied() == wal.stat().st_size - HEAD > 0
        raw.execute("PRAGMA wal_checkpoint(PASSIVE)")
        assert (index.uncopied(), wal.stat().st_size > HEAD) == (0, True)
        raw.execute("INSERT INTO t VALUES (1)")
        assert index.uncopied() == FRAME_HEAD + PAGE
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM t").fetchone()
        raw.execute("INSERT INTO t VALUES (2)")
        raw.execute("PRAGMA wal_checkpoint(PASSIVE)")
        assert index.uncopied() == FRAME_HEAD + PAGE
        reader.execute("ROLLBACK")
    assert index.uncopied() is None  # SQLite has removed it
    index.close()
    assert index.uncopied() is None


def test_space_counts_what_is_not_copied(tmp_path: Path) -> None:
    """A WAL that is copied takes no more space than it has taken: its bytes are no longer free, and are not subtracted
    from those that are."""

    async def run() -> list[tuple[bool, bool]]:
        database = await Database.open(replace(Settings(), data=tmp_path))
        found = []
        try:
            for number in range(20):
                await database.write(put(f"some {number}"))
            for _ in range(2):
                database._space._next_look = 0.0
                space = database.space
                found.append((space.wal > 0, space.room == space.free - space.least))
                await database._writer._checkpoint("PASSIVE")
        finally:
            await database.close()
        return found

    assert asyncio.run(run()) == [(True, False), (True, True)]
