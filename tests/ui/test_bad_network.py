"""The page where answers come late, never, in part, or from something else than the relay."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.acceptance.relay import Relay
from tests.ui.browser import Watch, begin_session, hold, sign_in, signed, told, until, watched
from tests.ui.sending import Sender, listed, live, rows, undrawn

PATIENCE = 41_000
"""Milliseconds after which the page waits for no answer any more."""

NOT_KNOWN = "Whether it did what was asked is not known: look before you do it again."

FOREIGN: dict[str, Any] = {
    "a sign-in page": {"status": 200, "content_type": "text/html", "body": "<h1>Welcome to our train</h1>"},
    "a sign-in page's 401": {"status": 401, "content_type": "text/html", "body": "<h1>Sign in</h1>"},
    "a router without a route": {"status": 404, "content_type": "text/plain", "body": "404 page not found"},
    "a gateway's JSON": {"status": 404, "json": {"message": "no Route matched with those values"}},
    "a proxy without a word": {"status": 504, "body": ""},
    "half an answer": {"status": 200, "content_type": "application/json", "body": '{"buckets": [{"id": "x"'},
}
"""What stands between the page and the relay answers in its place."""


CHANGES = ("POST", "PUT", "DELETE")


@pytest.fixture
def output(sender: Sender) -> str:
    """The path of the outputs of a bucket that has one, `shop`, which is paused."""
    output = {"name": "shop", "internal": False, "destination": "https://shop.example.org/", "paused": True}
    sender.rest("POST", f"/v1/buckets/{sender.name}/outputs", output)
    return f"/ui/buckets/{sender.name}/outputs"


@pytest.mark.parametrize("answer", FOREIGN)
def test_what_the_relay_did_not_answer(events: Page, watch: Watch, sender: Sender, output: str, answer: str) -> None:
    """Nothing is said to be done, gone or empty, and nobody is signed out by it; the page goes on once the relay is
    back."""
    watch.expected += ["Failed to load resource", "EventSource's response"]

    def fulfil(route: Route) -> None:
        route.fulfill(**FOREIGN[answer])

    events.route("**/v1/**", fulfil)
    events.evaluate("() => document.dispatchEvent(new Event('visibilitychange'))")
    events.get_by_role("button", name="Send a test event").click()
    expect(events.get_by_role("dialog").get_by_role("alert")).to_contain_text("The relay can't be reached: ")
    events.keyboard.press("Escape")
    events.unroute("**/v1/**")
    live(events)
    events.goto(output)
    resume = events.get_by_role("button", name="Resume shop")
    resume.wait_for()
    events.route("**/v1/**", fulfil)
    resume.click()
    told(events, re.compile(NOT_KNOWN))
    events.get_by_role("main").get_by_role("link", name="Buckets").click()
    alert = events.get_by_role("alert")
    expect(alert).to_contain_text("The relay can't be reached: ")
    expect(events.get_by_role("button", name="Make a bucket")).to_have_count(0)
    events.route("**/ui/session", fulfil)
    events.reload()
    expect(alert).to_contain_text("The relay can't be reached: ")
    events.unroute("**/ui/session")
    events.unroute("**/v1/**")
    signed(events)
    expect(events.get_by_role("link", name=sender.name, exact=True)).to_be_visible()


def test_a_list_outlives_a_router_without_a_route(events: Page, watch: Watch, sender: Sender) -> None:
    """While a relay is restarted many routers answer 404: its bucket is not deleted by that."""
    watch.expected += ["Failed to load resource"]
    asked: list[str] = []

    def fulfil(route: Route) -> None:
        asked.append(route.request.url)
        route.fulfill(**FOREIGN["a router without a route"])

    events.route("**/v1/**", fulfil)
    events.get_by_role("link", name="Outputs").click()
    events.get_by_role("link", name="Events").click()
    until(events, lambda: any(url.endswith(f"/v1/buckets/{bucket_id(sender)}") for url in asked), "the bucket's turn")
    events.unroute("**/v1/**")
    live(events)


def bucket_id(sender: Sender) -> str:
    return str(sender.rest("GET", f"/v1/buckets/{sender.name}")["id"])


@pytest.mark.own_window
def test_a_start_without_an_answer(page: Page, relay: Relay, administrator: str) -> None:
    """It is told as a page that has a landmark and a heading, and goes on by itself."""
    begin_session(page, relay, administrator)
    page.clock.install()
    held = hold(page, "**/ui/session")
    page.goto("/ui/")
    until(page, lambda: held, "the question")
    main = page.get_by_role("main")
    expect(main.get_by_role("heading", level=1)).to_have_text("Relay")
    page.clock.run_for(PATIENCE)
    expect(main.get_by_role("alert")).to_have_text(
        "The relay does not answer. The page goes on by itself when it is back."
    )
    expect(main.get_by_role("heading", level=1)).to_have_text("Relay")
    page.unroute("**/ui/session")
    page.clock.run_for(3000)
    signed(page)


@pytest.mark.own_window
def test_a_dialog_without_an_answer(page: Page, relay: Relay, administrator: str) -> None:
    """It says so, and comes once there is one."""
    page.clock.install()
    sign_in(page, relay, administrator)
    held = hold(page, "**/v1/usage")
    page.get_by_role("button", name=re.compile("New bucket|Make a bucket")).first.click()
    until(page, lambda: held, "the question")
    page.clock.run_for(PATIENCE)
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("alert")).to_contain_text("The relay does not answer.")
    page.unroute("**/v1/usage")
    page.clock.run_for(4000)
    expect(dialog.get_by_label("Name", exact=True)).to_be_focused()


@pytest.mark.own_window
def test_older_events_without_an_answer(page: Page, relay: Relay, administrator: str, sender: Sender) -> None:
    """The list says so, and goes on once there is one."""
    for index in range(120):
        sender.send(f"/{index}")
    page.clock.install(time=time.time() + 30)  # so that the list is of a time that is over
    sign_in(page, relay, administrator, f"/ui/buckets/{sender.name}?to={int(sender.events()[-1]['received_at']) + 1}")
    expect(page.get_by_text("100+ listed")).to_be_visible()
    older = re.compile("/v1/search.*cursor=")
    held = hold(page, older)
    page.get_by_role("listbox").focus()
    page.keyboard.press("End")
    until(page, lambda: held, "the question")
    page.clock.run_for(PATIENCE)
    alert = page.locator(".events").get_by_role("alert")  # the bucket may have one of its own
    expect(alert).to_contain_text("The relay does not answer.")
    page.unroute(older)
    page.clock.run_for(4000)
    expect(alert).to_have_count(0)
    page.get_by_role("listbox").focus()
    page.keyboard.press("End")
    expect(page.get_by_text("120 listed")).to_be_visible()


@pytest.mark.own_window
def test_a_change_without_an_answer(page: Page, relay: Relay, administrator: str, output: str) -> None:
    """Its button can be pressed again at last, and nothing is said to be done."""
    page.clock.install()
    sign_in(page, relay, administrator, output)
    resume = page.get_by_role("button", name="Resume shop")
    resume.wait_for()
    held = hold(page, re.compile("/outputs/"))
    resume.click()
    until(page, lambda: held, "the change")
    page.clock.run_for(5 * PATIENCE)
    told(page, f"The relay does not answer. {NOT_KNOWN}")
    expect(resume).not_to_have_attribute("aria-disabled", "true")


@pytest.mark.own_window
def test_an_event_from_here_without_an_answer(page: Page, relay: Relay, administrator: str, sender: Sender) -> None:
    """The page of a bin does not wait for it for good, either."""
    page.clock.install()
    sign_in(page, relay, administrator, f"/ui/bin/{sender.name}")
    held = hold(page, "**/v1/webhooks/**")
    page.get_by_role("button", name="Send one from here").click()
    until(page, lambda: held, "the event")
    page.clock.run_for(PATIENCE)
    told(page, "The relay does not answer. Whether it took the event is not known: look at what arrives.")


@pytest.mark.own_window
def test_a_part_of_the_page_that_never_comes(page: Page, relay: Relay, administrator: str) -> None:
    """It is said to be missing, and comes once it can be loaded."""
    page.clock.install()
    part = re.compile(r"/pages/tokens\.js")
    held = hold(page, part)
    sign_in(page, relay, administrator, "/ui/tokens")
    until(page, lambda: held, "the part")
    page.clock.run_for(PATIENCE)
    expect(page.get_by_role("alert")).to_contain_text("This part of the page could not be loaded.")
    page.unroute(part)
    page.clock.run_for(4000)
    expect(page.get_by_role("heading", level=1)).to_contain_text("Tokens")


def test_a_page_that_does_not_come_whole(page: Page, watch: Watch) -> None:
    """Where a script is missing, the page says after some seconds what to do; nothing of it can run that would."""
    watch.expected.append("status of 502")
    page.route("**/router.js", lambda route: route.fulfill(status=502, body="<h1>Bad gateway</h1>"))
    page.goto("/ui/")
    expect(page.get_by_role("main").get_by_role("heading", level=1)).to_have_text("Relay")
    page.evaluate("() => document.getAnimations().forEach((each) => each.finish())")
    expect(page.get_by_text("A part of the page has not come yet. If this stays, reload it.")).to_be_visible()


def test_a_browser_without_scripts(chromium: Browser, relay: Relay) -> None:
    """It is told that the page needs them, and not to wait or to reload."""
    with watched(chromium, relay.url, java_script_enabled=False) as (page, _):
        page.goto("/ui/")
        expect(page.locator("noscript p")).to_be_visible()
        expect(page.locator("#app")).to_be_hidden()


def test_what_is_not_there_yet_has_a_heading(admitted: Page, sender: Sender) -> None:
    """An event, a bucket and a comparison say what they are before they are loaded."""
    sender.send("/x")
    (event,) = sender.events()
    hold(admitted, "**/v1/**")
    for path, heading in (
        (f"events/{event['id']}", f"Event {event['id']}"),
        (f"buckets/{sender.name}", sender.name),
        (f"compare/{event['id']}/{event['id']}", "Compare"),
    ):
        admitted.goto(f"/ui/{path}")
        expect(admitted.get_by_role("heading", level=1)).to_have_text(heading)


def test_a_dialog_is_about_the_event_that_one_went_to(events: Page, sender: Sender) -> None:
    """While that one still comes the one before is in sight: no dialog is opened with it."""
    sender.send("/old")
    sender.send("/new")
    rows(events).filter(has_text="/old").click()
    article = events.get_by_role("article")
    expect(article.get_by_role("heading", level=2)).to_contain_text("/old")
    expect(article.get_by_role("button", name="Edit and send")).to_be_enabled()
    held = hold(events, f"**/v1/logs/{sender.events()[1]['id']}")
    rows(events).filter(has_text="/new").click()
    until(events, lambda: held, "the question")
    article.get_by_role("button", name="Edit and send").click()
    held[0].continue_()
    expect(events.get_by_role("dialog").get_by_label("Path behind the input")).to_have_value("/new")


def test_sending_again_through_a_proxy_that_misses_the_relay(events: Page, watch: Watch, sender: Sender) -> None:
    """It stops at the first one, of which nothing is known; it does not call it and all others not sent."""
    watch.expected.append("status of 504")
    for index in range(3):
        sender.send(f"/{index}")
    expect(rows(events)).to_have_count(3)
    asked: list[str] = []

    def fulfil(route: Route) -> None:
        asked.append(route.request.url)
        route.fulfill(status=504, body="<h1>Gateway timeout</h1>")

    events.route("**/action", fulfil)
    events.get_by_role("listbox").focus()
    events.keyboard.press("Control+a")
    events.get_by_role("status").get_by_role("button", name="Send again").click()
    dialog = events.get_by_role("dialog")
    dialog.get_by_role("button", name="Send", exact=True).click()
    expect(dialog.get_by_role("alert")).to_contain_text(NOT_KNOWN)
    expect(dialog.get_by_text("0 of 3 done, 0 sent. Stopped.")).to_be_visible()
    assert len(asked) == 1


def test_a_late_answer_closes_nothing_else(events: Page, sender: Sender, output: str) -> None:
    """Whoever closed a dialog before it was answered, and opened another one, goes on there."""
    events.goto(output)
    held = hold(events, re.compile("/outputs/"))
    dialog = events.get_by_role("dialog")
    for press in ("Save", "Delete the output"):
        held.clear()
        if press == "Save":
            events.get_by_role("button", name="Edit shop").click()
            dialog.get_by_label("Description").fill("first")
        else:
            events.get_by_role("button", name="Delete shop").click()
        dialog.get_by_role("button", name=press).click()
        until(events, lambda: held, "the change")
        events.keyboard.press("Escape")
        expect(dialog).to_have_count(0)
        events.get_by_role("button", name="New output").click()
        name = dialog.get_by_label("Name", exact=True)
        name.fill("second")
        held[0].continue_()
        told(events, "shop saved" if press == "Save" else "shop deleted")
        expect(events.get_by_role("heading", name="shop")).to_have_count(1 if press == "Save" else 0)
        expect(name).to_have_value("second")
        expect(name).to_be_focused()
        dialog.get_by_role("button", name="Cancel").click()


def test_what_is_typed_while_a_form_is_saved(events: Page, sender: Sender) -> None:
    """It is not saved by that, and stays."""
    events.goto(f"/ui/buckets/{sender.name}/settings")
    held = hold(events, f"**/v1/buckets/{bucket_id(sender)}", *CHANGES)
    description = events.get_by_label("Description")
    description.fill("of the shop")
    events.get_by_role("button", name="Save").click()
    until(events, lambda: held, "the change")
    description.fill("of the shop and the bank")
    held[0].continue_()
    told(events, "Settings saved")
    expect(description).to_have_value("of the shop and the bank")
    expect(events.get_by_text("Not saved yet.")).to_be_visible()
    assert sender.rest("GET", f"/v1/buckets/{sender.name}")["description"] == "of the shop"
    events.get_by_role("button", name="Save").click()
    until(events, lambda: len(held) == 2, "the second change")
    held[1].continue_()
    expect(events.get_by_text("Not saved yet.")).to_have_count(0)
    expect(description).to_have_value("of the shop and the bank")


def test_a_change_that_fails_once_its_dialog_is_closed(events: Page, watch: Watch, output: str) -> None:
    """It is told, and its draft is there again."""
    watch.expected.append("status of 50[024]")
    held = hold(events, re.compile("/(outputs/|samples$)"), *CHANGES)
    dialog = events.get_by_role("dialog")
    for opens, press, status in (
        ("Send a test event", "Send", 500),
        ("Edit shop", "Save", 502),
        ("Delete shop", "Delete the output", 504),
    ):
        held.clear()
        if opens == "Edit shop":
            events.goto(output)
        events.get_by_role("button", name=opens).click()
        if press == "Save":
            dialog.get_by_label("Description").fill("first")
        dialog.get_by_role("button", name=press, exact=True).click()
        until(events, lambda: held, "the change")
        events.keyboard.press("Escape")
        expect(dialog).to_have_count(0)
        held[0].fulfill(status=status, body="<h1>Bad gateway</h1>")
        told(events, re.compile(f"answered {status}.*{NOT_KNOWN}"))
    events.get_by_role("button", name="Edit shop").click()
    expect(dialog.get_by_label("Description")).to_have_value("first")


def test_a_move_that_could_not_be_looked_at(events: Page, watch: Watch, output: str) -> None:
    """The page does not say that it is impossible, nor that it may have been done; one press looks again."""
    watch.expected.append("status of 502")
    events.goto(output)
    events.get_by_role("button", name="Move shop").click()
    events.route("**/seek", lambda route: route.fulfill(status=502, body="<h1>Bad gateway</h1>"))
    dialog = events.get_by_role("dialog")
    dialog.get_by_label("Only what comes in from now on").check()
    alert = dialog.get_by_role("alert")
    expect(alert).to_contain_text("The relay can't be reached: a proxy answered 502.")
    expect(alert).not_to_contain_text(NOT_KNOWN)
    expect(dialog.get_by_text("What this would do is not known.")).to_be_visible()
    events.unroute("**/seek")
    alert.get_by_role("button", name="Try again").click()
    expect(dialog.get_by_text("repeats nothing, and skips nothing")).to_be_visible()
    expect(alert).to_have_count(0)


def test_who_is_not_done_with_an_event_is_not_known(events: Page, watch: Watch, sender: Sender, output: str) -> None:
    """Before that is loaded the page does not say that no delivery was reported; where it could not be, it says so."""
    watch.expected.append("status of 502")
    sender.send("/x")
    consumers = "**/v1/buckets/*/consumers"
    held = hold(events, consumers)
    article = events.get_by_role("article")
    for path in (f"buckets/{sender.name}?event=", "events/"):
        events.goto("about:blank")  # what the page before asks again is not held
        held.clear()
        events.goto(f"/ui/{path}{sender.events()[0]['id']}")
        until(events, lambda: held, "the question")
        expect(article.get_by_text("Signature")).to_be_visible()
        expect(article.get_by_text("No delivery of it was reported yet.")).to_have_count(0)
        held.pop().fulfill(status=502, body="<h1>Bad gateway</h1>")
        expect(article.get_by_text("Not known. The relay can't be reached")).to_be_visible()
    events.unroute(consumers)
    expect(article.get_by_role("link", name="shop")).to_be_visible()
    expect(article.get_by_text("Not known.")).to_have_count(0)


def test_a_comparison_that_could_not_be_swapped(events: Page, watch: Watch, sender: Sender) -> None:
    """What was compared before is in sight, with the word that the other one could not be loaded."""
    watch.expected.append("status of 502")
    for index in range(2):
        sender.send(f"/{index}")
    older, newer = (event["id"] for event in sender.events())
    events.goto(f"/ui/compare/{older}/{newer}")
    swap = events.get_by_role("link", name="Swap")
    swap.wait_for()
    events.route("**/v1/logs/*", lambda route: route.fulfill(status=502, body="<h1>Bad gateway</h1>"))
    swap.click()
    expect(events.get_by_role("alert")).to_contain_text("The relay can't be reached: a proxy answered 502.")
    events.unroute("**/v1/logs/*")
    expect(events.get_by_role("alert")).to_have_count(0)
    expect(events.locator(".request-line").first).to_contain_text("/1")


def test_what_is_late_is_where_it_belongs(admitted: Page, sender: Sender) -> None:
    """The list that goes on with the newest events has those before in their order, also those that it had no time to
    draw."""
    undrawn(admitted, sender)
    sender.send("/in-time")
    until(admitted, lambda: admitted.evaluate("heard") == 1, "the first event on the stream")
    admitted.evaluate("() => { const now = performance.now; performance.now = () => now.call(performance) + 31_000; }")
    held = hold(admitted, "**/v1/stream?**")
    sender.send("/late")
    until(admitted, lambda: held, "another stream")
    for index in range(150):
        sender.send(f"/after/{index}")
    held.pop().continue_()
    expect(rows(admitted).first).to_contain_text("/after/149")
    admitted.evaluate("drawn()")
    after = [f"/after/{index}" for index in range(149, -1, -1)]
    before = [f"/before/{index}" for index in range(59, -1, -1)]
    assert listed(admitted, 212) == [*after, "/late", "/in-time", *before]
