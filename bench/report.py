"""Tables of what was measured."""

from __future__ import annotations

import os
import platform
import sqlite3
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.servers import LOAD_CORE, SERVER_CORE


def medians(runs: Sequence[dict[str, float]]) -> dict[str, float]:
    """The medians of what several runs found, one by one."""
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` (0 to 1) of all lie."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def repeat(rounds: int, measures: Sequence[Callable[[], dict[str, float]]]) -> list[dict[str, float]]:
    """Runs each measure `rounds` times, in turn, and returns the medians of what each found."""
    found: list[list[dict[str, float]]] = [[] for _ in measures]
    for _ in range(rounds):
        for place, measure in enumerate(measures):
            found[place].append(measure())
    return [medians(runs) for runs in found]


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "processor": model[0].partition(":")[2].strip() if model else platform.machine(),
        "cores": os.cpu_count(),
        "server core": SERVER_CORE,
        "load core": LOAD_CORE,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "tornado": version("tornado"),
        "uvloop": version("uvloop"),
        "sqlite": sqlite3.sqlite_version,
    }


def table(title: str, rows: Sequence[dict[str, Any]]) -> None:
    """Prints rows as a table in Markdown, so that it can go into docs/performance.md as it is."""
    columns = list(rows[0])
    cells = [columns, *([_cell(row[column]) for column in columns] for row in rows)]
    widths = [max(len(line[place]) for line in cells) for place in range(len(columns))]
    lines = [_line(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in cells]
    lines.insert(1, _line("-" * (width - 1) + ":" for width in widths))
    sys.stdout.write(f"\n{title}\n\n" + "\n".join(lines) + "\n")
    sys.stdout.flush()


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
