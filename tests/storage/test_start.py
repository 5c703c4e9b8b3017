"""What lies in the data directory when a relay starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from relay_tornado.ops.stats import stats
from relay_tornado.settings import Settings
from relay_tornado.storage.database import Database
from relay_tornado.storage.space import Space
from tests.storage.jobs import names, put

storage_test = pytest.mark.gen_test(timeout=60)


@storage_test
async def test_a_symlink_to_the_file(settings: Settings, tmp_path: Path) -> None:
    """The WAL lies beside the file that it leads to, and is looked for there; the witness stays in the directory."""
    settings.data.mkdir()
    (tmp_path / "elsewhere").mkdir()
    real = tmp_path / "elsewhere" / "events.db"
    (settings.data / "relay.db").symlink_to(real)
    for name in "ab":
        database = await Database.open(settings)
        await database.write(put(name))
        assert database.problem == ""
        space = Space(database.path, 0)
        assert not space.low()
        assert space.wal == stats(database.path, 0).wal == real.with_name("events.db-wal").stat().st_size > 0
        await database.close()
    database = await Database.open(settings)
    await database.write(put("c"))
    assert await database.read(names) == ["a", "b", "c"]
    real.with_name("events.db-wal").unlink()
    assert database.problem.startswith("events.db-wal was deleted")
    await database.close()
    assert {path.name for path in settings.data.iterdir()} == {"relay.db", "relay.lock", "relay.witness"}


@storage_test
async def test_a_symlink_to_the_directory(settings: Settings, tmp_path: Path) -> None:
    """It is as good as the directory itself."""
    (tmp_path / "real").mkdir()
    settings.data.symlink_to("real")
    for name in "ab":
        database = await Database.open(settings)
        await database.write(put(name))
        assert database.problem == ""
        assert (tmp_path / "real" / "relay.db-wal").stat().st_size > 0
        await database.close()
    database = await Database.open(settings)
    assert await database.read(names) == ["a", "b"]
    await database.close()
