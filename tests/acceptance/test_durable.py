"""Durable tokens: stock clients, with no change to their code, miss nothing while they or the relay are away."""

from __future__ import annotations

import asyncio
import contextlib
import random
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.clients import Sender
from tests.acceptance.cutting import CuttingProxy
from tests.acceptance.relay import Relay
from tests.acceptance.stock_clients import StockClient, command
from tests.waiting import until

CLIENTS = ("node", "python") * 4
CUTS = 50
KILLS = 5


async def send(relay: Relay, path: str, sent: list[str], stop: asyncio.Event) -> None:
    """Sends one event after the other, on whichever relay runs, and notes what was acknowledged."""
    number = 0
    while not stop.is_set():
        with contextlib.suppress(OSError, EOFError):
            async with Sender(relay, path) as sender:
                while not stop.is_set():
                    number += 1
                    if await sender.post(b"event %d" % number) == 200:
                        sent.append(f"event {number}")
                    await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)


def connections(client: StockClient) -> list[list[int]]:
    """The seqs that came on each of a client's connections."""
    found: list[list[int]] = []
    for line in client.lines():
        if line.get("step") == "open":
            found.append([])
        elif line.get("type") == "webhook":
            found[-1].append(line["meta"]["seq"])
    return found


@pytest.mark.heavy
def test_nothing_is_missed_across_cuts_and_kills(relay: Relay, tmp_path: Path) -> None:
    """50 random cuts and 5 times kill -9 of the relay, under a stream of events: every acknowledged event comes to
    each client, whose own code does nothing for it, and on each connection the order is right, with no hole."""
    chance = random.Random()
    path = relay.create_bucket("orders")
    _, secret = relay.create_token()

    async def cut(proxy: CuttingProxy) -> None:
        for _ in range(CUTS):
            await asyncio.sleep(chance.uniform(0.1, 0.6))
            await proxy.cut(chance)

    async def kill() -> None:
        for _ in range(KILLS):
            await asyncio.sleep(chance.uniform(1.5, 4.5))
            await asyncio.to_thread(relay.restart)

    async def run() -> None:
        tokens = [relay.rest(secret, "POST", "/v1/tokens", {"durable": True}) for _ in CLIENTS]
        clients: list[StockClient] = []
        sent: list[str] = []
        stop = asyncio.Event()
        async with CuttingProxy(relay) as proxy:
            try:
                for number, (language, token) in enumerate(zip(CLIENTS, tokens, strict=True)):
                    arguments = [*command(language), proxy.url, token["key"], token["secret"], "orders"]
                    clients.append(StockClient(arguments, tmp_path / f"client-{number}"))
                sending = asyncio.ensure_future(send(relay, path, sent, stop))
                await asyncio.gather(cut(proxy), kill())
                stop.set()
                await sending
                for client in clients:
                    await until(lambda client=client: set(sent) <= set(client.bodies()), "every event to have come")
            finally:
                stop.set()
                for client in clients:
                    client.stop()
            assert proxy.cuts == CUTS
        assert len(sent) > 100
        opened = 0
        for client in clients:
            came = connections(client)
            opened += len(came)
            for seqs in came:
                assert seqs == list(range(seqs[0], seqs[0] + len(seqs))) if seqs else True
            statuses = {frame.get("status") for frame in client.frames() if frame["type"] == "status"}
            assert statuses <= {"authenticated", "subscribed", "ping"}
        assert opened > CUTS / 2

    asyncio.run(run())


def test_a_position_moves_while_events_flow(relay: Relay, tmp_path: Path) -> None:
    """Receipts of a stock client move its position up to the head, so that a kill repeats nothing that is older; a
    token that is durable no longer has none, nor has one that was revoked."""
    path = relay.create_bucket("orders")
    _, secret = relay.create_token()

    async def run() -> None:
        token = relay.rest(secret, "POST", "/v1/tokens", {"durable": True})
        client = StockClient(
            [*command("python"), relay.ws_url, token["key"], token["secret"], "orders"], tmp_path / "c"
        )

        def consumers() -> list[Any]:
            return relay.rest(secret, "GET", "/v1/buckets/orders/consumers")

        try:
            await until(lambda: client.count("subscribed") == 1, "the subscription")
            async with Sender(relay, path) as sender:
                for number in range(20):
                    assert await sender.post(b"event %d" % number) == 200
            await until(lambda: consumers()[0]["pending"] == 0, "the position to reach the head")
            (mine,) = consumers()
            assert (mine["kind"], mine["name"], mine["ack"], mine["connections"]) == (
                "token",
                token["key"],
                "receipt",
                1,
            )
            await asyncio.to_thread(relay.restart)
            assert consumers()[0]["pending"] == 0, "it was not stored"
            await until(lambda: client.count("subscribed") == 2, "the second subscription")
            async with Sender(relay, path) as sender:
                assert await sender.post(b"last") == 200
            await until(lambda: client.bodies()[-1] == "last", "the last event")
            assert client.bodies() == [*(f"event {number}" for number in range(20)), "last"]
        finally:
            client.stop()
        relay.rest(secret, "PUT", f"/v1/tokens/{token['key']}", {"durable": False})
        assert consumers() == []
        relay.run("token", "set", token["key"], "--durable")
        assert [each["name"] for each in consumers()] == [token["key"]]
        relay.rest(secret, "DELETE", f"/v1/tokens/{token['key']}")
        assert consumers() == []

    asyncio.run(run())
