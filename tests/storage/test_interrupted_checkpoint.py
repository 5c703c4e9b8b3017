"""A checkpoint that was interrupted: the file needs its own WAL, and with an older one no start is made."""

from __future__ import annotations

import contextlib
import random
import shutil
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from relay_tornado.errors import StartupError
from relay_tornado.ops.check import check
from relay_tornado.settings import Settings
from relay_tornado.steps import Steps
from relay_tornado.storage import partial_copy
from relay_tornado.storage.database import Database
from relay_tornado.storage.database_files import wal_of
from relay_tornado.storage.halt import Halt
from relay_tornado.storage.wal_check import in_file
from relay_tornado.storage.wal_index import FRAME_HEAD, HEAD
from relay_tornado.storage.witness import Witness, peek, peek_copied
from tests.storage.faults import Faults, always
from tests.storage.jobs import names, put
from tests.storage.older_wals import aside, contents, passive, put_back, write_generation

storage_test = pytest.mark.gen_test(timeout=60)

PAGE = 4096


def remove(pattern: str) -> Callable[[sqlite3.Connection], object]:
    """A job that removes the rows with such names."""
    return lambda raw: raw.execute("DELETE FROM bucket WHERE name LIKE ?", (pattern,))


@dataclass
class Generation:
    """Directories as a checkpoint found and left them; `old` is an earlier WAL, `pages` are those that it wrote, in its
    order."""

    old: Path
    before: Path
    after: Path
    pages: list[int]

    def interrupt(self, settings: Settings, number: int) -> None:
        """Leaves the directory as it was when so many pages were written, without the WAL's index."""
        shutil.rmtree(settings.data)
        shutil.copytree(self.before, settings.data)
        with (self.after / "relay.db").open("rb") as left, (settings.data / "relay.db").open("r+b") as file:
            for page in self.pages[:number]:
                left.seek((page - 1) * PAGE)
                file.seek((page - 1) * PAGE)
                file.write(left.read(PAGE))
        (settings.data / "relay.db-shm").unlink()


async def checkpoint(settings: Settings, folder: Path, *, grows: bool = True) -> Generation:
    """`grows`: the file has to become longer for it."""
    before = folder / "before"
    faults = Faults()
    database = await Database.open(settings, factory=faults.factory)
    if not grows:
        await database.write(put("z" + "x" * 90_000))
    old = folder / "old"
    old.write_bytes(await write_generation(database, "a", "b"))
    if not grows:
        await database.write(remove("z%"))
    await write_generation(database, "c")
    for name in "defgh":
        await database.write(put(name + "x" * 9_000))

    def keep(sql: str) -> None:
        if sql.startswith("PRAGMA wal_checkpoint"):
            shutil.copytree(settings.data, before)

    faults.before = keep
    assert await passive(database)
    faults.heal()
    after = shutil.copytree(settings.data, folder / "after")
    await database.close()
    sizes = [(place / "relay.db").stat().st_size for place in (before, after)]
    assert (sizes[0] < sizes[1]) == grows
    wal = wal_of(before / "relay.db").read_bytes()
    pages = {struct.unpack_from(">I", wal, place)[0] for place in range(HEAD, len(wal), FRAME_HEAD + PAGE)}
    return Generation(old, before, after, sorted(pages))


@storage_test
async def test_a_checkpoint_that_was_interrupted(settings: Settings, tmp_path: Path) -> None:
    """After whichever page of it the relay was killed, and whatever the witness says, the WAL is used."""
    found = await checkpoint(settings, tmp_path)
    stamp = peek(found.after / "relay.witness")
    assert stamp is not None
    assert len(found.pages) > 20
    for number in range(len(found.pages) + 1):
        found.interrupt(settings, number)
        assert peek_copied(settings.data / "relay.witness") is None
        if number % 2:  # also if it claims too much
            witness = Witness.open(settings.data / "relay.witness")
            witness.note_copied(stamp)
            witness.close()
        with capture_logs() as logs:
            assert await contents(settings) == list("abcdefgh")
        assert logs == []
        assert not aside(settings)


@storage_test
@pytest.mark.parametrize("grows", [True, False])
@pytest.mark.parametrize("powerless", [True, False])
async def test_an_older_wal_after_an_interrupted_checkpoint(
    settings: Settings, tmp_path: Path, grows: bool, powerless: bool
) -> None:
    """The start is refused, and nothing is changed: the file has a part of what only its own WAL has. `powerless`: the
    witness is as it was before the checkpoint."""
    found = await checkpoint(settings, tmp_path, grows=grows)
    path = settings.data / "relay.db"
    meta = 1 + found.pages.index(in_file(found.after / "relay.db")[1])
    for number in range(meta if powerless else 1, len(found.pages), 4):
        found.interrupt(settings, number)
        put_back(settings, found.old)
        if powerless:
            witness = Witness.open(settings.data / "relay.witness")
            witness.note_copied(in_file(found.before / "relay.db")[0])
            witness.close()
        before = path.read_bytes()
        with pytest.raises(StartupError, match=r"relay\.db-wal ends at commit "):
            await Database.open(settings)
        assert (path.read_bytes(), wal_of(path).read_bytes()) == (before, found.old.read_bytes())
        assert not aside(settings)


@storage_test
@pytest.mark.parametrize("interrupted", [True, False])
async def test_what_the_refusal_advises(settings: Settings, tmp_path: Path, interrupted: bool) -> None:
    """With the WAL moved away, a check says whether the file is damaged; if it is, no start uses it."""
    found = await checkpoint(settings, tmp_path, grows=False)
    path = settings.data / "relay.db"
    found.interrupt(settings, len(found.pages) // 2 if interrupted else len(found.pages))
    put_back(settings, found.old)
    with pytest.raises(StartupError, match=r"move it away together with relay\.db-shm, and run relay check before"):
        await Database.open(settings)
    for name in ("relay.db-wal", "relay.db-shm"):
        path.with_name(name).unlink(missing_ok=True)
    report = check(path, lambda *_: None)
    assert ("pages" in {finding.kind for finding in report.findings}) == interrupted
    assert "witness" not in {finding.kind for finding in report.findings}
    if interrupted:
        with pytest.raises(StartupError, match="is damaged, as its write-ahead log had more"):
            await Database.open(settings)
    else:
        assert await contents(settings) == list("abcdefgh")


WRITER = """
import asyncio, pathlib, sys
from relay_tornado.settings import Settings
from relay_tornado.storage.database import Database
from tests.storage.jobs import put

async def main():
    database = await Database.open(Settings(data=pathlib.Path(sys.argv[1])))

    async def write(number):
        for count in range(1 << 30):
            await database.write(put(f"{sys.argv[2]}-{number}-{count}-" + "x" * 20_000))
            print(f"{sys.argv[2]}-{number}-{count}-", flush=True)

    async def checkpoint():
        while True:
            await database._writer._checkpoint(("PASSIVE", "TRUNCATE")[int(sys.argv[2]) % 2])

    await asyncio.gather(checkpoint(), *(write(number) for number in range(4)))

asyncio.run(main())
"""


@pytest.mark.heavy
def test_kills_in_checkpoints(tmp_path: Path) -> None:
    """kill -9 at any moment of writes and checkpoints: each time everything is there, and no WAL is put aside."""
    answered: set[str] = set()
    for number in range(10):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path / "data"), str(number)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            for _ in range(random.randint(5, 60)):
                answered.add(process.stdout.readline().strip())
            process.kill()
            answered |= {line.strip() for line in process.stdout if line.endswith("\n")}
        with contextlib.closing(sqlite3.connect(f"file:{tmp_path / 'data/relay.db'}?mode=ro", uri=True)) as raw:
            assert answered <= {name.rstrip("x") for name in names(raw)}
            assert raw.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        assert not list((tmp_path / "data").glob("*.older-*"))
    assert len(answered) > 50


@storage_test
@pytest.mark.parametrize("emptied", [True, False])
async def test_a_wal_that_is_lost_after_a_part_of_it_was_copied(settings: Settings, emptied: bool) -> None:
    """A reader held the checkpoint back, so the file has pages of different commits: what is left is damaged, and no
    start uses it. With the right WAL, everything is there."""
    path = settings.data / "relay.db"
    database = await Database.open(settings)
    for number in range(60):
        await database.write(put(f"{'az'[number % 2]}{number:02}" + "x" * 3_000))
    assert await passive(database)
    for number in range(1, 60, 8):
        await database.write(remove(f"z{number:02}%"))
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as raw:
        raw.execute("BEGIN")
        names(raw)
        for number in range(3, 60, 8):
            await database.write(remove(f"z{number:02}%"))
        await database._writer._checkpoint("PASSIVE")
        wal = wal_of(path).read_bytes()
        crash = shutil.copytree(settings.data, settings.data.with_name("crash"), ignore=lambda *_: ["relay.sock"])
    await database.close()
    shutil.rmtree(settings.data)
    crash.rename(settings.data)
    (settings.data / "relay.db-shm").unlink()
    lost = b"" if emptied else wal[: HEAD + 3 * (FRAME_HEAD + PAGE)]
    wal_of(path).write_bytes(lost)
    before = path.read_bytes()
    with pytest.raises(StartupError, match=r"put the right relay\.db-wal back"):
        await Database.open(settings)
    assert (path.read_bytes(), wal_of(path).read_bytes()) == (before, lost)
    wal_of(path).write_bytes(wal)
    assert len(await contents(settings)) == 60 - 16


@storage_test
@pytest.mark.parametrize(("code", "damaged"), [(sqlite3.SQLITE_CORRUPT, True), (sqlite3.SQLITE_IOERR, False)])
async def test_a_file_that_can_not_be_read_is_not_called_damaged(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, code: int, damaged: bool
) -> None:
    """That would send its owner to a backup, while the disk is what fails."""
    await (await Database.open(settings)).close()
    faults = Faults()
    faults.before = always("PRAGMA integrity_check", code)
    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=faults.factory))
    (settings.data / "relay.witness").unlink()
    with pytest.raises(
        StartupError if damaged else sqlite3.OperationalError, match="damaged" if damaged else "injected"
    ):
        partial_copy.check(settings.data / "relay.db", lost=True, noted=False, steps=Steps(""), halt=Halt())
