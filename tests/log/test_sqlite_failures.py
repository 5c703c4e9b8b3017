"""The event log on SQLite when it fails: commits, disks, memory, and a file that another process changed."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from structlog.testing import capture_logs

from relay_tornado.errors import BucketGone, CursorLost, Unavailable, Unknown
from relay_tornado.log import rows
from relay_tornado.log.batch import Entry
from relay_tornado.log.lineage import Placed, place_cursor
from relay_tornado.log.loading import load
from relay_tornado.log.sqlite import SqliteEventLog
from relay_tornado.log.tail import Tail
from relay_tornado.model import Appended, Cursor, Gap
from relay_tornado.storage import writer as writers
from tests.log.worlds import MANY, SqliteWorld, behind, event, fill, make, open_again, read_all, settled
from tests.storage.faults import Faults, always, once
from tests.storage.jobs import put
from tests.waiting import until

log_test = pytest.mark.gen_test


@log_test
async def test_a_head_that_is_not_there_does_not_move(disk: SqliteWorld) -> None:
    """Events whose log left meanwhile are not committed."""
    await make(disk.log, events=2)
    state = disk.log._logs["b"]
    for params in ([state.key + 7, 9, 1, 1.0], [state.key, 2, 0, 1e12, state.key + 7, 9, 1, 1.0]):
        with pytest.raises(sqlite3.IntegrityError, match="not there any more"):
            await disk.database.write(lambda raw, params=params: rows.grow(raw, params))
    state.key += 7
    with pytest.raises(Unavailable):
        await disk.log.append("b", event())
    await settled(disk)
    assert (await disk.log.append("b", event())).seq == 3


@log_test
async def test_a_failed_commit_stores_nothing_and_gives_the_seqs_out_again(faulty: SqliteWorld, faults: Faults) -> None:
    """Rolled back: the senders are told Unavailable, nobody sees anything, and the next event gets that place."""
    await make(faulty.log, events=3)
    calls: list[str] = []
    watch = faulty.log.watch(None, calls.append)
    faults.before = once("INSERT OR FAIL INTO event", sqlite3.SQLITE_IOERR)
    results = await asyncio.gather(*(faulty.log.append("b", event()) for _ in range(5)), return_exceptions=True)
    assert {type(result) for result in results} == {Unavailable}
    assert calls == []
    assert watch.head("b") == 3
    await settled(faulty)
    assert (await faulty.log.append("b", event(b"after"))).seq == 4
    assert [e.seq for e in await read_all(faulty.log)] == [1, 2, 3, 4]
    watch.close()


@log_test
@pytest.mark.parametrize("done", [False, True])
async def test_a_commit_of_unknown_outcome(faulty: SqliteWorld, faults: Faults, done: bool) -> None:
    """The senders are told Unknown; what turns out committed is published, and no seq is given out twice."""
    epoch = await make(faulty.log, events=3)
    calls: list[int] = []
    watch = faulty.log.watch(["b"], lambda bucket: calls.append(watch.head(bucket)))
    fault = once("COMMIT", sqlite3.SQLITE_IOERR_FSYNC)
    if done:
        faults.after = fault
    else:
        faults.before = fault
    results = await asyncio.gather(*(faulty.log.append("b", event(b"lost?")) for _ in range(2)), return_exceptions=True)
    assert {type(result) for result in results} == {Unknown}
    await settled(faulty)
    there = 5 if done else 3
    assert watch.head("b") == there
    assert calls == [there]
    assert (await faulty.log.append("b", event(b"after"))).seq == there + 1
    assert [e.body for e in await read_all(faulty.log, after=3)] == [b"lost?"] * (there - 3) + [b"after"]
    assert [e.epoch for e in (await faulty.log.bounds("b")).epochs] == [epoch]
    watch.close()
    await faulty.reopen()
    assert faulty.database.loss is None


STEPS: dict[str, tuple[Callable[[SqliteEventLog], Any], int]] = {
    "_publish": (lambda log: log._appends, 1),
    "add to the tail": (lambda log: type(log._tail), 2),
    "add to what is ephemeral": (lambda log: type(log._ephemeral), 2),
    "committed": (lambda log: type(log._counters), 1),
    "_announce": (lambda log: log._appends, 1),
    "wake": (lambda log: type(log._watches), 2),
}
"""By the name of a step, who takes it, and which time fails."""


@log_test
@pytest.mark.parametrize("step", STEPS)
async def test_what_fails_behind_a_commit(disk: SqliteWorld, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """Wherever memory ends: each event that was committed is published once, in its place, its sender is told that it
    is stored, whoever watches is woken, and what comes next is stored."""
    log = disk.log
    for bucket_id in "bc":
        await make(log, bucket_id)
    woken: set[str] = set()
    watch = log.watch(None, woken.add)
    await log.append("b", event(b"before"))
    woken.clear()
    who, time = STEPS[step]
    owner, name = who(log), step.partition(" ")[0]
    meant, calls = getattr(owner, name), []

    def fail(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == time:
            raise MemoryError
        return meant(*args)

    monkeypatch.setattr(owner, name, fail)
    ephemeral = step == "add to what is ephemeral"
    with capture_logs() as logs:
        sent = [event(b"%d" % number, ephemeral=ephemeral) for number in range(4)]
        found = await asyncio.gather(*(log.append(of, each) for of, each in zip("bcbc", sent, strict=True)))
        await settled(disk)
    assert len(calls) >= time
    assert [(each.seq, each.duplicate) for each in found] == [(2, False), (1, False), (3, False), (2, False)]
    assert [entry["event"] for entry in logs] == ["outcome_not_told"]
    assert woken == {"b", "c"}
    if not ephemeral:
        assert [each.body for each in await read_all(log, "b")] == [b"before", b"0", b"2"]
        assert [each.body for each in await read_all(log, "c")] == [b"1", b"3"]
    assert (await log.append("b", event(b"after"))).seq == 4
    assert [(await log.bounds(of)).head for of in "bc"] == [4, 2]
    assert [each.body for each in await log.read("b", 3, 9, MANY)] == [b"after"]
    watch.close()


@log_test
async def test_a_sender_that_can_not_be_answered(disk: SqliteWorld) -> None:
    """It is logged, and the others are."""
    await make(disk.log)
    answered: list[object] = []

    def fail(outcome: object) -> None:
        raise MemoryError

    with capture_logs() as logs:
        for done in (answered.append, fail, answered.append):
            disk.log.submit("b", event(), done)
        await until(lambda: len(answered) == 2)
    assert [entry["event"] for entry in logs] == ["answer_failed"]
    assert [each.seq for each in await read_all(disk.log)] == [1, 2, 3]


class _Short(deque[Entry]):
    """A queue for whose second entry there is no memory."""

    def extend(self, entries: Iterable[Entry]) -> None:
        self.append(next(iter(entries)))
        raise MemoryError


@log_test
async def test_events_that_can_not_be_tried_one_by_one(disk: SqliteWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their senders are told that the outcome is unknown, and no event counts as waiting any more."""
    await make(disk.log)
    appends = disk.log._appends
    monkeypatch.setattr(appends, "_alone", _Short())
    with monkeypatch.context() as patch:
        patch.setattr("relay_tornado.log.batch.Plan.write", Mock(side_effect=ValueError))
        with capture_logs() as logs:
            found = await asyncio.gather(*(disk.log.append("b", event()) for _ in range(3)), return_exceptions=True)
    assert [type(each) for each in found] == 3 * [Unknown]
    assert [entry["event"] for entry in logs] == ["outcome_not_told"]
    assert (await disk.log.append("b", event())).seq == 1
    await settled(disk)
    assert appends.held == 0


@log_test
async def test_an_epoch_whose_opening_is_unknown(faulty: SqliteWorld) -> None:
    """Where the commit that opened an epoch is of unknown outcome, that epoch is trusted no further."""
    first = await make(faulty.log, events=2)
    await faulty.reopen()
    place = await faulty.log.append("b", event())
    faulty.log._opened.clear()
    faulty.log._apply(await faulty.database.read(load))
    bounds = await faulty.log.bounds("b")
    assert ([e.epoch for e in bounds.epochs], bounds.open) == ([first, place.epoch], False)
    again = await faulty.log.append("b", event())
    assert again.seq == 4
    assert again.epoch not in (first, place.epoch)


@log_test
async def test_published_events_that_are_gone(faulty: SqliteWorld, faults: Faults) -> None:
    """Where the reopened file has less than was published: said loudly, and their ids never come back."""
    epoch = await make(faulty.log, events=5)
    with behind(faulty) as raw:
        raw.execute("DELETE FROM event WHERE seq > 3")
        raw.execute("UPDATE log SET head = 3")
    faults.before = once("INSERT OR FAIL INTO event", sqlite3.SQLITE_IOERR)
    with capture_logs() as logs:
        with pytest.raises(Unavailable):
            await faulty.log.append("b", event())
        await settled(faulty)
    assert [entry["events"] for entry in logs if entry["event"] == "published_events_lost"] == [2]
    assert place_cursor(await faulty.log.bounds("b"), Cursor(epoch, 5)) == Placed(3, Gap("reset", 4, 5))
    with pytest.raises(CursorLost) as lost:
        faulty.log.peek("b", 5, 10, MANY)
    assert lost.value.first == 4
    place = await faulty.log.append("b", event(b"new"))
    assert place.seq == 4
    assert place.epoch != epoch
    assert place_cursor(await faulty.log.bounds("b"), Cursor(epoch, 5)) == Placed(3, Gap("reset", 4, 5))
    assert [e.body for e in await read_all(faulty.log, after=3)] == [b"new"]


@log_test
async def test_what_was_read_of_what_is_gone_is_not_read_again(faulty: SqliteWorld, faults: Faults) -> None:
    """Pages that hold it are let go of: what comes under its seqs is read from the file."""
    faulty.log._tail = Tail(0)
    await make(faulty.log, events=5)
    assert len(await read_all(faulty.log)) == 5
    with behind(faulty) as raw:
        raw.execute("DELETE FROM event WHERE seq > 3")
        raw.execute("UPDATE log SET head = 3")
    await open_again(faulty, faults)
    await faulty.log.append("b", event(b"new"))
    assert [e.body for e in await read_all(faulty.log, after=2)] == [b"0003", b"new"]


@log_test
async def test_what_waits_is_refused_while_the_file_can_not_be_opened(tmp_path: Path, faults: Faults) -> None:
    """At once: nobody knows how long that lasts."""
    world = await SqliteWorld.open(tmp_path, faults.factory, commit_events=1)
    await make(world.log)
    faults.before = once("INSERT OR FAIL INTO event", sqlite3.SQLITE_IOERR)
    faults.opening = sqlite3.SQLITE_CANTOPEN
    with capture_logs():
        found = await asyncio.gather(*(world.log.append("b", event()) for _ in range(3)), return_exceptions=True)
    assert [type(each) for each in found] == [Unavailable] * 3
    faults.heal()
    await settled(world)
    assert (await world.log.append("b", event())).seq == 1
    await world.close()


@log_test
async def test_a_log_whose_row_can_not_be_read_any_more_is_not_gone(disk: SqliteWorld) -> None:
    """Clients would take that for a deletion: it is as it was known before."""
    await make(disk.log, events=3)
    loaded = await disk.database.read(load)
    (row,) = loaded.live
    disk.log._apply(loaded._replace(live=[], damaged=[row.key]))
    assert (await disk.log.bounds("b")).head == 3
    assert len(await read_all(disk.log)) == 3


@log_test
async def test_ephemeral_events_that_are_gone_are_not_given_for_later_ones(faulty: SqliteWorld, faults: Faults) -> None:
    """Their content is in memory, under seqs that the next events get."""
    faulty.log._tail = Tail(0)
    await make(faulty.log, events=3)
    await faulty.log.append("b", event(b"gone", ephemeral=True))
    with behind(faulty) as raw:
        raw.execute("DELETE FROM event WHERE seq > 3")
        raw.execute("UPDATE log SET head = 3")
    await open_again(faulty, faults)
    await faulty.log.append("b", event(b"new"))
    assert [e.body for e in await read_all(faulty.log, after=3)] == [b"new"]


@log_test
async def test_the_epoch_of_a_commit_of_unknown_outcome_is_found(faulty: SqliteWorld, faults: Faults) -> None:
    """It is in the file, and the ids of what it holds are good."""
    created = await make(faulty.log)
    with behind(faulty) as raw:
        raw.execute("INSERT INTO epoch SELECT 'zzzzzzzzzzzz', id, 1 FROM log")
    await open_again(faulty, faults)
    faults.after = once("COMMIT", sqlite3.SQLITE_IOERR)
    with pytest.raises(Unknown):
        await faulty.log.append("b", event())
    await settled(faulty)
    (stored,) = await read_all(faulty.log)
    assert stored.epoch not in (created, "zzzzzzzzzzzz")
    assert await faulty.log.find(stored.epoch) == "b"


@log_test
async def test_a_file_that_was_changed_behind_the_relay(faulty: SqliteWorld) -> None:
    """Where memory and file differ nothing is stored on top: all is read again, and then it is stored behind that."""
    await make(faulty.log, events=3)
    with behind(faulty) as raw:
        raw.execute(
            "INSERT INTO event SELECT log, 4, size, crc, 9e9, input_id, method, path, query, headers, remote_ip, body,"
            " resend_of, target, force, verified, verdict, edited FROM event WHERE seq = 3"
        )
        raw.execute("UPDATE log SET head = 4, last_at = 9e9")
    with capture_logs() as logs:
        assert [place.seq for place in await fill(faulty.log, 3)] == [5, 6, 7]
    assert [entry["event"] for entry in logs] == ["commit_failed"]
    assert [e.seq for e in await read_all(faulty.log)] == [1, 2, 3, 4, 5, 6, 7]


@log_test
async def test_while_the_file_can_not_be_opened_appends_fail_at_once(
    faulty: SqliteWorld, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reads go on from memory and file, appends are refused without waiting, and it comes back by itself."""
    monkeypatch.setattr(writers, "_BACKOFF", (0.01, 0.02))
    await make(faulty.log, events=3)
    faults.before = always("COMMIT", sqlite3.SQLITE_IOERR)
    faults.opening = sqlite3.SQLITE_CANTOPEN
    with pytest.raises(Unknown):
        await faulty.log.append("b", event())
    await until(lambda: faulty.database.problem)
    future = asyncio.ensure_future(faulty.log.append("b", event()))
    assert future.done()
    with pytest.raises(Unavailable):
        await future
    assert len(await read_all(faulty.log)) == 3
    faults.heal()
    await until(lambda: not faulty.database.problem)
    assert (await faulty.log.append("b", event())).seq == 4


@log_test
@pytest.mark.parametrize(
    "met",
    ["BEGIN IMMEDIATE", "INSERT OR FAIL INTO event", "UPDATE meta", "ROLLBACK", "COMMIT", "PRAGMA wal_checkpoint"],
)
async def test_too_little_memory_for_a_moment(faulty: SqliteWorld, faults: Faults, met: str) -> None:
    """Whichever statement of the writer it meets, the writer goes on, and what was acknowledged is there."""
    await make(faulty.log, events=1)
    faulty.database._writer._checkpoints._at = 1
    left = ["INSERT OR FAIL INTO event", "ROLLBACK"] if met == "ROLLBACK" else [met]
    faults.before = lambda sql: sqlite3.SQLITE_NOMEM if left and sql.startswith(left[0]) and left.pop(0) else None
    (outcome,) = await asyncio.gather(faulty.log.append("b", event()), return_exceptions=True)
    assert isinstance(outcome, Appended | Unavailable)
    await until(lambda: not left)
    await until(lambda: not faulty.database.problem)
    stored = 2 if isinstance(outcome, Appended) else 1
    assert (await faulty.log.append("b", event())).seq == stored + 1
    assert [e.seq for e in await read_all(faulty.log)] == list(range(1, stored + 2))


@log_test
async def test_rows_that_can_not_leave(faulty: SqliteWorld, faults: Faults, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a log that was dropped are tried again until they are gone, by one task, however often the file is
    opened anew meanwhile; and by none from the close of the log on."""

    def tasks() -> int:
        return sum(task.get_name().startswith("relay-purge") for task in asyncio.all_tasks())

    await make(faulty.log, events=3)
    await make(faulty.log, "c", events=3)
    with capture_logs() as logs:
        monkeypatch.setattr("relay_tornado.log.trimming._AGAIN", 0.01)
        faults.before = always("DELETE FROM event", sqlite3.SQLITE_IOERR)
        await faulty.log.drop("b")
        await until(lambda: [each["event"] for each in logs].count("purge_waits") == 3)
        assert tasks() == 1
        faults.heal()
        await until(lambda: not tasks())
        monkeypatch.setattr("relay_tornado.log.trimming._AGAIN", 3600.0)
        faults.before = once("DELETE FROM event", sqlite3.SQLITE_IOERR)
        await faulty.log.drop("c")
        await until(lambda: [each["event"] for each in logs].count("purge_waits") == 4)
    assert await faulty.database.read(lambda raw: raw.execute("SELECT bucket FROM log").fetchall()) == [("c",)]
    await faulty.log.close()
    assert not tasks()
    faults.before = once("INSERT INTO bucket", sqlite3.SQLITE_IOERR)
    with pytest.raises(Unavailable):
        await faulty.database.write(put("a"))
    await faulty.database.write(put("a"))
    assert not tasks()


@log_test
async def test_a_log_that_the_file_does_not_have_any_more(faulty: SqliteWorld, faults: Faults) -> None:
    """Once the file is read again, it is gone for everybody, and who watches it is woken."""
    await make(faulty.log)
    await make(faulty.log, "c")
    woken: list[str] = []
    faulty.log.watch(None, woken.append)
    with behind(faulty) as raw:
        raw.execute("DELETE FROM epoch WHERE log = (SELECT id FROM log WHERE bucket = 'c')")
        raw.execute("DELETE FROM log WHERE bucket = 'c'")
    faults.before = once("COMMIT", sqlite3.SQLITE_IOERR)
    with pytest.raises(Unknown):
        await faulty.log.append("b", event())
    await settled(faulty)
    with pytest.raises(BucketGone):
        await faulty.log.append("c", event())
    assert "c" in woken


@log_test
async def test_an_error_opens_no_epoch(faulty: SqliteWorld, faults: Faults) -> None:
    """Where nothing was lost, the one that this process opened goes on."""
    await make(faulty.log, events=1)
    await faulty.reopen()
    (place,) = await fill(faulty.log, 1)
    faults.before = once("COMMIT", sqlite3.SQLITE_IOERR)
    with pytest.raises(Unknown):
        await faulty.log.append("b", event())
    await settled(faulty)
    assert (await faulty.log.append("b", event())).epoch == place.epoch
