"""/v1/socket: pings, and those who read slowly or not at all."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from tornado.iostream import IOStream

from relay_tornado.delivery import filter_time
from relay_tornado.delivery.deliveries import Deliveries
from relay_tornado.delivery.filter_time import FilterTime
from relay_tornado.handlers import conversation
from relay_tornado.handlers.connected_clients import MESSAGES_A_TURN, SUBSCRIBES_A_TURN
from relay_tornado.model import MIB
from relay_tornado.protocol import Session
from tests.counting import calls_by_turn
from tests.delivery.world import frames
from tests.handlers.raw import Raw
from tests.handlers.sockets import HANDSHAKE, TIMEOUT, Client, Live, live, masked
from tests.waiting import until


@pytest.mark.gen_test
async def test_pings_come_in_both_forms() -> None:
    """Protocol pings from the start, JSON pings after `subscribed`; protocol pings are answered."""
    async with live(ping_interval=0.1) as server:
        await server.bucket()
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(HANDSHAKE)
        async with asyncio.timeout(TIMEOUT):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
            assert await reader.readexactly(2) == b"\x89\x00"
            writer.write(b"\x89\x82\x00\x00\x00\x00hi")
            while await reader.readexactly(2) == b"\x89\x00":
                pass
            assert await reader.readexactly(2) == b"hi"
        writer.transport.abort()
        client = await server.subscribed("orders")
        for _ in range(2):
            assert await client.hear() == {"type": "status", "status": "ping", "message": ""}
        ours = await server.subscribed("orders", extended=True)
        while (message := await ours.hear())["status"] != "caught_up":
            assert message["status"] == "ping"
        await server.append(1)
        epoch = (await server.log.bounds("id-orders")).epochs[0].epoch
        assert await ours.hear_events(1) == [1]
        assert (await ours.hear_status("ping"))["positions"] == {"orders": f"{epoch}-1"}
        assert (await ours.hear_status("ping"))["positions"] == {}


@pytest.mark.parametrize("form", [str, str.encode], ids=["text", "binary"])
@pytest.mark.parametrize("key", ["filter", "Filter", "FILTER", "\\u0066ilter"])
@pytest.mark.gen_test
async def test_filters_that_take_long_to_compile_wait_for_each_other(
    form: Callable[[str], str | bytes], key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One may take most of a tenth of a second: the clients of a token can't fill the event loop with them. Whatever
    has no filter does not wait."""
    now = 0.0
    waited: list[float] = []
    sleep = asyncio.sleep

    async def slept(seconds: float) -> None:
        nonlocal now
        if seconds > 50:
            waited.append(seconds)
            now += seconds
        await sleep(min(seconds, 0.01))

    regex = "(?i)[" + "\\PL" * 90 + f"]{key[-6:]}{len(key)}{form.__name__}"  # which no other test has compiled
    slow = {"match": {"type": "regex", "regex": regex, "parameter": {"source": "payload"}}}
    quick = {"match": {"type": "value", "value": "x", "parameter": {"source": "payload"}}}
    async with live() as server:
        await server.bucket()
        server.clients.compiling = FilterTime(lambda: now)
        monkeypatch.setattr(filter_time, "rest", lambda seconds: 100.0 * (seconds > 0.001))
        monkeypatch.setattr(asyncio, "sleep", slept)
        token = await server.token()
        one = await server.subscribed("orders", token=token, extended=True, filter=slow)
        other = await server.subscribed("orders", token=token, extended=True)
        await server.subscribed("orders", extended=True, filter=quick)  # of another token
        assert waited == []
        # Its name may be escaped or have capitals, and the message be binary.
        said = json.dumps({"action": "subscribe", "buckets": ["orders"], "filter": quick})
        await other.say(form(said.replace("filter", key)))
        await until(lambda: waited)
        assert waited == [100.0]
        for client in (one, other):
            await client.say({"action": "unsubscribe", "buckets": ["orders"]})
            while (await client.hear())["status"] != "unsubscribed":
                pass
        assert waited == [100.0]


@pytest.mark.parametrize(("action", "most"), [("pong", MESSAGES_A_TURN), ("subscribe", SUBSCRIBES_A_TURN)])
@pytest.mark.gen_test
async def test_messages_of_many(server: Live, action: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few are handled in a turn of the loop, however many sockets send them, and however many each has sent."""
    sockets, each = 6, 50
    await server.bucket()
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(Raw(server.port)) for _ in range(sockets)]
        greeting = await server.greeting()
        for client in clients:
            client.send(greeting)
            await client.reader.readuntil(b'subscribed to buckets: all"}')
        where, name = (Session, "received") if action == "pong" else (Deliveries, "subscribe")
        handled = calls_by_turn(monkeypatch, where, name)
        for client in clients:
            client.send(masked({"action": action}) * each)
        await until(lambda: sum(handled) == sockets * each)
    assert max(handled) <= most


async def reads_nothing(server: Live, *, events: int = 100, size: int = 300_000) -> Client:
    """A subscriber whose socket is no longer read, with more to come than the kernels' buffers take."""
    await server.bucket()
    client = await server.subscribed("orders")
    client.socket.transport.pause_reading()
    await server.append(events, body=b"x" * size)
    return client


@pytest.mark.gen_test
async def test_a_stuck_reader_is_closed() -> None:
    """No sign of life for the time-out: 4008, which it finds when it reads again; what waits for it is bounded."""
    async with live(ping_interval=0.1, stuck_timeout=0.8) as server:
        client = await reads_nothing(server)
        budget = server.clients.deliveries.budget
        await until(lambda: budget.outstanding > 0)
        conversations = list(server.clients._live)
        await until(lambda: not conversations[0].active)
        assert not server.clients.alarms._sleepers
        # One chunk, and some pings: everything else stays in the log.
        assert budget.outstanding < 1_000_000
        assert conversations[0]._delivery.positions()["id-orders"].seq < 100
        client.socket.transport.resume_reading()
        code, reason = await client.end()
        assert code == 4008
        assert "too slow" in reason
        await until(lambda: server.clients.count == 0)


@pytest.mark.gen_test
async def test_pings_that_do_not_leave_are_not_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """One is enough for a client that reads nothing."""
    ticks: list[bool] = []
    tick = Session.tick

    def counted(self: Session, *args: Any, blocked: bool = False) -> Any:
        ticks.append(blocked)
        return tick(self, *args, blocked=blocked)

    monkeypatch.setattr(Session, "tick", counted)
    async with live(ping_interval=0.02) as server:
        await reads_nothing(server)
        (there,) = server.clients._live
        await until(lambda: there._ping is not None and not there._ping.done())
        ping = there._ping
        await until(lambda: ticks[-5:] == [True] * 5)
        assert there._ping is ping or ping.done()


@pytest.mark.gen_test
async def test_events_do_not_go_through_the_stream(server: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are written to the socket itself, as long as nothing waits there."""
    await server.bucket()
    client = await server.subscribed("orders")
    (there,) = server.clients._live
    await until(lambda: not there._delivery.busy)
    monkeypatch.delattr(conversation.Conversation, "send_now")
    await server.append(3)
    assert await client.hear_events(3) == [1, 2, 3]
    assert there.active


@pytest.mark.gen_test
async def test_a_stuck_reader_that_stays_so_is_cut_off() -> None:
    """A close frame that can't be delivered does not keep the socket."""
    async with live(ping_interval=0.1, stuck_timeout=0.5) as server:
        await reads_nothing(server)
        await until(lambda: server.clients.count == 0)


@contextlib.asynccontextmanager
async def closes_behind(server: Live) -> AsyncIterator[tuple[socket.socket, IOStream]]:
    """A client that said it closes while more than its kernel takes was written to it, and the stream to it."""
    await server.bucket()
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(await server.greeting())
        await until(lambda: bool(server.clients.subscribed))
        (conversation,) = server.clients._live
        stream = conversation._stream
        # So that its kernel does not take what waits once it is asked again.
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)
        await server.append(100, body=b"x" * 300_000)
        await until(stream.writing)
        client.sendall(b"\x88\x82\0\0\0\0\x03\xe8")
        await until(lambda: server.clients.count == 0)
        yield client, stream


@pytest.mark.gen_test
async def test_a_client_that_closes_behind_its_events_is_answered(server: Live) -> None:
    """What was written comes whole, and then the close frame."""
    async with closes_behind(server) as (client, stream):
        assert not stream.closed()
        heard = bytearray()
        client.setblocking(False)
        async with asyncio.timeout(TIMEOUT):
            while data := await asyncio.get_running_loop().sock_recv(client, 1 << 20):
                heard += data
        assert heard.endswith(b"\x88\x02\x03\xe8")
        seqs = [event["meta"]["seq"] for event in frames(heard[heard.index(b"\r\n\r\n") + 4 : -4])[2:]]
        assert seqs == list(range(1, len(seqs) + 1))


@pytest.mark.gen_test
async def test_a_client_that_closes_and_reads_no_more_is_cut_off(server: Live) -> None:
    """What waits for it does not keep the socket."""
    async with closes_behind(server) as (_, stream):
        await until(stream.closed)


@pytest.mark.gen_test
async def test_a_slow_reader_lives_and_gets_everything() -> None:
    """It answers no ping in time, for megabytes lie before them, but its kernel acknowledges what it reads."""
    async with live(ping_interval=0.1, stuck_timeout=4.0) as server:
        await server.bucket()
        await server.append(30, body=b"x" * 300_000)
        client = await server.authenticated(max_queue=1)
        transport = client.socket.transport
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32_768)
        await client.subscribe(since="earliest")
        loop = asyncio.get_running_loop()
        begun = loop.time()
        seqs: list[int] = []
        while len(seqs) < 30:
            transport.pause_reading()
            await asyncio.sleep(0.3)
            transport.resume_reading()
            seqs += await client.hear_events(1)
        assert seqs == list(range(1, 31))
        assert loop.time() - begun > 2 * server.settings.stuck_timeout
        assert server.clients.count == 1


@pytest.mark.gen_test
async def test_pings_during_a_replay_tell_what_came_before_them() -> None:
    """By the clock, between two pages: whoever resumes from one misses nothing that its filter lets pass."""
    rules = {"match": {"type": "value", "value": "1", "parameter": {"source": "header", "name": "N"}}}
    async with live(ping_interval=0.05) as server:
        await server.bucket()
        for number in range(100):
            await server.append(body=b"x" * 300_000, headers=b"N: %d\r\n" % (number % 2))
        client = await server.authenticated(max_queue=1)
        transport = client.socket.transport
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32_768)
        await client.subscribe(since="earliest", filter=rules)
        seqs: list[int] = []
        told: list[int] = []
        while (message := await client.hear()).get("status") != "caught_up":
            if message["type"] == "webhook":
                seqs.append(message["meta"]["seq"])
                if len(seqs) <= 3:
                    transport.pause_reading()
                    await asyncio.sleep(0.1)
                    transport.resume_reading()
                continue
            for position in message["positions"].values():
                told.append(int(position.partition("-")[2]))
                assert 0 <= told[-1] - (seqs[-1] if seqs else 0) <= 1, "2, 4, … pass, and each was read by then"
        assert seqs == list(range(2, 101, 2))
        assert told
        assert told == sorted(told)


@pytest.mark.gen_test
async def test_a_full_socket_loses_and_mixes_nothing(server: Live) -> None:
    """Live events that the kernel takes in part, or not at all, arrive whole and in order once they are read; also
    where the kernel has room again before the rest that is buffered has gone."""
    await server.bucket()
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.setblocking(False)
        heard = bytearray()

        def read() -> None:
            with contextlib.suppress(BlockingIOError):
                while data := client.recv(1 << 20):
                    heard.extend(data)

        async def read_until(condition: Callable[[], bool]) -> None:
            await until(lambda: read() or condition())

        client.sendall(await server.greeting())
        await read_until(lambda: b"subscribed to buckets" in heard)
        (conversation,) = server.clients._live
        count = 0
        for _ in range(3):
            while not conversation._stream.writing():
                await server.append(1, body=b"%d" % count * 30_000)
                count += 1
                await asyncio.sleep(0)
            # No turn of the loop lies between the reading and the pass that this append wakes.
            read()
            await server.append(1, body=b"%d" % count * 30_000)
            count += 1
            await read_until(lambda: not conversation._stream.writing())
        await read_until(lambda: heard.count(b'"type":"webhook"') == count and heard.endswith(b'"method":"POST"}'))
    events = frames(bytes(heard[heard.index(b"\r\n\r\n") + 4 :]))[2:]
    assert [event["meta"]["seq"] for event in events] == list(range(1, count + 1))


@pytest.mark.gen_test
async def test_what_a_client_does_not_read_is_not_kept_for_it(server: Live) -> None:
    """However much is committed meanwhile: what it has not had is in the log."""
    await server.bucket()
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(await server.greeting())
        await until(lambda: server.clients.subscribed)
        most = 0
        for _ in range(600):
            await server.append(1, body=b"x" * 30_000)
            await asyncio.sleep(0)
            most = max(most, server.clients.deliveries.budget.outstanding)
        assert 0 < most < MIB


@pytest.mark.gen_test
async def test_what_was_sent_at_once_and_is_not_read_counts(server: Live) -> None:
    """The rest of a live event that its kernel took in part is in flight until it has left."""
    await server.bucket()
    budget = server.clients.deliveries.budget
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(await server.greeting())
        await until(lambda: server.clients.subscribed)
        (conversation,) = server.clients._live
        await until(lambda: not conversation._delivery.busy)
        while not conversation._stream.writing():
            assert budget.outstanding == 0
            await server.append(1, body=b"x" * 30_000)
            await asyncio.sleep(0)
        assert not conversation._delivery.busy, "they were sent by the pass after each commit"
        assert 0 < budget.outstanding <= 31_000
        client.setblocking(False)
        while budget.outstanding:
            assert await asyncio.get_running_loop().sock_recv(client, 1 << 20)
            await asyncio.sleep(0)


@pytest.mark.gen_test
async def test_answers_that_a_client_does_not_read_are_not_kept_for_it(server: Live) -> None:
    """Its next message is read only once the answer to the one before has left."""
    await server.bucket()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", server.port))
        client.sendall(await server.greeting(extended=True))
        await until(lambda: server.clients.subscribed)
        (conversation,) = server.clients._live
        stream = conversation._stream
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        answered = 0
        while not stream.writing():
            answering = asyncio.ensure_future(conversation.received('{"action":"dance"}'))
            await until(lambda: answering.done() or stream.writing())  # noqa: B023
            answered += 1
            assert answered < 100_000, "the answers do not fill the kernel's buffers"
        assert not answering.done()
        client.setblocking(False)
        async with asyncio.timeout(TIMEOUT):
            while not answering.done():
                assert await asyncio.get_running_loop().sock_recv(client, 65536)
                await asyncio.sleep(0)


@pytest.mark.gen_test
async def test_what_tls_must_encrypt_goes_through_the_stream(server: Live) -> None:
    """Where the socket itself can't be used, live events go by the stream, at once too."""
    await server.bucket()
    client = await server.subscribed("orders")
    (conversation,) = server.clients._live
    conversation._delivery.lane.socket = None
    await server.append(3)
    assert await client.hear_events(3) == [1, 2, 3]
    assert not conversation._delivery.busy


@pytest.mark.gen_test
async def test_a_client_that_is_silent_and_reads_lives() -> None:
    """Pongs are not required where the kernel acknowledges the pings."""
    async with live(ping_interval=0.1, stuck_timeout=0.4) as server:
        await server.bucket()
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(HANDSHAKE)
        async with asyncio.timeout(TIMEOUT):
            await reader.readuntil(b"\r\n\r\n")
            for _ in range(10):
                assert await reader.readexactly(2) == b"\x89\x00"
        writer.transport.abort()


@pytest.mark.gen_test
async def test_where_nothing_is_acknowledged_only_who_answers_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pings that leave for a machine that is gone are a sign of nothing; pongs of a client are one of life."""
    monkeypatch.setattr(conversation, "acknowledged", lambda _: 0)
    async with live(ping_interval=0.1, stuck_timeout=1.0) as server:
        await server.bucket()
        answers = await server.client()
        with socket.create_connection(("127.0.0.1", server.port)) as silent:
            silent.sendall(HANDSHAKE)
            await until(lambda: server.clients.count == 2)
            await until(lambda: server.clients.count == 1, timeout=30)
        await answers.sign_in(*await server.token())
        await answers.subscribe()
        for _ in range(20):
            await answers.hear_status("ping")


def _masked(opcode: int, payload: bytes) -> bytes:
    """A client's frame, with the long form of its length."""
    return bytes((0x80 | opcode, 0x80 | 126)) + len(payload).to_bytes(2, "big") + bytes(4) + payload


@pytest.mark.gen_test
@pytest.mark.parametrize(
    "frame", [b"\x89\x80" + bytes(4), _masked(1, b'{"action": "pong"}' + b" " * 125)], ids=["a ping", "a message"]
)
async def test_any_frame_of_a_client_is_a_sign_of_life(frame: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where nothing is acknowledged, and it answers no ping with a pong."""
    monkeypatch.setattr(conversation, "acknowledged", lambda _: 0)
    async with live(ping_interval=0.1, stuck_timeout=1.0) as server:
        key, secret = await server.token()
        auth = json.dumps({"action": "auth", "key": key, "secret": secret}).encode().ljust(126)
        async with Raw(server.port) as raw, asyncio.timeout(TIMEOUT):
            raw.send(HANDSHAKE + _masked(1, auth))
            pings = 0
            while pings < 20:
                data = await raw.reader.read(1 << 16)
                assert data, "it was cut off"
                came = data.count(b"\x89\x00")
                raw.send(frame * came)
                pings += came


@pytest.mark.gen_test
async def test_one_that_stops_reading_before_a_ping_has_left_is_cut_off() -> None:
    """Also where it read a little after the ping was made, so that this one asks it nothing any more."""
    async with live(ping_interval=0.05, stuck_timeout=0.8) as server:
        await server.bucket()
        await server.append(200, body=b"x" * 100_000)
        await server.subscribed("orders", since="earliest")
        await until(lambda: server.clients.count == 0)
