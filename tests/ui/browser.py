"""A Chromium for the tests of the page: its flags, and a watch over everything that a page says and asks for."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Locator,
    Page,
    Request,
    Response,
    Route,
    expect,
    sync_playwright,
)

from tests.acceptance.relay import Relay, wait_for

NO_PART = "/ui/there-is-no-such-part"
"""A place at which the frame alone is loaded."""

CHROMIUM = "/usr/bin/chromium"
_SHELL = Path("/usr/lib/chromium/chromium-headless-shell")
TIMEOUT = 60_000.0
"""Milliseconds that an action or an expectation of a page may take on a busy machine."""

expect.set_options(timeout=TIMEOUT)

_TOLD = """
window.told = new Set();
new MutationObserver(() => {
  for (const { textContent } of document.getElementsByClassName("toast")) told.add(textContent);
}).observe(document, { childList: true, subtree: true });"""
"""Keeps what a page tells for some seconds."""

_FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"),
    *("--disable-component-update", "--disable-sync"),
)
_NOT_SIGNED_IN = re.compile(r"Failed to load resource: the server responded with a status of 401 .*/ui/session$")
"""What Chromium says when the page finds out that nobody is signed in."""


def lightest() -> str:
    """The program that shows the same pages for a quarter less processor time: Chromium's headless shell where it is
    installed, else Chromium. The shell obeys no preferences of a profile."""
    return str(_SHELL) if _SHELL.exists() else CHROMIUM


@contextmanager
def chromium(program: str = CHROMIUM) -> Iterator[Browser]:
    """A running browser, with no page yet. While it runs, asyncio.run does not work in this thread."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(_FLAGS))
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def with_scrollbars(browser: Browser) -> Iterator[Browser]:
    """A second Chromium, whose pages have scroll bars that take room, as on most desktops."""
    opened = browser.browser_type.launch(
        executable_path=CHROMIUM, args=list(_FLAGS), ignore_default_args=["--hide-scrollbars"]
    )
    try:
        yield opened
    finally:
        opened.close()


@contextmanager
def keeping_nothing(browser: Browser, profile: Path) -> Iterator[BrowserContext]:
    """A window of a second Chromium, with this new folder for its profile, that was told to let no page keep anything:
    no cookie, no storage."""
    (profile / "Default").mkdir(parents=True)
    settings = {"profile": {"default_content_setting_values": {"cookies": 2}}}
    (profile / "Default" / "Preferences").write_text(json.dumps(settings))
    opened = browser.browser_type.launch_persistent_context(profile, executable_path=CHROMIUM, args=list(_FLAGS))
    opened.set_default_timeout(TIMEOUT)
    try:
        yield opened
    finally:
        opened.close()


@dataclass
class Watch:
    """What pages did that they must not: errors, what the console says (but details for developers), requests that
    leave the relay. `expected` are regular expressions for what a test brings about on purpose; a message of the
    console is `TEXT URL` there."""

    url: str
    expected: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def over(self, page: Page) -> None:
        """Watches a page, and those that it opens."""
        page.on("pageerror", lambda error: self.problems.append(f"error: {error}"))
        page.on("console", self._said)
        page.on("request", self._asked)
        page.on("crash", lambda _: self.problems.append("the page crashed"))

    def _said(self, message: ConsoleMessage) -> None:
        text = f"{message.text} {message.location['url']}".strip()
        if message.type not in ("debug", "verbose") and not _NOT_SIGNED_IN.search(text):
            self.problems.append(f"{message.type}: {text}")

    def _asked(self, request: Request) -> None:
        if not request.url.startswith((self.url + "/", "blob:", "data:")):
            self.problems.append(f"asked for {request.url}")

    def check(self) -> None:
        """Fails where there is a problem that was not expected."""
        left = [each for each in self.problems if not any(re.search(pattern, each) for pattern in self.expected)]
        assert not left, "\n".join(left)


@contextmanager
def window(browser: Browser, url: str, **options: Any) -> Iterator[BrowserContext]:
    """A context of its own, as a private window; `options` are those of `Browser.new_context`."""
    context: BrowserContext = browser.new_context(base_url=url, reduced_motion="reduce", **options)
    context.set_default_timeout(TIMEOUT)
    context.add_init_script(_TOLD)
    try:
        yield context
    finally:
        context.close()


@contextmanager
def watched_in(context: BrowserContext, url: str) -> Iterator[tuple[Page, Watch]]:
    """A page in a window, which is watched until its end."""
    watch = Watch(url)
    context.on("page", watch.over)
    try:
        yield context.new_page(), watch
        watch.check()
    finally:
        context.remove_listener("page", watch.over)


@contextmanager
def watched(browser: Browser, url: str, **options: Any) -> Iterator[tuple[Page, Watch]]:
    """The same in a window of its own."""
    with window(browser, url, **options) as context, watched_in(context, url) as pair:
        yield pair


def cleared(context: BrowserContext, url: str) -> None:
    """Leaves of a window its first page, and nothing of what was done in others: they are closed, and what the relay
    at this URL has stored is gone."""
    first, *others = context.pages
    for page in others:
        page.close()
    context.clear_cookies()
    context.clear_permissions()
    client = context.new_cdp_session(first)
    client.send("Storage.clearDataForOrigin", {"origin": url, "storageTypes": "all"})
    client.detach()


def until(page: Page, condition: Callable[[], Any], what: str) -> None:
    """Waits for what is noted as a page asks or says something: nobody hears of that but while a page is waited for."""

    def met() -> Any:
        found = condition()
        if not found:
            page.wait_for_timeout(20)
        return found

    wait_for(met, what)


def told(page: Page, text: str | re.Pattern[str]) -> None:
    """Waits until the page has told this, or something with the pattern in it, since it was loaded. It may be out of
    sight again: what is told is shown for 4 seconds, and a test on a busy machine may look later."""

    def found() -> bool:
        all_of_it: list[str] = page.evaluate("() => [...told]")
        return text in all_of_it if isinstance(text, str) else any(text.search(each) for each in all_of_it)

    until(page, found, f"{text} to be told")


def hold(page: Page, url: str | re.Pattern[str], *methods: str) -> list[Route]:
    """Answers no such request from now on: they are in the list as they come. With methods, others go on."""
    held: list[Route] = []

    def keep(route: Route) -> None:
        if methods and route.request.method not in methods:
            route.continue_()
        else:
            held.append(route)

    page.route(url, keep)
    return held


def begin_session(page: Page, relay: Relay, secret: str) -> None:
    """Gives the page's context a session of this token, and leaves the page at nothing."""
    page.goto("about:blank")  # what the page asks meanwhile would be with the session that ends here
    answer = page.request.post("/ui/session", data={"secret": secret}, headers={"Origin": relay.url})
    assert answer.status == 200, answer.text()


def sign_in(page: Page, relay: Relay, secret: str, path: str = "/ui/") -> Response | None:
    """The same, and opens the page there."""
    begin_session(page, relay, secret)
    return page.goto(path)


def signed(page: Page) -> None:
    expect(page.get_by_role("button", name="Sign out")).to_be_visible()


def signed_out(page: Page) -> None:
    expect(page.get_by_role("heading", name="Sign in to this relay")).to_be_visible()


def ask(page: Page, method: str, path: str, body: Any = None) -> Any:
    """Asks the relay with the page's session."""
    origin = {"Origin": page.url.split("/ui")[0]}
    answer = page.request.fetch(path, method=method, data=body, headers=origin)
    assert answer.ok, answer.text()
    return answer.json()


def make(page: Page, name: str, **options: Any) -> Any:
    """Makes a bucket with the page's session."""
    return ask(page, "POST", "/v1/buckets", {"name": name, **options})


def row(page: Page, name: str) -> Locator:
    """The row of the bucket with this name in a list."""
    return page.get_by_role("row").filter(has=page.get_by_role("link", name=name, exact=True))
