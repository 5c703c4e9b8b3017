"""Fixtures of the acceptance tests."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.acceptance.relay import Relay


@pytest.fixture
def new_relay(tmp_path: Path) -> Iterator[Callable[..., Relay]]:
    """Makes relays that are not started yet: `new_relay("name", tail="1MiB")`. Whatever runs at the end is killed."""
    relays: list[Relay] = []

    def new(name: str = "data", **settings: object) -> Relay:
        relays.append(Relay(tmp_path / name, **settings))
        return relays[-1]

    yield new
    for relay in relays:
        relay.kill()


@pytest.fixture
def relay(new_relay: Callable[..., Relay]) -> Relay:
    """A running relay with the default settings."""
    relay = new_relay()
    relay.start()
    return relay
