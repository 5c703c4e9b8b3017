"""One relay for all tests of a module, and a target of its own for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.relay import Relay
from tests.agent.world import Target


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    settings = {"log_level": "warning", "retention_interval": 0.2, "forward_allow": "127.0.0.0/8"}
    with Relay(tmp_path_factory.mktemp("relay") / "data", **settings) as started:
        yield started


@pytest.fixture(scope="module")
def secret(relay: Relay) -> str:
    return relay.create_token()[1]


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Target]:
    with Target(tmp_path) as started:
        yield started
