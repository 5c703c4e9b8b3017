"""Small file systems of a test's own: an image behind a loop device, which can lose its power, or fail."""

from __future__ import annotations

import fcntl
import os
import re
import struct
import subprocess
from pathlib import Path
from typing import Self

import pytest

from tests.acceptance.relay import TIMEOUT, wait_for
from tests.needs import needs, needs_root

MIB = 1 << 20

_SHUTDOWN = 0x8004587D
"""EXT4_IOC_SHUTDOWN of Linux's fs/ext4/ext4.h, and XFS_IOC_GOINGDOWN: _IOR('X', 125, __u32)."""
_NO_LOG_FLUSH = 2
"""Its flag that drops what the journal did not write yet."""


_PACKAGES = {"ext4": "e2fsprogs", "xfs": "xfsprogs", "btrfs": "btrfs-progs"}
KINDS = tuple(_PACKAGES)


def needs_disk(kind: str = "ext4") -> None:
    """Skips the running test where no file system of this kind can be made and mounted."""
    needs_root("it mounts a small file system")
    needs("mkfs.ext4", "install e2fsprogs")  # below a btrfs, too
    needs(f"mkfs.{kind}", f"install {_PACKAGES[kind]}")
    needs("mount", "install mount")
    if not Path("/dev/loop-control").exists():
        pytest.skip("there are no loop devices: load the kernel's module loop")
    if not re.search(rf"\b{kind}$", Path("/proc/filesystems").read_text(), re.MULTILINE):
        pytest.skip(f"the kernel has no {kind}: load its module {kind}")


class Disk:
    """A file system of its own at `place`. A context manager unmounts it at its end."""

    def __init__(self, folder: Path, size: int, *options: str, kind: str = "ext4") -> None:
        """`options` are those of the program mkfs of this `kind`: ext4, xfs (300 MiB at least) or btrfs (109 MiB)."""
        self.place = folder / "disk"
        self._image = folder / "disk.img"
        self._size = size
        self._options = options
        self._kind = kind
        # btrfs can't be shut down, so its image lies on a file system that can. The loop device syncs the image when
        # btrfs has it flush its cache; what was not synced before is gone with the power of that file system.
        self._under = Disk(folder / "under", size + size // 8 + 16 * MIB) if kind == "btrfs" else None
        if self._under is not None:
            self._image = self._under.place / "disk.img"

    def __enter__(self) -> Self:
        if self._under is not None:
            self._under.place.parent.mkdir()
            self._under.__enter__()
        self.place.mkdir()
        with self._image.open("wb") as file:
            file.truncate(self._size)
        _run(f"mkfs.{self._kind}", "-q", *self._options, str(self._image))
        self.mount()
        return self

    def __exit__(self, *_: object) -> None:
        self._let_go()
        self._image.unlink()
        if self._under is not None:
            self._under.__exit__()

    def mount(self) -> None:
        """Without what ext4 does for those who forget to sync a file before they rename it, as others do nothing."""
        if self._under is not None and not self._image.exists():
            self._under.mount()
        options = "loop,noauto_da_alloc,errors=remount-ro" if self._kind == "ext4" else "loop"
        _run("mount", "-o", options, str(self._image), str(self.place))

    def unmount(self) -> None:
        """Returns when it is gone: another test may have taken all mounts along to a namespace of its own, and what is
        mounted there yet would be mounted here again as it is, without its power."""
        self._let_go()
        if self._under is not None:
            self._under.unmount()

    def _let_go(self) -> None:
        _run("umount", str(self.place))
        wait_for(lambda: not self._held(), "the image to be let go")

    def _held(self) -> bool:
        """Whether a loop device has the image."""
        found = subprocess.run(("losetup", "-j", str(self._image)), check=True, timeout=TIMEOUT, capture_output=True)
        return bool(found.stdout)

    def fail(self) -> None:
        """The ext4 finds an error, and is read-only from here on."""
        device = Path("/sys/dev/block", "{}:{}".format(*_numbers(self.place))).resolve().name
        Path("/sys/fs/ext4", device, "trigger_fs_error").write_text("1")

    def lose_power(self) -> None:
        """From here on nothing reaches the image, and what was not synced before never will."""
        if self._under is not None:
            self._under.lose_power()
            return
        descriptor = os.open(self.place, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, _SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
        finally:
            os.close(descriptor)


def _numbers(place: Path) -> tuple[int, int]:
    """Those of the device that a place is on."""
    device = place.stat().st_dev
    return os.major(device), os.minor(device)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, timeout=TIMEOUT, stdin=subprocess.DEVNULL)
