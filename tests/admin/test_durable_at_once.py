"""The positions of durable tokens (`admin.durable`) where tokens and buckets change at the same time."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from relay_tornado.log.consumers import Key
from relay_tornado.model import Token
from relay_tornado.registry.contract import Kind
from tests.admin.world import World, positions


@pytest.mark.gen_test
async def test_changes_at_once_keep_the_positions(world: World) -> None:
    """Each has its positions in line before the next one begins: none takes away what another one needs."""
    administration = world.administration
    token, _ = await administration.create_token(durable=True)
    for number in range(5):
        await administration.create_bucket(f"b-{number}", ephemeral=True)
        await asyncio.gather(*(administration.set_bucket(f"b-{number}", ephemeral=False) for _ in range(2)))
        assert len(await positions(world, token.key)) == number + 1
    await asyncio.gather(*(administration.set_token(token.key, durable=durable) for durable in (False, True)))
    assert len(await positions(world, token.key)) == 5
    await asyncio.gather(*(administration.set_bucket("b-0", ephemeral=ephemeral) for ephemeral in (True, False)))
    assert len(await positions(world, token.key)) == 5


@pytest.mark.gen_test
async def test_a_token_that_is_made_while_a_bucket_ceases_to_be_ephemeral(world: World) -> None:
    """Whichever record is put first, the token has its position."""
    administration = world.administration
    await administration.create_bucket("orders", ephemeral=True)
    put = world.registry.put

    async def late(kind: Kind, *arguments: Any, **options: Any) -> Any:
        if kind == "token":
            await administration.set_bucket("orders", ephemeral=False)
        return await put(kind, *arguments, **options)

    world.registry.put = late  # type: ignore[method-assign, assignment]
    token, _ = await administration.create_token(durable=True)
    assert await positions(world, token.key) == {"orders": 0}
    await administration.set_bucket("orders", ephemeral=True)

    async def early(kind: Kind, *arguments: Any, **options: Any) -> Any:
        if kind == "bucket":
            world.registry.put = put  # type: ignore[method-assign]
            tokens.append((await administration.create_token(durable=True))[0])
        return await put(kind, *arguments, **options)

    tokens: list[Token] = []
    world.registry.put = early  # type: ignore[method-assign, assignment]
    await administration.set_bucket("orders", ephemeral=False)
    assert await positions(world, tokens[0].key) == {"orders": 0}


@pytest.mark.gen_test
async def test_a_bucket_and_a_token_made_at_the_same_time(world: World) -> None:
    """Whichever record is put first, the token has its position."""
    for number in range(10):
        (token, _), _ = await asyncio.gather(
            world.administration.create_token(durable=True), world.administration.create_bucket(f"b-{number}")
        )
        assert len(await positions(world, token.key)) == number + 1


@pytest.mark.gen_test
async def test_a_bucket_that_is_made_while_a_token_becomes_durable(world: World) -> None:
    """Neither sees the other before both are stored: the token has its position all the same."""
    administration = world.administration
    token, _ = await administration.create_token()
    put = world.registry.put

    async def late(*arguments: Any, **options: Any) -> Any:
        world.registry.put = put  # type: ignore[method-assign]
        await administration.create_bucket("orders")
        return await put(*arguments, **options)

    world.registry.put = late  # type: ignore[method-assign, assignment]
    await administration.set_token(token.key, durable=True)
    assert await positions(world, token.key) == {"orders": 0}


@pytest.mark.parametrize("made", ["bucket", "stored again", "token", "durable"])
@pytest.mark.gen_test
async def test_a_position_that_is_taken_away_as_it_is_made(world: World, made: str) -> None:
    """Whoever revokes the token, or makes the bucket ephemeral, just then does not see what is made: it leaves all the
    same, and retention waits for nobody who can't come."""
    administration = world.administration
    await administration.create_bucket("orders", ephemeral=made == "stored again")
    token, _ = await administration.create_token(durable=made in ("bucket", "stored again"))
    put = world.registry.put

    async def late(*arguments: Any, **options: Any) -> Any:
        world.registry.put = put  # type: ignore[method-assign]
        if made in ("bucket", "stored again"):
            await administration.revoke_token(token.key)
        else:
            await administration.set_bucket("orders", ephemeral=True)
        return await put(*arguments, **options)

    world.registry.put = late  # type: ignore[method-assign, assignment]
    if made == "bucket":
        await administration.create_bucket("billing")
    elif made == "stored again":
        await administration.set_bucket("orders", ephemeral=False)
    elif made == "token":
        await administration.create_token(durable=True)
    else:
        await administration.set_token(token.key, durable=True)
    assert await world.consumers.list() == []


@pytest.mark.gen_test
async def test_a_token_that_is_revoked_as_a_bucket_becomes_ephemeral(world: World) -> None:
    """Its position leaves, though the bucket does not find the token any more, nor the token a bucket that has one."""
    administration = world.administration
    await administration.create_bucket("orders")
    token, _ = await administration.create_token(durable=True)
    put = world.registry.put

    async def then_revoked(*arguments: Any, **options: Any) -> Any:
        world.registry.put = put  # type: ignore[method-assign]
        revision = await put(*arguments, **options)
        await administration.revoke_token(token.key)
        return revision

    world.registry.put = then_revoked  # type: ignore[method-assign, assignment]
    await administration.set_bucket("orders", ephemeral=True)
    assert await world.consumers.list() == []


@pytest.mark.gen_test
async def test_a_position_that_is_taken_away_as_it_is_completed(world: World) -> None:
    """Its token is made while the bucket is, and revoked right as the bucket gives it its position."""
    administration = world.administration
    put, create = world.registry.put, world.consumers.create_some
    made: list[Token] = []

    async def with_token(*arguments: Any, **options: Any) -> Any:
        world.registry.put = put  # type: ignore[method-assign]
        made.append((await administration.create_token(durable=True))[0])
        return await put(*arguments, **options)

    async def without(*arguments: Any) -> Any:
        await administration.revoke_token(made[0].key)
        return await create(*arguments)

    world.registry.put = with_token  # type: ignore[method-assign, assignment]
    world.consumers.create_some = without  # type: ignore[method-assign, assignment]
    await administration.create_bucket("orders")
    assert await world.consumers.list() == []


@pytest.mark.parametrize("again", ["durable", "stored again"])
@pytest.mark.gen_test
async def test_a_position_that_is_wanted_again_as_it_is_taken_away(world: World, again: str) -> None:
    """It is there afterwards: without it, the token would miss what comes until its client is back."""
    administration = world.administration
    orders = await administration.create_bucket("orders", ephemeral=again == "durable")
    token, _ = await administration.create_token(durable=again == "durable")
    put, delete = world.registry.put, world.consumers.delete
    changes: list[asyncio.Task[Any]] = []

    def change(wanted: bool) -> Coroutine[Any, Any, Any]:
        if again == "durable":
            return administration.set_token(token.key, durable=wanted)
        return administration.set_bucket("orders", ephemeral=not wanted)

    async def unwanted(*arguments: Any, **options: Any) -> Any:
        world.registry.put = put  # type: ignore[method-assign]
        await change(wanted=False)
        world.consumers.delete = late  # type: ignore[method-assign]
        return await put(*arguments, **options)

    async def late(key: Key) -> bool:
        world.consumers.delete = delete  # type: ignore[method-assign]
        changes.append(asyncio.create_task(change(wanted=True)))
        for _ in range(100):  # it goes as far as it can
            await asyncio.sleep(0)
        return await delete(key)

    world.registry.put = unwanted  # type: ignore[method-assign, assignment]
    if again == "durable":
        await administration.set_bucket("orders", ephemeral=False)
    else:
        await administration.set_token(token.key, durable=True)
    await asyncio.gather(*changes)
    assert len(changes) == 1
    assert await positions(world, token.key) == {orders.name: 0}
