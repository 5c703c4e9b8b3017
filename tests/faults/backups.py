"""Backups under load, as tests/ops/under_load.py makes and restores them."""

from __future__ import annotations

import asyncio
import traceback
from pathlib import Path

from tests.faults.outcome import Outcome
from tests.ops.under_load import backups_under_load


def run(folder: Path, rounds: int) -> Outcome:
    """Makes so many backups of a relay under load, and restores and looks at each."""
    outcome = Outcome()
    restored: list[str] = []
    try:
        restored = asyncio.run(backups_under_load(folder, rounds))
    except* AssertionError as group:
        outcome.broken.append("".join(traceback.format_exception(group))[-2_000:])
    outcome.figures = {"backups": rounds, "restored and right": len(restored)}
    if restored:
        outcome.figures["the last"] = restored[-1]
    return outcome
