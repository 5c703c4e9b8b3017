"""The commands about consumers: positions, dead letters, events once more. `commands.COMMANDS` has them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Any, Final, TypeAlias

from marshmallow import Schema, fields

from relay_tornado.admin.administration import Administration
from relay_tornado.admin.standing import seeked_document
from relay_tornado.errors import BucketGone
from relay_tornado.wire.control import read_position
from relay_tornado.wire.fields import Document

Run: TypeAlias = Callable[[Administration, Document], Awaitable[Any]]


class _List(Schema):
    bucket = fields.String(load_default=None, allow_none=True)


class _Consumer(Schema):
    bucket = fields.String(required=True)
    consumer = fields.String(required=True)


class _Seek(_Consumer):
    to = fields.Raw(required=True)
    preview = fields.Boolean(load_default=False)


class _Dead(Schema):
    bucket = fields.String(required=True)
    consumer = fields.String(load_default=None, allow_none=True)
    limit = fields.Integer(load_default=0)
    cursor = fields.String(load_default="")


class _Letters(_Consumer):
    ids = fields.List(fields.String(), load_default=None, allow_none=True)


class _Range(Schema):
    bucket = fields.String(required=True)
    first = fields.Integer(required=True)
    last = fields.Integer(load_default=None, allow_none=True)
    speed = fields.Float(load_default=None, allow_none=True)
    anchor = fields.String(load_default="", allow_none=True)


class _Replay(_Range):
    consumer = fields.String(required=True)


class _OutputReplay(_Range):
    output = fields.String(required=True)


async def _list(administration: Administration, arguments: Document) -> list[Document]:
    if arguments["bucket"] is not None:
        return await administration.consumers.listing(administration.find_bucket(arguments["bucket"]))
    found: list[Document] = []
    for bucket in administration.list_buckets():
        with suppress(BucketGone):  # it is deleted meanwhile
            found += await administration.consumers.listing(bucket)
    return found


async def _show(administration: Administration, arguments: Document) -> Document:
    bucket = administration.find_bucket(arguments["bucket"])
    return await administration.consumers.show(bucket, arguments["consumer"])


async def _seek(administration: Administration, arguments: Document) -> Document:
    bucket = administration.find_bucket(arguments["bucket"])
    to = read_position(arguments["to"], "to")
    consumer, preview = arguments["consumer"], arguments["preview"]
    return seeked_document(await administration.consumers.seek(bucket, consumer, to, preview=preview))


async def _delete(administration: Administration, arguments: Document) -> Document:
    bucket = administration.find_bucket(arguments["bucket"])
    gone = await administration.consumers.delete(bucket, arguments["consumer"])
    return {"id": gone.name, "status": "deleted"}


async def _dead(administration: Administration, arguments: Document) -> Document:
    bucket = administration.find_bucket(arguments.pop("bucket"))
    return await administration.consumers.dead(bucket, arguments.pop("consumer"), **arguments)


async def _resend(administration: Administration, arguments: Document) -> Document:
    bucket = administration.find_bucket(arguments["bucket"])
    return await administration.consumers.resend(bucket, arguments["consumer"], arguments["ids"])


async def _forget(administration: Administration, arguments: Document) -> Document:
    bucket = administration.find_bucket(arguments["bucket"])
    return await administration.consumers.forget(bucket, arguments["consumer"], arguments["ids"])


async def _replay(administration: Administration, arguments: Document) -> Document:
    bucket = administration.find_bucket(arguments.pop("bucket"))
    arguments["anchor"] = arguments["anchor"] or ""
    return asdict(await administration.consumers.replay(bucket, arguments.pop("consumer"), **arguments))


async def _replay_output(administration: Administration, arguments: Document) -> Document:
    bucket, output = administration.find_output(arguments.pop("output"), arguments["bucket"])
    return await _replay(administration, {**arguments, "bucket": bucket.id, "consumer": f"output:{output.n}"})


COMMANDS: Final[Mapping[str, tuple[Schema, Run]]] = {
    "consumer.list": (_List(), _list),
    "consumer.show": (_Consumer(), _show),
    "consumer.seek": (_Seek(), _seek),
    "consumer.delete": (_Consumer(), _delete),
    "consumer.dead": (_Dead(), _dead),
    "consumer.resend": (_Letters(), _resend),
    "consumer.forget": (_Letters(), _forget),
    "consumer.replay": (_Replay(), _replay),
    "output.replay": (_OutputReplay(), _replay_output),
}
"""What each takes, and what does the work; `ids` null is all dead letters."""
