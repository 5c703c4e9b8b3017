"""The registry on SQLite: every record in memory, as it was committed; changes one at a time.

A record is checked and written in one transaction on the writer's thread, and applied in memory right after the commit,
before the next transaction. So the second of two concurrent changes is checked against the first.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from typing import Any, TypeAlias

import msgspec

from relay_tornado.errors import StartupError
from relay_tornado.model import from_document
from relay_tornado.registry.contract import Kind
from relay_tornado.registry.memory import KINDS, Records
from relay_tornado.storage.database import Database

_Rows: TypeAlias = list[tuple[Kind, str, int, str]]

_LOAD: dict[Kind, str] = {
    "bucket": "SELECT id, revision, document FROM bucket ORDER BY rowid",
    "token": "SELECT key, revision, document FROM token ORDER BY rowid",
}

# The id of a bucket is in the index and in its inputs' rows, too: they have it if a damaged page hides the record.
_TRACES = "SELECT id FROM bucket INDEXED BY sqlite_autoindex_bucket_1 UNION SELECT bucket FROM input"


def _load(raw: sqlite3.Connection) -> _Rows:
    return [(kind, *row) for kind, sql in _LOAD.items() for row in raw.execute(sql)]


class SqliteRegistry(Records):
    """See `registry.contract.Registry`; created by `open`."""

    def __init__(self, database: Database) -> None:
        super().__init__()
        self._database = database

    @classmethod
    async def open(cls, database: Database) -> SqliteRegistry:
        """Reads all records. Raises StartupError if one can't be decoded."""
        registry = cls(database)
        for kind, key, revision, document in await database.read(_load):
            registry.store(kind, key, _decode(kind, key, document), revision)
        database.keep(_load, registry._apply)
        return registry

    async def traces(self) -> Collection[str]:
        return await self._database.read(lambda raw: {key for (key,) in raw.execute(_TRACES)}, "the records of buckets")

    async def put(self, kind: Kind, key: str, value: Any, expect: int | None = None) -> int:
        def job(raw: sqlite3.Connection) -> int:
            # Memory can't change while this runs: it changes only between transactions.
            revision = self.check(kind, key, value, expect)
            document = msgspec.json.encode(value).decode()
            if kind == "bucket":
                raw.execute(
                    "INSERT INTO bucket VALUES (?, ?, ?, ?) ON CONFLICT (id) DO UPDATE"
                    " SET name = excluded.name, revision = excluded.revision, document = excluded.document",
                    (key, value.name, revision, document),
                )
                raw.execute("DELETE FROM input WHERE bucket = ?", (key,))
                raw.executemany("INSERT INTO input VALUES (?, ?)", [(made.id, key) for made in value.inputs])
            else:
                raw.execute(
                    "INSERT INTO token (key, secret_hash, revision, document) VALUES (?, ?, ?, ?)"
                    " ON CONFLICT (key) DO UPDATE SET secret_hash = excluded.secret_hash, revision = excluded.revision,"
                    " document = excluded.document",
                    (key, value.secret_hash, revision, document),
                )
            return revision

        def stored(revision: int) -> None:
            self.store(kind, key, value, revision)
            self.tell(kind, key)

        return await self._database.write(job, stored)

    async def delete(self, kind: Kind, key: str, expect: int | None = None) -> None:
        if self.get(kind, key) is None:
            return
        sql = "DELETE FROM bucket WHERE id = ?" if kind == "bucket" else "DELETE FROM token WHERE key = ?"

        def job(raw: sqlite3.Connection) -> None:
            if self.get(kind, key) is not None:
                self.check_revision(kind, key, expect)
            raw.execute(sql, (key,))

        def discarded(_: object) -> None:
            if self.discard(kind, key):
                self.tell(kind, key)

        await self._database.write(job, discarded)

    def _apply(self, rows: _Rows) -> None:
        """Takes over the file's records after an error made the database reopen it."""
        gone = {(kind, key) for kind in KINDS for key in self._records[kind]}
        changed = []
        for kind, key, revision, document in rows:
            gone.discard((kind, key))
            value = _decode(kind, key, document)
            if (value, revision) != (self.get(kind, key), self.revision(kind, key)):
                changed.append((kind, key, value, revision))
        for kind, key in gone:
            self.discard(kind, key)
        for kind, key, value, revision in changed:
            self.store(kind, key, value, revision)
        for kind, key in [*gone, *((kind, key) for kind, key, _, _ in changed)]:
            self.tell(kind, key)


def _decode(kind: Kind, key: str, document: str) -> Any:
    try:
        return from_document(KINDS[kind], msgspec.json.decode(document))
    except (msgspec.MsgspecError, TypeError) as error:
        raise StartupError(
            f"the {kind} {key} in relay.db can't be understood ({error}). Restore a backup of the file into a new "
            "directory (relay restore), or go back to the relay that wrote it."
        ) from error
