"""Events of a bucket sent again from the page, edited, or to elsewhere, and samples. A real relay and Chromium."""

from __future__ import annotations

import json
import re
from typing import Any

from playwright.sync_api import Page, expect
from websockets.sync.client import connect

from tests.acceptance.relay import TIMEOUT, Relay
from tests.ui.browser import Watch, hold, told, until
from tests.ui.sending import Sender, rows


def _amid_sending(events: Page, sender: Sender) -> list[Any]:
    """Sends three events again; the first is through, the second's request is held: the last of these."""
    for index in range(3):
        sender.send(f"/{index}")
    expect(rows(events)).to_have_count(3)
    held: list[Any] = []

    def hold(route: Any) -> None:
        held.append(route)
        if len(held) == 1:
            route.continue_()

    events.route("**/action", hold)
    events.get_by_role("listbox").focus()
    events.keyboard.press("Control+a")
    events.get_by_role("button", name="Send again").click()
    dialog = events.get_by_role("dialog")
    dialog.get_by_role("button", name="Send", exact=True).click()
    expect(dialog).to_contain_text("1 of 3 done, 1 sent")
    until(events, lambda: len(held) == 2, "the second request")
    return held


def test_sending_again(events: Page, sender: Sender) -> None:
    """One event, a selection, a range: each comes again as a new event, and the bar says how far it is."""
    for index in range(4):
        sender.send(f"/{index}", b"x")
    expect(rows(events)).to_have_count(4)
    dialog = events.get_by_role("dialog")
    for index in (1, 3):
        rows(events).nth(index).locator(".tick").click()
    events.get_by_role("button", name="Send again").click()
    dialog.get_by_role("button", name="Send", exact=True).click()
    expect(dialog).to_contain_text("2 of 2 done, 2 sent.")
    dialog.get_by_role("button", name="Close", exact=True).last.click()
    expect(rows(events)).to_have_count(6)
    assert [each["extra_path"] for each in sender.events()[4:]] == ["/0", "/2"]
    expect(rows(events).first).to_contain_text("again")
    events.get_by_role("button", name="Send a range again").click()
    dialog.get_by_label("From number").fill("2")
    dialog.get_by_label("To number").fill("4")
    dialog.get_by_role("button", name="Send", exact=True).click()
    expect(dialog).to_contain_text("3 of 3 done, 3 sent.")
    assert [each["extra_path"] for each in sender.events()[6:]] == ["/1", "/2", "/3"]


def test_sending_can_be_stopped(events: Page, sender: Sender) -> None:
    """Stop ends it where it is; nothing is sent after that."""
    held = _amid_sending(events, sender)
    dialog = events.get_by_role("dialog")
    dialog.get_by_role("button", name="Stop").click()
    expect(dialog).to_contain_text("Stopped. What was on its way may have been sent.")
    assert [each["extra_path"] for each in sender.events()] == ["/0", "/1", "/2", "/0"]
    assert len(held) == 2


def test_a_selection_is_not_looked_for_again(events: Page, sender: Sender) -> None:
    """The copies come into the list: as each does, the list does not look for all events of the selection in itself.
    With 10,000 of them the page would come to nothing else, and nobody could stop it."""
    for index in range(60):
        sender.send(f"/{index}")
    expect(events.get_by_text("60 listed")).to_be_visible()
    events.get_by_role("listbox").focus()
    events.keyboard.press("Control+a")
    events.get_by_role("button", name="Send again").click()
    expect(events.get_by_role("dialog", name="Send 60 events again")).to_be_visible()
    events.evaluate("""() => {
        window.looked = 0;
        const { findLastIndex } = Array.prototype;
        Array.prototype.findLastIndex = function (...given) {
            looked += 1;
            return findLastIndex.apply(this, given);
        };
    }""")
    sender.send("/a-copy")
    expect(events.get_by_text("61 listed")).to_be_attached()
    assert events.evaluate("looked") < 60


def test_to_a_url_an_output_and_a_consumer(events: Page, watch: Watch, sender: Sender, relay: Relay) -> None:
    """A URL that may not be called is told; an output gets the event alone; a consumer gets the same one again."""
    watch.expected.append("status of 4")
    sender.send("/x", b"x")
    output = {"name": "shop", "internal": True, "destination": "http://127.0.0.1:1/"}
    (event,) = sender.events()
    key, secret = relay.create_token()
    with connect(relay.ws_url, open_timeout=TIMEOUT) as socket:
        subscribe = {"action": "subscribe", "buckets": [sender.name], "consumer": "billing", "since": "earliest"}
        for message in ({"action": "auth", "key": key, "secret": secret}, subscribe):
            socket.send(json.dumps(message))

        def given() -> str:
            while (frame := json.loads(socket.recv(TIMEOUT)))["type"] != "webhook":
                pass
            socket.send(json.dumps({"action": "ack", "id": frame["meta"]["id"]}))
            return str(frame["meta"]["id"])

        assert given() == event["id"]
        sender.rest("POST", f"/v1/buckets/{sender.name}/outputs", output)
        events.goto(f"/ui/events/{event['id']}")
        events.get_by_role("button", name="Send again").click()
        dialog = events.get_by_role("dialog")
        dialog.get_by_label("A URL").check()
        dialog.get_by_label("URL", exact=True).fill("http://127.0.0.1:1/x")
        dialog.get_by_role("button", name="Send", exact=True).click()
        expect(dialog.get_by_role("alert")).to_contain_text("is not a public address")
        dialog.get_by_label("One output").check()
        dialog.get_by_role("button", name="Send once more").click()
        expect(dialog).to_contain_text("1 of 1 done, 1 sent.")
        assert sender.events()[1]["target"] == 1
        assert given().startswith(sender.events()[1]["id"])
        dialog.get_by_label("One consumer").check()
        expect(dialog.get_by_label("Consumer", exact=True)).to_have_value("billing")
        dialog.get_by_role("button", name="Send once more").click()
        expect(dialog).to_contain_text("1 of 1 done, 1 sent.")
        assert given().startswith(event["id"])


def test_again_to_where_it_failed(events: Page, sender: Sender) -> None:
    """Where one output alone failed, that is where an event goes again. What was sent can be looked at."""
    sender.rest("POST", f"/v1/buckets/{sender.name}/outputs", {"name": "shop", "internal": True})
    second = {"name": "crm", "internal": True}
    sender.rest("POST", f"/v1/buckets/{sender.name}/outputs", second)
    sender.send("/x", b"x")
    (event,) = sender.events()
    for output, status, code in ((1, "sent", 200), (2, "failed", 500)):
        sender.rest("PUT", f"/v1/logs/{event['id']}-{output}", {"status": status, "status_code": code})
    events.goto(f"/ui/events/{event['id']}")
    events.get_by_role("button", name="Send again").click()
    dialog = events.get_by_role("dialog")
    expect(dialog.get_by_label("One output")).to_be_checked()
    expect(dialog.get_by_label("Output", exact=True).locator("option:checked")).to_have_text("crm")
    dialog.get_by_role("button", name="Send", exact=True).click()
    dialog.get_by_role("link", name="Look at the copy").click()
    expect(dialog).to_have_count(0)
    expect(events.get_by_text("Sent again from")).to_be_visible()
    assert sender.events()[1]["target"] == 2


def test_to_an_output_that_gets_nothing(events: Page, sender: Sender) -> None:
    """None is sent to a disabled output that clients deliver: nobody would get it. One that the relay forwards to gets
    it later, and the dialog says so."""
    where = f"/v1/buckets/{sender.name}/outputs"
    sender.rest("POST", where, {"name": "off", "internal": True, "disabled": True})
    destination = {"internal": False, "destination": "https://shop.example.org/"}
    sender.rest("POST", where, {"name": "waiting", **destination, "paused": True})
    sender.rest("POST", where, {"name": "out", **destination, "disabled": True})
    sender.send("/x", b"x")
    (event,) = sender.events()
    events.goto(f"/ui/events/{event['id']}")
    events.get_by_role("button", name="Send again").click()
    dialog = events.get_by_role("dialog")
    dialog.get_by_label("One output").check()
    send = dialog.get_by_role("button", name="Send", exact=True)
    expect(dialog).to_contain_text("It is disabled: nobody would get a copy.")
    expect(send).to_be_disabled()
    dialog.get_by_label("Output", exact=True).select_option("waiting")
    expect(dialog).to_contain_text("It is paused: it gets the copies once it is resumed.")
    expect(send).to_be_enabled()
    dialog.get_by_label("Output", exact=True).select_option("out")
    expect(dialog).to_contain_text("It is disabled: it gets the copies once it is enabled.")
    send.click()
    expect(dialog).to_contain_text("1 of 1 done, 1 sent.")
    assert sender.events()[1]["target"] == 3


def test_edit_and_send(events: Page, sender: Sender) -> None:
    """What was edited is what is sent, the rest to the byte as it was, and it says from which event it was made."""
    sender.send("/o?a=1", b'{"a": 1}\r\n', Content_Type="application/json", X_Kind="order")
    rows(events).first.click()
    events.get_by_role("button", name="Edit and send").click()
    dialog = events.get_by_role("dialog")
    expect(dialog.get_by_label("Headers")).to_have_value(re.compile("X-Kind: order"))
    dialog.get_by_label("Method").select_option("PATCH")
    dialog.get_by_label("Path behind the input").fill("/p")
    dialog.get_by_role("button", name="Send", exact=True).click()
    expect(rows(events).first).to_contain_text("/p?a=1")
    expect(rows(events).first).to_contain_text("edited")
    first, second = sender.events()
    assert (second["method"], second["body"], second["edited"], second["resend_of"]) == (
        "PATCH",
        '{"a": 1}\r\n',
        True,
        first["id"],
    )
    assert second["headers"]["X-Kind"] == ["order"]


def test_a_sample(events: Page, sender: Sender) -> None:
    """A test event of a provider comes in, signed where the input has a secret."""
    path = sender.path.rpartition("/")[2]
    verify = {"provider": "github", "secrets": ["it is a secret"], "on_failure": "mark"}
    sender.rest("PUT", f"/v1/buckets/{sender.name}/inputs/{path}", {"name": "GitHub", "verify": verify})
    events.reload()
    events.get_by_role("button", name="Send a test event").click()
    dialog = events.get_by_role("dialog")
    expect(dialog.get_by_label("Sample")).not_to_have_value("")
    dialog.get_by_role("button", name="Send", exact=True).click()
    expect(rows(events)).to_have_count(1)
    expect(rows(events).first).to_contain_text("verified")


def test_sent_once_however_often_it_is_pressed(events: Page, sender: Sender) -> None:
    """While the relay has not answered yet, Send does nothing more: of a sample, and of an event made by hand."""
    held = hold(events, re.compile("/v1/buckets/[^/]+/(events|samples)$"), "POST")
    dialog = events.get_by_role("dialog")
    for button in ("New event", "Send a test event"):
        events.get_by_role("button", name=button).click()
        send = dialog.get_by_role("button", name="Send", exact=True)
        send.dblclick()
        send.click(force=True)
        until(events, lambda: held, "the request")
        for route in held:
            route.continue_()
        expect(dialog).to_have_count(0)
        assert len(held) == 1
        held.clear()
    expect(rows(events)).to_have_count(2)


def test_sent_again_once(events: Page, sender: Sender) -> None:
    """By a double click, whose second press meets neither what stops it nor what sends it once more; and by a key
    that is pressed twice, behind which the focus is where it was."""
    sender.send("/x")
    rows(events).first.click()
    held = hold(events, "**/action")
    dialog = events.get_by_role("dialog")
    send = dialog.get_by_role("button", name=re.compile("^Send"))
    for way in ("double click", "two clicks", "key"):
        events.get_by_role("button", name="Send again").click()
        if way == "key":
            send.press("Enter")
        elif way == "double click":
            send.dblclick()
        else:  # what a double click is in other browsers, where its second press meets another element
            send.hover()
            for _ in range(2):
                events.mouse.down()
                events.mouse.up()
        expect(dialog.get_by_role("button", name="Stop")).to_be_visible()
        if way == "key":
            expect(send).to_be_focused()
            events.keyboard.press("Enter")
        until(events, lambda: held, "the request")
        held.pop().continue_()
        expect(dialog).to_contain_text("1 of 1 done, 1 sent.")
        assert not held
        dialog.get_by_role("button", name="Close", exact=True).last.click()
    events.unroute("**/action")
    events.get_by_role("button", name="Send again").click()
    send.dblclick()
    expect(dialog).to_contain_text("1 of 1 done, 1 sent.")
    expect(rows(events)).to_have_count(5)
    assert len(sender.events()) == 5


def test_an_edit_is_not_lost(events: Page, sender: Sender) -> None:
    """A dialog that is closed by Escape, or beside it, keeps what was written until it is sent or taken back."""
    sender.send("/o", b'{"a": 1}', Content_Type="application/json")
    rows(events).first.click()
    dialog = events.get_by_role("dialog")
    body = dialog.get_by_label("Body", exact=True)
    for close in ("escape", "beside"):
        events.get_by_role("button", name="Edit and send").click()
        body.fill(f"by hand, {close}")
        if close == "escape":
            events.keyboard.press("Escape")
        else:
            events.mouse.click(5, 5)
        expect(dialog).to_have_count(0)
        expect(events.get_by_role("link", name=re.compile("Events.*not saved"))).to_be_visible()
        events.get_by_role("button", name="Edit and send").click()
        expect(body).to_have_value(f"by hand, {close}")
        expect(dialog).to_contain_text("These changes were not sent before.")
        events.keyboard.press("Escape")
    events.get_by_role("button", name="New event").click()
    expect(body).to_have_value('{"hello": "world"}')
    events.keyboard.press("Escape")
    events.get_by_role("button", name="Edit and send").click()
    dialog.get_by_role("button", name="Cancel").click()
    events.get_by_role("button", name="Edit and send").click()
    expect(body).to_have_value('{"a": 1}')
    body.fill("sent")
    dialog.get_by_role("button", name="Send", exact=True).click()
    expect(rows(events)).to_have_count(2)
    expect(events.get_by_role("link", name=re.compile("Events.*not saved"))).to_have_count(0)


def test_sending_is_not_ended_by_mistake(events: Page, watch: Watch, sender: Sender) -> None:
    """Neither Escape nor a press beside the dialog ends it; a relay that is gone does, where it is."""
    watch.expected.append("ERR_CONNECTION_REFUSED")
    held = _amid_sending(events, sender)
    dialog = events.get_by_role("dialog")
    events.mouse.click(5, 5)
    events.keyboard.press("Escape")
    told(events, re.compile("stop it first"))
    expect(dialog.get_by_role("button", name="Stop")).to_be_visible()
    expect(dialog.get_by_role("button", name="Cancel")).to_have_count(0)
    held[1].abort("connectionrefused")
    expect(dialog).to_contain_text("1 of 3 done, 1 sent. Stopped.")
    expect(dialog.get_by_role("alert")).to_contain_text("The relay can't be reached")
    assert len(held) == 2
    dialog.get_by_role("button", name="Close", exact=True).last.click()
    expect(dialog).to_have_count(0)
