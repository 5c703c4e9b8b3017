"""What a test's site reads webhooks with, and what it keeps them in."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.handlers import edge


@pytest.fixture(params=["direct", "tornado"])
def transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Either transport in turn; every site of the test is on it."""
    monkeypatch.setattr(edge, "transport", request.param)
    return str(request.param)


@pytest.fixture(params=["memory", "sqlite"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    """Where a site keeps its files; None where it keeps all in memory."""
    return None if request.param == "memory" else tmp_path
