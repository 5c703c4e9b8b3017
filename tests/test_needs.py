"""Skipped tests: they say what to install, and fail the run where nothing may be skipped."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROGRAM = """
from tests.needs import needs

def test_here():
    needs("sh", "nothing")

def test_missing():
    needs("no-such-program", "install it so")
"""


@pytest.mark.parametrize(("variables", "code"), [({}, 0), ({"CI": "true"}, 1), ({"RELAY_TEST_STRICT": "1"}, 1)])
def test_a_skip_fails_the_run_under_strict(tmp_path: Path, variables: dict[str, str], code: int) -> None:
    """On a developer's machine a test whose tool is missing is skipped with a remedy; under strict the run fails."""
    (tmp_path / "test_program.py").write_text(PROGRAM)
    environment = {k: v for k, v in os.environ.items() if k not in ("CI", "RELAY_TEST_STRICT", "PYTEST_ADDOPTS")}
    environment = {k: v for k, v in environment.items() if not k.startswith("PYTEST_XDIST")}
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-c", str(ROOT / "setup.cfg"), str(tmp_path)]
    run = subprocess.run(command, cwd=ROOT, env=environment | variables, capture_output=True, text=True, timeout=60)
    assert run.returncode == code, run.stdout + run.stderr
    assert "no-such-program is missing: install it so" in run.stdout
    assert "1 passed, 1 skipped" in run.stdout
