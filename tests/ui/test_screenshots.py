"""The pictures of the documents: they are there, small, shown, and can be made anew."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.ui.screenshots import IMAGES, LIMIT, PICTURES

ROOT = Path(__file__).parent.parent.parent


def test_they_are_small_and_all_are_shown() -> None:
    """docs/images has what scripts/screenshots makes, in less than 1 MB; docs/inspector.md shows each."""
    there = {path.name: path.stat().st_size for path in IMAGES.iterdir()}
    assert set(there) == {f"{name}.webp" for name in PICTURES}
    assert sum(there.values()) < LIMIT
    shown = set(re.findall(r"images/([\w-]+\.webp)", (ROOT / "docs/inspector.md").read_text()))
    assert shown == set(there)


@pytest.mark.heavy
def test_they_can_be_made(tmp_path: Path, chromium: Browser) -> None:
    """A picture is made from a demo relay: a WebP of its size."""
    command = [sys.executable, "-m", "tests.ui.screenshots", "overview", "--to", str(tmp_path)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=560)
    assert run.returncode == 0, run.stderr
    picture = (tmp_path / "overview.webp").read_bytes()
    assert picture[:4] == b"RIFF"
    assert picture[8:12] == b"WEBP"
    assert len(picture) > 10_000
