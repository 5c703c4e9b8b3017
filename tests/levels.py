"""Levels of a relay, as the metrics read them."""

from relay_tornado.counters import Backups, ConsumerLevel, Levels

FULL = Levels(
    lag={"orders": 12, "billing": 3},
    consumers=(ConsumerLevel("orders", "worker", 7, 61.5, 2),),
    database=1,
    wal=2,
    space_free=3,
    space_reserve=4,
    space_seconds_left=6.0,
    certificate_expires=5.0,
    certificate_ok=True,
    backups=Backups(interval=3600.0, last_success=1.0, last_size=2, last_seconds=3.0, last_ok=True),
)
"""Every level known."""
