"""A real relay for the tests of the client."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.client.world import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A running relay of its own, with a bucket and a token."""
    with World(tmp_path / "data") as world:
        yield world


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A running relay for the tests of a module that do it no harm: each makes a bucket of its own."""
    with World(tmp_path_factory.mktemp("shared") / "data") as world:
        yield world
