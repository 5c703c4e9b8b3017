"""From the first released schema on: files of older relays under this one, and this one's under older ones."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPRequest

from relay_tornado.storage import migrate
from relay_tornado.storage.sqlite_compat import JUDGES_JSON
from tests.acceptance.clients import Sender, Subscriber, read_log
from tests.acceptance.relay import TIMEOUT, Relay
from tests.cli.runner import Runner
from tests.ops.filling import rows
from tests.ops.first_release import EPOCHS, EVENTS, INPUT, body, first_schema

ROOT = Path(__file__).parent.parent.parent
FIRST = "fb83c07"
"""The commit of the first schema."""
SECOND = "58b19e2"
"""The last commit with the second schema."""


async def serves_the_old_events(relay: Relay, token: tuple[str, str]) -> None:
    log = await read_log(relay, token, "orders")
    assert [(event.seq, event.body) for event in log] == [(seq, body(seq)) for seq in range(1, EVENTS + 1)]
    assert [event.id for event in log] == [f"{EPOCHS[seq > 30]}-{seq}" for seq in range(1, EVENTS + 1)]
    async with Subscriber(relay, token, "orders", f"{EPOCHS[0]}-12") as subscriber:
        assert (subscriber.subscribed["start"], subscriber.subscribed["gap"]) == (13, None)
    async with Sender(relay, f"/v1/webhooks/{INPUT}") as sender:
        assert await sender.post(b"new") == 200
    assert (await read_log(relay, token, "orders"))[-1].body == b"new"


def test_a_file_of_the_first_release(new_relay: Callable[..., Relay], tmp_path: Path) -> None:
    """serve makes a copy, migrates and starts; every event, id and cursor is as it was, and new ones are taken."""
    first_schema(tmp_path / "data")
    relay = new_relay()
    relay.start()
    asyncio.run(serves_the_old_events(relay, relay.create_token()))
    assert relay.command("check")["findings"] == []
    assert relay.stop() == 0
    assert rows(relay.data / "relay.db", "PRAGMA user_version") == [(migrate.latest(),)]
    copy = relay.data / f"relay.db.before-v{migrate.latest()}"
    assert rows(copy, "PRAGMA user_version") == [(1,)]
    assert rows(copy, "SELECT count(*) FROM event") == [(EVENTS,)]


def test_an_old_file_before_it_is_migrated(cli: Runner, tmp_path: Path) -> None:
    """It can be checked, backed up, exported and restored, and none of that migrates it."""
    first_schema(cli.data)
    assert cli.json("check")["findings"] == []
    assert cli.json("stats")["buckets"][0]["events"] == EVENTS
    assert cli.json("backup", tmp_path / "b.db")["events"] == EVENTS
    assert cli.json("export", "orders", tmp_path / "e")["events"] == EVENTS
    new = Runner(tmp_path / "new")
    assert new.json("restore", tmp_path / "b.db")["events"] == EVENTS
    for path in (cli.data / "relay.db", tmp_path / "b.db", new.data / "relay.db"):
        assert rows(path, "PRAGMA user_version") == [(1,)]
    assert new("import", "copy", tmp_path / "e").exit_code == 0
    assert rows(new.data / "relay.db", "SELECT count(*) FROM event") == [(2 * EVENTS,)]
    assert rows(new.data / "relay.db", "PRAGMA user_version") == [(migrate.latest(),)]
    assert new.json("check")["findings"] == []


def test_a_command_that_brings_an_old_file_up(cli: Runner) -> None:
    """Whoever only looked reads once that an older relay refuses the file now, and where it is as it was."""
    first_schema(cli.data)
    listed = cli("bucket", "list")
    copy = migrate.copy_of(cli.data / "relay.db", migrate.latest())
    assert (listed.exit_code, "orders" in listed.stdout) == (0, True)
    assert (
        f"from schema version 1 to {migrate.latest()}, which an older relay can't open; {copy} is a copy"
        in listed.stderr
    )
    assert rows(copy, "PRAGMA user_version") == [(1,)]
    assert cli("bucket", "list").stderr == ""


def damage(path: Path, held: bytes) -> None:
    """Makes the page that holds this malformed; where it lay before there may be some of it left further ahead."""
    with closing(sqlite3.connect(path)) as raw:
        (size,) = raw.execute("PRAGMA page_size").fetchone()
        raw.execute("PRAGMA wal_checkpoint (TRUNCATE)")
    at = path.read_bytes().rindex(held) // size * size
    with path.open("r+b") as file:
        file.seek(at)
        file.write(b"\xff" * 8)


def damaged_file(data: Path, version: int) -> Path:
    """One of the first release, brought to this version, in which a page of events is malformed."""
    path = first_schema(data)
    with closing(sqlite3.connect(path, isolation_level=None)) as raw:
        for step in migrate.steps()[1:version]:
            raw.executescript(step.script)
    damage(path, body(20))
    return path


def test_an_old_file_with_a_damaged_page(cli: Runner) -> None:
    """Of its events those on the page are lost, as they were under the older relay, and the copy has what there was."""
    path = damaged_file(cli.data, 3)
    before = path.read_bytes()
    migrated = cli("migrate")
    assert migrated.exit_code == 0, migrated.output
    assert rows(path, "SELECT seq FROM event WHERE rowid = 50") == [(50,)]
    copy = migrate.copy_of(path, migrate.latest())
    assert rows(copy, "PRAGMA user_version") == [(3,)]
    assert copy.read_bytes()[100:] == before[100:]
    assert {each.name for each in cli.data.glob("*.before-*")} == {copy.name}


@pytest.mark.parametrize("version", [1, 2])
def test_a_damaged_page_that_a_step_has_to_read(cli: Runner, tmp_path: Path, version: int) -> None:
    """SQLite looks at every event there. It is refused as what it is, stays as it was, and the events can be got."""
    path = damaged_file(cli.data, version)
    refused = cli("migrate").output
    assert f"could not be migrated to version {version + 1} (database disk image is malformed)" in refused
    assert rows(path, "PRAGMA user_version") == [(version,)]
    assert "`relay export BUCKET FILE --after SEQ` gets those behind them, and `relay import` takes them" in refused
    (last,) = re.findall("events 1 to ([0-9]+) are damaged", cli("check").output)
    cli("export", "orders", tmp_path / "e", "--after", last)
    imported = cli("import", "orders", tmp_path / "e", "--data", tmp_path / "new")
    assert imported.exit_code == 0, imported.output
    assert rows(tmp_path / "new" / "relay.db", "SELECT min(seq), max(seq) FROM event") == [(int(last) + 1, EVENTS)]


def archived(commit: str, folder: Path) -> Path:
    """The program as it was at a commit; skips where the history is not here."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("git or its history is missing: run this from a clone, with git installed")
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, timeout=TIMEOUT)
    if archive.returncode != 0:
        pytest.skip(f"the commit {commit} is not here: fetch the whole history")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        # Python has the filter from 3.11.4 on.
        tar.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    return folder


def released(commit: str, folder: Path) -> type[Relay]:
    """The relay as it was at a commit; skips where the SQLite is too old for that."""
    if sqlite3.sqlite_version_info < JUDGES_JSON:
        pytest.skip(f"relays before 0.5.14 do not run on SQLite {sqlite3.sqlite_version}: use a newer Python")
    program = archived(commit, folder)

    class Released(Relay):
        def environment(self) -> dict[str, str]:
            return super().environment() | {"PYTHONPATH": os.fspath(program), "PYTHONSAFEPATH": "1"}

    return Released


async def drain(relay: Relay, token: tuple[str, str], query: str) -> list[str]:
    """The bodies that a client that polls gets next."""
    request = HTTPRequest(
        f"{relay.url}/v1/events?bucket=orders&{query}", auth_username=token[0], auth_password=token[1]
    )
    answer = await AsyncHTTPClient().fetch(request)
    return [each["body"] for each in json.loads(answer.body)["logs"]]


def test_a_file_of_the_second_schema(new_relay: Callable[..., Relay], tmp_path: Path) -> None:
    """Made by the release that wrote such files: those who poll go on where they were, whatever output they drain, and
    what became of events is kept."""

    async def before(relay: Relay) -> None:
        async with Sender(relay, path) as sender:
            for number in range(1, 6):
                assert await sender.post(b"event %d" % number) == 200
        assert await drain(relay, token, "limit=3") == ["event 1", "event 2", "event 3"]
        assert await drain(relay, token, "limit=1&output=worker") == ["event 1"]

    async def after(relay: Relay) -> None:
        assert await drain(relay, token, "limit=9&output=worker") == [f"event {n}" for n in range(2, 6)]
        assert await drain(relay, token, "limit=9") == []
        async with Sender(relay, path) as sender:
            assert await sender.post(b"event 6") == 200
        assert await drain(relay, token, "limit=9") == ["event 6"]
        assert await drain(relay, token, "limit=9") == []

    old = released(SECOND, tmp_path / "second")(tmp_path / "data")
    path, token = old.create_bucket("orders"), old.create_token()
    old.command("output", "create", "orders", "--name", "worker")
    with old:
        asyncio.run(before(old))
        assert old.stop() == 0
    file = old.data / "relay.db"
    assert rows(file, "PRAGMA user_version") == [(2,)]
    floors = rows(file, "SELECT log, CAST(output AS TEXT), floor FROM consumer ORDER BY 2")
    deliveries = rows(file, "SELECT * FROM delivery")
    assert len(floors) == 2
    new = new_relay()
    new.start()
    assert rows(file, "SELECT log, name, floor FROM consumer WHERE kind = 'events' ORDER BY 2") == floors
    assert rows(file, "SELECT * FROM delivery") == deliveries
    asyncio.run(after(new))
    assert new.command("check")["findings"] == []
    assert new.stop() == 0


KILLED = """
import os, signal, sqlite3, sys
from relay_tornado.storage import database_files, migrate
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[1] == "copying":
    database_files.sync = die
elif sys.argv[1] == "between":
    migrate._script = die
else:
    def half(raw, script, first=False):
        raw.executescript("BEGIN IMMEDIATE;" + script)
        die()
    migrate._script = half
from relay_tornado.cli import main
main(["migrate"])
"""


@pytest.mark.parametrize("moment", ["copying", "between", "migrating"])
def test_a_migration_that_is_killed_starts_again(new_relay: Callable[..., Relay], tmp_path: Path, moment: str) -> None:
    """Wherever a kill -9 meets it, the file is as it was, and the next start does it as if nothing had been."""
    path = first_schema(tmp_path / "data")
    relay = new_relay()
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, moment], env=relay.environment(), capture_output=True, timeout=TIMEOUT
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert rows(path, "PRAGMA user_version") == [(1,)]
    relay.start()
    asyncio.run(serves_the_old_events(relay, relay.create_token()))
    assert relay.command("check")["findings"] == []
    assert relay.stop() == 0
    assert {each.name for each in relay.data.iterdir()} & {"relay.db.part"} == set()
    assert rows(path.with_name(f"relay.db.before-v{migrate.latest()}"), "PRAGMA user_version") == [(1,)]


STOPPED = """
import os, signal, time
from relay_tornado.storage import migrate
backup, looks = migrate.backup, []
def told(raw, target, halted, *more):
    def until_it_hears():
        looks.append(0)
        os.kill(os.getpid(), signal.SIGTERM)
        while not halted():
            time.sleep(0.01)
        return True
    try:
        return backup(raw, target, until_it_hears, *more)
    finally:
        print(len(looks), "looks")
migrate.PAGES, migrate.backup = 1, told
from relay_tornado.cli import main
main(["serve", "--port", "0"])
"""


def test_a_stop_while_the_copy_is_made(new_relay: Callable[..., Relay], tmp_path: Path) -> None:
    """It waits for no more than the next pages, nothing is left of the copy, and the next start does it."""
    path = first_schema(tmp_path / "data")
    relay = new_relay()
    done = subprocess.run(
        [sys.executable, "-c", STOPPED], env=relay.environment(), capture_output=True, text=True, timeout=TIMEOUT
    )
    assert (done.returncode, done.stdout) == (0, "1 looks\n"), done.stderr
    assert "Traceback" not in done.stderr
    assert rows(path, "PRAGMA user_version") == [(1,)]
    assert [each.name for each in relay.data.iterdir() if "before" in each.name] == []
    relay.start()
    asyncio.run(serves_the_old_events(relay, relay.create_token()))
    assert relay.stop() == 0


def test_an_older_relay_refuses_this_ones_file(new_relay: Callable[..., Relay], tmp_path: Path) -> None:
    """The first release itself refuses a migrated file, names the version, and leaves it as it is; the copy that was
    made before the migration starts under it."""
    first_schema(tmp_path / "data")
    new = new_relay()
    assert new.command("migrate")["to"] == migrate.latest()
    path = new.data / "relay.db"
    before = path.read_bytes()
    old = released(FIRST, tmp_path / "first")(new.data)
    refused = old.run("serve", "--port=0")
    assert refused.returncode == 1
    assert f"schema version {migrate.latest()}" in refused.stderr
    assert path.read_bytes() == before
    path.unlink()
    path.with_name(f"relay.db.before-v{migrate.latest()}").rename(path)
    with old:
        asyncio.run(serves_the_old_events(old, old.create_token()))
        assert old.stop() == 0
    assert rows(path, "PRAGMA user_version") == [(1,)]


def test_an_older_relay_and_this_program(tmp_path: Path) -> None:
    """Until it is started anew, or from another machine: what both know works, and the rest is told in one line."""
    old = released(SECOND, tmp_path / "second")(tmp_path / "data")
    _, (_, secret) = old.create_bucket("orders"), old.create_token()
    cli = Runner(old.data)
    with old:
        for name, way in (("here", {}), ("there", {"RELAY_URL": old.url, "RELAY_SECRET": secret})):
            for arguments in (
                ("bucket", "create", name, "--retention-age", "7d"),
                ("bucket", "set", name, "--description", "d"),
                ("bucket", "show", name),
                ("output", "create", name, "--destination", "https://example.org/"),
                ("output", "set", name, "--name", "n"),
                ("output", "list", name),
                ("input", "list", name),
                ("token", "create", "--bucket", name),
                ("token", "list"),
                ("logs", "list", "--bucket", name),
            ):
                result = cli(*arguments, **way)
                assert result.exit_code == 0, result.output
            for arguments in (("consumer", "list"), ("consumer", "show", name, "c"), ("search", "x")):
                assert re.search("another version|older than", cli.refused(*arguments, **way))
        assert old.stop() == 0
