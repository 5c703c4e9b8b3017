"""/v1/socket: who may be connected, for how long, and how much they may send."""

import contextlib
import json
import time

import pytest
from websockets.exceptions import ConnectionClosed

from tests.failing import lose_timers
from tests.handlers.sockets import Live, live
from tests.waiting import until


@pytest.mark.gen_test
async def test_a_revoked_token_closes_its_sockets(server: Live) -> None:
    """4503 for all of them, and for nobody else."""
    await server.bucket()
    token, other = await server.token(), await server.token()
    clients = [await server.subscribed(token=token), await server.authenticated(token)]
    bystander = await server.subscribed(token=other)
    await server.registry.delete("token", token[0])
    assert [(await client.end())[0] for client in clients] == [4503, 4503]
    await server.append(1)
    assert (await bystander.hear())["type"] == "webhook"
    assert server.clients.count == 1


@pytest.mark.gen_test
@pytest.mark.parametrize("lost", [False, True])
async def test_an_expired_token_closes_its_sockets(server: Live, lost: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """4504, when its time has come, also where there was no memory to set a timer."""
    if lost:
        lose_timers(monkeypatch)
    client = await server.authenticated(await server.token(lasts=5.0))
    assert (await client.end())[0] == 4504


@pytest.mark.gen_test
async def test_an_expiry_may_be_moved(server: Live) -> None:
    """A longer or a shorter life that a token is given counts for its live sockets."""
    await server.bucket()
    longer, shorter = await server.token(lasts=5.0), await server.token()
    kept, ended = await server.subscribed(token=longer), await server.subscribed(token=shorter)
    now = time.time()
    for key, lasts in ((longer[0], 3600), (shorter[0], 5.0)):
        await server.change_token(key, expires_at=now + lasts)
    assert (await ended.end())[0] == 4504
    await server.append(1)
    assert (await kept.hear())["type"] == "webhook"


@pytest.mark.gen_test
async def test_there_are_only_so_many_sockets() -> None:
    """One too many is accepted and closed with 4029, and comes in once another has left."""
    async with live(max_sockets=2) as server:
        token = await server.token()
        clients = [await server.authenticated(token) for _ in range(2)]
        code, reason = await (await server.client()).end()
        assert code == 4029
        assert "2" in reason
        assert server.clients.count == 2
        clients[0].abort()
        await until(lambda: server.clients.count == 1)
        await server.authenticated(token)


@pytest.mark.gen_test
async def test_addresses_have_their_limit() -> None:
    """IPv4 by address, IPv6 by its /64, also where IPv4 is mapped; loopback is not counted."""
    async with live(max_sockets_per_address=1) as server:
        token = await server.token()

        async def refused(address: str) -> bool:
            client = await server.client(additional_headers={"X-Forwarded-For": address})
            with contextlib.suppress(ConnectionClosed):
                await client.sign_in(*token)
                return False
            return (await client.end())[0] == 4029

        assert not await refused("192.0.2.1")
        assert await refused("192.0.2.1")
        assert await refused("::ffff:192.0.2.1")
        assert not await refused("192.0.2.2")
        assert not await refused("2001:db8:0:1::1")
        assert await refused("2001:db8:0:1:ffff::2")
        assert not await refused("2001:db8:0:2::1")
        for _ in range(3):
            assert not await refused("127.0.0.1")
            assert not await refused("::1")


@pytest.mark.gen_test
async def test_who_leaves_gives_a_place_of_its_address_back() -> None:
    """One place, however many have others; and nothing is kept of an address that nobody comes from any more."""
    async with live(max_sockets_per_address=2) as server:
        token = await server.token()
        address = {"additional_headers": {"X-Forwarded-For": "192.0.2.1"}}
        clients = [await server.authenticated(token, **address) for _ in range(2)]
        for _ in range(2):
            clients.pop(0).abort()
            await until(lambda: server.clients.count == 1)
            clients.append(await server.authenticated(token, **address))
            assert (await (await server.client(**address)).end())[0] == 4029
        for client in clients:
            client.abort()
        await until(lambda: server.clients.count == 0)
        assert server.clients._addresses == {}


@pytest.mark.gen_test
async def test_messages_have_their_size() -> None:
    """Over 8 KiB before auth: 1009. After it an answer of a megabyte is read, and a little more is not."""
    async with live(max_message=1 << 20) as server:
        client = await server.client()
        await client.say("x" * 8193)
        code, reason = await client.end()
        assert code == 1009
        assert "8192" in reason
        client = await server.authenticated()
        await client.say(json.dumps({"action": "pong"}).ljust(1 << 20))
        await client.subscribe()
        await client.say("x" * ((1 << 20) + 1))
        assert (await client.end())[0] == 1009


@pytest.mark.gen_test
async def test_huge_messages_cost_no_memory(server: Live) -> None:
    """Before auth a message that says it is large is not even read."""
    client = await server.client()
    with contextlib.suppress(Exception):
        await client.say("x" * (4 << 20))
    await until(lambda: server.clients.count == 0)
