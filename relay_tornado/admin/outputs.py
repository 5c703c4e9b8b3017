"""Creates, changes and removes outputs, and checks how their options relate. Pure functions from bucket to bucket."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Final

from relay_tornado.admin.headers import OF_CONNECTION, check_headers
from relay_tornado.admin.lookup import part_of, with_changed, without
from relay_tornado.errors import Conflict, Invalid
from relay_tornado.ids import new_uuid
from relay_tornado.model import Bucket, Output
from relay_tornado.rules import compile_rules
from relay_tornado.signatures import MAX_SECRET, Verifier
from relay_tornado.wire.destination import parse_new
from relay_tornado.wire.fields import load_with_extra
from relay_tornado.wire.rest import MOST_AT_ONCE, OutputFields

MAX_OUTPUTS: Final = 1_000
"""Maximum number of outputs of one bucket."""
MAX_DESTINATION: Final = 2_048

_PREFIX: Final = "whsec_"

_FIELDS = OutputFields()


def with_new_output(bucket: Bucket, options: Mapping[str, Any], now: float) -> Bucket:
    """The bucket with one more output, the last one, with a number that was never used before. Raises Invalid, and
    Conflict if there are too many, or the name is taken."""
    if len(bucket.outputs) >= MAX_OUTPUTS:
        raise Conflict(f"the bucket {bucket.name!r} has {MAX_OUTPUTS} outputs, and may have no more: delete one first")
    number = bucket.next_output
    bare = Output(id=new_uuid(), n=number, name=f"Output {number}", created_at=now, updated_at=now)
    given = {name: value for name, value in options.items() if not (name == "name" and value == "")}
    made = _changed(bare, given)
    _check_free(bucket, made)
    outputs = (*bucket.outputs, made)
    return dataclasses.replace(bucket, outputs=outputs, next_output=number + 1, updated_at=now)


def with_changed_output(bucket: Bucket, output_id: str, options: Mapping[str, Any], now: float) -> Bucket:
    """The bucket with these options (of `OutputFields`) on one of its outputs; the same object if they change nothing.
    Raises Invalid, NotFound, and Conflict if the name is taken."""
    before = find_output(bucket, output_id)
    changed = _changed(before, options)
    if changed.name != before.name:
        _check_free(bucket, changed)
    return with_changed(bucket, "output", before, changed, now)


def with_disabled_output(bucket: Bucket, output: Output, reason: str, now: float) -> Bucket:
    """The bucket with this output disabled by the relay itself, for a reason; the same object if the output's
    destination has changed since. Raises NotFound."""
    before = find_output(bucket, output.id)
    if before.destination != output.destination:
        return bucket
    changed = dataclasses.replace(before, disabled=True, disabled_reason=reason)
    return with_changed(bucket, "output", before, changed, now)


def without_output(bucket: Bucket, output_id: str, now: float) -> Bucket:
    """The bucket without one of its outputs. An input whose senders got their answers from it answers by itself from
    then on. Raises NotFound."""
    gone = find_output(bucket, output_id)
    for each in bucket.inputs:
        if each.response_from_output == gone.id:
            alone = dataclasses.replace(each, response_from_output="")
            bucket = with_changed(bucket, "input", each, alone, now)
    return without(bucket, "output", gone, now)


def find_output(bucket: Bucket, output_id: str) -> Output:
    """The bucket's output with this id. Raises NotFound."""
    return part_of(bucket, "output", bucket.outputs, output_id)


def _changed(before: Output, options: Mapping[str, Any]) -> Output:
    given = load_with_extra(_FIELDS, options, before.extra)
    if "name" in given and not given["name"].strip():
        raise Invalid("is empty: give the output a name", "name")
    if "headers" in given:
        given["headers"] = check_headers(given["headers"] or {}, OF_CONNECTION, "an output")
    # Values that were accepted before may be sent back unchanged.
    if "rules" in given:
        compile_rules(given["rules"], accepted=given["rules"] == before.rules)
    if given.get("secret") and given["secret"] != before.secret:
        _check_secret(given["secret"])
    if given.get("throttle") and given["throttle"] != before.throttle:
        _check_throttle(given["throttle"])
    if given.get("durability") and given["durability"] != before.durability:
        _check_durability(given["durability"])
    if given.get("disabled") is False:
        given["disabled_reason"] = ""
    changed = _pausable(before, dataclasses.replace(before, **given))
    if len(changed.destination) > MAX_DESTINATION:
        raise Invalid(f"must have at most {MAX_DESTINATION} characters", "destination")
    if not changed.internal and (before.internal, before.destination) != (False, changed.destination):
        _check_destination(changed.destination)
    return changed


def _pausable(before: Output, changed: Output) -> Output:
    """An internal output can't be paused. If the output was paused before, that is dropped; otherwise Invalid is
    raised."""
    if not (changed.internal and changed.paused):
        return changed
    if not before.paused:
        raise Invalid(
            "an internal output can't be paused, since connected clients take its events: set `disabled`, or "
            "make it public",
            "paused",
        )
    return dataclasses.replace(changed, paused=False)


def _check_free(bucket: Bucket, output: Output) -> None:
    """Raises Conflict if another output of the bucket has this name: clients look outputs up by name."""
    if any(each.name == output.name and each.id != output.id for each in bucket.outputs):
        raise Conflict(f"name: the bucket {bucket.name!r} has an output {output.name!r} already: choose another name")


def _check_destination(url: str) -> None:
    try:
        parse_new(url)
    except Invalid as error:
        raise Invalid(
            f"{error.problem}; write one like https://example.org/hook, or choose `internal` if a connected client is "
            "to deliver the events",
            "destination",
        ) from None


def _check_throttle(throttle: Mapping[str, Any]) -> None:
    """Raises Invalid if the throttle is enabled and has no effect, or not the one that it states."""
    if not throttle.get("enabled"):
        return
    mode = throttle.get("mode")
    if not mode:
        raise Invalid("is missing: write rate, or concurrency", "throttle.mode")
    if mode == "rate" and not throttle.get("rate"):
        raise Invalid("is missing: write how many tries an interval may have, at least 1", "throttle.rate")
    at_once = throttle.get("max_concurrent") or 0
    if at_once > MOST_AT_ONCE or (mode == "concurrency" and not at_once):
        raise Invalid(f"must be from 1 to {MOST_AT_ONCE}: that many are sent at once", "throttle.max_concurrent")


def _check_durability(durability: Mapping[str, Any]) -> None:
    custom = durability.get("enabled") and durability.get("schedule") == "custom"
    if custom and not durability.get("custom_delays"):
        raise Invalid(
            "is missing: write the nanoseconds between tries, or take another schedule", "durability.custom_delays"
        )


def _check_secret(secret: str) -> None:
    try:
        Verifier("standard-webhooks", (secret,))
    except Invalid:
        sound = False
    else:
        sound = secret.startswith(_PREFIX)
    if not sound:
        raise Invalid(
            f"must be {_PREFIX} and base64, in at most {MAX_SECRET} characters: `relay output set OUTPUT --secret "
            "generate` makes one",
            "secret",
        )
