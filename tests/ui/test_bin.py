"""The request bin: a URL by one press, what arrives there live, and keeping it."""

from __future__ import annotations

import re
import urllib.request

from playwright.sync_api import Page, expect

from tests.acceptance.relay import Relay
from tests.ui.browser import hold, sign_in, until


def test_from_nothing_to_the_first_event(signed_in: Page, relay: Relay) -> None:
    """One press makes a bin for a day; what is sent to its URL appears by itself, and one press keeps it."""
    page = signed_in
    page.get_by_role("link", name="Try it", exact=True).click()
    page.get_by_role("button", name="Make a request bin").click()
    heading = page.get_by_role("heading", name=re.compile("^bin-"))
    expect(heading).to_be_visible()
    name = heading.inner_text()
    expect(page.get_by_text(re.compile("disappears in (1 d|24 h|23 h)"))).to_be_visible()
    url = page.locator(".bin-url.large code").inner_text()
    assert url.startswith(relay.url + "/v1/webhooks/")
    assert f"'{url}'" in page.locator(".bin-url code").nth(1).inner_text()
    with urllib.request.urlopen(urllib.request.Request(url + "/first?a=1", data=b'{"n": 1}'), timeout=60) as answer:
        assert answer.status == 200
    row = page.get_by_role("option").filter(has_text="/first?a=1")
    expect(row).to_be_visible()
    page.get_by_role("button", name="Send one from here").click()
    expect(page.get_by_role("option")).to_have_count(2)
    page.get_by_role("button", name="Keep it").click()
    expect(page.get_by_text("kept", exact=True)).to_be_visible()
    (bucket,) = [each for each in relay.command("bucket", "list") if each["name"] == name]
    assert bucket["expires_at"] is None
    row.click()
    expect(page.get_by_text('"n"').or_(page.get_by_text("n", exact=True)).first).to_be_visible()
    page.reload()
    expect(heading).to_have_text(name)


def test_a_new_bin_is_not_said_to_be_gone(signed_in: Page) -> None:
    """While the page asks for it."""
    page = signed_in
    page.get_by_role("link", name="Try it", exact=True).click()
    make = page.get_by_role("button", name="Make a request bin")
    made = page.get_by_role("heading", name=re.compile("^bin-"))
    make.click()
    expect(made).to_be_visible()
    page.get_by_role("main").get_by_role("link", name="Try it", exact=True).click()
    expect(make).to_be_visible()
    held = hold(page, "**/v1/buckets")
    make.click()
    page.wait_for_url(re.compile("/ui/bin/bin-"))
    until(page, lambda: held, "the question")
    expect(page.get_by_text("Loading…")).to_be_visible()
    expect(page.get_by_text("There is no bin")).to_have_count(0)
    for route in held:
        route.continue_()
    page.unroute("**/v1/buckets")
    expect(made).to_be_visible()


def test_a_bin_is_found_again(admitted: Page, relay: Relay) -> None:
    """Bins that are there are listed with when they disappear; one that is gone is said to be."""
    page = admitted
    page.goto("/ui/bin")
    page.get_by_role("button", name="Make a request bin").click()
    name = page.get_by_role("heading", name=re.compile("^bin-")).inner_text()
    page.goto("/ui/bin")
    page.get_by_role("region", name="Request bins").get_by_role("link", name=name).click()
    expect(page.get_by_role("heading", name=name)).to_be_visible()
    relay.command("bucket", "delete", name, "--yes")
    page.goto(f"/ui/bin/{name}")
    expect(page.get_by_text(f"There is no bin {name} any more.")).to_be_visible()


def test_who_may_make_no_bucket(page: Page, relay: Relay) -> None:
    """A token of some buckets is told why it can't make a bin, before it tries."""
    relay.create_bucket("narrow")
    _, secret = relay.create_token("--bucket", "narrow")
    sign_in(page, relay, secret, "/ui/bin")
    expect(page.get_by_text("An administrator's token makes one.")).to_be_visible()
    expect(page.get_by_role("button", name="Make a request bin")).to_have_count(0)
