"""/search: finding events."""

from __future__ import annotations

from marshmallow import Schema, fields

from relay_tornado.admin.searching import Wanted
from relay_tornado.handlers.rest.base import RestHandler, operation
from relay_tornado.handlers.rest.queries import QueryNumber, one_of, query
from relay_tornado.handlers.rest.schemas import LogAnswer
from relay_tornado.model import STATUSES
from relay_tornado.search.text import MOST_QUERY
from relay_tornado.wire.rest import MAX_TIME


class SearchQuery(Schema):
    bucket = query("The bucket's name or id; left out: every bucket that you have.", 1_000)
    q = query(
        "Terms with blanks between, each of which has to be in the path, the query, the headers' values or the body; "
        "case is ignored. A term with blanks in it stands between double quotes.",
        MOST_QUERY,
    )
    method = query("The method.", 40)
    path = query("What the path has in it.", 1_000)
    header = query("A header's name, or `name: value` with what its value has in it.", 1_000)
    verified = one_of("The verdict on the signature; none: it was not checked.", "true", "false", "none")
    delivery = one_of("The newest status, as in a log.", *STATUSES)
    since = QueryNumber("Received at this unix time or later.", MAX_TIME, load_default=None, data_key="from")
    until = QueryNumber("Received before this unix time.", MAX_TIME, load_default=None, data_key="to")
    limit = QueryNumber("At most this many; 0 is the default, 50; over 500 counts as 500.", load_default=0)
    cursor = query("`next_cursor` of the page before.", 1_000)


class FoundLog(LogAnswer):
    """An event without its body."""

    class Meta:
        exclude = ("body", "body_base64", "deliveries")


class FoundPage(Schema):
    """`complete` is false where events were passed over that are not in the index (yet, or any more)."""

    data = fields.List(fields.Nested(FoundLog), required=True)
    next_cursor = fields.String(required=True, allow_none=True)
    complete = fields.Boolean(required=True)
    indexed_up_to = fields.String(
        required=True, allow_none=True, metadata={"description": "Of one bucket: the newest id that is in the index."}
    )


class SearchHandler(RestHandler):
    PATH = "/v1/search"

    @operation("Events that fit, newest first, without their bodies", FoundPage(), query=SearchQuery(), large=True)
    async def get(self) -> None:
        given = self.query()
        bucket, limit, cursor = given.pop("bucket"), given.pop("limit"), given.pop("cursor")
        wanted = Wanted(text=given.pop("q"), **given)
        self.answer(await self.rest.logs.search(self.token, wanted, bucket=bucket, limit=limit, cursor=cursor))


HANDLERS = (SearchHandler,)
