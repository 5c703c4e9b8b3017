"""/logs and /events: what was stored, what became of it, and sending it again."""

from __future__ import annotations

from typing import Final

from marshmallow import Schema, fields, validate

from relay_tornado.admin.resending import Range
from relay_tornado.errors import NotFound
from relay_tornado.handlers.rest.base import RestHandler, operation
from relay_tornado.handlers.rest.client_answers import ANSWER, read_answer
from relay_tornado.handlers.rest.queries import EventQuery, LogQuery
from relay_tornado.handlers.rest.schemas import Answered, EventPage, LogAnswer, LogPage, Resent
from relay_tornado.ids import parse_id
from relay_tornado.model import MIB
from relay_tornado.wire.fields import Choice, Document, Text, Whole, described
from relay_tornado.wire.rest import moment

MAX_ANSWER: Final = 10 * MIB
"""Bytes of a client's answer as JSON, its body in base64."""


def _output() -> Text:
    about = "An output's id or name: the copy goes there alone. Null or empty (the default): as any event."
    return Text(1_000, allow_none=True, metadata=described(about))


def _policy() -> Choice:
    about = "`skip` (the default) obeys the outputs' rules, `force` ignores them."
    return Choice("", "skip", "force", allow_none=True, metadata=described(about))


class ResendBody(Schema):
    action = fields.String(
        required=True,
        validate=validate.Equal("resend", error="must be resend."),
        error_messages={"invalid": "must be resend."},
        metadata=described("Always `resend`."),
    )
    output = _output()
    process_policy = _policy()


class ResendRangeBody(Schema):
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

    @operation("Store a client's answer to an event or a copy", Answered(), body=ANSWER)
    async def put(self, log: str) -> None:
        result = read_answer(self.document(cut=True))
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

    @operation("Send an event again, as a new event of its bucket", Resent(), body=ResendBody(), statuses=(412,))
    async def post(self, log: str) -> None:
        given = self.given()
        self.answer(await self.rest.logs.resend(self.token, log, **_orders(given)))


class ResendHandler(RestHandler):
    PATH = "/v1/buckets/{bucket}/resend"

    @operation(
        "Send a range of a bucket's events again, in their order", Resent(), body=ResendRangeBody(), statuses=(412,)
    )
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
            if self.caller.session is not None or self.request.headers.get("Sec-Fetch-Mode") == "navigate":
                # It takes events out, and a link or a redirect makes a browser ask with the cookie, or with a password
                # that it remembers.
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


HANDLERS = (LogsHandler, LogHandler, BucketLogHandler, ActionHandler, ResendHandler, EventsHandler, BodyHandler)
