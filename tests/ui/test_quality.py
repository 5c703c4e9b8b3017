"""Every page: nothing that axe-core objects to in light and dark, no wider than the window, all of it by keyboard."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.acceptance.relay import Relay
from tests.ui import quality
from tests.ui.browser import begin_session, watched
from tests.ui.demo import Demo

if TYPE_CHECKING:
    from tests.ui.browser import Watch

WIDTHS = {320: 640, 390: 844, 768: 1024, 1440: 900, 3840: 2160}
"""Heights by widths: a small phone (or a laptop at 400 %), a phone, a tablet, a laptop, 4K."""
FIRST_LOAD = 200_000
"""Bytes over the wire, heads included, until the page is there."""


def dialog(button: str, page: str) -> tuple[str, Callable[[Page], None]]:
    """A page with the dialog that a button opens."""
    return page, lambda shown: shown.get_by_role("button", name=button).first.click()


PAGES: dict[str, str] = {
    "buckets": "",
    "overview": "overview",
    "clients": "clients",
    "tokens": "tokens",
    "try-it": "bin",
    "bin": "bin/{bin}",
    **{tab: f"buckets/orders/{tab}" for tab in ("events", "connect", "inputs", "outputs", "consumers", "settings")},
    "event-beside-the-list": "buckets/github/events?event={left}",
    "event": "events/{left}",
    "event-that-waits": "events/{waits}",
    "compare": "compare/{left}/{right}",
    "nothing": "nowhere",
    "no-bucket": "buckets/nowhere",
    "no-event": "events/abcdefghijkl-9",
    "no-event-beside-the-list": "buckets/github/events?event=abcdefghijkl-9",
    "no-comparing": "compare/{left}/abcdefghijkl-9",
}
DIALOGS: dict[str, tuple[str, Callable[[Page], None]]] = {
    "new-bucket": dialog("New bucket", ""),
    "new-token": dialog("New token", "tokens"),
    "seek": dialog("Move billing", "clients"),
    "dead-letters": dialog("Dead letters of mailer", "clients"),
    "delete-consumer": dialog("Delete mailer", "clients"),
    "lag": dialog("Lag of billing over time", "clients"),
    "values": dialog("Events per second: show as table", "overview"),
    "send-a-test-event": dialog("Send a test event", "buckets/github/events"),
    "new-event": dialog("New event", "buckets/github/events"),
    "send-a-range-again": dialog("Send a range again", "buckets/github/events"),
    "send-again": dialog("Send again", "events/{left}"),
    "edit-and-send": dialog("Edit and send", "events/{left}"),
}
PLACES = {name: (path, None) for name, path in PAGES.items()} | DIALOGS


@dataclass(frozen=True)
class World:
    """A relay with something in it, and what the paths of pages name."""

    demo: Demo
    names: dict[str, str]


@pytest.fixture(scope="module")
def world(relay: Relay) -> Iterator[World]:
    with Demo(relay) as demo:
        demo.send(12)
        demo.readers()
        left, right = (each["id"] for each in demo.rest("GET", "/v1/logs?bucket=github&limit=2")["data"])
        (waits,) = (each["id"] for each in demo.rest("GET", "/v1/logs?bucket=orders&limit=1")["data"])
        made = demo.rest("POST", "/v1/bins")
        yield World(demo, {"left": left, "right": right, "waits": waits, "bin": made["bucket"]["name"]})


@pytest.fixture(scope="module")
def axe() -> str:
    """axe-core's source."""
    return quality.needs_axe()


@pytest.fixture
def opened(page: Page, watch: Watch, relay: Relay, world: World) -> tuple[Page, Watch]:
    """A page that an administrator is signed in to, at nothing yet."""
    page.emulate_media(color_scheme="light")
    quality.prepare(page)
    begin_session(page, relay, world.demo.administrator[1])
    return page, watch


def go(page: Page, world: World, place: str) -> None:
    """Opens one of PLACES."""
    path, act = PLACES[place]
    page.goto("/ui/" + path.format(**world.names))
    quality.settled(page)
    if act:
        act(page)
        quality.settled(page)


@pytest.mark.parametrize("place", PLACES)
def test_a_page(axe: str, opened: tuple[Page, Watch], world: World, place: str) -> None:
    """axe-core finds nothing in light and dark; nothing is wider than the window; Tab reaches whatever can be used, and
    one sees where it is; nothing is too small to press on a phone; Escape closes a dialog and gives the focus back; the
    console stays empty."""
    page, watch = opened
    if place.startswith("no-"):
        watch.expected.append("status of 40[04]")
    page.set_viewport_size({"width": 1440, "height": 900})
    go(page, world, place)
    found = [f"light: {each}" for each in quality.violations(page, axe)]
    page.emulate_media(color_scheme="dark")
    found += [f"dark: {each}" for each in quality.violations(page, axe, only_colours=True)]
    found += quality.out_of_reach(page)
    for width, height in WIDTHS.items():
        page.set_viewport_size({"width": width, "height": height})
        found += [f"{width} px: {each}" for each in quality.sideways(page)]
    page.set_viewport_size({"width": 390, "height": 844})
    found += [f"390 px: {each}" for each in quality.violations(page, axe) + quality.small(page)]
    if page.locator("dialog[open]").count():
        page.keyboard.press("Escape")
        expect(page.locator("dialog[open]")).to_have_count(0)
        if page.evaluate("() => document.activeElement === document.body"):
            found.append("the focus is lost when the dialog is closed")
    assert not found, "\n".join(dict.fromkeys(found))


LOADED: dict[str, Callable[[Page], Locator]] = {
    "buckets": lambda page: page.get_by_role("link", name="orders"),
    "overview": lambda page: page.get_by_role("heading", name="Commit latency"),
    "clients": lambda page: page.get_by_role("button", name="Move billing"),
    "tokens": lambda page: page.get_by_role("button", name="Revoke order worker"),
    "events": lambda page: page.get_by_role("option").first,
    "outputs": lambda page: page.get_by_role("button", name="Move warehouse"),
    "consumers": lambda page: page.get_by_role("button", name="Move billing"),
    "new-bucket": lambda page: page.get_by_role("dialog").get_by_label("Name", exact=True),
    "dead-letters": lambda page: page.get_by_role("region", name="Dead letters"),
    "send-a-test-event": lambda page: page.get_by_role("dialog").locator("option", has_text="push"),
}
_SLOW = {"offline": False, "latency": 200, "downloadThroughput": -1, "uploadThroughput": -1}


@pytest.mark.parametrize("place", LOADED)
def test_what_is_looked_at_is_loaded(opened: tuple[Page, Watch], world: World, place: str) -> None:
    """The checks of this file begin once the answers of the relay are there, however late these come."""
    page, _ = opened
    client = page.context.new_cdp_session(page)
    client.send("Network.enable")
    client.send("Network.emulateNetworkConditions", _SLOW)
    go(page, world, place)
    assert LOADED[place](page).count() > 0


_NEVER_LATE = """() => {
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(".late { animation-duration: 60s; }");
  document.adoptedStyleSheets.push(sheet);
}"""
"""What shows only once loading has taken some time does not show."""


def test_an_error_is_a_page_too(axe: str, opened: tuple[Page, Watch], world: World) -> None:
    """The same of each page that gets no answer but a refusal, as soon as that is told."""
    page, watch = opened
    page.add_init_script(f"({_NEVER_LATE})()")
    watch.expected.append("status of 503")
    page.set_viewport_size({"width": 390, "height": 844})
    refusal = {"code": "overloaded", "message": "the relay has too much to do, try again in a moment"}
    page.route(re.compile("/v1/"), lambda route: route.fulfill(status=503, json=refusal))
    found = []
    for name in ("buckets", "overview", "clients", "tokens", "bin", "settings", "event", "compare"):
        path = PAGES[name].format(**world.names)
        page.goto("/ui/" + path)
        expect(page.get_by_role("alert").first).to_have_text(re.compile("too much to do"))
        found += [f"{path}: {each}" for each in quality.violations(page, axe) + quality.sideways(page)]
    assert not found, "\n".join(found)


def test_signing_in_is_a_page_too(axe: str, chromium: Browser, relay: Relay) -> None:
    """The same of the page of whoever is not signed in."""
    with watched(chromium, relay.url, color_scheme="dark", viewport={"width": 390, "height": 844}) as (page, _):
        quality.prepare(page)
        page.goto("/ui/")
        expect(page.get_by_role("heading", name="Sign in to this relay")).to_be_visible()
        found = quality.violations(page, axe) + quality.sideways(page) + quality.out_of_reach(page)
        assert not found, "\n".join(found)


@pytest.mark.parametrize("place", ["tokens", "clients", "consumers", "dead-letters"])
def test_what_can_be_done_with_a_row_is_in_sight(opened: tuple[Page, Watch], world: World, place: str) -> None:
    """On a phone, without scrolling a table sideways."""
    page, _ = opened
    page.set_viewport_size({"width": 390, "height": 2000})
    go(page, world, place)
    buttons = page.locator("dialog[open], main").last.locator("td:last-child button")
    expect(buttons.nth(3)).to_be_attached()
    for button in buttons.all():
        expect(button).to_be_in_viewport(ratio=1)


def test_why_a_letter_is_dead_on_a_phone(opened: tuple[Page, Watch], world: World) -> None:
    """Stands in sight, below its event, as the columns for it have no room."""
    page, _ = opened
    page.set_viewport_size({"width": 390, "height": 2000})
    go(page, world, "dead-letters")
    letters = page.get_by_role("region", name="Dead letters")
    expect(letters.get_by_text("max_deliver, tries: 1").first).to_be_in_viewport(ratio=1)
    expect(letters.get_by_role("columnheader")).to_have_count(3)
    assert letters.evaluate("(table) => table.scrollWidth <= table.clientWidth")


_COLOURS = """async ([png, shown]) => {
  const bitmap = await createImageBitmap(new Blob([Uint8Array.from(atob(png), (each) => each.charCodeAt(0))]));
  const context = new OffscreenCanvas(bitmap.width, bitmap.height).getContext("2d");
  context.drawImage(bitmap, 0, 0);
  const [red, green, blue] = context.getImageData(bitmap.width / 2, 0, 1, 1).data;
  return [`rgb(${red}, ${green}, ${blue})`, getComputedStyle(document.querySelector(shown)).borderTopColor];
}"""


def test_what_is_told_stands_above_a_dialog(opened: tuple[Page, Watch], world: World) -> None:
    """And not behind it, or behind what dims the page; a question that is refused says so itself."""
    page, watch = opened
    watch.expected.append("status of 503")
    page.set_viewport_size({"width": 390, "height": 844})
    go(page, world, "dead-letters")
    refusal = {"code": "overloaded", "message": "the relay has too much to do"}
    page.route(re.compile("/dead"), lambda route: route.fulfill(status=503, json=refusal))
    page.get_by_role("button", name="Send all again").click()
    toast = page.locator(".toast")
    expect(toast).to_have_text("the relay has too much to do")
    seen, own = page.evaluate(_COLOURS, [base64.b64encode(toast.screenshot()).decode(), ".toast"])
    assert seen == own
    page.get_by_role("button", name="Forget all").click()
    question = page.locator("dialog[open]").last
    question.get_by_role("button", name="Forget").click()
    expect(question.get_by_role("alert")).to_have_text("the relay has too much to do")


def test_the_rail_can_be_skipped(opened: tuple[Page, Watch], world: World) -> None:
    """The first stop of Tab leads behind the rail, at the place where one is."""
    page, _ = opened
    go(page, world, "events")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("main")).to_be_focused()
    page.keyboard.press("Tab")
    assert page.evaluate("() => document.activeElement.closest('main') !== null")
    page.get_by_role("link", name="Connect").click()
    expect(page).to_have_url(re.compile("/ui/buckets/orders/connect$"))


@pytest.mark.parametrize("path", ["", "overview", "buckets/orders/events"])
def test_the_first_load_is_small(chromium: Browser, relay: Relay, world: World, path: str) -> None:
    """What a browser gets for a page the first time is compressed, and under 200 KB with all its heads."""
    with watched(chromium, relay.url) as (page, _):
        page.request.post("/ui/session", data={"secret": world.demo.administrator[1]}, headers={"Origin": relay.url})
        page.goto(f"/ui/{path}")
        quality.settled(page)
        page.wait_for_timeout(1000)  # what is loaded a little later counts, too
        sizes: dict[str, int] = page.evaluate(
            "() => Object.fromEntries(performance.getEntries().map((each) => [each.name, each.transferSize ?? 0]))"
        )
        assert 10_000 < sum(sizes.values()) < FIRST_LOAD, sizes


def test_memory_is_flat(opened: tuple[Page, Watch], world: World) -> None:
    """While events come in, the page lets go of every row that has left: after 600 it holds no more than after 200."""
    page, _ = opened
    page.goto("/ui/buckets/payments/events")
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    client = page.context.new_cdp_session(page)
    client.send("Performance.enable")
    newest = page.get_by_role("option").first
    listed = int(newest.get_attribute("aria-setsize") or 0)

    def nodes_after(count: int) -> float:
        nonlocal listed
        listed += count
        for number in range(count):
            world.demo.payment(number)
            if number % 5 == 0:
                page.evaluate("() => new Promise((resolve) => requestAnimationFrame(resolve))")
        expect(newest).to_have_attribute("aria-setsize", str(listed))
        client.send("HeapProfiler.collectGarbage")
        metrics = client.send("Performance.getMetrics")["metrics"]
        return float(next(each["value"] for each in metrics if each["name"] == "Nodes"))

    before = nodes_after(200)
    assert nodes_after(400) < before + 500


_MARKED = """(selectors) => {
  const probe = document.body.appendChild(document.createElement("i"));
  Object.assign(probe.style, { forcedColorAdjust: "none", backgroundColor: "Highlight" });
  const wanted = getComputedStyle(probe).backgroundColor;
  probe.remove();
  const found = selectors.map((each) => [...document.querySelectorAll(each)]);
  return found.map((all) => all.filter((each) => getComputedStyle(each).backgroundColor === wanted).length);
}"""


def test_forced_colours(opened: tuple[Page, Watch], world: World) -> None:
    """In the few colours that somebody has chosen for all pages one sees as well where one is, and what is chosen."""
    page, _ = opened
    page.emulate_media(forced_colors="active")
    go(page, world, "event-beside-the-list")
    expect(page.locator(".body button").first).to_be_visible()
    page.locator(".list-row .tick").last.click()
    expect(page.locator(".list-row[aria-selected=true]")).to_have_count(1)
    assert page.evaluate(_MARKED, [".tabs a", ".rail nav a", ".body button", ".tick"]) == [1, 1, 1, 1]
    go(page, world, "overview")
    expect(page.locator(".mark").first).to_have_css("background-color", "rgb(36, 80, 184)")
    assert page.evaluate(_MARKED, [".choices button"]) == [1]
