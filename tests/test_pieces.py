"""What goes through many gives others their turn."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from relay_tornado.pieces import TOGETHER, Pieces
from tests.counting import calls_by_turn


@pytest.mark.gen_test
async def test_a_turn_behind_each_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """And none before it is full, however the things of it are counted."""
    work = SimpleNamespace(one=lambda: None)
    pieces = Pieces()
    calls = calls_by_turn(monkeypatch, work, "one")
    for _ in range(2 * TOGETHER + 1):
        work.one()
        await pieces.done()
    assert calls == [TOGETHER, TOGETHER, 1]
    await pieces.done(TOGETHER - 2)
    for count in (1, 5 * TOGETHER, 1):
        work.one()
        await pieces.done(count)
    assert calls == [TOGETHER, TOGETHER, 2, 1, 1]
