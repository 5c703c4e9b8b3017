"""The client's way to a service: TLS, a proxy, nobody there, and where it began."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.request import ProxyHandler

import pytest
import trustme

from relay_tornado.client import Gap, Notice, Unreachable
from relay_tornado.client.address import Address
from relay_tornado.client.link import Cut, dial
from relay_tornado.client.opener import opener
from relay_tornado.client.options import Options
from relay_tornado.client.rest import put_answer
from tests.client.peer import ENTRY, Peer, at, one_event, service, webhook
from tests.client.world import TIMEOUT, Memory, client_test, run
from tests.ports import hold_port, port_of, silent
from tests.waiting import until


def without_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment names no proxy, nor who is reached without one."""
    for name in ("no_proxy", "all_proxy", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@client_test
async def test_tls(tmp_path: Path) -> None:
    """A certificate is verified; `ssl` names further authorities. One that is not trusted is said at once."""
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(server)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    async with service(one_event, ssl=server) as url:
        async with at(url, ssl=trusting) as events:
            await anext(events)
        async with at(url) as events:
            with pytest.raises(Unreachable, match="not trusted"):
                await anext(events)


@client_test
async def test_no_tls_where_it_is_expected() -> None:
    """What answers in clear is no relay's wss, which is said at once; what cuts the connection may come back."""
    answers = [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(4096)
        writer.write(answers.pop(0))
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    told: list[str] = []
    async with server, at(f"https://127.0.0.1:{port}", on_notice=lambda each: told.append(each.message)) as events:
        with pytest.raises(Unreachable, match=rf"does not speak HTTPS: try http://127\.0\.0\.1:{port}$"):
            await anext(events)
    assert [each for each in told if "cut the connection: if it does not speak HTTPS, try" in each]


@client_test
async def test_the_environments_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes through the proxy that the environment names, and past it with `proxy=None`."""
    asked: list[bytes] = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n"))
        writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    without_proxies(monkeypatch)
    async with service(one_event) as url, await asyncio.start_server(proxy, "127.0.0.1", 0) as server:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        said: list[str] = []
        async with at(url, on_notice=lambda notice: said.append(notice.message)) as events:
            waiting = asyncio.ensure_future(anext(events))
            await until(lambda: said, "the proxy's refusal")
            waiting.cancel()
        assert "can't be reached through the proxy, which answers 502" in said[0]
        async with at(url, proxy=None) as events:
            await anext(events)
    assert asked[0].startswith(b"CONNECT localhost:")


@client_test
async def test_a_login_that_the_proxy_refuses() -> None:
    """It is said at once, and not tried again, which may lock who it is; a relay that was reached is come back to."""
    logins: list[bool] = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.readuntil(b"\r\n\r\n")
        logins.append(b"proxy-authorization: basic" in asked.lower())
        writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async with service(one_event) as url, await asyncio.start_server(proxy, "127.0.0.1", 0) as server:
        way = f"http://me:hidden@127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with at(url, proxy=way) as events:
            with pytest.raises(Unreachable, match=r"the proxy wants a login \(407\)") as error:
                await anext(events)
        assert "hidden" not in str(error.value)
        assert logins == [True]
        address, options = Address(url.replace("http:", "ws:"), url), Options(key="key", secret="secret", proxy=way)
        with pytest.raises(Cut, match="407"):
            await dial(address, options, known=True)


@client_test
@pytest.mark.parametrize(("status", "ends"), [(302, True), (403, True), (404, True), (429, False), (502, False)])
async def test_a_proxy_that_does_not_let_through(status: int, ends: bool) -> None:
    """As with what a relay's URL answers: what would be so for ever is said at once, and the rest tried again; a relay
    that was reached is come back to."""

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 %d No\r\nContent-Length: 0\r\n\r\n" % status)
        writer.close()

    async with service(one_event) as url, await asyncio.start_server(proxy, "127.0.0.1", 0) as server:
        way = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        address, options = Address(url.replace("http:", "ws:"), url), Options(key="key", secret="secret", proxy=way)
        for known in (False, True):
            with pytest.raises(Cut if known or not ends else Unreachable, match=f"proxy, which answers {status}"):
                await dial(address, options, known=known)


@client_test
@pytest.mark.parametrize(
    "proxy",
    ["localhost:3128", "ftp://me:hidden@localhost", "http://me:hidden@localhost:none", "http://", "socks5://localhost"],
)
async def test_a_proxy_that_cannot_be_one(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    """It is said at once, in words that hold no password; for an answer's own connection, too."""
    without_proxies(monkeypatch)
    async with service(one_event) as url, at(url) as events:
        event = await anext(events)
        monkeypatch.setenv("http_proxy", proxy)
        with pytest.raises(Unreachable, match="the proxy's URL"):
            await event.respond()
        async with at(url) as others:
            with pytest.raises(Unreachable, match="the proxy's URL") as error:
                await anext(others)
        assert "hidden" not in str(error.value)


@client_test
@pytest.mark.parametrize("named", [None, True, "http://127.0.0.1:{}"])
async def test_an_answer_over_rest_goes_the_same_way(monkeypatch: pytest.MonkeyPatch, named: Any) -> None:
    """Through the proxy that `proxy` or the environment names, or straight with None."""
    asked: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n")).split()[1])
        await reader.readuntil(b"}")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    without_proxies(monkeypatch)
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:1" if named is None else f"http://127.0.0.1:{port}")
        if isinstance(named, str):
            named = named.format(port)
            monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
        options = Options(key="key", secret="secret", proxy=named)
        rest = f"http://127.0.0.1:{port}" if named is None else "http://relay.test"
        address = Address("ws://relay.test/v1/socket", f"{rest}/v1")
        await put_answer(address, options, "E-1", 200, b"", {}, TIMEOUT)
        assert asked == [b"/v1/logs/E-1" if named is None else b"http://relay.test/v1/logs/E-1"]
        for nowhere in ("http://127.0.0.1:1", "socks5://127.0.0.1"):
            with pytest.raises(OSError, match=r"refused|unknown url type"):
                await put_answer(address, replace(options, proxy=nowhere), "E-1", 200, b"", {}, TIMEOUT)


@pytest.mark.parametrize("proxy", [None, True])
def test_the_first_address_is_silent(monkeypatch: pytest.MonkeyPatch, proxy: Literal[True] | None) -> None:
    """Of a name's addresses one on which nothing answers, not even by a refusal, hides none behind it; also where the
    environment might have named a proxy."""
    without_proxies(monkeypatch)
    look_up = socket.getaddrinfo
    dialled: list[str] = []

    def both(host: Any, *arguments: Any, **options: Any) -> Any:
        if host != "relay.test":
            return look_up(host, *arguments, **options)
        dialled.append(host)
        return [found for each in ("127.0.0.2", "127.0.0.1") for found in look_up(each, *arguments, **options)]

    async def main() -> None:
        async with service(one_event) as url:
            port = int(url.rpartition(":")[2])
            with silent("127.0.0.2", port):
                async with at(f"ws://relay.test:{port}", proxy=proxy, open_timeout=60) as events:
                    await anext(events)

    monkeypatch.setattr(socket, "getaddrinfo", both)
    run(main())
    assert dialled == ["relay.test"]


def test_the_first_address_is_silent_over_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one has its turn long before the request's own time is over, and has all of that."""
    look_up = socket.getaddrinfo

    def both(host: Any, *arguments: Any, **options: Any) -> Any:
        return [found for each in ("127.0.0.2", "127.0.0.1") for found in look_up(each, *arguments, **options)]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            time.sleep(1)  # longer than an address has
            self.send_response(204)
            self.end_headers()

    monkeypatch.setattr("relay_tornado.client.opener.CONNECT", 0.5)
    monkeypatch.setattr(socket, "getaddrinfo", both)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            with silent("127.0.0.2", server.server_port):
                url = f"http://relay.test:{server.server_port}/"
                with opener(None, ProxyHandler({})).open(url, timeout=3600) as answer:
                    assert answer.status == 204
        finally:
            server.shutdown()


def test_a_name_whose_servers_are_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that ends does not wait until they are given up."""
    asked, over = threading.Event(), threading.Event()
    waited: list[bool] = []

    def look_up(*arguments: Any, **options: Any) -> Any:
        asked.set()
        waited.append(over.wait(TIMEOUT))
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    async def main() -> None:
        async with at("ws://silent.test", proxy=None) as events:
            waiting = asyncio.ensure_future(anext(events))
            await until(asked.is_set, "the look-up")
            waiting.cancel()

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    run(main())
    assert waited == []
    over.set()


@client_test
async def test_a_host_that_there_cannot_be() -> None:
    """The relay's own host, too, is refused in words."""
    async with at("ws://a..b", proxy=None) as events:
        with pytest.raises(Unreachable, match=r"the host of ws://a\.\.b"):
            await anext(events)


@client_test
async def test_nobody_there() -> None:
    """A refused connection is said in the system's words, and tried again."""
    notices: list[Notice] = []
    with hold_port() as held:
        async with at(f"ws://127.0.0.1:{port_of(held)}", on_notice=notices.append) as events:
            waiting = asyncio.ensure_future(anext(events))
            await until(lambda: len(notices) >= 2, "two tries")
            waiting.cancel()
    assert "can't be reached" in notices[0].message


@client_test
async def test_a_gap_is_told_even_where_the_telling_was_cancelled() -> None:
    """`on_gap` that was broken off runs again: the event behind the gap does not come before it was told."""
    gap = {"from": 1, "to": 4, "count": 4, "reason": "retention"}
    told: list[str] = []
    blocked = asyncio.Event()

    async def tell(gap: Gap) -> None:
        told.append("begun")
        if len(told) == 1:
            blocked.set()
            await asyncio.Event().wait()
        told.append(str(gap))

    async def talk(peer: Peer) -> None:
        await peer.welcome(buckets=[ENTRY | {"start": 5, "gap": gap}])
        await peer.send(webhook("abcdefghijkl-5"))
        await peer.stay()

    async with service(talk) as url, at(url, on_gap=tell) as events:
        waiting = asyncio.ensure_future(anext(events))
        await blocked.wait()
        waiting.cancel()
        assert (await anext(events)).seq == 5
    assert told == ["begun", "begun", "4 events (1 to 4) of b are missing (retention)"]


@client_test
async def test_it_is_closed_while_a_gap_is_told() -> None:
    """`on_gap` may close the subscription, or somebody else may meanwhile: the loop ends."""
    gap = {"from": 1, "to": 4, "count": 4, "reason": "retention"}

    async def talk(peer: Peer) -> None:
        await peer.welcome(buckets=[ENTRY | {"start": 5, "gap": gap}])
        await peer.stay()

    async def tell(gap: Gap) -> None:
        await events.aclose()

    async with service(talk) as url, at(url, on_gap=tell) as events:
        assert [event async for event in events] == []


@client_test
async def test_where_it_began_is_saved_before_the_first_event() -> None:
    """Whoever crashes over the first event after "latest" must meet it again."""
    saved: list[str] = []

    async def talk(peer: Peer) -> None:
        await peer.welcome(buckets=[ENTRY | {"head": 6, "start": 7}])
        await peer.send(webhook("abcdefghijkl-7"))
        await peer.stay()

    async with service(talk) as url, at(url, checkpoint=Memory(saved)) as events:
        core = events._core
        assert core is not None
        await until(lambda: len(core.intake) >= 2, "the position and the event")
        await anext(events)
        assert json.loads(saved[-1])["buckets"]["B"]["id"] == "abcdefghijkl-6"


@client_test
async def test_no_thread_to_look_a_name_up_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lack that passes, such as of memory, is waited for like a relay that is away."""
    start, notices = threading.Thread.start, list[Notice]()

    def lacking(thread: threading.Thread) -> None:
        if thread.name == "relay client names" and len(notices) < 2:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", lacking)
    async with service(one_event) as url, at(url, on_notice=notices.append) as events:
        await anext(events)
    assert [each.message.rpartition(": ")[2] for each in notices[:2]] == ["no thread can be started"] * 2
