"""The relay itself behind nginx and Caddy: webhooks in, sockets out, and who sent what."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from relay_tornado.handlers.listener import Entrance
from relay_tornado.proxy_trust import ProxyTrust
from tests.deploy.fronts import FRONTS, behind
from tests.handlers.edge import URL, edge
from tests.handlers.sockets import Client
from tests.waiting import until


@pytest.mark.parametrize("kind", FRONTS)
def test_the_relay_works_behind_it(kind: str, tmp_path: Path) -> None:
    """A client subscribes through the front, a webhook goes in through it, and arrives with its sender's address, its
    raw path and every byte; nginx passes on the relay's own words about a body that is too large."""
    body = bytes(range(256)) * 1000

    async def run() -> None:
        async with (
            asyncio.timeout(60),
            edge(entrance=Entrance(trust=ProxyTrust.parse("127.0.0.1")), max_body=1 << 20) as site,
            behind(kind, site.port, tmp_path) as front,
        ):
            async with front.socket("/v1/socket") as socket:
                client = Client(socket)
                await client.sign_in(*await site.token())
                await client.subscribe()
                response = await front.fetch(
                    URL.decode() + "/a%2Fb//c?x=%20",
                    method="POST",
                    body=body,
                    headers={"X-Forwarded-For": "6.6.6.6"},
                    network_interface="127.0.0.2",
                )
                assert response.code == 200
                assert (await client.hear())["query"] == "x=%20"
            [event] = await site.events()
            assert (event.remote_ip, event.path, event.body) == ("127.0.0.2", b"/a%2Fb//c", body)
            if kind == "nginx":
                refused = await front.fetch(URL.decode(), method="POST", body=bytes((1 << 20) + 1))
                assert refused.code == 413
                assert b"larger than" in refused.body
            ready = await front.fetch("/readyz")
            assert json.loads(ready.body) == {"status": "ready"}

    asyncio.run(run())


@pytest.mark.parametrize("kind", FRONTS)
def test_a_stream_comes_through_as_it_is_written(kind: str, tmp_path: Path) -> None:
    """Server-sent events: each comes at once, not when some buffer is full, and the end is an end."""

    async def run() -> None:
        async with (
            asyncio.timeout(60),
            edge(entrance=Entrance(trust=ProxyTrust.parse("127.0.0.1"))) as site,
            behind(kind, site.port, tmp_path) as front,
        ):
            key, secret = await site.token()
            heard = bytearray()
            stream = asyncio.ensure_future(
                front.fetch(
                    "/v1/stream?bucket=orders",
                    headers={"Authorization": f"Bearer {secret}", "Accept-Encoding": "gzip"},
                    streaming_callback=heard.extend,
                )
            )
            await until(lambda: b"event: caught_up\n" in heard)
            for number in range(1, 4):
                assert (await front.fetch(URL.decode(), method="POST", body=b"x")).code == 200
                await until(lambda number=number: heard.count(b"event: webhook\n") == number)
            await site.registry.delete("token", key)
            assert (await stream).code == 200
            assert heard.endswith(b"\n\n")
            assert b'"code":"token_revoked"' in heard

    asyncio.run(run())


def test_an_answer_leads_nginx_nowhere(tmp_path: Path) -> None:
    """What nginx serves to itself only is not given out because an input's answer says so, nor is anything else."""
    metrics = "location = /metrics {"
    changes = {metrics: "location = /inside { internal; return 200 inside; }\n    " + metrics}
    headers = {"X-Accel-Redirect": ["/inside"], "X-Sendfile": ["/etc/passwd"], "X-Kept": ["yes"]}

    async def run() -> None:
        async with asyncio.timeout(60), edge() as site, behind("nginx", site.port, tmp_path, changes=changes) as front:
            await site.change(input={"headers": headers, "body": "outside"})
            response = await front.fetch(URL.decode(), method="POST", body=b"x")
            assert (response.code, response.body, response.headers["X-Kept"]) == (200, b"outside", "yes")
            assert "X-Sendfile" not in response.headers

    asyncio.run(run())
