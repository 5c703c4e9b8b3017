"""Logs: events with what became of them, for whoever looks at them, sends them again or polls for them.

Everything is in a token's scope: a bucket out of it, and what is in that, is NotFound like one that is not there.
Outputs are named by id, or within a bucket by name. Errors: NotFound, Invalid naming the field, and the log's own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from relay_tornado.admin.listing import Filter, Listing, LogPage
from relay_tornado.admin.polling import EventPage, Polling
from relay_tornado.admin.resending import Range, Resending, Resent
from relay_tornado.admin.searching import Searching, SearchPage, Wanted
from relay_tornado.admin.stored import Located, Stored, document_of
from relay_tornado.errors import NotFound
from relay_tornado.log.contract import EventLog
from relay_tornado.log.deliveries import Deliveries
from relay_tornado.model import Event, Token
from relay_tornado.registry.contract import Registry
from relay_tornado.search.index import Index
from relay_tornado.wire.fields import Document
from relay_tornado.wire.logs import delivery_document


class Logs:
    """The service; it holds nothing that has to outlive it."""

    def __init__(
        self,
        log: EventLog,
        deliveries: Deliveries,
        registry: Registry,
        index: Index | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`index` is of the events' texts, None where there is none. `clock` gives unix seconds."""
        self.stored = Stored(log, deliveries, registry)
        self._listing = Listing(self.stored)
        self._polling = Polling(self.stored, clock)
        self._resending = Resending(self.stored)
        self._searching = Searching(self.stored, index)

    async def list(
        self,
        token: Token,
        *,
        bucket: str = "",
        output: str = "",
        status: str = "",
        since: float | None = None,
        until: float | None = None,
        limit: int = 0,
        offset: int = 0,
        cursor: str = "",
    ) -> LogPage:
        """Newest first: one Log an event, with its newest delivery; with `output`, that of the one copy.

        `bucket`: name or id, "" is every one. `since`, `until`: unix seconds, received at or after, before. `limit`: 0
        is 50, at most 500. `cursor`: the id behind which (towards older) the page begins; it stays right whatever
        arrives. `offset` counts from there; without a cursor, from what was newest when the same token asked for the
        same with offset 0, for 10 minutes. A page has 16 MiB at most.

        With `output` come the copies that there are as the output is now, and those that have a delivery. With `status`
        or `output` 10,000 events are looked at, 64 MiB of them at most; then the page is `truncated`, with a cursor to
        go on, and `total` is how many were found among those. Raises Invalid for a cursor that can't be honoured.
        """
        return await self._listing.page(token, Filter(bucket, output, status, since, until), limit, offset, cursor)

    async def search(
        self, token: Token, wanted: Wanted, *, bucket: str = "", limit: int = 0, cursor: str = ""
    ) -> SearchPage:
        """Events that fit, newest first and without their bodies; what is asked for is in `Wanted`. Raises Invalid,
        Overloaded."""
        return await self._searching.page(token, bucket, wanted, limit, cursor)

    async def get(self, token: Token, log_id: str) -> Document:
        """One Log by its id with all its `deliveries`, or of one copy (`<epoch>-<seq>-<n>`). Raises NotFound, too, for
        a copy that the event does not have as outputs and rules are now, and of which nothing is recorded."""
        located = await self.stored.locate(token, log_id)
        bucket, copy = located.bucket, located.copy
        found = await self.stored.one(located)
        latest = (await self.stored.deliveries.latest(bucket.id, [located.seq], copy)).get(located.seq)
        if copy is not None and latest is None and not self.stored.has_copy(bucket, copy, found):
            raise NotFound(f"there is no log {log_id}: the event does not go to an output {copy} of {bucket.name!r}")
        return {**document_of(bucket, found, copy, latest), "deliveries": await self._deliveries(located)}

    async def _deliveries(self, located: Located) -> Sequence[Document]:
        results = await self.stored.deliveries.of(located.bucket.id, located.seq, located.seq)
        wanted = [
            (output, each) for (_, output), tried in results.items() for each in tried if located.copy in (None, output)
        ]
        return [delivery_document(output, each) for output, each in sorted(wanted, key=lambda each: each[1].at)]

    async def body(self, token: Token, log_id: str) -> bytes:
        """The body of the event with this id (or of a copy of it), as it came. Raises NotFound, too, where its content
        was kept in memory only and is gone."""
        return (await self.event(token, log_id)).body

    async def event(self, token: Token, log_id: str) -> Event:
        """The event with this id (or that of a copy of it), whole. Raises NotFound, too, where its content was kept in
        memory only and is gone."""
        found = await self.stored.one(await self.stored.locate(token, log_id))
        if found.stub:
            raise NotFound(f"the body of {log_id[:100]!r} is not kept (any more): its bucket is, or was, ephemeral")
        return found.event

    async def resend(self, token: Token, log_id: str, *, output: str = "", process_policy: str = "skip") -> Resent:
        """Appends a copy of an event: a new event of its bucket, `resend_of` the first one; dedupe does not apply.

        With `output`, or the id of a copy, it goes to that output alone. `process_policy`: skip, rules count as ever;
        force, they are ignored. Raises Conflict where there is nothing (any more) that could be sent.
        """
        return await self._resending.one(token, log_id, output, process_policy)

    async def resend_range(
        self, token: Token, bucket: str, wanted: Range, *, output: str = "", process_policy: str = "skip"
    ) -> Resent:
        """The same for a range of a bucket's events, in their order: at most 1,000 copies, from 10,000 events; then
        `next_cursor` leads on, to the head that was there at the first request. Events that are not there any more are
        passed over, and told where they were asked for. Raises Invalid for a cursor that can't be honoured."""
        return await self._resending.many(token, bucket, wanted, output, process_policy)

    async def page(
        self,
        token: Token,
        bucket: str,
        *,
        output: str = "",
        limit: int = 0,
        max_age: float | None = None,
        cursor: str = "",
    ) -> EventPage:
        """Events behind an id, in order, as often as one likes; "" is the earliest. Nothing is marked.

        `limit`: 0 is 1, at most 100, and 8 MiB. With `output` only what goes there now. Those older than `max_age`
        seconds are passed over; 0 is as None.
        """
        return await self._polling.page(token, bucket, output, limit, max_age, cursor)

    async def drain(
        self, token: Token, bucket: str, *, output: str = "", limit: int = 0, max_age: float | None = None
    ) -> EventPage:
        """The next events of a bucket's queue, or of an output's: marked as `sent`, and never given out again.

        It begins with the earliest event. What is sent or failed already, does not go there, or is older than `max_age`
        seconds is passed over for good. Raises Invalid for an ephemeral bucket.
        """
        return await self._polling.drain(token, bucket, output, limit, max_age)
