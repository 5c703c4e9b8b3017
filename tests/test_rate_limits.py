"""relay_tornado/rate_limits.py: so many at once, then as many as the rate gives, by a clock that the test moves."""

from __future__ import annotations

from functools import partial

from hypothesis import example, given
from hypothesis import strategies as st

from relay_tornado.model import RateLimit
from relay_tornado.rate_limits import Attempts, Limiter, LogLimit, RepeatLimit


def test_a_burst_and_then_the_rate() -> None:
    """At first as many as the limit has; then one each interval / events; unused time fills up to the limit."""
    limiter = Limiter(RateLimit(3, 6.0), 100.0)
    for _ in range(3):
        assert limiter.wait(100.0) == 0
        limiter.take()
    assert limiter.wait(100.0) == 2.0
    assert limiter.wait(101.5) == 0.5
    assert limiter.wait(102.0) == 0
    limiter.take()
    assert limiter.wait(103.0) == 1.0
    for _ in range(3):
        assert limiter.wait(1000.0) == 0
        limiter.take()
    assert limiter.wait(1000.0) == 2.0
    limiter.give_back()
    assert limiter.wait(1000.0) == 0
    limiter.take()
    assert limiter.wait(1000.0) == 2.0


def test_who_failed_too_often_waits() -> None:
    """As long as the rate says, however often they fail meanwhile; nobody else does."""
    attempts = Attempts(RateLimit(2, 10.0), 3)
    assert attempts.wait("a", 0.0) == 0
    attempts.failed("a", 0.0)
    assert attempts.wait("a", 0.0) == 0
    for _ in range(5):
        attempts.failed("a", 0.0)
    assert (attempts.wait("a", 0.0), attempts.wait("b", 0.0)) == (5.0, 0)
    assert attempts.wait("a", 5.0) == 0


def test_who_failed_longest_ago_is_forgotten_first() -> None:
    """However many there are, no more are known than were said; whoever fails again counts as new."""
    attempts = Attempts(RateLimit(1, 10.0), 2)
    for who in "abac":
        attempts.failed(who, 0.0)
    assert [attempts.wait(who, 0.0) for who in "abc"] == [10.0, 0, 10.0]


def test_an_error_that_continues_is_said_again_after_a_minute() -> None:
    """Another one at once, and neither sooner if they come in turn. Only so many are remembered."""
    now = 100.0
    limit = RepeatLimit(lambda: now)
    assert [limit.due(why) for why in "abab"] == [True, True, False, False]
    now = 159.0
    assert not limit.due("a")
    now = 160.0
    assert [limit.due(why) for why in "abab"] == [True, True, False, False]
    assert [limit.due(str(number)) for number in range(15)] == 15 * [True]
    assert [limit.due(why) for why in "bab"] == [False, True, True]


def test_log_lines_are_left_out() -> None:
    """Beyond the rate; the next one says how many, if any."""
    lines: list[tuple[float, str, dict[str, object]]] = []

    def note(now: float, event: str, **what: object) -> None:
        lines.append((now, event, what))

    times = (0.0, 4.0, 9.0, 10.0, 19.0, 20.0, 40.0)
    limit = LogLimit(RateLimit(1, 10.0), iter(times).__next__)
    for now in times:
        limit.tell(partial(note, now), "refused", code=1)
    assert lines == [
        (0.0, "refused", {"code": 1}),
        (10.0, "refused", {"code": 1, "left_out": 2}),
        (20.0, "refused", {"code": 1, "left_out": 1}),
        (40.0, "refused", {"code": 1}),
    ]


@given(st.integers(1, 50), st.floats(0.1, 3600), st.lists(st.floats(0, 100), max_size=200))
@example(1, 0.7, [0.1] * 40)
def test_no_more_than_the_rate_and_the_burst(events: int, interval: float, pauses: list[float]) -> None:
    """Over any time no more come through than the burst and what the rate gives; who waits as told gets through."""
    limit = RateLimit(events, interval)
    limiter, now, passed = Limiter(limit, 0.0), 0.0, 0
    for pause in pauses:
        now += pause
        wait = limiter.wait(now)
        if wait == 0:
            limiter.take()
            passed += 1
        else:
            assert 0 < wait <= interval / events * 1.000001
            assert limiter.wait(now + wait) == 0
            now += wait
    assert passed <= events + now * events / interval + 1e-3
