"""How connections come in: over TLS, through proxies, on a socket that was handed over."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import structlog
import trustme
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from relay_tornado.errors import StartupError
from relay_tornado.handlers import listener
from relay_tornado.handlers.listener import Entrance, Listener
from relay_tornado.handlers.tornado_connection import TornadoConnection
from relay_tornado.model import MIB
from relay_tornado.proxy_trust import ProxyTrust
from relay_tornado.tls import Certificate
from relay_tornado.transport.direct import DirectConnection
from tests.handlers.edge import URL, edge
from tests.handlers.raw import HEALTH, TIMEOUT, Raw, request
from tests.handlers.sockets import HANDSHAKE, Client, masked
from tests.handlers.streams import stream_of
from tests.needs import needs_ipv6
from tests.pairs import write_pair
from tests.transport.connections import kind
from tests.waiting import until
from tests.watching import unwatched

pytestmark = pytest.mark.usefixtures("transport")

CA = trustme.CA()


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    return Certificate(*write_pair(tmp_path, CA.issue_cert("127.0.0.1")))


@pytest.fixture
def tls() -> ssl.SSLContext:
    """A client that trusts the test's authority."""
    context = ssl.create_default_context()
    CA.configure_trust(context)
    return context


@pytest.mark.gen_test
async def test_webhooks_and_sockets_go_over_tls(certificate: Certificate, tls: ssl.SSLContext, tmp_path: Path) -> None:
    """A large webhook by https arrives by wss, also on a socket under which the certificate was renewed."""
    body = b"x" * 900_000
    async with (
        edge(entrance=Entrance(certificate)) as site,
        connect(f"wss://127.0.0.1:{site.port}/v1/socket", ssl=tls, proxy=None, max_size=None) as socket_,
    ):
        client = Client(socket_)
        await client.sign_in(*await site.token())
        await client.subscribe()
        async with Raw(site.port, tls=tls) as sender:
            assert (await sender.ask(request(URL, body))).status == 200
            assert (await client.hear())["body"] == body.decode()
            write_pair(tmp_path, CA.issue_cert("127.0.0.1", key_type=trustme.KeyType.RSA))
            certificate.reload()
            assert (await sender.ask(request(URL, b"on the old connection"))).status == 200
        async with Raw(site.port, tls=tls) as sender:
            assert (await sender.ask(request(URL, b"on a new one"))).status == 200
        assert [(await client.hear())["body"] for _ in range(2)] == ["on the old connection", "on a new one"]


@pytest.mark.gen_test
async def test_refusals_are_read_over_tls(certificate: Certificate, tls: ssl.SSLContext) -> None:
    """What the relay says before it closes arrives, as without TLS: too large, malformed, too long a head."""
    async with edge(entrance=Entrance(certificate), max_body=1 * MIB) as site:
        async with Raw(site.port, tls=tls) as sender:
            sender.send(request(URL, bytes(2 * MIB))[: 1 << 20])
            assert (await sender.reply()).status == 413
        async with Raw(site.port, tls=tls) as sender:
            assert (await sender.ask(b"garbage\r\n\r\n")).status == 400
        async with Raw(site.port, tls=tls) as sender:
            assert (await sender.ask(request(URL, headers=b"X: " + b"a" * 100_000 + b"\r\n"))).status == 431


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (request(b"/healthz", b"", b"Connection: close\r\n", b"GET"), b"200"),
        (request(URL, b"x", b"Connection: close\r\n"), b"200"),
        (b"garbage\r\n\r\n", b"400"),
        (request(URL, headers=b"X: " + b"a" * 100_000 + b"\r\n"), b"431"),
    ],
    ids=["rest", "webhook", "malformed", "too long"],
)
@pytest.mark.gen_test
async def test_tls_ends_with_its_own_word(
    certificate: Certificate, tls: ssl.SSLContext, sent: bytes, status: bytes
) -> None:
    """Behind the last answer, for clients that take an end without it for a cut (RFC 8446, 6.1)."""

    def read_to_the_end(port: int) -> bytes:
        plain = socket.create_connection(("127.0.0.1", port), TIMEOUT)
        with tls.wrap_socket(plain, server_hostname="127.0.0.1", suppress_ragged_eofs=False) as secure:
            secure.sendall(sent)
            return b"".join(iter(lambda: secure.recv(1 << 16), b""))

    async with edge(entrance=Entrance(certificate)) as site:
        answer = await asyncio.to_thread(read_to_the_end, site.port)
    assert answer.startswith(b"HTTP/1.1 " + status)


@pytest.mark.parametrize("stops", [False, True], ids=["refused", "stopped"])
@pytest.mark.gen_test
async def test_a_closed_socket_is_not_reset_by_what_tls_says_at_its_end(
    certificate: Certificate, tls: ssl.SSLContext, stops: bool
) -> None:
    """A client whose library sends more than its close frame, as TLS itself does, would have 1006 for the code that it
    was told; also where the relay stops."""
    async with edge(entrance=Entrance(certificate)) as site, Raw(site.port, tls=tls) as client:
        client.send(HANDSHAKE)
        await client.reader.readuntil(b"\r\n\r\n")
        stopping = asyncio.ensure_future(site.site.stop()) if stops else None
        if not stops:
            client.send(masked({"action": "auth"}))
        frames = await client.reader.readuntil(b"\x03\xe9" if stops else b"\x0f\xa1")
        # In TLS records of their own, which are not read with the frame.
        client.send(b"\x88\x82\0\0\0\0" + frames[-2:] + bytes(100_000))
        await client.closed()
        if stopping is not None:
            await stopping


@pytest.mark.gen_test
async def test_a_client_that_closes_its_socket_is_read_until_tls_ends(
    certificate: Certificate, tls: ssl.SSLContext
) -> None:
    """Its TLS says so behind its close frame; a reset for that could take the relay's close frame from it."""

    def says_good_bye(port: int) -> ssl.SSLSocket:
        plain = socket.create_connection(("127.0.0.1", port), TIMEOUT)
        secure = tls.wrap_socket(plain, server_hostname="127.0.0.1", suppress_ragged_eofs=False)
        secure.sendall(HANDSHAKE)
        while not secure.recv(1 << 16).endswith(b"\r\n\r\n"):
            pass
        secure.sendall(b"\x88\x82\0\0\0\0\x03\xe8")
        assert b"".join(iter(lambda: secure.recv(1 << 16), b"")) == b"\x88\x02\x03\xe8"
        return secure

    async with edge(entrance=Entrance(certificate)) as site:
        with await asyncio.to_thread(says_good_bye, site.port):
            assert not site.site.listener.connections
            assert len(site.site.listener.lingering) == 1
        await until(lambda: not site.site.listener.lingering)


@pytest.mark.gen_test
async def test_who_speaks_no_tls_is_told(certificate: Certificate, tls: ssl.SSLContext) -> None:
    """Plain HTTP on the port gets words, noise gets nothing, and neither disturbs the next."""
    async with edge(entrance=Entrance(certificate)) as site:
        async with Raw(site.port) as sender:
            reply = await sender.ask(request(URL, method=b"GET"))  # OpenSSL 3.5.5 knows no POST, and sends an alert
            assert reply.status == 400
            assert b"This port speaks HTTPS" in reply.body
        async with Raw(site.port) as sender:
            sender.send(bytes(range(256)))
            assert b"HTTP" not in await sender.closed(reset=True)
        async with Raw(site.port, tls=tls) as sender:
            assert (await sender.ask(HEALTH)).status == 200


@pytest.mark.gen_test
async def test_who_hangs_up_behind_a_handshake_takes_no_place(certificate: Certificate, tls: ssl.SSLContext) -> None:
    """A WebSocket that its client has left before it is open is not counted, over TLS either."""
    async with edge(entrance=Entrance(certificate), max_sockets=2) as site:
        for _ in range(6):
            async with Raw(site.port, tls=tls) as client:
                client.send(HANDSHAKE)
        async with Raw(site.port, tls=tls) as last:
            assert (await last.ask(HEALTH)).status == 200
        await until(lambda: not site.site.listener.connections)
        assert site.site.clients.count == 0


@pytest.mark.gen_test
async def test_who_can_not_be_watched_for_a_handshake_is_let_go(
    certificate: Certificate, tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel watches no more files: each connection is closed at once, and leaves nothing behind."""
    async with edge(entrance=Entrance(certificate)) as site:
        watched = len(site.site.listener._loop.handlers)
        unwatched(monkeypatch, 3)
        for _ in range(3):
            async with Raw(site.port) as client:
                assert await client.closed() == b""
        assert len(site.site.listener._loop.handlers) == watched
        assert not site.site.listener.connections
        async with Raw(site.port, tls=tls) as client:
            assert (await client.ask(request(URL, b"x"))).status == 200


@pytest.mark.gen_test
async def test_who_cuts_a_stream_over_tls_takes_no_place(
    certificate: Certificate, tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that cuts its connection just before its stream begins is forgotten, and is no error, whatever OpenSSL
    makes of the reset."""
    drop = TornadoConnection.drop
    error = ssl.SSLError(ssl.SSL_ERROR_SSL, "[SYS] unknown error")
    error.reason = ""

    def reset(*_: object) -> None:
        raise error

    def drop_behind_a_reset(self: TornadoConnection) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(ssl.SSLSocket, "recv_into", reset)
            drop(self)

    monkeypatch.setattr(TornadoConnection, "drop", drop_behind_a_reset)
    async with edge(entrance=Entrance(certificate)) as site, Raw(site.port, tls=tls) as client:
        with structlog.testing.capture_logs() as lines:
            client.send(await stream_of(site))
            await client.closed(reset=True)
        assert site.site.clients.count == 0
        assert [line for line in lines if line["log_level"] == "error"] == []


@pytest.mark.gen_test
async def test_a_stop_ends_a_handshake_that_never_comes(certificate: Certificate) -> None:
    """A client that connects and says nothing does not hold up the end."""
    async with edge(entrance=Entrance(certificate)) as site, Raw(site.port) as silent:
        stopping = asyncio.create_task(site.site.stop())
        await silent.closed(reset=True)
        await stopping


@pytest.mark.gen_test
async def test_each_request_of_a_proxy_has_its_sender() -> None:
    """On one connection of a trusted proxy every webhook is stored with the address of its own sender, also where it
    comes with the next one behind it."""
    async with edge(entrance=Entrance(trust=ProxyTrust.parse("127.0.0.1"))) as site, Raw(site.port) as proxy:
        for number in (1, 2, 3):
            forwarded = f"X-Forwarded-For: 6.6.6.6, 192.0.2.{number}\r\n".encode()
            assert (await proxy.ask(request(URL, b"x", forwarded))).status == 200
        assert (await proxy.ask(request(URL, b"x"))).status == 200
        proxy.send(b"".join(request(URL, b"x", b"X-Forwarded-For: 192.0.2.%d\r\n" % number) for number in (4, 5)))
        assert [(await proxy.reply()).status for _ in range(2)] == [200, 200]
        senders = [event.remote_ip for event in await site.events()]
    assert senders == ["192.0.2.1", "192.0.2.2", "192.0.2.3", "127.0.0.1", "192.0.2.4", "192.0.2.5"]


@pytest.mark.gen_test
async def test_a_proxy_names_host_and_scheme(transport: str) -> None:
    """An input's own domain is found by X-Forwarded-Host, from a trusted proxy alone."""
    forwarded = b"X-Forwarded-Host: hooks.example.com\r\nX-Forwarded-Proto: https\r\n"
    for trusted, status in (("127.0.0.1", 200), ("192.0.2.1", 404)):
        async with edge(entrance=Entrance(trust=ProxyTrust.parse(trusted))) as site, Raw(site.port) as proxy:
            await site.change(input={"custom_domain": "hooks.example.com"})
            assert (await proxy.ask(request(b"/a", b"x", forwarded))).status == status
            if status == 200:
                proxy.send(request(URL, b"x") + request(b"/a", b"x", forwarded) * 2)
                assert [(await proxy.reply()).status for _ in range(3)] == [200] * 3
                assert kind(site) is (DirectConnection if transport == "direct" else TornadoConnection)
            assert (await proxy.ask(request(b"/healthz", b"", forwarded, method=b"GET"))).status == 200
            [connection] = site.site.listener.connections
            assert connection.protocol == ("https" if status == 200 else "http")


@pytest.mark.gen_test
async def test_sockets_are_counted_by_who_is_behind_the_proxy() -> None:
    """The limit per address is the client's; a proxy's own address has none, or it would be everybody's."""
    trust = ProxyTrust.parse("127.0.0.1, 192.0.2.0/24")
    async with edge(entrance=Entrance(trust=trust), max_sockets_per_address=1) as site, AsyncExitStack() as stack:

        async def opened(address: str) -> ClientConnection:
            url, headers = f"ws://127.0.0.1:{site.port}/v1/socket", {"X-Forwarded-For": address}
            return await stack.enter_async_context(connect(url, additional_headers=headers, proxy=None))

        async def refused(address: str) -> bool:
            client = Client(await opened(address))
            with suppress(ConnectionClosed):  # it may be closed already
                await client.say({"action": "auth", "key": "k", "secret": "s"})
            return (await client.end())[0] == 4029

        held = await opened("198.51.100.1")
        assert await refused("198.51.100.1")
        assert not await refused("198.51.100.2")
        await opened("192.0.2.7")
        assert not await refused("192.0.2.7")
        assert held.close_code is None


@pytest.mark.gen_test
async def test_nobody_else_can_name_a_sender() -> None:
    """Without a trusted range the header is stored, and not believed."""
    async with edge() as site, Raw(site.port) as sender:
        assert (await sender.ask(request(URL, b"x", b"X-Forwarded-For: 192.0.2.1\r\n"))).status == 200
        [event] = await site.events()
    assert event.remote_ip == "127.0.0.1"
    assert b"X-Forwarded-For: 192.0.2.1\r\n" in event.headers


@pytest.mark.gen_test
@pytest.mark.parametrize(
    "preamble",
    [
        b"PROXY TCP4 192.0.2.1 192.0.2.2 55123 8080\r\n",
        b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x01\xc0\x00\x02\x02\xd7\x53\x1f\x90",
    ],
)
async def test_the_proxy_protocol_is_refused_by_name(preamble: bytes) -> None:
    """Both versions get a 400 that says what to switch off."""
    async with edge() as site, Raw(site.port) as balancer:
        reply = await balancer.ask(preamble + request(URL, b"x"))
    assert reply.status == 400
    assert b"This is the PROXY protocol, which the relay does not speak" in reply.body


@pytest.mark.gen_test
async def test_empty_lines_before_a_request() -> None:
    """One is passed over, as RFC 9112 wants it. Several get a 400 that names them and the PROXY protocol."""
    async with edge() as site:
        async with Raw(site.port) as client:
            assert (await client.ask(b"\r\n" + request(URL, b"x"))).status == 200
        async with Raw(site.port) as client:
            reply = await client.ask(b"\r\n\r\n" + request(URL, b"x"))
    assert reply.status == 400
    assert b"or a request behind empty lines" in reply.body


@pytest.mark.gen_test
async def test_a_socket_that_listens_already_is_used() -> None:
    """Whatever host and port say, the relay serves on what it was handed."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        async with edge(entrance=Entrance(inherited=[listening]), port=1) as site, Raw(site.port) as client:
            assert site.port == listening.getsockname()[1]
            reply = await client.ask(HEALTH)
            assert (reply.status, json.loads(reply.body)["status"]) == (200, "ok")


@pytest.mark.gen_test
async def test_a_stop_answers_what_is_on_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the service manager listens on, nobody is to notice a restart: what comes on a connection that is new, was
    used before, or has sent half of a head, is answered, and the connection closed then; who comes later waits."""
    monkeypatch.setattr(listener, "ON_ITS_WAY", TIMEOUT, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        handed = listening.dup()
        port = listening.getsockname()[1]
        async with (
            edge(entrance=Entrance(inherited=[handed]), drain_timeout=TIMEOUT) as site,
            Raw(port) as new,
            Raw(port) as used,
            Raw(port) as half,
            Raw(port) as other,
        ):
            assert (await used.ask(request(URL, b"before"))).status == 200
            half.send(request(URL, b"half")[:30])
            await until(lambda: len(site.site.listener.connections) == 4)
            stopping = asyncio.create_task(site.site.stop())
            await until(lambda: handed.fileno() == -1)
            half.send(request(URL, b"half")[30:])
            new.send(request(URL, b"new"))
            used.send(request(URL, b"used"))
            other.send(HEALTH)
            for sender in (new, used, half, other):
                reply = await sender.reply()
                assert (reply.status, reply.header("Connection")) == (200, "close")
                assert await sender.closed() == b""
            await stopping
            async with Raw(port):
                late, _ = await asyncio.get_running_loop().sock_accept(listening)
                late.close()
            assert len(await site.events()) == 4


@pytest.mark.gen_test
@pytest.mark.parametrize(("step", "secure"), [("_serve", False), ("_serve", True), ("hand_over", False)])
async def test_a_stop_answers_who_was_let_in_just_before(
    monkeypatch: pytest.MonkeyPatch, certificate: Certificate, tls: ssl.SSLContext, step: str, secure: bool
) -> None:
    """In the same turn of the loop: Tornado has read nothing yet of its connection, or is still to get it."""
    monkeypatch.setattr(listener, "ALL_BUT_HERE", TIMEOUT)
    taken = getattr(Listener, step)

    def last(self: Listener, *arguments: Any) -> None:
        asyncio.get_running_loop().call_soon(self.stop)
        taken(self, *arguments)

    monkeypatch.setattr(Listener, step, last)
    entrance = Entrance(certificate if secure else None)
    settings = {"transport": "direct"} if step == "hand_over" else {}
    async with edge(entrance=entrance, **settings) as site, Raw(site.port, tls=tls if secure else None) as sender:
        reply = await sender.ask(HEALTH)
        assert (reply.status, reply.header("Connection")) == (200, "close")
        assert await sender.closed() == b""


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("family", "kind"), [(socket.AF_UNIX, socket.SOCK_STREAM), (socket.AF_INET, socket.SOCK_DGRAM)], ids=["Unix", "UDP"]
)
async def test_a_socket_that_is_no_port(family: socket.AddressFamily, kind: socket.SocketKind, tmp_path: Path) -> None:
    """It is refused in words before anything is served."""
    with socket.socket(family, kind) as handed:
        handed.bind(str(tmp_path / "relay.sock") if family == socket.AF_UNIX else ("127.0.0.1", 0))
        with pytest.raises(StartupError, match="is no TCP port; write a port"):
            async with edge(entrance=Entrance(inherited=[handed])):
                pass


@pytest.mark.gen_test
async def test_a_connection_in_the_place_of_a_socket() -> None:
    """What systemd hands over with Accept=yes is a sender's connection: nobody could be accepted on it."""
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.create_connection(listening.getsockname()):
        handed, _ = listening.accept()
        with handed, pytest.raises(StartupError, match="does not listen; leave Accept=yes out"):
            async with edge(entrance=Entrance(inherited=[handed])):
                pass


@pytest.mark.gen_test
async def test_a_socket_for_both_families() -> None:
    """As systemd makes one for a bare port: who comes by IPv4 has an IPv4 address."""
    needs_ipv6()
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listening:
        listening.setblocking(False)
        async with edge(entrance=Entrance(inherited=[listening])) as site:
            for host in ("127.0.0.1", "::1"):
                async with Raw(site.port, host) as client:
                    assert (await client.ask(request(URL, b"x"))).status == 200
            assert [event.remote_ip for event in await site.events()] == ["127.0.0.1", "::1"]
