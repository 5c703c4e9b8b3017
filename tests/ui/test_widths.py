"""Names and values as long as they may be, in windows as small as they come: nothing else is pushed out of sight."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect
from websockets.sync.client import connect

from tests.acceptance.relay import TIMEOUT, Relay
from tests.ui import quality
from tests.ui.browser import begin_session
from tests.ui.sending import Sender, rows

LONG = "a rather long name that goes on " + 60 * "n"
TWICE = "() => { document.documentElement.style.fontSize = '200%'; dispatchEvent(new Event('resize')); }"
HEADER = "X-" + 60 * "Name"


@pytest.fixture(scope="module")
def long(relay: Relay, administrator: str) -> Iterator[Sender]:
    """A bucket in which all that can have a name has a long one."""
    sender = Sender(relay, administrator, 100 * "b")
    bucket = sender.rest("GET", f"/v1/buckets/{sender.name}")
    sender.rest("PUT", f"/v1/buckets/{sender.name}/inputs/{bucket['inputs'][0]['id']}", {"name": LONG})
    sender.rest("POST", f"/v1/buckets/{sender.name}/inputs", {"name": f"second, {LONG}"})
    output: dict[str, Any] = {"name": LONG, "internal": False, "destination": "https://example.org/x", "paused": True}
    sender.rest("POST", f"/v1/buckets/{sender.name}/outputs", output)
    sender.send("/x", b"{}", **{HEADER: "its value"})
    yield sender
    sender.close()


@pytest.fixture
def wide(page: Page, relay: Relay, administrator: str) -> Page:
    page.set_viewport_size({"width": 1440, "height": 900})
    quality.prepare(page)
    begin_session(page, relay, administrator)
    return page


def test_a_phone(wide: Page, long: Sender) -> None:
    """Down to 320 px, no tab of such a bucket scrolls sideways."""
    found = []
    for width in (375, 320):
        wide.set_viewport_size({"width": width, "height": 700})
        for tab in ("events", "connect", "inputs", "outputs", "consumers", "settings"):
            wide.goto(f"/ui/buckets/{long.name}/{tab}")
            quality.settled(wide)
            expect(wide.get_by_text("Furthest behind")).to_be_visible()
            found += [f"{tab} at {width} px: {each}" for each in quality.sideways(wide)]
    assert not found, "\n".join(found)


def test_a_wide_window(wide: Page, long: Sender) -> None:
    """How the bucket stands is one line, with the beginning of a long name."""
    wide.goto(f"/ui/buckets/{long.name}")
    behind = wide.get_by_text("Furthest behind")
    expect(behind).to_be_visible()
    tops = wide.locator(".standing dt").evaluate_all("(all) => all.map((each) => each.offsetTop)")
    assert len(set(tops)) == 1


def test_what_is_not_saved(wide: Page, long: Sender) -> None:
    """A tab says so to screen readers, too, also one that is scrolled out of sight."""
    wide.set_viewport_size({"width": 360, "height": 700})
    wide.goto(f"/ui/buckets/{long.name}/settings")
    wide.get_by_label("Description").fill("x")
    expect(wide.get_by_role("link", name="(not saved)")).to_have_count(1)
    wide.get_by_label("Name", exact=True).focus()
    assert quality.sideways(wide) == []


@pytest.mark.parametrize(("path", "field"), [("", "Find a bucket"), ("tokens", "Find a token")])
def test_what_is_looked_for_in_vain(wide: Page, long: Sender, path: str, field: str) -> None:
    """It is said again, however long it is."""
    for number in range(9):
        long.rest("POST", "/v1/buckets", {"name": f"{path or 'buckets'} {number}"})
        long.rest("POST", "/v1/tokens", {"description": f"{path} {number}", "scopes": {"buckets": []}})
    wide.goto(f"/ui/{path}")
    wide.get_by_label(field).fill(500 * "x")
    expect(wide.get_by_role("main")).to_contain_text(500 * "x")
    assert quality.sideways(wide) == []


def test_a_dialogs_title(wide: Page, long: Sender) -> None:
    """It leaves the button that closes the dialog its width."""
    wide.set_viewport_size({"width": 360, "height": 700})
    wide.goto(f"/ui/buckets/{long.name}/outputs")
    wide.get_by_role("button", name=f"Edit {LONG}").click()
    expect(wide.get_by_role("dialog", name=f"Output {LONG}")).to_be_visible()
    assert quality.small(wide) == []


@pytest.mark.parametrize("path", ["clients", "buckets/{name}/consumers"])
def test_a_consumer(wide: Page, long: Sender, path: str) -> None:
    """How far it is behind stands beside its name, without scrolling."""
    wide.goto("/ui/" + path.format(name=long.name))
    quality.settled(wide)
    behind = wide.get_by_role("region", name="Consumers").get_by_role("columnheader", name="Behind")
    expect(behind).to_be_visible()
    last = wide.get_by_role("columnheader", name="Actions").bounding_box()
    box = behind.bounding_box()
    assert box
    assert last
    assert box["x"] + box["width"] <= last["x"]


@pytest.fixture(scope="module")
def readers(long: Sender) -> Iterator[None]:
    """A client that is connected, by a token and with a consumer of long names."""
    key, secret = long.relay.create_token("--bucket", long.name, "--description", LONG, "--durable")
    with connect(long.relay.ws_url, open_timeout=TIMEOUT, close_timeout=1, ping_interval=None) as socket:
        subscribe = {"action": "subscribe", "consumer": 100 * "c", "ack": "explicit", "since": "earliest"}
        for message in ({"action": "auth", "key": key, "secret": secret}, subscribe):
            socket.send(json.dumps(message))
            socket.recv(TIMEOUT)
        yield


def much(route: Route) -> None:
    """Consumers with much to do, as the relay has them else."""
    counts = {"pending": 4000, "out": 2000, "parked": 2000, "dead": 1000, "connections": 10}
    lag = {"events": 1_000_000, "seconds": 40.0}
    route.fulfill(json=[{**each, **counts, "lag": lag} for each in route.fetch().json()])


_TABLES = """(all) => all.map((table) => ({
  wide: table.parentElement.scrollWidth > table.parentElement.clientWidth,
  names: [...table.querySelectorAll("th")].map((each) => each.textContent),
  rows: [...table.tBodies[0].rows].map((row) => [...row.cells].map((cell) => cell.dataset.label ?? "")),
  said: getComputedStyle(table.querySelector("td:nth-child(2)"), "::before").content,
}))"""


@pytest.mark.usefixtures("readers")
@pytest.mark.parametrize("path", ["tokens", "clients", "buckets/{name}/consumers"])
def test_tables(wide: Page, long: Sender, path: str) -> None:
    """Those of tokens, clients and consumers go sideways in no window: in a narrow one a row is a block, and each of
    its cells has its column's name."""
    wide.route(re.compile("/v1/.*/consumers$"), much)
    wide.goto("/ui/" + path.format(name=long.name))
    quality.settled(wide)
    expect(wide.locator("table").first).to_be_visible()
    found = []
    for width in (1600, 1440, 1280, 1024, 768, 390, 320):
        wide.set_viewport_size({"width": width, "height": 900})
        tables = wide.locator("table").evaluate_all(_TABLES)
        for table in tables:
            if table["wide"]:
                found.append(f"{table['names'][0]} at {width} px")
            for cells in table["rows"]:
                assert ["", *table["names"][1:]] == [*cells[:-1], cells[-1] or table["names"][-1]]
            assert (table["said"] == "none") == (width > 1024)
    assert not found, found


def test_a_header(wide: Page, long: Sender) -> None:
    """Its value stands beside its name, without scrolling."""
    (event,) = long.events()
    wide.goto(f"/ui/events/{event['id']}")
    table = wide.get_by_role("region", name="Headers")
    expect(table.get_by_text(HEADER)).to_be_visible()
    assert table.evaluate("(table) => table.scrollWidth <= table.clientWidth")


def test_larger_text(wide: Page, long: Sender) -> None:
    """Whoever has the browser write everything in letters of twice the size gets that here, with nothing cut off."""
    for path in ("", "overview", "clients", f"buckets/{long.name}", f"buckets/{long.name}/settings"):
        wide.goto(f"/ui/{path}")
        quality.settled(wide)
        wide.evaluate(TWICE)
        assert wide.evaluate("() => getComputedStyle(document.body).fontSize") == "28px"
        assert quality.sideways(wide) == []
    wide.goto(f"/ui/buckets/{long.name}")
    expect(rows(wide)).to_have_count(1)
    wide.evaluate(TWICE)
    expect(rows(wide).first).to_have_css("height", "72px")
    assert rows(wide).locator("span").evaluate_all("(all) => all.every((each) => each.scrollHeight <= 72)")


def test_what_closes_an_event(wide: Page, long: Sender) -> None:
    """Stands at its top on a phone, in one line with what goes to the next one; in larger letters below that."""
    (event,) = long.events()
    wide.set_viewport_size({"width": 360, "height": 700})
    wide.goto(f"/ui/buckets/{long.name}?event={event['id']}")
    expect(wide.get_by_role("article")).to_be_visible()
    close = wide.get_by_role("button", name="Close the event")
    expect(close).to_be_in_viewport(ratio=1)
    at, newer = close.bounding_box(), wide.get_by_role("button", name="↑ Newer").bounding_box()
    assert at
    assert newer
    assert abs((at["y"] + at["height"] / 2) - (newer["y"] + newer["height"] / 2)) < 4
    wide.evaluate(TWICE)
    for width in (360, 1400):
        wide.set_viewport_size({"width": width, "height": 1000})
        expect(close).to_be_in_viewport(ratio=1)
