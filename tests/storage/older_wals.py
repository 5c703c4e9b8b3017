"""WALs of a database that are put beside it again, and what is in it then."""

from __future__ import annotations

import shutil
from pathlib import Path

from relay_tornado.settings import Settings
from relay_tornado.storage.database import Database
from relay_tornado.storage.database_files import wal_of
from tests.storage.jobs import names, put


def put_back(settings: Settings, source: Path) -> None:
    """Puts a copy of a WAL beside the file, as after a crash: without the index of another one."""
    shutil.copyfile(source, wal_of(settings.data / "relay.db"))
    (settings.data / "relay.db-shm").unlink(missing_ok=True)


def aside(settings: Settings) -> list[Path]:
    return sorted(settings.data.glob("relay.db-wal.older-*"))


async def write_generation(database: Database, *more: str) -> bytes:
    """Commits these names and some pages, and has all of it copied into the file. Returns the WAL as it was."""
    for name in more:
        await database.write(put(name + "x" * 9_000))
    wal = wal_of(database.path).read_bytes()
    assert await database.shrink()
    return wal


async def contents(settings: Settings) -> list[str]:
    """The names in the database, which is opened, found sound, and closed."""
    database = await Database.open(settings)
    try:
        found = await database.read(names)
        assert await database.read(lambda raw: raw.execute("PRAGMA integrity_check").fetchone()[0]) == "ok"
        return [name.rstrip("x") for name in found]
    finally:
        await database.close()


async def passive(database: Database) -> bool:
    """Copies the WAL into the file, and leaves it as it is."""
    return await database._writer._checkpoint("PASSIVE")
