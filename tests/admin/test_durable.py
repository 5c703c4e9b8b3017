"""The positions of durable tokens (`admin.durable`), as tokens and buckets come, change and go."""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from relay_tornado.admin import durable
from relay_tornado.errors import NoSpace, Unknown
from relay_tornado.log.consumers import Key, Terms
from relay_tornado.model import Bucket, Gap, Token
from relay_tornado.registry.contract import Kind
from relay_tornado.wire.rest import token_document
from tests.admin.world import World, event, positions


@pytest.mark.gen_test
async def test_a_durable_token_has_positions(world: World) -> None:
    """At the head of every bucket that it reads, from when it is durable or gets the bucket on; they leave with it."""
    administration = world.administration
    orders = await administration.create_bucket("orders")
    await administration.create_bucket("billing")
    await administration.create_bucket("brief", ephemeral=True)
    await world.log.append(orders.id, event())
    every, _ = await administration.create_token(durable=True)
    assert token_document(every)["durable"] is True
    assert await positions(world, every.key) == {"orders": 1, "billing": 0}
    await administration.create_bucket("later")
    await administration.create_bucket("fleeting", ephemeral=True)
    assert await positions(world, every.key) == {"orders": 1, "billing": 0, "later": 0}

    one, _ = await administration.create_token(buckets=["billing"])
    assert await positions(world, one.key) == {}
    await administration.set_token(one.key, durable=True)
    assert await positions(world, one.key) == {"billing": 0}
    await world.log.append(orders.id, event())
    await administration.set_token(one.key, buckets=["orders", "billing"])
    assert await positions(world, one.key) == {"orders": 2, "billing": 0}
    await administration.set_token(one.key, buckets=["orders"], description="other")
    assert await positions(world, one.key) == {"orders": 2}
    await administration.rotate_token(one.key)
    assert await positions(world, one.key) == {"orders": 2}
    await administration.set_token(one.key, durable=False)
    assert await positions(world, one.key) == {}
    await administration.revoke_token(every.key)
    assert await positions(world, every.key) == {}


@pytest.mark.gen_test
async def test_many_positions_are_created_together(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a transaction for each, a token of 10,000 buckets would take many seconds."""
    monkeypatch.setattr(durable, "_TOGETHER", 2)
    for number in range(5):
        await world.administration.create_bucket(f"b-{number}")
    create = world.consumers.create_some
    sizes = []

    async def counted(floors: Mapping[Key, int], terms: Terms, at: float) -> None:
        sizes.append(len(floors))
        await create(floors, terms, at)

    world.consumers.create_some = counted  # type: ignore[method-assign]
    token, _ = await world.administration.create_token(durable=True)
    assert sizes == [2, 2, 1]
    assert len(await positions(world, token.key)) == 5


@pytest.mark.gen_test
async def test_positions_of_no_token_leave_at_a_start(world: World) -> None:
    """What a crash left between a token's record and its positions; those of tokens that have some stay."""
    bucket = await world.administration.create_bucket("orders")
    durable, _ = await world.administration.create_token(durable=True)
    plain, _ = await world.administration.create_token()
    for name in ("nobody", plain.key):
        await world.consumers.create(Key(bucket.id, "token", name), 0, Terms(receipt=True), 0)
    await world.consumers.create(Key(bucket.id, "client", "nobody"), 0, Terms(), 0)
    await world.administration.reconcile()
    left = {each.key[1:] for each in await world.consumers.list()}
    assert left == {("token", durable.key), ("client", "nobody")}


@pytest.mark.gen_test
async def test_lacking_positions_are_made_at_a_start(world: World) -> None:
    """In a bucket that is younger than the token at its first event, in another one at the head; none for a token that
    has expired."""
    older = await world.administration.create_bucket("older")
    world.now += 10
    token, _ = await world.administration.create_token(durable=True)
    gone, _ = await world.administration.create_token(durable=True, expires_at=int(world.now) + 5)
    world.now += 10
    younger = await world.administration.create_bucket("younger")
    assert await positions(world, gone.key) == {"older": 0}
    for bucket in (older, younger):
        await world.log.append(bucket.id, event())
        await world.consumers.delete(Key(bucket.id, "token", token.key))
    await world.administration.reconcile()
    assert await positions(world, token.key) == {"older": 1, "younger": 0}
    assert await positions(world, gone.key) == {"older": 0}


@pytest.mark.gen_test
async def test_tokens_without_positions_are_not_looked_at_in_each_bucket(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start with 20,000 of both would look 400 million times, and its service manager would hear nothing of it."""
    looks = 0

    def keeps_position(token: Token, bucket: Bucket) -> bool:
        nonlocal looks
        looks += 1
        return token.durable

    monkeypatch.setattr(Token, "keeps_position", keeps_position)
    for number in range(20):
        await world.administration.create_token()
        await world.administration.create_bucket(f"bucket-{number}")
    await world.administration.reconcile()
    assert looks == 0
    durable, _ = await world.administration.create_token(durable=True)
    begun = looks
    await world.administration.reconcile()
    assert looks - begun <= 2 * 20
    assert durable.key in {each.key.name for each in await world.consumers.list()}


@pytest.mark.gen_test
async def test_what_a_durable_token_misses_is_told_from_the_first_event(world: World) -> None:
    """In a bucket that was made after it, before its client ever came: the lag, and the gap that retention left."""
    token, _ = await world.administration.create_token(durable=True)
    bucket = await world.administration.create_bucket("later", retention={"max_events": 2})
    await world.fill(bucket.id, 6)
    ledgers = world.administration.ledgers
    key = Key(bucket.id, "token", token.key)
    ((_, standing),) = await world.administration.consumers.standings([bucket])
    assert (standing.key, standing.pending) == (key, 6)
    await world.administration.housekeeping.trim_all()
    ledger = await ledgers.open(key)
    assert ledger.gap == Gap("retention", 1, 4)
    assert ledgers.counters.gaps["retention"] == 1
    ledgers.close(ledger)


@pytest.mark.gen_test
async def test_a_bucket_may_be_ephemeral_for_a_while(world: World) -> None:
    """A durable token has no position in it then, and begins at its head of the moment when it is so no longer."""
    administration = world.administration
    token, _ = await administration.create_token(durable=True)
    plain, _ = await administration.create_token()
    gone, _ = await administration.create_token(durable=True, expires_at=int(world.now) + 5)
    bucket = await administration.create_bucket("orders", ephemeral=True)
    world.now += 10
    await world.log.append(bucket.id, event())
    await administration.set_bucket("orders", ephemeral=False)
    assert await positions(world, token.key) == {"orders": 1}
    assert await positions(world, gone.key) == await positions(world, plain.key) == {}
    await world.log.append(bucket.id, event())
    await administration.set_bucket("orders", description="other")
    assert await positions(world, token.key) == {"orders": 1}
    others = [Key(bucket.id, "client", "worker"), Key(bucket.id, "output", "1")]
    for key in others:
        await world.consumers.create(key, 0, Terms(), 0)
    await administration.set_bucket("orders", ephemeral=True)
    assert await positions(world, token.key) == {}
    assert {each.key for each in await world.consumers.list()} == set(others)
    await administration.set_bucket("orders", ephemeral=False)
    assert await positions(world, token.key) == {"orders": 2}


@contextmanager
def full_disk(world: World, key: str) -> Iterator[None]:
    """No record can be put, and the change fails by that; this token has its position in `orders` by then."""
    put = world.registry.put

    async def fail(*arguments: object, **options: object) -> None:
        assert await positions(world, key) == {"orders": 0}
        raise NoSpace("the disk is full")

    world.registry.put = fail  # type: ignore[method-assign, assignment]
    with pytest.raises(NoSpace):
        yield
    world.registry.put = put  # type: ignore[method-assign]


@pytest.mark.gen_test
async def test_a_bucket_that_can_not_be_changed_keeps_no_position(world: World) -> None:
    """What was made for it is removed again."""
    token, _ = await world.administration.create_token(durable=True)
    await world.administration.create_bucket("orders", ephemeral=True)
    with full_disk(world, token.key):
        await world.administration.set_bucket("orders", ephemeral=False)
    assert await positions(world, token.key) == {}


@pytest.mark.parametrize("made", ["token", "durable", "stored again"])
@pytest.mark.gen_test
async def test_a_disk_that_gets_full_between_two_positions(
    world: World, made: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of them is removed again, as nothing comes of the change: retention would wait for it."""
    monkeypatch.setattr(durable, "_TOGETHER", 1)
    administration = world.administration
    for name in ("orders", "billing"):
        await administration.create_bucket(name, ephemeral=made == "stored again")
    tokens = [(await administration.create_token(durable=made == "stored again"))[0] for _ in range(2)]
    create = world.consumers.create_some
    stored: list[Any] = []

    async def last(*arguments: Any) -> Any:
        if stored:
            raise NoSpace("the disk is full")
        stored.append(await create(*arguments))

    world.consumers.create_some = last  # type: ignore[method-assign, assignment]
    changes: dict[str, Callable[[], Awaitable[object]]] = {
        "token": lambda: administration.create_token(durable=True),
        "durable": lambda: administration.set_token(tokens[0].key, durable=True),
        "stored again": lambda: administration.set_bucket("orders", ephemeral=False),
    }
    with pytest.raises(NoSpace):
        await changes[made]()
    assert len(stored) == 1
    assert await world.consumers.list() == []


@pytest.mark.gen_test
async def test_a_bucket_without_its_positions_is_not_made(world: World) -> None:
    """Where they can't be stored, nobody finds the bucket, and its log is dropped."""
    await world.administration.create_token(durable=True)

    async def fail(*arguments: object) -> None:
        raise NoSpace("the disk is full")

    world.consumers.create_some = fail  # type: ignore[method-assign, assignment]
    with pytest.raises(NoSpace):
        await world.administration.create_bucket("orders")
    assert world.administration.list_buckets() == []
    assert list(await world.log.buckets()) == []


@pytest.mark.gen_test
async def test_a_token_that_can_not_be_changed_keeps_no_position(world: World) -> None:
    """What was made for it is removed again: retention may wait for it."""
    administration = world.administration
    orders = await administration.create_bucket("orders")
    token, _ = await administration.create_token(buckets=["orders"])
    with full_disk(world, token.key):
        await administration.set_token(token.key, durable=True)
    assert await positions(world, token.key) == {}
    await world.log.append(orders.id, event())
    await administration.set_token(token.key, durable=True)
    assert await positions(world, token.key) == {"orders": 1}


def changes_of(world: World) -> dict[str, Callable[[], Awaitable[object]]]:
    """By name, what gives a position in a bucket; `make_ready` is done before."""
    administration = world.administration
    public = {"internal": False, "destination": "https://shop.example/"}
    return {
        "token": lambda: administration.create_token(durable=True),
        "durable": lambda: administration.set_token(administration.list_tokens()[0].key, durable=True),
        "stored again": lambda: administration.set_bucket("orders", ephemeral=False),
        "bucket": lambda: administration.create_bucket("later"),
        "public": lambda: administration.create_output("orders", **public),
    }


async def make_ready(world: World, made: str) -> Bucket:
    """The bucket `orders`, as that change finds it."""
    orders = await world.administration.create_bucket("orders", ephemeral=made == "stored again")
    world.now += 1  # at a start, a token younger than a bucket gets its position at the head
    await world.administration.create_token(durable=made in ("stored again", "bucket"))
    return orders


CHANGES = ("token", "durable", "stored again", "bucket", "public")


@pytest.mark.parametrize("made", CHANGES)
@pytest.mark.gen_test
async def test_what_comes_as_soon_as_the_record_is_there_is_not_missed(world: World, made: str) -> None:
    """The position is made before: an event may come at once, and comes after it."""
    orders = await make_ready(world, made)
    put = world.registry.put

    async def then_an_event(kind: Kind, key: str, *arguments: Any, **options: Any) -> Any:
        world.registry.put = put  # type: ignore[method-assign]
        revision = await put(kind, key, *arguments, **options)
        await world.log.append(key if kind == "bucket" else orders.id, event())
        return revision

    world.registry.put = then_an_event  # type: ignore[method-assign, assignment]
    await changes_of(world)[made]()
    assert {each.floor for each in await world.consumers.list()} == {0}


@pytest.mark.parametrize("made", CHANGES)
@pytest.mark.gen_test
async def test_a_change_of_unknown_outcome_keeps_its_positions(world: World, made: str) -> None:
    """It may have been stored: what comes until the next start, which finds out, is not missed."""
    orders = await make_ready(world, made)
    put = world.registry.put

    async def unknown(*arguments: Any, **options: Any) -> None:
        world.registry.put = put  # type: ignore[method-assign]
        await put(*arguments, **options)
        raise Unknown("the disk said nothing")

    world.registry.put = unknown  # type: ignore[method-assign, assignment]
    with pytest.raises(Unknown):
        await changes_of(world)[made]()
    for bucket in world.administration.list_buckets():
        await world.log.append(bucket.id, event())
    await world.administration.reconcile()
    found = await world.consumers.list()
    assert {each.floor for each in found} == {0}
    assert orders.id in {each.key.bucket_id for each in found}


@pytest.mark.gen_test
async def test_a_position_that_can_not_be_completed_is_made_at_the_next_start(world: World) -> None:
    """The record is stored by then, so the change has succeeded."""
    administration = world.administration
    await administration.create_bucket("orders", ephemeral=True)
    put, create = world.registry.put, world.consumers.create_some

    async def fail(*arguments: object) -> None:
        raise NoSpace("the disk is full")

    async def late(*arguments: Any, **options: Any) -> Any:
        world.registry.put = put  # type: ignore[method-assign]
        await administration.set_bucket("orders", ephemeral=False)
        world.consumers.create_some = fail  # type: ignore[method-assign, assignment]
        return await put(*arguments, **options)

    world.registry.put = late  # type: ignore[method-assign, assignment]
    token, _ = await administration.create_token(durable=True)
    assert await positions(world, token.key) == {}
    world.consumers.create_some = create  # type: ignore[method-assign]
    await administration.reconcile()
    assert await positions(world, token.key) == {"orders": 0}
