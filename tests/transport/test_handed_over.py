"""What a plain connection hands over to Tornado: the socket, what was read ahead, and who is at its other end."""

from __future__ import annotations

import asyncio
import json

import pytest
import structlog
import websockets

from relay_tornado.handlers.tornado_connection import TornadoConnection
from relay_tornado.proxy_trust import ProxyTrust
from relay_tornado.transport.direct import DirectConnection
from relay_tornado.wire.answers import Answer
from tests.handlers.edge import URL, Entrance, edge
from tests.handlers.raw import HEALTH, Raw, request
from tests.transport.connections import kind
from tests.waiting import until


@pytest.mark.gen_test
async def test_webhooks_are_read_directly() -> None:
    """A connection that carries webhooks alone never meets Tornado, refusals included."""
    async with edge() as site, Raw(site.port) as raw:
        for sent, status in ((request(URL, b"x"), 200), (request(URL + b"x", b"y"), 404), (request(URL), 200)):
            assert (await raw.ask(sent)).status == status
            assert kind(site) is DirectConnection
        assert (await raw.ask(HEALTH)).status == 200
        assert kind(site) is TornadoConnection


@pytest.mark.gen_test
async def test_a_head_in_two_pieces() -> None:
    """A head is seen to be whole wherever it was cut, within its end as well; so is one that goes to Tornado."""
    heads = [request(URL), request(URL + b"/a", version=b"HTTP/1.0", headers=b"Connection: keep-alive\r\n")]
    async with edge() as site:
        for head in heads:
            for cut in (1, 4, *range(len(head) - 5, len(head))):
                async with Raw(site.port) as raw:
                    raw.send(head[:cut])
                    await until(lambda cut=cut: [len(each._rest) for each in site.site.listener.connections] == [cut])
                    assert (await raw.ask(head[cut:])).status == 200
                await until(lambda: not site.site.listener.connections)
        assert len(await site.events()) == 14


@pytest.mark.gen_test
async def test_the_setting() -> None:
    """With `tornado` nothing is read directly."""
    async with edge(transport="tornado") as site, Raw(site.port) as raw:
        assert (await raw.ask(request(URL, b"x"))).status == 200
        assert kind(site) is TornadoConnection


@pytest.mark.gen_test
async def test_a_connection_that_does_both() -> None:
    """A client may post webhooks and ask for other things on one connection, in any order, and without waiting."""
    mixed = [
        request(URL, b"one"),
        HEALTH,
        request(URL, b"two"),
        request(b"/none", method=b"GET"),
        request(URL, b"three", b"Transfer-Encoding: chunked\r\n").replace(b"Content-Length: 5\r\n", b"")[:-5]
        + b"5\r\nthree\r\n0\r\n\r\n",
        HEALTH,
        request(URL, b"four"),
    ]
    statuses = [200, 200, 200, 404, 200, 200, 200]
    bodies = [b"one", b"two", b"three", b"four"]
    async with edge() as site:
        async with Raw(site.port) as raw:
            assert [(await raw.ask(each)).status for each in mixed] == statuses
        async with Raw(site.port) as raw:
            raw.send(b"".join(mixed))
            assert [(await raw.reply()).status for _ in mixed] == statuses
        async with Raw(site.port) as raw:
            for byte in b"".join(mixed):
                raw.send(bytes([byte]))
                await asyncio.sleep(0)
            assert [(await raw.reply()).status for _ in mixed] == statuses
        assert [event.body for event in await site.events()] == bodies * 3


@pytest.mark.gen_test
async def test_what_was_read_ahead_goes_along() -> None:
    """A body of which much was read before its head was handed over arrives whole, and what comes behind it, too."""
    body = bytes(range(256)) * 200
    async with edge() as site, Raw(site.port) as raw:
        for _ in range(3):
            raw.send(request(URL, b"x") + request(URL, body, version=b"HTTP/1.1").replace(b"POST", b"\r\nPOST"))
            assert [(await raw.reply()).status for _ in range(2)] == [200, 200]
        assert [event.body for event in await site.events()] == [b"x", body] * 3


@pytest.mark.gen_test
async def test_a_socket_after_a_webhook() -> None:
    """A WebSocket opens on a connection on which webhooks were posted."""
    upgrade = (
        b"GET /v1/socket HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    async with edge() as site, Raw(site.port) as raw:
        assert (await raw.ask(request(URL, b"x"))).status == 200
        raw.send(upgrade)
        assert b" 101 " in await asyncio.wait_for(raw.reader.readuntil(b"\r\n\r\n"), 60)
        assert kind(site) is TornadoConnection
        async with websockets.connect(f"ws://127.0.0.1:{site.port}/v1/socket", proxy=None) as client:
            await client.send(json.dumps({"action": "auth", "key": "k", "secret": "s"}))
            assert "unauthorized" in str(await asyncio.wait_for(client.recv(), 60))


@pytest.mark.gen_test
async def test_a_handed_over_connection_keeps_its_peer() -> None:
    """Behind a proxy a request's sender is named by its own head, whichever transport reads it."""
    async with edge(entrance=Entrance(trust=ProxyTrust.parse("127.0.0.1"))) as site, Raw(site.port) as proxy:
        for number, extra in ((1, b""), (2, b"Expect: 100-continue\r\n"), (3, b"")):
            proxy.send(request(URL, b"x", b"X-Forwarded-For: 192.0.2.%d\r\n" % number + extra))
            if extra:
                assert b"100" in await asyncio.wait_for(proxy.reader.readuntil(b"\r\n\r\n"), 60)
            assert (await proxy.reply()).status == 200
        assert (await proxy.ask(request(URL, b"x"))).status == 200
        assert kind(site) is TornadoConnection
        assert [event.remote_ip for event in await site.events()] == [
            "192.0.2.1", "192.0.2.2", "192.0.2.3", "127.0.0.1"
        ]  # fmt: skip


@pytest.mark.gen_test
async def test_a_proxy_names_each_sender_and_host() -> None:
    """Of a webhook in one piece and of one in two."""
    async with edge(entrance=Entrance(trust=ProxyTrust.parse("127.0.0.1"))) as site, Raw(site.port) as proxy:
        await site.change(input={"custom_domain": "hooks.example"})
        for number in range(4):
            lines = b"X-Forwarded-For: 192.0.2.%d\r\nX-Forwarded-Host: hooks.example\r\n" % number
            asked = request(b"/", b"body", lines)
            if number % 2:
                proxy.send(asked[:-1])
                await until(lambda: site.site.ingest.buffered)
                asked = asked[-1:]
            assert (await proxy.ask(asked)).status == 200
        assert kind(site) is DirectConnection
        assert [event.remote_ip for event in await site.events()] == [f"192.0.2.{number}" for number in range(4)]


@pytest.mark.gen_test
@pytest.mark.parametrize("transport", ["direct", "tornado"])
async def test_what_a_proxy_says_of_one_request_is_not_true_of_the_next(transport: str) -> None:
    """Its connections carry those of many clients."""
    trust = ProxyTrust.parse("127.0.0.1")
    async with edge(transport=transport, entrance=Entrance(trust=trust)) as site, Raw(site.port) as proxy:
        await site.change(input={"custom_domain": "hooks.example"})
        said = b"X-Forwarded-Host: hooks.example\r\nX-Forwarded-Proto: https\r\n"
        assert (await proxy.ask(request(b"/", b"body", said))).status == 200
        [connection] = site.site.listener.connections
        assert not isinstance(connection, TornadoConnection) or connection.protocol == "https"
        assert (await proxy.ask(request(b"/", b"body"))).status == 404
        [connection] = site.site.listener.connections
        assert isinstance(connection, TornadoConnection)
        assert connection.protocol == "http"
        assert len(await site.events()) == 1


@pytest.mark.gen_test
async def test_nor_does_it_wait_behind_tornado(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same where Tornado has the connection."""
    async with edge(transport="tornado") as site, Raw(site.port) as raw:
        with monkeypatch.context() as patch, structlog.testing.capture_logs():
            patch.setattr(Answer, "encode", lambda *_, **__: 1 // 0)
            raw.send(request(URL, b"x"))
            assert await raw.closed() == b""
        assert [event.body for event in await site.events()] == [b"x"]
        assert not site.site.listener.connections
