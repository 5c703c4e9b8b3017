"""What the relay's own transport reads of a head: never otherwise than Tornado does, and nothing that is in doubt."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from tornado.httputil import HTTPHeaders, HTTPInputError, RequestStartLine, parse_request_start_line

from relay_tornado.handlers.heads import header_block, names_host
from relay_tornado.transport import heads
from relay_tornado.transport.heads import has_end, read_head

LINE = b"POST /v1/webhooks/a?b HTTP/1.1\r\n"
PLAIN = LINE + b"Host: h\r\nUser-Agent: t\r\nContent-Length: 3\r\n\r\n"

NAMES = [b"Content-Length", b"content-length", b"Transfer-Encoding", b"EXPECT", b"Connection", b"Host", b"X", b"-"]
OTHERS = [b":", b": ", b"\t", b" ", b"5", b"chunked", b"close", b"keep-alive", b"\r\n", b"\n", b"\r", b",", b"("]
PIECES = st.sampled_from([*NAMES, *OTHERS, b"\x00", b"\x7f", b"\x85", b"\xc3\xa9"])
GOOD = st.sampled_from(
    [
        b"Host: h\r\n",
        b"hOST:h:80 \r\n",
        b"Content-Length: 5\r\n",
        b"content-length:\t0005 \r\n",
        b"Connection: Close\r\n",
        b"connection: Keep-Alive\r\n",
        b"X-Connection: y\r\n",
        b"A:\r\n",
    ]
)
WELL_FORMED = st.tuples(PIECES, st.just(b":"), PIECES, st.sampled_from([b"\r\n", b"\n"])).map(b"".join)
BLOCKS = st.lists(st.one_of(GOOD, GOOD, GOOD, WELL_FORMED, PIECES), max_size=8).map(b"".join)
LINES = st.sampled_from(
    [
        LINE,
        LINE,
        b"\r\n" + LINE,
        LINE.replace(b"\r\n", b"\n"),
        b"GET / HTTP/1.1\r\n",
        b"POST /v1/webhooks/a HTTP/1.0\r\n",
        b"PUT HTTP://h/v1/webhooks/a?b HTTP/1.1\r\n",
        b"OPTIONS * HTTP/1.1\r\n",
        b"P(T /v1/webhooks/a HTTP/1.1\r\n",
        b"POST /v1/webhooks/a b HTTP/1.1\r\n",
        b"POST /v1/webhooks/\xe9 HTTP/1.1\r\n",
        b"POST /v1/webhooks/a HTTP/1.10\r\n",
        b"POST /v1/webhooks/a http/1.1\r\n",
        b"POST /v1/webhooks/a\r\n",
    ]
)


def tornado(head: bytes) -> tuple[RequestStartLine, HTTPHeaders] | None:
    """How Tornado reads a head, None where it refuses it."""
    line, _, block = head.decode("latin-1").lstrip("\r\n").partition("\n")
    try:
        return parse_request_start_line(line.rstrip("\r")), HTTPHeaders.parse(block)
    except HTTPInputError:
        return None


@given(LINES, BLOCKS, st.sampled_from([b"\r\n", b"\n"]), st.sampled_from([b"", b"body", b"GET / HTTP/1.1\r\n\r\n"]))
@example(b"POST /v1/webhooks/a?b HTTP/1.1\r\n", b"Host:\xc3\xa9\r\n", b"\r\n", b"")
@hypothesis_settings(max_examples=400)
def test_nothing_is_read_otherwise(line: bytes, block: bytes, end: bytes, behind: bytes) -> None:
    """What is read here Tornado takes, and reads as the same method, target, host, framing and keep-alive."""
    data = line + block + end + behind
    found = read_head(data, len(data))
    if found is None:
        return
    method, target, lines, size, host, length, keeps = found
    head = data[:size]
    assert has_end(head, 0)
    assert names_host(head)
    read = tornado(head)
    assert read is not None
    start, headers = read
    assert (start.method, start.path.encode("latin-1"), start.version) == (method, target, "HTTP/1.1")
    assert lines == header_block(head)
    assert headers["Host"].encode("latin-1").lower().decode("latin-1") == host  # what is no ASCII has no case
    assert "Transfer-Encoding" not in headers
    assert "Expect" not in headers
    assert headers.get_list("Content-Length") in ([], [headers.get("Content-Length", "")])
    assert int(headers.get("Content-Length", "0")) == length
    assert (headers.get("Connection", "").lower() != "close") is keeps


def test_an_ordinary_webhook() -> None:
    """Every part of a head comes out, and how long it is."""
    assert read_head(PLAIN + b"abc", len(PLAIN) + 3) == (
        "POST", b"/v1/webhooks/a?b", b"Host: h\r\nUser-Agent: t\r\nContent-Length: 3\r\n", len(PLAIN), "h", 3, True
    )  # fmt: skip


def test_only_the_first_bytes_count() -> None:
    """What a buffer holds behind them came from somebody else."""
    assert read_head(bytearray(PLAIN), len(PLAIN)) is not None
    assert read_head(bytearray(PLAIN), len(PLAIN) - 1) is None


@pytest.mark.parametrize(
    ("lines", "length", "keeps"),
    [
        (b"Host: h\r\n", 0, True),
        (b"CONTENT-length:  7\t\r\nhost:h\r\n", 7, True),
        (b"Host: h\r\nConnection: keep-alive\r\n", 0, True),
        (b"Host: h\r\nConnection:  CLOSE \r\n", 0, False),
        (b"Host: h\r\nX-Content-Length: 9\r\nX-Expect: a\r\nX-Transfer-Encoding: chunked\r\n", 0, True),
        (b"Host: h\r\nA:  \xff\tcontent-length: 4\r\n", 0, True),
        (b"Host: h\r\nCookie: a=1\r\nX-Cookie: relay_session=x\r\n", 0, True),
    ],
)
def test_what_is_read(lines: bytes, length: int, keeps: bool) -> None:
    """Names count whole and in any case, values without the blanks around them."""
    data = LINE + lines + b"\r\n"
    found = read_head(data, len(data))
    assert found is not None
    assert (found[2], found[5], found[6]) == (lines, length, keeps)


@pytest.mark.parametrize(
    "head",
    [
        PLAIN[:-1],
        PLAIN.replace(b"\r\n", b"\n"),
        PLAIN.replace(b"\r\nUser", b"\nUser"),
        PLAIN.replace(b"t\r\n", b"t\r\r\n"),
        b"\r\n" + PLAIN,
        PLAIN.replace(b"HTTP/1.1", b"HTTP/1.0"),
        PLAIN.replace(b"HTTP/1.1", b"HTTP/1x1"),
        PLAIN.replace(b" /v1", b" http://h/v1"),
        PLAIN.replace(b" /v1", b"  /v1"),
        PLAIN.replace(b" /v1", b"\t/v1"),
        PLAIN.replace(b"?b", b"?b c"),
        PLAIN.replace(b"?b", b"?b\x7f"),
        PLAIN.replace(b"?b", b"?b\x00"),
        PLAIN.replace(b"Host: h\r\n", b""),
        PLAIN.replace(b"Host: h\r\n", b"Host: h\r\nHost: h\r\n"),
        PLAIN.replace(b"Host: h", b"Host : h"),
        PLAIN.replace(b"User-Agent: t", b"User-Agent: a\r\n folded"),
        PLAIN.replace(b"User-Agent: t", b"User-Agent: a\r\n\tfolded"),
        PLAIN.replace(b"User-Agent: t", b"User-Agent: a\x00"),
        PLAIN.replace(b"User-Agent: t", b"User-Agent: a\rb"),
        PLAIN.replace(b"User-Agent: t", b"no colon"),
        PLAIN.replace(b"User-Agent: t", b": empty"),
        PLAIN.replace(b"User-Agent: t", b"B\xe4d: name"),
        PLAIN.replace(b"User-Agent: t", b"Transfer-Encoding: chunked"),
        PLAIN.replace(b"User-Agent: t", b"transfer-encoding:\tidentity"),
        PLAIN.replace(b"User-Agent: t", b"Expect: 100-continue"),
        PLAIN.replace(b"User-Agent: t", b"Cookie: a=1; relay_session=x"),
        PLAIN.replace(b"User-Agent: t", b"COOKIE:__Host-relay_session=x"),
        PLAIN.replace(b"User-Agent: t", b"Connection: Upgrade"),
        PLAIN.replace(b"User-Agent: t", b"Connection: close, keep-alive"),
        PLAIN.replace(b"User-Agent: t", b"Connection: close\r\nConnection: keep-alive"),
        PLAIN.replace(b"User-Agent: t", b"Content-Length: 3"),
        PLAIN.replace(b"Length: 3", b"Length: 3, 3"),
        PLAIN.replace(b"Length: 3", b"Length: +3"),
        PLAIN.replace(b"Length: 3", b"Length: -3"),
        PLAIN.replace(b"Length: 3", b"Length: 0x3"),
        PLAIN.replace(b"Length: 3", b"Length: 3_0"),
        PLAIN.replace(b"Length: 3", b"Length: \xb3"),
        PLAIN.replace(b"Length: 3", b"Length: 3 3"),
        PLAIN.replace(b"Length: 3", b"Length:"),
        PLAIN.replace(b"Length: 3", b"Length: " + b"9" * 16),
    ],
)
def test_what_is_not_read_here(head: bytes) -> None:
    """Whatever two parsers might read in two ways is left to Tornado, and so is what has the page's cookie in it."""
    assert read_head(head, len(head)) is None


def test_the_end_of_a_head() -> None:
    """It is where Tornado sees it, wherever the search goes on."""
    for end in (b"\r\n\r\n", b"\n\n", b"\n\r\n", b"\r\n\n"):
        data = LINE + b"A: 1" + end
        assert has_end(data, 0)
        for size in range(len(data)):
            assert not has_end(data[:size], 0)
            assert has_end(data, max(size - 3, 0))


def test_what_is_remembered_of_heads_is_bounded() -> None:
    """Neither by how many there are nor by how long they are do they fill the memory."""
    for number in range(5000):
        data = LINE + b"Host: h%d\r\n\r\n" % number
        assert read_head(data, len(data)) is not None
    before = heads._known.cache_info()
    assert before.currsize <= 4096
    data = LINE + b"Host: " + b"h" * 10_000 + b"\r\n\r\n"
    for _ in range(2):
        found = read_head(data, len(data))
        assert found is not None
        assert found[4] == "h" * 10_000
    assert heads._known.cache_info() == before
