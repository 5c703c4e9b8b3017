"""/status, /series, /usage and /connected-clients: what there is, how it does, and who listens."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any, ClassVar

from marshmallow import Schema, fields

import relay_tornado
from relay_tornado.admin.consumer_names import may_see, missing
from relay_tornado.counters import ConsumerLevel
from relay_tornado.errors import BucketGone, Invalid
from relay_tornado.handlers.rest.answer_fields import decimal, flag, integer, listed, part, text
from relay_tornado.handlers.rest.base import RestHandler, operation
from relay_tornado.handlers.rest.queries import one_of, query
from relay_tornado.handlers.rest.schemas import ConnectedClientsAnswer, UsageAnswer
from relay_tornado.log.contract import Extent
from relay_tornado.log.lineage import position_id
from relay_tornado.model import Bounds, Bucket
from relay_tornado.pieces import Pieces
from relay_tornado.series.series import SPANS, Span
from relay_tornado.wire.fields import Document, described
from relay_tornado.wire.rest import BucketFields, whole

_PRODUCT = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+)/([!#$%&'*+.^_`|~0-9A-Za-z-]+)")


class SlowestConsumerAnswer(Schema):
    """The consumer that is furthest behind."""

    consumer = text("Named as in its path.")
    events = integer("The number of events that it is not done with.")
    seconds = decimal("For how many seconds the oldest of them has waited.")


class BucketStatus(Schema):
    """How a bucket does."""

    FORM: ClassVar = BucketFields

    id = text("The bucket's id.")
    name = text()
    description = text()
    ephemeral = flag()
    expires_at = decimal(allow_none=True)
    first = integer("The oldest seq that is kept.")
    head = integer("The newest seq.")
    position = text("The newest id.")
    events = integer("How many events are kept.")
    bytes = integer("How many bytes of events are kept; those of an ephemeral bucket came in, and are not stored.")
    oldest_at = decimal("The unix time of the oldest event; null if there is none.", allow_none=True)
    newest_at = decimal("The unix time of the newest event; null if there is none.", allow_none=True)
    subscribers = integer("How many clients are subscribed.")
    lag = part(SlowestConsumerAnswer, "The consumer that is furthest behind; null if none is behind.", allow_none=True)
    rate = listed(fields.Integer(), "The number of events in each of the last 60 minutes, oldest first.")


class RelayStatusAnswer(Schema):
    version = text("The relay's version.")
    instance = text("Identifies the relay's process.")
    now = decimal("The relay's clock, in unix seconds.")
    buckets = listed(BucketStatus, "The token's buckets, oldest first.")


class SeriesQuery(Schema):
    span = one_of("How far back the series go.", *SPANS, default="hour")
    bucket = query("A bucket, for its events per second; if absent, the relay's own series.", 1_000)
    consumer = query("With `bucket`: a consumer, named as in its path, for how many events it is behind.", 1_000)


class SeriesAnswer(Schema):
    begin = integer("The unix time in seconds of the first point.", data_key="from")
    step = integer("The seconds between two points.")
    series = fields.Dict(
        required=True,
        keys=fields.String(),
        values=fields.List(fields.Float(allow_none=True)),
        metadata=described(
            "The points of each series, by its name; null is where nothing was measured. The relay's: `events` per "
            "second, `commit_p50` and `commit_p99` in seconds, `subscribers`, `lag` in events, `disk_free` in bytes, "
            "and `errors:<reason>`, webhooks refused. A bucket's: `events` per second. A consumer's: `lag` in events."
        ),
    )


class UsageHandler(RestHandler):
    PATH = "/v1/usage"

    @operation("Get what the token's buckets hold, and what the relay's settings allow", UsageAnswer())
    async def get(self) -> None:
        buckets = self.rest.stored.buckets(self.token)
        stored = received = 0
        pieces = Pieces()
        for bucket in buckets:
            await pieces.done()
            try:
                bounds = await self.rest.stored.log.bounds(bucket.id)
            except BucketGone:
                continue  # deleted since the list was read
            stored += bounds.head - bounds.first + 1
            received += bounds.head
        settings = self.rest.administration.settings
        usage: dict[str, Any] = {
            "buckets": len(buckets),
            "inputs": sum(len(bucket.inputs) for bucket in buckets),
            "outputs": sum(len(bucket.outputs) for bucket in buckets),
            "webhooks": received,
            "webhooks_stored": stored,
            "connected_clients": len(await clients(self)),
        }
        plan = {
            "name": "self-hosted",
            "max_body": settings.max_body,
            "large_max_body": settings.large_max_body,
            "max_sockets": settings.max_sockets,
            "retention_age": None if settings.retention_age is None else whole(settings.retention_age),
            "retention_events": settings.retention_events,
            "retention_bytes": settings.retention_bytes,
        }
        self.answer({"usage": usage, "plan_meta": plan})


class ClientsHandler(RestHandler):
    PATH = "/v1/connected-clients"

    @operation("List the clients that are subscribed to the token's buckets", ConnectedClientsAnswer())
    async def get(self) -> None:
        self.answer({"webhook_clients": await clients(self), "tunnel_clients": []})


async def clients(handler: RestHandler) -> list[Document]:
    """The live subscribers as far as the token may know of them: in its buckets, and other tokens' keys left out."""
    token = handler.token
    names = {bucket.id: bucket.name for bucket in handler.rest.stored.buckets(token)}
    found, pieces = [], Pieces()
    for client in handler.rest.clients.subscribed:
        positions = {names[key]: seq for key, seq in client.positions.items() if key in names}
        await pieces.done(1 + len(positions))
        if not positions and not token.administrator:
            continue
        product = _PRODUCT.match(client.user_agent)
        found.append(
            {
                "access_token_key": client.key if token.administrator or client.key == token.key else "",
                "buckets": sorted(positions),
                "client_ip": client.client_ip,
                "client_type": product[1] if product else client.user_agent[:100],
                "client_version": product[2] if product else "",
                "consumer": client.consumer,
                "destination": "",
                "positions": positions,
                "subscribed_at": int(client.subscribed_at or 0),
            }
        )
    return found


class StatusHandler(RestHandler):
    PATH = "/v1/status"

    @operation("Get what each bucket of the token holds, and its traffic", RelayStatusAnswer())
    async def get(self) -> None:
        rest = self.rest
        buckets = rest.stored.buckets(self.token)
        extents = await rest.stored.log.extents([bucket.id for bucket in buckets])
        listening, slowest = await self._listening(), self._slowest()
        await rest.series.ready()  # otherwise the rates would be 0 right after a start
        found, pieces = [], Pieces()
        for bucket in buckets:
            if bucket.id not in extents:
                continue
            try:
                bounds = await rest.stored.log.bounds(bucket.id)
            except BucketGone:
                continue  # deleted meanwhile
            found.append(self._bucket(bucket, bounds, extents, listening, slowest.get(bucket.id)))
            await pieces.done()
        administration = rest.administration
        self.answer(
            {
                "version": relay_tornado.__version__,
                "instance": administration.instance,
                "now": time.time(),
                "buckets": found,
            }
        )

    async def _listening(self) -> Counter[str]:
        """By bucket, how many clients are subscribed to it."""
        listening: Counter[str] = Counter()
        pieces = Pieces()
        for client in self.rest.clients.subscribed:
            there = client.positions.keys()
            listening.update(there)
            await pieces.done(1 + len(there))
        return listening

    def _slowest(self) -> dict[str, ConsumerLevel]:
        """By bucket, the consumer that is furthest behind, of those that the token may see."""
        slowest: dict[str, ConsumerLevel] = {}
        for level in self.rest.lags():
            shown = level.events and may_see(self.token, level.consumer)
            if shown and level.seconds >= getattr(slowest.get(level.bucket), "seconds", 0.0):
                slowest[level.bucket] = level
        return slowest

    def _bucket(
        self,
        bucket: Bucket,
        bounds: Bounds,
        extents: Mapping[str, Extent],
        listening: Counter[str],
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
            "subscribers": listening[bucket.id],
            "lag": lag,
            "rate": self.rest.series.rate(bucket.id, bounds.head - bounds.begin + 1),
        }


class SeriesHandler(RestHandler):
    PATH = "/v1/series"

    @operation(
        "Get the measurements of the last hour, day or month", SeriesAnswer(), query=SeriesQuery(), statuses=(403, 404)
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
            reference, there = await self.rest.administration.consumers.measured(found, consumer)
            first, step, lag = await series.consumer(span, found.id, reference)
            if not (there or any(lag) or await self._was_measured(found, reference)):
                raise missing(found, consumer)
            measured = {"lag": lag}
        else:
            first, step, events = await series.bucket(span, found.id)
            measured = {"events": events}
        self.answer({"from": first, "step": step, "series": measured})

    async def _was_measured(self, bucket: Bucket, reference: str) -> bool:
        """Whether a consumer, which may be deleted by now, was ever behind: only then it has points."""
        spans: tuple[Span, ...] = ("day", "month")  # the newest points are not in the month's yet
        for span in spans:
            if any((await self.rest.series.consumer(span, bucket.id, reference))[2]):
                return True
        return False


HANDLERS = (UsageHandler, ClientsHandler, StatusHandler, SeriesHandler)
