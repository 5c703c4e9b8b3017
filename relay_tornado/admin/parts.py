"""What is said where a bucket has no input or output of an id: an id is easily taken for a name."""

from __future__ import annotations

from collections.abc import Iterable

from relay_tornado.errors import NotClear, NotFound
from relay_tornado.model import Bucket, Input, Output


def no_such_part(bucket: Bucket, kind: str, parts: Iterable[Input | Output], reference: str) -> NotFound:
    """The error for `kind` ("input" or "output"); where the reference is the name of some, it tells their ids."""
    ids = [each.id for each in parts if each.name == reference]
    if not ids:
        return NotFound(f"the bucket {bucket.name!r} has no {kind} {reference[:100]!r}")
    some = " or ".join(ids[: NotClear.SHOWN]) + (", …" if len(ids) > NotClear.SHOWN else "")
    return NotFound(f"{reference[:100]!r} is the name of an {kind}, and here its id is wanted: {some}")
