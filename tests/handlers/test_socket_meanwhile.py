"""What happens to a socket while a message of it is worked on, or behind that, as the relay answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import structlog

from relay_tornado.delivery import buckets
from relay_tornado.errors import Unavailable
from relay_tornado.model import NewEvent, Retention, Token
from relay_tornado.protocol import AUTH_PAUSE
from tests.handlers.raw import TIMEOUT, Raw
from tests.handlers.sockets import HANDSHAKE, Live, masked
from tests.waiting import until

pytestmark = pytest.mark.gen_test


def held_up(server: Live, monkeypatch: pytest.MonkeyPatch) -> tuple[asyncio.Event, Callable[[], None]]:
    """Whether a position is being judged, which takes until the second is called."""
    begun, go_on, bounds = asyncio.Event(), asyncio.Event(), server.log.bounds

    async def slow(*args: Any) -> Any:
        begun.set()
        await go_on.wait()
        return await bounds(*args)

    monkeypatch.setattr(server.log, "bounds", slow)
    return begun, go_on.set


async def test_a_token_that_is_revoked_while_it_subscribes(server: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is delivered to it."""
    await server.bucket()
    key, secret = await server.token()
    begun, go_on = held_up(server, monkeypatch)
    client = await server.authenticated((key, secret))
    await client.say({"action": "subscribe"})
    await begun.wait()
    await server.registry.delete("token", key)
    assert (await client.end())[0] == 4503
    assert server.clients.deliveries.subscribers == 1
    go_on()
    await until(lambda: not server.clients.deliveries.subscribers)


async def test_a_token_that_is_scoped_while_it_subscribes(server: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it may read no longer is told behind the answer, and nothing comes of it."""
    await server.bucket("a")
    await server.bucket("b")
    key, secret = await server.token(["a", "b"])
    begun, go_on = held_up(server, monkeypatch)
    client = await server.authenticated((key, secret))
    await client.say({"action": "subscribe", "extended": True})
    await begun.wait()
    await server.change_token(key, buckets=frozenset({"id-b"}))
    go_on()
    await client.hear_status("subscribed")
    told = [await client.hear() for _ in range(2)]
    assert {(message["status"], message["bucket_name"]) for message in told} == {
        ("bucket_deleted", "a"),
        ("caught_up", "b"),
    }
    await server.append(1, "a")
    await server.append(1, "b")
    assert (await client.hear())["meta"]["bucket_name"] == "b"


async def test_a_log_that_can_not_be_read(server: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who subscribes then is to come back, and is served once it can. One line says why, however many come."""
    await server.bucket()

    async def fails(*_: object) -> None:
        raise Unavailable("on purpose")

    with structlog.testing.capture_logs() as lines:
        for _ in range(3):
            client = await server.authenticated()
            with monkeypatch.context() as patch:
                patch.setattr(server.log, "bounds", fails)
                await client.say({"action": "subscribe"})
                assert await client.end() == (1001, "the relay can't read its log now: reconnect later")
    errors = [(line["event"], line["code"], line["reason"]) for line in lines if line["log_level"] == "error"]
    assert errors == [("subscribe_failed", "unavailable", "on purpose")]
    await server.subscribed("orders")


async def test_a_gap_behind_the_answer(server: Live) -> None:
    """Events that leave before they were read close a socket with on_gap "fail"."""
    await server.bucket()
    client = await server.subscribed("orders", on_gap="fail")
    for _ in range(5):
        # Nobody else has a turn before they have left.
        server.log.append("id-orders", NewEvent("in-orders", "POST", b"", b"", b"", b"{}", "192.0.2.1"))
    await server.log.trim("id-orders", Retention(max_events=1), None)
    code, reason = await client.end()
    assert (code, reason.startswith("events are missing")) == (4509, True)


async def test_a_shutdown_while_a_token_is_judged(server: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer to `auth` takes a moment: it does not follow the close frame, and nothing has failed."""
    key, secret = await server.token()
    judged, authenticate = asyncio.Event(), server.access.authenticate

    def found(*words: str) -> Token:
        judged.set()
        return authenticate(*words)

    monkeypatch.setattr(server.access, "authenticate", found)
    client = await server.client()
    with structlog.testing.capture_logs() as lines:
        await client.say({"action": "auth", "key": key, "secret": secret})
        await judged.wait()
        await server.clients.close_all(5)
        assert (await client.end())[0] == 1001
        await until(lambda: not server.clients.count)
    assert [line["event"] for line in lines if line["log_level"] == "error"] == []


async def test_nothing_follows_a_close_frame(server: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even the answer to what was being worked on."""
    key, secret = await server.token()
    authenticate = server.access.authenticate

    def found(*words: str) -> Token:
        (there,) = server.clients._live
        asyncio.get_running_loop().call_soon(there.send_away, "on purpose")
        return authenticate(*words)

    monkeypatch.setattr(server.access, "authenticate", found)
    async with Raw(server.port) as raw, asyncio.timeout(TIMEOUT):
        raw.send(HANDSHAKE + masked({"action": "auth", "key": key, "secret": secret}))
        await raw.reader.readuntil(b"\r\n\r\n")
        first, size = await raw.reader.readexactly(2)
        assert (first, (await raw.reader.readexactly(size))[2:]) == (0x88, b"on purpose")
        await asyncio.sleep(2 * AUTH_PAUSE)
        raw.send(b"\x88\x82\0\0\0\0\x03\xe9")
        assert await raw.closed() == b""


async def test_too_many_names_are_unsubscribed(server: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer is an error, and delivery goes on."""
    await server.bucket()
    monkeypatch.setattr(buckets, "MOST_ENDED", 1)
    client = await server.subscribed(extended=True)
    await client.hear_status("caught_up")
    await client.say({"action": "unsubscribe", "buckets": ["x", "y"]})
    error = await client.hear_status("error")
    assert error["code"] == "invalid"
    await server.append(1)
    assert (await client.hear())["meta"]["seq"] == 1
