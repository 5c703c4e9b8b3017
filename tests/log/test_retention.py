"""When old events may leave by age: the clock is trusted only so far."""

from __future__ import annotations

from structlog.testing import capture_logs

from relay_tornado.log.retention import RetentionClock


class Clocks:
    """A wall clock that can be set, and a boot clock that only goes on."""

    def __init__(self) -> None:
        self.wall = 1_700_000_000.0
        self.boot = 50.0

    def passes(self, seconds: float) -> None:
        self.wall += seconds
        self.boot += seconds


def clock(clocks: Clocks, grace: float = 600.0) -> RetentionClock:
    return RetentionClock(grace, lambda: clocks.wall, lambda: clocks.boot)


def test_nothing_leaves_soon_after_a_start() -> None:
    """Within the grace nothing is removed by age, then it is."""
    clocks = Clocks()
    policy = clock(clocks)
    assert not policy.by_age()
    clocks.passes(599.0)
    assert not policy.by_age()
    clocks.passes(1.0)
    assert policy.by_age()


def test_a_jump_puts_it_off_for_an_hour() -> None:
    """Forwards or back, by more than an hour between two passes: an hour's wait, said once in the log."""
    for jump in (3700.0, -3700.0, 86_400.0 * 365):
        clocks = Clocks()
        policy = clock(clocks, grace=0.0)
        assert policy.by_age()
        clocks.passes(60.0)
        clocks.wall += jump
        with capture_logs() as logs:
            assert not policy.by_age()
            clocks.passes(3599.0)
            assert not policy.by_age()
            clocks.passes(1.0)
            assert policy.by_age()
        assert [entry["event"] for entry in logs] == ["clock_jumped"]


def test_a_small_correction_is_no_jump() -> None:
    """What a time service does, and time asleep that both clocks count, changes nothing."""
    clocks = Clocks()
    policy = clock(clocks, grace=0.0)
    for correction in (1.0, -30.0, 3599.0, -3599.0):
        clocks.passes(60.0)
        clocks.wall += correction
        assert policy.by_age()
    clocks.passes(10 * 86_400.0)
    assert policy.by_age()


def test_a_second_jump_starts_the_hour_again() -> None:
    """The wait counts from the last jump, and never ends before the grace."""
    clocks = Clocks()
    policy = clock(clocks, grace=6000.0)
    clocks.passes(60.0)
    clocks.wall += 5000.0
    assert not policy.by_age()
    clocks.passes(3000.0)
    clocks.wall -= 5000.0
    assert not policy.by_age()
    clocks.passes(3599.0)
    assert not policy.by_age()
    clocks.passes(1.0)
    assert policy.by_age()


def test_the_real_clocks() -> None:
    """With the machine's own clocks a grace of nothing is over at once."""
    assert RetentionClock(0.0).by_age()
    assert not RetentionClock(60.0).by_age()
