"""The range of a bucket's stored events between two positions, and the progress of its replay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from relay_tornado.cli.client import Caller
from relay_tornado.cli.errors import Failure
from relay_tornado.cli.positions import Position
from relay_tornado.cli.printing import Document
from relay_tornado.ids import parse_id


@dataclass(frozen=True, slots=True)
class Span:
    """The seqs `first` to `last`, inclusive. `bucket` is the bucket's whole document; `before` is the position just
    before `first`."""

    bucket: Document
    first: int
    last: int
    before: str

    @property
    def count(self) -> int:
        """The number of seqs, whether all of them are kept or not."""
        return self.last - self.first + 1


@dataclass(slots=True)
class Course:
    """The progress of a replay. `next` is the first seq that is not done; the counts are events."""

    span: Span
    next: int
    sent: int = 0
    refused: int = 0
    failed: int = 0
    missing: int = 0
    stopped: bool = False
    verb: str = "sent again"
    """The words for what was done with the events that count as `sent`."""

    @property
    def passed(self) -> int:
        """The number of seqs of the range that are done."""
        return self.next - self.span.first

    @property
    def document(self) -> Document:
        rest = {"next": self.next} if self.stopped else {}
        counts = {name: getattr(self, name) for name in ("sent", "refused", "failed", "missing")}
        return {"bucket": self.span.bucket["name"], "first": self.span.first, "last": self.span.last, **counts, **rest}


def find_span(relay: Caller, bucket: str, begin: Position, end: Position) -> Span:
    """The range between two positions, inclusive; a time at its end is exclusive. Raises Failure if it is empty, and
    what the relay raises."""
    found: Document = relay.call("bucket.show", bucket=bucket)
    head = _newest(relay, found["id"])
    if head is None:
        raise Failure(f"no event is kept in {found['name']}")
    newest, epoch = head
    first = max(1, _seq(relay, found, begin, newest, opens=True))
    last = min(newest, _seq(relay, found, end, newest, opens=False))
    if first > last:
        raise Failure(f"there is no event in this range: the newest in {found['name']} is {epoch}-{newest}")
    return Span(found, first, last, f"{epoch}-{first - 1}")


def _seq(relay: Caller, bucket: Document, position: Position, newest: int, *, opens: bool) -> int:
    """The first seq (`opens`) or the last seq of a range with this position at its begin or end."""
    match position.kind:
        case "earliest":
            return 1
        case "latest":
            return newest + 1 if opens else newest
        case "last":
            return newest - int(position.value) + 1
        case "seq":
            return int(position.value)
        case "time":
            before = _newest(relay, bucket["id"], until=position.value)
            return (0 if before is None else before[0]) + (1 if opens else 0)
        case "id":
            event = relay.call("logs.show", id=position.value)
            if event["bucket_id"] != bucket["id"]:
                raise Failure(f"the event {position.value} is of another bucket than {bucket['name']}")
            return parse_id(position.value).seq


def _newest(relay: Caller, bucket_id: str, **restricted: Any) -> tuple[int, str] | None:
    """Seq and epoch of the newest event, None if there is none."""
    page = relay.call("logs.list", bucket=bucket_id, limit=1, **restricted)
    if not page["data"]:
        return None
    cursor = parse_id(page["data"][0]["id"])
    return cursor.seq, cursor.epoch
