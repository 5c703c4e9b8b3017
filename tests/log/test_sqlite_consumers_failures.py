"""Consumers on SQLite that can't be stored: nothing is lost, nobody else is harmed, and it is said."""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress

import pytest
from structlog.testing import capture_logs

from relay_tornado.consumer_changes import Changes, Dead, Parked
from relay_tornado.errors import Damaged, RelayError, Unavailable
from relay_tornado.log.consumers import Gaps
from relay_tornado.log.ledgers import Ledgers
from relay_tornado.model import Gap
from relay_tornado.storage import disk_check
from relay_tornado.storage.sqlite_compat import guard_schema
from tests.log.stores import KEY, TERMS, begin, floors, there
from tests.log.worlds import SqliteWorld, behind, event
from tests.storage.faults import Faults, always, once
from tests.waiting import until

log_test = pytest.mark.gen_test


@log_test
async def test_one_that_can_not_be_stored_harms_nobody(disk: SqliteWorld) -> None:
    """Neither events nor other consumers: it is told in the log, and the next change of it is stored."""
    store = await begin(disk, "a", "bad", "c")
    impossible = Changes(5, (), False, {3: Parked(1 << 70, 1.0, 1.0)})
    with capture_logs() as logs:
        for name in ("a", "bad", "c"):
            store.save(KEY._replace(name=name), lambda name=name: impossible if name == "bad" else Changes(5))
        assert (await disk.log.append("b", event())).seq == 21
        await store.saved()
    assert [(each["event"], each["consumer"]) for each in logs] == [("consumer_not_saved", "bad")]
    assert floors(disk.database.path) == {"a": 5, "bad": 0, "c": 5}
    store.save(KEY._replace(name="bad"), lambda: Changes(6))
    await store.saved()
    assert floors(disk.database.path)["bad"] == 6


@log_test
async def test_what_can_not_be_stored_is_not_tried_again(disk: SqliteWorld) -> None:
    """Else the next changes of the consumer, from the same source, could never be stored."""
    store = await begin(disk, "worker")
    changes = [Changes(5, (), False, {3: Parked(1 << 70, 1.0, 1.0)}), Changes(6)]

    def source() -> Changes:
        return changes.pop(0)

    for _ in range(2):
        store.save(KEY, source)
        with capture_logs():
            await store.saved()
    assert floors(disk.database.path) == {"worker": 6}


@log_test
@pytest.mark.parametrize("code", [sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT])
async def test_a_disk_that_fails_damages_no_consumer(
    code: int, faulty: SqliteWorld, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What can't be read for a moment is not said to be damaged, which would cost it its position; also if SQLite calls
    it malformed."""
    store = await begin(faulty, "worker")
    with monkeypatch.context() as patch, capture_logs() as logs:
        patch.setattr(disk_check, "fails", lambda _: True)
        faults.before = always("SELECT ack_wait", code)
        with pytest.raises(Unavailable):
            await store.list("b")
        with pytest.raises(Unavailable):
            await store.get(KEY)
    faults.heal()
    assert logs == []
    assert [each.damaged for each in await store.list("b")] == [""]


@log_test
async def test_a_disk_that_is_well_again_when_it_is_looked_at(
    faulty: SqliteWorld, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could not be read is read once more."""
    store = await begin(faulty, "worker")

    def heals(_: int) -> bool:
        faults.heal()
        return False

    monkeypatch.setattr(disk_check, "fails", heals)
    with capture_logs() as logs:
        faults.before = always("SELECT ack_wait", sqlite3.SQLITE_CORRUPT)
        assert [each.damaged for each in await store.list("b")] == [""]
        faults.before = always("SELECT ack_wait", sqlite3.SQLITE_CORRUPT)
        assert await store.get(KEY) is not None
    assert logs == []


@log_test
async def test_the_disk_is_looked_at_once_for_a_damaged_consumer(
    disk: SqliteWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often it is asked for: a public output's is once a second."""
    store = await begin(disk, "worker")
    with behind(disk) as raw:
        raw.execute("PRAGMA ignore_check_constraints = ON")
        raw.execute("UPDATE consumer SET done = '[[9,' WHERE name = 'worker'")
    looks = []

    def fails(descriptor: int) -> bool:
        looks.append(descriptor)
        return False

    monkeypatch.setattr(disk_check, "fails", fails)
    with capture_logs() as logs:
        for _ in range(3):
            with pytest.raises(Damaged):
                await store.get(KEY)
    assert (len(looks), len(logs)) == (1, 1)


@log_test
async def test_what_damage_keeps_from_being_stored(faulty: SqliteWorld, faults: Faults) -> None:
    """It is stored with what is saved next: a floor is never there without what is tried again, and dead, below it.
    Whoever takes the consumer up from the file goes on from what the file says."""
    store = await begin(faulty, "worker")
    ledgers = Ledgers(store, faulty.log)
    ledger = await ledgers.open(KEY)
    for number, taken in enumerate(ledger.progress.take(20, 6, 0.0)):
        faults.before = always("UPDATE consumer", sqlite3.SQLITE_CORRUPT)
        if number % 3 == 0:
            ledger.progress.fail(taken, 50.0, 1.0)
        elif number % 3 == 1:
            ledger.progress.bury(taken, 1.0, "x")
        else:
            ledger.progress.done(taken)
            faults.heal()
        ledger.save()
        await store.saved()
    stored = await there(store)
    assert (stored.floor, set(stored.parked), stored.dead) == (6, {1, 4}, 2)

    faults.before = always("UPDATE consumer", sqlite3.SQLITE_CORRUPT)
    (taken,) = (one for one in ledger.progress.take(20, 9, 0.0) if one.seq == 7)
    ledger.progress.fail(taken, 50.0, 1.0)
    ledger.save()
    await store.saved()
    ledgers.close(ledger)
    faults.heal()
    again = await ledgers.open(KEY)
    assert again.progress.floor == 6
    (taken,) = (one for one in again.progress.take(20, 9, 0.0) if one.seq == 7)
    assert again.progress.done(taken)
    again.save()
    await store.saved()
    stored = await there(store)
    assert (stored.floor, set(stored.parked)) == (7, {1, 4})
    ledgers.close(again)


@log_test
async def test_a_source_that_fails_harms_nobody(disk: SqliteWorld) -> None:
    """What can't say its changes is logged, and the rest is stored."""
    store = await begin(disk, "a", "c")

    def fail() -> Changes:
        raise RuntimeError("broken")

    with capture_logs() as logs:
        store.save(KEY._replace(name="a"), fail)
        store.save(KEY._replace(name="c"), lambda: Changes(5))
        await store.saved()
    assert [each["event"] for each in logs] == ["consumer_not_asked"]
    assert floors(disk.database.path) == {"a": 0, "c": 5}


@pytest.mark.parametrize(
    ("match", "code"),
    [
        ("UPDATE consumer", sqlite3.SQLITE_IOERR),
        ("UPDATE meta", sqlite3.SQLITE_IOERR),
        ("UPDATE meta", sqlite3.SQLITE_FULL),
        ("COMMIT", sqlite3.SQLITE_IOERR),
    ],
)
@log_test
async def test_an_error_of_the_disk_loses_nothing(faulty: SqliteWorld, faults: Faults, match: str, code: int) -> None:
    """What was saved, before and while it fails, is there once the file can be written again."""
    store = await begin(faulty, "worker")
    parked = {3: Parked(1, 5.0, 1.0), 4: Parked(1, 5.0, 1.0)}
    store.save(KEY, lambda: Changes(5, (), False, dict(parked), set(), {2: Dead(1, 1.0, 1.0, "x")}))
    faults.before = once(match, code)
    try:
        await faulty.log.append("b", event())
    except RelayError:
        store.save(KEY, lambda: Changes(6, (), False, {5: Parked(1, 5.0, 1.0)}, {3}))
    await until(lambda: not faulty.database.problem)
    await store.saved()
    stored = await there(store)
    assert stored.dead == 1
    if stored.floor == 6:
        assert set(stored.parked) == {4, 5}
    else:
        assert (stored.floor, dict(stored.parked), match) == (5, parked, "UPDATE consumer")


@log_test
async def test_what_is_saved_while_a_commit_fails_adds_up(disk: SqliteWorld) -> None:
    """What was on its way and what came meanwhile are stored together, in their order."""
    store = await begin(disk, "worker")
    store.save(KEY, lambda: Changes(1, (), False, {1: Parked(1, 1.0, 1.0)}, set(), {2: Dead(1, 1.0, 1.0, "x")}))
    assert store.prepare()
    store.save(KEY, lambda: Changes(3, (), False, {3: Parked(1, 1.0, 1.0)}, {1}))
    store.undone()
    await store.saved()
    stored = await there(store)
    assert (stored.floor, set(stored.parked), stored.dead) == (3, {3}, 1)


@log_test
async def test_what_keeps_it_from_being_saved_is_told(faulty: SqliteWorld, faults: Faults) -> None:
    """Whoever waits gets the error; later it is stored all the same."""
    store = await begin(faulty, "worker")
    faults.before = always("UPDATE consumer", sqlite3.SQLITE_IOERR)
    store.save(KEY, lambda: Changes(5))
    with pytest.raises(Unavailable, match="consumers"):
        await store.saved()
    assert (await faulty.log.append("b", event())).seq == 21
    faults.heal()
    await store.saved()
    assert floors(faulty.database.path) == {"worker": 5}


@log_test
async def test_a_close_that_can_not_save_says_so(faulty: SqliteWorld, faults: Faults) -> None:
    """It ends all the same."""
    store = await begin(faulty, "worker")
    faults.before = always("UPDATE consumer", sqlite3.SQLITE_IOERR)
    store.save(KEY, lambda: Changes(5))
    with capture_logs() as logs:
        await store.close()
    assert "consumers_not_saved" in [each["event"] for each in logs]


@log_test
async def test_what_was_saved_and_lost_is_saved_anew(faulty: SqliteWorld) -> None:
    """Where the file is as it was before, and no event is lost: nobody is told, and nothing is passed over."""
    store = await begin(faulty, "worker")
    ledgers = Ledgers(store, faulty.log)
    ledger = await ledgers.open(KEY)
    told: list[int] = []
    ledger.watch(lambda: told.append(1))
    (one,) = ledger.progress.take(20, 1, 0.0)
    ledger.progress.fail(one, 50.0, 1.0)
    ledger.save()
    await store.saved()
    with behind(faulty) as raw:
        raw.execute("DELETE FROM parked")
        raw.execute("UPDATE consumer SET floor = 0")
    ledgers.lost("b", 20)
    stored = await there(store)
    assert (stored.floor, stored.parked) == (1, {1: Parked(1, 50.0, 1.0)})
    assert told == []
    ledgers.close(ledger)


@log_test
async def test_those_in_use_learn_that_events_were_lost(faulty: SqliteWorld, faults: Faults) -> None:
    """Where the log's end is lost while it runs, what comes in its place is delivered."""
    store = await begin(faulty, "worker")
    ledgers = Ledgers(store, faulty.log)
    ledger = await ledgers.open(KEY)
    told: list[int] = []
    ledger.watch(lambda: told.append(1))
    for taken in ledger.progress.take(20, 20, 0.0):
        ledger.progress.done(taken)
    ledgers.lost("c", 0)
    ledgers.lost("b", 20)
    assert told == []
    with behind(faulty) as raw:
        raw.execute("DELETE FROM event WHERE seq > 15")
        raw.execute("UPDATE log SET head = 15")
    with pytest.raises(RelayError):
        await faulty.log.append("b", event())
    await until(lambda: told)
    assert told == [1]
    assert ledger.progress.floor == 15
    assert (await faulty.log.append("b", event())).seq == 16
    assert [one.seq for one in ledger.progress.take(16, 9, 0.0)] == [16]
    await store.saved()
    assert floors(faulty.database.path) == {"worker": 15}
    ledgers.close(ledger)


@pytest.mark.parametrize("code", [sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT])
@pytest.mark.parametrize("match", ["UPDATE consumer SET floor", "UPDATE consumer SET gaps"])
@log_test
async def test_gaps_that_could_not_be_stored_are_later(
    faulty: SqliteWorld, faults: Faults, match: str, code: int
) -> None:
    """Those that were met with changes, and those without: a client that comes after a restart is told of them."""
    store = await begin(faulty, "worker", "other")
    keys = (KEY, KEY._replace(name="other"))
    first, second, third = Gap("retention", 1, 2), Gap("retention", 7, 9), Gap("retention", 15, 16)
    faults.before = always(match, code)
    for place, key in enumerate(keys):
        if place or match.endswith("floor"):
            store.save(key, lambda: Changes(9))
        store.met(key, first, 5.0)
        store.met(key, second, 6.0)
    with suppress(Unavailable):
        await store.saved()
    faults.heal()
    for key in keys:
        store.met(key, third, 7.0)
    await store.saved()
    for key in keys:
        stored = await there(store, key)
        assert (stored.untold, stored.gaps) == ((first, second, third), Gaps(3, third, 7.0))
    assert floors(faulty.database.path) == {"worker": 9 if match.endswith("floor") else 0, "other": 9}


@log_test
async def test_changes_that_can_not_be_stored_take_no_gap_along(disk: SqliteWorld) -> None:
    """Gaps are stored with what is saved next."""
    store = await begin(disk, "worker")
    store.save(KEY, lambda: Changes(5, (), False, {3: Parked(1 << 70, 1.0, 1.0)}))
    store.met(KEY, Gap("retention", 1, 2), 5.0)
    await store.saved()
    store.save(KEY, lambda: Changes(6))
    await store.saved()
    stored = await there(store)
    assert (stored.floor, stored.untold) == (6, (Gap("retention", 1, 2),))


@log_test
async def test_a_damaged_record_of_gaps_keeps_no_change_from_being_stored(disk: SqliteWorld) -> None:
    """It goes along with what is saved next, as with any damage; where the consumer begins anew, nothing does."""
    store = await begin(disk, "worker")
    gap = Gap("retention", 1, 2)

    def set_gap(text: str | None) -> None:
        with closing(sqlite3.connect(disk.database.path)) as raw, raw:
            guard_schema(raw)
            raw.execute("UPDATE consumer SET gap = ?", (text,))

    def changes() -> Changes:
        return left.pop(0)

    for renewed, floor, parked, untold in ((False, 6, {3}, (gap,)), (True, 0, set(), ())):
        left = [Changes(5, (), False, {3: Parked(1, 1.0, 1.0)}), Changes(6)]
        set_gap("{}")
        store.save(KEY, changes)
        store.met(KEY, gap, 5.0)
        await store.saved()
        if renewed:
            await store.renew(KEY, 0, 6.0)
            store.told(KEY, ())
        else:
            set_gap(None)
            store.save(KEY, changes)
        await store.saved()
        stored = await there(store)
        assert (stored.floor, set(stored.parked), stored.untold) == (floor, parked, untold)


@log_test
async def test_a_consumer_that_is_deleted_while_it_can_not_be_stored(faulty: SqliteWorld, faults: Faults) -> None:
    """One that is made anew with its name gets nothing of it, not even what failed in the same transaction."""
    store = await begin(faulty, "worker")
    faults.before = always("UPDATE consumer SET floor", sqlite3.SQLITE_CORRUPT)
    dead = {2: Dead(1, 1.0, 1.0, "x")}
    source = lambda: Changes(5, dead=dict(dead))  # noqa: E731 - the same one each time
    store.save(KEY, source)
    store.met(KEY, Gap("retention", 1, 2), 1.0)
    assert await store.delete(KEY)
    faults.heal()
    await store.create(KEY, 0, TERMS, 1.0)
    dead.clear()
    store.save(KEY, source)
    await store.saved()
    stored = await there(store)
    assert (stored.floor, stored.dead, stored.gaps) == (5, 0, None)


@pytest.mark.parametrize("how", ["consumer", "bucket"])
@log_test
async def test_nothing_of_deleted_consumers_stays_in_memory(faulty: SqliteWorld, faults: Faults, how: str) -> None:
    """Neither what could not be written, nor which of them failed or are damaged."""
    names = ("bad", "damaged", "worker")
    store = await begin(faulty, *names)
    ledgers = Ledgers(store, faulty.log)
    with closing(sqlite3.connect(faulty.database.path)) as raw, raw:
        guard_schema(raw)
        raw.execute("PRAGMA ignore_check_constraints = ON")
        raw.execute("UPDATE consumer SET done = '[[9,' WHERE name = 'damaged'")
    assert [each.key.name for each in await store.list() if each.damaged] == ["damaged"]
    faults.before = always("UPDATE consumer SET floor", sqlite3.SQLITE_CORRUPT)
    for name in names:
        store.save(KEY._replace(name=name), lambda: Changes(5))
        store.met(KEY._replace(name=name), Gap("retention", 1, 2), 1.0)
    await store.saved()
    store.save(KEY, lambda: Changes(6))
    store.save(KEY._replace(name="bad"), lambda: Changes(6))
    if how == "bucket":
        await faulty.log.drop("b")
        ledgers.forget("b")
    else:
        for name in names:
            assert await ledgers.delete(KEY._replace(name=name))
    faults.heal()
    await faulty.database.write(lambda raw: None)
    await until(lambda: not store._pending)
    assert [store._pending, store._writing, store._kept, store._alone, store._told] == [{}, {}, {}, set(), set()]
