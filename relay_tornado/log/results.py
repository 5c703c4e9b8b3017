"""What became of events: the contract of the store of results, and of the positions that go with it.

A *copy* of an event is what one output gets; output 0 stands for the event itself, where a bucket has no outputs. Every
time that a copy was tried or answered is a result; they leave with their event. One suite of tests runs over every
implementation.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

import msgspec

from relay_tornado.errors import Invalid
from relay_tornado.model import MIB, BucketId, Result

MOST_RESULTS: Final = 20
"""Results that are kept of a copy: over it the oldest goes that is not its first answer."""

READ_BYTES: Final = 16 * MIB
"""Bytes of headers and bodies of results that are read at once; one may have 10 MiB."""

DONE: Final = frozenset({"sent", "failed"})
"""A copy whose latest result has one of these is done with, and is not drained any more."""


def sent(at: float) -> Result:
    """The result of a copy that was given to somebody who polls."""
    return Result("sent", 0, {}, b"", 0, 0, at)


def status_of(code: int) -> str:
    """The status of a copy that an application answered with this status code; 0: it did not."""
    return "sent" if 200 <= code < 400 else "failed"


class Latest(NamedTuple):
    """The newest result of an event, and the output whose copy it is about."""

    output: int
    result: Result


class Results(Protocol):
    """Errors: BucketGone, NotFound (the log does not hold that event), Invalid (what can't be stored), Overloaded,
    Unavailable, NoSpace, Unknown. Reading of events that are not there finds nothing."""

    async def record(self, bucket_id: BucketId, seq: int, output: int, result: Result) -> bool:
        """Commits a result. True where it is the first one of that copy with a status_code above 0: its answer.

        Results that come at the same time share a commit. A cancelled caller leaves early; it is stored all the same.
        """

    async def first(self, bucket_id: BucketId, seq: int, output: int | None) -> Result | None:
        """The first result with a status_code above 0, of the copy for `output`, or (None) of any copy."""

    async def of(self, bucket_id: BucketId, first: int, last: int) -> Mapping[tuple[int, int], Sequence[Result]]:
        """All results of the events `first` to `last`, by (seq, output), oldest first, `MOST_RESULTS` a copy at most.
        Once the newest of them have `READ_BYTES` bytes, those of the others are `left_out`."""

    async def latest(self, bucket_id: BucketId, seqs: Collection[int], output: int | None) -> Mapping[int, Latest]:
        """The newest result of each event that has one, of the copy for `output`, or (None) of any copy. Once the
        first of `seqs` have `READ_BYTES` bytes, those of the others are `left_out`."""

    async def statuses(self, bucket_id: BucketId, first: int, last: int, output: int | None) -> Mapping[int, str]:
        """The same of the events `first` to `last`, the status alone."""

    async def floor(self, bucket_id: BucketId, output: int) -> int:
        """The position of an output's queue (0: of the bucket's), which is a consumer of the kind `events`: everything
        up to this seq is done with; 0 where there is none yet."""

    async def claim(
        self, bucket_id: BucketId, output: int, expect: int, seqs: Sequence[int], floor: int, at: float
    ) -> Sequence[int] | None:
        """Moves a queue from `expect` to `floor` and marks copies as sent, in one commit.

        Of `seqs` those are marked, with a result `sent` at `at` (unix seconds), and returned, that are still there and
        not done with. None where the queue is not at `expect` any more: nothing was changed.
        """


def storable(result: Result) -> tuple[str, int]:
    """The headers of a result as JSON text, and the bytes that it takes. Raises Invalid where it can't be stored."""
    try:
        headers = msgspec.json.encode({name: list(values) for name, values in result.headers.items()})
        result.status.encode()
    except (UnicodeEncodeError, TypeError, msgspec.MsgspecError) as error:
        raise Invalid("hold what is no text: send strings", "response_headers") from error
    for number in (result.status_code, result.duration_ms, result.retries):
        if not 0 <= number < 1 << 53:
            raise Invalid("a status code, a duration or a number of retries is out of its range")
    return headers.decode(), len(headers) + len(result.body)


def surplus(kept: Sequence[int]) -> int:
    """Which of a copy's results, given by their status codes, oldest first, makes room for another one."""
    return 0 if kept[0] == 0 else 1
