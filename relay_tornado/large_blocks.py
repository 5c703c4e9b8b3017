"""Has the C library give large blocks of memory back to the system as soon as they are free.

glibc gets a large block from the system, and gives it back when it is freed. But once it has freed one, it takes blocks
of up to that size, 32 MiB at most, from its heap. There smaller blocks that live longer come to lie between them, so
that the gaps fit no later block and the heap grows: with webhooks of some MiB to several times what is in use. A fixed
limit prevents that.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Final

from relay_tornado.model import MIB

LARGE: Final = 4 * MIB
"""Bytes from which a block is large. With the body of a usual webhook (3 MiB) among them, it would take the relay twice
the processor time, in page faults."""

_TRIM: Final = 32 * MIB
"""Free bytes at the end of the heap that are kept. Without the fixed limit, glibc raises this number by itself, too."""

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3


def return_large_blocks(environment: Mapping[str, str]) -> None:
    """Sets the limit for the process, unless its environment sets glibc's own. Has no effect with another C library."""
    if "MALLOC_MMAP_THRESHOLD_" in environment or "mmap_threshold" in environment.get("GLIBC_TUNABLES", ""):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_MMAP_THRESHOLD, LARGE)
    mallopt(_M_TRIM_THRESHOLD, _TRIM)
