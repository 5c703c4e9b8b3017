"""How an input or an output is found, in its bucket or in all, and what is said where there is none, or more than one.

`get` reads a bucket, an input or an output: `getattr` a record, `operator.getitem` the document of one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

from relay_tornado.errors import Invalid, NotClear, NotFound
from relay_tornado.model import Bucket, Input, Output

T = TypeVar("T")
_Part = TypeVar("_Part", Input, Output)
Get: TypeAlias = Callable[[Any, str], Any]


def named(those: Sequence[T], reference: str, get: Get = getattr) -> list[T]:
    """The one with this id, or else all of this name."""
    found = [each for each in those if get(each, "id") == reference]
    return found or [each for each in those if get(each, "name") == reference]


def find_part(
    buckets: Sequence[T], kind: str, reference: str, get: Get = getattr, *, within: bool
) -> tuple[T, Any] | None:
    """The bucket and its input or output (`kind`: "input" or "output") that a reference names: by its id; `within` the
    one bucket that is given by its name, too; among all of them as the only one of the bucket that it names. None where
    there is none. Raises NotClear."""
    for each in buckets:
        for one in get(each, f"{kind}s"):
            if get(one, "id") == reference:
                return each, one
    for each in buckets if within else named(buckets, reference, get):
        parts = get(each, f"{kind}s")
        found = named(parts, reference, get) if within else parts
        if within and not found:
            return None
        if len(found) != 1:
            ids = [get(one, "id") for one in found]
            raise NotClear(get(each, "name"), kind, ids, reference if within else None)
        return each, found[0]
    return None


def part_of(bucket: Bucket, kind: str, parts: Sequence[_Part], reference: str) -> _Part:
    """The one of the bucket's `parts` (`kind`: "input" or "output") with this id. Raises NotFound, which tells the ids
    of those that the reference is the name of: an id is easily taken for a name."""
    found = named(parts, reference)
    ids = [each.id for each in found]
    if ids == [reference]:
        return found[0]
    if not ids:
        raise NotFound(f"the bucket {bucket.name!r} has no {kind} {reference[:100]!r}")
    some = " or ".join(ids[: NotClear.SHOWN]) + (", …" if len(ids) > NotClear.SHOWN else "")
    raise NotFound(f"{reference[:100]!r} is the name of an {kind}, and here its id is wanted: {some}")


def with_changed(bucket: Bucket, kind: str, before: _Part, changed: _Part, now: float) -> Bucket:
    """The bucket with an input or output (`kind`: "input" or "output") changed; the same bucket where that is none."""
    if changed == before:
        return bucket
    changed = dataclasses.replace(changed, updated_at=now)
    return _with(bucket, kind, [changed if each is before else each for each in getattr(bucket, f"{kind}s")], now)


def without(bucket: Bucket, kind: str, gone: _Part, now: float) -> Bucket:
    """The bucket without an input or output."""
    return _with(bucket, kind, [each for each in getattr(bucket, f"{kind}s") if each is not gone], now)


def _with(bucket: Bucket, kind: str, parts: Sequence[Any], now: float) -> Bucket:
    changes: dict[str, Any] = {f"{kind}s": tuple(parts), "updated_at": now}
    return dataclasses.replace(bucket, **changes)


def output_of(bucket: Bucket, reference: str) -> Output:
    """The bucket's output with this id or name. Raises Invalid where there is none, or more than one of that name."""
    found = named(bucket.outputs, reference)
    if not found:
        raise Invalid(
            f"the bucket {bucket.name!r} has no output {reference[:100]!r}: name one by its id or its name", "output"
        )
    if len(found) > 1:
        raise NotClear(bucket.name, "output", [each.id for each in found], reference, "output")
    return found[0]
