"""The event log on SQLite: batches, order of publication, and what a drop leaves to do."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from tornado.ioloop import IOLoop

from relay_tornado.errors import BucketGone, Overloaded, Unavailable, Unknown
from relay_tornado.log import appends, reclaim, rows
from relay_tornado.log.appends import Appends, Batch
from relay_tornado.log.batch import Entry
from relay_tornado.log.lineage import Placed, place_cursor
from relay_tornado.log.pages import Block
from relay_tornado.log.state import LogState
from relay_tornado.log.tail import Tail
from relay_tornado.model import Appended, Bounds, Cursor, Gap, NewEvent
from relay_tornado.storage import writer as writers
from tests.failing import once as fails_once
from tests.log.worlds import MANY, SqliteWorld, event, fill, make, read_all
from tests.storage.faults import Faults
from tests.waiting import until

log_test = pytest.mark.gen_test


@log_test
async def test_whoever_sends_again_soon_shares_a_commit(disk: SqliteWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes in a turn of the loop or two after the answers goes into one transaction, however many senders."""
    monkeypatch.setattr(writers, "_GATHER", 60.0)
    await make(disk.log)

    async def sender(turns: int) -> None:
        for _ in range(10):
            await disk.log.append("b", event())
            for _ in range(turns):
                await asyncio.sleep(0)

    before = disk.database.commits
    await asyncio.gather(*(sender(number % 3) for number in range(60)))
    assert disk.database.commits - before <= 12
    assert (await disk.log.bounds("b")).head == 600


@log_test
async def test_logs_that_are_made_or_dropped_at_once_share_a_commit(disk: SqliteWorld) -> None:
    """And events that wait in one of them are stored, or told that it is gone."""
    before = disk.database.commits
    made = [f"b{number}" for number in range(20)]
    await asyncio.gather(*(disk.log.create(bucket_id, f"epoch{number:07}") for number, bucket_id in enumerate(made)))
    assert disk.database.commits == before + 1
    assert {(await disk.log.bounds(bucket_id)).head for bucket_id in made} == {0}
    appending = [asyncio.ensure_future(disk.log.append(bucket_id, event())) for bucket_id in made]
    await asyncio.gather(*map(disk.log.drop, made))
    assert disk.database.commits <= before + 3
    found = await asyncio.gather(*appending, return_exceptions=True)
    assert {type(one) for one in found} <= {Appended, BucketGone}
    await until(lambda: not disk.log._trimming._purges)


@log_test
async def test_nothing_goes_into_a_log_that_was_dropped(faulty: SqliteWorld, faults: Faults) -> None:
    """Not either where its events are tried one by one, since one of them could not be stored."""
    await make(faulty.log)
    await make(faulty.log, "c")
    appends = [
        asyncio.ensure_future(faulty.log.append(of, event(b"%d" % n, method="\ud800" if n == 1 else "POST")))
        for n, of in enumerate("bbcc")
    ]
    await asyncio.sleep(0)
    drop = asyncio.ensure_future(faulty.log.drop("b"))
    found = await asyncio.gather(*appends, return_exceptions=True)
    await drop
    stored = [one for one in found if not isinstance(one, BaseException)]
    assert [one.seq for one in stored[-2:]] == [1, 2]
    assert isinstance(found[1], Unavailable | BucketGone)
    held = "SELECT count(*) FROM event JOIN log ON log.id = event.log WHERE dropped = 1 AND seq > head"
    assert await faulty.database.read(lambda raw: raw.execute(held).fetchone()[0]) == 0
    await until(lambda: not faulty.log._trimming._purges)


@log_test
async def test_events_that_wait_when_their_log_is_dropped_are_told_that_it_is_gone(
    disk: SqliteWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those beside them are stored, and no error of the file is made of it."""
    await make(disk.log)
    await make(disk.log, "c")
    loop, sent, drop = asyncio.get_running_loop(), list[asyncio.Future[Appended]](), reclaim.drop

    def drop_as_they_come(raw: sqlite3.Connection, key: int) -> None:
        loop.call_soon_threadsafe(lambda: sent.extend(disk.log.append(of, event()) for of in "cbcb"))
        drop(raw, key)

    monkeypatch.setattr(reclaim, "drop", drop_as_they_come)
    with capture_logs() as logs:
        await disk.log.drop("b")
        found = await asyncio.gather(*sent, return_exceptions=True)
    assert [each.seq if isinstance(each, Appended) else type(each) for each in found] == [1, BucketGone, 2, BucketGone]
    assert logs == []


@log_test
async def test_which_commits_are_quick(disk: SqliteWorld) -> None:
    """Those of a few logs and not many bytes, that look for no digest."""
    await make(disk.log)
    state = disk.log._logs["b"]
    others = [LogState(1000 + key, f"o{key}", state.epochs, True) for key in range(64)]
    cold = LogState(2000, "cold", state.epochs, True)
    cold.last_at = time.time() - 100
    for warm in (state, *others):
        warm.last_at = time.time() - 10

    def quick(*added: tuple[LogState, NewEvent]) -> bool:
        entries = [Entry(of, new, new.size, lambda outcome: None) for of, new in added]
        return Batch(disk.log._appends, entries).quick()

    small = event(b"x")
    assert quick((state, small))
    assert quick(*[(state, small)] * 256)
    assert not quick(*[(state, small)] * 257)
    assert not quick((state, small), (cold, small))
    assert quick(*((other, small) for other in others))
    assert not quick((state, small), *((other, small) for other in others))
    assert not quick((state, event(b"x" * (257 << 10))))
    assert not quick((state, small), (state, event(b"x", dedupe=b"digest")))


@log_test
async def test_what_is_queued_goes_into_one_commit(disk: SqliteWorld) -> None:
    """Appends that come together cost one transaction; one that comes alone waits for nobody."""
    await make(disk.log)
    before = disk.database.commits
    await fill(disk.log, 200)
    assert disk.database.commits == before + 1
    await disk.log.append("b", event())
    assert disk.database.commits == before + 2


@log_test
async def test_a_commit_is_bounded(io_loop: IOLoop, tmp_path: Path) -> None:
    """At most `commit_events` rows and `commit_bytes` bytes, but a larger event goes alone."""
    world = await SqliteWorld.open(tmp_path, commit_events=10, commit_bytes=1000)
    await make(world.log)
    before = world.database.commits
    await fill(world.log, 35)
    assert world.database.commits == before + 4
    await fill(world.log, 6, size=400)
    assert world.database.commits == before + 4 + 3
    await fill(world.log, 2, size=5000)
    assert world.database.commits == before + 4 + 3 + 2
    await world.close()


@log_test
async def test_meta_counts_every_event(disk: SqliteWorld) -> None:
    """`appended` grows by the events stored, not by repeats or failures."""
    await make(disk.log, events=5)
    for _ in range(2):
        await disk.log.append("b", event(dedupe=b"d", dedupe_window=100.0))
    with contextlib.suppress(BucketGone):
        await disk.log.append("x", event())
    assert await disk.database.read(lambda raw: raw.execute("SELECT appended FROM meta").fetchone()) == (6,)


@log_test
async def test_nothing_is_told_before_it_is_committed(disk: SqliteWorld) -> None:
    """At the moment that a watcher wakes or a sender is answered another connection can see the event in the file."""
    await make(disk.log)
    heads: list[tuple[str, int, int]] = []
    with contextlib.closing(sqlite3.connect(f"{disk.database.path.as_uri()}?mode=ro", uri=True)) as other:

        def look(who: str, known: int) -> None:
            heads.append((who, known, other.execute("SELECT max(seq) FROM event").fetchone()[0] or 0))

        watch = disk.log.watch(["b"], lambda bucket: look("watcher", watch.head(bucket)))

        async def appender() -> None:
            for _ in range(5):
                look("sender", (await disk.log.append("b", event())).seq)

        await asyncio.gather(*(appender() for _ in range(5)))
        watch.close()
    assert len(heads) >= 30
    assert all(known <= stored for _, known, stored in heads)


@log_test
async def test_readers_see_only_what_is_published(disk: SqliteWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event that is in the file but not announced yet is not read, wherever the page comes from."""
    await make(disk.log, events=3)
    seen: list[int] = []
    publish = disk.log._appends._publish

    def late(made: Any) -> None:
        with contextlib.closing(sqlite3.connect(f"{disk.database.path.as_uri()}?mode=ro", uri=True)) as other:
            assert other.execute("SELECT head FROM log").fetchone() == (4,)
        state = disk.log._logs["b"]
        page = disk.log.peek("b", 2, 10, MANY) or []
        seen.extend(e.seq for e in page)
        seen.append(state.head)
        publish(made)

    monkeypatch.setattr(disk.log._appends, "_publish", late)
    await disk.log.append("b", event())
    assert seen == [3, 3]


@log_test
async def test_one_wake_a_commit(disk: SqliteWorld) -> None:
    """A watcher is called once for all events of a bucket in a commit."""
    await make(disk.log, "a")
    await make(disk.log, "b")
    calls: list[str] = []
    watch = disk.log.watch(None, calls.append)
    await asyncio.gather(fill(disk.log, 50, "a"), fill(disk.log, 50, "b"))
    assert sorted(calls) == ["a", "b"]
    watch.close()


@log_test
async def test_a_cancelled_append_is_committed(disk: SqliteWorld) -> None:
    """A sender that goes away takes nothing back, and hurts none that shares its commit."""
    await make(disk.log)
    futures = [asyncio.ensure_future(disk.log.append("b", event(b"%d" % n))) for n in range(10)]
    futures[4].cancel()
    with capture_logs() as logs:
        await asyncio.wait(futures)
    assert logs == []
    assert [f.result().seq for f in futures if not f.cancelled()] == [1, 2, 3, 4, 6, 7, 8, 9, 10]
    assert [e.body for e in await read_all(disk.log)] == [b"%d" % n for n in range(10)]


@log_test
async def test_the_queue_is_bounded(io_loop: IOLoop, tmp_path: Path) -> None:
    """Over `append_queue` bytes, or its bucket's share of them, an append is told Overloaded and not stored; one event
    always fits."""
    world = await SqliteWorld.open(tmp_path, append_queue=100_000)
    await make(world.log)
    appends = [world.log.append("b", event(b"x" * 9_000)) for _ in range(30)]
    results = await asyncio.gather(*appends, return_exceptions=True)
    stored = [result for result in results if not isinstance(result, BaseException)]
    refused = [result for result in results if isinstance(result, Overloaded)]
    assert (len(stored), len(refused)) == (7, 23)
    assert [place.seq for place in stored] == list(range(1, 8))
    assert (await world.log.append("b", event(b"x" * 200_000))).seq == 8
    assert len(await fill(world.log, 7)) == 7
    await world.close()


@log_test
async def test_the_events_of_a_bucket_leave_room_in_the_queue_for_others(io_loop: IOLoop, tmp_path: Path) -> None:
    """However many events of some buckets wait for a commit, another bucket's are taken. What is committed, or fails,
    makes room again."""
    world = await SqliteWorld.open(tmp_path, append_queue=100_000)
    buckets = ["b", "c", "d"]
    for bucket in buckets:
        await make(world.log, bucket)
    for _ in range(3):
        appends = [[world.log.append(bucket, event(b"x" * 500)) for _ in range(120)] for bucket in buckets]
        bad = world.log.append("c", event(b"x" * 500, method="\ud800"))
        first = world.log.append("b", event(b"x" * 500))
        counts = []
        for futures in appends:
            results = await asyncio.gather(*futures, return_exceptions=True)
            counts.append(sum(isinstance(result, Appended) for result in results))
            assert all(isinstance(result, Appended | Overloaded) for result in results)
        assert counts == [73, 18, 4]
        for late in (bad, first):
            with pytest.raises(Overloaded):
                await late
        with pytest.raises(Unavailable):
            await world.log.append("c", event(b"x" * 500, method="\ud800"))
    assert world.log.append_queue == 0
    await world.close()


@log_test
async def test_the_share_of_a_bucket_counts_what_is_being_committed(io_loop: IOLoop, tmp_path: Path) -> None:
    """However long the commit takes, a bucket's events that wait for it and behind it leave room for others."""
    world = await SqliteWorld.open(tmp_path, append_queue=100_000)
    for bucket in "bc":
        await make(world.log, bucket)
    with contextlib.closing(sqlite3.connect(world.database.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        appends = [world.log.append("b", event(b"x" * 500)) for _ in range(40)]
        await until(lambda: world.log._appends.waiting() == 0)
        appends += [world.log.append("b", event(b"x" * 500)) for _ in range(80)]
        room = world.log.append("c", event(b"x" * 500))
        other.execute("ROLLBACK")
    results = await asyncio.gather(*appends, return_exceptions=True)
    assert sum(isinstance(result, Appended) for result in results) == 73
    assert (await room).seq == 1
    await world.close()


@log_test
async def test_the_tail_counts_every_event_of_a_commit(io_loop: IOLoop, tmp_path: Path) -> None:
    """So that memory has no more than it may, the oldest events of many that were committed at once are not kept."""
    world = await SqliteWorld.open(tmp_path, tail=20_000, page_cache=0)
    await make(world.log)
    await fill(world.log, 3, size=4_000)
    assert world.log.peek("b", 0, 1, MANY) is None
    assert [each.seq for each in world.log.peek("b", 1, 2, MANY) or ()] == [2, 3]
    await world.close()


@log_test
async def test_an_event_that_is_tried_again_keeps_its_place(io_loop: IOLoop, tmp_path: Path) -> None:
    """What shared a commit with one that can't be stored comes before what was appended after it."""
    world = await SqliteWorld.open(tmp_path, commit_events=3)
    await make(world.log)
    events = [event(b"%d" % n, method="\ud800" if n == 1 else "POST") for n in range(7)]
    with capture_logs():
        await asyncio.gather(*(world.log.append("b", each) for each in events), return_exceptions=True)
    assert [each.body for each in await read_all(world.log)] == [b"0", b"2", b"3", b"4", b"5", b"6"]
    await world.close()


@log_test
async def test_an_event_that_can_not_be_stored_hurts_only_itself(disk: SqliteWorld) -> None:
    """Text that is no Unicode fails by itself; what shared its commit is stored, in order and without a hole."""
    await make(disk.log)
    events = [event(b"%d" % n, method="\ud800" if n == 3 else "POST") for n in range(6)]
    with capture_logs() as logs:
        results = await asyncio.gather(*(disk.log.append("b", e) for e in events), return_exceptions=True)
    assert isinstance(results[3], Unavailable)
    assert [r.seq for r in results if not isinstance(r, BaseException)] == [1, 2, 3, 4, 5]
    assert [e.body for e in await read_all(disk.log)] == [b"0", b"1", b"2", b"4", b"5"]
    assert [entry["event"] for entry in logs] == ["event_not_stored"]
    assert (await disk.log.append("b", event())).seq == 6


@log_test
async def test_seek_in_a_long_log(disk: SqliteWorld) -> None:
    """A time is found by halving: a handful of rows are looked at, however long the log is."""
    await make(disk.log)
    places = []
    for _ in range(40):
        places.append((time.time(), (await disk.log.bounds("b")).head))
        await fill(disk.log, 50)
    for moment, head in places:
        assert abs(await disk.log.seek("b", moment) - head) <= 50
        position = await disk.log.seek("b", moment)
        after = await disk.log.read("b", position, 1, MANY)
        assert after[0].received_at >= moment
        assert position == 0 or (await disk.log.read("b", position - 1, 1, MANY))[0].received_at < moment


@log_test
async def test_bounds_of_a_log_made_by_another_process(disk: SqliteWorld) -> None:
    """After a start the newest epoch is closed until the first append; a log made in this process is open at once."""
    epoch = await make(disk.log)
    await disk.reopen()
    bounds = await disk.log.bounds("b")
    assert bounds == Bounds(1, 0, bounds.epochs, False)
    place = await disk.log.append("b", event())
    assert place.seq == 1
    assert place.epoch != epoch
    bounds = await disk.log.bounds("b")
    assert [(e.epoch, e.from_seq) for e in bounds.epochs] == [(epoch, 1), (place.epoch, 1)]
    assert place_cursor(bounds, Cursor(epoch, 0)) == Placed(0)
    assert place_cursor(bounds, Cursor(epoch, 1)) == Placed(0, Gap("reset", 1, 1))
    assert (await disk.log.read("b", 0, 1, MANY))[0].epoch == place.epoch


@log_test
async def test_of_a_log_that_was_dropped_nothing_is_kept(disk: SqliteWorld) -> None:
    """However many were made and dropped, memory holds those that are there."""
    await make(disk.log)
    held = len(disk.log._epochs), len(disk.log._opened), len(disk.log._logs)
    disk.log._tail = Tail(0)  # so that they are read from the file
    for _ in range(20):
        await make(disk.log, "c", events=2)
        await read_all(disk.log, "c")
        assert disk.log._pages.used > 0
        await disk.log.drop("c")
    assert (len(disk.log._epochs), len(disk.log._opened), len(disk.log._logs)) == held
    assert disk.log._pages.used == 0


@log_test
async def test_of_a_log_that_is_dropped_during_a_read_nothing_is_told(
    disk: SqliteWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read from the file before is not given: whoever asked may have no right to see it any more."""
    await make(disk.log, events=2)
    disk.log._logs["b"].recent.events.clear()
    load = disk.log._pages.load

    async def dropped(state: LogState, seq: int) -> Block:
        block = await load(state, seq)
        await disk.log.drop("b")
        return block

    monkeypatch.setattr(disk.log._pages, "load", dropped)
    with pytest.raises(BucketGone):
        await disk.log.read("b", 0, 9, MANY)


@log_test
async def test_events_are_taken_once_there_is_memory(disk: SqliteWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """They stay in the queue until all that takes memory is done: none is lost, and none is stored twice."""
    await make(disk.log)
    monkeypatch.setattr(appends, "Batch", fails_once(Batch))
    with capture_logs() as logs:
        found = await asyncio.gather(*(disk.log.append("b", event(b"%d" % number)) for number in range(3)))
    assert [each.seq for each in found] == [1, 2, 3]
    assert [entry["event"] for entry in logs] == ["writer_lacks_memory"]
    assert [each.body for each in await read_all(disk.log)] == [b"0", b"1", b"2"]
    assert disk.log.append_queue == 0


@log_test
@pytest.mark.parametrize("step", ["_answer", "_release", "_fail"])
async def test_who_could_not_be_told_is_told(disk: SqliteWorld, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """Whoever's event was taken hears of it, also where there was no memory for that at first, and what waits for a
    commit is counted as it is."""
    await make(disk.log)
    if step == "_fail":
        monkeypatch.setattr(rows, "insert", fails_once(rows.insert))
    monkeypatch.setattr(Appends, step, fails_once(getattr(Appends, step)))
    sent = [disk.log.append("b", event(b"%d" % number)) for number in range(3)]
    outcomes = await asyncio.gather(*sent, return_exceptions=True)
    if step != "_release":
        assert {type(each) for each in outcomes} == {Unknown}
    await disk.log.append("b", event(b"after"))
    assert [each.body for each in await read_all(disk.log)][-1] == b"after"
    assert disk.log.append_queue == 0


@log_test
async def test_a_page_that_many_commits_change_is_counted_once(disk: SqliteWorld) -> None:
    """A checkpoint copies it once, so many logs need no more checkpoints than one; each checkpoint begins anew."""
    checkpoints = disk.database._writer._checkpoints
    for name in ("b", "c"):
        await make(disk.log, name)

    async def counted() -> int:
        before = checkpoints.pages
        for name in ("b", "c"):
            await disk.log.append(name, event())
        return checkpoints.pages - before

    assert await disk.database.shrink()
    first = await counted()
    assert [await counted() for _ in range(3)] == [first - 2] * 3
    assert await disk.database.shrink()
    assert await counted() == first
