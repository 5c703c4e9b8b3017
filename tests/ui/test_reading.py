"""Somebody reads and presses something while the bucket goes on: nothing moves away under the pointer."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.acceptance.relay import Relay
from tests.ui.browser import Watch, hold, sign_in, until, watched, with_scrollbars
from tests.ui.sending import Sender, live, paths, rows

_PLACE = """(row) => {
  const { left, top } = row.closest(".events").getBoundingClientRect();
  const { x, y, width, height } = row.getBoundingClientRect();
  return [x - left, y - top, width, height];
}"""
"""Where a row is in its tab, and how large: what stands above the tabs may come late, and change."""


def test_a_row_that_moves_while_it_is_pressed(events: Page, sender: Sender) -> None:
    """The event that was pressed is opened, however far new ones have moved its row until the button is let go."""
    sender.send("/wanted")
    row = rows(events).filter(has_text="/wanted")
    row.hover()
    events.mouse.down()
    for number in range(3):
        sender.send(f"/later/{number}")
    expect(rows(events)).to_have_count(4)
    events.mouse.up()
    expect(events.get_by_role("article")).to_contain_text("/wanted")


def test_a_box_that_moves_while_it_is_pressed(events: Page, sender: Sender) -> None:
    """The same of what selects it."""
    sender.send("/wanted")
    rows(events).filter(has_text="/wanted").locator(".tick").hover()
    events.mouse.down()
    sender.send("/later")
    expect(rows(events)).to_have_count(2)
    events.mouse.up()
    expect(rows(events).filter(has_text="/wanted")).to_have_attribute("aria-selected", "true")
    expect(events.get_by_role("article")).to_have_count(0)


def test_what_is_dragged_over_opens_nothing(events: Page, sender: Sender) -> None:
    """From one row to another, that is no press."""
    for number in range(3):
        sender.send(f"/{number}")
    expect(rows(events)).to_have_count(3)
    rows(events).first.hover()
    events.mouse.down()
    rows(events).last.hover()
    events.mouse.up()
    expect(events.get_by_role("article")).to_have_count(0)


def test_selecting_moves_nothing(events: Page, sender: Sender) -> None:
    """What can be done with the selected ones stands below the list, and in sight on a phone."""
    for number in range(3):
        sender.send(f"/{number}")
    expect(rows(events)).to_have_count(3)
    for size in ({"width": 1400, "height": 900}, {"width": 375, "height": 812}):
        events.set_viewport_size(size)
        rows(events).last.locator(".tick").click()
        expect(events.get_by_text("1 selected")).to_be_in_viewport(ratio=1)
        selected = rows(events).last.evaluate(_PLACE)  # the page has settled in its window by now
        events.get_by_role("button", name="Clear").click()
        expect(events.get_by_text("1 selected")).to_have_count(0)
        assert rows(events).last.evaluate(_PLACE) == selected


def test_selecting_makes_no_row_narrower(chromium: Browser, relay: Relay, administrator: str, sender: Sender) -> None:
    """Where scroll bars take room: the page is longer then than its window, and has one."""
    sender.send()
    with with_scrollbars(chromium) as browser, watched(browser, relay.url) as (page, _):
        sign_in(page, relay, administrator, f"/ui/buckets/{sender.name}")
        row = rows(page).first
        expect(row).to_be_visible()
        before = row.evaluate(_PLACE)
        row.locator(".tick").click()
        expect(page.get_by_text("1 selected")).to_be_visible()
        assert row.evaluate(_PLACE) == before


@pytest.mark.own_window
def test_an_event_that_leaves_while_it_is_read(events: Page, watch: Watch, sender: Sender) -> None:
    """It is still shown, with the word that it is kept no longer, and it is asked for no more."""
    watch.expected.append("status of 404")
    sender.send("/old", b"its body", Content_Type="text/plain")
    (event,) = sender.events()
    events.clock.install()
    events.goto(f"/ui/buckets/{sender.name}?event={event['id']}")
    article = events.get_by_role("article")
    expect(article).to_contain_text("its body")
    asked: list[str] = []

    def left(route: Route) -> None:
        asked.append(route.request.url)
        route.fulfill(status=404, json={"code": "not_found", "message": "there is no such event"})

    events.route(re.compile(f"/v1/logs/{event['id']}$"), left)
    events.clock.run_for(5000)
    expect(article.get_by_role("alert")).to_contain_text("no longer kept")
    expect(article).to_contain_text("its body")
    events.clock.run_for(30_000)
    with events.expect_response(re.compile("/v1/logs/")):
        article.get_by_role("button", name="Try again").click()
    expect(article.get_by_role("alert")).to_contain_text("no longer kept")
    assert len(asked) == 2


def test_from_an_old_event_on(events: Page, sender: Sender) -> None:
    """A link leads to one that the list does not hold yet: one goes to its neighbours all the same."""
    for number in range(150):
        sender.send(f"/{number}")
    old = next(each for each in sender.events() if each["extra_path"] == "/10")
    events.goto(f"/ui/buckets/{sender.name}?event={old['id']}")
    expect(rows(events).first).to_contain_text("/149")
    heading = events.get_by_role("article").get_by_role("heading", level=2)
    for button, path in (("Older", "/9"), ("Newer", "/10"), ("Newer", "/11")):
        events.get_by_role("button", name=button).click()
        expect(heading).to_have_text(f"POST {path}")


def test_an_event_that_takes_long(events: Page, sender: Sender) -> None:
    """What stands there meanwhile is the one before, and is seen to be."""
    sender.send("/first")
    sender.send("/second")
    article = events.get_by_role("article")
    rows(events).last.click()
    expect(article).to_have_css("opacity", "1")
    waiting = hold(events, re.compile("/v1/logs/"))
    events.get_by_role("button", name="Newer").click()
    until(events, lambda: waiting, "the question")
    expect(article).to_have_css("opacity", "0.5")
    expect(article.get_by_role("heading", level=2)).to_have_text("POST /first")
    for each in waiting:
        each.continue_()
    events.unroute_all()
    expect(article.get_by_role("heading", level=2)).to_have_text("POST /second")
    expect(article).to_have_css("opacity", "1")


@pytest.mark.own_window
def test_a_relay_that_is_back(events: Page, watch: Watch, sender: Sender) -> None:
    """Is noticed soon, also by what is asked for seldom while it is there."""
    watch.expected.append("ERR_")
    events.clock.install()
    events.goto(f"/ui/buckets/{sender.name}/connect")
    expect(events.get_by_label("Node code", exact=True)).to_be_visible()
    events.route(re.compile("/v1/"), lambda route: route.abort())
    events.clock.run_for(21_000)
    expect(events.get_by_role("alert")).to_contain_text("The relay can't be reached")
    events.unroute_all()
    events.clock.run_for(4000)
    expect(events.get_by_role("alert")).to_have_count(0)


def test_what_comes_late(events: Page, sender: Sender) -> None:
    """Where more comes in than gets to the page, the list goes on with the newest event, but for somebody who paused
    it."""
    asked: list[str] = []
    events.on("request", lambda request: asked.append(request.url) if "/v1/stream?" in request.url else None)
    sender.send("/soon")
    expect(rows(events)).to_have_count(1)
    events.get_by_role("button", name="Pause").click()
    events.evaluate("() => { const now = performance.now.bind(performance); performance.now = () => now() + 60_000; }")
    sender.send("/late")
    expect(events.get_by_text("1 waiting")).to_be_visible()
    assert asked == []
    events.get_by_role("button", name="Resume").click()
    sender.send("/later")
    until(events, lambda: asked, "another stream")
    live(events)
    sender.send("/now")
    expect(rows(events)).to_have_count(4)
    assert paths(events) == ["/now", "/later", "/late", "/soon"]
    assert ["since=latest" in url for url in asked] == [True]
