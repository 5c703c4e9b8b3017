"""Buckets in the page: the list, making one, its tabs, its settings and its end, in a browser against a real relay."""

from __future__ import annotations

import re
import time

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.acceptance.relay import TIMEOUT, Relay
from tests.ui.browser import Watch, ask, make, row, sign_in, told


def card(page: Page, name: str) -> Locator:
    return page.get_by_role("listitem").filter(has=page.get_by_role("heading", name=name, exact=True))


@pytest.mark.parametrize("wrong", [-3600, 3600])
def test_how_long_ago_by_a_clock_that_is_wrong(page: Page, relay: Relay, administrator: str, wrong: int) -> None:
    """It is the relay's clock that counts."""
    name = f"clock {wrong}"
    page.request.post(relay.url + relay.create_bucket(name), data="x")
    page.add_init_script(f"const now = Date.now; Date.now = () => now() + {wrong} * 1000;")
    sign_in(page, relay, administrator)
    newest = row(page, name).locator("td").filter(has=page.locator("time")).first
    expect(newest).to_have_text(re.compile(r"^(now|\d+ s ago)$"))


def test_make_one_and_find_it_in_the_list(signed_in: Page) -> None:
    """A name makes a bucket, whose URL is shown at once; the list counts what comes in."""
    page = signed_in
    page.get_by_role("button", name=re.compile("New bucket|Make a bucket")).click()
    page.get_by_label("Name", exact=True).fill("made here")
    page.get_by_label("Description").fill("From the page")
    page.get_by_text("More options").click()
    page.get_by_label("Number of events").fill("500")
    page.get_by_role("button", name="Make the bucket").click()
    expect(page).to_have_url(re.compile(r"/ui/buckets/made%20here/connect$"))
    url = page.locator(".address code").first.inner_text()
    for _ in range(3):
        assert page.request.post(url, data="{}").status == 200
    bucket = ask(page, "GET", "/v1/buckets/made here")
    assert (bucket["retention"]["max_events"], bucket["retention"]["max_age"]) == (500, 2592000)
    page.get_by_role("link", name="Buckets", exact=True).first.click()
    found = row(page, "made here")
    expect(found).to_contain_text("From the page")
    expect(found.get_by_role("img", name="3 events in the last hour")).to_be_visible()


def test_by_keyboard_alone(signed_in: Page) -> None:
    """What one types is typed into the first field of a dialog, and Enter sends it: it closed the dialog."""
    page = signed_in
    make(page, "there already")
    page.get_by_role("button", name="New bucket").press("Enter")
    expect(page.get_by_label("Name", exact=True)).to_be_focused()
    page.keyboard.type("typed")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="typed", level=1)).to_be_visible()
    for tab, field in (("inputs", "Name"), ("outputs", "Name")):
        page.goto(f"/ui/buckets/typed/{tab}")
        page.get_by_role("button", name=f"New {tab[:-1]}").press("Enter")
        expect(page.get_by_label(field, exact=True)).to_be_focused()
    page.goto("/ui/buckets/typed/settings")
    page.get_by_role("button", name="Delete the bucket…").press("Enter")
    expect(page.get_by_label("Type typed to go on")).to_be_focused()


def test_what_is_wrong_stands_at_its_field(signed_in: Page, watch: Watch) -> None:
    """A name that is taken and a header that is none are told where they were entered, and nothing is lost by it."""
    watch.expected.append("status of 4(00|12)")
    page = signed_in
    make(page, "taken")
    page.goto("/ui/")
    page.get_by_role("button", name="New bucket").click()
    name = page.get_by_label("Name", exact=True)
    name.fill("taken")
    page.get_by_role("button", name="Make the bucket").click()
    expect(name).to_have_attribute("aria-invalid", "true")
    expect(name).to_be_focused()
    expect(page.get_by_text("There is a bucket 'taken' already")).to_be_visible()
    name.fill("not taken")
    page.get_by_text("More options").click()
    header = page.get_by_label("Header with the delivery's id")
    header.fill("no header")
    page.get_by_text("More options").click()
    page.get_by_role("button", name="Make the bucket").click()
    expect(header).to_be_focused()
    expect(page.get_by_text("'no header' is no header name")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.get_by_role("button", name="New bucket").click()
    expect(page.get_by_label("Name", exact=True)).to_have_value("not taken")
    expect(page.get_by_text("These changes were not saved before.")).to_be_visible()
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="New bucket").click()
    expect(page.get_by_label("Name", exact=True)).to_have_value("")
    page.get_by_role("button", name="Cancel").click()


def test_a_secret_is_changed_for_another(signed_in: Page) -> None:
    """Both count meanwhile: a second one is added, which has the focus, and then the first is removed."""
    page = signed_in
    make(page, "rotated")
    verify = {"provider": "github", "secrets": ["the old one"], "on_failure": "reject"}
    (made,) = ask(page, "GET", "/v1/buckets/rotated")["inputs"]
    ask(page, "PUT", f"/v1/buckets/rotated/inputs/{made['id']}", {"name": "GitHub", "verify": verify})
    page.goto("/ui/buckets/rotated/inputs")
    page.get_by_role("button", name="Edit GitHub").click()
    page.get_by_role("button", name="Add a secret").press("Enter")
    expect(page.get_by_label("Secret 2", exact=True)).to_be_focused()
    page.keyboard.type("the new one")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert ask(page, "GET", "/v1/buckets/rotated")["inputs"][0]["verify"]["secrets"] == ["the old one", "the new one"]
    page.get_by_role("button", name="Edit GitHub").click()
    page.get_by_role("button", name="Remove secret 1").press("Enter")
    expect(page.get_by_role("button", name="Add a secret")).to_be_focused()
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert ask(page, "GET", "/v1/buckets/rotated")["inputs"][0]["verify"]["secrets"] == ["the new one"]


def test_inputs(signed_in: Page, watch: Watch) -> None:
    """An input is made with its answer and its provider's secrets, changed and deleted."""
    watch.expected.append("status of 400")
    page = signed_in
    make(page, "inputs")
    page.goto("/ui/buckets/inputs/inputs")
    page.get_by_role("button", name="New input").click()
    page.get_by_label("Name", exact=True).fill("GitHub")
    page.get_by_label("Status").fill("202")
    page.get_by_label("Body", exact=True).fill("thanks")
    page.get_by_role("button", name="Add a header").click()
    page.get_by_label("Name 1").fill("X-Served-By")
    page.get_by_label("Value 1").fill("relay")
    page.get_by_label("Whose signatures are checked").select_option("standard-webhooks")
    page.get_by_label("Secret", exact=True).fill("whsec_!")
    page.get_by_role("radio", name="is stored, and marked").check()
    page.get_by_role("button", name="Make the input").click()
    expect(page.get_by_label("Secret", exact=True)).to_have_attribute("aria-invalid", "true")
    page.get_by_role("button", name="Make one").click()
    page.get_by_text("A place of its own").click()
    page.get_by_label("Id in the URL").fill("github-of-the-page")
    page.get_by_role("button", name="Make the input").click()
    expect(card(page, "GitHub")).to_contain_text("standard-webhooks: marked")
    answer = page.request.post("/v1/webhooks/github-of-the-page", data="{}")
    assert (answer.status, answer.text(), answer.headers["x-served-by"]) == (202, "thanks", "relay")

    page.get_by_role("button", name="Edit GitHub").click()
    expect(page.get_by_label("Value 1")).to_have_value("relay")
    page.get_by_label("Description").fill("The organisation's")
    page.get_by_label("The answer comes from").select_option("anyOutput")
    page.get_by_role("button", name="Save").click()
    expect(card(page, "GitHub")).to_contain_text("It answers what a client answers.")
    (_, changed) = ask(page, "GET", "/v1/buckets/inputs")["inputs"]
    assert changed["verify"]["on_failure"] == "mark"
    assert changed["headers"] == {"X-Served-By": ["relay"]}

    page.get_by_role("button", name="Delete GitHub").click()
    page.get_by_role("button", name="Delete the input").click()
    expect(card(page, "GitHub")).to_have_count(0)


def test_rows_by_keyboard(signed_in: Page) -> None:
    """A condition or a header that is added has the focus; from one that is removed it goes to what adds another."""
    page = signed_in
    make(page, "rows")
    page.goto("/ui/buckets/rows/outputs")
    page.get_by_role("button", name="New output").click()
    page.get_by_role("button", name="Add a condition").press("Enter")
    expect(page.get_by_label("Condition 1: part of the event")).to_be_focused()
    page.get_by_role("button", name="Add a condition").press("Enter")
    expect(page.get_by_label("Condition 2: part of the event")).to_be_focused()
    page.get_by_role("button", name="Remove condition 1").press("Enter")
    expect(page.get_by_role("button", name="Add a condition")).to_be_focused()
    page.get_by_text("The request").click()
    page.get_by_role("button", name="Add a header").press("Enter")
    expect(page.get_by_label("Name 1")).to_be_focused()
    page.get_by_role("button", name="Remove row 1").press("Enter")
    expect(page.get_by_role("button", name="Add a header")).to_be_focused()
    page.get_by_role("button", name="Cancel").click()


def test_outputs_and_their_rules(signed_in: Page, watch: Watch) -> None:
    """Conditions become rules, a wrong one is told at its line, JSON says the same and more; public ones pause."""
    watch.expected.append("status of 400")
    page = signed_in
    make(page, "outputs")
    page.goto("/ui/buckets/outputs/outputs")
    page.get_by_role("button", name="New output").click()
    page.get_by_label("Name", exact=True).fill("local")
    page.get_by_role("textbox", name="Destination").fill("http://localhost:3000/hook")
    for number, (source, name, test, value) in enumerate(
        [("header", "X-Kind", "not-value", "refund"), ("payload", "sku", "regex", "(")], 1
    ):
        page.get_by_role("button", name="Add a condition").click()
        page.get_by_label(f"Condition {number}: part of the event").select_option(source)
        page.get_by_label(f"Condition {number}: name").fill(name)
        page.get_by_label(f"Condition {number}: test").select_option(test)
        page.get_by_label(f"Condition {number}: value").fill(value)
    page.get_by_label("How many of the conditions").select_option("or")
    page.get_by_role("button", name="Make the output").click()
    wrong = page.get_by_label("Condition 2: value")
    expect(wrong).to_be_focused()
    expect(page.get_by_label("Condition 1: value")).not_to_have_attribute("aria-invalid", "true")
    wrong.fill("^A-")
    page.get_by_role("button", name="Make the output").click()
    expect(card(page, "local")).to_contain_text("header X-Kind is not refund or body sku matches the pattern ^A-")
    (output,) = ask(page, "GET", "/v1/buckets/outputs")["outputs"]
    kind = {"type": "value", "parameter": {"source": "header", "name": "X-Kind"}, "value": "refund"}
    sku = {"type": "regex", "parameter": {"source": "payload", "name": "sku"}, "regex": "^A-"}
    assert output["rules"] == {"or": [{"not": {"match": kind}}, {"match": sku}]}

    page.get_by_role("button", name="Edit local").click()
    page.get_by_role("button", name="As JSON").click()
    document = page.get_by_label("Rules as JSON")
    document.fill('{"and": [')
    expect(page.get_by_text("This is no JSON")).to_be_visible()
    document.fill('{"not": [{"and": [{"match": {"type": "ip-whitelist", "ip-range": "192.0.2.0/24"}}]}]}')
    expect(page.get_by_role("button", name="As conditions")).to_be_disabled()
    page.get_by_role("button", name="Save").click()
    expect(card(page, "local")).to_contain_text("by rules")

    page.get_by_role("button", name="New output").click()
    page.get_by_label("Name", exact=True).fill("shop")
    page.get_by_role("radio", name="This relay public").check()
    page.get_by_role("textbox", name="Destination").fill("https://shop.example.org/hook")
    page.get_by_label("Then", exact=True).select_option("custom")
    page.get_by_label("Waits between tries").fill("10s, 1m")
    page.get_by_role("radio", name="Several at once").check()
    page.get_by_label("At once", exact=True).fill("4")
    page.get_by_role("button", name="Make one").click()
    page.get_by_label("Paused").check()
    page.get_by_role("button", name="Make the output").click()
    shop = card(page, "shop")
    expect(shop).to_contain_text("Up to date")
    expect(shop).to_contain_text("tries again at times of its own, 4 at once")
    (_, made) = ask(page, "GET", "/v1/buckets/outputs")["outputs"]
    assert made["durability"] == {
        "enabled": True, "schedule": "custom", "deadline": 0, "custom_delays": [10_000_000_000, 60_000_000_000]
    }  # fmt: skip
    assert made["throttle"]["max_concurrent"] == 4
    assert made["secret"].startswith("whsec_")
    page.get_by_role("button", name="Resume shop").click()
    expect(page.get_by_role("button", name="Pause shop")).to_be_visible()
    page.get_by_role("button", name="Pause shop").click()
    expect(page.get_by_role("button", name="Resume shop")).to_be_visible()
    (bucket,) = [each for each in ask(page, "GET", "/v1/buckets") if each["name"] == "outputs"]
    ask(page, "PUT", f"/v1/buckets/outputs/inputs/{bucket['inputs'][0]['id']}", {"response_from_output": made["id"]})
    page.reload()
    page.get_by_role("button", name="Delete shop").click()
    expect(page.get_by_role("dialog")).to_contain_text("Senders of Default public endpoint get the input's own answer")
    page.get_by_role("button", name="Delete the output").click()
    expect(card(page, "shop")).to_have_count(0)


def test_headings_of_sections(signed_in: Page) -> None:
    """They name groups, and are no legends: WebKit draws those on the border, whatever the sheet says."""
    page = signed_in
    make(page, "sections")
    page.goto("/ui/buckets/sections/settings")
    for name, field in (("The bucket", "Description"), ("What is kept", "Number of events"), ("Rate", "Events")):
        group = page.get_by_role("group", name=name, exact=True)
        expect(group.get_by_label(field)).to_be_visible()
        assert group.locator("legend").count() == 0


def test_settings_and_what_is_not_saved(signed_in: Page) -> None:
    """Changes outlive another tab until they are saved; a bucket that would expire is kept with one button."""
    page = signed_in
    make(page, "settings", expires_at=int(time.time()) + 80_000)
    page.goto("/ui/buckets/settings/settings")
    page.get_by_label("Age", exact=True).fill("2")
    page.get_by_label("Wait for consumers").check()
    page.get_by_role("link", name="Inputs").click()
    expect(page.get_by_role("link", name=re.compile("Settings.*not saved"))).to_be_visible()
    page.get_by_role("link", name="Settings").click()
    expect(page.get_by_label("Age", exact=True)).to_have_value("2")
    page.get_by_label("Wait up to this size", exact=True).fill("20")
    page.get_by_role("button", name="Keep it").click()
    expect(page.get_by_text("This bucket is deleted")).to_have_count(0)
    page.get_by_role("button", name="Save").click()
    told(page, "Settings saved")
    bucket = ask(page, "GET", "/v1/buckets/settings")
    assert bucket["expires_at"] is None
    assert bucket["retention"] == {
        "max_age": 2 * 86400,
        "max_events": None,
        "max_bytes": 10 << 30,
        "wait_for_consumers": True,
        "hard_max_bytes": 20 << 30,
    }
    page.get_by_label("Name", exact=True).fill("renamed")
    page.get_by_role("button", name="Save").click()
    expect(page).to_have_url(re.compile("/ui/buckets/renamed/settings$"))
    expect(page.get_by_role("heading", name="renamed", level=1)).to_be_visible()


def test_a_session_that_ends_loses_no_changes(signed_in: Page, watch: Watch, administrator: str) -> None:
    """What was not saved is there again once the same token has signed in again."""
    watch.expected.append("status of 401")
    page = signed_in
    make(page, "patient")
    page.goto("/ui/buckets/patient/settings")
    page.get_by_label("Description").fill("half a sentence")
    ask(page, "DELETE", "/ui/session")
    expect(page.get_by_role("heading", name="Sign in to this relay")).to_be_visible(timeout=TIMEOUT * 1000)
    page.get_by_label("A token's secret").fill(administrator)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_label("Description")).to_have_value("half a sentence")
    page.get_by_role("button", name="Discard").click()
    expect(page.get_by_label("Description")).to_have_value("")


def test_deleting_wants_the_name(signed_in: Page) -> None:
    """A bucket goes with everything in it once its name was typed, not before."""
    page = signed_in
    bucket = make(page, "doomed")
    page.request.post(f"/v1/webhooks/{bucket['inputs'][0]['id']}", data="{}")
    page.goto("/ui/buckets/doomed/settings")
    page.get_by_role("button", name="Delete the bucket…").click()
    expect(page.get_by_text("1 event, 1 input and 0 outputs are deleted")).to_be_visible()
    button = page.get_by_role("button", name="Delete the bucket", exact=True)
    page.get_by_label("Type doomed to go on").fill("doome")
    expect(button).to_be_disabled()
    page.get_by_label("Type doomed to go on").fill("doomed")
    button.click()
    expect(page).to_have_url(re.compile("/ui/?$"))
    expect(row(page, "doomed")).to_have_count(0)


@pytest.mark.parametrize("name", ["constructor", "__proto__", "%2F", "a?b#c"])
def test_a_name_that_means_something_elsewhere(signed_in: Page, name: str) -> None:
    """In JavaScript, or in an address: it is a name like any other."""
    page = signed_in
    make(page, name)
    page.reload()
    row(page, name).get_by_role("link", name=name, exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text(name)
    page.get_by_role("link", name="Settings").click()
    expect(page.get_by_label("Name", exact=True)).to_have_value(name)
    page.reload()
    expect(page.get_by_label("Name", exact=True)).to_have_value(name)


def test_a_header_whose_name_means_something_elsewhere(signed_in: Page) -> None:
    page = signed_in
    bucket = make(page, "header")
    page.goto("/ui/buckets/header/inputs")
    page.get_by_role("button", name=re.compile("^Edit ")).click()
    page.get_by_role("button", name="Add a header").click()
    page.get_by_label("Name 1").fill("constructor")
    page.get_by_label("Value 1").fill("relay")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    answer = page.request.post(f"/v1/webhooks/{bucket['inputs'][0]['id']}", data="{}")
    assert answer.headers["constructor"] == "relay"


def test_an_output_that_somebody_else_deletes(signed_in: Page, watch: Watch) -> None:
    """Whoever is about to move it is told, and the page goes on."""
    watch.expected.append("status of 404")
    page = signed_in
    make(page, "shared")
    shop: dict[str, object] = {"name": "shop", "internal": False, "destination": "https://example.org/", "paused": True}
    output = ask(page, "POST", "/v1/buckets/shared/outputs", shop)
    page.goto("/ui/buckets/shared/outputs")
    page.get_by_role("button", name="Move shop").click()
    ask(page, "DELETE", f"/v1/buckets/shared/outputs/{output['id']}")
    for _ in range(2):  # the first one may have been asked for before
        page.wait_for_event("response", lambda answer: answer.url.endswith("/consumers"))
    dialog = page.get_by_role("dialog", name="Move shop")
    dialog.get_by_label("The oldest event that is kept").check()
    expect(dialog).to_contain_text("It can't go there.")
    dialog.get_by_role("button", name="Cancel").click()
    page.get_by_role("link", name="Connect").click()
    expect(page.get_by_role("link", name="Connect")).to_have_attribute("aria-current", "page")


def test_an_output_that_catches_up(signed_in: Page) -> None:
    """Whoever is about to skip its next event is no longer offered that once there is none, and the page goes on."""
    page = signed_in
    bucket = make(page, "caught up")
    output = {"name": "shop", "internal": False, "destination": "https://example.org/", "paused": True}
    ask(page, "POST", "/v1/buckets/caught up/outputs", output)
    assert page.request.post(f"/v1/webhooks/{bucket['inputs'][0]['id']}").ok
    page.goto("/ui/buckets/caught up/outputs")
    page.get_by_role("button", name="Move shop").click()
    dialog = page.get_by_role("dialog", name="Move shop")
    dialog.get_by_label("The event after the next one").check()
    expect(dialog).to_contain_text("it skips 1 events")
    ask(page, "POST", "/v1/buckets/caught up/consumers/output:1/seek", {"to": "latest"})
    expect(dialog.get_by_role("status").first).to_have_text("Choose where it goes on.")
    expect(dialog.get_by_label("The event after the next one")).to_have_count(0)
    expect(dialog.get_by_role("button", name="Move", exact=True)).to_be_disabled()
    dialog.get_by_role("button", name="Cancel").click()
    expect(dialog).to_have_count(0)


def test_a_token_with_some_buckets(page: Page, watch: Watch, relay: Relay) -> None:
    """It sees its buckets, changes them without seeing their secrets, and is not offered what it may not do."""
    relay.create_bucket("mine", "--auth", "token", "--token", "shown-to-nobody")
    relay.create_bucket("not mine")
    _, secret = relay.create_token("--bucket", "mine")
    sign_in(page, relay, secret)
    expect(row(page, "mine")).to_be_visible()
    expect(row(page, "not mine")).to_have_count(0)
    expect(page.get_by_role("button", name="New bucket")).to_have_count(0)
    row(page, "mine").get_by_role("link").click()
    page.get_by_role("link", name="Connect").click()
    expect(page.get_by_label("curl command", exact=True)).to_contain_text("Bearer YOUR_PASSWORD")
    page.get_by_role("link", name="Inputs").click()
    page.get_by_role("button", name="New input").click()
    expect(page.get_by_text("A place of its own")).to_have_count(0)
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("link", name="Settings").click()
    expect(page.get_by_label("Name", exact=True)).to_be_disabled()
    page.get_by_label("Description").fill("Changed by its reader")
    page.get_by_role("button", name="Save").click()
    told(page, "Settings saved")
    watch.expected.append("status of 40[34]")
    refusal = {"code": "forbidden", "message": "this token may not do this"}
    page.route("**/v1/buckets/*/inputs", lambda route: route.fulfill(status=403, json=refusal))
    page.get_by_role("link", name="Inputs").click()
    page.get_by_role("button", name="New input").click()
    page.get_by_role("button", name="Make the input").click()
    expect(page.get_by_role("alert").filter(has_text="this token may not do this")).to_be_visible()
    page.get_by_role("button", name="Cancel").click()
    page.goto("/ui/buckets/not mine")
    expect(page.get_by_text("There is no bucket not mine")).to_be_visible()
    assert relay.command("bucket", "show", "mine")["auth"]["token"] == "shown-to-nobody"


@pytest.mark.own_window
def test_a_bucket_that_somebody_else_changes(signed_in: Page, watch: Watch, relay: Relay) -> None:
    """Renamed while one looks at it, it goes on under its new name, with what was not saved; deleted, it says so."""
    watch.expected.append("status of 404")
    page = signed_in
    made = make(page, "old name")
    page.clock.install()
    page.goto("/ui/buckets/old name/settings?x=1")
    page.get_by_label("Description").fill("half a sentence")
    relay.command("bucket", "set", made["id"], "--name", "new name")
    page.clock.run_for(21_000)
    expect(page.get_by_role("heading", name="new name", level=1)).to_be_visible()
    expect(page).to_have_url(re.compile(r"/ui/buckets/new%20name/settings\?x=1$"))
    expect(page.get_by_label("Description")).to_have_value("half a sentence")
    expect(page.get_by_role("alert")).to_have_count(0)
    ask(page, "DELETE", f"/v1/buckets/{made['id']}?force=true")
    page.clock.run_for(21_000)
    expect(page.get_by_role("alert")).to_contain_text("not there any more")
