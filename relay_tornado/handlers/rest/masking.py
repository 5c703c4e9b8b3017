"""Hides secrets in buckets, inputs and outputs from tokens that are not an administrator's.

It also keeps those secrets when such a token sends back a document in which they are hidden.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, TypeAlias

from relay_tornado.errors import Forbidden, Invalid
from relay_tornado.model import Token
from relay_tornado.wire.destination import MASK, masked, parse
from relay_tornado.wire.fields import Document

Kind: TypeAlias = Literal["bucket", "input", "output"]
"""The kind of object that a document describes."""


def shown(token: Token, kind: Kind, document: Document) -> Document:
    """A bucket's, input's or output's document as the token may see it.

    Only an administrator's token gets the secrets: a bucket's `auth`, an input's `verify`, an output's `secret`, the
    keys in rules, and for a public output the login and query of its destination, and headers whose names suggest a
    secret.
    """
    return document if token.administrator else _CLEARED[kind](document)


def changes(token: Token, kind: Kind, before: Document, given: dict[str, Any]) -> dict[str, Any]:
    """The requested changes: the fields sent, except those that the client sends back as it read them.

    A token that can't see the secrets sends them back empty, which must not clear them. `before` is the whole current
    document. Raises Invalid if a mask is sent in place of another value, and Forbidden if a secret would go to somebody
    who may see it.
    """
    if token.administrator:
        return given
    seen = _CLEARED[kind](before)
    if kind == "output" and not before["internal"]:
        given = _with_masked(before, seen, given)
    wanted = {name: value for name, value in given.items() if name not in seen or value != seen[name]}
    name, parts = _KEPT.get(kind, ("", ()))
    if isinstance(wanted.get(name), dict):
        wanted[name] = {part: each for part, each in wanted[name].items() if each or part not in parts}
    if kind == "bucket":
        _refuse_without_auth(before["auth"], wanted.get("auth"))
    if kind == "input":
        _refuse_other_provider(before["verify"], wanted.get("verify"))
    return wanted


_SECRET_HEADER: Final = re.compile("auth|cookie|credential|key|pass|secret|session|signature|token", re.IGNORECASE)
"""Matches the names of headers that may hold secrets."""
_KEPT: Final[Mapping[Kind, tuple[str, tuple[str, ...]]]] = {
    "bucket": ("auth", ("password", "token")),
    "input": ("verify", ("secrets",)),
}
"""The parts of a field that stay unchanged if they are sent back empty."""


def _clear_bucket(document: Document) -> Document:
    return {
        **document,
        "auth": {**document["auth"], "password": "", "token": ""},
        "inputs": [_clear_input(each) for each in document["inputs"]],
        "outputs": [_clear_output(each) for each in document["outputs"]],
    }


def _clear_input(document: Document) -> Document:
    verify = document["verify"]
    return document if verify is None else {**document, "verify": {**verify, "secrets": []}}


def _clear_output(document: Document) -> Document:
    cleared = {**document, "secret": "", "rules": _clear_rules(document["rules"])}
    if not document["internal"]:
        cleared["destination"] = masked(document["destination"])
        cleared["headers"] = {
            name: [MASK] * len(values) if _SECRET_HEADER.search(name) else values
            for name, values in document["headers"].items()
        }
    return cleared


def _clear_rules(value: Any) -> Any:
    if isinstance(value, list):
        return [_clear_rules(each) for each in value]
    if not isinstance(value, dict):
        return value
    cleared = {name: _clear_rules(each) for name, each in value.items()}
    match = cleared.get("match")
    return {**cleared, "match": {**match, "secret": ""}} if isinstance(match, dict) and match.get("secret") else cleared


_CLEARED: Final[Mapping[Kind, Callable[[Document], Document]]] = {
    "bucket": _clear_bucket,
    "input": _clear_input,
    "output": _clear_output,
}
"""By kind, the function that removes the secrets from a document. All else is visible, and unchanged."""


def _refuse_without_auth(before: Document, wanted: Any) -> None:
    """Raises Forbidden if a bucket would no longer check, and take out, the secret that its senders go on sending."""
    if before["type"] != "none" and isinstance(wanted, dict) and wanted.get("type") in ("none", ""):
        raise Forbidden(
            "your token may not see the secret that senders send here, which would be stored with their events: "
            "only an administrator's token may set auth.type to none"
        )


def _refuse_other_provider(before: Document | None, wanted: Any) -> None:
    """Raises Forbidden if secrets that are kept would become another provider's: GitLab's are in each of its events."""
    if before is None or not isinstance(wanted, dict) or "secrets" in wanted:
        return
    if wanted.get("provider", before["provider"]) != before["provider"]:
        raise Forbidden(
            "your token may not see the secrets, which another provider's events could show: send new secrets together "
            "with the provider"
        )


def _with_masked(before: Document, seen: Document, given: dict[str, Any]) -> dict[str, Any]:
    """The requested changes of a public output, with the stored values in place of the masks."""
    destination = given.get("destination", seen["destination"])
    as_it_was = destination == seen["destination"]
    if not as_it_was and MASK in str(destination):
        raise Invalid(
            f"{MASK} stands for what you may not see: send the URL back as it was, or write all of it", "destination"
        )
    headers, kept = _unmasked(before["headers"], given.get("headers", seen["headers"]))
    keeps = kept or (as_it_was and destination != before["destination"])
    if given.get("internal") is True and keeps:
        raise Forbidden(
            "your token may not see the secrets in its destination or headers, which clients would be told: send "
            "them anew together with internal"
        )
    if kept and not as_it_was and not _same_place(str(destination), before["destination"]):
        raise Forbidden(
            "your token may not see the secrets in its headers, which another host would be sent: send new headers "
            "together with the destination"
        )
    insecure = given.get("tls_verification") is False and before["tls_verification"]
    if keeps and (insecure or _hosts(headers) != _hosts(before["headers"])):
        raise Forbidden(
            "your token may not see the secrets in its destination or headers, which others could be sent with another "
            "Host or without tls_verification: send them anew together with that"
        )
    return {**given, "headers": headers} if "headers" in given else given


def _hosts(headers: Any) -> list[Any]:
    """The values of a Host header, in whatever form it was sent."""
    found = headers.items() if isinstance(headers, dict) else ()
    values = [value for name, value in found if name.lower() == "host"]
    return [each for value in values for each in (value if isinstance(value, list) else [value])]


def _unmasked(stored: dict[str, list[str]], headers: Any) -> tuple[Any, bool]:
    """The headers with stored values in place of masks, and whether there are any. Raises Invalid."""
    if not isinstance(headers, dict):
        return headers, False
    found, kept = {}, False
    for name, given in headers.items():
        if given is None:
            continue  # none, as programs in Go write it
        values = found[name] = _trimmed(given)
        if MASK in values if isinstance(values, list) else values == MASK:
            there = stored.get(name, [])
            if not _SECRET_HEADER.search(name) or values not in ([MASK] * len(there), MASK) or not there:
                raise Invalid(
                    f"{MASK} stands for what you may not see of {name[:80]}: send all its values back as they "
                    "were, or write all of them",
                    "headers",
                )
            found[name], kept = there, True
    return found, kept


def _trimmed(values: Any) -> Any:
    """The values of a header as they are stored: without blanks around them."""
    if isinstance(values, list):
        return [_trimmed(each) for each in values]
    return values.strip(" \t") if isinstance(values, str) else values


def _same_place(one: str, other: str) -> bool:
    try:
        first, second = parse(one), parse(other)
    except Invalid:
        return False
    return (first.scheme, first.host, first.port) == (second.scheme, second.host, second.port)
