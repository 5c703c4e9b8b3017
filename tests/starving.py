"""Lets allocations of the running process fail, one at a time."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

from tests.needs import needs_failing_allocations

MOST = 10_000
"""Allocations that no step makes."""


def each_failing(make: Callable[[], Callable[[], Any]]) -> Iterator[int]:
    """Makes a step, and does it with its n-th allocation failing, for each n; yields n behind each that failed."""
    needs_failing_allocations()
    import _testcapi as testcapi  # type: ignore[import-not-found]

    for n in count():
        assert n < MOST
        step = make()
        try:
            with _alone():
                testcapi.set_nomemory(n, n + 1)
                try:
                    step()
                finally:
                    testcapi.remove_mem_hooks()
        except MemoryError:
            yield n
        else:
            return


@contextmanager
def _alone() -> Iterator[None]:
    """No other thread has the interpreter meanwhile."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000.0)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)
