"""Consumers whose record is damaged: the relay starts, nobody begins elsewhere unnoticed, and they can be mended."""

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from relay_tornado.admin.consumers import ConsumerAdministration
from relay_tornado.consumer_changes import Changes, Parked
from relay_tornado.errors import Damaged
from relay_tornado.log import consumer_rows
from relay_tornado.log.consumers import Key, Terms
from relay_tornado.log.ledgers import Ledgers
from relay_tornado.model import Bucket, Earliest, Gap, Last
from tests.admin.world import World, sqlite_world

TERMS = ("receipt", "ack_wait", "max_deliver")
"""What is put right by whoever gives it new ones."""

DAMAGES = [
    "done = '[[1]]'",
    "done = '[[\"1\",2]]'",
    "done = CAST(x'db5d' AS TEXT)",
    "tried = '[[6,6['",
    "gap = replace(gap, 'reason', 'reasom')",
    "gap = replace(gap, 'retention', 'setention')",
    "floor = 'x'",
    "floor = 11",
    *(f"{name} = 'x'" for name in TERMS),
    "floor = floor + 1024",
    "floor = -1",
    "done = '[[6,1030]]'",
    "tried = '[[6,1030]]'",
    "created_at = 'x'",
    "updated_at = 'x'",
    "gaps = 'x'",
    *(f"{name} = 9e999" for name in ("ack_wait", "created_at", "updated_at")),
]


async def filled(world: World) -> tuple[Bucket, str]:
    """A bucket with ten events and two consumers, both done with six, and a durable token; its key."""
    token, _ = await world.administration.create_token(durable=True)
    bucket = await world.administration.create_bucket("orders")
    await world.fill(bucket.id, 10)
    for name in ("worker", "other"):
        key = Key(bucket.id, "client", name)
        await world.consumers.create(key, 0, Terms(7.5), 1.0)
        world.consumers.save(key, lambda: Changes(5, ((6, 6),)))
        world.consumers.met(key, Gap("retention", 1, 1), 1.0)
    return bucket, token.key


def damage(path: Path, name: str, what: str, table: str = "consumer") -> None:
    with closing(sqlite3.connect(path / "relay.db", isolation_level=None)) as raw:
        raw.execute("PRAGMA ignore_check_constraints = ON")
        raw.execute("DROP TRIGGER consumer_update")
        raw.execute("PRAGMA writable_schema = ON")
        raw.execute("UPDATE sqlite_schema SET sql = replace(sql, ' STRICT', '') WHERE name = 'consumer'")
        raw.execute("UPDATE sqlite_schema SET sql = replace(sql, ' STRICT,', '') WHERE name = 'parked'")
        raw.execute("PRAGMA writable_schema = RESET")
        row = "id" if table == "consumer" else "consumer"
        raw.execute(f"UPDATE {table} SET {what} WHERE {row} = (SELECT id FROM consumer WHERE name = ?)", (name,))


def parts(world: World) -> tuple[Ledgers, ConsumerAdministration]:
    return world.administration.ledgers, world.administration.consumers


@pytest.mark.gen_test
@pytest.mark.parametrize("what", DAMAGES)
async def test_a_start_goes_on_and_a_seek_mends(tmp_path: Path, what: str) -> None:
    """The start names the consumer; whoever opens or makes it gets an error, others are as they were; a seek puts it
    where it is to go on, on its terms."""
    async with sqlite_world(tmp_path) as world:
        bucket, _ = await filled(world)
    damage(tmp_path, "worker", what)
    async with sqlite_world(tmp_path) as world:
        ledgers, administration = parts(world)
        with capture_logs() as logs:
            await world.administration.reconcile()
            await ledgers.store.list()
        assert [(each["event"], each["bucket_id"], each["consumer"]) for each in logs] == [
            ("consumer_damaged", bucket.id, "worker")
        ]
        assert "relay consumer seek" in logs[0]["reason"]
        key = Key(bucket.id, "client", "worker")
        for floor in (None, 0):
            with pytest.raises(Damaged, match="relay consumer seek"):
                await ledgers.open(key, floor)
        with pytest.raises(Damaged):
            await administration.seek(bucket, "worker", Last(3), preview=True)
        if not what.startswith(TERMS):
            with pytest.raises(Damaged):
                await ledgers.store.create(key, 0, Terms(), 1.0)
        names = [each["name"] for each in await administration.listing(bucket) if each["kind"] == "client"]
        assert names == ["other"]
        assert {each.key.name for _, each in await administration.standings([bucket])} >= {"other"}
        seeked = await administration.seek(bucket, "worker", Last(3))
        assert seeked["to"].endswith("-7")
        async with ledgers.using(key) as ledger:
            assert (ledger.progress.floor, ledger.terms) == (7, Terms() if "ack_wait" in what else Terms(7.5))
        assert (await administration.show(bucket, "worker"))["pending"] == 3
        async with ledgers.using(key._replace(name="other")) as ledger:
            assert ledger.progress.floor == 6
    async with sqlite_world(tmp_path) as world:
        with capture_logs() as logs:
            await world.administration.reconcile()
        assert logs == []


@pytest.mark.gen_test
@pytest.mark.parametrize("what", ["attempts = ''", "due = x''", "since = 'x'", "due = 9e999", "since = -9e999"])
async def test_what_is_tried_again_may_be_damaged(tmp_path: Path, what: str) -> None:
    """It is the damage of its consumer, also where that was at work when the process ended; others are as they were."""
    changes = Changes(6, parked={3: Parked(1, 5.0, 1.0), 4: Parked(1, 0.0, 1.0)}, tried=((7, 7),))
    async with sqlite_world(tmp_path) as world:
        bucket, _ = await filled(world)
        for name in ("worker", "other"):
            world.consumers.save(Key(bucket.id, "client", name), lambda: changes)
    damage(tmp_path, "worker", what, "parked")
    async with sqlite_world(tmp_path) as world:
        ledgers, administration = parts(world)
        key = Key(bucket.id, "client", "worker")
        with capture_logs() as logs:
            await world.administration.reconcile()
            with pytest.raises(Damaged, match="relay consumer seek"):
                await ledgers.open(key)
        assert [(each["event"], each["consumer"]) for each in logs] == [("consumer_damaged", "worker")]
        listed = await administration.listing(bucket)
        assert [(each["name"], each["parked"]) for each in listed if each["kind"] == "client"] == [("other", 3)]
        assert {each.key.name for _, each in await administration.standings([bucket])} >= {"other"}
        await administration.seek(bucket, "worker", Last(3))
        async with ledgers.using(key) as ledger:
            assert (ledger.progress.floor, ledger.progress.parked) == (7, {})


@pytest.mark.gen_test
async def test_a_flipped_bit_of_one_record(tmp_path: Path) -> None:
    """Whichever it is, it is in the way of no other one, and this one is there, or damaged."""
    async with sqlite_world(tmp_path) as world:
        bucket, _ = await filled(world)
    data = bytearray((tmp_path / "relay.db").read_bytes())
    data[18] = data[19] = 1  # it has no WAL
    found = re.search(rb"clientworker.\[\[6,6\]\]", data, re.DOTALL)
    assert found is not None
    start, key = found.start() - 16, Key(bucket.id, "client", "worker")
    assert data[start] == 16, "the size of the head of the row"
    damages = 0
    for bit in range(8 * start, 8 * (start + 150)):
        data[bit // 8] ^= 1 << bit % 8
        with closing(sqlite3.connect(":memory:")) as raw:
            raw.deserialize(bytes(data))
            listed = {each.key.name: each for each in consumer_rows.listed(raw, bucket.id)}
            assert (len(listed), listed["other"].floor) == (3, 5)
            damaged = ""
            try:
                assert consumer_rows.get(raw, key) == listed["worker"]
            except Damaged as error:
                damaged = str(error)
            assert listed["worker"].damaged == damaged
            damages += bool(damaged)
        data[bit // 8] ^= 1 << bit % 8
    assert damages > 100


@pytest.mark.gen_test
async def test_a_damaged_one_can_be_deleted(tmp_path: Path) -> None:
    """It is made anew then by whoever comes with its name."""
    async with sqlite_world(tmp_path) as world:
        bucket, _ = await filled(world)
    damage(tmp_path, "worker", DAMAGES[0])
    async with sqlite_world(tmp_path) as world:
        ledgers, administration = parts(world)
        await administration.delete(bucket, "worker")
        assert (await ledgers.open(Key(bucket.id, "client", "worker"), 4)).progress.floor == 4


@pytest.mark.gen_test
async def test_a_damaged_position_of_a_token_stays_until_it_is_moved(tmp_path: Path) -> None:
    """A start makes no other in its place, and removes it with its token."""
    async with sqlite_world(tmp_path) as world:
        bucket, token = await filled(world)
    damage(tmp_path, token, DAMAGES[0])
    key = Key(bucket.id, "token", token)
    async with sqlite_world(tmp_path) as world:
        ledgers, administration = parts(world)
        with capture_logs() as logs:
            await world.administration.reconcile()
        assert [each["event"] for each in logs] == ["consumer_damaged"]
        with pytest.raises(Damaged):
            await ledgers.open(key)
        await administration.seek(bucket, f"token:{token}", Earliest())
        async with ledgers.using(key) as ledger:
            assert (ledger.progress.floor, ledger.terms.receipt) == (0, True)
    with closing(sqlite3.connect(tmp_path / "relay.db", isolation_level=None)) as raw:
        raw.execute("UPDATE consumer SET done = '[[1]]' WHERE kind = 'token'")
        raw.execute("DELETE FROM token")
    async with sqlite_world(tmp_path) as world:
        await world.administration.reconcile()
        assert key not in {each.key for each in await parts(world)[0].store.list()}


@pytest.mark.gen_test
async def test_a_token_reads_by_receipt_whatever_its_record_says(tmp_path: Path) -> None:
    """Its clients know of no acks: for one bit less they would be refused."""
    async with sqlite_world(tmp_path) as world:
        bucket, token = await filled(world)
    damage(tmp_path, token, "receipt = 0")
    async with sqlite_world(tmp_path) as world:
        ledgers, _ = parts(world)
        async with ledgers.using(Key(bucket.id, "token", token)) as ledger:
            assert ledger.terms.receipt
