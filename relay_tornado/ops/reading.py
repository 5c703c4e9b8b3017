"""Reads a log from the file in steps of some MiB at most, each a short transaction of its own."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from relay_tornado.log import rows
from relay_tornado.model import MIB, Epoch

STEP_EVENTS = 512
STEP_BYTES = 4 * MIB


class Step(NamedTuple):
    """The events `start` to `end` with their bytes in all, as far as that can be known."""

    start: int
    end: int
    bytes: int
    found: rows.Found


def read(raw: sqlite3.Connection, log: int, first: int, head: int, epochs: Sequence[Epoch]) -> Iterator[Step]:
    """The events `first` to `head` of a log, one after another. Raises sqlite3.Error."""
    start = first
    while start <= head:
        end = min(start + STEP_EVENTS - 1, head)
        size = rows.total_bytes(raw, log, start, end)
        while end > start and (size is None or size > STEP_BYTES):
            end = start + (end - start) // 4
            size = rows.total_bytes(raw, log, start, end)
        yield Step(start, end, size or 0, rows.select(raw, log, start, end, epochs))
        start = end + 1
