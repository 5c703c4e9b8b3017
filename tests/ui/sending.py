"""A bucket whose events a test sends, and the page that shows them."""

from __future__ import annotations

import json
from typing import Any

from playwright.sync_api import Locator, Page, expect

from tests.acceptance.relay import Relay
from tests.ui.browser import until
from tests.ui.connection import Connection

HEARD = """
window.heard = 0;
window.EventSource = class extends EventSource {
  constructor(...where) {
    super(...where);
    this.addEventListener("webhook", () => { heard += 1; });
  }
};"""
"""Webhooks that came on a stream are counted."""

_HELD = """
window.frames_held = [];
const { requestAnimationFrame } = window;
window.requestAnimationFrame = (draw) => (frames_held ? frames_held.push(draw) : requestAnimationFrame(draw));
window.drawn = () => {
  const draws = frames_held;
  frames_held = null;
  return new Promise((resolve) => {
    requestAnimationFrame((now) => {
      for (const draw of draws) draw(now);
      requestAnimationFrame(resolve);
    });
  });
};"""
"""No frame is drawn before `drawn()`."""

_FURTHER = """() => {
  document.querySelector(".list").scrollTop += 300;
  const rows = [...document.querySelectorAll(".list-row")];
  return rows.map((row) => [Number(row.ariaPosInSet), row.querySelector(".path").innerText.trim()]);
}"""


class Sender:
    """Sends events to a bucket of its own, on one connection."""

    def __init__(self, relay: Relay, secret: str, name: str) -> None:
        self.relay = relay
        self.name = name
        self._secret = secret
        self._connection = Connection(relay)
        self.path = f"/v1/webhooks/{self.rest('POST', '/v1/buckets', {'name': name})['inputs'][0]['id']}"

    def send(self, path: str = "", body: bytes = b"", method: str = "POST", **headers: str) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        status, answer = self._connection.request(method, self.path + path, body, named)
        assert status == 200, answer

    def rest(self, method: str, path: str, body: object = None) -> Any:
        headers = {"Authorization": f"Bearer {self._secret}", "Content-Type": "application/json"}
        content = None if body is None else json.dumps(body).encode()
        status, answer = self._connection.request(method, path, content, headers)
        assert status < 300, answer
        return json.loads(answer)

    def events(self) -> list[Any]:
        """What the bucket keeps, oldest first."""
        found: list[Any] = self.rest("GET", f"/v1/logs?bucket={self.name}&limit=500")["data"]
        return found[::-1]

    def close(self) -> None:
        self._connection.close()


def live(page: Page) -> None:
    expect(page.get_by_role("status").get_by_text("Live", exact=True)).to_be_visible()


def undrawn(page: Page, sender: Sender) -> None:
    """The live list of a bucket with 60 events, which draws no frame before `drawn()`, and counts what it heard."""
    for index in range(60):
        sender.send(f"/before/{index}")
    page.add_init_script(HEARD + _HELD)
    page.set_viewport_size({"width": 1400, "height": 900})
    page.goto(f"/ui/buckets/{sender.name}")
    live(page)


def rows(page: Page) -> Locator:
    return page.get_by_role("listbox").get_by_role("option")


def paths(page: Page) -> list[str]:
    return [text.strip() for text in page.locator(".list-row .path").all_inner_texts()]


def listed(page: Page, count: int) -> list[str]:
    """The paths of the whole list, newest first: it is scrolled until so many rows were in sight."""
    found: dict[int, str] = {}

    def whole() -> bool:
        found.update(page.evaluate(_FURTHER))
        return len(found) >= count

    until(page, whole, f"{count} rows")
    return [found[place] for place in sorted(found)]
