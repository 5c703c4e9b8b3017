"""What fails in one connection, as for want of memory, ends that one at most: nobody goes on who is not served or whose
token does not count any more, and no place stays taken."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
from typing import Any

import pytest
import structlog
from tornado.http1connection import HTTP1Connection
from tornado.websocket import WebSocketProtocol13
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from relay_tornado import protocol
from relay_tornado.delivery.deliver import Delivery
from relay_tornado.delivery.deliveries import Deliveries
from relay_tornado.handlers import connected_clients, front, listener
from relay_tornado.handlers.conversation import Conversation
from relay_tornado.handlers.feed import Feed
from relay_tornado.handlers.socket import SocketHandler
from relay_tornado.handlers.stream import StreamHandler
from relay_tornado.handlers.tornado_connection import TornadoConnection
from relay_tornado.ids import hash_secret
from relay_tornado.transport.direct import DirectConnection
from tests.failing import once
from tests.handlers.edge import edge
from tests.handlers.raw import Raw, request
from tests.handlers.sockets import TIMEOUT, Client, Live, live
from tests.handlers.streams import here
from tests.waiting import until

pytestmark = pytest.mark.gen_test


async def code_of(client: Client) -> int:
    """The code that the relay closes with; 1006: with none."""
    async with asyncio.timeout(TIMEOUT):
        with pytest.raises(ConnectionClosed) as closed:
            await client._read_on()
    return 1006 if closed.value.rcvd is None else closed.value.rcvd.code


async def test_a_ping_that_can_not_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one comes, on a WebSocket and on a stream."""
    monkeypatch.setattr(connected_clients, "RETRY_DELAY", 0.05)
    monkeypatch.setattr(protocol.Session, "tick", once(protocol.Session.tick))
    monkeypatch.setattr(Feed, "_beat", once(Feed._beat))
    async with live(ping_interval=0.1) as server:
        await server.bucket()
        client = await server.subscribed("orders")
        await client.hear_status("ping")
    async with here(ping_interval=0.1) as site, site.source() as source:
        await source.until("ping")


@pytest.mark.parametrize("how", ["revoked", "expired"])
async def test_one_that_can_not_be_told_of_its_token(server: Live, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is closed, and the others of that token are told."""
    for name in ("token_changed", "token_expired"):
        monkeypatch.setattr(Conversation, name, once(getattr(Conversation, name)))
    await server.bucket()
    token = await server.token(lasts=5.0 if how == "expired" else None)
    clients = [await server.subscribed(token=token) for _ in range(3)]
    if how == "revoked":
        await server.registry.delete("token", token[0])
    final = {"revoked": 4503, "expired": 4504}[how]
    assert sorted([await code_of(client) for client in clients]) == [1001, final, final]


@pytest.mark.parametrize("name", ["join", "leave"])
async def test_one_that_can_not_be_told_of_a_bucket(server: Live, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has to come again, and the others hear of what was made or deleted."""
    monkeypatch.setattr(Delivery, name, once(getattr(Delivery, name)))
    if name == "leave":
        await server.bucket()
    clients = [await server.subscribed(extended=True) for _ in range(3)]
    if name == "leave":
        await server.registry.delete("bucket", "id-orders")
    else:
        await server.bucket()
        await server.append()
    heard = sorted([await first(client) for client in clients])
    assert heard == ["1001", *[{"join": "webhook", "leave": "bucket_deleted"}[name]] * 2]


async def first(client: Client) -> str:
    """What comes first that is no word of how far its events are, or else the code that it ends with."""
    try:
        while (message := await client.hear()).get("status") in ("caught_up", "ping"):
            pass
    except ConnectionClosed as closed:
        return str(closed.rcvd and closed.rcvd.code)
    return str(message.get("status", message["type"]))


async def test_a_connection_that_can_not_be_served(server: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is closed, and counts no longer."""
    monkeypatch.setattr(listener, "_Serving", once(listener._Serving))
    async with Raw(server.port) as raw:
        await raw.closed(reset=True)
    await until(lambda: not server.listener.connections)
    async with Raw(server.port) as raw:
        assert (await raw.ask(request(b"/", method=b"GET"))).status == 404


async def test_a_close_that_has_no_memory_half_way(server: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one, as that of a stop, does the rest."""
    await server.bucket()
    await server.subscribed()
    (connection,) = server.listener.connections
    monkeypatch.setattr(server.listener, "forget", once(server.listener.forget))
    with pytest.raises(MemoryError):
        connection.close()
    assert server.listener.connections == {connection}
    connection.close()
    assert not server.listener.connections


@pytest.mark.parametrize("name", ["start_request", "__init__", "begin"])
async def test_a_request_that_nobody_reads(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it is that a connection fails, it is closed at once, and the next one is served."""
    owner: Any = {"start_request": front.Front, "__init__": DirectConnection, "begin": DirectConnection}[name]
    async with edge(transport="direct") as site:
        monkeypatch.setattr(owner, name, once(getattr(owner, name)))
        async with Raw(site.port) as raw:
            raw.send(request(b"/nowhere"))
            await raw.closed(reset=True)
        async with Raw(site.port) as raw:
            assert (await raw.ask(request(b"/nowhere"))).status == 404


async def test_a_descriptor_that_nothing_is_made_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is closed."""
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.create_connection(listening.getsockname()) as ours:
        with monkeypatch.context() as patch:
            patch.setattr(socket, "socket", once(socket.socket))
            with pytest.raises(MemoryError):
                listener._accepted(listening)
        ours.settimeout(TIMEOUT)
        assert ours.recv(1) == b""


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (HTTP1Connection, "write_headers"),
        (WebSocketProtocol13, "_receive_frame_loop"),
        (Conversation, "received"),
        (Conversation, "_authenticate"),
    ],
)
async def test_a_socket_on_which_the_relay_fails(
    server: Live, owner: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it is, the connection is closed, and the next one is served. What fails on a message says so."""
    await server.bucket()
    monkeypatch.setattr(owner, name, once(getattr(owner, name)))
    with structlog.testing.capture_logs() as lines:
        with pytest.raises((ConnectionClosed, InvalidHandshake)):
            await server.subscribed("orders")
        await until(lambda: not server.listener.connections)
    if owner is Conversation:
        assert [line["event"] for line in lines] == ["handler_failed"]
    await server.subscribed("orders")


async def test_a_socket_whose_frames_are_read_no_more(server: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is cut off, without a word about the protocol: its client comes back."""
    client = await server.authenticated()
    monkeypatch.setattr(WebSocketProtocol13, "_receive_frame", once(WebSocketProtocol13._receive_frame))
    with structlog.testing.capture_logs() as lines:
        await client.say({"action": "pong"})
        assert await code_of(client) == 1006
        await until(lambda: not server.clients.count and not server.listener.connections)
    assert [line["event"] for line in lines] == ["socket_failed"]


async def test_a_reason_that_can_not_be_made(server: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """One whose delivery has ended is cut off without it."""
    await server.bucket()
    client = await server.subscribed("orders")
    (there,) = server.clients._live
    assert isinstance(there, Conversation)
    monkeypatch.setattr(protocol.Session, "going_away", once(protocol.Session.going_away))
    there.unavailable("on purpose")
    assert await code_of(client) == 1006
    await until(lambda: not server.clients.count)


async def test_a_message_needs_no_task(server: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the end of one could not be told, for want of memory, nothing would be read any more."""
    tasks: list[int] = []
    received = Conversation.received

    async def counted(conversation: Conversation, message: str | bytes) -> None:
        tasks.append(id(asyncio.current_task()))
        await received(conversation, message)

    monkeypatch.setattr(Conversation, "received", counted)
    await server.bucket()
    await server.subscribed("orders")
    assert len(tasks) == 2
    assert len(set(tasks)) == 1


@pytest.mark.parametrize(
    ("owner", "name"),
    [(Deliveries, "subscribe"), (StreamHandler, "_refusal"), (TornadoConnection, "drop"), (Feed, "_event")],
)
async def test_a_stream_that_can_not_begin(owner: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its connection ends, and it takes no place."""
    monkeypatch.setattr(owner, name, once(getattr(owner, name)))
    async with here() as site:
        sockets = site.edge.site.clients
        async with site.source() as source:
            assert source.status == 500 or await source.reader.read() == b""
        await until(lambda: sockets.count == 0)
        assert sockets.deliveries.subscribers == 0
        async with site.source() as source:
            await source.hear("subscribed")


async def test_a_token_that_is_revoked_while_its_stream_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stream ends, instead of going on without events."""
    begin = StreamHandler._begin
    async with here() as site:
        secret = await site.token()

        async def revoke(handler: StreamHandler) -> None:
            await begin(handler)
            await site.edge.registry.delete("token", hash_secret(secret))

        monkeypatch.setattr(StreamHandler, "_begin", revoke)
        with structlog.testing.capture_logs() as lines:
            async with site.source(secret=secret) as source:
                assert await source.reader.read() == b""
            await until(lambda: site.edge.site.clients.count == 0)
        assert [line["code"] for line in lines if line["event"] == "stream_closed"] == ["token_revoked"]
        assert [line["event"] for line in lines if line["log_level"] == "error"] == []


async def test_a_token_that_is_scoped_while_its_stream_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing comes of what it may read no longer."""
    begin = StreamHandler._begin
    async with here() as site:
        await site.bucket("other")
        secret = await site.token()
        key = hash_secret(secret)

        async def scope(handler: StreamHandler) -> None:
            await begin(handler)
            token = site.edge.registry.get("token", key)
            await site.edge.registry.put("token", key, dataclasses.replace(token, buckets=frozenset({"id-other"})))

        monkeypatch.setattr(StreamHandler, "_begin", scope)
        async with site.source(secret=secret) as source:
            await source.hear("subscribed")
            await site.append()
            await site.append(1, "id-other")
            webhook = await source.until("webhook")
            assert webhook.document["meta"]["bucket_name"] == "other"


async def test_a_close_frame_that_can_not_be_made(server: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection is cut: it has no alarm any more that would end it."""
    monkeypatch.setattr(SocketHandler, "close", once(SocketHandler.close))
    token = await server.token()
    client = await server.authenticated(token)
    await server.registry.delete("token", token[0])
    assert await code_of(client) == 1006
    await until(lambda: not server.clients.count)
