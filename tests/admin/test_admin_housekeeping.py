"""What is done without being asked for: registry and log in line, and old events removed."""

import asyncio
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import pytest
from structlog.testing import capture_logs

from relay_tornado.errors import BucketGone, NotFound, Unavailable
from relay_tornado.ids import new_epoch, new_uuid
from relay_tornado.log.consumers import Key, Terms, output_key
from relay_tornado.log.ledgers import Ledgers
from relay_tornado.log.retention_clock import RetentionClock
from relay_tornado.model import UNTIL_IT_ENDS, Retention
from relay_tornado.registry.contract import Kind
from tests.admin.world import OpenWorld, World, event, sqlite_world


@pytest.mark.gen_test
async def test_reconcile_completes_what_was_cut_off(world: World) -> None:
    """A log that nobody knows is dropped, and what is in line stays."""
    kept = await world.administration.create_bucket("kept")
    await world.log.append(kept.id, event())
    stray = new_uuid()
    await world.log.create(stray, new_epoch())
    await world.administration.reconcile()
    assert set(await world.log.buckets()) == {kept.id}
    assert (await world.log.bounds(kept.id)).head == 1
    with pytest.raises(BucketGone):
        await world.log.append(stray, event())
    await world.administration.reconcile()
    assert set(await world.log.buckets()) == {kept.id}


@pytest.mark.gen_test
async def test_a_log_that_can_not_be_dropped_keeps_nobody_from_serving(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where its rows are damaged, say: the other strange ones go, and it does at another start."""
    strays, drop = [new_uuid(), new_uuid()], world.log.drop
    for stray in strays:
        await world.log.create(stray, new_epoch())

    async def failing_drop(bucket_id: str) -> None:
        if bucket_id == strays[0]:
            raise Unavailable("the disk failed")
        await drop(bucket_id)

    with monkeypatch.context() as patch:
        patch.setattr(world.log, "drop", failing_drop)
        await world.administration.reconcile()
    assert set(await world.log.buckets()) == {strays[0]}
    await world.administration.reconcile()
    assert set(await world.log.buckets()) == set()


@pytest.mark.gen_test
async def test_reconcile_removes_the_positions_of_outputs_that_are_not_public(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change of an output that was cut off, or made while no relay runs, leaves one. Nothing else is removed: neither
    another output's position nor a consumer, and where damage hides the bucket's record, none at all."""
    administration = world.administration
    bucket = await administration.create_bucket("orders")
    for name in ("public", "internal", "gone"):
        await administration.create_output("orders", name=name, internal=False, destination="https://shop.example/")
    await administration.set_output("internal", "orders", internal=True)
    await administration.delete_output("gone", "orders")
    await world.log.create("hidden", new_epoch())
    monkeypatch.setattr(world.registry, "traces", AsyncMock(return_value={"hidden"}))
    kept = {output_key(bucket.id, 1), output_key("hidden", 1), Key(bucket.id, "client", "worker")}
    for key in (kept | {output_key(bucket.id, 4)}) - {output_key(bucket.id, 1)}:
        await world.consumers.create(key, 0, Terms(), 1.0)
    await administration.reconcile()
    assert {stored.key for stored in await world.consumers.list()} == kept


@pytest.mark.gen_test
async def test_a_position_that_can_not_be_removed_keeps_no_relay_from_starting(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log says so, and the next start removes it."""

    async def refused(key: Key) -> None:
        raise Unavailable("no")

    bucket = await world.administration.create_bucket("orders")
    await world.consumers.create(output_key(bucket.id, 1), 0, Terms(), 1.0)
    with monkeypatch.context() as patch, capture_logs() as logs:
        patch.setattr(world.consumers, "delete", refused)
        await world.administration.reconcile()
    assert [entry["event"] for entry in logs] == ["output_position_kept"]
    await world.administration.reconcile()
    assert await world.consumers.list() == []


@pytest.mark.gen_test
async def test_damage_removes_nothing(world: World) -> None:
    """Where a bucket's log has another bucket's id by now, no log is dropped or made, however often the relay starts;
    the bucket takes no events, and the others do."""
    damaged = await world.administration.create_bucket("damaged")
    other = await world.administration.create_bucket("other")
    await world.log.drop(damaged.id)
    stray = new_uuid()
    await world.log.create(stray, new_epoch())
    await world.log.append(stray, event())
    for _ in range(2):
        with capture_logs() as logs:
            await world.administration.reconcile()
        assert [(entry["event"], entry["bucket"]) for entry in logs] == [("bucket_without_log", "damaged")]
    assert (await world.log.bounds(stray)).head == 1
    assert (await world.log.append(other.id, event())).seq == 1
    with pytest.raises(BucketGone):
        await world.log.append(damaged.id, event())


@pytest.mark.gen_test
@pytest.mark.parametrize("trace", ["input", "index"])
async def test_a_record_that_damage_hides_costs_no_log(tmp_path: Path, trace: str) -> None:
    """Where a bucket's inputs or the index still speak of it, no log is dropped, however often the relay starts."""
    async with sqlite_world(tmp_path) as world:
        bucket = await world.administration.create_bucket("orders")
        await world.log.append(bucket.id, event())
        await world.log.create(new_uuid(), new_epoch())
    with closing(sqlite3.connect(tmp_path / "relay.db", isolation_level=None)) as raw:
        raw.execute("DELETE FROM bucket" if trace == "input" else "DELETE FROM input")
        (root,) = raw.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'bucket'").fetchone()
        raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    if trace == "index":
        with (tmp_path / "relay.db").open("r+b") as file:
            file.seek((root - 1) * 4096 + 3)
            assert file.read(2) == b"\0\1"  # rows on the page
            file.seek(-1, os.SEEK_CUR)
            file.write(b"\0")
    for _ in range(2):
        async with sqlite_world(tmp_path) as world:
            assert world.administration.list_buckets() == []
            with capture_logs() as logs:
                await world.administration.reconcile()
            assert [(each["event"], each["bucket_id"]) for each in logs] == [("bucket_without_record", bucket.id)]
            assert len(await world.log.buckets()) == 2
            assert (await world.log.bounds(bucket.id)).head == 1


@pytest.mark.gen_test
async def test_nothing_is_dropped_where_the_records_can_not_be_read(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether a log is needed is not known then; the start goes on, and the next one looks again."""
    await world.log.create(new_uuid(), new_epoch())
    with monkeypatch.context() as patch, capture_logs() as logs:
        patch.setattr(world.registry, "traces", AsyncMock(side_effect=Unavailable("malformed")))
        await world.administration.reconcile()
    assert [each["event"] for each in logs] == ["logs_not_reconciled"]
    assert len(await world.log.buckets()) == 1
    await world.administration.reconcile()
    assert not await world.log.buckets()


@pytest.mark.gen_test
async def test_each_bucket_is_trimmed_by_its_own_rule(world: World) -> None:
    """Events over a bucket's number leave, oldest first; another bucket's stay."""
    few = await world.administration.create_bucket("few", retention={"max_events": 2})
    all_ = await world.administration.create_bucket("all")
    for each in (few, all_):
        await world.fill(each.id, 5)
    assert await world.administration.housekeeping.trim_all() == 3
    assert ((await world.log.bounds(few.id)).first, (await world.log.bounds(all_.id)).first) == (4, 1)
    await world.administration.set_bucket("all", retention={"max_events": 1})
    assert await world.administration.housekeeping.trim_all() == 4


@pytest.mark.gen_test
async def test_a_bucket_that_has_expired_is_deleted(open_world: OpenWorld) -> None:
    """At its time, with everything in it, and told; its name is free then, and its tokens stay as after a deletion."""
    async with open_world(retention_grace=0.0) as world:
        administration = world.administration
        trial = await administration.create_bucket("trial", expires_at=world.now + 100)
        kept = await administration.create_bucket("kept", expires_at=world.now + 100)
        for output in ("a", "b"):
            await administration.create_output("trial", name=output)
        await administration.set_bucket("kept", expires_at=None)
        token, _ = await administration.create_token(buckets=["trial"])
        await world.log.append(trial.id, event())
        world.now += 99
        await administration.housekeeping.trim_all()
        assert {bucket.name for bucket in administration.list_buckets()} == {"trial", "kept"}
        world.now += 1
        with capture_logs() as said:
            await administration.housekeeping.trim_all()
        assert [(each["event"], each["bucket"]) for each in said] == [("bucket_expired", "trial")]
        assert [bucket.id for bucket in administration.list_buckets()] == [kept.id]
        with pytest.raises(BucketGone):
            await world.log.bounds(trial.id)
        assert administration.find_token(token.key).buckets == {trial.id}
        await administration.create_bucket("trial")


@pytest.mark.gen_test
async def test_the_token_of_a_command_that_was_killed_goes_once_it_has_expired(open_world: OpenWorld) -> None:
    """Not before, nor while the clock is in doubt; tokens that somebody made stay, expired or not."""
    async with open_world(retention_grace=0.0) as world:
        administration, at = world.administration, world.now + 100
        await administration.create_token(description=f"relay forward{UNTIL_IT_ENDS}", expires_at=at)
        later, _ = await administration.create_token(description=f"relay listen{UNTIL_IT_ENDS}", expires_at=at)
        made = [
            (await administration.create_token(description=description, durable=durable, expires_at=at))[0].key
            for description, durable in (
                ("relay forward", False),
                (f"for the trial{UNTIL_IT_ENDS}", False),
                (f"relay listen{UNTIL_IT_ENDS}", True),
            )
        ]
        world.now += 99
        await administration.set_token(later.key, expires_at=at + 100)
        await administration.housekeeping.trim_all()
        assert len(administration.list_tokens()) == 5
        world.now += 1
        await administration.housekeeping.trim_all()
        assert {token.key for token in administration.list_tokens()} == {later.key, *made}
    async with open_world() as world:
        administration, at = world.administration, world.now - 1
        left, _ = await administration.create_token(description=f"relay forward{UNTIL_IT_ENDS}", expires_at=at)
        await administration.housekeeping.trim_all()
        assert administration.find_token(left.key) == left


@pytest.mark.gen_test
@pytest.mark.parametrize("error", [Unavailable("the disk failed"), sqlite3.DatabaseError("malformed"), TypeError("x")])
async def test_a_token_that_can_not_be_removed_keeps_no_other_from_going(
    open_world: OpenWorld, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Nor one that is prolonged at that moment, which stays."""
    async with open_world(retention_grace=0.0) as world:
        tokens = [
            (
                await world.administration.create_token(
                    description=f"relay {each}{UNTIL_IT_ENDS}", expires_at=world.now + 1
                )
            )[0]
            for each in ("failing", "prolonged", "fine")
        ]
        failing, prolonged, _ = (token.key for token in tokens)
        delete = world.registry.delete

        async def failing_delete(kind: str, key: str, expect: int | None = None) -> None:
            if key == failing:
                raise error
            if key == prolonged:
                await world.administration.set_token(key, expires_at=world.now + 100)
            await delete(kind, key, expect)  # type: ignore[arg-type]

        monkeypatch.setattr(world.registry, "delete", failing_delete)
        world.now += 1
        with capture_logs() as logs:
            await world.administration.housekeeping.trim_all()
        assert [(line["event"], line["token"]) for line in logs] == [("expired_token_kept", failing)]
        assert {token.key for token in world.administration.list_tokens()} == {failing, prolonged}


@pytest.mark.gen_test
async def test_none_expires_while_the_clock_is_in_doubt(open_world: OpenWorld) -> None:
    """Within the grace after a start a bucket stays, whatever its time is."""
    async with open_world(retention_grace=600.0) as world:
        await world.administration.create_bucket("trial", expires_at=world.now + 1)
        world.now += 1000
        await world.administration.housekeeping.trim_all()
        assert world.administration.find_bucket("trial").name == "trial"


@pytest.mark.gen_test
async def test_a_bucket_that_is_kept_at_the_last_moment_stays(
    open_world: OpenWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What somebody changes between the look at it and its removal is not removed."""
    async with open_world(retention_grace=0.0) as world:
        await world.administration.create_bucket("trial", expires_at=world.now + 1)
        world.now += 1
        delete = world.registry.delete

        async def late(kind: str, key: str, expect: int | None = None) -> None:
            await world.administration.set_bucket("trial", expires_at=None)
            await delete(kind, key, expect)  # type: ignore[arg-type]

        monkeypatch.setattr(world.registry, "delete", late)
        await world.administration.housekeeping.trim_all()
        assert world.administration.find_bucket("trial").expires_at is None


@pytest.mark.gen_test
@pytest.mark.parametrize(("grace", "expected"), [(600.0, Retention(None, 9, 10)), (0.0, Retention(7.0, 9, 10))])
async def test_age_is_asked_of_the_clock(
    open_world: OpenWorld, monkeypatch: pytest.MonkeyPatch, grace: float, expected: Retention
) -> None:
    """Within the grace after a start no bucket's age counts, nor do windows of repeats end; after it they do, as the
    clock says. The other limits always count."""
    monkeypatch.setattr(RetentionClock, "age", lambda clock, limit: limit + 2)
    async with open_world(retention_grace=grace) as world:
        keep = {"max_age": 5, "max_events": 9, "max_bytes": 10}
        bucket = await world.administration.create_bucket("orders", retention=keep)
        asked: list[tuple[str, Retention, int | None]] = []

        async def note(bucket_id: str, keep: Retention, floor: int | None) -> int:
            asked.append((bucket_id, keep, floor))
            return 0

        world.log.trim = note  # type: ignore[method-assign]
        world.log.forget_repeats = forgotten = AsyncMock()  # type: ignore[method-assign]
        await world.administration.housekeeping.trim_all()
        assert asked == [(bucket.id, expected, None)]
        assert [each.args for each in forgotten.await_args_list] == ([] if grace else [(bucket.id,)])


@pytest.mark.gen_test
@pytest.mark.parametrize(
    "error", [Unavailable("the disk failed"), sqlite3.OperationalError("integer overflow"), TypeError("not a number")]
)
async def test_one_bucket_keeps_no_other_from_being_trimmed(world: World, error: Exception) -> None:
    """A bucket whose log fails is passed over and logged, one that is just being deleted is passed over."""
    for name in ("failing", "gone", "fine"):
        await world.administration.create_bucket(name, retention={"max_events": 1})
    fine = world.administration.find_bucket("fine")
    await world.log.drop(world.administration.find_bucket("gone").id)
    await world.fill(fine.id, 3)
    failing, trim = world.administration.find_bucket("failing").id, world.log.trim

    async def failing_trim(bucket_id: str, keep: Retention, floor: int | None) -> int:
        if bucket_id == failing:
            raise error
        return await trim(bucket_id, keep, floor)

    world.log.trim = failing_trim  # type: ignore[method-assign]
    with capture_logs() as logs:
        assert await world.administration.housekeeping.trim_all() == 2
    assert [(line["event"], line["bucket_id"]) for line in logs] == [("trim_failed", failing)]


@pytest.mark.gen_test
@pytest.mark.parametrize(
    "error", [Unavailable("the disk failed"), sqlite3.DatabaseError("malformed"), TypeError("not a number")]
)
async def test_one_bucket_keeps_no_other_from_expiring(
    open_world: OpenWorld, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """One that can't be removed now is logged and passed over, and the pass goes on to what is to be trimmed."""
    async with open_world(retention_grace=0.0) as world:
        for name in ("failing", "fine"):
            await world.administration.create_bucket(name, expires_at=world.now + 1)
        failing, delete = world.administration.find_bucket("failing").id, world.registry.delete

        async def failing_delete(kind: str, key: str, expect: int | None = None) -> None:
            if key == failing:
                raise error
            await delete(kind, key, expect)  # type: ignore[arg-type]

        monkeypatch.setattr(world.registry, "delete", failing_delete)
        world.now += 1
        with capture_logs() as logs:
            await world.administration.housekeeping.trim_all()
        assert [line["event"] for line in logs] == ["expired_bucket_kept", "bucket_expired"]
        assert [bucket.name for bucket in world.administration.list_buckets()] == ["failing"]


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
        await world.fill(bucket.id, 4)
        task = asyncio.create_task(world.administration.housekeeping.run())
        await asyncio.wait_for(third.wait(), 60)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await world.log.bounds(bucket.id)).first == 4


@pytest.mark.gen_test
async def test_a_deleted_bucket_takes_its_consumers_along(world: World) -> None:
    """Whoever uses one is told that it is gone."""
    bucket = await world.administration.create_bucket("orders")
    ledgers = world.administration.ledgers
    await ledgers.store.create(Key(bucket.id, "client", "worker"), 0, Terms(), 1.0)
    ledger = await ledgers.open(Key(bucket.id, "client", "worker"))
    told: list[bool] = []
    ledger.watch(lambda: told.append(ledger.gone))
    await world.administration.delete_bucket("orders")
    assert told == [True]
    assert await ledgers.store.list() == []


@pytest.mark.gen_test
async def test_a_start_takes_up_what_was_being_tried(world: World) -> None:
    """Also of a consumer that nobody comes back for: what was tried as often as it may be is dead."""
    bucket = await world.administration.create_bucket("orders")
    await world.fill(bucket.id, 1)
    key = Key(bucket.id, "client", "worker")
    ledger = await Ledgers(world.consumers, world.log).open(key, 0, Terms(30.0, 1))
    (one,) = ledger.progress.take(1, 1, 1.0)
    ledger.progress.begin(one)
    ledger.save()
    await world.consumers.saved()
    await world.administration.reconcile()
    stored = await world.consumers.get(key)
    assert stored is not None
    assert (tuple(stored.tried), stored.dead) == ((), 1)


@pytest.mark.gen_test
async def test_what_is_removed_while_it_is_changed_stays_removed(world: World) -> None:
    """A change is of the record that it began with, and makes no other."""
    administration = world.administration
    bucket = await administration.create_bucket("orders")
    token, _ = await administration.create_token()
    put = world.registry.put

    async def late(kind: Kind, key: str, *arguments: Any, **options: Any) -> Any:
        world.registry.put = put  # type: ignore[method-assign]
        await world.registry.delete(kind, key)
        return await put(kind, key, *arguments, **options)

    for change in (
        lambda: administration.set_bucket(bucket.id, description="new"),
        lambda: administration.set_token(token.key, description="new"),
    ):
        world.registry.put = late  # type: ignore[method-assign, assignment]
        with pytest.raises(NotFound):
            await change()
    assert (administration.list_buckets(), administration.list_tokens()) == ([], [])


@pytest.mark.gen_test
async def test_what_is_prolonged_while_others_expire_stays(open_world: OpenWorld) -> None:
    """Removing one takes a while, and the next is looked at as it is by then."""
    async with open_world(retention_grace=0.0) as world:
        administration, end = world.administration, world.now + 100
        for name in ("one", "two"):
            await administration.create_bucket(name, expires_at=end)
            await administration.create_token(description=f"relay {name}{UNTIL_IT_ENDS}", expires_at=end)
        tokens = administration.list_tokens()
        delete = world.registry.delete

        async def meanwhile(kind: Kind, *arguments: Any) -> None:
            await delete(kind, *arguments)
            if kind == "bucket":
                await administration.set_bucket("two", expires_at=None)
            else:
                await administration.set_token(tokens[1].key, expires_at=end + 100)

        world.registry.delete = meanwhile  # type: ignore[method-assign, assignment]
        world.now += 100
        await administration.housekeeping.trim_all()
        assert [each.name for each in administration.list_buckets()] == ["two"]
        assert [each.key for each in administration.list_tokens()] == [tokens[1].key]
