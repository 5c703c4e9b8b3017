"""Settings of a directory that is not there yet, its file, faults for that, and short pauses after them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tornado.ioloop import IOLoop

from relay_tornado.settings import Settings
from relay_tornado.storage import writer as writers
from relay_tornado.storage.database import Database
from tests.storage.faults import Faults


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data=tmp_path / "data")


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
def database(io_loop: IOLoop, settings: Settings, faults: Faults) -> Iterator[Database]:
    """A new file, open, that fails as told; it is healed and closed at the end."""
    made = io_loop.run_sync(lambda: Database.open(settings, factory=faults.factory))
    yield made
    faults.heal()
    io_loop.run_sync(made.close)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer whose file can't be written tries again at once."""
    monkeypatch.setattr(writers, "_BACKOFF", (0.01, 0.02))
