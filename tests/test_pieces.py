"""What goes through many gives others their turn."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from relay_tornado.pieces import PIECE_SIZE, Pieces
from tests.counting import calls_by_turn


@pytest.mark.gen_test
async def test_a_turn_behind_each_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """And none before it is full, however the things of it are counted."""
    work = SimpleNamespace(one=lambda: None)
    pieces = Pieces()
    calls = calls_by_turn(monkeypatch, work, "one")
    for _ in range(2 * PIECE_SIZE + 1):
        work.one()
        await pieces.done()
    assert calls == [PIECE_SIZE, PIECE_SIZE, 1]
    await pieces.done(PIECE_SIZE - 2)
    for count in (1, 5 * PIECE_SIZE, 1):
        work.one()
        await pieces.done(count)
    assert calls == [PIECE_SIZE, PIECE_SIZE, 2, 1, 1]
