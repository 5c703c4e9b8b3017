"""`relay check`: a file's schema and its conditions, and its indexes beside their tables."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from relay_tornado.ops import check_values
from relay_tornado.ops.findings import Report
from relay_tornado.storage import migrate
from tests.cli.runner import Runner
from tests.ops.checking import OLD, change, found
from tests.ops.checking import file as file
from tests.ops.checking import filled as filled
from tests.ops.filling import rows


@pytest.mark.parametrize("trigger", ["event_update", "event_delete", "log_head", "log_update", "log_delete"])
def test_a_missing_trigger(cli: Runner, file: Path, trigger: str) -> None:
    """What keeps events append-only is looked for by name."""
    with closing(sqlite3.connect(file, isolation_level=None)) as raw:
        raw.execute(f"DROP TRIGGER {trigger}")
    (missing,) = found(cli)
    assert missing["kind"] == "schema"
    assert f"the trigger {trigger} is missing, which keeps events as they are" in missing["message"]
    assert f"CREATE … {trigger} of the relay's schema.sql" in missing["advice"]


NEVER = "BEFORE DELETE ON event WHEN 0 BEGIN SELECT 1; END"
FOREIGN = "CREATE TRIGGER helpful AFTER UPDATE ON meta BEGIN DELETE FROM token; END"


def test_a_trigger_of_somebody_else(cli: Runner, file: Path) -> None:
    """It would change what a relay does to the file. A table, an index or a view of somebody else's does not."""
    change(
        file, "CREATE TABLE mine (a)", "CREATE INDEX mine_a ON mine (a)", "CREATE VIEW newest AS SELECT * FROM event"
    )
    assert cli("check").exit_code == 0
    change(file, FOREIGN)
    (foreign,) = found(cli)
    assert (foreign["kind"], "the trigger helpful is none of the relay's" in foreign["message"]) == ("schema", True)


@pytest.mark.parametrize(
    ("name", "statements"),
    [
        ("event_delete", ["DROP TRIGGER event_delete", f"CREATE TRIGGER event_delete {NEVER}"]),
        ("epoch_log", ["DROP INDEX epoch_log", "CREATE INDEX epoch_log ON epoch (log)"]),
        ("dedupe", ["ALTER TABLE dedupe ADD COLUMN more TEXT"]),
    ],
)
def test_what_is_another_one_than_the_relays(cli: Runner, file: Path, name: str, statements: list[str]) -> None:
    """By its text, not by its name alone."""
    with closing(sqlite3.connect(file, isolation_level=None)) as raw:
        for statement in statements:
            raw.execute(statement)
    (other,) = found(cli)
    assert (other["kind"], f"{name} is another one than the relay's" in other["message"]) == ("schema", True)


def test_a_view_in_the_place_of_a_table(cli: Runner, file: Path, tmp_path: Path) -> None:
    """It may give rows without end: nobody reads it."""
    endless = "WITH RECURSIVE n (key) AS (SELECT 1 UNION ALL SELECT key + 1 FROM n)"
    columns = "key, 'x' AS secret_hash, 1 AS revision, '{}' AS document, 1 AS used_at"
    change(file, "ALTER TABLE token RENAME TO aside", f"CREATE VIEW TOKEN AS {endless} SELECT {columns} FROM n")
    result = cli("check")
    assert (result.exit_code, "a view in the place of the table token" in result.stderr) == (4, True)
    for command in (("restore", file, "--damaged", "--data", tmp_path / "new"), ("export", "orders", tmp_path / "x")):
        assert "a view in the place of the table token" in cli.refused(*command)


def test_a_damaged_backup_runs_no_trigger_but_the_relays(cli: Runner, file: Path, tmp_path: Path) -> None:
    """Whatever it has in it, what is restored has the relay's own."""
    cli.json("backup", tmp_path / "b.db")
    change(tmp_path / "b.db", FOREIGN)
    new = Runner(tmp_path / "new")
    assert "the trigger helpful" in new.refused("restore", tmp_path / "b.db")
    new.json("restore", tmp_path / "b.db", "--damaged")
    assert len(new.json("token", "list")) == 1
    assert new("check").exit_code == 0


def change_behind(file: Path, index: str, old: str, new: str, *statements: str) -> None:
    """Changes a file while what an index holds is taken for `new`, and not for `old`."""
    schema = "UPDATE sqlite_schema SET sql = replace(sql, '{}', '{}') WHERE name = '{}'"
    change(
        file,
        "PRAGMA writable_schema = ON",
        schema.format(old, new, index),
        "PRAGMA writable_schema = RESET",
        *statements,
        "PRAGMA writable_schema = ON",
        schema.format(new, old, index),
    )


def test_indexes_are_looked_at(cli: Runner, file: Path) -> None:
    """One that holds something else than its table is found, but of a table that grows with the events by --full
    alone."""
    change(file, "INSERT INTO delivery VALUES (1, 1, 1, 0, 0.0, 'sent', 200, 1, 0, '{}', x'')")
    change_behind(file, "delivery_event", "(log, seq, output)", "(log, seq, 7)", "REINDEX delivery_event")
    assert cli("check").exit_code == 0
    result = cli("check", "--full")
    assert (result.exit_code, "delivery_event" in result.stdout) == (3, True)
    change_behind(file, "input_bucket", "(bucket)", "(upper(bucket))", "REINDEX input_bucket")
    assert any("input_bucket" in each["message"] for each in found(cli))


def test_each_condition_of_the_schema_is_read() -> None:
    """As it is written there."""
    found = check_values.CHECK.findall(migrate.schema())
    assert len(found) == migrate.schema().count("CHECK") > 10
    with closing(sqlite3.connect(":memory:")) as raw:
        raw.executescript(migrate.schema())
        check_values.check_conditions(raw, report := Report(Path("relay.db")), raw)
    assert report.findings == []


def test_a_log_that_is_dropped_by_its_table_alone(cli: Runner, file: Path) -> None:
    """A flipped bit of its row, which its index knows nothing of: whoever asks that, finds the log."""
    change_behind(file, "log_bucket", "dropped = 0", "dropped < 9", "UPDATE log SET dropped = 1 WHERE id = 1")
    sql = "SELECT id FROM log WHERE bucket = (SELECT id FROM bucket WHERE name = 'orders') AND dropped = 0"
    assert rows(file, sql) == [(1,)]
    told = [(each["kind"], each["bucket"]) for each in found(cli)]
    assert told == [("log", "orders")] or (OLD and ("log", "orders") in told)
