"""relay_tornado/handlers/listener.py: thousands that come back at once leave the loop to senders."""

import asyncio
import socket
from typing import cast
from unittest.mock import Mock

import pytest
from tornado.web import Application

from relay_tornado.handlers.listener import HANDSHAKES_A_TURN, Entrance, Listener
from relay_tornado.handlers.tornado_connection import TornadoConnection
from relay_tornado.low_memory import Timer
from relay_tornado.settings import Settings
from relay_tornado.tls import Certificate
from relay_tornado.transport.direct import DirectConnection
from tests.failing import lose_timers, once
from tests.waiting import until

pytestmark = pytest.mark.gen_test


def _handed_over(connection: socket.socket) -> DirectConnection:
    """What the listener needs of one."""
    return cast("DirectConnection", Mock(socket=connection, peer="192.0.2.1"))


async def test_a_turn_of_the_loop_begins_with_a_few() -> None:
    """Tornado gets at most `HANDSHAKES_A_TURN` connections a turn, in their order."""
    listener = Listener(Application(), Settings())
    served: list[TornadoConnection] = []
    listener._serve = served.append  # type: ignore[method-assign, assignment]
    pairs = [socket.socketpair() for _ in range(3 * HANDSHAKES_A_TURN)]
    try:
        for ours, _ in pairs:
            listener.hand_over(_handed_over(ours), b"GET / HTTP/1.1\r\n")
        assert not listener.connections
        turns = 0
        while len(served) < len(pairs):
            before = len(served)
            await asyncio.sleep(0)
            turns += 1
            assert len(served) - before <= HANDSHAKES_A_TURN
            assert turns < 100
        assert [stream.socket for stream in served] == [ours for ours, _ in pairs]
    finally:
        listener.close()
        for pair in pairs:
            for each in pair:
                each.close()
    assert not listener.connections


@pytest.mark.parametrize("secure", [False, True])
async def test_few_handshakes_begin_in_a_turn(secure: bool) -> None:
    """Each takes a millisecond or two of the processor: over TLS a turn accepts no more than it begins to serve."""
    entrance = Entrance(certificate=cast("Certificate", Mock()) if secure else None)
    listener = Listener(Application(), Settings(host="127.0.0.1", port=0), entrance)
    begun: list[socket.socket] = []
    listener._begin = lambda accepted, *_: begun.append(accepted)  # type: ignore[method-assign]
    port = listener.start()
    clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(3 * HANDSHAKES_A_TURN)]
    try:
        (listening,) = listener._sockets
        listener._accept(listening, 0)
        assert len(begun) == (HANDSHAKES_A_TURN if secure else len(clients))
        await until(lambda: len(begun) == len(clients))
    finally:
        listener.close()
        for each in (*clients, *begun):
            each.close()


async def test_one_that_fails_holds_nobody_up() -> None:
    """What goes wrong with one connection says nothing of those that wait behind it."""
    listener = Listener(Application(), Settings())
    served: list[TornadoConnection] = []

    def serve(stream: TornadoConnection) -> None:
        served.append(stream)
        if len(served) == 1:
            raise LookupError("on purpose")

    listener._serve = serve  # type: ignore[method-assign]
    pairs = [socket.socketpair() for _ in range(2 * HANDSHAKES_A_TURN)]
    try:
        for ours, _ in pairs:
            listener.hand_over(_handed_over(ours), b"GET / HTTP/1.1\r\n")
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(served) == len(pairs)
        assert served[0].closed()
    finally:
        listener.close()
        for pair in pairs:
            for each in pair:
                each.close()


async def test_what_waits_is_begun_where_there_was_no_timer_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sweep begins it, where there was no memory to set the timer, and no other connection comes."""
    listener = Listener(Application(), Settings())
    served: list[TornadoConnection] = []
    listener._serve = served.append  # type: ignore[method-assign, assignment]
    pair = socket.socketpair()
    try:
        with monkeypatch.context() as patch:
            patch.setattr(Timer, "_arm", once(Timer._arm))
            with pytest.raises(MemoryError):
                listener.hand_over(_handed_over(pair[0]), b"GET / HTTP/1.1\r\n")
        listener._sweep()
        await until(lambda: len(served) == 1)
    finally:
        listener.close()
        for each in pair:
            each.close()


async def test_what_waits_is_begun_where_that_could_not_be_scheduled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A moment later, as for want of memory."""
    listener = Listener(Application(), Settings())
    served: list[TornadoConnection] = []
    listener._serve = served.append  # type: ignore[method-assign, assignment]
    pair = socket.socketpair()
    try:
        with monkeypatch.context() as patch:
            lose_timers(patch)
            listener.hand_over(_handed_over(pair[0]), b"GET / HTTP/1.1\r\n")
            await until(lambda: len(served) == 1)
    finally:
        listener.close()
        for each in pair:
            each.close()
