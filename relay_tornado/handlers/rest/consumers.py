"""/consumers, /buckets/{bucket}/consumers, and the same of a public output: positions, seeks, replays, dead letters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Final

from marshmallow import Schema, fields

from relay_tornado.admin.consumer_names import may_see, missing
from relay_tornado.admin.consumers import MOST_EVENTS, ConsumerAdministration
from relay_tornado.admin.outputs import find_output
from relay_tornado.errors import Invalid
from relay_tornado.handlers.rest.base import RestHandler, operation
from relay_tornado.handlers.rest.queries import DeadQuery, ForgetQuery
from relay_tornado.handlers.rest.schemas import (
    ConsumerAnswer,
    DeadLetterAnswer,
    DeadLetterPage,
    Deleted,
    Forgotten,
    ReplayResult,
    Rescheduled,
    SeekResult,
)
from relay_tornado.wire.control import read_position
from relay_tornado.wire.fields import Few, Flag, Number, Text, Whole, described
from relay_tornado.wire.rest import deleted_document

_FASTEST: Final = 1_000_000
_SAVED: Final = (412, 507)
"""What reading a consumer may be answered with: its record is damaged, or can't be stored before it is read."""


class SeekBody(Schema):
    to = fields.Raw(
        required=True,
        metadata=described(
            "The consumer gets what comes after this position: `latest`, `earliest`, an id, the last N events, or what "
            "came in from a unix time in seconds on.",
            examples=["latest", "earliest", "5dkr7xa928yd-41", {"last": 10}, {"time": 1795617746}],
        ),
    )
    preview = Flag(metadata=described("True only returns what the move would do. Default: false."))


class ReplayBody(Schema):
    first = Whole(1, required=True, metadata=described("The first seq of the range."))
    last = Whole(1, allow_none=True, metadata=described("The last seq of the range; null (the default) is the newest."))
    speed = Number(
        f"must be a number above 0 and at most {_FASTEST}, or null for at once.",
        0,
        _FASTEST,
        above=True,
        allow_none=True,
        metadata=described("1 is the pace at which the events came, 2 twice as fast; null (the default) is at once."),
    )
    anchor = Text(
        200,
        allow_none=True,
        metadata=described("With a `speed`: the `anchor` of the answer before, so that the pace goes on."),
    )


class GiveUpBody(Schema):
    id = Text(
        200,
        required=True,
        metadata=described("The event's id. The consumer tries it, or it is the next one that it gets."),
    )


class DeadLettersBody(Schema):
    ids = Few(
        fields.String(error_messages={"invalid": "must be a string."}),
        MOST_EVENTS,
        least=1,
        said=f"must have 1 to {MOST_EVENTS} ids.",
        error_messages={"invalid": "must be a list of ids."},
        metadata=described("The ids of the events whose dead letters are meant."),
    )
    all = Flag(metadata=described("True, instead of `ids`: every dead letter of the consumer."))


class AllConsumersHandler(RestHandler):
    PATH = "/v1/consumers"

    @operation("List the consumers of all the token's buckets", ConsumerAnswer(many=True), statuses=(507,), large=True)
    async def get(self) -> None:
        buckets = self.rest.stored.buckets(self.token)
        self.answer(await self.rest.administration.consumers.listings(buckets, self.token))


class ConsumersHandler(RestHandler):
    PATH = "/v1/buckets/{bucket}/consumers"

    @operation("List the bucket's consumers with their positions", ConsumerAnswer(many=True), statuses=(507,))
    async def get(self, bucket: str) -> None:
        self.answer(await self.rest.administration.consumers.listing(self.bucket, self.token))


class BucketDeadHandler(RestHandler):
    PATH = "/v1/buckets/{bucket}/dead"

    @operation(
        "List the dead letters of all consumers, oldest event first",
        DeadLetterPage(),
        query=DeadQuery(),
        statuses=(507,),
    )
    async def get(self, bucket: str) -> None:
        self.answer(await self.rest.administration.consumers.dead(self.bucket, None, **self.query()))


class _OneConsumer(RestHandler):
    """A consumer, by its own path or by that of its output."""

    PART: ClassVar[str]

    @property
    def consumers(self) -> ConsumerAdministration:
        return self.rest.administration.consumers

    @property
    def reference(self) -> str:
        """The name that the administration knows it by. Raises NotFound where this token may not see it."""
        named = str(self.path_kwargs[self.PART])
        if self.PART == "output":
            return f"output:{find_output(self.bucket, named).n}"
        if not may_see(self.token, named):
            raise missing(self.bucket, named)
        return named


class _Shown(_OneConsumer):
    @operation("Get a consumer's position, and how far it is behind", ConsumerAnswer(), statuses=_SAVED)
    async def get(self, **path: str) -> None:
        self.answer(await self.consumers.show(self.bucket, self.reference))


class _Seek(_OneConsumer):
    @operation("Move a consumer to a position, or preview that move", SeekResult(), body=SeekBody(), statuses=(412,))
    async def post(self, **path: str) -> None:
        given = self.given()
        to = read_position(given["to"], "to")
        preview = given.get("preview", False)
        self.answer(await self.consumers.seek(self.bucket, self.reference, to, preview=preview))


class _Replay(_OneConsumer):
    @operation("Redeliver a range of events; the position stays", ReplayResult(), body=ReplayBody(), statuses=(412,))
    async def post(self, **path: str) -> None:
        self.answer(await self.consumers.replay(self.bucket, self.reference, **self.given()))


class _Dead(_OneConsumer):
    @operation(
        "List a consumer's dead letters, oldest event first", DeadLetterPage(), query=DeadQuery(), statuses=_SAVED
    )
    async def get(self, **path: str) -> None:
        self.answer(await self.consumers.dead(self.bucket, self.reference, **self.query()))

    @operation("Give an event up, which becomes a dead letter", DeadLetterAnswer(), body=GiveUpBody(), statuses=(412,))
    async def post(self, **path: str) -> None:
        self.answer(await self.consumers.give_up(self.bucket, self.reference, self.given()["id"]))

    @operation("Forget dead letters, by event id or all", Forgotten(), query=ForgetQuery(), statuses=(412,))
    async def delete(self, **path: str) -> None:
        given = self.query()
        ids = [each for each in given["ids"].split(",") if each]
        if bool(ids) == given["all"]:
            raise Invalid("name events by their ids, or say all=true; one of the two", "ids")
        self.answer(await self.consumers.forget(self.bucket, self.reference, ids or None))


class _Resend(_OneConsumer):
    @operation("Redeliver dead letters, by event id or all", Rescheduled(), body=DeadLettersBody(), statuses=(412,))
    async def post(self, **path: str) -> None:
        given = self.given()
        if len(given) != 1 or given.get("all") is False:
            raise Invalid("name events by their ids, or say all: true; one of the two", "ids")
        self.answer(await self.consumers.resend(self.bucket, self.reference, given.get("ids")))


class ConsumerHandler(_Shown):
    PATH = "/v1/buckets/{bucket}/consumers/{consumer}"
    PART = "consumer"

    @operation("Delete a client's consumer, its position and its dead letters", Deleted(), statuses=(412,))
    async def delete(self, **path: str) -> None:
        gone = await self.consumers.delete(self.bucket, self.reference)
        self.answer(deleted_document(gone.name))


def _at(kind: type[_OneConsumer], part: str, ending: str) -> type[_OneConsumer]:
    """The handler of a consumer's path that ends so; `part` is what the path names it by."""
    path = f"/v1/buckets/{{bucket}}/{part}s/{{{part}}}{ending}"
    name = f"{part.title()}{kind.__name__.removeprefix('_')}Handler"
    return type(name, (kind,), {"PATH": path, "PART": part})


_ENDINGS: Final[Sequence[tuple[type[_OneConsumer], str]]] = (
    (_Seek, "/seek"),
    (_Replay, "/replay"),
    (_Dead, "/dead"),
    (_Resend, "/dead/resend"),
)

HANDLERS: Final[Sequence[type[RestHandler]]] = (
    AllConsumersHandler,
    ConsumersHandler,
    ConsumerHandler,
    *(_at(kind, "consumer", ending) for kind, ending in _ENDINGS),
    BucketDeadHandler,
    _at(_Shown, "output", "/position"),
    *(_at(kind, "output", ending) for kind, ending in _ENDINGS),
)
