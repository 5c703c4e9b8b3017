"""The measurements run: what they find depends on the machine, and is not looked at here."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import peers
from tests.needs import needs, needs_browser

ROOT = Path(__file__).parent.parent.parent


def run(*arguments: str) -> str:
    """Runs `python -m ARGUMENTS --quick`; what it printed."""
    command = [sys.executable, "-m", *arguments, "--quick"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=560)
    assert done.returncode == 0, done.stderr
    return done.stdout


def measure(figures: Path, *arguments: str) -> tuple[dict[str, Any], str]:
    """What a measurement wrote, and what it printed."""
    printed = run(*arguments, "--json", str(figures))
    return json.loads(figures.read_text()), printed


@pytest.mark.heavy
def test_the_quick_pass(tmp_path: Path) -> None:
    """`python -m bench all --quick` measures everything once, prints its tables and writes its figures."""
    found, printed = measure(tmp_path / "figures.json", "bench", "all")
    assert set(found) == {"machine", "ingest", "delivery", "replay"}
    for part in ("ingest", "delivery", "replay"):
        assert all(isinstance(value, str) or value == value for row in found[part] for value in row.values())
        assert all(column in printed for column in found[part][0])


@pytest.mark.heavy
def test_what_acks_cost() -> None:
    """`python -m bench.acks --quick` measures appends alone and beside acks."""
    printed = run("bench.acks")
    for way in ("alone", "acks in memory", "acks saved"):
        assert way in printed


@pytest.mark.heavy
def test_what_forwarding_costs() -> None:
    """`python -m bench.forwarding --quick` measures a relay that stores events, and one that forwards them, too."""
    printed = run("bench.forwarding")
    assert "| stored and forwarded |" in printed


@pytest.mark.heavy
def test_the_page(tmp_path: Path) -> None:
    """`python -m bench.ui --quick` measures the first load, an event's way to the screen, memory, and open pages."""
    needs_browser()
    found, _ = measure(tmp_path / "figures.json", "bench.ui")
    assert [row["page"] for row in found["First load"]] == ["buckets", "events of a bucket"]
    (screen,) = found["From a POST to the screen"]
    assert screen["events"] == 3
    (beside,) = found["Senders beside open pages"]
    assert beside["open pages"] == 2
    assert "A page's memory at 50 events/s" in found


def test_the_quick_pass_beside_peers(tmp_path: Path) -> None:
    """`python -m bench compare --quick` measures the relay and each peer; what was measured can be drawn."""
    for package in peers.missing():
        needs(package, f"apt-get install {' '.join(peers.missing())}")
    found, printed = measure(tmp_path / "figures.json", "bench", "compare")
    rows = found["ingest beside peers"]
    assert rows[0]["server"] == "relay"
    assert len(rows) == 6
    assert all(row["events/s"] > 0 for row in rows)
    assert all(row["server"] in printed for row in rows)


@pytest.mark.heavy
def test_the_quick_pass_as_it_grows(tmp_path: Path) -> None:
    """`python -m bench growth --quick` measures more buckets, connections and events, and a storm of reconnects."""
    for package in peers.missing():
        needs(package, f"apt-get install {' '.join(peers.missing())}")
    found, _ = measure(tmp_path / "figures.json", "bench", "growth")
    storm = found["storm"][0]
    assert storm["caught up"] == storm["clients"]
