"""The recipes for nginx and Caddy, run in front of a server that shows what reaches it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import websockets
from tornado.httpserver import HTTPServer
from tornado.ioloop import PeriodicCallback
from tornado.testing import bind_unused_port
from tornado.web import Application, RequestHandler, stream_request_body
from tornado.websocket import WebSocketHandler

from relay_tornado.proxy_trust import Origin, ProxyTrust
from tests.deploy.fronts import FRONTS, NAME, Behind, Front, behind, context

TRUST = ProxyTrust.parse("127.0.0.1")


class Show(RequestHandler):
    """Answers with what it was asked."""

    seen = 0

    def prepare(self) -> None:
        type(self).seen += 1

    def show(self) -> None:
        request = self.request
        origin = TRUST.origin(
            str(request.remote_ip),
            "".join(f"{name}: {value}\r\n" for name, value in request.headers.get_all()).encode("latin-1"),
        )
        self.write(
            {
                "method": request.method,
                "uri": request.uri,
                "headers": dict(request.headers.get_all()),
                "length": len(request.body),
                "digest": hashlib.sha256(request.body).hexdigest(),
                "origin": [origin.address, origin.scheme, origin.host],
            }
        )

    get = post = put = show


@stream_request_body
class Refuse(RequestHandler):
    """Refuses at the head, and reads on, as the relay does."""

    def prepare(self) -> None:
        answer = b"HTTP/1.1 413 Too Large\r\nContent-Length: 8\r\nConnection: close\r\n\r\ntoo long"
        self.request.connection.stream.write(answer)  # type: ignore[union-attr, attr-defined]

    def data_received(self, chunk: bytes) -> None:
        pass

    def post(self) -> None:
        self._auto_finish = False
        self.request.connection.stream.close()  # type: ignore[union-attr, attr-defined]


class Vanish(RequestHandler):
    """Ends the connection without an answer, as a relay does that is killed."""

    seen = 0

    def post(self) -> None:
        type(self).seen += 1
        self.request.connection.stream.close()  # type: ignore[union-attr, attr-defined]


class Echo(WebSocketHandler):
    """Sends back what comes; with `?ping` it pings, as the relay does."""

    pinger: PeriodicCallback | None = None

    def open(self) -> None:
        if "ping" in self.request.arguments:
            self.pinger = PeriodicCallback(lambda: self.ping(b"alive"), 300)
            self.pinger.start()

    async def on_message(self, message: str | bytes) -> None:
        await self.write_message(message)

    def on_close(self) -> None:
        if self.pinger is not None:
            self.pinger.stop()


@asynccontextmanager
async def upstream() -> AsyncIterator[int]:
    """The port of a server with these handlers."""
    application = Application(
        [("/socket", Echo), ("/vanish", Vanish), ("/refuse", Refuse), (".*", Show)], log_function=lambda handler: None
    )
    server = HTTPServer(application, max_body_size=20 << 20)
    listening, port = bind_unused_port()
    server.add_socket(listening)
    try:
        yield port
    finally:
        server.stop()
        await server.close_all_connections()


def through(kind: str, directory: Path, test: Callable[[Behind], Awaitable[None]], **options: Any) -> None:
    """Runs the test through a front of this kind."""

    async def run() -> None:
        async with asyncio.timeout(60), upstream() as port, behind(kind, port, directory, **options) as front:
            await test(front)

    asyncio.run(run())


both = pytest.mark.parametrize("kind", FRONTS)


@both
def test_a_webhook_arrives_as_it_was_sent(kind: str, tmp_path: Path) -> None:
    """Method, raw path and query, headers and every byte of the body, with a length or in chunks; nothing is added but
    where it came from."""

    async def test(client: Behind) -> None:
        body = bytes(range(256)) * 4000
        path = "/v1/webhooks/abc/a%2Fb//c/../d?x=%20&y=%C3%A9"
        headers = {
            "X-Odd.Name": "1",
            "X-GitHub-Event": "push",
            "Content-Type": "application/x-anything",
            "User-Agent": "me",
        }
        if kind == "nginx":
            headers["X_Under_score"] = "2"
        shown = await client.show(path, method="POST", body=body, headers=headers)
        assert (shown["method"], shown["uri"]) == ("POST", path)
        assert (shown["length"], shown["digest"]) == (len(body), hashlib.sha256(body).hexdigest())
        arrived = {(name.lower(), value) for name, value in shown["headers"].items()}
        sent = {(name.lower(), value) for name, value in headers.items()}
        assert sent <= arrived
        added = {name for name, _ in arrived - sent} - {"host", "connection", "content-length"}
        assert added == {"x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"}

        async def produce(write: Callable[[bytes], Any]) -> None:
            for start in range(0, len(body), 100_000):
                await write(body[start : start + 100_000])

        shown = await client.show(path, method="PUT", body_producer=produce)
        assert (shown["length"], shown["digest"]) == (len(body), hashlib.sha256(body).hexdigest())

    through(kind, tmp_path, test)


@both
def test_the_relay_learns_who_sent_it(kind: str, tmp_path: Path) -> None:
    """Address, scheme and host are the sender's own, whatever the sender claims."""

    async def test(client: Behind) -> None:
        claims = {"X-Forwarded-For": "6.6.6.6", "X-Forwarded-Proto": "ftp", "X-Forwarded-Host": "evil.example"}
        shown = await client.show("/v1/webhooks/abc", headers=claims, network_interface="127.0.0.2")
        scheme = "https" if client.front.ca else "http"
        host = NAME if client.front.ca else f"127.0.0.1:{client.front.port}"
        assert Origin(*shown["origin"]) == Origin("127.0.0.2", scheme, host)

    through(kind, tmp_path, test)


@both
def test_a_large_webhook_passes(kind: str, tmp_path: Path) -> None:
    """The front has no limit below the relay's own."""

    async def test(client: Behind) -> None:
        assert (await client.show("/", method="POST", body=bytes(19 << 20)))["length"] == 19 << 20

    through(kind, tmp_path, test)


def test_a_refusal_is_read_while_the_body_is_sent(tmp_path: Path) -> None:
    """What the relay says about a body that is too large reaches the sender, with its words. (Caddy ends the connection
    at its own pace, and a sender may see only that.)"""

    async def test(client: Behind) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", client.front.port, ssl=context(client.front))
        writer.write(f"POST /refuse HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: {12 << 20}\r\n\r\n".encode())
        writer.write(bytes(64 << 10))
        answer = await asyncio.wait_for(reader.readuntil(b"too long"), 60)
        assert answer.startswith(b"HTTP/1.1 413 ")
        writer.transport.abort()

    through("nginx", tmp_path, test)


@both
def test_a_webhook_is_not_sent_twice(kind: str, tmp_path: Path) -> None:
    """Where the relay ends the connection the sender gets a 502, and the relay has seen it once."""

    async def test(client: Behind) -> None:
        Vanish.seen = 0
        assert (await client.fetch("/vanish", method="POST", body=b"x")).code == 502
        assert Vanish.seen == 1

    through(kind, tmp_path, test)


@both
def test_metrics_are_not_public(kind: str, tmp_path: Path) -> None:
    """The front answers for /metrics itself."""

    async def test(client: Behind) -> None:
        Show.seen = 0
        assert (await client.fetch("/metrics")).code == 404
        assert Show.seen == 0

    through(kind, tmp_path, test)


@both
def test_a_socket_goes_through(kind: str, tmp_path: Path) -> None:
    """The upgrade, small and large messages both ways, and the close."""

    async def test(client: Behind) -> None:
        async with client.socket("/socket") as socket:
            for text in ("hello", "x" * 200_000):
                await socket.send(text)
                assert await asyncio.wait_for(socket.recv(), 60) == text

    through(kind, tmp_path, test)


def test_a_quiet_socket_lives_by_the_pings(tmp_path: Path) -> None:
    """With nginx's time-out cut to 5 s a socket that is pinged outlives it, and one that is not is cut: so it is the
    pings that keep sockets open, and 120 s are enough for a ping every 20."""

    async def test(client: Behind) -> None:
        async with client.socket("/socket?ping") as pinged, client.socket("/socket") as silent:
            with pytest.raises(websockets.ConnectionClosedError):
                await asyncio.wait_for(silent.recv(), 60)
            async with client.socket("/socket") as later:
                with pytest.raises(websockets.ConnectionClosedError):
                    await asyncio.wait_for(later.recv(), 60)
            await pinged.send("still here")
            assert await asyncio.wait_for(pinged.recv(), 60) == "still here"

    through("nginx", tmp_path, test, changes={"proxy_read_timeout 120s;": "proxy_read_timeout 5s;"})


def test_nginx_logs_no_secret_path(tmp_path: Path) -> None:
    """Its access log tells status and size, and nothing of the URL."""

    async def test(client: Behind) -> None:
        await client.show("/v1/webhooks/5ecret?token=5ecret", method="POST", body=b"x")
        await client.fetch("/vanish?5ecret", method="POST", body=b"x")
        plain = Behind(Front(f"http://127.0.0.1:{client.front.plain}", 0, client.front.plain, tmp_path, None))
        assert (await plain.fetch("/v1/webhooks/5ecret", method="POST", body=b"x", headers={"Host": NAME})).code == 308

    through("nginx", tmp_path, test)
    assert " POST 200 " in (tmp_path / "relay.log").read_text()
    for log in tmp_path.glob("*.log"):
        assert "5ecret" not in log.read_text(), log.name


def test_plain_http_is_sent_to_https(tmp_path: Path) -> None:
    """With a status that keeps method and body."""

    async def test(client: Behind) -> None:
        front = client.front
        plain = Behind(Front(f"http://127.0.0.1:{front.plain}", front.plain, front.plain, front.directory, None))
        response = await plain.fetch("/v1/webhooks/abc?x=1", method="POST", body=b"x", headers={"Host": NAME})
        assert (response.code, response.headers["Location"]) == (308, f"https://{NAME}/v1/webhooks/abc?x=1")

    through("nginx", tmp_path, test)
