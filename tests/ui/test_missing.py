"""An event that is not there: the page says why, by what the relay knows of its id."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.acceptance.relay import Relay, wait_for
from tests.ops.checking import change
from tests.ui.browser import Watch, begin_session, sign_in
from tests.ui.sending import Sender

REASONS = {
    "malformed": "This is no event's id.",
    "unknown": "No bucket that you can see holds this event",
    "of a bucket that was deleted": "No bucket that you can see holds this event",
    "of another's bucket": "No bucket that you can see holds this event",
    "not yet": "There is no such event in its bucket",
    "left": "its bucket's retention removed it",
    "of no output": "No output 7 gets this event",
}


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    """One that looks for old events at once, and not once a minute."""
    with Relay(tmp_path_factory.mktemp("missing") / "data", retention_interval=0.1) as running:
        yield running


@pytest.fixture(scope="module")
def ids(relay: Relay, administrator: str) -> dict[str, str]:
    """Ids under which there is nothing for the token of `hers`, by why; and one of an event, "there"."""
    hers, other, gone = (Sender(relay, administrator, name) for name in ("hers", "other", "gone"))
    for number in range(3):
        hers.send(f"/{number}")
    for each in (other, gone):
        each.send("/x")
    left, _, there = (event["id"] for event in hers.events())
    found = {
        "malformed": "the id that a colleague sent",
        "unknown": "abcdefghijkl-9",
        "of a bucket that was deleted": gone.events()[0]["id"],
        "of another's bucket": other.events()[0]["id"],
        "not yet": there.partition("-")[0] + "-9",
        "left": left,
        "of no output": f"{there}-7",
        "there": there,
    }
    hers.rest("PUT", "/v1/buckets/hers", {"retention": {"max_events": 1}})
    relay.run("bucket", "delete", "gone", "--yes", "--force")
    wait_for(lambda: len(hers.events()) == 1, "two events to leave")
    for each in (hers, other, gone):
        each.close()
    return found


@pytest.fixture
def here(page: Page, watch: Watch, relay: Relay, ids: dict[str, str]) -> Page:
    """Signed in with a token of the bucket `hers`."""
    watch.expected.append("status of 40[04]")
    begin_session(page, relay, relay.create_token("--bucket", "hers")[1])
    return page


@pytest.mark.parametrize("reason", REASONS)
def test_an_event(here: Page, ids: dict[str, str], reason: str) -> None:
    """By itself, beside its list, and where one is compared with it, which says on what side; also by the dialog."""
    where = ["events/{id}", "buckets/hers?event={id}", "compare/{there}/{id}", "compare/{id}/{there}"]
    for path in where:
        here.goto("/ui/" + path.format(id=ids[reason], there=ids["there"]))
        expect(here.get_by_role("alert")).to_contain_text(REASONS[reason])
        if path.startswith("compare"):
            side = "Right" if path.endswith("{id}") else "Left"
            expect(here.get_by_role("alert")).to_contain_text(f"{side}: ")
    here.goto(f"/ui/events/{ids['there']}")
    here.get_by_role("button", name="Compare").click()
    dialog = here.get_by_role("dialog")
    dialog.get_by_label("With the event").fill(ids[reason])
    dialog.get_by_role("button", name="Compare").click()
    expect(dialog.get_by_text(REASONS[reason])).to_be_visible()


def test_a_bucket_that_goes_while_its_event_is_read(here: Page, relay: Relay, administrator: str) -> None:
    """What was loaded stays there, with the word why there will be no more."""
    sender = Sender(relay, administrator, "going")
    sender.send("/x", b"its body")
    (event,) = sender.events()
    sender.close()
    sign_in(here, relay, administrator, f"/ui/events/{event['id']}")
    article = here.get_by_role("article")
    expect(article).to_contain_text("its body")
    relay.run("bucket", "delete", "going", "--yes", "--force")
    expect(article.get_by_role("alert")).to_contain_text("its bucket was deleted, your token does not have it")
    expect(article.get_by_role("alert")).to_contain_text("What is shown was loaded before.")
    expect(article).to_contain_text("its body")


def test_a_damaged_event(page: Page, watch: Watch, tmp_path: Path) -> None:
    """It is in its place, and the page does not show it as one without headers and body."""
    watch.expected.append("asked for")
    with Relay(tmp_path / "data") as own:
        _, secret = own.create_token()
        ours = Sender(own, secret, "damaged")
        for body in (b"sound", b"lost"):
            ours.send("/", body)
        sound, lost = (each["id"] for each in ours.events())
        ours.close()
        own.stop()
        change(tmp_path / "data" / "relay.db", "UPDATE event SET crc = crc + 1 WHERE body = CAST('lost' AS BLOB)")
        own.start()
        assert page.request.post(f"{own.url}/ui/session", data={"secret": secret}, headers={"Origin": own.url}).ok
        article = page.get_by_role("article")
        page.goto(f"{own.url}/ui/events/{lost}")
        expect(article.get_by_role("status")).to_contain_text("The event is damaged")
        page.goto(f"{own.url}/ui/events/{sound}")
        expect(article.get_by_label("Body, raw")).to_have_text("sound")
        expect(article.get_by_text("damaged")).to_have_count(0)
        page.goto("about:blank")
