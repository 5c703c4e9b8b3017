"""The measurements run: what they find depends on the machine, and is not looked at here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.heavy
def test_the_quick_pass(tmp_path: Path) -> None:
    """`python -m bench all --quick` measures everything once, prints its tables and writes its figures."""
    figures = tmp_path / "figures.json"
    command = [sys.executable, "-m", "bench", "all", "--quick", "--json", str(figures)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert run.returncode == 0, run.stderr
    found = json.loads(figures.read_text())
    assert set(found) == {"machine", "ingest", "delivery", "replay"}
    for part in ("ingest", "delivery", "replay"):
        assert all(isinstance(value, str) or value == value for row in found[part] for value in row.values())
        assert all(column in run.stdout for column in found[part][0])
