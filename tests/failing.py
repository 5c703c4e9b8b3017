"""What fails for a moment."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any


def once(function: Callable[..., Any], after: int = 0) -> Callable[..., Any]:
    """The function, whose first call behind so many others finds no memory."""
    calls = count()

    def call(*args: Any, **options: Any) -> Any:
        if next(calls) == after:
            raise MemoryError
        return function(*args, **options)

    return call
