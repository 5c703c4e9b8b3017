"""The commands by which the relay is administered from outside: one table, for the running server and without one.

A command takes a JSON object and answers with JSON data, so that it behaves the same whether it came through the
control socket or was run on the data directory itself. Its arguments are the parameters of its function.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, get_type_hints

import msgspec

import relay_tornado
from relay_tornado.admin import positions
from relay_tornado.admin.administration import Administration
from relay_tornado.admin.listing import listed_document
from relay_tornado.admin.positions import Run
from relay_tornado.admin.resending import Range, resent_document
from relay_tornado.admin.searching import Wanted, found_document
from relay_tornado.admin.sessions import CODE_LIFE, OWNER, Sessions
from relay_tornado.errors import Invalid, Unavailable
from relay_tornado.ops.lines import LARGEST
from relay_tornado.wire.fields import Document
from relay_tornado.wire.rest import bucket_document, input_document, output_document

Options = Mapping[str, Any]
"""As the forms of wire/rest.py have them: the administration itself judges them."""

_NONE: Final[Options] = MappingProxyType({})
_FIELD: Final = re.compile(r"`(?:\$\.)?(\w+)[^`]*`$")
"""The field in msgspec's words, which end with it."""


async def run_command(administration: Administration, name: str, arguments: Mapping[str, Any]) -> Any:
    """Runs a command and returns its answer as JSON data. Raises Invalid, and what the administration raises."""
    run = COMMANDS.get(name)
    if run is None:
        raise Invalid(f"there is no command {name[:100]!r}: is the other side of another version?", "command")
    try:
        given = msgspec.convert(arguments, _form(run))
    except msgspec.ValidationError as error:
        words = str(error)
        found = _FIELD.search(words)
        field = "" if found is None else found[1]
        raise Invalid(f"{field}: {words[0].lower()}{words[1:]}", field) from None
    return await run(administration, **msgspec.structs.asdict(given))


@cache
def _form(run: Run) -> type[msgspec.Struct]:
    """The arguments of a command, as the parameters of its function behind the first one say."""
    kinds = get_type_hints(run, include_extras=True)
    _, *parameters = inspect.signature(run).parameters.values()
    fields = [
        (each.name, kinds[each.name], msgspec.NODEFAULT if each.default is each.empty else each.default)
        for each in parameters
    ]
    return msgspec.defstruct("Arguments", fields, forbid_unknown_fields=True, kw_only=True)


async def _create_bucket(
    relay: Administration,
    name: str,
    first: Annotated[int, msgspec.Meta(ge=1, le=LARGEST)] = 1,
    options: Options = _NONE,
) -> Document:
    return bucket_document(await relay.create_bucket(name, first, **options))


async def _list_buckets(relay: Administration) -> list[Document]:
    return [bucket_document(bucket) for bucket in relay.list_buckets()]


async def _show_bucket(relay: Administration, bucket: str) -> Document:
    return bucket_document(relay.find_bucket(bucket))


async def _set_bucket(relay: Administration, bucket: str, options: Options = _NONE) -> Document:
    return bucket_document(await relay.set_bucket(bucket, **options))


async def _delete_bucket(relay: Administration, bucket: str, force: bool = False) -> Document:
    return _deleted((await relay.delete_bucket(bucket, force=force)).id)


async def _import(relay: Administration, bucket: str, events: list[Any]) -> Document:
    return await relay.import_events(bucket, events)


async def _create_input(relay: Administration, bucket: str, options: Options = _NONE) -> Document:
    found, made = await relay.create_input(bucket, **options)
    return input_document(found.id, made)


async def _set_input(
    relay: Administration, input: str, bucket: str | None = None, options: Options = _NONE
) -> Document:
    found, changed = await relay.set_input(input, bucket, **options)
    return input_document(found.id, changed)


async def _delete_input(relay: Administration, input: str, bucket: str | None = None) -> Document:
    return _deleted((await relay.delete_input(input, bucket)).id)


async def _create_output(relay: Administration, bucket: str, options: Options = _NONE) -> Document:
    found, made = await relay.create_output(bucket, **options)
    return output_document(found.id, made)


async def _set_output(
    relay: Administration, output: str, bucket: str | None = None, options: Options = _NONE
) -> Document:
    found, changed = await relay.set_output(output, bucket, **options)
    return output_document(found.id, changed)


async def _delete_output(relay: Administration, output: str, bucket: str | None = None) -> Document:
    return _deleted((await relay.delete_output(output, bucket)).id)


async def _list_logs(
    relay: Administration,
    bucket: str = "",
    output: str = "",
    status: str = "",
    since: float | None = None,
    until: float | None = None,
    limit: int = 0,
    offset: int = 0,
    cursor: str = "",
) -> Document:
    place: Document = {"bucket": bucket, "limit": limit, "offset": offset, "cursor": cursor}
    return listed_document(
        await relay.logs.list(OWNER, output=output, status=status, since=since, until=until, **place)
    )


async def _search(
    relay: Administration,
    text: str = "",
    bucket: str = "",
    method: str = "",
    path: str = "",
    header: str = "",
    verified: Literal["", "true", "false", "none"] = "",
    delivery: str = "",
    since: float | None = None,
    until: float | None = None,
    limit: int = 0,
    cursor: str = "",
) -> Document:
    wanted = Wanted(text, method, path, header, verified, delivery, since, until)
    return found_document(await relay.logs.search(OWNER, wanted, bucket=bucket, limit=limit, cursor=cursor))


async def _show_log(relay: Administration, id: str) -> Document:
    return await relay.logs.get(OWNER, id)


async def _resend_log(relay: Administration, id: str, output: str = "", process_policy: str = "skip") -> Document:
    return resent_document(await relay.logs.resend(OWNER, id, output=output, process_policy=process_policy))


async def _resend_range(
    relay: Administration,
    bucket: str,
    first: int | None = None,
    last: int | None = None,
    since: float | None = None,
    until: float | None = None,
    cursor: str = "",
    filter: Any = None,
    output: str = "",
    process_policy: str = "skip",
) -> Document:
    wanted = Range(first, last, since, until, cursor, filter)
    return resent_document(
        await relay.logs.resend_range(OWNER, bucket, wanted, output=output, process_policy=process_policy)
    )


async def _create_token(relay: Administration, options: Options = _NONE) -> Document:
    token, secret = await relay.create_token(**options)
    return {"key": token.key, "secret": secret}


async def _list_tokens(relay: Administration) -> list[Document]:
    return [relay.describe_token(token) for token in relay.list_tokens()]


async def _set_token(relay: Administration, key: str, options: Options = _NONE) -> Document:
    return relay.describe_token(await relay.set_token(key, **options))


async def _rotate_token(relay: Administration, key: str, grace: float = 0.0) -> Document:
    token, secret = await relay.rotate_token(key, grace)
    return {"key": token.key, "secret": secret}


async def _revoke_token(relay: Administration, key: str) -> Document:
    return _deleted((await relay.revoke_token(key)).key)


async def _info(relay: Administration) -> Document:
    return {
        "version": relay_tornado.__version__,
        "url": relay.url,
        "address": relay.address,
        "instance": relay.instance,
        "forward_allow": relay.settings.forward_allow,
    }


async def _new_code(relay: Administration) -> Document:
    return {"code": _sessions(relay).new_code(), "expires_in": int(CODE_LIFE)}


async def _end_sessions(relay: Administration) -> Document:
    return {"ended": await _sessions(relay).end_all()}


def _sessions(relay: Administration) -> Sessions:
    if relay.sessions is None:
        raise Unavailable(
            "there is no page to sign in to: no relay runs on this directory (start it with `relay serve`), or it runs "
            "with --no-ui"
        )
    return relay.sessions


def _deleted(id: str) -> Document:
    return {"id": id, "status": "deleted"}


COMMANDS: Final[Mapping[str, Run]] = {
    "bucket.create": _create_bucket,
    "bucket.list": _list_buckets,
    "bucket.show": _show_bucket,
    "bucket.set": _set_bucket,
    "bucket.delete": _delete_bucket,
    "bucket.import": _import,
    "input.create": _create_input,
    "input.set": _set_input,
    "input.delete": _delete_input,
    "output.create": _create_output,
    "output.set": _set_output,
    "output.delete": _delete_output,
    "logs.list": _list_logs,
    "logs.search": _search,
    "logs.show": _show_log,
    "logs.resend": _resend_log,
    "logs.resend_range": _resend_range,
    "token.create": _create_token,
    "token.list": _list_tokens,
    "token.set": _set_token,
    "token.rotate": _rotate_token,
    "token.revoke": _revoke_token,
    "client.list": Administration.list_clients,
    "relay.info": _info,
    "ui.code": _new_code,
    "ui.end": _end_sessions,
    **positions.COMMANDS,
}
