"""What the registry promises: every record in memory, read without waiting, written one at a time.

A record is a `Bucket` (with its inputs: one record) or a `Token`. `revision` is 1 when a record is made and grows by
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
    """Errors: Conflict (a bucket's name, an input's id or its custom_domain with path_prefix is taken, or the revision
    is not the expected one), Unavailable, NoSpace."""

    @overload
    def get(self, kind: Literal["bucket"], key: str) -> Bucket | None: ...

    @overload
    def get(self, kind: Literal["token"], key: str) -> Token | None:
        """The record, or None."""

    def find_bucket(self, reference: str) -> Bucket | None:
        """The bucket with this id or name; an id comes before a name that looks like it."""

    def revision(self, kind: Kind, key: str) -> int:
        """The record's revision, 0 where there is none."""

    @overload
    def list(self, kind: Literal["bucket"]) -> Sequence[Bucket]: ...

    @overload
    def list(self, kind: Literal["token"]) -> Sequence[Token]:
        """Every record of a kind, oldest first."""

    async def traces(self) -> Collection[str]:
        """The ids of all buckets that anything stored names, also where the record itself can't be found: a deletion
        leaves nothing of a bucket. Raises Unavailable."""

    def watch(self, changed: Changed) -> Callable[[], None]:
        """Calls `changed(kind, key)` after each committed change, deletions too. Returns what ends it."""

    async def put(self, kind: Kind, key: str, value: Bucket | Token, expect: int | None = None) -> int:
        """Commits a record and returns its revision. `expect`: 0 for "must be new", n for "must be at n"."""

    async def delete(self, kind: Kind, key: str, expect: int | None = None) -> None:
        """Commits the removal. Removing what is not there is no error. `expect`: n for "must be at n", where it is."""
