"""Plans what one commit of events writes: seqs, duplicates and rows. Pure, except for `write`.

A batch is planned against the logs' committed state, and changes nothing in memory. The writer commits one batch after
another, and applies each before it plans the next, so seqs are dense and unique.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from relay_tornado.log import rows
from relay_tornado.log.contract import Done
from relay_tornado.log.lineage import epoch_at
from relay_tornado.log.state import LogState
from relay_tornado.model import Appended, Epoch, Event, NewEvent


class Entry(msgspec.Struct, gc=False):
    """An append in the queue. `plan` sets `outcome`; `done` is called when the entry is committed or has failed, and is
    None from then on."""

    state: LogState
    event: NewEvent
    size: int
    done: Done | None
    outcome: Appended | None = None

    def over(self) -> bool:
        """Whether it is not to be stored: its failure was reported already, or its log is gone."""
        return self.done is None or self.state.gone


class Growth:
    """What a batch adds to one log."""

    __slots__ = ("at", "bytes", "ephemeral", "epoch", "events", "head", "kept", "opened", "state")

    def __init__(self, state: LogState, now: float, new_epoch: Callable[[], str]) -> None:
        self.state = state
        self.head = state.head
        self.bytes = 0
        self.kept = 0
        """The share of `bytes` that belongs to `events`."""
        self.at = max(now, state.last_at)
        self.events: list[Event] = []
        self.ephemeral: list[Event] = []
        """The ephemeral events, of which only stubs are stored."""
        self.opened = None if state.open else Epoch(new_epoch(), state.head + 1)
        self.epoch = state.epochs[-1].epoch if self.opened is None else self.opened.epoch


class Plan:
    """The rows of one commit, and the changes in memory that follow it."""

    __slots__ = ("count", "digests", "growths", "marked", "values")

    def __init__(self) -> None:
        self.growths: list[Growth] = []
        self.values: list[Any] = []
        self.marked: list[Any] = []
        self.digests: list[Any] = []
        self.count = 0

    def write(self, raw: sqlite3.Connection) -> None:
        """Writes the rows, inside the writer's transaction."""
        rows.insert(raw, self.values, self.marked)
        heads: list[Any] = []
        epochs: list[Any] = []
        for growth in self.growths:
            if growth.opened is not None:
                epochs += (growth.opened.epoch, growth.state.key, growth.opened.from_seq)
            heads += (growth.state.key, growth.head, growth.bytes, growth.at)
        rows.insert_epochs(raw, epochs)
        rows.insert_digests(raw, self.digests)
        rows.grow(raw, heads)

    def pages(self) -> int:
        """About how many pages `write` changes: one of the index for each log; logs share the pages of their heads."""
        return 6 + len(self.growths) + sum([growth.bytes for growth in self.growths]) // 3500 + self.count // 16

    def logs(self) -> list[int]:
        """The keys of the logs."""
        return [growth.state.key for growth in self.growths]


def digests(entries: Sequence[Entry]) -> list[tuple[int, bytes]]:
    """The (log, digest) pairs that have to be looked up before the entries can be planned."""
    return [(entry.state.key, entry.event.dedupe) for entry in entries if entry.event.dedupe is not None]


def plan(
    entries: Sequence[Entry],
    known: Mapping[tuple[int, bytes], tuple[int, float]],
    now: float,
    new_epoch: Callable[[], str],
) -> Plan:
    """Gives each entry its outcome, in order. `known` maps digests to the seq and time of their append."""
    made = Plan()
    growths: dict[int, Growth] = {}
    values = made.values
    here: dict[tuple[int, bytes], Appended] = {}
    for entry in entries:
        state = entry.state
        key = state.key
        event = entry.event
        growth = growths.get(key)
        if event.dedupe is not None:
            first = here.get((key, event.dedupe)) or _before(state, known.get((key, event.dedupe)), now, event)
            if first is not None:
                entry.outcome = Appended(first.epoch, first.seq, True)
                continue
        if growth is None:
            growth = growths[key] = Growth(state, now, new_epoch)
        growth.head = seq = growth.head + 1
        size = entry.size
        growth.bytes += size
        entry.outcome = outcome = Appended(growth.epoch, seq)
        if event.dedupe is not None:
            here[key, event.dedupe] = outcome
            made.digests += (key, event.dedupe, seq, now, now + event.dedupe_window)
        path, query, headers, body, ip = event.path, event.query, event.headers, event.body, event.remote_ip
        marks = rows.marks_of(event)
        stored = Event(seq, growth.epoch, growth.at, event.input_id, event.method, path, query, headers, body, ip)
        if marks is not None:
            stored = rows.marked(stored, marks)
        if event.ephemeral:
            growth.ephemeral.append(stored)
            event = msgspec.structs.replace(event, path=b"", query=b"", headers=b"", body=b"", remote_ip="")
            path = query = headers = body = b""
            ip = ""
        else:
            growth.events.append(stored)
            growth.kept += size
        row = values if marks is None else made.marked
        row += (
            key, seq, size, rows.checksum(event, marks), growth.at, event.input_id, event.method,
            path, query, headers, ip, body,
        )  # fmt: skip
        if marks is not None:
            row += marks
        made.count += 1
    made.growths = list(growths.values())
    return made


def _before(state: LogState, known: tuple[int, float] | None, now: float, event: NewEvent) -> Appended | None:
    """The place of the original, if `event` repeats it within its window. A time far ahead, from a wrong clock, is
    outside the window."""
    if known is None or abs(now - known[1]) > event.dedupe_window:
        return None
    seq = known[0]
    return Appended(epoch_at(state.epochs, seq), seq)
