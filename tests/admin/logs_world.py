"""A relay's logs over either engine, with a bucket, and results and events made by hand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tornado.ioloop import IOLoop

from relay_tornado.log.ephemeral import Ephemeral
from relay_tornado.model import NewEvent, Result, Token
from relay_tornado.wire.fields import Document
from tests.admin.world import World, memory_world, sqlite_world
from tests.contexts import held_open

ROOT = Token("root", "hash", 0.0)

logs_test = pytest.mark.gen_test


class LogsWorld(World):
    async def bucket(self, name: str = "orders", outputs: int = 0, **options: Any) -> str:
        """Makes a bucket with so many internal outputs, named out-1, …; returns its id."""
        made = await self.administration.create_bucket(name, **options)
        for number in range(1, outputs + 1):
            await self.administration.create_output(name, name=f"out-{number}")
        return made.id

    async def send(self, bucket_id: str, *bodies: bytes, **changes: Any) -> list[str]:
        """Appends events with these bodies; returns their ids."""
        ids = []
        for body in bodies:
            event = NewEvent("input", "POST", b"/x", b"a=1", b"Host: h\r\nX-A: 1\r\n", body, "192.0.2.1", **changes)
            place = await self.log.append(bucket_id, event)
            ids.append(f"{place.epoch}-{place.seq}")
        return ids

    async def answer(self, bucket_id: str, seq: int, output: int = 0, code: int = 200, **changes: Any) -> None:
        """Records a result."""
        result = Result("sent" if code else "failed", code, {"X": ["y"]}, b"\xffok", 12, 1, 5.0)
        await self.results.record(bucket_id, seq, output, msgspec.structs.replace(result, **changes))

    async def pages(self, **asked: Any) -> list[Document]:
        """A whole list, page by page by its cursors."""
        pages = [await self.logs.list(ROOT, **asked)]
        while "next_cursor" in pages[-1]:
            pages.append(await self.logs.list(ROOT, **asked, cursor=pages[-1]["next_cursor"]))
        return pages

    async def originals(self, ids: Iterable[str]) -> list[str]:
        """Which events these are copies of."""
        return [(await self.logs.get(ROOT, each))["resend_of"] for each in ids]


sqlite_logs = partial(sqlite_world, kind=LogsWorld)


@pytest.fixture(params=[memory_world, sqlite_world], ids=["memory", "sqlite"])
def world(request: pytest.FixtureRequest, tmp_path: Path, io_loop: IOLoop) -> Iterator[LogsWorld]:
    """Over each kind of engine."""
    yield from held_open(io_loop, request.param(tmp_path / "data", LogsWorld))


def ids(*pages: Document) -> list[str]:
    """Those of the logs of lists, searches, and answers to polls."""
    return [each["id"] for page in pages for each in page["data" if "data" in page else "logs"]]


def forget(log: Any) -> None:
    """All ephemeral content leaves, as it does when it is old."""
    held: Ephemeral = log._ephemeral
    held.close()
