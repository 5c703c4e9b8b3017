"""relay_tornado/outgoing/plain_answers.py: what it reads, h11 reads in the same way; the rest is left to h11."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay_tornado.outgoing.plain_answers import PlainAnswer, read_plain

HEAD, BODY = 1024, 64


def read(data: bytes) -> PlainAnswer | None:
    return read_plain(data, HEAD, BODY)


def by_h11(data: bytes) -> PlainAnswer:
    """What h11 reads, if that is all of the data and the connection may be used again."""
    parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD)
    parser.send(h11.Request(method="POST", target="/", headers=[("Host", "-")]))
    parser.send(h11.EndOfMessage())
    parser.receive_data(data)
    head = parser.next_event()
    assert isinstance(head, h11.Response)
    body = b""
    while isinstance(event := parser.next_event(), h11.Data):
        body += event.data
    assert isinstance(event, h11.EndOfMessage)
    assert parser.trailing_data == (b"", False)
    parser.start_next_cycle()
    return head.status_code, list(head.headers.raw_items()), body


def test_plain_answers_are_read() -> None:
    """With their headers as they came, and none for an answer without content."""
    head = b"HTTP/1.1 200 OK\r\nSERVER:  nginx \r\nX: \r\nConnection:keep-alive\r\ncontent-length: 2\r\n\r\n"
    assert read(head + b"ok") == (
        200,
        [(b"SERVER", b"nginx"), (b"X", b""), (b"Connection", b"keep-alive"), (b"content-length", b"2")],
        b"ok",
    )
    assert read(b"HTTP/1.1 204\r\n\r\n") == (204, [], b"")
    full = b"x" * BODY
    assert read(b"HTTP/1.1 500 Sorry\r\nContent-Length: %d\r\n\r\n" % BODY + full) == (
        500, [(b"Content-Length", b"%d" % BODY)], full
    )  # fmt: skip


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok!",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 600 Odd\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 304 Same\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 204 No\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive, x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nUpgrade: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0, 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: +0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length : 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nA: b\r\n c\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nA: \x00\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (BODY + 1) + b"x" * (BODY + 1),
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nA: " + b"x" * HEAD + b"\r\n\r\n",
    ],
)
def test_others_are_left(data: bytes) -> None:
    """What is not whole, not plain, too long, or no HTTP."""
    assert read(data) is None


_LINES = st.sampled_from(
    (
        *(
            b"Content-Length: 0",
            b"Content-Length: 1",
            b"content-length:\t2 ",
            b"Content-Length: 02",
            b"Content-Length:",
        ),
        *(b"Connection: keep-alive", b"Connection: Keep-Alive", b"Connection: close", b"connection:"),
        *(b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity", b"Upgrade: h2c", b"Server: x"),
        *(b"Set-Cookie: a=b; c", b"X-Odd: \xff \t y\t", b"X:", b" folded", b"No colon", b"A b: c", b"Trailer: x"),
    )
)
_STATUS = st.sampled_from(
    (b"200 OK", b"200", b"200 ", b"204 No", b"205 Reset", b"304 Same", b"101 Up", b"404 \xe9", b"99")
)


@given(
    st.sampled_from((b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0")),
    _STATUS,
    st.lists(_LINES, max_size=3),
    st.sampled_from((b"\r\n", b"\r\n", b"\n")),
    st.sampled_from((b"", b"o", b"ok", b"0\r\n\r\n")),
    st.booleans(),
)
def test_it_reads_as_h11_does(
    version: bytes, status: bytes, lines: list[bytes], end: bytes, body: bytes, told: bool
) -> None:
    """Or not at all."""
    length = (b"Content-Length: %d" % len(body),) if told else ()
    data = version + b" " + end.join((status, *length, *lines, b"", body))
    answer = read(data)
    assert answer is None or answer == by_h11(data)
