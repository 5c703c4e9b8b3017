"""What Tornado is given of a webhook's head: it may never read it otherwise than the whole head."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tornado.httputil import HTTPHeaders, HTTPInputError, parse_request_start_line

from relay_tornado.handlers.heads import ends_lines, essential, frames_body, header_block, names_host, says_close

FRAMING = ("Content-Length", "Transfer-Encoding", "Connection", "Expect")

NAMES = [b"Content-Length", b"content-length", b"Transfer-Encoding", b"EXPECT", b"Connection", b"X", b"-"]
OTHERS = [b":", b": ", b"\t", b" ", b"5", b"chunked", b"close", b"100-continue", b"\r\n", b"\n", b"\r", b",", b"("]
PIECES = st.sampled_from([*NAMES, *OTHERS, b"\x00", b"\x7f", b"\x85", b"\xc3\xa9"])
WELL_FORMED = st.tuples(PIECES, st.just(b":"), PIECES, st.sampled_from([b"\r\n", b"\n"])).map(b"".join)
BLOCKS = st.lists(st.one_of(WELL_FORMED, PIECES), max_size=14).map(b"".join)
LINES = st.sampled_from(
    [
        b"POST /v1/webhooks/a HTTP/1.1\r\n",
        b"\r\nPOST /v1/webhooks/a HTTP/1.0\n",
        b"GET /healthz HTTP/1.1\r\n",
        b"PUT HTTP://h/v1/webhooks/a?b HTTP/1.1\r\n",
        b"P(T /v1/webhooks/a HTTP/1.1\r\n",
        b"POST /v1/webhooks/a b HTTP/1.1\r\n",
        b"POST /v1/webhooks/\xe9 HTTP/1.1\r\n",
        b"POST /v1/webhooks/a HTTP/1.10\r\n",
        b"POST /v1/webhooks/a http/1.1\r\n",
        b"POST /v1/webhooks/a\r\n",
    ]
)


def read(head: bytes) -> tuple[object, ...] | None:
    """How Tornado reads a head, of what decides about a request; None where it refuses it."""
    text = head.decode("latin-1").lstrip("\r\n")
    line, _, block = text.partition("\n")
    try:
        start = parse_request_start_line(line.rstrip("\r"))
        headers = HTTPHeaders.parse(block)
    except HTTPInputError:
        return None
    return (start, *(headers.get_list(name) for name in FRAMING))


@given(LINES, BLOCKS, st.sampled_from([b"\r\n", b"\n"]))
def test_nothing_is_read_otherwise(line: bytes, block: bytes, end: bytes) -> None:
    """Whether a request is refused, how its body is framed and what becomes of its connection is the same."""
    head = line + block + end
    assert read(essential(head)) == read(head)


def test_what_is_left_out() -> None:
    """Of an ordinary webhook four headers stay; everything else is not Tornado's."""
    head = (
        b"POST /v1/webhooks/a HTTP/1.1\r\nHost: h\r\nA: 1\r\ncontent-LENGTH:5\r\nB: \xc3\xa9\nConnection: close\r\n"
        b"Expect: 100-continue\r\nX-Connection: y\r\n\r\n"
    )
    assert essential(head) == (
        b"POST /v1/webhooks/a HTTP/1.1\r\ncontent-LENGTH:5\r\nConnection: close\r\nExpect: 100-continue\r\n\r\n"
    )
    other = head.replace(b"/v1/webhooks", b"/v1/socket")
    assert essential(other) == other


@given(LINES, BLOCKS, st.sampled_from([b"\r\n", b"\n"]))
def test_the_block(line: bytes, block: bytes, end: bytes) -> None:
    """The header block is what stands between the request line and the closing empty line."""
    assert header_block(line + block + b"A: 1\n" + end) == block + b"A: 1\n"


@pytest.mark.parametrize(
    ("head", "named"),
    [
        (b"POST / HTTP/1.1\r\nHost: a\r\n\r\n", True),
        (b"\r\nPOST / HTTP/1.1\r\nA: 1\r\nhOST:a\r\n\r\n", True),
        (b"POST / HTTP/1.1\nHost:\n\n", True),
        (b"POST / HTTP/1.1\r\n\r\n", False),
        (b"POST / HTTP/1.1\r\nX-Host: a\r\n\r\n", False),
        (b"POST / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", False),
        (b"POST / HTTP/1.0\r\n\r\n", True),
        (b"POST / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", False),
    ],
)
def test_whom_a_request_is_for(head: bytes, named: bool) -> None:
    """HTTP/1.1 names one host; two could be read as either by a proxy in front and the relay behind it."""
    assert names_host(head) is named


@pytest.mark.parametrize(
    ("head", "framed"),
    [
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", True),
        (b"POST / HTTP/1.0\r\nContent-Length: 1\r\n\r\n", True),
        (b"POST / HTTP/1.1\r\nHost: a,b\r\nContent-Length: 1\r\nA: 1,2\r\n\r\n", True),
        (b"POST / HTTP/1.1\r\nHost: a\r\ncontent-LENGTH: 1\r\nA: b\r\nContent-Length: 1\r\n\r\n", False),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1 , 1\r\n\r\n", False),
        (b"POST / HTTP/1.0\r\ntransfer-ENCODING: chunked\r\n\r\n", False),
        (b"\r\nPOST /HTTP/1.1 HTTP/1.0\r\nA: b\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", False),
    ],
)
def test_framing_that_others_may_read_in_another_way(head: bytes, framed: bool) -> None:
    """A length given twice; chunks in HTTP/1.0, that came through something that did not read them."""
    assert frames_body(head) is framed


def test_bare_line_feeds() -> None:
    """One bare line feed among the ends of lines is seen, wherever it stands."""
    head = b"POST / HTTP/1.1\r\nHost: a\r\nA: 1\r\n\r\n"
    assert ends_lines(head)
    for at in range(len(head)):
        if head[at : at + 1] == b"\r":
            assert not ends_lines(head[:at] + head[at + 1 :])


@pytest.mark.parametrize(
    ("lines", "given"),
    [
        (b"A: 1\r\nConnection: TE, close\r\nB: 2\r\n", b"A: 1\r\nConnection: close\r\nB: 2\r\n"),
        (b"connection:close,TE\r\nB: 2\r\nCONNECTION: TE\r\n", b"Connection: close\r\nB: 2\r\n"),
        (b"Connection: TE\r\nConnection: x\r\nConnection:\tClose\t\r\n", b"Connection: close\r\n"),
        *(
            (lines, lines)
            for lines in (
                b"A: 1\r\n",
                b"Connection: TE, closed\r\nX-Connection: close\r\n",
                b"Connection: Upgrade, close\r\n",
                # Tornado refuses each of these, and still has to see why.
                b"Connection: close\x00\r\n",
                b"Connection : close\r\n",
                b"Connection: TE,\r\n close\r\n",
            )
        ),
    ],
)
def test_the_end_of_a_connection_among_other_options(lines: bytes, given: bytes) -> None:
    """`close` in any Connection line is all that Tornado gets of them."""
    line = b"POST / HTTP/1.1\r\n"
    assert says_close(line + lines + b"\r\n") == line + given + b"\r\n"


@given(LINES, BLOCKS)
def test_only_connection_lines_are_changed(line: bytes, block: bytes) -> None:
    """Whatever the head, its other lines stay as they are."""

    def others(head: bytes) -> list[bytes]:
        return [each for each in head.split(b"\n") if not each.lower().startswith(b"connection:")]

    head = line + block + b"\r\n"
    assert others(says_close(head)) == others(head)
