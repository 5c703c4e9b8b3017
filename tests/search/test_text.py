"""What is searched, and what a query finds."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay_tornado.errors import Invalid
from relay_tornado.model import MIB, Event
from relay_tornado.search import file, text
from relay_tornado.search.text import MOST_QUERY, SEARCHED, Turns, parse_query, text_of


def event(body: bytes = b"", **parts: bytes) -> Event:
    return Event(1, "k3v9x1q7m2ab", 0.0, "i", "POST", **{"path": b"", "query": b"", "headers": b"", **parts}, body=body,
                 remote_ip="")  # fmt: skip


def read(found: Event) -> str:
    return asyncio.run(text_of(found, Turns()))


def finds(query: str, found: Event) -> bool:
    return asyncio.run(parse_query(query).matches(read(found), Turns()))


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


@pytest.mark.parametrize("step", [1, 2, 3, 7])
def test_a_text_in_steps(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever they end, and whatever becomes longer by folding, it is what it is in one; so is what is no text."""
    monkeypatch.setattr(text, "_STEP", step)
    monkeypatch.setattr(text, "SEARCHED", 40)
    for whole in ("", "x", "Straße İstanbul\0 ΣΊΣΥΦΟΣ 注文 \U0001f600!", "é" * 60, "\ufeffBOM"):
        wanted = f"/P\nq=1\nV\n{whole}"[:40].replace("\0", "\ufffd").casefold()
        parts = {"path": b"/P", "query": b"q=1", "headers": b"N: V\r\n"}
        assert read(event(whole.encode(), **parts)) == wanted
        assert read(event(whole.encode() + b"\xff", **parts)) == "/p\nq=1\nv"
        assert read(event(whole.encode() + "é".encode()[:1], **parts)) == "/p\nq=1\nv"


@pytest.mark.parametrize("stretch", [1, 2, 5])
def test_a_term_is_found_across_steps(stretch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever one begins and ends."""
    monkeypatch.setattr(text, "_STRETCH", stretch)
    for start in range(10):
        for end in range(start + 1, 11):
            assert finds("0123456789"[start:end], event(b"0123456789"))
            assert not finds("0123456789"[start:end] + "x", event(b"0123456789"))


@pytest.mark.gen_test
async def test_others_have_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """While one text is made, of the largest body with what takes longest to fold, and while it is searched."""
    monkeypatch.setattr(text, "_SLICE", -1.0)

    async def turns_during(work: Coroutine[Any, Any, Any]) -> int:
        task = asyncio.ensure_future(work)
        count = 0
        while not task.done():
            await asyncio.sleep(0)
            count += 1
        return count

    large = event("\u0130".encode() * (5 * MIB))
    assert await turns_during(text_of(large, Turns())) > 10 * MIB // text._STEP + SEARCHED // text._STEP
    query = parse_query(" ".join(chr(0xE0 + number) for number in range(200)))
    assert await turns_during(query.matches("".join(form for forms in query.terms for form in forms), Turns())) > 200


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
        found = read(event((text + other).encode(errors="replace")))
        file.insert(raw, segment, key, file.Stretch(1, 1, [file.Row(1, found)], 0.0), lambda: None)
        start = data.draw(st.integers(0, max(len(text) - 1, 0)))
        query = parse_query(
            data.draw(st.sampled_from([other, text[start : start + 20].encode(errors="replace").decode()]))
        )
        if query.match() and asyncio.run(query.matches(found, Turns())):
            assert file.find(raw, [file.Part(segment, 1, 1, 0.0)], key, query.match(), 1, 1, 10) == [1]
        elif query.match():
            file.find(raw, [file.Part(segment, 1, 1, 0.0)], key, query.match(), 1, 1, 10)
    finally:
        raw.close()
