"""The overview: numbers of now, plots of what the relay measured, the same as tables."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, Route, expect

from tests.acceptance.relay import Relay, wait_for
from tests.ui.browser import Watch, hold, sign_in, until
from tests.ui.demo import Demo

STEP = 10
POINTS = 360
START = 1_795_600_000
EMPTY: list[float | None] = [None] * (POINTS - 3)


def measured(route: Route) -> None:
    """Series as the relay has them, with two errors, a pause, and numbers that one can calculate."""
    series = {
        "events": [*EMPTY, 20, None, 40.5],
        "commit_p50": [*EMPTY, 0.001, None, 0.0021],
        "commit_p99": [*EMPTY, 0.004, None, 0.0123],
        "subscribers": [*EMPTY, 1, None, 3],
        "lag": [*EMPTY, 0, None, 1500],
        "disk_free": [*EMPTY, 3 * 2**30, None, 2.5 * 2**30],
        "errors:too_large": [*EMPTY, 2, None, None],
        "errors:overloaded": [*EMPTY, None, None, 5],
    }
    route.fulfill(json={"from": START, "step": STEP, "series": series})


def test_numbers_and_plots(signed_in: Page) -> None:
    """Each tile shows the last value, each plot says it, and its table has every value, the newest first."""
    page = signed_in
    page.route("**/v1/series?*", measured)
    page.get_by_role("link", name="Overview").click()
    tiles = page.locator(".tile")
    expect(tiles.first).to_contain_text("40.5/s")
    expect(tiles.filter(has_text="Commit latency")).to_contain_text("2.1 ms")
    expect(tiles.filter(has_text="Commit latency")).to_contain_text("p99 12.3 ms")
    expect(tiles.filter(has_text="Subscribers")).to_contain_text("3")
    expect(tiles.filter(has_text="Disk left")).to_contain_text("2.5 GiB")
    expect(tiles.filter(has_text="Errors, last hour")).to_contain_text("7")
    expect(tiles.filter(has_text="Errors, last hour")).to_contain_text("most: overloaded")
    plot = page.get_by_role("img", name="Commit latency, now: p50 2.1 ms, p99 12.3 ms")
    expect(plot.locator("canvas")).to_be_visible()
    page.get_by_role("button", name="Errors in 10 s: show as table").click()
    table = page.get_by_role("region", name="Errors in 10 s: values")
    expect(table.get_by_role("columnheader")).to_have_text(["From", "overloaded", "too large"])
    expect(table.get_by_role("row").nth(1)).to_have_text(re.compile("5\\s*2$"))
    page.get_by_role("button", name="Errors in 10 s: show as plot").click()
    expect(page.get_by_role("img", name="Errors in 10 s, now: overloaded 5, too large 0")).to_be_visible()


def test_an_axis_of_zeros(signed_in: Page) -> None:
    """Where all values are 0 it goes to a number that is easy to read; else it ends a little above the highest."""
    ends = signed_in.evaluate("""async () => {
      const { BYTES, COUNT, LATENCY, RATE, endOf } = await import('/ui/static/parts/plot.js');
      return [RATE, COUNT, LATENCY, BYTES].map((unit) => [unit.text(endOf(unit, 0)), endOf(unit, 100) > 100]);
    }""")
    assert ends == [["10/s", True], ["10", True], ["10 ms", True], ["1.0 KiB", True]]


@pytest.mark.own_window
def test_numbers_on_a_connection_that_died(signed_in: Page) -> None:
    """Where no answer comes the page says so, asks again, and goes on."""
    page = signed_in
    hung: list[Route] = []
    page.goto("about:blank")  # where no question of an earlier page is on its way any more
    page.clock.install()
    dead = True
    page.route("**/v1/status", lambda route: hung.append(route) if dead else route.continue_())
    page.goto("/ui/")
    until(page, lambda: hung, "the question")
    said = page.get_by_text("does not answer")
    page.clock.run_for(20_000)
    expect(said).to_be_hidden()
    page.clock.run_for(25_000)
    expect(said).to_be_visible()
    dead = False
    page.clock.run_for(60_000)
    expect(said).to_be_hidden()


def test_the_span_is_in_the_address(admitted: Page) -> None:
    """Hour, day and month are asked for, and a link or a reload keeps which."""
    page = admitted
    page.goto("/ui/overview")
    with page.expect_request(lambda request: "/v1/series?span=day" in request.url):
        page.get_by_role("button", name="Day").click()
    expect(page).to_have_url(re.compile("span=day$"))
    page.reload()
    expect(page.get_by_role("button", name="Day")).to_have_attribute("aria-pressed", "true")


_DRAWN = """(canvas) => {
  const blank = Object.assign(document.createElement("canvas"), { width: canvas.width, height: canvas.height });
  const picture = canvas.toDataURL();
  return picture === blank.toDataURL() ? "" : picture;
}"""
"""The picture on a canvas, "" while there is none."""


def test_plots_follow_the_theme(admitted: Page) -> None:
    """A plot is drawn anew where light turns to dark, in the page or in the system."""
    page = admitted
    page.route("**/v1/series?*", measured)
    page.goto("/ui/overview")
    canvas = page.get_by_role("img", name=re.compile("^Events per second")).locator("canvas")

    def another(before: str) -> str:
        def drawn() -> str:
            picture = str(canvas.evaluate(_DRAWN))
            return "" if picture == before else picture

        return str(wait_for(drawn, "another picture"))

    light = another("")
    page.emulate_media(color_scheme="dark")
    dark = another(light)
    page.get_by_role("button", name="Light / dark").click()
    another(dark)


def test_a_token_of_some_buckets(page: Page, relay: Relay) -> None:
    """It sees its own buckets' events by the minute, and asks for nothing that it may not see."""
    with Demo(relay) as demo:
        demo.send(3)
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        sign_in(page, relay, demo.worker[1], "/ui/overview")
        expect(page.get_by_role("img", name=re.compile("^Events per minute, now: events [0-9]+"))).to_be_visible()
        expect(page.locator(".tile").filter(has_text="Subscribers")).to_contain_text("2 buckets")
        assert not [url for url in asked if "/v1/series" in url]


def test_real_series(admitted: Page, relay: Relay) -> None:
    """What the relay measures arrives: after its first 10 seconds there is a plot of the disk."""
    page = admitted
    page.goto("/ui/overview")
    expect(page.get_by_role("img", name=re.compile("^Disk left, now: free [0-9.]+ .iB"))).to_be_visible()


def test_what_could_not_be_loaded_comes_by_itself(signed_in: Page, relay: Relay, watch: Watch) -> None:
    """A page, and a bucket's tab, that were first gone to while the relay was down. Each try has an address of its own:
    most browsers remember that a module could not be loaded, and never ask for the same one again."""
    page = signed_in
    watch.expected.append("ERR_CONNECTION_REFUSED")
    parts = re.compile("/pages/(overview|settings)[.]js")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if parts.search(request.url) else None)
    relay.create_bucket("away")
    page.goto("/ui/buckets/away")
    for link, there in (("Overview", page.locator(".tile")), ("Settings", page.get_by_label("Description"))):
        page.route(parts, lambda route: route.abort("connectionrefused"))
        page.get_by_role("link", name=link, exact=True).click()
        expect(page.get_by_text("could not be loaded")).to_be_visible()
        page.unroute(parts)
        expect(there.first).to_be_visible()
        page.go_back()
    assert len(asked) >= 4
    assert len(set(asked)) == len(asked)


def test_a_page_that_is_left_while_its_plots_come(signed_in: Page) -> None:
    """What draws them comes when their places are gone, and before their ends were called, which may be later."""
    page = signed_in
    held = hold(page, "**/uplot.js")
    with page.expect_request("**/uplot.js"):
        page.get_by_role("link", name="Overview", exact=True).evaluate("(link) => link.click()")
    page.get_by_role("link", name="Buckets", exact=True).evaluate("""(link) => {
      const set = window.setTimeout;
      window.setTimeout = (call, time, ...rest) => set(call, time === 35 ? 1000 : time, ...rest);
      window.requestAnimationFrame = () => 0;
      link.click();
    }""")
    expect(page.locator(".plot-canvas")).to_have_count(0)
    until(page, lambda: held, "the request")
    with page.expect_response("**/uplot.js"):
        held[0].continue_()
    page.evaluate("() => new Promise((done) => setTimeout(done, 200))")


def test_one_bucket(page: Page, relay: Relay) -> None:
    """Is one."""
    relay.create_bucket("alone")
    sign_in(page, relay, relay.create_token("--bucket", "alone")[1], "/ui/overview")
    expect(page.locator(".tile").filter(has_text="Subscribers").get_by_text("1 bucket", exact=True)).to_be_visible()


def test_a_relay_that_is_away_is_said_once(signed_in: Page, watch: Watch) -> None:
    """Though two things are asked for."""
    watch.expected.append("ERR_")
    signed_in.route(re.compile("/v1/"), lambda route: route.abort())
    with signed_in.expect_event("requestfailed", lambda request: "/v1/series" in request.url):
        signed_in.get_by_role("link", name="Overview").click()
    expect(signed_in.get_by_role("alert")).to_have_text(re.compile("The relay can't be reached"))
    expect(signed_in.get_by_role("alert")).to_have_count(1)
