"""What is logged of slow commits."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from relay_tornado.log import slow_commits
from relay_tornado.log.slow_commits import PAUSE, SLOW, SlowCommits
from tests.log.worlds import SqliteWorld, event, make


def test_slow_commits_are_logged_now_and_then() -> None:
    """The first at once, the others as a number in ten minutes; usual ones never."""
    times = iter((0.0, 1.0, PAUSE - 1, PAUSE))
    slow = SlowCommits(lambda: next(times))
    with capture_logs() as lines:
        slow.took(SLOW / 2)
        for seconds in (2.04, 3.0, 4.0, 5.0):
            slow.took(seconds)
    assert [(line["event"], line["seconds"], line["count"]) for line in lines] == [
        ("commits_slow", 2.0, 1),
        ("commits_slow", 5.0, 3),
    ]


@pytest.mark.gen_test
async def test_the_commits_of_events_are_measured(disk: SqliteWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log on SQLite tells the time of each."""
    monkeypatch.setattr(slow_commits, "SLOW", 0.0)
    await make(disk.log)
    with capture_logs() as lines:
        await disk.log.append("b", event())
        await disk.log.append("b", event())
    assert [(line["event"], line["count"]) for line in lines if line["event"] == "commits_slow"] == [
        ("commits_slow", 1)
    ]
