"""The registry's contract: every record is in memory, read without waiting, and written one at a time.

A record is a `Bucket` (including its inputs and outputs) or a `Token`. `revision` is 1 for a new record and grows by
one with each change.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Literal, Protocol, TypeAlias, overload

from relay_tornado.model import Bucket, Token

Kind: TypeAlias = Literal["bucket", "token"]
"""A bucket's key is its id, a token's is its key."""

Changed: TypeAlias = Callable[[Kind, str], None]


class Registry(Protocol):
    """Raises Conflict (a bucket's name, an input's id or its custom_domain with path_prefix is taken, or the revision
    is not the expected one), Unavailable and NoSpace."""

    @overload
    def get(self, kind: Literal["bucket"], key: str) -> Bucket | None: ...

    @overload
    def get(self, kind: Literal["token"], key: str) -> Token | None:
        """The record, or None."""

    def find_bucket(self, reference: str) -> Bucket | None:
        """The bucket with this id or name, or None; an id takes precedence over an equal name."""

    def revision(self, kind: Kind, key: str) -> int:
        """The record's revision, 0 if there is none."""

    @overload
    def list(self, kind: Literal["bucket"]) -> Sequence[Bucket]: ...

    @overload
    def list(self, kind: Literal["token"]) -> Sequence[Token]:
        """All records of a kind, oldest first."""

    async def traces(self) -> Collection[str]:
        """The ids of all buckets that any stored data names, even if the record itself can't be found: a deletion
        leaves nothing of a bucket. Raises Unavailable."""

    def watch(self, changed: Changed) -> Callable[[], None]:
        """Calls `changed(kind, key)` after each committed change, including deletions. Returns a function that ends
        it."""

    async def put(self, kind: Kind, key: str, value: Bucket | Token, expect: int | None = None) -> int:
        """Commits a record and returns its revision. `expect`: 0 for "must be new", n for "must be at n"."""

    async def delete(self, kind: Kind, key: str, expect: int | None = None) -> None:
        """Commits a removal; a missing record is no error. `expect`: n for "must be at n", if the record exists."""
