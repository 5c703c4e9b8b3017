"""A service whose conversation a test writes, for the client."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from relay_tornado.client import Event, Subscription, subscribe
from tests.client.world import SOON

AUTHENTICATED = {"type": "status", "status": "authenticated", "message": "connected successfully"}


SUBSCRIBED = {"type": "status", "status": "subscribed", "message": "subscribed to buckets: b"}


ENTRY = {"bucket_id": "B", "bucket_name": "b", "epoch": "abcdefghijkl", "first": 1, "head": 0, "start": 1, "gap": None}


Talk = Callable[["Peer"], Awaitable[None]]


class Peer:
    """The service's side of one connection."""

    def __init__(self, socket: ServerConnection, number: int) -> None:
        self.socket = socket
        self.number = number

    async def send(self, *documents: Any) -> None:
        for document in documents:
            await self.socket.send(document if isinstance(document, str | bytes) else json.dumps(document))

    async def receive(self) -> Any:
        return json.loads(await self.socket.recv())

    async def welcome(self, **more: Any) -> Any:
        """Up to the answer to subscribe, which it returns."""
        assert (await self.receive())["action"] == "auth"
        await self.send(AUTHENTICATED)
        subscribe = await self.receive()
        await self.send(SUBSCRIBED | more)
        return subscribe

    async def stay(self) -> None:
        """Until the client ends it."""
        async for _ in self.socket:
            pass


def webhook(id: str, body: str = "x", **meta: Any) -> dict[str, Any]:
    return {
        "type": "webhook", "headers": {}, "query": "", "body": body, "method": "POST",
        "meta": {"id": id, "bucked_id": "B", "bucket_name": "b", **meta},
    }  # fmt: skip


async def one_event(peer: Peer) -> None:
    """A talk: one event, and then nothing more."""
    await peer.welcome(buckets=[ENTRY])
    await peer.send(webhook("abcdefghijkl-1"))
    await peer.stay()


async def one_event_before_the_end(peer: Peer) -> None:
    """A talk: one event, and then a close that is final."""
    await peer.welcome(buckets=[ENTRY])
    await peer.send(webhook("abcdefghijkl-1"))
    await peer.socket.close(4503, "because")


@asynccontextmanager
async def service(talk: Talk, **options: Any) -> AsyncIterator[str]:
    """A service on a port of its own; every connection has this conversation."""
    count = 0
    problems: list[Exception] = []

    async def talked(socket: ServerConnection) -> None:
        nonlocal count
        count += 1
        try:
            await talk(Peer(socket, count))
        except ConnectionClosed:
            pass
        except Exception as error:
            problems.append(error)

    logger = logging.getLogger("tests.service")
    logger.setLevel(logging.CRITICAL)
    async with serve(talked, "127.0.0.1", 0, logger=logger, **options) as server:
        scheme = "wss" if "ssl" in options else "ws"
        yield f"{scheme}://localhost:{next(iter(server.sockets)).getsockname()[1]}"
    assert not problems, problems


def at(url: str, **options: Any) -> Subscription:
    options.setdefault("backoff", SOON)
    return subscribe(url, "key", "secret", buckets="b", **options)


async def first(talk: Talk) -> Event:
    """The first event that a client gets from such a service."""
    async with service(talk) as url, at(url) as events:
        return await anext(events)
