"""schema.sql: what it refuses, and that every way leads to it."""

from __future__ import annotations

import contextlib
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from relay_tornado import __version__
from relay_tornado.errors import NewerSchema, StartupError
from relay_tornado.settings import Settings
from relay_tornado.storage import database_files, migrate
from relay_tornado.storage.database import Database
from relay_tornado.storage.migrate import Step
from relay_tornado.storage.sqlite_compat import JUDGES_JSON, guard_schema

storage_test = pytest.mark.gen_test


def shape(raw: sqlite3.Connection) -> dict[str, object]:
    """Everything that the schema says, without comments and white space."""
    rows = raw.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name").fetchall()
    plain = []
    for kind, name, table, sql in rows:
        lines = [line.partition("--")[0] for line in (sql or "").splitlines()]
        text = " ".join(" ".join(lines).split())
        plain.append((kind, name, table, text.replace(" ,", ",").replace(" )", ")")))
    return {"schema": plain, "version": migrate.version(raw)}


@pytest.fixture
def raw() -> Iterator[sqlite3.Connection]:
    """A new file's schema with one log `1` that has events 1 to 5."""
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as made:
        guard_schema(made)
        migrate.create(made)
        made.execute("INSERT INTO log (bucket) VALUES ('b')")
        for seq in range(1, 6):
            insert(made, seq)
        made.execute("UPDATE log SET head = 5, bytes = 5")
        yield made


def insert(raw: sqlite3.Connection, seq: int, log: int = 1) -> None:
    raw.execute(
        "INSERT INTO event VALUES (?, ?, 1, 0, 0.0, 'i', 'POST', x'', x'', x'', '::1', ?, NULL, NULL, 0, NULL, '', 0)",
        (log, seq, b"%d" % seq),
    )


def refused(raw: sqlite3.Connection, sql: str) -> str:
    with pytest.raises(sqlite3.IntegrityError) as error:
        raw.execute(sql)
    return str(error.value)


def test_an_event_is_never_changed(raw: sqlite3.Connection) -> None:
    """Every UPDATE of an event aborts and says what to do instead."""
    assert "append another one" in refused(raw, "UPDATE event SET body = x'00' WHERE seq = 3")
    assert "append another one" in refused(raw, "UPDATE event SET seq = 9 WHERE seq = 1")


def test_an_event_that_is_kept_is_never_deleted(raw: sqlite3.Connection) -> None:
    """A DELETE at or above `first` aborts; below it, it does not."""
    assert "raise the first" in refused(raw, "DELETE FROM event WHERE seq = 1")
    assert "raise the first" in refused(raw, "DELETE FROM event")
    raw.execute("UPDATE log SET first = 3")
    raw.execute("DELETE FROM event WHERE seq < 3")
    assert "raise the first" in refused(raw, "DELETE FROM event WHERE seq = 3")


def test_a_log_has_no_hole(raw: sqlite3.Connection) -> None:
    """A head moves only over events that are there, also where a log begins anywhere (after an import)."""
    assert "no hole" in refused(raw, "UPDATE log SET head = 6")
    insert(raw, 7)
    assert "no hole" in refused(raw, "UPDATE log SET head = 7")
    insert(raw, 6)
    raw.execute("UPDATE log SET head = 7")
    with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
        insert(raw, 7)
    raw.execute("INSERT INTO log (bucket) VALUES ('c')")
    for seq in (41, 42):
        insert(raw, seq, log=2)
    assert "no hole" in refused(raw, "UPDATE log SET first = 40, head = 42 WHERE id = 2")
    assert "no hole" in refused(raw, "UPDATE log SET head = 42 WHERE id = 2")
    raw.execute("UPDATE log SET first = 41, head = 42 WHERE id = 2")


def test_a_log_never_goes_back(raw: sqlite3.Connection) -> None:
    """first, head and last_at only grow, `first` stays within head + 1, and a log with events stays."""
    raw.execute("UPDATE log SET first = 3, last_at = 9.0")
    for change in ("first = 2", "head = 4", "last_at = 8.0", "id = 5", "bucket = 'c'"):
        assert "only grows" in refused(raw, f"UPDATE log SET {change}")
    refused(raw, "UPDATE log SET first = 7")
    assert "dropped" in refused(raw, "DELETE FROM log")
    raw.execute("UPDATE log SET dropped = 1, first = head + 1, bytes = 0")
    assert "dropped" in refused(raw, "DELETE FROM log")
    assert "only grows" in refused(raw, "UPDATE log SET dropped = 0")
    raw.execute("DELETE FROM event")
    raw.execute("DELETE FROM log")


def test_a_delivery_belongs_to_an_event(raw: sqlite3.Connection) -> None:
    """What became of an event can be stored only while its log holds it."""
    insert_delivery = "INSERT INTO delivery VALUES (NULL, {}, {}, 0, 0.0, 'sent', 200, 0, 0, '{{}}', x'')"
    raw.execute(insert_delivery.format(1, 5))
    raw.execute("UPDATE log SET first = 3")
    for log, seq in ((1, 2), (1, 6), (2, 1)):
        assert "its log holds" in refused(raw, insert_delivery.format(log, seq))
    raw.execute("UPDATE log SET dropped = 1, first = head + 1, bytes = 0")
    assert "its log holds" in refused(raw, insert_delivery.format(1, 5))


def test_a_log_id_is_never_used_twice(raw: sqlite3.Connection) -> None:
    """Ids of deleted logs do not come back, so nothing can take an old log for a new one."""
    raw.execute("UPDATE log SET dropped = 1, first = head + 1, bytes = 0")
    raw.execute("DELETE FROM event")
    raw.execute("DELETE FROM log")
    assert raw.execute("INSERT INTO log (bucket) VALUES ('b')").lastrowid == 2


def test_one_live_log_a_bucket(raw: sqlite3.Connection) -> None:
    """A bucket has one log, beside any number of dropped ones."""
    refused(raw, "INSERT INTO log (bucket) VALUES ('b')")
    raw.execute("UPDATE log SET dropped = 1, first = head + 1, bytes = 0")
    raw.execute("INSERT INTO log (bucket) VALUES ('b')")


def a_consumer(raw: sqlite3.Connection) -> None:
    raw.execute(
        "INSERT INTO consumer (log, kind, name, floor, created_at, updated_at) VALUES (1, 'client', 'w', 5, 0, 0)"
    )


def test_a_consumer_is_done_with_what_there_is(raw: sqlite3.Connection) -> None:
    """Its floor lies within its log, which it keeps, and there is one of a kind and name."""
    a_consumer(raw)
    insert_one = (
        "INSERT INTO consumer (log, kind, name, floor, created_at, updated_at) VALUES ({}, '{}', '{}', {}, 0, 0)"
    )
    for log, kind, name, floor in ((1, "client", "x", 6), (2, "client", "x", 0)):
        assert "no more than that holds" in refused(raw, insert_one.format(log, kind, name, floor))
    assert "UNIQUE" in refused(raw, insert_one.format(1, "client", "w", 0))
    assert "CHECK" in refused(raw, insert_one.format(1, "other", "w", 0))
    for change in ("floor = 6", "log = 2", "id = 7"):
        assert "keeps its log" in refused(raw, f"UPDATE consumer SET {change}")
    assert "CHECK" in refused(raw, "UPDATE consumer SET done = 'x'")
    assert "CHECK" in refused(raw, "UPDATE consumer SET gap = 'x'")
    raw.execute("UPDATE consumer SET floor = 0")


def test_what_a_consumer_has_to_do_with_is_an_event(raw: sqlite3.Connection) -> None:
    """What it tries again, and what it gave up, is an event that its log holds; or one that retention took away."""
    a_consumer(raw)
    raw.execute("INSERT INTO parked VALUES (1, 5, 1, 0, 0)")
    raw.execute("UPDATE log SET first = 3")
    for consumer, seq in ((1, 2), (1, 6), (2, 4)):
        assert "the log holds" in refused(raw, f"INSERT INTO parked VALUES ({consumer}, {seq}, 1, 0, 0)")
        assert "the log holds" in refused(raw, f"INSERT INTO dead_letter VALUES ({consumer}, {seq}, 1, 0, 0, 'x')")
    for seq, reason in ((2, "retention"), (4, "x")):
        raw.execute("INSERT INTO dead_letter VALUES (1, ?, 1, 0, 0, ?)", (seq, reason))
    raw.execute("PRAGMA foreign_keys = ON")
    raw.execute("DELETE FROM consumer")
    for table in ("parked", "dead_letter"):
        assert raw.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)


def test_migrations_arrive_at_the_schema() -> None:
    """Every step from the first on leads to what schema.sql makes at once."""
    with (
        contextlib.closing(sqlite3.connect(":memory:")) as whole,
        contextlib.closing(sqlite3.connect(":memory:")) as led,
    ):
        whole.executescript(migrate.schema())
        for step in migrate.steps():
            led.executescript(step.script)
            assert migrate.version(led) == step.version
        assert shape(led) == shape(whole)
    assert [step.version for step in migrate.steps()] == list(range(1, migrate.latest() + 1))


@storage_test
async def test_a_new_file_has_the_settings(database: Database) -> None:
    """WAL, FULL, and the rest of the settings hold on the write connection; readers can't write."""
    expected = {
        "journal_mode": "wal",
        "synchronous": 2,
        "busy_timeout": 5000,
        "foreign_keys": 1,
        "journal_size_limit": 64 << 20,
        "trusted_schema": int(sqlite3.sqlite_version_info < JUDGES_JSON),
        "wal_autocheckpoint": 0,
        "auto_vacuum": 2,
    }
    found = await database.write(lambda raw: {name: raw.execute(f"PRAGMA {name}").fetchone()[0] for name in expected})
    assert found == expected
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        await database.read(lambda raw: raw.execute("UPDATE meta SET commits = 0"))


@storage_test
async def test_the_file_is_the_owners_alone(settings: Settings) -> None:
    """The directory is 0700 and the files are 0600, also where a file was more open before."""
    database = await Database.open(settings)
    await database.close()
    database.path.chmod(0o644)
    database = await Database.open(settings)
    try:
        await database.write(lambda raw: None)
        assert stat.S_IMODE(settings.data.stat().st_mode) == 0o700
        for path in settings.data.iterdir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    finally:
        await database.close()


@storage_test
async def test_a_newer_file_is_refused_untouched(settings: Settings) -> None:
    """A file of a newer relay is not opened; the error names the version and what to do."""
    await (await Database.open(settings)).close()
    path = settings.data / "relay.db"
    with contextlib.closing(sqlite3.connect(path)) as raw:
        raw.executescript("PRAGMA user_version = 99; UPDATE meta SET version = '9.8.7';")
    before = path.read_bytes()
    with pytest.raises(NewerSchema, match=r"version 99, written by relay 9\.8\.7;.*Install that relay"):
        await Database.open(settings)
    assert path.read_bytes() == before


@storage_test
async def test_a_foreign_file_is_refused_untouched(settings: Settings) -> None:
    """Another program's database, and what is no database at all, are left alone."""
    settings.data.mkdir()
    path = settings.data / "relay.db"
    with contextlib.closing(sqlite3.connect(path)) as raw:
        raw.execute("CREATE TABLE mine (x)")
    with pytest.raises(StartupError, match="not a relay's"):
        await Database.open(settings)
    path.write_bytes(b"no database at all, but long enough to be looked at" * 100)
    with pytest.raises(StartupError, match="damaged or no database"):
        await Database.open(settings)


def _older(path: Path) -> sqlite3.Connection:
    raw = sqlite3.connect(path, isolation_level=None)
    raw.executescript(migrate.steps()[0].script)
    raw.execute("INSERT INTO meta VALUES (1, 'id', 0, 0, 0.0, '0.1')")
    raw.execute("INSERT INTO bucket VALUES ('b', 'name', 1, '{}')")
    return raw


STEPS = (
    Step(1, "PRAGMA user_version = 1;"),
    Step(2, "CREATE TABLE two (x); PRAGMA user_version = 2;"),
    Step(3, "CREATE TABLE three (x); INSERT INTO three VALUES (1); PRAGMA user_version = 3;"),
)


def test_a_migration_runs_what_is_missing_after_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps above the file's version run in order, and the copy is the file as it was, for its owner only, and on the
    disk before them. The file says which relay wrote it."""
    synced: list[tuple[str, int]] = []
    with contextlib.closing(_older(tmp_path / "relay.db")) as raw:
        raw.execute("UPDATE meta SET version = 'older'")
        monkeypatch.setattr(database_files, "sync", lambda path: synced.append((path.name, migrate.version(raw))))
        migrate.migrate(raw, tmp_path / "relay.db", STEPS)
        assert synced == [("relay.db.before-v3.part", 1), (tmp_path.name, 1)]
        assert raw.execute("SELECT version FROM meta").fetchall() == [(__version__,)]
        assert migrate.version(raw) == 3
        assert raw.execute("SELECT x FROM three").fetchall() == [(1,)]
        migrate.migrate(raw, tmp_path / "relay.db", STEPS)
    copy = tmp_path / "relay.db.before-v3"
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    with contextlib.closing(sqlite3.connect(copy)) as raw:
        assert migrate.version(raw) == 1
        assert raw.execute("SELECT name FROM bucket").fetchall() == [("name",)]
        assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert not list(tmp_path.glob("*.part"))


def test_a_failed_migration_starts_again(tmp_path: Path) -> None:
    """A step that fails in its middle leaves the file at the step before it, and a later start goes on there."""
    broken = (*STEPS[:2], Step(3, "CREATE TABLE three (x); INSERT INTO nowhere VALUES (1); PRAGMA user_version = 3;"))
    (tmp_path / "relay.db.before-v3.part").write_bytes(b"left over")
    with contextlib.closing(_older(tmp_path / "relay.db")) as raw:
        with pytest.raises(StartupError, match=r"version 3.*copy"):
            migrate.migrate(raw, tmp_path / "relay.db", broken)
        assert migrate.version(raw) == 2
        assert not raw.in_transaction
        assert raw.execute("SELECT 1 FROM sqlite_schema WHERE name = 'three'").fetchone() is None
        migrate.migrate(raw, tmp_path / "relay.db", STEPS)
        assert migrate.version(raw) == 3


def test_the_copy_of_an_interrupted_migration_stays(tmp_path: Path) -> None:
    """It is the file as it was before the first step, however often a later one fails; the error says what is where.
    One that holds something else is replaced."""
    path, copy = tmp_path / "relay.db", tmp_path / "relay.db.before-v3"
    broken = (*STEPS[:2], Step(3, "INSERT INTO nowhere VALUES (1);"))
    with contextlib.closing(_older(path)) as raw:
        for _ in range(2):
            with pytest.raises(StartupError, match=r"of version 2 now, and .*before-v3 is a copy of version 1, as"):
                migrate.migrate(raw, path, broken)
            assert _version(copy) == 1
        raw.execute("UPDATE meta SET commits = 1")
        migrate.migrate(raw, path, STEPS)
    assert _version(copy) == 2


def test_a_copy_is_made_once(tmp_path: Path) -> None:
    """A start that was killed in the first step has left a whole copy: the next one needs neither the time nor the
    room for a second one beside it."""
    path, copy = tmp_path / "relay.db", tmp_path / "relay.db.before-v3"
    with contextlib.closing(_older(path)) as raw:
        with pytest.raises(StartupError, match="of version 1 now"):
            migrate.migrate(raw, path, (STEPS[0], Step(2, "INSERT INTO nowhere VALUES (1);"), STEPS[2]))
        made = copy.stat().st_ino
        migrate.migrate(raw, path, STEPS)
    assert copy.stat().st_ino == made
    assert _version(copy) == 1


def test_it_is_said_before_it_begins(tmp_path: Path) -> None:
    """Copying and changing a large file takes minutes in which nothing else is said."""
    path, broken = tmp_path / "relay.db", (STEPS[0], Step(2, "INSERT INTO nowhere VALUES (1);"))
    with contextlib.closing(_older(path)) as raw, capture_logs() as said, pytest.raises(StartupError):
        migrate.migrate(raw, path, broken)
    assert [each["event"] for each in said] == ["database_migrating"]
    assert said[0]["bytes"] == path.stat().st_size


def _version(path: Path) -> int:
    with contextlib.closing(sqlite3.connect(path)) as raw:
        return migrate.version(raw)


def test_an_interrupted_creation_starts_again(tmp_path: Path) -> None:
    """Making the schema is one transaction: a file where it broke off is as empty as before."""
    with contextlib.closing(sqlite3.connect(tmp_path / "relay.db", isolation_level=None)) as raw:
        raw.executescript(f"BEGIN; {migrate.schema()}")
        raw.execute("ROLLBACK")
        latest = migrate.latest()
        assert migrate.check(raw, tmp_path / "relay.db", latest) == 0
        migrate.create(raw)
        assert migrate.check(raw, tmp_path / "relay.db", latest) == latest
