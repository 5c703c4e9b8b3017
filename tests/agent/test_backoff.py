"""Which answers are tried again, and when."""

from relay_tornado.agent.backoff import Backoff, is_transient


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
