"""Counts how often somebody looks at one of many, and how much is done in one turn of the loop."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

import pytest


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


def calls_by_turn(monkeypatch: pytest.MonkeyPatch, where: object, name: str) -> list[int]:
    """How often this function is called, from now on, in each turn of the loop in which it is."""
    calls: list[int] = []
    function = getattr(where, name)
    begun = False

    def end() -> None:
        nonlocal begun
        begun = False

    def counted(*args: Any, **options: Any) -> Any:
        nonlocal begun
        if not begun:
            begun = True
            calls.append(0)
            asyncio.get_running_loop().call_soon(end)
        calls[-1] += 1
        return function(*args, **options)

    monkeypatch.setattr(where, name, counted)
    return calls
