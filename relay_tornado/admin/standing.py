"""The state of a consumer at one moment, and the JSON forms of that and of a dead letter."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import NamedTuple

from relay_tornado.log.consumers import DeadLetter, Key, Stored, Terms
from relay_tornado.log.lineage import position_id
from relay_tornado.model import Bounds, Bucket
from relay_tornado.wire.fields import Document
from relay_tornado.wire.frames import gap_fields
from relay_tornado.wire.rest import whole


class Oldest(NamedTuple):
    """The oldest event that a consumer is not done with. `attempts` counts one that is in flight (`out`), too. `since`
    is the time of the first that failed, `next_at` that from which there may be another; both are unix seconds, None if
    there is none."""

    seq: int
    attempts: int
    out: bool
    since: float | None
    next_at: float | None


@dataclass(frozen=True, slots=True)
class Standing:
    """A consumer, and its bucket's log, at one moment. Counts are events: `pending` are not done; of these, `out` are
    in flight and `parked` wait for another attempt or are in flight for it. `lag` is how many seconds the oldest of
    them has waited. `circuit`, of an output whose circuit is open, is the time of the next attempt in unix seconds,
    infinity while that is in flight; else None."""

    stored: Stored
    bounds: Bounds
    terms: Terms
    floor: int
    pending: int
    out: int
    parked: int
    connections: int
    oldest: Oldest | None
    circuit: float | None
    lag: float = 0.0

    @property
    def key(self) -> Key:
        return self.stored.key


def consumer_document(standing: Standing, bucket: Bucket) -> Document:
    """The JSON form of a consumer of this bucket."""
    stored, bounds, terms, key = standing.stored, standing.bounds, standing.terms, standing.key
    acked = key.kind == "client" and not terms.receipt
    gaps = stored.gaps
    return {
        "bucket_id": bucket.id,
        "bucket_name": bucket.name,
        "kind": key.kind,
        "name": key.name,
        "output_name": _output_name(bucket, key),
        "ack": "forward" if key.kind == "output" else "explicit" if acked else "receipt",
        "floor": position_id(bounds, standing.floor),
        "head": position_id(bounds, bounds.head),
        "pending": standing.pending,
        "out": standing.out,
        "parked": standing.parked,
        "dead": stored.dead,
        "connections": standing.connections,
        "ack_wait": whole(terms.ack_wait) if acked else None,
        "max_deliver": terms.max_deliver if acked else None,
        "lag": {"events": standing.pending, "seconds": round(standing.lag, 3)},
        "oldest": _oldest_document(standing.oldest, bounds),
        "circuit": _circuit_document(standing.circuit),
        "gaps": None if gaps is None else {"times": gaps.times, "last": gap_fields(gaps.last), "at": int(gaps.at)},
        "created_at": int(stored.created_at),
        "updated_at": int(stored.updated_at),
    }


def _oldest_document(oldest: Oldest | None, bounds: Bounds) -> Document | None:
    if oldest is None:
        return None
    return {
        "id": position_id(bounds, oldest.seq),
        "attempts": oldest.attempts,
        "out": oldest.out,
        "since": oldest.since,
        "next_at": oldest.next_at,
    }


def _circuit_document(circuit: float | None) -> Document | None:
    if circuit is None:
        return None
    return {"next_at": circuit if isfinite(circuit) else None}


def dead_document(letter: DeadLetter, bucket: Bucket, bounds: Bounds) -> Document:
    """The JSON form of a dead letter of a consumer of this bucket."""
    return {
        "id": position_id(bounds, letter.seq),
        "seq": letter.seq,
        "kind": letter.key.kind,
        "consumer": letter.key.name,
        "output_name": _output_name(bucket, letter.key),
        "attempts": letter.attempts,
        "since": letter.since,
        "at": letter.at,
        "reason": letter.reason,
    }


def _output_name(bucket: Bucket, key: Key) -> str | None:
    """The name of the output whose consumer this is; None for any other consumer, and for an output that is gone."""
    if key.kind != "output":
        return None
    return next((each.name for each in bucket.outputs if str(each.n) == key.name), None)
