"""Requests to servers that a test writes."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trustme

from relay_tornado.outgoing.names import Resolver
from relay_tornado.outgoing.transport import Answer, Bounds, Transport, Unanswered
from relay_tornado.wire.destination import parse

BOUNDS = Bounds(body=65_536, head=32_768, idle_each=4, idle_all=256)
HEAD = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n"


@asynccontextmanager
async def transport() -> AsyncIterator[Transport]:
    made = Transport(Resolver(), BOUNDS)
    try:
        yield made
    finally:
        await made.close()


@asynccontextmanager
async def raw(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any], context: ssl.SSLContext | None = None
) -> AsyncIterator[str]:
    """A server that does as told with each connection; its URL."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1024, ssl=context)
    try:
        yield f"http{'s' if context else ''}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def send(made: Transport, url: str, body: bytes = b"", method: str = "POST", **more: Any) -> Answer:
    options: dict[str, Any] = {"verify": True, "timeout": 20.0, **more}
    head = (HEAD % len(body)).replace(b"POST", method.encode(), 1)
    return await made.send(head, body, parse(url), method=method, **options)


async def fails(made: Transport, url: str, **more: Any) -> Unanswered:
    with pytest.raises(Unanswered) as failed:
        await send(made, url, **more)
    return failed.value


def context_of(tls: bool) -> ssl.SSLContext | None:
    """That of a server with TLS; None without."""
    if not tls:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(context)
    return context
