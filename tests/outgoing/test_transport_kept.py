"""relay_tornado/outgoing/transport.py: connections that are kept, and used again."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import NoReturn

import pytest

from relay_tornado.outgoing.names import Resolver
from relay_tornado.outgoing.transport import Transport
from tests.forwarding.target import Got, Target, answer, once_open
from tests.outgoing.requests import BOUNDS, fails, raw, send, transport
from tests.ports import port_for
from tests.waiting import until


@pytest.mark.gen_test
async def test_connections_are_used_again() -> None:
    """One after the other on one connection; not after `Connection: close`, an HTTP/1.0 answer or an answer cut off."""
    async with Target() as target, transport() as made:
        for _ in range(5):
            await send(made, target.url, b"x" * 100_000)
        assert target.connections == 1
        for data in (
            answer(200, b"", "Connection: close"),
            b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
            answer(200, b"x" * (BOUNDS.body + 1)),
            answer() + b"more than was asked for",
        ):
            target.answers = lambda got, data=data: data
            assert (await send(made, target.url)).status == 200
            assert not made._idle


@pytest.mark.gen_test
async def test_a_word_about_idleness_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that says 408 as it closes a connection that was quiet has not looked at the request that crosses that:
    it goes out on another one. On a new connection 408 is an answer as any other."""
    monkeypatch.setattr("relay_tornado.outgoing.transport._IDLE", 3600.0)
    answers = [answer(200, b"one"), answer(408, b"", "Connection: close"), answer(200, b"two")]
    async with Target(lambda got: answers.pop(0)) as target, transport() as made:
        assert (await send(made, target.url, b"1")).body == b"one"
        assert (await send(made, target.url, b"2")).body == b"two"
        assert (target.connections, target.bodies) == (2, [b"1", b"2", b"2"])
    async with Target(lambda got: answer(408)) as target, transport() as made:
        assert [(await send(made, target.url)).status for _ in range(2)] == [408, 408]
        assert len(target.got) == 3
        await until(
            lambda: len(made._live) == 1 and made._idle, "the first connection to be closed, and not the second"
        )


@pytest.mark.gen_test
async def test_a_connection_that_went_stale() -> None:
    """Where the other side closed an idle connection, the request goes out on a new one, and is no failed try."""
    target = Target()
    target.port = port_for(target)
    async with target, transport() as made:
        await send(made, target.url)
        await target.close()
        await target.open()
        assert (await send(made, target.url)).status == 200
        await send(made, target.url)
        calls = 0

        def closing(got: Got) -> bytes | None:
            nonlocal calls
            calls += 1
            return None if calls == 1 else answer(201)

        target.answers = closing
        assert (await send(made, target.url)).status == 201
        assert calls == 2


@pytest.mark.gen_test
async def test_connections_that_all_fell_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a change of the network: once one of them gave no answer in time, the next try has a new connection. It
    would go on with the others, until an event has had all its tries."""
    monkeypatch.setattr("relay_tornado.outgoing.transport._IDLE", 3600.0)
    gate = asyncio.Event()
    async with Target(once_open(gate)) as target, transport() as made:
        sending = [asyncio.create_task(send(made, target.url)) for _ in range(3)]
        await target.until(3)
        gate.set()
        await asyncio.gather(*sending)
        target.answers = once_open(asyncio.Event())
        assert (await fails(made, target.url, timeout=0.2)).kind == "timeout"
        target.answers = lambda got: answer()
        assert (await send(made, target.url)).status == 200
        assert target.connections == 4


@pytest.mark.gen_test
async def test_what_is_still_sent_after_its_answer_is_sent_whatever_falls_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The event is done by then, and nobody sends it again."""
    monkeypatch.setattr("relay_tornado.outgoing.transport._IDLE", 3600.0)
    body, silent = b"x" * (7 << 20), asyncio.Event()
    read = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if b"%d" % len(body) in head:
            writer.write(answer(200))
            await silent.wait()
            with suppress(asyncio.IncompleteReadError):
                read.set_result(await reader.readexactly(len(body)))
            read.cancel()
        else:
            await reader.read()
        writer.transport.abort()

    async with raw(serve) as url, transport() as made:
        assert (await send(made, url, body)).status == 200
        assert (await fails(made, url, timeout=0.2)).kind == "timeout"
        silent.set()
        assert await read == body


@pytest.mark.gen_test
async def test_a_connection_that_is_not_made_in_time_ends_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a server has no room for more: those that are open go on."""
    monkeypatch.setattr("relay_tornado.outgoing.transport._IDLE", 3600.0)
    gate = asyncio.Event()
    async with Target(once_open(gate)) as target, transport() as made:
        sending = asyncio.create_task(send(made, target.url))
        await target.until(1)

        async def full(_: object) -> NoReturn:
            gate.set()
            await sending
            await asyncio.get_running_loop().create_future()
            raise AssertionError

        monkeypatch.setattr("relay_tornado.outgoing.transport.connect", full)
        assert (await fails(made, target.url, timeout=0.2)).kind == "timeout"
        await sending
        assert (await send(made, target.url)).status == 200
        assert target.connections == 1


@pytest.mark.gen_test
async def test_a_reused_connection_that_breaks_off_within_an_answer() -> None:
    """The request was received, so it is not sent again by itself."""
    async with Target() as target, transport() as made:
        await send(made, target.url)
        target.answers = lambda got: b"HTTP/1.1 200 OK\r\nConnection: close\r\nX-"
        assert (await fails(made, target.url)).kind == "broken"
        assert (len(target.got), target.connections) == (2, 1)


@pytest.mark.gen_test
async def test_a_destination_of_which_no_connection_is_kept_leaves_nothing() -> None:
    """Where as many connections are idle as may be, no further destination is remembered."""
    async with Target() as first, Target() as second:
        made = Transport(Resolver(), BOUNDS._replace(idle_all=1))
        for target in (first, second):
            await send(made, target.url)
        assert [len(kept) for kept in made._idle.values()] == [1]
        await made.close()


@pytest.mark.gen_test
async def test_so_many_connections_to_one_destination_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """After more requests at once, the others are closed."""
    monkeypatch.setattr("relay_tornado.outgoing.transport._IDLE", 3600.0)
    gate = asyncio.Event()
    async with Target(once_open(gate)) as target:
        made = Transport(Resolver(), BOUNDS._replace(idle_each=2))
        sending = [asyncio.create_task(send(made, target.url)) for _ in range(4)]
        await target.until(4)
        gate.set()
        await asyncio.gather(*sending)
        (kept,) = made._idle.values()
        assert len(kept) == 2
        await until(lambda: len(made._live) == 2)
        idle = tuple(kept)
        await send(made, target.url)
        assert tuple(kept) == idle, "the one that was idle for longer was used"
        await made.close()


@pytest.mark.gen_test
async def test_so_many_connections_are_kept_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several of a destination count as several."""
    monkeypatch.setattr("relay_tornado.outgoing.transport._IDLE", 3600.0)
    gate = asyncio.Event()
    async with Target(once_open(gate)) as first, Target(once_open(gate)) as second:
        made = Transport(Resolver(), BOUNDS._replace(idle_all=3))
        targets = (first, second)
        sending = [asyncio.create_task(send(made, target.url)) for target in targets for _ in range(2)]
        for target in targets:
            await target.until(2)
        gate.set()
        await asyncio.gather(*sending)
        assert sum(map(len, made._idle.values())) == 3
        await made.close()


@pytest.mark.gen_test
async def test_a_connection_that_the_other_side_closes_is_kept_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay_tornado.outgoing.transport._IDLE", 3600.0)
    target = Target()
    async with target, transport() as made:
        await send(made, target.url)
        assert made._idle
        await target.close()
        await until(lambda: not made._idle and not made._live)


@pytest.mark.gen_test
async def test_what_comes_unasked_ends_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be taken for the next answer."""
    monkeypatch.setattr("relay_tornado.outgoing.transport._IDLE", 3600.0)
    kept = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer(200))
        await kept.wait()
        writer.write(answer(201))
        await reader.read()
        writer.transport.abort()

    async with raw(serve) as url, transport() as made:
        assert (await send(made, url)).status == 200
        assert made._idle
        kept.set()
        await until(lambda: not made._live)
        assert not made._idle


@pytest.mark.gen_test
async def test_a_request_on_a_connection_that_was_idle_has_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of the time for which the connection was to be kept does not cut it off."""
    monkeypatch.setattr("relay_tornado.outgoing.transport._IDLE", 0.1)

    async def slow(got: Got) -> bytes:
        if got.body:
            await asyncio.sleep(0.3)
        return answer(200)

    async with Target(slow) as target, transport() as made:
        for body in (b"", b"slow"):
            assert (await send(made, target.url, body)).status == 200
        assert target.bodies == [b"", b"slow"]


@pytest.mark.gen_test
async def test_idle_connections_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that nobody needs is closed after a while; `close` ends those that wait."""
    monkeypatch.setattr("relay_tornado.outgoing.transport._IDLE", 0.02)

    async with Target() as target, transport() as made:
        await send(made, target.url)
        assert len(made._live) == 1
        async with asyncio.timeout(60):
            while made._live or made._idle:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
