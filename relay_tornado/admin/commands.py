"""The commands that administer the relay, for the running server and without one.

A command takes a JSON object and returns JSON data, so that it behaves the same whether it comes through the control
socket or runs on the data directory itself.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Mapping
from functools import cache
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, get_type_hints

import msgspec

from relay_tornado.admin.administration import Administration
from relay_tornado.admin.resending import Range
from relay_tornado.admin.searching import Wanted
from relay_tornado.admin.sessions import CODE_LIFE, OWNER, Sessions
from relay_tornado.errors import Invalid, Unavailable
from relay_tornado.ops.export_format import LARGEST_SEQ
from relay_tornado.wire.control import read_position
from relay_tornado.wire.fields import Document
from relay_tornado.wire.rest import bucket_document, deleted_document, input_document, output_document

Run = Callable[..., Awaitable[Any]]
Options = Mapping[str, Any]
"""In the forms of wire/rest.py; the administration checks them."""

_NONE: Final[Options] = MappingProxyType({})
_FIELD: Final = re.compile(r"`(?:\$\.)?(\w+)[^`]*`$")
"""Matches the field at the end of msgspec's message."""


async def run_command(administration: Administration, name: str, arguments: Mapping[str, Any]) -> Any:
    """Runs a command and returns its answer as JSON data. Raises Invalid, and the administration's errors."""
    run = COMMANDS.get(name)
    if run is None:
        raise Invalid(
            f"there is no command {name[:100]!r}: is the other side of another version?", "command", named=True
        )
    try:
        given = msgspec.convert(arguments, _form(run))
    except msgspec.ValidationError as error:
        words = str(error)
        found = _FIELD.search(words)
        field = "" if found is None else found[1]
        raise Invalid(f"{words[0].lower()}{words[1:]}", field) from None
    return await run(Commands(administration), **msgspec.structs.asdict(given))


@cache
def _form(run: Run) -> type[msgspec.Struct]:
    """The form of a command's arguments, derived from its parameters."""
    kinds = get_type_hints(run, include_extras=True)
    _, *parameters = inspect.signature(run).parameters.values()
    fields = [
        (each.name, kinds[each.name], msgspec.NODEFAULT if each.default is each.empty else each.default)
        for each in parameters
    ]
    return msgspec.defstruct("Arguments", fields, forbid_unknown_fields=True, kw_only=True)


class Commands:
    """Each coroutine is a command: `bucket_create` is `bucket.create`, and its parameters are the arguments."""

    def __init__(self, relay: Administration) -> None:
        self.relay = relay

    async def bucket_create(
        self, name: str, first: Annotated[int, msgspec.Meta(ge=1, le=LARGEST_SEQ)] = 1, options: Options = _NONE
    ) -> Document:
        return bucket_document(await self.relay.create_bucket(name, first, **options))

    async def bucket_list(self) -> list[Document]:
        return [bucket_document(bucket) for bucket in self.relay.list_buckets()]

    async def bucket_show(self, bucket: str) -> Document:
        return bucket_document(self.relay.find_bucket(bucket))

    async def bucket_set(self, bucket: str, options: Options = _NONE) -> Document:
        return bucket_document(await self.relay.set_bucket(bucket, **options))

    async def bucket_delete(self, bucket: str, force: bool = False) -> Document:
        return deleted_document((await self.relay.delete_bucket(bucket, force=force)).id)

    async def bucket_import(self, bucket: str, events: list[Any]) -> Document:
        return await self.relay.import_events(bucket, events)

    async def input_create(self, bucket: str, options: Options = _NONE) -> Document:
        found, made = await self.relay.create_input(bucket, **options)
        return input_document(found.id, made)

    async def input_set(self, input: str, bucket: str | None = None, options: Options = _NONE) -> Document:
        found, changed = await self.relay.set_input(input, bucket, **options)
        return input_document(found.id, changed)

    async def input_delete(self, input: str, bucket: str | None = None) -> Document:
        return deleted_document((await self.relay.delete_input(input, bucket)).id)

    async def output_create(self, bucket: str, options: Options = _NONE) -> Document:
        found, made = await self.relay.create_output(bucket, **options)
        return output_document(found.id, made)

    async def output_set(self, output: str, bucket: str | None = None, options: Options = _NONE) -> Document:
        found, changed = await self.relay.set_output(output, bucket, **options)
        return output_document(found.id, changed)

    async def output_delete(self, output: str, bucket: str | None = None) -> Document:
        return deleted_document((await self.relay.delete_output(output, bucket)).id)

    async def logs_list(
        self,
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
        return await self.relay.logs.list(OWNER, output=output, status=status, since=since, until=until, **place)

    async def logs_search(
        self,
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
        return await self.relay.logs.search(OWNER, wanted, bucket=bucket, limit=limit, cursor=cursor)

    async def logs_show(self, id: str) -> Document:
        return await self.relay.logs.get(OWNER, id)

    async def logs_resend(self, id: str, output: str = "", process_policy: str = "skip") -> Document:
        return await self.relay.logs.resend(OWNER, id, output=output, process_policy=process_policy)

    async def logs_resend_range(
        self,
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
        return await self.relay.logs.resend_range(OWNER, bucket, wanted, output=output, process_policy=process_policy)

    async def consumer_list(self, bucket: str | None = None) -> list[Document]:
        if bucket is not None:
            return await self.relay.consumers.listing(self.relay.find_bucket(bucket))
        return await self.relay.consumers.listings(self.relay.list_buckets())

    async def consumer_show(self, bucket: str, consumer: str) -> Document:
        return await self.relay.consumers.show(self.relay.find_bucket(bucket), consumer)

    async def consumer_seek(self, bucket: str, consumer: str, to: Any, preview: bool = False) -> Document:
        found, position = self.relay.find_bucket(bucket), read_position(to, "to")
        return await self.relay.consumers.seek(found, consumer, position, preview=preview)

    async def consumer_delete(self, bucket: str, consumer: str) -> Document:
        gone = await self.relay.consumers.delete(self.relay.find_bucket(bucket), consumer)
        return deleted_document(gone.name)

    async def consumer_dead(
        self, bucket: str, consumer: str | None = None, limit: int = 0, cursor: str = ""
    ) -> Document:
        return await self.relay.consumers.dead(self.relay.find_bucket(bucket), consumer, limit=limit, cursor=cursor)

    async def consumer_resend(self, bucket: str, consumer: str, ids: list[str] | None = None) -> Document:
        return await self.relay.consumers.resend(self.relay.find_bucket(bucket), consumer, ids)

    async def consumer_give_up(self, bucket: str, consumer: str, id: str) -> Document:
        return await self.relay.consumers.give_up(self.relay.find_bucket(bucket), consumer, id)

    async def consumer_forget(self, bucket: str, consumer: str, ids: list[str] | None = None) -> Document:
        return await self.relay.consumers.forget(self.relay.find_bucket(bucket), consumer, ids)

    async def consumer_replay(
        self,
        bucket: str,
        consumer: str,
        first: int,
        last: int | None = None,
        speed: float | None = None,
        anchor: str | None = None,
    ) -> Document:
        found = self.relay.find_bucket(bucket)
        return await self.relay.consumers.replay(found, consumer, first=first, last=last, speed=speed, anchor=anchor)

    async def output_replay(
        self,
        bucket: str,
        output: str,
        first: int,
        last: int | None = None,
        speed: float | None = None,
        anchor: str | None = None,
    ) -> Document:
        found, one = self.relay.find_output(output, bucket)
        return await self.consumer_replay(found.id, f"output:{one.n}", first, last, speed, anchor)

    async def token_create(self, options: Options = _NONE) -> Document:
        token, secret = await self.relay.create_token(**options)
        return {"key": token.key, "secret": secret}

    async def token_list(self) -> list[Document]:
        return [self.relay.describe_token(token) for token in self.relay.list_tokens()]

    async def token_set(self, key: str, options: Options = _NONE) -> Document:
        return self.relay.describe_token(await self.relay.set_token(key, **options))

    async def token_rotate(self, key: str, grace: float = 0.0) -> Document:
        token, secret = await self.relay.rotate_token(key, grace)
        return {"key": token.key, "secret": secret}

    async def token_revoke(self, key: str) -> Document:
        return deleted_document((await self.relay.revoke_token(key)).key)

    async def relay_info(self) -> Document:
        return {
            "url": self.relay.url,
            "address": self.relay.address,
            "instance": self.relay.instance,
            "forward_allow": self.relay.settings.forward_allow,
            "troubles": self.relay.troubles(),
        }

    async def ui_code(self) -> Document:
        return {"code": self._sessions().new_code(), "expires_in": int(CODE_LIFE)}

    async def ui_end(self) -> Document:
        return {"ended": await self._sessions().end_all()}

    def _sessions(self) -> Sessions:
        if self.relay.sessions is None:
            raise Unavailable(
                "there is no page to sign in to: no relay runs on this directory (start it with `relay serve`), or it "
                "runs with --no-ui"
            )
        return self.relay.sessions

    async def client_list(self) -> list[Document]:
        return await self.relay.list_clients()


COMMANDS: Final[Mapping[str, Run]] = {
    name.replace("_", ".", 1): run for name, run in inspect.getmembers(Commands, inspect.iscoroutinefunction)
}
