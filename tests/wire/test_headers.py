"""relay_tornado/wire/headers.py: names, values, order, and what is left out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay_tornado.wire import headers


def shown(*lines: bytes) -> dict[str, list[str]]:
    block = b"".join(line + b"\r\n" for line in lines)
    return {name: list(values) for name, values in headers.for_frame(block)[0].items()}


@pytest.mark.parametrize(
    ("raw", "canonical"),
    [
        ("content-type", "Content-Type"),
        ("X-GITHUB-DELIVERY", "X-Github-Delivery"),
        ("x_custom.name", "X_custom.name"),
        ("x--y", "X--Y"),
        ("-x", "-X"),
        ("etag", "Etag"),
        ("a b-c", "a b-c"),
        ("Ünï-code", "Ünï-code"),
        ("3d-model", "3d-Model"),
        ("", ""),
    ],
)
def test_names_are_spelled_as_go_does(raw: str, canonical: str) -> None:
    """Each part of a token begins with a capital and goes on small; what is no token stays as it is."""
    assert headers.canonical(raw) == canonical


def test_repeats_keep_their_order_per_name() -> None:
    """Values of one name, however it is spelled, come in the order of their lines."""
    assert shown(b"X-A: 1", b"x-b: 2", b"x-a: 3", b"X-A:") == {"X-A": ["1", "3", ""], "X-B": ["2"]}


def test_white_space_around_a_value_is_not_part_of_it() -> None:
    """Optional white space goes, white space within stays."""
    assert shown(b"X-A: \t a  b\t ", b"X-B:c") == {"X-A": ["a  b"], "X-B": ["c"]}


def test_folded_lines_are_joined() -> None:
    """obs-fold becomes one space; a fold before any field is passed over."""
    assert shown(b" lost", b"X-A: one", b"\ttwo", b"  ", b"X-B:", b" three") == {"X-A": ["one two"], "X-B": ["three"]}


@pytest.mark.parametrize("blank", [b" ", b"\t"])
def test_a_fold_is_no_field_of_its_own(blank: bytes) -> None:
    """Whatever it looks like, and a fold with nothing in it adds nothing; nor is a line without a name a field."""
    block = b"garbage\r\n: no name\r\nX-A: one\r\n" + blank + b"more: of it\r\n" + blank + b"\r\nX-B:2\r\n"
    assert headers.parse(block) == [(b"X-A", b"one more: of it"), (b"X-B", b"2")]
    assert headers.for_frame(block)[0] == {"X-A": ("one more: of it",), "X-B": ("2",)}


def test_bytes_are_utf8_or_else_latin1() -> None:
    """Each value is decoded by itself."""
    assert shown("X-A: café".encode(), "X-B: café".encode("latin-1"), b"X-C: plain") == {
        "X-A": ["café"],
        "X-B": ["café"],
        "X-C": ["plain"],
    }


def test_what_is_between_two_hops_is_left_out() -> None:
    """Host, the hop-by-hop names and what Connection lists are left out, Content-Length stays."""
    kept = shown(
        b"Host: example.com",
        b"connection: keep-alive, X-Hop",
        b"Connection: x-other",
        b"Keep-Alive: timeout=5",
        b"Proxy-Authenticate: a",
        b"Proxy-Authorization: b",
        b"Proxy-Connection: c",
        b"TE: trailers",
        b"Trailer: X-T",
        b"Transfer-Encoding: chunked",
        b"Upgrade: h2c",
        b"X-Hop: 1",
        b"x-OTHER: 2",
        b"Content-Length: 3",
    )
    assert kept == {"Content-Length": ["3"]}


def test_many_repeats_cost_no_time() -> None:
    """A name that comes a million times is read once: quadratic work here would take hours."""
    assert headers.for_frame(b"A: 1\r\n" * 1_000_000)[0] == {"A": ("1",) * 1_000_000}


@pytest.mark.parametrize(
    ("block", "left"),
    [
        (b"Cookie: relay_session=s3cret\r\n", b""),
        (b"A: 1\r\ncookie:__Host-relay_session=s3cret\r\nB: 2\r\n", b"A: 1\r\nB: 2\r\n"),
        (b"Cookie: a=1; relay_session=s3cret;  b=2\n", b"Cookie: a=1;  b=2\n"),
        (b"COOKIE:  relay_session=s3cret; b=2\r\n", b"COOKIE: b=2\r\n"),
        (b"Cookie: a=1;relay_session=s3\r\nCookie: relay_session=s3; b=2\r\n", b"Cookie: a=1\r\nCookie: b=2\r\n"),
    ],
)
def test_the_page_s_cookie_is_taken_out(block: bytes, left: bytes) -> None:
    """What signs a browser in to the page, by each of its names; every other cookie stays as it came."""
    assert headers.without_session(block) == left


@pytest.mark.parametrize(
    "block",
    [b"Cookie: a=1; my_relay_session=2\r\n", b"Cookie: a=relay_session=2\r\n", b"X-Cookie: relay_session=2\r\n", b""],
)
def test_what_only_looks_like_the_page_s_cookie_stays(block: bytes) -> None:
    """A name counts whole."""
    assert headers.without_session(block) == block


def test_the_host_is_told_apart() -> None:
    """The first Host is the event's; without one it is empty."""
    assert headers.for_frame(b"A: 1\r\nhOST: a.example:80\r\nHost: b\r\n")[1] == "a.example:80"
    assert headers.for_frame(b"A: 1\r\n")[1] == ""


def test_a_line_end_may_be_a_bare_line_feed() -> None:
    """What a lenient server accepted comes out the same."""
    assert headers.for_frame(b"A: 1\nB: 2\n")[0] == {"A": ("1",), "B": ("2",)}


def test_lines_that_are_no_fields_are_passed_over() -> None:
    """A line without a colon or without a name makes no header."""
    assert headers.for_frame(b"garbage\r\n: no name\r\nA: 1\r\n\r\n")[0] == {"A": ("1",)}


def test_memory_of_lines_is_bounded() -> None:
    """Senders choose the lines, so only some short ones are remembered."""
    for number in range(5000):
        headers.for_frame(b"X-%d: %d\r\n" % (number, number))
    headers.for_frame(b"X-Long: " + b"x" * 1000 + b"\r\n")
    assert len(headers._fields) <= 1024
    assert max(map(len, headers._fields)) <= 128


TOKENS = st.text("abcXYZ019-_.!~", min_size=1, max_size=12)
VALUES = st.one_of(
    st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20),
    st.text(st.characters(min_codepoint=33, max_codepoint=0x2FFF, exclude_categories=["Cs"]), max_size=20),
)


@given(st.lists(st.tuples(TOKENS, VALUES), max_size=12), st.sampled_from([b"\r\n", b"\n"]))
def test_every_value_comes_out_exactly(fields: list[tuple[str, str]], end: bytes) -> None:
    """By name, the values are those that went in, in their order; both ways through the code agree with `parse`."""
    block = b"".join(f"{name}: {value}".encode() + end for name, value in fields)
    expected: dict[str, list[str]] = {}
    for name, value in fields:
        expected.setdefault(headers.canonical(name), []).append(value.strip(" \t\r"))
    for dropped in ("Host", "Connection", "Te", "Upgrade", "Trailer"):
        expected.pop(dropped, None)
    found = {name: list(values) for name, values in headers.for_frame(block)[0].items()}
    assert found == expected
    assert [name.decode() for name, _ in headers.parse(block)] == [name for name, _ in fields]


@given(st.binary(max_size=200))
def test_any_bytes_are_read(block: bytes) -> None:
    """Nothing that a sender can send raises, and the two ways of reading show the same fields."""
    shown, host = headers.for_frame(block)
    slow: dict[str, list[str]] = {}
    for name, value in headers.parse(block):
        slow.setdefault(headers.canonical(headers.decode(name)), []).append(headers.decode(value))
    assert host == slow.get("Host", [""])[0]
    assert all(list(values) == slow[name] for name, values in shown.items())
