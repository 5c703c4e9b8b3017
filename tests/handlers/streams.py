"""A client of server-sent events that reads bytes, and keeps to the letter of the specification."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Self

from relay_tornado.ids import hash_secret, new_epoch, new_secret
from relay_tornado.model import Bucket, Input, NewEvent, Token
from tests.handlers.edge import BUCKET, Edge, edge
from tests.handlers.raw import TIMEOUT, Raw, bearer, request
from tests.waiting import until


@dataclass(frozen=True)
class Message:
    """An event as EventSource dispatches it: `id` is the last one that was set, by this event or an earlier one."""

    kind: str
    data: str
    id: str

    @property
    def document(self) -> Any:
        return json.loads(self.data)


@dataclass
class Parser:
    """Section 9.2.6 of the HTML standard, over whole lines."""

    id: str = ""
    retry: int | None = None
    _kind: str = ""
    _data: list[str] = field(default_factory=list)
    _id: str = ""

    def line(self, line: str) -> Message | None:
        if line == "":
            self.id = self._id
            data, kind = self._data, self._kind
            self._data, self._kind = [], ""
            return Message(kind or "message", "\n".join(data), self.id) if data else None
        if line.startswith(":"):
            return None
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            self._kind = value
        elif name == "data":
            self._data.append(value)
        elif name == "id":
            self._id = value
        elif name == "retry":
            self.retry = int(value)
        return None


class Source(Raw):
    """One connection; `last` is what it sends as Last-Event-ID."""

    def __init__(
        self, port: int, secret: str, query: str = "", *, last: str = "", version: str = "1.1", **headers: str
    ) -> None:
        super().__init__(port)
        head = {"Host": f"127.0.0.1:{port}", "Authorization": f"Bearer {secret}", "Accept": "text/event-stream"}
        if last:
            head["Last-Event-ID"] = last
        head |= {name.replace("_", "-"): value for name, value in headers.items()}
        lines = "".join(f"{name}: {value}\r\n" for name, value in head.items() if value)
        self.request = f"GET /v1/stream{query and '?' + query} HTTP/{version}\r\n{lines}\r\n".encode()
        self.parser = Parser(id=last, _id=last)
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self._buffer = b""

    @property
    def id(self) -> str:
        """What a reconnect sends."""
        return self.parser.id

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self.send(self.request)
        async with asyncio.timeout(TIMEOUT):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        self.status = int(head[0].split(" ")[1])
        self.headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        if self.status != 200:
            async with asyncio.timeout(TIMEOUT):
                self.body = await self.reader.readexactly(int(self.headers["content-length"]))
        return self

    @property
    def error(self) -> Any:
        return json.loads(self.body)

    async def _more(self) -> bool:
        """Reads a chunk of the body. False at its end."""
        if "transfer-encoding" not in self.headers:
            data = await self.reader.read(1 << 16)
        else:
            size = int(await self.reader.readuntil(b"\r\n"), 16)
            data = (await self.reader.readexactly(size + 2))[:-2]
        self._buffer += data
        return bool(data)

    async def next(self) -> Message | None:
        """The next event, None where the stream has ended."""
        async with asyncio.timeout(TIMEOUT):
            while True:
                while b"\n" in self._buffer:
                    line, _, self._buffer = self._buffer.partition(b"\n")
                    message = self.parser.line(line.decode())
                    if message is not None:
                        return message
                if not await self._more():
                    return None

    async def hear(self, kind: str) -> Message:
        """The next event, which must be of this kind. Signs of life may come before it."""
        message = await self.next()
        while kind != "ping" and message is not None and message.kind == "ping":
            message = await self.next()
        assert message is not None, "the stream has ended"
        assert message.kind == kind, message
        return message

    async def seqs(self, count: int) -> list[int]:
        """The seqs of the next webhooks, and nothing else between them."""
        return [(await self.hear("webhook")).document["meta"]["seq"] for _ in range(count)]

    async def until(self, kind: str) -> Message:
        """The next event of this kind; others before it are passed over."""
        while True:
            message = await self.next()
            assert message is not None, "the stream has ended"
            if message.kind == kind:
                return message


async def stream_of(site: Edge) -> bytes:
    """A request for a stream of events that the relay lets in."""
    _, secret = await site.token()
    return request(b"/v1/stream", b"", bearer(secret), b"GET")


class Here:
    """A site, and what these tests do with it."""

    def __init__(self, site: Edge) -> None:
        self.edge = site
        self.secret = ""

    async def token(self, buckets: Iterable[str] | None = None, **fields: Any) -> str:
        """The secret of a new one; its key is the secret's hash."""
        secret = new_secret()
        ids = None if buckets is None else frozenset(buckets)
        key = hash_secret(secret)
        await self.edge.registry.put("token", key, Token(key, key, time.time(), buckets=ids, **fields))
        return secret

    async def bucket(self, name: str, **fields: Any) -> Bucket:
        await self.edge.log.create(f"id-{name}", new_epoch())
        now = time.time()
        bucket = Bucket(f"id-{name}", name, now, now, inputs=(Input(f"in-{name}", "i", now, now),), **fields)
        await self.edge.registry.put("bucket", bucket.id, bucket)
        return bucket

    async def append(self, count: int = 1, bucket: str = BUCKET.id, body: bytes = b"{}", headers: bytes = b"") -> None:
        for _ in range(count):
            await self.edge.log.append(bucket, NewEvent("in-1", "POST", b"", b"", headers, body, "192.0.2.1"))

    def source(self, query: str = "", last: str = "", secret: str = "", **headers: str) -> Source:
        return Source(self.edge.port, secret or self.secret, query, last=last, **headers)


@asynccontextmanager
async def here(**settings: Any) -> AsyncIterator[Here]:
    """A site whose bucket `orders` is there, with an administrator's token."""
    async with edge(**settings) as site:
        made = Here(site)
        made.secret = await made.token()
        yield made
        await until(lambda: not site.site.clients.count)
        assert site.site.clients.deliveries.budget.outstanding == 0


def ids(messages: Iterable[Message]) -> list[str]:
    return [each.document["meta"]["id"] for each in messages]
