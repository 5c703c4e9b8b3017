"""What fails for a moment."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
import structlog

from relay_tornado import low_memory
from relay_tornado.low_memory import Timer, watch_timers


def once(function: Callable[..., Any], after: int = 0) -> Callable[..., Any]:
    """The function, whose first call behind so many others finds no memory."""
    calls = count()

    def call(*args: Any, **options: Any) -> Any:
        if next(calls) == after:
            raise MemoryError
        return function(*args, **options)

    return call


def lose_timers(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on there is no memory to set any timer of the running loop, which is Python's own, but for the one that
    looks for those."""

    def losing(schedule: Callable[..., asyncio.Handle], at: int) -> Callable[..., asyncio.Handle]:
        def call(*arguments: Any, **options: Any) -> asyncio.Handle:
            timer = getattr(arguments[at], "__self__", None)
            if isinstance(timer, Timer) and timer is not rounds:
                raise MemoryError
            return schedule(*arguments, **options)

        return call

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(low_memory, "RETRY_DELAY", 0.01)
    monkeypatch.setattr(low_memory, "_LATE", 0.01)
    monkeypatch.setattr(low_memory, "_log", structlog.testing.CapturingLogger())
    rounds = watch_timers()
    monkeypatch.setattr(loop, "call_at", losing(loop.call_at, 1))
    monkeypatch.setattr(loop, "call_soon", losing(loop.call_soon, 0))
