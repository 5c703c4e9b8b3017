"""/v1/socket: when many clients connect at once, each waits for its turn."""

import asyncio
from typing import Any

import pytest

from tests.handlers.sockets import Live
from tests.waiting import until


@pytest.mark.gen_test
async def test_who_has_not_subscribed_takes_turns(server: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crowd that connects at once delays nobody; who has subscribed takes such a turn to subscribe anew."""
    await server.bucket("orders")
    turns = 0
    enter = server.clients.admission.enter

    def counted() -> asyncio.Future[None] | None:
        nonlocal turns
        turns += 1
        return enter()

    monkeypatch.setattr(server.clients.admission, "enter", counted)
    client = await server.subscribed("orders")
    assert turns == 2, "to authenticate, and to subscribe"
    await client.say({"action": "pong"})
    await client.say({"action": "subscribe", "buckets": ["orders"]})
    await client.hear_status("subscribed")
    assert turns == 3


@pytest.mark.parametrize("subscribed", [False, True], ids=["to authenticate", "to subscribe anew"])
@pytest.mark.gen_test
async def test_who_leaves_before_its_turn_takes_none(
    server: Live, monkeypatch: pytest.MonkeyPatch, subscribed: bool
) -> None:
    """Nothing is done for it, and those behind it do not wait for it: a crowd may connect and leave again and again."""
    await server.bucket("orders")
    made: list[Any] = []
    subscribe = server.clients.deliveries.subscribe

    async def counted(*args: Any, **more: Any) -> Any:
        made.append(args)
        return await subscribe(*args, **more)

    gone = await server.subscribed("orders") if subscribed else await server.client()
    monkeypatch.setattr(server.clients.deliveries, "subscribe", counted)
    admission = server.clients.admission
    monkeypatch.setattr(admission, "left", 0)
    monkeypatch.setattr(admission, "most", 0)
    await gone.say({"action": "subscribe", "buckets": ["orders"]})
    await until(lambda: len(admission.waiting) == 1)
    [leaving] = server.clients._live
    assert leaving._stream is not None
    leaving._stream.close()  # as after a reset
    assert admission.waiting[0].done()
    monkeypatch.setattr(admission, "most", 1)
    await server.subscribed("orders")
    assert (len(made), len(admission.waiting)) == (1, 0)
