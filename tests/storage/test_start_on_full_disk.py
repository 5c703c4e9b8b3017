"""A start on a disk that is full to the last byte."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from relay_tornado.errors import NoSpace
from relay_tornado.model import KIB, MIB
from relay_tornado.settings import Settings
from relay_tornado.storage.database import Database
from relay_tornado.storage.database_files import beside
from relay_tornado.storage.space import disk_of
from tests.faults.disk import Disk, needs_disk
from tests.log.worlds import fill, make, open_log, read_all
from tests.storage.faults import crash
from tests.waiting import until

full_test = pytest.mark.gen_test(timeout=60)


def take_all(place: Path) -> Path:
    """Another program fills the disk with this file."""
    taken = place / "taken"
    with taken.open("wb", buffering=0) as file:
        os.posix_fallocate(file.fileno(), 0, disk_of(place).free // 2)
        file.seek(0, os.SEEK_END)
        for piece in (MIB, 4096, 512):
            try:
                while True:
                    file.write(os.urandom(piece))
            except OSError:
                pass
    subprocess.run(("sync", "-f", str(place)), check=True)
    assert disk_of(place).free < 64 * KIB
    return taken


@full_test
@pytest.mark.parametrize("crashed", [True, False], ids=["crashed", "stopped"])
@pytest.mark.parametrize(("kind", "size", "options"), [("ext4", 32, ("-m", "0", "-b", "4096")), ("xfs", 300, ())])
async def test_it_reads_what_is_there(
    tmp_path: Path, kind: str, size: int, options: tuple[str, ...], crashed: bool
) -> None:
    """Events are refused until there is room, without a restart."""
    needs_disk(kind)
    with Disk(tmp_path, size * MIB, *options, kind=kind) as disk, capture_logs():
        settings = Settings(data=disk.place / "data")
        database, log = await open_log(settings)
        await make(log, events=100)
        await log.close()
        await (crash(database) if crashed else database.close())
        taken = take_all(disk.place)

        database, log = await open_log(settings)
        assert len(await read_all(log)) == 100
        with pytest.raises(NoSpace):
            await fill(log, 1)
        taken.unlink()
        await until(lambda: not database.problem)
        await fill(log, 1)
        await log.close()
        await database.close()


@full_test
async def test_the_index_of_the_wal_has_all_its_places(tmp_path: Path) -> None:
    """Also where blocks are smaller than SQLite's pages: without one for a change the kernel ends the process."""
    needs_disk()
    with Disk(tmp_path, 16 * MIB, "-b", "1024") as disk:
        for _ in range(2):  # nothing is written at the second start, so SQLite has not used all of the index
            database = await Database.open(Settings(data=disk.place / "data"))
            index = beside(database.path, "-shm").stat()
            await database.close()
    assert index.st_blocks * 512 >= index.st_size > 0
