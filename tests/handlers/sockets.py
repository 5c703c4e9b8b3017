"""The socket on a real Tornado server over a log and a registry in memory, and clients that fail instead of waiting."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from tornado.web import Application
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from relay_tornado.delivery.deliveries import Deliveries
from relay_tornado.delivery.responses import Responses
from relay_tornado.handlers.connected_clients import ConnectedClients
from relay_tornado.handlers.listener import Entrance, Listener
from relay_tornado.handlers.socket import routes
from relay_tornado.ids import hash_secret, new_epoch, new_secret, new_uuid
from relay_tornado.log.ledgers import Ledgers
from relay_tornado.model import Bucket, Input, NewEvent, Token
from relay_tornado.proxy_trust import ProxyTrust
from relay_tornado.registry.access import Access
from relay_tornado.registry.memory import MemoryRegistry
from relay_tornado.settings import Settings
from tests.log.memory import MemoryEventLog
from tests.log.memory_consumers import MemoryConsumers
from tests.log.memory_results import MemoryResults

TIMEOUT = 60.0

HANDSHAKE = (
    b"GET /v1/socket HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class Client:
    """A client of the `websockets` package, speaking JSON; `token` is its token's key and secret."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.token = ("", "")

    async def say(self, message: dict[str, Any] | str | bytes) -> None:
        await self.socket.send(json.dumps(message) if isinstance(message, dict) else message)

    async def hear(self) -> dict[str, Any]:
        """The next message."""
        async with asyncio.timeout(TIMEOUT):
            message = await self.socket.recv()
        assert isinstance(message, str), "every message is text"
        found: dict[str, Any] = json.loads(message)
        return found

    async def hear_status(self, status: str) -> dict[str, Any]:
        """The next message, which must be this status."""
        message = await self.hear()
        assert message.get("status") == status, message
        return message

    async def sign_in(self, key: str, secret: str) -> None:
        await self.say({"action": "auth", "key": key, "secret": secret})
        await self.hear_status("authenticated")
        self.token = (key, secret)

    async def subscribe(self, *buckets: str, **fields: Any) -> dict[str, Any]:
        """Subscribes to these buckets, or to all; returns the answer."""
        await self.say({"action": "subscribe", "buckets": list(buckets), **fields})
        return await self.hear_status("subscribed")

    async def webhooks(self, count: int) -> list[dict[str, Any]]:
        """The next webhooks; anything else is passed over."""
        found: list[dict[str, Any]] = []
        while len(found) < count:
            message = await self.hear()
            if message["type"] == "webhook":
                found.append(message)
        return found

    async def hear_events(self, count: int) -> list[int]:
        """The seqs of the next events; pings are passed over."""
        seqs: list[int] = []
        while len(seqs) < count:
            message = await self.hear()
            if message["type"] == "webhook":
                seqs.append(message["meta"]["seq"])
            else:
                assert message["status"] == "ping", message
        return seqs

    async def _read_on(self) -> None:
        while True:
            await self.socket.recv()

    async def end(self) -> tuple[int, str]:
        """Reads to the end: the close code and reason."""
        async with asyncio.timeout(TIMEOUT):
            with pytest.raises(ConnectionClosed) as closed:
                await self._read_on()
        frame = closed.value.rcvd
        assert frame is not None, "the connection was cut without a close frame"
        return frame.code, frame.reason

    def abort(self) -> None:
        """Cuts the connection: a client with unread frames would take 10 s to close it."""
        if not self.socket.transport.is_closing():
            self.socket.transport.abort()


class Live:
    """A running server."""

    def __init__(self, **settings: Any) -> None:
        self.settings = Settings(host="127.0.0.1", port=0, **settings)
        self.log = MemoryEventLog()
        self.registry = MemoryRegistry()
        self.access = Access(self.registry)
        self.ledgers = Ledgers(MemoryConsumers(self.log), self.log)
        deliveries = Deliveries(self.log, self.registry, self.settings, self.ledgers, self.ledgers.counters)
        responses = Responses(MemoryResults(self.log), self.log, self.registry, deliveries)
        self.clients = ConnectedClients(self.registry, self.access, self.settings, deliveries, responses, ProxyTrust())
        self.stack = AsyncExitStack()
        self.listener = Listener(
            Application(routes(self.clients)), self.settings, Entrance(trust=ProxyTrust.parse("127.0.0.1"))
        )
        self.port = self.listener.start()

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/v1/socket"

    async def bucket(self, name: str = "orders") -> Bucket:
        bucket_id = f"id-{name}"
        await self.log.create(bucket_id, new_epoch())
        bucket = Bucket(bucket_id, name, 0, 0, inputs=(Input(f"in-{name}", "Default public endpoint", 0, 0),))
        await self.registry.put("bucket", bucket_id, bucket)
        return bucket

    async def token(
        self, buckets: Iterable[str] | None = None, lasts: float | None = None, **fields: Any
    ) -> tuple[str, str]:
        """A token's key and secret; `lasts` is for how many seconds."""
        key, secret = new_uuid(), new_secret()
        ids = None if buckets is None else frozenset(f"id-{name}" for name in buckets)
        expires_at = None if lasts is None else time.time() + lasts
        token = Token(key, hash_secret(secret), 0, buckets=ids, expires_at=expires_at, **fields)
        await self.registry.put("token", key, token)
        return key, secret

    async def change_token(self, key: str, **fields: Any) -> None:
        token = self.registry.get("token", key)
        assert token is not None
        await self.registry.put("token", key, replace(token, **fields))

    async def append(self, count: int = 1, name: str = "orders", body: bytes = b"{}", headers: bytes = b"") -> None:
        for _ in range(count):
            await self.log.append(f"id-{name}", NewEvent(f"in-{name}", "POST", b"", b"", headers, body, "192.0.2.1"))

    async def client(self, **options: Any) -> Client:
        options = {"open_timeout": TIMEOUT, "ping_interval": None, "max_size": None, "close_timeout": 5} | options
        socket = await connect(self.url, **options)
        client = Client(socket)
        self.stack.callback(client.abort)
        return client

    async def authenticated(self, token: tuple[str, str] | None = None, **options: Any) -> Client:
        client = await self.client(**options)
        await client.sign_in(*(token or await self.token()))
        return client

    async def greeting(self, **fields: Any) -> bytes:
        """What a client that speaks bytes sends to be subscribed, from its handshake on."""
        key, secret = await self.token()
        messages = ({"action": "auth", "key": key, "secret": secret}, {"action": "subscribe", **fields})
        return HANDSHAKE + b"".join(map(masked, messages))

    async def subscribed(self, *buckets: str, token: tuple[str, str] | None = None, **fields: Any) -> Client:
        client = await self.authenticated(token)
        await client.subscribe(*buckets, **fields)
        return client


@asynccontextmanager
async def live(**settings: Any) -> AsyncIterator[Live]:
    """A server with this configuration; at the end nothing of it is left."""
    server = Live(**settings)
    try:
        yield server
    finally:
        await server.stack.aclose()
        async with asyncio.timeout(TIMEOUT):
            await server.clients.close_all(5)
            server.listener.stop()
            await server.listener.drained()
        server.listener.close()
        assert server.clients.count == 0
        assert server.clients.deliveries.budget.outstanding == 0


def masked(message: dict[str, Any]) -> bytes:
    """A text frame as a client sends it."""
    payload = json.dumps(message).encode()
    return bytes((0x81, 0xFE)) + len(payload).to_bytes(2, "big") + bytes(4) + payload
