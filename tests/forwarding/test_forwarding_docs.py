"""docs/forwarding.md: its commands run, its file is applied, and its numbers and metrics are the code's."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from relay_tornado.counters import OUTCOMES, Counters, Levels
from relay_tornado.forwarding import circuit, schedule
from relay_tornado.metrics import Metrics
from relay_tornado.outgoing import retry_after
from relay_tornado.wire.rest import MOST_AT_ONCE
from tests.cli.conftest import relay as relay
from tests.cli.runner import Runner

TEXT = (Path(__file__).parents[2] / "docs" / "forwarding.md").read_text()


def test_its_commands(relay: Runner, tmp_path: Path) -> None:
    """Each does what it is there for, one after the other, and the file declares what the relay then has."""
    block = re.search(r"^```\n(relay .*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    assert block is not None
    for line in block[1].splitlines():
        result = relay(*shlex.split(line)[1:])
        assert result.exit_code == 0, (line, result.output)
    output = relay.json("output", "show", "orders")
    assert (output["retries"], output["strict_order"], output["paused"]) == (10, True, False)
    assert output["secret"].startswith("whsec_")
    manifest = re.search(r"^```toml\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    assert manifest is not None
    (tmp_path / "relay.toml").write_text(manifest[1])
    result = relay("apply", tmp_path / "relay.toml", SHOP_SECRET="whsec_AAAA")
    assert result.exit_code == 0, result.output
    assert "AAAA" not in result.output
    output = relay.json("output", "show", "orders")
    assert output["secret"] == "whsec_AAAA"
    assert output["durability"] == {"enabled": True, "schedule": "long"}


def test_its_metrics() -> None:
    """Every metric of forwarding is in its table, and every outcome; no other is."""
    exposed = Metrics(Counters(), Levels, "1").expose().decode()
    there = set(re.findall(r"^# TYPE (relay_forward_\w+)", exposed, re.MULTILINE))
    assert set(re.findall(r"^\| `(relay_forward_\w+)", TEXT, re.MULTILINE)) == there
    row = re.search(r"^\| `relay_forward_attempts_total.*$", TEXT, re.MULTILINE)
    assert row is not None
    assert set(re.findall(r"`(\w+)`", row[0])) == set(OUTCOMES)


def test_its_numbers() -> None:
    """Tries, delays, schedules and bounds are those of the code."""
    assert f"{ {3: 'three'}[schedule.QUICK] } tries, 1 s and 3 s apart" in TEXT
    assert f"`seconds` for {schedule.SCHEDULES['seconds'][1] / 60:.0f} minutes" in TEXT
    assert f"`medium` for {schedule.SCHEDULES['medium'][1] / 3600:.0f} hours" in TEXT
    assert f"`long` for {schedule.SCHEDULES[schedule.USUAL][1] / 86400:.0f} days (the default)" in TEXT
    assert retry_after.LONGEST == 3600
    assert "obeyed up to an hour" in TEXT
    assert circuit.FAILURES == 10
    assert f"left alone for {circuit.FIRST:.0f} s, then longer, up to {circuit.LONGEST / 60:.0f} minutes" in TEXT
    assert f"(at most {MOST_AT_ONCE})" in TEXT
