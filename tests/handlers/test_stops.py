"""A site's stop: it keeps senders out only at its very end, whatever clients and requests in progress do."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest

from relay_tornado.handlers import connected_clients, feed, listener, tornado_connection
from relay_tornado.handlers.connected_clients import ConnectedClients
from relay_tornado.handlers.listener import Entrance, Listener
from relay_tornado.handlers.socket import _Protocol
from relay_tornado.handlers.tornado_connection import TornadoConnection
from tests.handlers.desk import desk
from tests.handlers.edge import CHUNKED, URL, Edge, HeldLog, edge
from tests.handlers.raw import HEALTH, TIMEOUT, Raw, request
from tests.handlers.sockets import HANDSHAKE
from tests.handlers.streams import here, stream_of
from tests.waiting import until

pytestmark = [pytest.mark.gen_test, pytest.mark.usefixtures("transport")]

GOING_AWAY = b"\x03\xe9"
"""1001, as a close frame has it."""


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that are sent away, and do not leave, are waited for as long as a test takes."""
    monkeypatch.setattr(connected_clients, "GRACE", TIMEOUT)
    monkeypatch.setattr(_Protocol, "_abort", _abort_when_closed)


def _abort_when_closed(self: _Protocol) -> None:
    """Tornado's own time-out for the answer to a close frame ends nothing."""
    if self.stream.closed():
        super(_Protocol, self)._abort()


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Set once a client is held."""
    told, turned_away = asyncio.Event(), ConnectedClients.turned_away

    async def holding(self: ConnectedClients, stream: TornadoConnection) -> bool:
        if self._closing:
            told.set()
        return await turned_away(self, stream)

    monkeypatch.setattr(ConnectedClients, "turned_away", holding)
    return told


async def opened(client: Raw) -> None:
    """Opens a WebSocket, whose client then does nothing."""
    client.send(HANDSHAKE)
    async with asyncio.timeout(TIMEOUT):
        await client.reader.readuntil(b"\r\n\r\n")


async def sent_away(client: Raw) -> None:
    async with asyncio.timeout(TIMEOUT):
        await client.reader.readuntil(GOING_AWAY)


async def begun(site: Edge, silent: Raw) -> asyncio.Task[None]:
    """A stop that has sent this client away, which does not leave."""
    await opened(silent)
    stopping = asyncio.create_task(site.site.stop())
    await sent_away(silent)
    return stopping


@pytest.mark.usefixtures("patient")
async def test_senders_are_served_while_clients_are_sent_away() -> None:
    """On new connections and on those that there are; nobody is once the last client has left."""
    async with edge(drain_timeout=8 * TIMEOUT) as site, Raw(site.port) as sender, Raw(site.port) as silent:
        assert (await sender.ask(request(URL, b"one"))).status == 200
        stopping = await begun(site, silent)
        async with Raw(site.port) as new:
            for each in (sender, new):
                reply = await each.ask(request(URL, b"x"))
                assert (reply.status, reply.header("Connection")) == (200, None)
        assert not stopping.done()
        silent.writer.close()
        assert await sender.closed() == b""
        await asyncio.wait_for(stopping, TIMEOUT)
        with pytest.raises(ConnectionRefusedError):
            async with Raw(site.port):
                pass
        assert len(await site.events()) == 3


@pytest.mark.parametrize("kind", ["socket", "stream"])
@pytest.mark.usefixtures("patient")
async def test_a_client_does_not_come_back_to_a_relay_that_stops(held: asyncio.Event, kind: str) -> None:
    """It hears nothing while others are sent away: told to come back, it would come back here. Once nobody can connect
    any more it is cut off."""
    async with edge(drain_timeout=8 * TIMEOUT) as site, Raw(site.port) as silent:
        again = HANDSHAKE if kind == "socket" else await stream_of(site)
        stopping = await begun(site, silent)
        async with Raw(site.port) as back, Raw(site.port) as other:
            back.send(again)
            await asyncio.wait_for(held.wait(), TIMEOUT)
            assert (await other.ask(HEALTH)).status == 200
            assert not stopping.done()
            silent.writer.close()
            assert await back.closed() == b""
        await asyncio.wait_for(stopping, TIMEOUT)
        assert site.site.clients.count == 0


@pytest.mark.parametrize("kind", ["socket", "stream"])
@pytest.mark.parametrize("when", ["held", "before"])
@pytest.mark.usefixtures("patient")
async def test_a_held_client_that_leaves_is_let_go(
    monkeypatch: pytest.MonkeyPatch, held: asyncio.Event, kind: str, when: str
) -> None:
    """At once, as it may come back again and again, and each time would keep a descriptor from senders."""
    monkeypatch.setattr(tornado_connection, "DISCARD_TIME", 3600.0)
    async with edge(drain_timeout=8 * TIMEOUT) as site, Raw(site.port) as silent:
        again = HANDSHAKE if kind == "socket" else await stream_of(site)
        stopping = await begun(site, silent)
        connections = site.site.listener.connections
        async with Raw(site.port) as back:
            back.send(again)
            if when == "before":
                back.writer.write_eof()
                assert await back.closed() == b""
            await asyncio.wait_for(held.wait(), TIMEOUT)
        await until(lambda: len(connections) == 1)
        assert not stopping.done()
        silent.writer.close()
        await asyncio.wait_for(stopping, TIMEOUT)


async def test_clients_that_do_not_leave_are_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """A WebSocket that does not answer the close frame, and a stream that reads nothing."""
    monkeypatch.setattr(connected_clients, "GRACE", 0.05)
    monkeypatch.setattr(feed, "_LAST_WORDS", 3600.0)
    monkeypatch.setattr(_Protocol, "_abort", _abort_when_closed)
    async with here(drain_timeout=3600.0) as site:
        await site.append(200, body=b"x" * 100_000)
        async with site.source("since=earliest") as source, Raw(site.edge.port) as silent:
            await source.hear("subscribed")
            (there,) = site.edge.site.clients.subscribed
            await until(there._stream.writing)  # type: ignore[attr-defined]
            await opened(silent)
            await asyncio.wait_for(site.edge.site.stop(), TIMEOUT)
            await sent_away(silent)


async def test_clients_that_leave_one_by_one_are_all_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time that all may be silent for begins anew with each that leaves."""
    monkeypatch.setattr(_Protocol, "_abort", _abort_when_closed)
    monkeypatch.setattr(connected_clients, "GRACE", TIMEOUT)
    cut: list[object] = []
    monkeypatch.setattr("relay_tornado.handlers.conversation.Conversation.cut_off", cut.append)
    async with edge(drain_timeout=8 * TIMEOUT) as site, Raw(site.port) as first, Raw(site.port) as second:
        for client in (first, second):
            await opened(client)
        stopping = asyncio.create_task(site.site.stop())
        for count, client in ((1, first), (0, second)):
            await sent_away(client)
            client.writer.close()
            await until(lambda left=count: site.site.clients.count == left)  # type: ignore[misc]
        await asyncio.wait_for(stopping, TIMEOUT)
    assert cut == []


@pytest.mark.usefixtures("patient")
async def test_requests_in_progress_finish_before_anybody_is_kept_out() -> None:
    """A slow body keeps out neither senders nor clients, and a WebSocket is no request in progress."""
    async with edge() as site, Raw(site.port) as slow, Raw(site.port) as client:
        await opened(client)
        slow.send(request(URL, b"body")[:-2])
        await until(lambda: site.site.ingest.buffered)
        finishing = asyncio.create_task(site.site.finish(TIMEOUT))
        await asyncio.sleep(0)
        async with Raw(site.port) as new, Raw(site.port) as other:
            assert [(await new.ask(request(URL, b"x"))).status for _ in range(2)] == [200, 200]
            await opened(other)
            assert not finishing.done()
            slow.send(b"dy")
            assert (await slow.reply()).status == 200
            await asyncio.wait_for(finishing, TIMEOUT / 2)
            assert (await new.ask(request(URL, b"x"))).status == 200
        assert len(await site.events()) == 4


@pytest.mark.usefixtures("patient")
async def test_a_request_that_begins_meanwhile_keeps_nobody_out(held: asyncio.Event) -> None:
    """Senders are served until it ends, too, and a client that is held is no request in progress."""
    async with edge(drain_timeout=8 * TIMEOUT) as site, Raw(site.port) as silent:
        stopping = await begun(site, silent)
        async with Raw(site.port) as slow, Raw(site.port) as back:
            slow.send(request(URL, b"body")[:-2])
            await until(lambda: site.site.ingest.buffered)
            back.send(HANDSHAKE)
            await asyncio.wait_for(held.wait(), TIMEOUT)
            silent.writer.close()
            await until(lambda: site.site.clients.count == 0)
            for _ in range(3):
                async with Raw(site.port) as new:
                    assert (await new.ask(request(URL, b"x"))).status == 200
            assert not stopping.done()
            slow.send(b"dy")
            assert (await slow.reply()).status == 200
            await asyncio.wait_for(stopping, TIMEOUT / 2)
        assert len(await site.events()) == 4


async def test_a_request_like_the_one_before_is_another() -> None:
    """A sender that goes on with equal requests is not waited for again and again."""
    log = HeldLog()
    async with edge(log=log, transport="tornado") as site, Raw(site.port) as sender:
        sender.send(request(URL, b"x"))
        await until(lambda: log.held)
        finishing = asyncio.create_task(site.site.finish(TIMEOUT))
        await asyncio.sleep(0)
        sender.send(request(URL, b"y"))
        log.release()
        assert (await sender.reply()).status == 200
        await until(lambda: log.held)
        await asyncio.wait_for(finishing, TIMEOUT / 2)
        log.release()
        assert (await sender.reply()).status == 200


async def test_a_request_that_does_not_end_is_not_waited_for_longer() -> None:
    """The stop goes on when its time is over."""
    async with edge() as site, Raw(site.port) as slow:
        slow.send(request(URL, b"body")[:-2])
        await until(lambda: site.site.ingest.buffered)
        await asyncio.wait_for(site.site.finish(0.1), TIMEOUT)
        slow.send(b"dy")
        assert (await slow.reply()).status == 200


async def test_an_answer_of_a_client_is_waited_for() -> None:
    """A sender that waits for it gets it; who would begin to wait now is to send again, and nothing is stored."""
    async with desk() as site:
        client, sender, event = await site.waiting_sender(b"before")
        finishing = asyncio.create_task(site.site.site.finish(TIMEOUT))
        await asyncio.sleep(0)
        late = await (await site.sender(request(URL, b"late"))).reply()
        assert (late.status, late.header("Retry-After")) == (503, "5")
        assert b"The relay is stopping" in late.body
        assert not finishing.done()
        await client.say({"action": "respond", "id": event["meta"]["id"], "status": 201})
        assert (await sender.reply()).status == 201
        await asyncio.wait_for(finishing, TIMEOUT / 2)
        assert [event.body for event in await site.site.events()] == [b"before"]


async def test_senders_that_have_connected_are_served(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those that the relay has not accepted yet, however many: closing its listening socket would reset them."""
    monkeypatch.setattr(listener, "ACCEPTS_A_TURN", 1)
    async with edge() as site:
        with contextlib.ExitStack() as stack:
            # Nothing here gives the loop a turn before the stop.
            senders = [
                stack.enter_context(socket.create_connection(("127.0.0.1", site.port), TIMEOUT)) for _ in range(3)
            ]
            for sender in senders:
                sender.sendall(request(URL, b"x"))
            site.site.listener.stop()
            for sender in senders:
                assert await asyncio.to_thread(_status, sender) == b"200"
        assert len(await site.events()) == 3


def _status(sender: socket.socket) -> bytes:
    return sender.recv(1 << 16)[9:12]


@pytest.mark.usefixtures("patient")
async def test_where_the_service_manager_listens_everybody_waits_for_the_next_process() -> None:
    """From the moment on in which clients are sent away, since they come back at once."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        port = listening.getsockname()[1]
        entrance = Entrance(inherited=[listening.dup()])
        async with edge(entrance=entrance, drain_timeout=8 * TIMEOUT) as site, Raw(port) as silent:
            stopping = await begun(site, silent)
            async with Raw(port), asyncio.timeout(TIMEOUT):
                late, _ = await asyncio.get_running_loop().sock_accept(listening)
                late.close()
            assert not stopping.done()
            silent.writer.close()
            await asyncio.wait_for(stopping, TIMEOUT)


async def test_a_request_that_tornado_takes_over_then_is_told_of_the_end() -> None:
    """A sender that has a connection sends one more, and its answer says that the connection closes."""
    async with edge(transport="direct") as site, Raw(site.port) as sender:
        assert (await sender.ask(request(URL, b"x"))).status == 200
        site.site.listener.stop()
        reply = await sender.ask(CHUNKED + b"1\r\ny\r\n0\r\n\r\n")
        assert (reply.status, reply.header("Connection")) == (200, "close")
        assert await sender.closed() == b""
        assert len(await site.events()) == 2


async def test_a_request_behind_the_last_one_is_not_stored() -> None:
    """It would not be answered. Its sender, which was told that the connection closes, sends it again."""
    log = HeldLog()
    async with edge(log=log) as site, Raw(site.port) as sender:
        sender.send(request(URL, b"x") + request(URL, b"y"))
        await until(lambda: log.held)
        site.site.listener.stop()
        log.release()
        reply = await sender.reply()
        assert (reply.status, reply.header("Connection")) == (200, "close")
        assert await sender.closed() == b""
        assert not log.held


async def test_a_request_that_came_with_its_connection_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that Tornado takes over has been read already: an end before Tornado looks at it must not cut it off."""
    monkeypatch.setattr(listener, "ALL_BUT_HERE", 0.0)
    serve = Listener._serve

    def end_before_it_is_looked_at(self: Listener, stream: TornadoConnection) -> None:
        serve(self, stream)
        # As `drained` does, in the same turn of the loop.
        for connection in tuple(self.connections):
            if not connection.busy:
                connection.close()

    monkeypatch.setattr(Listener, "_serve", end_before_it_is_looked_at)
    async with edge(transport="direct") as site, Raw(site.port) as client:
        assert (await client.ask(HEALTH)).status == 200
