"""/search, /status and /series: finding events, and how everything does."""

from __future__ import annotations

import time
from collections.abc import Mapping

from marshmallow import Schema, fields, validate

import relay_tornado
from relay_tornado.admin.consumers import may_see, missing
from relay_tornado.admin.searching import Wanted
from relay_tornado.counters import ConsumerLevel
from relay_tornado.errors import BucketGone, Invalid
from relay_tornado.handlers.rest.base import RestHandler, operation
from relay_tornado.handlers.rest.schemas import LogAnswer, QueryNumber, one_of
from relay_tornado.log.contract import Extent
from relay_tornado.log.lineage import position_id
from relay_tornado.model import STATUSES, Bounds, Bucket
from relay_tornado.search.text import MOST_QUERY
from relay_tornado.series.series import SPANS
from relay_tornado.wire.fields import Document
from relay_tornado.wire.rest import MAX_TIME


def _words(about: str, most: int = 1_000) -> fields.String:
    limit = validate.Length(max=most, error=f"is longer than {most} characters.")
    return fields.String(load_default="", validate=limit, metadata={"description": about})


class SearchQuery(Schema):
    bucket = _words("The bucket's name or id; left out: every bucket that you have.")
    q = _words(
        "Terms with blanks between, each of which has to be in the path, the query, the headers' values or the body; "
        "case is ignored. A term with blanks in it stands between double quotes.",
        MOST_QUERY,
    )
    method = _words("The method.", 40)
    path = _words("What the path has in it.")
    header = _words("A header's name, or `name: value` with what its value has in it.")
    verified = one_of("The verdict on the signature; none: it was not checked.", "true", "false", "none")
    delivery = one_of("The newest status, as in a log.", *STATUSES)
    since = QueryNumber("Received at this unix time or later.", MAX_TIME, load_default=None, data_key="from")
    until = QueryNumber("Received before this unix time.", MAX_TIME, load_default=None, data_key="to")
    limit = QueryNumber("At most this many; 0 is the default, 50; over 500 counts as 500.", load_default=0)
    cursor = _words("`next_cursor` of the page before.")


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


class SlowestAnswer(Schema):
    """The consumer that is furthest behind."""

    consumer = fields.String(required=True)
    events = fields.Integer(required=True)
    seconds = fields.Float(required=True)


class BucketStatus(Schema):
    """How a bucket does. `rate` is its events in each of the last 60 minutes, oldest first."""

    id = fields.String(required=True)
    name = fields.String(required=True)
    description = fields.String(required=True)
    ephemeral = fields.Boolean(required=True)
    expires_at = fields.Float(required=True, allow_none=True)
    first = fields.Integer(required=True, metadata={"description": "The oldest seq that is kept."})
    head = fields.Integer(required=True, metadata={"description": "The newest seq."})
    position = fields.String(required=True, metadata={"description": "The newest seq's id."})
    events = fields.Integer(required=True, metadata={"description": "How many are kept."})
    bytes = fields.Integer(required=True)
    oldest_at = fields.Float(required=True, allow_none=True)
    newest_at = fields.Float(required=True, allow_none=True)
    subscribers = fields.Integer(required=True)
    lag = fields.Nested(
        SlowestAnswer, required=True, allow_none=True, metadata={"description": "The slowest consumer."}
    )
    rate = fields.List(fields.Integer(), required=True)


class StatusAnswer(Schema):
    version = fields.String(required=True)
    instance = fields.String(required=True, metadata={"description": "Names this process."})
    now = fields.Float(required=True)
    buckets = fields.List(fields.Nested(BucketStatus), required=True)


class SeriesQuery(Schema):
    span = one_of("How far back.", *SPANS, default="hour")
    bucket = _words("A bucket's events a second; left out: the relay's own series.")
    consumer = _words("With `bucket`: how many events this consumer of it is behind; name it as its path does.")


class SeriesAnswer(Schema):
    """Points of each series, `step` seconds apart, the first at `from`; null is where nothing was measured."""

    begin = fields.Integer(required=True, data_key="from", metadata={"description": "Unix time in seconds."})
    step = fields.Integer(required=True)
    series = fields.Dict(required=True, keys=fields.String(), values=fields.List(fields.Float(allow_none=True)))


class SearchHandler(RestHandler):
    PATH = "/v1/search"

    @operation("Events that fit, newest first, without their bodies", FoundPage(), query=SearchQuery())
    async def get(self) -> None:
        given = self.query()
        bucket, limit, cursor = given.pop("bucket"), given.pop("limit"), given.pop("cursor")
        wanted = Wanted(text=given.pop("q"), **given)
        self.answer(await self.rest.logs.search(self.token, wanted, bucket=bucket, limit=limit, cursor=cursor))


class StatusHandler(RestHandler):
    PATH = "/v1/status"

    @operation("What each bucket of the token holds, and what goes on in it", StatusAnswer())
    async def get(self) -> None:
        rest = self.rest
        buckets = rest.stored.buckets(self.token)
        extents = await rest.stored.log.extents([bucket.id for bucket in buckets])
        listening: dict[str, int] = {}
        for client in rest.sockets.subscribed:
            for bucket_id in client.buckets:
                listening[bucket_id] = listening.get(bucket_id, 0) + 1
        slowest: dict[str, ConsumerLevel] = {}
        for level in rest.lags():
            shown = level.events and may_see(self.token, level.consumer)
            if shown and level.seconds >= getattr(slowest.get(level.bucket), "seconds", 0.0):
                slowest[level.bucket] = level
        found = []
        for bucket in buckets:
            if bucket.id not in extents:
                continue
            try:
                bounds = await rest.stored.log.bounds(bucket.id)
            except BucketGone:
                continue  # deleted meanwhile
            found.append(self._bucket(bucket, bounds, extents, listening, slowest.get(bucket.id)))
        administration = rest.administration
        self.answer(
            {
                "version": relay_tornado.__version__,
                "instance": administration.instance,
                "now": time.time(),
                "buckets": found,
            }
        )

    def _bucket(
        self,
        bucket: Bucket,
        bounds: Bounds,
        extents: Mapping[str, Extent],
        listening: Mapping[str, int],
        slowest: ConsumerLevel | None,
    ) -> Document:
        extent = extents[bucket.id]
        lag = slowest and {"consumer": slowest.consumer, "events": slowest.events, "seconds": slowest.seconds}
        return {
            "id": bucket.id,
            "name": bucket.name,
            "description": bucket.description,
            "ephemeral": bucket.ephemeral,
            "expires_at": bucket.expires_at,
            "first": bounds.first,
            "head": bounds.head,
            "position": position_id(bounds, bounds.head),
            "events": bounds.head - bounds.first + 1,
            "bytes": extent.bytes,
            "oldest_at": extent.oldest_at,
            "newest_at": extent.newest_at,
            "subscribers": listening.get(bucket.id, 0),
            "lag": lag,
            "rate": self.rest.series.rate(bucket.id, bounds.head - bounds.begin + 1),
        }


class SeriesHandler(RestHandler):
    PATH = "/v1/series"

    @operation(
        "What was measured in the last hour, day or month", SeriesAnswer(), query=SeriesQuery(), statuses=(403, 404)
    )
    async def get(self) -> None:
        given = self.query()
        span, bucket, consumer = given["span"], given["bucket"], given["consumer"]
        series = self.rest.series
        if consumer and not bucket:
            raise Invalid("belongs to a bucket: name that, too", "consumer")
        if not bucket:
            self.refuse_unless_administrator()
        found = self.rest.stored.bucket(self.token, bucket) if bucket else None
        if found is not None and not may_see(self.token, consumer):
            raise missing(found, consumer)
        if found is None:
            first, step, measured = await series.whole(span)
        elif consumer:
            first, step, lag = await series.consumer(span, found.id, consumer)
            measured = {"lag": lag}
        else:
            first, step, events = await series.bucket(span, found.id)
            measured = {"events": events}
        self.answer({"from": first, "step": step, "series": measured})


HANDLERS = (SearchHandler, StatusHandler, SeriesHandler)
