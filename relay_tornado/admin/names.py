"""What a bucket may be called, so that a name is never taken for an id, a path or the word for all buckets."""

from __future__ import annotations

import re

from relay_tornado.errors import Invalid

MAX_NAME = 100
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


def check_bucket_name(name: str) -> None:
    """Raises Invalid, saying which rule it breaks."""
    problem = _problem(name)
    if problem is not None:
        raise Invalid(problem, "name")


def _problem(name: str) -> str | None:
    if not name:
        return "is empty: give the bucket a name"
    if len(name) > MAX_NAME:
        return f"has {len(name)} characters; {MAX_NAME} are allowed"
    for character in name:
        # Invisible characters would make two names look alike, and could steer a terminal.
        if not character.isprintable():
            return f"holds the character U+{ord(character):04X}, which can't be printed: leave it out"
    if name != name.strip():
        return "begins or ends with a space: leave it out"
    if "/" in name:
        return 'holds a "/", which would end it in a URL: use "-" or "."'
    if name in (".", ".."):
        return "is a step within a path, which clients take out of a URL: choose another name"
    if name == "*":
        return '"*" stands for all buckets: choose another name'
    if _UUID.fullmatch(name):
        return "looks like a bucket's id: choose another name"
    return None
