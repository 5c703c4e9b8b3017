"""What came of injecting a fault: figures for the table, and where a promise was broken."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


@dataclass
class Outcome:
    """`figures` in the words and the order of the table; `broken` says which promises were not kept.

    `late` holds what missed a bound of time or of rate: `./scripts/prove` counts it, a test, which shares its machine
    with others, does not.
    """

    figures: dict[str, object] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)

    def expect(self, holds: bool, otherwise: str) -> None:
        """Notes a breach where the promise does not hold."""
        if not holds:
            self.broken.append(otherwise)

    def expect_in_time(self, holds: bool, otherwise: str) -> None:
        """The same for what depends on how busy the machine is."""
        if not holds:
            self.late.append(otherwise)

    def words(self) -> str:
        """The figures in one line."""
        return ", ".join(f"{name} {_word(value)}" for name, value in self.figures.items())


def _word(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.2f}" if value < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` (0 to 1) of all lie."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def median(values: Iterable[float]) -> float:
    return statistics.median(values)
