"""Imports an export's events into a bucket, batch by batch through the writer, so that appends go between.

An interrupted import is repeated as a whole: events that exist already are compared and skipped.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from relay_tornado.errors import Conflict, Invalid
from relay_tornado.log import rows
from relay_tornado.log.contract import EventLog, Outline
from relay_tornado.model import DAY, Bucket, BucketId
from relay_tornado.ops.export_format import Item, Stub, item


async def take(log: EventLog, bucket: Bucket, documents: Sequence[Any]) -> dict[str, int]:
    """Imports a batch of events in the form of an export's lines; returns how many were new, and the head.

    Raises Invalid if they are not events, and Conflict if others are in their places, or if the bucket is ephemeral and
    they have content.
    """
    items = []
    latest = time.time() + DAY
    for place, document in enumerate(documents):
        try:
            made = item(document)
            if made.received_at > latest:
                raise Invalid("was received in the future, so events after it could not keep their own times")
            items.append(made)
        except Invalid as error:
            which = f"event {place + 1} of the batch" if len(documents) > 1 else "the event"
            raise Invalid(f"{which} {error}", "events", named=True) from None
    if bucket.ephemeral and not all(isinstance(each, Stub) for each in items):
        raise Conflict(f"the bucket {bucket.name!r} is ephemeral, and stores no content: import into another one")
    bounds = await log.bounds(bucket.id)
    await _compare(log, bucket.id, [each for each in items if bounds.first <= each.seq <= bounds.head])
    new = [each for each in items if each.seq > bounds.head]
    stubs = {each.seq: each.size for each in new if isinstance(each, Stub)}
    await log.import_events(bucket.id, [each.event() if isinstance(each, Stub) else each for each in new], stubs)
    return {"imported": len(new), "head": (await log.bounds(bucket.id)).head}


async def _compare(log: EventLog, bucket_id: BucketId, items: Sequence[Item]) -> None:
    """Raises Conflict if an event differs from the one in its place. Parts of an export that overlap may be put
    together, so not all of these need follow one another."""
    for _, numbered in groupby(enumerate(items), lambda each: each[1].seq - each[0]):
        run = [each for _, each in numbered]
        there = {each.seq: each for each in await log.outline(bucket_id, run[0].seq, run[-1].seq)}
        for each in run:
            found = there.get(each.seq)
            if found is not None and not _same(each, found):
                raise Conflict(f"event {each.seq} of the bucket differs from the export: import it into a new bucket")


def _same(item: Item, found: Outline) -> bool:
    if (item.received_at, item.input_id, item.method, item.size) != (
        *(found.received_at, found.input_id, found.method, found.size),
    ):
        return False
    # Of an ephemeral event nothing else is stored.
    return isinstance(item, Stub) or found.stub or rows.checksum(item, rows.marks_of(item)) == found.crc
