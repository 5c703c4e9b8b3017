"""Compares a log's row with the events that it really holds: `bytes`, which retention by size uses, and `head`, which
retention by number uses.

A flipped bit in one of them would remove all events. The CRC does not cover an event's stored size either, so the
lengths of the row's parts are added up. They are in the row's header, so bodies are not read.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import TypeAlias

import structlog

from relay_tornado.log import rows
from relay_tornado.log.state import LogState, excess_bytes, keep_from_count
from relay_tornado.model import Retention

MUCH = 64
"""Counting reads all pages of a log. So it is done only if more than a 64th of what may stay is to be removed; below
that, a wrong number costs no more."""

STEP = 4096
"""Events counted in one read."""

Held: TypeAlias = tuple[int, int] | None
"""The bytes of some events, and how many of them are stubs, of which only the size is known. None if they can't be
read."""

_HELD = f"""
SELECT coalesce(sum(iif({rows.STUB}, size, length(path) + length(query) + length(headers) + length(body))), 0),
    coalesce(sum({rows.STUB}), 0)
FROM event WHERE log = ? AND seq BETWEEN ? AND ?
"""  # noqa: S608 - constants only

_OLDEST = """
SELECT coalesce((SELECT seq FROM event WHERE log = ? AND seq <= ? ORDER BY seq DESC LIMIT 1 OFFSET ?), 0)
"""

_log = structlog.get_logger(__name__)


def is_due(state: LogState, keep: Retention) -> bool:
    """Whether so much is to be removed by size that the log's `bytes` have to be checked first."""
    return excess_bytes(state.bytes, keep) * MUCH > (keep.max_bytes or 0)


async def without_missing(
    state: LogState, keep: Retention, read: Callable[[Callable[[sqlite3.Connection], int]], Awaitable[int]]
) -> Retention:
    """The retention for a log that may lack some of its events, adjusted so that missing ones do not count. Raises what
    `read` raises."""
    key, first, head, most = state.key, state.first, state.head, keep.max_events or 0
    if most <= 0 or (keep_from_count(head, keep) - first) * MUCH <= most:
        return keep
    oldest = await read(partial(_oldest, log=key, head=head, most=most))
    return replace(keep, max_events=max(head - oldest + 1, most))


def _oldest(raw: sqlite3.Connection, log: int, head: int, most: int) -> int:
    """The oldest of the newest `most` events that exist; 0 if there are fewer, head if that can't be read."""
    row = rows.one(raw, _OLDEST, log, head, most - 1)
    return head if row is None else int(row[0])


async def difference(state: LogState, read: Callable[[Callable[[sqlite3.Connection], Held]], Awaitable[Held]]) -> int:
    """By how many bytes the log holds more than its row says; 0 if that can't be read. An error is logged.

    Appends continue meanwhile. Raises what `read` raises.
    """
    while True:
        key, first, head, said = state.key, state.first, state.head, state.bytes
        held = stubs = 0
        for start in range(first, head + 1, STEP):
            counted = await read(partial(_held, log=key, start=start, end=min(start + STEP - 1, head)))
            if counted is None:
                return 0
            held, stubs = held + counted[0], stubs + counted[1]
        if state.gone or (state.first == first and state.head >= head):
            break
    # A stub's size may be damaged, and must not cause a removal.
    if state.gone or held == said or (held > said and stubs):
        return 0
    _log.error(
        "log_bytes_wrong",
        bucket=state.bucket_id,
        said=said,
        held=held,
        consequence="retention by size uses what was counted (held)",
        hint="the file is damaged: run `relay check`",
    )
    return held - said


def _held(raw: sqlite3.Connection, log: int, start: int, end: int) -> Held:
    row = rows.one(raw, _HELD, log, start, end)
    return row if row is None else (row[0], row[1])
