"""What rides along with other transactions: it is in them or waits for the next, and never spoils one."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

from relay_tornado.errors import Conflict, NoSpace, Unavailable, Unknown
from relay_tornado.settings import Settings
from relay_tornado.storage import piggyback
from relay_tornado.storage.database import Database
from relay_tornado.storage.writer import Writer
from tests.failing import lose_timers
from tests.failing import once as once_more
from tests.storage.faults import Faults, always, error, once
from tests.storage.jobs import names
from tests.waiting import until

storage_test = pytest.mark.gen_test

RIDES = "INSERT INTO bucket VALUES ('rider"


class Passenger:
    """Writes a row under a name; remembers what it was told, and asks again where it was undone."""

    def __init__(self, database: Database, name: str = "rider") -> None:
        self.database = database
        self.name = name
        self.told: list[str] = []
        self.has_something = True
        self.sql = f"INSERT INTO bucket VALUES ('{name}', '{name}', 1, '{{}}')"

    def prepare(self) -> bool:
        return self.has_something

    def write(self, raw: sqlite3.Connection) -> None:
        raw.execute(self.sql)

    def committed(self) -> None:
        self.told.append("committed")

    def undone(self) -> None:
        self.told.append("undone")
        self.database.ride(self)

    def failed(self, error: Exception) -> None:
        self.told.append(type(error).__name__)


def put(name: str) -> Callable[[sqlite3.Connection], None]:
    return lambda raw: raw.execute("INSERT INTO bucket VALUES (?, ?, 1, '{}')", (name, name)) and None


@storage_test
async def test_it_rides_along(database: Database) -> None:
    """What waits is written with the next transaction, before what that is for, and costs none of its own."""
    rider = Passenger(database)
    before = database.commits
    database.ride(rider)
    database.ride(rider)
    await database.write(put("work"))
    assert await database.read(names) == ["rider", "work"]
    assert rider.told == ["committed"]
    assert database.commits == before + 1


@storage_test
@pytest.mark.parametrize("lost", [False, True])
async def test_it_goes_alone_where_nothing_comes(
    database: Database, lost: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is no other transaction it gets one, also where there was no memory to set a timer."""
    if lost:
        lose_timers(monkeypatch)
    rider = Passenger(database)
    database.ride(rider)
    await until(lambda: rider.told)
    assert rider.told == ["committed"]
    assert await database.read(names) == ["rider"]


@storage_test
async def test_a_slow_commit_piles_up_no_transactions(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often a rider asks during one that takes long, a single one is queued for it; and none if another work
    waits."""
    monkeypatch.setattr(piggyback, "DELAY", 0.001)
    for others in (0, 1):
        rider, slow = Passenger(database, f"rider{others}"), threading.Event()
        before = database.commits
        work = [asyncio.ensure_future(database.write(lambda raw, slow=slow: slow.wait() and None))]
        await until(lambda: database._writer._work is not None)
        work += [asyncio.ensure_future(database.write(put(f"other{each}"))) for each in range(others)]
        for _ in range(20):
            database.ride(rider)
            await asyncio.sleep(0.005)
        slow.set()
        await asyncio.gather(*work)
        await until(lambda rider=rider: rider.told)
        await database.write(put(f"last{others}"))
        assert rider.told == ["committed"]
        assert database.commits == before + 3


@storage_test
async def test_who_has_nothing_writes_nothing(database: Database, faults: Faults) -> None:
    """Where nobody rides, or has anything after all, a transaction is what it was without riders."""
    rider = Passenger(database)
    rider.has_something = False
    await database.write(put("a"))
    plain, faults.statements = list(faults.statements[-4:]), []
    database.ride(rider)
    await database.write(put("b"))
    assert [sql[:12] for sql in faults.statements] == [sql[:12] for sql in plain]
    assert rider.told == []


@storage_test
async def test_one_that_fails_alone_fails_alone(database: Database) -> None:
    """What a rider did wrong is undone and told to it; the transaction and other riders are committed."""
    bad, good = Passenger(database, "rider1"), Passenger(database, "rider2")
    bad.sql = "INSERT INTO input VALUES ('x', NULL)"
    for rider in (bad, good):
        database.ride(rider)
    await database.write(put("work"))
    assert (bad.told, good.told) == (["IntegrityError"], ["committed"])
    assert await database.read(names) == ["rider2", "work"]


@storage_test
async def test_what_it_did_before_it_failed_is_undone(database: Database) -> None:
    """A rider is all or nothing."""
    rider = Passenger(database)

    def half(raw: sqlite3.Connection) -> None:
        raw.execute(rider.sql)
        raise OverflowError("a number")

    rider.write = half  # type: ignore[method-assign]
    database.ride(rider)
    await database.write(put("work"))
    assert rider.told == ["OverflowError"]
    assert await database.read(names) == ["work"]


@storage_test
async def test_it_waits_for_the_next_where_the_work_fails(database: Database) -> None:
    """A job that raises takes its riders out with it; they are in the next transaction."""

    def fail(raw: sqlite3.Connection) -> None:
        raise Conflict("no")

    rider = Passenger(database)
    database.ride(rider)
    with pytest.raises(Conflict):
        await database.write(fail)
    await database.write(put("work"))
    assert rider.told == ["undone", "committed"]
    assert await database.read(names) == ["rider", "work"]


@storage_test
async def test_an_error_of_the_disk_in_its_own_writing_bumps_it(database: Database, faults: Faults) -> None:
    """Where the machine is to blame it is tried again, and the work that it rode with is committed."""
    rider = Passenger(database)
    faults.before = once(RIDES, sqlite3.SQLITE_IOERR)
    database.ride(rider)
    await database.write(put("work"))
    await until(lambda: len(rider.told) == 2)
    assert rider.told == ["undone", "committed"]
    assert await database.read(names) == ["work", "rider"]


@storage_test
async def test_damage_where_it_writes_keeps_nobody_from_writing(database: Database, faults: Faults) -> None:
    """A damaged page of a rider's table is told to the rider, and events go on being committed."""
    rider = Passenger(database)
    faults.before = always(RIDES, sqlite3.SQLITE_CORRUPT)
    database.ride(rider)
    await database.write(put("work"))
    assert rider.told == ["OperationalError"]
    assert await database.read(names) == ["work"]


@pytest.mark.parametrize(
    ("match", "code", "error"),
    [
        ("UPDATE meta", sqlite3.SQLITE_FULL, NoSpace),
        ("UPDATE meta", sqlite3.SQLITE_IOERR, Unavailable),
        ("COMMIT", sqlite3.SQLITE_IOERR, Unknown),
    ],
)
@storage_test
async def test_it_survives_the_file_being_opened_anew(
    database: Database, faults: Faults, match: str, code: int, error: type[Exception]
) -> None:
    """After a commit that failed it is tried until it is there."""
    rider = Passenger(database)
    faults.before = once(match, code)
    database.ride(rider)
    with pytest.raises(error):
        await database.write(put("lost"))
    await until(lambda: rider.told[-1:] == ["committed"])
    assert await database.read(names) == ["rider"]


@storage_test
async def test_it_is_tried_again_after_a_want_of_memory(database: Database) -> None:
    """That is no fault of what it writes, which is tried again; the transaction goes on without it."""

    class Short(Passenger):
        def write(self, raw: sqlite3.Connection) -> None:
            if not self.told:
                raise MemoryError
            super().write(raw)

    rider = Short(database)
    database.ride(rider)
    await database.write(put("work"))
    await until(lambda: rider.told == ["undone", "committed"])
    assert await database.read(names) == ["work", "rider"]


@storage_test
async def test_it_is_tried_again_after_a_full_disk(database: Database) -> None:
    """SQLite rolls the transaction back then: that is told as it is to whoever wrote in it, and all is tried again."""

    class Full(Passenger):
        def write(self, raw: sqlite3.Connection) -> None:
            if not self.told:
                raw.execute("ROLLBACK")
                raise error(sqlite3.SQLITE_FULL)
            super().write(raw)

    rider = Full(database)
    database.ride(rider)
    with capture_logs(), pytest.raises(NoSpace):
        await database.write(put("lost"))
    await until(lambda: rider.told == ["undone", "committed"])
    assert await database.read(names) == ["rider"]


@storage_test
async def test_it_rides_again_where_nobody_knows_how_it_ended(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the writer had no memory to tell of a transaction, who rode in it is told to ask again."""
    rider = Passenger(database)
    rider.sql = rider.sql.replace("INSERT", "INSERT OR IGNORE")
    monkeypatch.setattr(Writer, "_tell", once_more(Writer._tell))
    database.ride(rider)
    with capture_logs(), pytest.raises(Unknown):
        await database.write(put("work"))
    await until(lambda: rider.told[-1:] == ["committed"])
    assert rider.told == ["undone", "committed"]
    assert await database.read(names) == ["rider", "work"]


@storage_test
async def test_it_comes_once_the_file_can_be_written_again(
    database: Database, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While nothing can be written it waits, and needs nobody who writes to be carried along afterwards."""
    monkeypatch.setattr("relay_tornado.storage.piggyback._AGAIN", 0.05)
    rider = Passenger(database)
    faults.opening = sqlite3.SQLITE_CANTOPEN
    faults.before = once("COMMIT", sqlite3.SQLITE_IOERR)
    with pytest.raises(Unknown):
        await database.write(put("lost"))
    await until(lambda: database.problem)
    refused = []
    submit = database._writer.submit

    def counting(work: Any) -> None:
        refused.append(work)
        submit(work)

    monkeypatch.setattr(database._writer, "submit", counting)
    database.ride(rider)
    await until(lambda: len(refused) >= 2)
    assert rider.told == []
    faults.heal()
    await until(lambda: rider.told)
    assert rider.told[-1] == "committed"


@storage_test
async def test_the_end_leaves_no_timer(settings: Settings) -> None:
    """A rider that asks after the end is not carried, and nothing waits for it."""
    database = await Database.open(settings)
    await database.close()
    rider: Any = Passenger(database)
    database.ride(rider)
    assert database._writer.riders._timer.at is None


@storage_test
@pytest.mark.parametrize("of", ["ride", "prepare", "committed"])
async def test_it_is_asked_until_it_went_well(database: Database, monkeypatch: pytest.MonkeyPatch, of: str) -> None:
    """However often there is no memory for a ride, or for one in it: it is written, and so are the others."""
    monkeypatch.setattr(piggyback, "_AGAIN", 0.01)
    rider, other = Passenger(database, "rider1"), Passenger(database, "rider2")
    rider.sql, other.sql = (each.sql.replace("INSERT", "INSERT OR IGNORE") for each in (rider, other))
    for place, name in [(piggyback, "Ride")] if of == "ride" else [(rider, of), (rider, "undone")]:
        monkeypatch.setattr(place, name, once_more(once_more(once_more(getattr(place, name)), after=1), after=2))
    database.ride(rider)
    database.ride(other)
    with capture_logs() as logs:
        await until(lambda: "committed" in rider.told and "committed" in other.told)
    assert {entry["event"] for entry in logs} == {"rider_failed"}
    assert sorted(await database.read(names)) == ["rider1", "rider2"]


@storage_test
@pytest.mark.parametrize("step", ["prepare", "committed", "undone", "failed"])
async def test_one_that_fails_on_what_it_is_asked_or_told(
    database: Database, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """It is asked again, and neither the writer nor the work that it rode with suffers."""
    monkeypatch.setattr(piggyback, "_AGAIN", 0.01)
    rider = Passenger(database)
    good = rider.sql.replace("INSERT", "INSERT OR IGNORE")
    meant = getattr(rider, step)

    def fail(*told: object) -> None:
        setattr(rider, step, meant)
        raise MemoryError

    def refuse(raw: sqlite3.Connection) -> None:
        rider.sql = good
        raise Conflict("no")

    setattr(rider, step, fail)
    rider.sql = "INSERT INTO input VALUES ('x', NULL)" if step == "failed" else good
    database.ride(rider)
    with capture_logs() as logs:
        if step == "undone":
            with pytest.raises(Conflict):
                await database.write(refuse)
        await database.write(put("work"))
        rider.sql = good
        await until(lambda: "committed" in rider.told)
    assert [entry["event"] for entry in logs] == ["rider_failed"]
    await database.write(put("more"))
    assert sorted(await database.read(names)) == ["more", "rider", "work"]
