"""A hostile sender, and a hostile answer on the relay's own origin: nothing of it runs in the page, or beside it."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Iterator
from urllib.parse import quote

import pytest
from playwright.sync_api import Page

from relay_tornado.handlers.assets import ROOT
from tests.acceptance.relay import Relay
from tests.ui import quality
from tests.ui.browser import Watch, begin_session, sign_in

SCRIPT = "<script>window.ran = true</script><img src=x onerror='window.ran = true'>"
MARKUP = f"</textarea></title></script>{SCRIPT}<a href='javascript:window.ran = true'>x</a>{{{{x}}}}${{x}}"
ANSWER = f"<!doctype html>{SCRIPT}"
NAME = "a<b onclick='window.ran=1'>&amp;"

PARTS = re.findall(r'^  \["(/[^"]*)", \w', (ROOT / "app.js").read_text(), re.MULTILINE)
TABS = re.findall(r'^  \["(\w+)", "\w+", part\(', (ROOT / "pages" / "bucket.js").read_text(), re.MULTILINE)


@pytest.fixture(scope="module")
def hostile(relay: Relay) -> dict[str, str]:
    """A bucket with everything in it that a sender, or whoever may name things, can put there; its event's id."""
    path = relay.create_bucket(NAME, "--description", MARKUP)
    relay.command("input", "set", path.rpartition("/")[2], "--body", ANSWER, "--header",
                  "Content-Type: text/html", "--description", MARKUP)  # fmt: skip
    connection = http.client.HTTPConnection("127.0.0.1", relay.port, timeout=60)
    for kind, body in (
        ("text/html", MARKUP.encode()),
        ("application/json", json.dumps({MARKUP: MARKUP, "__proto__": {"ran": True}, "list": [MARKUP]}).encode()),
        ("application/x-www-form-urlencoded", b"a=%3Cscript%3Ewindow.ran=1%3C/script%3E&__proto__=1"),
        (
            "image/svg+xml",
            b"<svg xmlns='http://www.w3.org/2000/svg' onload='window.ran=1'><script>ran=1</script></svg>",
        ),
        ("image/png", b"\x89PNG\r\n\x1a\nno picture"),
        ('text/html"><script>window.ran=1</script>', b"\x00\xff\xfe\x80"),
    ):
        headers = {"Content-Type": kind, "X-Markup": MARKUP, "User-Agent": MARKUP}
        connection.putrequest("POST", f"{path}/%3Cscript%3E/..;/'\"<b>?q=<script>window.ran=1</script>&__proto__=x")
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (200, ANSWER.encode())
    connection.close()
    logs = relay.command("logs", "list", "--bucket", NAME)["data"]
    relay.command(
        "output", "create", NAME, "--destination", "http://localhost:9/", "--name", NAME, "--description", MARKUP
    )
    relay.create_token("--bucket", NAME, "--description", MARKUP)
    ids = [each["id"] for each in logs]
    return {"bucket": NAME, "ids": " ".join(ids), "left": ids[0], "right": ids[-1]}


def places(hostile: dict[str, str]) -> Iterator[str]:
    """The address of each part of the page, of each tab of the bucket, and of each event."""
    for pattern in PARTS:
        choices = [hostile]
        if ":tab" in pattern:
            choices = [{**hostile, "tab": tab} for tab in TABS]
        elif ":id" in pattern:
            choices = [{**hostile, "id": each} for each in hostile["ids"].split()]
        for choice in choices:
            yield "/ui" + re.sub(r":(\w+)", lambda match, choice=choice: quote(choice[match[1]], safe=""), pattern)


def test_no_markup_runs_in_any_part(page: Page, relay: Relay, administrator: str, hostile: dict[str, str]) -> None:
    """Each part of the page shows what somebody sent or named, and it is text."""
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    quality.prepare(page)
    begin_session(page, relay, administrator)
    assert {"events", "settings"} < set(TABS)
    shown = 0
    for place in places(hostile):
        page.goto(place)
        quality.settled(page)
        assert page.evaluate("() => window.ran ?? ({}).ran ?? null") is None, place
        assert page.locator("main script, main [onclick], main [onerror], main a[href^='javascript:']").count() == 0
        shown += "window.ran" in page.locator("main").inner_text()
    assert dialogs == []
    assert shown >= len(hostile["ids"].split())


def test_an_inputs_answer_is_no_page_of_the_relay(
    page: Page, watch: Watch, relay: Relay, administrator: str, hostile: dict[str, str]
) -> None:
    """A browser that opens an input's URL shows the HTML that it answers, and runs nothing of it."""
    watch.expected += ["Blocked script execution", "status of 404", "ERR_"]
    begin_session(page, relay, administrator)
    bucket = relay.command("bucket", "show", hostile["bucket"])
    answer = page.goto(f"/v1/webhooks/{bucket['inputs'][0]['id']}")
    assert answer is not None
    assert answer.headers["content-security-policy"] == "sandbox"
    assert answer.headers["content-type"] == "text/html"
    assert SCRIPT in answer.text()
    assert page.evaluate("() => window.ran ?? null") is None
    assert page.evaluate("() => window.origin") == "null"
    script = page.request.get(f"/v1/webhooks/{bucket['inputs'][0]['id']}")
    assert script.headers["x-content-type-options"] == "nosniff"


def test_what_the_policy_forbids(page: Page, watch: Watch, relay: Relay, administrator: str) -> None:
    """Should markup get into the page after all, its scripts don't run, its styles don't apply, and it calls nobody."""
    watch.expected.append("Content Security Policy|violates the following")
    sign_in(page, relay, administrator, "/ui/there-is-no-such-part")
    done = page.evaluate(
        """async (url) => {
            const add = (name, attributes) => {
                document.body.append(Object.assign(document.createElement(name), attributes));
            };
            add("script", { textContent: "window.ran = 1" });
            add("script", { src: "data:text/javascript,window.ran=1" });
            add("div", { innerHTML: "<img src=x onerror='window.ran=1'>" });
            add("style", { textContent: "body { display: none }" });
            add("iframe", { src: "/ui/" });
            const called = await fetch(url).then(() => true, () => false);
            setTimeout("window.ran = 1");
            await new Promise((resolve) => setTimeout(resolve, 300));
            return { called, ran: window.ran ?? null, shown: getComputedStyle(document.body).display };
        }""",
        relay.url.replace("127.0.0.1", "localhost"),
    )
    assert done == {"called": False, "ran": None, "shown": "block"}
