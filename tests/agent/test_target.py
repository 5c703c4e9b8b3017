"""One try of one request, against servers that do as they please."""

from __future__ import annotations

import asyncio
import errno
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import NoReturn

import pytest
import trustme

from relay_tornado.agent.request import Request
from relay_tornado.agent.target import MOST_BODY, Answer, Target, Trouble
from relay_tornado.outgoing import transport
from tests.ports import hold_port, port_of

GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(serve: Serve, context: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """A server; yields its URL."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=context)
    scheme = "http" if context is None else "https"
    try:
        yield f"{scheme}://localhost:{server.sockets[0].getsockname()[1]}/"
    finally:
        server.close()


def answering(*answers: bytes) -> Serve:
    """Each connection gets these answers, one a request, and is closed then."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()

    return serve


async def ask(serve: Serve, times: int = 1, timeout: float = 20.0) -> list[Answer | Trouble]:
    async with serving(serve) as url, Target(timeout) as target:
        return [await target.send(Request("POST", url, b"/", ((b"Content-Length", b"1"),), b"x")) for _ in range(times)]


def test_an_answer() -> None:
    """Status, headers with repeats and text in any encoding, and the body as it came, compressed or not."""
    head = b"HTTP/1.1 418 Tea\r\nX-A: 1\r\nSet-Cookie: a=b\r\nx-a: 2\r\nX-Text: caf\xe9\r\nX-Utf: caf\xc3\xa9\r\n"
    [answer] = asyncio.run(ask(answering(head + b"Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\n\x1f\x8b\x00")))
    assert isinstance(answer, Answer)
    assert (answer.status, answer.body, answer.whole, answer.transient, answer.good) == (
        418,
        b"\x1f\x8b\x00",
        True,
        False,
        False,
    )
    assert answer.headers["X-Text"] == answer.headers["X-Utf"] == ["café"]
    assert [name.lower() for name, values in answer.headers.items() for _ in values].count("x-a") == 2
    assert answer.headers["Content-Encoding"] == ["gzip"]
    assert "Content-Length" not in answer.headers


def test_what_is_of_the_connection_alone() -> None:
    """It goes back to nobody, and neither does what the answer's Connection header names."""
    fields = b"Connection: keep-alive, X-Hop\r\nConnection: x-other\r\nKeep-Alive: 5\r\nX-hop: 1\r\nX-Other: 2\r\n"
    [answer] = asyncio.run(ask(answering(b"HTTP/1.1 200 OK\r\nX-A: 3\r\n" + fields + b"Content-Length: 0\r\n\r\n")))
    assert isinstance(answer, Answer)
    assert {name.lower(): values for name, values in answer.headers.items()} == {"x-a": ["3"]}


@pytest.mark.parametrize("body", [b"", b"\xff\x00", bytes(300_000)], ids=len)
@pytest.mark.parametrize("method", ["post", "GET", "get", "CONNECT", "M-SEARCH", "head"])
def test_a_request_byte_for_byte(method: str, body: bytes) -> None:
    """Method, target and headers leave as they stand, with the server's Host first and nothing else added."""
    seen: list[bytes] = []
    length = b"%d" % len(body)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            seen.append(await reader.readuntil(b"\r\n\r\n") + await reader.readexactly(len(body)))
            writer.write(GOOD)
            await writer.drain()

    async def run() -> str:
        fields = ((b"x-l", b"caf\xe9"), (b"X-L", b"\xc3\xa9 \t."), (b"Content-Length", length))
        async with serving(serve) as url, Target(20.0) as target:
            request = Request(method, url.removesuffix("/"), b"/\xe9//../%zz?a?b=\xff#&c=[]", fields, body)
            for _ in range(2):
                answer = await target.send(request)
                assert isinstance(answer, Answer)
                assert (answer.status, answer.body) == (200, b"ok")
            return url

    url = asyncio.run(run())
    head = method.encode() + b" /\xe9//../%zz?a?b=\xff#&c=[] HTTP/1.1\r\nHost: " + url.split("/")[2].encode()
    head += b"\r\nx-l: caf\xe9\r\nX-L: \xc3\xa9 \t.\r\nContent-Length: " + length + b"\r\n\r\n"
    assert seen == [head + body] * 2


def test_a_host_of_its_own() -> None:
    """It goes out first, and alone."""
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(GOOD)

    async def run() -> None:
        async with serving(serve) as url, Target(20.0) as target:
            fields = ((b"B", b"1"), (b"A", b"2"), (b"host", b"shop.example"))
            await target.send(Request("GET", url, b"/", fields, b""))

    asyncio.run(run())
    assert seen == [b"GET / HTTP/1.1\r\nhost: shop.example\r\nB: 1\r\nA: 2\r\n\r\n"]


def test_long_lines_of_an_answer() -> None:
    """Large cookies and policies are no reason to send an event again and again."""
    value = b"x" * 60_000
    head = b"HTTP/1.1 200 " + value + b"\r\nX-Long: " + value + b"\r\nContent-Length: 0\r\n\r\n"
    [answer] = asyncio.run(ask(answering(head)))
    assert isinstance(answer, Answer)
    assert answer.headers["X-Long"] == [value.decode()]


@pytest.mark.parametrize(("status", "good"), [(200, True), (399, True), (400, False), (600, False)])
def test_which_answers_are_good(status: int, good: bool) -> None:
    """The target took the event."""
    [answer] = asyncio.run(ask(answering(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % status)))
    assert isinstance(answer, Answer)
    assert (answer.status, answer.good) == (status, good)


def test_what_passes() -> None:
    """408, 425, 429 and 5xx are tried again, nothing else."""
    assert [each for each in range(200, 700) if Answer(each, {}, b"").transient] == [408, 425, 429, *range(500, 600)]


def test_an_answer_to_head_has_no_body() -> None:
    """Its length is that of another answer; the connection goes on."""

    async def run() -> list[Answer | Trouble]:
        good = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
        async with serving(answering(good, good)) as url, Target(20.0) as target:
            request = Request("HEAD", url, b"/", ((b"Host", b"a.example"),), b"")
            return [await target.send(request) for _ in range(2)]

    answers = asyncio.run(run())
    assert [isinstance(each, Answer) and (each.status, each.body) for each in answers] == [(200, b"")] * 2


def test_a_body_that_is_too_big() -> None:
    """It is left out; the status counts."""
    [answer] = asyncio.run(
        ask(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 999999999\r\n\r\n" + bytes(MOST_BODY + 1)))
    )
    assert isinstance(answer, Answer)
    assert (answer.status, answer.body, answer.whole) == (200, b"", False)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"", "before it answered"),
        (b"nonsense\r\n\r\n", "no HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", "broke off"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", ""),
    ],
)
def test_no_answer(answer: bytes, words: str) -> None:
    """What comes is no whole answer, and may be one next time."""
    [trouble] = asyncio.run(ask(answering(answer)))
    assert isinstance(trouble, Trouble)
    assert trouble.transient
    assert words in trouble.words


def test_no_answer_in_time() -> None:
    """Neither head nor body may take longer."""

    async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        await reader.read()

    async def without_a_word(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async def run() -> list[list[Answer | Trouble]]:
        return await asyncio.gather(*(ask(each, timeout=1.5) for each in (half, without_a_word)))

    assert asyncio.run(run()) == [
        [Trouble("its answer did not end within 1.5 seconds")],
        [Trouble("it did not answer within 1.5 seconds")],
    ]


def test_nobody_there() -> None:
    """A refused connection and an unknown name are told in words, without addresses; so is no host."""

    async def run(port: int) -> list[Answer | Trouble]:
        async with Target(20.0) as target:
            urls = (f"http://127.0.0.1:{port}", "http://nowhere.invalid", "http://a..b", "http://1.2.3")
            return [await target.send(Request("GET", each, b"/", (), b"")) for each in urls]

    with hold_port() as held:
        refused, unknown, *impossible = asyncio.run(run(port_of(held)))
    assert refused == Trouble("it can't be reached: Connection refused")
    assert isinstance(unknown, Trouble)
    assert unknown.transient
    assert [isinstance(each, Trouble) and each.transient for each in impossible] == [True, True]


def test_no_means_for_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no try: it says nothing of the target."""

    async def lacking(_: object) -> NoReturn:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(transport, "connect", lacking)
    [trouble] = asyncio.run(ask(answering()))
    assert trouble == Trouble("it can't be reached: Too many open files", tried=False)


def test_retry_after() -> None:
    """It is read from the answer."""
    [answer] = asyncio.run(ask(answering(b"HTTP/1.1 429 Slow\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n")))
    assert isinstance(answer, Answer)
    assert (answer.transient, answer.retry_after) == (True, 7.0)


def test_certificates(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are verified, against SSL_CERT_FILE too, unless one asks for the contrary."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    bundle = tmp_path_factory.mktemp("tls") / "ca.pem"
    authority.cert_pem.write_to_path(os.fspath(bundle))

    async def run(verify: bool) -> Answer | Trouble:
        async with serving(answering(GOOD), context) as url, Target(20.0, verify) as target:
            return await target.send(Request("GET", url, b"/", (), b""))

    refused = asyncio.run(run(verify=True))
    assert isinstance(refused, Trouble)
    assert "certificate" in refused.words
    assert isinstance(asyncio.run(run(verify=False)), Answer)
    monkeypatch.setenv("SSL_CERT_FILE", os.fspath(bundle))
    assert isinstance(asyncio.run(run(verify=True)), Answer)
