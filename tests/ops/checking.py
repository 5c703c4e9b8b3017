"""A relay's file to be checked: made, damaged, and what `relay check` finds in it."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from relay_tornado.storage.sqlite_compat import JUDGES_JSON
from tests.cli.runner import Runner
from tests.ops.filling import change as change_without_triggers
from tests.ops.filling import consume, fill, rows

OLD = sqlite3.sqlite_version_info < JUDGES_JSON
"""Whether this SQLite tells some damage otherwise, and the check more of it."""


def change(path: Path, *statements: str) -> None:
    """Changes a file behind the relay's back, and puts the triggers back that forbid it."""
    triggers = [str(sql) for (sql,) in rows(path, "SELECT sql FROM sqlite_schema WHERE type = 'trigger'")]
    change_without_triggers(path, *statements, *triggers)


def found(cli: Runner, *arguments: object) -> Any:
    """The findings of a check that finds damage."""
    result = cli("check", *arguments, "--json")
    assert result.exit_code == 3, result.output
    report = json.loads(result.stdout)
    assert not report["sound"]
    assert all(each["advice"] for each in report["findings"])
    return report["findings"]


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data of a relay with 1,000 events in one bucket and 5 in another, made once, to be copied."""
    data = tmp_path_factory.mktemp("filled") / "data"
    consume(data, fill(data, "orders", 1000))
    fill(data, "billing", 5)
    return data


@pytest.fixture
def file(cli: Runner, filled: Path) -> Path:
    """The file of such a relay, with a token."""
    shutil.copytree(filled, cli.data)
    cli.json("token", "create")
    return cli.data / "relay.db"
