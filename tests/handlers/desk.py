"""A site whose senders wait for a client's answer, and its clients."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from websockets.asyncio.client import connect

from tests.handlers.edge import URL, Edge, edge
from tests.handlers.raw import Raw, basic, request
from tests.handlers.sockets import Client


class Desk:
    """A site whose one bucket's senders wait, and clients of it."""

    def __init__(self, site: Edge, stack: AsyncExitStack) -> None:
        self.site = site
        self.stack = stack
        self.put: asyncio.Queue[int] = asyncio.Queue()
        """What stock clients were answered."""

    @property
    def waiting(self) -> int:
        return self.site.site.clients.responses.waiting

    async def change(self, output: str = "anyOutput", **fields: Any) -> None:
        await self.site.change(input={"response_from_output": output}, next_output=3, **fields)

    async def client(self, **fields: Any) -> Client:
        socket = await connect(
            f"ws://127.0.0.1:{self.site.port}/v1/socket", ping_interval=None, close_timeout=5, max_size=None
        )
        client = Client(socket)
        self.stack.callback(client.abort)
        await client.sign_in(*await self.site.token())
        await client.subscribe("orders", **fields)
        return client

    async def sender(self, data: bytes) -> Raw:
        raw = await self.stack.enter_async_context(Raw(self.site.port))
        raw.send(data)
        return raw

    async def waiting_sender(self, body: bytes = b"x") -> tuple[Client, Raw, dict[str, Any]]:
        """A client, a sender that waits for its answer, and the event that the client has of it."""
        client = await self.client()
        sender = await self.sender(request(URL, body))
        (event,) = await client.webhooks(1)
        return client, sender, event

    async def stock_client(self, answer: dict[str, Any]) -> Client:
        """A client that knows nothing of ours: it puts its answer to the log id by REST; `answer` is what it puts,
        beside the id."""
        client = await self.client()
        rest = await self.stack.enter_async_context(Raw(self.site.port))
        # As the Go agent sends it, with no Content-Type.
        head = f"Authorization: {basic(*client.token)}\r\n".encode()

        async def work() -> None:
            while True:
                (event,) = await client.webhooks(1)
                log_id = event["meta"]["id"]
                body = json.dumps({"id": log_id, **answer}).encode()
                reply = await rest.ask(request(f"/v1/logs/{log_id}".encode(), body, head, b"PUT"))
                self.put.put_nowait(reply.status)

        task = asyncio.create_task(work())
        self.stack.callback(task.cancel)
        return client


@asynccontextmanager
async def desk(
    folder: Path | None = None, output: str = "anyOutput", settings: Mapping[str, Any] = {}, **fields: Any
) -> AsyncIterator[Desk]:
    async with edge(folder, **settings) as site, AsyncExitStack() as stack:
        made = Desk(site, stack)
        site.site.clients.responses._wait = 60.0
        await made.change(output, **fields)
        yield made
