"""What is done without being asked for: registry and log in line, and old events removed."""

import asyncio

import pytest
from structlog.testing import capture_logs

from relay_tornado.admin.housekeeping import Reconciled
from relay_tornado.errors import BucketGone, Unavailable
from relay_tornado.ids import new_epoch, new_uuid
from relay_tornado.model import Retention
from tests.admin.world import OpenWorld, event


@pytest.mark.gen_test
async def test_reconcile_completes_what_was_cut_off(open_world: OpenWorld) -> None:
    """A log that nobody knows is dropped, a bucket without a log gets one, and what is in line stays."""
    async with open_world() as world:
        kept = await world.administration.create_bucket("kept")
        await world.log.append(kept.id, event())
        unlogged = await world.administration.create_bucket("unlogged")
        await world.log.drop(unlogged.id)
        stray = new_uuid()
        await world.log.create(stray, new_epoch())
        assert await world.administration.reconcile() == Reconciled(created=1, dropped=1)
        assert set(await world.log.buckets()) == {kept.id, unlogged.id}
        assert (await world.log.bounds(kept.id)).head == 1
        assert (await world.log.append(unlogged.id, event())).seq == 1
        with pytest.raises(BucketGone):
            await world.log.append(stray, event())
        assert await world.administration.reconcile() == Reconciled(created=0, dropped=0)


@pytest.mark.gen_test
async def test_each_bucket_is_trimmed_by_its_own_rule(open_world: OpenWorld) -> None:
    """Events over a bucket's number leave, oldest first; another bucket's stay."""
    async with open_world() as world:
        few = await world.administration.create_bucket("few", retention={"max_events": 2})
        all_ = await world.administration.create_bucket("all")
        for _ in range(5):
            await world.log.append(few.id, event())
            await world.log.append(all_.id, event())
        assert await world.administration.trim_all() == 3
        assert ((await world.log.bounds(few.id)).first, (await world.log.bounds(all_.id)).first) == (4, 1)
        await world.administration.set_bucket("all", retention={"max_events": 1})
        assert await world.administration.trim_all() == 4


@pytest.mark.gen_test
@pytest.mark.parametrize(("grace", "expected"), [(600.0, Retention(None, 9, 10)), (0.0, Retention(5.0, 9, 10))])
async def test_age_is_asked_of_the_clock(open_world: OpenWorld, grace: float, expected: Retention) -> None:
    """Within the grace after a start no bucket's age counts, after it it does; the other limits always do."""
    async with open_world(retention_grace=grace) as world:
        keep = {"max_age": 5, "max_events": 9, "max_bytes": 10}
        bucket = await world.administration.create_bucket("orders", retention=keep)
        asked: list[tuple[str, Retention, int | None]] = []

        async def note(bucket_id: str, keep: Retention, floor: int | None) -> int:
            asked.append((bucket_id, keep, floor))
            return 0

        world.log.trim = note  # type: ignore[method-assign]
        await world.administration.trim_all()
        assert asked == [(bucket.id, expected, None)]


@pytest.mark.gen_test
async def test_one_bucket_keeps_no_other_from_being_trimmed(open_world: OpenWorld) -> None:
    """A bucket whose log fails is passed over and logged, one that is just being deleted is passed over."""
    async with open_world() as world:
        for name in ("failing", "gone", "fine"):
            await world.administration.create_bucket(name, retention={"max_events": 1})
        fine = world.administration.find_bucket("fine")
        await world.log.drop(world.administration.find_bucket("gone").id)
        for _ in range(3):
            await world.log.append(fine.id, event())
        failing, trim = world.administration.find_bucket("failing").id, world.log.trim

        async def failing_trim(bucket_id: str, keep: Retention, floor: int | None) -> int:
            if bucket_id == failing:
                raise Unavailable("the disk failed")
            return await trim(bucket_id, keep, floor)

        world.log.trim = failing_trim  # type: ignore[method-assign]
        with capture_logs() as logs:
            assert await world.administration.trim_all() == 2
        assert [(line["event"], line["bucket_id"]) for line in logs] == [("trim_failed", failing)]


@pytest.mark.gen_test
async def test_housekeeping_goes_on(open_world: OpenWorld) -> None:
    """It trims again and again, also after a pass that failed, until it is cancelled."""
    async with open_world(retention_interval=0.001) as world:
        bucket = await world.administration.create_bucket("orders", retention={"max_events": 1})
        trim, passes, third = world.log.trim, 0, asyncio.Event()

        async def counted(bucket_id: str, keep: Retention, floor: int | None) -> int:
            nonlocal passes
            passes += 1
            if passes == 1:
                raise RuntimeError("a bug")
            left = await trim(bucket_id, keep, floor)
            if passes == 3:
                third.set()
            return left

        world.log.trim = counted  # type: ignore[method-assign]
        for _ in range(4):
            await world.log.append(bucket.id, event())
        task = asyncio.create_task(world.administration.run_housekeeping())
        await asyncio.wait_for(third.wait(), 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await world.log.bounds(bucket.id)).first == 4
