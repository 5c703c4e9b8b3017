"""Webhooks read by the relay itself: what it reads, what it answers, and what it is held to."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from email.utils import formatdate
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import structlog

from relay_tornado.handlers.tornado_connection import TornadoConnection
from relay_tornado.ingest.ingest import Head, Ingest, Upload
from relay_tornado.transport import direct
from relay_tornado.transport.direct import DirectConnection
from relay_tornado.wire.answers import Answer
from tests.failing import once
from tests.handlers.edge import BUCKET, CHUNKED, DIRECT, URL, HeldLog, edge
from tests.handlers.raw import HEALTH, Raw, request
from tests.needs import uvloops
from tests.transport.connections import kind
from tests.waiting import until
from tests.watching import unwatched


@pytest.mark.gen_test
async def test_who_speaks_tls_is_told() -> None:
    """At once, and in clear, by which a TLS library sees that there is none."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    async with edge() as site, Raw(site.port) as raw:
        reply = await raw.ask(outgoing.read())
        assert reply.status == 400
        assert b"This port speaks no HTTPS" in reply.body
        assert await raw.closed() == b""


ASKED: dict[str, bytes] = {
    "stored": request(URL, b"x"),
    "a GET": request(URL, method=b"GET"),
    "a HEAD": request(URL, method=b"HEAD"),
    "no such input": request(URL + b"x", b"y"),
    "too large": request(URL, headers=b"").replace(b"Length: 0", b"Length: 9999999"),
    "closed by the sender": request(URL, b"x", b"Connection: close\r\n"),
    "kept by the sender": request(URL, b"x", b"Connection: keep-alive\r\n"),
    "HTTP/1.0": request(URL, b"x", version=b"HTTP/1.0"),
    "a length twice": request(URL, b"x", b"Content-Length: 1\r\n"),
    "two lengths": request(URL, b"x", b"Content-Length: 2\r\n"),
    "a length and chunks": request(URL, b"0\r\n\r\n", b"Transfer-Encoding: chunked\r\n"),
    "two kinds of chunks": b"POST %b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
    b"Transfer-Encoding: identity\r\n\r\n0\r\n\r\n" % URL,
    "chunks by another name": b"POST %b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" % URL,
    "chunks behind a blank": b"POST %b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n" % URL,
    "a chunk with an extension": CHUNKED + b"1;%b\r\na\r\n0\r\n\r\n" % (b"a" * 9000),
    "a chunk that is too long": CHUNKED + b"fffffffffffffffff\r\na\r\n0\r\n\r\n",
    "a signed chunk": CHUNKED + b"+1\r\na\r\n0\r\n\r\n",
    "bare line feeds": b"POST %b HTTP/1.1\nHost: x\nContent-Length: 0\n\n" % URL,
    "a bare carriage return": request(URL, b"x", b"A: b\rContent-Length: 5\r\n"),
    "a folded length": request(URL, b"x", b"A: b\r\n Content-Length: 5\r\n"),
    "a NUL": request(URL, b"x", b"A: \x00\r\n"),
    "two hosts": request(URL, b"x", b"Host: other\r\n"),
    "no host": b"POST %b HTTP/1.1\r\nContent-Length: 0\r\n\r\n" % URL,
    "absolute form": request(b"http://other" + URL, b"x"),
    "another version": request(URL, b"x", version=b"HTTP/1.2"),
    "a version that is none": request(URL, b"x", version=b"HTTP/9"),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a huge head": request(URL, b"x", b"A: " + b"a" * 40_000 + b"\r\n"),
    "a huge line": b"POST /%b HTTP/1.1\r\n" % (b"a" * 40_000),
    "unasked for": request(b"/v1/nothing", b"x"),
}


@pytest.mark.gen_test
@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED)
async def test_both_answer_alike(asked: bytes) -> None:
    """Byte for byte but the Date, both transports say the same, close or go on alike, and store the same."""
    said = []
    for each in ("direct", "tornado"):
        async with edge(transport=each) as site, Raw(site.port) as raw:
            raw.send(asked + HEALTH)
            with_date = [await asyncio.wait_for(raw.reader.read(1), 60)]
            raw.writer.write_eof()
            with_date.append(await raw.closed(reset=True))
            text = re.sub(rb"(?m)^(Date|Etag|Server|Request-Id): .*\r\n", b"", b"".join(with_date))
            text = re.sub(rb'("(uptime|started|version)[^,}]*)', b"", text)
            stored = [(one.method, one.path, one.query, one.headers, one.body) for one in await site.events()]
            said.append((text.partition(b"HTTP/1.1 200 OK\r\nServer")[0].split(b"\r\n\r\n")[0], stored))
    assert said[0] == said[1]


SMUGGLED = b"GET %b/smuggled HTTP/1.1\r\nHost: x\r\n\r\n" % URL


@pytest.mark.gen_test
@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: 0\r\nContent-Length: %d\r\n",
        b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: %d\r\n",
        b"Content-Length: %d\r\nTransfer-Encoding : chunked\r\n",
        b"Content-Length: %d\r\nTransfer-Encoding:\x0bchunked\r\n",
        b"Content-Length: %d\r\nX: x\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
        b"Content-Length: %d\r\n Transfer-Encoding: chunked\r\n",
        b"Content-Length: 0, %d\r\n",
        b"Content-Length: 0\x00%d\r\n",
        b"Content-Length: 0\n%d: \r\n",
        b"Content-Length : %d\r\n",
        b"Content_Length: 1\r\nContent-Length: 0\x85%d\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: cow\r\nA: %d\r\n",
        b"Transfer-Encoding: \tchunked, identity\r\nA: %d\r\n",
        b"Transfer-Encoding: chunked\x00\r\nA: %d\r\n",
    ],
)
async def test_nothing_is_smuggled(transport: str, framing: bytes) -> None:
    """Of a request whose end can be seen in two places nothing is stored, nor of what hides in it; the connection
    closes."""
    async with edge() as site, Raw(site.port) as raw:
        raw.send(b"POST %b HTTP/1.1\r\nHost: x\r\n%b\r\n%b" % (URL, framing % len(SMUGGLED), SMUGGLED))
        assert (await raw.reply()).status == 400
        assert await raw.closed(reset=True) == b""
        assert await site.events() == []


@pytest.mark.gen_test
async def test_an_input_with_its_own_domain() -> None:
    """It is read directly, too, by its host and path; other hosts are Tornado's."""
    async with edge() as site:
        await site.change(input={"custom_domain": "hooks.example.com", "path_prefix": "/shop"})
        async with Raw(site.port) as raw:
            asked = request(b"/shop/a?b", b"x").replace(b"relay.test", b"Hooks.Example.com:8080")
            assert (await raw.ask(asked)).status == 200
            assert kind(site) is DirectConnection
            assert (await raw.ask(request(b"/shop/a", b"x"))).status == 404
            assert kind(site) is TornadoConnection
        [event] = await site.events()
        assert (event.path, event.query) == (b"/shop/a", b"b")


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloops])
def test_on_either_loop(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """Webhooks, large answers to slow readers, hand-over, idle connections and the end are the same on uvloop."""

    async def check() -> None:
        async with edge(body_timeout=2.0) as site, Raw(site.port) as raw, Raw(site.port) as idle:
            await site.change(input={"body": "x" * 8_000_000})
            raw.send(request(URL, b"one") * 2)
            await until(lambda: any(each.writing() for each in site.site.listener.connections))
            for _ in range(2):
                assert len((await raw.reply()).body) == 8_000_000
            await site.change(input={"body": ""})
            for asked in (request(URL, b"x" * 500_000), HEALTH, request(URL, b"two")):
                assert (await raw.ask(asked)).status == 200
            assert len(await site.events()) == 4
            async with Raw(site.port) as late:
                late.send(request(URL, b"late")[:-1])
                assert (await late.reply()).status == 408
                assert await late.closed() == b""
            assert (await idle.ask(request(URL, b"three"))).status == 200
            await site.site.stop()
            assert await idle.closed() == b""
            assert await raw.closed() == b""

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(check())


@pytest.mark.gen_test
async def test_a_failure_ends_one_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """What no one thought of closes the connection on which it happened, is logged, and lets the others be."""
    begin = Ingest.begin

    def failing(self: Ingest, head: Head) -> Upload | Answer:
        assert head.method != "FAIL", "on purpose"
        return begin(self, head)

    monkeypatch.setattr(Ingest, "begin", failing)
    async with edge() as site, Raw(site.port) as raw, Raw(site.port) as other:
        assert (await raw.ask(request(URL, b"x"))).status == 200
        with structlog.testing.capture_logs() as lines:
            raw.send(request(URL, b"y", method=b"FAIL") + request(URL, b"z"))
            assert await raw.closed(reset=True) == b""
        assert [line["event"] for line in lines] == ["request_failed"]
        assert (await other.ask(request(URL, b"x"))).status == 200
        assert [event.body for event in await site.events()] == [b"x", b"x"]


@pytest.mark.gen_test
async def test_a_connection_that_can_not_be_watched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its socket was not read while an answer was on its way, and the kernel watches no more files: it is closed. Its
    sender would wait until the connection has been idle for too long."""
    log = HeldLog()
    async with edge(log=log) as site, Raw(site.port) as raw:
        raw.send(request(URL, b"x"))
        await until(lambda: log.held)
        raw.send(request(URL, b"y")[:-1])
        (connection,) = site.site.listener.connections
        assert isinstance(connection, DirectConnection)
        await until(lambda: not connection._reading)
        with structlog.testing.capture_logs() as lines:
            unwatched(monkeypatch, 1)
            log.release()
            assert (await raw.reply()).status == 200
            assert await raw.closed(reset=True) == b""
        assert [line["event"] for line in lines] == ["request_failed"]
        assert not site.site.listener.connections


@pytest.mark.gen_test
@pytest.mark.parametrize("back", [3600, 1])
async def test_an_answers_date_follows_the_clock(transport: str, monkeypatch: pytest.MonkeyPatch, back: int) -> None:
    """Also where that is set back on a connection that goes on."""
    now = time.time()
    async with edge() as site, Raw(site.port) as raw:
        for at in (now, now - back, now - back, now + 1):
            monkeypatch.setattr(time, "time", lambda at=at: at)
            assert (await raw.ask(request(URL, b"x"))).header("Date") == formatdate(int(at), usegmt=True)


@pytest.mark.gen_test
async def test_a_sender_that_can_not_be_answered_is_let_go(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Rather than that it waits for ever; its webhook is stored, and the log says why."""
    for part, sent in ((Ingest, [b"x"]), (direct.Direct, [b"x"]), (direct.Direct, [b"x" * 50_000, b"x" * 50_000])):
        async with edge() as site, Raw(site.port) as raw:
            assert (await raw.ask(request(URL, b"first"))).status == 200
            with monkeypatch.context() as patch, structlog.testing.capture_logs():
                patch.setattr(part, "answer" if part is Ingest else "encoded", lambda *_: 1 // 0)
                whole = request(URL, b"".join(sent))
                for start in range(0, len(whole), 60_000):
                    raw.send(whole[start : start + 60_000])
                assert await raw.closed() == b""
            assert [record.levelname for record in caplog.records] == ["ERROR"]
            caplog.clear()
            assert [event.body for event in await site.events()] == [b"first", b"".join(sent)]
            assert not site.site.listener.connections


@pytest.mark.gen_test
async def test_a_failure_of_a_whole_webhook(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same where it came at once."""
    monkeypatch.setattr(Ingest, "take", lambda *_: 1 // 0)
    async with edge() as site, Raw(site.port) as raw:
        with structlog.testing.capture_logs() as lines:
            raw.send(request(URL, b"x"))
            assert await raw.closed() == b""
        assert [line["event"] for line in lines] == ["request_failed"]
        assert not site.site.listener.connections
        assert await site.events() == []


@pytest.mark.gen_test
async def test_however_a_webhook_is_cut() -> None:
    """In one piece or in two, alone or with the next behind it: the same events in the same order."""
    sent = [request(URL + b"/%d?q" % number, b"body %d" % number, b"X-A: b\r\n") for number in range(4)]
    whole = b"".join(sent)
    first = len(sent[0])
    async with edge() as site:
        cuts = (*range(1, first + 3), first + 40, len(whole) - 1, len(whole))
        for cut in cuts:
            async with Raw(site.port) as raw:
                raw.send(whole[:cut])
                await asyncio.sleep(0.002)
                raw.send(whole[cut:])
                assert [(await raw.reply()).status for _ in sent] == [200] * 4
        events = await site.events()
        assert [event.body for event in events] == [b"body %d" % number for number in range(4)] * len(cuts)
        assert {(event.path, event.query) for event in events} == {(b"/%d" % number, b"q") for number in range(4)}
        assert len({event.headers for event in events}) == 1


@pytest.mark.gen_test
async def test_a_reset() -> None:
    """A sender that cuts its connection leaves nothing behind, at whatever point, long before its time is over."""
    sent = request(URL, b"x" * 300_000)
    async with edge(head_timeout=600, body_timeout=600, idle_timeout=600) as site:
        for size in (0, 10, 200, 100_000, len(sent)):
            async with Raw(site.port) as raw:
                raw.send(sent[:size])
                await until(lambda: len(site.site.listener.connections) == 1)
                raw.writer.transport.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0"
                )
            await until(lambda: not site.site.listener.connections)
            assert site.site.ingest.buffered == 0
        assert {event.body for event in await site.log.read(BUCKET.id, 0, 10, 1 << 30)} <= {b"x" * 300_000}
        assert DIRECT.certificate is None


@pytest.mark.gen_test
async def test_a_header_that_looks_like_a_webhook_is_none(transport: str) -> None:
    """Where the head that goes on with it comes in two pieces."""
    begun, rest = b"POST %b HTTP/1.1\r\nX-A: " % URL, b"PUT %b/x HTTP/1.1\r\nHost: h\r\n\r\n" % URL
    async with edge() as site, Raw(site.port) as raw:
        raw.send(begun)
        await until(lambda: [each.unfinished for each in site.site.listener.connections] == [len(begun)])
        assert (await raw.ask(rest)).status == 200
        assert [(event.method, event.headers) for event in await site.events()] == [
            ("POST", b"X-A: PUT %b/x HTTP/1.1\r\nHost: h\r\n" % URL)
        ]


@pytest.mark.gen_test
async def test_a_head_behind_a_longer_one_is_read_at_its_end(transport: str) -> None:
    """Whatever was looked through of the one before; and it is no part of a head any more then."""
    long, short = request(URL + b"/" + b"a" * 1000, b"x"), request(URL, b"body")
    async with edge() as site, Raw(site.port) as raw:
        for begin, end in ((0, 100), (100, 500)):
            raw.send(long[begin:end])
            await until(lambda end=end: [each.unfinished for each in site.site.listener.connections] == [end])
        assert (await raw.ask(long[500:])).status == 200
        raw.send(short[:-1])
        await until(lambda: site.site.ingest.buffered)
        assert [each.unfinished < len(short) for each in site.site.listener.connections] == [True]
        assert (await raw.ask(short[-1:])).status == 200
        assert [event.body for event in await site.events()] == [b"x", b"body"]


@pytest.mark.gen_test
async def test_answers_leave_at_once(transport: str) -> None:
    """The kernel holds none back to send it with the next."""
    async with edge() as site, Raw(site.port) as raw:
        assert (await raw.ask(request(URL, b"x"))).status == 200
        [connection] = site.site.listener.connections
        assert connection.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


class _Busy:
    """A socket that takes nothing when it is told something for the first time."""

    def __init__(self, real: socket.socket) -> None:
        self.real = real
        self.refused = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def send(self, data: bytes) -> int:
        if not self.refused:
            self.refused = 1
            raise BlockingIOError
        return self.real.send(data)


@pytest.mark.gen_test
@pytest.mark.parametrize(("target", "status"), [(URL, 200), (URL + b"x", 404)], ids=["stored", "refused"])
async def test_an_answer_that_nothing_leaves_of_at_once(target: bytes, status: int) -> None:
    """It leaves later, whole, and so does the next one."""
    async with edge() as site, Raw(site.port) as raw:
        assert (await raw.ask(request(URL, b"first"))).status == 200
        [connection] = site.site.listener.connections
        assert isinstance(connection, DirectConnection)
        busy = _Busy(connection.socket)
        connection.socket = busy  # type: ignore[assignment]
        raw.send(request(target, b"second") + request(URL, b"third"))
        assert [(await raw.reply()).status for _ in range(2)] == [status, 200]
        assert busy.refused == 1
        assert len(await site.events()) == (3 if status == 200 else 2)


def _deaf(connection: DirectConnection) -> bool:
    return not connection._reading


@pytest.mark.gen_test
async def test_a_sender_that_resets_while_its_answer_leaves() -> None:
    """Whether it is still read from or not, no connection is left of it, and nothing that the loop looks at."""
    async with edge() as site:
        await site.change(input={"body": "x" * 8_000_000})
        for asked in (request(URL, b"x"), request(URL, b"x") * 2):
            with socket.create_connection(("127.0.0.1", site.port)) as client:
                client.sendall(asked)
                await until(lambda: any(each.writing() for each in site.site.listener.connections))
                [connection] = site.site.listener.connections
                assert isinstance(connection, DirectConnection)
                if asked == request(URL, b"x") * 2:
                    client.sendall(asked)  # which is read once, and no further
                    await until(partial(_deaf, connection))
                watched = connection.socket.fileno()
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await until(lambda: not site.site.listener.connections)
            loop = asyncio.get_running_loop()
            assert True not in (loop.remove_reader(watched), loop.remove_writer(watched))  # uvloop's say None


@pytest.mark.gen_test
async def test_an_end_without_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is made up for: what the loop still looked at would be the next connection's descriptor."""
    async with edge() as site, Raw(site.port) as raw:
        assert (await raw.ask(request(URL, b"x"))).status == 200
        [connection] = site.site.listener.connections
        assert isinstance(connection, DirectConnection)
        loop, watched = asyncio.get_running_loop(), connection.socket.fileno()
        monkeypatch.setattr(connection._shared, "loop", SimpleNamespace(remove_reader=once(loop.remove_reader)))
        with pytest.raises(MemoryError):
            connection.close()
        connection.close()
        assert not site.site.listener.connections
        assert not loop.remove_reader(watched)  # uvloop's says None


@pytest.mark.gen_test
async def test_a_refused_head_request_has_no_body(transport: str) -> None:
    """Otherwise its sender would take the body for the next answer."""
    async with edge() as site, Raw(site.port) as raw:
        raw.send(request(URL + b"x", method=b"HEAD") + request(URL, b"x"))
        for status in (b"HTTP/1.1 404 ", b"HTTP/1.1 200 "):
            assert (await asyncio.wait_for(raw.reader.readuntil(b"\r\n\r\n"), 60)).startswith(status)
