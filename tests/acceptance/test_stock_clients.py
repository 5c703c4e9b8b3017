"""Stock clients, unchanged: one in Node on `ws`, one in Python on websocket-client, as the original documents them."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.clients import Sender
from tests.acceptance.relay import Relay, wait_for
from tests.acceptance.stock_clients import StockClient, command

STATUS = {
    "authenticated": "connected successfully, subscribe to buckets",
    "subscribed": "subscribed to buckets: orders",
    "ping": "",
}
META = {
    "id", "bucked_id", "bucket_id", "bucket_name", "input_id", "input_name", "output_name", "output_destination",
    "seq", "epoch", "received_at", "path", "host", "remote_ip",
}  # fmt: skip


@pytest.fixture
def start_client(tmp_path: Path, relay: Relay) -> Iterator[Callable[..., StockClient]]:
    clients: list[StockClient] = []

    def start(language: str, token: tuple[str, str], *buckets: str) -> StockClient:
        output = tmp_path / f"client-{len(clients)}"
        clients.append(StockClient([*command(language), relay.ws_url, *token, *buckets], output))
        return clients[-1]

    yield start
    for client in clients:
        client.stop()


def send(relay: Relay, path: str, bodies: list[str]) -> None:
    async def run() -> None:
        async with Sender(relay, path) as sender:
            for body in bodies:
                assert await sender.post(body.encode(), b"content-type: application/json\r\nX-One: 1\r\n") == 200

    asyncio.run(run())


@pytest.mark.parametrize("language", ["node", "python"])
def test_a_stock_client_across_a_restart(relay: Relay, start_client: Callable[..., StockClient], language: str) -> None:
    """A stock client gets what is sent, in order, before and after a restart of the relay, by itself, and nothing but
    stock frames: the answer to `auth` first, the answer to `subscribe` next, then webhooks and pings."""
    path = relay.create_bucket("orders")
    client = start_client(language, relay.create_token(), "orders")
    wait_for(lambda: client.count("subscribed") == 1, "the first subscription")
    before = [f'{{"before": {number}}}' for number in range(50)]
    send(relay, path, before)
    wait_for(lambda: len(client.bodies()) >= len(before), "what was sent before the restart")
    assert relay.stop() == 0
    relay.start()
    wait_for(lambda: client.count("subscribed") == 2, "the second subscription")
    after = [f'{{"after": {number}, "é": "\U0001f600"}}' for number in range(50)]
    send(relay, path, after)
    wait_for(lambda: len(client.bodies()) >= len(before + after), "what was sent after the restart")
    assert client.bodies() == before + after
    steps = [line["step"] if "step" in line else line.get("status", "webhook") for line in client.lines()]
    one = ["open", "authenticated", "subscribed", *["webhook"] * 50]
    # 1006, or none from Python: it came back before the relay did.
    assert [step for step in steps if step not in ("ping", "close 1006", "close None")] == [*one, "close 1001", *one]
    for frame in client.frames():
        check_stock(frame)


def check_stock(frame: dict[str, Any]) -> None:
    """A frame that a stock client knows, whole."""
    if frame["type"] == "status":
        assert frame == {"type": "status", "status": frame["status"], "message": STATUS[frame["status"]]}
        return
    assert set(frame) == {"type", "meta", "headers", "query", "body", "method"}
    assert (frame["type"], frame["query"], frame["method"]) == ("webhook", "", "POST")
    assert frame["headers"]["Content-Type"] == ["application/json"]
    assert frame["headers"]["X-One"] == ["1"]
    assert "Host" not in frame["headers"]
    meta = frame["meta"]
    assert set(meta) == META
    assert meta["id"] == f"{meta['epoch']}-{meta['seq']}"
    assert meta["bucked_id"] == meta["bucket_id"]
    assert (meta["bucket_name"], meta["input_name"]) == ("orders", "Default public endpoint")
    assert (meta["output_name"], meta["output_destination"]) == ("", "")


@pytest.mark.parametrize("language", ["node", "python"])
def test_a_stock_client_with_a_wrong_secret(
    relay: Relay, start_client: Callable[..., StockClient], language: str
) -> None:
    """A wrong secret is answered with `unauthorized`, and the socket is closed with 4001."""
    key, _ = relay.create_token()
    client = start_client(language, (key, "sk-rly_wrong"), "orders")
    wait_for(lambda: {"step": "close 4001"} in client.lines(), "the close")
    first, second, third = client.lines()[:3]
    assert first == {"step": "open"}
    assert (second["type"], second["status"]) == ("status", "unauthorized")
    assert second["message"]
    assert third == {"step": "close 4001"}
