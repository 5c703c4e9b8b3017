"""What a test's site reads webhooks with, and what it keeps them in; a server of sockets, and a whole relay."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tornado.ioloop import IOLoop

from tests.contexts import held_open
from tests.handlers import edge
from tests.handlers.rest.world import World, world
from tests.handlers.sockets import Live, live


@pytest.fixture(params=["direct", "tornado"])
def transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Either transport in turn; every site of the test is on it."""
    monkeypatch.setattr(edge, "transport", request.param)
    return str(request.param)


@pytest.fixture(params=["memory", "sqlite"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    """Where a site keeps its files; None where it keeps all in memory."""
    return None if request.param == "memory" else tmp_path


@pytest.fixture
def here(io_loop: IOLoop, tmp_path: Path) -> Iterator[World]:
    """A whole relay with the usual settings, and its administrator's token."""
    yield from held_open(io_loop, world(tmp_path))


@pytest.fixture
def server(io_loop: IOLoop) -> Iterator[Live]:
    """A server of sockets with the usual settings."""
    yield from held_open(io_loop, live())
