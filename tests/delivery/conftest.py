"""What every test of delivery has."""

from __future__ import annotations

import math

import pytest

from relay_tornado import rules


@pytest.fixture(autouse=True)
def quick_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """No filter takes long where the test does not say so: while one is looked at, the processor may be another
    process's, and its subscriber would rest meanwhile."""
    monkeypatch.setattr(rules, "_QUICK", math.inf)
