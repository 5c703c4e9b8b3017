"""What ends with the time of a token, or of the secret before its last rotation (handlers/connected_clients.py)."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from relay_tornado.handlers.connected_clients import ConnectedClient, ConnectedClients
from relay_tornado.model import Token
from relay_tornado.proxy_trust import ProxyTrust
from relay_tornado.registry.contract import Kind
from relay_tornado.registry.memory import MemoryRegistry
from relay_tornado.settings import Settings
from tests.waiting import until

MANY = 50


class Connection(ConnectedClient):
    """One that notes what it is told."""

    __slots__ = ("told",)

    consumer = ""

    def __init__(self) -> None:
        self.address, self.client_ip, self.key, self.user_agent = None, "", "", ""
        self.subscribed_at = self._delivery = None
        self.told: list[str] = []

    def token_changed(self, token: Token | None) -> None:
        self.told.append("gone" if token is None else f"{token.secret_hash}/{token.previous_hash}")

    def token_expired(self) -> None:
        self.told.append("expired")

    def send_away(self, reason: str, *, log: bool = True) -> None:
        self.told.append("closed")

    def cut_off(self) -> None:
        self.told.append("cut off")

    def _due(self) -> float:
        raise NotImplementedError

    def _look(self, now: float) -> None:
        raise NotImplementedError


class Registry(MemoryRegistry):
    """One that counts how often a record is looked at."""

    looks = 0

    def get(self, kind: Kind, key: str) -> Any | None:
        self.looks += 1
        return super().get(kind, key)


@asynccontextmanager
async def sockets() -> AsyncIterator[tuple[Registry, ConnectedClients]]:
    registry, nothing = Registry(), Any
    made = ConnectedClients(registry, nothing, Settings(), nothing, nothing, ProxyTrust())  # type: ignore[arg-type]
    yield registry, made
    made._expiry.cancel()


def enter(those: ConnectedClients, token: Token) -> Connection:
    connection = Connection()
    those.enter(connection)
    those.identify(connection, token)
    return connection


@pytest.mark.gen_test
async def test_who_comes_costs_no_look_at_everybody_who_is_there() -> None:
    """Clients by the thousand come back at once, each with a token of its own that ends some day."""
    async with sockets() as (registry, those):
        ends = time.time() + 3_600
        tokens = [Token(f"k{n}", f"h{n}", 0.0, expires_at=ends + n) for n in range(MANY)]
        for token in tokens:
            await registry.put("token", token.key, token)
        registry.looks = 0
        for token in tokens:
            enter(those, token)
        assert registry.looks <= MANY
        assert those._expiry.at is not None


@pytest.mark.gen_test
async def test_that_a_grace_is_over_is_told_once() -> None:
    """And not again to all who are there at each that comes to a token that was rotated once."""
    async with sockets() as (registry, those):
        token = Token("k", "new", 0.0, previous_hash="old", previous_until=time.time() + 0.2)
        await registry.put("token", "k", token)
        early = enter(those, token)
        await until(lambda: early.told, "the end of the grace")
        later = [enter(those, token) for _ in range(MANY)]
        those._look_at_expiry()
        assert early.told == ["new/"]
        assert not any(each.told for each in later)


@pytest.mark.gen_test
async def test_each_rotation_s_grace_is_told() -> None:
    """The next one of the same token, too; and again, where the clock went back before it."""
    async with sockets() as (registry, those):
        token = Token("k", "b", 0.0, previous_hash="a", previous_until=time.time() - 1)
        await registry.put("token", "k", token)
        one = enter(those, token)
        those._look_at_expiry()
        assert one.told == ["b/"]
        for seconds, told in ((-1.0, ["c/b", "c/"]), (3_600.0, ["c/b"]), (-1.0, ["c/b", "c/"])):
            one.told.clear()
            token = Token("k", "c", 0.0, previous_hash="b", previous_until=time.time() + seconds)
            await registry.put("token", "k", token)
            assert one.told == told
