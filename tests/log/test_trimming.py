"""relay_tornado/log/trimming.py: what retention takes, over each engine; and how rows leave the file."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from typing import Any

import pytest

from relay_tornado.errors import CursorLost
from relay_tornado.log import reclaim, size_check
from relay_tornado.log.lineage import Placed, place_cursor
from relay_tornado.model import Cursor, Retention
from tests.log.worlds import MANY, SqliteWorld, World, event, fill, make, read_all
from tests.waiting import until

log_test = pytest.mark.gen_test


@log_test
async def test_trim_by_count(world: World) -> None:
    """The newest `max_events` stay; readers before them get CursorLost with the first that is there."""
    await make(world.log, events=600)
    assert await world.log.trim("b", Retention(None, 100, None), None) == 500
    assert [e.seq for e in await read_all(world.log, after=500)] == list(range(501, 601))
    for after in (0, 100, 499):
        with pytest.raises(CursorLost) as lost:
            await world.log.read("b", after, 10, MANY)
        assert lost.value.first == 501
    assert await world.log.trim("b", Retention(None, 100, None), None) == 0
    assert await world.log.trim("b", Retention(None, 0, None), None) == 100
    bounds = await world.log.bounds("b")
    assert (bounds.first, bounds.head) == (601, 600)
    assert list(await world.log.read("b", 600, 10, MANY)) == []
    assert (await world.log.append("b", event())).seq == 601
    await world.reopen()
    assert [e.seq for e in await read_all(world.log, after=600)] == [601]


@log_test
async def test_an_emptied_log_remembers_its_head(world: World) -> None:
    """Seqs go on where they were, over a restart with no event left: none is ever used twice."""
    epoch = await make(world.log, events=5)
    await world.log.trim("b", Retention(None, 0, None), None)
    await world.reopen()
    bounds = await world.log.bounds("b")
    assert (bounds.first, bounds.head) == (6, 5)
    assert place_cursor(bounds, Cursor(epoch, 5)) == Placed(5)
    assert (await world.log.append("b", event())).seq == 6


@log_test
async def test_trim_by_bytes(world: World) -> None:
    """The newest events that fit in `max_bytes` stay, exactly."""
    await make(world.log)
    size = event(b"1" * 100).size
    await fill(world.log, 700, size=100)
    assert await world.log.trim("b", Retention(None, None, 10 * size), None) == 690
    assert await world.log.trim("b", Retention(None, None, 10 * size - 1), None) == 1
    await world.log.append("b", event(b"1" * 100))
    await world.reopen()
    assert await world.log.trim("b", Retention(None, None, 10 * size), None) == 0
    assert await world.log.trim("b", Retention(None, None, 0), None) == 10


@log_test
async def test_a_log_that_is_dropped_meanwhile(disk: SqliteWorld) -> None:
    """The drop is the transaction before a step's: nothing is left to leave."""
    await make(disk.log, events=600)
    _, left = await asyncio.gather(disk.log.drop("b"), disk.log.trim("b", Retention(None, 599, None), None))
    assert left == 0


@log_test
async def test_what_a_log_holds_is_counted_once(disk: SqliteWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not before each step: it reads all of it. Nor before little leaves."""
    await make(disk.log, events=600)
    counted: list[object] = []
    difference = size_check.difference

    def count(*arguments: Any) -> Any:
        counted.append(arguments)
        return difference(*arguments)

    monkeypatch.setattr(size_check, "difference", count)
    assert await disk.log.trim("b", Retention(None, None, disk.log.held("b").bytes - 1), None) == 1
    assert len(counted) == 0
    assert await disk.log.trim("b", Retention(None, None, 0), None) == 599
    assert len(counted) == 1


@log_test
async def test_trim_by_age(world: World) -> None:
    """Events that are older than `max_age` leave."""
    await make(world.log, events=5)
    assert await world.log.trim("b", Retention(3600.0, None, None), None) == 0
    await asyncio.sleep(0.05)
    assert await world.log.trim("b", Retention(0.01, None, None), None) == 5
    assert await world.log.trim("b", Retention(0.01, None, None), None) == 0


@log_test
async def test_no_more_than_the_old_events_leave_by_age(disk: SqliteWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one that is young enough stays, and no older one does."""
    now = time.time()
    with monkeypatch.context() as patch:
        patch.setattr("time.time", lambda: now - 7200.0)
        await make(disk.log, events=4)
    await fill(disk.log, 3)
    assert await disk.log.trim("b", Retention(3600.0, None, None), None) == 4
    assert (await disk.log.bounds("b")).first == 5


@log_test
async def test_trim_by_the_strictest_limit(world: World) -> None:
    """Whichever limit is met first counts."""
    await make(world.log, events=50)
    size = event().size
    assert await world.log.trim("b", Retention(3600.0, 40, 30 * size), None) == 20
    assert await world.log.trim("b", Retention(3600.0, 25, 30 * size), None) == 5


@log_test
async def test_a_floor_stays(world: World) -> None:
    """What lies at or above `floor` is kept, whatever the limits say."""
    await make(world.log, events=600)
    assert await world.log.trim("b", Retention(None, 10, None), 300) == 299
    assert (await world.log.bounds("b")).first == 300
    assert await world.log.trim("b", Retention(None, 10, None), 300) == 0
    assert await world.log.trim("b", Retention(None, 10, None), 1) == 0
    assert await world.log.trim("b", Retention(None, 0, None), 5000) == 301
    assert (await world.log.bounds("b")).first == 601


@log_test
async def test_trimming_while_others_read_and_append(world: World) -> None:
    """Readers see dense runs or are told where to go on; appenders see dense seqs."""
    await make(world.log, events=1000)
    stop = False

    async def reader() -> int:
        after = pages = 0
        while not stop:
            try:
                events = await world.log.read("b", after, 50, MANY)
            except CursorLost as lost:
                after = lost.first - 1
                continue
            assert [e.seq for e in events] == list(range(after + 1, after + 1 + len(events)))
            assert all(int(e.body) == e.seq for e in events)
            after = events[-1].seq if events else 0
            pages += 1
            await asyncio.sleep(0)
        return pages

    async def appender() -> None:
        for seq in range(1001, 1301):
            assert (await world.log.append("b", event(b"%d" % seq))).seq == seq

    readers = [asyncio.create_task(reader()) for _ in range(4)]
    appending = asyncio.create_task(appender())
    left = 0
    for keep in range(900, 0, -100):
        left += await world.log.trim("b", Retention(None, keep, None), None)
        await asyncio.sleep(0)
    await appending
    stop = True
    assert min(await asyncio.gather(*readers)) > 0
    bounds = await world.log.bounds("b")
    assert (bounds.first, bounds.head) == (left + 1, 1300)
    assert [e.seq for e in await read_all(world.log, after=left)] == list(range(left + 1, 1301))


# on SQLite


@log_test
async def test_bytes_are_exact(disk: SqliteWorld) -> None:
    """`bytes` is the sum of the sizes kept, through appends, trims and restarts."""
    await make(disk.log)

    async def check() -> None:
        stored, held = await disk.database.read(
            lambda raw: raw.execute("SELECT (SELECT coalesce(sum(size), 0) FROM event), bytes FROM log").fetchone()
        )
        assert stored == held == disk.log._logs["b"].bytes

    for keep in (500, 100, 3, 0):
        await fill(disk.log, 300, size=keep + 10)
        await check()
        await disk.log.trim("b", Retention(None, keep, None), None)
        await check()
        await disk.reopen()
        await check()


@log_test
async def test_a_trim_gives_way_to_appends(disk: SqliteWorld) -> None:
    """A long trim goes in steps; appends are committed between them."""
    await make(disk.log, events=5000)
    trimming = asyncio.ensure_future(disk.log.trim("b", Retention(None, 0, None), None))
    firsts = set()
    for _ in range(8):
        await disk.log.append("b", event())
        firsts.add((await disk.log.bounds("b")).first)
    assert len(firsts) > 3
    assert await trimming >= 5000


@log_test
async def test_a_trim_that_finds_nothing_writes_nothing(disk: SqliteWorld) -> None:
    """A relay that nobody uses leaves its disk alone."""
    await make(disk.log, events=5)
    size = event().size
    before = disk.database.commits
    for keep in (Retention(3600.0, 5, 5 * size), Retention(None, None, None)):
        assert await disk.log.trim("b", keep, None) == 0
    assert disk.database.commits == before


@log_test
async def test_a_drop_that_was_cut_off_goes_on(disk: SqliteWorld) -> None:
    """The rows of a dropped log leave in the background, and after a restart where they are left over."""
    await make(disk.log, events=3000)
    await disk.log.append("b", event(dedupe=b"d", dedupe_window=100.0))
    await disk.log.drop("b")
    await disk.close()
    with contextlib.closing(sqlite3.connect(disk.database.path)) as raw:
        assert raw.execute("SELECT count(*) FROM event").fetchone()[0] > 0
        assert raw.execute("SELECT dropped, first, head FROM log").fetchall() == [(1, 3002, 3001)]
    await disk.reopen()
    await make(disk.log, events=2)
    count = "SELECT (SELECT count(*) FROM log) = 1"
    await until(lambda: disk.database.read(lambda raw: bool(raw.execute(count).fetchone()[0])))
    counts = await disk.database.read(
        lambda raw: raw.execute("SELECT (SELECT count(*) FROM event), (SELECT count(*) FROM dedupe)").fetchone()
    )
    assert counts == (2, 0)


@log_test
async def test_an_event_larger_than_a_step_leaves_in_one(disk: SqliteWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a trim, and with its log, of which nothing stays."""
    monkeypatch.setattr(reclaim, "STEP_BYTES", 10)
    await make(disk.log, events=5)
    assert await disk.log.trim("b", Retention(None, 2, None), None) == 3
    await disk.log.drop("b")
    left = "SELECT (SELECT count(*) FROM log), (SELECT count(*) FROM event)"
    await until(lambda: not disk.log._trimming._purges)
    assert await disk.database.read(lambda raw: raw.execute(left).fetchone()) == (0, 0)


@log_test
async def test_a_step_takes_no_more_than_its_bytes(disk: SqliteWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Appends wait for no more than that, by a trim as for a log that is gone."""
    await make(disk.log, events=20)
    monkeypatch.setattr(reclaim, "STEP_BYTES", disk.log.held("b").bytes * 3 // 20)
    before = disk.database.commits
    assert await disk.log.trim("b", Retention(None, 10, None), None) == 10
    assert disk.database.commits == before + 4
    await disk.log.drop("b")
    await until(lambda: not disk.log._trimming._purges)
    assert disk.database.commits == before + 4 + 1 + 5


@log_test
async def test_many_logs_that_are_gone_hold_up_nobody(disk: SqliteWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever commits something meanwhile waits for a step of one of them, not of each."""
    monkeypatch.setattr(reclaim, "STEP_EVENTS", 3)
    dropped = [f"b{number}" for number in range(20)]
    for bucket_id in dropped:
        await make(disk.log, bucket_id, events=10)
    await asyncio.gather(*map(disk.log.drop, dropped))
    await asyncio.sleep(0)  # the purges begin
    for _ in range(5):
        before = disk.database.commits
        await disk.database.write(lambda raw: None)
        assert disk.database.commits <= before + 2
    assert len(disk.log._trimming._purges) > 10
    await until(lambda: not disk.log._trimming._purges)
    left = "SELECT (SELECT count(*) FROM log), (SELECT count(*) FROM event)"
    assert await disk.database.read(lambda raw: raw.execute(left).fetchone()) == (0, 0)


@log_test
async def test_equal_digests_of_another_log_stay(disk: SqliteWorld) -> None:
    """Whether a window is over or a log is gone: senders may send the same to two buckets."""
    for bucket_id, window in (("b", 0.0), ("c", 100.0), ("d", 100.0)):
        await make(disk.log, bucket_id)
        await disk.log.append(bucket_id, event(dedupe=b"d", dedupe_window=window))
    await asyncio.sleep(0.01)
    await disk.log.forget_repeats("b")
    await disk.log.drop("d")
    await until(lambda: not disk.log._trimming._purges)
    left = "SELECT bucket FROM dedupe JOIN log ON log.id = dedupe.log"
    assert await disk.database.read(lambda raw: raw.execute(left).fetchall()) == [("c",)]


@log_test
async def test_digests_leave_with_their_log(disk: SqliteWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many steps it takes: of a log that is gone, nothing is left that no step would find any more."""
    monkeypatch.setattr(reclaim, "STEP_EVENTS", 3)
    await make(disk.log)
    for n in range(8):
        await disk.log.append("b", event(dedupe=b"%d" % n, dedupe_window=100.0))
    await disk.log.drop("b")
    await until(lambda: not disk.log._trimming._purges)
    left = "SELECT (SELECT count(*) FROM log), (SELECT count(*) FROM event), (SELECT count(*) FROM dedupe)"
    assert await disk.database.read(lambda raw: raw.execute(left).fetchone()) == (0, 0, 0)


@log_test
async def test_digests_leave_with_their_window(disk: SqliteWorld) -> None:
    """Those whose window is over are removed, and no others; a trim removes none."""
    await make(disk.log)
    for n in range(600):
        disk.log.append("b", event(dedupe=b"%d" % n, dedupe_window=0.0))
    await disk.log.append("b", event(dedupe=b"long", dedupe_window=100.0))
    await asyncio.sleep(0.01)

    async def left() -> list[bytes]:
        return [
            row[0] for row in await disk.database.read(lambda raw: raw.execute("SELECT hash FROM dedupe").fetchall())
        ]

    await disk.log.trim("b", Retention(None, None, None), None)
    assert len(await left()) == 601
    await disk.log.forget_repeats("b")
    assert await left() == [b"long"]
