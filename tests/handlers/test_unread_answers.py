"""What becomes of connections whose clients read slowly, or not at all."""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from tornado.iostream import IOStream, StreamClosedError

from relay_tornado.handlers.listener import MOST_UNSENT
from relay_tornado.ids import format_id
from relay_tornado.transport.limits import NEVER
from tests.handlers.edge import URL, Edge, edge
from tests.handlers.raw import Raw, bearer, request, small
from tests.transport.connections import alone
from tests.waiting import until

pytestmark = pytest.mark.usefixtures("transport")

UNREAD = [request(b"/openapi.json", method=b"GET") * 200, request(URL, b"x") * 200]


@pytest.mark.gen_test(timeout=60)
@pytest.mark.parametrize("asked", UNREAD, ids=["REST", "webhooks"])
async def test_who_never_reads_is_let_go(asked: bytes) -> None:
    """A client that leaves its answers unread is closed, no matter whether anybody knows it."""
    async with edge(idle_timeout=1.0) as site:
        await site.change(input={"body": "x" * 200_000})
        with small(site.port) as client:
            client.sendall(asked)
            await until(lambda: any(each.writing() for each in site.site.listener.connections))
            await until(lambda: not site.site.listener.connections)


@pytest.mark.gen_test(timeout=60)
async def test_the_kernel_keeps_little_for_who_never_reads() -> None:
    """The rest waits here, where it is counted. Without a bound the kernel keeps megabytes for each."""
    async with edge() as site:
        await site.change(input={"body": "x" * 200_000})
        with small(site.port) as client:
            client.sendall(request(URL, b"x") * 200)
            await until(lambda: any(each.writing() for each in site.site.listener.connections))
            [connection] = site.site.listener.connections
            (unsent,) = struct.unpack("i", fcntl.ioctl(connection.socket, termios.TIOCOUTQ, bytes(4)))
            assert 0 < unsent < 2 * MOST_UNSENT


@pytest.mark.gen_test(timeout=60)
async def test_a_dropped_body_has_its_time_whatever_is_unread() -> None:
    """A client that reads its refusal late, and never sends the rest of what was refused, is closed."""
    async with edge(body_timeout=4.0) as site:
        with small(site.port) as client:
            client.setblocking(False)
            refused = request(URL + b"x", b"body")
            for number in range(2_000):
                client.send(refused[:-2])
                await until(lambda sent=number: site.counters.rejections["not_found"] > sent)
                [connection] = site.site.listener.connections
                if connection.writing():
                    break
                connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2048)
                client.send(refused[-2:])
            assert connection.writing()
            while connection.writing():
                assert await asyncio.get_running_loop().sock_recv(client, 65536)
                await asyncio.sleep(0)
            await until(lambda: not site.site.listener.connections, timeout=30)


@pytest.mark.gen_test
async def test_who_has_read_all_there_is_waits_for_the_rest() -> None:
    """Between two parts of an answer, its client has nothing to read, and no deadline."""
    ours, theirs = socket.socketpair()
    connection, client = alone(ours), IOStream(theirs)
    size = 4 << 20
    for _ in range(2):
        connection.arrived()
        writing = asyncio.ensure_future(connection.write(b"x" * size))
        assert connection.deadline < NEVER
        await asyncio.wait_for(client.read_bytes(size), 60)
        await asyncio.wait_for(writing, 60)
        connection.expire()
        assert not connection.closed()
        assert connection.deadline == NEVER
    writing = asyncio.ensure_future(connection.write(b"x" * size))
    connection.expire()
    assert connection.closed()
    with pytest.raises(StreamClosedError):
        await writing
    client.close()


ANSWERS = pytest.mark.parametrize("what", ["a download", "an answer to a webhook"])
LONG = bytes(range(256)) * (16 << 10)


@asynccontextmanager
async def _unread(what: str, buffer: int, window: int) -> AsyncIterator[tuple[Edge, socket.socket]]:
    """A client that has asked for `LONG` and read nothing yet, with so much room in the relay's kernel and in its
    own."""
    async with edge(idle_timeout=3600.0, max_body=len(LONG)) as site:
        connections = site.site.listener.connections
        _, secret = await site.token()
        async with Raw(site.port) as sender:
            assert (await sender.ask(request(URL, LONG))).status == 200
        [event] = await site.events()
        path = f"/v1/logs/{format_id(event.epoch, event.seq)}/body".encode()
        await site.change(input={"body": "x" * len(LONG)})
        await until(lambda: not connections)
        with small(site.port, window) as client:
            await until(lambda: connections)
            for each in connections:  # what the kernel takes is not seen to leave
                each.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
            download = request(path, b"", bearer(secret), b"GET")
            client.sendall(download if what == "a download" else request(URL))
            client.setblocking(False)
            await until(lambda: any(each.writing() for each in connections))
            yield site, client


@pytest.mark.gen_test
@ANSWERS
async def test_who_reads_slowly_is_not(what: str) -> None:
    """What a client reads may take many times what a connection may be idle: that time begins anew whenever some of it
    leaves."""
    async with _unread(what, 64 << 10, 64 << 10) as (site, client):
        [connection] = site.site.listener.connections
        whole = bytearray()
        deadlines: set[float] = set()
        while len(whole) < len(LONG):
            data = await asyncio.get_running_loop().sock_recv(client, 65536)
            assert data, f"it was closed after {len(whole)} bytes"
            whole += data
            await asyncio.sleep(0)
            deadlines.add(connection.deadline)
        assert len(deadlines) > 10


@pytest.mark.gen_test
@ANSWERS
async def test_who_reads_more_slowly_than_the_kernel_tells_is_not_either(what: str) -> None:
    """Nothing leaves before a third of the kernel's buffer is free. Until then, what the client's side has acknowledged
    begins the time anew; next to nothing does not."""
    async with _unread(what, 400_000, 2048) as (site, client):
        listener = site.site.listener
        [connection] = listener.connections
        for _ in range(2):
            connection.deadline = 0.0
            for _ in range(20):
                await asyncio.get_running_loop().sock_recv(client, 1024)
            assert connection.deadline == 0.0  # nothing has left
            listener.limits.enough_read = 4096.0
            connection.expire()
            assert connection.deadline > 0.0
        listener.limits.enough_read = 100_000.0
        connection.expire()
        assert not listener.connections
