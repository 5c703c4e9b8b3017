"""What is searched, and what a query finds."""

from __future__ import annotations

import sqlite3

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay_tornado.errors import Invalid
from relay_tornado.model import Event
from relay_tornado.search import file
from relay_tornado.search.text import MOST_QUERY, parse_query, text_of


def event(body: bytes = b"", **parts: bytes) -> Event:
    return Event(1, "k3v9x1q7m2ab", 0.0, "i", "POST", **{"path": b"", "query": b"", "headers": b"", **parts}, body=body,
                 remote_ip="")  # fmt: skip


def finds(query: str, found: Event) -> bool:
    return parse_query(query).matches(text_of(found))


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("order-42", event(b'{"id": "ORDER-4242"}')),
        ("rder", event(b"an order")),
        ("paid order", event(b"order 7 was paid")),
        ('"was paid"', event(b"order 7 was paid")),
        ("/shop/9", event(path=b"/shop/9/x")),
        ("a=1", event(query=b"b=2&a=1")),
        ("hookshot", event(headers=b"User-Agent: GitHub-Hookshot/7\r\n")),
        ("café", event("CAFÉ".encode())),
        ("café", event(b'{"name": "caf\\u00e9"}')),
        ("CAFÉ", event(b'{"name": "CAF\\u00C9"}')),
        ("Überprüfung", event(b'{"name": "\\u00dcberpr\\u00fcfung"}')),
        ("überprüfung", event(b'{"name": "\\u00DCberpr\\u00FCfung"}')),
        ("überprüfung", event(b'{"name": "\\u00DCBERPR\\u00DCFUNG"}')),
        ("ÜBERPRÜFUNG", event(b'{"name": "\\u00fcberpr\\u00fcfung"}')),
        ('"über änderungen"', event(b'{"name": "\\u00dcber \\u00c4nderungen"}')),
        ('"größen über"', event(b'{"name": "Gr\\u00f6\\u00dfen \\u00fcber"}')),
        ("zuÜberprüfen", event(b'{"zu\\u00dcberpr\\u00fcfen": 1}')),
        ("straße", event(b'{"name": "Stra\\u00dfe"}')),
        ("strasse", event("Straße".encode())),
        ("", event(b"anything")),
        ('a"b', event(b"b or a")),
    ],
)
def test_what_a_query_finds(query: str, found: Event) -> None:
    """Terms are found wherever they stand, in any case and in JSON's spelling, in path, query, headers and body."""
    assert finds(query, found)


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("paid order", event(b"order 7")),
        ('"paid was"', event(b"order 7 was paid")),
        ("x-kind", event(headers=b"X-Kind: order\r\n")),
        ("gz", event(b"\x1f\x8bgz\xff")),
        ("NOT order", event(b"nothing")),
        ("ord*", event(b"order")),
    ],
)
def test_what_it_does_not_find(query: str, found: Event) -> None:
    """Every term has to be there as it is written: names of headers and bodies that are no text are not searched, and
    no word or sign is an operator."""
    assert not finds(query, found)


def test_what_is_no_query() -> None:
    """One that is too long, or no text."""
    for query in ("x" * (MOST_QUERY + 1), "\ud800"):
        with pytest.raises(Invalid) as caught:
            parse_query(query)
        assert caught.value.field == "q"


def test_short_terms_are_looked_for_in_what_is_found() -> None:
    """The index knows threes of characters; where a query has none it is not asked."""
    assert parse_query("ab x").match() == ""
    assert parse_query("ab order").match() == '(("ord" AND "rde" AND "der"))'


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=60), st.text(alphabet='abAB"*() -:^\0é', max_size=12), st.data())
def test_the_index_finds_whatever_is_there(text: str, other: str, data: st.DataObject) -> None:
    """Whatever stands in a text and whatever a query says, the index's answer holds every text that matches."""
    raw = sqlite3.connect(":memory:", isolation_level=None)
    try:
        file.prepare(raw, file.Path("search.db"))
        key, segment = file.begin_bucket(raw, "b", "k3v9x1q7m2ab", 1, 1), file.begin_segment(raw, False)
        found = text_of(event((text + other).encode(errors="replace")))
        file.insert(raw, segment, key, file.Stretch(1, 1, [file.Row(1, found)], 0.0), lambda: None)
        start = data.draw(st.integers(0, max(len(text) - 1, 0)))
        query = parse_query(
            data.draw(st.sampled_from([other, text[start : start + 20].encode(errors="replace").decode()]))
        )
        if query.match() and query.matches(found):
            assert file.find(raw, [file.Part(segment, 1, 1, 0.0)], key, query.match(), 1, 1, 10) == [1]
        elif query.match():
            file.find(raw, [file.Part(segment, 1, 1, 0.0)], key, query.match(), 1, 1, 10)
    finally:
        raw.close()
