"""A relay in memory with the buckets of the real one, to find what that would refuse before anything is changed."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any, NoReturn, Self

from relay_tornado.admin.administration import Administration
from relay_tornado.admin.commands import run_command
from relay_tornado.admin.logs import Logs
from relay_tornado.errors import Unavailable
from relay_tornado.model import MAX_COUNT, Bounds, Bucket, Input, Output, from_document
from relay_tornado.registry.memory import MemoryRegistry
from relay_tornado.settings import Settings
from relay_tornado.wire.fields import Document
from relay_tornado.wire.place import PLACE, compared

_UNSHOWN = "aGlkZGVuLWhpZGRlbi1oaWRkZW4t"
"""Replaces a secret that the token may not see. It is base64, as some providers' secrets are."""


class _NoEvents:
    """Replaces the log, the results, the consumers and their store: only records are rehearsed."""

    @property
    def store(self) -> Self:
        return self

    async def bounds(self, bucket_id: str) -> Bounds:
        return Bounds(1, 0, (), open=False)

    async def create(self, *_: object) -> None: ...

    async def delete(self, *_: object) -> None: ...

    async def drop(self, bucket_id: str) -> None: ...

    async def end_queue(self, bucket_id: str, output: int) -> None: ...

    def forget(self, bucket_id: str) -> None: ...

    async def list(self, bucket_id: str) -> tuple[()]:
        return ()

    def using(self, key: object) -> NoReturn:
        """The state of an output's events, which a new destination hastens: a relay that has none changes it, too."""
        raise Unavailable("only records are rehearsed")


class Rehearsal:
    """Implements cli/client.py's `Caller`. It does not refuse what only the relay's settings forbid."""

    def __init__(self, buckets: list[Document]) -> None:
        """`buckets` are the documents of all buckets of the relay."""
        found = [_bucket(each) for each in buckets]  # first, as this fails if the answer is not a relay's
        self._runner = asyncio.Runner()
        self._registry = MemoryRegistry()
        nothing: Any = _NoEvents()
        logs = Logs(nothing, nothing, self._registry)
        settings = Settings(ingest_buffer=MAX_COUNT)
        self._administration = Administration(nothing, self._registry, settings, nothing, logs)
        self._runner.run(self._take(found))

    def call(self, command: str, **arguments: Any) -> Any:
        return self._runner.run(run_command(self._administration, command, arguments))

    def close(self) -> None:
        self._runner.close()

    async def _take(self, buckets: list[Bucket]) -> None:
        for bucket in buckets:
            await self._registry.put("bucket", bucket.id, bucket)


def _bucket(document: Document) -> Bucket:
    """The record of a bucket's document, without fields that the relay does not know."""
    auth = dict(document["auth"])
    for part in {"basic": ("username", "password"), "token": ("token",)}.get(auth["type"], ()):
        auth[part] = auth[part] or _UNSHOWN
    outputs = [_known(Output, {**each, "n": each["number"]}) for each in document["outputs"]]
    return from_document(  # type: ignore[no-any-return]
        Bucket,
        {
            **_known(Bucket, document),
            "auth": auth,
            "inputs": [_input(each) for each in document["inputs"]],
            "outputs": outputs,
            "next_output": max((each["n"] for each in outputs), default=0) + 1,
        },
    )


def _input(document: Document) -> Document:
    verify = document["verify"]
    if verify is not None and not verify["secrets"]:
        verify = {**verify, "secrets": [_UNSHOWN]}
    place = {name: compared(name, document[name]) for name in PLACE}  # a document has it as it was given
    return _known(Input, {**document, **place, "verify": verify})


def _known(kind: type[Any], document: Document) -> Document:
    names = {each.name for each in dataclasses.fields(kind)}
    return {name: value for name, value in document.items() if name in names and name != "extra"}
