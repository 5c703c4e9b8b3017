"""The writer after an error: on its feet again, and nothing counts that nobody would find."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import shutil
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from relay_tornado.errors import NoSpace, RelayError, Unavailable, Unknown
from relay_tornado.settings import Settings
from relay_tornado.storage import writer as writers
from relay_tornado.storage.connection import Connection
from relay_tornado.storage.database import Database
from relay_tornado.storage.witness import Loss
from tests.failing import once as fails_once
from tests.storage.faults import Faults, always, once
from tests.storage.jobs import names, put
from tests.waiting import until

pytestmark = pytest.mark.usefixtures("quick")
storage_test = pytest.mark.gen_test(timeout=60)


@storage_test
@pytest.mark.parametrize("statement", ["BEGIN IMMEDIATE", "INSERT INTO bucket", "UPDATE meta"])
async def test_an_error_before_the_commit(database: Database, faults: Faults, statement: str) -> None:
    """It is rolled back and told as Unavailable; the file is opened anew, and the next job is committed."""
    faults.before = once(statement, sqlite3.SQLITE_IOERR)
    with pytest.raises(Unavailable) as error:
        await database.write(put("a"))
    assert not isinstance(error.value, Unknown)
    await database.write(put("b"))
    assert await database.read(names) == ["b"]
    assert not database.problem


@storage_test
async def test_a_transaction_that_can_not_be_rolled_back_has_the_file_opened_anew(
    database: Database, faults: Faults
) -> None:
    """Whatever error ended it, the file is opened anew: the next transaction could not begin."""

    def fails(raw: sqlite3.Connection) -> None:
        put("a")(raw)
        raise ValueError("by intent")

    faults.before = once("ROLLBACK", sqlite3.SQLITE_IOERR)
    with capture_logs(), pytest.raises(Unavailable):
        await database.write(fails)
    await database.write(put("b"))
    assert await database.read(names) == ["b"]


@storage_test
@pytest.mark.parametrize("done", [False, True])
async def test_an_error_of_the_commit_itself(settings: Settings, faults: Faults, done: bool) -> None:
    """Nobody can know whether it was stored, so it is Unknown; what keeps rows in memory reads them again first."""
    database = await Database.open(settings, factory=faults.factory)
    kept: list[list[str]] = []
    database.keep(names, kept.append)
    before = database.commits
    fault = once("COMMIT", sqlite3.SQLITE_IOERR_FSYNC)
    if done:
        faults.after = fault
    else:
        faults.before = fault
    with pytest.raises(Unknown):
        await database.write(put("a"))
    await database.write(put("b"), lambda _: kept.append(["announced b"]))
    there = ["a"] if done else []
    assert kept == [there, ["announced b"]]
    assert await database.read(names) == [*there, "b"]
    assert database.commits == before + len(there) + 2  # one of them after the file was opened anew
    # The connection is another one, set up as the first one was.
    assert await database.write(lambda raw: raw.execute("PRAGMA temp_store").fetchone()) == (2,)
    await database.close()
    database = await Database.open(settings)
    assert database.loss is None
    await database.close()


@storage_test
async def test_a_full_disk_is_told_as_such(database: Database, faults: Faults) -> None:
    """SQLite rolls back by itself: NoSpace, and nothing was stored, wherever it hits."""
    for statement in ("INSERT INTO bucket", "COMMIT"):
        faults.before = once(statement, sqlite3.SQLITE_FULL)
        with pytest.raises(NoSpace, match=r"disk of relay\.db is full, .*: free some space on it$"):
            await database.write(put("a"))
        await until(lambda: "PRAGMA wal_checkpoint(PASSIVE)" in faults.statements and faults.statements[-1] == "COMMIT")
        faults.statements.clear()
        await database.write(put(statement))
    assert await database.read(names) == ["INSERT INTO bucket", "COMMIT"]


@storage_test
async def test_while_the_file_can_not_be_opened(database: Database, faults: Faults) -> None:
    """Everything is refused at once and /readyz would say why; reads go on; it comes back by itself."""
    await database.write(put("before"))
    faults.before = always("COMMIT", sqlite3.SQLITE_IOERR)
    faults.opening = sqlite3.SQLITE_CANTOPEN
    with capture_logs() as logs:
        with pytest.raises(Unknown):
            await database.write(put("a"))
        with pytest.raises(Unavailable):  # it waited for the file to come back, and is told when it does not
            await database.write(put("b"))
        # Nobody has read: SQLite deletes the WAL as the writer's connection closes, which is no file taken away.
        await until(lambda: faults.refused >= 3)
        assert "can't be opened" in database.problem
        with pytest.raises(Unavailable):
            await database.write(put("c"))
        assert await database.read(names) == ["before"]
        faults.opening = None  # it opens, but commits still fail
        await asyncio.sleep(0.05)
        assert database.problem
        faults.heal()
        await until(lambda: not database.problem)
        await database.write(put("d"))
        assert await database.read(names) == ["before", "d"]
    events = [entry["event"] for entry in logs]
    assert events == ["commit_failed", "database_unavailable", "database_available"]


@storage_test
async def test_opening_anew_fails_for_any_reason(
    database: Database, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No thread can be started, or somebody can't take over what the file holds, with its traceback: each is told once,
    and tried until it goes well; everybody has read again then."""
    await database.write(put("before"))
    failing = ""
    seen: list[tuple[str, list[str]]] = []
    begin = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        if failing == "thread":
            raise RuntimeError("can't start new thread")
        begin(thread)

    def take(found: list[str]) -> None:
        if failing == "apply":
            raise KeyError("half way")
        seen.append(("second", found))

    database.keep(names, lambda found: seen.append(("first", found)))
    database.keep(names, take)
    monkeypatch.setattr(threading.Thread, "start", start)
    faults.before, failing = once("COMMIT", sqlite3.SQLITE_IOERR), "thread"
    with capture_logs() as logs:
        with pytest.raises(Unknown):
            await database.write(put("a"))
        await until(lambda: "no thread can be started" in database.problem)
        with pytest.raises(Unavailable):
            await database.write(put("b"))
        failing = "apply"
        await until(lambda: "can't be opened (KeyError, see the log)" in database.problem)
        failing = ""
        await until(lambda: not database.problem)
    await database.write(put("after"))
    assert [(entry["event"], bool(entry.get("exc_info"))) for entry in logs] == [
        ("commit_failed", False),
        ("database_unavailable", False),
        ("database_unavailable", True),
        ("database_available", False),
    ]
    assert seen[-2:] == [("first", ["before"]), ("second", ["before"])]
    assert seen.count(seen[-1]) == 1
    assert await database.read(names) == ["before", "after"]


def take_away(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))


def delete(folder: Path) -> None:
    shutil.copytree(folder, folder.with_name("elsewhere"))
    shutil.rmtree(folder)


def delete_the_wal(folder: Path) -> None:
    (folder / "relay.db-wal").unlink()


def replace_by_a_copy(folder: Path) -> None:
    shutil.copy(folder / "relay.db", folder / "copy")
    (folder / "copy").replace(folder / "relay.db")


@storage_test
@pytest.mark.parametrize("harm", [take_away, delete, delete_the_wal, replace_by_a_copy])
async def test_a_file_that_is_taken_away(database: Database, settings: Settings, harm: Callable[[Path], None]) -> None:
    """Nothing that is written to it counts as committed: after the next start nobody would find it."""
    await database.write(put("before"))
    assert database.problem == ""
    harm(settings.data)
    name = "relay.db-wal" if harm is delete_the_wal else "relay.db"
    assert database.problem.startswith(f"{name} was deleted, moved or replaced")
    with capture_logs() as logs:
        for _ in range(3):
            with pytest.raises(Unavailable, match=f"^{name} was deleted, moved or replaced"):
                await database.write(put("a"))
            await until(lambda: database.problem)
    assert [entry["event"] for entry in logs] == ["commit_failed", "database_unavailable"]


@storage_test
async def test_a_file_that_is_put_back(database: Database, settings: Settings) -> None:
    """It goes on where it was, with what was written meanwhile (which may be sent again)."""
    await database.write(put("before"))
    take_away(settings.data)
    with pytest.raises(Unknown, match="it may have been stored"):
        await database.write(put("meanwhile"))
    await until(lambda: database.problem)
    with pytest.raises(Unavailable) as refused:
        await database.write(put("refused"))
    assert not isinstance(refused.value, Unknown)
    settings.data.with_name("elsewhere").rename(settings.data)
    await until(lambda: not database.problem)
    await database.write(put("after"))
    assert await database.read(names) == ["before", "meanwhile", "after"]
    assert database.loss is None


@storage_test
async def test_close_while_the_file_can_not_be_opened(database: Database, faults: Faults) -> None:
    """A relay in trouble can still be stopped, at once."""
    faults.before = always("COMMIT", sqlite3.SQLITE_IOERR)
    faults.opening = sqlite3.SQLITE_CANTOPEN
    with pytest.raises(Unknown):
        await database.write(put("a"))
    await until(lambda: database.problem)
    await database.close()


@storage_test
@pytest.mark.parametrize("kind", [ZeroDivisionError, MemoryError])
async def test_what_follows_a_commit_ends_nothing(database: Database, kind: type[Exception]) -> None:
    """Were an announcement to fail, memory and file would differ: the caller is told that it was stored, everybody
    reads again what they keep, and the next one comes."""
    kept: list[list[str]] = []
    database.keep(names, kept.append)

    def broken(_: object) -> None:
        raise kind

    with capture_logs() as logs:
        first = asyncio.ensure_future(database.write(put("a"), broken))
        second = asyncio.ensure_future(database.write(put("b"), lambda name: kept.append(["announced", name])))
        with pytest.raises(Unknown, match="it was stored"):
            await first
        await second
    assert kept == [["a"], ["announced", "b"]]
    assert [entry["event"] for entry in logs] == ["outcome_not_told"]
    assert not database.problem
    assert await database.read(names) == ["a", "b"]


@storage_test
async def test_without_memory_nothing_is_stored_and_nothing_ends(database: Database, faults: Faults) -> None:
    """SQLite's own want of it, wherever it comes, is told as what it is, and the next one is stored."""
    for statement, error in (("BEGIN", Unavailable), ("INSERT INTO bucket", Unavailable), ("COMMIT", Unknown)):
        faults.before = once(statement, sqlite3.SQLITE_NOMEM)
        with pytest.raises(error):
            await database.write(put("a"))
        await database.write(put(statement))
    faults.before = once("PRAGMA wal_checkpoint", sqlite3.SQLITE_NOMEM)
    with capture_logs() as logs:
        await database.shrink()
    assert [entry["event"] for entry in logs] == ["checkpoint_failed"]
    await database.write(put("b"))
    assert await database.read(names) == ["BEGIN", "INSERT INTO bucket", "COMMIT", "b"]


@storage_test
async def test_checkpoints_that_fail_are_logged_once(database: Database, faults: Faults) -> None:
    """Commits go on meanwhile, and each MiB of them tries another checkpoint."""
    faults.before = always("PRAGMA wal_checkpoint", sqlite3.SQLITE_FULL)
    with capture_logs() as logs:
        for number in range(3):
            await database.write(put(str(number)))
            assert not await database.shrink()
    assert [entry["event"] for entry in logs] == ["checkpoint_failed"]
    faults.heal()
    assert await database.shrink()


@storage_test
@pytest.mark.parametrize("error", [MemoryError, RuntimeError])
async def test_a_connection_without_memory(
    database: Database, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """How far a transaction came is not known then, so the file says; also where a thread is what there is none for."""
    kept: list[list[str]] = []
    database.keep(names, kept.append)
    run, fails = Connection.run, [True]

    async def without(self: Connection, function: Callable[[sqlite3.Connection], object]) -> object:
        done = await run(self, function)
        if fails and fails.pop():
            raise error
        return done

    monkeypatch.setattr(Connection, "run", without)
    with pytest.raises(Unknown, match="may have been stored"):
        await database.write(put("a"))
    await database.write(put("b"))
    assert kept == [["a"]]
    assert await database.read(names) == ["a", "b"]


@storage_test
@pytest.mark.parametrize(
    ("step", "told"), [("_gather", None), ("_next", None), ("_perform", Unknown), ("_tell", Unknown), ("_rest", None)]
)
async def test_a_turn_without_memory(
    database: Database, monkeypatch: pytest.MonkeyPatch, step: str, told: type[Exception] | None
) -> None:
    """Wherever it is short in a turn of the writer: what was taken is told, what was not is done, everybody reads again
    what the file says, and all goes on."""
    kept: list[list[str]] = []
    database.keep(names, kept.append)
    monkeypatch.setattr(writers.Writer, step, fails_once(getattr(writers.Writer, step)))
    with capture_logs() as logs:
        given = [database.write(put("a")), database.write(put("b"))]
        outcomes = await asyncio.gather(*given, return_exceptions=True)
        if step == "_rest":
            await until(lambda: logs)
    assert outcomes == ["a", "b"] if told is None else isinstance(outcomes[0], told) and outcomes[1] == "b"
    assert [entry["event"] for entry in logs] == ["writer_lacks_memory"]
    await database.write(put("c"))
    assert not database.problem
    assert len(kept) == 1
    assert {"b", "c"} <= set(await database.read(names))


@storage_test
async def test_a_writer_that_breaks_is_not_healthy(database: Database) -> None:
    """Where what it is given to do can't be had, for a reason that nobody thought of, it stops, loudly, and says so."""

    class Broken:
        def take(self) -> None:
            raise ZeroDivisionError

        def waiting(self) -> int:
            return 1

        def reject(self, error: RelayError) -> None: ...

    with capture_logs() as logs:
        database.attach(Broken())
        database.notify()
        await until(lambda: database.problem)
    assert "restart" in database.problem
    assert [entry["event"] for entry in logs] == ["writer_failed"]
    with pytest.raises(Unavailable):
        await database.write(put("b"))


@storage_test
async def test_a_writer_that_breaks_leaves_nobody_waiting(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what it had taken nobody knows; what was queued behind that was not done; and the file is let go of."""
    thread = database._writer._connection._thread
    shrinking: list[asyncio.Task[bool]] = []

    async def breaks(*_: object) -> int:
        shrinking.append(asyncio.create_task(database.shrink()))
        await asyncio.sleep(0)
        raise ZeroDivisionError

    monkeypatch.setattr(writers.Writer, "_perform", breaks)
    with capture_logs():
        given = [database.write(put("a")), database.write(put("b"))]
        outcomes = await asyncio.gather(*given, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Unknown, Unavailable]
    assert not await shrinking[0]
    await until(lambda: not thread.is_alive(), "the end of its thread")


@storage_test
async def test_without_descriptors_the_file_is_not_opened_anew(database: Database, faults: Faults) -> None:
    """The operator is told what lacks, and which limit to raise; it goes on once there are some."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    faults.before = once("INSERT", sqlite3.SQLITE_IOERR)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        with pytest.raises(Unavailable):
            await database.write(put("a"))
        await until(lambda: "no more files can be opened" in database.problem)
        assert "`ulimit -n`" in database.problem
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    await until(lambda: not database.problem)
    await database.write(put("b"))
    assert await database.read(names) == ["b"]


@storage_test
async def test_a_loss_while_running_is_told(settings: Settings, faults: Faults) -> None:
    """Where the file, opened anew, knows less than was committed, `loss` and the log say how much; no later start
    tells it again."""
    database = await Database.open(settings, factory=faults.factory)
    for name in "123456789":
        await database.write(put(name))
    with contextlib.closing(sqlite3.connect(database.path)) as behind, behind:
        behind.execute("UPDATE meta SET commits = commits - 5")
    faults.before = once("INSERT", sqlite3.SQLITE_IOERR)
    with capture_logs() as logs:
        with pytest.raises(Unavailable):
            await database.write(put("d"))
        await until(lambda: database.loss is not None)
    assert database.loss == Loss(5, 0)
    assert "committed_work_lost" in [entry["event"] for entry in logs]
    await database.close()
    database = await Database.open(settings)
    assert database.loss is None
    await database.write(put("e"))
    await database.close()
