"""Webhooks over real sockets: what a sender may send, byte by byte, and what it reads."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from tornado.iostream import IOStream

from relay_tornado.handlers.tornado_connection import CHUNKS_A_TURN
from tests.counting import calls_by_turn
from tests.handlers.edge import CHUNKED, INPUT, URL, HeldLog, edge
from tests.handlers.raw import Raw, request
from tests.waiting import until

pytestmark = [pytest.mark.filterwarnings("error"), pytest.mark.usefixtures("transport")]


@pytest.mark.gen_test
@pytest.mark.parametrize(
    "method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PURGE", "M-SEARCH", "post"]
)
async def test_every_method(folder: Path | None, method: str) -> None:
    """Any method is a webhook, with or without a body, and is answered 200 with an empty body."""
    async with edge(folder) as site, Raw(site.port) as raw:
        for body in (b"", b"body"):
            reply = await raw.ask(request(URL + b"/a?b", body, method=method.encode()))
            assert (reply.status, reply.body) == (200, b"")
            assert reply.header("Content-Security-Policy") == "sandbox"
            assert reply.header("X-Content-Type-Options") == "nosniff"
            assert reply.header("Content-Length") == "0"
            assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", reply.header("Date") or "")
        first, second = await site.events()
        assert (first.method, first.path, first.query, first.body) == (method, b"/a", b"b", b"")
        assert (second.method, second.body, second.remote_ip) == (method, b"body", "127.0.0.1")


@pytest.mark.gen_test
async def test_urls_with_stray_characters(folder: Path | None) -> None:
    """Slashes too many, and what was copied along with a URL, do not keep a webhook out."""
    async with edge(folder) as site, Raw(site.port) as raw:
        slashes = (b"/" + URL, URL.replace(b"webhooks/", b"webhooks//"))
        for target in (*slashes, URL + b"#orders", URL + b"%0A", URL + b"?"):
            assert (await raw.ask(request(target, b"x"))).status == 200
        assert (await raw.ask(request(b"/" + URL + b"x", b"x"))).status == 404
        assert {(event.path, event.query) for event in await site.events()} == {(b"", b"")}


@pytest.mark.gen_test
async def test_head(folder: Path | None) -> None:
    """HEAD is a webhook, too; its answer has the length of the body that it leaves out, and the connection goes on."""
    async with edge(folder) as site, Raw(site.port) as raw:
        await site.change(input={"body": "hello"})
        reply = await raw.ask(request(URL, method=b"HEAD"), head=True)
        assert (reply.status, reply.header("Content-Length")) == (200, "5")
        assert (await raw.ask(request(URL))).body == b"hello"
        assert [event.method for event in await site.events()] == ["HEAD", "POST"]


@pytest.mark.gen_test
@pytest.mark.parametrize("status", [204, 304])
async def test_bodyless_answers(status: int) -> None:
    """204 and 304 have no body and no length, and the connection goes on."""
    async with edge() as site, Raw(site.port) as raw:
        await site.change(input={"status_code": status, "body": "hello"})
        for _ in range(2):
            assert (await raw.ask(request(URL, b"x"))).status == status


@pytest.mark.gen_test
async def test_bodies_are_not_parsed(folder: Path | None) -> None:
    """Malformed multipart, forms of any size, wrong JSON and compressed bytes are stored as they came."""
    bodies = [
        (b"multipart/form-data; boundary=x", b"--x\r\nno such part"),
        (b"multipart/form-data", b"--"),
        (b"application/x-www-form-urlencoded", b"&".join(b"a%d=%d" % (n, n) for n in range(3000))),
        (b"application/x-www-form-urlencoded", b"%zz=\xff"),
        (b"application/json", b"{"),
        (b"text/plain", bytes(range(256))),
    ]
    async with edge(folder) as site, Raw(site.port) as raw:
        for kind, body in bodies:
            headers = b"Content-Type: " + kind + b"\r\nContent-Encoding: gzip\r\n"
            assert (await raw.ask(request(URL, body, headers))).status == 200
        assert [event.body for event in await site.events()] == [body for _, body in bodies]


@pytest.mark.gen_test
async def test_a_large_body(folder: Path | None) -> None:
    """A body of the largest size is taken whole; one byte more is 413."""
    async with edge(folder) as site, Raw(site.port) as raw:
        body = bytes(range(256)) * (3 << 12)
        assert (await raw.ask(request(URL, body))).status == 200
        assert (await raw.ask(request(URL, body + b"x"))).status == 413
        assert [event.body for event in await site.events()] == [body]


HEAD_BYTES = st.binary(max_size=60).map(lambda raw: bytes(b for b in raw if (b >= 0x20 and b != 0x7F) or b == 9))
NAMES = st.text("abcXYZ019-_.!#$%&'*+^`|~", min_size=1, max_size=10).map(str.encode)
FRAMING = (b"content-length", b"transfer-encoding", b"connection", b"expect", b"host")
LINES = st.lists(
    st.tuples(
        NAMES.filter(lambda name: name.lower() not in FRAMING),
        st.sampled_from([b":", b": ", b":\t ", b":  "]),
        HEAD_BYTES,
        st.just(b"\r\n"),
    ),
    max_size=8,
)
TARGETS = st.binary(max_size=40).map(lambda raw: bytes(b for b in raw if b > 0x20 and b not in b"\x7f?"))


@given(lines=LINES, path=TARGETS, query=TARGETS, body=st.binary(max_size=300), chunked=st.booleans())
@hypothesis_settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_bytes_in_are_bytes_stored(
    lines: list[tuple[bytes, bytes, bytes, bytes]], path: bytes, query: bytes, body: bytes, chunked: bool
) -> None:
    """The header block, with order, repeats, blanks, line ends and every byte, the path, the query and the body are
    stored as they came."""
    block = b"".join(b"".join(line) for line in lines) + b"Host: x\r\n"
    block += b"Transfer-Encoding: chunked\r\n" if chunked else b"Content-Length: %d\r\n" % len(body)
    sent = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if chunked and body else b"0\r\n\r\n" if chunked else body

    async def check() -> None:
        async with edge() as site, Raw(site.port) as raw:
            reply = await raw.ask(b"PUT %b/%b?%b HTTP/1.1\r\n%b\r\n%b" % (URL, path, query, block, sent))
            assert reply.status == 200
            (event,) = await site.events()
            assert (event.path, event.query) == (b"/" + path, query)
            assert event.headers == block
            assert event.body == body

    asyncio.run(check())


@pytest.mark.gen_test
@pytest.mark.parametrize("name", [b"relay_session", b"__Host-relay_session"])
async def test_who_is_signed_in_to_the_page_is_not_stored(folder: Path | None, name: bytes) -> None:
    """A browser sends the page's cookie along to an input's URL, too; whoever reads the event must not have it. All
    else is as it came, and the connection goes on."""
    cookies = b"cookie: a=1; %b=s3cret; b=2\r\nX-A:  1\r\n" % name
    async with edge(folder) as site, Raw(site.port) as raw:
        for headers in (cookies, b"", b"Cookie: %b=s3cret\r\n" % name):
            assert (await raw.ask(request(URL, b"x", headers))).status == 200
        stored = [event.headers for event in await site.events()]
        plain = b"Host: relay.test\r\n%bContent-Length: 1\r\n"
        assert stored == [plain % each for each in (b"cookie: a=1; b=2\r\nX-A:  1\r\n", b"", b"")]


@pytest.mark.gen_test
async def test_a_token_of_the_relay_is_not_stored(folder: Path | None) -> None:
    """A browser that was asked for one by REST sends it along to an input's URL, too. The credentials of others are
    kept."""
    async with edge(folder) as site, Raw(site.port) as raw:
        key, secret = await site.token()
        basic = base64.b64encode(f"{key}:{secret}".encode())
        foreign = b"Authorization: Basic %b\r\nauthorization: Bearer other\r\n" % base64.b64encode(b"a:b")
        for lines in (
            b"Authorization: Basic %b\r\n" % basic,
            b"authorization:bearer  %b \r\n" % secret.encode(),
            b"AUTHORIZATION: Bearer %b\r\n" % secret.encode(),
            foreign + b"Authorization: Basic %b\r\n" % basic,
        ):
            assert (await raw.ask(request(URL, b"x", lines + b"X-A:  1\r\n"))).status == 200
        stored = [event.headers for event in await site.events()]
        plain = b"Host: relay.test\r\n%bX-A:  1\r\nContent-Length: 1\r\n"
        assert stored == [plain % each for each in (b"", b"", b"", foreign)]


@pytest.mark.gen_test
async def test_chunked(folder: Path | None) -> None:
    """A chunked body is put together whatever its chunks are, and the connection goes on."""
    chunks = [b"a", b"bc" * 5000, b"\x00\r\n\r\n0\r\n\r\n", b"d" * 100_000]
    sent = b"".join(b"%X\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    head = b"POST %b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: Chunked\r\n\r\n" % URL
    async with edge(folder) as site, Raw(site.port) as raw:
        assert (await raw.ask(head + sent)).status == 200
        assert (await raw.ask(head + b"0\r\n\r\n")).status == 200
        assert [event.body for event in await site.events()] == [b"".join(chunks), b""]


@pytest.mark.gen_test
async def test_tiny_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a body in chunks of a byte each a few are read in a turn of the loop, however many are there."""
    read = calls_by_turn(monkeypatch, IOStream, "read_until")
    async with edge() as site, Raw(site.port) as raw:
        assert (await raw.ask(CHUNKED + b"1\r\na\r\n" * 1000 + b"0\r\n\r\n")).status == 200
        assert [event.body for event in await site.events()] == [b"a" * 1000]
    assert sum(read) == 1001
    assert max(read) <= CHUNKS_A_TURN


@pytest.mark.gen_test
@pytest.mark.parametrize(
    "framing",
    [
        b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n1;extension=1\r\na\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n1;chunk-signature=" + b"0" * 64 + b"\r\na\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n0\r\nTrailer: 1\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n-1\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n",
        b"Content-Length: 3, 4\r\n\r\nabcd",
        b"Content-Length: +3\r\n\r\nabc",
        b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
        b"Content-Length: 3, 3\r\n\r\nabc",
        b"Content-Length: 3,\r\n\r\nabc",
        b"Content-Length: \xb3\r\n\r\nabc",
        b"Content-Length: " + b"9" * 5000 + b"\r\n\r\nabc",
        b"Bad Name: 1\r\n\r\n",
        b"Name : 1\r\n\r\n",
        b"A: 1\r\n folded\r\n\r\n",
        b"no colon\r\n\r\n",
        b"A: \x00\r\n\r\n",
        b"A: a\rb\r\n\r\n",
        b"A: a\nB: b\r\n\r\n",
        b"A: a\n\n",
        b": empty\r\n\r\n",
        b"Host: y\r\n\r\n",
    ],
)
async def test_malformed_requests(framing: bytes) -> None:
    """What HTTP/1.1 does not allow is refused in words, nothing is stored, and the connection closes."""
    async with edge() as site, Raw(site.port) as raw:
        reply = await raw.ask(b"POST %b HTTP/1.1\r\nHost: x\r\n%b" % (URL, framing))
        assert (reply.status, reply.header("Connection")) == (400, "close")
        assert b"not what RFC 9112 allows" in reply.body
        assert b"extensions or trailers, which the relay does not read" in reply.body
        assert await raw.closed() == b""
        assert await site.events() == []
        assert site.site.ingest.buffered == 0


@pytest.mark.gen_test
@pytest.mark.parametrize(
    "line", [b"", b"POST", b"POST /v1/webhooks/in-1", b"POST  /v1/webhooks/in-1 HTTP/1.1", b"POST /a b HTTP/1.1",
             b"P@ST /v1/webhooks/in-1 HTTP/1.1", b"POST /v1/webhooks/in-1 HTTP/2.0", b"\x16\x03\x01\x02"],
)  # fmt: skip
async def test_malformed_request_lines(line: bytes) -> None:
    """So is a line that is no request line."""
    async with edge() as site, Raw(site.port) as raw:
        reply = await raw.ask(b"x\r\n\r\n" if not line else line + b"\r\nHost: x\r\n\r\n")
        assert reply.status == 400
        assert await raw.closed() == b""
        assert await site.events() == []


@pytest.mark.gen_test
@pytest.mark.parametrize("framing", [b"Content-Length: +3\r\n", b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n"])
async def test_a_malformed_request_to_nowhere(framing: bytes) -> None:
    """A request has one answer, also where more than one thing is wrong with it."""
    async with edge() as site, Raw(site.port) as raw:
        assert (await raw.ask(b"POST %bx HTTP/1.1\r\n%b\r\nabc" % (URL, framing))).status == 400
        assert await raw.closed() == b""


@pytest.mark.gen_test
async def test_http_1_0_knows_no_chunks() -> None:
    """A request with them came through something that did not read them (RFC 9112, 6.1): its end is in doubt."""
    async with edge() as site, Raw(site.port) as raw:
        reply = await raw.ask(CHUNKED.replace(b"HTTP/1.1", b"HTTP/1.0") + b"1\r\nx\r\n0\r\n\r\n")
        assert (reply.status, reply.header("Connection")) == (400, "close")
        assert await raw.closed() == b""
        assert await site.events() == []


@pytest.mark.gen_test
async def test_expect(folder: Path | None) -> None:
    """A sender that asks first is told to go on, once, and then answered."""
    async with edge(folder) as site, Raw(site.port) as raw:
        raw.send(request(URL, headers=b"Expect: 100-continue\r\n").replace(b"Length: 0", b"Length: 4"))
        assert await raw.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 (Continue)\r\n\r\n"
        assert (await raw.ask(b"body")).status == 200
        assert [event.body for event in await site.events()] == [b"body"]


@pytest.mark.gen_test
@pytest.mark.parametrize("target", [URL, b"/v1/nothing"])
async def test_expect_in_any_case(target: bytes) -> None:
    """The expectation has no case (RFC 9110, 10.1.1): Java's client writes it with a capital, and waits for its 100."""
    async with edge() as site, Raw(site.port) as raw:
        asked = request(target, headers=b"Expect: 100-Continue\r\n")
        raw.send(asked.replace(b"Length: 0", b"Length: 4"))
        assert await raw.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 (Continue)\r\n\r\n"
        assert (await raw.ask(b"body")).status == (200 if target == URL else 404)


@pytest.mark.gen_test
@pytest.mark.parametrize("target", [URL, b"/v1/nothing"])
async def test_http_1_0_knows_no_100(target: bytes) -> None:
    """A client of HTTP/1.0 would take the 100 for the answer (RFC 9110, 10.1.1): it gets the answer alone."""
    async with edge() as site, Raw(site.port) as raw:
        asked = request(target, b"body", b"Expect: 100-continue\r\n", version=b"HTTP/1.0")
        assert (await raw.ask(asked)).status == (200 if target == URL else 404)
        assert await raw.closed() == b""


@pytest.mark.gen_test
@pytest.mark.parametrize(("target", "length", "status"), [(URL, 4 << 20, 413), (URL + b"x", 4, 404)])
async def test_expect_refused(target: bytes, length: int, status: int) -> None:
    """A sender that asks first and is refused gets the refusal, not a 100, and the connection closes."""
    async with edge() as site, Raw(site.port) as raw:
        head = b"POST %b HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n" % (target, length)
        reply = await raw.ask(head)
        assert (reply.status, reply.header("Connection")) == (status, "close")
        assert await raw.closed() == b""
        async with Raw(site.port) as hasty:
            hasty.send(head)
            assert (await hasty.reply()).status == status
            hasty.send(b"x" * length)
            await hasty.writer.drain()
            assert await hasty.closed() == b""


@pytest.mark.gen_test
async def test_absolute_form(folder: Path | None) -> None:
    """A target in absolute form, as a proxy sends it, is the same input; and other paths take it as well."""
    async with edge(folder) as site, Raw(site.port) as raw:
        assert (await raw.ask(request(b"http://relay.test" + URL + b"/p%2F?q=1"))).status == 200
        assert (await raw.ask(request(b"HTTPS://other:99" + URL))).status == 200
        assert (await raw.ask(request(b"http://relay.test/healthz", method=b"GET"))).status == 200
        assert (await raw.ask(request(b"http://relay.test", method=b"GET"))).status == 404
        first, second = await site.events()
        assert (first.path, first.query, second.path) == (b"/p%2F", b"q=1", b"")


@pytest.mark.gen_test
async def test_pipelining(folder: Path | None) -> None:
    """Requests sent without waiting are answered in their order, refusals among them."""
    sent = [request(URL, b"one"), request(URL + b"x", b"two"), request(URL, method=b"GET"), request(URL, b"three")]
    async with edge(folder) as site, Raw(site.port) as raw:
        raw.send(b"".join(sent))
        assert [(await raw.reply()).status for _ in sent] == [200, 404, 200, 200]
        assert [event.body for event in await site.events()] == [b"one", b"", b"three"]


@pytest.mark.gen_test
async def test_what_waits_stays_outside() -> None:
    """While a webhook waits for its commit, what its sender sends on is not read without limit, and all of it is
    answered in the end."""
    log = HeldLog()
    count = 100
    async with edge(log=log) as site, Raw(site.port) as raw:
        raw.send(request(URL, b"x" * 20_000) * count)
        await until(lambda: log.held)
        for _ in range(200):
            await asyncio.sleep(0)
        for _ in range(count):
            await until(lambda: log.held)
            log.release()
            assert (await raw.reply()).status == 200


@pytest.mark.gen_test
async def test_line_ends_before_a_request() -> None:
    """Line ends between two requests are passed over and not stored."""
    async with edge() as site, Raw(site.port) as raw:
        raw.send(request(URL, b"one") + b"\r\n" + request(URL, b"two"))
        assert [(await raw.reply()).status for _ in range(2)] == [200, 200]
        assert (await raw.ask(b"POST %b HTTP/1.1\r\nHost: x\r\n\r\n" % URL)).status == 200
        headers = b"Host: relay.test\r\nContent-Length: 3\r\n"
        assert [event.headers for event in await site.events()] == [headers, headers, b"Host: x\r\n"]


@pytest.mark.gen_test
async def test_a_head_in_pieces() -> None:
    """A request that arrives byte by byte is one request."""
    async with edge() as site, Raw(site.port) as raw:
        for byte in request(URL + b"/p", b"body", b"A: \xc3\xa9\r\n"):
            raw.send(bytes([byte]))
            await asyncio.sleep(0)
        assert (await raw.reply()).status == 200
        (event,) = await site.events()
        assert (event.headers, event.body) == (b"Host: relay.test\r\nA: \xc3\xa9\r\nContent-Length: 4\r\n", b"body")


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("version", "connection", "answer", "goes_on"),
    [
        (b"HTTP/1.1", b"", None, True),
        (b"HTTP/1.1", b"Connection: keep-alive\r\n", None, True),
        (b"HTTP/1.1", b"Connection: Close\r\n", "close", False),
        (b"HTTP/1.1", b"TE: deflate\r\nConnection: TE, close\r\n", "close", False),
        (b"HTTP/1.1", b"Connection: keep-alive ,CLOSE\r\n", "close", False),
        (b"HTTP/1.1", b"Connection: TE\r\nTE: deflate\r\nconnection:close\r\n", "close", False),
        (b"HTTP/1.1", b"Connection: TE, closed, x-close\r\n", None, True),
        (b"HTTP/1.0", b"", None, False),
        (b"HTTP/1.0", b"Connection: Keep-Alive\r\n", "Keep-Alive", True),
    ],
)
async def test_keep_alive(version: bytes, connection: bytes, answer: str | None, goes_on: bool) -> None:
    """A connection is kept by the rules of its HTTP version, and an answer says so, to senders and to who asks REST."""
    asked = request(URL, b"x", connection, version=version)
    for message in (asked, request(b"/healthz", b"", connection, b"GET", version)):
        async with edge() as site, Raw(site.port) as raw:
            reply = await raw.ask(message)
            assert (reply.status, reply.header("Connection")) == (200, answer)
            if goes_on:
                assert (await raw.ask(asked)).status == 200
            else:
                assert await raw.closed() == b""


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("headers", "version"),
    [
        (b"Connection: close\r\n", b"HTTP/1.1"),
        (b"TE: deflate\r\nConnection: TE, close\r\n", b"HTTP/1.1"),
        (b"Expect: 100-continue\r\nConnection: close\r\n", b"HTTP/1.1"),
        (b"", b"HTTP/1.0"),
    ],
)
async def test_nothing_is_taken_behind_the_last_request(headers: bytes, version: bytes) -> None:
    """What comes behind a request that ends its connection is not looked at: its sender would not be answered, and has
    to send it again on another one."""
    health = request(b"/healthz", b"", headers, b"GET", version)
    for last in (request(URL, b"last", headers, version=version), health):
        async with edge() as site:
            async with Raw(site.port) as raw:
                raw.send(last + request(URL, b"behind"))
                assert (await raw.closed(reset=True)).count(b" 200 OK") == 1
            await until(lambda: not site.site.listener.connections)
            assert b"behind" not in [event.body for event in await site.events()]


@pytest.mark.gen_test
async def test_a_large_answer_to_a_slow_reader() -> None:
    """An answer that its sender reads slowly arrives whole, on a connection that goes on and on one that closes."""
    text = "x" * 30_000_000
    async with edge() as site, Raw(site.port) as raw:
        await site.change(input={"body": text})
        raw.send(request(URL, b"x") * 2)
        for _ in range(2):
            assert (await raw.reply()).body == text.encode()
        raw.send(request(URL, b"x", b"Connection: close\r\n"))
        await until(lambda: any(each.writing() for each in site.site.listener.connections))
        assert (await raw.reply()).body == text.encode()
        assert await raw.closed() == b""


@pytest.mark.gen_test
async def test_two_inputs_of_one_bucket(folder: Path | None) -> None:
    """Each event says which input it came through."""
    async with edge(folder) as site, Raw(site.port) as raw:
        await site.change(inputs=(INPUT, dataclasses.replace(INPUT, id="in-2", status_code=201)))
        assert (await raw.ask(request(URL))).status == 200
        assert (await raw.ask(request(b"/v1/webhooks/in-2"))).status == 201
        assert [event.input_id for event in await site.events()] == ["in-1", "in-2"]


@pytest.mark.gen_test
async def test_inputs_by_host_and_path() -> None:
    """A request for an input's own host or prefix is a webhook; the relay's own paths stay the relay's."""
    async with edge() as site:
        await site.change(
            input={"custom_domain": "hooks.example", "path_prefix": "/in", "strip_path_prefix": True, "body": "mine"}
        )

        async def ask(raw: Raw, target: bytes, host: bytes) -> tuple[int, bytes]:
            reply = await raw.ask(b"POST %b HTTP/1.1\r\nHost: %b\r\nContent-Length: 1\r\n\r\nx" % (target, host))
            return reply.status, reply.body

        async with Raw(site.port) as raw:
            assert await ask(raw, b"/in/a?b", b"Hooks.Example:8080") == (200, b"mine")
            assert (await ask(raw, b"/in/a?b", b"other.example"))[0] == 404
            assert (await ask(raw, b"/", b"hooks.example"))[0] == 404
            assert await ask(raw, b"http://hooks.example/in", b"other.example") == (200, b"mine")
            await site.change(input={"custom_domain": "hooks.example"})
            large = b"x" * 1_000_000
            head = b"PUT /up?q HTTP/1.1\r\nHost: hooks.example\r\nContent-Length: %d\r\n\r\n" % len(large)
            reply = await raw.ask(head + large)
            assert reply.status == 200
            for path in (b"/healthz", b"/readyz"):
                reply = await raw.ask(b"GET %b HTTP/1.1\r\nHost: hooks.example\r\n\r\n" % path)
                assert reply.header("Content-Type") == "application/json"
            assert await ask(raw, URL, b"hooks.example") == (200, b"")
            assert (await ask(raw, b"/v1/else", b"hooks.example"))[0] == 404
        stored = await site.events()
        assert [(event.method, event.path, event.query) for event in stored] == [
            ("POST", b"/a", b"b"), ("POST", b"", b""), ("PUT", b"/up", b"q"), ("POST", b"", b""),
        ]  # fmt: skip
        assert stored[0].headers.startswith(b"Host: Hooks.Example:8080\r\n")
        assert stored[2].body == large
        assert stored[0].input_id == INPUT.id
