"""`relay check`: each kind of damage is found, named and advised upon, and exit codes tell a script."""

from __future__ import annotations

import json
import os
import random
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from relay_tornado.errors import StartupError
from relay_tornado.ops.check import check
from relay_tornado.ops.findings import RESTORE, Report
from relay_tornado.ops.opening import open_file
from relay_tornado.storage import migrate
from tests.cli.runner import Runner
from tests.ops.checking import OLD, change, found
from tests.ops.checking import file as file
from tests.ops.checking import filled as filled
from tests.ops.filling import consume, fill, quiet, rows


def test_a_sound_file(cli: Runner, file: Path) -> None:
    """Nothing is found, what was read is counted, the exit code is 0, and nothing is changed."""
    before = file.read_bytes()
    report = cli.json("check")
    assert (report["sound"], report["findings"]) == (True, [])
    assert (report["events"], report["buckets"], report["consumers"]) == (1005, 2, 1)
    assert report["bytes"] == rows(file, "SELECT sum(size) FROM event")[0][0]
    assert cli.json("check", "--full")["findings"] == []
    assert "sound" in cli("check").stdout
    assert file.read_bytes() == before


def test_an_event_whose_content_changed(cli: Runner, file: Path) -> None:
    """One flipped bit in an event is found, with its bucket and its seq."""
    change(file, "UPDATE event SET body = x'00' WHERE seq IN (500, 501, 777) AND log = 1")
    findings = found(cli)
    damage = [each for each in findings if each["kind"] == "content"]
    assert [each["message"] for each in damage] == ["events 500 to 501 are damaged", "event 777 is damaged"]
    assert {each["bucket"] for each in damage} == {"orders"}


def test_a_hole_in_a_log(cli: Runner, file: Path) -> None:
    """An event that is not there is found, at either end and between."""
    change(file, "DELETE FROM event WHERE seq IN (1, 300, 1000) AND log = 1")
    holes = [each["message"] for each in found(cli) if each["kind"] == "hole"]
    assert holes == ["event 1 is missing", "event 300 is missing", "event 1000 is missing"]


def test_an_event_at_the_end_of_all_numbers(cli: Runner, file: Path) -> None:
    """The check ends with a report, also where no seq can come behind one."""
    change(
        file,
        "UPDATE event SET seq = 9223372036854775807 WHERE seq = 1000 AND log = 1",
        "UPDATE log SET head = 9223372036854775807 WHERE id = 1",
    )
    holes = [each["message"] for each in found(cli) if each["kind"] == "hole"]
    assert holes == ["events 1000 to 9223372036854775806 are missing"]


def test_a_newest_event_of_the_future(cli: Runner, file: Path) -> None:
    """It may be the clock, so it is no damage."""
    change(file, "UPDATE event SET received_at = 9e9 WHERE seq = 1000 AND log = 1")
    change(file, "UPDATE log SET last_at = 9e9 WHERE id = 1")
    result = cli("check", "--json")
    assert result.exit_code == 0, result.output
    assert [(each["level"], each["kind"]) for each in json.loads(result.stdout)["findings"]] == [("warning", "time")]


@pytest.mark.parametrize(
    ("statement", "kind", "words"),
    [
        ("UPDATE epoch SET from_seq = 5000 WHERE log = 1", "epoch", "begin at"),
        ("UPDATE epoch SET from_seq = -1 WHERE log = 1", "epoch", "begin at"),
        ("DELETE FROM epoch WHERE log = 1", "epoch", "no epoch"),
        ("UPDATE epoch SET epoch = 'Not-an-epoch' WHERE log = 1", "epoch", "has not the form"),
        ("UPDATE epoch SET epoch = 'short' WHERE log = 1", "epoch", "has not the form"),
        ("DROP INDEX log_bucket", "schema", "index log_bucket"),
        ("UPDATE event SET received_at = 1.0 WHERE seq = 400 AND log = 1", "time", "event 400"),
        ("UPDATE log SET last_at = 1.0 WHERE id = 1", "time", "younger"),
        ("UPDATE log SET head = 1 << 48 WHERE id = 1", "hole", f"events 1001 to {1 << 48} are missing"),
        ("UPDATE log SET head = 1 << 49, first = 1 << 48 WHERE id = 1", "hole", f"{1 << 48} to {1 << 49} are missing"),
        (
            "UPDATE event SET seq = 1 << 62 WHERE seq = 1000 AND log = 1; UPDATE log SET head = 1 << 62 WHERE id = 1",
            "hole",
            f"events 1000 to {(1 << 62) - 1} are missing",
        ),
        ("UPDATE log SET last_at = 9e18 WHERE id = 1", "time", "of the future"),
        ("UPDATE bucket SET document = '{}' WHERE name = 'orders'", "record", "can't be understood"),
        ("UPDATE bucket SET name = 'other' WHERE name = 'orders'", "record", "than its row"),
        ("UPDATE bucket SET document = json_set(document, '$.id', 'x')", "record", "than its row"),
        ("UPDATE token SET secret_hash = 'x'", "record", "than its row"),
        ("UPDATE token SET key = 'x'", "record", "than its row"),
        ("UPDATE token SET document = '{}'", "record", "can't be understood"),
        (
            "DELETE FROM input WHERE bucket = (SELECT id FROM bucket WHERE name = 'orders')",
            "record",
            "not assigned to it",
        ),
        ("INSERT INTO input VALUES ('i', 'nowhere')", "foreign_key", "input"),
        ("INSERT INTO input VALUES ('i', 'nowhere')", "record", "in no bucket's record"),
        ("UPDATE log SET dropped = 1 WHERE id = 1", "log", "has no log, and takes no events"),
        ("DELETE FROM meta", "meta", "which database"),
        ("UPDATE meta SET commits = -commits", "meta", "which database"),
        ("UPDATE meta SET appended = 0x7fffffffffffffff", "meta", "which database"),
        ("UPDATE consumer SET floor = 2000", "consumer", "the floor 2000"),
        ("UPDATE consumer SET floor = 1001", "consumer", "the floor 1001"),
        ("UPDATE consumer SET done = '[[5]]'", "consumer", "can't be understood"),
        ("UPDATE consumer SET done = '[[7, 6]]'", "consumer", "does not go with its floor 4"),
        ("UPDATE consumer SET done = '[[6, 6], [7, 7]]'", "consumer", "does not go with"),
        ("UPDATE consumer SET done = '[[6, 1001]]'", "consumer", "the head 1000"),
        ("UPDATE consumer SET done = '[[4, 6]]'", "consumer", "does not go with"),
        ('UPDATE consumer SET done = \'[["6", "7"]]\'', "consumer", "can't be understood"),
        ("UPDATE consumer SET gap = '{}'", "consumer", "its last gap"),
        ('UPDATE consumer SET gap = \'{"reason": "x", "from": 1, "to": 2, "at": 1.0}\'', "consumer", "its last gap"),
        ("UPDATE consumer SET tried = '[[5]]'", "consumer", "what it is trying that can't be understood"),
        ("UPDATE consumer SET tried = '[[2.0, 3.0]]'", "consumer", "what it is trying that can't be understood"),
        ("UPDATE consumer SET tried = '[[8, 7]]'", "consumer", "is trying (8, 7), which does not go with"),
        ("UPDATE consumer SET tried = '[[7, 1001]]'", "consumer", "the head 1000"),
        ("UPDATE consumer SET tried = '[[2, 3]]'", "consumer", "is trying event 3, which it is done with"),
        ("UPDATE consumer SET tried = '[[4, 4]]'", "consumer", "is trying event 4, which it is done with"),
        (
            "UPDATE consumer SET done = '[[6, 7]]', tried = '[[7, 7]]'",
            "consumer",
            "is trying event 7, which it is done with",
        ),
        ("UPDATE consumer SET done = '[[5, 9223372036854775806]]'", "consumer", "does not go with"),
        ("UPDATE consumer SET done = '[[5, 18446744073709551615]]'", "consumer", "does not go with"),
        ("UPDATE consumer SET tried = '[[1, 9223372036854775806]]'", "consumer", "does not go with"),
        ("UPDATE consumer SET tried = '[[1, 18446744073709551615]]'", "consumer", "does not go with"),
        ("UPDATE parked SET due = 9e999", "consumer", "what it tries again that can't be understood"),
        ("UPDATE parked SET seq = 1001 WHERE seq = 6", "consumer", "tries event 1001 again"),
        ("UPDATE parked SET seq = 0 WHERE seq = 6", "consumer", "tries event 0 again"),
        ("UPDATE parked SET seq = 9 WHERE seq = 6", "consumer", "yet to get it"),
        ("UPDATE dead_letter SET seq = 1001", "consumer", "gave up event 1001"),
        ("UPDATE consumer SET log = 99", "foreign_key", "consumer"),
        ("UPDATE consumer SET ack_wait = -30.0", "consumer", "waits -30.0 s for an ack"),
        ("UPDATE consumer SET max_deliver = -5", "consumer", "for an ack, -5 times"),
        ("UPDATE consumer SET kind = 'clienu'", "value", "the rule kind IN"),
        ("UPDATE consumer SET receipt = 4", "value", "receipt IN (0, 1)"),
        ("UPDATE log SET dropped = 2 WHERE id = 1", "value", "dropped IN (0, 1)"),
        ("UPDATE meta SET singleton = 5", "value", "singleton = 1"),
        ("DELETE FROM consumer", "foreign_key", "parked"),
    ],
)
def test_what_does_not_agree(cli: Runner, file: Path, statement: str, kind: str, words: str) -> None:
    """Records, epochs and times that contradict each other are damage."""
    change(file, *statement.split("; "))
    assert any(each["kind"] == kind and words in each["message"] for each in found(cli)), found(cli)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE consumer SET max_deliver = 0",
        "UPDATE parked SET seq = 4 WHERE seq = 2",
        "UPDATE parked SET seq = 1000 WHERE seq = 2; UPDATE consumer SET done = '[[6, 6], [1000, 1000]]'",
        "DELETE FROM event WHERE log = 1 AND seq < 5; UPDATE log SET first = 5 WHERE id = 1;"
        " UPDATE consumer SET tried = '[[1, 3]]'",
    ],
)
def test_what_a_consumer_may_hold(file: Path, statement: str) -> None:
    """No limit on tries, an event at its floor or at the head that is to be tried again, and for a moment what it was
    trying of those that have left."""
    change(file, *statement.split("; "))
    assert not check(file, quiet).damage


@pytest.mark.parametrize(
    ("statement", "kind"),
    [
        ("UPDATE log SET bytes = bytes + 1 WHERE id = 1", "bytes"),
        ("DELETE FROM bucket WHERE name = 'orders'", "log"),
        ("INSERT INTO event SELECT * FROM (SELECT 99 AS log, 1, 1, 0, 0.0, 'i', 'POST', x'', x'', x'', '', x'', NULL,"
         " NULL, 0, NULL, '', 0)", "stray"),
        ("INSERT INTO delivery VALUES (1, 99, 1, 0, 0.0, 'sent', 200, 1, 0, '{}', x'')", "stray"),
        ("INSERT INTO delivery VALUES (1, 1, 1001, 0, 0.0, 'sent', 200, 1, 0, '{}', x'')", "stray"),
        ("INSERT INTO delivery VALUES (1, 1, 1, 0, 0.0, 'cent', 200, 1, 0, '{}', x'')", "stray"),
        ("INSERT INTO delivery VALUES (1, 1, 1, 0, 0.0, 'sent', 200, 1, 0, 'k}', x'')", "stray"),
        ("INSERT INTO dedupe VALUES (99, zeroblob(32), 1, 0.0, 0.0)", "stray"),
        ("INSERT INTO dedupe VALUES (1, zeroblob(32), 1001, 0.0, 0.0)", "stray"),
    ],
)  # fmt: skip
def test_what_only_wants_to_be_known(cli: Runner, file: Path, statement: str, kind: str) -> None:
    """What the relay mends by itself is a warning, and the exit code stays 0 (but for what else is wrong then)."""
    change(file, statement)
    report = check(file, quiet)
    assert kind in {each.kind for each in report.findings if each.level == "warning"}


def test_a_flipped_bit_anywhere(tmp_path: Path) -> None:
    """A check always ends with a report, or says that the file can't be read; and quotes no record."""
    consume(tmp_path, fill(tmp_path, "orders", 12))
    sound = (tmp_path / "relay.db").read_bytes()
    copy = tmp_path / "copy.db"
    chance = random.Random(7)
    damaged = 0
    for at in chance.sample([at for at, byte in enumerate(sound) if byte], 250):
        data = bytearray(sound)
        data[at] ^= 1 << chance.randrange(8)
        copy.write_bytes(data)
        try:
            report = check(copy, quiet, full=True)
        except StartupError as error:
            told = [str(error)]
        else:
            damaged += report.damaged
            told = [finding.message for finding in report.findings]
        assert not [each for each in told if '"created_at":' in each]
    assert damaged > 100


def test_a_text_of_a_record_that_is_malformed(cli: Runner, file: Path) -> None:
    """It would be JSON with a strange character in it, and the relay does not start with that."""
    change(file, "UPDATE bucket SET document = CAST(replace(CAST(document AS BLOB), 'orders', x'ff') AS TEXT)")
    kinds = [each["kind"] for each in found(cli)]
    assert kinds == ["unreadable"] or (OLD and set(kinds) == {"unreadable"})


def test_a_damaged_page(cli: Runner, file: Path) -> None:
    """A page that is overwritten is found, and what lies on others is still looked at. What to do stands once for all
    that SQLite says of the pages, without its heading."""
    page = rows(file, "SELECT rootpage FROM sqlite_schema WHERE name = 'event'")[0][0]
    size = rows(file, "PRAGMA page_size")[0][0]
    with file.open("r+b") as raw:
        raw.seek((int(str(page)) + 40) * int(str(size)))
        raw.write(b"\xa5" * int(str(size)))
    findings = found(cli)
    kinds = {each["kind"] for each in findings}
    assert "pages" in kinds or (OLD and "unreadable" in kinds)
    assert any("restore" in each["advice"] for each in findings)
    said = cli("check").stdout
    assert "***" not in said
    assert said.count(f"what to do: {RESTORE}") <= 1


def test_a_head_that_is_too_low(cli: Runner, file: Path) -> None:
    """Events above the head of their log are damage, and what is advised mends it: the log takes events again."""
    change(file, "UPDATE log SET head = 990 WHERE id = 1")
    (head,) = [each for each in found(cli) if each["kind"] == "head"]
    assert head["bucket"] == "orders"
    assert "10 events lie above it, from 991 to 1000" in head["message"]
    with closing(sqlite3.connect(file, isolation_level=None)) as raw:
        raw.execute(head["advice"].split("`")[1])
    assert cli.json("check")["findings"] == []
    fill(cli.data, "orders", 1)
    assert cli.json("check")["events"] == 1006


def test_a_first_that_is_too_high(cli: Runner, file: Path) -> None:
    """Events below it are damage, and what is advised mends it: they are there again."""
    change(file, "UPDATE log SET first = 513 WHERE id = 1")
    (first,) = [each for each in found(cli) if each["kind"] == "first"]
    assert first["bucket"] == "orders"
    assert "events from 1 on lie below its first, 513" in first["message"]
    change(file, first["advice"].split("`")[3])
    assert cli.json("check")["findings"] == []


@pytest.mark.parametrize("left", [0.5, 0.37, 0.0])
def test_a_file_that_was_cut_off(cli: Runner, file: Path, left: float) -> None:
    """A file that can't even be opened any more is damage, not something that was not looked at."""
    os.truncate(file, int(file.stat().st_size * left))
    assert "unreadable" in {each["kind"] for each in found(cli)}
    assert "what to do" in cli("check").stdout


def test_a_relays_file_that_was_overwritten(cli: Runner, file: Path) -> None:
    """Without its first page it is no database; the witness beside it knows that it was one."""
    with file.open("r+b") as raw:
        raw.write(b"\xa5" * 4096)
    assert [each["kind"] for each in found(cli)] == ["unreadable"]


def test_a_document_in_every_case(cli: Runner, tmp_path: Path, file: Path) -> None:
    """What could not be looked at is neither sound nor damaged, in a document like every other."""
    sound = cli.json("check")
    (tmp_path / "notes").write_bytes(b"no database" * 1000)
    for place in (tmp_path / "nowhere", tmp_path / "notes"):
        result = cli("check", place, "--json")
        document = json.loads(result.stdout)
        assert (result.exit_code, document["sound"], document["path"]) == (4, None, str(place))
        assert document["error"] in result.stderr
        assert sound.keys() <= document.keys()
    result = cli("check", "--json", RELAY_RESERVE="much")
    assert (result.exit_code, json.loads(result.stdout)["sound"]) == (4, None)


def test_what_could_not_be_looked_at(cli: Runner, tmp_path: Path, file: Path) -> None:
    """No file, another program's, and a newer relay's: exit code 4, and a line that says what to do."""
    for place in (tmp_path / "nowhere", tmp_path):
        assert cli("check", place).exit_code == 4
    for name, advice in (("notes", "Try another copy."), ("relay.db", "If a relay runs on it, read RelayNotReady in")):
        (tmp_path / name).write_bytes(b"no database" * 1000)
        result = cli("check", tmp_path / name)
        assert (result.exit_code, advice in result.stderr) == (4, True)
    change(file, "PRAGMA user_version = 99")
    result = cli("check")
    assert result.exit_code == 4
    assert "version 99" in result.stderr
    assert result.stdout == ""


def test_space_is_looked_at(cli: Runner, file: Path) -> None:
    """A disk at its reserve is a warning."""
    report = cli.json("check", RELAY_RESERVE="100TiB")
    disk = os.statvfs(cli.data)
    expected = disk.f_bavail < disk.f_blocks // 8
    assert [each["kind"] for each in report["findings"]] == (["space"] if expected else [])


def test_space_is_that_of_the_disk_that_the_file_is_on(
    cli: Runner, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where relay.db is a symlink the directory may lie on a full one."""
    real = tmp_path / "elsewhere" / "events.db"
    real.parent.mkdir()
    file.rename(real)
    file.symlink_to(real)
    asked: list[Path] = []
    statvfs = os.statvfs
    monkeypatch.setattr(os, "statvfs", lambda path: asked.append(path) or statvfs(path))
    cli.json("check")
    assert asked == [real.parent]


GONE = (
    "DELETE FROM input WHERE bucket = (SELECT bucket FROM log WHERE id = 2)",
    "DELETE FROM bucket WHERE id = (SELECT bucket FROM log WHERE id = 2)",
    "UPDATE log SET dropped = 1, first = head + 1 WHERE id = 2",
    "DELETE FROM epoch WHERE log = 2",
)


@pytest.mark.parametrize(
    "statement", ["SELECT id, name, document FROM bucket", "SELECT log, epoch, from_seq FROM epoch"]
)
def test_a_bucket_that_is_deleted_between_two_looks(
    file: Path, statement: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What belongs together is read in one transaction: a bucket is there with all that it has, or it is not."""
    from relay_tornado.ops import check as checking

    ran: list[str] = []

    def watched(path: Path) -> sqlite3.Connection:
        raw = open_file(path)
        raw.set_trace_callback(delete)
        return raw

    def delete(sql: str) -> None:
        if sql.startswith(statement) and not ran:
            ran.append(sql)
            change(file, *GONE)

    monkeypatch.setattr(checking, "open_file", watched)
    report = check(file, quiet)
    assert ran
    assert report.damage == []


def test_what_comes_and_leaves_meanwhile_is_no_finding(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Events that retention takes, and a bucket that is deleted, while a live file is read."""
    from relay_tornado.ops import check_logs as checking

    original = checking.read

    def churning(raw: Any, log: int, *arguments: Any) -> Any:
        if log == 1:
            change(file, "UPDATE log SET first = 900 WHERE id = 1", "DELETE FROM event WHERE log = 1 AND seq < 900")
        else:
            change(file, "UPDATE log SET dropped = 1, first = head + 1 WHERE id = 2", "DELETE FROM event WHERE log = 2")
        yield from original(raw, log, *arguments)

    monkeypatch.setattr(checking, "read", churning)
    report = check(file, quiet)
    assert [each for each in report.findings if each.level == "damage"] == []


def test_findings_of_one_kind_are_bounded() -> None:
    """A file that is damaged everywhere does not fill the screen."""
    report = Report(Path("x"))
    for number in range(1000):
        report.add("damage", "hole", f"event {number} is missing", "…")
    report.add("warning", "bytes", "…", "…")
    assert len(report.findings) == 101


def test_an_older_file_is_looked_at_as_it_is(file: Path, tmp_path: Path) -> None:
    """What its tables lack reads as the default, and it is not migrated; what its own version has must be there."""
    old = tmp_path / "old.db"
    with closing(sqlite3.connect(old, isolation_level=None)) as raw:
        raw.executescript(migrate.steps()[0].script)
        raw.execute("INSERT INTO meta VALUES (1, ?, 1, 1, 0.0, '0.1.0')", ("0" * 36,))
    with closing(open_file(old)) as raw:
        assert raw.execute("SELECT verdict, force, resend_of FROM event").fetchall() == []
    report = check(old, quiet)
    assert (report.schema, report.findings) == (1, [])
    assert rows(old, "PRAGMA user_version") == [(1,)]
    with closing(sqlite3.connect(old, isolation_level=None)) as raw:
        raw.execute("DROP TRIGGER event_update")
    assert [each.message.split(",")[0] for each in check(old, quiet).findings] == [
        "the trigger event_update is missing"
    ]
