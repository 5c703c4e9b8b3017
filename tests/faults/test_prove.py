"""`./scripts/prove`: its table, its verdicts, and that docs/reliability.md has every row."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.faults import prove
from tests.faults.outcome import Outcome
from tests.faults.rows import ROWS, Row

ROOT = Path(__file__).parent.parent.parent


def row(outcome: Outcome | Exception | None) -> Row:
    """One with this outcome; None: it lacks something."""

    def run(folder: Path) -> Outcome:
        if isinstance(outcome, Exception):
            raise outcome
        assert outcome is not None
        return outcome

    def needs() -> None:
        if outcome is None:
            pytest.skip("strace is missing: install strace")

    return Row("kill", "a promise", run, (), (), needs)


def test_verdicts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A broken promise and a harness that fails are told, with what went wrong, and the command ends with 1."""
    figures: dict[str, object] = {"kills": 2_000, "lost": 0, "ratio": 1.234, "cases": "1 of 2"}
    for outcome, verdict, code in (
        (Outcome(figures), "kept", 0),
        (Outcome(figures, broken=["3 are lost"]), "BROKEN", 1),
        (Outcome(figures, late=["it took 12 s"]), "late", 1),
        (AssertionError("a hole"), "BROKEN", 1),
        (RuntimeError("no | disk"), "FAILED", 1),
        (None, "skipped", 0),
    ):
        monkeypatch.setattr(prove, "ROWS", [row(outcome)])
        done = CliRunner().invoke(prove.main, ["--quick", "--json", str(tmp_path / "figures.json")])
        assert done.exit_code == code
        line = done.stdout.splitlines()[-1]
        assert line.count("|") == 6
        assert line.endswith(f"| {verdict} |")
        (document,) = json.loads((tmp_path / "figures.json").read_text())
        assert document["verdict"] == verdict
        if isinstance(outcome, Outcome):
            assert "kills 2,000, lost 0, ratio 1.23, cases 1 of 2" in line
            assert all(problem in done.stderr for problem in [*outcome.broken, *outcome.late])


def test_every_row_is_documented() -> None:
    """docs/reliability.md names every row."""
    text = (ROOT / "docs/reliability.md").read_text()
    assert [each.name for each in ROWS if f"| `{each.name}` |" not in text] == []


def test_the_script_is_a_command() -> None:
    """It can be run, and hands on what it is given."""
    script = ROOT / "scripts/prove"
    assert script.stat().st_mode & 0o111
    assert 'tests.faults.prove "$@"' in script.read_text()
