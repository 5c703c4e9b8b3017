"""`relay export` and `relay import` of logs that lack something: damaged, left meanwhile, or vague about it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from relay_tornado.ops.reading import read
from tests.cli.runner import Runner
from tests.ops.filling import LOOSE, change, fill
from tests.ops.stored import content, log


def test_ephemeral_events_keep_their_places(cli: Runner, tmp_path: Path) -> None:
    """Of them only the place goes out and in again; the log is as dense as it was."""
    fill(cli.data, "orders", 4)
    fill(cli.data, "orders", 3, ephemeral=True)
    fill(cli.data, "orders", 2)
    assert cli.json("export", "orders", tmp_path / "e")["events"] == 9
    stubs = [json.loads(line) for line in (tmp_path / "e").read_bytes().splitlines() if b'"stub":true' in line]
    assert [each["seq"] for each in stubs] == [5, 6, 7]
    assert cli.json("import", "copy", tmp_path / "e")["imported"] == 9
    assert content(cli, "copy") == content(cli, "orders")
    assert cli.json("import", "copy", tmp_path / "e")["imported"] == 0
    assert cli.json("check")["findings"] == []


def test_a_damaged_event_is_not_exported(cli: Runner, tmp_path: Path) -> None:
    """The export ends before it, and says how to get what follows; either is whole for an import."""
    fill(cli.data, "orders", 20)
    change(cli.data / "relay.db", "UPDATE event SET body = x'00' WHERE seq = 7")
    said = cli.refused("export", "orders", tmp_path / "e")
    assert "--after 7" in said
    assert cli.json("export", "orders", tmp_path / "rest", "--after", "7")["events"] == 13
    assert cli.json("import", "before", tmp_path / "e")["head"] == 6
    assert cli.json("import", "behind", tmp_path / "rest")["imported"] == 13
    assert "--after 7" in cli.refused("export", "orders", tmp_path / "e", "--append")
    assert cli.json("import", "before", tmp_path / "e")["imported"] == 0


def test_a_log_without_an_epoch(cli: Runner, tmp_path: Path) -> None:
    """Its events come out, under an epoch of their own; such an export is not gone on with."""
    fill(cli.data, "orders", 5)
    before = content(cli, "orders")
    change(cli.data / "relay.db", "DELETE FROM epoch")
    assert cli.json("export", "orders", tmp_path / "e")["events"] == 5
    assert "export these into a new file" in cli.refused("export", "orders", tmp_path / "e", "--append")
    other = Runner(tmp_path / "other")
    assert other.json("import", "copy", tmp_path / "e")["imported"] == 5
    assert content(other, "copy") == before


@pytest.mark.parametrize("damage", ["first = 'x'", "head = 'x'", "first = x'', head = 1.5"])
def test_a_log_that_does_not_say_what_it_holds(cli: Runner, tmp_path: Path, damage: str) -> None:
    """All events that are in the file come out, as they were, and a line says that others may be missing. Another
    bucket has more."""
    fill(cli.data, "billing", 25)
    fill(cli.data, "orders", 20)
    change(
        cli.data / "relay.db", "UPDATE log SET first = 4 WHERE id = 2", "DELETE FROM event WHERE log = 2 AND seq < 4"
    )
    before = content(cli, "orders")
    change(cli.data / "relay.db", *LOOSE, f"UPDATE log SET {damage} WHERE id = 2")
    done = cli("export", "orders", tmp_path / "e")
    assert "17 events of orders, up to 20" in done.stdout
    assert "does not say which events it holds" in done.stderr
    other = Runner(tmp_path / "other")
    assert other.json("import", "copy", tmp_path / "e")["imported"] == 17
    assert content(other, "copy") == before
    assert log(other, "copy")[:2] == (4, 20)
    change(cli.data / "relay.db", "UPDATE event SET body = x'00' WHERE log = 2 AND seq = 7")
    assert "--after 7" in cli.refused("export", "orders", tmp_path / "part")
    rest = cli("export", "orders", tmp_path / "rest", "--after", "7", "--json")
    assert json.loads(rest.stdout)["events"] == 13


def test_a_log_that_does_not_say_that_it_is_empty(cli: Runner, tmp_path: Path) -> None:
    """Nothing comes out."""
    fill(cli.data, "orders", 0)
    change(cli.data / "relay.db", *LOOSE, "UPDATE log SET first = 'x', head = 'x'")
    assert json.loads(cli("export", "orders", tmp_path / "e", "--json").stdout)["events"] == 0


@pytest.mark.parametrize(
    ("meanwhile", "words"),
    [
        ("UPDATE log SET first = 15", "retention removed the events up to 14 meanwhile"),
        ("UPDATE log SET dropped = 1", "the bucket 'orders' was deleted meanwhile"),
    ],
)
def test_events_that_leave_meanwhile(
    cli: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, meanwhile: str, words: str
) -> None:
    """That is no damage, and said as what it is; what was written until then is good."""
    fill(cli.data, "orders", 20)

    def left(*arguments: Any) -> Any:
        change(cli.data / "relay.db", meanwhile, "DELETE FROM event WHERE seq BETWEEN 5 AND 14")
        return read(*arguments)

    monkeypatch.setattr("relay_tornado.ops.export.read", left)
    assert words in cli.refused("export", "orders", tmp_path / "e")
    seqs = [json.loads(line).get("seq") for line in (tmp_path / "e").read_bytes().splitlines()]
    assert seqs == [None, 1, 2, 3, 4]


def test_damaged_events_out_of_a_backup(cli: Runner, tmp_path: Path) -> None:
    """The way that docs/backup.md tells, with what `relay check` says: a bucket of what a backup has from there on."""
    fill(cli.data, "orders", 20)
    cli.json("backup", tmp_path / "b.db")
    change(cli.data / "relay.db", "UPDATE event SET body = x'00' WHERE seq = 7")
    checked = json.loads(cli("check", "--json").stdout)
    advice = next(each["advice"] for each in checked["findings"] if each["kind"] == "content")
    assert "relay export BUCKET FILE --after 6 --data BACKUP" in advice
    answer = cli.json("export", "orders", tmp_path / "lost", "--after", "6", "--data", tmp_path / "b.db")
    assert answer["events"] == 14
    cli.json("import", "lost", tmp_path / "lost")
    assert content(cli, "lost")[1:] == content(cli, "orders")[7:]
    assert log(cli, "lost")[:2] == (7, 20)


def test_lines_that_are_missing_at_an_end(cli: Runner, tmp_path: Path) -> None:
    """What the header names and is not there is told, at the beginning and at the end; what is there is kept."""
    fill(cli.data, "orders", 6)
    cli.json("export", "orders", tmp_path / "e")
    lines = (tmp_path / "e").read_bytes().splitlines(keepends=True)
    (tmp_path / "late").write_bytes(b"".join(lines[:1] + lines[2:]))
    assert "line 2 is event 2, but the header says that the export begins with event 1" in cli.refused(
        "import", "late", tmp_path / "late"
    )
    assert log(cli, "late")[:2] == (1, 0)
    (tmp_path / "early").write_bytes(b"".join(lines[:4]))
    assert "the events 4 to 6" in cli.refused("import", "early", tmp_path / "early")
    assert log(cli, "early")[:2] == (1, 3)
    (tmp_path / "none").write_bytes(lines[0])
    assert "the events 1 to 6" in cli.refused("import", "none", tmp_path / "none")
    cli.json("export", "orders", tmp_path / "early", "--append")
    assert cli.json("import", "early", tmp_path / "early")["imported"] == 3
