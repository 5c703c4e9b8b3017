"""Counts how often somebody looks at one of many."""

from __future__ import annotations

from typing import ClassVar


class Compared(str):
    """A text that counts how often it is compared with another one: a look-up in a dict does so once, a search through
    a list once for each that is in it."""

    times: ClassVar[int] = 0

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        Compared.times += 1
        return str.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other
