"""A real relay a module, one real Chromium, and for each test a page of its own that must not complain."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.acceptance.relay import Relay
from tests.needs import needs_browser

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

    from tests.ui.browser import Watch
    from tests.ui.sending import Sender


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    """A running relay; make buckets and tokens with its methods, by names that no other test of the module uses."""
    with Relay(tmp_path_factory.mktemp("ui") / "data") as running:
        yield running


@pytest.fixture(scope="module")
def administrator(relay: Relay) -> str:
    """The secret of an administrator's token."""
    return relay.create_token()[1]


@pytest.fixture(scope="package")
def chromium() -> Iterator[Browser]:
    """One browser for the folder, which is a package for that: it must have ended before other tests run a loop."""
    needs_browser()
    pytest.importorskip("playwright.sync_api", reason="playwright is missing: pip install -e '.[dev]'")
    from tests.ui.browser import chromium, lightest

    with chromium(lightest()) as browser:
        yield browser


@pytest.fixture(scope="module")
def window(chromium: Browser, relay: Relay) -> Iterator[BrowserContext]:
    """A window for the tests of a module: to open one and to close it takes the processor longer than most tests do. An
    empty page keeps it open."""
    from tests.ui.browser import window

    with window(chromium, relay.url) as opened:
        opened.new_page()
        yield opened


@pytest.fixture
def watched_page(request: pytest.FixtureRequest, chromium: Browser, relay: Relay) -> Iterator[tuple[Page, Watch]]:
    from tests.ui.browser import cleared, watched, watched_in

    if request.node.get_closest_marker("own_window"):
        with watched(chromium, relay.url) as pair:
            yield pair
        return
    window: BrowserContext = request.getfixturevalue("window")
    try:
        with watched_in(window, relay.url) as pair:
            yield pair
    finally:
        cleared(window, relay.url)


@pytest.fixture
def page(watched_page: tuple[Page, Watch]) -> Page:
    """A page, nobody signed in, nothing opened, nothing stored. At the end the test fails where the page had an error,
    said something on the console, or asked another host for something."""
    return watched_page[0]


@pytest.fixture
def watch(watched_page: tuple[Page, Watch]) -> Watch:
    """The watch over `page`: `watch.expected.append(pattern)` for what a test brings about."""
    return watched_page[1]


@pytest.fixture
def admitted(page: Page, relay: Relay, administrator: str) -> Page:
    """The page at nothing yet, with an administrator's session: for what begins elsewhere than at /ui/."""
    from tests.ui.browser import begin_session

    begin_session(page, relay, administrator)
    return page


@pytest.fixture
def signed_in(admitted: Page) -> Page:
    """The page at /ui/, an administrator signed in."""
    admitted.goto("/ui/")
    return admitted


@pytest.fixture
def sender(relay: Relay, administrator: str, request: pytest.FixtureRequest) -> Iterator[Sender]:
    from tests.ui.sending import Sender

    made = Sender(relay, administrator, re.sub(r"\W+", "-", request.node.name)[5:60].strip("-").lower())
    yield made
    made.close()


@pytest.fixture
def events(page: Page, relay: Relay, administrator: str, sender: Sender) -> Page:
    """The page at the bucket's events, live."""
    from tests.ui.browser import sign_in
    from tests.ui.sending import live

    page.set_viewport_size({"width": 1400, "height": 900})
    sign_in(page, relay, administrator, f"/ui/buckets/{sender.name}")
    live(page)
    return page
