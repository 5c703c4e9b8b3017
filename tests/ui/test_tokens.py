"""Tokens in the page: made, changed, given a new secret and revoked, by administrators only."""

from __future__ import annotations

import re
import time
from http.client import HTTPConnection
from typing import Any

from playwright.sync_api import Locator, Page, expect

from tests.acceptance.relay import TIMEOUT, Relay
from tests.ui.browser import Watch, ask, sign_in, until


def opens(relay: Relay, secret: str) -> int:
    """The status that REST answers this secret with."""
    connection = HTTPConnection("127.0.0.1", relay.port, timeout=TIMEOUT)
    try:
        connection.request("GET", "/v1/buckets", headers={"Authorization": f"Bearer {secret}"})
        return connection.getresponse().status
    finally:
        connection.close()


def row(page: Page, description: str) -> Locator:
    return page.get_by_role("row").filter(has_text=description)


def tokens(page: Page) -> Any:
    return {token["description"]: token for token in page.request.get("/v1/tokens").json()}


def shown_secret(page: Page) -> str:
    secret = page.get_by_role("dialog").locator("code").first
    expect(secret).to_contain_text("sk-rly_")
    return secret.inner_text()


def test_made_rotated_revoked(admitted: Page, relay: Relay) -> None:
    """A token's secret is shown once and opens what was chosen; a new one ends it, and revoking ends that."""
    page = admitted
    relay.create_bucket("for tokens")
    page.goto("/ui/tokens")
    page.get_by_role("button", name="New token").click()
    page.get_by_label("Description").fill("worker")
    make = page.get_by_role("button", name="Make the token")
    expect(make).to_be_disabled()
    page.get_by_label("for tokens").check()
    page.get_by_label("API access").check()
    page.get_by_label("Durable").check()
    page.get_by_label("Expires", exact=True).select_option("in a day")
    make.click()
    first = shown_secret(page)
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    expect(page.get_by_text("nobody can show it again")).to_be_visible()
    assert shown_secret(page) == first
    page.get_by_role("button", name="I have it").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(row(page, "worker")).to_contain_text("manage these")
    expect(row(page, "worker").get_by_role("link", name="for tokens")).to_be_visible()
    assert first not in page.content()
    made = tokens(page)["worker"]
    assert made["durable"]
    assert 86_000 < made["expires_at"] - time.time() <= 86_401  # in whole seconds, rounded
    assert opens(relay, first) == 200

    page.get_by_role("button", name="Rotate worker").click()
    page.get_by_role("radio", name="At once").check()
    page.get_by_role("button", name="Make a new secret").click()
    second = shown_secret(page)
    page.get_by_role("button", name="I have it").click()
    assert (opens(relay, first), opens(relay, second)) == (401, 200)

    page.get_by_role("button", name="Revoke worker").click()
    page.get_by_role("button", name="Revoke", exact=True).click()
    expect(row(page, "worker")).to_have_count(0)
    assert opens(relay, second) == 401


def test_changed(signed_in: Page, relay: Relay) -> None:
    """What a token may is changed later; what is not touched stays."""
    page = signed_in
    relay.create_bucket("one")
    relay.create_bucket("two")
    relay.create_token("--description", "listener", "--bucket", "one", "--api-access", "disabled")
    page.goto("/ui/tokens")
    page.get_by_role("button", name="Edit listener").click()
    page.get_by_label("two").check()
    page.get_by_role("button", name="Save").click()
    expect(row(page, "listener")).to_contain_text(re.compile("one, two|two, one"))
    changed = tokens(page)["listener"]
    assert len(changed["scopes"]["buckets"]) == 2
    page.get_by_role("button", name="Edit listener").click()
    page.get_by_role("radio", name="Every bucket").check()
    page.get_by_label("API access").check()
    expect(page.get_by_text("An administrator's")).to_be_visible()
    page.get_by_role("button", name="Save").click()
    expect(row(page, "listener")).to_contain_text("administrator")


def test_changed_by_two(signed_in: Page, relay: Relay) -> None:
    """Whoever saves a new description gives nothing back that somebody else took from the token meanwhile."""
    page = signed_in
    key, _ = relay.create_token("--description", "two editors", "--durable")
    page.goto("/ui/tokens")
    page.get_by_role("button", name="Edit two editors").click()
    page.get_by_label("Description").fill("still two editors")
    ask(page, "PUT", f"/v1/tokens/{key}", {"api_access": "disabled", "durable": False})
    page.get_by_role("button", name="Save").click()
    expect(row(page, "still two editors")).to_contain_text("connect only")
    changed = tokens(page)["still two editors"]
    assert (changed["api_access"], changed["durable"]) == ("disabled", False)


def test_what_could_not_be_loaded(admitted: Page, watch: Watch) -> None:
    """The button "Try again" asks for the buckets, too: without them there is no list."""
    watch.expected.append("status of 503")
    refusal = {"code": "overloaded", "message": "the relay has too much to do"}
    admitted.route("**/v1/buckets", lambda route: route.fulfill(status=503, json=refusal))
    admitted.goto("/ui/tokens")
    expect(admitted.get_by_role("alert")).to_contain_text("too much to do")
    admitted.unroute("**/v1/buckets")
    admitted.get_by_role("button", name="Try again").click()
    expect(admitted.get_by_role("region", name="Tokens")).to_be_visible()
    expect(admitted.get_by_role("alert")).to_have_count(0)


def test_for_administrators_only(page: Page, relay: Relay) -> None:
    """A token with some buckets is offered no tokens, and told why where it goes there all the same."""
    relay.create_bucket("some")
    _, secret = relay.create_token("--bucket", "some")
    sign_in(page, relay, secret)
    expect(page.get_by_role("link", name="some")).to_be_visible()
    expect(page.get_by_role("link", name="Tokens", exact=True)).to_have_count(0)
    page.goto("/ui/tokens")
    expect(page.get_by_text("Tokens are made by administrators")).to_be_visible()


def test_from_a_buckets_page(admitted: Page, relay: Relay) -> None:
    """The link beside a snippet leads to a new token that has that bucket chosen."""
    page = admitted
    relay.create_bucket("linked")
    page.goto("/ui/buckets/linked/connect")
    page.get_by_role("link", name="Make a token for this bucket").click()
    expect(page.get_by_label("linked")).to_be_checked()
    expect(page.get_by_role("button", name="Make the token")).to_be_enabled()


def test_a_choice_among_many_buckets(admitted: Page, relay: Relay) -> None:
    """What is chosen already is in sight, and a long name takes the lines that it needs."""
    page = admitted
    long = "a name of a hundred characters, " + 68 * "x"
    for name in (long, *(f"bucket {number}" for number in range(12)), "zzz"):
        relay.create_bucket(name)
    page.goto("/ui/tokens?bucket=zzz")
    expect(page.get_by_label("zzz")).to_be_checked()
    expect(page.get_by_label("zzz")).to_be_in_viewport(ratio=1)
    picker = page.locator(".picker")
    within, chosen = picker.bounding_box(), page.get_by_label("zzz").bounding_box()
    assert within
    assert chosen
    assert within["y"] <= chosen["y"] < within["y"] + within["height"]
    labels = picker.locator("label")
    name, row = labels.filter(has_text=long).locator("span").bounding_box(), labels.filter(has_text=long).bounding_box()
    assert name
    assert row
    assert name["height"] <= row["height"]


def test_what_an_application_needs(admitted: Page, relay: Relay) -> None:
    """Beside a new secret stand the key and the URL that it is for."""
    relay.create_bucket("handed over")
    admitted.goto("/ui/tokens?bucket=handed+over")
    admitted.get_by_role("button", name="Make the token").click()
    dialog = admitted.get_by_role("dialog")
    expect(dialog.locator("dt")).to_have_text(["Secret", "Key", "WebSocket"])
    expect(dialog.locator("code").last).to_have_text(relay.ws_url)
    dialog.get_by_role("button", name="I have it").click()


def test_a_secret_stays(page: Page, watch: Watch, relay: Relay) -> None:
    """Until it is said to be copied it is shown, though one's own token gets a new one at once, which signs out; and
    though one goes back or the page is to be closed."""
    watch.expected.append("status of 401")
    _, secret = relay.create_token("--description", "own")
    sign_in(page, relay, secret)
    page.get_by_role("link", name="Tokens", exact=True).click()
    page.get_by_role("button", name="Rotate own").click()
    page.get_by_role("radio", name="At once").check()
    page.get_by_role("button", name="Make a new secret").click()
    expect(page.get_by_text("You were signed out")).to_be_attached()
    second = shown_secret(page)
    page.get_by_role("button", name="I have it").click()
    page.get_by_label("A token's secret").fill(second)
    page.get_by_role("button", name="Sign in").click()

    page.get_by_role("button", name="New token").click()
    page.get_by_role("radio", name="Every bucket").check()
    page.get_by_role("button", name="Make the token").click()
    third = shown_secret(page)
    page.go_back()
    expect(page).to_have_url(re.compile("/ui/$"))
    assert shown_secret(page) == third
    asked: list[str] = []
    page.on("dialog", lambda dialog: (asked.append(dialog.type), dialog.dismiss()))
    page.close(run_before_unload=True)
    until(page, lambda: asked, "the question")
    assert asked == ["beforeunload"]
    assert shown_secret(page) == third
    page.get_by_role("button", name="I have it").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
