"""Settings of a directory that is not there yet."""

from dataclasses import replace
from pathlib import Path

import pytest

from relay_tornado.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return replace(Settings(), data=tmp_path / "data")
