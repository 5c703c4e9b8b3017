"""Clients and consumers: who is connected, where each stands, moving one, and what one gave up."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, Route, expect
from websockets.sync.client import connect

from tests.acceptance.relay import TIMEOUT, Relay, wait_for
from tests.ui import quality
from tests.ui.browser import sign_in, told
from tests.ui.demo import Demo, taken


@pytest.fixture(scope="module")
def demo(relay: Relay) -> Iterator[Demo]:
    with Demo(relay) as demo:
        demo.send(24)
        demo.readers()
        yield demo


@pytest.fixture
def clients(page: Page, relay: Relay, demo: Demo) -> Page:
    sign_in(page, relay, demo.administrator[1], "/ui/clients")
    return page


def test_who_is_connected(clients: Page, demo: Demo) -> None:
    """Each client has its name and version, its token, and how far it is in each of its buckets."""
    table = clients.get_by_role("region", name="Connected clients")
    billing = table.get_by_role("row").filter(has_text="billing 2.1")
    expect(billing).to_contain_text("order worker")
    expect(billing).to_contain_text(re.compile("orders 25|orders 24"))
    dashboard = table.get_by_role("row").filter(has_text="dashboard 1.0")
    expect(dashboard).to_contain_text("keeps its own position")
    expect(dashboard.get_by_text("up to date")).to_have_count(2)


def test_who_keeps_the_position(clients: Page, relay: Relay) -> None:
    """The relay does for a client of a durable token, which names no consumer."""
    key, secret = relay.create_token("--description", "stock", "--bucket", "payments", "--durable")
    messages = ({"action": "auth", "key": key, "secret": secret}, {"action": "subscribe", "buckets": ["payments"]})
    with connect(relay.ws_url, user_agent_header="stock/1.0", open_timeout=TIMEOUT, close_timeout=1) as client:
        for message in messages:
            client.send(json.dumps(message))
            client.recv(TIMEOUT)
        clients.reload()
        row = clients.get_by_role("region", name="Connected clients").get_by_role("row").filter(has_text="stock 1.0")
        expect(row).to_contain_text("its durable token's")
    assert relay.run("token", "revoke", key).returncode == 0


def test_a_long_name_does_not_widen_the_page(clients: Page, relay: Relay) -> None:
    """It stands in the choice of buckets, above tables that scroll by themselves."""
    name = "a-name-of-a-hundred-characters-" + 69 * "x"
    relay.create_bucket(name)
    quality.prepare(clients)
    clients.set_viewport_size({"width": 390, "height": 844})
    clients.reload()
    expect(clients.get_by_label("Bucket")).to_contain_text(name)
    assert quality.sideways(clients) == []
    clients.goto("about:blank")  # it would ask for the consumers of what is gone
    relay.run("bucket", "delete", name, "--yes")


def test_a_long_name_does_not_move_the_choice(clients: Page, relay: Relay) -> None:
    """The choice of buckets is no wider than it shows, and ends where the page ends."""
    name = "another-name-of-a-hundred-characters-" + 63 * "x"
    relay.create_bucket(name)
    clients.set_viewport_size({"width": 1440, "height": 900})
    clients.reload()
    choice = clients.get_by_label("Bucket")
    expect(choice).to_contain_text(name)
    box, heading = choice.bounding_box(), clients.locator(".head").bounding_box()
    assert box
    assert heading
    assert abs(box["x"] + box["width"] - heading["x"] - heading["width"]) < 2
    clients.goto("about:blank")  # it would ask for the consumers of what is gone
    relay.run("bucket", "delete", name, "--yes")


def test_from_who_is_behind_to_what_can_be_done(clients: Page) -> None:
    """A bucket's slowest consumer leads to all its consumers, the slowest first, with the time when each last moved. An
    output among them leads to where it is resumed."""
    clients.set_viewport_size({"width": 1440, "height": 900})
    clients.goto("/ui/")
    row = clients.get_by_role("region", name="Buckets").get_by_role("row").filter(has_text="orders")
    row.get_by_role("link", name="warehouse").click()
    expect(clients).to_have_url(re.compile("/ui/buckets/orders/consumers$"))
    consumers = clients.get_by_role("region", name="Consumers").locator("tbody tr")
    expect(consumers.locator("td.name b")).to_have_text(["warehouse", "billing", "mailer"])
    expect(consumers.filter(has_text="billing")).to_contain_text(re.compile(r"changed (now|\d+ (s|min) ago)"))
    consumers.get_by_role("link", name="warehouse").click()
    expect(clients.get_by_role("button", name="Resume warehouse")).to_be_visible()


def test_anothers_consumers_are_not_shown(clients: Page) -> None:
    """Once a bucket is chosen, the page shows its consumers or says that it loads, and no longer those before."""
    consumers = clients.get_by_role("region", name="Consumers")
    expect(consumers.get_by_role("row").filter(has_text="billing")).to_be_visible()
    clients.route("**/v1/buckets/*/consumers", lambda _: None)
    clients.get_by_label("Bucket").select_option("payments")
    expect(clients.get_by_text("Loading…")).to_be_visible()
    expect(consumers).to_have_count(0)
    clients.unroute("**/v1/buckets/*/consumers")
    clients.reload()


def test_a_move_is_shown_before_it_is_done(clients: Page, demo: Demo) -> None:
    """What a seek repeats or skips stands there before, and is what happens; all of it by keyboard."""
    demo.client("mover/1.0", buckets=["orders"], consumer="mover", since={"last": 19}, outputs="none").close()
    clients.reload()
    row = clients.get_by_role("region", name="Consumers").get_by_role("row").filter(has_text="mover")
    row.get_by_role("button", name="Move mover").focus()
    clients.keyboard.press("Enter")
    dialog = clients.get_by_role("dialog", name="Move mover")
    said = dialog.get_by_role("status").first
    expect(said).to_have_text("Choose where it goes on.")
    expect(dialog.get_by_role("button", name="Move", exact=True)).to_be_disabled()
    dialog.get_by_role("radio", name="Only what comes in from now on").focus()
    clients.keyboard.press("Space")
    expect(said).to_contain_text("skips 19 events that it has not done")
    clients.keyboard.press("ArrowDown")
    expect(said).to_contain_text("repeats 5 events that it was done with")
    clients.keyboard.press("ArrowDown")
    clients.keyboard.press("Tab")
    clients.keyboard.press("Control+A")
    clients.keyboard.type("10")
    expect(said).to_contain_text("skips 9 events")
    assert demo.consumer("mover")["pending"] == 19
    dialog.get_by_role("button", name="Move", exact=True).focus()
    clients.keyboard.press("Enter")
    expect(dialog).to_have_count(0)
    expect(clients.get_by_role("button", name="Move mover")).to_be_focused()
    assert demo.consumer("mover")["pending"] == 10
    expect(row.get_by_role("cell").nth(4)).to_have_text("10")
    demo.rest("DELETE", "/v1/buckets/orders/consumers/mover")


def test_one_event_is_skipped(clients: Page, demo: Demo) -> None:
    """Of a consumer that is stuck, the page names the next event, leads to it, and skips that one."""
    clients.set_viewport_size({"width": 1440, "height": 900})
    row = clients.get_by_role("region", name="Consumers").get_by_role("row").filter(has_text="billing")
    row.get_by_role("button", name="Move billing").wait_for()
    before = demo.consumer("billing")
    epoch, _, seq = before["floor"].rpartition("-")
    stuck = f"{epoch}-{int(seq) + 1}"
    expect(row.get_by_role("link", name="next event")).to_have_attribute("href", f"/ui/events/{stuck}")
    row.get_by_role("button", name="Move billing").click()
    dialog = clients.get_by_role("dialog", name="Move billing")
    expect(dialog.get_by_role("link", name=stuck)).to_have_attribute("href", f"/ui/events/{stuck}")
    dialog.get_by_role("radio", name="The event after the next one, which is skipped").check()
    expect(dialog.get_by_role("status").first).to_contain_text("skips 1 events")
    dialog.get_by_role("button", name="Move", exact=True).click()
    expect(dialog).to_have_count(0)
    after = demo.consumer("billing")
    assert (after["floor"], after["pending"]) == (stuck, before["pending"] - 1)


def test_a_consumer_that_goes_on_is_not_moved_back(clients: Page, demo: Demo) -> None:
    """What is skipped is the next event as the consumer stands, not as it stood when its dialog was opened; what the
    move would do is looked at anew."""
    worker = demo.client("goes-on/1.0", buckets=["orders"], consumer="goes on", since={"last": 9}, outputs="none")
    first, *between, last = taken(worker, 6)
    clients.set_viewport_size({"width": 1440, "height": 900})
    clients.reload()
    clients.get_by_role("button", name="Move goes on").click()
    dialog = clients.get_by_role("dialog", name="Move goes on")
    said = dialog.get_by_role("status").first
    dialog.get_by_role("radio", name="Only what comes in from now on").check()
    expect(said).to_contain_text("skips 9 events")
    worker.send(json.dumps({"action": "ack", "id": first}))
    expect(said).to_contain_text("skips 8 events")
    dialog.get_by_role("radio", name="The event after the next one").check()
    expect(said).to_contain_text(f"From {first} to {between[0]}: it skips 1 events")
    for event in between:
        worker.send(json.dumps({"action": "ack", "id": event}))
    expect(said).to_contain_text(f"From {between[-1]} to {last}: it skips 1 events")
    dialog.get_by_role("button", name="Move", exact=True).click()
    told(clients, f"Moved to {last}: 0 repeated, 1 skipped")
    worker.close()
    demo.rest("DELETE", "/v1/buckets/orders/consumers/goes%20on")


def test_an_event_that_was_refused_is_found_and_skipped(clients: Page, demo: Demo) -> None:
    """The consumer is past it. The page leads to it, says how often it was tried and when it is due, and skips it
    alone; the event says so, too."""
    refuser = demo.client(
        "refuser/1.0", buckets=["payments"], consumer="refuser", since={"last": 2}, outputs="none", max_in_flight=2
    )
    first, second = taken(refuser, 2)
    refuser.send(json.dumps({"action": "nak", "id": first, "delay": 3600}))
    refuser.send(json.dumps({"action": "ack", "id": second}))
    wait_for(lambda: demo.consumer("refuser", "payments")["floor"] == second, "the ack")
    refuser.close()
    clients.set_viewport_size({"width": 1440, "height": 900})
    clients.goto(f"/ui/events/{first}")
    expect(clients.get_by_role("article")).to_contain_text("refuser tried 1 time, and not done")
    clients.goto("/ui/clients")
    row = clients.get_by_role("region", name="Consumers").get_by_role("row").filter(has_text="refuser")
    expect(row).to_contain_text(re.compile("oldest event tried 1 time, due in (1 h|[56]. min), 1 to be tried again"))
    expect(row.get_by_role("link", name="oldest event")).to_have_attribute("href", f"/ui/events/{first}")
    row.get_by_role("button", name="Move refuser").click()
    dialog = clients.get_by_role("dialog", name="Move refuser")
    expect(dialog).to_contain_text(f"The oldest event that it is not done with is {first}, tried 1 time.")
    expect(dialog.get_by_role("radio", name="The event after the next one")).to_have_count(0)
    dialog.get_by_role("radio", name="events that wait for another try are skipped").check()
    expect(dialog.get_by_role("status").first).to_contain_text("it skips 1 events that it has not done.")
    dialog.get_by_role("button", name="Move", exact=True).click()
    expect(dialog).to_have_count(0)
    assert demo.consumer("refuser", "payments")["oldest"] is None
    demo.rest("DELETE", "/v1/buckets/payments/consumers/refuser")


def test_an_event_that_was_refused_is_given_up(clients: Page, demo: Demo) -> None:
    """After a question. It is a dead letter then, and the rest of the consumer is as it was."""
    refuser = demo.client(
        "refuser/1.0", buckets=["payments"], consumer="refuser", since={"last": 3}, outputs="none", max_in_flight=3
    )
    first, second, third = taken(refuser, 3)
    for event, delay in ((first, 3600), (second, 3600)):
        refuser.send(json.dumps({"action": "nak", "id": event, "delay": delay}))
    refuser.send(json.dumps({"action": "ack", "id": third}))
    wait_for(lambda: demo.consumer("refuser", "payments")["floor"] == third, "the ack")
    refuser.close()
    clients.goto("/ui/clients")
    row = clients.get_by_role("region", name="Consumers").get_by_role("row").filter(has_text="refuser")
    row.get_by_role("button", name="Give up the oldest event of refuser").click()
    dialog = clients.get_by_role("dialog", name="Give up the oldest event?")
    expect(dialog.get_by_role("link")).to_have_css("text-decoration-line", "underline")
    expect(dialog).to_contain_text(f"The oldest event that refuser is not done with is {first}, tried 1 time.")
    dialog.get_by_role("button", name="Give up", exact=True).click()
    expect(dialog).to_have_count(0)
    told(clients, re.compile(f"{first} is a dead letter of refuser"))
    after = demo.consumer("refuser", "payments")
    assert (after["oldest"]["id"], after["parked"], after["dead"], after["floor"]) == (second, 1, 1, third)
    row.get_by_role("button", name="Dead letters of refuser: 1").click()
    letters = clients.get_by_role("dialog", name="Dead letters of refuser")
    expect(letters).to_contain_text("It was given up by an administrator (given_up)")
    demo.rest("DELETE", "/v1/buckets/payments/consumers/refuser")


def test_an_output_whose_circuit_is_open(clients: Page, demo: Demo) -> None:
    """It is said where its position is, with the time of the next try, or that this is in flight."""
    oldest = {"id": "aaaaaaaaaaaa-7", "attempts": 4, "out": False, "since": 1.0, "next_at": time.time() + 200}
    circuit = {"next_at": time.time() + 200}

    def failing(route: Route) -> None:
        found = route.fetch().json()
        open_ = {"floor": "aaaaaaaaaaaa-9", "parked": 3, "oldest": oldest, "circuit": circuit}
        route.fulfill(json=[{**each, **open_} if each["kind"] == "output" else each for each in found])

    def resumed(route: Route) -> None:
        found = route.fetch().json()
        route.fulfill(json={**found, "outputs": [{**each, "paused": False} for each in found["outputs"]]})

    clients.route("**/v1/buckets/*/consumers", failing)
    clients.route(re.compile("/v1/buckets/[^/]+$"), resumed)
    clients.goto("/ui/buckets/orders/outputs")
    card = clients.get_by_role("listitem").filter(has_text="warehouse")
    expect(card).to_contain_text("circuit open, next try in 3 min")
    expect(card).to_contain_text("3 to be tried again, oldest event tried 4 times, due in 3 min")
    expect(card.get_by_role("link", name="oldest event")).to_have_attribute("href", "/ui/events/aaaaaaaaaaaa-7")
    circuit["next_at"] = 0
    clients.goto("/ui/buckets/orders/consumers")
    row = clients.get_by_role("region", name="Consumers").get_by_role("row").filter(has_text="warehouse")
    expect(row).to_contain_text("circuit open, next try now")


def test_of_many_buckets_those_that_are_behind(clients: Page) -> None:
    """Where there are too many to ask each for its consumers, those that are furthest behind are asked."""

    def many(route: Route) -> None:
        found = route.fetch().json()
        route.fulfill(json=found + [{**found[0], "id": f"no-{each}", "name": f"no-{each}"} for each in range(41)])

    asked: list[str] = []
    clients.on("request", lambda request: asked.append(request.url))
    clients.route("**/v1/buckets", many)
    clients.reload()
    expect(clients.get_by_text("These are the consumers of the buckets that are furthest behind")).to_be_visible()
    consumers = clients.get_by_role("region", name="Consumers")
    expect(consumers.get_by_role("row").filter(has_text="billing")).to_be_visible()
    assert not [url for url in asked if "/no-" in url]


def test_an_unknown_place_is_refused(clients: Page, watch: object) -> None:
    """An id that names no event is told in the dialog, and nothing can be pressed."""
    watch.expected.append("status of 400")  # type: ignore[attr-defined]
    clients.get_by_role("button", name="Move billing").click()
    dialog = clients.get_by_role("dialog")
    dialog.get_by_label("The event's id").fill("aaaaaaaaaaaa-1")
    expect(dialog.get_by_role("alert")).to_be_visible()
    expect(dialog.get_by_role("button", name="Move", exact=True)).to_be_disabled()
    clients.keyboard.press("Escape")
    expect(dialog).to_have_count(0)


def test_dead_letters(clients: Page, demo: Demo) -> None:
    """An event says who gave it up, after how many tries, and why. They stand with their reasons; one is sent again,
    one forgotten, and the rest at once, after a question."""
    letters = demo.rest("GET", "/v1/buckets/orders/consumers/mailer/dead")["data"]
    article = clients.get_by_role("article")
    for letter in letters[:2]:
        clients.goto(f"/ui/events/{letter['id']}")
        expect(article).to_contain_text("mailer given up after 1 try: max_deliver")
    clients.goto(f"/ui/events/{demo.consumer('mailer')['head']}")
    expect(article).to_contain_text("Not done by")
    expect(article).not_to_contain_text("given up")
    clients.goto("/ui/clients")
    clients.get_by_role("button", name=f"Dead letters of mailer: {len(letters)}").click()
    dialog = clients.get_by_role("dialog", name="Dead letters of mailer")
    rows = dialog.get_by_role("row").filter(has_text="max_deliver")
    expect(rows).to_have_count(len(letters))
    dialog.get_by_role("button", name=f"Send again {letters[0]['id']}", exact=True).click()
    expect(rows).to_have_count(len(letters) - 1)
    assert clients.evaluate("() => document.activeElement.closest('dialog') !== null")
    dialog.get_by_role("checkbox", name=f"Choose {letters[1]['id']}", exact=True).check()
    dialog.get_by_role("button", name="Forget 1 chosen").click()
    clients.get_by_role("dialog", name="Forget 1 dead letters?").get_by_role("button", name="Forget").click()
    expect(rows).to_have_count(len(letters) - 2)
    dialog.get_by_role("button", name="Forget all").click()
    clients.get_by_role("dialog", name="Forget all dead letters?").get_by_role("button", name="Forget").click()
    expect(dialog.get_by_text("There are none.")).to_be_visible()
    mailer = demo.consumer("mailer")
    assert (mailer["dead"], mailer["parked"]) == (0, 1)


def test_dead_letters_whose_events_are_gone(clients: Page) -> None:
    """It is told how many can't be sent again."""
    clients.route("**/dead/resend", lambda route: route.fulfill(json={"scheduled": 1, "left": 2, "gone": 3}))
    letter = {"id": "aaaaaaaaaaaa-1", "seq": 1, "kind": "client", "consumer": "billing", "attempts": 1, "since": 1.0}
    page = {"data": [{**letter, "at": 2.0, "reason": "retention"}]}
    clients.route("**/consumers/billing/dead?*", lambda route: route.fulfill(json=page))

    def dead(route: Route) -> None:
        route.fulfill(json=[{**each, "dead": 6} for each in route.fetch().json()])

    clients.route("**/v1/buckets/*/consumers", dead)
    clients.reload()
    clients.get_by_role("button", name="Dead letters of billing: 6").click()
    clients.get_by_role("dialog").get_by_role("button", name="Send all again").click()
    stay, gone = "2 stay, as too many wait already", "3 can't be, as retention removed them"
    told(clients, re.compile(f"1 will be delivered again; {stay}; {gone}"))


def test_lag_where_nothing_was_measured(clients: Page) -> None:
    """The plot has a gap there. Where the relay ran, a consumer without a lag was not behind."""
    at = time.time() // 10 * 10 + 1000
    answers = {
        True: {"from": at, "step": 10, "series": {"lag": [40, None, None, 35]}},
        False: {"from": at - 10, "step": 10, "series": {"events": [None, 0, 0, None, 0]}},
    }
    clients.route("**/v1/series?*", lambda route: route.fulfill(json=answers["consumer=" in route.request.url]))
    clients.get_by_role("button", name="Lag of mailer over time").click()
    clients.get_by_role("button", name="show as table").click()
    values = clients.get_by_role("region", name="Lag of mailer, in events: values")
    expect(values.locator("td.num")).to_have_text(["35", "–", "0", "40"])


def test_lag_over_time_and_deletion(clients: Page, demo: Demo) -> None:
    """A consumer's lag is a plot, in sight wherever its row is; it is deleted once its name was typed."""
    clients.set_viewport_size({"width": 390, "height": 700})
    button = clients.get_by_role("button", name="Lag of mailer over time")
    button.click()
    plot = clients.get_by_role("img", name=re.compile("^Lag of mailer, in events, now: events [0-9]+"))
    expect(plot).to_be_in_viewport(ratio=1)
    clients.keyboard.press("Escape")
    expect(button).to_be_focused()
    demo.client("leaver/1.0", buckets=["orders"], consumer="leaver").close()
    clients.get_by_role("button", name="Delete leaver").click()
    dialog = clients.get_by_role("dialog", name="Delete the consumer leaver?")
    expect(dialog.get_by_role("button", name="Delete")).to_be_disabled()
    dialog.get_by_label("Type leaver to go on").fill("leaver")
    dialog.get_by_role("button", name="Delete").click()
    expect(clients.get_by_role("button", name="Delete leaver")).to_have_count(0)
    # The button that asked for it has gone with its row.
    expect(clients.get_by_role("main")).to_be_focused()
    assert "leaver" not in [each["name"] for each in demo.rest("GET", "/v1/buckets/orders/consumers")]


def test_in_the_bucket(clients: Page) -> None:
    """A bucket's tab has the same table, with an output under its own name."""
    clients.goto("/ui/buckets/orders/consumers")
    table = clients.get_by_role("region", name="Consumers")
    expect(table.get_by_role("row").filter(has_text="warehouse")).to_contain_text("the relay sends")


def test_who_stays_behind_as_a_bucket_becomes_ephemeral(clients: Page, demo: Demo) -> None:
    """Before it is saved its settings name the clients' consumers that nobody can come back to then, and later the
    list of consumers does, as long as it is so."""
    clients.goto("/ui/buckets/orders/settings")
    named = clients.get_by_role("status").filter(has_text="while the bucket is ephemeral")
    expect(clients.get_by_label("Ephemeral")).not_to_be_checked()
    expect(named).to_have_count(0)
    names = [each["name"] for each in demo.rest("GET", "/v1/buckets/orders/consumers") if each["kind"] == "client"]
    assert "billing" in names
    clients.get_by_label("Ephemeral").check()
    for name in names:
        expect(named).to_contain_text(name)
    expect(named).not_to_contain_text("output")
    clients.get_by_role("button", name="Save").click()
    told(clients, "Settings saved")
    expect(named).to_have_count(0)
    clients.get_by_role("link", name="Consumers").click()
    expect(named).to_contain_text("billing")
    clients.goto("/ui/clients")
    expect(clients.get_by_role("button", name="Move billing")).to_be_visible()
    demo.rest("PUT", "/v1/buckets/orders", {"ephemeral": False})
    clients.goto("/ui/buckets/orders/consumers")
    expect(clients.get_by_role("button", name="Move billing")).to_be_visible()
    expect(named).to_have_count(0)
