"""Buckets in windows of any width: many of them, long names, and large numbers."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.acceptance.relay import Relay
from tests.ui.browser import ask, hold, make, row, sign_in, until
from tests.ui.sending import Sender, live


def no_sideways_scroll(page: Page) -> None:
    """The page is no wider than its window."""
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1440, "light"), (3840, "dark")])
def test_two_hundred_buckets(page: Page, relay: Relay, administrator: str, width: int, scheme: Any) -> None:
    """Many buckets and long names fit any width; they are found and sorted."""
    names = [f"bucket {number}" for number in range(199)] + ["a" * 100]
    status = {
        "buckets": [
            {
                "id": f"id-{number}", "name": name, "description": "Lorem ipsum " * (number % 30), "ephemeral": False,
                "expires_at": None, "first": 1, "head": 9 * number, "events": 9 * number, "bytes": number << 12,
                "oldest_at": None, "newest_at": 1.8e9 if number else None, "subscribers": number % 3,
                "lag": {"consumer": "b" * 100, "events": number, "seconds": 90} if number % 2 else None,
                "rate": [number] * 60,
            }
            for number, name in enumerate(names)
        ]
    }  # fmt: skip
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)
    page.route("**/v1/status", lambda route: route.fulfill(json=status))
    sign_in(page, relay, administrator)
    expect(page.get_by_role("row")).to_have_count(201)
    no_sideways_scroll(page)
    page.get_by_role("button", name="Last hour").click()
    expect(page.get_by_role("row").nth(1)).to_contain_text("aaaaaaaa")
    page.get_by_label("Find a bucket").fill("bucket 19")
    expect(page.get_by_role("row")).to_have_count(10 + 1)
    page.get_by_label("Find a bucket").fill("nothing has this")
    expect(page.get_by_text("None of 200")).to_be_visible()


def test_a_table_of_buckets(page: Page, relay: Relay, administrator: str) -> None:
    """It does not go sideways in a window of any width, however much a bucket holds; how much that is stands there."""
    bucket = {
        "id": "id", "name": "large", "description": "Lorem ipsum " * 9, "ephemeral": False, "expires_at": 2e9,
        "first": 1_000_001, "head": 9_999_999, "events": 8_999_999, "bytes": 999 << 20, "oldest_at": None,
        "newest_at": 1.7e9, "subscribers": 128, "lag": {"consumer": "b" * 100, "events": 1_234_567, "seconds": 9e5},
        "rate": [999] * 60,
    }  # fmt: skip
    page.route("**/v1/status", lambda route: route.fulfill(json={"buckets": [bucket, bucket | {"id": "other"}]}))
    sign_in(page, relay, administrator)
    table = page.get_by_role("region", name="Buckets")
    for width in (320, 768, 799, 800, 900, 1000, 1024, 1100, 1280, 1440, 1920):
        page.set_viewport_size({"width": width, "height": 900})
        expect(table.get_by_role("row")).to_have_count(3)
        expect(table.get_by_text("8,999,999").locator("visible=true")).to_have_count(2)
        assert table.evaluate("(table) => table.scrollWidth - table.clientWidth") == 0
        no_sideways_scroll(page)


def test_an_ephemeral_bucket_has_no_size(page: Page, relay: Relay, administrator: str) -> None:
    """What came in is not stored: the list and the bucket say so, and it is no part of the size of all events."""
    kept, passing = (Sender(relay, administrator, name) for name in ("kept", "passing"))
    passing.rest("PUT", "/v1/buckets/passing", {"ephemeral": True})
    total = 0
    for sender in (passing, kept):
        sender.send(body=b"x" * (1 << 20))
        total = sum(each["bytes"] for each in sender.rest("GET", "/v1/status")["buckets"] if not each["ephemeral"])
        sender.close()
    sign_in(page, relay, administrator)
    for width in (390, 800, 1024, 1440):
        page.set_viewport_size({"width": width, "height": 900})
        expect(row(page, "passing").get_by_text("not stored").locator("visible=true")).to_have_count(1)
        no_sideways_scroll(page)
    expect(row(page, "kept")).to_contain_text("1.0 MiB")
    page.goto("/ui/buckets/passing")
    expect(page.locator(".standing")).to_contain_text("1 · not stored")
    page.goto("/ui/overview")
    expect(page.get_by_text(re.compile("of events$"))).to_have_text(f"{total / (1 << 20):.1f} MiB of events")


@pytest.mark.parametrize("width", [320, 390, 700, 820, 1440])
def test_numbers_that_come_late_move_nothing(admitted: Page, sender: Sender, width: int) -> None:
    """The tabs of a bucket, and the rows below, are where they were once it is known how the bucket stands."""
    admitted.set_viewport_size({"width": width, "height": 900})
    held = hold(admitted, "**/v1/status")
    admitted.goto(f"/ui/buckets/{sender.name}")
    live(admitted)
    tabs = admitted.get_by_role("navigation", name=f"Parts of {sender.name}")
    before = tabs.bounding_box()
    until(admitted, lambda: held, "the question")
    for route in held:
        route.continue_()
    expect(admitted.get_by_text("Subscribers")).to_be_visible()
    assert tabs.bounding_box() == before


def test_every_tab_fits_a_phone(page: Page, relay: Relay, administrator: str) -> None:
    """No tab of a bucket, and no dialog, makes a page of 390 px scroll sideways; the name %2E%2E has its page."""
    page.set_viewport_size({"width": 390, "height": 844})
    sign_in(page, relay, administrator)
    bucket = make(page, "%2E%2E", description="x" * 300)
    destination = "https://example.org/" + "long/" * 60
    output = {"name": "o" * 100, "internal": False, "destination": destination, "paused": True}
    ask(page, "POST", f"/v1/buckets/{bucket['id']}/outputs", output)
    page.goto("/ui/")
    row(page, "%2E%2E").get_by_role("link").click()
    dialogs = {
        "Connect": "",
        "Inputs": "New input",
        "Outputs": f"Edit {'o' * 100}",
        "Settings": "Delete the bucket…",
    }
    for tab, dialog in dialogs.items():
        page.get_by_role("link", name=tab).click()
        expect(page.get_by_role("link", name=tab)).to_have_attribute("aria-current", "page")
        expect(page.locator("main .starting")).to_have_count(0)
        no_sideways_scroll(page)
        if dialog:
            page.get_by_role("button", name=dialog).click()
            box = page.get_by_role("dialog").bounding_box()
            assert box is not None
            assert 0 <= box["x"] <= 390 - box["width"]
            page.get_by_role("button", name="Cancel").click()


def test_long_names_fit_a_phone_everywhere(page: Page, relay: Relay, administrator: str) -> None:
    """Also on an event's page, and where it is to be typed; and a strange name is led to from there."""
    page.set_viewport_size({"width": 390, "height": 844})
    sign_in(page, relay, administrator)
    bucket = make(page, "n" * 100)
    page.request.post(f"/v1/webhooks/{bucket['inputs'][0]['id']}", data="{}")
    (event,) = ask(page, "GET", f"/v1/logs?bucket={bucket['id']}")["data"]
    page.goto(f"/ui/events/{event['id']}")
    expect(page.get_by_role("link", name="n" * 100)).to_be_visible()
    no_sideways_scroll(page)
    page.goto(f"/ui/buckets/{bucket['id']}/settings")
    page.get_by_role("button", name="Delete the bucket…").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_text("1 event")).to_be_visible()
    assert dialog.evaluate("(dialog) => dialog.scrollWidth <= dialog.clientWidth")
    page.get_by_role("button", name="Cancel").click()
    bucket = make(page, "%2E")
    page.request.post(f"/v1/webhooks/{bucket['inputs'][0]['id']}", data="{}")
    (event,) = ask(page, "GET", f"/v1/logs?bucket={bucket['id']}")["data"]
    page.goto(f"/ui/events/{event['id']}")
    page.get_by_role("navigation", name="Where this is").get_by_role("link").click()
    expect(page.get_by_role("heading", name="%2E", exact=True)).to_be_visible()
