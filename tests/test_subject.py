"""What rules see of an event: headers, query, payload and sender, of well-behaved and of hostile senders."""

from __future__ import annotations

import json
import sys
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay_tornado import subject as module
from relay_tornado.model import NewEvent
from relay_tornado.subject import Subject

FORM = b"Content-Type: application/x-www-form-urlencoded; charset=utf-8\r\n"


def subject(body: bytes = b"", headers: bytes = b"", query: bytes = b"", remote_ip: str = "192.0.2.1") -> Subject:
    return Subject(
        NewEvent(input_id="i", method="POST", path=b"", query=query, headers=headers, body=body, remote_ip=remote_ip)
    )


@pytest.fixture(params=[256 * 1024, 0], ids=["opened", "searched"])
def both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs a test with levels that are opened, and with levels that are searched since they count as large."""
    monkeypatch.setattr(module, "_OPENED", request.param)


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ref", "refs/heads/main"),
        ("repository.full_name", "acme/shop"),
        ("commits.0.author.name", "Zoë"),
        ("commits.1.id", "b2"),
        ("commits.00.id", "a1"),
        ("size", "2"),
        ("price", "1.50"),
        ("huge", "123456789012345678901234567890"),
        ("beyond", "1e999"),
        ("forced", "false"),
        ("base_ref", "null"),
        ("commits.1", '{"id":"b2"}'),
        ("tags", "[]"),
        ("dotted.key", "whole"),
        ("dotted.deeper", "split"),
        ("twice", "last"),
        ("escaped", 'a "quote",\na tab\tand 😀'),
        ("ünïcode", "1"),
        ("", None),
        ("missing", None),
        ("ref.deeper", None),
        ("size.0", None),
        ("commits", '[{"id":"a1","author":{"name":"Zoë"}},{"id":"b2"}]'),
        ("commits.2", None),
        ("commits.-1", None),
        ("commits.x", None),
        ("commits.1000", None),
        ("commits.٠", None),
        ("commits.", None),
        (".ref", None),
        ("repository..full_name", None),
        ('q"', None),
    ],
)
def test_a_path_leads_into_json(name: str, value: str | None) -> None:
    """A dotted path with indexes finds strings as their text and everything else as its JSON text, or nothing."""
    body = (
        '{"ref":"refs/heads/main","repository":{"full_name":"acme/shop"},'
        '"commits":[{"id":"a1","author":{"name":"Zoë"}},{"id":"b2"}],"size":2,"price":1.50,'
        '"huge":123456789012345678901234567890,"beyond":1e999,"forced":false,"base_ref":null,"tags":[],'
        '"dotted.key":"whole","dotted":{"key":"split","deeper":"split"},"twice":"first","twice":"last",'
        '"escaped":"a \\"quote\\",\\u000aa tab\\tand \\ud83d\\ude00","ünïcode":1}'
    ).encode()
    found = subject(body).payload(name)
    assert found == (body if name == "" else value if value is None else value.encode())


@pytest.mark.usefixtures("both_ways")
def test_an_array_may_be_the_top() -> None:
    """A body that is an array is gone into by its index, whatever white space and byte order mark stand before it."""
    for before in (b"", b" \r\n\t", b"\xef\xbb\xbf"):
        assert subject(before + b'[{"event":"delivered"}]').payload("0.event") == b"delivered"


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize(
    ("body", "values"),
    [
        (rb'{"a":"\ud83d","b":1}', {"a": "\ufffd", "b": "1"}),
        (rb'{"a":"\ude00\ude00\\ud83d","b":1}', {"a": "\ufffd\ufffd\\ud83d", "b": "1"}),
        (rb'{"a":"\ud83d\ude00\ud83d","\ud83d":2}', {"a": "😀\ufffd", "\ufffd": "2"}),
        (b'{"a":"caf\xe9","b":1}', {"a": "caf\ufffd", "b": "1"}),
        (b'{"\xff":1}', {"\ufffd": "1"}),
    ],
)
def test_a_cut_character_spoils_nothing_else(body: bytes, values: dict[str, str]) -> None:
    """Half a surrogate pair, or bytes that are not UTF-8, become U+FFFD as in frames, and the rest is read."""
    seen = subject(body)
    assert {name: seen.payload(name) for name in values} == {name: value.encode() for name, value in values.items()}


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"a",
        b'"a"',
        b"7",
        b'{"a":1',
        b'{"a":1}}',
        b'{"a":1}x',
        b"{'a':1}",
        b'{"a":NaN}',
        b'{"a":01}',
        b'{"a":"\n"}',
        b'{"a":1,}',
        b'{"a":1,"b":"\\x"}',
        b'{"a":1,"b":\x00"\\ud83d"}',
        b'{"a":1,"b":"\x00\x00\\ud83d"}',
        b"[" * 1_000_000,
        b'{"a":' * 1_000_000,
        b"\x00" * 1000,
        b"<a>1</a>",
        b"a=1",
    ],
    ids=lambda body: repr(body[:20]),
)
def test_what_is_no_json_has_no_payload(body: bytes) -> None:
    """Malformed, hostile and other bodies have no parameters, and never raise."""
    seen = subject(body)
    assert [seen.payload(name) for name in ("a", "b", "0", "a.0", "0.0")] == [None] * 5
    assert seen.payload("") == body


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")], ids=["arrays", "objects"])
@pytest.mark.parametrize("depth", [500, 10_000, 100_000, 1_000_000])
def test_json_that_is_nested_deep(opening: bytes, closing: bytes, depth: int) -> None:
    """It is read whole or not at all, as far down as the module says, and never raises."""
    inner = opening * depth + b"1" + closing * depth
    found = subject(b'{"a":' + inner + b"}").payload("a")
    if depth == 500:
        assert found == inner
    elif sys.version_info < (3, 14):
        assert found is None
    else:
        assert found in (None, inner)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text('ab.0é"\\', max_size=3), inner, max_size=4),
    max_leaves=12,
)


def look(document: Any, name: str) -> Any:
    """The same path through what Python's json has read; ... where it leads nowhere."""
    while True:
        if isinstance(document, list):
            # 000 is 0; 0000 is longer than an index may be.
            document = {str(i).zfill(width): each for i, each in enumerate(document) for width in (1, 2, 3)}
        if not isinstance(document, dict):
            return ...
        if name in document:
            return document[name]
        head, dot, name = name.partition(".")
        if not dot or head not in document:
            return ...
        document = document[head]


@pytest.mark.parametrize("opened", [0, 256 * 1024], ids=["searched", "opened"])
@settings(deadline=None, max_examples=150)
@given(document=json_values, names=st.lists(st.text('ab.0é"\\', min_size=1, max_size=7), max_size=6), raw=st.booleans())
def test_a_path_finds_what_another_parser_finds(opened: int, document: Any, names: list[str], raw: bool) -> None:
    """Opened or searched, each path leads to the value that Python's json has there."""
    seen = subject(json.dumps({"a": document, "a.b": 1, "b": [document]}, ensure_ascii=raw).encode())
    kept, module._OPENED = module._OPENED, opened  # type: ignore[misc]
    try:
        for name in [*names, "a.a", "b.0.a", "a.b"]:
            found, expected = seen.payload(name), look({"a": document, "a.b": 1, "b": [document]}, name)
            if not opened and ('"' in name or "\\" in name):
                continue  # a name that a search does not look for
            assert (found is None) == (expected is ...), name
            if found is not None:
                assert found.decode() == expected if isinstance(expected, str) else json.loads(found) == expected
    finally:
        module._OPENED = kept  # type: ignore[misc]


@settings(deadline=None, max_examples=150)
@given(
    body=st.binary(max_size=60) | st.binary(max_size=60).map(lambda inner: b'{"a":' + inner + b"}"),
    headers=st.binary(max_size=40) | st.just(FORM),
    query=st.binary(max_size=40),
    remote_ip=st.text(max_size=12),
)
def test_nothing_that_is_sent_raises(body: bytes, headers: bytes, query: bytes, remote_ip: str) -> None:
    """Bytes of any kind in any part of an event give a text or nothing."""
    seen = subject(body, headers, query, remote_ip)
    for name in ("a", "a.b", "0", "é"):
        for found in (seen.payload(name), seen.query(name), seen.header(name.encode())):
            assert found is None or isinstance(found.decode(), str)
    assert seen.remote is None or seen.remote == seen.remote


@pytest.mark.parametrize("levels", [10, 11])
def test_a_path_leads_through_few_large_levels(levels: int) -> None:
    """Each costs a search in the rest of the body: a hostile one of 3 MB could cost seconds. Small ones are not
    counted."""
    within = b'{"a":' * 200 + b"1" + b"}" * 200
    outer = levels - 1
    seen = subject(b'{"a":' * outer + b'{"big":"' + b" " * 300_000 + b'","a":' + within + b"}" * levels)
    found = seen.payload(".".join("a" * (levels + 200)))
    assert found == (b"1" if levels == 10 else None)


def test_a_large_level_costs_no_memory() -> None:
    """A name in 3 MB of hostile keys or elements is found without an object for each of them."""
    keys = b"{" + b",".join(b'"%x":0' % number for number in range(250_000)) + b',"z":{"y":"found"}}'
    items = b'{"z":[' + b"0," * 1_000_000 + b'"found"]}'
    for body, name, value in ((keys, "z.y", b"found"), (items, "z.999", b"0"), (items, "z.1000", None)):
        seen = subject(body)
        seen.payload("first")
        tracemalloc.start()
        assert seen.payload(name) == value
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
        tracemalloc.stop()


def test_the_payload_is_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many names are asked for, each level of a body is opened once, and a large one is checked once."""
    opened: list[str] = []
    for name in ("_check", "_open_object", "_open_array"):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda raw, name=name, real=real: opened.append(name) or real(raw))
    seen = subject(b'{"a":{"b":1,"c":[1,2]},"d":2}')
    for name in ("a.b", "d", "a.c.0", "a.c.1", "a.x", "a.b", "x", "x") * 3:
        seen.payload(name)
    assert sorted(opened) == ["_open_array", "_open_object", "_open_object"]
    bad = subject(b'{"a":')
    for name in ("a", "b", "c.d"):
        bad.payload(name)
    assert opened.count("_open_object") == 3
    large = subject(b'{"a":{"b":"' + b" " * 300_000 + b'"}}')
    searched: list[str] = []
    decoder = module._key_decoder
    monkeypatch.setattr(module, "_key_decoder", lambda key: searched.append(key) or decoder(key))
    for name in ("a", "a.b", "a.c", "x", "a.c.d", "a") * 2:
        large.payload(name)
    assert opened[4:] == ["_check"]
    assert sorted(searched) == ["a", "a.b", "a.c", "a.c.d", "b", "c", "c.d", "x"]
    found = large.payload("a.b")
    assert large.payload("a.b") is found


def test_headers_and_query_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many names are asked for."""
    read: list[str] = []
    parse, fields = module.headers.parse, module._Fields
    monkeypatch.setattr(module.headers, "parse", lambda block: read.append("headers") or parse(block))
    monkeypatch.setattr(module, "_Fields", lambda raw: read.append("query") or fields(raw))
    seen = subject(headers=b"X-A: 1\r\n", query=b"a=1")
    assert [(seen.header(name), seen.query("a")) for name in (b"x-a", b"x-b", b"x-a")] == [
        (b"1", b"1"), (None, b"1"), (b"1", b"1"),
    ]  # fmt: skip
    assert read == ["headers", "query"]


def test_a_form_is_a_payload() -> None:
    """A form's fields are parameters, decoded; the first of a repeated name counts."""
    seen = subject(b"a=1+2%203&b=%C3%A9&c=%E9&empty=&bare&a=2&%64=4&e=5=6&quoted=%22x%22", FORM)
    names = ("a", "b", "c", "empty", "bare", "d", "e", "f", "quoted")
    assert [seen.payload(name) for name in names] == [
        b"1 2 3", "é".encode(), "é".encode(), b"", b"", b"4", b"5=6", None, b'"x"',
    ]  # fmt: skip
    assert subject(b"a=1").payload("a") is None
    assert subject(b"a=1", b"content-type: Application/X-WWW-Form-URLEncoded ;charset=utf-8\r\n").payload("a") == b"1"


def test_a_forms_field_with_json_in_it_can_be_gone_into() -> None:
    """GitHub's and Slack's `payload={…}` opens like a body of JSON."""
    seen = subject(b"payload=%7B%22repository%22%3A%7B%22name%22%3A%22a+b%22%7D%7D&other=7&none=&half=%7B%22x", FORM)
    assert seen.payload("payload.repository.name") == b"a b"
    assert seen.payload("payload") == b'{"repository":{"name":"a b"}}'
    assert [seen.payload(name) for name in ("other.x", "none.x", "half.x")] == [None] * 3


def test_json_is_json_whatever_its_content_type() -> None:
    """`curl -d '{…}'` says that it sends a form, and sends JSON."""
    assert subject(b'{"a":1}', FORM).payload("a") == b"1"
    assert subject(b'{"a":1}', b"Content-Type: text/plain\r\n").payload("a") == b"1"


def test_a_form_of_many_fields_is_read_in_part() -> None:
    """The first 1,000 fields are read, and nothing of a form of more than 1 MiB."""
    many = b"&".join(b"f%d=%d" % (number, number) for number in range(5000))
    assert subject(many, FORM).payload("f999") == b"999"
    assert subject(many, FORM).payload("f1000") is None
    largest = b"a=1&b=".ljust(1 << 20, b"2")
    assert (subject(largest, FORM).payload("a"), subject(largest + b"2", FORM).payload("a")) == (b"1", None)


def test_query_parameters() -> None:
    """A query is read like a form; a name without a value has an empty one."""
    seen = subject(query=b"tag=a%20b&tag=c&flag&d%C3%A9=%ff")
    assert [seen.query(name) for name in ("tag", "flag", "dé", "none")] == [b"a b", b"", "ÿ".encode(), None]


def test_headers() -> None:
    """Names are found in any case, values without white space around them, of repeats the first, Latin-1 as text."""
    seen = subject(headers=b"X-Event:  push \r\nx-event: ping\r\nX-Name: caf\xe9\r\nX-Empty:\r\n")
    assert [seen.header(name) for name in (b"x-event", b"x-name", b"x-empty", b"x-none")] == [
        b"push", "café".encode(), b"", None,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("remote_ip", "shown"),
    [("192.0.2.7", "192.0.2.7"), ("::ffff:192.0.2.7", "192.0.2.7"), ("2001:db8::1", "2001:db8::1"), ("", None),
     ("unix:", None), ("192.0.2.7:80", None)],
)  # fmt: skip
def test_the_senders_address(remote_ip: str, shown: str | None) -> None:
    """An IPv4 address that came in over IPv6 is that IPv4 address; what is no address is none."""
    remote = subject(remote_ip=remote_ip).remote
    assert (None if remote is None else str(remote)) == shown
