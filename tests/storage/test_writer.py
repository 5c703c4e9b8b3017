"""The writer: a transaction a job, and all told once."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import sqlite3
import threading
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import aiosqlite
import pytest
from structlog.testing import capture_logs

from relay_tornado.errors import Conflict, RelayError, Unavailable, Unknown
from relay_tornado.settings import Settings
from relay_tornado.storage import database as databases
from relay_tornado.storage.connection import Connection
from relay_tornado.storage.database import Database
from relay_tornado.storage.work import Work
from tests.storage.faults import Faults, once
from tests.storage.jobs import commits, names, noted, put
from tests.waiting import until

storage_test = pytest.mark.gen_test


@storage_test
async def test_a_refusal_is_no_fault_of_the_disk(database: Database) -> None:
    """A job that raises one of our own errors rolls back, and neither opens the file anew nor logs a failure."""
    connection = database._writer._connection

    def refuse(raw: sqlite3.Connection) -> None:
        put("a")(raw)
        raise Conflict("taken")

    with capture_logs() as logs, pytest.raises(Conflict):
        await database.write(refuse)
    await database.write(put("b"))
    assert await database.read(names) == ["b"]
    assert database._writer._connection is connection
    assert logs == []


def threads_since(before: set[threading.Thread]) -> list[str]:
    """Names of the threads that were started since and do not end."""
    new = [thread for thread in threading.enumerate() if thread not in before]
    for thread in new:
        thread.join(60)
    return [thread.name for thread in new if thread.is_alive()]


@pytest.mark.gen_test
async def test_what_is_used_of_aiosqlite_beyond_its_public_part() -> None:
    """`Connection._execute` runs a function with its arguments on the connection's `_thread`; pinned here."""
    proxy = await aiosqlite.connect(":memory:")
    try:
        assert await proxy._execute(lambda a, b: (a, b, threading.get_ident()), 1, 2) == (1, 2, proxy._thread.ident)
    finally:
        await proxy.close()


def test_a_connection_that_fails_to_open_leaves_no_thread(tmp_path: Any) -> None:
    """Neither where there is no file, nor where it can't be prepared."""

    async def main() -> None:
        with pytest.raises(sqlite3.OperationalError):
            await Connection.reader(tmp_path / "missing.db")
        faults = Faults()
        faults.before = once("PRAGMA synchronous", sqlite3.SQLITE_IOERR)
        with pytest.raises(sqlite3.OperationalError):
            await Connection.writer(tmp_path / "new.db", faults.factory)

    before = set(threading.enumerate())
    asyncio.run(main())
    assert threads_since(before) == []


@storage_test
async def test_a_job_is_one_transaction(database: Database) -> None:
    """What it wrote is there when it returns, counted as one commit; what raises leaves nothing, and comes out."""
    before = await database.read(commits)
    assert await database.write(put("a")) == "a"
    assert (await database.read(names), await database.read(commits)) == (["a"], before + 1)

    def breaks(raw: sqlite3.Connection) -> None:
        put("b")(raw)
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        await database.write(breaks)
    with pytest.raises(sqlite3.IntegrityError):
        await database.write(put("a"))
    assert (await database.read(names), await database.read(commits)) == (["a"], before + 1)


@storage_test
@pytest.mark.parametrize("kind", [StopIteration, SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError])
async def test_whatever_a_job_raises_no_transaction_stays_open(database: Database, kind: type[BaseException]) -> None:
    """Even what is no Exception is rolled back and told, and the next job is committed."""

    def breaks(raw: sqlite3.Connection) -> None:
        put("lost")(raw)
        raise kind

    with pytest.raises(Exception):  # noqa: B017, PT011
        await database.write(breaks)
    await database.write(put("kept"))
    assert await database.read(names) == ["kept"]


@storage_test
async def test_the_announcement_comes_after_the_commit_and_before_the_next_job(database: Database) -> None:
    """Store, commit, announce, in this order, for each before the next one starts."""
    order: list[str] = []

    def announce(name: str) -> None:
        order.append(f"announce {name}")

    await asyncio.gather(*(database.write(noted(name, order), announce) for name in "abc"))
    assert order == ["run a", "announce a", "run b", "announce b", "run c", "announce c"]


@storage_test
async def test_a_cancelled_caller_does_not_take_its_job_back(database: Database) -> None:
    """The job is done all the same, and the others with it."""
    tasks = [asyncio.create_task(database.write(put(name))) for name in "abc"]
    await asyncio.sleep(0)
    tasks[1].cancel()
    await asyncio.wait(tasks)
    await database.write(put("d"))
    assert await database.read(names) == list("abcd")


class Quick(Work):
    """A work that is quick: `thread` is where it ran, `ended` how it went."""

    def __init__(self, job: Callable[[sqlite3.Connection], Any], quick: bool = True) -> None:
        self.job = job
        self.quick = lambda: quick  # type: ignore[method-assign]
        self.thread = 0
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def run(self, raw: sqlite3.Connection) -> int:
        self.thread = threading.get_ident()
        self.job(raw)
        return 0

    def committed(self) -> None:
        self.ended.set_result(None)

    def failed(self, error: Exception) -> None:
        self.ended.set_exception(error)


class Passenger:
    """A rider that writes a row."""

    def prepare(self) -> bool:
        return True

    def write(self, raw: sqlite3.Connection) -> None:
        put("rider")(raw)

    def committed(self) -> None: ...

    def undone(self) -> None: ...

    def failed(self, error: Exception) -> None:
        raise error


@storage_test
async def test_callers_that_leave_disturb_nobody(database: Database) -> None:
    """A job of theirs is committed, or fails, all the same; nothing is opened anew for that."""

    def fail(raw: sqlite3.Connection) -> None:
        raise ValueError

    tasks = [asyncio.create_task(database.write(job)) for job in (put("a"), fail)]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    with capture_logs() as logs:
        await database.write(put("b"))
    assert logs == []
    assert await database.read(names) == ["a", "b"]


@storage_test
async def test_a_quick_work_runs_in_the_loop(database: Database) -> None:
    """Only its COMMIT goes to the thread; with riders, or where it is not quick, all of it does."""
    here = threading.get_ident()
    quick, slow, accompanied = Quick(put("a")), Quick(put("b"), quick=False), Quick(put("c"))
    for work in (quick, slow):
        database._writer.submit(work)
        await work.ended
    database.ride(Passenger())
    database._writer.submit(accompanied)
    await accompanied.ended
    assert quick.thread == here
    assert slow.thread != here
    assert accompanied.thread == slow.thread
    assert await database.read(names) == ["a", "b", "rider", "c"]


@storage_test
async def test_the_loop_waits_for_no_lock(database: Database, faults: Faults) -> None:
    """Where somebody else writes to the file, a quick work waits for them on the thread."""
    patience: list[tuple[bool, str]] = []

    def noted(sql: str) -> None:
        if sql == "BEGIN IMMEDIATE":
            last = next(each for each in reversed(faults.statements) if "busy_timeout" in each)
            patience.append((threading.get_ident() == here, last))

    here, faults.before = threading.get_ident(), noted
    with contextlib.closing(sqlite3.connect(database.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        work = Quick(put("a"))
        database._writer.submit(work)
        for _ in range(20):
            await asyncio.sleep(0.005)
        assert not work.ended.done()
        other.execute("ROLLBACK")
    await work.ended
    assert work.thread not in (0, here)
    after = Quick(put("b"))
    database._writer.submit(after)
    await after.ended
    assert after.thread == here
    at_once, waiting = "PRAGMA busy_timeout = 0", "PRAGMA busy_timeout = 5000"
    assert patience == [(True, at_once), (False, waiting), (True, at_once)]
    assert await database.read(names) == ["a", "b"]


@storage_test
@pytest.mark.parametrize(
    ("statement", "expected"), [("UPDATE meta", Unavailable), ("COMMIT", Unknown), ("INSERT INTO bucket", Unavailable)]
)
async def test_a_quick_work_that_fails(
    database: Database, faults: Faults, statement: str, expected: type[Exception]
) -> None:
    """Wherever the disk fails, nothing of it stays, it is told once, and the next one is stored."""
    faults.before = once(statement, sqlite3.SQLITE_IOERR)
    work = Quick(put("a"))
    database._writer.submit(work)
    with pytest.raises(expected):
        await work.ended
    await until(lambda: not database.problem)
    await database.write(put("b"))
    assert await database.read(names) == ["b"]
    database._writer.submit(work := Quick(lambda raw: {}[put("c")(raw)]))  # type: ignore[index]
    with pytest.raises(LookupError):
        await work.ended
    assert await database.read(names) == ["b"]


@storage_test
async def test_shrinking_while_a_transaction_gathers(database: Database) -> None:
    """It is not forgotten where nothing comes of what was gathered."""
    source = Endless(0)
    waits = [1, 2, 3, 0, 0]
    source.waiting = lambda: waits.pop(0) if waits else 0  # type: ignore[method-assign]
    database.attach(source)
    database.notify()
    await asyncio.sleep(0)
    await asyncio.wait_for(database.shrink(), 60)


def test_a_close_that_is_cancelled(tmp_path: Path) -> None:
    """At whatever step, as by Ctrl-C at the end of a command: no thread is left that would keep the process alive."""

    async def closed(steps: int) -> bool:
        database = await Database.open(Settings(data=tmp_path))
        closing = asyncio.create_task(database.close())
        for _ in range(steps):
            await asyncio.sleep(0.001)
        closing.cancel()
        await asyncio.wait([closing])
        if closing.cancelled():
            database._lock.release()
        return closing.cancelled()

    before = set(threading.enumerate())
    steps = 0
    while asyncio.run(asyncio.wait_for(closed(steps), 60)):
        assert threads_since(before) == [], f"after {steps} steps"
        steps += 1
    assert steps


def test_an_open_that_lacks_memory_for_a_task(tmp_path: Path) -> None:
    """Whichever it is, nothing is held, and no thread is left that would keep the process alive."""

    async def opened(after: int) -> None:
        loop, calls = asyncio.get_running_loop(), count()
        create_task = loop.create_task

        def create(coroutine: Any, **options: Any) -> asyncio.Task[Any]:
            if next(calls) == after:
                coroutine.close()
                raise MemoryError
            return create_task(coroutine, **options)

        loop.create_task = create  # type: ignore[method-assign,assignment]
        await (await Database.open(Settings(data=tmp_path))).close()

    before = set(threading.enumerate())
    for after in count():
        try:
            asyncio.run(asyncio.wait_for(opened(after), 60))
            break
        except MemoryError:
            assert threads_since(before) == [], f"after {after} tasks"
    assert after > 1


class Endless(Work):
    """A source that always has something, as under full load."""

    def __init__(self, most: int) -> None:
        self.left = most
        self.done: list[str] = []

    def take(self) -> Endless | None:
        self.left -= 1
        return self if self.left >= 0 else None

    def waiting(self) -> int:
        return 100

    def reject(self, error: RelayError) -> None: ...

    def run(self, raw: sqlite3.Connection) -> int:
        return 1

    def pages(self) -> int:
        return 100

    def committed(self) -> None:
        self.done.append("batch")

    def failed(self, error: Exception) -> None:
        raise error


@storage_test
async def test_jobs_and_events_take_turns(database: Database) -> None:
    """Under full load from both sides each gets every second transaction."""
    source = Endless(20)
    database.attach(source)
    await asyncio.gather(*(database.write(lambda raw: None, lambda _: source.done.append("job")) for _ in range(20)))
    assert source.done[:39] == ["job", "batch"] * 19 + ["job"]


@storage_test
async def test_the_wal_stays_small_under_load(settings: Settings, faults: Faults) -> None:
    """It is copied into the file on the way: at about 1000 pages when others wait, and at about 250 when none do,
    after a large commit or when nothing comes for a moment; after small ones it waits to about 500."""
    database = await Database.open(settings, factory=faults.factory)
    faults.statements.clear()

    def checkpoints() -> int:
        return sum("wal_checkpoint" in sql for sql in faults.statements)

    busy = Endless(9)
    database.attach(busy)
    database.notify()
    await until(lambda: len(busy.done) == 9)
    assert checkpoints() == 0
    more = Endless(2)
    database.attach(more)
    database.notify()
    await until(lambda: checkpoints() == 1 and len(more.done) == 2)
    quiet = Endless(3)
    quiet.waiting = lambda: 0  # type: ignore[method-assign]
    database.attach(quiet)
    database.notify()
    await until(lambda: checkpoints() == 2 and len(quiet.done) == 3)
    first, second = (at for at, sql in enumerate(faults.statements) if "wal_checkpoint" in sql)
    assert faults.statements[first:second].count("COMMIT") == 3
    for events, copies in ((25, 3), (75, 4)):
        small = Endless(events)
        small.waiting = lambda: 0  # type: ignore[method-assign]
        small.pages = lambda: 7  # type: ignore[method-assign]
        database.attach(small)
        database.notify()
        await until(lambda copies=copies: checkpoints() == copies)
        await asyncio.sleep(0.05)
        assert len(small.done) == events
        assert checkpoints() == copies
    await database.close()
    assert (settings.data / "relay.db").exists()
    assert (settings.data / "relay.db-wal").stat().st_size == 0


@storage_test
async def test_close_commits_what_is_queued(settings: Settings) -> None:
    """Jobs that wait at the close are done; later ones are refused; no thread stays."""
    before = set(threading.enumerate())
    database = await Database.open(settings)
    queued = [asyncio.ensure_future(database.write(put(name))) for name in "abcdef"]
    await asyncio.sleep(0)
    await database.close()
    assert await asyncio.gather(*queued) == list("abcdef")
    with pytest.raises(Unavailable):
        await database.write(put("late"))
    with pytest.raises(Unavailable):
        await database.read(names)
    assert database.problem
    await database.close()
    assert threads_since(before) == []
    database = await Database.open(settings)
    assert await database.read(names) == list("abcdef")
    await database.close()


def test_threads_end_when_nobody_closes(settings: Settings) -> None:
    """Where everything is cancelled, as at the end of a loop, the process can end all the same."""

    async def main() -> None:
        database = await Database.open(settings)
        await database.write(put("a"))
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        with pytest.raises(Unavailable):
            await database.write(put("b"))
        database._lock.release()
        database._witness.close()

    before = set(threading.enumerate())
    asyncio.run(main())
    assert threads_since(before) == []


@storage_test
async def test_the_witness_is_synced_while_it_changes(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once an interval, off the loop, and only after commits."""
    synced: list[int] = []
    monkeypatch.setattr(databases, "_WITNESS_INTERVAL", 0.01)
    monkeypatch.setattr(databases.Witness, "sync", lambda self: synced.append(threading.get_ident()))
    database = await Database.open(settings)
    synced.clear()
    await asyncio.sleep(0.05)
    assert synced == []
    await database.write(put("a"))
    await until(lambda: bool(synced))
    assert threading.get_ident() not in synced
    await database.close()
    assert synced[-1] == threading.get_ident()


@pytest.mark.parametrize("error", [OSError(errno.EIO, "no"), MemoryError()])
@storage_test
async def test_a_witness_that_is_not_synced_keeps_nobody_from_reading(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """It is said, and tried again with what is committed next, whatever it was."""
    monkeypatch.setattr(databases, "_WITNESS_INTERVAL", 0.01)
    database = await Database.open(settings)
    tried: list[None] = []

    def sync() -> None:
        tried.append(None)
        raise error

    monkeypatch.setattr(database._witness, "sync", sync)
    with capture_logs() as said:
        for count in (1, 2):
            await database.write(put(f"{count}"))
            await until(lambda count=count: len(said) == count)  # type: ignore[misc]
    assert [each["event"] for each in said] == ["witness_not_synced"] * 2
    assert len(tried) == 2
    assert await database.read(lambda raw: raw.execute("SELECT 1").fetchone()) == (1,)
    monkeypatch.undo()
    await database.close()
