"""Finds an input or output, in one bucket or in all, and raises the error if there is none, or more than one.

`get` reads a bucket, an input or an output: `getattr` from records, `operator.getitem` from documents.
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
    """The one with this id, or else all with this name."""
    found = [each for each in those if get(each, "id") == reference]
    return found or [each for each in those if get(each, "name") == reference]


def find_part(
    buckets: Sequence[T], kind: str, reference: str, get: Get = getattr, *, within: bool
) -> tuple[T, Any] | None:
    """The bucket and its input or output (`kind`: "input" or "output") that a reference names, or None. The reference
    is an id; with `within` also a name in the one bucket passed; otherwise also the name or id of a bucket with only
    one. Raises NotClear."""
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


def nowhere(kind: str, reference: str) -> NotFound:
    """The error for an input or output (`kind`) that no bucket has. A name is only looked for in a bucket."""
    return NotFound(
        f"there is no {kind} with the id {reference[:100]!r}: `relay {kind} list` shows which there are; a name needs "
        "its bucket, too (--bucket)"
    )


def part_of(bucket: Bucket, kind: str, parts: Sequence[_Part], reference: str) -> _Part:
    """The bucket's part (`kind`: "input" or "output") with this id, from `parts`. Raises NotFound; if the reference is
    a name, which is easily taken for an id, the error lists the ids of the parts with that name."""
    found = named(parts, reference)
    ids = [each.id for each in found]
    if ids == [reference]:
        return found[0]
    if not ids:
        raise no_such_part(bucket, kind, reference)
    some = " or ".join(ids[: NotClear.SHOWN]) + (", …" if len(ids) > NotClear.SHOWN else "")
    raise NotFound(f"{reference[:100]!r} is the name of an {kind}, and here its id is wanted: {some}")


def no_such_part(bucket: Bucket, kind: str, reference: str) -> NotFound:
    """The error for a part (`kind`: "input" or "output") that a bucket does not have; it lists those that it has."""
    parts: Sequence[Input | Output] = bucket.inputs if kind == "input" else bucket.outputs
    some = ", ".join(f"{each.id} ({each.name[:100]!r})" for each in parts[: NotClear.SHOWN])
    has = f"its {kind}s are {some}" + (", …" if len(parts) > NotClear.SHOWN else "") if parts else "it has none"
    return NotFound(f"the bucket {bucket.name!r} has no {kind} {reference[:100]!r}: {has}")


def with_changed(bucket: Bucket, kind: str, before: _Part, changed: _Part, now: float) -> Bucket:
    """The bucket with an input or output (`kind`: "input" or "output") changed; the same object if nothing changed."""
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
    """The bucket's output with this id or name. Raises Invalid if there is none, or more than one with that name."""
    found = named(bucket.outputs, reference)
    if not found:
        raise Invalid(
            f"the bucket {bucket.name!r} has no output {reference[:100]!r}: name one by its id or its name", "output"
        )
    if len(found) > 1:
        raise NotClear(bucket.name, "output", [each.id for each in found], reference, "output")
    return found[0]
