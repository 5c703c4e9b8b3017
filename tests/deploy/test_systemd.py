"""The systemd units, judged by systemd's own analyser."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from relay_tornado import settings
from tests.needs import needs

ROOT = Path(__file__).parent.parent.parent
UNITS = ROOT / "deploy" / "systemd"
EXPOSURE = 15
"""Most that `systemd-analyze security` may find, in tenths: 0 is the safest, 100 a service with every right."""


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units with a program that is there on every machine; it is checked that it is."""
    needs("systemd-analyze", "apt-get install systemd")
    for unit in UNITS.glob("relay.*"):
        text = unit.read_text().replace("/opt/relay/bin/relay", "/bin/true")
        (tmp_path / unit.name).write_text(text)
    return tmp_path


def analyze(*arguments: str) -> None:
    done = subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr


def test_the_units_are_valid(units: Path) -> None:
    """No unknown key, no bad value, nothing that is not there."""
    analyze("verify", str(units / "relay.service"), str(units / "relay.socket"))


def test_the_service_may_do_little(units: Path) -> None:
    """The sandbox stays as tight as it is."""
    analyze("security", "--offline=true", "--no-pager", f"--threshold={EXPOSURE}", str(units / "relay.service"))


def test_the_service_is_the_relay_that_there_is() -> None:
    """Its variables are settings, and its time to stop is longer than a drain."""
    text = (UNITS / "relay.service").read_text()
    given = re.findall(r"^Environment=(.*)$", text, re.MULTILINE)
    names = {assignment.partition("=")[0] for line in given for assignment in line.split()}
    fields = settings.Settings.__dataclass_fields__
    assert names <= {settings.variable(field) for field in fields.values()}
    stop = re.search(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE)
    assert stop is not None
    assert int(stop[1]) > 2 * fields["drain_timeout"].default


@pytest.mark.parametrize("file", [UNITS / "relay.service", ROOT / "docs" / "forward.md"], ids=lambda file: file.name)
def test_no_service_is_given_up(file: Path) -> None:
    """Trouble at the start, as of a network or a disk that comes late, is waited out and not for five tries alone."""
    lines = file.read_text().splitlines()
    assert {"StartLimitIntervalSec=0", "Restart=always", "RestartSec=5"} <= set(lines)
    assert lines.index("[Unit]") < lines.index("StartLimitIntervalSec=0") < lines.index("[Service]")


def test_a_backup_that_is_killed_for_want_of_memory_ends_alone() -> None:
    """systemd stops a whole service where the kernel killed a part of it, unless it is told not to."""
    assert "OOMPolicy=continue" in (UNITS / "relay.service").read_text().splitlines()


def test_a_directory_that_is_missing_keeps_no_relay_from_its_start() -> None:
    """What else it may write may lie on a disk that is not mounted yet: systemd passes over it only where told to."""
    for file in (UNITS / "relay.service", ROOT / "docs" / "operations.md"):
        named = re.findall(r"ReadWritePaths=([^\s`]*/)", file.read_text())
        assert named, file
        assert all(path.startswith("-") for path in named), file
