"""When tokens were last used: to the minute in memory, kept in the file, and gone with the token."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from relay_tornado.errors import Unauthorized
from relay_tornado.ids import hash_secret
from relay_tornado.model import Token
from relay_tornado.registry.access import API_KEY, Access
from relay_tornado.registry.memory import MemoryRegistry
from relay_tornado.registry.sqlite import SqliteRegistry
from relay_tornado.registry.sqlite_uses import SqliteUses
from relay_tornado.registry.uses import Uses
from relay_tornado.settings import Settings
from relay_tornado.storage.database import Database
from tests.storage.faults import Faults, once
from tests.waiting import until

uses_test = pytest.mark.gen_test

NOW = 1_800_000_000


def token(key: str) -> Token:
    return Token(key=key, secret_hash=hash_secret(key), created_at=0.0)


@asynccontextmanager
async def opened(
    folder: Path, faults: Faults | None = None
) -> AsyncIterator[tuple[SqliteRegistry, SqliteUses, Database]]:
    database = await Database.open(Settings(data=folder / "data"), factory=(faults or Faults()).factory)
    try:
        yield await SqliteRegistry.open(database), await SqliteUses.open(database), database
    finally:
        await database.close()


@uses_test
async def test_a_token_is_noted_where_it_gets_in() -> None:
    """By its key and secret, by the secret alone, by what stands for it; not where the secret is wrong."""
    registry, uses, now = MemoryRegistry(), Uses(), float(NOW)
    for key in "abcd":
        await registry.put("token", key, token(key))
    access = Access(registry, clock=lambda: now, uses=uses)
    access.authenticate("a", "a")
    access.by_secret("b")
    access.used(registry.get("token", "c"))
    for key in ("d", API_KEY):
        with pytest.raises(Unauthorized):
            access.authenticate(key, "a" if key == "d" else "wrong")
    assert [uses.last(key) for key in "abcd"] == [NOW, NOW, NOW, None]
    now += 59.9
    access.by_secret("a")
    assert uses.last("a") == NOW, "within a minute it is not noted anew"
    now += 0.1
    access.by_secret("a")
    assert uses.last("a") == NOW + 60
    now = NOW - 3_600.0
    access.by_secret("a")
    assert uses.last("a") == NOW - 3_600, "a clock that was put back leaves no time that is to come"
    await registry.delete("token", "a")
    assert uses.last("a") is None


@uses_test
async def test_uses_are_kept_without_touching_the_record(tmp_path: Path) -> None:
    """They are there after a restart and after a change to the token; nobody who watches records is woken by one; a
    revoked token takes its use along."""
    async with opened(tmp_path) as (registry, uses, _):
        for key in "ab":
            await registry.put("token", key, token(key))
        told: list[str] = []
        registry.watch(lambda kind, key: told.append(key))
        uses.note("a", NOW)
        uses.note("b", NOW)
        await uses.write()
        assert (told, registry.revision("token", "a")) == ([], 1)
        await registry.put("token", "a", token("a"))
        await registry.delete("token", "b")
        await uses.write(["b"])
        assert uses.last("b") is None, "a connection that is about to close is no use of it"
    async with opened(tmp_path) as (registry, uses, _):
        assert (uses.last("a"), uses.last("b")) == (NOW, None)


@uses_test
async def test_nothing_is_written_where_nothing_was_noted(tmp_path: Path) -> None:
    """A quiet relay's file stays as it is; whoever holds a connection is noted without coming anew."""
    async with opened(tmp_path) as (registry, uses, database):
        await registry.put("token", "a", token("a"))
        before = database.commits
        await uses.write()
        assert database.commits == before
        await uses.write(["a"])
        assert (database.commits, uses.last("a") is not None) == (before + 1, True)
        await uses.write()
        assert database.commits == before + 1


@uses_test
async def test_what_could_not_be_written_is_written_later(tmp_path: Path) -> None:
    """A disk that fails loses no use, and nobody is refused for it."""
    faults = Faults()
    async with opened(tmp_path, faults) as (registry, uses, database):
        await registry.put("token", "a", token("a"))
        uses.note("a", NOW)
        faults.before = once("COMMIT", sqlite3.SQLITE_IOERR)
        await uses.write()
        assert await database.read(lambda raw: raw.execute("SELECT used_at FROM token").fetchone()) == (None,)
        await until(lambda: not database.problem)
        await uses.write()
    async with opened(tmp_path) as (_, uses, _):
        assert uses.last("a") == NOW


@uses_test
async def test_a_use_while_an_earlier_one_is_written_is_written_next(tmp_path: Path) -> None:
    """The next write has it: on a disk that hangs, a minute may pass meanwhile."""
    async with opened(tmp_path) as (registry, uses, _):
        await registry.put("token", "a", token("a"))
        uses.note("a", NOW)
        writing = asyncio.ensure_future(uses.write())
        await asyncio.sleep(0)
        uses.note("a", NOW + 60)
        await writing
        await uses.write()
    async with opened(tmp_path) as (_, uses, _):
        assert uses.last("a") == NOW + 60


WORKER = """
import asyncio, sys
from pathlib import Path
from relay_tornado.model import Token
from relay_tornado.registry.sqlite import SqliteRegistry
from relay_tornado.registry.sqlite_uses import SqliteUses
from relay_tornado.settings import Settings
from relay_tornado.storage.database import Database

async def main():
    database = await Database.open(Settings(data=Path(sys.argv[1])))
    registry, uses = await SqliteRegistry.open(database), await SqliteUses.open(database)
    await registry.put("token", "a", Token(key="a", secret_hash="aa", created_at=0.0))
    uses.note("a", 1_800_000_000)
    await uses.write()
    uses.note("a", 1_800_000_060)
    print("written", flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


@uses_test
async def test_a_kill_takes_the_last_minute_along_and_no_more(tmp_path: Path) -> None:
    """After kill -9 what was written is there, and the relay starts as ever."""
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(tmp_path / "data")], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        with process.stdout:
            assert process.stdout.readline() == "written\n"
            process.send_signal(signal.SIGKILL)
        assert process.wait(60) == -signal.SIGKILL
    finally:
        process.kill()
        process.wait(60)
    async with opened(tmp_path) as (registry, uses, database):
        assert (uses.last("a"), registry.revision("token", "a"), database.loss) == (NOW, 1, None)
