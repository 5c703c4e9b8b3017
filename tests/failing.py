"""What fails for a moment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def once(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, whose first call finds no memory."""
    failed: list[bool] = []

    def call(*args: Any, **options: Any) -> Any:
        if not failed:
            failed.append(True)
            raise MemoryError
        return function(*args, **options)

    return call
