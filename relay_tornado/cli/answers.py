"""What a relay answers, as commands read it: a field that a relay of an older version does not know is None."""

from __future__ import annotations

import json
import re
from itertools import islice
from typing import Any, Final

from relay_tornado.errors import RelayError, Unavailable
from relay_tornado.ids import parse_id

ANSWER: Final = 120.0
"""Seconds that it has for one."""

_MOST: Final = 4_000_000
"""Values in an answer: small ones take many times as much memory as bytes on their way."""

_STRING_OR_BEGINNING: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[{,]', re.DOTALL)


class Refused(RelayError):
    """The relay's error, as it told it."""


class _Answer(dict[str, Any]):
    def __missing__(self, name: str) -> None:
        return None


def decode(text: bytes) -> Any:
    """The document. Raises ValueError, for one of more values than any of a relay's, too."""
    # Within strings these characters begin nothing; telling which are takes longer than parsing.
    if sum(map(text.count, (b"[", b"{", b","))) > _MOST:
        beginnings = (1 for each in _STRING_OR_BEGINNING.finditer(text) if text[each.start()] != ord('"'))
        if sum(islice(beginnings, _MOST + 1)) > _MOST:
            raise ValueError("it has too many values")
    try:
        return json.loads(text, object_hook=_Answer)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def left_over(answer: dict[str, Any], first: int) -> int | None:
    """The first seq that a page of copies leaves of the events from `first` on, None where it is the last one. Raises
    Unavailable where that is all of them: it would be so for ever."""
    if "next_cursor" not in answer:
        return None
    return onward(parse_id(answer["next_cursor"].partition("..")[0]).seq + 1, first)


def onward(seq: int, first: int) -> int:
    """The seq that a page leads on to. Raises Unavailable where that is not behind its first one."""
    if seq <= first:
        raise Unavailable(f"the relay did nothing from seq {first} on, and does not say why")
    return seq
