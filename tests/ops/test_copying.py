"""relay_tornado/ops/copying.py: a copy is one committed state, whatever comes and leaves between its steps."""

from __future__ import annotations

import asyncio
import itertools
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from relay_tornado.errors import NoSpace
from relay_tornado.log.sqlite import SqliteEventLog
from relay_tornado.model import Retention
from relay_tornado.ops import backup, backup_schedule, copying
from relay_tornado.ops.backup import make
from relay_tornado.ops.check import check
from relay_tornado.ops.opening import open_file
from relay_tornado.ops.restore import restore
from relay_tornado.settings import Settings
from relay_tornado.storage.database import Database
from relay_tornado.storage.lock import Lock
from tests.ops.filling import change, event, fill, quiet, rows


def _copy(source: Path, part: Path) -> None:
    """Copies in steps."""
    descriptor = os.open(part, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        with closing(open_file(source)) as reader:
            copying.in_steps(reader, source.parent, part, descriptor, quiet, 1 << 40)
    finally:
        os.close(descriptor)


def test_steps_make_a_state_that_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While events are appended and trimmed and buckets dropped between the steps, the copy is one committed state,
    with all that was there when it began, and sound."""
    fill(tmp_path / "data", "gone", 600)
    bucket = fill(tmp_path / "data", "orders", 2000)
    settings = replace(Settings(), data=tmp_path / "data")
    part = tmp_path / "part"
    descriptor = os.open(part, os.O_CREAT | os.O_RDWR, 0o600)
    changes = 0

    async def run() -> None:
        database = await Database.open(settings)
        log = await SqliteEventLog.open(database, settings)
        loop = asyncio.get_running_loop()
        gone = next(each for each in await log.buckets() if each != bucket.id)

        async def churn() -> None:
            nonlocal changes
            changes += 1
            await asyncio.gather(*(log.append(bucket.id, event(bucket, 2000 + changes)) for _ in range(5)))
            if changes == 2:
                await log.trim(bucket.id, Retention(max_age=None, max_events=1500, max_bytes=None), None)
            if changes == 4:
                await log.drop(gone)

        def step(pace: copying.Pace) -> float:
            asyncio.run_coroutine_threadsafe(churn(), loop).result(30)
            return 1e-9 if changes > 10 else 1.0

        monkeypatch.setattr(copying.Pace, "step", step)

        def copy() -> None:
            with closing(open_file(settings.data / "relay.db")) as raw:
                copying.in_steps(raw, settings.data, part, descriptor, quiet, 1 << 40)

        await asyncio.to_thread(copy)
        await log.close()
        await database.close()

    try:
        asyncio.run(run())
    finally:
        os.close(descriptor)
    assert changes > 6
    report = check(part, quiet)
    assert report.findings == [] or {f.kind for f in report.findings} == {"log"}, report.findings
    head, first, log = rows(part, "SELECT head, first, id FROM log WHERE dropped = 0")[0]
    assert head >= 2000
    assert first > 1
    (counted,) = rows(part, "SELECT count(*) FROM event WHERE log = ?", log)
    assert counted == (head - first + 1,)
    found = dict(rows(settings.data / "relay.db", "SELECT seq, body FROM event WHERE log = ?", log))
    copied = dict(rows(part, "SELECT seq, body FROM event WHERE log = ?", log))
    assert all(found.get(seq, body) == body for seq, body in copied.items())


def test_the_last_rows_are_of_one_moment(tmp_path: Path) -> None:
    """Events that leave after the small tables were copied are in the copy, as its log says that it has them."""
    fill(tmp_path / "data", "orders", 30)
    source, part = tmp_path / "data" / "relay.db", tmp_path / "part"
    descriptor = os.open(part, os.O_CREAT | os.O_RDWR, 0o600)
    left: list[str] = []

    def meanwhile(statement: str) -> None:
        if statement.startswith("DELETE FROM copy.sqlite_sequence"):
            left.append(statement)
            change(source, "UPDATE log SET first = 11", "DELETE FROM event WHERE seq < 11")

    try:
        with closing(open_file(source)) as reader:
            reader.set_trace_callback(meanwhile)
            copying.in_steps(reader, source.parent, part, descriptor, quiet, 1 << 40)
    finally:
        os.close(descriptor)
    assert len(left) == 1
    assert rows(source, "SELECT count(*) FROM event") == [(20,)]
    assert rows(part, "SELECT first, (SELECT count(*) FROM event) FROM log") == [(1, 30)]


def test_deliveries_whose_ids_are_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the steps the newest leave, and others get their ids, also such as were free: the copy has what the file
    has at the end, whichever steps that concerns."""
    source, part = tmp_path / "data" / "relay.db", tmp_path / "part"
    fill(tmp_path / "data", "orders", 5)
    insert = (
        "INSERT INTO delivery (id, log, seq, output, at, status, status_code, duration_ms, retries, headers, body)"
        " VALUES (?, 1, ?, 0, ?, ?, 200, 1, 0, '{}', x'')"
    )
    step = copying.Pace.step
    with closing(sqlite3.connect(source, isolation_level=None)) as raw:
        for number in range(1, 200):
            raw.execute(insert, (number, 1, number, "failed"))
        raw.execute("DELETE FROM delivery WHERE id IN (20, 150)")
        steps = 0

        def meanwhile(pace: copying.Pace) -> float:
            nonlocal steps
            steps += 1
            if rows(part, "SELECT count(*) FROM delivery") == [(197,)]:
                raw.execute("DELETE FROM delivery WHERE id = 3 OR id >= 140")
                for number in range(140, 260):
                    # Some differ from those before them in their event alone.
                    raw.execute(insert, (None, 2, number, "sent") if number % 2 else (None, 1, 1000, "sent"))
            return step(pace)

        monkeypatch.setattr(copying.Pace, "step", meanwhile)
        _copy(source, part)
    assert steps > 3
    there = rows(part, "SELECT * FROM delivery ORDER BY id")
    assert there == rows(source, "SELECT * FROM delivery ORDER BY id")
    assert (len(there), sum(row[5] == "sent" for row in there)) == (257, 120)


def test_rows_that_come_faster_than_they_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy ends on a machine that is too slow for it: each step copies less than comes meanwhile. It has all that was
    there at the end, and rested less with each pass."""
    source, part = tmp_path / "data" / "relay.db", tmp_path / "part"
    fill(tmp_path / "data", "orders", 200)
    rests: list[float] = []
    insert = (
        "INSERT INTO delivery (log, seq, output, at, status, status_code, duration_ms, retries, headers, body)"
        " SELECT 1, seq, 0, 1.0, 'failed', 200, 1, 0, '{}', x'' FROM event WHERE seq <= 20"
    )
    with closing(sqlite3.connect(source, isolation_level=None)) as raw:

        def meanwhile(pace: copying.Pace) -> float:
            rests.append(pace.rest_factor)
            assert len(rests) < 3_000, "it never ends"
            raw.execute(insert)
            return 1.0

        monkeypatch.setattr(copying.Pace, "step", meanwhile)
        _copy(source, part)
    assert list(dict.fromkeys(rests)) == list(copying.REST_FACTORS)
    counted = rows(part, "SELECT (SELECT count(*) FROM event), (SELECT count(*) FROM delivery)")
    assert counted == [(200, 20 * len(rests))]


@pytest.mark.parametrize("serves", [True, False])
def test_it_rests_for_a_relay_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serves: bool) -> None:
    """A backup pauses behind each step where a relay runs on the directory, and a restore of it never does: nobody
    is there whom it could disturb."""
    fill(tmp_path / "data", "orders", 200)
    rests: list[float] = []
    monkeypatch.setattr("relay_tornado.ops.copying.time.sleep", rests.append)
    held = Lock.acquire(tmp_path / "data")
    if not serves:
        held.release()
    make(tmp_path / "data" / "relay.db", tmp_path / "b.db", quiet)
    held.release()
    assert bool(rests) == serves
    rests.clear()
    restore(tmp_path / "b.db", tmp_path / "new", quiet)
    assert rests == []


def test_it_rests_for_no_longer_than_its_schedule_has_patience(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that a disk held up for minutes is no reason to do nothing for several times as long: that would look as
    if it got no further."""
    fill(tmp_path / "data", "orders", 20)
    rests: list[float] = []
    clock = SimpleNamespace(monotonic=partial(next, itertools.count(0.0, 200.0)), sleep=rests.append)
    monkeypatch.setattr(copying, "time", clock)
    held = Lock.acquire(tmp_path / "data")
    make(tmp_path / "data" / "relay.db", tmp_path / "b.db", quiet)
    held.release()
    assert rests
    assert max(rests) < backup_schedule.LOOK


@pytest.mark.parametrize(
    ("took", "sizes"), [(copying.STEP / 4, [64, 128, 256, 252]), (copying.STEP * 4, [64, 16, *[8] * 3])]
)
def test_a_step_takes_as_long_as_it_should(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, took: float, sizes: list[int]
) -> None:
    """It has more rows where the one before was fast, and fewer where it was slow: none holds the WAL for long."""
    fill(tmp_path / "data", "orders", 700 if took < copying.STEP else 104)
    part = tmp_path / "part"
    monkeypatch.setattr(copying, "time", SimpleNamespace(monotonic=partial(next, itertools.count(0.0, took))))
    step = copying.Pace.step
    ends = [0]

    def note(pace: copying.Pace) -> float:
        ends.append(rows(part, "SELECT count(*) FROM event")[0][0])
        return step(pace)

    monkeypatch.setattr(copying.Pace, "step", note)
    _copy(tmp_path / "data" / "relay.db", part)
    assert [end - begin for begin, end in itertools.pairwise(ends)][: len(sizes)] == sizes


@pytest.mark.parametrize("way", [copying.in_steps, copying.by_pages])
def test_it_is_written_to_the_disk_by_and_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: Callable[..., None]
) -> None:
    """In portions that delay nobody's commit, and none that are smaller: each waits for the disk."""
    fill(tmp_path / "data", "orders", 3000, 1500)
    source, part = tmp_path / "data" / "relay.db", tmp_path / "part"
    portions = [0]
    monkeypatch.setattr(copying, "write_out", lambda descriptor: portions.append(os.fstat(descriptor).st_size))
    told: list[tuple[int, int]] = []
    descriptor = os.open(part, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        with closing(open_file(source)) as reader:
            way(reader, source.parent, part, descriptor, lambda _, done, total: told.append((done, total)), 1 << 40)
    finally:
        os.close(descriptor)
    assert len(portions) > 3
    assert all(end - begin >= copying.SYNC for begin, end in itertools.pairwise(portions))
    size = source.stat().st_size
    assert told == [(min(each, size), size) for each in portions[1:]]


@pytest.mark.parametrize("way", [copying.in_steps, copying.by_pages])
def test_the_room_is_just_enough(tmp_path: Path, way: Callable[..., None]) -> None:
    """A copy that needs one byte more than it may take is not begun. Either way, the connection is as it was before: no
    transaction of it keeps the WAL, and the copy is not open any more."""
    fill(tmp_path / "data", "orders", 30)
    source = tmp_path / "data" / "relay.db"
    needed = source.stat().st_size
    with closing(open_file(source)) as reader:
        for room, enough in ((needed - 1, False), (needed, True)):
            part = tmp_path / f"part{room}"
            descriptor = os.open(part, os.O_CREAT | os.O_RDWR, 0o600)
            try:
                with nullcontext() if enough else pytest.raises(NoSpace):
                    way(reader, source.parent, part, descriptor, quiet, room)
            finally:
                os.close(descriptor)
            assert (part.stat().st_size > 0) == enough
            assert not reader.in_transaction
            assert [name for _, name, _ in reader.execute("PRAGMA database_list")] == ["main"]


@pytest.mark.parametrize("way", [copying.in_steps, copying.by_pages])
def test_a_copy_gives_its_space_back_as_its_source_does(tmp_path: Path, way: Callable[..., None]) -> None:
    """The size of the pages and how free ones leave the file are those of the source: neither is changed later."""
    fill(tmp_path / "data", "orders", 3)
    source, part = tmp_path / "data" / "relay.db", tmp_path / "part"
    descriptor = os.open(part, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        with closing(open_file(source)) as reader:
            way(reader, source.parent, part, descriptor, quiet, 1 << 40)
    finally:
        os.close(descriptor)
    for name in ("page_size", "auto_vacuum", "user_version"):
        assert rows(part, f"PRAGMA {name}") == rows(source, f"PRAGMA {name}") != [(0,)]


@pytest.mark.parametrize("way", [copying.in_steps, copying.by_pages])
def test_a_copy_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: Callable[..., None]
) -> None:
    """All of it: a power failure leaves no part of a backup, nor of what was restored from one, under its name."""
    fill(tmp_path / "data", "orders", 30)
    synced: list[tuple[int, int]] = []
    sync, replace_by = os.fsync, Path.replace

    def note(descriptor: int) -> None:
        sync(descriptor)
        found = os.fstat(descriptor)
        synced.append((found.st_ino, found.st_size))

    def name(path: Path, target: Path) -> Path:
        found = path.stat()
        assert (found.st_ino, found.st_size) in synced, target
        return replace_by(path, target)

    monkeypatch.setattr(backup, "_WAYS", (way,))
    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(Path, "replace", name)
    make(tmp_path / "data" / "relay.db", tmp_path / "b.db", quiet)
    restore(tmp_path / "b.db", tmp_path / "new", quiet)
    here = {(tmp_path / each).stat().st_ino for each in (".", "new", "b.db", "new/relay.db")}
    assert here <= {number for number, _ in synced}
