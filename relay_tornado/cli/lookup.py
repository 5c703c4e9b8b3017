"""Finds inputs and outputs in the documents of their buckets."""

from __future__ import annotations

from collections.abc import Sequence
from operator import getitem

from relay_tornado.admin import lookup
from relay_tornado.cli.errors import Failure
from relay_tornado.cli.printing import Document, note
from relay_tornado.errors import Conflict, NotFound


def parts_of(buckets: Sequence[Document], kind: str, bucket: str | None) -> list[tuple[Document, Document]]:
    """All inputs or outputs (`kind`: "input" or "output") of one bucket or of all, each with its bucket. Raises
    NotFound."""
    return [(each, one) for each in _searched(buckets, bucket) for one in each[f"{kind}s"]]


def _searched(buckets: Sequence[Document], bucket: str | None) -> Sequence[Document]:
    if bucket is None:
        return buckets
    found = lookup.named(buckets, bucket, getitem)
    if not found:
        raise NotFound(f"there is no bucket {bucket!r}: `relay bucket list` shows which there are")
    return found


def find_part(buckets: Sequence[Document], kind: str, reference: str, bucket: str | None) -> tuple[Document, Document]:
    """The bucket, and its input or output that a reference names, by the relay's own rules. Raises NotFound and
    NotClear."""
    found = lookup.find_part(_searched(buckets, bucket), kind, reference, getitem, within=bucket is not None)
    if found is None and bucket is None:
        raise lookup.nowhere(kind, reference)
    if found is None:
        raise NotFound(f"there is no {kind} {reference[:100]!r}: `relay {kind} list` shows which there are")
    return found


def find_output(bucket: Document, reference: str) -> Document:
    """The bucket's output with this id or name. Raises Failure that lists the outputs, and NotClear."""
    found = lookup.find_part([bucket], "output", reference, getitem, within=True)
    if found is None:
        raise no_output(bucket, reference)
    output: Document = found[1]
    return output


def check_sendable(output: Document) -> None:
    """To be called before events are sent to an output again. Notes what a public one waits for before it gets them.
    Raises Conflict for an internal one that is disabled: nobody would ever get the copies."""
    if output["disabled"]:
        enable = f"`relay output set {output['id']} --enabled`"
        if output["internal"]:
            raise Conflict(f"the output {output['name']!r} is disabled, so nobody would get the copies: first {enable}")
        note(f"the output {output['name']!r} is disabled: it gets them after {enable}")
    elif output["paused"]:
        note(f"the output {output['name']!r} is paused: it gets them after `relay output resume {output['id']}`")


def no_output(bucket: Document, reference: str) -> Failure:
    """The error if a bucket has no such output."""
    names = ", ".join(each["name"] or each["id"] for each in bucket["outputs"]) or "none"
    return Failure(f"there is no output {reference!r} in {bucket['name']}: it has {names}")
