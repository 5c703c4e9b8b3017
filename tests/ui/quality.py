"""What every page has to be, looked at from within the browser: without a violation by axe-core, no wider than the
window, all of it in the keyboard's reach, and nothing too small for a finger."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

HERE = Path(__file__).parent
AXE = HERE / "node_modules/axe-core/axe.min.js"
SCRIPT = HERE / "quality.js"


def needs_axe() -> str:
    """axe-core's source; skips the running test where it is missing."""
    if not AXE.is_file():
        pytest.skip("axe-core is missing: npm ci --prefix tests/ui")
    return AXE.read_text()


def prepare(page: Page) -> None:
    """Lets the functions here ask the page, from its next load on."""
    page.add_init_script(SCRIPT.read_text())


_SETTLED = """() => {
  const busy = !document.querySelector("h1, h2") || document.querySelector(".starting") || window.quality?.asking;
  window.still = busy ? 0 : (window.still ?? 0) + 1;
  return window.still > 5;
}"""
"""Asked in each frame: what a part asks for when it is drawn is asked some frames later."""


def settled(page: Page) -> None:
    """Waits until nothing on the page says that it loads and, after `prepare`, until each request has its answer."""
    page.evaluate("() => { window.still = 0; }")
    page.wait_for_function(_SETTLED)
    page.wait_for_load_state("load")


def violations(page: Page, source: str, *, only_colours: bool = False) -> list[str]:
    """What axe-core finds, each in a line."""
    if not page.evaluate("() => 'axe' in window"):
        page.evaluate(source)
    options: dict[str, Any] = {"resultTypes": ["violations"]}
    if only_colours:
        options["runOnly"] = {"type": "rule", "values": ["color-contrast"]}
    found = page.evaluate("(options) => axe.run(document, options)", options)["violations"]
    return [
        f"{each['id']}: {each['help']}: {node['html'][:160]} ({'; '.join(why['message'] for why in node['any'])[:200]})"
        for each in found
        for node in each["nodes"][:5]
    ]


def sideways(page: Page) -> list[str]:
    """What makes the page wider than its window; nothing, where it is not."""
    found: list[str] = page.evaluate("() => quality.sideways()")
    return found


def small(page: Page) -> list[str]:
    """What can be pressed and is smaller than 24 px: in the topmost dialog, else in the page."""
    found: list[str] = page.evaluate("() => quality.small()")
    return found


def out_of_reach(page: Page) -> list[str]:
    """What can be used by a mouse and not by the Tab key, and where the focus can't be seen: in the topmost dialog,
    else in the page."""
    found: list[str] = []
    for _ in range(page.evaluate("() => quality.begin()") + 3):
        page.keyboard.press("Tab")
        if problem := page.evaluate("() => quality.step()"):
            found.append(problem)
    return [*found, *page.evaluate("() => quality.missed()")]
