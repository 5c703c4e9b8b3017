"""Runs a blocking call in a thread of its own.

A loop that ends waits for the threads of its executor, however long they take.
"""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


async def aside(call: Callable[[], T], name: str) -> T:
    """Returns the call's result, or raises its error. If this is cancelled, the call goes on, and nothing waits for
    it. Raises OSError if no thread can be started."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def end(result: T | None, error: Exception | None) -> None:
        if done.done():
            return
        if error is None:
            done.set_result(result)  # type: ignore[arg-type]
        else:
            done.set_exception(error)

    def run() -> None:
        result, problem = None, None
        try:
            result = call()
        except Exception as error:
            problem = error
        with suppress(RuntimeError):  # the loop may be closed by now
            loop.call_soon_threadsafe(end, result, problem)

    try:
        threading.Thread(target=run, name=name, daemon=True).start()
    except RuntimeError:
        raise OSError(errno.EAGAIN, "no thread can be started") from None
    return await done
