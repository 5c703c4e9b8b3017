"""What deploy/ has for Prometheus and Grafana, held against the metrics that there are, by Prometheus' own tools."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from relay_tornado.counters import Counters
from relay_tornado.metrics import Metrics
from tests.levels import FULL
from tests.needs import needs

ROOT = Path(__file__).parent.parent.parent
PROMETHEUS = ROOT / "deploy" / "prometheus"
ALERTS = PROMETHEUS / "alerts.yml"
ALERT_TESTS = Path(__file__).with_name("alerts_test.yml")
BOARD = ROOT / "deploy" / "grafana" / "relay.json"
OPERATIONS = ROOT / "docs" / "operations.md"
REMEDY = "apt-get install prometheus"
NAME = re.compile(r"\b(?:relay|process)_[a-z_]+\b")


def promtool(*arguments: str, cwd: Path | None = None) -> None:
    needs("promtool", REMEDY)
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, timeout=60, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr


def rules() -> list[dict[str, Any]]:
    document = yaml.safe_load(ALERTS.read_text())
    return [rule for group in document["groups"] for rule in group["rules"]]


def board() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(BOARD.read_text())
    return document


def queries() -> list[str]:
    """The board's queries, with its variables filled in."""
    found = [target["expr"] for panel in board()["panels"] for target in panel.get("targets", ())]
    return [query.replace("$__rate_interval", "5m").replace("$instance", ".*") for query in found]


def samples() -> Iterator[tuple[str, dict[str, str]]]:
    text = Metrics(Counters(), lambda: FULL, "1").expose().decode()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            yield sample.name, sample.labels


def names_in(expressions: Iterable[str]) -> set[str]:
    return {name for expression in expressions for name in NAME.findall(expression)}


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub and most renderers make them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_prometheus_accepts_the_rules_and_the_example() -> None:
    """promtool finds nothing wrong with either."""
    promtool("check", "rules", str(ALERTS))
    promtool("check", "config", str(PROMETHEUS / "prometheus.yml"))


def test_each_alert_fires_when_it_should() -> None:
    """The unit tests of the alerts pass, and leave none out, neither firing nor quiet."""
    text = ALERT_TESTS.read_text()
    for rule in rules():
        assert text.count(rule["alert"]) >= 2, f"{rule['alert']} is not tested"
    promtool("test", "rules", ALERT_TESTS.name, cwd=ALERT_TESTS.parent)


def test_the_scrape_job_is_the_one_that_alerts_and_board_look_for() -> None:
    """A job of another name would leave every panel empty."""
    jobs = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["scrape_configs"]
    assert [job["job_name"] for job in jobs] == ["relay"]
    for expression in [*queries(), *(rule["expr"] for rule in rules())]:
        assert set(re.findall(r'job="([^"]*)"', expression)) <= {"relay"}


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_each_alert_says_what_to_do(rule: dict[str, Any]) -> None:
    """It has words, a severity that the documents know, and a runbook whose anchor is there."""
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert rule["annotations"].keys() == {"summary", "description", "runbook"}
    page, _, anchor = rule["annotations"]["runbook"].partition("#")
    assert ROOT / page == OPERATIONS
    assert anchor == rule["alert"].lower()
    text = OPERATIONS.read_text()
    assert anchor in anchors(text)
    section = text.split(f"### {rule['alert']}\n")[1]
    assert section.startswith(f"*{rule['labels']['severity']}.*"), "the section begins with another severity"


def test_no_alert_is_documented_that_is_not_there() -> None:
    """The page names no alert that was renamed or removed, and its links lead somewhere."""
    text = OPERATIONS.read_text()
    assert set(re.findall(r"^### (Relay\w+)$", text, re.MULTILINE)) == {rule["alert"] for rule in rules()}
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= anchors(text)


def test_alerts_and_board_name_metrics_that_there_are() -> None:
    """A metric that is renamed breaks this test before it blinds an alert."""
    known = {name for name, _ in samples()}
    assert names_in([*queries(), *(rule["expr"] for rule in rules())]) <= known
    _, _, alerts = OPERATIONS.read_text().partition("## When an alert fires")
    assert names_in([alerts]) <= known


def test_every_metric_is_shown() -> None:
    """Each of the relay's metrics is on the board or in an alert; one that nobody looks at is a cost."""
    shown = names_in([*queries(), *(rule["expr"] for rule in rules())])
    suffixes = ("_bucket", "_count", "_sum")

    def base(name: str) -> str:
        return next((name.removesuffix(suffix) for suffix in suffixes if name.endswith(suffix)), name)

    own = {base(name) for name, _ in samples() if name.startswith("relay_")}
    assert own <= {base(name) for name in shown}


def test_every_query_of_the_board_finds_something(tmp_path: Path) -> None:
    """Each query, run by Prometheus' engine over series with the labels that a scrape gives, has a result."""
    series = []
    for name, labels in samples():
        given = {**labels, "job": "relay", "instance": "here"}
        text = ", ".join(f"{key}={json.dumps(value)}" for key, value in given.items())
        series.append({"series": f"{name}{{{text}}}", "values": "1+1x60"})
    tests = [
        {"expr": f"count({query}) >= bool 1", "eval_time": "30m", "exp_samples": [{"labels": "{}", "value": 1}]}
        for query in queries()
    ]
    document = {"tests": [{"interval": "1m", "input_series": series, "promql_expr_test": tests}]}
    (tmp_path / "board.yml").write_text(yaml.safe_dump(document))
    promtool("test", "rules", "board.yml", cwd=tmp_path)


def test_the_board_can_be_imported() -> None:
    """Panels have ids of their own and do not overlap; every one reads from the variable's data source."""
    panels = board()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert {variable["name"] for variable in board()["templating"]["list"]} == {"source", "instance"}
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
        for target in panel.get("targets", ()):
            assert target["datasource"]["uid"] == "${source}"
