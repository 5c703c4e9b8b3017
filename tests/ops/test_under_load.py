"""Backups that are made while senders send (`python -m bench.backup --restores 20` is the long form)."""

import asyncio
from pathlib import Path

import pytest

from tests.ops.under_load import backups_under_load


@pytest.mark.heavy
def test_backups_under_load_restore(tmp_path: Path) -> None:
    """Each holds every event that was acknowledged before it began, honours every cursor up to its head, tells the gap
    beyond, and names new events with a new epoch; the relay itself loses nothing."""
    assert len(asyncio.run(backups_under_load(tmp_path, 2))) == 2
