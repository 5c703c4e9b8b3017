"""Settings of a directory that is not there yet, and faults for its file."""

from dataclasses import replace
from pathlib import Path

import pytest

from relay_tornado.settings import Settings
from tests.storage.faults import Faults


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return replace(Settings(), data=tmp_path / "data")


@pytest.fixture
def faults() -> Faults:
    return Faults()
