"""Waiting for what tells nobody."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any


async def until(
    condition: Callable[[], Any | Awaitable[Any]], what: str = "what the test waits for", timeout: float = 120
) -> None:
    """Returns once the condition holds; fails where that takes too long, in seconds."""
    try:
        async with asyncio.timeout(timeout):
            while True:
                holds = condition()
                if await holds if inspect.isawaitable(holds) else holds:
                    return
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"waited {timeout} s for {what}") from None
