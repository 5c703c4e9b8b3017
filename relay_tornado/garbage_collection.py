"""Limits how often Python's garbage collector makes a full collection, which looks at all objects.

A full collection stops the event loop: for 300 ms with 10,000 connected clients, whose objects are hardly ever garbage.
Python starts one whenever the objects have grown by a quarter, so a crowd that connects causes a dozen. Here the
objects that survive a collection are frozen, and the next one looks only at newer ones. All are looked at again only
after many times as long as that took.

Python 3.14.0 to 3.14.4 start no full collection: they look at a part of all objects at a time, and at none that is
frozen. There the full collections are those of `handlers/admission.py`, after a crowd: after all who request anything
but an input.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

_REST: Final = 1000.0
"""How many times as long as a full collection took there is none: so they take a thousandth of the time."""

_OLDEST: Final = 2
"""The generation of a full collection."""


class FullCollectionLimit:
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


def limit_full_collections() -> None:
    """Installs the limit for the process, and collects once. To be called when the process is ready: it freezes the
    objects that exist then."""
    gc.callbacks.append(FullCollectionLimit())
    gc.collect()
