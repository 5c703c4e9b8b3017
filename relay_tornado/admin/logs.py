"""Logs: events with their results, for listing, resending and polling.

Everything is within a token's scope: a bucket outside it, and its content, is NotFound, as if it did not exist. Outputs
are given by id, or within a bucket by name. Raises NotFound, Invalid naming the field, and the log's errors.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from relay_tornado.admin.listing import Listing
from relay_tornado.admin.polling import Polling
from relay_tornado.admin.resending import Resending
from relay_tornado.admin.searching import Searching
from relay_tornado.admin.stored import Located, Stored, document_of
from relay_tornado.errors import NotFound
from relay_tornado.log.contract import EventLog
from relay_tornado.log.results import Results
from relay_tornado.model import Event, Token
from relay_tornado.registry.contract import Registry
from relay_tornado.search.index import Index
from relay_tornado.wire.fields import Document
from relay_tornado.wire.logs import delivery_document


class Logs:
    """The service, assembled from its parts; it holds no lasting state."""

    def __init__(
        self,
        log: EventLog,
        results: Results,
        registry: Registry,
        index: Index | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`index` indexes the events' texts, None if there is none. `clock` returns unix seconds."""
        self.stored = Stored(log, results, registry)
        self.list = Listing(self.stored).page
        self.search = Searching(self.stored, index).page
        resending = Resending(self.stored)
        self.resend, self.resend_range = resending.one, resending.many
        polling = Polling(self.stored, clock)
        self.page, self.drain, self.end_queue = polling.page, polling.drain, polling.end

    async def get(self, token: Token, log_id: str) -> Document:
        """One Log by its id with all its `deliveries`, or that of one copy (`<epoch>-<seq>-<n>`). Also raises NotFound
        for a copy that the event does not have with the current outputs and rules, and that has no result."""
        located = await self.stored.locate(token, log_id)
        bucket, copy = located.bucket, located.copy
        found = await self.stored.one(located)
        latest = (await self.stored.results.latest(bucket.id, [located.seq], copy)).get(located.seq)
        if copy is not None and latest is None and not self.stored.has_copy(bucket, copy, found):
            raise NotFound(f"there is no log {log_id}: the event does not go to an output {copy} of {bucket.name!r}")
        return {**document_of(bucket, found, copy, latest), "deliveries": await self._deliveries(located)}

    async def _deliveries(self, located: Located) -> Sequence[Document]:
        results = await self.stored.results.of(located.bucket.id, located.seq, located.seq)
        wanted = [
            (output, each) for (_, output), tried in results.items() for each in tried if located.copy in (None, output)
        ]
        return [delivery_document(output, each) for output, each in sorted(wanted, key=lambda each: each[1].at)]

    async def event(self, token: Token, log_id: str) -> Event:
        """The event with this id (or the id of a copy), with its content. Also raises NotFound if the content was kept
        only in memory and is gone, or is damaged."""
        found = await self.stored.one(await self.stored.locate(token, log_id))
        if found.stub:
            reason = "its bucket is, or was, ephemeral" if found.ephemeral else "the event was removed, or is damaged"
            raise NotFound(f"the body of {log_id[:100]!r} is not kept (any more): {reason}")
        return found.event
