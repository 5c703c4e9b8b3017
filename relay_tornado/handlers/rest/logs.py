"""/logs and /events: what was stored, what became of it, and clients' answers to it."""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
import time
from typing import Any, Final

from marshmallow import Schema, ValidationError, fields, validate

from relay_tornado.admin.resending import Range
from relay_tornado.errors import Invalid, NotFound
from relay_tornado.handlers.rest.base import RestHandler, operation
from relay_tornado.handlers.rest.queries import EventQuery, LogQuery
from relay_tornado.handlers.rest.schemas import NUMBERED, Answered, EventPage, LogAnswer, LogPage, Resent
from relay_tornado.ids import parse_id
from relay_tornado.log.results import status_of
from relay_tornado.model import MIB, STATUSES, Result
from relay_tornado.wire.fields import (
    MAX_COUNT,
    MAX_HEADERS,
    Choice,
    Document,
    Headers,
    HeaderValues,
    Text,
    Whole,
    described,
    load,
)
from relay_tornado.wire.rest import moment

MAX_ANSWER: Final = 10 * MIB
"""Bytes of a client's answer as JSON, its body in base64."""

_DIGITS: Final = re.compile("[0-9]{1,9}")
_LINES: Final = re.compile(r"(?=[A-Za-z0-9+/])(?:[A-Za-z0-9+/]{60,76}+\r?\n)*+[A-Za-z0-9+/]{0,76}+={0,2}(?:\r?\n)?")
"""Base64 as encoders break it into lines, of 60, 64 or 76 characters. The original passes over all line ends; here,
shorter lines are those of a text that an SDK did not encode."""
_IGNORED: Final = "Ignored: the path names the event."


class _Code(fields.Integer):
    """A client's status code. One that no HTTP answer has counts as 0, as nobody answered; some send it as a text."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> int:
        if isinstance(value, str) and _DIGITS.fullmatch(value):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int | float) or value % 1:
            raise ValidationError("must be a whole number: 200 to 599, or 0 where there was no answer.")
        return int(value) if 200 <= value <= 599 else 0


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
            # As one call each: there may be a million.
            try:
                # Some clients have only one kind of number; to JSON Schema, too, 5.0 is an integer.
                if set(map(type, value)) <= {int, float} and (whole := list(map(int, value))) == value:
                    return base64.b64encode(bytes(whole)).decode()
            except (ValueError, OverflowError):
                pass
            raise ValidationError("must be a string, or a list of bytes.")
        return super()._deserialize(value, attr, data, **kwargs)


class _Values(HeaderValues):
    """The values of a header, which some clients send as numbers, true or false."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> list[str]:
        values = [_text(each) for each in value] if isinstance(value, list) else _text(value)
        return super()._deserialize(values, attr, data, **kwargs)


def _text(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, bool | int | float) else value


class _Lenient(fields.Integer):
    """A number that is kept as a whole one, and which some clients send as a float, as a text or as null."""

    _SAID = f"must be a number from 0 to {MAX_COUNT}."

    def __init__(self, **kwargs: Any) -> None:
        limits = validate.Range(min=0, max=MAX_COUNT, error=self._SAID)
        super().__init__(allow_none=True, validate=limits, **kwargs)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> int:
        if isinstance(value, str) and _DIGITS.fullmatch(value):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValidationError(self._SAID)
        return round(value) if value >= 0 else -1


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
        _Values(allow_none=True),
        metadata=described(
            f"By header name, a text, a number, true or false, or a list of these; at most {MAX_HEADERS} values."
        ),
    )
    duration_ms = _Lenient(metadata=described("How many milliseconds the answer took."))
    retries = _Lenient(metadata=described("The number of attempts before this one."))


_ANSWER = AnswerBody()


def _output() -> Text:
    about = "An output's id or name: the copy goes there alone. Null or empty (the default): as any event."
    return Text(1_000, allow_none=True, metadata=described(about))


def _policy() -> Choice:
    about = "`skip` (the default) obeys the outputs' rules, `force` ignores them."
    return Choice("", "skip", "force", allow_none=True, metadata=described(about))


class ActionBody(Schema):
    action = fields.String(
        required=True,
        validate=validate.Equal("resend", error="must be resend."),
        error_messages={"invalid": "must be resend."},
        metadata=described("Always `resend`."),
    )
    output = _output()
    process_policy = _policy()


class RangeBody(Schema):
    """Which events of a bucket are sent again, and how. What is left out does not restrict."""

    first = Whole(1, allow_none=True, metadata=described("The first seq of the range."))
    last = Whole(0, allow_none=True, metadata=described("The last seq of the range."))
    since = moment("Received at or after this unix time in seconds.", data_key="from")
    until = moment("Received before this unix time in seconds.", data_key="to")
    cursor = fields.String(
        allow_none=True,
        error_messages={"invalid": "must be a string."},
        metadata=described("After this event: an id, or the `next_cursor` of the answer before."),
    )
    filter = fields.Dict(
        keys=fields.String(),
        allow_none=True,
        error_messages={"invalid": "must be a JSON object."},
        metadata=described("Only events that match these rules, as those of an output."),
    )
    output = _output()
    process_policy = _policy()


class LogsHandler(RestHandler):
    PATH = "/v1/logs"

    @operation("List events, newest first, each with its latest delivery", LogPage(), query=LogQuery(), large=True)
    async def get(self) -> None:
        self.answer(await self.rest.logs.list(self.token, **self.query()))


class LogHandler(RestHandler):
    PATH = "/v1/logs/{log}"
    MAX_BODY = MAX_ANSWER

    @operation("Get an event, or its copy for one output, with its deliveries", LogAnswer(), large=True)
    async def get(self, log: str) -> None:
        self.answer(await self.rest.logs.get(self.token, log))

    @operation("Store a client's answer to an event or a copy", Answered(), body=_ANSWER)
    async def put(self, log: str) -> None:
        document = self.document()
        result = _result(load(_ANSWER, {name: document[name] for name in _ANSWER.fields if name in document}))
        await self.rest.responses.respond(self.token, parse_id(log), result)
        self.answer({"id": log, "status": result.status})


class BucketLogHandler(RestHandler):
    PATH = "/v1/buckets/{bucket}/logs/{log}"

    @operation("Get an event of this bucket, or its copy for one output, with its deliveries", LogAnswer(), large=True)
    async def get(self, bucket: str, log: str) -> None:
        document = await self.rest.logs.get(self.token, log)
        if document["bucket_id"] != self.bucket.id:
            raise NotFound(f"there is no log {log[:100]!r} in this bucket: it was removed, or never existed")
        self.answer(document)


class ActionHandler(RestHandler):
    PATH = "/v1/logs/{log}/action"

    @operation("Send an event again, as a new event of its bucket", Resent(), body=ActionBody(), statuses=(412,))
    async def post(self, log: str) -> None:
        given = self.given()
        self.answer(await self.rest.logs.resend(self.token, log, **_orders(given)))


class ResendHandler(RestHandler):
    PATH = "/v1/buckets/{bucket}/resend"

    @operation("Send a range of a bucket's events again, in their order", Resent(), body=RangeBody(), statuses=(412,))
    async def post(self, bucket: str) -> None:
        given = self.given()
        orders = _orders(given)
        wanted = Range(**{name: value for name, value in given.items() if value is not None})
        self.answer(await self.rest.logs.resend_range(self.token, self.bucket.id, wanted, **orders))


class EventsHandler(RestHandler):
    PATH = "/v1/events"

    @operation(
        "Poll events in order: with a cursor the page after it, without one what was not fetched yet",
        EventPage(),
        query=EventQuery(),
        statuses=(507,),
        large=True,
    )
    async def get(self) -> None:
        given = self.query()
        cursor = given.pop("cursor")
        if cursor is None and self.request.method != "HEAD":
            if self.caller.session is not None:
                # It takes events out, and a link from anywhere makes a browser ask with the cookie.
                self.rest.callers.refuse_without_origin(self.request)
            self.answer(await self.rest.logs.drain(self.token, **given))
        else:
            self.answer(await self.rest.logs.page(self.token, **given, cursor=cursor or ""))


class BodyHandler(RestHandler):
    """The body of one event as it came, to be saved and never to be shown on this origin."""

    PATH = "/v1/logs/{log}/body"

    @operation("Download the exact bytes of an event's body", None, content="application/octet-stream", large=True)
    async def get(self, log: str) -> None:
        body = (await self.rest.logs.event(self.token, log)).body
        self.set_header("Content-Type", "application/octet-stream")
        # Whatever somebody sent, a browser neither runs nor shows it here.
        self.set_header("Content-Disposition", f'attachment; filename="{log}.bin"')
        self.set_header("Content-Security-Policy", "sandbox")
        self.finish(body)


def _orders(given: Document) -> Document:
    return {"output": given.pop("output", None) or "", "process_policy": given.pop("process_policy", None) or "skip"}


def _result(given: Document) -> Result:
    """Raises Invalid where nothing says what became of the event."""
    status = given.get("status") or ""
    if "status_code" not in given and not status:
        raise Invalid("is missing: write the answer's, or 0 if nobody answered; or write a status", "status_code")
    code = given.get("status_code")
    if code is None:
        code = 200 if status == "sent" else 0
    headers = given.get("response_headers") or {}
    return Result(
        status=status or status_of(code),
        status_code=code,
        headers={name: values or [] for name, values in headers.items()},
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


HANDLERS = (LogsHandler, LogHandler, BucketLogHandler, ActionHandler, ResendHandler, EventsHandler, BodyHandler)
