"""An output as it is made, changed and removed: what its options mean together. Pure, from bucket to bucket."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from relay_tornado.admin.answers import HOP_BY_HOP, check_headers
from relay_tornado.errors import Conflict, Invalid, NotFound
from relay_tornado.ids import new_uuid
from relay_tornado.model import Bucket, Output
from relay_tornado.rules import compile_rules
from relay_tornado.wire.fields import load_with_extra
from relay_tornado.wire.rest import READ_ONLY_OF_OUTPUT, OutputFields

MAX_OUTPUTS: Final = 1_000
"""Outputs of one bucket."""
MAX_DESTINATION: Final = 2_048

_FIELDS = OutputFields()


def with_new_output(bucket: Bucket, options: Mapping[str, Any], now: float) -> tuple[Bucket, str]:
    """The bucket with one more output, whose number was never given before, and that one's id. Raises Invalid, and
    Conflict where there are too many."""
    if len(bucket.outputs) >= MAX_OUTPUTS:
        raise Conflict(f"the bucket {bucket.name!r} has {MAX_OUTPUTS} outputs, which is all that one may have")
    number = bucket.next_output
    bare = Output(id=new_uuid(), n=number, name=f"Output {number}", created_at=now, updated_at=now)
    given = {name: value for name, value in options.items() if not (name == "name" and value == "")}
    made = dataclasses.replace(_changed(bare, given), updated_at=now)
    outputs = (*bucket.outputs, made)
    return dataclasses.replace(bucket, outputs=outputs, next_output=number + 1, updated_at=now), made.id


def with_changed_output(bucket: Bucket, output_id: str, options: Mapping[str, Any], now: float) -> Bucket:
    """The bucket with these options (as `OutputFields` has them) on one of its outputs; the same bucket where they
    change nothing. Raises Invalid and NotFound."""
    before = find_output(bucket, output_id)
    changed = _changed(before, options)
    if changed == before:
        return bucket
    changed = dataclasses.replace(changed, updated_at=now)
    outputs = tuple(changed if each is before else each for each in bucket.outputs)
    return dataclasses.replace(bucket, outputs=outputs, updated_at=now)


def without_output(bucket: Bucket, output_id: str, now: float) -> Bucket:
    """The bucket without one of its outputs. Raises NotFound, and Conflict where an input's senders wait for it."""
    gone = find_output(bucket, output_id)
    for each in bucket.inputs:
        if each.response_from_output == gone.id:
            raise Conflict(
                f"the senders of the input {each.id} get their answers from this output: change its "
                "response_from_output first"
            )
    outputs = tuple(each for each in bucket.outputs if each is not gone)
    return dataclasses.replace(bucket, outputs=outputs, updated_at=now)


def find_output(bucket: Bucket, output_id: str) -> Output:
    """The bucket's output with this id. Raises NotFound."""
    for each in bucket.outputs:
        if each.id == output_id:
            return each
    raise NotFound(f"the bucket {bucket.name!r} has no output {output_id[:100]!r}")


def _changed(before: Output, options: Mapping[str, Any]) -> Output:
    given = load_with_extra(_FIELDS, options, READ_ONLY_OF_OUTPUT, before.extra)
    if "name" in given and not given["name"].strip():
        raise Invalid("name: is empty: give the output a name", "name")
    if "headers" in given:
        given["headers"] = check_headers(given["headers"] or {}, HOP_BY_HOP, "an output")
    if "rules" in given:
        compile_rules(given["rules"])
    changed = dataclasses.replace(before, **given)
    if len(changed.destination) > MAX_DESTINATION:
        raise Invalid(f"destination: must have at most {MAX_DESTINATION} characters", "destination")
    if not changed.internal and not _is_url(changed.destination):
        raise Invalid(
            "destination: must be a URL like https://example.org/hook for an output that the relay itself forwards "
            "to; or set internal, for one that a connected client delivers",
            "destination",
        )
    return changed


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False
