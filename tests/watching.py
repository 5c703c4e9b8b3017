"""A kernel that watches no more files, as at its bound on them (fs.epoll.max_user_watches)."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from typing import Any

import pytest


def unwatched(patch: pytest.MonkeyPatch, times: int) -> list[OSError]:
    """From here on the running loop can watch no more files, so many times. Returns what it raised."""
    loop: Any = asyncio.get_running_loop()
    raised: list[OSError] = []
    patch.setattr(loop, "add_reader", _failing(loop.add_reader, times, raised))
    patch.setattr(loop, "add_writer", _failing(loop.add_writer, times, raised))
    return raised


def _failing(watch: Callable[..., None], times: int, raised: list[OSError]) -> Callable[..., None]:
    def call(*arguments: Any) -> None:
        if len(raised) < times:
            raised.append(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
            raise raised[-1]
        watch(*arguments)

    return call
