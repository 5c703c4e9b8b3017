"""Connections that end with an answer on them are kept for a moment, and no longer than their peer is there."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable

import pytest

from relay_tornado.handlers.lingering import Lingering
from tests.needs import uvloops
from tests.waiting import until
from tests.watching import unwatched


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloops])
@pytest.mark.parametrize("sent", [0, 100, 200_000])
def test_one_that_is_reset_goes_at_once(loop: Callable[[], asyncio.AbstractEventLoop], sent: int) -> None:
    """Also with more unread on it than is read at a time. (Nobody looks at its time here.)"""

    async def check() -> None:
        closed = asyncio.Event()
        lingering = Lingering(lambda _: None, lambda _: closed.set())
        with socket.create_server(("127.0.0.1", 0)) as listening:
            client = socket.create_connection(listening.getsockname())
            connection, _ = listening.accept()
        with connection:
            lingering.add(connection, "127.0.0.1")
        client.sendall(b"x" * sent)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        await until(closed.is_set)
        assert not lingering

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(check())


def test_one_that_sends_on_and_on_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """After so many bytes; and another connection may have its descriptor. (Nobody looks at its time here.)"""
    monkeypatch.setattr("relay_tornado.handlers.lingering.BYTES", 100_000)

    async def check() -> None:
        lingering = Lingering(lambda _: None, lambda _: None)
        with socket.create_server(("127.0.0.1", 0)) as listening:
            for _ in range(2):
                client = socket.create_connection(listening.getsockname())
                connection, _ = listening.accept()
                with connection:
                    lingering.add(connection, "127.0.0.1")
                with client:
                    client.sendall(b"x" * 100_000)
                    await until(lambda: all(not kept.left for kept in lingering._kept.values()))
                    assert len(lingering) == 1
                    client.sendall(b"x")
                    await until(lambda: not lingering)

    asyncio.run(check())


def test_one_that_can_not_be_watched_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, and its owner goes on with its own close."""

    async def check() -> None:
        closed: list[str] = []
        lingering = Lingering(lambda _: None, closed.append)
        with socket.create_server(("127.0.0.1", 0)) as listening:
            client = socket.create_connection(listening.getsockname())
            connection, _ = listening.accept()
        with client, connection:
            unwatched(monkeypatch, 1)
            lingering.add(connection, "127.0.0.1")
        assert (closed, len(lingering)) == (["127.0.0.1"], 0)

    asyncio.run(check())
