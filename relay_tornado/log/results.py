"""The contract of the store of results: what became of events, and the positions of the queues that clients poll.

A *copy* of an event is what one output gets; output 0 is the event itself, in a bucket without outputs. Each try or
answer of a copy is a result. Results are removed with their event. One test suite runs over every implementation.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

import msgspec

from relay_tornado.errors import Invalid
from relay_tornado.model import MIB, BucketId, Result

MOST_RESULTS: Final = 20
"""Results that are kept of a copy. Beyond that the oldest one is removed, except the copy's first answer."""

READ_BYTES: Final = 16 * MIB
"""Bytes of headers and bodies of results that are read at once; one result may have 10 MiB."""

DONE: Final = frozenset({"sent", "failed"})
"""Statuses of a latest result with which a copy is done, and no longer drained."""


def sent(at: float) -> Result:
    """The result of a copy that was given to a client that polls."""
    return Result("sent", 0, {}, b"", 0, 0, at)


def status_of(code: int) -> str:
    """The status of a copy that an application answered with this status code; 0 means no answer."""
    return "sent" if 200 <= code < 400 else "failed"


class Latest(NamedTuple):
    """The newest result of an event, and the output of the copy."""

    output: int
    result: Result


class Results(Protocol):
    """Errors: BucketGone, NotFound (the log does not hold the event), Invalid (it can't be stored), Overloaded,
    Unavailable, NoSpace, Unknown. Reads of missing events return nothing."""

    async def record(self, bucket_id: BucketId, seq: int, output: int, result: Result) -> None:
        """Commits a result.

        Results that come at the same time share a commit. If the caller is cancelled, the result is stored all the
        same.
        """

    async def first(self, bucket_id: BucketId, seq: int, output: int | None) -> Result | None:
        """The first result with a status_code above 0, of the copy for `output`, or (None) of any copy."""

    async def of(self, bucket_id: BucketId, first: int, last: int) -> Mapping[tuple[int, int], Sequence[Result]]:
        """All results (at most `MOST_RESULTS` a copy) of the events `first` to `last`, by (seq, output), oldest first.
        Once the newest ones have `READ_BYTES` bytes, the contents of the others are `left_out`."""

    async def latest(self, bucket_id: BucketId, seqs: Collection[int], output: int | None) -> Mapping[int, Latest]:
        """The newest result of each event that has one, of the copy for `output`, or (None) of any copy. Once the first
        of `seqs` have `READ_BYTES` bytes, the contents of the others are `left_out`."""

    async def statuses(self, bucket_id: BucketId, first: int, last: int, output: int | None) -> Mapping[int, str]:
        """The statuses of the newest results of the events `first` to `last`."""

    async def floor(self, bucket_id: BucketId, output: int) -> int:
        """The position of the queue of an output (0: of the bucket), a consumer of kind `events`: everything up to this
        seq is done; 0 if there is no position yet."""

    async def claim(
        self, bucket_id: BucketId, output: int, expect: int, seqs: Sequence[int], floor: int, at: float
    ) -> Sequence[int] | None:
        """Moves a queue from `expect` to `floor` and marks copies as sent, in one commit.

        Marks those of `seqs` that still exist and are not done, with a result `sent` at `at` (unix seconds), and
        returns them. Returns None, and changes nothing, if the queue is no longer at `expect`.
        """

    async def end_queue(self, bucket_id: BucketId, output: int) -> None:
        """Removes the position of a queue, if there is one. The results stay."""


def storable(result: Result) -> tuple[str, int]:
    """The headers of a result as JSON text, and the bytes that it takes. Raises Invalid if it can't be stored."""
    try:
        headers = msgspec.json.encode({name: list(values) for name, values in result.headers.items()})
        result.status.encode()
    except (UnicodeEncodeError, TypeError, msgspec.MsgspecError) as error:
        raise Invalid("hold a value that is no string: send strings", "response_headers") from error
    for number in (result.status_code, result.duration_ms, result.retries):
        if not 0 <= number < 1 << 53:
            raise Invalid("a status code, a duration or a number of retries is out of its range")
    return headers.decode(), len(headers) + len(result.body)


def surplus(kept: Sequence[int]) -> int:
    """The index of the result of a copy that makes room for another. `kept` are their status codes, oldest first."""
    return 0 if kept[0] == 0 else 1
