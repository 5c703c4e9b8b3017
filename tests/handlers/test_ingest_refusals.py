"""Webhooks over real sockets that are refused, cut off, or left by their senders."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from pathlib import Path

import pytest

from relay_tornado import errors
from relay_tornado.handlers import ingest, tornado_connection
from relay_tornado.model import BucketAuth
from relay_tornado.transport import direct
from tests.handlers.edge import BUCKET, CHUNKED, INPUT, URL, HeldLog, edge
from tests.handlers.raw import HEALTH, Raw, request
from tests.waiting import until

pytestmark = [pytest.mark.filterwarnings("error"), pytest.mark.usefixtures("transport")]


@pytest.mark.gen_test
async def test_refusals_in_words(folder: Path | None) -> None:
    """404 and 401 say what is wrong, come before the body has, and leave a small request's connection open."""
    async with edge(folder) as site, Raw(site.port) as raw:
        raw.send(request(URL + b"x", b"body")[:-4])
        reply = await raw.reply()
        assert (reply.status, reply.header("Connection")) == (404, None)
        assert reply.body == b"There is no input at this URL. Compare it with what `relay bucket show` prints.\n"
        raw.send(b"body")
        await site.change(auth=BucketAuth("basic", username="a", password="b"))
        reply = await raw.ask(request(URL, b"body"))
        assert (reply.status, reply.body) == (401, b"Unauthorized")
        assert reply.header("WWW-Authenticate") == 'Basic realm="webhooks", charset="UTF-8"'
        reply = await raw.ask(request(URL, b"body", b"Authorization: Basic YTpi\r\n"))
        assert reply.status == 200
        (event,) = await site.events()
        assert event.headers == b"Host: relay.test\r\nContent-Length: 4\r\n"


@pytest.mark.gen_test
async def test_too_long_is_read_by_a_sender_that_goes_on() -> None:
    """A sender that does not look before it has sent everything reads the 413, not a reset."""
    body = b"x" * (6 << 20)
    async with edge() as site, Raw(site.port) as raw:
        raw.send(request(URL, body))
        await asyncio.wait_for(raw.writer.drain(), 60)
        reply = await raw.reply()
        assert (reply.status, reply.header("Connection")) == (413, "close")
        assert reply.body == b"The body is larger than the 3145728 bytes that this bucket takes.\n"
        assert await raw.closed() == b""
        # It does not wait for the sender to close its half.
        await until(lambda: not site.site.listener.connections, timeout=30)
        assert await site.events() == []


@pytest.mark.gen_test
async def test_too_long_in_chunks() -> None:
    """A chunked body is refused with 413 on its way, read by a sender that goes on, and nothing comes after it."""
    async with edge(max_body=100_000) as site, Raw(site.port) as raw:
        raw.send(CHUNKED)
        for _ in range(40):
            raw.send(b"1000\r\n" + b"x" * 0x1000 + b"\r\n")
        reply = await raw.reply()
        assert (reply.status, reply.header("Connection")) == (413, "close")
        raw.send(b"not a chunk\r\n")
        assert await raw.closed() == b""
        assert await site.events() == []
        assert site.site.ingest.buffered == 0


@pytest.mark.gen_test
async def test_a_sender_that_never_ends_is_cut() -> None:
    """What is read after a refusal is bounded: twice the largest body."""
    async with edge(max_body=1000, large_max_body=100_000) as site, Raw(site.port) as raw:
        raw.send(b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999\r\n\r\n" % URL)
        assert (await raw.reply()).status == 413
        sent = 0
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(60):
                while site.site.listener.connections:
                    raw.send(b"x" * 10_000)
                    await raw.writer.drain()
                    sent += 10_000
        assert 200_000 <= sent < 50_000_000


@pytest.mark.gen_test
async def test_a_head_that_is_too_long(folder: Path | None) -> None:
    """431 in words, read also by a sender that sends on, whether it is there as a whole or not."""
    async with edge(folder, max_header=2000) as site, Raw(site.port) as raw:
        assert (await raw.ask(request(URL, headers=b"A: %b\r\n" % (b"x" * 1500)))).status == 200
        long = b"x" * 3000
        for rest in (
            long,
            b"x" * 200_000,
            long + b"\r\nHost: h\r\n\r\n",
            long + b"\r\nHost: h\r\nContent-Length: 1\r\n\r\n",
        ):
            async with Raw(site.port) as other:
                reply = await other.ask(b"POST %b HTTP/1.1\r\nA: %b" % (URL, rest))
                assert (reply.status, reply.header("Connection")) == (431, "close")
                assert b"longer than the 2000 bytes" in reply.body
                assert await other.closed() == b""
        assert len(await site.events()) == 1


@pytest.mark.gen_test
@pytest.mark.parametrize("target", [URL, b"/healthz"])
async def test_a_head_as_long_as_is_allowed(target: bytes) -> None:
    """A setting for heads longer than any buffer has room for is followed."""
    long = request(target, headers=b"A: %b\r\n" % (b"x" * (900 << 10)), method=b"GET")
    async with edge(max_header=1 << 20) as site, Raw(site.port) as raw:
        assert (await raw.ask(long)).status == 200
        assert (await raw.ask(long)).status == 200


@pytest.mark.gen_test
async def test_a_slow_sender_is_cut() -> None:
    """A body that does not arrive in its time is answered 408, the connection closes, and its bytes are let go."""
    async with edge(body_timeout=0.2, head_timeout=600.0, idle_timeout=600.0) as site, Raw(site.port) as raw:
        raw.send(request(URL, b"body")[:-2])
        reply = await raw.reply()
        assert (reply.status, reply.header("Connection")) == (408, "close")
        assert await raw.closed() == b""
        assert site.counters.rejections["timeout"] == 1
        assert site.site.ingest.buffered == 0
        assert await site.events() == []


@pytest.mark.gen_test
@pytest.mark.parametrize("sent", [request(URL, b"x" * 200_000)[:-1], request(URL + b"x", b"x" * 200_000)[:-1]])
async def test_a_refused_sender_that_stalls_is_cut(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long before a body that is taken would be late."""
    for module in (ingest, direct):
        monkeypatch.setattr(module, "DISCARD_TIME", 0.2)
    async with edge(max_body=100_000, body_timeout=3600.0) as site, Raw(site.port) as raw:
        raw.send(sent)
        assert (await raw.reply()).header("Connection") == "close"
        assert await raw.closed() == b""
        await until(lambda: not site.site.listener.connections, timeout=30)


@pytest.mark.gen_test
async def test_an_idle_connection_is_closed() -> None:
    """A connection that sends no (further) head closes without an answer; one that waits for its answer does not."""
    log = HeldLog()
    async with edge(log=log, idle_timeout=0.2) as site, Raw(site.port) as waiting:
        waiting.send(request(URL, b"x"))
        async with Raw(site.port) as fresh, Raw(site.port) as partial:
            partial.send(b"POST /")
            assert await fresh.closed() == b""
            assert await partial.closed() == b""
        log.release()
        assert (await waiting.reply()).status == 200
        assert await waiting.closed() == b""


@pytest.mark.gen_test
async def test_a_webhook_that_has_arrived_waits_for_its_commit() -> None:
    """However long, and in how many pieces it came: the times are those of what is still to come."""
    log = HeldLog()
    times = dict.fromkeys(("head_timeout", "body_timeout", "idle_timeout"), 0.3)
    async with edge(log=log, **times) as site, Raw(site.port) as waiting:
        waiting.send(request(URL, b"body")[:-2])
        await until(lambda: site.site.ingest.buffered)
        waiting.send(b"dy")
        await until(lambda: log.held)
        for _ in range(2):
            async with Raw(site.port) as later:
                assert await later.closed() == b""
        log.release()
        assert (await waiting.reply()).status == 200


@pytest.mark.gen_test(timeout=60)
async def test_an_idle_connection_is_closed_behind_a_slow_answer() -> None:
    """The time that its client had to read is over then."""
    async with edge(idle_timeout=0.5) as site:
        await site.change(input={"body": "x" * 8_000_000})
        async with Raw(site.port) as raw:
            raw.send(request(URL, b"x"))
            await until(lambda: any(each.writing() for each in site.site.listener.connections))
            assert len((await raw.reply()).body) == 8_000_000
            assert await raw.closed() == b""


@pytest.mark.gen_test
async def test_a_client_that_leaves() -> None:
    """What a client sent before it left in the middle is let go, and nothing is stored."""
    async with edge() as site:
        async with Raw(site.port) as raw:
            raw.send(request(URL, b"x" * 2_000_000)[:1_000_000])
            await until(lambda: site.site.ingest.buffered >= 900_000)
        await until(lambda: not (site.site.ingest.buffered or site.site.listener.connections))
        assert await site.events() == []


@pytest.mark.gen_test
@pytest.mark.parametrize("patience", [0.0, 60.0])
async def test_a_client_that_leaves_before_its_answer(monkeypatch: pytest.MonkeyPatch, patience: float) -> None:
    """A webhook that arrived whole is kept, also where its sender did not wait for the answer. Its connection is not,
    for long: it might read the answer yet, if it has closed its own half alone."""
    for module in (tornado_connection, direct):
        monkeypatch.setattr(module, "DISCARD_TIME", patience)
    log = HeldLog()
    async with edge(log=log) as site:
        async with Raw(site.port) as raw:
            raw.send(request(URL, b"x"))
            await until(lambda: log.held)
        if not patience:
            await until(lambda: not site.site.listener.connections)
        log.release()
        await until(lambda: not site.site.listener.connections)
        async with Raw(site.port) as raw:
            assert (await raw.ask(HEALTH)).status == 200


@pytest.mark.gen_test
async def test_a_missing_log_is_a_matter_of_time(folder: Path | None) -> None:
    """Where a bucket is there and its log is not, the file is damaged, and may be restored: its senders come again. One
    that is deleted is gone for good."""
    async with edge(folder) as site, Raw(site.port) as raw:
        await site.log.drop(BUCKET.id)
        reply = await raw.ask(request(URL, b"body"))
        assert (reply.status, reply.header("Retry-After")) == (503, "5")
        assert site.counters.rejections["unavailable"] == 1
        await site.registry.delete("bucket", BUCKET.id)
        assert (await raw.ask(request(URL, b"body"))).status == 404


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("error", "status", "retry"),
    [(errors.Overloaded(), 503, "1"), (errors.Unknown(), 503, "5"), (errors.NoSpace(), 507, "60")],
)
async def test_what_could_not_be_stored(error: errors.RelayError, status: int, retry: str) -> None:
    """The log's refusals reach the sender in words, with Retry-After, and the connection goes on."""
    log = HeldLog()
    log.error = error
    async with edge(log=log) as site, Raw(site.port) as raw:
        for _ in range(2):
            reply = await raw.ask(request(URL, b"x"))
            assert (reply.status, reply.header("Retry-After")) == (status, retry)
            assert b"end it again" in reply.body


@pytest.mark.gen_test
async def test_the_ingest_buffer_is_full() -> None:
    """While bodies on their way fill the buffer, the next sender gets 503; afterwards it is taken. A small webhook that
    arrives whole is taken at once."""
    async with edge(ingest_buffer=100_000) as site, Raw(site.port) as first, Raw(site.port) as second:
        body = b"x" * 90_000
        first.send(request(URL, body)[:-10])
        await until(lambda: site.site.ingest.buffered >= 89_000)
        async with Raw(site.port) as third:
            assert (await third.ask(request(URL, body[:11_000]))).status == 200
        assert (await second.ask(request(URL, body[:40_000]))).status == 503
        assert (await first.ask(b"x" * 10)).status == 200
        assert (await second.ask(request(URL, body[:40_000]))).status == 200
        assert site.site.ingest.buffered == 0


@pytest.mark.gen_test
async def test_bodies_that_stall_keep_out_only_their_own_input() -> None:
    """However many bodies of one input are on their way, another input's is taken; so is a small one of their own."""
    async with edge(ingest_buffer=1_000_000) as site, contextlib.AsyncExitStack() as stack:
        await site.change(inputs=(INPUT, dataclasses.replace(INPUT, id="in-2")))
        body = b"x" * 100_000
        stalled = []
        for _ in range(15):
            raw = await stack.enter_async_context(Raw(site.port))
            raw.send(request(URL, body)[:-10])
            stalled.append(raw)
        await until(lambda: site.counters.rejections["overloaded"] == 8)
        async with Raw(site.port) as other:
            assert (await other.ask(request(URL, body))).status == 503
        async with Raw(site.port) as other:
            assert (await other.ask(request(URL, body[:11_000]))).status == 200
            for _ in range(3):
                assert (await other.ask(request(b"/v1/webhooks/in-2", 2 * body))).status == 200
        statuses = [(await raw.ask(b"x" * 10)).status for raw in stalled]
        assert sorted(statuses) == 7 * [200] + 8 * [503]
        assert site.site.ingest.buffered == 0


@pytest.mark.gen_test
async def test_the_rest_of_a_refused_body_is_no_webhook() -> None:
    """It was refused when there was no room for it, and what still comes of it is dropped, though there is room now."""
    async with edge(ingest_buffer=100_000) as site, Raw(site.port) as first, Raw(site.port) as second:
        first.send(request(URL, b"x" * 90_000)[:-10])
        await until(lambda: site.site.ingest.buffered == 89_990)
        second.send(request(URL, b"y" * 20_000)[:-10])
        assert (await second.reply()).status == 503
        assert (await first.ask(b"x" * 10)).status == 200
        second.send(b"y" * 10)
        assert await second.closed() == b""
        await until(lambda: len(site.site.listener.connections) == 1)
        assert [event.body for event in await site.events()] == [b"x" * 90_000]
