"""Reads positions in a bucket: an id, a time, `earliest`, `latest`, `last:100`, `seq:42`."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import Any, Final, Literal

import click

from relay_tornado.cli.options import Read, unix_time
from relay_tornado.cli.printing import when
from relay_tornado.errors import Invalid
from relay_tornado.ids import parse_id
from relay_tornado.settings import parse_duration

_COUNT: Final = re.compile("[0-9]{1,18}")

FORM: Final = "an id, 2h (ago), 2026-12-31T12:00, unix seconds, last:100, {}earliest or latest"


class Past(Read):
    """A past time, as unix seconds: 2h ago, 1790000000, 2026-12-31 or 2026-12-31T12:00+01:00."""

    name = "time"

    def read(self, value: str) -> float:
        try:
            return max(0.0, unix_time(value.strip(), lambda text: -parse_duration(text.removesuffix("ago"))))
        except ValueError:
            self.fail(f"{value!r} is not a time like 2h (ago), 2026-12-31T14:00 (UTC) or 1790000000")


@dataclass(frozen=True, slots=True)
class Position:
    """A position. `kind` says what `value` is: an event's id, unix seconds, a number of events from the end, a seq, or
    nothing."""

    kind: Literal["id", "time", "last", "seq", "earliest", "latest"]
    value: Any = None

    @property
    def since(self) -> Any:
        """The position as `since` of a subscribe; not valid for a seq, which lacks its epoch."""
        if self.kind == "id":
            return self.value
        return {self.kind: self.value} if self.value is not None else self.kind


class PositionType(Read):
    """Reads a `Position`. A seq is allowed only with `seqs`, and a future time not with `past`."""

    name = "position"

    def __init__(self, *, seqs: bool = False, past: bool = False) -> None:
        self._seqs = seqs
        self._past = past

    def read(self, value: str) -> Position:
        text = value.strip()
        if text in ("earliest", "latest"):
            return Position("earliest" if text == "earliest" else "latest")
        word, colon, number = text.partition(":")
        if colon and word in ("last", "seq") and _COUNT.fullmatch(number) and int(number) > 0:
            if word == "seq" and not self._seqs:
                self.fail("a number alone is not enough here: write the whole id, <epoch>-<seq>")
            return Position("last" if word == "last" else "seq", int(number))
        try:
            parse_id(text)
        except Invalid:
            pass
        else:
            return Position("id", text)
        try:
            moment = Past().read(text)
        except click.UsageError:
            self.fail(f"{value!r} is not {FORM.format('seq:42, ' if self._seqs else '')}")
        if self._past and moment > time.time():
            now = when(time.time())
            self.fail(f"{value!r} is in the future, as it is {now} here: for new events only, write latest")
        return Position("time", moment)
