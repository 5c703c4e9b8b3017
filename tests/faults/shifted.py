"""A relay whose clock of day is set: `python -m tests.faults.shifted serve …` is `relay serve …` that reads from the
file that the variable SHIFT names by how many seconds its clock is off. What goes by other clocks does not notice."""

from __future__ import annotations

import os
import struct
import time

_file = os.open(os.environ["SHIFT"], os.O_RDONLY)
_time = time.time


def _shifted() -> float:
    return _time() + float(struct.unpack("d", os.pread(_file, 8, 0))[0])


if __name__ == "__main__":
    time.time = _shifted  # before anybody takes it
    from relay_tornado.cli import entry

    entry.main()
