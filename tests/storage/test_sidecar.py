"""Files beside relay.db: what writes them gives way."""

from __future__ import annotations

import asyncio
import errno
import os
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from relay_tornado.model import MIB
from relay_tornado.storage import sidecar
from relay_tornado.storage.connection import Connection
from relay_tornado.storage.space import Disk


@pytest.mark.skipif(sys.platform != "linux", reason="a thread has a niceness of its own on Linux only")
@pytest.mark.gen_test
async def test_its_thread_gives_way(tmp_path: Path) -> None:
    """The thread of such a file is less urgent than all others, which stay as they are."""

    def niceness(*_: object) -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    before = niceness()
    connection, begun = await sidecar.writer(tmp_path / "x.db", niceness)
    other = await Connection.writer(tmp_path / "y.db")
    assert await connection.run(niceness) == begun == max(before, 10)
    assert await other.run(niceness) == niceness() == before
    await connection.close()
    await other.close()


@pytest.mark.gen_test
async def test_who_stops_waiting_leaves_no_thread(tmp_path: Path) -> None:
    """However soon; a thread that were left would keep the process from ending (see conftest.py)."""
    for turns in range(30):
        opening = asyncio.ensure_future(sidecar.writer(tmp_path / "x.db", lambda raw: None))
        for _ in range(turns):
            await asyncio.sleep(0.0002)
        opening.cancel()
        with suppress(asyncio.CancelledError):
            connection, _ = await opening
            await connection.close()


@pytest.mark.gen_test
async def test_it_takes_nothing_of_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk that a link leads to, if the file is one. What is left of it is for relay.db; once there is room again
    the file is opened."""
    path = tmp_path / "x.db"
    target = tmp_path / "other disk" / "y.db"
    target.parent.mkdir()
    path.symlink_to(target)
    with monkeypatch.context() as patch:
        patch.setattr(sidecar, "disk_of", lambda folder: Disk(64 * MIB, MIB - (folder == target.parent)))
        with pytest.raises(OSError, match="No space left") as caught:
            await sidecar.writer(path, lambda raw: None)
    assert (caught.value.errno, path.exists()) == (errno.ENOSPC, False)
    connection, _ = await sidecar.writer(path, lambda raw: None)
    await connection.close()
