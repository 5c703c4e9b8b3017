"""The request that is made of an event."""

from __future__ import annotations

from typing import Any

import pytest

from relay_tornado.agent.request import NoDestination, Request, Shape, Unsendable, split_credentials
from tests.client.events import event_of


def address(request: Request) -> str:
    return request.origin + request.target.decode()


def texts(request: Request) -> tuple[tuple[str, str], ...]:
    return tuple((name.decode(), value.decode()) for name, value in request.headers)


@pytest.mark.parametrize(
    ("target", "path", "query", "url"),
    [
        ("http://localhost:3000", "", "", "http://localhost:3000/"),
        ("http://localhost:3000/", "/a", "", "http://localhost:3000/a"),
        ("http://localhost:3000/hooks", "", "", "http://localhost:3000/hooks"),
        ("http://localhost:3000/hooks/", "", "", "http://localhost:3000/hooks/"),
        ("http://localhost:3000/hooks/", "/", "", "http://localhost:3000/hooks/"),
        (
            "http://localhost:3000/hooks",
            "/a//b/../c%2F%zz",
            "x=%41&&y",
            "http://localhost:3000/hooks/a//b/../c%2F%zz?x=%41&&y",
        ),
        ("http://localhost:3000/hooks?key=1", "/a", "x=1", "http://localhost:3000/hooks/a?key=1&x=1"),
        ("http://localhost:3000?key=1", "/a", "", "http://localhost:3000/a?key=1"),
        ("http://localhost:3000/hooks?", "/a", "", "http://localhost:3000/hooks/a?"),
        ("http://localhost:3000/hooks", "a", "", "http://localhost:3000/hooks/a"),
        ("http://localhost:3000#@example.org", "/a", "", "http://localhost:3000/a"),
        ("http://localhost:3000?@example.org", "/a", "", "http://localhost:3000/a?@example.org"),
        ("http://[::1]:3000/h#part", "/a#b", "c#d", "http://[::1]:3000/h/a#b?c#d"),
        ("https://example.org/é", "/ü", "ö=ß", "https://example.org/é/ü?ö=ß"),
    ],
)
def test_the_url(target: str, path: str, query: str, url: str) -> None:
    """Path and query of the event are appended to the target's, and nothing is normalised."""
    assert address(Shape(target).request(event_of(path=path, query=query))) == url


def test_a_locked_path() -> None:
    """With lock_path only the query goes on."""
    shape = Shape("http://localhost/hooks", lock_path=True)
    assert address(shape.request(event_of(path="/a", query="x=1"))) == "http://localhost/hooks?x=1"


def test_the_outputs_own_destination() -> None:
    """Without a URL the output's destination counts, which has the path already where it should."""
    request = Shape().request(event_of(destination="http://localhost/own/a?k=1", path="/a", query="x=1"))
    assert address(request) == "http://localhost/own/a?k=1&x=1"
    assert request.path == "/own/a"


@pytest.mark.parametrize(
    ("destination", "path", "target"),
    [
        ("http://h/own/\xe9#b?k=1", b"/\xe9#b", b"/own/\xe9#b?k=1&q=\xff"),
        ("http://h/a/\xe9/\xe9?k=/\xe9", b"/\xe9", b"/a/\xc3\xa9/\xe9?k=/\xc3\xa9&q=\xff"),
        ("http://h//\xe9#f", b"/\xe9", b"//\xe9?q=\xff"),
        ("http://h/b//\xe9", b"/\xe9", b"/b//\xe9?q=\xff"),
        ("http://h/locked#f", b"/\xe9", b"/locked?q=\xff"),
        ("http://h/locked?next=/a", b"/a", b"/locked?next=/a&q=\xff"),
        ("http://h/locked#/a", b"/a", b"/locked?q=\xff"),
        ("http://h/b/a/a", b"/a", b"/b/a/a?q=\xff"),
    ],
)
def test_exact_bytes_in_a_destination(destination: str, path: bytes, target: bytes) -> None:
    """The path that an output's destination has in it goes out as it came, and a "#" in it ends nothing."""
    meta = {"latin1": ["path", "query"]}
    made = event_of(destination=destination, path=path.decode("latin-1"), query="q=\xff", meta=meta)
    assert Shape().request(made).target == target


def test_exact_bytes() -> None:
    """What was no UTF-8 is no UTF-8 to the target, either; each value for itself."""
    meta = {"latin1": ["path", "query", "X-L", "X-M:1"]}
    headers = {"X-L": ["caf\xe9"], "X-M": ["caf\xe9", "caf\xe9"], "X-U": ["caf\xe9"]}
    made = event_of(method="get", path="/\xe9", query="q=\xff#", headers=headers, meta=meta)
    request = Shape("http://localhost/\xe9").request(made)
    assert (request.method, request.target) == ("get", b"/\xc3\xa9/\xe9?q=\xff#")
    assert request.headers == (
        (b"X-L", b"caf\xe9"),
        (b"X-M", b"caf\xc3\xa9"),
        (b"X-M", b"caf\xe9"),
        (b"X-U", b"caf\xc3\xa9"),
    )


def test_headers_as_they_came() -> None:
    """In their order, with repeats, without what is about one hop; the length is that of the body."""
    headers = {
        "Content-Type": ["text/plain"],
        "Connection": ["X-Hop, close"],
        "X-Many": ["1", "2"],
        "X-Hop": ["gone"],
        "Host": ["relay"],
        "Expect": ["100-continue"],
        "Content-Length": ["99"],
        "Transfer-Encoding": ["chunked"],
        "A-Last": ["ä"],
    }
    request = Shape("http://localhost").request(event_of(headers=headers, body=b"abc"))
    assert texts(request) == (
        ("Content-Type", "text/plain"),
        ("X-Many", "1"),
        ("X-Many", "2"),
        ("A-Last", "ä"),
        ("Content-Length", "3"),
    )
    assert request.dropped == ()


@pytest.mark.parametrize(
    ("method", "headers", "body", "length"),
    [
        ("GET", {}, b"", []),
        ("GET", {"Content-Length": ["0"]}, b"", ["0"]),
        ("GET", {}, b"ab", ["2"]),
        ("POST", {}, b"", ["0"]),
        ("DELETE", {}, b"", []),
    ],
)
def test_the_length(method: str, headers: Any, body: bytes, length: list[str]) -> None:
    """A request without a body says nothing of a length, unless its sender did or its method expects one."""
    request = Shape("http://localhost").request(event_of(method=method, headers=headers, body=body))
    assert [value for name, value in texts(request) if name == "Content-Length"] == length


def test_headers_of_our_own() -> None:
    """They come instead of the sender's in whatever case; an empty one is left out; Host may be one of them."""
    ours = (("x-secret", "mine"), ("X-secret", "too"), ("Accept", ""), ("Host", "shop.example"))
    sent = {"X-Secret": ["theirs"], "Accept": ["*/*"], "X-Other": ["o"]}
    request = Shape("http://localhost", headers=ours).request(event_of(method="GET", headers=sent))
    assert texts(request) == (("X-Other", "o"), ("x-secret", "mine"), ("X-secret", "too"), ("Host", "shop.example"))


def test_credentials_in_the_url() -> None:
    """They become a header, stand in no URL, and are not shown."""
    shape = Shape("http://me:p%40ss@localhost:1/h?k=v")
    request = shape.request(event_of(method="GET", headers={"Authorization": ["theirs"]}))
    assert address(request) == "http://localhost:1/h?k=v"
    assert texts(request) == (("Authorization", "Basic bWU6cEBzcw=="),)
    assert shape.shown == "http://localhost:1/h"
    given = Shape("http://me:p%40ss@localhost:1/h", headers=(("authorization", "Bearer mine"),))
    assert texts(given.request(event_of(method="GET"))) == (("authorization", "Bearer mine"),)


@pytest.mark.parametrize("value", ["a\r\nb", "a\nb", "a\0b"])
def test_headers_that_no_request_has(value: str) -> None:
    """They are left out and named; the others go on."""
    request = Shape("http://localhost").request(
        event_of(method="GET", headers={"X-Bad": [value, "good"], "B d": ["1"]})
    )
    assert texts(request) == (("X-Bad", "good"),)
    assert request.dropped == ("X-Bad", "B d")


@pytest.mark.parametrize(
    ("target", "fields", "words"),
    [
        ("http://localhost", {"method": "NO GOOD"}, "method"),
        ("http://localhost", {"path": "/a b"}, "request line"),
        ("http://localhost", {"query": "a\nb"}, "request line"),
        ("http://localhost/hooks", {"path": "/../x"}, "climbs out"),
        ("", {"path": "/../x", "destination": "http://localhost/hooks/../x?a"}, "climbs out"),
        ("", {}, "no destination"),
        ("", {"destination": "ftp://localhost"}, "no URL"),
        ("", {"destination": "localhost:3000"}, "no URL"),
        ("", {"destination": "http://local host/"}, "no URL"),
        ("", {"destination": "http://localhost:99999/"}, "no URL"),
        ("http://a..b/", {}, "no host"),
        ("http://1.2.3/", {}, "no host"),
        (f"http://{'a' * 64}.example/", {}, "no host"),
        ("http://[zz]/", {}, "no URL"),
        ("http://ü..b/", {}, "no host"),
        ("http://straße.example/", {}, "another name"),
    ],
)
def test_what_no_request_can_be_made_of(target: str, fields: Any, words: str) -> None:
    """It says why, and that trying again is no use."""
    with pytest.raises(Unsendable, match=words):
        Shape(target).request(event_of(**fields))


@pytest.mark.parametrize("destination", ["", "localhost:3000", "http://a..b/"])
def test_a_destination_can_be_mended(destination: str) -> None:
    """Where an output's destination is none that can be called, the event waits for another one."""
    with pytest.raises(NoDestination):
        Shape().request(event_of(destination=destination))


@pytest.mark.parametrize(
    "host", ["localhost", "a_b.example.", "ü.example", "xn--tda.example", "127.0.0.1", "[fe80::1%25l]"]
)
def test_hosts_that_may_be_there(host: str) -> None:
    """What the resolver can be asked for is left to it."""
    assert Shape(f"http://{host}:1/").request(event_of()).origin == f"http://{host}:1"


@pytest.mark.parametrize("place", ["h:99999", "h:0", "h h", ""])
def test_what_is_wrong_with_a_url_is_told_without_its_password(place: str) -> None:
    with pytest.raises(Unsendable) as caught:
        split_credentials(f"http://me:canary@{place}/in")
    assert "canary" not in str(caught.value)
