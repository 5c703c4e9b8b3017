"""`relay migrate`, and directories and variables that no command can use."""

import json
import sqlite3
from pathlib import Path

import pytest

from relay_tornado.storage import migrate
from tests.cli.runner import Runner


def test_migrating_what_is_current(relay: Runner) -> None:
    """Nothing is to be done, and that is said; --json says it in numbers."""
    relay("bucket", "create", "orders")
    result = relay("migrate")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "nothing to do" in result.stderr
    said = relay.json("migrate")
    assert said["from"] == said["to"] >= 1
    assert (said["database"], said["copy"]) == (str(relay.data / "relay.db"), None)


@pytest.mark.parametrize("as_json", [False, True])
def test_migrating_what_is_older(relay: Runner, monkeypatch: pytest.MonkeyPatch, as_json: bool) -> None:
    """It says from which version to which, and where the copy is; what was in the file still is."""
    relay("bucket", "create", "orders")
    steps = migrate.steps()
    newest = steps[-1].version
    more = [*steps, migrate.Step(newest + 1, f"PRAGMA user_version = {newest + 1};")]
    monkeypatch.setattr(migrate, "steps", lambda: more)
    copy = relay.data / f"relay.db.before-v{newest + 1}"
    if as_json:
        database = str(relay.data / "relay.db")
        said = relay.json("migrate")
        assert said == {"database": database, "from": newest, "to": newest + 1, "copy": str(copy)}
    else:
        said = relay("migrate").stdout
        assert f"from schema version {newest} to {newest + 1}" in said
        assert str(copy) in said
    assert copy.exists()
    assert relay.json("migrate")["from"] == newest + 1
    assert [bucket["name"] for bucket in relay.json("bucket", "list")] == ["orders"]


def test_migrating_what_is_newer_or_none(relay: Runner) -> None:
    """A newer file is refused, and so is a directory without one."""
    assert "there is no relay.db" in relay.refused("migrate")
    relay("bucket", "create", "orders")
    raw = sqlite3.connect(relay.data / "relay.db")
    raw.execute("PRAGMA user_version = 9999")
    raw.close()
    for arguments in (("migrate",), ("bucket", "list")):
        assert "newer" in relay.refused(*arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ("bucket", "list"),
        ("bucket", "show", "a"),
        ("bucket", "set", "a", "--max-body", "1"),
        ("bucket", "delete", "a", "--yes"),
        ("input", "set", "a", "--status", "200"),
        ("token", "list"),
        ("token", "revoke", "a"),
        ("migrate",),
    ],
)
def test_a_directory_that_is_not_there(relay: Runner, arguments: tuple[str, ...]) -> None:
    """Only what creates makes it; everything else says that it is not there, and how to name another."""
    said = relay.refused(*arguments)
    assert str(relay.data) in said
    assert "--data" in said
    assert not relay.data.exists()


def test_a_directory_that_is_a_file(relay: Runner) -> None:
    """The refusal is a line, not a traceback."""
    relay.data.write_text("not a directory")
    for arguments in (("bucket", "create", "orders"), ("bucket", "list"), ("migrate",)):
        assert "directory" in relay.refused(*arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ("bucket", "create", "orders", "--data", ""),
        ("token", "create", "--data", ""),
        ("serve", "--host", "192.0.2.1", "--data", ""),
        ("serve", "--host", "192.0.2.1", "--backup-dir", ""),
    ],
)
def test_an_empty_path(
    relay: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    """It is refused, and nothing is made where the command was called: `--data "$VARIABLE"` may have no variable."""
    monkeypatch.chdir(tmp_path)
    said = relay.misused(*arguments)
    assert arguments[-2] in said
    assert "it is empty" in said
    assert list(tmp_path.iterdir()) == []


def test_what_storage_says_goes_to_stderr(relay: Runner) -> None:
    """A warning at opening does not get into what was asked for."""
    relay("bucket", "create", "orders")
    (relay.data / "relay.witness").unlink()
    result = relay("bucket", "list", "--json")
    assert [bucket["name"] for bucket in json.loads(result.stdout)] == ["orders"]
    assert "witness_missing" in result.stderr


def test_bad_variables_are_named(relay: Runner) -> None:
    """A setting's variable that makes no sense stops a command that needs it, with exit code 2."""
    assert "--port" in relay.misused("bucket", "create", "orders", RELAY_PORT="many")
    assert "RELAY_JSON" in relay.misused("bucket", "create", "orders", RELAY_JSON="perhaps")
