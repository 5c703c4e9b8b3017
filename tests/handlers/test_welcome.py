"""relay_tornado/handlers/listener.py: thousands that come back at once leave the loop to senders."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import cast
from unittest.mock import Mock

import pytest
from tornado.web import Application

from relay_tornado.handlers import listener
from relay_tornado.handlers.listener import HANDSHAKES_A_TURN, Entrance, Listener
from relay_tornado.handlers.tornado_connection import TornadoConnection
from relay_tornado.low_memory import Timer
from relay_tornado.settings import Settings
from relay_tornado.tls import Certificate
from relay_tornado.transport.direct import DirectConnection
from tests.failing import lose_timers, once
from tests.waiting import until

pytestmark = pytest.mark.gen_test


class Welcoming:
    """A listener that only notes what it would serve, and connections that are to be handed over to it."""

    def __init__(self, count: int) -> None:
        self.listener = Listener(Application(), Settings())
        self.listener._serve = self.serve  # type: ignore[method-assign]
        self.served: list[TornadoConnection] = []
        self.pairs = [socket.socketpair() for _ in range(count)]

    def serve(self, stream: TornadoConnection) -> None:
        self.served.append(stream)

    def hand_over(self) -> None:
        for ours, _ in self.pairs:
            connection = cast("DirectConnection", Mock(socket=ours, peer="192.0.2.1"))
            self.listener.hand_over(connection, b"GET / HTTP/1.1\r\n")


@contextmanager
def welcoming(count: int) -> Iterator[Welcoming]:
    made = Welcoming(count)
    try:
        yield made
    finally:
        made.listener.close()
        for each in chain(*made.pairs):
            each.close()
    assert not made.listener.connections


async def test_a_turn_of_the_loop_begins_with_a_few() -> None:
    """Tornado gets at most `HANDSHAKES_A_TURN` connections a turn, in their order."""
    with welcoming(3 * HANDSHAKES_A_TURN) as those:
        those.hand_over()
        assert not those.listener.connections
        turns = 0
        while len(those.served) < len(those.pairs):
            before = len(those.served)
            await asyncio.sleep(0)
            turns += 1
            assert len(those.served) - before <= HANDSHAKES_A_TURN
            assert turns < 100
        assert [stream.socket for stream in those.served] == [ours for ours, _ in those.pairs]


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


async def test_one_that_left_before_it_was_accepted_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those behind it are accepted in the same turn."""
    those = Listener(Application(), Settings(host="127.0.0.1", port=0))
    begun: list[socket.socket] = []
    those._begin = lambda accepted, *_: begun.append(accepted)  # type: ignore[method-assign]
    accept = listener._accepted
    left = [None]

    def accepted(listening: socket.socket) -> tuple[socket.socket, str]:
        if left:
            left.pop()
            raise ConnectionAbortedError
        return accept(listening)

    monkeypatch.setattr(listener, "_accepted", accepted)
    port = those.start()
    with socket.create_connection(("127.0.0.1", port)):
        (listening,) = those._sockets
        those._accept(listening, 0)
        assert len(begun) == 1
        # Nor does one that paused accept behind the end.
        those.close()
        those._resume(listening)
        begun[0].close()


async def test_who_leaves_before_its_handshake_takes_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over TLS that is noticed where the handshake is to begin."""
    certificate = Mock()
    certificate.context.wrap_socket.side_effect = OSError
    those = Listener(Application(), Settings(host="127.0.0.1", port=0), Entrance(certificate=certificate))
    monkeypatch.setattr("relay_tornado.proxy_trust.counted_address", lambda address: address)
    port = those.start()
    try:
        with socket.create_connection(("127.0.0.1", port)):
            await until(lambda: certificate.context.wrap_socket.called)
        assert not those._peers._open
    finally:
        those.close()


async def test_one_that_fails_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes wrong with one connection says nothing of those that wait behind it."""
    with welcoming(2 * HANDSHAKES_A_TURN) as those:

        def serve(stream: TornadoConnection) -> None:
            those.serve(stream)
            if len(those.served) == 1:
                raise LookupError("on purpose")

        monkeypatch.setattr(those.listener, "_serve", serve)
        those.hand_over()
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(those.served) == len(those.pairs)
        assert those.served[0].closed()


async def test_what_waits_is_begun_where_there_was_no_timer_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sweep begins it, where there was no memory to set the timer, and no other connection comes."""
    with welcoming(1) as those:
        with monkeypatch.context() as patch:
            patch.setattr(Timer, "_arm", once(Timer._arm))
            with pytest.raises(MemoryError):
                those.hand_over()
        those.listener._sweep()
        await until(lambda: len(those.served) == 1)


async def test_what_waits_is_begun_where_that_could_not_be_scheduled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A moment later, as for want of memory."""
    with welcoming(1) as those, monkeypatch.context() as patch:
        lose_timers(patch)
        those.hand_over()
        await until(lambda: len(those.served) == 1)
