"""Exports a bucket's events from the file as lines (ops/export_format.py), whether a relay runs on it or not."""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import relay_tornado
from relay_tornado.errors import Conflict, Invalid, NotFound, Unavailable
from relay_tornado.ids import parse_id
from relay_tornado.log.lineage import epoch_at, place_cursor
from relay_tornado.log.loading import Loaded, Row, load, renew
from relay_tornado.model import Bounds, Epoch
from relay_tornado.ops.copying import Progress
from relay_tornado.ops.export_format import FORMAT, Header, Item, Stub, header_line, item_line
from relay_tornado.ops.opening import open_file
from relay_tornado.ops.reading import Step, read

_SEQ: Final = re.compile("[0-9]{1,19}")

_BY_EVENTS = """
SELECT id,
    iif(typeof(first) = 'integer', first, (SELECT min(seq) FROM event WHERE log = log.id AND typeof(seq) = 'integer')),
    iif(typeof(head) = 'integer', head, (SELECT max(seq) FROM event WHERE log = log.id AND typeof(seq) = 'integer'))
FROM log WHERE bucket = ? AND dropped = 0
"""


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written: the number of events, and the last seq (0: none). `found`: the log's row is damaged, so the
    range of events was taken from the event rows."""

    bucket: str
    events: int
    last: int
    found: bool


class _Damaged(Unavailable):
    """The event `seq` is damaged: the export ends before it."""

    def __init__(self, message: str, seq: int) -> None:
        super().__init__(message)
        self.seq = seq


def export(
    path: Path,
    bucket: str,
    after: str | None,
    write: Callable[[bytes], Any],
    progress: Progress,
    *,
    header: bool = True,
    source: str | None = None,
) -> Exported:
    """Writes the events of a bucket (a name or an id) after a seq or an event's id, up to the head of this moment.

    With None, all events that are kept. `source` is the bucket's id in the export that is continued, if it has one.
    Raises NotFound, Conflict if `source` is another bucket, Invalid if `after` is no position of this bucket,
    Unavailable if an event is damaged or was deleted meanwhile (the lines before it are valid), and StartupError. In
    place of a damaged event, a header for no events is written: it says that the lines before it are complete.
    """
    with contextlib.closing(open_file(path)) as raw:
        bucket_id, name, document = _find(raw, bucket)
        if source not in (None, bucket_id):
            raise Conflict(
                f"the file holds events of another bucket, {source}, and {name!r} is {bucket_id}: name another file"
            )
        loaded = load(raw)
        found = _found(raw, loaded, bucket_id)
        renew(loaded)
        row = next((each for each in loaded.live if each.bucket_id == bucket_id), None)
        if row is None:
            raise NotFound(f"the bucket {name!r} has no log that could be read: `relay check` says more")
        epochs = loaded.epochs[row.key]
        bounds = Bounds(row.first, row.head, tuple(epochs), open=False)
        start = row.first if after is None else _after(bounds, after) + 1
        about = {
            "id": bucket_id,
            "name": name,
            "description": document.get("description", ""),
            "retention": document.get("retention", {}),
        }
        if header:
            write(_header(about, start, row.head, epochs))
        total = row.head - start + 1
        try:
            for step in read(raw, row.key, start, row.head, epochs):
                for item in _items(raw, row.key, name, bounds, step):
                    write(item_line(item))
                progress("exporting events", step.end - start + 1, total)
        except _Damaged as damaged:
            write(_header(about, damaged.seq, damaged.seq - 1, epochs))
            raise
        return Exported(name, max(total, 0), row.head if total > 0 else 0, found)


def _found(raw: sqlite3.Connection, loaded: Loaded, bucket_id: str) -> bool:
    """If the row of the bucket's log is damaged, adds the log with the range of its event rows. Returns whether it is
    damaged."""
    row = raw.execute(_BY_EVENTS, (bucket_id,)).fetchone()
    if row is None or row[0] not in loaded.damaged:
        return False
    key, first, head = row
    loaded.live.append(Row(key, bucket_id, first or 1, head or 0, 0, 0.0))
    return True


def _header(about: dict[str, Any], first: int, head: int, epochs: Sequence[Epoch]) -> bytes:
    lineage = [{"epoch": each.epoch, "from_seq": each.from_seq} for each in epochs]
    return header_line(Header(FORMAT, about, first, head, lineage, time.time(), relay_tornado.__version__))


def _find(raw: sqlite3.Connection, reference: str) -> tuple[str, str, dict[str, Any]]:
    for column in ("id", "name"):
        sql = f"SELECT id, name, document FROM bucket WHERE {column} = ?"  # noqa: S608
        found = raw.execute(sql, (reference,)).fetchone()
        if found is not None:
            return found[0], found[1], _document(found[2])
    raise NotFound(f"there is no bucket {reference[:100]!r}: `relay bucket list` shows which there are")


def _document(text: Any) -> dict[str, Any]:
    """The bucket's record; {} if it is damaged, as the events can be exported all the same."""
    try:
        document = json.loads(text)
    except (ValueError, TypeError):
        return {}
    return document if isinstance(document, dict) else {}


def _after(bounds: Bounds, after: str) -> int:
    """The seq that a seq or an id names. Raises Invalid if the events after it are not all here."""
    if _SEQ.fullmatch(after):
        seq = int(after)
        if bounds.first - 1 <= seq <= bounds.head:
            return seq
        raise Invalid(
            f"there is no event after {seq}: this bucket holds {bounds.first} to {bounds.head}", "after", named=True
        )
    placed = place_cursor(bounds, parse_id(after))
    if placed.gap is None:
        return placed.after
    raise Invalid(
        f"the events after {after} are not all here (gap: {placed.gap.reason}): this bucket holds {bounds.first} "
        f"to {bounds.head}; export these into a new file, without --after or --append",
        "after",
        named=True,
    )


def _items(raw: sqlite3.Connection, log: int, name: str, bounds: Bounds, step: Step) -> Iterator[Item]:
    for seq, event in enumerate(step.found.events, step.start):
        if event is not None:
            yield event
        elif seq in step.found.stubs:
            sql = "SELECT received_at, input_id, method, size FROM event WHERE log = ? AND seq = ?"
            row = raw.execute(sql, (log, seq)).fetchone()
            if row is None:  # deleted since
                raise _not_there(raw, log, name, seq)
            yield Stub(seq, epoch_at(bounds.epochs, seq), *row)
        else:
            raise _not_there(raw, log, name, seq)


def _not_there(raw: sqlite3.Connection, log: int, name: str, seq: int) -> Unavailable:
    row = raw.execute("SELECT first FROM log WHERE id = ? AND dropped = 0", (log,)).fetchone()
    if row is None:
        return Unavailable(f"the bucket {name!r} was deleted meanwhile")
    if isinstance(row[0], int) and seq < row[0]:
        return Unavailable(f"retention removed the events up to {row[0] - 1} meanwhile: export again into a new file")
    return _Damaged(
        f"event {seq} is missing or damaged: `relay check` says more. What follows it can be exported into another "
        f"file with --after {seq}",
        seq,
    )
