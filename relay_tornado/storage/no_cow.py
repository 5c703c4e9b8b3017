"""The flag NOCOW (`chattr +C`): a file is changed in place on a file system that otherwise writes each change to a new
place, as btrfs does. A change in place needs no free space. btrfs keeps no checksum of such a file."""

from __future__ import annotations

import fcntl
import os
import struct

# Linux's include/uapi/linux/fs.h: FS_IOC_GETFLAGS is _IOR('f', 1, long), FS_IOC_SETFLAGS _IOW('f', 2, long); both use
# an int.
_INT = struct.Struct("i")
_LONG = struct.calcsize("l")
_GET = 2 << 30 | _LONG << 16 | ord("f") << 8 | 1
_SET = 1 << 30 | _LONG << 16 | ord("f") << 8 | 2
_NO_COW = 0x00800000
_COMPRESSION = 0x00000004 | 0x00000400
"""FS_COMPR_FL and FS_NOCOMP_FL, which a file may have from its directory: NOCOW is refused beside either."""


def set_flag(descriptor: int) -> bool:
    """Gives an open file the flag if it is empty. Returns whether the file has it now: only some file systems know
    it."""
    try:
        if os.fstat(descriptor).st_size == 0:
            flags = _flags(descriptor) & ~_COMPRESSION | _NO_COW
            fcntl.ioctl(descriptor, _SET, _INT.pack(flags).ljust(_LONG, b"\0"))
    except OSError:
        return False
    return has_flag(descriptor)


def has_flag(descriptor: int) -> bool:
    """Whether the open file has the flag."""
    try:
        return bool(_flags(descriptor) & _NO_COW)
    except OSError:
        return False


def _flags(descriptor: int) -> int:
    flags: int = _INT.unpack_from(fcntl.ioctl(descriptor, _GET, bytes(_LONG)))[0]
    return flags
