"""Reads a log from the file in steps of a few MiB at most, each in a short transaction of its own."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from relay_tornado.log import rows
from relay_tornado.model import MIB, Epoch

STEP_EVENTS = 512
STEP_BYTES = 4 * MIB


class Step(NamedTuple):
    """The events `start` to `end`; `bytes` is the size of those that are not damaged."""

    start: int
    end: int
    bytes: int
    found: rows.Found


def read(raw: sqlite3.Connection, log: int, first: int, head: int, epochs: Sequence[Epoch]) -> Iterator[Step]:
    """Yields the events `first` to `head` of a log in steps. Raises sqlite3.Error."""
    start = first
    while start <= head:
        found = rows.select(raw, log, start, min(start + STEP_EVENTS - 1, head), epochs, STEP_BYTES)
        end = start + len(found.events) - 1
        yield Step(start, end, sum(found.sizes), found)
        start = end + 1
