"""Import of exported events into a log, with their original seqs and times.

The events are dense, and begin at head + 1, or anywhere in a log that never held an event.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from relay_tornado.errors import Conflict, Invalid
from relay_tornado.log import rows
from relay_tornado.log.state import LogState
from relay_tornado.model import Epoch, Event

_BEGIN = "UPDATE epoch SET from_seq = ? WHERE log = ?"
_MOVE = "UPDATE log SET first = ?, head = ?, bytes = bytes + ?, last_at = ? WHERE id = ?"


class Import:
    """One import: planned against the log's state, written in one transaction, then applied in memory.

    `stubs` maps the seqs of the ephemeral events to their sizes. Raises Conflict and Invalid.
    """

    def __init__(
        self, state: LogState, events: Sequence[Event], stubs: Mapping[int, int], new_epoch: Callable[[], str]
    ) -> None:
        self.state = state
        start = events[0].seq
        self.first = start if state.head == 0 else state.first
        if start != state.head + 1 and state.head > 0:
            raise Conflict(
                f"event {start} does not follow event {state.head}, the newest of the log: those between are missing, "
                "export the bucket again"
            )
        self.head = start - 1
        self.at = state.last_at
        self.bytes = 0
        self.epochs = state.epochs if state.head > 0 else tuple(Epoch(each.epoch, start) for each in state.epochs)
        self.opened = None if state.open else Epoch(new_epoch(), start)
        self._plain: list[Any] = []
        self._marked: list[Any] = []
        for event in events:
            self._add(event, stubs.get(event.seq))

    def _add(self, event: Event, stub: int | None) -> None:
        if event.seq != self.head + 1:
            raise Invalid(
                f"event {event.seq} stands where event {self.head + 1} is expected",
                "events",
                named=True,
            )
        if event.received_at < self.at:
            raise Invalid(f"event {event.seq} was received before the one before it", "events", named=True)
        size = event.size if stub is None else stub
        if size < event.size:
            raise Invalid(f"event {event.seq} is larger than its stub says", "events", named=True)
        marks = rows.marks_of(event)
        row = self._plain if marks is None else self._marked
        row += (
            *(self.state.key, event.seq, size, rows.checksum(event, marks), event.received_at, event.input_id),
            *(event.method, event.path, event.query, event.headers, event.remote_ip, event.body),
        )
        if marks is not None:
            row += marks
        self.head, self.at = event.seq, event.received_at
        self.bytes += size

    def write(self, raw: sqlite3.Connection) -> None:
        """Writes the rows, on the writer's thread, inside its transaction."""
        rows.insert(raw, self._plain, self._marked)
        if self.state.head == 0:
            raw.execute(_BEGIN, (self.first, self.state.key))
        if self.opened is not None:
            rows.insert_epochs(raw, [self.opened.epoch, self.state.key, self.opened.from_seq])
        raw.execute(_MOVE, (self.first, self.head, self.bytes, self.at, self.state.key))

    def apply(self) -> None:
        """Changes the state in memory, after the commit."""
        state = self.state
        state.first, state.head, state.last_at = self.first, self.head, self.at
        state.bytes += self.bytes
        state.epochs = self.epochs
        if self.opened is not None:
            state.epochs += (self.opened,)
            state.open = True
