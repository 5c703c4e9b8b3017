"""Back and forward in the page: whoever comes back finds a list where it was, and the focus where one reads."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.acceptance.relay import Relay
from tests.ui.browser import Watch, sign_in, until
from tests.ui.sending import Sender, listed, live, rows, undrawn

FIRST = """() => {
  const top = (each) => each.getBoundingClientRect().top;
  const from = top(document.querySelector(".list"));
  const seen = [...document.querySelectorAll(".list-row")].filter((row) => top(row) + row.offsetHeight > from + 1);
  return seen.sort((a, b) => top(a) - top(b))[0]?.querySelector(".path").innerText.trim();
}"""
"""The path of the first row in sight; none while the rows are not drawn."""


def first(page: Page) -> str:
    return str(page.wait_for_function(FIRST).json_value())


def scroll(page: Page, top: int) -> str:
    """Scrolls the list, and returns the path of the first row in sight then."""
    page.evaluate("(top) => { document.querySelector('.list').scrollTop = top; }", top)
    page.wait_for_function("(top) => Math.abs(document.querySelector('.list').scrollTop - top) < 60", arg=top)
    return first(page)


def stays(page: Page, path: str) -> None:
    """The list is loaded, and begins with that row."""
    live(page)
    page.wait_for_function(f"(path) => document.querySelector('.list-row') && ({FIRST})() === path", arg=path)


def test_a_list_is_where_it_was(events: Page, sender: Sender) -> None:
    """Back from an event's page it shows what it showed, with what was chosen, however much came in meanwhile; from a
    link it begins with the newest."""
    for index in range(260):
        sender.send(f"/{index}")
    expect(rows(events).first).to_contain_text("/259")
    before = scroll(events, 4000)
    assert before == "/148"
    rows(events).filter(has_text="/145").locator(".tick").click()
    rows(events).filter(has_text="/146").click()
    events.get_by_role("link", name="Open as a page").click()
    expect(events.get_by_role("heading", level=1)).to_contain_text("/146")
    expect(events).to_have_title("POST /146 · Relay")
    for index in range(260, 420):
        sender.send(f"/{index}")
    events.go_back()
    stays(events, before)
    expect(events).to_have_title(f"{sender.name} · Relay")
    expect(events.get_by_text("1 selected")).to_be_visible()
    expect(events.get_by_role("article")).to_contain_text("/146")
    expect(events.get_by_text("420 listed")).to_be_visible()
    stays(events, before)
    events.get_by_role("listbox").focus()
    events.keyboard.press("Home")
    expect(events.locator(".list-row.active")).to_contain_text("/419")
    scroll(events, 4000)
    sender.send("/last")
    events.get_by_role("link", name="Outputs").click()
    events.get_by_role("link", name="Events").click()
    stays(events, "/last")


def test_what_came_as_one_left_is_where_it_belongs(admitted: Page, sender: Sender) -> None:
    """What the list had no time to draw is in it all the same, and does not come in behind what came later."""
    undrawn(admitted, sender)
    sender.send("/as-one-left")
    until(admitted, lambda: admitted.evaluate("heard") == 1, "the event on the stream")
    admitted.get_by_role("link", name="Outputs").click()
    expect(admitted.get_by_text("No output")).to_be_visible()
    for index in range(150):
        sender.send(f"/after/{index}")
    admitted.go_back()
    expect(rows(admitted).first).to_contain_text("/after/149")
    admitted.evaluate("drawn()")
    after = [f"/after/{index}" for index in range(149, -1, -1)]
    before = [f"/before/{index}" for index in range(59, -1, -1)]
    assert listed(admitted, 211) == [*after, "/as-one-left", *before]


def test_closing_an_event_on_a_phone(page: Page, relay: Relay, administrator: str, sender: Sender) -> None:
    """By its button or by the browser's Back: the list is where it was, and has the focus."""
    for index in range(120):
        sender.send(f"/{index}")
    page.set_viewport_size({"width": 390, "height": 844})
    sign_in(page, relay, administrator, f"/ui/buckets/{sender.name}")
    live(page)
    expect(rows(page).first).to_contain_text("/119")
    before = scroll(page, 2000)
    for close in ("button", "back"):
        page.evaluate("(path) => [...document.querySelectorAll('.list-row')].find((row) => "
                      "row.querySelector('.path').innerText.trim() === path).click()", before)  # fmt: skip
        expect(page.get_by_role("article")).to_be_visible()
        if close == "back":
            page.go_back()
        else:
            page.get_by_role("button", name="Close the event").click()
        expect(page.get_by_role("article")).to_have_count(0)
        stays(page, before)
        expect(page.get_by_role("listbox")).to_be_focused()


def test_nobody_gets_anothers_list(events: Page, watch: Watch, sender: Sender) -> None:
    """What was left is forgotten once somebody else is signed in."""
    watch.expected.append("status of 401")  # what is asked for as one signs out
    for index in range(150):
        sender.send(f"/{index}")
    expect(rows(events).first).to_contain_text("/149")
    scroll(events, 3000)
    secret = sender.relay.create_token("--bucket", sender.name)[1]
    events.get_by_role("button", name="Sign out").click()
    events.get_by_label("A token's secret").fill(secret)
    events.get_by_role("button", name="Sign in").click()
    stays(events, "/149")


def test_a_long_table_is_where_it_was(page: Page, relay: Relay, administrator: str) -> None:
    """Back from a bucket the window shows the row that it was gone to from; another page begins at its top."""
    status = {
        "buckets": [
            {
                "id": f"id-{number}", "name": f"bucket {number:03}", "description": "", "ephemeral": False,
                "expires_at": None, "first": 1, "head": 0, "events": 0, "bytes": 0, "oldest_at": None,
                "newest_at": None, "subscribers": 0, "lag": None, "rate": [0] * 60,
            }
            for number in range(200)
        ]
    }  # fmt: skip
    relay.create_bucket("bucket 150")
    page.set_viewport_size({"width": 1200, "height": 800})
    page.route("**/v1/status", lambda route: route.fulfill(json=status))
    sign_in(page, relay, administrator)
    link = page.get_by_role("link", name="bucket 150")
    link.scroll_into_view_if_needed()
    before = page.evaluate("() => window.scrollY")
    assert before > 1000
    link.click()
    expect(page.get_by_role("heading", name="bucket 150")).to_be_visible()
    assert page.evaluate("() => window.scrollY") == 0
    page.go_back()
    expect(link).to_be_in_viewport()
    page.wait_for_function("(top) => Math.abs(window.scrollY - top) < 2", arg=before)
    page.go_forward()
    expect(page.get_by_role("heading", name="bucket 150")).to_be_visible()
    page.wait_for_function("() => window.scrollY === 0")


def test_the_focus_is_not_lost(events: Page, sender: Sender) -> None:
    """What leads to another part takes the focus there; a tab keeps it."""
    events.get_by_role("link", name="Outputs").focus()
    events.keyboard.press("Enter")
    expect(events.get_by_text("No output")).to_be_visible()
    expect(events.get_by_role("link", name="Outputs")).to_be_focused()
    events.get_by_role("main").get_by_role("link", name="Buckets").focus()
    events.keyboard.press("Enter")
    expect(events.get_by_role("table")).to_be_visible()
    expect(events.get_by_role("main")).to_be_focused()
    events.keyboard.press("Tab")
    assert events.evaluate("() => document.activeElement.closest('main') !== null")


@pytest.mark.parametrize(("width", "covered"), [(390, True), (900, True), (1400, False)])
def test_what_an_event_covers(
    page: Page, relay: Relay, administrator: str, sender: Sender, width: int, covered: Any
) -> None:
    """Where it stands over the list, Tab and screen readers reach it and the rail, and nothing below it."""
    sender.send("/x", b"{}")
    page.set_viewport_size({"width": width, "height": 900})
    sign_in(page, relay, administrator, f"/ui/buckets/{sender.name}")
    rows(page).first.click()
    expect(page.get_by_role("article")).to_be_visible()
    search = page.get_by_label("Search paths, headers and bodies")
    assert search.evaluate("(field) => { field.focus(); return document.activeElement === field; }") == (not covered)
    page.get_by_role("button", name="Close the event").click()
    expect(page.get_by_role("article")).to_have_count(0)
    page.get_by_role("link", name=re.compile("^Inputs")).click()
    expect(page.get_by_role("heading", name="Default public endpoint")).to_be_visible()


def test_another_size_changes_nothing_else(events: Page, sender: Sender) -> None:
    """A window that is drawn higher and lower loads no older events; and what one reads stays where it is as more come
    in, also once something is chosen."""
    for index in range(700):
        sender.send(f"/{index}")
    events.reload()
    expect(rows(events).first).to_contain_text("/699")
    older: list[str] = []
    events.on("request", lambda request: older.append(request.url) if "limit=500" in request.url else None)
    for height in (800, 850, 900, 950, 900):
        events.set_viewport_size({"width": 1400, "height": height})
        events.evaluate("() => new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)))")
    before = scroll(events, 1440)
    rows(events).filter(has_text=before).locator(".tick").click()
    expect(events.get_by_text("1 selected")).to_be_visible()
    for index in range(700, 703):
        sender.send(f"/{index}")
        expect(events.get_by_text(f"{index - 599}+ listed")).to_be_visible()
        assert first(events) == before
    assert older == []
