"""relay_tornado/outgoing/transport.py: whatever a destination does, there is an answer or a reason, in time."""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections.abc import Callable
from typing import Any, NoReturn

import pytest

from relay_tornado.outgoing.names import Resolver
from relay_tornado.outgoing.transport import Answer, Transport, Unanswered, _Connection
from tests.failing import once
from tests.forwarding.target import Got, Target, answer, once_open
from tests.outgoing.requests import BOUNDS, HEAD, context_of, fails, raw, send, transport
from tests.ports import hold_port, port_of
from tests.waiting import until


def early(reply: bytes) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]:
    """A server that replies to each head, and reads no body."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(reply)
        try:
            await asyncio.sleep(60)
        finally:
            writer.transport.abort()

    return serve


@pytest.mark.gen_test
async def test_a_loop_that_stood_still_takes_no_answer_for_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine that was suspended: the answer is in the socket, and nobody has read it."""
    loop = asyncio.get_running_loop()
    real, passed = loop.time, 0.0
    monkeypatch.setattr(loop, "time", lambda: real() + passed)

    async def pause(got: Got) -> bytes:
        nonlocal passed
        passed += 60.0
        for _ in range(9):
            await asyncio.sleep(0)
        return b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"

    async with Target() as target, transport() as made:
        target.answers = pause
        assert (await send(made, target.url)).status == 200
        monkeypatch.undo()


class _Paced(asyncio.Transport):
    """A transport that sends nothing. `reads`: whether it may be read from."""

    reads = True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        pass

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True


@pytest.mark.gen_test
async def test_answers_are_capped() -> None:
    """So much of a body is kept and the rest is cut off, and why is said; as is one that breaks off or does not end."""
    async with Target(lambda got: answer(200, b"x" * BOUNDS.body)) as target, transport() as made:
        got = await send(made, target.url)
        assert (len(got.body), got.cut) == (BOUNDS.body, "")
        target.answers = lambda got: answer(500, b"x" * (10 * BOUNDS.body))
        got = await send(made, target.url)
        assert (got.status, len(got.body), got.cut) == (500, BOUNDS.body, "long")
        half = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"
        target.answers = lambda got: half
        assert await send(made, target.url, timeout=5.0) == Answer(200, [(b"Content-Length", b"10")], b"half", "late")

        async def breaks_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(half)
            writer.close()

        async with raw(breaks_off) as url:
            assert await send(made, url) == Answer(200, [(b"Content-Length", b"10")], b"half", "broken")


@pytest.mark.gen_test
async def test_forms_of_answers() -> None:
    """Chunked, without a length, none for HEAD, informational ones before it; repeated headers in their order."""
    async with Target() as target, transport() as made:
        for data, method, status, body in (
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", "POST", 200, b"abc"),
            (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nto the end", "POST", 200, b"to the end"),
            (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 X\r\nA: b\r\n\r\n" + answer(204), "POST", 204, b""),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n", "HEAD", 200, b""),
            (answer(299, b"x"), "X-ODD", 299, b"x"),
        ):
            target.answers = lambda got, data=data: data
            got = await send(made, target.url, method=method)
            assert (got.status, got.body, got.cut) == (status, body, "")
        target.answers = lambda got: answer(200, b"", "X-b: 2", "Set-Cookie: a", "Set-Cookie: b")
        assert (await send(made, target.url)).headers[:3] == [
            (b"X-b", b"2"), (b"Set-Cookie", b"a"), (b"Set-Cookie", b"b"),
        ]  # fmt: skip


@pytest.mark.gen_test
async def test_interim_answers_without_end() -> None:
    """Some may come before the answer; a destination that sends nothing else has not answered, and is left at once."""
    some = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 16

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        while True:
            writer.write(some)
            await writer.drain()

    async with Target(lambda got: some + answer(200, b"there")) as target, raw(serve) as endless, transport() as made:
        for _ in range(2):  # on one connection
            assert (await send(made, target.url)).body == b"there"
        failed = await fails(made, endless, timeout=5.0)
        assert (failed.kind, "interim" in str(failed)) == ("broken", True)


@pytest.mark.gen_test
@pytest.mark.parametrize("length", [30_000, BOUNDS.body + 1])
async def test_an_answer_in_tiny_parts_is_read_in_turns(length: int) -> None:
    """A chunk for each byte, all come at once: others have their turns between, nothing of it is lost, and no more is
    read meanwhile. Only what TLS holds already may come."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    connection = _Connection(set(), BOUNDS)
    asking = asyncio.create_task(connection.ask(b"", b"", "POST"))
    transport = _Paced()
    connection.connection_made(transport)
    await asyncio.sleep(0)
    connection.data_received(head + b"1\r\nx\r\n" * (length - 1000))
    parsed = len(connection._body)
    connection.data_received(b"1\r\nx\r\n" * 1000 + b"0\r\n\r\n")
    assert len(connection._body) == parsed
    turns = 0
    while connection._reads_on:
        assert not transport.reads
        await asyncio.sleep(0)
        turns += 1
    await asyncio.sleep(0)
    got = asking.result()
    assert (len(got.body), got.cut) == (min(length, BOUNDS.body), "long" if length > BOUNDS.body else "")
    assert turns > 100
    assert transport.reads


@pytest.mark.gen_test
async def test_what_goes_wrong() -> None:
    """Nobody there, nothing said, no HTTP, a head without an end: each with its reason, none hangs."""
    async with Target() as target, transport() as made:
        target.answers = lambda got: None
        failed = await fails(made, target.url)
        assert (failed.kind, str(failed)) == ("broken", "it closed the connection before it answered")
        target.answers = lambda got: b"SSH-2.0-OpenSSH\r\n\r\n"
        failed = await fails(made, target.url)
        assert (failed.kind, "no HTTP" in str(failed)) == ("broken", True)
        target.answers = lambda got: b"HTTP/1.1 200 OK\r\n" + b"X: " + b"y" * 100_000
        assert (await fails(made, target.url)).kind == "broken"

        async def never(got: Got) -> None:
            await asyncio.sleep(60)

        target.answers = never
        assert (await fails(made, target.url, timeout=0.05)).kind == "timeout"
    with hold_port() as held:
        async with transport() as made:
            failed = await fails(made, f"http://127.0.0.1:{port_of(held)}")
            assert (failed.kind, str(failed)) == ("unreachable", "it can't be reached: Connection refused")
            failed = await fails(made, "http://nowhere.invalid/")
            assert failed.kind == "unreachable"


@pytest.mark.gen_test
async def test_what_the_system_gives_up_is_no_time_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """An address that does not answer the system, or a name that is not found, in less than the time that there is."""

    async def given_up(*_: object) -> NoReturn:
        raise OSError(errno.ETIMEDOUT, "Connection timed out")

    monkeypatch.setattr("relay_tornado.outgoing.transport.connect", given_up)
    async with transport() as made:
        failed = await fails(made, "http://127.0.0.1:1/")
    assert (failed.kind, str(failed)) == ("unreachable", "it can't be reached: Connection timed out")


@pytest.mark.parametrize("lack", [False, True], ids=["it is lost", "memory is short"])
@pytest.mark.gen_test
async def test_a_connection_of_which_nothing_comes_is_closed(monkeypatch: pytest.MonkeyPatch, lack: bool) -> None:
    """Its descriptor is free at once, and it is not tried again and again."""
    dialled, there = socket.socketpair()
    if not lack:
        dialled.close()
        dialled = socket.socket()  # it has no other end

    async def connected(*_: object) -> socket.socket:
        return dialled

    monkeypatch.setattr("relay_tornado.outgoing.transport.connect", connected)
    with there:
        async with transport() as made:
            if lack:
                monkeypatch.setattr("relay_tornado.outgoing.transport._Connection", once(_Connection))
                with pytest.raises(MemoryError):
                    await send(made, "http://127.0.0.1:1/")
            else:
                assert (await fails(made, "http://127.0.0.1:1/")).kind == "unreachable"
        assert dialled.fileno() == -1


@pytest.mark.gen_test
async def test_a_destination_that_does_not_read() -> None:
    """A large body that nobody takes ends with the time-out."""

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            writer.transport.abort()

    async with raw(hold) as url, transport() as made:
        with pytest.raises(Unanswered) as failed:
            await send(made, url, b"x" * (64 << 20), timeout=0.2)
        assert failed.value.kind == "timeout"


@pytest.mark.gen_test
async def test_an_answer_before_the_body_is_taken() -> None:
    """A destination that answers from the head alone, and reads no further, is heard."""

    async with raw(early(answer(413, b"too large"))) as url, transport() as made:
        assert (await send(made, url, b"x" * (16 << 20))).status == 413


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.gen_test
async def test_a_body_that_is_never_taken_holds_up_no_other_request(monkeypatch: pytest.MonkeyPatch, tls: bool) -> None:
    """The connection on which it is still on its way is not used for the next one."""
    monkeypatch.setattr("relay_tornado.outgoing.transport._UNSENT", 96 << 20)
    async with raw(early(answer(200, b"there")), context_of(tls)) as url, transport() as made:
        assert (await send(made, url, b"x" * (64 << 20), verify=False)).body == b"there"
        assert (await send(made, url, b"x", verify=False)).body == b"there"
        assert len(made._live) == 2


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.gen_test
async def test_bodies_that_are_never_taken_are_bounded(monkeypatch: pytest.MonkeyPatch, tls: bool) -> None:
    """Over the bound for what is left of them after their answers, a connection is closed at once."""
    monkeypatch.setattr("relay_tornado.outgoing.transport._UNSENT", 96 << 20)
    monkeypatch.setattr("relay_tornado.outgoing.transport._IDLE", 3600.0)
    async with raw(early(answer(200)), context_of(tls)) as url, transport() as made:
        for _ in range(3):
            assert (await send(made, url, b"x" * (64 << 20), verify=False)).status == 200
        await until(lambda: len(made._live) == 1)
        assert (await send(made, url, b"x", verify=False)).status == 200
        assert len(made._live) == 2


def resets(connection: socket.socket) -> None:
    """Its end will be no end of what was sent, but a reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.gen_test
async def test_an_answer_without_a_length_ends_with_a_reset() -> None:
    """As where a server took no notice of the body; one with a length broke off."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.0 200 OK\r\n" + (b"Content-Length: 9\r\n" if head[:3] == b"PUT" else b"") + b"\r\nhere")
        resets(writer.get_extra_info("socket"))
        writer.transport.abort()

    async with raw(serve) as url, transport() as made:
        for method, cut in (("POST", ""), ("PUT", "broken")):
            got = await send(made, url, b"x", method)
            assert (got.status, got.body, got.cut) == (200, b"here", cut)


@pytest.mark.gen_test
async def test_an_answer_before_a_request_that_cannot_be_written() -> None:
    """A destination that answers, and closes with the body unread, is heard, though writing fails first."""

    async def meets(reply: bytes) -> Answer:
        with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as made:
            there, _ = server.accept()
            made.setblocking(False)
            paused, connection = await asyncio.get_running_loop().create_connection(
                lambda: _Connection(set(), BOUNDS), sock=made
            )
            paused.pause_reading()
            there.sendall(reply)
            resets(there)
            there.close()
            try:
                return await connection.ask(HEAD % (16 << 20), b"x" * (16 << 20), "POST")
            finally:
                await connection.closed

    assert (await meets(answer(413, b"too large"))).status == 413
    for nothing in (b"", b"HTTP/1.1 4"):
        with pytest.raises(Unanswered, match="broke the connection off"):
            await meets(nothing)


@pytest.mark.gen_test
async def test_an_answer_that_ends_with_half_of_a_connection() -> None:
    """It has no length, and the server reads no more of the request."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.0 200 OK\r\n\r\nthere")
        writer.write_eof()
        try:
            await asyncio.sleep(60)
        finally:
            writer.transport.abort()

    async with raw(serve) as url, transport() as made:
        got = await send(made, url, b"x" * (64 << 20))
        assert (got.body, got.cut) == (b"there", "")


@pytest.mark.gen_test
async def test_all_connections_are_closed_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are idle, and those on which an answer is awaited."""
    monkeypatch.setattr("relay_tornado.outgoing.transport._IDLE", 3600.0)
    gate, made = asyncio.Event(), Transport(Resolver(), BOUNDS)
    async with Target() as target, Target(once_open(gate)) as slow:
        for _ in range(2):
            await send(made, target.url)
        asking = asyncio.create_task(send(made, slow.url, timeout=3600.0))
        await slow.until(1)
        await made.close()
        assert not made._live
        assert not made._idle
        with pytest.raises(Unanswered, match="it was left before it answered"):
            await asking
        gate.set()


def test_a_request_that_is_cancelled_as_its_connection_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """uvloop closes that without a word to it; the end waits for none that is gone."""
    uvloop = pytest.importorskip("uvloop", reason="it comes with the extra `fast`")
    made_of = _Connection.connection_made

    async def test() -> None:
        async with Target() as target:
            made = Transport(Resolver(), BOUNDS)
            sending = asyncio.create_task(send(made, target.url))

            def cancelled(self: _Connection, under: asyncio.BaseTransport) -> None:
                made_of(self, under)
                sending.cancel()

            monkeypatch.setattr(_Connection, "connection_made", cancelled)
            with pytest.raises(asyncio.CancelledError):
                await sending
            await asyncio.wait_for(made.close(), 60)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(test())
