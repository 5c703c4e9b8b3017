"""What a sender sends to hang the page of whoever looks at it: all of it is shown, by few elements at first."""

from __future__ import annotations

import json
import re
import socket

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.acceptance.relay import TIMEOUT, Relay
from tests.ui.browser import begin_session

BUCKET = "hostile"
FORM = "application/x-www-form-urlencoded"
FEW = 10_000
"""Elements that a page may have at first, whatever was sent. A page is slow at some 100,000."""


class Hostile:
    """Sends events to a bucket, and opens them in the page."""

    def __init__(self, relay: Relay, page: Page, path: str) -> None:
        self.relay = relay
        self.page = page
        self.path = path

    def send(self, kind: str, body: bytes, path: str = "/") -> str:
        """Sends an event, path and type in UTF-8, and returns its id."""
        head = f"POST {self.path}{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: {kind}\r\n"
        with socket.create_connection(("127.0.0.1", self.relay.port), TIMEOUT) as sender:
            sender.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            assert sender.recv(1000).startswith(b"HTTP/1.1 200 ")
        newest = self.page.request.get(f"/v1/search?bucket={BUCKET}&limit=1").json()
        return str(newest["data"][0]["id"])

    def open(self, kind: str, body: bytes, path: str = "/") -> Locator:
        """Sends an event, and opens it: its article."""
        self.page.goto(f"/ui/events/{self.send(kind, body, path)}")
        article = self.page.locator("article.event")
        expect(article.get_by_role("heading", name="Headers")).to_have_count(1)
        return article

    def compare(self, kind: str, left: bytes, right: bytes) -> Locator:
        """Sends two events, and compares them."""
        self.page.goto(f"/ui/compare/{self.send(kind, left)}/{self.send(kind, right)}")
        comparison = self.page.locator(".comparison")
        expect(comparison.get_by_role("heading", name="Compare")).to_be_visible()
        return comparison


def elements(page: Page) -> int:
    """How many elements the document has."""
    return int(page.evaluate("document.getElementsByTagName('*').length"))


@pytest.fixture(scope="module")
def path(relay: Relay) -> str:
    """The path of the bucket's input."""
    return relay.create_bucket(BUCKET)


@pytest.fixture
def hostile(relay: Relay, page: Page, administrator: str, path: str) -> Hostile:
    begin_session(page, relay, administrator)
    return Hostile(relay, page, path)


def test_a_list_of_hidden_characters(page: Page, hostile: Hostile) -> None:
    """Forty rows whose path and type are nothing but hidden characters are a few elements each."""
    bad = "\u00ad\u200b" * 3000
    for _ in range(40):
        hostile.send(f"text/plain; {bad}", b"x", f"/{bad}")
    hostile.send("text/plain", b"x", "/" + "\u202e" * 9999)
    page.goto(f"/ui/buckets/{BUCKET}/events")
    rows = page.get_by_role("listbox").get_by_role("option")
    expect(rows.first.locator(".path")).to_have_text("/RLO ×299")
    expect(rows.nth(1).locator(".path .hidden-mark")).to_have_count(11)
    assert elements(page) < FEW


def test_a_text_of_hidden_characters(page: Page, hostile: Hostile) -> None:
    """A run of one character is one mark; many marks are 500 and then names in brackets. Nothing is left out."""
    article = hostile.open("text/plain", b"a" + "\u202e".encode() * 99_998 + b"b")
    expect(article.locator("pre.code")).to_have_text("aRLO ×99998b")
    article = hostile.open("text/plain", "a\u202e".encode() * 50_000)
    expect(article.locator("pre.code .hidden-mark")).to_have_count(501)
    expect(article.locator("pre.code")).to_contain_text("a[RLO]" * 49_500)
    assert elements(page) < FEW


def test_a_pile_of_marks(page: Page, hostile: Hostile) -> None:
    """Behind thirty marks on one character, which broke the tab down, there is one mark; it is edited in base64."""
    article = hostile.open("text/plain", b"a" + "\u0301\u0316".encode() * 75_000)
    expect(article.locator("pre.code")).to_have_text("a" + "\u0301\u0316" * 15 + "MARK ×99969")
    article.get_by_role("button", name="Edit and send").click()
    expect(page.get_by_label("Body, in base64")).to_be_visible()


def copied(page: Page) -> str:
    """What is copied of the text that is shown, all of it."""
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.evaluate("getSelection().selectAllChildren(document.querySelector('pre.code'))")
    page.keyboard.press("Control+c")
    return str(page.evaluate("navigator.clipboard.readText()"))


def laid_out(place: Locator) -> int:
    """How many pieces of texts there the browser has laid out, once drawn: those in sight, and some around."""
    drawn = "new Promise((done) => requestAnimationFrame(() => setTimeout(done)))"
    seen = "({firstElementChild}) => firstElementChild.checkVisibility({contentVisibilityAuto: true})"
    return int(place.locator(".piece").evaluate_all(f"(all) => {drawn}.then(() => all.filter({seen}).length)"))


@pytest.mark.parametrize(
    ("body", "pieces"),
    [
        ("\u05d0a" * 40_000, 80),
        ("\u05d0a1 " * 20_000, 80),
        ("\U0001e900\u0301" * 20_000, 40),
        ("\u05d0" + "a\u0301\u0302" * 12_000, 37),
        ("\n" + ("\u05d0" * 400 + "\n") * 100 + "\nend", 50),
    ],
    ids=["letters", "words", "pairs", "marks", "lines"],
)
def test_a_text_from_right_to_left(page: Page, hostile: Hostile, body: str, pieces: int) -> None:
    """Which took seconds, is in pieces, of which those in sight are laid out; it is copied as it came."""
    article = hostile.open("text/plain", body.encode())
    shown = article.locator("pre.code .piece")
    expect(shown).to_have_count(pieces)
    texts = shown.all_text_contents()
    assert max(map(len, texts)) <= 1000
    assert not any(each.startswith(("\u0301", "\u0302")) for each in texts)
    assert {each.get_attribute("dir") for each in shown.locator("bdi").all()[-2:]} == {"rtl"}
    assert 0 < laid_out(article) < 30
    assert copied(page) == body


def test_many_texts_from_right_to_left(page: Page, hostile: Hostile) -> None:
    """In tables and trees it is no other."""
    value = "\u05d0a" * 1000
    article = hostile.open(FORM, f"a={value}&".encode() * 200)
    expect(article.locator("td .piece")).to_have_count(400)
    assert 0 < laid_out(article) < 50
    article = hostile.open("application/json", json.dumps([[value] * 100] * 8, ensure_ascii=False).encode())
    expect(article.locator(".json-tree .piece").first).to_be_visible()
    assert 0 < laid_out(article) < 50


def test_a_heavy_text_is_edited_in_base64(page: Page, hostile: Hostile) -> None:
    """A text area shows all of it at once. By the button it is text all the same."""
    hostile.open("text/plain", ("\u05d0a" * 10_001).encode()).get_by_role("button", name="Edit and send").click()
    expect(page.get_by_label("Body, in base64")).to_be_visible()
    hostile.open("text/plain", ("\u05d0a" * 10_000).encode()).get_by_role("button", name="Edit and send").click()
    expect(page.get_by_label("Body", exact=True)).to_have_value("\u05d0a" * 10_000)


def test_a_text_in_parts(page: Page, hostile: Hostile) -> None:
    """Each part is a block of its own, cut behind a line where there is one; what is copied is what came."""
    body = "abc " * 20_000 + "\n" + "abc " * 40_000 + "end"
    article = hostile.open("text/plain", body.encode())
    parts = article.locator("pre.code > .part")
    expect(parts).to_have_count(1)
    article.get_by_role("button", name="Show more of it").click()
    expect(parts).to_have_count(3)
    assert copied(page) == body
    assert parts.first.evaluate("(element) => element.textContent.length") == 80_001
    expect(article.get_by_role("button", name="Show more of it")).to_have_count(0)


def test_a_tree_begins_with_few_values(page: Page, hostile: Hostile) -> None:
    """Of a million values in arrays of a hundred, some hundreds are shown, and the others open by hand."""
    article = hostile.open("application/json", json.dumps([[[1] * 100] * 100] * 100, separators=(",", ":")).encode())
    expect(article.locator(".json-tree li")).to_have_count(501)
    assert elements(page) < FEW
    article.locator(".json-tree details:not([open]) > summary").first.click()
    expect(article.locator(".json-tree li")).to_have_count(601)


def test_long_names_and_values_of_a_tree(page: Page, hostile: Hostile) -> None:
    """A name as long as a body is cut, and so is a value; the button for more shows more of it."""
    article = hostile.open("application/json", json.dumps({"n" * 100_000: "v" * 100_000}).encode())
    tree = article.locator(".json-tree")
    expect(tree).to_contain_text("98,000 more characters")
    expect(tree).to_contain_text("98,002 more characters")
    tree.get_by_role("button").first.click()
    expect(tree).to_contain_text("78,000 more characters")


def test_a_deep_json(page: Page, hostile: Hostile) -> None:
    """Many values far down are shown pretty, with no more before each line than fits."""
    article = hostile.open("application/json", b"[" * 150 + b"1," * 700_000 + b"1" + b"]" * 150)
    article.get_by_role("button", name="Pretty").click()
    expect(article.locator("pre.code")).to_contain_text("[\n" + "  " * 24 + "1,\n" + "  " * 24 + "1,")


@pytest.mark.parametrize(
    "body",
    [b"<a>" * 12_000 + b"</a>" * 12_000, b"<?xml version='1.0'?><!DOCTYPE a " + b"[]" * 5000],
    ids=["deep", "doctype"],
)
def test_an_xml_that_is_not_pretty(page: Page, hostile: Hostile, body: bytes) -> None:
    """An XML that is nested too deep, or whose DOCTYPE could be read in many ways, is shown as it is."""
    article = hostile.open("application/xml", body)
    expect(article.locator("pre.code")).to_have_text(body.decode())
    expect(article.get_by_role("button", name="Pretty")).to_have_count(0)


def more(place: Locator, left: str) -> Locator:
    """The button under a table that tells how many rows are left."""
    return place.get_by_role("button", name=f"Show more of them ({left} left)")


def test_a_form_of_many_fields(page: Page, hostile: Hostile) -> None:
    """A table begins with two hundred fields, and goes on by the button; hidden characters in them don't add up."""
    article = hostile.open(FORM, b"a&" * 1_500_000)
    table = article.get_by_role("region", name="Form fields")
    expect(table.locator("tbody tr")).to_have_count(200)
    assert elements(page) < FEW
    more(article, "1,499,800").click()
    expect(table.locator("tbody tr")).to_have_count(1200)
    article = hostile.open(FORM, ("\u200b\u00ad" * 500 + "&").encode() * 300)
    expect(table.locator("tbody tr").first.locator(".hidden-mark")).to_have_count(11)
    assert elements(page) < FEW


def test_a_multipart_of_many_parts(page: Page, hostile: Hostile) -> None:
    """So does the table of a multipart form."""
    part = b"--B\r\nContent-Disposition: form-data; name=a\r\n\r\nx\r\n"
    article = hostile.open("multipart/form-data; boundary=B", part * 20_000 + b"--B--\r\n")
    rows = article.get_by_role("region", name="Form fields").locator("tbody tr")
    expect(rows).to_have_count(200)
    expect(rows.last).to_have_text("ax1 B")
    assert elements(page) < FEW
    expect(more(article, "19,800")).to_be_visible()


def test_a_field_as_long_as_a_body(page: Page, hostile: Hostile) -> None:
    """A field's value is cut, and its button shows more of it."""
    table = hostile.open(FORM, b"a=" + b"x" * 500_000).get_by_role("region", name="Form fields")
    expect(table.locator("td.value").last).to_have_text("x" * 2000 + " 498,000 more characters")
    table.get_by_role("button").click()
    expect(table.locator("td.value").last).to_have_text("x" * 22_000 + " 478,000 more characters")


def test_many_headers_and_parameters(page: Page, hostile: Hostile) -> None:
    """Headers and a query are tables of two hundred rows, too."""
    article = hostile.open("text/plain\r\n" + "\r\n".join(["a:"] * 400), b"x", "/?" + "a&" * 5000)
    for name, left in (("Headers", None), ("Query", "4,800")):
        expect(article.get_by_role("region", name=name).locator("tbody tr")).to_have_count(200)
        assert left is None or more(article, left).count() == 1
    assert elements(page) < FEW


def test_comparing_large_forms(page: Page, hostile: Hostile) -> None:
    """Two hundred fields that differ are shown first, and of one name a few values."""
    left, right = (("&".join(f"{side}{index}" for index in range(60_000))).encode() for side in "ab")
    comparison = hostile.compare(FORM, left, right)
    expect(comparison.get_by_role("region", name="Form fields").locator("tbody tr")).to_have_count(200)
    expect(more(comparison, "119,800")).to_be_visible()
    assert elements(page) < FEW
    comparison = hostile.compare(FORM, b"a&" * 200_000, b"a&" * 100_000)
    expect(more(comparison, "199,995")).to_be_visible()
    assert elements(page) < FEW


def test_comparing_large_texts(page: Page, hostile: Hostile) -> None:
    """A thousand lines are shown first, however much is hidden in them; a long line is cut."""
    comparison = hostile.compare("text/plain", "\u200b\u00ad\n".encode() * 40_000, b"y\n" * 40_000)
    lines = comparison.locator(".diff .line")
    expect(lines).to_have_count(1000)
    expect(more(comparison, "79,001")).to_be_visible()
    assert elements(page) < FEW
    hostile.compare("text/plain", "a\u200b".encode() * 200_000, b"b" * 500_000)
    expect(lines.last).to_have_text(re.compile("only right: " + "b" * 2000 + " 498,000 more characters"))
    assert elements(page) < FEW


@pytest.mark.parametrize(
    ("left", "right", "rows"),
    [
        (b"[" * 490 + b"1," * 300_000 + b"1" + b"]" * 490, b"[" * 490 + b"1," * 300_000 + b"2" + b"]" * 490, 1),
        (b"{" + b'"a":1,' * 100_000 + b'"b":1}', b'{"a":2}', 200),
        (
            b'{"' + b"n" * 500_000 + b'":[' + b"1," * 400 + b"1]}",
            b'{"' + b"n" * 500_000 + b'":[' + b"2," * 400 + b"2]}",
            200,
        ),
    ],
    ids=["deep", "one name", "long name"],
)
def test_comparing_hostile_json(page: Page, hostile: Hostile, left: bytes, right: bytes, rows: int) -> None:
    """Nested deep, with a name many times, or with a name as long as a body: what differs is shown, by place."""
    comparison = hostile.compare("application/json", left, right)
    expect(comparison.get_by_role("region", name="Differences of the bodies").locator("tbody tr")).to_have_count(rows)
    expect(comparison.locator("tbody tr").last.locator("th button")).to_have_count(0)
    assert elements(page) < FEW


def test_bytes_in_hex(page: Page, hostile: Hostile) -> None:
    """The bytes of a large body are shown in parts that stay readable."""
    article = hostile.open("application/octet-stream", b"\xff" * 3_000_000)
    for _ in range(4):
        article.get_by_role("button", name="Show more of it").click()
    shown = 4096 * 64 + 2 * 262_144
    expect(article.get_by_role("button", name=re.compile("Show more of it"))).to_be_visible()
    lines = article.get_by_label("Body in hex").evaluate("(element) => element.textContent.split('\\n').length")
    assert lines == shown / 16
    assert elements(page) < FEW
