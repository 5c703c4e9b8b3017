"""relay_tornado/forwarding/request.py: what a request's head holds, and what it does not."""

from __future__ import annotations

import pytest

from relay_tornado.errors import Invalid
from relay_tornado.forwarding.request import encode
from relay_tornado.model import Event, Output
from relay_tornado.wire.destination import parse
from tests.forwarding.world import public

URL = "http://h/in"


def lines(
    output: Output | None = None, *, method: str = "POST", headers: bytes = b"", body: bytes = b""
) -> list[bytes]:
    """The lines of a request's head."""
    output = output or public(URL)
    event = Event(1, "a" * 12, 1000.0, "in-1", method, b"/x", b"", headers, body, "::1")
    head, sent = encode(event, output, parse(output.destination), 1000.0)
    assert sent == body
    assert head.endswith(b"\r\n\r\n")
    return head[:-4].split(b"\r\n")


def test_the_login_in_its_url_is_sent() -> None:
    """In place of the sender's credentials. A header of the output comes before both."""
    url, theirs = "http://me:word@h/in", b"authorization: theirs\r\n"
    for output, sent in (
        (public(url), b"Authorization: Basic bWU6d29yZA=="),
        (public(url, headers={"AUTHORIZATION": ["own"]}), b"AUTHORIZATION: own"),
    ):
        found = lines(output, headers=theirs)
        assert [line for line in found if line.lower().startswith(b"authorization")] == [sent]


@pytest.mark.parametrize(
    ("method", "body", "length"),
    [("POST", b"", True), ("PURGE", b"", True), ("GET", b"", False), ("DELETE", b"", False), ("GET", b"x", True)],
)
def test_a_length_is_sent_where_there_may_be_a_body(method: str, body: bytes, length: bool) -> None:
    assert (b"Content-Length: %d" % len(body) in lines(method=method, body=body)) is length


def test_a_header_that_no_request_can_have_is_left_out() -> None:
    """The others are sent."""
    found = lines(headers=b"a b: 1\r\nX-Zero: a\0b\r\nX-Good: 1\r\n")
    assert found[2:] == [b"X-Good: 1", b"Content-Length: 0"]


def test_its_own_headers_do_not_change_where_head_and_body_end() -> None:
    """Host is the one that it may have."""
    own = {
        "Host": ["own"],
        "Content-Length": ["7"],
        "Transfer-Encoding": ["chunked"],
        "X-A": ["1\r\nX-B: 2"],
        "X-Own": ["1"],
    }
    found = lines(public(URL, headers=own), body=b"body")
    assert found[1:] == [b"Host: own", b"X-Own: 1", b"Content-Length: 4"]


@pytest.mark.parametrize("method", ["CONNECT", "", "A B", "POST / HTTP/1.1\r\nX-A: 1\r\nX-B:", "GET\n", "GÉT"])
def test_what_is_no_request_to_a_destination(method: str) -> None:
    """A tunnel, and a method that would be more than one."""
    with pytest.raises(Invalid, match="can't be sent"):
        lines(method=method)


def test_the_path_is_appended_unless_it_is_locked() -> None:
    assert lines()[:2] == [b"POST /in/x HTTP/1.1", b"Host: h"]
    assert lines(public(URL, lock_path=True))[0] == b"POST /in HTTP/1.1"
