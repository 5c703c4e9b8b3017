"""What a server asks for that wants a request to come again later."""

from __future__ import annotations

from email.utils import parsedate_to_datetime
from typing import Final

LONGEST: Final = 3600.0
"""Seconds up to which a Retry-After is obeyed."""


def retry_after(value: str | None, date: str | None, now: float) -> float | None:
    """Seconds that a Retry-After header asks for: a number, or a date after that of the answer's own Date header, for
    the server's clock may be another than ours (`now`, unix time). None where it asks for nothing that can be
    understood."""
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
