"""Creates and changes bucket records, and checks how their options relate. Pure functions from record to record."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from relay_tornado.errors import Conflict, Invalid
from relay_tornado.ids import new_uuid
from relay_tornado.model import MIB, Bucket, BucketAuth, Dedupe, Input, RateLimit, Retention
from relay_tornado.settings import Settings
from relay_tornado.wire.fields import load_with_extra
from relay_tornado.wire.headers import is_name
from relay_tornado.wire.rest import BucketFields

DEFAULT_INPUT = "Default public endpoint"
MAX_NAME = 100
MAX_RECORD: Final = 4 * MIB
"""Maximum size in bytes of a bucket with its inputs and outputs, which is written and announced as a whole at each
change."""
_TIMES: Final = 256
"""Bytes by which a change of times and flags may lengthen a record."""

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)

_BUCKET_FIELDS = BucketFields()
_AUTH_PARTS: Mapping[str, tuple[str, ...]] = {"none": (), "basic": ("username", "password"), "token": ("token",)}


def new_bucket(name: str, options: Mapping[str, Any], settings: Settings, now: float) -> Bucket:
    """A bucket with one input, unless `default_input` is false, and the settings' retention unless the options give
    another. Raises Invalid."""
    if "name" in options:
        raise Invalid("is given twice", "name")
    chosen = {**options, "name": name}
    with_input = chosen.pop("default_input", None)
    if not isinstance(with_input, bool | None):
        raise Invalid("must be true or false.", "default_input")
    retention = Retention(settings.retention_age, settings.retention_events, settings.retention_bytes)
    first = Input(id=new_uuid(), name=DEFAULT_INPUT, created_at=now, updated_at=now)
    inputs = () if with_input is False else (first,)
    bare = Bucket(id=new_uuid(), name="", created_at=now, updated_at=now, retention=retention, inputs=inputs)
    return changed_bucket(bare, chosen, settings, now)


def changed_bucket(bucket: Bucket, options: Mapping[str, Any], settings: Settings, now: float) -> Bucket:
    """The bucket with these options (of `BucketFields`); the same object if they change nothing.

    Raises Invalid, naming the field.
    """
    if options.get("static_ip", False) is None:  # no field of the form: it is only kept
        options = {name: value for name, value in options.items() if name != "static_ip"}
    given = load_with_extra(_BUCKET_FIELDS, options, bucket.extra)
    if not isinstance(given.get("extra", {}).get("static_ip", False), bool):
        raise Invalid("must be true or false.", "static_ip")
    if "name" in given and (not bucket.name or given["name"] != bucket.name):  # a new bucket has no name yet
        _check_name(given["name"])
    if "auth" in given:
        if given["auth"].get("type") == "":  # sent by clients that can't leave the field out
            given["auth"]["type"] = "none"
        given["auth"] = _changed_auth(bucket.auth, given["auth"])
    if "retention" in given:
        given["retention"] = _changed_retention(bucket.retention, given["retention"])
    if given.get("dedupe") is not None:
        given["dedupe"] = _changed_dedupe(bucket.dedupe, given["dedupe"])
    if given.get("rate_limit") is not None:
        given["rate_limit"] = changed_rate_limit(bucket.rate_limit, given["rate_limit"])
    if "expires_at" in given:
        given["expires_at"] = _changed_end(bucket.expires_at, given["expires_at"], now)
    if (given.get("max_body") or 0) > settings.ingest_buffer:
        raise Invalid(
            f"is over ingest_buffer ({settings.ingest_buffer} bytes), which bounds all incoming bodies together: "
            "choose less, or raise ingest_buffer",
            "max_body",
        )
    changed = dataclasses.replace(bucket, **given)
    return bucket if changed == bucket else dataclasses.replace(changed, updated_at=now)


def check_size(bucket: Bucket, changed: Bucket) -> None:
    """Raises Conflict if a change makes the record too large. One that was too large before may keep its size."""
    size = _size(changed)
    if size > MAX_RECORD and ((before := _size(bucket)) <= MAX_RECORD or size > before + _TIMES):
        raise Conflict(
            f"the record of the bucket {bucket.name!r}, with its inputs and outputs, would have {size} bytes; "
            f"{MAX_RECORD} are allowed: shorten what its inputs answer, delete some, or put them into another bucket"
        )


def _size(bucket: Bucket) -> int:
    return len(msgspec.json.encode(bucket))


def _check_name(name: str) -> None:
    """Raises Invalid if a name could be taken for an id, a path or the word for all buckets, and says which rule it
    breaks."""
    # Invisible characters would make two names look alike, and could control a terminal.
    hidden = next((each for each in name if not each.isprintable()), None)
    problem = ""
    if not name:
        problem = "is empty: give the bucket a name"
    elif len(name) > MAX_NAME:
        problem = f"has {len(name)} characters; {MAX_NAME} are allowed"
    elif hidden is not None:
        problem = f"holds the character U+{ord(hidden):04X}, which can't be printed: leave it out"
    elif name != name.strip():
        problem = "begins or ends with a space: leave it out"
    elif "/" in name:
        problem = 'holds a "/", which separates the parts of a URL: use "-" or "."'
    elif name in (".", ".."):
        problem = f'"{name}" is removed from URLs by clients: choose another name'
    elif name == "*":
        problem = '"*" stands for all buckets: choose another name'
    elif _UUID.fullmatch(name):
        problem = "looks like a bucket's id: choose another name"
    if problem:
        raise Invalid(problem, "name")


def _changed_end(before: float | None, given: float | None, now: float) -> float | None:
    """The time at which a bucket is deleted. The current one sent back in whole seconds, as shown, is no change."""
    if before is not None and given is not None and int(given) == int(before):
        return before
    if given is not None and given <= now:
        raise Invalid("lies in the past: give a later unix time, null to keep the bucket, or delete it", "expires_at")
    return given


def changed_rate_limit(before: RateLimit | None, given: Mapping[str, Any]) -> RateLimit:
    """A rate limit with these parts changed. Raises Invalid."""
    events = given.get("events", None if before is None else before.events)
    if events is None:
        raise Invalid("is missing: say how many events may come in an interval", "rate_limit.events")
    return RateLimit(events, given.get("interval", 1.0 if before is None else before.interval))


def _changed_retention(before: Retention, given: Mapping[str, Any]) -> Retention:
    keep = dataclasses.replace(before, **given)
    hard = keep.hard_max_bytes
    if hard is not None and keep.max_bytes is not None and hard < keep.max_bytes:
        raise Invalid(
            f"is less than max_bytes ({keep.max_bytes}), up to which events stay anyway: choose more",
            "retention.hard_max_bytes",
        )
    # The current value may be sent back even if the bucket no longer waits for consumers.
    if hard not in (None, before.hard_max_bytes) and not keep.wait_for_consumers:
        raise Invalid("does nothing without wait_for_consumers: set both", "retention.hard_max_bytes")
    return keep


def _changed_auth(before: BucketAuth, given: Mapping[str, Any]) -> BucketAuth:
    kind = given.get("type", before.type)
    parts = _AUTH_PARTS[kind]
    for part in ("username", "password", "token"):
        # The current value may be sent back with another type.
        if given.get(part) and part not in parts and given[part] != getattr(before, part):
            wanted = "token" if part == "token" else "basic"
            raise Invalid(f"does nothing with auth.type {kind}: set auth.type to {wanted}", f"auth.{part}")
    kept = {part: getattr(before, part) for part in parts} if kind == before.type else {}
    auth = BucketAuth(type=kind, **{**kept, **{part: given[part] for part in parts if part in given}})
    for part in parts:
        if not getattr(auth, part):
            raise Invalid(f"is missing; auth.type {kind} needs it", f"auth.{part}")
    if ":" in auth.username:
        raise Invalid('holds a ":", which basic authentication can\'t carry: leave it out', "auth.username")
    if auth.token and (" " in auth.token or not auth.token.isascii()):  # the form refuses control characters
        raise Invalid("must be printable ASCII without spaces, to stand in a header", "auth.token")
    return auth


def _changed_dedupe(before: Dedupe | None, given: Mapping[str, Any]) -> Dedupe:
    header = given.get("header", before.header if before is not None else "")
    if not header:
        raise Invalid('is missing: name the header that holds the delivery\'s id, or "auto"', "dedupe.header")
    if not is_name(header):
        raise Invalid(f"{header!r} is no header name: use letters, digits and -", "dedupe.header")
    if header.lower() == "auto":
        header = "auto"
    window = given.get("window", before.window if before is not None else None)
    return Dedupe(header) if window is None else Dedupe(header, window)
