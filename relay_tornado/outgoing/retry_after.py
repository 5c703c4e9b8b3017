"""Reads the Retry-After header of a server's answer."""

from __future__ import annotations

from email.utils import parsedate_to_datetime
from typing import Final

LONGEST: Final = 3600.0
"""Maximum number of seconds for which a Retry-After is obeyed."""


def retry_after(value: str | None, date: str | None, now: float) -> float | None:
    """The delay in seconds in a Retry-After header: a number, or a date relative to the answer's own Date header, since
    the server's clock may differ from ours (`now`, unix time). None if the header is missing or invalid."""
    text = (value or "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text), LONGEST)
    until, since = _unix(text), _unix(date or "")
    if until is None:
        return None
    return min(max(until - (now if since is None else since), 0.0), LONGEST)


def _unix(date: str) -> float | None:
    try:
        return parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError):
        return None
