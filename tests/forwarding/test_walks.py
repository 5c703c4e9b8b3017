"""Forwarding at random: events, answers, changes, seeks, replays, retention and restarts, in any order."""

import pytest

from relay_tornado.forwarding import circuit, forwarding
from tests.forwarding.walk import Walk
from tests.forwarding.walk_judge import Wire


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.gen_test
async def test_nothing_is_lost_repeated_or_sent_that_must_not_be(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarding, "Transport", Wire)
    monkeypatch.setattr(circuit, "FAILURES", 4)  # ten in a row are rare
    await Walk(seed).run(2, 80)
