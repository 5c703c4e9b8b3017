"""Reads conditions for events: `header:X-GitHub-Event=push`, `payload.action=opened`, or rules as JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from relay_tornado.cli.errors import text_of
from relay_tornado.cli.options import Decorator, Lines, OptionOf
from relay_tornado.cli.printing import Document

FORM: Final = (
    "header:NAME=VALUE, query:NAME=VALUE, payload.PATH=VALUE, body=VALUE, rules as JSON, or @FILE with such rules"
)

_SHORT = re.compile(r"(header|query|payload)[:.]([^=~!]+)(!?[=~])(.*)|(body)(!?[=~])(.*)", re.DOTALL)


class Condition(Lines):
    """Reads rules. In the short forms `=` means equal, `~` a match of a regular expression, a `!` before it negates."""

    name = "condition"

    def read(self, value: str) -> Any:
        text = value.strip()
        if text.startswith("@"):
            try:
                text = text_of(text[1:], Path(text[1:]).read_bytes)
            except ValueError as error:
                self.fail(str(error))
        elif not text.startswith("{"):
            short = _short(text)
            if short is None:
                self.fail(f"{value!r} is not {FORM}")
            return short
        try:
            rules = json.loads(text)
        except (ValueError, RecursionError) as error:
            self.fail(f"is no JSON: {error}")
        if not isinstance(rules, dict):
            self.fail("is no JSON object, as rules are")
        return rules


def filter_option(option: OptionOf) -> Decorator:
    """Adds `--filter` to a command that reads events; `rules` are those that hold if all its conditions do, or None."""
    return option(
        "--filter",
        "rules",
        type=Condition(),
        multiple=True,
        callback=lambda _context, _option, conditions: joined(conditions),
        help="Only events like header:X=Y; may be repeated.",
    )


def joined(conditions: Sequence[Document]) -> Document | None:
    """The rules that hold if all of these do; None if there are none."""
    if len(conditions) < 2:
        return next(iter(conditions), None)
    return {"and": list(conditions)}


def _short(text: str) -> Document | None:
    match = _SHORT.fullmatch(text)
    if match is None:
        return None
    source, name, operator, value = match[1], match[2], match[3], match[4]
    if match[5]:
        source, name, operator, value = "payload", "", match[6], match[7]
    kind = "value" if operator.endswith("=") else "regex"
    rule = {"match": {"type": kind, kind: value, "parameter": {"source": source, "name": name.strip()}}}
    return {"not": rule} if operator.startswith("!") else rule
