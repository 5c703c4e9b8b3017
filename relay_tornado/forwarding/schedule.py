"""When a failed attempt is repeated, by the output's `retries` or `durability` and the destination's `Retry-After`.

The first three attempts follow each other quickly, and hold back an ordered output's later events. Further ones follow
the retry schedule: `retries` more with growing delays or, if `durability` is enabled, one of its schedules until its
deadline, which counts from when the event was received.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from relay_tornado.model import DAY, Output

QUICK: Final = 3
"""The number of attempts in quick succession."""

_PAUSES: Final = (1.0, 3.0)
"""Seconds between the quick attempts."""
_FIRST, _FACTOR, _LONGEST = 10.0, 2.0, 900.0
_NANO: Final = 1e-9
_MINUTE, _HOUR = 60.0, 3600.0

SCHEDULES: Final[Mapping[str, tuple[Sequence[float], float]]] = {
    "seconds": ((5.0, 10.0, 20.0, 30.0, 45.0, 60.0, 90.0, 120.0), 25 * _MINUTE),
    "medium": ((30.0, _MINUTE, 2 * _MINUTE, 5 * _MINUTE, 10 * _MINUTE, 20 * _MINUTE, 30 * _MINUTE, _HOUR), 16 * _HOUR),
    "long": ((_MINUTE, 5 * _MINUTE, 15 * _MINUTE, 30 * _MINUTE, _HOUR, 2 * _HOUR, 4 * _HOUR, 8 * _HOUR), 30 * DAY),
}
"""By name: seconds between attempts, the last of which repeats, and the default deadline in seconds."""
USUAL: Final = "long"
"""The default of `durability`, as in the original."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """`delays` follow the quick attempts; with `again` the last one repeats. `deadline` is in seconds; None for
    none."""

    quick: int
    delays: Sequence[float]
    again: bool
    deadline: float | None

    def due(self, attempts: int, begun: float, now: float, spread: float, retry_after: float | None) -> float | str:
        """When the next attempt is due after `attempts` failed ones (at least 1), or in one word why there is none.

        Times are unix seconds. `begun` is when the event was received. `spread` is a factor from 0.8 to 1.2 for delays,
        so that many events do not return at once. `retry_after` is the delay in seconds that the destination asked for.
        """
        if attempts < self.quick:
            delay = _PAUSES[attempts - 1]
        else:
            index = attempts - self.quick
            if index >= len(self.delays) and not (self.again and self.delays):
                return "retries"
            delay = self.delays[min(index, len(self.delays) - 1)]
        due = now + max(delay * spread, retry_after or 0.0)
        if self.deadline is not None and due > begun + self.deadline:
            return "deadline"
        return due


def schedule_of(output: Output) -> Schedule:
    """The schedule set by the output's `retries` and `durability`."""
    quick = 1 if output.retries < 0 else QUICK
    durability = output.durability if isinstance(output.durability, Mapping) else {}
    if not durability.get("enabled"):
        return Schedule(quick, [_backoff(index) for index in range(output.retries)], False, None)
    deadline = seconds(durability.get("deadline"))
    name = durability.get("schedule") or USUAL
    if name == "custom":
        delays = [seconds(each) or 0.0 for each in durability.get("custom_delays") or ()]
        return Schedule(quick, delays, deadline is not None, deadline)
    named, usual = SCHEDULES.get(name, SCHEDULES[USUAL])
    return Schedule(quick, named, True, usual if deadline is None else deadline)


def begun(received_at: float, since: float | None, deadline: float | None) -> float:
    """The time from which an event's deadline counts: when it was received. If it was first attempted (`since`) only
    after that deadline, as a resent one may be, the deadline counts from then."""
    if since is None or deadline is None or since <= received_at + deadline:
        return received_at
    return since


def seconds(nanoseconds: Any) -> float | None:
    """Seconds; None for 0, and for a value that is not a number."""
    if isinstance(nanoseconds, bool) or not isinstance(nanoseconds, int | float) or nanoseconds <= 0:
        return None
    return float(nanoseconds) * _NANO


def _backoff(index: int) -> float:
    return min(_FIRST * _FACTOR ** min(index, 30), _LONGEST)
