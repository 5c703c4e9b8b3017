"""What commands say of data in which `relay check` finds damage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.runner import Runner
from tests.ops.checking import change, found
from tests.ops.checking import file as file
from tests.ops.checking import filled as filled

DAMAGED_RECORDS = {
    "a number": "UPDATE bucket SET document = '5' WHERE name = 'orders'",
    "no JSON": "UPDATE bucket SET document = 'x' WHERE name = 'orders'",
    "another retention": "UPDATE bucket SET document = json_set(document, '$.retention', 5) WHERE name = 'orders'",
}


@pytest.mark.parametrize("damage", DAMAGED_RECORDS)
def test_what_a_bucket_whose_record_is_damaged_holds(cli: Runner, file: Path, damage: str) -> None:
    """It can be exported, and stats say in a line what keeps them from being counted."""
    change_types(file, DAMAGED_RECORDS[damage])
    assert "record" in {each["kind"] for each in found(cli)}
    assert cli("export", "orders").stdout.count("\n") == 1001
    assert "`relay check` says more" in cli.refused("stats")
    assert "`relay check` says more" in cli.refused("stats", "--json")


def test_a_name_that_has_become_a_blob(cli: Runner, file: Path) -> None:
    """A flipped bit in a row's head makes one of a text: it is told as any damage, with --json too."""
    change_types(file, "UPDATE bucket SET name = CAST('orders' AS BLOB) WHERE name = 'orders'")
    change_types(file, "UPDATE log SET bucket = CAST(bucket AS BLOB) WHERE id = 1")
    assert found(cli)
    assert "`relay check` says more" in cli.refused("stats", "--json")


def test_a_consumer_of_a_log_that_does_not_say_what_it_holds(cli: Runner, file: Path) -> None:
    """Stats leave it out."""
    assert [each["name"] for each in cli.json("stats")["consumers"]] == ["worker"]
    change_types(file, "UPDATE log SET first = 'x' WHERE id = 1")
    assert cli.json("stats")["consumers"] == []


@pytest.mark.parametrize("at", [1e163, -1e163, 1e12])
def test_times_that_are_in_no_calendar(cli: Runner, file: Path, at: float) -> None:
    """A flipped bit makes one of a time: what shows it says so, and goes on."""
    change(
        file,
        f"UPDATE event SET received_at = {at!r} WHERE log = 1 AND seq = 1000",
        f"UPDATE log SET last_at = {at!r} WHERE id = 1",
        f"UPDATE consumer SET created_at = {at!r}, updated_at = {at!r}",
    )
    for command in (("logs", "list", "--bucket", "orders"), ("stats",), ("consumer", "show", "orders", "worker")):
        result = cli(*command)
        assert (result.exit_code, "no date" in result.stdout) == (0, True)


def test_an_event_of_which_only_the_place_can_be_read(cli: Runner, file: Path) -> None:
    """It is not taken for one without headers and body."""
    change(file, "UPDATE event SET crc = crc + 1 WHERE log = 1 AND seq = 999")
    listed = cli("logs", "list", "--bucket", "orders", "--limit", "2", "--json")
    newest, damaged = json.loads(listed.stdout)["data"]
    assert (newest.get("damaged"), damaged["damaged"], damaged["seq"]) == (None, True, 999)
    assert json.loads(cli("logs", "show", damaged["id"], "--json").stdout)["damaged"]
    assert "damaged: it can't be read" in cli("logs", "show", damaged["id"]).stdout
    assert "damaged" not in cli("logs", "show", newest["id"]).stdout


@pytest.mark.parametrize("harm", ["missing", "empty"])
def test_a_file_that_is_gone(cli: Runner, file: Path, harm: str) -> None:
    """The relay does not begin with nothing, of which its senders would be told that there is no such input, unless its
    witness is moved away."""
    kept = file.rename(file.with_name("kept"))
    for end in ("-wal", "-shm"):
        file.with_name(f"{file.name}{end}").unlink(missing_ok=True)
    if harm == "empty":
        file.touch()
    for _ in range(2):
        words = cli.refused("bucket", "create", "anew")
        assert "counts 1005 events" in words
        assert "move relay.witness away" in words
    kept.replace(file)
    assert cli.json("check")["findings"] == []
    file.unlink()
    file.with_name("relay.witness").unlink()
    cli.json("bucket", "create", "anew")


def test_a_backup_of_a_file_whose_schema_is_no_text(cli: Runner, file: Path, tmp_path: Path) -> None:
    """It is made, with the damage, which is told."""
    statement = "UPDATE sqlite_schema SET sql = CAST(sql AS BLOB) WHERE name = 'log_bucket'"
    change(file, "PRAGMA writable_schema = ON", statement)
    made = cli("backup", tmp_path / "b.db")
    assert (made.exit_code, "the schema can't be read to the end" in made.stdout) == (0, True)
    assert cli("check", tmp_path / "b.db").exit_code == 3


def test_a_backup_of_a_file_whose_schema_is_malformed(cli: Runner, file: Path, tmp_path: Path) -> None:
    """What SQLite says of it quotes it, and can't be decoded: a line says that none was made, and nothing is left."""
    damaged = "replace(CAST(sql AS BLOB), 'CHECK (bytes', CAST('CHECK (bytes' AS BLOB) || x'a0')"
    statement = f"UPDATE sqlite_schema SET sql = CAST({damaged} AS TEXT) WHERE name = 'log'"
    change(file, "PRAGMA writable_schema = ON", statement)
    assert "a text in it is malformed" in cli.refused("backup", tmp_path / "b.db")
    assert {path.name for path in tmp_path.iterdir()} == {"data"}


def change_types(file: Path, statement: str) -> None:
    """As `change`, past the types that columns have."""
    strict = "UPDATE sqlite_schema SET sql = replace(sql, '{}', '{}') WHERE name IN ('bucket', 'log')"
    change(file, "PRAGMA writable_schema = ON", strict.format(") STRICT", ")"))
    change(file, statement)
    change(file, "PRAGMA writable_schema = ON", strict.format("\n)", "\n) STRICT"))
