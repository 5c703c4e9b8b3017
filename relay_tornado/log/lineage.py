"""Places a position in a log: where delivery continues, and which events are missing.

The rules are in docs/architecture.md, "Ids: epochs have a lineage". Pure functions over `Bounds`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace

from relay_tornado.errors import CursorLost
from relay_tornado.ids import format_id
from relay_tornado.model import Bounds, Cursor, Epoch, Gap, GapReason


@dataclass(frozen=True, slots=True)
class Placed:
    """Delivery continues after seq `after`; `gap` is what the position should have met but is missing."""

    after: int
    gap: Gap | None = None


def epoch_at(epochs: Sequence[Epoch], seq: int) -> str:
    """The epoch of a seq (0 is in the first epoch)."""
    index = bisect_right(epochs, max(seq, 1), key=lambda epoch: epoch.from_seq) - 1
    return epochs[max(index, 0)].epoch


def holds(bounds: Bounds, id: Cursor) -> bool:
    """Whether the log has the event with this id: its seq is kept, and belongs to its epoch."""
    return bounds.first <= id.seq <= bounds.head and epoch_at(bounds.epochs, id.seq) == id.epoch


def position_id(bounds: Bounds, seq: int) -> str:
    """The id of the position after `seq`."""
    return format_id(epoch_at(bounds.epochs, seq), seq)


def gap_behind(bounds: Bounds, seq: int, lost: CursorLost) -> Gap | None:
    """The gap of a reader at `seq` whose next event is lost. None if it only passes over seqs that the log never
    held."""
    if lost.first <= seq:
        # The log went back below the position, and will reuse these seqs, so nothing is known of what is missing.
        return Gap("reset")
    # Retention removes only events below the log's first one; anything missing within the log is damaged.
    damaged = lost.reason == "retention" and seq + 1 >= bounds.first
    return gap_up_to(bounds, seq, lost.first - 1, "reset" if damaged else lost.reason)


def gap_up_to(bounds: Bounds, seq: int, last: int, reason: GapReason = "retention") -> Gap | None:
    """The gap from after `seq` to `last`, without what is before the log's beginning."""
    start = max(seq + 1, bounds.begin)
    return Gap(reason, start, last) if start <= last else None


def place_cursor(bounds: Bounds, cursor: Cursor | None, ephemeral: bool = False) -> Placed:
    """Places an id in this log; None (an unknown epoch, or one of another log) has the gap `reset`.

    The id of a copy counts as that of its event. In an `ephemeral` bucket every position below the head becomes the
    head, with a gap for the events between.
    """
    placed = _place(bounds, cursor)
    return at_head(bounds, placed) if ephemeral else placed


def gap_within(cursor: Cursor, gap: Gap | None) -> Gap | None:
    """The gap of a cursor after some of an event's copies. If the events after it are missing, so are its other
    copies: the gap begins with the event itself."""
    if gap is None or not cursor.seq or gap.from_seq != cursor.seq + 1:
        return gap
    return replace(gap, from_seq=cursor.seq)


def at_head(bounds: Bounds, placed: Placed) -> Placed:
    """The position in an ephemeral bucket: the head. The gap is extended to the head, except one of unknown extent."""
    gap = placed.gap
    if placed.after >= bounds.head:
        return placed
    first = placed.after + 1 if gap is None else gap.from_seq
    return Placed(bounds.head, gap if first is None else Gap("ephemeral", first, bounds.head))


def _place(bounds: Bounds, cursor: Cursor | None) -> Placed:
    index = _index(bounds.epochs, cursor.epoch) if cursor is not None else None
    if cursor is None or index is None:
        return Placed(bounds.first - 1, Gap("reset"))
    newest = index == len(bounds.epochs) - 1
    end = bounds.head if newest else bounds.epochs[index + 1].from_seq - 1
    if cursor.seq > end:
        if newest and bounds.open:
            return Placed(bounds.first - 1, Gap("future"))
        if end + 1 < bounds.first:
            return Placed(bounds.first - 1, Gap("reset"))
        return Placed(end, Gap("reset", end + 1, cursor.seq))
    if cursor.seq < bounds.first - 1:
        return Placed(bounds.first - 1, gap_up_to(bounds, cursor.seq, bounds.first - 1))
    return Placed(cursor.seq)


def _index(epochs: Sequence[Epoch], name: str) -> int | None:
    for index in range(len(epochs) - 1, -1, -1):
        if epochs[index].epoch == name:
            return index
    return None
