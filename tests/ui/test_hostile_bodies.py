"""What a sender sends to hang the page of whoever looks at it: all of it is shown, by few elements at first."""

from __future__ import annotations

import json
import socket

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.acceptance.relay import TIMEOUT, Relay
from tests.ui.browser import sign_in

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

    def open(self, kind: str, body: bytes) -> Locator:
        """Sends an event, and opens it: its article."""
        self.page.goto(f"/ui/events/{self.send(kind, body)}")
        article = self.page.locator("article.event")
        expect(article.get_by_role("heading", name="Headers")).to_be_visible()
        return article

    def compare(self, kind: str, left: bytes, right: bytes) -> Locator:
        """Sends two events, and compares them."""
        self.page.goto(f"/ui/compare/{self.send(kind, left)}/{self.send(kind, right)}")
        comparison = self.page.locator(".comparison")
        expect(comparison.get_by_role("heading", name="Headers")).to_be_visible()
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
    sign_in(page, relay, administrator)
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
    expect(tree).to_contain_text("98000 more characters")
    expect(tree).to_contain_text("98002 more characters")
    tree.get_by_role("button").first.click()
    expect(tree).to_contain_text("78000 more characters")


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
