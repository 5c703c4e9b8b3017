"""Files beside relay.db: what writes them gives way."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import pytest

from relay_tornado.storage import beside
from relay_tornado.storage.connection import Connection


@pytest.mark.skipif(sys.platform != "linux", reason="a thread has a niceness of its own on Linux only")
@pytest.mark.gen_test
async def test_its_thread_gives_way(tmp_path: Path) -> None:
    """The thread of such a file is less urgent than all others, which stay as they are."""

    def niceness(*_: object) -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    before = niceness()
    connection = await beside.writer(tmp_path / "x.db")
    other = await Connection.writer(tmp_path / "y.db")
    assert await connection.run(niceness) == max(before, 10)
    assert await other.run(niceness) == niceness() == before
    await connection.close()
    await other.close()
