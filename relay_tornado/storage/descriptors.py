"""Whether files can still be opened: SQLite keeps to itself why the system refused it one."""

from __future__ import annotations

import errno
import os
from typing import Final

ENOUGH: Final = 16
"""A database with its WAL, and what opens it, take fewer; where opening it failed, they are closed again by now."""


def descriptors_lack() -> bool:
    """Whether this process, or the machine, has fewer than `ENOUGH` descriptors left."""
    opened: list[int] = []
    try:
        while len(opened) < ENOUGH:
            opened.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        return error.errno in (errno.EMFILE, errno.ENFILE)
    finally:
        for each in opened:
            os.close(each)
    return False
