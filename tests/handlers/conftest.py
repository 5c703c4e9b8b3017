"""What reads webhooks from the connections of a test's site."""

from __future__ import annotations

import pytest

from tests.handlers import edge


@pytest.fixture(params=["direct", "tornado"])
def transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Either transport in turn; every site of the test is on it."""
    monkeypatch.setattr(edge, "transport", request.param)
    return str(request.param)
