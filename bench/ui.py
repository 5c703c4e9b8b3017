"""`python -m bench.ui [--quick] [--long] [--json FILE]`: the page in a real Chromium.

What the first load brings over the wire and how long it takes; how soon an event is on the screen after its POST; what
ten open pages cost those who send; and a page's memory at 50 events/s. The relay runs on one core, the senders and the
browser share another.
"""

from __future__ import annotations

import http.client
import json
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click
from playwright.sync_api import Browser, Page

from bench import report
from bench.ingest import measure
from bench.servers import PinnedRelay, folder
from tests.ui.browser import chromium, watched

BODY = json.dumps({"order": 4711, "items": [{"sku": "A-7", "quantity": 2}], "note": "x" * 400}).encode()
PAGES = 10
CONNECTIONS = 64
RATE = 50
"""Events a second while the memory is looked at."""

_LOAD = """() => {
  const all = performance.getEntries().filter((each) => each.transferSize != null);
  const painted = performance.getEntriesByName("first-contentful-paint")[0];
  const bytes = all.reduce((sum, each) => sum + each.transferSize, 0);
  return {bytes, requests: all.length, painted: painted?.startTime ?? NaN};
}"""
_ON_SCREEN = """([path, number]) => new Promise((resolve, reject) => {
  const text = `/seen-${number}`;
  const late = setTimeout(() => reject(new Error(`${text} did not come`)), 20000);
  const watch = new MutationObserver(() => {
    if (!document.querySelector(".list")?.textContent.includes(text)) return;
    watch.disconnect();
    clearTimeout(late);
    requestAnimationFrame(() => setTimeout(() => resolve(performance.now() - began)));
  });
  watch.observe(document.body, {subtree: true, childList: true, characterData: true});
  const began = performance.now();
  fetch(path + text, {method: "POST", body: "{}"});
})"""


class World:
    """A relay with a bucket, and a browser."""

    def __init__(self, relay: PinnedRelay, browser: Browser) -> None:
        self.relay = relay
        self.browser = browser
        self.path = relay.create_bucket("bench")
        self.secret = relay.create_token()[1]

    @contextmanager
    def page(self, place: str) -> Iterator[Page]:
        """A page in a window of its own, with nothing in its cache, that is signed in."""
        with watched(self.browser, self.relay.url, viewport={"width": 1440, "height": 900}) as (page, _):
            page.request.post("/ui/session", data={"secret": self.secret}, headers={"Origin": self.relay.url})
            page.goto(f"/ui/{place}")
            page.wait_for_function("() => document.querySelector('h1') && !document.querySelector('.starting')")
            yield page

    @contextmanager
    def events(self) -> Iterator[Page]:
        """A page that shows the bucket's events, live."""
        with self.page("buckets/bench/events") as page:
            page.get_by_text("Live", exact=True).wait_for()
            yield page


def first_load(world: World, rounds: int) -> list[dict[str, Any]]:
    """Of the list of buckets, and of a bucket's events."""
    rows = []
    for name, place in (("buckets", ""), ("events of a bucket", "buckets/bench/events")):
        found = []
        for _ in range(rounds):
            began = time.perf_counter()
            with world.page(place) as page:
                there = 1000 * (time.perf_counter() - began)
                page.wait_for_timeout(500)
                found.append({**page.evaluate(_LOAD), "there": there})
        median = report.medians(found)
        rows.append(
            {
                "page": name,
                "KB": median["bytes"] / 1000,
                "requests": int(median["requests"]),
                "first paint, ms": median["painted"],
                "everything there, ms": median["there"],
            }
        )
    return rows


def on_screen(world: World, count: int) -> list[dict[str, Any]]:
    """From the beginning of a POST to the first picture with its event in it."""
    with world.events() as page:
        took = []
        for number in range(count):
            took.append(page.evaluate(_ON_SCREEN, [world.path, number]))
            page.wait_for_timeout(20)
    return [
        {
            "events": count,
            "median, ms": statistics.median(took),
            "p90, ms": report.percentile(took, 0.9),
            "longest, ms": max(took),
        }
    ]


def beside_pages(world: World, rounds: int, pages: int, seconds: float) -> list[dict[str, Any]]:
    """Senders that go as fast as answers come, with nobody looking and with pages open, in turn."""
    found: dict[int, list[dict[str, float]]] = {0: [], pages: []}
    for _ in range(rounds):
        for count in found:
            with ExitStack() as stack:
                for _ in range(count):
                    stack.enter_context(world.events())
                found[count].append(measure(world.relay, world.path, CONNECTIONS, seconds, BODY))
    alone, beside = map(report.medians, found.values())
    return [
        {
            "open pages": pages,
            "events/s": beside["rate"],
            "with none": alone["rate"],
            "ratio": beside["rate"] / alone["rate"],
            "relay's µs an event": beside["cpu"],
            "with none, µs": alone["cpu"],
        }
    ]


@contextmanager
def sending(world: World, rate: int) -> Iterator[None]:
    """Events at this rate, on a thread."""
    ended = threading.Event()

    def send() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", world.relay.port, timeout=30)
        began, sent = time.perf_counter(), 0
        while not ended.wait(max(0.0, began + sent / rate - time.perf_counter())):
            connection.request("POST", f"{world.path}/{sent}", BODY)
            connection.getresponse().read()
            sent += 1
        connection.close()

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def memory(world: World, seconds: float, looks: int) -> list[dict[str, Any]]:
    """A page's memory after a collection of garbage, and what is in its document, while events come in."""
    rows = []
    with world.events() as page, sending(world, RATE):
        client = page.context.new_cdp_session(page)
        client.send("Performance.enable")
        began = time.perf_counter()
        for look in range(looks + 1):
            page.wait_for_timeout(max(0.0, 1000 * (began + seconds * look / looks - time.perf_counter())))
            client.send("HeapProfiler.collectGarbage")
            metrics = {each["name"]: each["value"] for each in client.send("Performance.getMetrics")["metrics"]}
            rows.append(
                {
                    "after, s": round(time.perf_counter() - began),
                    "heap, MB": metrics["JSHeapUsedSize"] / 1e6,
                    "nodes": int(metrics["Nodes"]),
                    "listeners": int(metrics["JSEventListeners"]),
                }
            )
    return rows


@click.command()
@click.option("--quick", is_flag=True, help="A few seconds, to see that it works; the figures mean little.")
@click.option("--long", is_flag=True, help="Look at the memory for an hour instead of two minutes.")
@click.option("--json", "path", type=click.Path(path_type=Path), help="Write what was measured to this file, too.")
def main(quick: bool, long: bool, path: Path | None) -> None:
    """Measure the page."""
    found: dict[str, list[dict[str, Any]]] = {}

    def tell(title: str, rows: list[dict[str, Any]]) -> None:
        report.table(title, rows)
        found[title] = rows

    with folder() as data, PinnedRelay(data / "data") as relay, chromium() as browser:
        world = World(relay, browser)
        tell("First load", first_load(world, 1 if quick else 5))
        tell("From a POST to the screen", on_screen(world, 3 if quick else 100))
        span, looks = (2.0, 2) if quick else (3600.0, 12) if long else (120.0, 6)
        tell(f"A page's memory at {RATE} events/s", memory(world, span, looks))
        tell("Senders beside open pages", beside_pages(world, *((1, 2, 1.0) if quick else (3, PAGES, 5.0))))
    if path is not None:
        path.write_text(json.dumps({"machine": report.machine(), **found}, indent=2) + "\n")


if __name__ == "__main__":
    main(prog_name="python -m bench.ui")
