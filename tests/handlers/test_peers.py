"""How many connections one address may have, and how much memory requests may take that are still arriving."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import AsyncExitStack, suppress

import pytest
import structlog
from structlog.testing import capture_logs

from relay_tornado.handlers import listener
from relay_tornado.handlers.listener import Entrance, Listener
from relay_tornado.handlers.peers import Peers
from relay_tornado.proxy_trust import ProxyTrust
from relay_tornado.transport.direct import DirectConnection
from tests.handlers.edge import URL, Edge, HeldLog, edge
from tests.handlers.raw import TIMEOUT, Raw, request
from tests.handlers.sockets import HANDSHAKE
from tests.waiting import until

pytestmark = pytest.mark.usefixtures("transport")

FIRST, SECOND = "127.0.0.2", "127.0.0.3"
OTHER = b"/v1/buckets"


@pytest.fixture
def each_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Addresses of loopback are counted, too: a test has no others."""
    monkeypatch.setattr("relay_tornado.proxy_trust.counted_address", lambda address: address)


async def served(site: Edge, stack: AsyncExitStack, source: str, target: bytes = URL) -> Raw | None:
    """A connection from this address that stays open; None if the relay closed it."""
    with suppress(ConnectionError, asyncio.IncompleteReadError):
        raw = await stack.enter_async_context(Raw(site.port, source=source))
        assert (await raw.ask(request(target, b"x"))).status in (200, 401)
        return raw
    return None


def test_an_address_has_three_times_what_it_leaves_free() -> None:
    """Networks of IPv6 count as one address; loopback and trusted proxies are not counted."""
    peers = Peers(ProxyTrust.parse("192.0.2.0/24"))
    for address in ("198.51.100.1", "2001:db8::1", "2001:db8::2", "2001:db8:0:1::1", "192.0.2.1", "127.0.0.1", "::1"):
        peers.add(address)
    assert [peers.crowds("198.51.100.1", free) for free in (1, 2)] == [True, False]
    assert [peers.crowds("2001:db8::3", free) for free in (1, 2)] == [True, False]
    peers.add("2001:db8::3")
    assert [peers.crowds("2001:db8::4", free) for free in (2, 3)] == [True, False]
    assert not peers.crowds("2001:db8:0:1::2", 2)
    for address in ("192.0.2.1", "127.0.0.1", "::1"):
        assert not peers.crowds(address, 1)
    peers.remove("2001:db8::3")
    assert not peers.crowds("2001:db8::4", 2)
    for address in ("198.51.100.1", "2001:db8::1", "2001:db8::2", "2001:db8:0:1::1", "192.0.2.1"):
        peers.remove(address)
    assert not peers._open  # or the memory would fill with addresses


@pytest.mark.gen_test
@pytest.mark.parametrize("target", [URL, OTHER], ids=["webhooks", "REST"])
async def test_an_address_leaves_room_for_another(target: bytes, each_counts: None) -> None:
    """However many connections one address opens, another one is served. Those that end make room, also where they
    were handed over."""
    async with edge(max_connections=8) as site, AsyncExitStack() as stack:
        for _ in range(2):
            tries = [await served(site, stack, FIRST, target) for _ in range(8)]
            assert [each is not None for each in tries] == 6 * [True] + 2 * [False]
            other = await served(site, stack, SECOND, target)
            assert other is not None
            for raw in (*tries, other):
                if raw is not None:
                    raw.writer.close()
            await until(lambda: not site.site.listener.connections)
        assert site.counters.connections_refused == 4


@pytest.mark.gen_test
@pytest.mark.parametrize("begun", [False, True])
async def test_a_connection_that_can_not_be_served_counts_once(
    begun: bool, each_counts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no more once it is closed: its address has as many as before, and no more than that."""

    def fails(*_: object) -> None:
        raise MemoryError

    parts = (DirectConnection, "begin"), (Listener, "_serve")
    if not begun:
        parts = (listener, "DirectConnection"), (Listener, "_stream")
    async with edge(max_connections=8) as site, AsyncExitStack() as stack:
        with monkeypatch.context() as patch:
            for owner, name in parts:
                patch.setattr(owner, name, fails)
            for _ in range(4):
                assert await served(site, stack, FIRST) is None
        await until(lambda: not site.site.listener.connections)
        tries = [await served(site, stack, FIRST) for _ in range(8)]
        assert [each is not None for each in tries] == 6 * [True] + 2 * [False]


UPGRADE = (
    b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)
ENDS = {
    "nothing": b"",
    "part of a head": request(URL)[:20],
    "part of a body": request(URL, b"x" * 100)[:-1],
    "TLS": b"\x16\x03\x01\x02\x00",
    "a head that is too long": b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"y" * 40_000,
    "no HTTP": b"\x00\r\n\r\n",
    "a WebSocket": request(b"/v1/socket", headers=UPGRADE, method=b"GET"),
    "part of another request": request(OTHER, b"x" * 100)[:-1],
}


@pytest.mark.gen_test
@pytest.mark.parametrize("sent", ENDS.values(), ids=ENDS)
async def test_a_connection_takes_no_place_once_it_has_ended(sent: bytes, each_counts: None) -> None:
    """However it ends, its address may have as many as before."""
    async with edge(max_connections=8) as site, AsyncExitStack() as stack:
        for _ in range(8):
            async with Raw(site.port, source=FIRST) as raw, Raw(site.port, source=SECOND) as later:
                raw.send(sent)
                assert (await later.ask(request(URL, b"x"))).status == 200
            await until(lambda: not (site.site.listener.connections or site.site.listener.lingering))
        assert [await served(site, stack, FIRST) is not None for _ in range(7)] == 6 * [True] + [False]


@pytest.mark.gen_test
async def test_an_address_leaves_room_for_another_while_its_connections_linger(each_counts: None) -> None:
    """The relay has closed them, and keeps their descriptors for a moment, as their ends do not close."""
    async with edge(max_connections=8) as site, AsyncExitStack() as stack:
        kept = site.site.listener.lingering
        for number in range(1, 7):
            raw = await stack.enter_async_context(Raw(site.port, source=FIRST))
            raw.send(ENDS["no HTTP"])
            await until(lambda number=number: len(kept) == number)
        assert await served(site, stack, FIRST) is None
        assert await served(site, stack, SECOND) is not None


@pytest.mark.gen_test
async def test_connections_of_a_proxy_that_linger_are_not_its_clients(each_counts: None) -> None:
    """They take no place of the address for which the proxy asked."""
    behind = request(OTHER, headers=b"X-Forwarded-For: %b\r\n" % SECOND.encode(), method=b"GET")
    async with (
        edge(max_connections=20, entrance=Entrance(trust=ProxyTrust.parse(FIRST))) as site,
        AsyncExitStack() as stack,
    ):
        kept = site.site.listener.lingering
        for number in range(1, 16):
            raw = await stack.enter_async_context(Raw(site.port, source=FIRST))
            assert (await raw.ask(behind)).status == 401
            raw.send(behind.replace(b"Host:", b"Transfer-Encoding: chunked\r\nContent-Length: 1\r\nHost:"))
            await until(lambda number=number: len(kept) == number)
        assert await served(site, stack, SECOND) is not None


class _Full(deque[object]):
    """A queue for which there is no memory."""

    def append(self, _: object) -> None:
        raise MemoryError


@pytest.mark.gen_test
async def test_a_connection_that_can_not_be_handed_over_is_closed(
    each_counts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And takes no place of its address any more."""
    async with edge(max_connections=8, transport="direct") as site, AsyncExitStack() as stack:
        with monkeypatch.context() as patch, capture_logs() as logs:
            patch.setattr(site.site.listener._arriving, "waiting", _Full())
            tries = [await served(site, stack, FIRST, OTHER) for _ in range(8)]
        assert tries == 8 * [None]
        assert [entry["event"] for entry in logs] == 8 * ["request_failed"]
        assert [await served(site, stack, FIRST) is not None for _ in range(7)] == 6 * [True] + [False]


@pytest.mark.gen_test
async def test_an_address_without_a_connection_may_have_the_last_one(each_counts: None) -> None:
    async with edge(max_connections=1) as site, AsyncExitStack() as stack:
        tries = [await served(site, stack, source) for source in (FIRST, SECOND)]
        assert [each is not None for each in tries] == [True, False]


@pytest.mark.gen_test
async def test_a_proxy_may_have_all_connections(each_counts: None) -> None:
    """All clients behind it have its address."""
    entrance = Entrance(trust=ProxyTrust.parse(FIRST))
    async with edge(max_connections=8, entrance=entrance) as site, AsyncExitStack() as stack:
        tries = [await served(site, stack, FIRST) for _ in range(9)]
        assert [each is not None for each in tries] == 8 * [True] + [False]


HEAD = b"POST %b HTTP/1.1\r\nHost: h\r\nX: " % URL + b"y" * 20_000
BEHIND = request(OTHER) + HEAD


@pytest.mark.gen_test
@pytest.mark.parametrize("unfinished", [HEAD, BEHIND], ids=["heads", "behind another request"])
async def test_requests_that_do_not_end_are_bounded_in_memory(
    unfinished: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The heads that take most are closed; a small one goes on, and so do bodies, which have bounds of their own."""
    monkeypatch.setattr(listener, "MOST_UNFINISHED", 100_000)
    async with edge() as site, AsyncExitStack() as stack:
        small, webhook, *large = [await stack.enter_async_context(Raw(site.port)) for _ in range(10)]
        small.send(request(URL, b"x")[:20])
        webhook.send(request(URL, b"x" * 200_000)[:-1])
        await until(lambda: site.site.ingest.buffered == 199_999)
        with structlog.testing.capture_logs() as lines:
            for raw in large:
                raw.send(unfinished)
            await until(lambda: site.counters.connections_refused > 0)
            await until(lambda: sum(each.unfinished for each in site.site.listener.connections) <= 100_000)
        assert "unfinished_requests_closed" in [line["event"] for line in lines]
        assert len(site.site.listener.connections) >= 2 + 100_000 // len(unfinished)
        assert (await small.ask(request(URL, b"x")[20:])).status == 200
        assert (await webhook.ask(b"x")).status == 200
        assert sum(each.unfinished for each in site.site.listener.connections) <= 100_000


async def answer(raw: Raw) -> bytes:
    """What a client is answered, without its end; nothing if its connection was closed."""
    async with asyncio.timeout(TIMEOUT):
        try:
            return await raw.reader.readexactly(12)
        except (asyncio.IncompleteReadError, ConnectionResetError):
            return b""


LONG = b"X: %b\r\nContent-Length: 2\r\n\r\n{" % (b"y" * 20_000)
PENDING = {
    "behind a webhook": request(URL, b"x") + b"y" * 20_000,
    "the head of a webhook": b"POST %b HTTP/1.1\r\nHost: h\r\n" % URL + LONG,
    "the head of a request": b"POST %b HTTP/1.1\r\nHost: h\r\n" % OTHER + LONG,
    "a message": HANDSHAKE + b"\x81\xfe%b" % (30_000).to_bytes(2, "big") + bytes(20_000),
}


@pytest.mark.gen_test
@pytest.mark.parametrize("sent", PENDING.values(), ids=PENDING)
async def test_what_is_kept_of_requests_in_progress_is_bounded(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their heads, what arrives behind them, and messages that do not end count as heads that do not end."""
    monkeypatch.setattr(listener, "MOST_UNFINISHED", 100_000)
    log = HeldLog()
    async with edge(log=log) as site, AsyncExitStack() as stack:
        for _ in range(8):
            raw = await stack.enter_async_context(Raw(site.port))
            raw.send(sent)
        await until(lambda: site.counters.connections_refused >= 3)
        assert len(site.site.listener.connections) <= 5
        log.release()


@pytest.mark.gen_test
async def test_what_is_kept_of_connections_that_are_handed_over_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands may wait until Tornado serves them, each with what was read from it; those left are served."""
    monkeypatch.setattr(listener, "MOST_UNFINISHED", 100_000)
    async with edge(transport="direct") as site, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(Raw(site.port)) for _ in range(8)]
        with monkeypatch.context() as patch:
            patch.setattr(site.site.listener._arriving, "most", 0)
            for raw in clients:
                raw.send(request(OTHER, headers=b"X: %b\r\n" % (b"y" * 20_000), method=b"GET"))
            await until(lambda: site.counters.connections_refused == 4)
        answers = [await answer(raw) for raw in clients]
        assert sorted(answers) == 4 * [b""] + 4 * [b"HTTP/1.1 401"]


@pytest.mark.gen_test
async def test_a_stop_does_not_wait_for_connections_closed_before_they_were_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listener, "MOST_UNFINISHED", 0)
    async with edge(transport="direct") as site, Raw(site.port) as raw:
        with monkeypatch.context() as patch:
            patch.setattr(site.site.listener._arriving, "most", 0)
            raw.send(request(OTHER, method=b"GET"))
            await until(lambda: site.counters.connections_refused == 1)
            site.site.listener.stop()
            drained = asyncio.create_task(site.site.listener.drained())
            await asyncio.sleep(2 * listener.ALL_BUT_HERE)
        await drained
        assert await raw.closed(reset=True) == b""
