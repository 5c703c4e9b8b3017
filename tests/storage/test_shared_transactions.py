"""Jobs that share a transaction: one wait for the disk, and each is told its own outcome."""

from __future__ import annotations

import asyncio
import sqlite3
from types import ModuleType

import pytest

from relay_tornado.errors import Conflict, RelayError, Unknown
from relay_tornado.storage import database as databases
from relay_tornado.storage import work as works
from relay_tornado.storage.database import Database
from tests.storage.faults import Faults, once
from tests.storage.jobs import Events, commits, names, noted, put

storage_test = pytest.mark.gen_test


@storage_test
async def test_jobs_that_wait_together_share_a_commit(database: Database) -> None:
    """Each gets its result, in their order, after the one commit."""
    before = database.commits
    order: list[str] = []
    found = await asyncio.gather(*(database.write(put(name), order.append, shared=True) for name in "abc"))
    assert (found, order) == (["a", "b", "c"], ["a", "b", "c"])
    assert await database.read(names) == ["a", "b", "c"]
    assert database.commits == await database.read(commits) == before + 1


@storage_test
async def test_events_that_wait_take_jobs_along(database: Database) -> None:
    """In one commit, the events first. A job that shares with none has its turn after that."""
    events, order, before = Events(database), list[str](), database.commits
    await asyncio.gather(
        *(database.write(noted(name, order), shared=name != "C") for name in "abCd"),
        *(events.append(noted(name, order)) for name in "ef"),
    )
    assert order == [f"run {name}" for name in "efabCd"]
    assert database.commits == await database.read(commits) == before + 3
    assert (await database.read(lambda raw: raw.execute("SELECT appended FROM meta").fetchone())) == (2,)


@storage_test
async def test_a_job_that_fails_beside_events(database: Database) -> None:
    """It fails alone; the events are committed all the same, and before those that came later."""
    events, order = Events(database), list[str]()
    later: list[asyncio.Task[str]] = []

    def refuse(raw: sqlite3.Connection) -> str:
        if not later:
            later.append(loop.create_task(events.append(noted("later", order))))
        raise Conflict("taken")

    loop = asyncio.get_running_loop()
    jobs = [noted("a", order), refuse]
    found = await asyncio.gather(
        *(database.write(job, shared=True) for job in jobs), events.append(noted("e", order)), return_exceptions=True
    )
    assert (found[0], type(found[1]), found[2]) == ("a", Conflict, "e")
    assert await later[0] == "later"
    assert order[:3] == ["run e", "run a", "run e"]
    assert await database.read(names) in (["e", "later", "a"], ["e", "a", "later"])


@storage_test
async def test_events_that_fail_beside_jobs(database: Database) -> None:
    """The jobs are committed all the same."""
    events = Events(database)

    def refuse(raw: sqlite3.Connection) -> str:
        raise LookupError

    found = await asyncio.gather(
        *(database.write(put(name), shared=True) for name in "ab"), events.append(refuse), return_exceptions=True
    )
    assert (*found[:2], type(found[2])) == ("a", "b", LookupError)
    assert await database.read(names) == ["a", "b"]


@storage_test
async def test_no_job_overtakes_another(database: Database) -> None:
    """One that builds on what others change in memory has a transaction of its own between theirs."""
    order: list[str] = []

    before = database.commits
    await asyncio.gather(
        *(
            database.write(noted(name, order), lambda name: order.append(f"announce {name}"), shared=name != "C")
            for name in "abCde"
        )
    )
    alone = ["run C", "announce C"]
    assert order == [
        *("run a", "run b", "announce a", "announce b"),
        *alone,
        *("run d", "run e", "announce d", "announce e"),
    ]
    assert database.commits == before + 3


@storage_test
async def test_a_transaction_has_so_many_jobs_at_most(database: Database) -> None:
    """Events wait for it."""
    before = database.commits
    await asyncio.gather(*(database.write(put(f"{number}"), shared=True) for number in range(130)))
    assert database.commits == before + 3
    assert await database.read(names) == [f"{number}" for number in range(130)]


@storage_test
async def test_a_job_that_fails_fails_alone(database: Database, faults: Faults) -> None:
    """The others are committed, in their order, and what comes later shares again."""

    def refuse(raw: sqlite3.Connection) -> str:
        put("refused")(raw)
        raise Conflict("taken")

    jobs = [put("a"), refuse, put("a"), put("b")]
    found = await asyncio.gather(*(database.write(job, shared=True) for job in jobs), return_exceptions=True)
    assert found[0] == "a"
    assert isinstance(found[1], Conflict)
    assert isinstance(found[2], sqlite3.IntegrityError)
    assert found[3] == "b"
    before = database.commits
    await asyncio.gather(*(database.write(put(name), shared=True) for name in "cd"))
    assert database.commits == before + 1
    assert await database.read(names) == ["a", "b", "c", "d"]


@storage_test
async def test_a_disk_error_before_the_commit(database: Database, faults: Faults, quick: None) -> None:
    """The file is opened again, and then each job is committed."""
    faults.before = once("INSERT INTO bucket", sqlite3.SQLITE_IOERR)
    assert await asyncio.gather(*(database.write(put(name), shared=True) for name in "abc")) == ["a", "b", "c"]
    assert await database.read(names) == ["a", "b", "c"]


@storage_test
async def test_a_commit_that_fails(database: Database, faults: Faults, quick: None) -> None:
    """Nobody knows whether it was stored: each is told so, with an error of its own, and no job is run again."""
    faults.before = once("COMMIT", sqlite3.SQLITE_IOERR)
    found = await asyncio.gather(*(database.write(put(name), shared=True) for name in "abc"), return_exceptions=True)
    assert [type(error) for error in found] == [Unknown] * 3
    assert len({id(error) for error in found}) == 3
    assert await database.write(put("d")) == "d"
    assert await database.read(names) == ["d"]


@pytest.mark.parametrize("lacking", [(databases, "wake"), (works, "again")])
@storage_test
async def test_a_commit_that_fails_while_memory_is_short(
    database: Database, faults: Faults, monkeypatch: pytest.MonkeyPatch, lacking: tuple[ModuleType, str]
) -> None:
    """Whatever there is no memory for: each of them is told."""
    faults.before = once("COMMIT", sqlite3.SQLITE_IOERR)
    call = getattr(*lacking)

    def fails(*arguments: object) -> object:
        monkeypatch.undo()
        if lacking[1] == "wake":
            call(*arguments)
        raise MemoryError

    monkeypatch.setattr(*lacking, fails)
    found = await asyncio.gather(*(database.write(put(name), shared=True) for name in "abc"), return_exceptions=True)
    assert [type(error) for error in found] == [Unknown] * 3


@storage_test
async def test_one_that_can_not_be_announced(database: Database) -> None:
    """It alone is told so; the others have their results."""

    def breaks(name: str) -> None:
        if name == "b":
            raise LookupError(name)

    found = await asyncio.gather(
        *(database.write(put(name), breaks, shared=True) for name in "abc"), return_exceptions=True
    )
    assert (found[0], found[2]) == ("a", "c")
    assert isinstance(found[1], Unknown)
    assert await database.read(names) == ["a", "b", "c"]


@storage_test
async def test_a_close_tells_all_that_share(database: Database) -> None:
    """What waits is committed at the end."""
    writing = [asyncio.create_task(database.write(put(name), shared=True)) for name in "abc"]
    await asyncio.sleep(0)
    await database.close()
    assert await asyncio.gather(*writing) == ["a", "b", "c"]
    with pytest.raises(RelayError):
        await database.write(put("d"), shared=True)
