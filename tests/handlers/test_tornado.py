"""What is used of Tornado beyond its public part: each name here, and what it is thought to do."""

from __future__ import annotations

import asyncio
import inspect
import socket
from collections import deque
from typing import Any

import pytest
import websockets
from tornado.iostream import IOStream, StreamClosedError
from tornado.log import gen_log
from tornado.testing import ExpectLog
from tornado.websocket import WebSocketProtocol, WebSocketProtocol13, _WebSocketParams

from relay_tornado.delivery.outlet import Lane
from relay_tornado.handlers import socket as sockets
from relay_tornado.handlers.socket import SocketHandler
from relay_tornado.handlers.tornado_connection import _Short
from tests.handlers.edge import edge
from tests.transport.connections import alone


def test_who_reads_the_frames() -> None:
    """`_receive_frame_loop` is the coroutine that reads a WebSocket's frames to its end, and what `accept_connection`
    awaits last; `_abort` ends it."""
    assert inspect.iscoroutinefunction(WebSocketProtocol13._receive_frame_loop)
    accept = inspect.getsource(WebSocketProtocol13._accept_connection)
    assert accept.rstrip().endswith("await self._receive_frame_loop()")
    assert callable(WebSocketProtocol._abort)
    assert issubclass(sockets._Protocol, WebSocketProtocol13)
    assert _WebSocketParams().max_message_size > 0


def test_what_aborts_for_a_frame() -> None:
    """`_receive_frame` reads one frame, calls `_abort` for one that breaks the protocol, and gives any other to
    `_handle_message`, which is no coroutine."""
    assert inspect.iscoroutinefunction(WebSocketProtocol13._receive_frame)
    assert not inspect.iscoroutinefunction(WebSocketProtocol13._handle_message)
    reading = inspect.getsource(WebSocketProtocol13._receive_frame)
    assert reading.count("self._abort()") == 6
    assert reading.index("self._handle_message(opcode, data)") > reading.rindex("self._abort()")
    assert "self._receive_frame()" in inspect.getsource(WebSocketProtocol13._receive_frame_loop)


@pytest.mark.gen_test
async def test_a_quiet_stream_lets_go_of_its_deques() -> None:
    """`_write_futures` and `_write_buffer._buffers` are deques, empty while nothing is written, and a list that pops
    from its left does as well: what is written in many pieces, some of them large, arrives in order, and each write is
    told."""
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    stream, reader = IOStream(ours), IOStream(theirs)
    assert isinstance(stream._write_futures, deque)
    assert isinstance(stream._write_buffer._buffers, deque)
    assert not stream._write_futures
    assert not stream._write_buffer._buffers
    stream._write_futures = _Short()  # type: ignore[assignment]
    stream._write_buffer._buffers = _Short()  # type: ignore[assignment]
    pieces = [bytes([number]) * size for number, size in enumerate([1, 100_000, 10, 5_000, 70_000, 1, 0, 3] * 5)]
    writes = [asyncio.ensure_future(stream.write(piece)) for piece in pieces]
    assert stream.writing()
    assert stream._write_buffer._size == len(stream._write_buffer) > 0
    assert stream._write_buffer._buffers
    whole = b"".join(pieces)
    assert await asyncio.wait_for(reader.read_bytes(len(whole)), 60) == whole
    await asyncio.wait_for(asyncio.gather(*writes), 60)
    assert not stream.writing()
    assert stream._write_buffer._size == 0
    assert not stream._write_futures
    stream.close()
    reader.close()


@pytest.mark.gen_test
async def test_what_waits_in_a_stream_that_is_detached_leaves() -> None:
    """Its deques are kept as long as something is in them."""
    ours, theirs = socket.socketpair()
    stream, reader = alone(ours), IOStream(theirs)
    sent = b"x" * 1_000_000
    stream.write(sent)
    assert stream.writing()
    stream.detached()
    assert await asyncio.wait_for(reader.read_bytes(len(sent)), 60) == sent
    stream.close()
    reader.close()


def test_what_ends_a_stream_quietly() -> None:
    """`_is_connreset` is what a stream asks of an error of a read or a write: a read of which it says yes ends the
    stream, and raises nothing."""
    reading = inspect.getsource(IOStream._read_to_buffer)
    assert reading.count("self._is_connreset(e)") == 1
    assert "self._is_connreset(e)" in inspect.getsource(IOStream._handle_write)


@pytest.mark.gen_test
async def test_a_socket_is_read_in_a_task_of_its_own() -> None:
    """Once a WebSocket is open, the request that opened it has ended, and its stream has no deque any more."""
    async with edge() as site, websockets.connect(f"ws://127.0.0.1:{site.port}/v1/socket", proxy=None):
        [connection] = site.site.listener.connections
        assert isinstance(connection, IOStream)
        assert type(connection._write_futures) is _Short
        assert type(connection._write_buffer._buffers) is _Short
        [conversation] = site.site.clients._live
        protocol = conversation._edge.ws_connection  # type: ignore[attr-defined]
        assert not protocol._receiving.done()


@pytest.mark.gen_test
async def test_what_an_open_socket_needs_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a handler lets go of after the handshake is, where Tornado still reads it, the same in the class; and its
    protocol's parameters are those of all that read as much."""
    before: dict[str, object] = {}
    forget = SocketHandler._forget_handshake

    def note(self: SocketHandler) -> None:
        before.update(self.__dict__)
        forget(self)

    monkeypatch.setattr(SocketHandler, "_forget_handshake", note)
    async with edge() as site:
        url = f"ws://127.0.0.1:{site.port}/v1/socket"
        async with websockets.connect(url, proxy=None), websockets.connect(url, proxy=None):
            handlers = [conversation._edge for conversation in site.site.clients._live]  # type: ignore[attr-defined]
            for handler in handlers:
                assert set(handler.__dict__) == {"application", "request", "ws_connection"}
            first, second = (handler.ws_connection for handler in handlers)
            assert first.params is second.params
            handlers[0].allow(1 << 20)
            assert (first.params.max_message_size, second.params.max_message_size) == (1 << 20, handlers[1]._limit)
        alike = {"close_code", "close_reason", "_on_close_called", "_status_code", "_headers_written", "_finished"}
        for name in alike | {"_prepared_future"}:
            assert before[name] == getattr(SocketHandler, name), name
        # Of the rest only what leads to the method, and what makes an answer of HTTP, is read.
        lead = {"path_args", "path_kwargs", "open_args", "open_kwargs", "_transforms", "_write_buffer", "_reason"}
        barred = {"write", "redirect", "set_header", "set_cookie", "set_status", "flush", "finish"}
        assert {name for name in before if not hasattr(SocketHandler, name)} <= lead | set(handler.__dict__)
        assert {name for name, value in before.items() if name in barred and callable(value)} == barred
        # The request's own coroutine looks at these behind the handshake: there is nothing to finish.
        assert before["_auto_finish"] is True
        assert SocketHandler._auto_finish is False


@pytest.mark.gen_test
async def test_what_writes_to_a_stream() -> None:
    """`_handle_write` is called for everything that is written, and whenever more of it can leave: a lane has the
    stream's socket as long as nothing waits for the kernel, and none once the stream is closed."""
    ours, theirs = socket.socketpair()
    reader = IOStream(theirs)
    stream = alone(ours)
    lane, later = (Lane(apart=False, max_body=None) for _ in range(2))
    stream.open_to(lane)
    assert lane.socket is ours
    writing = asyncio.ensure_future(stream.write(b"x" * (4 << 20)))
    assert lane.socket is None
    stream.open_to(later)
    assert later.socket is None
    await asyncio.wait_for(reader.read_bytes(4 << 20), 60)
    await asyncio.wait_for(writing, 60)
    assert later.socket is ours
    assert lane.socket is None
    stream.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        ours.send(b"x")
    stream.open_to(later)
    assert later.socket is None
    reader.close()


@pytest.mark.gen_test
async def test_what_is_closed_before_its_last_answer_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left to be ended, and nothing fails."""
    loop = asyncio.get_running_loop()
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(loop, "call_exception_handler", told.append)
    ours, theirs = socket.socketpair()
    stream = alone(ours)
    with theirs:
        stream.write(b"x" * (4 << 20))
        stream.refused(60.0)
        stream.close()
        for _ in range(10):
            await asyncio.sleep(0)
    assert told == []


@pytest.mark.gen_test
@pytest.mark.parametrize("error", [MemoryError(), ValueError()], ids=["memory", "another error"])
async def test_what_closes_a_stream_without_memory(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream closes itself for any error of a read, and only warns of it. The loop is told of a lack of memory, and
    of nothing else."""
    loop = asyncio.get_running_loop()
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(loop, "call_exception_handler", told.append)
    ours, theirs = socket.socketpair()
    stream = alone(ours)

    def fail(*_: object) -> int:
        raise error

    with theirs, ExpectLog(gen_log, "error on read"):
        reading = stream.read_bytes(1)
        monkeypatch.setattr(stream, "read_from_fd", fail)
        theirs.send(b"x")
        with pytest.raises(StreamClosedError):
            await reading
    assert stream.closed()
    assert [context["exception"] for context in told] == ([error] if isinstance(error, MemoryError) else [])
