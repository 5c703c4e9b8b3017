"""What a log of events promises, whichever engine stands behind it. One suite of tests runs over every implementation.

A published head only grows, and is this process's knowledge; `bounds` is authoritative. Cursors are judged by
`bounds`, never by `Watch.head`. A wake may be late, repeated or for nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeAlias

from relay_tornado.model import Appended, Bounds, BucketId, Event, NewEvent, Retention

Done: TypeAlias = Callable[[Appended | BaseException], None]
"""Told what became of an append: its place, or the error."""


class Outline(NamedTuple):
    """What is known of an event without its content. `stub`: of an ephemeral one, whose content is not stored."""

    seq: int
    received_at: float
    input_id: str
    method: str
    size: int
    stub: bool


class Extent(NamedTuple):
    """How much a log holds: bytes, and when its oldest and its newest event were received (None: it holds none)."""

    bytes: int
    oldest_at: float | None
    newest_at: float | None


class Watch(Protocol):
    """A registration for wakes, until it is closed."""

    def head(self, bucket_id: BucketId) -> int:
        """The newest published seq, 0 where there is none (or no such bucket)."""

    def close(self) -> None:
        """No wake comes after this returned. May be repeated."""


class EventLog(Protocol):
    """Append-only, dense, per bucket. Errors: BucketGone, CursorLost, Overloaded, NoSpace, Unavailable, Unknown."""

    def append(self, bucket_id: BucketId, event: NewEvent) -> asyncio.Future[Appended]:
        """A future that is done once the event is committed (every error is set on it, none is raised here).

        The engine gives seq, epoch and received_at, which never goes back within a bucket. Where `event.dedupe`
        was appended to this bucket within its window, nothing is stored and the first one's place is the answer;
        in the same batch, its failure too. Of an ephemeral event a stub is committed (seq, time, input, method, size),
        and its content can be read for a while (log/ephemeral.py). Cancelling the future does not take the event back.
        """

    @property
    def append_queue(self) -> int:
        """Bytes of the events that wait for a commit. Quick."""

    def submit(self, bucket_id: BucketId, event: NewEvent, done: Done) -> None:
        """As `append`, for those who append very often: `done` is called once, later, in the loop."""

    async def read(self, bucket_id: BucketId, after: int, limit: int, max_bytes: int) -> Sequence[Event]:
        """Events after + 1, after + 2, … without a hole and never past the published head; [] at the head.

        At most `limit` events or `max_bytes` (of `Event.size`), but at least one where there is one. Raises
        BucketGone, and CursorLost(first) where after + 1 is not kept any more (`first` may be past a damaged stretch),
        or is ephemeral and its content is not in memory any more (its `reason` says so).
        """

    def peek(self, bucket_id: BucketId, after: int, limit: int, max_bytes: int) -> Sequence[Event] | None:
        """As `read`, without waiting: None where it could not be answered from memory."""

    async def pick(self, bucket_id: BucketId, seqs: Sequence[int], max_bytes: int) -> Sequence[Event | None]:
        """Single events in the order of `seqs`, None in place of each that is not there: of as many of `seqs`, from the
        first on, as have at most `max_bytes` together, but of one at least. Raises BucketGone and Unavailable."""

    async def outline(self, bucket_id: BucketId, first: int, last: int) -> Sequence[Outline]:
        """What is known of the events `first` to `last`, in order, less what is not kept or damaged; quick whatever
        size they have. Raises BucketGone."""

    def watch(self, bucket_ids: Collection[BucketId] | None, wake: Callable[[BucketId], None]) -> Watch:
        """Calls `wake` after each commit that published events of these buckets (None: of any, those to come too),
        and after `drop`. `wake` must be quick and must not raise."""

    async def bounds(self, bucket_id: BucketId) -> Bounds:
        """Raises BucketGone."""

    def begin(self, bucket_id: BucketId) -> int:
        """See `Bounds.begin`. Quick. Raises BucketGone."""

    async def extents(self, bucket_ids: Collection[BucketId]) -> Mapping[BucketId, Extent]:
        """How much these logs hold; one that is gone is left out. Raises Unavailable."""

    async def find(self, epoch: str) -> BucketId | None:
        """The bucket that an epoch belongs to."""

    async def seek(self, bucket_id: BucketId, time: float) -> int:
        """A position (a seq, 0 at least) such that every event received at or after `time` lies behind it, and as
        late as that allows, but not below first - 1. Raises BucketGone."""

    async def create(self, bucket_id: BucketId, epoch: str, first: int = 1) -> None:
        """Makes an empty log with its first epoch, open in this process; its first event will have the seq `first`.
        Repeating it changes nothing."""

    async def drop(self, bucket_id: BucketId) -> None:
        """Removes a log: gone at once, its rows in the background. Repeating it, or dropping none, is no error."""

    async def import_events(self, bucket_id: BucketId, events: Sequence[Event], stubs: Mapping[int, int]) -> None:
        """Takes over events that were exported, with their seqs and times, all or none of them: dense, from head + 1
        on, or in a log that never held any from anywhere. Their ids are new, as those of events appended now.

        `stubs` are the sizes, by seq, of the ephemeral ones, which come without their content. Raises BucketGone,
        Conflict where they do not go on at the head, Invalid where they are not dense or their times go back.
        """

    async def buckets(self) -> Collection[BucketId]:
        """Every log there is, so that logs without a bucket can be dropped at a start."""

    async def trim(self, bucket_id: BucketId, keep: Retention, floor: int | None) -> int:
        """Removes what `keep` no longer holds, oldest first, in small steps; seqs from `floor` on stay.

        Returns how many events left. Appends and reads go on meanwhile. Raises BucketGone.
        """

    async def forget_repeats(self, bucket_id: BucketId) -> None:
        """Forgets what `append` knows repeats by, where its window is over by the wall clock. Raises BucketGone."""

    async def close(self) -> None:
        """Commits what is queued, then lets go of everything. Later appends fail with Unavailable."""
