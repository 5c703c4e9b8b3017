"""What is logged of the gaps that consumers meet (log/gap_lines.py)."""

from __future__ import annotations

from typing import Any

import pytest
from structlog.testing import capture_logs

from relay_tornado.log import gap_lines
from relay_tornado.log.consumers import Consumers
from relay_tornado.log.gap_lines import PAUSE, GapLines
from relay_tornado.log.ledgers import Ledgers
from relay_tornado.model import Gap
from tests.log.stores import KEY, OTHER, TERMS, keep_last
from tests.log.worlds import World, make


def lines_of(logs: list[Any]) -> list[tuple[str, str, Any, Any, int]]:
    assert {each["event"] for each in logs} <= {"consumer_gap"}
    return [(each["consumer"], each["reason"], each["first"], each["last"], each.get("left_out", 0)) for each in logs]


def test_a_consumer_s_gaps_are_logged_now_and_then() -> None:
    """The first at once, the others as one line in ten minutes, which names all that is missing since the last one."""
    times = iter((0.0, 1.0, PAUSE - 1, PAUSE, PAUSE + 1, 3 * PAUSE, 5 * PAUSE))
    lines = GapLines(lambda: next(times))
    with capture_logs() as logs:
        for number in range(1, 7):
            lines.tell(KEY, "orders", Gap("retention", 10 * number, 10 * number + 4))
        lines.tell(KEY, "orders", Gap("retention", 90, 99))
    name = KEY.name
    assert lines_of(logs) == [
        (name, "retention", 10, 14, 0),
        (name, "retention", 20, 44, 2),
        (name, "retention", 50, 64, 1),
        (name, "retention", 90, 99, 0),
    ]


def test_each_consumer_and_reason_is_logged_at_once() -> None:
    lines = GapLines(lambda: 0.0)
    with capture_logs() as logs:
        for _ in range(2):
            lines.tell(KEY, "orders", Gap("retention", 1, 2))
            lines.tell(KEY, "orders", Gap("reset"))
            lines.tell(OTHER, "orders", Gap("retention", 3, 4))
    assert lines_of(logs) == [
        (KEY.name, "retention", 1, 2, 0),
        (KEY.name, "reset", None, None, 0),
        (OTHER.name, "retention", 3, 4, 0),
    ]


def test_few_consumers_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one whose last gap is the oldest is forgotten first."""
    monkeypatch.setattr(gap_lines, "_MOST", 2)
    lines = GapLines(lambda: 0.0)
    with capture_logs() as logs:
        for name in ("a", "b", "a", "c", "a", "b"):
            lines.tell(KEY._replace(name=name), "orders", Gap("reset"))
    assert [each["consumer"] for each in logs] == ["a", "b", "c", "b"]


@pytest.mark.gen_test
async def test_a_consumer_behind_a_fast_retention_is_one_line(world: World, consumers: Consumers) -> None:
    """Whether it is in use meanwhile or not; every gap is counted and stored. One that is deleted and made anew has a
    line of its own."""
    await make(world.log, events=20)
    ledgers = Ledgers(consumers, world.log)
    with capture_logs() as logs:
        for left in range(15, 10, -1):
            ledger = await ledgers.open(KEY, 0, TERMS)
            await keep_last(world, left)
            ledgers.trimmed("b", (await world.log.bounds("b")).first)
            ledgers.close(ledger)
        await consumers.saved()
        stored = await consumers.get(KEY)
        assert await ledgers.delete(KEY)
        ledger = await ledgers.open(KEY, 0, TERMS)
        ledgers.close(ledger)
    assert stored is not None
    assert stored.gaps is not None
    assert (stored.gaps.times, ledgers.counters.gaps["retention"]) == (5, 6)
    assert [(first, last) for _, _, first, last, _ in lines_of(logs)] == [(1, 5), (1, 9)]
