"""A client's answer to an event, in every form that clients send."""

from __future__ import annotations

import base64
import binascii
import math
import re
import time
from typing import Any, Final

from marshmallow import Schema, ValidationError, fields, validate

from relay_tornado.errors import Invalid
from relay_tornado.log.results import status_of
from relay_tornado.model import MAX_COUNT, NUMBERED, STATUSES, Result
from relay_tornado.wire.fields import (
    MAX_HEADERS,
    Document,
    Headers,
    HeaderValues,
    described,
    header_texts,
    load,
    read_bytes,
)

_DIGITS: Final = re.compile("[0-9]{1,9}")
_LINES: Final = re.compile(r"(?=[A-Za-z0-9+/])(?:[A-Za-z0-9+/]{60,76}+\r?\n)*+[A-Za-z0-9+/]{0,76}+={0,2}(?:\r?\n)?")
"""Base64 as encoders break it into lines, of 60, 64 or 76 characters. The original passes over all line ends; here,
shorter lines are those of a text that an SDK did not encode."""
_IGNORED: Final = "Ignored: the path names the event."


def _number(value: Any, said: str) -> int | float:
    """A number, which some clients send as a text. Raises ValidationError with what is said."""
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValidationError(said)
    return value


class _Code(fields.Integer):
    """A client's status code. One that no HTTP answer has counts as 0, as nobody answered."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> int:
        said = "must be a whole number: 200 to 599, or 0 where there was no answer."
        number = _number(value, said)
        if number % 1:
            raise ValidationError(said)
        return int(number) if 200 <= number <= 599 else 0


class _Status(fields.String):
    """A status; some clients send its number, or the one that theirs begin with, which says nothing."""

    def __init__(self, **kwargs: Any) -> None:
        said = f"must be one of {', '.join(STATUSES)}."
        allowed = validate.OneOf(["", *STATUSES], error=said)
        super().__init__(allow_none=True, validate=allowed, error_messages={"invalid": said}, **kwargs)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(NUMBERED):
            value = NUMBERED[value]
        return "" if value == "preparing" else super()._deserialize(value, attr, data, **kwargs)


class _Bytes(fields.String):
    """A body: base64, or as it is; or a list of the numbers of its bytes."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_none=True, error_messages={"invalid": "must be a string."}, **kwargs)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        if isinstance(value, list):
            return base64.b64encode(read_bytes(value)).decode()
        return super()._deserialize(value, attr, data, **kwargs)


class _Values(HeaderValues):
    """The values of a header, which some clients send as numbers, true or false."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> list[str]:
        return super()._deserialize(header_texts(value), attr, data, **kwargs)


class _Lenient(fields.Integer):
    """A number that is kept as a whole one, and which some clients send as a float or as null."""

    _SAID = f"must be a number from 0 to {MAX_COUNT}."

    def __init__(self, **kwargs: Any) -> None:
        limits = validate.Range(min=0, max=MAX_COUNT, error=self._SAID)
        super().__init__(allow_none=True, validate=limits, **kwargs)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> int:
        number = _number(value, self._SAID)
        return round(number) if number >= 0 else -1


class AnswerBody(Schema):
    """A client's answer to an event. One of `status` and `status_code` has to be there; each follows from the other."""

    id = fields.Raw(allow_none=True, metadata=described(_IGNORED))
    bucket_id = fields.Raw(allow_none=True, metadata=described(_IGNORED))
    status = _Status(
        metadata=described(
            "A text, or a number as older clients send it: 1 is `sent`, 2 `failed`, 3 `stalled`, 4 `received`, 5 "
            "`rejected`. If absent, `sent` for a `status_code` from 200 to 399, else `failed`."
        )
    )
    status_code = _Code(
        allow_none=True,
        metadata=described(
            "200 to 599; 0, or any other number, means that nobody answered. If absent, 200 for the `status` `sent`, "
            "else 0."
        ),
    )
    response_body = _Bytes(
        metadata=described("Base64, also in lines (what does not decode is taken as it is), or a list of bytes.")
    )
    response_headers = Headers(
        _Values(),
        metadata=described(
            f"By header name, a text, a number, true or false, or a list of these; at most {MAX_HEADERS} values."
        ),
    )
    duration_ms = _Lenient(metadata=described("How many milliseconds the answer took."))
    retries = _Lenient(metadata=described("The number of attempts before this one."))


ANSWER: Final = AnswerBody()


def read_answer(document: Document) -> Result:
    """A client's answer, without the fields that the form does not know. Raises Invalid, also where nothing says what
    became of the event."""
    given = load(ANSWER, {name: document[name] for name in ANSWER.fields if name in document})
    status = given.get("status") or ""
    if "status_code" not in given and not status:
        raise Invalid("is missing: write the answer's, or 0 if nobody answered; or write a status", "status_code")
    code = given.get("status_code")
    if code is None:
        code = 200 if status == "sent" else 0
    return Result(
        status=status or status_of(code),
        status_code=code,
        headers=given.get("response_headers") or {},
        body=_body(given.get("response_body") or ""),
        duration_ms=given.get("duration_ms") or 0,
        retries=given.get("retries") or 0,
        at=time.time(),
    )


def _body(text: str) -> bytes:
    """The official SDK does not encode what it sends."""
    try:
        lines = _LINES.fullmatch(text)
        return base64.b64decode("".join(text.split()) if lines else text, validate=True)
    except (binascii.Error, ValueError):
        return text.encode()
