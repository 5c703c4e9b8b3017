"""A whole relay on a port of its own, with tokens of every kind, and a client that speaks to it as others do."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tornado.httpclient import AsyncHTTPClient, HTTPRequest, HTTPResponse
from websockets.asyncio.client import ClientConnection, connect

from relay_tornado.app import Relay
from relay_tornado.handlers.site import Site
from relay_tornado.settings import Settings
from tests.handlers.raw import basic
from tests.handlers.sockets import Client


@dataclass(frozen=True)
class Answer:
    """A response; a body that is JSON is read."""

    status: int
    document: Any
    headers: Mapping[str, str]


@dataclass
class World:
    """A relay, and the credentials `tokens` by name: administrator to begin with."""

    relay: Relay
    tokens: dict[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return self.relay.address

    @property
    def site(self) -> Site:
        assert self.relay._site is not None
        return self.relay._site

    async def token(self, name: str, **options: Any) -> str:
        """Makes a token; returns its key."""
        made, secret = await self.relay.administration.create_token(**options)
        self.tokens[name] = (made.key, secret)
        return made.key

    async def bucket(self, name: str, **options: Any) -> Any:
        return await self.relay.administration.create_bucket(name, **options)

    @asynccontextmanager
    async def client(self, token: str = "administrator", **headers: str) -> AsyncIterator[Client]:
        """A client of the WebSocket that has authenticated."""
        url = self.url.replace("http", "ws") + "/v1/socket"
        async with asyncio.timeout(60), connect(url, additional_headers=headers, proxy=None) as socket:
            client = Client(socket)
            await client.sign_in(*self.tokens[token])
            yield client

    async def consumer(self, bucket: Any, name: str) -> None:
        """Has a client make a consumer, from the first event on, and leave."""
        async with self.client() as client:
            await client.subscribe(bucket.name, consumer=name, since="earliest")

    async def converse(self, messages: Sequence[str]) -> None:
        """Has an administrator's client subscribe by the first message, read all there is, say the others and leave;
        returns once the relay knows that it has."""
        async with self.client() as client:
            for message in messages:
                await client.say(message)
                while message == messages[0] and (await client.hear()).get("status") != "caught_up":
                    pass
        await self.nobody()

    async def nobody(self) -> None:
        """Returns once no client is connected any more."""
        async with asyncio.timeout(60):
            # Each look is a round trip, so the relay has its turn.
            while (await self.call("GET", "/v1/connected-clients")).document["webhook_clients"]:
                pass

    async def fetch(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> HTTPResponse:
        """One request with exactly these headers."""
        request = HTTPRequest(
            self.url + path,
            method=method,
            body=body,
            headers=dict(headers),
            allow_nonstandard_methods=True,
            follow_redirects=False,
            decompress_response=False,
            request_timeout=60,
        )
        return await AsyncHTTPClient().fetch(request, raise_error=False)

    async def call(
        self, method: str, path: str, body: Any = None, token: str | None = "administrator", **headers: str
    ) -> Answer:
        """A request of a token's holder, with Basic; `body` is sent as JSON, bytes as they are."""
        if token is not None:
            headers["Authorization"] = basic(*self.tokens[token])
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        response = await self.fetch(method, path, data, headers)
        is_json = response.headers.get("Content-Type", "") == "application/json"
        document = json.loads(response.body) if response.body and is_json else response.body or None
        return Answer(response.code, document, response.headers)

    async def refused(self, field: str, method: str, path: str, body: Any = None, **options: str) -> Answer:
        """The answer to a request that does not fit, which names this field."""
        answer = await self.call(method, path, body, **options)
        assert (answer.status, answer.document.get("field")) == (400, field), (method, path, body, answer.document)
        return answer

    async def send(self, bucket: Any, body: bytes = b"hello", path: str = "", **headers: str) -> str:
        """A webhook to a bucket's first input; returns its id."""
        response = await self.fetch("POST", f"/v1/webhooks/{bucket.inputs[0].id}{path}", body, headers)
        assert response.code == 200, response.body
        page = (await self.call("GET", f"/v1/logs?bucket={bucket.id}&limit=1")).document
        return str(page["data"][0]["id"])

    @asynccontextmanager
    async def socket(self, token: str, *buckets: str, **headers: str) -> AsyncIterator[ClientConnection]:
        """A stock client that has subscribed."""
        async with self.client(token, **headers) as client:
            await client.subscribe(*buckets)
            yield client.socket

    async def enter(self, credentials: Mapping[str, Any], **headers: str) -> HTTPResponse:
        """Signs in as the page does."""
        sent = {"Origin": self.url, "Content-Type": "application/json", **headers}
        return await self.fetch("POST", "/ui/session", json.dumps(credentials).encode(), sent)

    async def cookie(self, token: str = "administrator") -> str:
        """Signs in, and returns the Cookie header."""
        answer = await self.enter({"secret": self.tokens[token][1]})
        assert answer.code == 200, answer.body
        return answer.headers["Set-Cookie"].partition(";")[0]


@asynccontextmanager
async def world(folder: Path, **settings: Any) -> AsyncIterator[World]:
    """A running relay whose administrator's token is "administrator"."""
    relay = Relay(dataclasses.replace(Settings(), **{"port": 0, "data": folder / "data", **settings}))
    await relay.start()
    try:
        made = World(relay)
        await made.token("administrator")
        yield made
    finally:
        await relay.stop()
