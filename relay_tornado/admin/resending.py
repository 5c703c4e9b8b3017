"""Resending: appends copies of events to their own bucket, in the order of the originals."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from relay_tornado.admin.lookup import output_of
from relay_tornado.admin.stored import MOST_SCANNED, Judging, Located, Stored, honoured
from relay_tornado.errors import Conflict, CursorLost, Invalid, RelayError
from relay_tornado.ids import format_id
from relay_tornado.log.lineage import position_id
from relay_tornado.model import MIB, Appended, Bucket, Event, Gap, GapReason, NewEvent, Token
from relay_tornado.rules import compile_rules
from relay_tornado.subject import Subject
from relay_tornado.wire.fields import Document
from relay_tornado.wire.frames import gap_fields

MOST: Final = 1_000
"""Maximum number of copies per request."""

LONG: Final = 10.0
"""Seconds that a request may spend on evaluating rules."""

_READ: Final = 256
_TO: Final = ".."
"""Separates the two ids of a cursor: after the first, up to and including the second."""


@dataclass(frozen=True, slots=True)
class Range:
    """A range of a bucket's events: `first` to `last` by seq, received at `since` (unix seconds) or later and before
    `until`, after `cursor` (an event's id, or the `next_cursor` of an answer), matching `filter` (a document of rules).
    None or "" does not restrict."""

    first: int | None = None
    last: int | None = None
    since: float | None = None
    until: float | None = None
    cursor: str = ""
    filter: Any = None


@dataclass(frozen=True, slots=True)
class _Orders:
    bucket: Bucket
    target: int | None
    force: bool


class Resending:
    """Appends the copies."""

    def __init__(self, stored: Stored) -> None:
        self._stored = stored

    async def one(self, token: Token, log_id: str, *, output: str = "", process_policy: str = "skip") -> Document:
        """Appends a copy of an event: a new event of its bucket, with `resend_of` naming the original; dedupe does not
        apply.

        With `output`, or the id of a copy, it goes to that output alone. `process_policy`: skip obeys rules, force
        ignores them. Raises Conflict if the event's content no longer exists, or the output of the copy.
        """
        located = await self._stored.locate(token, log_id)
        orders = _Orders(located.bucket, _target(located, output), _force(process_policy))
        found = await self._stored.one(located)
        if found.stub:
            reason = "is ephemeral, and its content is gone" if found.ephemeral else "is damaged"
            raise Conflict(f"the event {log_id} {reason}: it can't be sent again")
        place = await self._stored.log.append(located.bucket.id, _copy(found.event, orders))
        return _resent([format_id(place.epoch, place.seq)])

    async def many(
        self, token: Token, bucket: str, wanted: Range, *, output: str = "", process_policy: str = "skip"
    ) -> Document:
        """Resends a range of a bucket's events, in order: at most 1,000 copies, from 10,000 events. If there are more,
        `next_cursor` continues, up to the head of the first request: the cursor holds the range's end, so no request
        meets the copies. `problem` says why it stopped, other than for these bounds. Events that no longer exist are
        skipped, and listed in `skipped` if they were requested. Raises Invalid for a cursor that can't be honoured."""
        found = self._stored.bucket(token, bucket)
        target = output_of(found, output).n if output else None
        orders = _Orders(found, target, _force(process_policy))
        rules = compile_rules(wanted.filter, "filter")
        after, last, skipped = await self._bounds(found, wanted)
        ids: list[str] = []
        scanned = 0
        judging = Judging()
        while after < last:
            if len(ids) >= MOST or scanned >= MOST_SCANNED or judging.seconds >= LONG:
                return _resent(ids, await self._cursor(found, after, last), skipped=skipped)
            try:
                events = await self._stored.log.read(
                    found.id, after, min(_READ, last - after, MOST_SCANNED - scanned), MIB
                )
            except CursorLost as lost:
                _skip(skipped, lost.reason, after + 1, min(lost.first - 1, last))
                after = lost.first - 1
                scanned += 1
                continue
            chosen: list[Event] = []
            looked = 0
            while looked < len(events) and len(ids) + len(chosen) < MOST and judging.seconds < LONG:
                if await judging.fits(events[looked], lambda event: rules.matches(Subject(event))):
                    chosen.append(events[looked])
                looked += 1
            # The bucket may have changed since, for example in a long request, and with it whether content is stored.
            orders = replace(orders, bucket=self._stored.bucket(token, found.id))
            places, problem = await self._append(chosen, orders)
            ids += [format_id(place.epoch, place.seq) for place in places]
            scanned += looked
            if problem is not None:
                if not ids:
                    raise problem
                reached = chosen[len(places)].seq - 1
                return _resent(ids, await self._cursor(found, reached, last), str(problem), skipped)
            after = events[looked - 1].seq
        return _resent(ids, skipped=skipped)

    async def _bounds(self, bucket: Bucket, wanted: Range) -> tuple[int, int, list[Gap]]:
        """The position before the range, its last seq, and the requested events that no longer exist; events appended
        from now on are not in it. Raises Invalid for a cursor that can't be honoured."""
        bounds = await self._stored.log.bounds(bucket.id)
        first = wanted.first or 1
        last = bounds.head if wanted.last is None else min(bounds.head, wanted.last)
        told = wanted.first is not None or bool(wanted.cursor)
        if wanted.cursor:
            after, to, end = wanted.cursor.partition(_TO)
            first = max(first, honoured(bounds, after).seq + 1)
            if to:
                last = min(last, honoured(bounds, end).seq)
        begin = max(first, bounds.first)
        begin, last = await self._stored.span(bucket.id, begin, last, wanted.since, wanted.until)
        skipped: list[Gap] = []
        if told and wanted.since is None:
            # A request that names a starting point expects all events after it.
            _skip(skipped, "retention", first, min(bounds.first - 1, last))
        return begin - 1, last, skipped

    async def _cursor(self, bucket: Bucket, after: int, last: int) -> str:
        bounds = await self._stored.log.bounds(bucket.id)
        return f"{position_id(bounds, after)}{_TO}{position_id(bounds, last)}"

    async def _append(self, events: Sequence[Event], orders: _Orders) -> tuple[list[Appended], RelayError | None]:
        """The places of the copies up to the first that failed, and its error. None is appended after one that is
        refused, since a smaller one might be accepted."""
        appends: list[asyncio.Future[Appended]] = []
        for event in events:
            append = self._stored.log.append(orders.bucket.id, _copy(event, orders))
            appends.append(append)
            if append.done() and append.exception() is not None:
                break
        places: list[Appended] = []
        for result in await asyncio.gather(*appends, return_exceptions=True):
            if isinstance(result, RelayError):
                return places, result
            if isinstance(result, BaseException):
                raise result
            places.append(result)
        return places, None


def _resent(
    ids: Sequence[str], next_cursor: str | None = None, problem: str = "", skipped: Sequence[Gap] = ()
) -> Document:
    """The answer; `next_cursor` None means the end of the range."""
    document: Document = {"status": "resent", "ids": ids}
    if next_cursor is not None:
        document["next_cursor"] = next_cursor
    if problem:
        document["problem"] = problem
    if skipped:
        document["skipped"] = [gap_fields(gap) for gap in skipped]
    return document


def _skip(skipped: list[Gap], reason: GapReason, first: int, last: int) -> None:
    """Adds a range of missing events, joined to the previous one if it continues that."""
    if first > last:
        return
    gap = Gap(reason, first, last)
    joined = skipped[-1].joined(gap) if skipped else None
    if joined is None:
        skipped.append(gap)
    else:
        skipped[-1] = joined


def _copy(event: Event, orders: _Orders) -> NewEvent:
    return NewEvent(
        input_id=event.input_id,
        method=event.method,
        path=event.path,
        query=event.query,
        headers=event.headers,
        body=event.body,
        remote_ip=event.remote_ip,
        resend_of=event.id,
        target=orders.target,
        force=orders.force,
        verified=event.verified,
        verdict=event.verdict,
        ephemeral=orders.bucket.ephemeral,
    )


def _target(located: Located, output: str) -> int | None:
    """The number of the output that was named, or else of the copy that was named."""
    if output:
        return output_of(located.bucket, output).n
    if located.copy is not None and all(each.n != located.copy for each in located.bucket.outputs):
        raise Conflict(f"the output {located.copy} that this copy was for does not exist any more: name another output")
    return located.copy


def _force(process_policy: str) -> bool:
    if process_policy not in ("", "skip", "force"):
        raise Invalid("must be skip, which obeys rules, or force, which ignores them", "process_policy")
    return process_policy == "force"
