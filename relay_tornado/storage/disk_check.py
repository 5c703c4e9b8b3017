"""Tells a disk that fails from a damaged file: SQLite reports a page that the disk can't read as a malformed one.

(os_unix.c makes SQLITE_IOERR_CORRUPTFS of EIO, and a statement makes SQLITE_CORRUPT of that.)
"""

from __future__ import annotations

import os
import random
from contextlib import suppress
from typing import Final

_PAGE: Final = 4096
_MOST: Final = 32
"""The most pages that are read."""


def fails(descriptor: int) -> bool:
    """Whether the disk can't read one of some pages of the open file, chosen at random. They are read from the disk, if
    the kernel drops what it has in memory. Of a small file it is half of the pages, so that one which stays unreadable
    does not make every look fail. Blocks as long as the disk does."""
    try:
        pages = os.fstat(descriptor).st_size // _PAGE
        for page in random.sample(range(pages), min(pages // 2, _MOST)):
            with suppress(OSError, AttributeError):  # on macOS
                os.posix_fadvise(descriptor, page * _PAGE, _PAGE, os.POSIX_FADV_DONTNEED)
            os.pread(descriptor, _PAGE, page * _PAGE)
    except OSError:
        return True
    return False
