"""When each token was last used, stored in relay.db beside its record.

No watcher is told, as of a change to a record, and nothing waits for it: once a minute, and at the end, everything
noted since is written in one transaction. If the process is killed, the last minute is lost.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Iterable

from relay_tornado.errors import RelayError
from relay_tornado.model import MAX_TIME
from relay_tornado.registry.uses import GRANULARITY, Uses
from relay_tornado.storage.database import Database


def _load(raw: sqlite3.Connection) -> list[tuple[str, int]]:
    # A time that no clock has shown is damaged, and could not be shown.
    sql = "SELECT key, used_at FROM token WHERE typeof(used_at) = 'integer' AND used_at BETWEEN 0 AND ?"
    return raw.execute(sql, (MAX_TIME,)).fetchall()


class SqliteUses(Uses):
    """Created by `open`."""

    def __init__(self, database: Database) -> None:
        super().__init__()
        self._database = database

    @classmethod
    async def open(cls, database: Database) -> SqliteUses:
        """Reads the stored times."""
        uses = cls(database)
        uses._last.update(await database.read(_load))
        return uses

    async def run(self, connected: Callable[[], Iterable[str]]) -> None:
        """Writes once a minute until cancelled. `connected` returns the keys of tokens that hold a connection."""
        while True:
            await asyncio.sleep(GRANULARITY)
            await self.write(connected())

    async def write(self, used: Iterable[str] = ()) -> None:
        """Writes the uses noted since the last time, and that the tokens with these keys are in use now. If writing
        fails, it is tried again the next time."""
        now = time.time()
        for key in used:
            self.note(key, now)
        written = dict(self._unwritten)
        if not written:
            return

        def job(raw: sqlite3.Connection) -> list[str]:
            sql = "UPDATE token SET used_at = ? WHERE key = ?"
            return [key for key, at in written.items() if not raw.execute(sql, (at, key)).rowcount]

        try:
            gone = await self._database.write(job)
        except RelayError:
            return  # the writer reports its failure itself
        for key, at in written.items():
            if self._unwritten.get(key) == at:
                del self._unwritten[key]
        for key in gone:
            # The token was revoked while a connection with it, about to close, was noted.
            self.forget(key)
