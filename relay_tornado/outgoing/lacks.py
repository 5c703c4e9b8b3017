"""Tells a system that has nothing left for another connection from a destination that can't be reached."""

from __future__ import annotations

import errno
import socket
from contextlib import ExitStack
from typing import Final

from relay_tornado.errors import NO_THREAD

_LACKS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ENOSPC})
"""ENOSPC is that of epoll_ctl(2): no more files may be watched."""
_ENOUGH: Final = 4
"""Descriptors: a look-up takes fewer at once, and so does reading certificates."""


def is_lack(error: OSError) -> bool:
    """Whether the system has no descriptor, memory or thread left, which says nothing of any destination."""
    if isinstance(error, socket.gaierror):
        return error.errno == socket.EAI_MEMORY
    return error.errno in _LACKS or str(error) == NO_THREAD


def check_descriptors(least: int = _ENOUGH) -> None:
    """Raises OSError if fewer are left. For what fails then without a word of it: the C library finds no name, and
    OpenSSL no certificate."""
    with ExitStack() as opened:
        for _ in range(least):
            opened.enter_context(socket.socket())
