"""The forms of REST's queries, as marshmallow schemas, by which they are read."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from typing import Any

from marshmallow import Schema, ValidationError, fields, validate

from relay_tornado.model import DAY, MAX_COUNT, MAX_TIME, NUMBERED, STATUSES
from relay_tornado.wire.fields import described

MAX_AGE = int(36_500 * DAY)
_DATE_AND_TIME = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}([Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2}))?"
)
_DECIMAL = re.compile(r"[0-9]{1,20}(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?")
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_PART = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)(h|ms|m|s|us|µs|ns)")
_DURATION = re.compile(f"(?:{_PART.pattern})+")


class QueryNumber(fields.Integer):
    """A whole number in a query, from 0 to `most`."""

    def __init__(self, about: str, most: int = MAX_COUNT, *, said: str = "", **kwargs: Any) -> None:
        self._said = said or f"must be a whole number from 0 to {most}."
        super().__init__(
            validate=validate.Range(min=0, max=most, error=self._said), metadata=described(about), **kwargs
        )

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> int:
        digits = value.removeprefix("-")
        if not (digits.isascii() and digits.isdigit() and len(digits) < 20):
            raise ValidationError(self._said)
        return int(value)


class QueryTime(QueryNumber):
    """A unix time in a query, as any encoder writes a number; some clients write it as RFC 3339 has it
    (`2026-01-31T12:00:00Z`), or as a date, which is its first moment in UTC."""

    def __init__(self, about: str, **kwargs: Any) -> None:
        said = f"must be a unix time from 0 to {MAX_TIME}, or one like 2026-01-31T12:00:00Z or 2026-01-31."
        super().__init__(about, MAX_TIME, said=said, **kwargs)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> float:  # type: ignore[override]
        # A plus that was not escaped is a blank.
        value = value.replace(" ", "+")
        if _DECIMAL.fullmatch(value):
            return float(value)
        if not _DATE_AND_TIME.fullmatch(value):
            return super()._deserialize(value, attr, data, **kwargs)
        try:
            time = datetime.fromisoformat(value.upper())  # which reads no small z
            return max((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp(), 0)
        except (ValueError, OverflowError):
            raise ValidationError(self._said) from None


class QueryAge(QueryNumber):
    """Seconds in a query; some clients write them as Go does (`1h30m`)."""

    def __init__(self, about: str, **kwargs: Any) -> None:
        said = f"must be a whole number of seconds from 0 to {MAX_AGE}, or like 24h, 1h30m or 90s."
        super().__init__(about, MAX_AGE, said=said, **kwargs)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> int:
        if not _DURATION.fullmatch(value):
            return super()._deserialize(value, attr, data, **kwargs)
        seconds = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(value))
        # 0 would be no limit.
        return max(math.ceil(seconds), 1) if seconds else 0


class QueryStatus(fields.String):
    """A status, or its number."""

    def __init__(self, about: str, **kwargs: Any) -> None:
        known = (*STATUSES, "preparing")
        allowed = validate.OneOf(["", *known], error=f"must be one of {', '.join(known)}.")
        super().__init__(load_default="", validate=allowed, metadata=described(about), **kwargs)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        numbered = {str(number): status for number, status in enumerate(NUMBERED)}
        return str(super()._deserialize(numbered.get(value, value), attr, data, **kwargs))


class QueryFlag(fields.Boolean):
    """`true` or `false` in a query, in any case: Python's own are `True` and `False`."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> bool:
        if value.lower() not in ("true", "false", "1", "0"):
            raise ValidationError("must be true or false.")
        return value.lower() in ("true", "1")


class QueryChoice(fields.String):
    """A text in a query; an empty one counts as absent."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        return super()._deserialize(value, attr, data, **kwargs) or self.load_default


def query(about: str, most: int | None = None) -> fields.String:
    """A text in a query, of at most so many characters."""
    limit = None if most is None else validate.Length(max=most, error=f"is longer than {most} characters.")
    return fields.String(load_default="", validate=limit, metadata=described(about))


def one_of(about: str, *choices: str, default: str = "") -> fields.String:
    """One of these texts in a query, or none of them."""
    allowed = validate.OneOf([default, *choices], error=f"must be one of {', '.join(choices)}.")
    return QueryChoice(load_default=default, validate=allowed, metadata=described(about))


_TIME = "this time: unix seconds, a time in RFC 3339, or a date (UTC)."
SINCE = QueryTime(f"Received at or after {_TIME}", load_default=None, data_key="from")
UNTIL = QueryTime(f"Received before {_TIME}", load_default=None, data_key="to")
"""`from` and `to` of a list of events."""


class DeleteQuery(Schema):
    force = QueryFlag(load_default=False, metadata=described("Even if it has outputs, or other inputs than its first."))


class DeadQuery(Schema):
    limit = QueryNumber("The most dead letters to return; 0 means 100, more than 1000 means 1000.", load_default=0)
    cursor = query("`next_cursor` of the page before.")


class ForgetQuery(Schema):
    ids = query("The events' ids, separated by commas.")
    all = QueryFlag(load_default=False, metadata=described("Forget all dead letters."))


class LogQuery(Schema):
    bucket = query("The bucket's name or id; if absent, every bucket of the token.")
    output = query("An output's id, or with `bucket` its name: only this output's copies.")
    status = QueryStatus(
        "Only events whose newest delivery has this status. No event is `preparing`, another one of the original's."
    )
    limit = QueryNumber("The most events to return; 0 means 50, more than 500 means 500.", load_default=0)
    offset = QueryNumber(
        "How many events to skip: from the cursor, or from the newest event of the page that this token got last for "
        "offset 0, for 10 minutes.",
        most=10_000,
        load_default=0,
    )
    cursor = query("`next_cursor` of the page before.")
    since = SINCE
    until = UNTIL


class EventQuery(Schema):
    bucket = fields.String(
        required=True,
        validate=validate.Length(min=1, error="is empty: name the bucket."),
        error_messages={"required": "is missing: name the bucket."},
        metadata={"description": "The bucket's name or id."},
    )
    output = query("An output's id or name: only this output's copies.")
    limit = QueryNumber("The most events to return; 0 means 1, more than 100 means 100.", load_default=0)
    max_age = QueryAge("Skips older events: seconds, or like `24h` or `1h30m`; 0 is no limit.", load_default=None)
    cursor = fields.String(
        load_default=None,
        metadata={
            "description": "Returns the page after this id, and marks nothing; empty means the beginning. "
            "Without a cursor, what is returned is marked as `sent`, and is not returned again."
        },
    )
