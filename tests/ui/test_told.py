"""What the page tells, and what it says of a relay that is slow or away. A real relay and Chromium."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.acceptance.relay import Relay
from tests.ui.browser import Watch, hold, sign_in, told, until, watched
from tests.ui.sending import Sender, live, rows

NO_CLIPBOARD = "Object.defineProperty(navigator, 'clipboard', { value: undefined });"
"""What a page that did not come over HTTPS has."""


def read_aloud(page: Page) -> str:
    """What Chromium gives to screen readers, as one text."""
    client = page.context.new_cdp_session(page)
    nodes: list[Any] = client.send("Accessibility.getFullAXTree")["nodes"]
    client.detach()
    return "\n".join(str(each["name"].get("value", "")) for each in nodes if not each["ignored"] and "name" in each)


def test_what_is_told_is_read_aloud(events: Page, watch: Watch, sender: Sender) -> None:
    """Also while a dialog is open, or one over another, and once it is closed."""
    watch.expected.append("status of 503")
    sender.send("/x")
    rows(events).first.click()
    events.get_by_role("button", name="Edit and send").click()
    dialog = events.get_by_role("dialog")
    dialog.get_by_label("Body", exact=True).fill("x")
    dialog.get_by_role("button", name="Edit as base64").click()
    dialog.get_by_label("Body, in base64").fill("gICA")
    dialog.get_by_role("button", name="Edit as text").click()
    until(events, lambda: "This body is no text." in read_aloud(events), "the refusal")
    dialog.get_by_role("button", name="Send", exact=True).click()
    until(events, lambda: not dialog.count() and "Sent as" in read_aloud(events), "the answer")


def test_events_are_not_read_aloud(events: Page, sender: Sender) -> None:
    """Whether it is live is announced; how many are listed, at each event that comes, is not."""
    said = events.get_by_role("status").all_inner_texts()
    sender.send("/x")
    expect(rows(events)).to_have_count(1)
    expect(events.get_by_text("1 listed")).to_be_visible()
    assert events.get_by_role("status").all_inner_texts() == said


def test_copying_without_a_clipboard(page: Page, relay: Relay, administrator: str) -> None:
    """Where pages have none, as over plain HTTP, it is copied all the same, also out of a dialog: a secret is shown
    once. What can't be copied is said to be so."""
    page.add_init_script(NO_CLIPBOARD)
    relay.create_bucket("copied")
    sign_in(page, relay, administrator, "/ui/tokens?bucket=copied")
    page.get_by_role("button", name="Make the token").click()
    dialog = page.get_by_role("dialog", name="The secret, this once")
    button = dialog.get_by_role("button", name="Copy secret")
    button.click()
    told(page, "secret copied")
    expect(button).to_be_focused()
    secret = dialog.locator("code").first.inner_text()
    dialog.get_by_role("button", name="I have it").click()
    page.goto("/ui/")
    page.get_by_role("button", name="New bucket").click()
    page.get_by_label("Name", exact=True).focus()
    page.keyboard.press("Control+v")
    expect(page.get_by_label("Name", exact=True)).to_have_value(secret)
    page.get_by_role("button", name="Cancel").click()
    page.evaluate("() => { document.execCommand = () => false; }")
    page.get_by_role("link", name="copied").click()
    page.get_by_role("link", name="Connect").click()
    page.get_by_role("button", name="Copy URL", exact=True).click()
    told(page, re.compile("copied nothing"))


SLOW = {
    "buckets": ("", ""),
    "new bucket": ("", "New bucket"),
    "overview": ("overview", ""),
    "another span": ("overview", "Day"),
    "clients": ("clients", ""),
    "tokens": ("tokens", ""),
    "try it": ("bin", ""),
    "events": ("buckets/{bucket}/events", ""),
    "consumers": ("buckets/{bucket}/consumers", ""),
    "lag": ("buckets/{bucket}/consumers", "Lag of shop over time"),
    "dead letters": ("buckets/{bucket}/consumers", "Dead letters of shop: 1"),
    "sample": ("buckets/{bucket}/events", "Send a test event"),
    "event": ("events/{event}", ""),
    "compare": ("compare/{event}/{event}", ""),
}
"""Paths of pages, and the name of the button that is pressed there, "" for none."""


@pytest.mark.parametrize("what", SLOW)
def test_a_slow_relay(admitted: Page, sender: Sender, what: str) -> None:
    """Until what was asked for is there, the page says that it loads, everywhere in the same words."""
    path, button = SLOW[what]
    sender.send("/x")
    (event,) = sender.events()
    consumer = {"kind": "client", "name": "shop", "bucket_name": sender.name, "bucket_id": event["bucket_id"],
                "ack": "explicit", "floor": event["id"], "head": event["id"], "pending": 0, "out": 0, "parked": 0,
                "dead": 1, "connections": 0, "ack_wait": 30, "max_deliver": 5, "lag": {"events": 0, "seconds": 0},
                "gaps": None, "created_at": 1, "updated_at": 1}  # fmt: skip
    admitted.route("**/v1/buckets/*/consumers", lambda route: route.fulfill(json=[consumer]))
    loading = admitted.get_by_text("Loading…")
    slow = re.compile(r"/v1/(?!stream)")
    if button:
        admitted.goto("/ui/" + path.format(bucket=sender.name, event=event["id"]))
        expect(loading).to_have_count(0)
        admitted.get_by_role("button", name=button, exact=True).wait_for()
        held = hold(admitted, slow)
        admitted.get_by_role("button", name=button, exact=True).click()
    else:
        held = hold(admitted, slow)
        admitted.goto("/ui/" + path.format(bucket=sender.name, event=event["id"]))
    until(admitted, lambda: held, "the page to ask")
    expect(loading.first).to_be_visible()


def test_a_bucket_whose_numbers_are_old(events: Page, watch: Watch) -> None:
    """It says so as soon as they could not be loaded, and no longer once they are."""
    watch.expected.append("status of 503")
    old = events.get_by_text("not up to date")
    events.get_by_text("Subscribers").wait_for()
    events.route("**/v1/status", lambda route: route.fulfill(status=503, json={"message": "Too much at once."}))
    expect(old).to_be_visible()
    events.unroute("**/v1/status")
    expect(old).to_have_count(0)


def test_an_event_while_a_proxy_misses_the_relay(events: Page, watch: Watch, sender: Sender) -> None:
    """The page says that the relay can't be reached, and has the event once it can; nobody has to press anything."""
    watch.expected.append("status of 502")
    sender.send("/x")
    events.route("**/v1/logs/*", lambda route: route.fulfill(status=502, body="<h1>Bad gateway</h1>"))
    rows(events).first.click()
    expect(events.get_by_text("The relay can't be reached: a proxy answered 502.")).to_be_visible()
    events.unroute("**/v1/logs/*")
    expect(events.get_by_role("article")).to_contain_text("Received")


def test_what_could_not_be_asked_is_asked_again(events: Page, watch: Watch, sender: Sender) -> None:
    """An event, or those of a time that is over, asked for while the relay was away, are there once it is back; nobody
    has to press anything."""
    watch.expected.append("ERR_CONNECTION_REFUSED")
    sender.send("/0")
    (event,) = sender.events()
    events.route("**/v1/logs/*", lambda route: route.abort("connectionrefused"))
    events.goto(f"/ui/events/{event['id']}")
    expect(events.get_by_role("alert")).to_contain_text("The relay can't be reached. The page goes on by itself")
    events.unroute("**/v1/logs/*")
    expect(events.get_by_role("heading", level=1)).to_contain_text("/0")
    expect(events.get_by_role("button", name="Send again")).to_be_enabled()
    events.route("**/v1/search?**", lambda route: route.abort("connectionrefused"))
    events.goto(f"/ui/buckets/{sender.name}?to={int(event['received_at']) + 1}")
    expect(events.get_by_role("alert")).to_contain_text("The relay can't be reached. The page goes on by itself")
    events.unroute("**/v1/search?**")
    expect(rows(events)).to_have_count(1)
    expect(events.get_by_role("alert")).to_have_count(0)


def test_a_part_that_failed_comes_with_the_stream(page: Page, watch: Watch, tmp_path: Path) -> None:
    """Older events that could not be loaded while the relay was away: the list says so no longer once it is live."""
    watch.expected += ["ERR_CONNECTION", "ERR_INCOMPLETE", "ERR_EMPTY_RESPONSE", "Failed to load resource", "asked for"]
    with Relay(tmp_path / "data") as own:
        _, secret = own.create_token()
        ours = Sender(own, secret, "away")
        for index in range(150):
            ours.send(f"/{index}")
        assert page.request.post(f"{own.url}/ui/session", data={"secret": secret}, headers={"Origin": own.url}).ok
        page.goto(f"{own.url}/ui/buckets/away")
        live(page)
        expect(rows(page).first).to_contain_text("/149")
        own.kill()
        page.get_by_role("listbox").focus()
        page.keyboard.press("End")
        expect(page.get_by_role("alert").first).to_contain_text("can't be reached")
        own.start()
        live(page)
        expect(page.get_by_role("alert")).to_have_count(0)
        ours.close()
        page.goto("about:blank")


def test_what_may_have_been_done(events: Page, watch: Watch, sender: Sender) -> None:
    """Of a change that got no answer the page does not say that it goes on by itself."""
    watch.expected.append("ERR_CONNECTION_RESET")
    sender.rest("POST", f"/v1/buckets/{sender.name}/outputs", {"name": "shop", "internal": False,
                "destination": "https://shop.example.org/", "paused": True})  # fmt: skip
    events.goto(f"/ui/buckets/{sender.name}/outputs")
    events.route(re.compile("/outputs/"), lambda route: route.abort("connectionreset"))
    events.get_by_role("button", name="Resume shop").click()
    told(events, "The relay can't be reached. Whether it did what was asked is not known: look before you do it again.")


@pytest.mark.own_window
def test_an_event_by_a_slow_relay(page: Page, relay: Relay, administrator: str, sender: Sender) -> None:
    """What became of it is there at last, though each answer takes longer than the page waits between two looks."""
    sender.send("/x")
    (event,) = sender.events()
    page.clock.install()
    sign_in(page, relay, administrator, f"/ui/events/{event['id']}")
    expect(page.get_by_text("No delivery of it was reported yet")).to_be_visible()
    expect(page.get_by_role("button", name="Send again")).to_be_enabled()
    held = hold(page, "**/v1/logs/*")
    sender.rest("PUT", f"/v1/logs/{event['id']}", {"status_code": 200, "status": "sent"})
    for _ in range(4):
        page.clock.run_for(4000)
        page.evaluate("() => 0")
    until(page, lambda: held, "the question")
    assert len(held) == 1
    held[0].continue_()
    expect(page.locator(".delivery")).to_contain_text("sent 200")


def test_an_output_that_is_disabled_and_paused(events: Page, sender: Sender) -> None:
    """It is shown as both. Whoever takes one away is told of the other, also where somebody else disabled it since."""
    path = f"/v1/buckets/{sender.name}/outputs"
    output = {"name": "shop", "internal": False, "destination": "https://shop.example.org/", "paused": True}
    made = sender.rest("POST", path, output)
    events.goto(f"/ui/buckets/{sender.name}/outputs")
    resume = events.get_by_role("button", name="Resume shop")
    expect(resume).to_be_visible()
    sender.rest("PUT", f"{path}/{made['id']}", {"disabled": True})
    resume.click()
    told(events, re.compile("shop resumed, but it is disabled"))
    expect(events.get_by_role("button", name="Enable shop")).to_be_visible()
    sender.rest("PUT", f"{path}/{made['id']}", {"paused": True})
    events.reload()
    card = events.get_by_role("listitem").filter(has_text="shop").last
    expect(card.locator(".badge")).to_have_text(["public", "disabled", "paused"])
    events.get_by_role("button", name="Enable shop").click()
    told(events, re.compile("shop enabled, but it is paused"))
    expect(resume).to_be_visible()


def test_times_say_their_zone(chromium: Browser, relay: Relay, administrator: str, sender: Sender) -> None:
    """Those of the browser: whoever compares them with another log knows by which."""
    sender.send("/x")
    (event,) = sender.events()
    with watched(chromium, relay.url, timezone_id="Asia/Kolkata") as (page, watch):
        watch.expected.append("status of 400")
        sign_in(page, relay, administrator, f"/ui/events/{event['id']}")
        expect(page.get_by_text(re.compile(r"UTC\+5:30"))).to_be_visible()
        expect(page.locator(".facts time").last).to_have_attribute("title", re.compile(r" UTC\+5:30$"))
        page.goto(f"/ui/compare/{event['id']}/{event['id']}")
        expect(page.get_by_text(re.compile(r"UTC\+5:30"))).to_have_count(2)
        page.goto(f"/ui/buckets/{sender.name}?from=0&to=99999999999999")
        expect(page.get_by_text("listed, times in UTC+5:30")).to_be_visible()
        expect(page.get_by_label("Before", exact=True)).to_have_accessible_description("UTC+5:30")
        page.goto(f"/ui/buckets/{sender.name}")
        expect(rows(page).locator("time")).to_have_attribute("title", re.compile(r"^\d{4}-.* UTC\+5:30$"))
        page.goto(f"/ui/buckets/{sender.name}/settings")
        page.get_by_label("Expires").select_option("in a day")
        expect(page.get_by_label("Expires", exact=True).locator("option:checked")).to_have_text("at a time (UTC+5:30):")


def test_yesterdays_events_say_so(chromium: Browser, relay: Relay, administrator: str, sender: Sender) -> None:
    """In a list that stays open over midnight, too."""
    sender.send("/x")
    noon = f"Etc/GMT{time.gmtime().tm_hour - 12:+d}"  # where it is about that now
    with watched(chromium, relay.url, timezone_id=noon) as (page, _):
        page.clock.install()
        sign_in(page, relay, administrator, f"/ui/buckets/{sender.name}")
        when = rows(page).first.locator(".when")
        expect(when).to_have_text(re.compile(r"^\d\d:\d\d:\d\d$"))
        page.clock.fast_forward("24:00:00")
        expect(when).to_have_text(re.compile(r"^\d\d-\d\d \d\d:\d\d$"))


def test_on_paper(events: Page, sender: Sender) -> None:
    """All of a long body is there, in dark on light whatever the page is in, and nothing to press. A list is what one
    sees of it."""
    body = "".join(f"line {index}\n" for index in range(500))
    sender.send("/x", body.encode(), Content_Type="text/plain")
    rows(events).first.click()
    code = events.get_by_label("Body, raw")
    expect(code).to_be_visible()
    events.evaluate("() => { document.documentElement.dataset.theme = 'dark'; }")
    events.emulate_media(media="print")
    assert code.evaluate("(code) => code.clientHeight >= code.scrollHeight - 1")
    assert events.locator(".event-pane").evaluate("(pane) => pane.clientHeight >= pane.scrollHeight - 1")
    assert events.evaluate("() => getComputedStyle(document.body).color") == "rgb(26, 31, 41)"
    for hidden in (events.locator(".rail"), events.get_by_role("button", name="Send again").first):
        expect(hidden).to_be_hidden()
    events.keyboard.press("Escape")
    expect(events.get_by_role("article")).to_have_count(0)
    assert events.locator(".list").evaluate("(list) => list.clientHeight < innerHeight")


def test_escaped_text_is_readable(events: Page, sender: Sender) -> None:
    """In a tree, as it is in names: many senders write everything beyond ASCII as escapes. Raw has them."""
    body = rb'{"\u00fc": "Zo\u00eb \ud83c\udf89 https:\/\/x \\u0041 \n \ud83c", "n": 1.10}'
    sender.send("/x", body, Content_Type="application/json")
    rows(events).first.click()
    tree = events.locator(".json-tree")
    expect(tree.locator(".json-name").first).to_have_text("ü")
    expect(tree.locator(".json-string")).to_have_text('"Zoë 🎉 https://x \\\\u0041 \\n \\ud83c"')
    expect(tree.locator(".json-number")).to_have_text("1.10")
    events.get_by_role("button", name="Raw").click()
    expect(events.get_by_label("Body, raw")).to_contain_text(r"Zo\u00eb \ud83c\udf89 https:\/\/x")


def test_a_button_says_what_it_does(events: Page, sender: Sender) -> None:
    """Whose words change as it is pressed says nothing beside them: "Resume, pressed" would be the opposite."""
    for number in range(2):
        sender.send(f"/{number}")
    older, newer = sender.events()
    events.get_by_role("button", name="Pause").click()
    assert events.get_by_role("button", name="Resume").get_attribute("aria-pressed") is None
    events.goto(f"/ui/compare/{older['id']}/{newer['id']}")
    events.get_by_role("button", name=re.compile("Also what is the same")).first.click()
    assert events.get_by_role("button", name="Only what differs").get_attribute("aria-pressed") is None
