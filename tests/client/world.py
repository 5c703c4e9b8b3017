"""A relay in a process of its own, what senders do to it, and helpers for the client's side."""

from __future__ import annotations

import asyncio
import functools
import itertools
import urllib.request
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, ParamSpec, Self, TypeVar

from relay_tornado.client import Backoff, Event, Subscription, subscribe
from tests.acceptance.relay import Relay

T = TypeVar("T")
P = ParamSpec("P")

TIMEOUT = 90.0
SOON = Backoff(first=0.02, longest=0.2)


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Runs it, for a bounded time."""

    async def bounded() -> T:
        async with asyncio.timeout(3 * TIMEOUT):
            return await coroutine

    return asyncio.run(bounded())


def client_test(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """A test that is a coroutine, run likewise."""

    @functools.wraps(test)
    def whole(*arguments: P.args, **fixtures: P.kwargs) -> None:
        run(test(*arguments, **fixtures))

    return whole


async def take(events: Subscription, number: int) -> list[Event]:
    """The next so many events."""
    return [await anext(events) for _ in range(number)]


def bodies(events: list[Event]) -> list[str]:
    return [event.text for event in events]


class Memory:
    """A checkpoint that is kept in a list: the last text is what it holds."""

    def __init__(self, saved: list[str]) -> None:
        self._saved = saved

    def load(self) -> str | None:
        return self._saved[-1] if self._saved else None

    def save(self, text: str) -> None:
        self._saved.append(text)


class World:
    """A relay, its token, and a way to send to its buckets."""

    _numbers = itertools.count(1)

    def __init__(self, data: Path, **settings: object) -> None:
        self.relay = Relay(data, **settings)
        self.folder = data.parent
        self.key = self.secret = ""
        self._paths: dict[str, str] = {}

    def __enter__(self) -> Self:
        self.relay.start()
        self.key, self.secret = self.relay.create_token()
        self.bucket("orders")
        return self

    def __exit__(self, *_: object) -> None:
        self.relay.kill()

    def bucket(self, name: str = "", *options: str) -> str:
        """Makes a bucket and returns its name."""
        name = name or f"bucket-{next(self._numbers)}"
        self._paths[name] = self.relay.create_bucket(name, *options)
        return name

    def send(self, *texts: str | bytes, bucket: str = "orders", path: str = "", **headers: str) -> None:
        """Webhooks, one after the other."""
        for text in texts:
            self.post(bucket, text, path, **headers)

    def post(self, bucket: str, text: str | bytes, path: str = "", **headers: str) -> tuple[int, bytes]:
        """A webhook; returns status and body of the answer."""
        body = text.encode() if isinstance(text, str) else text
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(f"{self.relay.url}{self._paths[bucket]}{path}", body, named, method="POST")
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            return response.status, response.read()

    def subscribe(self, *buckets: str, url: str = "", **options: Any) -> Subscription:
        """With short waits between connections; at `url`, if it is not the relay's own."""
        options.setdefault("backoff", SOON)
        return subscribe(url or self.relay.url, self.key, self.secret, buckets=buckets or ("orders",), **options)


class Cable:
    """A TCP proxy in front of a relay that can be cut, and that can hold the bytes on their way to the client."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._server: asyncio.Server | None = None
        self._streams: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.connections = 0
        self.cut_after: int | None = None
        """Cut each connection when so many bytes went to the client."""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def cut(self) -> None:
        """Ends every connection at once."""
        for stream in self._streams:
            stream.transport.abort()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._streams.add(writer)
        try:
            upstream, up = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            writer.transport.abort()
            self._streams.discard(writer)
            return
        self._streams.add(up)
        pumps = (
            asyncio.create_task(self._pump(reader, up, None)),
            asyncio.create_task(self._pump(upstream, writer, self.cut_after)),
        )
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            for stream in (writer, up):
                self._streams.discard(stream)
                stream.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, most: int | None) -> None:
        sent = 0
        try:
            while data := await reader.read(65536):
                if most is not None:
                    data = data[: most - sent]
                writer.write(data)
                await writer.drain()
                sent += len(data)
                if most is not None and sent >= most:
                    return
        except OSError:
            pass
