"""Places in a bucket as people write them: an id, a time, `earliest`, `latest`, `last:100`, `seq:42`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import click

from relay_tornado.cli.logs import Past
from relay_tornado.errors import Invalid
from relay_tornado.ids import parse_id

FORM = "an id, 2h (ago), 2026-12-31T12:00, unix seconds, last:100, seq:42, earliest or latest"


@dataclass(frozen=True, slots=True)
class Place:
    """`kind` says what `value` is: an event's id, unix seconds, how many from the end, a seq, or nothing."""

    kind: Literal["id", "time", "last", "seq", "earliest", "latest"]
    value: Any = None

    @property
    def since(self) -> Any:
        """As a `since` of subscribe. Raises Invalid for a seq, which no epoch stands beside."""
        if self.kind == "seq":
            raise Invalid("a seq alone is no place to begin at here: write the id, <epoch>-<seq>")
        if self.kind == "id":
            return self.value
        return {self.kind: self.value} if self.value is not None else self.kind


class PlaceType(click.ParamType[Any]):
    """What `Place` holds."""

    name = "position"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        text = value.strip()
        if text in ("earliest", "latest"):
            return Place("earliest" if text == "earliest" else "latest")
        word, colon, number = text.partition(":")
        if colon and word in ("last", "seq") and number.isascii() and number.isdigit() and int(number) > 0:
            return Place("last" if word == "last" else "seq", int(number))
        try:
            parse_id(text)
        except Invalid:
            pass
        else:
            return Place("id", text)
        try:
            return Place("time", Past().convert(text, param, ctx))
        except click.UsageError:
            self.fail(f"{value!r} is not {FORM}", param, ctx)
