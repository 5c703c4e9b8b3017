"""When the disk will be full, told from how its free space shrank."""

from __future__ import annotations

import pytest

from relay_tornado.model import DAY, GIB, MIB
from relay_tornado.storage.forecast import INTERVAL, LEAST, Forecast


def watched(hours: float, begin: float, rate: float, forecast: Forecast | None = None, at: float = 0.0) -> Forecast:
    """A disk that had `begin` bytes left and has lost `rate` bytes an hour since, looked at each minute."""
    forecast = Forecast() if forecast is None else forecast
    for minute in range(int(hours * 60) + 1):
        forecast.add(at + minute * 60, int(begin - rate * minute / 60))
    return forecast


def test_it_is_the_rate_so_far() -> None:
    """A gigabyte an hour of 100 GiB is 95 hours more after five of them."""
    forecast = watched(5, 100 * GIB, GIB)
    assert forecast.rate == pytest.approx(GIB / 3600, rel=1e-3)
    assert forecast.seconds_left == pytest.approx(95 * 3600, rel=1e-3)


def test_nothing_is_foretold_at_first() -> None:
    """What the first hour shows is a start, not a rate."""
    forecast = watched(LEAST / 3600 - 0.1, 100 * GIB, GIB)
    assert forecast.rate is None
    assert forecast.seconds_left is None
    assert Forecast().seconds_left is None


@pytest.mark.parametrize("rate", [0, -MIB])
def test_space_that_lasts(rate: float) -> None:
    """Where nothing shrinks there is no end."""
    assert watched(30, GIB, rate).seconds_left is None


def test_only_the_last_day_counts() -> None:
    """A day after the load has ended nothing is foretold any more; what is kept is bounded."""
    forecast = watched(48, 100 * GIB, GIB)
    later = watched(25, 50 * GIB, 0, forecast, 49 * 3600)
    assert later.seconds_left is None
    assert len(later._readings) <= DAY / INTERVAL + 2


def test_what_comes_back_every_day_evens_out() -> None:
    """A backup that is made and removed each day, on the same disk, is no trend."""
    forecast = Forecast()
    for hour in range(72):
        forecast.add(hour * 3600.0, 100 * GIB - (2 * GIB if hour % 24 < 6 else 0))
    assert forecast.seconds_left is None or forecast.seconds_left > 30 * DAY


def test_a_full_disk_has_no_time_left() -> None:
    """Beyond the reserve it is 0, not less."""
    assert watched(10, 5 * GIB, GIB).seconds_left == 0
