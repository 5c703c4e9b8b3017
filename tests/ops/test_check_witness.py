"""`relay check` beside a witness: what it proves of the file, and one that proves nothing."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from unittest.mock import Mock

import pytest

from relay_tornado.errors import StartupError
from relay_tornado.storage import permissions, start
from relay_tornado.storage.witness import Stamp, Witness
from tests.cli.runner import Runner
from tests.ops.checking import change, found
from tests.ops.checking import file as file
from tests.ops.checking import filled as filled
from tests.ops.filling import fill, rows


def test_a_loss_that_the_witness_proves(cli: Runner, file: Path) -> None:
    """A witness ahead of the file is damage with the number of events; another database's is only told."""
    stamp = Stamp(*rows(file, "SELECT id, commits, appended FROM meta")[0])
    witness = Witness.open(cli.data / "relay.witness")
    witness.restart(Stamp(stamp.database, stamp.commits + 2, stamp.appended + 7))
    (loss,) = found(cli)
    assert (loss["kind"], "7 events" in loss["message"]) == ("witness", True)
    witness.restart(Stamp("0" * 36, 1, 1))
    witness.close()
    report = cli.json("check")
    assert [each["level"] for each in report["findings"]] == ["warning"]
    # A backup has no witness, whatever lies beside it.
    cli.json("backup", cli.data / "b.db")
    assert cli.json("check", cli.data / "b.db")["findings"] == []


@pytest.mark.parametrize("opens", [True, False])
def test_a_file_that_a_relay_condemned(cli: Runner, file: Path, monkeypatch: pytest.MonkeyPatch, opens: bool) -> None:
    """It may look sound, but has pages of two files: the check says what the refused start says. If the file can't be
    opened either, the check says that, too. A backup of it has no such mark."""
    witness = Witness.open(cli.data / "relay.witness")
    witness.condemn()
    witness.close()
    with pytest.raises(StartupError) as refused:
        start.check_condemned(file)
    with monkeypatch.context() as patch:
        if not opens:
            patch.setattr("relay_tornado.ops.check.open_file", Mock(side_effect=StartupError("its WAL is older")))
        finding, *others = found(cli)
    assert (finding["level"], finding["kind"]) == ("damage", "witness")
    assert "may have pages of both files" in finding["message"]
    assert str(refused.value).endswith(f": {finding['advice']}.")
    assert [(each["kind"], each["advice"]) for each in others] == [("unreadable", finding["advice"])] * (not opens)
    assert all("nothing in it was checked: its WAL is older" in each["message"] for each in others)
    shutil.copy(file, cli.data / "b.db")
    assert cli.json("check", cli.data / "b.db")["findings"] == []
    (cli.data / "relay.witness").unlink()
    assert [each["level"] for each in cli.json("check")["findings"]] == ["warning"]


@pytest.mark.parametrize("content", [None, b"", b"\xa5" * 8192], ids=["missing", "empty", "damaged"])
def test_a_witness_that_says_nothing(cli: Runner, file: Path, content: bytes | None) -> None:
    """In a data directory that is a warning, and gone after the next start; a backup named relay.db needs none."""
    witness = cli.data / "relay.witness"
    witness.unlink()
    if content is not None:
        witness.write_bytes(content)
    (warning,) = cli.json("check")["findings"]
    assert (warning["level"], warning["kind"]) == ("warning", "witness")
    assert ("missing" if content is None else "damaged") in warning["message"]
    fill(cli.data, "orders", 1)
    assert cli.json("check")["findings"] == []
    (cli.data.parent / "copies").mkdir()
    cli.json("backup", cli.data.parent / "copies" / "relay.db")
    assert cli.json("check", cli.data.parent / "copies" / "relay.db")["findings"] == []


def test_a_witness_that_can_not_be_read(cli: Runner, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No start makes it anew: each is refused until its rights are mended, or what is in its place is gone."""
    witness = cli.data / "relay.witness"
    witness.unlink()
    witness.mkdir()
    (warning,) = cli.json("check")["findings"]
    assert (warning["level"], warning["kind"]) == ("warning", "witness")
    assert f"move {witness} away" in warning["advice"]
    monkeypatch.setattr(permissions, "advice", lambda directory: f"chmod 0600 {witness}")
    assert cli.json("check")["findings"][0]["advice"] == f"chmod 0600 {witness}"


def test_an_older_wal(cli: Runner, file: Path, tmp_path: Path) -> None:
    """What SQLite would read is a mixture: it is neither called damage nor copied into a backup. The start helps."""
    wal = file.with_name("relay.db-wal")
    with closing(sqlite3.connect(file)) as raw:
        raw.execute("UPDATE meta SET commits = commits + 1")
        raw.commit()
        shutil.copy(wal, tmp_path / "old")
    fill(cli.data, "orders", 1)
    shutil.copy(tmp_path / "old", wal)
    for command in (("check",), ("backup", tmp_path / "copy.db"), ("export", "orders", tmp_path / "copy.ndjson")):
        run = cli(*command)
        assert run.exit_code != 0
        assert f"{wal} ends at commit" in run.stderr
        assert "relay serve puts it aside" in run.stderr
    assert cli("check").exit_code == 4
    fill(cli.data, "orders", 1)
    assert cli.json("check")["findings"] == []


def test_fewer_events_than_the_witness_counts(cli: Runner, file: Path) -> None:
    """The same commits with fewer events is no state that a relay leaves."""
    change(file, "UPDATE meta SET appended = appended - 1")
    (finding,) = found(cli)
    assert (finding["kind"], "1004 events" in finding["message"]) == ("witness", True)
