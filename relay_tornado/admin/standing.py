"""The state of a consumer at one moment, and the JSON forms of that and of a dead letter."""

from __future__ import annotations

from dataclasses import dataclass

from relay_tornado.log.consumers import DeadLetter, Key, Stored, Terms
from relay_tornado.log.lineage import position_id
from relay_tornado.model import Bounds, Bucket
from relay_tornado.wire.fields import Document
from relay_tornado.wire.frames import gap_fields
from relay_tornado.wire.rest import whole


@dataclass(frozen=True, slots=True)
class Standing:
    """A consumer at one moment. Counts are events: `pending` are not done; of these, `out` are in flight and `parked`
    wait for another attempt. `lag` is how many seconds the oldest of them has waited."""

    stored: Stored
    terms: Terms
    floor: int
    pending: int
    out: int
    parked: int
    connections: int
    lag: float

    @property
    def key(self) -> Key:
        return self.stored.key


def consumer_document(standing: Standing, bucket: Bucket, bounds: Bounds) -> Document:
    """The JSON form of a consumer of this bucket."""
    stored, terms, key = standing.stored, standing.terms, standing.key
    acked = key.kind == "client" and not terms.receipt
    gaps = stored.gaps
    return {
        "bucket_id": bucket.id,
        "bucket_name": bucket.name,
        "kind": key.kind,
        "name": key.name,
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
        "gaps": None if gaps is None else {"times": gaps.times, "last": gap_fields(gaps.last), "at": int(gaps.at)},
        "created_at": int(stored.created_at),
        "updated_at": int(stored.updated_at),
    }


def dead_document(letter: DeadLetter, bounds: Bounds) -> Document:
    """The JSON form of a dead letter."""
    return {
        "id": position_id(bounds, letter.seq),
        "seq": letter.seq,
        "kind": letter.key.kind,
        "consumer": letter.key.name,
        "attempts": letter.attempts,
        "since": letter.since,
        "at": letter.at,
        "reason": letter.reason,
    }
