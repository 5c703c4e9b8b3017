"""The tab Connect of a bucket: code to paste that sends to it and reads it, in a browser against a real relay."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import Page, expect

from tests.acceptance.relay import TIMEOUT, Relay
from tests.ui.browser import make


def test_a_key_is_spoken_of_where_the_code_has_one(signed_in: Page) -> None:
    """Of what goes with a secret alone, the page does not say to take the token's key."""
    page = signed_in
    make(page, "keyed")
    page.goto("/ui/buckets/keyed/connect")
    note = page.get_by_role("paragraph").filter(has_text="Put a token's secret")
    for reader in ("Node", "Python", "relay forward", "relay listen", "curl"):
        page.get_by_role("tab", name=reader).click()
        expect(page.get_by_label(f"{reader} code", exact=True)).to_contain_text("YOUR_SECRET")
        keyed = reader in ("Node", "Python")
        (expect(note).to_contain_text if keyed else expect(note).not_to_contain_text)("take its key")


def test_snippets_work_as_they_are(signed_in: Page, relay: Relay, administrator: str, tmp_path: Path) -> None:
    """What is copied from the page sends an event, and reads it, with the secret put in."""
    page = signed_in
    make(page, "it's a bucket", auth={"type": "basic", "username": "shop", "password": "a 'good' one"})
    page.goto("/ui/buckets/it's a bucket/connect")
    command = page.get_by_label("curl command", exact=True).inner_text()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RELAY_")}
    environment = kept | {"HOME": str(tmp_path), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    def run(text: str, program: list[str]) -> str:
        done = subprocess.run(
            [*program, text.replace("YOUR_SECRET", administrator)],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
        assert done.returncode == 0, done.stderr
        return str(done.stdout)

    run(command.replace("curl ", "curl --fail -sS ", 1), ["sh", "-c"])
    page.get_by_role("tab", name="Python").click()
    code = page.get_by_label("Python code", exact=True).inner_text()
    assert '{"hello": "relay"}' in run(re.sub(r"(print\(.*\))", r"\1; return", code), [sys.executable, "-c"])
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="relay listen")).to_be_focused()
    listen = page.get_by_label("relay listen code", exact=True).inner_text()
    assert '"hello' in run(f"{listen} --max 1 --bodies-only", ["sh", "-c"])
    page.get_by_role("tab", name="curl").click()
    streamed = page.get_by_label("curl code", exact=True).inner_text()
    stream = streamed.replace("curl ", "curl -sS --fail ", 1).replace("\\\n", " ")
    assert "event: webhook" in run(f"{stream} | sed -n '/^event: webhook/{{p;q}}'", ["sh", "-c"])
