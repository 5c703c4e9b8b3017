"""Tabs of one browser: they have one session, and what is changed in one is seen in the others."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.acceptance.relay import Relay
from tests.ui.browser import NO_PART, Watch, sign_in, signed, signed_out
from tests.ui.sending import Sender, live, rows

API = "import(document.querySelector('script[type=module]').src.replace('app.js', 'api.js'))"


@pytest.fixture
def other(page: Page) -> Iterator[Page]:
    """A second tab, with nothing in it."""
    opened = page.context.new_page()
    yield opened
    opened.close()


def secret_of(page: Page, secret: str) -> None:
    page.get_by_label("A token's secret").fill(secret)


def test_signing_out_and_in(page: Page, other: Page, watch: Watch, relay: Relay, administrator: str) -> None:
    """Each ends, or begins, in every tab; where a secret is being typed it is not taken away."""
    watch.expected.append("status of 401")
    relay.create_bucket("in both")
    sign_in(page, relay, administrator)
    other.goto("/ui/")
    expect(other.get_by_role("link", name="in both")).to_be_visible()
    page.get_by_role("button", name="Sign out").click()
    signed_out(other)
    expect(other.get_by_role("alert")).to_have_text("You signed out in another tab.")
    expect(other.get_by_text("in both")).to_have_count(0)
    secret_of(page, administrator)
    page.get_by_role("button", name="Sign in").click()
    expect(other.get_by_role("link", name="in both")).to_be_visible()
    other.get_by_role("button", name="Sign out").click()
    signed_out(page)
    secret_of(other, "half a secret")
    secret_of(page, administrator)
    page.get_by_role("button", name="Sign in").click()
    expect(other.get_by_role("alert")).to_contain_text("You are signed in in another tab.")
    expect(other.get_by_label("A token's secret")).to_have_value("half a secret")
    other.reload()
    signed(other)


def test_signing_out_where_the_relay_says_so_first(
    page: Page, other: Page, watch: Watch, relay: Relay, administrator: str
) -> None:
    """A tab that asked for something before it heard of the sign-out says at last that this was it."""
    watch.expected.append("status of 401")
    sign_in(page, relay, administrator, NO_PART)
    other.goto(NO_PART)
    signed(other)
    page.evaluate("""() => {
        const { prototype } = BroadcastChannel;
        const post = prototype.postMessage;
        prototype.postMessage = function (said) { window.say = () => post.call(this, said); };
    }""")
    page.get_by_role("button", name="Sign out").click()
    signed_out(page)
    other.get_by_role("link", name="Overview").click()
    expect(other.get_by_role("alert")).to_contain_text("the session has ended")
    page.evaluate("() => window.say()")
    expect(other.get_by_role("alert")).to_have_text("You signed out in another tab.")


def test_a_session_that_ends(page: Page, other: Page, watch: Watch, relay: Relay) -> None:
    """The tab that hears of it from the relay says so to the others, also where these ask for nothing."""
    watch.expected.append("status of 401")
    key, secret = relay.create_token()
    sign_in(page, relay, secret, NO_PART)
    other.goto(NO_PART)
    signed(page)
    signed(other)
    relay.run("token", "revoke", key)
    other.get_by_role("link", name="Overview").click()
    for tab in (page, other):
        signed_out(tab)
        expect(tab.get_by_role("alert")).to_contain_text("its token was revoked")


def test_what_is_typed_stays(page: Page, other: Page, watch: Watch, relay: Relay, administrator: str) -> None:
    """Where one signs in anew, by the same token; and behind a sign-out it is there again."""
    watch.expected.append("status of 401")
    relay.create_bucket("there already")
    sign_in(page, relay, administrator)
    page.get_by_role("button", name="New bucket").click()
    page.get_by_label("Name", exact=True).fill("not made yet")
    sign_in(other, relay, administrator)
    other.get_by_role("button", name="Sign out").click()
    signed_out(page)
    secret_of(other, administrator)
    other.get_by_role("button", name="Sign in").click()
    page.get_by_role("button", name="New bucket").click()
    expect(page.get_by_label("Name", exact=True)).to_have_value("not made yet")
    secret = "() => " + API + ".then((api) => api.signIn({ secret: '%s' }))"
    other.evaluate(secret % administrator)
    expect(page.get_by_label("Name", exact=True)).to_have_value("not made yet")


def test_another_token(page: Page, other: Page, watch: Watch, relay: Relay, administrator: str, sender: Sender) -> None:
    """In its place in one tab, nothing of the first one's is left in the others: not what was loaded, nor the lists
    that were left."""
    watch.expected.append("status of 40[0134]")
    sender.send("/seen-by-the-first-alone")
    sign_in(page, relay, administrator, f"/ui/buckets/{sender.name}")
    rows(page).locator(".tick").click()
    page.get_by_role("link", name="Connect").click()
    (event,) = sender.events()
    other.goto(f"/ui/events/{event['id']}")
    expect(other.get_by_text("/seen-by-the-first-alone")).to_be_visible()
    third = page.context.new_page()
    third.goto(NO_PART)
    signed(third)
    relay.create_bucket("of the second")
    limited = relay.create_token("--bucket", "of the second", "--description", "the second")[1]
    third.evaluate("(secret) => " + API + ".then((api) => api.signIn({ secret }))", limited)
    expect(other.get_by_text("/seen-by-the-first-alone")).to_have_count(0)
    expect(page.get_by_text(f"There is no bucket {sender.name}")).to_be_visible()
    for tab in (page, other, third):
        expect(tab.get_by_text("the second").first).to_be_visible()
    third.evaluate("(secret) => " + API + ".then((api) => api.signIn({ secret }))", relay.create_token()[1])
    expect(page.get_by_role("link", name="Connect")).to_be_visible()
    page.go_back()
    live(page)
    expect(rows(page)).to_have_attribute("aria-selected", "false")
    third.close()


@pytest.mark.parametrize("how", ["made", "deleted"])
def test_a_bucket(page: Page, other: Page, relay: Relay, administrator: str, how: str) -> None:
    """That one tab makes, or deletes, the other shows, with what is typed there untouched."""
    relay.create_bucket(f"old {how}")
    sign_in(page, relay, administrator, "/ui/tokens")
    page.get_by_role("button", name="New token").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Description").fill("half a desc")
    expect(dialog.get_by_label(f"old {how}", exact=True)).to_have_count(1)
    other.goto("/ui/")
    if how == "made":
        other.get_by_role("button", name="New bucket").click()
        other.get_by_label("Name", exact=True).fill("brand new")
        other.get_by_role("button", name="Make the bucket").click()
        expect(dialog.get_by_label("brand new")).to_have_count(1)
    else:
        other.goto(f"/ui/buckets/old {how}/settings")
        other.get_by_role("button", name="Delete").first.click()
        question = other.get_by_role("dialog")
        question.get_by_role("textbox").fill(f"old {how}")
        question.get_by_role("button", name="Delete").last.click()
        expect(dialog.get_by_label(f"old {how}", exact=True)).to_have_count(0)
    expect(dialog.get_by_label("Description")).to_have_value("half a desc")


def test_what_counts_as_a_change(page: Page, other: Page, relay: Relay, administrator: str, sender: Sender) -> None:
    """Buckets, inputs, outputs and tokens; not events that are sent again, by the thousand perhaps."""
    sender.send("/x")
    (event,) = sender.events()
    sign_in(page, relay, administrator)
    other.goto(NO_PART)
    signed(other)
    bucket = f"/v1/buckets/{sender.name}"
    output = "{ name: 'out', destination: 'http://127.0.0.1:9/' }"
    for done, call in enumerate((
        "post('/v1/buckets', { name: 'changing' })", "remove('/v1/buckets/changing')", "post('/v1/bins')",
        f"put('{bucket}', {{ description: 'new' }})", f"post('{bucket}/inputs', {{ name: 'second' }})",
        f"post('{bucket}/outputs', {output}).then(({{ id }}) => window.made = id)",
        f"put(`{bucket}/outputs/${{window.made}}`, {{ description: 'new' }})",
        "post('/v1/tokens', { description: 'changing' }).then(({ key }) => window.key = key)",
        "post(`/v1/tokens/${window.key}/rotate`)", "remove(`/v1/tokens/${window.key}`)",
    )):  # fmt: skip
        page.evaluate(f"() => {API}.then((api) => api.{call})")
        page.evaluate(f"() => {API}.then((api) => api.post('/v1/logs/{event['id']}/action', {{ action: 'resend' }}))")
        other.wait_for_function(f"() => {API}.then((api) => api.changed.value === {done + 1})")
