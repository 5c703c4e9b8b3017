"""handlers/rest/reads.py: who asks for many large answers, or reads none, waits for itself alone."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest

from relay_tornado.errors import Overloaded
from relay_tornado.handlers.rest import reads
from relay_tornado.handlers.rest.logs import LogsHandler
from relay_tornado.handlers.rest.reads import AT_ONCE, Reads
from relay_tornado.handlers.tornado_connection import TornadoConnection
from relay_tornado.model import Token
from relay_tornado.wire.fields import Document
from tests.handlers.raw import Raw
from tests.handlers.rest.world import World
from tests.waiting import until

PAGE = b"GET /v1/logs?limit=500 HTTP/1.1\r\nHost: relay.test\r\nAuthorization: Bearer %b\r\n\r\n"


async def greedy(here: World, stack: AsyncExitStack, count: int) -> tuple[str, list[Raw]]:
    """A token's key, and so many connections that ask with it for more than any of them reads. Each that has a turn has
    its answer on its way."""
    bucket = await here.bucket("orders")
    for _ in range(6):
        await here.send(bucket, b"x" * 2_500_000)
    key = await here.token("greedy", buckets=["orders"])
    asking = [await stack.enter_async_context(Raw(here.relay.port)) for _ in range(count)]
    for number, each in enumerate(asking):
        each.send(PAGE % here.tokens["greedy"][1].encode())
        if number < AT_ONCE:
            await each.reader.readuntil(b"\r\n\r\n")
    return key, asking


@pytest.mark.gen_test
async def test_a_token_has_a_few_large_answers_at_once(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one comes when one of them was read, or its client is gone; other tokens' come meanwhile, as do this
    one's small ones."""
    held, listed = here.site.rest.reads, here.site.rest.logs.list
    made: list[str] = []

    async def page(token: Token, *arguments: Any, **asked: Any) -> Document:
        made.append(token.key)
        return await listed(token, *arguments, **asked)

    left: list[LogsHandler] = []
    close = LogsHandler.on_connection_close

    def leave(handler: LogsHandler) -> None:
        left.append(handler)
        close(handler)

    monkeypatch.setattr(here.site.rest.logs, "list", page)
    monkeypatch.setattr(LogsHandler, "on_connection_close", leave)
    async with AsyncExitStack() as stack:
        key, asking = await greedy(here, stack, AT_ONCE + 3)
        await until(lambda: len(held._waiting.get(key, ())) == 3)
        assert held._running == {key: AT_ONCE}
        for token, path in (("administrator", "/v1/logs?limit=1"), ("greedy", "/v1/usage")):
            assert (await here.call("GET", path, token=token)).status == 200
        asking[0].writer.transport.abort()
        assert (await asking[AT_ONCE].reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        async with asyncio.timeout(60):
            while len(held._waiting.get(key, ())) == 2:
                await asking[1].reader.read(1 << 20)
        # One that left while it waited has its turn, and nothing is read for it.
        before = len(left)
        asking[-1].writer.transport.abort()
        await until(lambda: len(left) > before)
    await until(lambda: (held._running, held._waiting) == ({}, {}))
    assert made.count(key) == AT_ONCE + 2


@pytest.mark.gen_test
async def test_who_lost_its_right_while_it_waited(here: World) -> None:
    """A token that is revoked meanwhile reads nothing."""
    held = here.site.rest.reads
    async with AsyncExitStack() as stack:
        key, asking = await greedy(here, stack, AT_ONCE + 1)
        await until(lambda: key in held._waiting)
        await here.relay.administration.revoke_token(key)
        asking[0].writer.transport.abort()
        assert (await asking[-1].reply()).status == 401
    await until(lambda: (held._running, held._waiting) == ({}, {}))


@pytest.mark.gen_test
async def test_who_can_not_be_told_that_its_answer_has_left(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its place is free all the same, however often there is no memory for that."""
    await here.bucket("orders")

    def fail(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(TornadoConnection, "when_written", fail)
        for _ in range(AT_ONCE):
            assert (await here.call("GET", "/v1/logs")).status == 200
    assert here.site.rest.reads._running == {}


@pytest.mark.gen_test
async def test_more_than_may_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are told to come again; in their order the others have their turns."""
    monkeypatch.setattr(reads, "WAITING", 2)
    held = Reads()
    for _ in range(AT_ONCE):
        assert await held.enter("a") is False
    waiting = [asyncio.create_task(held.enter("a")) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await held.enter("a")
    assert await held.enter("b") is False
    held.leave("a")
    await asyncio.sleep(0)
    assert [each.done() for each in waiting] == [True, False]
    held.leave("b")
    for _ in range(AT_ONCE + 1):
        held.leave("a")
    assert [await each for each in waiting] == [True, True]
    assert (held._running, held._waiting) == ({}, {})


@pytest.mark.parametrize("granted", [False, True], ids=["while it waits", "right after it had its turn"])
@pytest.mark.gen_test
async def test_who_is_cancelled_takes_no_turn(granted: bool) -> None:
    held = Reads()
    for _ in range(AT_ONCE):
        await held.enter("a")
    first, second = (asyncio.create_task(held.enter("a")) for _ in range(2))
    await asyncio.sleep(0)
    if granted:
        held.leave("a")
        first.cancel()
        await asyncio.sleep(0)
    else:
        first.cancel()
        held.leave("a")
    async with asyncio.timeout(60):
        assert await second is True
    for _ in range(AT_ONCE):
        held.leave("a")
    assert (held._running, held._waiting) == ({}, {})


@pytest.mark.gen_test
async def test_an_answer_that_there_is_no_memory_for_leaves(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    held = here.site.rest.reads
    failed = asyncio.Event()

    def lacking(handler: LogsHandler, chunk: object = None) -> None:
        failed.set()
        raise MemoryError

    monkeypatch.setattr(LogsHandler, "finish", lacking)
    await here.token("poor")
    async with Raw(here.relay.port) as asking:
        asking.send(PAGE % here.tokens["poor"][1].encode())
        await failed.wait()
        await until(lambda: held._running == {})
