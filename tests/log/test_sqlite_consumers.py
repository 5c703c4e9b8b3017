"""Consumers on SQLite: they ride along with commits, and survive kill -9."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from relay_tornado.consumer_changes import Changes, Dead, Parked
from relay_tornado.errors import Conflict
from relay_tornado.log import consumer_rows, reclaim, sqlite_consumers
from relay_tornado.log.consumers import Gaps, Key
from relay_tornado.log.ledgers import Ledgers
from relay_tornado.log.sqlite_consumers import SqliteConsumers
from relay_tornado.model import Gap, Retention
from relay_tornado.settings import Settings
from relay_tornado.storage.database import Database
from tests.failing import once as fails_once
from tests.log.stores import KEY, TERMS, begin, floors, letters, save, there
from tests.log.worlds import SqliteWorld, event, make
from tests.waiting import until

log_test = pytest.mark.gen_test


@log_test
async def test_a_save_costs_no_commit(disk: SqliteWorld) -> None:
    """It is in the commit of the next events; where none come it gets one, for all that wait together."""
    store = await begin(disk, "a", "b", "c")
    before = disk.database.commits
    for name in "abc":
        store.save(KEY._replace(name=name), lambda: Changes(7))
    await disk.log.append("b", event())
    assert disk.database.commits == before + 1
    assert floors(disk.database.path) == {"a": 7, "b": 7, "c": 7}
    for name in "abc":
        store.save(KEY._replace(name=name), lambda: Changes(8))
    await until(lambda: disk.database.commits > before + 1)
    assert floors(disk.database.path) == {"a": 8, "b": 8, "c": 8}
    assert disk.database.commits == before + 2


@log_test
async def test_many_that_come_at_once_share_commits(disk: SqliteWorld) -> None:
    """A hundred consumers are made in two, and as many that are looked for while changes wait cost one or two."""
    store = await begin(disk, "first")
    before = disk.database.commits
    names = [f"c{number}" for number in range(100)]
    await asyncio.gather(*(store.create(KEY._replace(name=name), 3, TERMS, 0.0) for name in names))
    assert disk.database.commits == before + 2
    for name in names:
        store.save(KEY._replace(name=name), lambda: Changes(7))
    found = await asyncio.gather(*(store.get(KEY._replace(name=name)) for name in names))
    assert {each.floor for each in found if each is not None} == {7}
    assert disk.database.commits == before + 4


@log_test
async def test_deleting_what_is_not_there_costs_no_commit(disk: SqliteWorld) -> None:
    """As whoever makes a public output does."""
    store = await begin(disk, "a")
    assert await store.delete(KEY._replace(name="a"))
    before = disk.database.commits
    assert not await store.delete(KEY._replace(name="a"))
    assert disk.database.commits == before


@log_test
async def test_changes_are_asked_for_at_the_commit(disk: SqliteWorld) -> None:
    """However much changes until then, it is asked once, and gets all of it."""
    store = await begin(disk, "worker")
    ledgers = Ledgers(store, disk.log)
    ledger = await ledgers.open(KEY)
    asked = []
    original = ledger.progress.changes

    def changes() -> Changes | None:
        asked.append(1)
        return original()

    ledger.progress.changes = changes  # type: ignore[method-assign]
    for taken in ledger.progress.take(20, 20, 0.0):
        ledger.progress.done(taken)
        ledger.save()
    await store.saved()
    assert floors(disk.database.path) == {"worker": 20}
    assert len(asked) == 1
    ledgers.close(ledger)


@log_test
@pytest.mark.parametrize("again", [True, False])
async def test_a_save_without_memory(disk: SqliteWorld, monkeypatch: pytest.MonkeyPatch, again: bool) -> None:
    """The next one stores it, and whoever waits for what was saved does not wait in vain."""
    store = await begin(disk, "worker")
    ledgers = Ledgers(store, disk.log)
    ledger = await ledgers.open(KEY)
    await store.saved()
    for taken in ledger.progress.take(20, 20, 0.0):
        ledger.progress.done(taken)
    monkeypatch.setattr(disk.database, "ride", fails_once(disk.database.ride))
    with pytest.raises(MemoryError):
        ledger.save()
    if again:
        ledger.save()
    await store.saved()
    assert floors(disk.database.path) == {"worker": 20 if again else 0}
    ledgers.close(ledger)


@log_test
async def test_changes_are_asked_for_until_they_are_had(disk: SqliteWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no memory for them, those of this consumer are asked for the next time, and nobody's are lost."""
    monkeypatch.setattr("relay_tornado.storage.piggyback._AGAIN", 0.01)
    store = await begin(disk, "worker", "other")
    ledgers = Ledgers(store, disk.log)
    opened = [await ledgers.open(KEY), await ledgers.open(KEY._replace(name="other"))]
    await store.saved()
    for ledger in opened:
        monkeypatch.setattr(ledger.progress, "changes", fails_once(fails_once(ledger.progress.changes), after=1))
        ledger.progress.advance(20)
        ledger.save()
    await until(lambda: floors(disk.database.path) == {"worker": 20, "other": 20})
    for ledger in opened:
        ledgers.close(ledger)


@log_test
async def test_what_was_not_stored_waits_for_memory(disk: SqliteWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there was none to take it back as its transaction failed, what is saved later does not stand for it."""
    store = await begin(disk, "worker")
    monkeypatch.setattr(store, "undone", fails_once(fails_once(store.undone)))

    def refuse(raw: sqlite3.Connection) -> None:
        raise Conflict("no")

    store.save(KEY, lambda: Changes(parked={5: Parked(1, 100.0, 1.0)}))
    with pytest.raises(Conflict):
        await disk.database.write(refuse)
    store.save(KEY, lambda: Changes(parked={7: Parked(1, 100.0, 1.0)}))
    await store.saved()
    assert list((await there(store)).parked) == [5, 7]


@log_test
async def test_many_consumers_take_turns(disk: SqliteWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than go into one transaction go into several, none is forgotten."""
    monkeypatch.setattr("relay_tornado.log.sqlite_consumers._TOGETHER", 3)
    names = [str(number) for number in range(10)]
    store = await begin(disk, *names)
    for name in names:
        store.save(KEY._replace(name=name), lambda: Changes(9))
    await store.saved()
    assert floors(disk.database.path) == dict.fromkeys(names, 9)


@log_test
async def test_a_dropped_log_takes_its_rows_along(disk: SqliteWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Consumers, what they parked and what they gave up leave the file in steps, and nobody else's do."""
    monkeypatch.setattr("relay_tornado.log.consumer_rows.STEP", 3)
    await make(disk.log, "c", events=5)
    names = [str(number) for number in range(5)]
    store = await begin(disk, *names)
    other = Key("c", "client", "other")
    await store.create(other, 0, TERMS, 1.0)
    parked = {seq: Parked(1, 1.0, 1.0) for seq in (1, 2, 3)}
    dead = {seq: Dead(1, 1.0, 1.0, "x") for seq in (4, 5)}
    for key in (other, *(KEY._replace(name=name) for name in names)):
        store.save(key, lambda: Changes(3, (), False, dict(parked), set(), dict(dead)))
    await store.saved()
    await disk.log.drop("b")

    def left() -> list[int]:
        with closing(sqlite3.connect(disk.database.path)) as raw:
            tables = ("consumer", "parked", "dead_letter", "log")
            return [raw.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables]

    await until(lambda: left() == [1, 3, 2, 1])
    stored = await there(store, other)
    assert set(stored.parked) == {1, 2, 3}


@log_test
async def test_a_trim_goes_in_steps(disk: SqliteWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much belongs to the events that left, appends go between."""
    monkeypatch.setattr("relay_tornado.log.consumer_rows.STEP", 3)
    store = await begin(disk, "worker")
    store.save(KEY, lambda: Changes(20, (), False, {seq: Parked(1, 1.0, 1.0) for seq in range(1, 21)}))
    await store.saved()
    before = disk.database.commits
    await disk.log.trim("b", Retention(None, 4, None), None)
    assert disk.database.commits >= before + 6
    stored = await there(store)
    assert (sorted(stored.parked), stored.dead) == ([17, 18, 19, 20], 16)


WORKER = """
import asyncio, sys
from contextlib import closing
from pathlib import Path
from relay_tornado.log.consumers import Key, Terms
from relay_tornado.log.ledgers import Ledgers
from relay_tornado.log.sqlite import SqliteEventLog
from relay_tornado.log.sqlite_consumers import SqliteConsumers
from relay_tornado.settings import Settings
from relay_tornado.storage.database import Database
from tests.log.worlds import event

def say(*words):
    print(*words, flush=True)

async def main():
    settings = Settings(data=Path(sys.argv[1]))
    database = await Database.open(settings)
    log = await SqliteEventLog.open(database, settings)
    await log.create("b", "aaaaaaaaaaaa")
    store = SqliteConsumers(database)
    ledgers = Ledgers(store, log)
    ledger = await ledgers.open(Key("b", "client", "worker"), 0, Terms())
    say("floor", ledger.progress.floor)

    async def send():
        while True:
            await asyncio.gather(*(log.append("b", event()) for _ in range(20)))

    async def work():
        while True:
            head = (await log.bounds("b")).head
            taken = ledger.progress.take(head, 50, 0.0)
            for one in reversed(taken):
                say("done", one.seq)
                ledger.progress.done(one)
                ledger.save()
            await asyncio.sleep(0)
            if taken and taken[-1].seq % 3 == 0:
                await store.saved()
                say("saved", ledger.progress.floor)

    await asyncio.gather(send(), work())

asyncio.run(main())
"""


def test_what_was_saved_survives_a_kill(tmp_path: Path) -> None:
    """After kill -9 a consumer stands where it was when it was last told to be saved, or further, and never further
    than what it was done with."""
    done: set[int] = set()
    saved = floor = 0
    for _ in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(tmp_path / "data")], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        try:
            killed = False
            for line in process.stdout:
                if not line.endswith("\n"):
                    break
                what, number = line.split()
                if what == "floor":
                    floor = int(number)
                    assert floor >= saved, "what was saved is gone"
                    assert done.issuperset(range(1, floor + 1)), "it is ahead of what was done"
                elif what == "done":
                    done.add(int(number))
                else:
                    saved = int(number)
                    if saved > floor + 200 and not killed:
                        killed = True
                        process.send_signal(signal.SIGKILL)
            assert process.wait(60) == -signal.SIGKILL
        finally:
            process.kill()
            process.wait(60)
            process.stdout.close()
    assert saved > 800

    async def look() -> int:
        database = await Database.open(Settings(data=tmp_path / "data"))
        try:
            stored = await SqliteConsumers(database).get(KEY)
            assert stored is not None
            return stored.floor
        finally:
            await database.close()

    assert saved <= asyncio.run(look()) <= max(done)


@log_test
async def test_what_is_parked_in_a_log_that_is_dropped_becomes_nothing(disk: SqliteWorld) -> None:
    """A trim that was on its way meets it: that is no failure."""
    store = await begin(disk, "worker")
    store.save(KEY, lambda: Changes(5, (), False, {3: Parked(1, 5.0, 1.0)}, set(), {}))
    await store.saved()
    key = disk.log._logs["b"].key

    def job(raw: sqlite3.Connection) -> tuple[bool, int]:
        reclaim.drop(raw, key)
        done = consumer_rows.forget_old(raw, key, 1.0)
        return done, raw.execute("SELECT count(*) FROM dead_letter").fetchone()[0]

    assert await disk.database.write(job) == (True, 0)
    await disk.log.drop("b")


@log_test
async def test_a_consumer_with_many_dead_letters_is_deleted_in_steps(
    disk: SqliteWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An output whose destination fails for days has a million of them: senders would wait for seconds."""
    monkeypatch.setattr(consumer_rows, "LETTERS", 4)
    store = await begin(disk, "worker", "other")
    for name in ("worker", "other"):
        dead = {seq: Dead(5, 1.0, 1.0, "max_deliver") for seq in range(1, 11)}
        await save(store, Changes(20, (), dead=dead), KEY._replace(name=name))
    before = disk.database.commits
    assert await store.delete(KEY)
    assert disk.database.commits == before + 3
    assert await store.get(KEY) is None
    assert len(await store.dead("b", None, 0, 99)) == 10


@log_test
async def test_a_step_costs_the_same_however_many_dead_letters_are_left(disk: SqliteWorld) -> None:
    """They leave with their events. If a step looked at all that are left, each would hold senders up."""
    await begin(disk, "worker")
    key = disk.log._logs["b"].key

    def job(raw: sqlite3.Connection) -> list[int]:
        raw.execute("DROP TRIGGER dead_letter_insert")
        raw.execute("DROP TRIGGER log_update")
        raw.execute("UPDATE log SET first = 20001, head = 20000 WHERE id = ?", (key,))
        costs = []
        for most in (2_000, 20_000):
            raw.execute(
                "INSERT OR IGNORE INTO dead_letter WITH RECURSIVE n (seq) AS (SELECT 1 UNION ALL SELECT seq + 1 FROM n"
                " WHERE seq < ?) SELECT consumer.id, seq, 5, 1.0, 1.0, 'max_deliver' FROM n, consumer",
                (most,),
            )
            steps = [0]

            def count(steps: list[int] = steps) -> int:
                steps[0] += 1
                return 0

            raw.set_progress_handler(count, 100)
            assert not consumer_rows.forget_old(raw, key, 1.0)
            raw.set_progress_handler(None, 0)
            costs += steps
        return costs

    few, many = await disk.database.write(job)
    assert many < 2 * few


@log_test
async def test_no_consumer_is_ahead_of_its_log(disk: SqliteWorld) -> None:
    """What is said of events that the file has lost meanwhile is not stored: nobody could use the record then."""
    store = await begin(disk)
    await store.create(KEY, 99, TERMS, 1.0)
    assert (await there(store)).floor == 20
    parked = {seq: Parked(1, 5.0, 1.0) for seq in (20, 21)}
    dead = {seq: Dead(1, 7.0, 1.0, "max_deliver") for seq in (19, 22)}
    await save(store, Changes(17, ((18, 25), (28, 30)), False, parked, set(), dead, tried=((20, 22), (23, 23))))
    stored = await there(store)
    assert (stored.floor, tuple(stored.done), tuple(stored.tried)) == (17, ((18, 20),), ((20, 20),))
    assert (list(stored.parked), await letters(store)) == ([20], [(19, "max_deliver")])
    await save(store, Changes(99))
    assert (await there(store)).floor == 20
    await store.renew(KEY, 99, 2.0)
    assert (await there(store)).floor == 20


@log_test
async def test_gaps_that_come_during_a_commit_that_fails_are_stored(disk: SqliteWorld) -> None:
    """With those that were in it."""
    store = await begin(disk, KEY.name)
    first, second = Gap("retention", 1, 2), Gap("retention", 5, 6)
    store.met(KEY, first, 1.0)
    assert store.prepare()
    store.met(KEY, second, 2.0)
    store.undone()
    await store.saved()
    stored = await there(store)
    assert (stored.untold, stored.gaps) == ((first, second), Gaps(2, second, 2.0))


@log_test
async def test_what_is_being_committed_is_waited_for(disk: SqliteWorld) -> None:
    """`saved` is about everything that was saved before, also where its transaction has begun."""
    store = await begin(disk, "worker")
    store.save(KEY, lambda: Changes(7))
    assert store.prepare()
    await store.saved()
    assert floors(disk.database.path) == {"worker": 7}


@log_test
async def test_who_has_nothing_to_save_keeps_nobody_waiting(disk: SqliteWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those behind it are saved all the same, though no transaction came of its turn."""
    monkeypatch.setattr(sqlite_consumers, "_TOGETHER", 1)
    store = await begin(disk, "idle", "worker")
    store.save(KEY._replace(name="idle"), lambda: None)
    store.save(KEY, lambda: Changes(7))
    await until(lambda: floors(disk.database.path)["worker"] == 7)


@log_test
async def test_nobody_waits_for_a_consumer_that_is_deleted(disk: SqliteWorld) -> None:
    """There is nothing left to save, which is no error."""
    store = await begin(disk, "worker")
    store.save(KEY, lambda: Changes(7))
    saved = asyncio.ensure_future(store.saved())
    await asyncio.sleep(0)
    store.forget("b")
    await saved
