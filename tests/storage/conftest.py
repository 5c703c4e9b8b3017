"""Settings of a directory that is not there yet, faults for its file, and short pauses after them."""

from dataclasses import replace
from pathlib import Path

import pytest

from relay_tornado.settings import Settings
from relay_tornado.storage import writer as writers
from tests.storage.faults import Faults


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return replace(Settings(), data=tmp_path / "data")


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer whose file can't be written tries again at once."""
    monkeypatch.setattr(writers, "_BACKOFF", (0.01, 0.02))
