"""relay_tornado/limits.py: so many at once, then as many as the rate gives, by a clock that the test moves."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from relay_tornado.limits import Limiter, retry_after
from relay_tornado.model import RateLimit


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


def test_retry_after_is_whole_seconds() -> None:
    """Rounded up, and one at least."""
    assert [retry_after(seconds) for seconds in (0.001, 1.0, 1.001, 59.2)] == [1, 1, 2, 60]


@given(st.integers(1, 50), st.floats(0.1, 3600), st.lists(st.floats(0, 100), max_size=200))
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
