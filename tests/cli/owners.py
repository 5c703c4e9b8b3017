"""Data directories that somebody has: a relay as a process, or a lock alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from relay_tornado.storage.lock import Lock
from tests.acceptance.relay import Relay


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    """A relay that runs."""
    with Relay(tmp_path_factory.mktemp("running") / "data") as running:
        yield running


@contextmanager
def locked(data: Path, path: Path | None = None) -> Iterator[Lock]:
    """The data directory in another's hands, who says that his control socket is at `path`."""
    lock = Lock.acquire(data)
    lock.write(path)
    try:
        yield lock
    finally:
        lock.release()
