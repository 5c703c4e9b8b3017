"""`scripts/screenshots`: makes docs/images from a demo relay, whose last hour is made up to have something to see."""

from __future__ import annotations

import base64
import math
import random
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import click
from playwright.sync_api import Page

from relay_tornado.series import file
from tests.acceptance.relay import Relay
from tests.ui.browser import chromium, sign_in, watched
from tests.ui.demo import Demo
from tests.ui.quality import settled

IMAGES = Path(__file__).parent.parent.parent / "docs/images"
LIMIT = 1_000_000
"""Bytes that all of them may take together."""
WIDE, PHONE = (1280, 800), (390, 780)

_WEBP = """async (png) => {
  const bitmap = await createImageBitmap(await (await fetch(`data:image/png;base64,${png}`)).blob());
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  const bytes = new Uint8Array(await (await canvas.convertToBlob({type: "image/webp", quality: 0.92})).arrayBuffer());
  return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
}"""


@dataclass(frozen=True)
class Picture:
    """A place in the page, what is done there, and how it is looked at."""

    path: str
    dark: bool = False
    size: tuple[int, int] = WIDE
    act: Callable[[Page], None] = lambda _: None


def _press(*names: str) -> Callable[[Page], None]:
    def act(page: Page) -> None:
        for name in names:
            page.get_by_role("button", name=name).first.click()
            page.wait_for_timeout(500)

    return act


def _skip(page: Page) -> None:
    _press("Move billing")(page)
    page.get_by_role("radio", name="Only what comes in").check()
    page.wait_for_timeout(500)


PICTURES = {
    "buckets": Picture(""),
    "events": Picture("buckets/orders/events?event={order}"),
    "events-dark": Picture("buckets/orders/events?event={order}", dark=True),
    "event": Picture("events/{push}", dark=True),
    "compare": Picture("compare/{before}/{order}"),
    "overview": Picture("overview"),
    "overview-dark": Picture("overview", dark=True),
    "clients": Picture("clients"),
    "seek": Picture("clients", act=_skip),
    "connect": Picture("buckets/orders/connect"),
    "bin": Picture("bin", act=_press("Make a request bin", "Send one from here")),
    "phone": Picture("buckets/orders/events", size=PHONE),
}


def past(path: Path, buckets: list[str]) -> None:
    """Fills the file of series with an hour as it might have been."""
    rng, now, free = random.Random(3), int(time.time()) // file.FINE * file.FINE, shutil.disk_usage(path.parent).free
    with closing(sqlite3.connect(path, isolation_level=None)) as raw:
        file.prepare(raw)
        for at in range(now - 3600, now, file.FINE):
            x = (now - at) / 3600
            rate = 1 + (20 + 12 * math.sin(8 * x) + 4 * rng.random()) * math.sin(math.pi * x) ** 0.7
            rate += 30 if 0.3 < x < 0.35 else 0
            commit = 0.0003 + 0.0003 * rng.random() + rate / 60_000
            values = {
                "events": rate,
                "commit_p50": commit,
                "commit_p99": 2.5 * commit + 0.003 * rng.random(),
                "subscribers": 2 + (x > 0.2) + 2 * (x > 0.6),
                "lag": max(60.0 * (x < 0.02), 900 * math.sin(20 * (0.4 - x)) if 0.25 < x < 0.4 else 12 * rng.random()),
                "disk_free": free + 6e9 * x,
            }
            if rng.random() < 0.04:
                values["errors:unauthorized"] = rng.randrange(1, 4)
            if 0.31 < x < 0.33:
                values["errors:rate_limited"] = rng.randrange(4, 12)
            for share, bucket in zip((0.7, 0.2, 0.1), buckets, strict=True):
                values[f"bucket:{bucket}"] = round(10 * rate * share)
            file.write(raw, at, values)


def show(demo: Demo, names: list[str], into: Path) -> None:
    """Makes the pictures of these names."""
    orders = demo.rest("GET", "/v1/logs?bucket=orders&limit=4")["data"]
    push = demo.rest("GET", "/v1/logs?bucket=github&limit=1")["data"][0]
    ids = {"order": orders[0]["id"], "before": orders[1]["id"], "push": push["id"]}
    with chromium() as browser, closing(browser.new_page()) as packer:
        for name in names:
            picture = PICTURES[name]
            width, height = picture.size
            look = {"color_scheme": "dark" if picture.dark else "light", "viewport": {"width": width, "height": height}}
            with watched(browser, demo.relay.url, **look) as (page, _):
                sign_in(page, demo.relay, demo.administrator[1], "/ui/" + picture.path.format(**ids))
                settled(page)
                page.wait_for_timeout(1000)
                picture.act(page)
                page.wait_for_timeout(500)
                page.evaluate("() => document.querySelector('.toasts')?.remove()")
                page.mouse.move(0, 0)
                webp = packer.evaluate(_WEBP, base64.b64encode(page.screenshot()).decode())
                (into / f"{name}.webp").write_bytes(base64.b64decode(webp))


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(PICTURES)))
@click.option("--to", "into", type=click.Path(path_type=Path), default=IMAGES, help="The folder.", show_default=True)
def main(names: tuple[str, ...], into: Path) -> None:
    """Make the pictures NAMES, or all."""
    into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, Relay(Path(folder) / "data") as relay, Demo(relay) as demo:
        demo.send(60)
        buckets = [each["id"] for each in demo.rest("GET", "/v1/buckets")]
        demo.connection.close()
        relay.stop()
        past(relay.data / file.NAME, buckets)
        relay.start()
        demo.readers(ack=12)
        demo.send(6)
        show(demo, list(names) or list(PICTURES), into)
    size = sum(path.stat().st_size for path in into.glob("*.webp"))
    click.echo(f"{into}: {size / 1000:.0f} KB")
    if size > LIMIT:
        raise click.ClickException(f"that is more than {LIMIT / 1000:.0f} KB")


if __name__ == "__main__":
    main(prog_name="scripts/screenshots")
