"""relay_tornado/large_blocks.py: what is large does not stay in the heap when it is freed."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

COUNT: Final = """
import ctypes
from relay_tornado.large_blocks import LARGE, return_large_blocks

class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd a b c d e".split()]

mallinfo = ctypes.CDLL(None).mallinfo2
mallinfo.restype = Info
return_large_blocks({environment})
large = bytearray(2 * LARGE)
del large  # glibc takes it for the usual size by now
before = mallinfo().hblks
kept = [bytearray(LARGE) for _ in range(10)]
print(mallinfo().hblks - before)
before = mallinfo().hblks
smaller = [bytearray(LARGE // 2) for _ in range(10)]
print(mallinfo().hblks - before)
"""
"""Prints how many of ten large blocks come from the system, and how many of ten smaller ones."""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="glibc from 2.33 on counts its blocks")
@pytest.mark.parametrize(
    ("environment", "count"),
    [
        ({}, 10),
        ({"GLIBC_TUNABLES": "glibc.malloc.check=1"}, 10),
        ({"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=33554432"}, 0),
        ({"MALLOC_MMAP_THRESHOLD_": "33554432"}, 0),
    ],
)
def test_large_blocks_come_from_the_system(environment: dict[str, str], count: int) -> None:
    """Also after one was freed; where the environment says which are large, that holds. Smaller ones do not."""
    code = COUNT.format(environment=environment)
    assert subprocess.check_output((sys.executable, "-c", code), text=True) == f"{count}\n0\n"


def test_a_relay_sets_the_limit(tmp_path: Path) -> None:
    """Before it runs."""
    code = """
from relay_tornado.cli import serve
from relay_tornado.cli.entry import main

async def run(*arguments):
    print("runs")

serve._run = run
serve.return_large_blocks = lambda environment: print("limited")
main(["serve"])
"""
    assert subprocess.check_output((sys.executable, "-c", code), cwd=tmp_path, text=True) == "limited\nruns\n"
