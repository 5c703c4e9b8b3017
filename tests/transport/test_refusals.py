"""Webhooks that the relay's own transport refuses at once: they take turns, so that others wait for a few of them."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from relay_tornado.ingest.ingest import Ingest
from relay_tornado.transport import direct
from relay_tornado.transport.direct import DirectConnection
from relay_tornado.transport.limits import READ_SIZE
from relay_tornado.transport.turn_queue import TurnQueue
from tests.counting import calls_by_turn
from tests.handlers.edge import URL, Edge, edge
from tests.handlers.raw import Raw, request
from tests.transport.connections import kind
from tests.waiting import until


def _stop_before_its_turn(monkeypatch: pytest.MonkeyPatch, site: Edge) -> None:
    """Stops listening while a connection, which is busy, waits for its turn."""
    wait = DirectConnection._wait_for_turn

    def stopped(connection: DirectConnection) -> None:
        wait(connection)
        assert connection.busy
        site.site.listener.stop()

    monkeypatch.setattr(DirectConnection, "_wait_for_turn", stopped)


@pytest.mark.gen_test
async def test_refusals_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn of the loop answers a few of a connection's requests, however many were read at once; then come others."""
    count = 10 * direct.REFUSALS_A_TURN
    calls = calls_by_turn(monkeypatch, Ingest, "begin")
    async with edge() as site, Raw(site.port) as raw:
        raw.send(request(URL + b"x", method=b"GET") * count + request(URL, b"x"))
        for _ in range(count):
            assert (await raw.reply()).status == 404
        assert (await raw.reply()).status == 200
    assert sum(calls) == count + 1
    assert max(calls) <= direct.REFUSALS_A_TURN


@pytest.mark.gen_test
async def test_refusals_of_many_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few connections go on in a turn of the loop, however many have more requests to be refused."""
    rounds, many = 5, 5 * direct.TURNS
    calls = calls_by_turn(monkeypatch, DirectConnection, "take_turn")
    async with edge() as site, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(Raw(site.port)) for _ in range(many)]
        for client in clients:
            client.send(request(URL + b"x", method=b"GET") * rounds * direct.REFUSALS_A_TURN)
        for client in clients:
            for _ in range(rounds * direct.REFUSALS_A_TURN):
                assert (await client.reply()).status == 404
    assert sum(calls) >= many
    assert max(calls) <= direct.TURNS


@pytest.mark.gen_test
async def test_a_stop_between_two_turns_of_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection is busy, and closed with the answer to the request that comes next."""
    async with edge() as site, Raw(site.port) as raw:
        _stop_before_its_turn(monkeypatch, site)
        raw.send(request(URL + b"x", method=b"GET") * 10 * direct.REFUSALS_A_TURN)
        answers = await raw.closed()
        assert answers.count(b"HTTP/1.1 404") == direct.REFUSALS_A_TURN + 1
        assert answers.count(b"Connection: close") == 1


@pytest.mark.gen_test
async def test_a_stop_between_refusals_and_a_webhook(monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection is busy with the webhook after its turn, and closed with the answer to it."""
    async with edge() as site, Raw(site.port) as raw:
        _stop_before_its_turn(monkeypatch, site)
        raw.send(request(URL + b"x", method=b"GET") * direct.REFUSALS_A_TURN + request(URL, b"x"))
        answers = await raw.closed()
        assert [answers.count(b"HTTP/1.1 %d" % status) for status in (404, 200)] == [direct.REFUSALS_A_TURN, 1]
        assert [event.body for event in await site.events()] == [b"x"]


@pytest.mark.gen_test
async def test_a_connection_that_waits_for_its_turn_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it sends meanwhile stays with the kernel."""
    waiting: list[DirectConnection] = []
    monkeypatch.setattr(TurnQueue, "add", lambda _, one: waiting.append(one))
    refused = request(URL + b"x", method=b"GET")
    async with edge() as site, Raw(site.port) as raw:
        raw.send(refused * (direct.REFUSALS_A_TURN + 1) + b"x" * 1_000_000)
        await until(lambda: waiting)
        for _ in range(100):
            await asyncio.sleep(0)
        assert waiting[0].unfinished <= READ_SIZE


@pytest.mark.gen_test
async def test_a_stop_between_refusals_and_a_head_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection is busy when the stop looks at it, and idle after its turn: it is closed then."""
    refused = request(URL + b"x", method=b"GET") * direct.REFUSALS_A_TURN
    async with edge(head_timeout=1000) as site, Raw(site.port) as raw:
        _stop_before_its_turn(monkeypatch, site)
        raw.send(refused + request(URL, b"x")[:20])
        assert (await raw.closed()).count(b"HTTP/1.1 404") == direct.REFUSALS_A_TURN


@pytest.mark.gen_test
async def test_many_refusals_at_once() -> None:
    """Any number of requests that are answered at once, sent without waiting, end in no recursion."""
    count = 3000
    async with edge() as site, Raw(site.port) as raw:
        raw.send(request(URL + b"x", method=b"GET") * count)
        for _ in range(count):
            assert (await raw.reply()).status == 404
        assert kind(site) is DirectConnection
