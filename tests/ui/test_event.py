"""One event in the page: its parts, its neighbours, bodies of all kinds, deliveries, and what it is compared with."""

from __future__ import annotations

import base64
import json
import re
import subprocess
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from websockets.sync.client import connect

from tests.acceptance.relay import TIMEOUT, Relay, wait_for
from tests.ui.browser import Watch, told
from tests.ui.sending import Sender, rows

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAoAAAAKCAYAAACNMs+9AAAAFUlEQVR42mNk+M9Qz0AEYBxVSF+FABJADveWkH6oAAAAAElFTkSuQmCC"
)


def test_one_event(events: Page, sender: Sender) -> None:
    """What came is there: query, headers in order, the body as a tree, raw and hex, and the id as a link."""
    body = '{"big": 12345678901234567890, "__proto__": {"x": "<b>"}, "turn": "a\u202eb"}'
    sender.send("/o?q=1&q=%3Cb%3E", body.encode(), Content_Type="application/json", X_Turn="gr\u00fc\u00dfe")
    rows(events).first.click()
    article = events.get_by_role("article")
    query = article.get_by_role("region", name="Query")
    expect(query.get_by_role("row")).to_have_text(["NameValue", "q1", "q<b>"])
    expect(article.locator(".json-tree")).to_contain_text("12345678901234567890")
    expect(article.locator(".json-tree")).to_contain_text("__proto__")
    expect(article.locator(".hidden-mark")).to_have_text(["RLO"])
    names = article.get_by_role("region", name="Headers").get_by_role("rowheader").all_inner_texts()
    assert names == ["Host", "Accept-Encoding", "Content-Length", "Content-Type", "X-Turn"]
    article.get_by_role("button", name="Raw").click()
    expect(article.get_by_label("Body, raw")).to_contain_text('"big": 12345678901234567890')
    article.get_by_role("button", name="Hex").click()
    expect(article.get_by_label("Body in hex")).to_contain_text("00000000  7b 22 62 69 67 22 3a 20  31 32")
    with events.expect_download() as download:
        article.get_by_role("link", name="Download body").click()
    assert Path(download.value.path()).read_bytes() == body.encode()
    article_id = sender.events()[0]["id"]
    events.goto(f"/ui/events/{article_id}")
    expect(events.get_by_role("heading", level=1)).to_contain_text("/o?q=1&q=%3Cb%3E")


def test_a_body_in_another_charset(events: Page, sender: Sender) -> None:
    """It is read by the charset that its type names, or by the mark of UTF-16, and the page says by which. In what is
    none, the page names the first byte that is wrong."""
    sender.send("/latin", "Zoë".encode("latin-1"), Content_Type="text/plain; charset=iso-8859-1")
    sender.send("/wide", '{"name": "Zoë"}'.encode("utf-16"), Content_Type="application/json")
    sender.send("/wrong", '{"ü\ufffd": "'.encode() + b'\xe4"}', Content_Type="application/json; charset=utf-8")
    sender.send("/bytes", b"\xff\xfea\0", Content_Type="application/octet-stream")
    body = events.get_by_role("article").locator(".body")
    rows(events).filter(has_text="/latin").click()
    expect(body).to_contain_text("Read as windows-1252")
    expect(body.get_by_label("Body, raw")).to_have_text("Zoë")
    rows(events).filter(has_text="/wide").click()
    expect(body).to_contain_text("Read as utf-16le")
    expect(body.locator(".json-string")).to_have_text('"Zoë"')
    rows(events).filter(has_text="/wrong").click()
    expect(body).to_contain_text("This is not UTF-8: the byte e4 at 0000000b is the first that is wrong.")
    expect(body.get_by_label("Body in hex")).to_be_visible()
    rows(events).filter(has_text="/bytes").click()
    expect(body.get_by_label("Body in hex")).to_contain_text("ff fe 61 00")
    expect(body).not_to_contain_text("UTF-8")
    ids = {each["extra_path"]: each["id"] for each in sender.events()}
    events.goto(f"/ui/compare/{ids['/latin']}/{ids['/wide']}")
    expect(events.locator(".diff")).to_contain_text("Zoë")
    expect(events.locator(".diff")).to_contain_text('{"name": "Zoë"}')


@pytest.mark.parametrize(("width", "height", "lines"), [(1440, 900, "abcde"), (1280, 800, "abc")])
def test_the_body_is_in_sight(events: Page, sender: Sender, width: int, height: int, lines: str) -> None:
    """Beside the list, in the window of a laptop, and several lines of it in a small one: who opens an event came for
    that."""
    events.set_viewport_size({"width": width, "height": height})
    sender.send("/x", json.dumps(dict.fromkeys(lines, 1)).encode(), Content_Type="application/json")
    rows(events).first.click()
    expect(events.locator(".json-tree").get_by_text(lines[-1], exact=True)).to_be_in_viewport(ratio=1)


def test_json_in_a_string(events: Page, sender: Sender) -> None:
    """A string that holds JSON can be read as such, by keyboard too, and again as the string; other strings can't."""
    body = {"payload": json.dumps({"order": 4711, "lines": "[1, 2]"}), "text": "[x", "number": "7"}
    sender.send("/x", json.dumps(body).encode(), Content_Type="application/json")
    rows(events).first.click()
    tree = events.locator(".json-tree").first
    button = tree.get_by_role("button", name="Read as JSON")
    expect(button).to_have_count(1)
    expect(tree.locator(".json-number")).to_have_count(0)
    button.focus()
    events.keyboard.press("Enter")
    expect(tree.locator(".json-number")).to_have_text(["4711"])
    expect(button).to_have_count(1)
    tree.get_by_role("button", name="Read as text").press("Enter")
    expect(tree.locator(".json-string").first).to_contain_text("4711")


def test_who_is_not_done_with_an_event(events: Page, sender: Sender) -> None:
    """An event says which output or consumer has yet to get it and why, and which one its rules keep it from."""
    bucket = f"/v1/buckets/{sender.name}"
    public = {"internal": False, "destination": "https://hook.example.org/"}
    rules = {"match": {"type": "value", "value": "x", "parameter": {"source": "payload", "name": "kind"}}}
    sender.rest("POST", f"{bucket}/outputs", {"name": "crm", "paused": True, **public})
    sender.rest("POST", f"{bucket}/outputs", {"name": "only x", "rules": rules, **public})
    sender.send("/first")
    sender.send("/second")
    rows(events).filter(has_text="/second").click()
    article = events.get_by_role("article")
    expect(article).to_contain_text("crm paused, 1 event before it")
    expect(article).to_contain_text("only x not sent: its rules don't fit")
    expect(article).not_to_contain_text("No delivery of it was reported yet")
    rows(events).filter(has_text="/first").click()
    expect(article).to_contain_text("crm paused, it comes next")
    article.get_by_role("link", name="crm").click()
    expect(events.get_by_role("button", name="Resume crm")).to_be_visible()


def test_what_a_consumer_has_done_out_of_turn(events: Page, sender: Sender, relay: Relay) -> None:
    """Which events after its next one are done is not known, so of none it is said that they are not."""
    crm = {"name": "crm", "paused": True, "internal": False, "destination": "https://hook.example.org/"}
    sender.rest("POST", f"/v1/buckets/{sender.name}/outputs", crm)
    for path in ("/first", "/second", "/third"):
        sender.send(path)
    key, secret = relay.create_token()
    begins = {"buckets": [sender.name], "consumer": "worker", "since": "earliest", "outputs": "none"}
    subscribe = {"action": "subscribe", **begins}
    with connect(relay.ws_url, open_timeout=TIMEOUT, close_timeout=1) as client:
        for message in ({"action": "auth", "key": key, "secret": secret}, subscribe):
            client.send(json.dumps(message))
        given: list[str] = []
        while len(given) < 3:
            frame = json.loads(client.recv(TIMEOUT))
            given += [frame["meta"]["id"]] if frame["type"] == "webhook" else []
        client.send(json.dumps({"action": "ack", "id": given[1]}))
        consumer = f"/v1/buckets/{sender.name}/consumers/worker"
        wait_for(lambda: sender.rest("GET", consumer)["pending"] == 2, "the ack")
        article = events.get_by_role("article")
        rows(events).filter(has_text="/first").click()
        expect(article).to_contain_text("worker it has it now, and has not answered")
        rows(events).filter(has_text="/second").click()
        expect(article).to_contain_text("crm paused, 1 event before it")
        assert "worker" not in article.inner_text()


def test_neighbours_and_what_is_not_there(events: Page, watch: Watch, sender: Sender) -> None:
    """An event's page goes to the one before and the one after; an id of nothing is told."""
    watch.expected.append("status of 40[04]")
    for index in range(3):
        sender.send(f"/{index}")
    middle = sender.events()[1]["id"]
    events.goto(f"/ui/events/{middle}")
    heading = events.get_by_role("heading", level=1)
    expect(heading).to_contain_text("/1")
    events.get_by_role("link", name=sender.name).wait_for()
    events.keyboard.press("j")
    expect(heading).to_contain_text("/0")
    events.keyboard.press("k")
    expect(heading).to_contain_text("/1")
    events.get_by_role("button", name="Newer").click()
    expect(heading).to_contain_text("/2")
    events.goto("/ui/events/aaaaaaaaaaaa-1")
    expect(events.get_by_role("alert")).to_contain_text("No bucket that you can see holds this event")


def test_bodies_of_other_kinds(events: Page, sender: Sender) -> None:
    """A picture is one where type and bytes agree; forms are tables, XML is indented, a JSON error is pointed at."""
    article = events.get_by_role("article")
    picture = article.get_by_role("img")
    form = article.get_by_role("region", name="Form fields").get_by_role("row")

    def show(kind: str, body: bytes) -> None:
        sender.send(f"/{kind}", body, Content_Type=kind)
        expect(rows(events).first).to_contain_text(f"/{kind}")
        rows(events).first.click()
        expect(article.get_by_role("heading", level=2)).to_contain_text(kind)

    show("image/png", PNG)
    expect(picture).to_have_js_property("naturalWidth", 10)
    show("image/jpeg", b"<svg onload='x'/>")
    expect(picture).to_have_count(0)
    show("application/x-www-form-urlencoded", b"a=1&a=%C3%BC")
    expect(form).to_have_text(["NameValue", "a1", "aü"])
    show("text/xml", b"<a><b>1</b></a>")
    expect(article.get_by_label("Body, pretty")).to_have_text("<a>\n  <b>1</b>\n</a>")
    show("application/json", b'{"a": [1,,2]}')
    expect(article.get_by_text("Line 1, column 10")).to_be_visible()
    show("text/plain", b"x" * 150_000)
    expect(article.get_by_label("Body, raw")).to_have_text("x" * 100_000)
    article.get_by_role("button", name="Show more").click()
    expect(article.get_by_label("Body, raw")).to_have_text("x" * 150_000)
    show("application/hal+json", b"\x00\xff")
    expect(article.get_by_label("Body in hex")).to_contain_text("00 ff")


def test_copied_as_curl_it_comes_again(events: Page, sender: Sender) -> None:
    """The command that is copied, run by a shell, makes the same event."""
    events.context.grant_permissions(["clipboard-read", "clipboard-write"])
    sender.send("/a?b=[1]", b"it's \x00 \xff", Content_Type="application/x", X_Kind="$(id)")
    rows(events).first.click()
    events.get_by_role("button", name="Copy as curl").click()
    told(events, "as curl copied")
    command = events.evaluate("navigator.clipboard.readText()")
    assert subprocess.run(["sh"], input=command.encode(), capture_output=True, timeout=TIMEOUT).returncode == 0
    first, second = sender.events()
    for name in ("method", "extra_path", "raw_query", "body_base64", "headers"):
        assert first[name] == second[name], name


def test_deliveries_and_answers(events: Page, sender: Sender) -> None:
    """What a client answered is there: status, time taken, headers and body; the list learns the state."""
    sender.send("/x", b"x")
    expect(rows(events)).to_have_count(1)
    (event,) = sender.events()
    answer = {
        "status_code": 502,
        "status": "failed",
        "duration_ms": 1234,
        "retries": 2,
        "response_headers": {"X-Why": ["<b>"]},
    }
    sender.rest(
        "PUT", f"/v1/logs/{event['id']}", {**answer, "response_body": base64.b64encode(b"bad <i>gateway").decode()}
    )
    expect(rows(events).first).to_contain_text("failed 502")
    rows(events).first.click()
    delivery = events.locator(".delivery")
    expect(delivery).to_contain_text(re.compile(r"failed 502.*1 s, 2 retries"))
    delivery.locator("summary").click()
    expect(delivery).to_contain_text("bad <i>gateway")
    expect(delivery.get_by_role("row", name="X-Why")).to_contain_text("<b>")


def test_comparing(events: Page, sender: Sender) -> None:
    """Two that are selected are put side by side, the older one on the left, also where the list has them no longer:
    headers and JSON by what they are, text by lines."""
    sender.send("/a", b'{"n": 1, "same": [1, 2]}', Content_Type="application/json", X_One="1")
    sender.send("/a", b'{"same": [1, 2], "n": 2}', Content_Type="application/json", X_Two="2")
    expect(rows(events)).to_have_count(2)
    for index in range(2):
        rows(events).nth(index).locator(".tick").click()
    events.get_by_label("Search paths, headers and bodies").fill("nothing has that")
    expect(events.get_by_text("No event fits")).to_be_visible()
    events.get_by_role("link", name="Compare").click()
    expect(events).to_have_title("Compare · Relay")
    bodies = events.get_by_role("region", name="Differences of the bodies")
    expect(bodies.get_by_role("row")).to_have_text(["PlaceLeftRight", "n12"])
    heads = events.get_by_role("region", name="Headers")
    expect(heads.get_by_role("row")).to_have_text(["NameLeftRight", "X-One1–", "X-Two–2"])
    events.get_by_role("button", name="By lines").click()
    expect(events.locator(".diff .left")).to_contain_text(['"n": 1'])
    events.get_by_role("link", name="Swap").click()
    expect(heads.get_by_role("row")).to_have_text(["NameLeftRight", "X-Two2–", "X-One–1"])


def test_comparing_long_texts(events: Page, sender: Sender) -> None:
    """Lines scroll in a part of their own: the page ends where what it shows ends."""
    for word in ("left", "right"):
        sender.send("/a", "\n".join(f"{word} {number}" for number in range(300)).encode(), Content_Type="text/plain")
    left, right = (each["id"] for each in sender.events())
    events.goto(f"/ui/compare/{left}/{right}")
    expect(events.locator(".diff .line")).to_have_count(600)
    assert events.evaluate("() => document.documentElement.scrollHeight") <= 900 * 2
