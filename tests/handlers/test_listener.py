"""How many connections there may be, what happens when descriptors run out, and how a site comes to its end."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import socket
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import structlog
import websockets
from tornado.web import Application

from relay_tornado.errors import StartupError
from relay_tornado.handlers.health import HealthHandler
from relay_tornado.handlers.listener import _ACCEPT_PAUSE, REQUESTS_A_TURN, Listener
from relay_tornado.handlers.tornado_connection import TornadoConnection
from relay_tornado.model import RateLimit
from relay_tornado.rate_limits import LogLimit
from relay_tornado.settings import Settings
from tests.counting import calls_by_turn
from tests.failing import lose_timers
from tests.handlers.edge import CHUNKED, URL, HeldLog, edge
from tests.handlers.raw import HEALTH, Raw, request
from tests.needs import needs_ipv6
from tests.waiting import until
from tests.watching import unwatched

pytestmark = pytest.mark.usefixtures("transport")


@pytest.mark.gen_test
async def test_the_number_of_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over the limit a connection is closed at once, one line a while says so, and the others are not disturbed."""
    monkeypatch.setattr("relay_tornado.handlers.listener.LogLimit", partial(LogLimit, RateLimit(1, 3600.0)))
    async with edge(max_connections=2) as site, Raw(site.port) as first, Raw(site.port) as second:
        assert (await first.ask(request(URL, b"x"))).status == 200
        assert (await second.ask(request(URL, b"x"))).status == 200
        with structlog.testing.capture_logs() as lines:
            for _ in range(5):
                async with Raw(site.port) as third:
                    assert await third.closed() == b""
        assert [(line["event"], line["address"]) for line in lines] == [("too_many_connections", "127.0.0.1")]
        assert (await first.ask(request(URL, b"x"))).status == 200
        second.writer.close()
        await until(lambda: len(site.site.listener.connections) == 1)
        async with Raw(site.port) as third:
            assert (await third.ask(request(URL, b"x"))).status == 200


@pytest.mark.gen_test
async def test_a_line_of_refusals_counts_those_since_the_last_one() -> None:
    listener = Listener(Application(), Settings())
    with structlog.testing.capture_logs() as lines:
        for times in (1, 2, 1):
            listener._log_limit = LogLimit()
            for _ in range(times):
                listener._refuse("192.0.2.1")
    assert [line["refused"] for line in lines] == [1, 1, 2]


@pytest.mark.gen_test
async def test_the_limit_leaves_descriptors() -> None:
    """Whatever is configured, some descriptors are kept from connections."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with edge() as site, edge(max_connections=soft * 2) as greedy, edge(max_connections=7) as modest:
        assert site.site.listener.limit == greedy.site.listener.limit < soft
        assert modest.site.listener.limit == 7


@pytest.mark.gen_test
@pytest.mark.parametrize("lost", [False, True])
async def test_out_of_descriptors(lost: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no descriptor is left, accepting pauses instead of spinning, and goes on once there are some; also where
    there was no memory to set a timer."""
    tries = 0
    accept = Listener._accept

    def counting(self: Listener, *args: Any) -> None:
        nonlocal tries
        tries += 1
        accept(self, *args)

    monkeypatch.setattr(Listener, "_accept", counting)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with edge() as site:
        if lost:
            lose_timers(monkeypatch)
        with socket.socket() as client, structlog.testing.capture_logs() as lines:
            client.setblocking(False)
            highest = max(int(each.name) for each in Path("/proc/self/fd").iterdir())
            spare = []
            while (descriptor := os.dup(0)) < highest:
                spare.append(descriptor)
            os.close(descriptor)
            resource.setrlimit(resource.RLIMIT_NOFILE, (highest, hard))
            try:
                await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", site.port))
                await until(lambda: lines)
                before, began = tries, time.monotonic()
                for _ in range(100):
                    await asyncio.sleep(0)
                assert tries <= before + 1 + (time.monotonic() - began) / _ACCEPT_PAUSE
                assert lines[0]["event"] == "accepting_paused"
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                for fd in spare:
                    os.close(fd)
            await asyncio.get_running_loop().sock_sendall(client, request(URL, b"x"))
            async with asyncio.timeout(60):
                assert (await asyncio.get_running_loop().sock_recv(client, 15)) == b"HTTP/1.1 200 OK"


@pytest.mark.gen_test
async def test_accepting_goes_on_once_the_socket_can_be_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel watches no more files, a pause is followed by another one, not by the end of all accepting."""
    async with edge() as site:
        listener = site.site.listener
        (listening,) = listener._sockets
        raised = unwatched(monkeypatch, 2)
        listener._pause(listening, OSError(errno.EMFILE, os.strerror(errno.EMFILE)))
        async with Raw(site.port) as raw:
            assert (await raw.ask(request(URL, b"x"))).status == 200
        assert len(raised) == 2


@pytest.mark.gen_test
@pytest.mark.parametrize("transport", ["direct"])
async def test_connections_that_can_not_be_watched(transport: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is closed, and one line a while says why; those that were there are not disturbed."""
    monkeypatch.setattr("relay_tornado.handlers.listener.LogLimit", partial(LogLimit, RateLimit(1, 3600.0)))
    async with edge(transport=transport) as site, Raw(site.port) as there:
        assert (await there.ask(request(URL, b"x"))).status == 200
        with structlog.testing.capture_logs() as lines:
            unwatched(monkeypatch, 3)
            for _ in range(3):
                async with Raw(site.port) as raw:
                    assert await raw.closed() == b""
        assert [(line["event"], line["reason"]) for line in lines] == [
            ("connection_not_served", "No space left on device")
        ]
        assert len(site.site.listener.connections) == 1
        assert (await there.ask(request(URL, b"x"))).status == 200
        async with Raw(site.port) as raw:
            assert (await raw.ask(request(URL, b"x"))).status == 200


@pytest.mark.gen_test
async def test_a_taken_port() -> None:
    """An address that can't be listened on is said in words."""
    async with edge() as site:
        with pytest.raises(StartupError, match=f"can't listen on 127.0.0.1 port {site.port}: .*; another program"):
            async with edge(port=site.port):
                pass


@pytest.mark.gen_test
async def test_an_address_that_the_machine_has_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a name's addresses, as ::1 of localhost in a container without IPv6, it is left out, with a warning; where it
    is the only one nobody listens, and what to do is said."""
    real = socket.getaddrinfo

    def two(host: str, *asked: Any, **more: Any) -> list[Any]:
        hosts = ("192.0.2.1", "127.0.0.1") if host == "two.test" else (host,)
        return [found for each in hosts for found in real(each, *asked, **more)]

    monkeypatch.setattr(socket, "getaddrinfo", two)
    with structlog.testing.capture_logs() as lines:
        async with edge(host="two.test") as site, Raw(site.port) as raw:
            assert (await raw.ask(request(URL, b"x"))).status == 200
    assert [(line["event"], line["address"]) for line in lines] == [("address_not_here", "192.0.2.1")]
    with pytest.raises(StartupError, match=r"can't listen on 192.0.2.1 port 0: .*; this machine has no such address"):
        async with edge(host="192.0.2.1"):
            pass


@pytest.mark.gen_test
async def test_accepted_requests_finish() -> None:
    """At the end accepted requests are answered and their connections closed; idle ones, and those with a part of a
    head, close in a moment, and nobody new is let in."""
    log = HeldLog()
    async with (
        edge(log=log) as site,
        Raw(site.port) as idle,
        Raw(site.port) as begun,
        Raw(site.port) as busy,
        Raw(site.port) as sending,
    ):
        assert (await idle.ask(HEALTH)).status == 200
        begun.send(b"POST ")
        busy.send(request(URL, b"x"))
        sending.send(request(URL, b"body")[:-2])
        await until(lambda: log.held and site.site.ingest.buffered)
        stopping = asyncio.create_task(site.site.stop())
        assert (await idle.closed(), await begun.closed()) == (b"", b"")
        with pytest.raises(ConnectionRefusedError):
            async with Raw(site.port):
                pass
        sending.send(b"dy")
        await until(lambda: len(log.held) == 2)
        log.release()
        for raw in (busy, sending):
            reply = await raw.reply()
            assert (reply.status, reply.header("Connection")) == (200, "close")
            assert await raw.closed() == b""
        await asyncio.wait_for(stopping, 60)


@pytest.mark.gen_test
async def test_a_request_that_was_just_read_finishes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop between the read of a request and the turn of the loop in which it is looked at: it is stored, so its
    sender is answered. A chunked one is Tornado's on either transport."""
    read = TornadoConnection.read_from_fd
    stops: list[Callable[[], None]] = []
    busy: list[bool] = []

    def read_and_stop(self: TornadoConnection, buf: bytearray | memoryview) -> int | None:
        size = read(self, buf)
        while stops:
            asyncio.get_running_loop().call_soon(stops.pop())
        return size

    def stop_at(listener: Listener) -> None:
        busy.extend(connection.busy for connection in listener.connections)
        listener.stop()

    monkeypatch.setattr(TornadoConnection, "read_from_fd", read_and_stop)
    async with edge() as site, Raw(site.port) as connection:
        for stop in (False, True):
            if stop:
                stops.append(partial(stop_at, site.site.listener))
            answer = await connection.ask(CHUNKED + b"1\r\nx\r\n0\r\n\r\n")
            assert (answer.status, answer.header("Connection")) == (200, "close" if stop else None)
        assert await connection.closed() == b""
        assert busy == [True]
        assert len(await site.events()) == 2


@pytest.mark.gen_test
async def test_a_drain_ends() -> None:
    """A request that does not come to its end does not keep the relay from its own."""
    log = HeldLog()
    async with edge(log=log, drain_timeout=0.1) as site, Raw(site.port) as raw:
        raw.send(request(URL, b"x"))
        await until(lambda: log.held)
        await asyncio.wait_for(site.site.stop(), 60)
        assert await raw.closed() == b""
        assert not site.site.listener.connections


@pytest.mark.gen_test
@pytest.mark.parametrize(("leaves", "patience"), [(True, 60.0), (False, 0.1)], ids=["leaves", "stays"])
async def test_a_drain_waits_for_who_reads_last_words(
    monkeypatch: pytest.MonkeyPatch, leaves: bool, patience: float
) -> None:
    """Who was refused, and whose connection only lingers, is not reset by the end either; but not for long."""
    monkeypatch.setattr("relay_tornado.handlers.listener.LAST_WORDS", patience)
    async with edge() as site, Raw(site.port) as refused:
        listener = site.site.listener
        assert (await refused.ask(b"garbage\r\n\r\n")).status == 400
        await until(lambda: listener.lingering and not listener.connections)
        drained = asyncio.create_task(listener.drained())
        await asyncio.sleep(0)
        assert not drained.done()
        if leaves:
            refused.writer.close()
        await asyncio.wait_for(drained, 30)
        assert bool(listener.lingering) is not leaves
        listener.close()
        assert not listener.lingering


@pytest.mark.gen_test
async def test_sockets_have_no_deadline() -> None:
    """The times for heads and bodies are not those of a WebSocket: it outlives connections that came after it."""
    async with AsyncExitStack() as stack:
        site = await stack.enter_async_context(edge(idle_timeout=1.0, body_timeout=1.0))
        client = await stack.enter_async_context(websockets.connect(f"ws://127.0.0.1:{site.port}/v1/socket"))
        for _ in range(2):
            async with Raw(site.port) as idle:
                assert await idle.closed() == b""
        await asyncio.wait_for(await client.ping(), 60)


@pytest.mark.gen_test(timeout=60)
async def test_a_clock_that_is_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is idle is closed, too, where the clock of day went back by an hour meanwhile."""
    async with edge(idle_timeout=0.3) as site, Raw(site.port) as idle:
        now = time.time
        monkeypatch.setattr(time, "time", lambda: now() - 3600.0)
        assert await idle.closed() == b""


@pytest.mark.gen_test
@pytest.mark.parametrize("transport", ["direct", "tornado"])
async def test_the_relay_stood_still(transport: str) -> None:
    """For longer than a sender has for its request, which came in whole meanwhile: it is answered."""
    times = dict.fromkeys(("head_timeout", "body_timeout", "idle_timeout"), 2.0)
    async with edge(transport=transport, **times) as site, Raw(site.port) as raw:
        assert (await raw.ask(request(URL, b"first"))).status == 200
        raw.send(request(URL, b"second"))
        time.sleep(2.5)  # this is how it stands still
        site.site.listener._sweep()
        assert (await raw.reply()).status == 200


@pytest.mark.gen_test
async def test_a_loop_that_is_always_slow() -> None:
    """It closes who is late all the same."""
    async with edge(idle_timeout=0.1) as site, Raw(site.port) as idle:
        listener = site.site.listener
        await until(lambda: listener.connections)
        listener._swept = time.monotonic()  # it has not been slow so far
        for there in (True, False):
            time.sleep(0.5)
            listener._sweep()
            assert bool(listener.connections) is there
        assert await idle.closed() == b""


@pytest.mark.gen_test
@pytest.mark.parametrize("headers", [b"", b"Connection: close\r\n"], ids=["kept", "closed"])
async def test_requests_of_many_take_turns(headers: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn of the loop begins a few requests that are no webhooks, however many connections have one: each takes as
    long as many webhooks, and senders wait meanwhile."""
    async with edge() as site, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(Raw(site.port)) for _ in range(10 * REQUESTS_A_TURN)]
        for client in clients:
            assert (await client.ask(HEALTH)).status == 200
        calls = calls_by_turn(monkeypatch, HealthHandler, "get")
        for client in clients:
            client.send(request(b"/healthz", headers=headers, method=b"GET"))
        for client in clients:
            assert (await client.reply()).status == 200
    assert sum(calls) == len(clients)
    assert max(calls) <= REQUESTS_A_TURN


@pytest.mark.gen_test
async def test_bodies_in_chunks_do_not_wait_for_other_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """A large webhook in small chunks arrives in its time, however many other requests wait for their turn."""
    async with edge() as site, Raw(site.port) as sender:
        admission = site.site.listener.admission
        monkeypatch.setattr(admission, "left", 0)
        monkeypatch.setattr(admission, "most", 0)
        assert (await sender.ask(CHUNKED + 100 * b"1\r\nx\r\n" + b"0\r\n\r\n")).status == 200
        assert [len(event.body) for event in await site.events()] == [100]


@pytest.mark.gen_test
async def test_who_leaves_before_its_turn_takes_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its request is not begun, and its data is freed at once: a crowd may connect and leave again and again."""
    async with edge() as site, Raw(site.port) as other, Raw(site.port) as gone:
        assert (await other.ask(HEALTH)).status == 200
        assert (await gone.ask(HEALTH)).status == 200
        calls = calls_by_turn(monkeypatch, HealthHandler, "get")
        admission = site.site.listener.admission
        monkeypatch.setattr(admission, "left", 0)
        monkeypatch.setattr(admission, "most", 0)
        gone.send(HEALTH)
        await until(lambda: len(admission.waiting) == 1)
        [waits] = [each for each in site.site.listener.connections if each.busy]
        waits.close()  # as after a reset
        assert admission.waiting[0].done()
        other.send(HEALTH)
        await until(lambda: len(admission.waiting) == 2)
        monkeypatch.setattr(admission, "most", 1)
        admission._turn()
        assert not admission.waiting
        assert (await other.reply()).status == 200
    assert sum(calls) == 1


@pytest.mark.gen_test
async def test_ipv6() -> None:
    """An IPv6 address is listened on, and is the sender's address of what comes."""
    needs_ipv6()
    async with edge(host="::1") as site, Raw(site.port, "::1") as raw:
        assert (await raw.ask(request(URL, b"x"))).status == 200
        assert (await site.events())[0].remote_ip == "::1"
