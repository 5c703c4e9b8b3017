"""`relay serve` as it is deployed: over TLS with a certificate that is renewed, and behind nginx."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import ssl
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trustme
import websockets
from tornado.httpclient import AsyncHTTPClient

from tests.acceptance.relay import TIMEOUT, Relay, wait_for
from tests.deploy.fronts import behind
from tests.handlers.sockets import Client
from tests.pairs import write_pair

SOCKETS = 200
CA = trustme.CA()


@pytest.fixture
def tls() -> ssl.SSLContext:
    context = ssl.create_default_context()
    CA.configure_trust(context)
    return context


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[Relay]:
    certificate, key = write_pair(tmp_path, CA.issue_cert("127.0.0.1"))
    with Relay(tmp_path / "data", tls_cert=certificate, tls_key=key) as relay:
        yield relay


def serial(port: int, tls: ssl.SSLContext) -> int:
    """Of the certificate that a new connection gets."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) as plain,
        tls.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
    ):
        found = secure.getpeercert()
    assert found is not None
    return int(str(found["serialNumber"]), 16)


async def post(url: str, tls: ssl.SSLContext, body: bytes) -> int:
    client = AsyncHTTPClient(force_instance=True)
    try:
        return (await client.fetch(url, method="POST", body=body, ssl_options=tls, raise_error=False)).code
    finally:
        client.close()


@pytest.mark.parametrize("how", ["SIGHUP", "by itself"])
def test_a_renewed_certificate_drops_no_socket(secure: Relay, tls: ssl.SSLContext, tmp_path: Path, how: str) -> None:
    """200 sockets (few, where it comes by itself) stay open over a change of certificate and key, and each gets what
    is sent after it; new connections get the new one."""
    count = SOCKETS if how == "SIGHUP" else 5
    path = secure.create_bucket("orders")
    key, secret = secure.create_token()
    before = serial(secure.port, tls)

    async def subscriber(stack: AsyncExitStack, gate: asyncio.Semaphore) -> Client:
        async with gate:
            opened = await stack.enter_async_context(
                websockets.connect(
                    f"wss://127.0.0.1:{secure.port}/v1/socket", ssl=tls, ping_interval=None, proxy=None, open_timeout=60
                )
            )
            client = Client(opened)
            await client.say({"action": "auth", "key": key, "secret": secret})
            await client.hear_status("authenticated")
            await client.say({"action": "subscribe", "buckets": ["orders"]})
            await client.hear_status("subscribed")
        return client

    async def run() -> None:
        async with AsyncExitStack() as stack:
            gate = asyncio.Semaphore(20)
            clients = await asyncio.gather(*(subscriber(stack, gate) for _ in range(count)))
            write_pair(tmp_path, CA.issue_cert("127.0.0.1"))
            if how == "SIGHUP":
                assert secure.process is not None
                secure.process.send_signal(signal.SIGHUP)
            await asyncio.to_thread(wait_for, lambda: serial(secure.port, tls) != before, "the new certificate")
            url = f"https://127.0.0.1:{secure.port}{path}"
            for number in range(3):
                assert await post(url, tls, b"%d" % number) == 200
            heard = await asyncio.gather(*(three(each) for each in clients))
            assert heard == [["0", "1", "2"]] * count

    async def three(client: Client) -> list[str]:
        return [(await client.hear())["body"] for _ in range(3)]

    asyncio.run(asyncio.wait_for(run(), 300))
    assert secure.stop() == 0
    assert "certificate_loaded" in secure.said()
    assert "Traceback" not in secure.said()


def test_nginx_in_front_of_it(tmp_path: Path) -> None:
    """A webhook goes in and out through nginx; the sender's address, the public URL and the doctor's verdict fit."""
    with Relay(tmp_path / "data", proxy_trust="127.0.0.1", public_url="https://hooks.example.com") as relay:
        path = relay.create_bucket("orders")
        assert relay.command("bucket", "show", "orders")["inputs"]
        key, secret = relay.create_token()

        async def run() -> None:
            async with behind("nginx", relay.port, tmp_path) as front, front.socket("/v1/socket") as opened:
                client = Client(opened)
                await client.say({"action": "auth", "key": key, "secret": secret})
                await client.hear_status("authenticated")
                await client.say({"action": "subscribe", "buckets": ["orders"]})
                await client.hear_status("subscribed")
                sent = await front.fetch(path + "/a", method="POST", body=b"x" * 300_000, network_interface="127.0.0.3")
                assert sent.code == 200
                frame = await client.hear()
                assert (frame["meta"]["remote_ip"], frame["meta"]["path"]) == ("127.0.0.3", "/a")
                assert frame["meta"]["host"] == "hooks.example.com"
                assert len(frame["body"]) == 300_000
                healthy = json.loads((await front.fetch("/healthz")).body)
                assert healthy["status"] == "ok"
                assert (await front.fetch("/metrics")).code == 404

        asyncio.run(asyncio.wait_for(run(), 300))
        assert relay.stop() == 0
