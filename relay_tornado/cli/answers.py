"""What a relay answers, as commands read it: a field that a relay of an older version does not know is None."""

from __future__ import annotations

import json
from typing import Any, Final

from relay_tornado.errors import RelayError

ANSWER: Final = 120.0
"""Seconds that it has for one."""


class Refused(RelayError):
    """The relay's error, as it told it."""


class _Answer(dict[str, Any]):
    def __missing__(self, name: str) -> None:
        return None


def decode(text: bytes) -> Any:
    """The document. Raises ValueError."""
    try:
        return json.loads(text, object_hook=_Answer)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
