"""relay_tornado/garbage_collection.py: full collections are rare where they take long, and still find garbage."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Iterator

import pytest

from relay_tornado.garbage_collection import FullCollectionLimit


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    gc.unfreeze()


def test_a_look_at_everything_puts_off_the_next() -> None:
    """For a thousand times as long as it took; what has come since is looked at meanwhile."""
    now = 50.0
    limit = FullCollectionLimit(lambda: now)

    def collect(seconds: float) -> int:
        """How many objects are put aside while it goes on."""
        nonlocal now
        limit("start", {"generation": 2})
        aside = gc.get_freeze_count()
        now += seconds
        limit("stop", {"generation": 2})
        return aside

    assert collect(0.2) == 0
    assert gc.get_freeze_count() > 1000
    limit("start", {"generation": 1})
    limit("stop", {"generation": 1})
    now += 199
    assert collect(0.5) > 1000
    now += 1
    assert collect(0.1) == 0
    assert collect(0.1) > 1000


def test_garbage_of_long_life_is_found_in_the_end() -> None:
    """What was put aside before it became garbage, too; in a real process."""
    code = """
import gc, weakref
from relay_tornado import garbage_collection

class Node:
    pass

garbage_collection._REST = 3.0
garbage_collection.limit_full_collections()
assert gc.get_freeze_count() > 1_000
kept, gone = [], []
for number in range(3_000_000):
    node = Node()
    node.itself = node
    kept.append(node)
    if not gc.get_threshold()[2] and number % 100_000 == 0:
        gc.collect()  # as behind a crowd: this Python begins no look at everything
    if number == 300_000:
        assert gc.get_freeze_count() > 100_000
        gone = [weakref.ref(node) for node in kept]
        kept.clear()
        del node
    if gone and number % 100_000 == 0 and not any(ref() for ref in gone):
        break
else:
    raise AssertionError("it is still there")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
