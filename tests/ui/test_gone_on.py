"""Whoever has gone on is not called back: not by an answer that comes late, nor by a key that was pressed before."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Page, expect

from tests.ui import quality
from tests.ui.browser import hold, make, told, until
from tests.ui.sending import Sender, live, rows

RESTED = "() => new Promise((resolve) => setTimeout(resolve, 300))"
"""What was to be done before is done then: timers of a page run in their order."""


@contextmanager
def late(page: Page, path: str, method: str = "GET", says: str = "") -> Iterator[None]:
    """What matches this pattern is asked meanwhile, and answered at the end, where this is told then."""
    held = hold(page, re.compile(path), method)
    yield
    until(page, lambda: held, "the request")
    for each in held:
        each.continue_()
    if says:
        told(page, re.compile(says))
    page.unroute(re.compile(path))
    quality.settled(page)


@pytest.fixture
def prepared(admitted: Page) -> Page:
    quality.prepare(admitted)
    admitted.set_viewport_size({"width": 1400, "height": 900})
    return admitted


@pytest.mark.parametrize("then", ["escape", "link"])
def test_a_key_before(events: Page, sender: Sender, then: str) -> None:
    """The event beside the list follows once the keys rest, unless one has closed it or left by then."""
    for index in range(3):
        sender.send(f"/{index}")
    expect(rows(events)).to_have_count(3)
    rows(events).first.click()
    expect(events.get_by_role("article")).to_contain_text("/2")
    events.evaluate(
        """(then) => {
            const press = (key) => document.querySelector("[role=listbox]").dispatchEvent(
                new KeyboardEvent("keydown", { key, bubbles: true }));
            press("ArrowDown");
            if (then === "escape") press("Escape");
            else document.querySelector("nav a[href='/ui/overview']").click();
        }""",
        then,
    )
    events.evaluate(RESTED)
    assert "event=" not in events.url
    assert ("overview" in events.url) == (then == "link")


def test_a_neighbour_of_a_page(prepared: Page, sender: Sender) -> None:
    """Of an event's page."""
    sender.send("/0")
    sender.send("/1")
    prepared.goto(f"/ui/events/{sender.events()[1]['id']}")
    expect(prepared.get_by_role("article")).to_contain_text("/1")
    with late(prepared, r"/v1/search\?"):
        prepared.get_by_role("button", name="Older").click()
        prepared.get_by_role("link", name="Overview").click()
    expect(prepared).to_have_url(re.compile("/ui/overview$"))


def test_a_neighbour_beside_the_list(prepared: Page, sender: Sender) -> None:
    """The next one is on a page of the list that is still to come."""
    for index in range(110):
        sender.send(f"/{index}")
    prepared.goto(f"/ui/buckets/{sender.name}?event={sender.events()[10]['id']}")
    live(prepared)
    expect(prepared.get_by_role("article")).to_contain_text("/10")
    expect(prepared.get_by_text("100+ listed")).to_be_visible()
    with late(prepared, r"/v1/search\?.*limit=500"):
        prepared.get_by_role("button", name="Older").click()
        prepared.get_by_role("button", name="Close the event").click()
    expect(prepared.get_by_text("110 listed")).to_be_visible()
    expect(prepared.get_by_role("article")).to_have_count(0)
    assert "event=" not in prepared.url


def test_an_event_to_compare_with(prepared: Page, sender: Sender) -> None:
    sender.send("/0")
    sender.send("/1")
    first, second = (each["id"] for each in sender.events())
    prepared.goto(f"/ui/events/{second}")
    prepared.get_by_role("button", name="Compare").click()
    dialog = prepared.get_by_role("dialog")
    dialog.get_by_label("With the event").fill(first)
    with late(prepared, f"/v1/logs/{first}"):
        dialog.get_by_role("button", name="Compare").click()
        dialog.get_by_role("button", name="Cancel").click()
    expect(prepared).to_have_url(re.compile(f"/ui/events/{second}$"))


def test_another_name(prepared: Page) -> None:
    """Of a bucket, whose page has it wherever one is in it."""
    prepared.goto("/ui/")
    make(prepared, "before")
    prepared.goto("/ui/buckets/before/settings")
    prepared.get_by_label("Name", exact=True).fill("after")
    with late(prepared, r"/v1/buckets/[^/?]+$", "PUT", "^Settings saved$"):
        prepared.get_by_role("button", name="Save").click()
        prepared.get_by_role("link", name="Connect").click()
    expect(prepared.get_by_role("heading", level=1)).to_have_text("after")
    expect(prepared).to_have_url(re.compile("/ui/buckets/after/connect$"))


def test_a_bucket_that_is_deleted(prepared: Page) -> None:
    prepared.goto("/ui/")
    make(prepared, "short")
    prepared.goto("/ui/buckets/short/settings")
    prepared.get_by_role("link", name="Overview").click()
    prepared.go_back()
    prepared.get_by_role("button", name="Delete the bucket…").click()
    prepared.get_by_label("Type short to go on").fill("short")
    with late(prepared, r"/v1/buckets/[^/?]+\?force", "DELETE", "^short deleted$"):
        prepared.get_by_role("dialog").get_by_role("button", name="Delete the bucket").click()
        prepared.go_forward()
        expect(prepared.get_by_role("heading", level=1)).to_have_text("Overview")
    expect(prepared).to_have_url(re.compile("/ui/overview$"))


def test_a_bucket_that_is_made(prepared: Page) -> None:
    """Cancelled too late, it is made all the same, and the page says so."""
    prepared.goto("/ui/")
    prepared.get_by_role("button", name=re.compile("New bucket|Make a bucket")).click()
    prepared.get_by_label("Name", exact=True).fill("too late")
    with late(prepared, "/v1/buckets$", "POST", "^too late is made$"):
        prepared.get_by_role("button", name="Make the bucket").click()
        prepared.get_by_role("button", name="Cancel").click()
    expect(prepared).to_have_url(re.compile("/ui/$"))


def test_a_bin_that_is_made(prepared: Page) -> None:
    prepared.goto("/ui/bin")
    with late(prepared, "/v1/bins$", "POST", "^bin-.* is made$"):
        prepared.get_by_role("button", name="Make a request bin").click()
        prepared.get_by_role("link", name="Overview").click()
    expect(prepared).to_have_url(re.compile("/ui/overview$"))
