"""/v1/socket: what comes is no frame that the WebSocket protocol allows."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest
import websockets
from tornado.web import Application
from tornado.websocket import WebSocketProtocol13

from relay_tornado.handlers.listener import REQUESTS_A_TURN, Listener
from relay_tornado.handlers.socket import BARE_FRAMES_A_TURN
from relay_tornado.settings import Settings
from tests.counting import calls_by_turn
from tests.faults.echo import RelayEcho
from tests.faults.frames import CLOSE, PING, REFUSED, TEXT, close, frame
from tests.handlers.edge import Edge, edge
from tests.handlers.raw import TIMEOUT, Raw
from tests.handlers.sockets import HANDSHAKE
from tests.waiting import until

pytestmark = pytest.mark.gen_test(timeout=60)


async def closes(site: Edge, data: bytes) -> int:
    """The code of the close frame, which is the first that comes back."""
    async with Raw(site.port) as client:
        client.send(HANDSHAKE)
        await client.reader.readuntil(b"\r\n\r\n")
        client.send(data)
        async with asyncio.timeout(TIMEOUT):
            first, size, *code = await client.reader.readexactly(4)
            assert first == 0x88
            reason = await client.reader.readexactly(size - 2)
        assert await client.closed() == b""
        assert reason.decode() or data[0] & 15 == CLOSE
    return int.from_bytes(bytes(code))


@pytest.mark.usefixtures("transport")
@pytest.mark.parametrize(("data", "codes"), REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("more", [b"", b"x" * 300_000], ids=["", "and more"])
async def test_who_breaks_the_protocol_is_told(data: bytes, codes: frozenset[int], more: bytes) -> None:
    """By a close frame with the code that RFC 6455 has for it, and no reset, also where more comes behind it."""
    if data[0] & 15 == CLOSE:
        more = b""  # it would not be read: nothing comes behind a close frame
    async with edge() as site:
        assert await closes(site, data + more) in codes
        await until(lambda: site.site.clients.count == 0)


@pytest.mark.parametrize(
    "frames",
    [frame(PING, b"hi") * 999, frame(TEXT, b"{", fin=False) + frame(0, b" ", fin=False) * 998],
    ids=["pings", "pieces"],
)
async def test_tiny_frames(monkeypatch: pytest.MonkeyPatch, frames: bytes) -> None:
    """Of those that are no whole message a few are read in a turn of the loop, however many are there."""
    read = calls_by_turn(monkeypatch, WebSocketProtocol13, "_receive_frame")
    async with edge() as site, Raw(site.port) as client:
        client.send(HANDSHAKE)
        await client.reader.readuntil(b"\r\n\r\n")
        client.send(frames + close(1000))
        assert (await client.closed()).endswith(b"\x88\x02\x03\xe8")
    assert sum(read) == 1000
    assert max(read) <= BARE_FRAMES_A_TURN


async def test_tiny_frames_of_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few sockets that send so many go on in a turn of the loop, however many do."""
    rounds = 10
    async with edge() as site, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(Raw(site.port)) for _ in range(5 * REQUESTS_A_TURN)]
        for client in clients:
            client.send(HANDSHAKE)
            await client.reader.readuntil(b"\r\n\r\n")
        read = calls_by_turn(monkeypatch, WebSocketProtocol13, "_receive_frame")
        for client in clients:
            client.send(frame(PING, b"hi") * rounds * BARE_FRAMES_A_TURN)
        for client in clients:
            await client.reader.readexactly(4 * rounds * BARE_FRAMES_A_TURN)
    assert len(read) >= 5 * (rounds - 1)


async def test_the_echo_of_the_row_autobahn() -> None:
    """It is the relay's own handler with its conversation left out: what comes goes back."""
    listener = Listener(Application([("/", RelayEcho)]), Settings(port=0))
    try:
        async with asyncio.timeout(TIMEOUT), websockets.connect(f"ws://127.0.0.1:{listener.start()}/") as client:
            for message in ("a", b"b", "c" * 100_000):
                await client.send(message)
                assert await client.recv() == message
    finally:
        listener.close()
