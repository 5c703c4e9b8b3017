"""The commands by which the relay is administered from outside: one table, for the running server and without one.

A command takes a JSON object and answers with JSON data, so that it behaves the same whether it came through the
control socket or was run on the data directory itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from marshmallow import Schema, fields, validate

import relay_tornado
from relay_tornado.admin import positions
from relay_tornado.admin.administration import Administration
from relay_tornado.admin.listing import listed_document
from relay_tornado.admin.resending import Range, resent_document
from relay_tornado.admin.searching import Wanted, found_document
from relay_tornado.admin.sessions import CODE_LIFE, OWNER, Sessions
from relay_tornado.errors import Invalid, Unavailable
from relay_tornado.ops.lines import LARGEST
from relay_tornado.wire.fields import Document, load
from relay_tornado.wire.rest import bucket_document, input_document, output_document


async def run_command(administration: Administration, name: str, arguments: Mapping[str, Any]) -> Any:
    """Runs a command and returns its answer as JSON data. Raises Invalid, and what the administration raises."""
    if name not in COMMANDS:
        raise Invalid(f"there is no command {name[:100]!r}: is the other side of another version?", "command")
    judge, run = COMMANDS[name]
    return await run(administration, load(judge, arguments))


class _Options(Schema):
    options = fields.Dict(keys=fields.String(), load_default=dict)


class _CreateBucket(_Options):
    name = fields.String(required=True)
    first = fields.Integer(strict=True, validate=validate.Range(1, LARGEST), load_default=1)


class _Bucket(Schema):
    bucket = fields.String(required=True)


class _DeleteBucket(_Bucket):
    force = fields.Boolean(load_default=False)


class _OfBucket(_Bucket, _Options):
    pass


class _ImportBucket(_Bucket):
    events = fields.List(fields.Raw(), required=True)


class _Input(Schema):
    input = fields.String(required=True)
    bucket = fields.String(load_default=None, allow_none=True)


class _SetInput(_Input, _Options):
    pass


class _Output(Schema):
    output = fields.String(required=True)
    bucket = fields.String(load_default=None, allow_none=True)


class _SetOutput(_Output, _Options):
    pass


class _ListLogs(Schema):
    bucket = fields.String(load_default="")
    output = fields.String(load_default="")
    status = fields.String(load_default="")
    since = fields.Float(load_default=None, allow_none=True)
    until = fields.Float(load_default=None, allow_none=True)
    limit = fields.Integer(load_default=0)
    offset = fields.Integer(load_default=0)
    cursor = fields.String(load_default="")


class _Search(Schema):
    text = fields.String(load_default="")
    bucket = fields.String(load_default="")
    method = fields.String(load_default="")
    path = fields.String(load_default="")
    header = fields.String(load_default="")
    verified = fields.String(load_default="", validate=validate.OneOf(["", "true", "false", "none"]))
    delivery = fields.String(load_default="")
    since = fields.Float(load_default=None, allow_none=True)
    until = fields.Float(load_default=None, allow_none=True)
    limit = fields.Integer(load_default=0)
    cursor = fields.String(load_default="")


class _Log(Schema):
    id = fields.String(required=True)


class _Orders(Schema):
    output = fields.String(load_default="")
    process_policy = fields.String(load_default="skip")


class _ResendLog(_Log, _Orders):
    pass


class _ResendRange(_Bucket, _Orders):
    first = fields.Integer(load_default=None, allow_none=True)
    last = fields.Integer(load_default=None, allow_none=True)
    since = fields.Float(load_default=None, allow_none=True)
    until = fields.Float(load_default=None, allow_none=True)
    cursor = fields.String(load_default="")
    filter = fields.Raw(load_default=None, allow_none=True)


class _Token(Schema):
    key = fields.String(required=True)


class _SetToken(_Token, _Options):
    pass


class _RotateToken(_Token):
    grace = fields.Float(load_default=0.0)


async def _create_bucket(administration: Administration, arguments: Document) -> Document:
    name, first = arguments["name"], arguments["first"]
    return bucket_document(await administration.create_bucket(name, first, **arguments["options"]))


async def _list_buckets(administration: Administration, _: Document) -> list[Document]:
    return [bucket_document(bucket) for bucket in administration.list_buckets()]


async def _show_bucket(administration: Administration, arguments: Document) -> Document:
    return bucket_document(administration.find_bucket(arguments["bucket"]))


async def _set_bucket(administration: Administration, arguments: Document) -> Document:
    return bucket_document(await administration.set_bucket(arguments["bucket"], **arguments["options"]))


async def _delete_bucket(administration: Administration, arguments: Document) -> Document:
    bucket = await administration.delete_bucket(arguments["bucket"], force=arguments["force"])
    return {"id": bucket.id, "status": "deleted"}


async def _create_input(administration: Administration, arguments: Document) -> Document:
    bucket, made = await administration.create_input(arguments["bucket"], **arguments["options"])
    return input_document(bucket.id, made)


async def _set_input(administration: Administration, arguments: Document) -> Document:
    bucket, changed = await administration.set_input(arguments["input"], arguments["bucket"], **arguments["options"])
    return input_document(bucket.id, changed)


async def _delete_input(administration: Administration, arguments: Document) -> Document:
    gone = await administration.delete_input(arguments["input"], arguments["bucket"])
    return {"id": gone.id, "status": "deleted"}


async def _create_output(administration: Administration, arguments: Document) -> Document:
    bucket, made = await administration.create_output(arguments["bucket"], **arguments["options"])
    return output_document(bucket.id, made)


async def _set_output(administration: Administration, arguments: Document) -> Document:
    bucket, changed = await administration.set_output(arguments["output"], arguments["bucket"], **arguments["options"])
    return output_document(bucket.id, changed)


async def _delete_output(administration: Administration, arguments: Document) -> Document:
    gone = await administration.delete_output(arguments["output"], arguments["bucket"])
    return {"id": gone.id, "status": "deleted"}


async def _list_logs(administration: Administration, arguments: Document) -> Document:
    return listed_document(await administration.logs.list(OWNER, **arguments))


async def _search(administration: Administration, arguments: Document) -> Document:
    place = {name: arguments.pop(name) for name in ("bucket", "limit", "cursor")}
    return found_document(await administration.logs.search(OWNER, Wanted(**arguments), **place))


async def _resend_log(administration: Administration, arguments: Document) -> Document:
    return resent_document(await administration.logs.resend(OWNER, arguments.pop("id"), **arguments))


async def _resend_range(administration: Administration, arguments: Document) -> Document:
    orders = {name: arguments.pop(name) for name in ("output", "process_policy")}
    bucket = arguments.pop("bucket")
    return resent_document(await administration.logs.resend_range(OWNER, bucket, Range(**arguments), **orders))


async def _create_token(administration: Administration, arguments: Document) -> Document:
    token, secret = await administration.create_token(**arguments["options"])
    return {"key": token.key, "secret": secret}


async def _list_tokens(administration: Administration, _: Document) -> list[Document]:
    return [administration.describe_token(token) for token in administration.list_tokens()]


async def _set_token(administration: Administration, arguments: Document) -> Document:
    return administration.describe_token(await administration.set_token(arguments["key"], **arguments["options"]))


async def _rotate_token(administration: Administration, arguments: Document) -> Document:
    token, secret = await administration.rotate_token(arguments["key"], arguments["grace"])
    return {"key": token.key, "secret": secret}


async def _revoke_token(administration: Administration, arguments: Document) -> Document:
    token = await administration.revoke_token(arguments["key"])
    return {"id": token.key, "status": "deleted"}


async def _info(administration: Administration, _: Document) -> Document:
    return {
        "version": relay_tornado.__version__,
        "url": administration.url,
        "address": administration.address,
        "instance": administration.instance,
        "forward_allow": administration.settings.forward_allow,
    }


def _sessions(administration: Administration) -> Sessions:
    if administration.sessions is None:
        raise Unavailable(
            "there is no page to sign in to: no relay runs on this directory (start it with `relay serve`), or it runs "
            "with --no-ui"
        )
    return administration.sessions


async def _new_code(administration: Administration, _: Document) -> Document:
    return {"code": _sessions(administration).new_code(), "expires_in": int(CODE_LIFE)}


async def _end_sessions(administration: Administration, _: Document) -> Document:
    return {"ended": await _sessions(administration).end_all()}


COMMANDS: Mapping[str, tuple[Schema, positions.Run]] = {
    "bucket.create": (_CreateBucket(), _create_bucket),
    "bucket.list": (Schema(), _list_buckets),
    "bucket.show": (_Bucket(), _show_bucket),
    "bucket.set": (_OfBucket(), _set_bucket),
    "bucket.delete": (_DeleteBucket(), _delete_bucket),
    "bucket.import": (_ImportBucket(), lambda relay, of: relay.import_events(of["bucket"], of["events"])),
    "input.create": (_OfBucket(), _create_input),
    "input.set": (_SetInput(), _set_input),
    "input.delete": (_Input(), _delete_input),
    "output.create": (_OfBucket(), _create_output),
    "output.set": (_SetOutput(), _set_output),
    "output.delete": (_Output(), _delete_output),
    "logs.list": (_ListLogs(), _list_logs),
    "logs.search": (_Search(), _search),
    "logs.show": (_Log(), lambda relay, of: relay.logs.get(OWNER, of["id"])),
    "logs.resend": (_ResendLog(), _resend_log),
    "logs.resend_range": (_ResendRange(), _resend_range),
    "token.create": (_Options(), _create_token),
    "token.list": (Schema(), _list_tokens),
    "token.set": (_SetToken(), _set_token),
    "token.rotate": (_RotateToken(), _rotate_token),
    "token.revoke": (_Token(), _revoke_token),
    "client.list": (Schema(), lambda relay, _: relay.list_clients()),
    "relay.info": (Schema(), _info),
    "ui.code": (Schema(), _new_code),
    "ui.end": (Schema(), _end_sessions),
    **positions.COMMANDS,
}
"""What judges the arguments of each (options are judged by the administration itself), and what does the work."""
