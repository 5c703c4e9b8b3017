"""The commands about consumers: positions, dead letters, events once more. `commands.COMMANDS` has them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, Final, TypeAlias

from relay_tornado.admin.administration import Administration
from relay_tornado.errors import BucketGone
from relay_tornado.wire.control import read_position
from relay_tornado.wire.fields import Document

Run: TypeAlias = Callable[..., Awaitable[Any]]
"""What does the work of a command: its first parameter is the administration, the others are the arguments."""


async def _list(relay: Administration, bucket: str | None = None) -> list[Document]:
    if bucket is not None:
        return await relay.consumers.listing(relay.find_bucket(bucket))
    found: list[Document] = []
    for each in relay.list_buckets():
        with suppress(BucketGone):  # it is deleted meanwhile
            found += await relay.consumers.listing(each)
    return found


async def _show(relay: Administration, bucket: str, consumer: str) -> Document:
    return await relay.consumers.show(relay.find_bucket(bucket), consumer)


async def _seek(relay: Administration, bucket: str, consumer: str, to: Any, preview: bool = False) -> Document:
    found, position = relay.find_bucket(bucket), read_position(to, "to")
    return await relay.consumers.seek(found, consumer, position, preview=preview)


async def _delete(relay: Administration, bucket: str, consumer: str) -> Document:
    gone = await relay.consumers.delete(relay.find_bucket(bucket), consumer)
    return {"id": gone.name, "status": "deleted"}


async def _dead(
    relay: Administration, bucket: str, consumer: str | None = None, limit: int = 0, cursor: str = ""
) -> Document:
    return await relay.consumers.dead(relay.find_bucket(bucket), consumer, limit=limit, cursor=cursor)


async def _resend(relay: Administration, bucket: str, consumer: str, ids: list[str] | None = None) -> Document:
    return await relay.consumers.resend(relay.find_bucket(bucket), consumer, ids)


async def _forget(relay: Administration, bucket: str, consumer: str, ids: list[str] | None = None) -> Document:
    return await relay.consumers.forget(relay.find_bucket(bucket), consumer, ids)


async def _replay(
    relay: Administration,
    bucket: str,
    consumer: str,
    first: int,
    last: int | None = None,
    speed: float | None = None,
    anchor: str | None = None,
) -> Document:
    found = relay.find_bucket(bucket)
    return await relay.consumers.replay(found, consumer, first=first, last=last, speed=speed, anchor=anchor)


async def _replay_output(
    relay: Administration,
    bucket: str,
    output: str,
    first: int,
    last: int | None = None,
    speed: float | None = None,
    anchor: str | None = None,
) -> Document:
    found, one = relay.find_output(output, bucket)
    return await _replay(relay, found.id, f"output:{one.n}", first, last, speed, anchor)


COMMANDS: Final[Mapping[str, Run]] = {
    "consumer.list": _list,
    "consumer.show": _show,
    "consumer.seek": _seek,
    "consumer.delete": _delete,
    "consumer.dead": _dead,
    "consumer.resend": _resend,
    "consumer.forget": _forget,
    "consumer.replay": _replay,
    "output.replay": _replay_output,
}
