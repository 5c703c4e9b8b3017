"""Which consumers retention waits for, and logs that outgrow their limits between two passes."""

from __future__ import annotations

import asyncio
from contextlib import closing
from unittest.mock import AsyncMock

import pytest
from structlog.testing import capture_logs

from relay_tornado.admin import growth, housekeeping
from relay_tornado.log.consumers import Key, Kind, Terms
from relay_tornado.log.ledgers import Ledgers
from relay_tornado.model import Bucket, Retention
from tests.admin.world import OpenWorld, World, event
from tests.waiting import until

WAITING = {"max_age": None, "max_events": 1, "max_bytes": None, "wait_for_consumers": True}


async def consumer(world: World, bucket: Bucket, floor: int, kind: Kind = "client", name: str = "worker") -> Ledgers:
    ledgers = world.administration.ledgers
    await ledgers.store.create(Key(bucket.id, kind, name), floor, Terms(), 1.0)
    return ledgers


async def first(world: World, bucket: Bucket) -> int:
    await world.administration.housekeeping.trim_all()
    return (await world.log.bounds(bucket.id)).first


@pytest.mark.gen_test
async def test_retention_waits_for_consumers(world: World) -> None:
    """What one of them is not done with stays where the bucket is told to wait, and nowhere else."""
    waiting = await world.administration.create_bucket("waiting", retention=WAITING)
    hasty = await world.administration.create_bucket("hasty", retention={"max_events": 1})
    for bucket in (waiting, hasty):
        await world.fill(bucket.id, 9)
        await consumer(world, bucket, 3)
        ledgers = await consumer(world, bucket, 5, "output", "1")
        await consumer(world, bucket, 0, "events", "0")
    assert (await first(world, waiting), await first(world, hasty)) == (4, 9)
    async with ledgers.using(Key(waiting.id, "client", "worker")) as ledger:
        taken = ledger.progress.take(9, 9, 0.0)
        for one in taken[1:]:
            ledger.progress.done(one)
        ledger.progress.fail(taken[0], 1e12, 0.0)
    await ledgers.store.saved()
    assert await first(world, waiting) == 4
    async with ledgers.using(ledger.key) as ledger:
        (again,) = ledger.progress.take(9, 9, 1e12)
        ledger.progress.done(again)
    await ledgers.store.saved()
    assert await first(world, waiting) == 6
    await ledgers.delete(Key(waiting.id, "output", "1"))
    assert await first(world, waiting) == 9


@pytest.mark.gen_test
async def test_waiting_has_an_end(world: World) -> None:
    """Over the hard limit events leave all the same, and who uses a consumer then learns of it."""
    size = event(b"x" * 100).size
    keep = {**WAITING, "hard_max_bytes": 4 * size}
    bucket = await world.administration.create_bucket("orders", retention=keep)
    await world.fill(bucket.id, 10, b"x" * 100)
    ledgers = await consumer(world, bucket, 2)
    async with ledgers.using(Key(bucket.id, "client", "worker")) as ledger:
        told: list[int] = []
        ledger.watch(lambda: told.append(1))
        with capture_logs() as logs:
            assert await first(world, bucket) == 7
        assert [each["event"] for each in logs] == ["consumers_overtaken", "consumer_gap"]
        assert (logs[0]["events"], logs[1]["first"], logs[1]["last"]) == (4, 3, 6)
        assert told == [1]
        assert ledger.progress.floor == 6
    await world.administration.set_bucket("orders", retention={"hard_max_bytes": None})
    assert await first(world, bucket) == 7


@pytest.mark.gen_test
async def test_who_is_overtaken_is_told_of_once(world: World) -> None:
    """And that it is over, with how many events it were, once nobody lacks one any more; then it may begin anew."""
    size = event(b"x" * 100).size
    keep = {"max_bytes": None, "wait_for_consumers": True, "hard_max_bytes": 4 * size}
    bucket = await world.administration.create_bucket("orders", retention=keep)
    ledgers = await consumer(world, bucket, 0)
    told: list[tuple[str, int]] = []

    async def passes(*counts: int) -> None:
        for count in counts:
            await world.fill(bucket.id, count, b"x" * 100)
            with capture_logs() as logs:
                await world.administration.housekeeping.trim_all()
            told.extend((each["event"], each["events"]) for each in logs)

    await passes(4, 3, 0, 2)
    assert told == [("consumers_overtaken", 3)]
    await ledgers.delete(Key(bucket.id, "client", "worker"))
    await consumer(world, bucket, 7)
    await passes(2)
    assert told == [("consumers_overtaken", 3), ("consumers_overtaken_no_more", 5)]
    told.clear()
    await passes(1, 0)
    assert told == [("consumers_overtaken", 1)]
    await world.administration.delete_bucket("orders")
    await passes(0)
    assert told == [("consumers_overtaken", 1)]
    assert world.administration.housekeeping._overtaken == {}


@pytest.mark.gen_test
async def test_waiting_has_an_end_where_nobody_is_waited_for(world: World) -> None:
    """The hard limit counts in a bucket without a consumer, too, and nobody is overtaken there."""
    size = event(b"x" * 100).size
    keep = {"max_bytes": None, "wait_for_consumers": True, "hard_max_bytes": 4 * size}
    bucket = await world.administration.create_bucket("orders", retention=keep)
    await world.fill(bucket.id, 10, b"x" * 100)
    with capture_logs() as logs:
        assert await first(world, bucket) == 7
    assert logs == []


@pytest.mark.gen_test
async def test_retention_waits_for_a_durable_token_that_has_not_come(world: World) -> None:
    """One that was there before the bucket begins at its first event, so that event stays until it was read; a later
    one begins at the head."""
    token, _ = await world.administration.create_token(durable=True)
    bucket = await world.administration.create_bucket("orders", retention=WAITING)
    await world.fill(bucket.id, 5)
    assert await first(world, bucket) == 1
    ledgers = world.administration.ledgers
    async with ledgers.using(Key(bucket.id, "token", token.key)) as ledger:
        ledger.progress.advance(3)
    await ledgers.store.saved()
    assert await first(world, bucket) == 4
    await world.administration.create_token(durable=True)
    assert await first(world, bucket) == 4


@pytest.mark.parametrize(("grace", "then"), [(0.0, 5), (600.0, 1)], ids=["sure", "in doubt"])
@pytest.mark.gen_test
async def test_retention_waits_for_no_token_that_has_expired(open_world: OpenWorld, grace: float, then: int) -> None:
    """Nobody can come for what it is not done with: but its position stays, and it is waited for while the clock is in
    doubt."""
    async with open_world(retention_grace=grace) as world:
        token, _ = await world.administration.create_token(durable=True, expires_at=world.now + 100)
        bucket = await world.administration.create_bucket("orders", retention=WAITING)
        await world.fill(bucket.id, 5)
        assert await first(world, bucket) == 1
        world.now += 100
        assert await first(world, bucket) == then
        (stored,) = await world.administration.ledgers.store.list()
        assert stored.key.name == token.key


@pytest.mark.parametrize(("prolonged", "then"), [(False, 9), (True, 5)], ids=["expired", "prolonged"])
@pytest.mark.gen_test
async def test_a_trim_between_two_passes_waits_for_no_token_that_has_expired(
    open_world: OpenWorld, monkeypatch: pytest.MonkeyPatch, prolonged: bool, then: int
) -> None:
    """As of the last pass, which knows whether the clock can be trusted; but for one that was prolonged since."""
    monkeypatch.setattr(growth, "_MUCH", 3 * event().size)
    async with open_world(retention_grace=0.0) as world:
        token, _ = await world.administration.create_token(durable=True, expires_at=world.now + 100)
        bucket = await world.administration.create_bucket("orders", retention=WAITING)
        keeper = world.administration.housekeeping
        came = world.log.watch(None, keeper._growth.came)
        await world.fill(bucket.id, 5)
        world.now += 100
        assert await first(world, bucket) == 5
        if prolonged:
            await world.administration.set_token(token.key, expires_at=world.now + 100)
        await world.fill(bucket.id, 4)
        await keeper.trim_grown()
        assert (await world.log.bounds(bucket.id)).first == then
        came.close()


@pytest.mark.gen_test
async def test_tokens_are_looked_at_once_for_all_buckets(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are thousands of both, each of the one for each of the other would take minutes."""
    for name in ("orders", "billing", "stock"):
        await world.administration.create_bucket(name, retention=WAITING)
    asked = []
    listed = world.registry.list
    monkeypatch.setattr(world.registry, "list", lambda kind: asked.append(kind) or listed(kind))
    await world.administration.housekeeping.trim_all()
    assert asked.count("token") == 1


@pytest.mark.gen_test
@pytest.mark.parametrize("limit", ["max_bytes", "max_events", "hard_max_bytes"])
async def test_a_log_that_outgrows_its_limit_is_trimmed_between_two_passes(
    open_world: OpenWorld, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    """Senders may fill a disk in the time from one pass to the next."""
    monkeypatch.setattr(housekeeping, "_LOOK", 0.001)
    monkeypatch.setattr(growth, "_MUCH", 3 * event().size)
    async with open_world(retention_interval=3600.0) as world:
        most = 2 if limit == "max_events" else 2 * event().size
        keep = {"max_bytes": None, "wait_for_consumers": limit == "hard_max_bytes", limit: most}
        bucket = await world.administration.create_bucket("orders", retention=keep)
        if limit == "hard_max_bytes":
            await consumer(world, bucket, 0)
        other = await world.administration.create_bucket("other")
        task = asyncio.create_task(world.administration.housekeeping.run())
        await asyncio.sleep(0)
        for each in (bucket, other):
            await world.fill(each.id, 4)
        await until(lambda: world.log.held(bucket.id).events == 2)
        task.cancel()
        await asyncio.wait([task])
        assert (world.log.held(bucket.id).events, world.log.held(other.id).events) == (2, 4)


@pytest.mark.gen_test
async def test_a_log_is_looked_at_again_once_it_has_grown(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at each event, where consumers keep it beyond its limit, and not without new events; nor for old ones, as
    only a pass knows whether the clock can be trusted."""
    monkeypatch.setattr(growth, "_MUCH", 3 * event().size)
    bucket = await world.administration.create_bucket("waiting", retention={**WAITING, "max_age": 60})
    await consumer(world, bucket, 0)
    looked: list[str] = []
    ages: set[float | None] = set()
    trim = world.log.trim

    async def counted(bucket_id: str, keep: Retention, floor: int | None) -> int:
        looked.append(bucket_id)
        ages.add(keep.max_age)
        return await trim(bucket_id, keep, floor)

    world.log.trim = counted  # type: ignore[method-assign]
    keeper = world.administration.housekeeping
    came = world.log.watch(None, keeper._growth.came)
    counts = []
    for _ in range(12):
        await world.log.append(bucket.id, event())
        assert await keeper.trim_grown() == 0
        counts.append(len(looked))
    assert counts == [0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3]
    assert ages == {None}
    assert await keeper.trim_grown() == 0
    assert len(looked) == 3
    await world.administration.delete_bucket("waiting", force=True)
    assert await keeper.trim_grown() == 0
    came.close()


@pytest.mark.gen_test
async def test_a_large_log_is_looked_at_more_seldom(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where consumers keep it: each time once it has grown by a share of what it was."""
    monkeypatch.setattr(growth, "_MUCH", 1)
    monkeypatch.setattr(growth, "_SHARE", 2)
    bucket = await world.administration.create_bucket("waiting", retention=WAITING)
    await consumer(world, bucket, 0)
    keeper = world.administration.housekeeping
    with closing(world.log.watch(None, keeper._growth.came)):
        looked = []
        for number in range(1, 15):
            await world.log.append(bucket.id, event())
            trim = AsyncMock(return_value=0)
            with monkeypatch.context() as patch:
                patch.setattr(world.log, "trim", trim)
                await keeper.trim_grown()
            looked += [number] * trim.await_count
    assert looked == [2, 4, 7, 11]


@pytest.mark.gen_test
async def test_a_hard_limit_is_for_those_that_wait(world: World) -> None:
    """One that is left over from when the bucket waited for its consumers removes nothing."""
    free = {"max_age": None, "max_events": None, "max_bytes": None}
    hard = {**free, "wait_for_consumers": True, "hard_max_bytes": 1}
    bucket = await world.administration.create_bucket("orders", retention=hard)
    await world.fill(bucket.id, 5)
    changed = await world.administration.set_bucket("orders", retention={**hard, "wait_for_consumers": False})
    assert changed.retention.hard_max_bytes == 1
    assert await world.administration.housekeeping.trim_all() == 0


@pytest.mark.gen_test
async def test_a_pass_that_fails_is_not_the_last(open_world: OpenWorld) -> None:
    """Whatever is raised, it is logged, and the next pass comes when it is due."""
    async with open_world(retention_interval=0.01) as world:
        keeper = world.administration.housekeeping
        passes = AsyncMock(side_effect=[ZeroDivisionError, *[0] * 1000])
        keeper.trim_all = passes  # type: ignore[method-assign]
        with capture_logs() as logs:
            task = asyncio.create_task(keeper.run())
            await until(lambda: passes.await_count > 1 or task.done())
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert [each["event"] for each in logs] == ["housekeeping_failed"]
