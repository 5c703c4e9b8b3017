"""A request whose body ends long after its head: what its sender may is judged when it is carried out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable
from typing import Any

import pytest

from relay_tornado.handlers.tornado_connection import TornadoConnection
from tests.handlers.raw import Raw, Reply
from tests.handlers.rest.world import World
from tests.waiting import until


def bearer(here: World, token: str) -> str:
    return f"Authorization: Bearer {here.tokens[token][1]}\r\n"


async def held(
    here: World, method: str, path: str, body: Any, headers: str, between: Awaitable[object], *, chunked: bool = False
) -> Reply:
    """A request that is let in by its head; what is between happens before its last byte."""
    data = json.dumps(body).encode() if body is not None else b""
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(data)}"
    head = f"{method} {path} HTTP/1.1\r\nHost: {here.url.removeprefix('http://')}\r\n{headers}{framing}\r\n\r\n"
    async with Raw(here.relay.port) as raw:
        raw.send(head.encode() + data[:1])
        site = here.site
        if chunked:
            connections = site.listener.connections
            await until(lambda: any(isinstance(each, TornadoConnection) and each.receiving for each in connections))
        else:
            await until(lambda: site.rest.incoming == 1)
        await between
        return await raw.ask(b"0\r\n\r\n" if chunked else data[1:])


@pytest.mark.gen_test
async def test_what_was_lost_meanwhile_does_not_count(here: World) -> None:
    """A token that is revoked makes no token, one whose scope is narrowed deletes nothing any more, also with a
    body of no bytes; and a failure counts once."""
    counters = here.site.rest.callers.access._counters
    administration = here.relay.administration
    key = await here.token("gone")
    before = counters.auth_failures
    reply = await held(here, "POST", "/v1/tokens", {}, bearer(here, "gone"), administration.revoke_token(key))
    assert (reply.status, len(administration.list_tokens())) == (401, 1)
    assert counters.auth_failures == before + 1
    await here.bucket("kept")
    for chunked in (False, True):
        bucket = await here.bucket(f"orders-{chunked}")
        key = await here.token("some", buckets=["kept", bucket.id])
        path = f"/v1/buckets/{bucket.id}?force=true"
        narrowed = administration.set_token(key, buckets=["kept"])
        body = None if chunked else {}
        reply = await held(here, "DELETE", path, body, bearer(here, "some"), narrowed, chunked=chunked)
        assert (reply.status, administration.find_bucket(bucket.id)) == (404, bucket)


@pytest.mark.gen_test
async def test_a_session_that_ended_meanwhile(here: World) -> None:
    """Who signed out makes no token any more."""
    cookie = await here.cookie()
    headers = f"Origin: {here.url}\r\nCookie: {cookie}\r\n"
    signed_out = here.fetch("DELETE", "/ui/session", None, {"Cookie": cookie, "Origin": here.url})
    reply = await held(here, "POST", "/v1/tokens", {}, headers, signed_out)
    assert (reply.status, len(here.relay.administration.list_tokens())) == (401, 1)


@pytest.mark.parametrize("body", [{"internal": True}, {"destination": "https://evil.example/"}])
@pytest.mark.gen_test
async def test_secrets_that_came_meanwhile_are_kept(here: World, body: dict[str, Any]) -> None:
    """An output that got secrets while a scoped token's PUT was on its way tells and sends them to nobody else."""
    administration = here.relay.administration
    bucket = await here.bucket("orders")
    _, output = await administration.create_output(
        bucket.id, name="o", internal=False, destination="https://shop.example/"
    )
    await here.token("some", buckets=["orders"])
    given = administration.set_output(
        output.id, destination="https://shop.example/?key=hidden", headers={"Authorization": ["hidden"]}
    )
    path = f"/v1/buckets/orders/outputs/{output.id}"
    reply = await held(here, "PUT", path, body, bearer(here, "some"), given)
    assert reply.status == 403
    assert b"hidden" not in reply.body
    now = administration.find_output(output.id)[1]
    assert (now.internal, now.destination) == (False, "https://shop.example/?key=hidden")


@pytest.mark.parametrize("part", ["input", "output"])
@pytest.mark.gen_test
async def test_a_change_is_judged_by_the_one_before_it(here: World, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    """Two at once: a scoped token's takes no secrets that an administrator's brings to another provider's events, or to
    clients."""
    administration = here.relay.administration
    bucket = await here.bucket("orders")
    _, output = await administration.create_output(
        bucket.id, name="o", internal=False, destination="https://shop.example/"
    )
    await here.token("some", buckets=["orders"])
    if part == "input":
        verify = {"provider": "github", "secrets": ["hidden"]}
        given = administration.set_input(bucket.inputs[0].id, verify=verify)
        path, body = f"inputs/{bucket.inputs[0].id}", {"verify": {"provider": "gitlab"}}
    else:
        given = administration.set_output(output.id, destination="https://shop.example/?key=hidden")
        path, body = f"outputs/{output.id}", {"internal": True}
    gate, put = asyncio.Event(), administration._registry.put

    async def late(*what: Any, **how: Any) -> int:
        await gate.wait()
        return await put(*what, **how)

    monkeypatch.setattr(administration._registry, "put", late)
    first = asyncio.create_task(given)
    await until(lambda: administration._turn(bucket.id).locked())
    second = asyncio.create_task(here.call("PUT", f"/v1/buckets/orders/{path}", body, "some"))
    await until(lambda: administration._turn(bucket.id)._waiters)
    gate.set()
    changed, _ = await first
    assert (await second).status == 403
    assert administration.find_bucket(bucket.id) == changed
