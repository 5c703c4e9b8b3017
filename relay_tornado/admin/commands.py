"""The commands by which the relay is administered from outside: one table, for the running server and without one.

A command takes a JSON object and answers with JSON data, so that it behaves the same whether it came through the
control socket or was run on the data directory itself.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from marshmallow import Schema, fields

import relay_tornado
from relay_tornado.admin.administration import Administration
from relay_tornado.errors import Invalid
from relay_tornado.wire.rest import Document, bucket_document, input_document, load, token_document

Run: TypeAlias = Callable[[Administration, Document], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Command:
    """`arguments` judges what came (options are judged by the administration itself), `run` does the work."""

    arguments: Schema
    run: Run


async def run_command(administration: Administration, name: str, arguments: Mapping[str, Any]) -> Any:
    """Runs a command and returns its answer as JSON data. Raises Invalid, and what the administration raises."""
    command = COMMANDS.get(name)
    if command is None:
        raise Invalid(f"there is no command {name[:100]!r}: is the other side of another version?", "command")
    return await command.run(administration, load(command.arguments, arguments))


class _Nothing(Schema):
    pass


class _Options(Schema):
    options = fields.Dict(keys=fields.String(), load_default=dict)


class _CreateBucket(_Options):
    name = fields.String(required=True)


class _Bucket(Schema):
    bucket = fields.String(required=True)


class _SetBucket(_Bucket, _Options):
    pass


class _SetInput(_Options):
    input = fields.String(required=True)


class _Token(Schema):
    key = fields.String(required=True)


async def _create_bucket(administration: Administration, arguments: Document) -> Document:
    return bucket_document(await administration.create_bucket(arguments["name"], **arguments["options"]))


async def _list_buckets(administration: Administration, _: Document) -> list[Document]:
    return [bucket_document(bucket) for bucket in administration.list_buckets()]


async def _show_bucket(administration: Administration, arguments: Document) -> Document:
    return bucket_document(administration.find_bucket(arguments["bucket"]))


async def _set_bucket(administration: Administration, arguments: Document) -> Document:
    return bucket_document(await administration.set_bucket(arguments["bucket"], **arguments["options"]))


async def _delete_bucket(administration: Administration, arguments: Document) -> Document:
    bucket = await administration.delete_bucket(arguments["bucket"])
    return {"id": bucket.id, "status": "deleted"}


async def _set_input(administration: Administration, arguments: Document) -> Document:
    bucket, changed = await administration.set_input(arguments["input"], **arguments["options"])
    return input_document(bucket.id, changed)


async def _create_token(administration: Administration, arguments: Document) -> Document:
    token, secret = await administration.create_token(**arguments["options"])
    return {"key": token.key, "secret": secret}


async def _list_tokens(administration: Administration, _: Document) -> list[Document]:
    return [token_document(token) for token in administration.list_tokens()]


async def _revoke_token(administration: Administration, arguments: Document) -> Document:
    token = await administration.revoke_token(arguments["key"])
    return {"id": token.key, "status": "deleted"}


async def _info(administration: Administration, _: Document) -> Document:
    return {"version": relay_tornado.__version__, "url": administration.url}


COMMANDS: Mapping[str, Command] = {
    "bucket.create": Command(_CreateBucket(), _create_bucket),
    "bucket.list": Command(_Nothing(), _list_buckets),
    "bucket.show": Command(_Bucket(), _show_bucket),
    "bucket.set": Command(_SetBucket(), _set_bucket),
    "bucket.delete": Command(_Bucket(), _delete_bucket),
    "input.set": Command(_SetInput(), _set_input),
    "token.create": Command(_Options(), _create_token),
    "token.list": Command(_Nothing(), _list_tokens),
    "token.revoke": Command(_Token(), _revoke_token),
    "relay.info": Command(_Nothing(), _info),
}
