"""The events of a bucket in the page: live, searched, opened, at any width. A real relay and Chromium."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from tests.acceptance.relay import Relay, wait_for
from tests.ui.browser import Watch, begin_session, hold, sign_in, told, until
from tests.ui.sending import HEARD, Sender, live, paths, rows


def test_new_events_come_on_top_at_once(events: Page, sender: Sender) -> None:
    """An empty bucket says so; each event appears above the one before, with what it is."""
    expect(events.get_by_text("No event yet")).to_be_visible()
    sender.send("/one?a=1", b"{}", Content_Type="application/json")
    expect(rows(events)).to_have_count(1)
    sender.send("/two", b"abc", method="PUT")
    expect(rows(events)).to_have_count(2)
    expect(rows(events).first).to_contain_text(re.compile(r"PUT/two.*3 B"))
    expect(rows(events).last).to_contain_text("/one?a=1")


def test_only_rows_in_sight_are_in_the_document(page: Page, relay: Relay, administrator: str, sender: Sender) -> None:
    """Of 700 events a few dozen rows are drawn; End and Home go to the oldest and the newest."""
    for index in range(700):
        sender.send(f"/{index}")
    sign_in(page, relay, administrator, f"/ui/buckets/{sender.name}")
    expect(rows(page).first).to_contain_text("/699")
    assert rows(page).count() < 80
    box = page.get_by_role("listbox")
    box.focus()
    oldest = page.get_by_text("This is the oldest event that is kept.")
    # Older pages come as one gets near them.
    wait_for(lambda: page.keyboard.press("End") or page.wait_for_timeout(150) or oldest.count(), "the oldest event")
    page.keyboard.press("End")
    expect(page.locator(".list-row.active .path")).to_have_text("/0")
    assert rows(page).count() < 80
    expect(rows(page).last).to_have_attribute("aria-setsize", "700")
    page.keyboard.press("Home")
    expect(page.locator(".list-row.active")).to_contain_text("/699")


def test_by_keyboard_alone(events: Page, sender: Sender) -> None:
    """j goes to the list; arrows, j and k move, Space selects, Shift stretches, Enter opens, j and k go on in the
    event, Escape closes."""
    for index in range(6):
        sender.send(f"/{index}", b"x")
    expect(rows(events)).to_have_count(6)
    active = events.locator(".list-row.active")
    events.keyboard.press("j")
    expect(active).to_contain_text("/5")
    expect(events.get_by_role("listbox")).to_be_focused()
    events.keyboard.press("ArrowDown")
    events.keyboard.press("j")
    expect(active).to_contain_text("/3")
    events.keyboard.press("k")
    expect(active).to_contain_text("/4")
    assert events.get_by_role("listbox").get_attribute("aria-activedescendant") == active.get_attribute("id")
    events.keyboard.press("Space")
    events.keyboard.press("Shift+ArrowDown")
    events.keyboard.press("Shift+ArrowDown")
    expect(events.locator("[role=option][aria-selected=true]")).to_have_count(3)
    expect(events.get_by_text("3 selected")).to_be_visible()
    events.keyboard.press("Enter")
    heading = events.get_by_role("article").get_by_role("heading", level=2)
    expect(heading).to_have_text(re.compile(r"POST\s+/2"))
    events.keyboard.press("k")
    expect(heading).to_have_text(re.compile(r"POST\s+/3"))
    events.get_by_role("button", name="Older").click()
    expect(heading).to_have_text(re.compile(r"POST\s+/2"))
    events.keyboard.press("Escape")
    expect(events.get_by_role("article")).to_have_count(0)
    events.keyboard.press("/")
    expect(events.get_by_label("Search paths, headers and bodies")).to_be_focused()


def test_paused_it_counts_what_waits(events: Page, sender: Sender) -> None:
    """While it is paused nothing moves and what comes is counted; Resume shows all of it."""
    sender.send("/before")
    expect(rows(events)).to_have_count(1)
    events.get_by_role("button", name="Pause").click()
    for index in range(5):
        sender.send(f"/{index}")
    expect(events.get_by_text("5 waiting")).to_be_visible()
    expect(rows(events)).to_have_count(1)
    events.get_by_role("button", name="Resume").click()
    expect(rows(events)).to_have_count(6)
    assert paths(events) == ["/4", "/3", "/2", "/1", "/0", "/before"]


_BY_HAND = """
window.drawing = [];
window.requestAnimationFrame = (draw) => drawing.push(draw);"""
"""Frames are drawn by DRAW alone."""
DRAW = "() => { window.now = (window.now ?? 0) + 1000; for (const draw of drawing.splice(0)) draw(now); }"


def test_paused_it_does_not_count_what_is_shown(admitted: Page, sender: Sender) -> None:
    """As where the list was asked for and has an event before it came on the stream."""
    admitted.add_init_script(HEARD + _BY_HAND)
    held = hold(admitted, "**/v1/search?**")
    admitted.goto(f"/ui/buckets/{sender.name}")
    live(admitted)
    sender.send("/shown")
    until(admitted, lambda: held and admitted.evaluate("heard") == 1, "the event on the stream")
    held.pop().continue_()
    expect(rows(admitted)).to_have_count(1)
    admitted.get_by_role("button", name="Pause").click()
    admitted.evaluate(DRAW)
    sender.send("/later")
    until(admitted, lambda: admitted.evaluate("heard") == 2, "the second one")
    admitted.evaluate(DRAW)
    expect(admitted.get_by_text("waiting")).to_have_text("1 waiting")


def test_two_hundred_a_second(events: Page, sender: Sender) -> None:
    """A burst of 1,000 events is all there, in order, none twice; the page goes on answering."""
    for index in range(1000):
        sender.send(f"/{index}", b'{"n": 1}')
    expect(rows(events).first).to_contain_text("/999")
    expect(events.get_by_text("1,000+ listed").or_(events.get_by_text("1,000 listed"))).to_be_visible()
    drawn = paths(events)
    assert drawn == [f"/{999 - index}" for index in range(len(drawn))]


def test_a_restart_of_the_relay_loses_nothing(page: Page, watch: Watch, tmp_path: Path, sender: Sender) -> None:
    """Events sent before, while the page was cut off, and after: each is there once, in order, also in a page that is
    slow to draw."""
    page.add_init_script("window.requestAnimationFrame = (draw) => setTimeout(draw, 300);")
    watch.expected += ["ERR_CONNECTION", "ERR_INCOMPLETE", "ERR_EMPTY_RESPONSE", "Failed to load resource", "asked for"]
    with Relay(tmp_path / "data") as own:
        _, secret = own.create_token()
        ours = Sender(own, secret, "restarted")
        page.goto(f"{own.url}/ui/")
        assert page.request.post(f"{own.url}/ui/session", data={"secret": secret}, headers={"Origin": own.url}).ok
        page.goto(f"{own.url}/ui/buckets/restarted")
        live(page)
        ours.send("/before")
        expect(rows(page)).to_have_count(1)
        own.kill()
        expect(page.get_by_text("Reconnecting")).to_be_visible()
        own.start()
        ours.close()
        for index in range(150):
            ours.send(f"/{index}")
        live(page)
        expect(page.get_by_text("151 listed")).to_be_visible()
        expect(rows(page).first).to_contain_text("/149")
        drawn = paths(page)
        assert drawn == [f"/{149 - index}" for index in range(len(drawn))]
        ours.close()
        page.goto("about:blank")


def test_refused_for_good_it_comes_back_all_the_same(
    page: Page, watch: Watch, relay: Relay, administrator: str, sender: Sender
) -> None:
    """A browser gives up an EventSource at a 503; the page opens another one, from where it was."""
    watch.expected += ["503", "Failed to load resource"]
    sign_in(page, relay, administrator)
    refused: list[str] = []

    def refuse(route: Any) -> None:
        refused.append(route.request.url)
        route.fulfill(status=503, json={"code": "overloaded", "message": "not now"})

    page.route("**/v1/stream?**", refuse)
    page.goto(f"/ui/buckets/{sender.name}")
    expect(page.get_by_text("Reconnecting")).to_be_visible()
    until(page, lambda: len(refused) > 1, "another one")
    sender.send("/meanwhile")
    page.unroute("**/v1/stream?**")
    live(page)
    expect(rows(page)).to_have_count(1)
    sender.send("/later")
    expect(rows(page)).to_have_count(2)


def test_filters_and_search(events: Page, sender: Sender) -> None:
    """Filters stand in the address, hold for what is kept and for what comes; a search reads bodies."""
    sender.send("/orders/1", b'{"sku": "needle-7"}', X_Kind="order")
    sender.send("/push", b"hay", method="PUT", X_Kind="push")
    expect(rows(events)).to_have_count(2)
    events.get_by_role("button", name="Filter").click()
    events.get_by_label("Header", exact=True).fill("x-kind: ORD")
    expect(rows(events)).to_have_count(1)
    expect(events).to_have_url(re.compile(r"header=x-kind"))
    live(events)
    sender.send("/orders/2", b'{"sku": "needle-8"}', X_Kind="order")
    sender.send("/push", b"hay", X_Kind="push")
    expect(rows(events)).to_have_count(2)
    events.get_by_label("Method").select_option("PUT")
    expect(events.get_by_text("No event fits")).to_be_visible()
    events.get_by_role("button", name="Show all").click()
    expect(rows(events)).to_have_count(4)
    with events.expect_request(re.compile(r"/v1/stream\?.*&max_body=0&")):
        events.get_by_label("Search paths, headers and bodies").fill("Needle")
    expect(rows(events)).to_have_count(2)
    sender.send("/orders/3", b'{"sku": "needle-9"}')
    expect(rows(events)).to_have_count(3)
    expect(rows(events).first).to_contain_text("/orders/3")
    search = events.get_by_label("Search paths, headers and bodies")
    for text, count in (("push", 2), ("/orders/2", 1), ('"sku needle"', 0)):
        search.fill(text)
        expect(rows(events)).to_have_count(count)
    search.fill("Needle")
    expect(rows(events)).to_have_count(3)
    events.reload()
    expect(rows(events)).to_have_count(3)
    expect(events.get_by_label("Search paths, headers and bodies")).to_have_value("Needle")


def test_a_gap_is_a_row(events: Page, sender: Sender) -> None:
    """Events that left before they were read are told in the list, where they would be."""
    gap = {
        "type": "status",
        "status": "gap",
        "bucket_name": "b",
        "gap": {"from": 12, "to": 40, "count": 29, "reason": "retention"},
    }
    events.route(
        "**/v1/stream?**",
        lambda route: route.fulfill(
            headers={"Content-Type": "text/event-stream"},
            body=f"retry: 60000\nevent: gap\nid: {sender.name}\ndata: {json.dumps(gap)}\n\n",
        ),
    )
    events.reload()
    expect(events.get_by_text("Events 12 to 40 are missing here: the bucket's retention removed them")).to_be_visible()


def test_paths_are_there_at_any_width(page: Page, events: Page, sender: Sender) -> None:
    """Other columns leave the path its room: one looks for an event by it."""
    sender.send("/payments/refunds/created", b"{}", Content_Type="application/json")
    expect(rows(events)).to_have_count(1)
    for width in (390, 800, 1000, 1110, 1200, 1280, 1366, 1400, 1440, 1920):
        page.set_viewport_size({"width": width, "height": 800})
        shown = rows(events).first.locator(".path").evaluate("path => path.getBoundingClientRect().width")
        assert shown >= 150, width


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1440, "dark")])
def test_no_part_scrolls_sideways(
    page: Page, relay: Relay, administrator: str, sender: Sender, width: int, scheme: Any
) -> None:
    """However long paths, names and values are, the page stays within its width."""
    long = "x" * 3000
    sender.send(
        f"/{long}?{long}={long}", json.dumps({long: long}).encode(), Content_Type="application/json", X_Long=long
    )
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 844})
    sign_in(page, relay, administrator, f"/ui/buckets/{sender.name}")
    wide = "document.documentElement.scrollWidth"
    expect(rows(page)).to_have_count(1)
    assert page.evaluate(wide) <= width
    rows(page).first.click()
    expect(page.get_by_role("article")).to_be_visible()
    assert page.evaluate(wide) <= width
    event = sender.events()[0]["id"]
    for path in (f"/ui/events/{event}", f"/ui/compare/{event}/{event}"):
        page.goto(path)
        page.get_by_role("heading", level=1).wait_for()
        assert page.evaluate(wide) <= width


def test_what_is_typed_stays(events: Page, sender: Sender) -> None:
    """A search for two words that is thought about between them; a time whose year is corrected, digit by digit."""
    sender.send("/x", b"two words")
    sender.send("/y", b"two birds")
    expect(rows(events)).to_have_count(2)
    search = events.get_by_label("Search paths, headers and bodies")
    search.press_sequentially("two ")
    expect(events).to_have_url(re.compile(r"q=two$"))
    search.press_sequentially("words")
    expect(rows(events)).to_have_count(1)
    expect(search).to_have_value("two words")
    events.get_by_role("button", name="Show all").click()
    expect(search).to_have_value("")
    events.get_by_role("button", name="Filter").click()
    since = events.get_by_label("From", exact=True)
    since.fill("2999-02-03T04:05:06")
    expect(events.get_by_text("No event fits")).to_be_visible()
    since.focus()
    for key in ("ArrowRight", "ArrowRight", *"2024"):
        events.keyboard.press(key)
        events.wait_for_timeout(500)  # longer than what is typed is waited for
    expect(rows(events)).to_have_count(2)
    expect(since).to_have_value("2024-02-03T04:05:06")
    events.keyboard.type("07")  # the year is full: what follows is the hour
    expect(since).to_have_value("2024-02-03T07:05:06")
    expect(events).to_have_url(re.compile(r"from=170\d{7}$"))


def test_a_long_path_leaves_the_buttons_in_sight(page: Page, relay: Relay, administrator: str, sender: Sender) -> None:
    """On a phone it is shown by its beginning, and the rest at a press."""
    path = "/" + "x" * 4000
    sender.send(path)
    page.set_viewport_size({"width": 390, "height": 844})
    sign_in(page, relay, administrator, f"/ui/events/{sender.events()[0]['id']}")
    expect(page.get_by_role("button", name="Send again")).to_be_in_viewport(ratio=1)
    heading = page.get_by_role("heading", level=1)
    heading.get_by_role("button", name="more characters").click()
    expect(heading).to_contain_text(path)


def test_an_address_that_is_none(page: Page, relay: Relay, administrator: str) -> None:
    """Also one that is no text is answered by the page, with a way on."""
    begin_session(page, relay, administrator)
    for path in ("events/%ff", "buckets/%c3%28/events", "nowhere/%"):
        page.goto(f"/ui/{path}")
        expect(page.get_by_role("heading", name="There is nothing here")).to_be_visible()
        page.get_by_role("link", name="Go to the buckets").click()
        expect(page.get_by_role("heading", name="Buckets")).to_be_visible()


def test_the_list_follows_the_event(events: Page, sender: Sender) -> None:
    """Whoever goes from event to event sees where that is in the list, gets to its end however long it is, and is told
    that there is no further one."""
    asked = []

    def shorten(route: Route) -> None:
        """A relay that gives no more than 40 at a time: the list is long with fewer events."""
        asked.append(route.request.url)
        route.continue_(url=re.sub(r"\blimit=\d+", "limit=40", route.request.url))

    for index in range(130):
        sender.send(f"/{index}")
    events.route("**/v1/search?**", shorten)
    events.reload()
    expect(rows(events).first).to_contain_text("/129")
    rows(events).first.click()
    heading = events.get_by_role("article").get_by_role("heading", level=2)
    expect(heading).to_contain_text("/129")
    events.locator(".event-pane").focus()
    events.keyboard.press("k")
    told(events, "This is the newest event in the list.")
    while "/0" not in heading.inner_text().split():
        for _ in range(20):
            events.keyboard.press("j")
        events.wait_for_timeout(50)
        if events.get_by_text("This is the oldest event in the list.").count():
            break
    expect(heading).to_have_text(re.compile(r"/0$"))
    assert sum("limit=500" in url for url in asked) == 3
    expect(events.locator(".list-row.active")).to_be_in_viewport(ratio=0.9)
    events.get_by_label("Search paths, headers and bodies").fill("nothing has that")
    expect(events.get_by_text("No event fits")).to_be_visible()
    events.get_by_role("button", name="Newer").click()
    told(events, "This event is not in the list.")


@pytest.mark.parametrize("width", [390, 1400])
def test_a_thumb_selects(page: Page, relay: Relay, administrator: str, sender: Sender, width: int) -> None:
    """All of a row's beginning selects it, not the small box alone: what is pressed beside that opens the event."""
    sender.send("/x")
    page.set_viewport_size({"width": width, "height": 844})
    sign_in(page, relay, administrator, f"/ui/buckets/{sender.name}")
    row = rows(page).first
    expect(row).to_be_visible()
    height = row.evaluate("(row) => row.offsetHeight")
    for times, (x, y) in enumerate([(3, 3), (28, height - 4), (16, height // 2)]):
        row.click(position={"x": x, "y": y})
        expect(row).to_have_attribute("aria-selected", "false" if times % 2 else "true")
    row.click(position={"x": 60, "y": 10})
    expect(page.get_by_role("article")).to_be_visible()


def test_on_a_phone_what_belongs_together_stands_together(
    page: Page, relay: Relay, administrator: str, sender: Sender
) -> None:
    """The values of a comparison have most of its width, whatever their places are called; a choice stands before its
    text."""
    for value in ("one", "another"):
        sender.send("/x", json.dumps({"the_customer_of_this_order": {"preferred_language": value}}).encode())
    left, right = (each["id"] for each in sender.events())
    page.set_viewport_size({"width": 390, "height": 844})
    sign_in(page, relay, administrator, f"/ui/compare/{left}/{right}")
    cells = page.get_by_role("region", name="Differences of the bodies").get_by_role("cell")
    expect(cells).to_have_text(['"one"', '"another"'])
    assert sum(cell.evaluate("(cell) => cell.offsetWidth") for cell in cells.all()) > 200
    page.goto(f"/ui/events/{left}")
    page.get_by_role("button", name="Send again").click()
    choice = page.get_by_role("radio").first
    box, text = choice.bounding_box(), page.get_by_text("Subscribers and outputs").bounding_box()
    assert box is not None
    assert text is not None
    assert text["y"] < box["y"] + box["height"]
