"""Creates, changes and removes inputs, and checks how their options relate. Pure functions from bucket to bucket."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, Final

from relay_tornado.admin.buckets import changed_rate_limit
from relay_tornado.admin.headers import check_headers
from relay_tornado.admin.lookup import part_of, with_changed, without
from relay_tornado.errors import Conflict, Invalid
from relay_tornado.ids import new_uuid
from relay_tornado.model import ANY_OUTPUT, Bucket, Input, Verify
from relay_tornado.registry.routes import RESERVED
from relay_tornado.signatures import Verifier
from relay_tornado.wire.fields import load_with_extra
from relay_tornado.wire.place import compared, with_spelling
from relay_tornado.wire.rest import MAX_BODY_TEXT, InputFields

MAX_INPUTS: Final = 1_000
"""Maximum number of inputs of one bucket."""
NAME: Final = "Public endpoint"
"""The default name of an input."""

_FIELDS = InputFields()
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_PREFIX = re.compile(r"(?:/[!$%&'()*+,.0-9:;=@A-Z_a-z~-]+)+")


def with_new_input(bucket: Bucket, options: Mapping[str, Any], now: float) -> Bucket:
    """The bucket with one more input, the last one. Raises Invalid, and Conflict if there are too many.

    The id may be chosen, so that a URL stays the same when a relay is set up again; whether it is free is not checked
    here.
    """
    input_id = options.get("id") or new_uuid()
    if not isinstance(input_id, str) or not _ID.fullmatch(input_id):
        raise Invalid("must be 1 to 64 letters, digits, - and _, or be left out", "id")
    if len(bucket.inputs) >= MAX_INPUTS:
        raise Conflict(f"the bucket {bucket.name!r} has {MAX_INPUTS} inputs, and may have no more: delete one first")
    bare = Input(id=input_id, name=NAME, created_at=now, updated_at=now)
    given = {name: value for name, value in options.items() if not (name == "name" and value == "")}
    return dataclasses.replace(bucket, inputs=(*bucket.inputs, _changed(bucket, bare, given)), updated_at=now)


def with_changed_input(bucket: Bucket, input_id: str, options: Mapping[str, Any], now: float) -> Bucket:
    """The bucket with these options (of `InputFields`) on one of its inputs; the same object if they change nothing.
    Raises Invalid and NotFound."""
    before = find_input(bucket, input_id)
    return with_changed(bucket, "input", before, _changed(bucket, before, options), now)


def without_input(bucket: Bucket, input_id: str, now: float) -> Bucket:
    """The bucket without one of its inputs. Raises NotFound."""
    return without(bucket, "input", find_input(bucket, input_id), now)


def find_input(bucket: Bucket, input_id: str) -> Input:
    """The bucket's input with this id. Raises NotFound."""
    return part_of(bucket, "input", bucket.inputs, input_id)


def _changed(bucket: Bucket, before: Input, options: Mapping[str, Any]) -> Input:
    given = load_with_extra(_FIELDS, options, before.extra)
    given.pop("id", None)
    if "name" in given and not given["name"].strip():
        raise Invalid("is empty: give the input a name", "name")
    if "headers" in given:
        headers = given["headers"] or {}
        # Headers that were accepted before may be sent back unchanged.
        as_it_was = headers == {name: list(values) for name, values in before.headers.items()}
        given["headers"] = before.headers if as_it_was else check_headers(headers)
    for name, check in (("custom_domain", _check_domain), ("path_prefix", _check_prefix)):
        if name in given:
            text = given[name].strip()
            given["extra"] = with_spelling(given.get("extra", before.extra), name, text)
            given[name] = compared(name, text)
            check(text, given[name])
    if given.get("rate_limit") is not None:
        given["rate_limit"] = changed_rate_limit(before.rate_limit, given["rate_limit"])
    if given.get("verify") is not None:
        given["verify"] = _verify(before.verify, given["verify"])
    size = len(given.get("body", "").encode())
    if size > MAX_BODY_TEXT:
        raise Invalid(f"has {size} bytes; {MAX_BODY_TEXT} are allowed", "body")
    changed = dataclasses.replace(before, **given)
    first = "/" + changed.path_prefix[1:].partition("/")[0].lower()
    if not changed.custom_domain and first in RESERVED:
        raise Invalid(f"{first} is the relay's own: choose another prefix", "path_prefix")
    wanted = changed.response_from_output
    if wanted not in ("", ANY_OUTPUT) and all(each.id != wanted for each in bucket.outputs):
        raise Invalid(
            f"the bucket {bucket.name!r} has no output with the id {wanted[:100]!r}: name one "
            f'by its id, or write {ANY_OUTPUT}, or "" for none',
            "response_from_output",
        )
    return changed


def _check_domain(text: str, domain: str) -> None:
    if text and not (text.isascii() and len(domain) <= 253 and _DOMAIN.fullmatch(domain)):
        raise Invalid("must be a host name like hooks.example.org, without scheme, port and path", "custom_domain")


def _check_prefix(text: str, prefix: str) -> None:
    if prefix and (len(prefix) > 500 or not _PREFIX.fullmatch(prefix)):
        raise Invalid('must be a path like /shop/orders, as it stands in the URL, without "?" and "#"', "path_prefix")
    if any(part in (".", "..") for part in prefix.split("/")):
        raise Invalid('must not have "." or ".." as a part', "path_prefix")


def _verify(before: Verify | None, given: Mapping[str, Any]) -> Verify:
    provider = given.get("provider", "" if before is None else before.provider)
    secrets = tuple(given.get("secrets", () if before is None else before.secrets))
    try:
        Verifier(provider, secrets)
    except Invalid as error:
        raise error.within("verify") from None
    return Verify(provider, secrets, given.get("on_failure", "reject" if before is None else before.on_failure))
