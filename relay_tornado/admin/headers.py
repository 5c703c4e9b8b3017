"""Checks configured headers: none may break HTTP, or set state in a sender's browser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from relay_tornado.errors import Invalid
from relay_tornado.wire.answers import NOT_CONFIGURABLE
from relay_tornado.wire.headers import HOP_BY_HOP, is_name, is_value

OF_CONNECTION = HOP_BY_HOP | {"connection", "content-length"}
"""Header names (in lower case) that no output may have."""
MAX_HEADERS = 100
MAX_HEADER_BYTES = 16_384


def check_headers(
    headers: Mapping[str, Sequence[str]], refused: frozenset[str] = NOT_CONFIGURABLE, owner: str = "an input"
) -> dict[str, list[str]]:
    """The headers with their values trimmed. Raises Invalid, naming the header that can't be sent."""
    checked: dict[str, list[str]] = {}
    size = 0
    for name, values in headers.items():
        if not is_name(name):
            raise Invalid(f"{name[:80]!r} is no header name: use letters, digits and -", "headers")
        if name.lower() in refused:
            raise Invalid(f"{name} can't be set by {owner}: leave it out", "headers")
        for value in values:
            if not is_value(value):
                raise Invalid(
                    f"the value of {name} holds a line end or another control character: leave it out", "headers"
                )
        if values:
            checked[name] = [value.strip(" \t") for value in values]
        size += sum(len(name) + len(value.encode()) + 4 for value in values)
    if sum(map(len, checked.values())) > MAX_HEADERS or size > MAX_HEADER_BYTES:
        raise Invalid(f"at most {MAX_HEADERS} values and {MAX_HEADER_BYTES} bytes in all are allowed", "headers")
    return checked
