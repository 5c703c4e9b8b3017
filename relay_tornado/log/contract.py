"""The contract of an event log, independent of the storage engine. One test suite runs over every implementation.

A published head only grows, and is what this process knows; `bounds` is authoritative. Cursors are judged by `bounds`,
never by `Watch.head`. A wake may come late, more than once, or without a new event.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeAlias

from relay_tornado.model import Appended, Bounds, BucketId, Event, NewEvent, Retention

Done: TypeAlias = Callable[[Appended | BaseException], None]
"""Called with an append's place or its error."""


class Outline(NamedTuple):
    """An event without its content. `crc`: the checksum of what is stored (`rows.checksum`). `stub`: the event is
    ephemeral, so its content is not stored."""

    seq: int
    received_at: float
    input_id: str
    method: str
    size: int
    crc: int
    stub: bool


class Extent(NamedTuple):
    """A log's size in bytes, and when its oldest and its newest event were received (None if it is empty)."""

    bytes: int
    oldest_at: float | None
    newest_at: float | None


class Held(NamedTuple):
    """How many events a log holds, and their bytes."""

    events: int
    bytes: int


class Watch(Protocol):
    """A registration for wakes, valid until it is closed."""

    def head(self, bucket_id: BucketId) -> int:
        """The newest published seq; 0 if there is none, or no such bucket."""

    def close(self) -> None:
        """Ends the registration: no wake comes after this has returned. May be called again."""


class EventLog(Protocol):
    """Append-only, dense, per bucket. Errors: BucketGone, CursorLost, Overloaded, NoSpace, Unavailable, Unknown."""

    def append(self, bucket_id: BucketId, event: NewEvent) -> asyncio.Future[Appended]:
        """Returns a future that is done once the event is committed. Errors are set on it; none is raised here.

        The engine assigns seq, epoch and received_at, which never decreases within a bucket. If an event with the same
        `event.dedupe` was appended to this bucket within its window, nothing is stored and the result is that event's
        place; if both are in one batch and it fails, so does this one. Of an ephemeral event a stub is committed (seq,
        time, input, method, size); its content can be read for a while (log/ephemeral.py). Cancelling the future does
        not undo the append.
        """

    @property
    def append_queue(self) -> int:
        """Bytes of the events that wait for a commit. Does no I/O."""

    def submit(self, bucket_id: BucketId, event: NewEvent, done: Done) -> None:
        """As `append`, but cheaper: `done` is called once, later, in the event loop."""

    async def read(self, bucket_id: BucketId, after: int, limit: int, max_bytes: int) -> Sequence[Event]:
        """Events after + 1, after + 2, … without a hole and never past the published head; [] at the head.

        At most `limit` events or `max_bytes` (of `Event.size`), but at least one if there is one. Raises BucketGone,
        and CursorLost(first) if event after + 1 is no longer kept (`first` may be beyond a damaged stretch), or is
        ephemeral and its content is no longer in memory (see `reason`).
        """

    def peek(self, bucket_id: BucketId, after: int, limit: int, max_bytes: int) -> Sequence[Event] | None:
        """As `read`, without waiting: None if it can't be answered from memory."""

    async def pick(self, bucket_id: BucketId, seqs: Sequence[int], max_bytes: int) -> Sequence[Event | None]:
        """Single events in the order of `seqs`, None for each missing one. The list ends early at `max_bytes`, but has
        at least one entry. Raises BucketGone and Unavailable."""

    async def outline(self, bucket_id: BucketId, first: int, last: int) -> Sequence[Outline]:
        """The events `first` to `last` without their content, by ascending seq; removed and damaged ones are left out.
        Takes the same time whatever size the events have. Raises BucketGone."""

    def watch(self, bucket_ids: Collection[BucketId] | None, wake: Callable[[BucketId], None]) -> Watch:
        """Calls `wake` after each commit that published events of these buckets (None: of any bucket, future ones
        too), and after `drop`. `wake` must be quick and must not raise."""

    async def bounds(self, bucket_id: BucketId) -> Bounds:
        """What the log holds, authoritatively. Raises BucketGone."""

    def begin(self, bucket_id: BucketId) -> int:
        """See `Bounds.begin`. Does no I/O. Raises BucketGone."""

    def held(self, bucket_id: BucketId) -> Held:
        """How much the log holds. Does no I/O. Raises BucketGone."""

    async def extents(self, bucket_ids: Collection[BucketId]) -> Mapping[BucketId, Extent]:
        """The extents of these logs; missing logs are left out. Raises Unavailable."""

    async def find(self, epoch: str) -> BucketId | None:
        """The bucket that an epoch belongs to."""

    async def seek(self, bucket_id: BucketId, time: float) -> int:
        """The last position (a seq, at least 0 and at least first - 1) with every event that was received at or after
        `time` above it. Raises BucketGone."""

    async def create(self, bucket_id: BucketId, epoch: str, first: int = 1) -> None:
        """Creates an empty log whose first epoch is open in this process; its first event will have the seq `first`.
        May be repeated, without effect."""

    async def drop(self, bucket_id: BucketId) -> None:
        """Removes a log: at once for callers, its rows in the background. No error if there is no such log."""

    async def import_events(self, bucket_id: BucketId, events: Sequence[Event], stubs: Mapping[int, int]) -> None:
        """Stores exported events with their seqs and times, all of them or none. They are dense, and begin at head + 1,
        or anywhere if the log never held an event. They get new ids, as appended events do.

        `stubs` maps the seqs of the ephemeral events, which come without content, to their sizes. Raises BucketGone,
        Conflict if they do not begin at head + 1, and Invalid if they are not dense or their times decrease.
        """

    async def buckets(self) -> Collection[BucketId]:
        """All logs, so that a start can drop those that have no bucket."""

    async def trim(self, bucket_id: BucketId, keep: Retention, floor: int | None) -> int:
        """Removes events that `keep` does not keep, oldest first, in small steps; seqs from `floor` on stay.

        Returns the number of removed events. Appends and reads continue meanwhile. Raises BucketGone.
        """

    async def forget_repeats(self, bucket_id: BucketId) -> None:
        """Forgets the dedupe digests whose window is over by the wall clock. Raises BucketGone."""

    async def close(self) -> None:
        """Commits what is queued, then closes everything. Later appends fail with Unavailable."""
