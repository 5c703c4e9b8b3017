"""How often Python looks for garbage among everything there is.

Such a collection stops the loop for as long as there are objects to look at: for 300 ms where 10,000 clients are
connected, whose objects are next to never garbage. Python begins one whenever a quarter more has come, so a crowd that
connects makes a dozen. Here what a collection leaves is put aside, and the next one looks at what has come since; at
everything only once many times as long as that took has gone by.

Python 3.14.0 to 3.14.4 begin none by themselves: they look at a part of everything at a time, and at nothing of what is
put aside. There the looks are those behind a crowd (`handlers/admission.py`): behind all who ask for anything but an
input.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

_REST: Final = 1000.0
"""How many times longer than a look at everything took there is none: so they take a thousandth of the time."""

_OLDEST: Final = 2
"""The generation of a full collection."""


class Restraint:
    """A callback of the collector, for `gc.callbacks`."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._began = 0.0
        self._until = 0.0
        self._whole = False

    def __call__(self, phase: str, info: Mapping[str, Any]) -> None:
        if info["generation"] != _OLDEST:
            return
        now = self._clock()
        if phase == "start":
            self._began = now
            self._whole = now >= self._until
            if self._whole:
                gc.unfreeze()
        else:
            gc.freeze()
            if self._whole:
                self._until = now + (now - self._began) * _REST


def restrain() -> None:
    """For the process, once it is ready."""
    gc.callbacks.append(Restraint())
    gc.collect()
