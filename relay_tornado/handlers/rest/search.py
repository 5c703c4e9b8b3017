"""/search: finding events."""

from __future__ import annotations

from marshmallow import Schema

from relay_tornado.admin.searching import Wanted
from relay_tornado.handlers.rest.answer_fields import flag, listed, text
from relay_tornado.handlers.rest.base import RestHandler, operation
from relay_tornado.handlers.rest.queries import SINCE, UNTIL, QueryNumber, one_of, query
from relay_tornado.handlers.rest.schemas import LogAnswer
from relay_tornado.model import STATUSES
from relay_tornado.search.text import MOST_QUERY


class SearchQuery(Schema):
    bucket = query("The bucket's name or id; if absent, every bucket of the token.", 1_000)
    q = query(
        "Terms separated by spaces, each of which has to occur in the path, the query, the values of headers or the "
        "body; case is ignored. A term with spaces stands in double quotes.",
        MOST_QUERY,
    )
    method = query("The method.", 40)
    path = query("Text that the path contains.", 1_000)
    header = query("A header's name, or `name: value` with text that its value contains.", 1_000)
    verified = one_of("The result of the signature check; `none` if there was none.", "true", "false", "none")
    delivery = one_of("The newest status.", *STATUSES)
    since = SINCE
    until = UNTIL
    limit = QueryNumber("The most events to return; 0 means 50, more than 500 means 500.", load_default=0)
    cursor = query("`next_cursor` of the page before.", 1_000)


class FoundLog(LogAnswer):
    """An event without its body."""

    class Meta:
        exclude = ("body", "body_base64", "deliveries")


class SearchPage(Schema):
    data = listed(FoundLog, "The events, newest first.")
    next_cursor = text("The `cursor` of the request that continues; null at the end.", allow_none=True)
    complete = flag("False if events were skipped that are not in the index (yet, or any more).")
    indexed_up_to = text("With `bucket`: the newest id in the index; else null.", allow_none=True)


class SearchHandler(RestHandler):
    PATH = "/v1/search"

    @operation("Search events, newest first, without their bodies", SearchPage(), query=SearchQuery(), large=True)
    async def get(self) -> None:
        given = self.query()
        bucket, limit, cursor = given.pop("bucket"), given.pop("limit"), given.pop("cursor")
        wanted = Wanted(text=given.pop("q"), **given)
        self.answer(await self.rest.logs.search(self.token, wanted, bucket=bucket, limit=limit, cursor=cursor))


HANDLERS = (SearchHandler,)
