"""Clients that leave at once: nothing of them is kept, and nobody is told of an error. Who has closed half of a
connection gets its answers."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
import websockets
from tornado.http1connection import HTTP1Connection
from tornado.httputil import HTTPServerRequest

from relay_tornado.handlers import feed, tornado_connection
from relay_tornado.handlers.socket import SocketHandler
from relay_tornado.handlers.tornado_connection import TornadoConnection
from relay_tornado.ingest.ingest import Upload
from relay_tornado.transport import direct
from relay_tornado.transport.direct import DirectConnection
from tests.handlers.edge import CHUNKED, URL, Edge, HeldLog, edge
from tests.handlers.raw import HEALTH, Raw, request, small
from tests.handlers.sockets import HANDSHAKE, Client, masked
from tests.handlers.streams import stream_of
from tests.waiting import until

pytestmark = [pytest.mark.gen_test(timeout=60), pytest.mark.usefixtures("transport")]

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
        assert (await last.ask(HEALTH)).status == 200
    await until(lambda: not site.site.listener.connections)


async def test_who_leaves_before_the_answers_leaves_nothing_behind(tmp_path: Path, quiet: None) -> None:
    """Neither its requests nor what was committed with them stay in memory; the last commit does until the next one."""
    async with edge(tmp_path) as site:
        for number in range(20):
            hang_up(site.port, request(URL, b"x") * 4, "reset" if number % 2 else "close")
        await nobody(site)
        async with Raw(site.port) as last:
            assert (await last.ask(request(URL, b"x"))).status == 200
        gc.collect()
        uploads = [each for each in gc.get_objects() if isinstance(each, Upload)]
        assert sum(each._ingest is site.site.ingest for each in uploads) <= 1


CUT_OFF = {
    "a body": b"POST /v1/buckets HTTP/1.1\r\nHost: relay.test\r\nAuthorization: %b\r\nContent-Length: 10\r\n\r\n{",
    "a refused body": b"POST /v1/buckets HTTP/1.1\r\nHost: relay.test\r\nContent-Length: 10\r\n\r\n{",
    "an answer": request(b"/v1/buckets", b"", b"Authorization: %b\r\n", b"GET"),
    "a refusal": request(b"/v1/buckets", method=b"GET"),
    "a page": request(b"/ui/", method=b"GET"),
    "a sign-in": request(b"/ui/session", b"{}"),
    "health": HEALTH,
}
"""Requests, and within or behind what their clients leave."""


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("sent", CUT_OFF.values(), ids=CUT_OFF)
async def test_a_request_that_is_cut_off_is_freed_at_once(sent: bytes) -> None:
    """Not by the garbage collector, which comes late: a request of a hostile client is large."""

    def requests() -> int:
        return sum(isinstance(each, HTTPServerRequest | HTTP1Connection) for each in gc.get_objects())

    async with edge() as site:
        _, secret = await site.token()
        data = sent.replace(b"%b", f"Bearer {secret}".encode())
        gc.collect()
        before = requests()
        gc.disable()
        try:
            for _ in range(3):
                async with Raw(site.port) as client:
                    client.send(data)
                    await until(lambda: requests() > before)
                    await asyncio.sleep(0.01)
            await until(lambda: not site.site.listener.connections)
            await until(lambda: requests() == before)
        finally:
            gc.enable()


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
        assert site.site.clients.count == 0
        async with websockets.connect(f"ws://127.0.0.1:{site.port}/v1/socket", proxy=None) as served:
            await (await served.ping())


PING = bytes((0x89, 0x80)) + bytes(4)
CLOSE = bytes((0x88, 0x82)) + bytes(4) + (1000).to_bytes(2, "big")
WRONG = masked({"action": "auth", "key": "a", "secret": "b"})


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize(
    ("frames", "answer"),
    [(CLOSE, b"\x88\x02\x03\xe8"), (PING + CLOSE, b"\x8a\x00\x88\x02\x03\xe8"), (WRONG + CLOSE, b"unauthorized")],
    ids=["close", "ping, close", "auth, close"],
)
async def test_who_says_good_bye_and_nothing_more_is_answered(frames: bytes, answer: bytes) -> None:
    """A WebSocket's client may close its half of the connection behind its close frame, and still wait for the
    relay's."""
    async with edge() as site, Raw(site.port) as client:
        client.send(HANDSHAKE)
        assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
        client.send(frames)
        client.writer.write_eof()
        assert (await client.closed()).endswith(answer)
        await nobody(site)
        assert site.site.clients.count == 0


async def test_a_socket_that_can_not_be_opened_takes_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes wrong behind the handshake is logged once, and the place is free again."""

    def fail(self: SocketHandler) -> None:
        raise LookupError("on purpose")

    async with edge(max_sockets=1) as site, Raw(site.port) as client:
        with monkeypatch.context() as patch, structlog.testing.capture_logs() as lines:
            patch.setattr(SocketHandler, "_forget_handshake", fail)
            client.send(HANDSHAKE)
            assert (await client.closed(reset=True)).startswith(b"HTTP/1.1 101")
            await until(lambda: site.site.clients.count == 0)
        assert [line["event"] for line in lines if line["log_level"] == "error"] == ["handler_failed"]
        async with websockets.connect(f"ws://127.0.0.1:{site.port}/v1/socket", proxy=None) as served:
            await (await served.ping())


LARGE = b"x" * 100_000
SAID: dict[str, tuple[bytes, int, list[bytes]]] = {
    "plain": (request(URL, b"one"), 1, [b"one"]),
    "large": (request(URL, LARGE), 1, [LARGE]),
    "chunked": (CHUNKED + b"3\r\none\r\n0\r\n\r\n", 1, [b"one"]),
    "chunked, large": (CHUNKED + b"186a0\r\n" + LARGE + b"\r\n0\r\n\r\n", 1, [LARGE]),
    "HTTP/1.0": (request(URL, b"one", version=b"HTTP/1.0"), 1, [b"one"]),
    "absolute form": (request(b"http://relay.test" + URL, b"one"), 1, [b"one"]),
    "options": (request(URL, b"one", b"TE: deflate\r\nConnection: TE, close\r\n"), 1, [b"one"]),
    "refused": (request(URL + b"x", b"one"), 1, []),
    "REST": (HEALTH, 1, []),
    "several": (request(URL, b"one") + HEALTH + CHUNKED + b"3\r\ntwo\r\n0\r\n\r\n" + HEALTH, 4, [b"one", b"two"]),
    "webhooks": (b"".join(request(URL, b"%d" % number) for number in range(3)), 3, [b"0", b"1", b"2"]),
    "more than is read at a time": (request(URL, LARGE * 3) + request(URL, b"y"), 2, [LARGE * 3, b"y"]),
    "one and most of another": (request(URL, b"one") + request(URL, b"two")[:-1], 1, [b"one"]),
    "one and a word": (request(URL, b"one") + b"POST", 1, [b"one"]),
    "one and a half": (HEALTH + CHUNKED + b"3\r\none\r\n0\r\n", 1, []),
}
"""What is sent, how many answers come, and the bodies that are stored."""


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize(("sent", "answers", "stored"), SAID.values(), ids=SAID)
async def test_who_has_said_everything_gets_the_answers(sent: bytes, answers: int, stored: list[bytes]) -> None:
    """A client that closes its half of the connection behind its requests reads the answers to all that are whole, and
    then the connection ends. Nothing is stored of what is not whole."""
    async with edge() as site, Raw(site.port) as client:
        client.send(sent)
        client.writer.write_eof()
        for _ in range(answers):
            assert (await client.reply()).status in (200, 404)
        assert await client.closed() == b""
        await until(lambda: not site.site.listener.connections)
        assert site.site.ingest.buffered == 0
        assert [event.body for event in await site.events()] == stored


@pytest.mark.usefixtures("quiet")
async def test_who_has_said_everything_reads_a_long_answer_to_its_end() -> None:
    """Also where it says so while the answer waits for it to read."""
    size = 4 << 20
    async with edge(idle_timeout=10.0) as site:
        await site.change(input={"body": "x" * size})
        with small(site.port) as client:
            client.sendall(request(URL))
            await until(lambda: any(each.writing() for each in site.site.listener.connections))
            client.shutdown(socket.SHUT_WR)
            for _ in range(5):  # the relay sees that before it is read
                await asyncio.sleep(0.001)
            client.setblocking(False)
            whole = bytearray()
            while data := await asyncio.get_running_loop().sock_recv(client, 65536):
                whole += data
            assert len(whole) - whole.index(b"\r\n\r\n") == 4 + size
            assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("target", [URL, b"/healthz"])
async def test_the_end_behind_a_head_in_parts_is_not_within_it(target: bytes) -> None:
    """A head that more than one read takes is there as a whole where the next one finds the client's end."""
    long = request(target, b"", b"TE: deflate\r\nConnection: TE\r\nX-Long: %b\r\n" % (b"x" * (40 << 10)), b"GET")
    async with edge(max_header=64 << 10) as site, Raw(site.port) as client:
        assert (await client.ask(HEALTH)).status == 200
        client.send(long)
        client.writer.write_eof()
        assert (await client.reply()).status == 200
        assert await client.closed() == b""


@pytest.mark.parametrize("headers", [b"", b"Connection: TE, close\r\nTE: deflate\r\n"])
async def test_who_may_have_left_is_not_held_for_long(headers: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no answer comes, a connection whose client sends nothing more is closed after a while, and costs the loop
    nothing meanwhile."""
    for module in (tornado_connection, direct):
        monkeypatch.setattr(module, "DISCARD_TIME", 0.2)
    log = HeldLog()
    reads: list[object] = []

    def counts(connection: type, read: str) -> None:
        real = getattr(connection, read)
        monkeypatch.setattr(connection, read, lambda self, *given: (reads.append(self), real(self, *given))[1])

    counts(TornadoConnection, "read_from_fd")
    counts(DirectConnection, "_readable")
    async with edge(log=log, idle_timeout=1.0) as site, Raw(site.port) as client:
        client.send(request(URL, b"one", headers))
        await until(lambda: log.held)
        assert reads
        reads.clear()
        client.writer.write_eof()
        assert await client.closed() == b""
        assert len(reads) < 10
        log.release()


@pytest.mark.parametrize("headers", [b"", b"Connection: TE, close\r\nTE: deflate\r\n"])
async def test_who_waits_for_a_client_has_to_stay(headers: bytes) -> None:
    """One that waits for the answer of a client is taken to have left, so that nobody answers it in vain."""
    async with edge() as site:
        await site.change(input={"response_from_output": "anyOutput"})
        async with websockets.connect(f"ws://127.0.0.1:{site.port}/v1/socket", proxy=None) as socket_:
            reader = Client(socket_)
            await reader.sign_in(*await site.token())
            await reader.subscribe()
            async with Raw(site.port) as client:
                client.send(request(URL, b"one", headers))
                assert (await reader.hear())["type"] == "webhook"
                client.writer.write_eof()
                assert await client.closed() == b""


@pytest.mark.parametrize("headers", [b"", b"Connection: TE\r\nTE: deflate\r\n"])
async def test_who_has_left_during_an_earlier_request_does_not_wait_for_a_client(headers: bytes) -> None:
    """The earlier one gets its answer, and nobody answers the later one in vain."""
    log = HeldLog()
    async with edge(log=log) as site, Raw(site.port) as client:
        client.send(request(URL, b"one", headers) + request(URL, b"two", headers))
        await until(lambda: log.held)
        client.writer.write_eof()
        await asyncio.sleep(0.1)
        await site.change(input={"response_from_output": "anyOutput"})
        log.release()
        assert (await client.closed()).count(b"HTTP/1.1") == 1
        log.release()


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("more", [b"", b"\r\n", HEALTH, LARGE], ids=["", "a line end", "a request", "noise"])
@pytest.mark.parametrize("how", ["half", "close", "reset"])
async def test_a_stream_whose_client_has_left_takes_no_place(how: str, more: bytes) -> None:
    """At once, whatever the client sent behind its request."""
    async with edge(max_sockets=PLACES) as site:
        asked = await stream_of(site)
        left = [hang_up(site.port, asked + more, how) for _ in range(PLACES)]
        await nobody(site)
        # Its task notices the end of its connection a turn of the loop later.
        await until(lambda: site.site.clients.count == 0)
        for client in left:
            client.close()


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("more", [b"", b"\r\n", LARGE * 3], ids=["", "a line end", "noise"])
async def test_a_stream_ends_with_its_client(more: bytes) -> None:
    """Also where the client has sent something meanwhile."""
    async with edge() as site:
        async with Raw(site.port) as client:
            client.send(await stream_of(site))
            assert b"subscribed" in await client.reader.readuntil(b"\n\n\r\n")
            assert site.site.clients.count == 1
            client.send(more)
            await client.writer.drain()
            client.writer.write_eof()
            await client.closed(reset=True)
        await nobody(site)
        assert site.site.clients.count == 0


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("more", [b"", b"\r\n", LARGE * 3], ids=["", "a line end", "noise"])
async def test_a_reset_ends_a_stream(more: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the next heartbeat would find that nobody is there."""
    monkeypatch.setattr(feed, "HEARTBEAT", 600.0)
    async with edge(ping_interval=600.0) as site:
        with socket.create_connection(("127.0.0.1", site.port)) as client:
            client.sendall(await stream_of(site))
            await until(lambda: site.site.clients.count == 1)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.sendall(more)
        await until(lambda: site.site.clients.count == 0)


@pytest.mark.usefixtures("quiet")
async def test_a_stream_that_nobody_waits_for_does_not_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that leaves while the relay looks for its buckets is no error."""
    async with edge() as site, Raw(site.port) as client:
        subscribe = site.site.clients.deliveries.subscribe

        async def slowly(*args: Any, **options: Any) -> Any:
            client.writer.transport.abort()
            await until(lambda: not site.site.listener.connections)
            return await subscribe(*args, **options)

        monkeypatch.setattr(site.site.clients.deliveries, "subscribe", slowly)
        client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.send(await stream_of(site))
        await until(lambda: site.site.clients.count == 1)
        await until(lambda: site.site.clients.count == 0)
