"""The messages by which a client reports the outcome of a consumer's event: `ack` and `nak`.

There is one for every event, so they are read by hand: a schema would take several times as long as parsing the JSON.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from relay_tornado.errors import Invalid
from relay_tornado.ids import parse_id
from relay_tornado.model import Cursor

MAX_DELAY: Final = 86_400
"""The longest delay of a `nak`, in seconds: a day."""


@dataclass(frozen=True, slots=True)
class Ack:
    """The event or copy with this id is done; with `all`, so is everything that this connection was given before it."""

    id: Cursor
    all: bool = False


@dataclass(frozen=True, slots=True)
class Nak:
    """An attempt at the event or copy with this id failed; it is to be redelivered after `delay` seconds."""

    id: Cursor
    delay: float = 0.0


def read_ack(document: dict[str, Any]) -> Ack:
    """Raises Invalid, which names the field and says what to write instead."""
    every = document.get("all")
    if every is not None and not isinstance(every, bool):
        raise Invalid("write true or false", "all")
    return Ack(read_id(document.get("id")), bool(every))


def read_nak(document: dict[str, Any]) -> Nak:
    """Raises Invalid, which names the field and says what to write instead."""
    delay = document.get("delay")
    if delay is None:
        delay = 0
    if not isinstance(delay, int | float) or isinstance(delay, bool) or not 0 <= delay <= MAX_DELAY:
        raise Invalid(f"write a number of seconds from 0 to {MAX_DELAY}", "delay")
    return Nak(read_id(document.get("id")), float(delay))


def read_id(text: Any) -> Cursor:
    """Raises Invalid, naming the field `id`."""
    if not isinstance(text, str):
        raise Invalid("write the meta.id of the event, in quotes", "id")
    try:
        return parse_id(text)
    except Invalid as error:
        raise error.within("id") from None
