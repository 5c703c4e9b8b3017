"""`relay restore`: a backup as the data of a relay with a database id of its own."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from relay_tornado.errors import CursorLost
from relay_tornado.log.sqlite import SqliteEventLog
from relay_tornado.ops import restore
from relay_tornado.ops.findings import MOST_TOLD
from relay_tornado.settings import Settings
from relay_tornado.storage import migrate, witness
from relay_tornado.storage.database import Database
from relay_tornado.storage.lock import Lock
from tests.acceptance.relay import TIMEOUT
from tests.cli.runner import Runner
from tests.needs import needs
from tests.ops.filling import change, consume, fill, rows
from tests.ops.first_release import first_schema


@pytest.fixture
def file(cli: Runner, tmp_path: Path) -> Path:
    """A backup with 30 events and a token."""
    consume(cli.data, fill(cli.data, "orders", 30))
    cli.json("token", "create", "--description", "worker")
    cli.json("backup", tmp_path / "b.db")
    return tmp_path / "b.db"


@pytest.fixture
def new(tmp_path: Path) -> Runner:
    """Commands on a directory that is not there yet."""
    return Runner(tmp_path / "new")


def kill(file: Path, *arguments: object) -> None:
    """Runs `relay ARGUMENTS`, which is killed as it is about to take this file away."""
    unlink = "?unlink,?unlinkat"
    strace = ["strace", "-f", "-qq", "-o", os.devnull, "-P", file]
    strace += ["-e", f"trace={unlink}", "-e", f"inject={unlink}:signal=KILL"]
    command = [*strace, sys.executable, "-m", "relay_tornado", *arguments]
    done = subprocess.run([str(each) for each in command], capture_output=True, timeout=TIMEOUT)
    assert (done.returncode, file.exists()) == (-signal.SIGKILL, True), done.stderr


def test_a_restored_relay_is_another_database(cli: Runner, file: Path, new: Runner) -> None:
    """It has an id of its own, so that no witness of the old one fits, and one that fits it; all else is the same."""
    answer = new.json("restore", file)
    assert (answer["database"], answer["events"], answer["buckets"]) == (str(new.data / "relay.db"), 30, 1)
    (old,) = rows(file, "SELECT id, commits, appended FROM meta")
    (now,) = rows(new.data / "relay.db", "SELECT id, commits, appended FROM meta")
    assert now[0] == answer["id"] != old[0]
    assert now[1:] == old[1:]
    assert witness.peek(new.data / "relay.witness") == witness.Stamp(*now)
    for table in ("event", "epoch", "log", "token", "bucket", "input", "consumer", "parked", "dead_letter"):
        assert rows(new.data / "relay.db", f"SELECT * FROM {table}") == rows(file, f"SELECT * FROM {table}")
    assert [each["description"] for each in answer["tokens"]] == ["worker"]
    assert {path.name for path in new.data.iterdir()} == {"relay.db", "relay.lock", "relay.witness"}
    assert (new.data / "relay.db").stat().st_mode & 0o777 == 0o600
    assert new.json("bucket", "list") == cli.json("bucket", "list")


def test_tokens_that_live_again_are_listed(cli: Runner, file: Path, new: Runner) -> None:
    """For people, too, with what ends one in the restored data. One that has expired is not valid again."""
    expired = cli.json("token", "create", "--description", "visitor", "--expires", "30d")
    cli.json("backup", file, "--force")
    with closing(sqlite3.connect(file, isolation_level=None)) as raw:
        sql = "UPDATE token SET document = json_set(document, '$.expires_at', 1.5) WHERE key = ?"
        raw.execute(sql, (expired["key"],))
    result = new("restore", file)
    assert result.exit_code == 0
    assert f"`relay token revoke KEY --data {new.data}`" in result.stdout
    assert "worker" in result.stdout
    assert "visitor" not in result.stdout
    assert len(new.json("token", "list")) == 2


def test_public_outputs_are_paused(cli: Runner, file: Path, tmp_path: Path) -> None:
    """What would call somebody as soon as the relay starts is switched off and listed; internal outputs stay."""
    outputs = (
        '[{"name": "out", "internal": false}, {"name": "in", "internal": true}, {"name": "off", "internal": false,'
    )
    outputs += ' "disabled": true}, {"name": "held", "internal": false, "paused": true}]'
    change(file, f"UPDATE bucket SET document = json_set(document, '$.outputs', json('{outputs}'))")
    with closing(sqlite3.connect(file, isolation_level=None)) as raw:
        assert restore._make_own(raw) == (("orders", "out"),)
        sql = "SELECT json_extract(value, '$.{}') FROM bucket, json_each(bucket.document, '$.outputs')"
        assert [paused for (paused,) in raw.execute(sql.format("paused"))] == [1, None, None, 1]
        assert [disabled for (disabled,) in raw.execute(sql.format("disabled"))] == [None, None, 1, None]
        raw.execute("PRAGMA user_version = 2")
        raw.execute("UPDATE bucket SET document = json_set(document, '$.outputs', json(?))", (outputs,))
        assert restore._make_own(raw) == (("orders", "out"),)
        assert [disabled for (disabled,) in raw.execute(sql.format("disabled"))] == [1, None, 1, None]


def test_how_outputs_are_let_go_on(cli: Runner, tmp_path: Path) -> None:
    """The command that is named does it, also of a file from before outputs could be paused."""
    fill(cli.data, "orders", 1)
    cli("output", "create", "orders", "--public", "--name", "out", "--destination", "https://example.org/")
    cli.json("backup", tmp_path / "now.db")
    first_schema(tmp_path / "first")
    old = tmp_path / "first" / "relay.db"
    output = {"id": "o", "n": 1, "name": "out", "created_at": 1.0, "updated_at": 1.0, "internal": False}
    with closing(sqlite3.connect(old, isolation_level=None)) as raw:
        raw.executescript(migrate.steps()[1].script)
        sql = "UPDATE bucket SET document = json_set(document, '$.outputs', json(?))"
        raw.execute(sql, (json.dumps([output | {"destination": "https://example.org/"}]),))
    for file in (tmp_path / "now.db", old):
        new = Runner(tmp_path / f"from-{file.stem}")
        command = new("restore", file).stdout.splitlines()[-1].strip()
        (output,) = json.loads(new("output", "list", "--json").stdout)
        assert output["paused"] or output["disabled"]
        resumed = new(*shlex.split(command)[1:])
        assert resumed.exit_code == 0, resumed.output
        (output,) = new.json("output", "list")
        assert (output["paused"], output["disabled"]) == (False, False)


def test_outputs_whose_names_are_not_clear(cli: Runner, new: Runner, tmp_path: Path) -> None:
    """Each command lets its own output go on, also where outputs have one name, as relays up to 0.4 allowed."""
    fill(cli.data, "orders", 1)
    for name in ("out", "-x", "\u202e", "shop", "two"):
        cli("output", "create", "orders", "--public", f"--name={name}", "--destination", "https://example.org/")
    cli.json("backup", tmp_path / "b.db")
    with closing(sqlite3.connect(tmp_path / "b.db", isolation_level=None)) as raw:
        raw.execute("UPDATE bucket SET document = replace(document, '\"two\"', '\"out\"')")
    commands = [line for line in new("restore", tmp_path / "b.db").stdout.splitlines() if " output resume " in line]
    for command in commands:
        resumed = new(*shlex.split(command)[1:])
        assert resumed.exit_code == 0, resumed.output
    assert [output["name"] for output in new.json("output", "list")] == ["out", "-x", "\u202e", "shop", "out"]
    assert not any(output["paused"] for output in new.json("output", "list"))
    assert " shop " in commands[3]


def test_only_an_empty_directory(cli: Runner, file: Path, new: Runner, tmp_path: Path) -> None:
    """A relay's data, anything else, and a running relay are refused, and stay as they are; a restore that was broken
    off is repeated."""
    before = rows(cli.data / "relay.db", "SELECT id FROM meta")
    assert "not empty" in cli.refused("restore", file)
    assert rows(cli.data / "relay.db", "SELECT id FROM meta") == before
    new.data.mkdir()
    (new.data / "notes.txt").write_text("mine")
    assert "not empty" in new.refused("restore", file)
    (new.data / "notes.txt").unlink()
    held = Lock.acquire(new.data)
    try:
        assert "runs on" in new.refused("restore", file)
    finally:
        held.release()
    other = tmp_path / "other"
    other.write_bytes(b"somebody's")
    (new.data / "relay.db.restoring").symlink_to(other)
    (new.data / "relay.witness").write_bytes(b"")
    assert new.json("restore", file)["events"] == 30
    assert other.read_bytes() == b"somebody's"
    assert "not empty" in new.refused("restore", file)
    plain = Runner(tmp_path / "file")
    plain.data.write_text("a file")
    assert plain("restore", file).exit_code == 1


@pytest.mark.parametrize("end", ["-shm", "-wal"])
def test_a_restore_that_is_killed_is_repeated(cli: Runner, new: Runner, end: str) -> None:
    """Also where that meets it as SQLite takes away what stood beside the file, whose source says WAL."""
    needs("strace", "install strace")
    fill(cli.data, "orders", 30)
    source = cli.data / "relay.db"
    kill(new.data / f"relay.db.restoring{end}", "restore", source, "--data", new.data)
    assert new.json("restore", source)["events"] == 30
    assert not list(new.data.glob("relay.db.restoring*"))


@pytest.mark.parametrize("is_new", [False, True])
def test_a_first_start_that_is_killed(file: Path, new: Runner, is_new: bool) -> None:
    """As SQLite makes the file one with a WAL: the next start undoes that and goes on, of restored data as of none."""
    needs("strace", "install strace")
    if not is_new:
        new.json("restore", file)
    kill(new.data / "relay.db-journal", "bucket", "create", "more", "--data", new.data)
    assert new.json("bucket", "create", "more")["name"] == "more"
    checked = new.json("check")
    assert (checked["findings"], checked["events"]) == ([], 0 if is_new else 30)


def test_what_a_killed_first_start_left_beside_another_file(file: Path, new: Runner) -> None:
    """A backup that was put in the place of the new file is not cut to what that was; without the journal it starts."""
    needs("strace", "install strace")
    journal = new.data / "relay.db-journal"
    kill(journal, "bucket", "create", "more", "--data", new.data)
    shutil.copyfile(file, new.data / "relay.db")
    assert f"{journal} does not belong to {new.data / 'relay.db'}" in new.refused("bucket", "list")
    assert (new.data / "relay.db").read_bytes() == file.read_bytes()
    journal.unlink()
    assert "orders" in new("bucket", "list").stdout
    assert new.json("check")["events"] == 30


def test_a_fresh_disk_is_empty(file: Path, new: Runner) -> None:
    """What mkfs.ext4 makes at a mount point is in nobody's way, and stays."""
    (new.data / "lost+found").mkdir(parents=True)
    assert new.json("restore", file)["events"] == 30
    assert (new.data / "lost+found").is_dir()


def test_a_damaged_backup_is_refused(file: Path, new: Runner, tmp_path: Path) -> None:
    """It is looked at before anything is made of it, and the data directory is not even made."""
    change(file, "UPDATE event SET body = x'00' WHERE seq = 5")
    said = new.refused("restore", file)
    assert "event 5 is damaged" in said
    assert "another backup" in said
    assert "--damaged" in said
    assert not new.data.exists()
    file.write_bytes(b"nothing that SQLite knows" * 400)
    assert "can't be read" in new.refused("restore", file)
    assert "there is no" in new.refused("restore", tmp_path / "missing.db")


def test_a_damaged_backup_is_restored_all_the_same(cli: Runner, file: Path, new: Runner, tmp_path: Path) -> None:
    """With --damaged, which says what is damaged; that is a gap, and what lies around it is read."""
    bucket = cli.json("bucket", "show", "orders")
    change(cli.data / "relay.db", "UPDATE event SET body = x'00' WHERE seq = 5")
    backup = cli("backup", tmp_path / "damaged.db")
    assert "event 5 is damaged" in backup.stdout
    assert "--damaged" in new.refused("restore", tmp_path / "damaged.db")
    answer = new("restore", tmp_path / "damaged.db", "--damaged")
    assert answer.exit_code == 0
    assert "it is as damaged as its backup" in answer.stdout
    assert "orders: event 5 is damaged" in answer.stdout
    assert "event 5 is missing or damaged" in new.refused("export", "orders", tmp_path / "e")

    async def read() -> None:
        settings = replace(Settings(), data=new.data)
        database = await Database.open(settings)
        try:
            log = await SqliteEventLog.open(database, settings)
            assert [each.seq for each in await log.read(bucket["id"], 0, 256, 1 << 20)] == [1, 2, 3, 4]
            with pytest.raises(CursorLost) as lost:
                await log.read(bucket["id"], 4, 256, 1 << 20)
            assert lost.value.first == 6
            assert len(await log.read(bucket["id"], 5, 256, 1 << 20)) == 25
            await log.close()
        finally:
            await database.close()

    asyncio.run(read())
    other = Runner(tmp_path / "other")
    found = other.json("restore", tmp_path / "damaged.db", "--damaged")["findings"]
    assert "event 5 is damaged" in [each["message"] for each in found if each["bucket"] == "orders"]
    assert Runner(tmp_path / "third").json("restore", file, "--damaged")["findings"] == []


def test_a_damaged_page_does_not_prevent_a_start(cli: Runner, file: Path, new: Runner) -> None:
    """What is restored with --damaged is served: it has no WAL, a part of which could be missing from it."""
    fill(cli.data, "orders", 60, size=500)
    cli.json("backup", file, "--force")
    content = bytearray(file.read_bytes())
    page = rows(file, "PRAGMA page_size")[0][0]
    begin = content.index("20 schön ".encode()) // page * page
    content[begin : begin + page] = bytes(page)
    file.write_bytes(content)
    found = new.json("restore", file, "--damaged")["findings"]
    assert "pages" in {each["kind"] for each in found}
    for _ in range(2):
        fill(new.data, "orders", 1)


def test_more_damage_than_is_told(cli: Runner, file: Path, new: Runner) -> None:
    """A check tells so many findings at most, and need not come upon the same ones again."""
    fill(cli.data, "orders", 120, size=5000)
    cli.json("backup", file, "--force")
    page = rows(file, "PRAGMA page_size")[0][0]
    with file.open("r+b") as raw:
        raw.seek(page)
        raw.write(bytes(page))  # of an incremental vacuum: it says of each of the next pages who points to it
    assert len(new.json("restore", file, "--damaged")["findings"]) >= MOST_TOLD
    assert new("export", "orders", "-").stdout.count('"seq"') == 150


def test_damage_that_no_restore_gets_over(file: Path, new: Runner) -> None:
    """A record that nobody understands might be that of an output: it is named, and nothing is left."""
    change(file, "UPDATE bucket SET document = '[3]'")
    said = new.refused("restore", file, "--damaged")
    assert "could not be restored (the record of bucket " in said
    assert "can't be understood (Expected `object`, got `array`)" in said
    assert {path.name for path in new.data.iterdir()} == {"relay.lock"}


def test_what_came_while_the_backup_was_checked_stays(
    cli: Runner, file: Path, new: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relay that ran on the directory for the first time meanwhile, or another restore: nothing of it is replaced."""
    looked = restore.check

    def meanwhile(path: Path, *arguments: Any) -> Any:
        if not new.data.exists():
            shutil.copytree(cli.data, new.data)
        return looked(path, *arguments)

    monkeypatch.setattr(restore, "check", meanwhile)
    assert "not empty" in new.refused("restore", file)
    assert rows(new.data / "relay.db", "SELECT id FROM meta") == rows(cli.data / "relay.db", "SELECT id FROM meta")


def test_a_result_that_is_not_sound_is_removed(file: Path, new: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """The backup is sound, and what came to lie on the disk is not."""
    copy = restore.copying.by_pages

    def badly(raw: sqlite3.Connection, directory: Path, part: Path, *arguments: Any) -> None:
        copy(raw, directory, part, *arguments)
        change(part, "UPDATE log SET head = head + 1")

    monkeypatch.setattr(restore.copying, "by_pages", badly)
    assert "the restored file is not sound, and was removed" in new.refused("restore", file)
    assert {path.name for path in new.data.iterdir()} == {"relay.lock"}


def test_a_backup_that_is_not_there(tmp_path: Path) -> None:
    """It is called a backup, and no relay's directory is asked for; none is made either."""
    new, nope = Runner(tmp_path / "new"), tmp_path / "nope.db"
    assert new.refused("restore", nope) == f"there is no backup {nope}: name the file that `relay backup` wrote"
    assert not new.data.exists()


def test_no_room_to_restore(file: Path, new: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left where it does not fit."""
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_bavail=1, f_blocks=9, f_frsize=4096))
    assert "no room" in new.refused("restore", file)
    assert {path.name for path in new.data.iterdir()} == {"relay.lock"}
