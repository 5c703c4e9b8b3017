"""What is wrong with a file, in words: which one, why, and what to do."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from relay_tornado.cli import export_import
from relay_tornado.cli.errors import about, file_words
from relay_tornado.storage.lock import Lock
from tests.cli.runner import Runner


@pytest.mark.parametrize("number", sorted(errno.errorcode))
def test_no_number_is_shown(number: int) -> None:
    """Whatever the system says has the file's name, words, and something to do."""
    words = file_words(OSError(number, os.strerror(number), "/a/b"))
    assert words.startswith("/a/b: ")
    assert ": " in words.removeprefix("/a/b: ")
    assert "[Errno" not in words


def test_more_than_one_name_or_none() -> None:
    """A renaming has two; an error without a number stays as it is."""
    assert file_words(OSError(errno.EXDEV, "", "a", None, "b")).startswith("a to b: ")
    assert file_words(OSError(errno.ENOSPC, "")).startswith("the disk is full: ")
    assert file_words(OSError("something else")) == "something else"


def test_a_name_that_the_system_leaves_out() -> None:
    """What is read and written has the file's name then; one that is there stays."""
    for given, shown in ((OSError(errno.EIO, ""), "mine"), (OSError(errno.EIO, "", "other"), "other")):
        with pytest.raises(OSError, match=f"'{shown}'$"), about(Path("mine")):
            raise given


def test_files_that_are_not_there(relay: Runner, tmp_path: Path) -> None:
    """Names that were mistyped, and a directory for a file."""
    relay.json("bucket", "create", "orders")
    missing = "there is no such file or directory: is the name right?"
    assert relay.refused("import", "new", tmp_path / "nope") == f"{tmp_path}/nope: {missing}"
    assert relay.refused("export", "orders", tmp_path / "nope" / "x") == f"{tmp_path}/nope/x: {missing}"
    assert relay.refused("import", "new", tmp_path) == f"{tmp_path}: it is a directory: name a file"
    said = relay.misused("forward", "orders", "http://localhost:3000", "--checkpoint", tmp_path)
    assert "[Errno" not in said
    (tmp_path / "file").write_text("")
    said = relay.refused("forward", "orders", "http://localhost:3000", "--checkpoint", tmp_path / "file" / "x")
    assert said.startswith(f"the checkpoint can't be kept: {tmp_path}/file")
    assert "[Errno" not in said


def test_paths_that_are_too_long(relay: Runner, tmp_path: Path) -> None:
    """SQLite takes fewer bytes than the system: neither is told as a lack of rights. The longest that works does."""
    relay.json("bucket", "create", "orders")
    relay.json("backup", tmp_path / "backup.db")

    def directory(size: int) -> Path:
        path = tmp_path
        while (left := size - len(str(path))) > 0:
            path /= "d" * (left - 1 if left <= 200 else min(200, left - 102))
        assert len(str(path)) == size
        return path

    longest = directory(504 - len("/relay.db"))
    Runner(longest).json("bucket", "create", "orders")
    assert Runner(longest).json("check")["buckets"] == 1
    longer = longest.rename(longest.with_name(f"{longest.name}d"))
    (tmp_path / "link").symlink_to(longer)
    restored = Runner(directory(504 - len("/relay.db.restoring") + 1))
    for said in (
        Runner(longer).refused("bucket", "create", "orders"),
        Runner(longer).refused("stats"),
        Runner(tmp_path / "link").refused("bucket", "list"),
        restored.refused("restore", tmp_path / "backup.db"),
        relay.refused("backup", longer / "0123456789"),
    ):
        assert "bytes, and SQLite opens 504 at most: choose a directory of a shorter one" in said
        assert "right" not in said
    for command in (("migrate",), ("bucket", "list"), ("restore", tmp_path / "backup.db")):
        said = Runner(directory(5000)).refused(*command)
        assert "too long" in said
        assert "shorte" in said
        assert "right" not in said


def test_an_export_to_a_full_disk(relay: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is named, as standard output is (test_cli_streams.py)."""

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    relay.json("bucket", "create", "orders")
    monkeypatch.setattr(export_import.os, "fsync", full)
    said = relay.refused("export", "orders", tmp_path / "out")
    assert said == f"{tmp_path}/out: the disk is full: free some space, or name a file on another one"


def test_a_check_of_what_can_not_be_read(relay: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It could not be looked at (4), and the line has words as well."""
    (tmp_path / "b.db").write_text("")

    refused = PermissionError(errno.EACCES, "", str(tmp_path / "b.db"))
    problems: list[Exception] = [refused, MemoryError(), sqlite3.OperationalError("disk I/O error")]

    def refuse(*_: object, **__: object) -> None:
        raise problems.pop(0)

    monkeypatch.setattr("relay_tornado.ops.check.check", refuse)
    run = relay("check", tmp_path / "b.db")
    assert run.exit_code == 4
    assert run.stderr.startswith(f"relay: {tmp_path}/b.db: this user may not use it: run this as its owner")
    run = relay("check", tmp_path / "b.db", "--json")
    assert (run.exit_code, json.loads(run.stdout)["sound"]) == (4, None)
    assert run.stderr.startswith("relay: there is too little memory: ")
    run = relay("check", tmp_path / "b.db")
    assert (run.exit_code, run.stderr) == (4, "relay: disk I/O error\n")


def test_what_would_steer_a_terminal(relay: Runner, tmp_path: Path) -> None:
    """What errors and notes quote of a file, which may come from anybody, is shown and not obeyed."""
    steering, shown = "\x1b[2J", r"\x1b[2J"
    made = relay.json("bucket", "create", "orders")
    file = tmp_path / "orders.ndjson"
    relay.json("export", "orders", file)
    event = dict.fromkeys(("path", "query", "headers", "body", steering), "")
    file.write_text(file.read_text() + json.dumps(event) + "\n")
    assert f"fields that this relay does not know: {shown}" in relay.refused("import", "copy", file)
    newer = tmp_path / "newer.db"
    with closing(sqlite3.connect(newer)) as raw:
        raw.executescript("CREATE TABLE meta (version); PRAGMA user_version = 99;")
        raw.execute("INSERT INTO meta VALUES (?)", (steering,))
        raw.commit()
    assert f"written by relay {shown}" in relay.refused("export", "orders", "--data", newer)
    with closing(sqlite3.connect(relay.data / "relay.db")) as raw:
        raw.execute("UPDATE bucket SET name = ? WHERE id = ?", (steering, made["id"]))
        raw.commit()
    assert shown in relay("export", made["id"]).stderr


def test_a_check_beside_a_running_relay(relay: Runner, tmp_path: Path) -> None:
    """Its WAL may have been emptied, which looks like damage: before the relay is stopped, its operator reads on."""
    relay("bucket", "create", "orders")
    data = tmp_path / "data"
    (data / "relay.db").write_bytes(b"SQLite format 3\0" + bytes(5000))
    alone = relay("check")
    assert (alone.exit_code, alone.stderr) == (3, ""), alone.output
    lock = Lock.acquire(data)
    try:
        lock.write(None)
        beside = relay("check")
    finally:
        lock.release()
    assert beside.exit_code == 3
    assert beside.stderr.startswith("relay: a relay runs on this directory: ")
    assert "RelayNotReady" in beside.stderr
