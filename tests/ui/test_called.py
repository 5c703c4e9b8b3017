"""What consumers are called: outputs and tokens by their names, on every page that says who is behind."""

from __future__ import annotations

import json
from urllib.parse import unquote

import pytest
from playwright.sync_api import Page, expect
from websockets.sync.client import connect

from tests.acceptance.relay import TIMEOUT, Relay
from tests.ui.browser import sign_in
from tests.ui.sending import Sender


@pytest.fixture(scope="module")
def behind(relay: Relay, administrator: str) -> Relay:
    """Two buckets with an event that somebody has still to get: an output without a name of its own, a durable token.
    In a third one a client's consumer has a name like an output's."""
    output, token, client = (Sender(relay, administrator, f"of-{name}") for name in ("output", "token", "client"))
    output.rest("POST", "/v1/buckets/of-output/outputs", {
        "internal": False, "destination": "https://example.org/x", "paused": True,
    })  # fmt: skip
    for bucket, consumer in (("of-token", {}), ("of-client", {"consumer": "output:1", "ack": "explicit"})):
        key, secret = relay.create_token(
            "--bucket", bucket, "--description", "night shift", *([] if consumer else ["--durable"])
        )
        with connect(relay.ws_url, open_timeout=TIMEOUT, close_timeout=1) as socket:
            for message in ({"action": "auth", "key": key, "secret": secret}, {"action": "subscribe", **consumer}):
                socket.send(json.dumps(message))
                socket.recv(TIMEOUT)
    for each in (output, token, client):
        each.send("/x")
        each.close()
    return relay


@pytest.fixture
def here(page: Page, behind: Relay, administrator: str) -> Page:
    page.set_viewport_size({"width": 1600, "height": 900})
    sign_in(page, behind, administrator)
    return page


NAMES = {"of-output": "Output 1", "of-token": "night shift", "of-client": "output:1"}


def test_all_buckets(here: Page) -> None:
    """Whoever is furthest behind."""
    for bucket, name in NAMES.items():
        row = here.get_by_role("region", name="Buckets").get_by_role("row").filter(has_text=bucket)
        expect(row.locator(".lag .cut")).to_have_text(name)


def test_the_overview(here: Page) -> None:
    here.goto("/ui/overview")
    tile = here.locator(".tile").filter(has_text="Lag")
    expect(tile).to_contain_text("events: ")
    bucket = tile.get_by_role("link").inner_text()
    expect(tile).to_contain_text(f"events: {NAMES[bucket]} of")


@pytest.mark.parametrize("bucket", NAMES)
def test_a_bucket(here: Page, bucket: str) -> None:
    """Above its tabs, and among its consumers."""
    here.goto(f"/ui/buckets/{bucket}/consumers")
    expect(here.locator(".standing .lag .cut")).to_have_text(NAMES[bucket])
    expect(here.get_by_role("region", name="Consumers").locator("td.name b")).to_have_text(NAMES[bucket])


def test_all_consumers(here: Page, relay: Relay, administrator: str) -> None:
    """And what each does now: an output is connected to nobody, and is not away for that."""
    here.goto("/ui/clients")
    table = here.get_by_role("region", name="Consumers")
    for bucket, name in NAMES.items():
        expect(table.get_by_role("row").filter(has_text=bucket).locator("b").first).to_have_text(name)
    row = table.get_by_role("row").filter(has_text="of-output")
    expect(row.get_by_role("cell").nth(2)).to_have_text("paused")
    resumed = Sender(relay, administrator, "resumed")
    resumed.rest("POST", "/v1/buckets/resumed/outputs", {
        "internal": False, "destination": "https://example.org/x", "paused": True,
    })  # fmt: skip
    resumed.close()
    here.goto("/ui/buckets/resumed/outputs")
    here.get_by_role("button", name="Resume").click()
    here.get_by_role("link", name="Consumers").click()
    expect(table.get_by_role("cell", name="sending")).to_be_visible()


@pytest.mark.parametrize("name", [".", "..", "output:1", "mailer"])
def test_the_path_of_a_consumer(here: Page, name: str) -> None:
    """It is still in its bucket once the browser has read it: relays before took names that are removed from URLs."""
    script = """async (name) => {
        const { consumerPath } = await import("/ui/static/parts/called.js");
        return new URL(consumerPath({ kind: "client", name, bucket_id: "b" }), location).pathname;
    }"""
    path = unquote(here.evaluate(script, name))
    assert path in (f"/v1/buckets/b/consumers/{name}", f"/v1/buckets/b/consumers/client:{name}")
    assert path.endswith("mailer") or "client:" in path


@pytest.mark.parametrize("bucket", ["of-output", "of-client"])
def test_sending_again(here: Page, bucket: str) -> None:
    """To a consumer that is chosen by its name: the relay knows whom it is asked for."""
    here.goto(f"/ui/buckets/{bucket}")
    here.get_by_role("button", name="Send a range again").click()
    dialog = here.get_by_role("dialog")
    dialog.get_by_role("radio", name="One consumer").check()
    expect(dialog.get_by_label("Consumer", exact=True).get_by_role("option")).to_have_text([NAMES[bucket]])
    dialog.get_by_role("button", name="Send", exact=True).click()
    expect(dialog.get_by_text("1 of 1 done")).to_be_visible()
