"""What the doctor says about the relay's URL, and the proxies in front of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import structlog
import trustme
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application
from tornado.websocket import WebSocketHandler

from relay_tornado.doctor import address
from relay_tornado.doctor.address import Address, look, ready, streams
from relay_tornado.doctor.finding import Finding
from relay_tornado.handlers.listener import Entrance
from relay_tornado.tls import Certificate
from tests.deploy.fronts import behind
from tests.handlers.edge import edge
from tests.pairs import write_pair

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def examined(relay: Address, idle: float = 0, credentials: tuple[str, str] | None = None) -> dict[str, Finding]:
    async with asyncio.timeout(60):
        return {finding.name: finding async for finding in look(relay, credentials, idle)}


@asynccontextmanager
async def answering(talk: Talk) -> AsyncIterator[int]:
    """A server that is no relay."""

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await talk(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(run, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def saying(answer: bytes) -> Talk:
    """Answers whatever is asked with these bytes."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)

    return talk


@pytest.mark.parametrize(
    ("url", "host", "port", "path", "authority"),
    [
        ("http://relay.test", "relay.test", 80, "", "relay.test"),
        ("https://relay.test/", "relay.test", 443, "", "relay.test"),
        ("https://ada:pass@relay.test:8443/hooks/", "relay.test", 8443, "/hooks", "relay.test:8443"),
        ("http://[::1]:8080", "::1", 8080, "", "[::1]:8080"),
        ("https://bücher.test/x", "xn--bcher-kva.test", 443, "/x", "xn--bcher-kva.test"),
    ],
)
def test_where_a_url_leads(url: str, host: str, port: int, path: str, authority: str) -> None:
    """Its host in ASCII, its port, perhaps the scheme's, and what stands before a request's path."""
    relay = Address(url)
    assert (relay.host, relay.port, relay.path, relay.authority) == (host, port, path, authority)
    assert relay.url.isascii()


def test_a_zone_is_part_of_the_way() -> None:
    """A link-local address leads nowhere without it; the authority does not have it."""
    relay = Address("http://[fe80::1%eth0]:8080/")
    assert (relay.url, relay.authority) == ("http://[fe80::1%eth0]:8080", "[fe80::1]:8080")


@pytest.mark.gen_test
async def test_a_relay_in_order() -> None:
    """Everything is ok, also for a socket that was watched; without a token it is opened and no more. The relay's log
    says nothing of a client that asks for what is not there."""
    async with edge() as site:
        relay = Address(f"http://127.0.0.1:{site.port}", "i-1")
        with structlog.testing.capture_logs() as lines:
            said = await examined(relay, 0.3, await site.token(api_access=False))
        unwatched = await examined(relay, 0.3)
        refused = await examined(relay, 0.3, ("key", "wrong"))
    asked = ("url", "ready", "bodies", "socket")
    assert "bucket_not_found" not in {each["event"] for each in lines}
    assert {name: each.level for name, each in said.items()} == dict.fromkeys((*asked, "idle"), "ok")
    assert "leads to this relay" in said["url"].says
    assert {name: each.level for name, each in unwatched.items()} == dict.fromkeys(asked, "ok")
    assert {name: each.level for name, each in refused.items()} == {**dict.fromkeys(asked, "ok"), "socket": "fail"}


@pytest.mark.gen_test
async def test_what_a_relay_says_of_itself() -> None:
    """A problem fails, with its words; missing events are a warning; what is no relay's answer is one, too."""
    async with edge() as site:
        relay = Address(f"http://127.0.0.1:{site.port}", "i-1")
        site.store.problem = "the disk is full"
        full = (await examined(relay))["ready"]
        site.store.problem, site.store.loss = "", SimpleNamespace(events=7)
        lost = (await examined(relay))["ready"]
    assert (full.level, "the disk is full" in full.says, "RelayNotReady" in full.remedy) == ("fail", True, True)
    assert (lost.level, "7 committed" in lost.says, "RelayEventsMissing" in lost.remedy) == ("warn", True, True)
    for answer in (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\n{}", b"HTTP/1.1 503 No\r\n\r\nno", b""):
        async with answering(saying(answer)) as port:
            found = await ready(Address(f"http://127.0.0.1:{port}"))
        assert (found.level, "is not answered by the relay" in found.says) == ("warn", True)


@pytest.mark.gen_test
async def test_another_relay_answers() -> None:
    """The URL of some other relay is found out, and nothing more is asked of it."""
    async with edge() as site:
        said = await examined(Address(f"http://127.0.0.1:{site.port}", "i-2"))
        any_will_do = await examined(Address(f"http://localhost:{site.port}"), 0, await site.token(api_access=False))
    assert {name: each.level for name, each in said.items()} == {"url": "fail"}
    assert "another relay" in said["url"].says
    asked = ("url", "ready", "bodies", "socket")
    assert {name: each.level for name, each in any_will_do.items()} == dict.fromkeys(asked, "ok")
    assert "is answered by a relay" in any_will_do["url"].says


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "not like a relay"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + b"[" * 200_000, "not like a relay"),
        (b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n", "502"),
        (b'HTTP/1.1 500 Error\r\nContent-Length: 18\r\n\r\n{"instance":"i-1"}', "500"),
        (b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", "not like a relay"),
        (b"HTTP/1.1 300 Choices\r\nLocation: https://elsewhere.example/\r\nContent-Length: 0\r\n\r\n", "elsewhere"),
        (b"HTTP/1.1 301 Moved\r\nLocation: https://elsewhere.example/\r\nContent-Length: 0\r\n\r\n", "elsewhere"),
        (b"", "does not answer"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000, "the head of its answer has no end"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b" " * (2 << 20), "does not answer"),
    ],
)
async def test_something_else_answers(answer: bytes, words: str) -> None:
    """What is no relay, redirects, fails or closes is told apart."""
    async with answering(saying(answer)) as port:
        said = await examined(Address(f"http://127.0.0.1:{port}"))
    assert (said["url"].level, words in said["url"].says, bool(said["url"].remedy)) == ("fail", True, True)


@pytest.mark.gen_test
async def test_plain_http_to_a_port_with_tls() -> None:
    """It answers 400, the relay's own too, and the slip in the URL is named."""
    async with answering(saying(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")) as port:
        said = await examined(Address(f"http://127.0.0.1:{port}/base"))
    assert f"set the public URL to https://127.0.0.1:{port}/base;" in said["url"].remedy


@pytest.mark.gen_test
async def test_nobody_answers() -> None:
    """A port on which nothing listens, and a name that there is not."""
    for url in ("http://127.0.0.1:9", "http://relay.invalid"):
        assert (await examined(Address(url)))["url"].level == "fail"
    refused = await streams(Address("http://127.0.0.1:9"))
    assert (refused.level, "no second connection: " in refused.says, "Connect call failed" in refused.says) == (
        "fail",
        True,
        True,
    )


@pytest.mark.gen_test
async def test_what_is_not_answered_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that is waited for is a proxy that collects it; anything else fails with words that say so."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with answering(talk) as port:
        monkeypatch.setattr(address, "EARLY", 0.05)
        said = await streams(Address(f"http://127.0.0.1:{port}"))
        assert (said.level, "buffers a whole body" in said.says) == ("warn", True)
        monkeypatch.setattr(address, "PATIENCE", 0.05)
        said = await address.certificate(Address(f"https://127.0.0.1:{port}"))
        assert (said.level, said.says.endswith(" fails: no answer in time")) == ("fail", True)


@pytest.mark.gen_test
@pytest.mark.parametrize("answer", [b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"x" * 100_000])
async def test_what_is_no_socket(answer: bytes) -> None:
    """A page instead, as some proxies have it, and a line without end, which is no answer to a webhook, either."""
    async with answering(saying(answer)) as port:
        relay = Address(f"http://127.0.0.1:{port}")
        (said,) = [finding async for finding in address.socket(relay, None, 0)]
        assert (said.level, "does not open" in said.says) == ("fail", True)
        assert (await streams(relay)).level == "warn"


@pytest.mark.parametrize("last", ['{"type":"status","status":"unauthorized"}', "[]", "no JSON", "[" * 60_000, None])
@pytest.mark.gen_test
async def test_a_socket_that_gives_another_answer(last: str | None) -> None:
    """It is found at once, as one that is closed instead."""

    class Odd(WebSocketHandler):
        def on_message(self, message: str | bytes) -> None:
            if '"auth"' in str(message):
                self.write_message({"type": "status", "status": "authenticated"})
            elif last is None:
                self.close()
            else:
                self.write_message(last)

    server = HTTPServer(Application([("/v1/socket", Odd)]))
    (listening,) = bind_sockets(0, "127.0.0.1")
    server.add_socket(listening)
    relay = Address(f"http://127.0.0.1:{listening.getsockname()[1]}")
    (said,) = [finding async for finding in address.socket(relay, ("key", "secret"), 0)]
    assert (said.level, "is not answered in time" in said.says) == ("fail", True)
    server.stop()
    await server.close_all_connections()


@pytest.mark.gen_test
async def test_certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of an authority that nobody knows fails; a known one says how long it lasts."""
    ca = trustme.CA()
    certificate = Certificate(*write_pair(tmp_path, ca.issue_cert("127.0.0.1")))
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    async with edge(entrance=Entrance(certificate)) as site:
        relay = Address(f"https://127.0.0.1:{site.port}", "i-1")
        said = await examined(relay)
        assert {name: each.level for name, each in said.items()} == {"certificate": "fail"}
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        said = await examined(relay, 0.2, await site.token(api_access=False))
        assert {each.level for each in said.values()} == {"ok"}
        assert "days" in said["certificate"].says


@pytest.mark.parametrize(("days", "level"), [(13, "warn"), (15, "ok"), (-1, "fail")])
@pytest.mark.gen_test
async def test_certificates_that_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, days: int, level: str) -> None:
    """Two weeks before that it is a warning; the rest is looked at until clients refuse it."""
    ca, now = trustme.CA(), datetime.now(UTC)
    leaf = ca.issue_cert("127.0.0.1", not_before=now - timedelta(30), not_after=now + timedelta(days))
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    async with edge(entrance=Entrance(Certificate(*write_pair(tmp_path, leaf)))) as site:
        said = await examined(Address(f"https://127.0.0.1:{site.port}", "i-1"))
    assert (said["certificate"].level, "url" in said) == (level, level != "fail")


@pytest.mark.gen_test
async def test_no_tls_where_it_was_told() -> None:
    """A port of plain HTTP behind an https URL fails."""
    async with edge() as site:
        said = await examined(Address(f"https://127.0.0.1:{site.port}", "i-1"))
    assert {name: each.level for name, each in said.items()} == {"certificate": "fail"}


@pytest.mark.gen_test
async def test_plain_http_is_warned_of() -> None:
    """Anywhere but on the machine itself."""
    assert (await examined(Address("http://relay.invalid")))["https"].level == "warn"


@pytest.mark.gen_test
async def test_a_proxy_that_refuses_what_a_bucket_takes() -> None:
    """A webhook as large as a bucket takes by default is announced: nginx by default refuses one of over 1 MiB."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split()[0])
        writer.write(b"HTTP/1.1 413 Too Large\r\n\r\n" if length > 1 << 20 else b"HTTP/1.1 404 Not Found\r\n\r\n")

    async with answering(talk) as port:
        found = await streams(Address(f"http://127.0.0.1:{port}"))
    assert (found.level, "413" in found.says, "client_max_body_size" in found.remedy) == ("warn", True, True)


def test_a_proxy_that_collects_bodies_and_cuts_sockets(tmp_path: Path) -> None:
    """nginx as it comes out of the box: it holds bodies back, and cuts what is idle for its time-out."""
    changes = {
        "proxy_request_buffering off;": "",
        "proxy_read_timeout 120s;": "proxy_read_timeout 1s;",
        "return 308 https://$host$request_uri;": "location / { proxy_pass http://relay; proxy_read_timeout 1s;"
        " proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade;"
        " proxy_set_header Connection $relay_connection; proxy_set_header Host $http_host; }",
    }

    async def run() -> dict[str, Finding]:
        async with edge() as site, behind("nginx", site.port, tmp_path, changes=changes) as front:
            relay = Address(f"http://127.0.0.1:{front.front.plain}", "i-1")
            return await examined(relay, 10, await site.token(api_access=False))

    said = asyncio.run(run())
    assert {name: each.level for name, each in said.items()} == {
        "url": "ok",
        "ready": "ok",
        "bodies": "warn",
        "socket": "ok",
        "idle": "fail",
    }
    assert "cut after" in said["idle"].says


@pytest.mark.gen_test
async def test_a_proxy_without_websockets() -> None:
    """One that answers upgrades itself is found."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = await reader.readline()
        if b"/healthz" in line:
            body = json.dumps({"status": "ok", "instance": "i-1"}).encode()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        elif b"POST" in line:
            writer.write(b"HTTP/1.1 413 Request Entity Too Large\r\nContent-Length: 0\r\n\r\n")
        else:
            writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

    async with answering(talk) as port:
        said = await examined(Address(f"http://127.0.0.1:{port}", "i-1"), 1, ("k", "s"))
    assert {name: each.level for name, each in said.items()} == {
        "url": "ok",
        "ready": "warn",
        "bodies": "warn",
        "socket": "fail",
    }
    assert "413" in said["bodies"].says
