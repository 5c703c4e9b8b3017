"""Small file systems of a test's own: an image behind a loop device, which can lose its power, or fail."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
from pathlib import Path
from typing import Self

from tests.acceptance.relay import TIMEOUT, wait_for
from tests.needs import needs, needs_root

MIB = 1 << 20

_SHUTDOWN = 0x8004587D
"""EXT4_IOC_SHUTDOWN of Linux's fs/ext4/ext4.h: _IOR('X', 125, __u32)."""
_NO_LOG_FLUSH = 2
"""Its flag that drops what the journal did not write yet."""


def needs_disk() -> None:
    """Skips the running test where no file system can be made and mounted."""
    needs_root("it mounts a small file system")
    needs("mkfs.ext4", "install e2fsprogs")
    needs("mount", "install mount")
    if not Path("/dev/loop-control").exists():
        import pytest

        pytest.skip("there are no loop devices: load the kernel's module loop")


class Disk:
    """An ext4 of its own at `place`. A context manager unmounts it at its end."""

    def __init__(self, folder: Path, size: int, *options: str) -> None:
        self.place = folder / "disk"
        self._image = folder / "disk.img"
        self._size = size
        self._options = options

    def __enter__(self) -> Self:
        self.place.mkdir()
        with self._image.open("wb") as file:
            file.truncate(self._size)
        _run("mkfs.ext4", "-q", *self._options, str(self._image))
        self.mount()
        return self

    def __exit__(self, *_: object) -> None:
        self.unmount()
        self._image.unlink()

    def mount(self) -> None:
        """Without what ext4 does for those who forget to sync a file before they rename it, as others do nothing."""
        options = "loop,noauto_da_alloc,errors=remount-ro"
        _run("mount", "-o", options, str(self._image), str(self.place))

    def unmount(self) -> None:
        """Returns when it is gone: another test may have taken all mounts along to a namespace of its own, and what is
        mounted there yet would be mounted here again as it is, without its power."""
        _run("umount", str(self.place))
        wait_for(lambda: not self._held(), "the image to be let go")

    def _held(self) -> bool:
        """Whether a loop device has the image."""
        found = subprocess.run(("losetup", "-j", str(self._image)), check=True, timeout=TIMEOUT, capture_output=True)
        return bool(found.stdout)

    def fail(self) -> None:
        """ext4 finds an error, and is read-only from here on."""
        device = Path("/sys/dev/block", "{}:{}".format(*_numbers(self.place))).resolve().name
        Path("/sys/fs/ext4", device, "trigger_fs_error").write_text("1")

    def lose_power(self) -> None:
        """From here on nothing reaches the image, and what was not synced before never will."""
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
