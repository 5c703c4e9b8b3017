"""Waiting for one of two things."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

T = TypeVar("T")


async def first_of(wanted: Awaitable[T | None], other: asyncio.Future[Any]) -> T | None:
    """The awaited result; None, and the wait for it is cancelled, if `other` is done first."""
    task = asyncio.ensure_future(wanted)
    try:
        await asyncio.wait((task, other), return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait((task,))
