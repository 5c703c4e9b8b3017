"""The Python client of a relay: events of its buckets as an asynchronous iterator (`sync` has a blocking one).

    async with subscribe(url, key, secret, buckets=["orders"], checkpoint="orders.checkpoint") as events:
        async for event in events:
            handle(event.json())

It imports nothing of the server. docs/client.md describes it.
"""

from relay_tornado.client.backoff import Backoff
from relay_tornado.client.checkpoint import Checkpoint, FileCheckpoint
from relay_tornado.client.errors import (
    CheckpointError,
    GapRefused,
    NotExtended,
    Refused,
    Rejected,
    RelayClientError,
    Unreachable,
)
from relay_tornado.client.event import Event, EventData, Gap, Headers, Notice
from relay_tornado.client.subscription import Subscription, subscribe

__all__ = [
    "Backoff",
    "Checkpoint",
    "CheckpointError",
    "Event",
    "EventData",
    "FileCheckpoint",
    "Gap",
    "GapRefused",
    "Headers",
    "NotExtended",
    "Notice",
    "Refused",
    "Rejected",
    "RelayClientError",
    "Subscription",
    "Unreachable",
    "subscribe",
]
