"""Decodes a relay's answers for commands. A field that an older relay does not send reads as None."""

from __future__ import annotations

import json
import re
from itertools import islice
from typing import Any, Final

from relay_tornado.errors import RelayError, Unavailable
from relay_tornado.ids import parse_id

ANSWER: Final = 120.0
"""Seconds within which the relay has to answer."""

_MOST: Final = 4_000_000
"""The most values in an answer: small values take many times as much memory as they have bytes."""

_STRING_OR_BEGINNING: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[{,]', re.DOTALL)


class Refused(RelayError):
    """An error that the relay answered with."""


class _Answer(dict[str, Any]):
    def __missing__(self, name: str) -> None:
        return None


def decode(text: bytes) -> Any:
    """Decodes a JSON document. Raises ValueError, also if it has more values than any answer of a relay."""
    # The fast count includes these characters within strings: only if it is too high, they are told apart.
    if sum(map(text.count, (b"[", b"{", b","))) > _MOST:
        beginnings = (1 for each in _STRING_OR_BEGINNING.finditer(text) if text[each.start()] != ord('"'))
        if sum(islice(beginnings, _MOST + 1)) > _MOST:
            raise ValueError("it has too many values")
    try:
        return json.loads(text, object_hook=_Answer)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def left_over(answer: dict[str, Any], first: int) -> int | None:
    """The first seq that a page of copies from `first` on leaves for the next page; None if it was the last page.
    Raises Unavailable if the page made no progress, as repeating it would have no end."""
    if "next_cursor" not in answer:
        return None
    return onward(parse_id(answer["next_cursor"].partition("..")[0]).seq + 1, first)


def onward(seq: int, first: int) -> int:
    """The seq `seq` at which the next page begins. Raises Unavailable if it is not after `first`."""
    if seq <= first:
        raise Unavailable(f"the relay stopped at seq {first} and gave no reason: its log may say why")
    return seq
