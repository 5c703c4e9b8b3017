"""The event log on SQLite over a damaged file: what is good comes out, what is not is told, once."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from tornado.ioloop import IOLoop

from relay_tornado.consumer_changes import RETENTION, Changes, Parked
from relay_tornado.errors import BucketGone, CursorLost, Malformed, Unavailable
from relay_tornado.log import reclaim, rows
from relay_tornado.log.consumers import Key, Terms
from relay_tornado.log.lineage import Placed, gap_behind, place_cursor
from relay_tornado.log.pages import Block
from relay_tornado.log.results import sent
from relay_tornado.log.rows import Found
from relay_tornado.log.sqlite_consumers import SqliteConsumers
from relay_tornado.log.sqlite_results import SqliteResults
from relay_tornado.log.state import LogState
from relay_tornado.model import Cursor, Epoch, Gap, Retention
from relay_tornado.storage import disk_check
from tests.log.worlds import MANY, SqliteWorld, behind, event, fill, make, read_all, restart, spoil_leaf
from tests.serving import TIMEOUT
from tests.storage.faults import Faults, once
from tests.waiting import until

log_test = pytest.mark.gen_test


@log_test
async def test_damage_is_passed_over_and_told(disk: SqliteWorld) -> None:
    """A changed byte, or rows that are missing, never come out as events: CursorLost names the next good one."""
    await make(disk.log, events=600)
    await restart(
        disk,
        "UPDATE event SET body = x'00' WHERE seq = 10",
        "UPDATE event SET headers = x'00' WHERE seq = 11",
        "UPDATE event SET method = 'PUT' WHERE seq = 12",
        "UPDATE event SET method = CAST(x'50cf5354' AS TEXT) WHERE seq = 13",
        "DELETE FROM event WHERE seq BETWEEN 200 AND 520",
        "UPDATE event SET remote_ip = '' WHERE seq = 600",
    )
    with capture_logs() as logs:
        for _ in range(2):
            assert [e.seq for e in await disk.log.read("b", 0, 256, MANY)] == list(range(1, 10))
            for after, first in ((9, 14), (10, 14), (199, 521), (300, 521), (519, 521), (599, 601)):
                with pytest.raises(CursorLost) as lost:
                    await disk.log.read("b", after, 256, MANY)
                assert lost.value.first == first
            assert [e.seq for e in await disk.log.read("b", 13, 256, MANY)] == list(range(14, 200))
            assert [each.seq for each in await disk.log.outline("b", 12, 15)] == [12, 14, 15]
    told = [(entry["first"], entry["last"]) for entry in logs if entry["event"] == "events_damaged"]
    assert told == [(10, 13), (200, 520), (600, 600)]
    assert list(await disk.log.read("b", 600, 256, MANY)) == []
    assert (await disk.log.append("b", event(b"on"))).seq == 601
    assert await disk.log.trim("b", Retention(None, 50, None), None) == 551
    assert [e.seq for e in await disk.log.read("b", 551, 256, MANY)] == list(range(552, 600))


@log_test
async def test_what_a_failing_disk_hides_is_not_damaged(disk: SqliteWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite calls it malformed. While the disk fails nobody passes over it, and after that it comes; so it does if the
    disk is well again when it is looked at."""
    await make(disk.log, events=600)
    await restart(disk)
    select, failing, heals = rows.select, True, False

    def reads(raw: sqlite3.Connection, log: int, start: int, end: int, epochs: Sequence[Epoch], most: int) -> Found:
        if failing:
            return Found([None] * (end + 1 - start), [0] * (end + 1 - start), frozenset())
        return select(raw, log, start, end, epochs, most)

    def fails(descriptor: int) -> bool:
        nonlocal failing
        failing = failing and not heals
        return failing

    monkeypatch.setattr(rows, "select", reads)
    monkeypatch.setattr(disk_check, "fails", fails)
    with capture_logs() as logs:
        for _ in range(2):
            with pytest.raises(Unavailable, match="the disk fails to read"):
                await disk.log.read("b", 9, 1, MANY)
        heals = True
        assert [e.seq for e in await disk.log.read("b", 9, 1, MANY)] == [10]
        failing = True
        assert [e.seq for e in await disk.log.read("b", 299, 1, MANY)] == [300]
    assert logs == []


@log_test
async def test_what_a_failing_disk_hides_before_damage(disk: SqliteWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not taken for a part of that, though the next good event is the same."""
    await make(disk.log, events=600)
    await restart(disk, "UPDATE event SET body = x'00' WHERE seq = 13")
    with pytest.raises(CursorLost):
        await disk.log.read("b", 12, 1, MANY)
    select = rows.select

    def reads(raw: sqlite3.Connection, log: int, start: int, end: int, epochs: Sequence[Epoch], most: int) -> Found:
        found = select(raw, log, start, end, epochs, most)
        return found._replace(events=[None if seq < 13 else each for seq, each in enumerate(found.events, start)])

    monkeypatch.setattr(rows, "select", reads)
    monkeypatch.setattr(disk_check, "fails", lambda descriptor: True)
    with pytest.raises(Unavailable, match="the disk fails to read"):
        await disk.log.read("b", 9, 1, MANY)


@log_test
async def test_those_who_have_the_disk_looked_at_share_a_look(
    disk: SqliteWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes a moment, and a thread that reads, and many subscribers may meet the same damage. Who comes during a
    look waits for the next one, as the disk may have failed since; also if who began that is gone."""
    looks: list[int] = []
    going = threading.Event()

    def fails(descriptor: int) -> bool:
        looks.append(descriptor)
        return going.wait(TIMEOUT) and len(looks) > 1

    monkeypatch.setattr(disk_check, "fails", fails)
    first = asyncio.create_task(disk.database.check_disk())
    await until(lambda: looks)
    later = [asyncio.create_task(disk.database.check_disk()) for _ in range(20)]
    await asyncio.sleep(0)
    first.cancel()
    going.set()
    with pytest.raises(asyncio.CancelledError):
        await first
    told = await asyncio.gather(*later, return_exceptions=True)
    assert {type(each) for each in told} == {Unavailable}
    assert len(looks) == 2
    looks.clear()
    await disk.database.check_disk()


@log_test
async def test_damage_that_two_readers_meet(disk: SqliteWorld) -> None:
    """One looks for its end beyond a block, while the other's read, which it shares, turns out to hold less."""
    await make(disk.log, events=512, size=9000)
    await restart(disk, "DELETE FROM event WHERE seq BETWEEN 200 AND 262")
    beyond = disk.log._beyond_damage

    async def meet(state: LogState, block: Block, seq: int) -> int:
        other = asyncio.create_task(disk.log.read("b", 499, 256, MANY))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        found = await beyond(state, block, seq)
        assert (await other)[0].seq == 500
        return found

    disk.log._beyond_damage = meet  # type: ignore[method-assign]
    with pytest.raises(CursorLost) as lost:
        await disk.log.read("b", 199, 256, MANY)
    assert lost.value.first == 263


@log_test
async def test_an_entry_of_the_index_that_leads_to_another_event(disk: SqliteWorld) -> None:
    """The content of one event never comes out under the seq of another, though the CRC of it is right."""
    await make(disk.log, events=600)
    await disk.close()
    data = disk.database.path.read_bytes()
    # An entry as SQLite writes it: log 1 (which takes no byte), the seq and the rowid in two bytes each.
    entry, other = (bytes((4, 9, 2, 2)) + (400).to_bytes(2) + rowid.to_bytes(2) for rowid in (400, 401))
    assert data.count(entry) == 1
    disk.database.path.write_bytes(data.replace(entry, other))
    await disk.reopen()
    with pytest.raises(CursorLost) as lost:
        await disk.log.read("b", 399, 256, MANY)
    assert lost.value.first == 401
    assert [e.seq for e in await disk.log.read("b", 398, 256, MANY)] == [399]
    assert [e.seq for e in await disk.log.read("b", 400, 2, MANY)] == [401, 402]


@log_test
async def test_a_damaged_page_of_the_file(disk: SqliteWorld) -> None:
    """Where SQLite itself finds a page malformed, the events on other pages are read all the same."""
    await make(disk.log, events=100, size=2000)
    await disk.close()
    with contextlib.closing(sqlite3.connect(disk.database.path)) as raw:
        leaf = max(page for (page,) in raw.execute("SELECT rootpage + 20 FROM sqlite_schema WHERE name = 'event'"))
        assert b"input-1" in disk.database.path.read_bytes()[(leaf - 1) * 4096 : leaf * 4096]
    with disk.database.path.open("r+b") as file:
        file.seek((leaf - 1) * 4096)
        file.write(b"\xff" * 4096)
    await disk.reopen()
    read: list[int] = []
    after = 0
    while after < 100:
        try:
            events = await disk.log.read("b", after, 256, MANY)
        except CursorLost as lost:
            after = lost.first - 1
            continue
        read += [e.seq for e in events]
        after = read[-1]
    assert 90 <= len(read) < 100


@log_test
async def test_a_damaged_page_of_ephemeral_events(disk: SqliteWorld) -> None:
    """Whoever reads on below it gets past it: gaps are told, and what is behind them is read."""
    await make(disk.log)
    await asyncio.gather(*(disk.log.append("b", event(b"%d" % number, ephemeral=True)) for number in range(400)))
    await disk.log.append("b", event(b"last"))
    await disk.close()
    spoil_leaf(disk, b"input-1")
    await disk.reopen()
    gaps: list[tuple[int, str]] = []
    after = 0
    while after < 400:
        with pytest.raises(CursorLost) as lost:
            await disk.log.read("b", after, 256, MANY)
        gaps.append((lost.value.first, lost.value.reason))
        after = lost.value.first - 1
    assert [reason for _, reason in gaps] == ["ephemeral", "retention", "ephemeral"]
    assert (gaps[2][0], [each.body for each in await disk.log.read("b", 400, 9, MANY)]) == (401, [b"last"])


@log_test
async def test_a_damaged_size_makes_no_event_ephemeral(disk: SqliteWorld) -> None:
    """An event whose content is there is no stub, however large its row says that it is."""
    await make(disk.log, events=2)
    await disk.log.append("b", event(ephemeral=True))
    await restart(disk, "UPDATE event SET size = size + 4096 WHERE seq = 2")
    assert [each.stub for each in await disk.log.outline("b", 1, 3)] == [False, False, True]
    with pytest.raises(CursorLost) as lost:
        await disk.log.read("b", 2, 1, MANY)
    assert (lost.value.first, lost.value.reason) == (4, "ephemeral")


@log_test
async def test_a_head_that_is_far_too_high_keeps_no_reader(disk: SqliteWorld) -> None:
    """Whoever reads on behind the last event is told at once that nothing follows up to the head, and what comes
    behind it is read."""
    await make(disk.log, events=1000)
    await restart(disk, "UPDATE log SET head = 1 << 48")
    with pytest.raises(CursorLost) as lost:
        await disk.log.read("b", 1000, 10, MANY)
    assert lost.value.first == (1 << 48) + 1
    assert (await disk.log.append("b", event())).seq == (1 << 48) + 1
    await disk.reopen()
    with pytest.raises(CursorLost) as lost:
        await disk.log.read("b", 1000, 10, MANY)
    assert lost.value.first == (1 << 48) + 1
    assert len(await disk.log.read("b", 1 << 48, 10, MANY)) == 1


@log_test
@pytest.mark.parametrize("damage", ["DELETE FROM epoch WHERE log = 1", "UPDATE epoch SET log = 7 WHERE log = 1"])
async def test_a_log_without_an_epoch(disk: SqliteWorld, damage: str) -> None:
    """It is told, and gets a new one, which later starts know; positions from before are told a gap, and other logs go
    on as they were."""
    await make(disk.log)
    kept = await make(disk.log, "c")
    before = (await fill(disk.log, 3))[-1]
    await disk.close()
    with behind(disk) as raw:
        raw.execute(damage)
    with capture_logs() as logs:
        await disk.reopen()
    assert [(entry["event"], entry["bucket"]) for entry in logs] == [("log_without_epoch", "b")]
    bounds = await disk.log.bounds("b")
    (renewed,) = bounds.epochs
    assert (bounds.head, bounds.open, renewed.from_seq) == (3, False, 1)
    assert place_cursor(bounds, Cursor(before.epoch, 3)) == Placed(0, Gap("reset"))
    assert place_cursor(bounds, Cursor(renewed.epoch, 2)) == Placed(2)
    assert [each.epoch for each in (await disk.log.bounds("c")).epochs] == [kept]
    await disk.reopen()
    assert (await disk.log.bounds("b")).epochs == (renewed,)
    assert (await disk.log.append("b", event())).seq == 4


@log_test
async def test_a_log_without_an_epoch_after_an_error(faulty: SqliteWorld, faults: Faults) -> None:
    """Where the file is opened anew the other logs go on, and so does this one."""
    for bucket_id in ("b", "c"):
        await make(faulty.log, bucket_id, events=1)
    with behind(faulty) as raw:
        raw.execute("DELETE FROM epoch WHERE log = 2")
    faults.before = once("COMMIT", sqlite3.SQLITE_IOERR)
    with capture_logs() as logs:
        with pytest.raises(Unavailable):
            await faulty.log.append("b", event())
        await until(lambda: not faulty.database.problem)
        assert (await faulty.log.append("b", event())).seq == 2
    assert [entry["bucket"] for entry in logs if entry["event"] == "log_without_epoch"] == ["c"]
    assert (await faulty.log.append("c", event())).seq == 2
    held = (await faulty.log.bounds("c")).epochs
    await faulty.reopen()
    assert (await faulty.log.bounds("c")).epochs == held


@log_test
@pytest.mark.parametrize("value", ["NULL", "''", "x'00'", "1.5"])
@pytest.mark.parametrize("column", ["first", "head", "bytes", "last_at"])
async def test_a_number_of_a_log_that_is_none(disk: SqliteWorld, column: str, value: str) -> None:
    """Other logs are as they were; of this one what can be read is."""
    await make(disk.log)
    await make(disk.log, "damaged")
    for bucket_id in ("b", "damaged"):
        await fill(disk.log, 5, bucket_id)
    await disk.close()
    with behind(disk) as raw:
        (schema,) = raw.execute("SELECT sql FROM sqlite_schema WHERE name = 'log'").fetchone()
        for sql in (schema.replace(" STRICT", "").replace(" NOT NULL", ""), schema):
            raw.execute("PRAGMA writable_schema = ON")
            raw.execute("UPDATE sqlite_schema SET sql = ? WHERE name = 'log'", (sql,))
            raw.execute("PRAGMA writable_schema = RESET")
            if sql != schema:
                raw.execute("PRAGMA ignore_check_constraints = ON")
                raw.execute(f"UPDATE log SET {column} = {value} WHERE bucket = 'damaged'")
    await disk.reopen()
    held = {"b"} if column in ("first", "head") else {"b", "damaged"}
    assert set(await disk.log.buckets()) == held
    for bucket_id in held:
        assert len(await read_all(disk.log, bucket_id)) == 5
    places = [disk.log.append(each, event()) for each in ("b", "damaged", "b")]
    await asyncio.wait(places)
    assert isinstance(places[1].exception(), Malformed | BucketGone | None)
    assert [(await places[0]).seq, (await places[2]).seq] == [6, 7]
    await disk.log.trim("b", Retention(None, 1, None), None)
    assert len(await read_all(disk.log, after=6)) == 1


@log_test
async def test_a_reader_that_meets_a_trim_is_told_of_no_damage(io_loop: IOLoop, tmp_path: Path) -> None:
    """Rows that a trim took, committed but not announced yet, are CursorLost with the new first, and a gap `retention`
    for whoever asks for the bounds then; those of a log that was dropped, too, are BucketGone."""
    world = await SqliteWorld.open(tmp_path, tail=0, page_cache=0)
    await make(world.log, events=100)
    await make(world.log, "gone", events=100)
    keep = Retention(None, 40, None)
    with capture_logs() as logs:
        for bucket_id in ("b", "gone"):
            state = world.log._logs[bucket_id]
            await world.database.write(lambda raw, key=state.key: reclaim.delete_oldest(raw, key, keep, 1, None))
            assert state.first == 1
        with pytest.raises(CursorLost) as lost:
            await world.log.read("b", 10, 10, MANY)
        assert lost.value.first == 61
        assert gap_behind(await world.log.bounds("b"), 10, lost.value) == Gap("retention", 11, 60)
        await world.database.write(lambda raw: reclaim.drop(raw, state.key))
        with pytest.raises(BucketGone):
            await world.log.read("gone", 10, 10, MANY)
    assert logs == []
    await world.close()


@log_test
async def test_damage_of_one_bucket_refuses_no_others_events(
    disk: SqliteWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What shares a transaction with an event whose digest can't be looked up is stored all the same, and the file is
    opened anew once in a while, not each time."""
    monkeypatch.setattr("relay_tornado.storage.writer._DAMAGE_EVERY", 600.0)
    await make(disk.log)
    await make(disk.log, "damaged")
    await disk.close()
    with contextlib.closing(sqlite3.connect(disk.database.path)) as raw:
        (page,) = raw.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'dedupe'").fetchone()
        (size,) = raw.execute("PRAGMA page_size").fetchone()
    with disk.database.path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * 8)
    await disk.reopen()
    unique = event(b"x", dedupe=bytes(32), dedupe_window=60.0)
    with capture_logs() as logs:
        for _ in range(5):
            good = [disk.log.append("b", event(b"x")) for _ in range(2)]
            bad = [disk.log.append("damaged", unique) for _ in range(2)]
            good += [disk.log.append("b", event(b"x")) for _ in range(2)]
            await asyncio.wait([*good, *bad])
            assert all(isinstance(each.exception(), Malformed) for each in bad)
            seqs = [(await each).seq for each in good]
            assert seqs == list(range(seqs[0], seqs[0] + 4))
    assert (await disk.log.bounds("b")).head == 20
    assert [entry["event"] for entry in logs] == ["commit_failed"]


@log_test
async def test_a_head_that_is_too_low_refuses_no_others_events(
    disk: SqliteWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its log takes none, as its next seqs are taken; what comes to another one is stored, and the file is opened anew
    once in a while."""
    monkeypatch.setattr("relay_tornado.storage.writer._DAMAGE_EVERY", 600.0)
    await make(disk.log)
    await make(disk.log, "damaged", events=20)
    await restart(disk, "UPDATE log SET head = 10 WHERE bucket = 'damaged'")
    with capture_logs() as logs:
        for _ in range(5):
            good = [disk.log.append("b", event()) for _ in range(2)]
            bad = [disk.log.append("damaged", event()) for _ in range(2)]
            await asyncio.wait([*good, *bad])
            assert all(isinstance(each.exception(), Malformed) for each in bad)
            seqs = [(await each).seq for each in good]
            assert seqs == list(range(seqs[0], seqs[0] + 2))
    assert (await disk.log.bounds("b")).head == 10
    assert [entry["event"] for entry in logs] == ["commit_failed"]


@log_test
async def test_an_entry_of_the_index_that_leads_to_no_result(disk: SqliteWorld) -> None:
    """It can't be removed with its event; what else is to leave does, also where the log is dropped."""
    await make(disk.log, events=6)
    results = SqliteResults(disk.database, disk.settings)
    for seq in (2, 3, 4):
        await results.record("b", seq, 0, sent(1.5))
    await results.close()
    await disk.close()
    data = disk.database.path.read_bytes()
    # An entry as SQLite writes it: log 1 and output 0 (which take no byte), the seq and the rowid in one byte each.
    entry, other = (bytes((5, 9, 1, 8, 1, 3, rowid)) for rowid in (2, 66))
    assert data.count(entry) == 1
    disk.database.path.write_bytes(data.replace(entry, other))
    await disk.reopen()

    async def left() -> list[int]:
        """What is in the table itself."""
        return await disk.database.read(lambda raw: [row for row, _ in raw.execute("SELECT id, body FROM delivery")])

    assert await disk.log.trim("b", Retention(None, 3, None), None) == 3
    assert await left() == [2, 3]
    await disk.log.drop("b")
    await until(lambda: not disk.log._trimming._purges, "the rows of the log to leave")
    assert await left() == [2]
    assert await disk.database.read(lambda raw: raw.execute("SELECT id FROM log").fetchall()) == []


@log_test
@pytest.mark.parametrize("column", ["attempts", "since"])
async def test_what_is_parked_and_damaged_leaves_with_its_event(disk: SqliteWorld, column: str) -> None:
    """It becomes a dead letter as any other, with what is still known of it: retention goes on behind it."""
    await make(disk.log, events=20)
    key, store = Key("b", "client", "worker"), SqliteConsumers(disk.database)
    await store.create(key, 0, Terms(), 1.0)
    store.save(key, lambda: Changes(5, (), False, {2: Parked(1, 5.0, 1.0), 3: Parked(1, 5.0, 1.0)}))
    await store.saved()
    await disk.close()
    strict = "UPDATE sqlite_schema SET sql = replace(sql, '{}', '{}') WHERE name = 'parked'"
    loosened = [strict.format(") STRICT, WITHOUT", ") WITHOUT"), strict.format(" NOT NULL,\n", " ,\n")]
    for statements in (loosened, [f"UPDATE parked SET {column} = 'x' WHERE seq = 2"]):
        with behind(disk) as raw:
            raw.execute("PRAGMA writable_schema = ON")
            for statement in statements:
                raw.execute(statement)
    await disk.reopen()
    assert await disk.log.trim("b", Retention(None, 4, None), None) == 16
    store = SqliteConsumers(disk.database)
    letters = await store.dead("b", key, 0, 10)
    assert [(each.seq, each.reason) for each in letters] == [(2, RETENTION), (3, RETENTION)]
