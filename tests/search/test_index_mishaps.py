"""The index meets a log that lost something or is another one, its own file damaged or gone, and a full disk."""

from __future__ import annotations

import asyncio
import errno
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from relay_tornado.errors import NO_THREAD, Unavailable
from relay_tornado.search import file, index
from relay_tornado.storage import damage, database_files, disk_check
from relay_tornado.storage.connection import Connection
from tests.failing import once
from tests.log.worlds import SqliteWorld, behind
from tests.search.indexing import caught_up, fill, indexed, log_test, look
from tests.storage.jobs import count_for_ever
from tests.waiting import until

pytestmark = pytest.mark.usefixtures("at_once")


@log_test
async def test_what_the_log_lost_is_not_found_any_more(world: SqliteWorld, tmp_path: Path) -> None:
    """Events that take the seqs of lost ones are found by what they hold; the lost ones' places are taken back."""
    await fill(world, 6)
    async with indexed(world, tmp_path) as made:
        await caught_up(made, world)
    await world.lose("b", 3)
    await fill(world, 2, text="other")
    async with indexed(world, tmp_path) as made:
        await until(lambda: (made.covered("b") or (0, 9))[1] == 5, "the index to be taken back")
        assert await look(made, world, "other") == [5, 4]
        assert await look(made, world, "number-000006") == []
        assert await look(made, world, "number-000003") == [3]


@log_test
async def test_damage_at_the_end_is_no_loss(world: SqliteWorld, tmp_path: Path) -> None:
    """Where the first events of an epoch can't be read, the index has been there all the same, and goes on."""
    await fill(world, 3)
    async with indexed(world, tmp_path) as made:
        await caught_up(made, world)
    await world.reopen()
    await fill(world, 2)
    await world.close()
    with behind(world) as raw:
        raw.execute("UPDATE event SET body = x'00' WHERE seq > 3")
    await world.reopen()
    with capture_logs() as said:
        async with indexed(world, tmp_path) as made:
            await caught_up(made, world)
        async with indexed(world, tmp_path) as made:
            await fill(world, 1)
            await caught_up(made, world)
            assert await look(made, world, "number") == [6, 3, 2, 1]
    assert "search_index_taken_back" not in [each["event"] for each in said]


@log_test
async def test_damage_in_the_middle_hides_nothing_else(world: SqliteWorld, tmp_path: Path) -> None:
    """What can't be read is not found, and everything around it is."""
    await fill(world, 9)
    await world.close()
    with behind(world) as raw:
        raw.execute("UPDATE event SET body = x'00' WHERE seq IN (3, 6)")
    await world.reopen()
    async with indexed(world, tmp_path) as made:
        await caught_up(made, world)
        assert await look(made, world, "number") == [9, 8, 7, 5, 4, 2, 1]


@pytest.mark.gen_test
async def test_another_log_is_indexed_anew(tmp_path: Path) -> None:
    """Where a bucket's epochs are none that the index knows, nothing that it has of it is found."""
    first, second = await SqliteWorld.open(tmp_path / "1"), await SqliteWorld.open(tmp_path / "2")
    try:
        for world, epoch, text in ((first, "aaaaaaaaaaaa", "these"), (second, "bbbbbbbbbbbb", "those")):
            await world.log.create("b", epoch)
            await fill(world, 4, text=text)
        for world, there, gone in ((first, "these", "those"), (second, "those", "these")):
            async with indexed(world, tmp_path) as made:
                await until(lambda made=made: made._whole, "the index")  # type: ignore[misc]
                await caught_up(made, world)
                assert await look(made, world, there) == [4, 3, 2, 1]
                assert await look(made, world, gone) == []
    finally:
        await first.close()
        await second.close()


@pytest.mark.parametrize("harm", ["deleted", "overwritten", "emptied", "of another version", "a directory's worth"])
@log_test
async def test_a_file_that_is_gone_or_of_no_use_is_made_anew(
    world: SqliteWorld, tmp_path: Path, harm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it runs, and at its start; at once."""
    monkeypatch.setattr(index, "_AGAIN", 3600.0)

    def do(path: Path) -> None:
        if harm == "deleted":
            path.unlink()
        elif harm == "overwritten":
            path.unlink()
            path.write_bytes(b"no database at all, but long enough to be looked at" * 100)
        elif harm == "emptied":
            path.unlink()
            path.touch()
        elif harm == "of another version":
            with closing(sqlite3.connect(path)) as raw:
                raw.execute("PRAGMA user_version = 99")
            path.rename(path.with_name("x"))
            path.with_name("x").rename(path)
        else:
            for each in path.parent.glob(file.NAME + "*"):
                each.unlink()

    await fill(world, 5)
    async with indexed(world, tmp_path) as made:
        await caught_up(made, world)
        before = made._writer
        do(made.path)
        await fill(world, 1)
        if harm != "of another version":
            await until(lambda: made._writer not in (None, before), "another file")
        await caught_up(made, world)
        assert await look(made, world, "number") == [6, 5, 4, 3, 2, 1]
    do(made.path)
    async with indexed(world, tmp_path) as made:
        await caught_up(made, world)
        assert await look(made, world, "number") == [6, 5, 4, 3, 2, 1]


@log_test
async def test_a_damaged_page_is_met_by_making_it_anew(world: SqliteWorld, tmp_path: Path) -> None:
    """Damage that comes out while it writes costs nothing but the time to build it."""
    await fill(world, 500)
    async with indexed(world, tmp_path) as made:
        await caught_up(made, world)
    with made.path.open("r+b") as raw:
        raw.seek(4096)
        raw.write(b"\xa5" * 4096 * 4)
    async with indexed(world, tmp_path) as made:
        await fill(world, 300)
        await caught_up(made, world)
        assert len(await look(made, world, "number")) == 800


@pytest.mark.parametrize("how", ["the disk fails", "no thread can be started", "its folder can't be read"])
@log_test
async def test_a_file_that_a_failing_disk_makes_seem_damaged_is_kept(
    world: SqliteWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Also if nobody can tell. The index goes on with it once the disk reads again."""
    monkeypatch.setattr(index, "_AGAIN", 0.01)
    await fill(world, 5)
    async with indexed(world, tmp_path) as made:
        await caught_up(made, world)
        before, opened = made.path.stat().st_ino, Path.open

        def no_thread(work: object) -> None:
            raise RuntimeError(NO_THREAD)

        def unreadable(path: Path, *args: Any, **more: Any) -> Any:
            if path == made.path:
                raise PermissionError(errno.EACCES, "Permission denied")
            return opened(path, *args, **more)

        def malformed(*_: object) -> None:
            raise damage.malformed("database disk image is malformed")

        with monkeypatch.context() as failing, capture_logs() as said:
            failing.setattr(file, "insert", malformed)
            if how == "the disk fails":
                failing.setattr(disk_check, "fails", lambda descriptor: True)
            elif how == "no thread can be started":
                failing.setattr(index, "run_in_thread", no_thread)
            else:
                failing.setattr(Path, "open", unreadable)
            await fill(world, 1)
            await until(lambda: [each["event"] for each in said].count("search_index_waits") > 1, "two tries")
        assert "search_index_made_anew" not in [each["event"] for each in said]
        await caught_up(made, world)
        assert await look(made, world, "number") == [6, 5, 4, 3, 2, 1]
        assert made.path.stat().st_ino == before


@log_test
async def test_a_file_that_can_not_be_taken_away_is_tried_again(
    world: SqliteWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a disk that can only be read: the index waits for another one."""
    real, failed = database_files.remove, []

    def remove(path: Path) -> None:
        if len(failed) < 2:
            failed.append(path)
            raise OSError(errno.EROFS, "no")
        real(path)

    monkeypatch.setattr(database_files, "remove", remove)
    (tmp_path / file.NAME).write_bytes(b"no database at all, but long enough to be looked at" * 100)
    await fill(world, 3)
    async with indexed(world, tmp_path) as made:
        await caught_up(made, world)
    assert len(failed) == 2


@log_test
async def test_what_another_file_does_not_mend_is_tried_seldom(
    world: SqliteWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A SQLite without FTS5, for one, refuses each of them."""
    monkeypatch.setattr(file, "_SEGMENT", "CREATE VIRTUAL TABLE s{} USING fts0(text)")
    monkeypatch.setattr(index, "_AGAIN", 3600.0)
    await fill(world, 3)
    with capture_logs() as said:
        async with indexed(world, tmp_path, settled=False) as made:
            await until(lambda: len(said) == 2, "the refusals")
            await until(lambda: made._writer is None, "the file to be closed")
            await asyncio.sleep(0.1)
    assert [each["reason"] for each in said] == ["no such module: fts0"] * 2


@log_test
async def test_a_full_disk_stops_the_index_alone(world: SqliteWorld, tmp_path: Path) -> None:
    """Where the disk has little room nothing is written; it goes on when there is some."""
    room = [0]
    await fill(world, 3)
    async with indexed(world, tmp_path, room=lambda: room[0]) as made:
        await until(lambda: made._writer is not None, "it to open")
        await asyncio.sleep(0.05)
        assert made.covered("b") is None
        room[0] = 1 << 40
        await fill(world, 1)
        await caught_up(made, world)


@log_test
async def test_a_log_that_can_not_be_read_for_a_moment(
    world: SqliteWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index goes on, and opens its file no second time."""
    await fill(world, 1)
    async with indexed(world, tmp_path) as made:
        await caught_up(made, world)
        writer = made._writer
        outline, failed = world.log.outline, []

        async def lacking(*what: Any) -> Any:
            if not failed:
                failed.append(what)
                raise Unavailable("not now")
            return await outline(*what)

        monkeypatch.setattr(world.log, "outline", lacking)
        await fill(world, 1)
        await caught_up(made, world)
        assert failed
        assert made._writer is writer


@log_test
async def test_a_step_that_fails_leaves_nothing(
    world: SqliteWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No rows of events that do not count as indexed, and no event that counts and has none."""
    await fill(world, 3)
    left: list[file.State] = []
    move = file.move

    def fail(raw: sqlite3.Connection, *what: Any) -> None:
        if not left:
            with closing(sqlite3.connect(f"{(tmp_path / file.NAME).as_uri()}?mode=ro", uri=True)) as other:
                left.append(file.load(other))
            raise sqlite3.OperationalError("disk I/O error")
        move(raw, *what)

    monkeypatch.setattr(file, "move", fail)
    async with indexed(world, tmp_path) as made:
        await caught_up(made, world)
        assert await look(made, world, "number") == [3, 2, 1]
    assert (left[0].parts, left[0].segments) == ({}, {})


@log_test
async def test_a_reader_that_could_not_be_opened_is_opened_later(
    world: SqliteWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With no thread for it, what is indexed would be found by nobody until the next start."""
    real, failed = Connection.reader, []

    async def reader(path: Path) -> Connection:
        if not failed:
            failed.append(path)
            raise OSError(errno.EAGAIN, NO_THREAD)
        return await real(path)

    monkeypatch.setattr(Connection, "reader", reader)
    await fill(world, 3)
    async with indexed(world, tmp_path) as made:
        await caught_up(made, world)
    assert failed


@log_test
async def test_a_reader_that_can_not_be_closed_keeps_no_writer(
    world: SqliteWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread of a connection that is left open keeps the process from its end."""
    await fill(world, 1)
    async with indexed(world, tmp_path) as made:
        await caught_up(made, world)
        reader, writer = made._reader, made._writer
        assert reader is not None
        assert writer is not None
        monkeypatch.setattr(reader, "close", once(reader.close))
    monkeypatch.undo()
    await reader.close()
    await until(lambda: not writer._thread.is_alive(), "the end of its thread")


@log_test
async def test_a_file_that_can_not_be_closed_is_left_behind(
    world: SqliteWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index goes on with another one."""
    await fill(world, 1)
    async with indexed(world, tmp_path) as made:
        await caught_up(made, world)
        writer = made._writer
        assert writer is not None
        close = writer.close

        async def fail() -> None:
            await close()
            raise sqlite3.OperationalError("unable to close")

        monkeypatch.setattr(writer, "close", fail)
        made.path.unlink()
        await fill(world, 1)
        await until(lambda: made._writer not in (None, writer), "another file")
        await caught_up(made, world)


@log_test
async def test_an_end_waits_for_nothing_that_is_being_indexed(
    world: SqliteWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine without time for it, a step takes many seconds. The next run indexes the same events."""
    begun = threading.Event()

    def insert(raw: sqlite3.Connection, *_: object) -> None:
        begun.set()
        count_for_ever(raw)

    await fill(world, 3)
    monkeypatch.setattr(file, "insert", insert)
    async with indexed(world, tmp_path, settled=False):
        await until(begun.is_set, "a step")
    monkeypatch.undo()
    async with indexed(world, tmp_path) as made:
        await caught_up(made, world)
        assert await look(made, world, "number") == [3, 2, 1]


@log_test
async def test_an_end_copies_nothing_into_the_file(world: SqliteWorld, tmp_path: Path) -> None:
    """Its WAL stays for the next run."""
    await fill(world, 3)
    async with indexed(world, tmp_path) as made:
        await caught_up(made, world)
    assert made.path.with_name(f"{made.path.name}-wal").stat().st_size
    async with indexed(world, tmp_path) as made:
        await caught_up(made, world)
        assert await look(made, world, "number") == [3, 2, 1]
