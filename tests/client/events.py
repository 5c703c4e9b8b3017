"""Events as a client has them."""

from __future__ import annotations

from typing import Any

from relay_tornado.client.event import EventData, Headers

EPOCH = "abcdefghijkl"


def event_of(**fields: Any) -> EventData:
    """One with these fields, `headers` as a dict; the others say little."""
    defaults: dict[str, Any] = dict.fromkeys(("bucket_id", "input_id", "input_name", "output", "destination"), "")
    defaults |= {"id": "k3v9x1q7m2ab-1", "seq": 1, "epoch": "k3v9x1q7m2ab", "bucket": "orders", "method": "POST"}
    defaults |= {"path": "", "query": "", "headers": {}, "body": b""}
    given = defaults | fields
    return EventData(**given | {"headers": Headers(given["headers"])})


def event(seq: int, output: int | None = None, bucket: str = "b", epoch: str = EPOCH) -> EventData:
    """The event with this number, or the copy of it for an output; `bucket` is the bucket's id."""
    place = f"{epoch}-{seq}" if output is None else f"{epoch}-{seq}-{output}"
    return event_of(id=place, seq=seq, epoch=epoch, bucket=f"name of {bucket}", bucket_id=bucket)
