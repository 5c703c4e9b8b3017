"""Which events to see, as people write it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import pytest

from relay_tornado.cli.conditions import Condition, joined


def parameter(source: str, name: str) -> dict[str, str]:
    return {"source": source, "name": name}


@pytest.mark.parametrize(
    ("text", "rules"),
    [
        ("header:X-A=b=c", {"match": {"type": "value", "value": "b=c", "parameter": parameter("header", "X-A")}}),
        ("query:q~^a$", {"match": {"type": "regex", "regex": "^a$", "parameter": parameter("query", "q")}}),
        ("payload.a.0.b=", {"match": {"type": "value", "value": "", "parameter": parameter("payload", "a.0.b")}}),
        ("body~x", {"match": {"type": "regex", "regex": "x", "parameter": parameter("payload", "")}}),
        ("header:A!=b", {"not": {"match": {"type": "value", "value": "b", "parameter": parameter("header", "A")}}}),
        ("body!~x", {"not": {"match": {"type": "regex", "regex": "x", "parameter": parameter("payload", "")}}}),
        (' {"and": []}', {"and": []}),
    ],
)
def test_conditions(text: str, rules: dict[str, Any], tmp_path: Path) -> None:
    """The short forms become rules; JSON, also from a file, is taken as it is."""
    assert Condition().read(text) == rules
    (tmp_path / "rules").write_text(json.dumps(rules))
    assert Condition().read(f"@{tmp_path}/rules") == rules


def test_several_conditions(tmp_path: Path) -> None:
    """All of them have to hold; none is no filter."""
    (tmp_path / "list").write_text("[]")
    (tmp_path / "latin").write_bytes(b"\xe9")
    assert joined(()) is None
    assert joined(({"a": 1},)) == {"a": 1}
    assert joined(({"a": 1}, {"b": 2})) == {"and": [{"a": 1}, {"b": 2}]}
    for wrong in ("x", "header=a", "cookie:a=b", "[]", '{"a"', "payload.a", f"@{tmp_path}/list", f"@{tmp_path}/latin"):
        with pytest.raises(click.BadParameter):
            Condition().read(wrong)
