"""A bucket's input or output by its id, and what is said where there is none: an id is easily taken for a name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from relay_tornado.errors import NotClear, NotFound
from relay_tornado.model import Bucket, Input, Output

_Part = TypeVar("_Part", Input, Output)


def part_of(bucket: Bucket, kind: str, parts: Sequence[_Part], reference: str) -> _Part:
    """The one of the bucket's `parts` (`kind`: "input" or "output") with this id. Raises NotFound, which tells the ids
    of those that the reference is the name of."""
    for each in parts:
        if each.id == reference:
            return each
    ids = [each.id for each in parts if each.name == reference]
    if not ids:
        raise NotFound(f"the bucket {bucket.name!r} has no {kind} {reference[:100]!r}")
    some = " or ".join(ids[: NotClear.SHOWN]) + (", …" if len(ids) > NotClear.SHOWN else "")
    raise NotFound(f"{reference[:100]!r} is the name of an {kind}, and here its id is wanted: {some}")
