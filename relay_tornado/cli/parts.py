"""Inputs and outputs in the documents of their buckets, and how one of them is found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from relay_tornado.cli.errors import Failure
from relay_tornado.cli.output import Document
from relay_tornado.errors import NotClear, NotFound


def parts_of(buckets: Iterable[Document], part: str, bucket: str | None) -> list[tuple[Document, dict[str, Any]]]:
    """Every input or output, of one bucket or of all, with its bucket. Raises NotFound."""
    searched = [each for each in buckets if bucket is None or bucket in (each["id"], each["name"])]
    if not searched and bucket is not None:
        raise NotFound(f"there is no bucket {bucket!r}: `relay bucket list` shows which there are")
    return [(each, one) for each in searched for one in each[part]]


def find_part(buckets: Sequence[Document], part: str, reference: str, bucket: str | None) -> tuple[Document, Document]:
    """The bucket and its input or output (`part`: "inputs" or "outputs") that a reference names, as the relay itself
    finds it: by id, within `bucket` by name too, or as the only one of the bucket that it names. Raises NotFound and
    NotClear."""
    kind = part.removesuffix("s")
    parts = parts_of(buckets, part, bucket)
    found = [(each, one) for each, one in parts if one["id"] == reference]
    if not found and bucket is not None:
        found = [(each, one) for each, one in parts if one["name"] == reference]
        if len(found) > 1:
            raise NotClear(found[0][0]["name"], kind, [one["id"] for _, one in found], reference)
    if not found and bucket is None:
        for each in buckets:
            if reference in (each["id"], each["name"]):
                return each, _only(each, part)
    if not found:
        raise NotFound(f"there is no {kind} {reference[:100]!r}: `relay {kind} list` shows which there are")
    return found[0]


def _only(bucket: Document, part: str) -> Document:
    found: list[Document] = bucket[part]
    if len(found) != 1:
        raise NotClear(bucket["name"], part.removesuffix("s"), [one["id"] for one in found])
    return found[0]


def find_output(bucket: Document, reference: str) -> Document:
    """The bucket's output with this id or name. Raises Failure, saying which there are, and NotClear."""
    try:
        return find_part([bucket], "outputs", reference, bucket["id"])[1]
    except NotFound:
        raise no_output(bucket, reference) from None


def no_output(bucket: Document, reference: str) -> Failure:
    """The error where a bucket has no such output."""
    names = ", ".join(each["name"] or each["id"] for each in bucket["outputs"]) or "none"
    return Failure(f"there is no output {reference!r} in {bucket['name']}: it has {names}")
