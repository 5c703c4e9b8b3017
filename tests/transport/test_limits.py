"""What a sender is held to, whoever reads from it: times, sizes, and how much of it is read at once."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AsyncExitStack, suppress

import pytest

from relay_tornado.transport import direct
from relay_tornado.transport.direct import DirectConnection
from relay_tornado.transport.limits import READ_SIZE
from relay_tornado.transport.refusals import MOST_LINES
from tests.handlers.desk import desk
from tests.handlers.edge import URL, HeldLog, edge
from tests.handlers.raw import HEALTH, Raw, request
from tests.waiting import until


@pytest.mark.gen_test
async def test_a_head_has_its_time(transport: str) -> None:
    """A head that trickles in is cut off at its time, however often a byte comes; who says nothing may wait."""
    async with edge(head_timeout=0.2) as site, Raw(site.port) as silent, Raw(site.port) as slow:
        silent.send(request(URL, b"x"))
        assert (await silent.reply()).status == 200
        slow.send(b"POST / HTTP/1.1\r\n")
        while not slow.reader.at_eof():
            slow.send(b"X: y\r\n")
            with_byte = asyncio.create_task(slow.reader.read(1))
            await asyncio.wait((with_byte,), timeout=0.02)
            if with_byte.done():
                break
            with_byte.cancel()
            await asyncio.wait((with_byte,))
        await until(lambda: len(site.site.listener.connections) == 1)
        assert (await silent.ask(request(URL, b"y"))).status == 200


@pytest.mark.gen_test
async def test_slow_senders_disturb_nobody(transport: str) -> None:
    """Many slow heads and slow bodies are all cut off at their times, and webhooks go on meanwhile."""
    async with (
        edge(head_timeout=0.5, body_timeout=0.5) as site,
        AsyncExitStack() as stack,
        Raw(site.port) as good,
    ):
        for number in range(100):
            raw = await stack.enter_async_context(Raw(site.port))
            raw.send(request(URL, b"body")[: -2 if number % 2 else -10])
        sent = 0
        async with asyncio.timeout(60):
            while len(site.site.listener.connections) > 1 or not sent:
                assert (await good.ask(request(URL, b"good"))).status == 200
                sent += 1
        # Tornado tells of an end a turn of the loop later.
        await until(lambda: site.site.ingest.buffered == 0)
        assert {event.body for event in await site.events()} == {b"good"}
        assert site.counters.rejections["timeout"] == 50


@pytest.mark.gen_test
async def test_what_waits_is_bounded() -> None:
    """While a webhook waits for its commit, what is read of a sender that goes on is bounded, and so is what it may
    send; all of it is answered in the end."""
    log, sent = HeldLog(), 0
    one = request(URL, b"x" * 10_000)
    async with edge(log=log) as site:
        with socket.create_connection(("127.0.0.1", site.port)) as client:
            client.setblocking(False)
            for _ in range(2000):
                with suppress(BlockingIOError):
                    sent += client.send((one * 2)[sent % len(one) :][: len(one)])
                await asyncio.sleep(0)
            [connection] = site.site.listener.connections
            assert isinstance(connection, DirectConnection)
            assert len(connection._rest) <= READ_SIZE + direct.READ_AHEAD
            assert not connection._reading
            loop, answers = asyncio.get_running_loop(), b""
            async with asyncio.timeout(60):
                while answers.count(b"HTTP/1.1 200") < sent // len(one):
                    await until(lambda: log.held)
                    log.release()
                    answers += await loop.sock_recv(client, 65536)
        await until(lambda: not site.site.listener.connections)


@pytest.mark.gen_test
async def test_little_is_read_behind_a_webhook_that_waits() -> None:
    """Thousands of senders may go on sending: what is read of them counts against no share."""
    log = HeldLog()
    async with edge(log=log) as site, Raw(site.port) as raw:
        raw.send(request(URL, b"x"))
        await until(lambda: log.held)
        [connection] = site.site.listener.connections
        assert isinstance(connection, DirectConnection)
        raw.send(request(URL, b"y" * 100_000))
        await until(lambda: not connection._reading)
        assert 0 < len(connection._rest) <= direct.READ_AHEAD
        log.release()
        assert (await raw.reply()).status == 200
        await until(lambda: log.held)
        log.release()
        assert (await raw.reply()).status == 200


@pytest.mark.gen_test
async def test_what_waits_behind_webhooks_that_wait_for_a_client_is_bounded() -> None:
    """Reading begins again with each, to learn that its sender left: what lies behind it does not grow by that."""
    async with desk() as site, Raw(site.site.port) as raw:
        raw.send(request(URL, b"x") * 5000)
        await until(lambda: site.site.site.listener.connections)
        [connection] = site.site.site.listener.connections
        assert isinstance(connection, DirectConnection)
        most = 0
        for _ in range(1000):
            assert (await raw.reply()).status == 504
            most = max(most, len(connection._rest))
        assert most <= READ_SIZE + direct.READ_AHEAD


@pytest.mark.gen_test
async def test_a_method_has_its_bounds(transport: str) -> None:
    """It stands in no size, so that one as long as a head would go around every limit."""
    async with edge() as site, Raw(site.port) as raw:
        assert (await raw.ask(request(URL, b"x", method=b"A" * 40))).status == 200
        reply = await raw.ask(request(URL, b"x", method=b"A" * 41))
        assert (reply.status, b"longer than 40" in reply.body) == (400, True)
        assert site.counters.rejections["invalid"] == 1
        assert (await raw.ask(request(URL, b"y"))).status == 200
        assert [event.body for event in await site.events()] == [b"x", b"y"]


@pytest.mark.gen_test
async def test_a_head_of_many_lines(transport: str) -> None:
    """A request that Tornado has to parse may have a bounded number of header lines, beside its Host; a webhook any."""
    lines = [b"X-%d: x\r\n" % number for number in range(MOST_LINES)]
    async with edge() as site, Raw(site.port) as raw:
        assert (await raw.ask(request(URL, headers=b"".join(lines)))).status == 200
        assert (await raw.ask(request(b"/healthz", headers=b"".join(lines[1:]), method=b"GET"))).status == 200
        reply = await raw.ask(request(b"/healthz", headers=b"".join(lines), method=b"GET") + HEALTH)
        assert (reply.status, reply.body) == (431, b"The request has more than 256 header lines.\n")
        assert await raw.closed() == b""


@pytest.mark.gen_test
async def test_a_refused_body_that_does_not_come(transport: str) -> None:
    """It was answered, and is not a second time: its connection ends when its time is over."""
    async with edge(body_timeout=0.2) as site, Raw(site.port) as raw:
        raw.send(b"POST %bx HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nx" % URL)
        assert (await raw.reply()).status == 404
        assert await raw.closed() == b""
        assert (site.counters.rejections["not_found"], site.counters.rejections["timeout"]) == (1, 0)


@pytest.mark.gen_test
async def test_the_end_behind_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes right behind the answer, while what is still sent is read and dropped, for a while."""
    async with edge(max_body=1000) as site:
        for patience in (60.0, 0.1):
            monkeypatch.setattr(direct, "DISCARD_TIME", patience)
            async with Raw(site.port) as raw:
                raw.send(b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n" % URL)
                assert (await raw.reply()).status == 413
                assert await raw.closed() == b""
                if patience > 1:
                    assert len(site.site.listener.connections) == 1
                    raw.send(b"x" * 200_000)
                await until(lambda: not site.site.listener.connections)
