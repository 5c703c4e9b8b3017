"""Administration of consumers: their positions, seeks, dead letters, and replays and giving up of single events.

Every change goes through the ledgers, so that the parts that deliver learn of it, and is committed before it is
answered. Raises NotFound, Invalid naming the field, Conflict, and the storage's errors.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from math import isfinite, nan
from typing import Final

import structlog

from relay_tornado.admin.consumer_names import key_of, may_see, missing
from relay_tornado.admin.standing import Oldest, Standing, consumer_document, dead_document
from relay_tornado.admin.stored import cursor_of, honoured, page_size
from relay_tornado.consumer_changes import Dead
from relay_tornado.consumer_progress import AT_ONCE, Progress
from relay_tornado.copies import active
from relay_tornado.errors import BucketGone, Conflict, Damaged, Invalid, NotFound, RelayError
from relay_tornado.ids import format_id
from relay_tornado.log.consumers import SHOWN_KINDS, DeadLetter, Gaps, Key, Stored, output_key
from relay_tornado.log.contract import EventLog
from relay_tornado.log.ledgers import Ledger, Ledgers, gap_of, progress_of
from relay_tornado.log.lineage import epoch_at, position_id
from relay_tornado.log.results import Results
from relay_tornado.model import (
    MAX_SECONDS,
    Bounds,
    Bucket,
    BucketId,
    Cursor,
    Earliest,
    Gap,
    Last,
    Latest,
    Position,
    Result,
    Since,
    Token,
)
from relay_tornado.pieces import Pieces
from relay_tornado.wire.fields import Document

MOST_EVENTS: Final = 1_000
"""Maximum number of events in one replay, and of dead letters in one page or request."""

_log = structlog.get_logger(__name__)


class ConsumerAdministration:
    """Buckets are passed as records; a consumer is named as in `consumer_names.key_of`."""

    def __init__(self, log: EventLog, ledgers: Ledgers, results: Results) -> None:
        self._log = log
        self._ledgers = ledgers
        self._results = results
        self.connections: Callable[[Key], int] = lambda key: 0
        """Returns how many connections have a consumer now; set by the composition root."""
        self.circuit: Callable[[Key], float | None] = lambda key: None
        """See `Standing.circuit`; set by the composition root."""

    # state

    async def listing(self, bucket: Bucket, token: Token | None = None) -> list[Document]:
        """The bucket's consumers of every kind, except the queues of polling clients; with `token`, only those that it
        may see. Damaged ones are left out: the log names them."""
        await self._ledgers.store.saved()
        bounds = await self._log.bounds(bucket.id)
        return [
            consumer_document(await self._standing(stored, bounds), bucket)
            for stored in await self._ledgers.store.list(bucket.id, whole=True)
            if _shown(stored) and _sees(token, stored.key)
        ]

    async def listings(self, buckets: Sequence[Bucket], token: Token | None = None) -> list[Document]:
        """The consumers of all these buckets, in the order of the buckets; see `listing`."""
        found, pieces = [], Pieces()
        for bucket, each in await self.standings(buckets):
            if _sees(token, each.key):
                found.append(consumer_document(each, bucket))
            await pieces.done()
        return found

    async def show(self, bucket: Bucket, reference: str) -> Document:
        """One consumer: its position, its unfinished events, and the gaps that it met."""
        bounds = await self._log.bounds(bucket.id)
        stored = await self._stored(bucket, reference)
        return consumer_document(await self._standing(stored, bounds), bucket)

    async def measured(self, bucket: Bucket, reference: str) -> tuple[str, bool]:
        """The reference by which a consumer's series are kept, and whether there is the consumer; series outlast it."""
        try:
            key = key_of(bucket, reference)
        except NotFound:
            return reference, False
        try:
            there = await self._ledgers.store.get(key) is not None
        except Damaged:
            there = True
        return key.reference, there

    async def standings(self, buckets: Sequence[Bucket]) -> list[tuple[Bucket, Standing]]:
        """The state of every consumer of these buckets, in the order of the buckets."""
        await self._ledgers.store.saved()
        stored: dict[BucketId, list[Stored]] = {}
        for each in await self._ledgers.store.list(whole=True):
            if _shown(each):
                stored.setdefault(each.key.bucket_id, []).append(each)
        found, pieces = [], Pieces()
        for bucket in buckets:
            # A bucket that is deleted meanwhile is left out.
            with suppress(BucketGone):
                for each in stored.get(bucket.id, ()):
                    found.append((bucket, await self._standing(each, await self._log.bounds(bucket.id))))
                    await pieces.done()
        return found

    async def delete(self, bucket: Bucket, reference: str) -> Key:
        """Deletes a client's consumer: its position and its dead letters. Raises Conflict for a token's or an output's
        consumer, which lasts as long as the token or output."""
        key = key_of(bucket, reference)
        if key.kind == "output":
            raise Conflict(
                "the position of an output is deleted with the output: delete that, or move the position by seek"
            )
        if key.kind == "token":
            raise Conflict(
                "the position of a durable token is kept while it is durable: revoke it, make it not durable, or "
                "move the position by seek"
            )
        if not await self._ledgers.delete(key):
            raise missing(bucket, reference)
        return key

    # seeks

    async def seek(self, bucket: Bucket, reference: str, to: Position, *, preview: bool = False) -> Document:
        """Moves a consumer to a position: it then gets the events after that, and no others. `preview` only reports the
        effect. `repeats`: events that were done and are redelivered; `skips`: events that were not done and are not
        delivered. A consumer whose record is damaged starts afresh there."""
        key = key_of(bucket, reference)
        if preview:
            bounds = await self._log.bounds(bucket.id)
            floor = await self._floor(bucket, bounds, to, key)
            stored = await self._stored(bucket, reference)
            live = self._ledgers.find(key)
            progress = _copy(stored, bounds)[0] if live is None else live.progress
            return _seeked(progress, bounds, floor, preview)
        try:
            return await self._move(bucket, reference, to)
        except Damaged:
            floor = await self._floor(bucket, await self._log.bounds(bucket.id), to, key)
            await self._ledgers.renew(key, floor)
        return await self._move(bucket, reference, to)

    async def _move(self, bucket: Bucket, reference: str, to: Position) -> Document:
        async with self._using(bucket, reference) as ledger:
            bounds = await self._log.bounds(bucket.id)
            floor = await self._floor(bucket, bounds, to, ledger.key)
            seeked = _seeked(ledger.progress, bounds, floor, False)
            ledger.progress.seek(floor)
            await self._committed(ledger)
        return seeked

    async def _floor(self, bucket: Bucket, bounds: Bounds, to: Position, key: Key) -> int:
        """The seq of the last event before a position. Raises Invalid for an id that can't be honoured."""
        lowest = bounds.first - 1
        match to:
            case Latest():
                return bounds.head
            case Earliest():
                return lowest
            case Last(count):
                return max(bounds.head - count, lowest)
            case Since(time):
                return await self._log.seek(bucket.id, time)
            case Cursor(output=output):
                seq = honoured(bounds, format_id(to.epoch, to.seq), "to").seq
                if output is None:
                    had = True
                elif key.kind == "output":
                    had = output >= int(key.name)
                else:
                    had = not active(bucket, output)
                # A consumer's position is between events. A cursor between two copies of an event repeats the event;
                # one at its last copy continues with the next event.
                return max(seq if had else seq - 1, lowest)

    # replays

    async def replay(
        self,
        bucket: Bucket,
        reference: str,
        *,
        first: int,
        last: int | None = None,
        speed: float | None = None,
        anchor: str | None = None,
    ) -> Document:
        """Schedules the events `first` to `last` (None: the head) for redelivery, at most `MOST_EVENTS` of them. Those
        still to be delivered anyway are not counted in `scheduled`. `next` is the `first` of the request that
        continues, None at the end of the range; with `full`, it stopped because the queue is full.

        With `speed` None all are due at once. Otherwise they keep their original intervals, divided by `speed`,
        relative to the previous answer's `anchor`. Raises Conflict for a consumer that is moved by receipts.
        """
        async with self._using(bucket, reference) as ledger:
            _check_tries(ledger, "to where it should begin again")
            bounds = await self._log.bounds(bucket.id)
            end = bounds.head if last is None else min(last, bounds.head)
            begin = max(first, bounds.first)
            upto = min(end, begin + MOST_EVENTS - 1)
            now = self._ledgers.clock()
            dues, kept = await self._dues(bucket, begin, upto, speed, anchor, now)
            # No await from here on, so that nothing else takes the room.
            room = ledger.progress.spare
            full = room < len(dues)
            if full:
                upto = list(dues)[room] - 1
                dues = {seq: due for seq, due in dues.items() if seq <= upto}
            scheduled = ledger.progress.schedule(dues, now)
            await self._committed(ledger)
        going_on = upto + 1 if upto < end else None
        return {"scheduled": len(scheduled), "next": going_on, "full": full, "anchor": kept}

    async def _dues(
        self, bucket: Bucket, first: int, last: int, speed: float | None, anchor: str | None, now: float
    ) -> tuple[dict[int, float], str | None]:
        """When each of these events is due, and the anchor: when the first event of the replay was received, and is
        due."""
        if speed is None:
            return dict.fromkeys(range(first, last + 1), AT_ONCE), None
        came, due = _anchor(anchor) if anchor else (None, now)
        dues = {}
        for outline in await self._log.outline(bucket.id, first, last) if first <= last else ():
            came = outline.received_at if came is None else came
            dues[outline.seq] = due + min(max(outline.received_at - came, 0.0) / speed, MAX_SECONDS)
        return dues, None if came is None else f"{came!r}@{due!r}"

    # dead letters

    async def give_up(self, bucket: Bucket, reference: str, id: str) -> Document:
        """Gives an event up, as if its tries were used up; returns its dead letter. It may be any event that waits for
        another try, is in flight, or comes next. If one in flight is acked, or accepted by the output's destination,
        it is done after all. Raises Conflict for any other event, and for a consumer that is moved by receipts."""
        async with self._using(bucket, reference) as ledger:
            _check_tries(ledger, "to behind this one")
            bounds = await self._log.bounds(bucket.id)
            key, progress = ledger.key, ledger.progress
            seq, now = _seq(bounds, id, "id"), self._ledgers.clock()
            if seq > bounds.head:
                raise Invalid(f"{id} is no event of this bucket yet", "id")
            out = progress.has_out(seq)
            dead = progress.give_up(seq, bounds.head, now)
            if dead is None:
                raise Conflict(_not_given_up(progress, id, seq))
            if key.kind == "output":
                self._ledgers.counters.forward_given_up += 1
            await self._committed(ledger)
        if key.kind == "output" and dead.attempts and not out:
            await self._record(key, seq, dead)
        return dead_document(DeadLetter(key, seq, dead.attempts, dead.since, dead.at, dead.reason), bucket, bounds)

    async def _record(self, key: Key, seq: int, dead: Dead) -> None:
        """Has the log say that an output's event failed: its last try said that there is another."""
        failed = Result("failed", 0, {}, b"Not sent again: an administrator gave it up.", 0, dead.attempts, dead.at)
        try:
            await self._results.record(key.bucket_id, seq, int(key.name), failed)
        except RelayError as error:
            _log.warning("result_not_stored", output=key.name, bucket_id=key.bucket_id, reason=str(error))

    async def dead(self, bucket: Bucket, reference: str | None, *, limit: int = 0, cursor: str = "") -> Document:
        """Dead letters of one consumer, or with None of all of the bucket's, oldest event first, after `cursor` (an
        event's id). At most `limit` (0: 100) are returned, but never only some of one event's. If there are more,
        `next_cursor` is set."""
        key = None if reference is None else (await self._stored(bucket, reference)).key
        bounds = await self._log.bounds(bucket.id)
        after = honoured(bounds, cursor).seq if cursor else 0
        most = page_size(limit, 100, MOST_EVENTS)
        await self._ledgers.store.saved()
        # Several consumers may have letters of one event, and a page ends between events.
        while True:
            found = await self._ledgers.store.dead(bucket.id, key, after, most + 1)
            page = _page(found, most)
            if page or not found:
                break
            most *= 2
        document: Document = {"data": [dead_document(letter, bucket, bounds) for letter in page]}
        if len(page) < len(found):
            document["next_cursor"] = position_id(bounds, page[-1].seq)
        return document

    async def resend(self, bucket: Bucket, reference: str, ids: Sequence[str] | None) -> Document:
        """Schedules dead letters (None: all) for redelivery at once, with their attempts reset. `left` counts those for
        which there is no room, `gone` those whose events the log no longer holds; events that are delivered anyway are
        not counted."""
        async with self._using(bucket, reference) as ledger:
            await self._ledgers.store.saved()
            progress = ledger.progress
            scheduled = left = gone = 0
            pieces = Pieces()
            for seqs in await self._letters(ledger.key, ids):
                first = (await self._log.bounds(bucket.id)).first
                scheduled += len(progress.schedule(dict.fromkeys(seqs, AT_ONCE), self._ledgers.clock()))
                left += sum(seq >= first and not progress.expects(seq) for seq in seqs)
                gone += sum(seq < first for seq in seqs)
                await pieces.done(len(seqs))
            await self._committed(ledger)
        return {"scheduled": scheduled, "left": left, "gone": gone}

    async def hasten(self, bucket_id: BucketId, number: int) -> None:
        """Makes a public output's failed events due at once after its destination has changed: their delays came from
        the previous one. If this can't be stored, they keep waiting."""
        with suppress(RelayError):
            async with self._ledgers.using(output_key(bucket_id, number)) as ledger:
                ledger.progress.hasten()
                await self._committed(ledger)

    async def forget(self, bucket: Bucket, reference: str, ids: Sequence[str] | None) -> Document:
        """Deletes dead letters (None: all) without redelivery."""
        key = (await self._stored(bucket, reference)).key
        await self._ledgers.store.saved()
        forgotten = 0
        for seqs in await self._letters(key, ids):
            forgotten += await self._ledgers.store.forget_dead(key, seqs)
        return {"forgotten": forgotten}

    async def _letters(self, key: Key, ids: Sequence[str] | None) -> list[list[int]]:
        """The seqs of the requested dead letters that exist, in batches."""
        bounds = await self._log.bounds(key.bucket_id)
        wanted = None if ids is None else {_seq(bounds, each) for each in ids}
        batches: list[list[int]] = []
        after = 0
        while found := await self._ledgers.store.dead(key.bucket_id, key, after, MOST_EVENTS):
            batches.append([each.seq for each in found if wanted is None or each.seq in wanted])
            after = found[-1].seq
        return [batch for batch in batches if batch]

    # helpers

    async def _standing(self, stored: Stored, bounds: Bounds) -> Standing:
        """The state of a consumer, which was read as a whole. Reading changes nothing."""
        key = stored.key
        live = self._ledgers.find(key)
        if live is None:
            progress, gap = _copy(stored, bounds)
            if gap is not None:
                times = 0 if stored.gaps is None else stored.gaps.times
                stored = stored._replace(gaps=Gaps(times + 1, gap, self._ledgers.clock()))
        else:
            progress = live.progress
        oldest = _oldest(progress, bounds, self._ledgers.clock())
        standing = Standing(
            stored=stored,
            bounds=bounds,
            terms=stored.terms if live is None else live.terms,
            floor=min(progress.floor, bounds.head),
            pending=progress.pending(bounds.head),
            out=progress.out,
            parked=len(progress.parked),
            connections=self.connections(key),
            oldest=oldest,
            circuit=self.circuit(key),
        )
        # From here on the state may change.
        outlines = () if oldest is None else await self._log.outline(key.bucket_id, oldest.seq, oldest.seq)
        lags = [max(self._ledgers.clock() - each.received_at, 0.0) for each in outlines]
        return replace(standing, lag=max(lags, default=0.0))

    async def _stored(self, bucket: Bucket, reference: str) -> Stored:
        stored = await self._ledgers.store.get(key_of(bucket, reference))
        if stored is None:
            raise missing(bucket, reference)
        return stored

    @asynccontextmanager
    async def _using(self, bucket: Bucket, reference: str) -> AsyncIterator[Ledger]:
        """Opens an existing consumer for a moment. Raises NotFound."""
        key = key_of(bucket, reference)
        async with AsyncExitStack() as stack:
            try:
                ledger = await stack.enter_async_context(self._ledgers.using(key))
            except BucketGone:
                raise
            except NotFound:
                raise missing(bucket, reference) from None
            yield ledger

    async def _committed(self, ledger: Ledger) -> None:
        """Tells those who deliver of a change, and returns once it is committed."""
        ledger.save()
        ledger.tell()
        await self._ledgers.store.saved()


def _check_tries(ledger: Ledger, seek: str) -> None:
    """Raises Conflict for a consumer that is moved by receipts; `seek` is where it may be moved instead."""
    if ledger.terms.receipt:
        name = ledger.key.name
        raise Conflict(f"the consumer {name!r} is moved by receipts, so it tries no single events: seek {seek}")


def _shown(stored: Stored) -> bool:
    return stored.key.kind in SHOWN_KINDS and not stored.damaged


def _sees(token: Token | None, key: Key) -> bool:
    return token is None or may_see(token, key.reference)


def _seeked(progress: Progress, bounds: Bounds, floor: int, preview: bool) -> Document:
    """The effect of a seek to this floor."""
    before = min(progress.floor, bounds.head)
    repeats = progress.done_above(floor)
    skips = max(progress.pending(bounds.head) - (bounds.head - floor - repeats), 0)
    return {
        "from": position_id(bounds, before),
        "to": position_id(bounds, floor),
        "repeats": repeats,
        "skips": skips,
        "preview": preview,
    }


def _oldest(progress: Progress, bounds: Bounds, now: float) -> Oldest | None:
    """The oldest event that is not done; None if there is none."""
    seq = progress.oldest(bounds.head)
    if seq is None:
        return None
    seq = max(seq, bounds.first)
    one, out = progress.parked.get(seq), progress.has_out(seq)
    attempts = progress.attempts(seq)
    since = one.since if one is not None and one.attempts else None
    next_at = one.due if one is not None and one.due > now and not out else None
    return Oldest(seq, attempts, out, since, next_at)


def _copy(stored: Stored, bounds: Bounds) -> tuple[Progress, Gap | None]:
    """The progress that a consumer would have if it were used now, and the gap that it would meet."""
    progress = progress_of(stored)
    progress.advance(bounds.begin - 1)
    return progress, gap_of(progress.trim(bounds.first, 0.0))


def _anchor(text: str) -> tuple[float | None, float]:
    came, _, due = text.partition("@")
    try:
        found = float(came), float(due)
    except ValueError:
        found = (nan, nan)
    if not all(map(isfinite, found)):
        raise Invalid("send the anchor of the previous answer, or none", "anchor")
    return found


def _page(found: Sequence[DeadLetter], most: int) -> Sequence[DeadLetter]:
    """At most `most` of one more letter than that; the letters of one event are not separated."""
    return found if len(found) <= most else [letter for letter in found[:most] if letter.seq < found[most].seq]


def _seq(bounds: Bounds, text: str, field: str = "ids") -> int:
    """The seq of an event of this bucket. Raises Invalid, which names the field."""
    cursor = cursor_of(text, field)
    may_be = bounds.open or cursor.seq <= bounds.head  # an epoch that ended gets no more events
    if cursor.seq and may_be and epoch_at(bounds.epochs, cursor.seq) == cursor.epoch:
        return cursor.seq
    raise Invalid(f"{text[:80]} is no event of this bucket", field)


def _not_given_up(progress: Progress, id: str, seq: int) -> str:
    if progress.expects(seq):
        return (
            f"{id} was not tried yet, and other events come before it: only one that is tried, or comes next, can be "
            "given up"
        )
    return f"the consumer is done with {id} already, or gave it up: its dead letters say which"
