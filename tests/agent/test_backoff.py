"""Which answers are tried again, and when."""

import pytest

from relay_tornado.agent.backoff import Backoff, is_transient, retry_after_of


def test_what_passes() -> None:
    """408, 425, 429 and 5xx are tried again, nothing else."""
    assert [status for status in range(200, 700) if is_transient(status)] == [408, 425, 429, *range(500, 600)]


def test_waits_double() -> None:
    """Up to the longest one, for any number of tries."""
    backoff = Backoff(longest=30.0, spread=lambda: 1.0)
    assert [backoff.wait(tries) for tries in (1, 2, 3, 4, 7, 8, 10_000)] == [0.5, 1.0, 2.0, 4.0, 30.0, 30.0, 30.0]


def test_waits_are_spread() -> None:
    """Over the upper half of the step."""
    assert Backoff(spread=lambda: 0.0).wait(3) == 1.0
    assert len({Backoff().wait(5) for _ in range(20)}) > 10


def test_a_target_may_ask_for_more() -> None:
    """Never less than Retry-After."""
    assert Backoff(longest=1.0).wait(9, 20.0) == 20.0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, 0.0),
        ("", 0.0),
        ("7", 7.0),
        (" 7 ", 7.0),
        ("-7", 0.0),
        ("soon", 0.0),
        ("99999999", 3600.0),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 60.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("Sun, 01 Jan 9999 00:00:00 GMT", 3600.0),
    ],
)
def test_retry_after(value: str | None, seconds: float) -> None:
    """Seconds or a date, an hour at most; nonsense asks for nothing."""
    assert retry_after_of(value, None, now=40.0) == seconds
    assert retry_after_of(value, "yesterday", now=40.0) == seconds


def test_retry_after_by_the_targets_clock() -> None:
    """A date is one of its own clock's, whatever ours says."""
    later, date = "Thu, 01 Jan 1970 00:01:40 GMT", "Thu, 01 Jan 1970 00:01:30 GMT"
    assert [retry_after_of(later, date, now) for now in (0.0, 40.0, 1e9)] == [10.0, 10.0, 10.0]
