"""Clients that leave at once: nothing of them is kept, and nobody is told of an error."""

from __future__ import annotations

import logging
import socket
import struct
from collections.abc import Iterator

import pytest
import structlog
import websockets

from relay_tornado.handlers.socket import SocketHandler
from tests.handlers.edge import Edge, edge
from tests.handlers.raw import Raw, eventually, request
from tests.handlers.sockets import HANDSHAKE

pytestmark = [pytest.mark.gen_test(timeout=30), pytest.mark.usefixtures("transport")]

PLACES = 3


def hang_up(port: int, data: bytes, how: str) -> socket.socket:
    """Sends the data and leaves before anybody looks at it. What is returned holds a half that is open still."""
    client = socket.create_connection(("127.0.0.1", port))
    client.sendall(data)
    if how == "half":
        client.shutdown(socket.SHUT_WR)
        return client
    if how == "reset":
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    return client


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing is logged as an error meanwhile, by the relay or by Tornado."""
    with structlog.testing.capture_logs() as lines:
        yield
    assert [line for line in lines if line["log_level"] == "error"] == []
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def nobody(site: Edge) -> None:
    """Waits until all that have come before are gone."""
    async with Raw(site.port) as last:
        # Those before it were accepted before it.
        assert (await last.ask(request(b"/healthz", method=b"GET"))).status == 200
    await eventually(lambda: not site.site.listener.connections)


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("how", ["half", "close", "reset"])
async def test_a_socket_whose_client_has_left_takes_no_place(how: str) -> None:
    """However many hang up right behind their handshake, the next client is served."""
    async with edge(max_sockets=PLACES) as site:
        for _ in range(3):
            left = [hang_up(site.port, HANDSHAKE, how) for _ in range(PLACES)]
            await nobody(site)
            for client in left:
                client.close()
        assert site.site.sockets.count == 0
        async with websockets.connect(f"ws://127.0.0.1:{site.port}/v1/socket", proxy=None) as served:
            await (await served.ping())


async def test_a_socket_that_can_not_be_opened_takes_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes wrong behind the handshake is logged once, and the place is free again."""

    def fail(self: SocketHandler) -> None:
        raise LookupError("on purpose")

    async with edge(max_sockets=1) as site, Raw(site.port) as client:
        with monkeypatch.context() as patch, structlog.testing.capture_logs() as lines:
            patch.setattr(SocketHandler, "_forget_handshake", fail)
            client.send(HANDSHAKE)
            assert (await client.closed(reset=True)).startswith(b"HTTP/1.1 101")
            await eventually(lambda: site.site.sockets.count == 0)
        assert [line["event"] for line in lines if line["log_level"] == "error"] == ["handler_failed"]
        async with websockets.connect(f"ws://127.0.0.1:{site.port}/v1/socket", proxy=None) as served:
            await (await served.ping())
