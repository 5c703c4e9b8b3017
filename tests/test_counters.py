"""The plain numbers that everything adds to."""

from __future__ import annotations

from typing import get_args

import pytest

from relay_tornado import errors
from relay_tornado.counters import GAPS, REJECTIONS, Counters, Distribution
from relay_tornado.model import GapReason


def test_a_value_falls_at_or_below_its_bound() -> None:
    """A value that equals a bound counts there, one above the last bound in the last place."""
    values = Distribution((1, 2, 4))
    for value in (0.5, 1, 1.5, 4, 4.1, 99):
        values.add(value)
    assert values.counts == [2, 1, 1, 2]
    assert values.sum == pytest.approx(110.1)


def test_reasons_are_the_codes_of_errors() -> None:
    """Every error that a sender can meet has its place; errors of a start have none."""
    codes = {
        kind.code for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.RelayError)
    }
    start = {kind.code for kind in (errors.StartupError, *errors.StartupError.__subclasses__())}
    assert set(REJECTIONS) == codes - start | {"timeout", "rate_limited", "queue_full", "signature"}
    assert set(GAPS) == set(get_args(GapReason))


def test_an_unknown_code_counts_as_internal() -> None:
    """No code that comes from elsewhere can make a new label."""
    counters = Counters()
    for code in ("no_space", "made up", "no_space"):
        counters.rejected(code)
    assert counters.rejections["no_space"] == 2
    assert counters.rejections["internal"] == 1
    assert set(counters.rejections) == set(REJECTIONS)


def test_a_commit_counts_its_events_bytes_and_time() -> None:
    """One call a commit moves all four numbers."""
    counters = Counters()
    counters.committed(3, 3000, 0.004)
    counters.committed(1, 10, 20.0)
    assert (counters.events, counters.event_bytes) == (4, 3010)
    assert counters.commit_events.sum == 4
    assert counters.commit_seconds.counts[-1] == 1
