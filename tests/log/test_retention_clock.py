"""When old events may leave by age: the clock is trusted only so far."""

from __future__ import annotations

from structlog.testing import capture_logs

from relay_tornado.log.retention_clock import RetentionClock


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


def test_a_jump_shortens_no_grace() -> None:
    """Soon after a start, the hour's wait may end first."""
    clocks = Clocks()
    policy = clock(clocks, grace=10_000.0)
    clocks.wall += 86_400.0
    assert not policy.by_age()
    clocks.passes(9_999.0)
    assert not policy.by_age()
    clocks.passes(1.0)
    assert policy.by_age()


def test_a_jump_is_known_to_an_hour() -> None:
    """The clock may have been wrong by so much more when the first event came, without a jump that was noticed."""
    clocks = Clocks()
    policy = clock(clocks, grace=0.0)
    clocks.passes(60.0)
    clocks.wall += 5_000.0
    with capture_logs():
        policy.by_age()
    assert policy.age(10.0) == 10.0 + 5_000.0 + 60.0 - 10.0 + 3600.0


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


def leaves(policy: RetentionClock, clocks: Clocks, taken: float, limit: float) -> bool:
    """Whether an event of this time leaves a bucket that keeps events for `limit` seconds."""
    age = policy.age(limit)
    assert age is not None
    return taken < clocks.wall - age


def test_what_came_in_before_the_clock_was_right_stays_its_time() -> None:
    """A clock that is ten days behind at the start, and is put right after five minutes: what came in before is ten
    days old by its time, and leaves when it was in for the two days that its bucket keeps events, not earlier."""
    clocks, day = Clocks(), 86_400.0
    policy = clock(clocks, grace=0.0)
    taken = clocks.wall
    clocks.passes(300.0)
    clocks.wall += 10 * day
    assert not policy.by_age()
    for _ in range(48):
        assert not leaves(policy, clocks, taken, 2 * day)
        assert leaves(policy, clocks, taken - day, 2 * day)
        assert policy.age(None) is None
        clocks.passes(3600.0)
        assert policy.by_age()
    assert leaves(policy, clocks, taken, 2 * day)


def test_what_came_in_while_the_clock_was_behind_stays_its_time() -> None:
    """Also where it was right at the start: set back by ten days, and right again a day later."""
    clocks, day = Clocks(), 86_400.0
    policy = clock(clocks, grace=0.0)
    clocks.passes(day)
    assert policy.by_age()
    assert leaves(policy, clocks, clocks.wall - 3 * day, 2 * day)
    clocks.passes(30.0)
    clocks.wall -= 10 * day
    taken = clocks.wall
    for step in (30.0, day):
        clocks.passes(step)
        policy.by_age()
    clocks.wall += 10 * day
    assert not policy.by_age()
    clocks.passes(3600.0)
    assert policy.by_age()
    assert not leaves(policy, clocks, taken, 2 * day)


def test_the_real_clocks() -> None:
    """With the machine's own clocks a grace of nothing is over at once."""
    assert RetentionClock(0.0).by_age()
    assert not RetentionClock(60.0).by_age()
