"""Signing in to the page and out of it, in a browser: by a secret, by a link, and what ends it."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, Route, expect

from tests.acceptance.relay import Relay
from tests.ui.browser import NO_PART, Watch, keeping_nothing, sign_in, signed, signed_out, watched, watched_in


def names(page: Page) -> list[str]:
    """The buckets that whoever is signed in sees, as the page asks for them."""
    documents = page.evaluate("() => fetch('/v1/buckets').then((answer) => answer.json())")
    return [each["name"] for each in documents]


def test_by_a_secret(page: Page, watch: Watch, administrator: str) -> None:
    """A wrong secret is told, the right one signs in, and signing out ends it for good."""
    watch.expected.append("status of 401")
    page.goto(NO_PART)
    expect(page.get_by_label("A token's secret")).to_be_focused()
    page.get_by_label("A token's secret").fill("sk-rly_wrong")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_text("the key or secret is wrong")).to_be_visible()
    page.get_by_label("A token's secret").fill(administrator)
    page.get_by_role("button", name="Sign in").click()
    signed(page)
    (cookie,) = page.context.cookies()
    assert (cookie["name"], cookie["httpOnly"], cookie["sameSite"]) == ("relay_session", True, "Strict")
    assert page.evaluate("() => document.cookie") == ""
    page.get_by_role("button", name="Sign out").click()
    signed_out(page)
    expect(page.get_by_role("alert")).to_have_count(0)
    page.context.add_cookies([cookie])  # type: ignore[list-item]
    page.reload()
    signed_out(page)


def test_where_no_cookie_is_kept(chromium: Browser, relay: Relay, administrator: str, tmp_path: Path) -> None:
    """A browser that lets the page keep nothing shows it all the same, and it says why nobody is signed in."""
    with keeping_nothing(chromium, tmp_path / "profile") as window, watched_in(window, relay.url) as (page, watch):
        watch.expected.append("status of 401")
        page.goto(f"{relay.url}{NO_PART}")
        page.get_by_label("A token's secret").fill(administrator)
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_text("This browser keeps no cookie of this page")).to_be_visible()
        page.goto(relay.command("ui")["url"].replace("/ui/#", f"{NO_PART}#"))
        expect(page.get_by_role("alert")).to_contain_text("This browser keeps no cookie of this page")
        signed_out(page)


def test_without_storage(page: Page, watch: Watch, relay: Relay, administrator: str) -> None:
    """As where a browser has cookies and nothing else: the page's light or dark is not kept, and all the rest works."""
    watch.expected.append("status of 401")  # what is asked for as one signs out
    page.add_init_script("""for (const name of ["localStorage", "BroadcastChannel"]) {
      Object.defineProperty(window, name, { get() { throw new DOMException("insecure", "SecurityError"); } });
    }""")
    sign_in(page, relay, administrator)
    page.get_by_role("button", name="Light / dark").click()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    page.get_by_role("button", name="Sign out").click()
    signed_out(page)


def test_by_a_link(page: Page, watch: Watch, relay: Relay, chromium: Browser) -> None:
    """It signs the owner in, once, and its code leaves the address at once; whoever uses it again is told."""
    watch.expected.append("status of 401")
    link = relay.command("ui")["url"]
    code = link.partition("#code=")[2]
    page.goto(link.replace("/ui/#", f"{NO_PART}#"))
    signed(page)
    expect(page.get_by_text("the relay's owner")).to_be_visible()
    assert code not in page.url
    with watched(chromium, relay.url) as (other, others):
        others.expected.append("status of 401")
        other.goto(link)
        expect(other.get_by_role("alert")).to_contain_text("used already, or is too old")
        signed_out(other)
    page.goto("about:blank")
    page.goto(link)
    signed(page)
    expect(page.get_by_text("used already, or is too old")).to_be_visible()
    page.go_back()
    assert code not in page.url


def test_a_link_in_the_tab_that_asks_for_it(page: Page, watch: Watch, relay: Relay, administrator: str) -> None:
    """Where the page is open already a link signs in, too, though the browser loads nothing; a used one is told."""
    watch.expected.append("status of 401")
    page.goto("/ui/")
    signed_out(page)
    link = relay.command("ui")["url"]
    page.goto(link)
    signed(page)
    expect(page.get_by_text("the relay's owner")).to_be_visible()
    assert "code=" not in page.url
    page.goto(link)
    expect(page.get_by_text("used already, or is too old")).to_be_visible()
    page.get_by_role("button", name="Sign out").click()
    signed_out(page)
    page.goto(link)
    expect(page.get_by_role("alert")).to_contain_text("used already, or is too old")
    sign_in(page, relay, administrator)
    signed(page)
    page.goto(relay.command("ui")["url"])
    expect(page.get_by_text("the relay's owner")).to_be_visible()


def test_a_link_that_is_refused_is_told_once(page: Page, watch: Watch, relay: Relay) -> None:
    """Also where what the link before asked for is still to come."""
    watch.expected.append("status of 401")
    page.goto("/ui/")
    signed_out(page)
    held: list[Route] = []

    def hold(route: Route) -> None:
        """All but the first look, which is whether the cookie was kept."""
        if route.request.method == "GET":
            held.append(route)
        if route.request.method != "GET" or len(held) == 1:
            route.continue_()

    page.route("**/ui/session", hold)
    link = relay.command("ui")["url"]
    for looked in (2, 3):
        page.goto(link)
        while len(held) < looked:
            page.wait_for_timeout(10)
    for route in held[1:]:
        with page.expect_response(lambda response: response.request.method == "GET") as answered:
            route.continue_()
        request = answered.value.request
        while request.timing["responseEnd"] < 0 and request.failure is None:  # Chromium may leave one that is read
            page.wait_for_timeout(10)
    told = page.get_by_text("used already, or is too old")
    expect(told.first).to_be_visible()
    page.evaluate("() => new Promise((done) => setTimeout(done, 300))")  # all that is to be told is, by then
    assert told.count() <= 1


def test_a_link_outlives_a_relay_that_does_not_answer(page: Page, watch: Watch, relay: Relay) -> None:
    """Its code is used once the relay is there."""
    watch.expected.append("ERR_CONNECTION_REFUSED")
    page.route("**/ui/session", lambda route: route.abort("connectionrefused"))
    page.goto(relay.command("ui")["url"].replace("/ui/#", f"{NO_PART}#"))
    expect(page.get_by_text("The relay can't be reached.")).to_be_visible()
    page.unroute("**/ui/session")
    signed(page)
    expect(page.get_by_text("the relay's owner")).to_be_visible()


def test_the_owner_has_no_key(page: Page, watch: Watch, relay: Relay, administrator: str) -> None:
    """Code names what to put in its place; and a draft of the owner's is nobody else's in the same tab."""
    relay.create_bucket("owned")
    page.goto(relay.command("ui")["url"])
    signed(page)
    page.get_by_role("button", name="New bucket").click()
    page.get_by_label("Name", exact=True).fill("not saved")
    page.keyboard.press("Escape")
    page.get_by_role("link", name="owned").first.click()
    page.get_by_role("link", name="Connect").click()
    expect(page.get_by_label("Node code", exact=True)).to_contain_text('const key = "YOUR_KEY"')
    expect(page.get_by_text("take its key, too, for YOUR_KEY.")).to_be_visible()
    expect(page.get_by_text("Your token's key")).to_have_count(0)
    page.get_by_role("button", name="Sign out").click()
    page.get_by_label("A token's secret").fill(administrator)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_label("Node code", exact=True)).not_to_contain_text("YOUR_KEY")
    page.get_by_role("link", name="Buckets", exact=True).first.click()
    page.get_by_role("button", name="New bucket").click()
    expect(page.get_by_label("Name", exact=True)).to_have_value("")


def test_revoking_a_token_ends_an_open_page(page: Page, watch: Watch, relay: Relay) -> None:
    """Also one that does nothing but follow a bucket's events."""
    watch.expected.append("status of 401")
    relay.create_bucket("followed")
    key, secret = relay.create_token("--bucket", "followed")
    sign_in(page, relay, secret, NO_PART)
    signed(page)
    stream = page.evaluate("() => document.querySelector('script[type=module]').src.replace('app.js', 'stream.js')")
    page.evaluate(
        """async (stream) => {
            const { follow } = await import(stream);
            window.states = [];
            follow("followed", {}, { webhook: () => {}, status: (state) => window.states.push(state) });
        }""",
        stream,
    )
    page.wait_for_function("() => window.states.includes('live')")
    relay.run("token", "revoke", key)
    signed_out(page)
    expect(page.get_by_role("alert")).to_contain_text("its token was revoked")


def test_a_token_sees_its_own_buckets_only(page: Page, watch: Watch, relay: Relay) -> None:
    """What it may not do is refused; the page shows no part for it."""
    watch.expected.append("status of 40[34]")
    relay.create_bucket("hers")
    relay.create_bucket("not hers")
    sign_in(page, relay, relay.create_token("--bucket", "hers", "--description", "hers alone")[1], NO_PART)
    expect(page.get_by_text("hers alone")).to_be_visible()
    assert names(page) == ["hers"]
    for path in ("/v1/tokens", "/v1/buckets/not%20hers", "/v1/stream?bucket=not%20hers"):
        assert page.evaluate("(path) => fetch(path).then((answer) => answer.status)", path) in (403, 404)
    expect(page.get_by_role("link", name="Tokens", exact=True)).to_have_count(0)


def test_an_expired_token_signs_out(page: Page, watch: Watch, relay: Relay) -> None:
    """When its time comes, the session is over."""
    watch.expected.append("status of 401")
    key, secret = relay.create_token("--expires", "1h")
    sign_in(page, relay, secret, NO_PART)
    signed(page)
    ends = time.time() + 1
    options = {"method": "PUT", "headers": {"Content-Type": "application/json"}, "body": f'{{"expires_at": {ends}}}'}
    ended = "([key, options]) => fetch(`/v1/tokens/${key}`, options).then((answer) => answer.status)"
    assert page.evaluate(ended, [key, options]) == 200
    while time.time() < ends:
        page.wait_for_timeout(200)
    page.reload()
    signed_out(page)


class _Other(http.server.BaseHTTPRequestHandler):
    """A page of somebody else."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><link rel=icon href=data:,><p>other</p>")

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def other_site() -> Iterator[str]:
    """A server on the relay's host: to browsers the same site, and another origin."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Other) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


def test_another_origins_page_can_do_nothing(page: Page, watch: Watch, relay: Relay, administrator: str) -> None:
    """One on the same host sends the cookie along, which counts for nothing there."""
    watch.expected += ["asked for", "CORS policy", "ERR_", "status of 403"]
    sign_in(page, relay, administrator)
    with other_site() as url:
        page.goto(url)
        answers = []
        page.on("response", lambda answer: answers.append((answer.request.method, answer.status)))
        sent = page.evaluate(
            """async (url) => {
                const credentials = "include";
                const planted = { method: "POST", credentials, mode: "no-cors", body: '{"name": "planted"}' };
                const sent = await fetch(url, planted).then(() => true);
                const read = await fetch(url, { credentials }).then(() => true, () => false);
                return { sent, read };
            }""",
            f"{relay.url}/v1/buckets",
        )
        assert sent == {"sent": True, "read": False}
    assert answers == [("POST", 403)]  # 401 where the cookie had not come along
    page.goto(NO_PART)
    signed(page)
    assert "planted" not in names(page)


def test_a_restart_in_the_middle(tmp_path: Path, chromium: Browser) -> None:
    """The page stays signed in, and what it follows goes on with no event missing and none twice."""
    with Relay(tmp_path / "data") as own:
        path = own.create_bucket("orders")
        secret = own.create_token()[1]
        with watched(chromium, own.url) as (here, watch):
            watch.expected += ["ERR_", "status of 503"]
            sign_in(here, own, secret, NO_PART)
            signed(here)
            stream = here.evaluate(
                "() => document.querySelector('script[type=module]').src.replace('app.js', 'stream.js')"
            )
            here.evaluate(
                """async (stream) => {
                    const { follow } = await import(stream);
                    [window.states, window.bodies] = [[], []];
                    follow("orders", {}, {
                        webhook: (frame) => window.bodies.push(frame.body),
                        status: (state) => window.states.push(state),
                    });
                }""",
                stream,
            )
            here.wait_for_function("() => window.states.at(-1) === 'live'")
            send(here, own, path, "first")
            assert own.stop() == 0
            own.start()
            send(here, own, path, "second")
            here.wait_for_function("() => window.bodies.length >= 2")
            send(here, own, path, "third")
            here.wait_for_function("() => window.bodies.length >= 3")
            assert json.loads(here.evaluate("() => JSON.stringify(window.bodies)")) == ["first", "second", "third"]
            here.reload()
            signed(here)


def send(page: Page, relay: Relay, path: str, body: str) -> None:
    """A webhook, from outside of the page."""
    assert page.request.post(relay.url + path, data=body).ok
