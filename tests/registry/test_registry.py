"""What every registry promises (registry/contract.py), over each engine."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tornado.ioloop import IOLoop

from relay_tornado.errors import Conflict, Invalid, StartupError, Unavailable, Unknown
from relay_tornado.model import Bucket, BucketAuth, Dedupe, Input, Output, RateLimit, Retention, Token, Verify
from relay_tornado.registry.memory import MemoryRegistry
from relay_tornado.registry.sqlite import SqliteRegistry
from relay_tornado.settings import Settings
from relay_tornado.storage.database import Database
from tests.counting import Compared
from tests.failing import once as fails_once
from tests.storage.faults import Faults, once
from tests.waiting import until

registry_test = pytest.mark.gen_test


class World:
    """A registry, and the database behind it where there is one."""

    def __init__(self, settings: Settings, faults: Faults) -> None:
        self.settings = settings
        self.faults = faults
        self.database: Database | None = None
        self.registry: Any = MemoryRegistry()

    async def open(self) -> None:
        self.database = await Database.open(self.settings, factory=self.faults.factory)
        self.registry = await SqliteRegistry.open(self.database)

    async def close(self) -> None:
        if self.database is not None:
            await self.database.close()

    async def reopen(self) -> None:
        if self.database is not None:
            await self.close()
            await self.open()


@pytest.fixture(params=["memory", "sqlite"])
def world(request: pytest.FixtureRequest, io_loop: IOLoop, tmp_path: Path) -> Iterator[World]:
    made = World(Settings(data=tmp_path / "data"), Faults())
    if request.param == "sqlite":
        io_loop.run_sync(made.open)
    yield made
    io_loop.run_sync(made.close)


@pytest.fixture
def disk(io_loop: IOLoop, tmp_path: Path) -> Iterator[World]:
    made = World(Settings(data=tmp_path / "data"), Faults())
    io_loop.run_sync(made.open)
    yield made
    io_loop.run_sync(made.close)


def bucket(key: str, name: str | None = None, inputs: tuple[str, ...] = ()) -> Bucket:
    return Bucket(key, name or f"name of {key}", 1.0, 2.0, inputs=tuple(Input(i, f"in {i}", 1.0, 2.0) for i in inputs))


def token(key: str, secret: str | None = None) -> Token:
    return Token(key, secret or f"hash of {key}", 1.0)


@registry_test
async def test_a_bucket_is_found_by_its_id_and_by_its_name(world: World) -> None:
    """As that is now, and by the id first where another one's name looks like it."""
    await world.registry.put("bucket", "b1", bucket("b1", "orders"))
    await world.registry.put("bucket", "b2", bucket("b2", "b1"))
    found = {each: world.registry.find_bucket(each) for each in ("b1", "b2", "orders", "")}
    assert {each: one and one.id for each, one in found.items()} == {"b1": "b1", "b2": "b2", "orders": "b1", "": None}
    await world.registry.put("bucket", "b1", bucket("b1", "bills"))
    await world.reopen()
    assert (world.registry.find_bucket("bills").id, world.registry.find_bucket("orders")) == ("b1", None)
    await world.registry.delete("bucket", "b1")
    assert (world.registry.find_bucket("b1").id, world.registry.find_bucket("bills")) == ("b2", None)


@registry_test
async def test_a_record_is_there_once_put(world: World) -> None:
    """get, list and revision tell it, oldest first, also after a restart, as it was put."""
    full = Bucket(
        "b1",
        "orders",
        1.5,
        2.5,
        description="d",
        stream=False,
        large_webhooks=True,
        max_body=5,
        auth=BucketAuth("basic", "user", "pass"),
        retention=Retention(1.0, 2, None),
        dedupe=Dedupe("auto", 60.0),
        inputs=(Input("i1", "in", 1.0, 2.0, status_code=201, body="ok", headers={"X-A": ["1", "2"]}),),
    )
    tokens = [token("t2"), replace(token("t1"), buckets=frozenset({"b1"}), expires_at=9.5)]
    assert await world.registry.put("bucket", "b1", full) == 1
    assert await world.registry.put("bucket", "a", bucket("a")) == 1
    for record in tokens:
        await world.registry.put("token", record.key, record)
    for _ in range(2):
        assert world.registry.get("bucket", "b1") == full
        assert world.registry.list("bucket") == [full, bucket("a")]
        assert world.registry.list("token") == tokens
        assert world.registry.revision("bucket", "b1") == 1
        assert world.registry.get("bucket", "x") is None
        assert world.registry.get("token", "b1") is None
        assert world.registry.revision("token", "x") == 0
        await world.reopen()


@registry_test
async def test_revisions_grow_and_are_expected(world: World) -> None:
    """A change needs the revision that was seen, where one is named; 0 means that it must be new."""
    registry = world.registry
    assert await registry.put("bucket", "b", bucket("b"), expect=0) == 1
    assert await registry.put("bucket", "b", bucket("b", "second"), expect=1) == 2
    for stale in (0, 1, 3):
        with pytest.raises(Conflict):
            await registry.put("bucket", "b", bucket("b", "third"), expect=stale)
    assert await registry.put("bucket", "b", bucket("b", "third")) == 3
    await world.reopen()
    assert world.registry.revision("bucket", "b") == 3
    assert world.registry.get("bucket", "b").name == "third"


def test_an_input_is_not_held_against_every_other_one() -> None:
    """A bucket may have a thousand of them, and each change looks whether an id, or a place, is there twice."""
    ids = [Compared(f"i{n}") for n in range(100)]
    inputs = tuple(Input(each, "in", 0, 0, path_prefix=Compared(f"/{each}")) for each in ids)
    Compared.times = 0
    assert MemoryRegistry().check("bucket", "b", Bucket("b", "name", 0, 0, inputs=inputs), None) == 1
    assert Compared.times < 10 * len(ids)


@registry_test
async def test_names_inputs_and_secrets_are_unique(world: World) -> None:
    """A taken name, input id or secret is a Conflict that changes nothing; what is given up can be taken."""
    registry = world.registry
    await registry.put("bucket", "a", bucket("a", "name", ("i1", "i2")))
    await registry.put("token", "t", token("t", "h"))
    for taken in (bucket("b", "name"), bucket("b", "other", ("i3", "i2")), bucket("b", "other", ("i4", "i4"))):
        with pytest.raises(Conflict):
            await registry.put("bucket", "b", taken)
    with pytest.raises(Conflict):
        await registry.put("token", "u", token("u", "h"))
    assert registry.list("bucket") == [bucket("a", "name", ("i1", "i2"))]
    await registry.put("bucket", "a", bucket("a", "renamed", ("i2",)))
    await registry.put("bucket", "b", bucket("b", "name", ("i1",)))
    await registry.delete("bucket", "a")
    await registry.put("bucket", "b", bucket("b", "renamed", ("i1", "i2")))
    await registry.delete("token", "t")
    await registry.put("token", "u", token("u", "h"))
    await world.reopen()
    assert [b.name for b in world.registry.list("bucket")] == ["renamed"]


@registry_test
async def test_a_removal_at_a_revision(world: World) -> None:
    """It is refused where the record was changed since, and leaves it; what is not there is no error."""
    registry = world.registry
    await registry.put("bucket", "b", bucket("b"))
    await registry.put("bucket", "b", bucket("b", "renamed"))
    with pytest.raises(Conflict):
        await registry.delete("bucket", "b", 1)
    await world.reopen()
    assert world.registry.get("bucket", "b") == bucket("b", "renamed")
    # Two who both saw it, at once, and one who comes too late.
    await asyncio.gather(*(world.registry.delete("bucket", "b", 2) for _ in range(2)))
    await world.registry.delete("bucket", "b", 2)
    assert world.registry.list("bucket") == []


@registry_test
async def test_two_who_claim_one_name_at_once(world: World) -> None:
    """One gets it, the others a Conflict."""
    results = await asyncio.gather(
        *(world.registry.put("bucket", key, bucket(key, "name")) for key in "abcde"), return_exceptions=True
    )
    assert [type(result) for result in results].count(Conflict) == 4
    assert len(world.registry.list("bucket")) == 1


@registry_test
async def test_changes_are_told_after_they_are_there(world: World) -> None:
    """Each watcher hears of each change, deletions too, when `get` tells the new state; not after it ended."""
    registry = world.registry
    heard: list[tuple[str, str, Any]] = []
    end = registry.watch(lambda kind, key: heard.append((kind, key, registry.get(kind, key))))
    await registry.put("bucket", "b", bucket("b"))
    await registry.put("token", "t", token("t"))
    await registry.delete("bucket", "b")
    await registry.delete("bucket", "b")
    with pytest.raises(Conflict):
        await registry.put("token", "u", token("u", "hash of t"))
    assert heard == [("bucket", "b", bucket("b")), ("token", "t", token("t")), ("bucket", "b", None)]
    end()
    end()
    await registry.delete("token", "t")
    assert len(heard) == 3


@registry_test
async def test_a_watcher_that_fails_stops_no_other(world: World) -> None:
    """A mistake in one part does not keep another from hearing of a revoked token."""
    heard: list[str] = []

    def broken(kind: str, key: str) -> None:
        raise ZeroDivisionError

    world.registry.watch(broken)
    world.registry.watch(lambda kind, key: heard.append(key))
    await world.registry.put("token", "t", token("t"))
    assert heard == ["t"]


@registry_test
async def test_a_watcher_that_ends_itself_hides_the_change_from_no_other(world: World) -> None:
    """It may end as soon as it is told of the change that it waited for."""
    heard: list[str] = []

    def once_only(kind: str, key: str) -> None:
        heard.append("once")
        end()

    end = world.registry.watch(once_only)
    world.registry.watch(lambda kind, key: heard.append(key))
    await world.registry.put("token", "t", token("t"))
    await world.registry.delete("token", "t")
    assert heard == ["once", "t", "t"]


@registry_test
async def test_a_watcher_without_memory_is_called_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until it went well, and it alone."""
    monkeypatch.setattr("relay_tornado.low_memory.RETRY_DELAY", 0.01)
    heard: list[int] = []
    world.registry.watch(fails_once(fails_once(lambda kind, key: heard.append(1)), after=1))
    world.registry.watch(lambda kind, key: heard.append(2))
    await world.registry.put("token", "t", token("t"))
    assert heard == [2]
    await until(lambda: heard == [2, 1])


@registry_test
async def test_a_record_under_a_wrong_key(world: World) -> None:
    """A record is stored under its own key only."""
    for kind, key, value in (("bucket", "x", bucket("b")), ("token", "x", token("t")), ("token", "b", bucket("b"))):
        with pytest.raises(Invalid):
            await world.registry.put(kind, key, value)


@registry_test
async def test_a_failed_write_changes_nothing(disk: World) -> None:
    """What was not committed is neither in memory nor told."""
    heard: list[str] = []
    disk.registry.watch(lambda kind, key: heard.append(key))
    disk.faults.before = once("INSERT INTO bucket", sqlite3.SQLITE_IOERR)
    with pytest.raises(Unavailable):
        await disk.registry.put("bucket", "b", bucket("b"))
    assert (disk.registry.list("bucket"), heard) == ([], [])
    assert disk.database is not None
    await until(lambda: not disk.database.problem)
    await disk.registry.put("bucket", "b", bucket("b"))


@registry_test
async def test_a_write_of_unknown_outcome_is_found_out(disk: World) -> None:
    """After an error of the commit itself the records are read again, and what changed is told."""
    heard: list[tuple[str, str]] = []
    assert disk.database is not None
    await disk.registry.put("bucket", "old", bucket("old"))
    await disk.registry.put("token", "t", token("t"))
    disk.registry.watch(lambda kind, key: heard.append((kind, key)))
    for change in (
        lambda: disk.registry.put("bucket", "b", bucket("b")),
        lambda: disk.registry.put("bucket", "old", bucket("old", "new name")),
        lambda: disk.registry.delete("token", "t"),
    ):
        disk.faults.after = once("COMMIT", sqlite3.SQLITE_IOERR)
        with pytest.raises(Unknown):
            await change()
        await disk.database.write(lambda raw: None)
    assert heard == [("bucket", "b"), ("bucket", "old"), ("token", "t")]
    assert disk.registry.list("bucket") == [bucket("old", "new name"), bucket("b")]
    assert disk.registry.list("token") == []


@registry_test
async def test_names_that_changed_owners_are_found_after_a_reload(disk: World) -> None:
    """The records are taken over one after the other, and a name may be given up by a later one than takes it."""
    assert disk.database is not None
    await disk.registry.put("bucket", "a", bucket("a", "one", ("i1",)))
    await disk.registry.put("bucket", "b", bucket("b", "two", ("i2",)))

    def exchange(raw: sqlite3.Connection) -> None:
        raw.execute("UPDATE bucket SET name = 'x' WHERE id = 'a'")
        for made in (bucket("b", "one", ("i1",)), bucket("a", "two", ("i2",))):
            document = msgspec.json.encode(made).decode()
            raw.execute("UPDATE bucket SET name = ?, document = ? WHERE id = ?", (made.name, document, made.id))

    await disk.database.write(exchange)
    disk.faults.after = once("COMMIT", sqlite3.SQLITE_IOERR)
    with pytest.raises(Unknown):
        await disk.registry.put("bucket", "c", bucket("c"))
    await disk.database.write(lambda raw: None)
    assert [disk.registry.find_bucket(name).id for name in ("one", "two", "c")] == ["b", "a", "c"]
    for taken in (bucket("d", "one"), bucket("d", "two"), bucket("d", "d", ("i1",)), bucket("d", "d", ("i2",))):
        with pytest.raises(Conflict):
            await disk.registry.put("bucket", "d", taken)


@registry_test
@pytest.mark.parametrize("document", ['{"secret_hash": 5}', None])
async def test_a_record_that_can_not_be_understood(disk: World, document: str | None) -> None:
    """The start is refused, and says which record it is; nothing secret is shown."""
    await disk.registry.put("token", "t", token("t", "the-hash"))
    await disk.close()
    with contextlib.closing(sqlite3.connect(disk.settings.data / "relay.db", isolation_level=None)) as raw:
        raw.execute("PRAGMA writable_schema = ON")
        raw.execute("UPDATE sqlite_schema SET sql = replace(sql, 'document TEXT NOT NULL', 'document TEXT')")
        raw.execute("PRAGMA writable_schema = RESET")
        raw.execute("UPDATE token SET document = ?", (document,))
    database = await Database.open(disk.settings)
    with pytest.raises(StartupError, match="token t") as error:
        await SqliteRegistry.open(database)
    assert "the-hash" not in str(error.value)
    await database.close()


FIELDS = (("bucket", "auth"), ("bucket", "type"), ("bucket", "verify"), ("bucket", "on_failure"), ("token", "buckets"))


@registry_test
@pytest.mark.parametrize(("kind", "name"), FIELDS)
async def test_a_field_whose_name_is_damaged(disk: World, kind: str, name: str) -> None:
    """Its default would let everybody in, or pass whatever is signed wrongly: the start is refused."""
    guarded = replace(
        bucket("b"),
        auth=BucketAuth("basic", "user", "pass"),
        inputs=(Input("i", "in", 1.0, 2.0, verify=Verify("github", ("one",), "reject")),),
    )
    await disk.registry.put("bucket", "b", guarded)
    await disk.registry.put("token", "t", replace(token("t"), buckets=frozenset({"b"})))
    await disk.close()
    flipped = chr(ord(name[0]) ^ 1) + name[1:]
    with contextlib.closing(sqlite3.connect(disk.settings.data / "relay.db")) as raw, raw:
        raw.execute(f"UPDATE {kind} SET document = replace(document, ?, ?)", (f'"{name}"', f'"{flipped}"'))
    database = await Database.open(disk.settings)
    with pytest.raises(StartupError, match=f"the {kind} . in relay.db can't be understood .*unknown field '{flipped}'"):
        await SqliteRegistry.open(database)
    await database.close()


@registry_test
async def test_input_ids_are_claimed_in_the_file(disk: World) -> None:
    """The table of inputs holds exactly the ids of the records."""
    await disk.registry.put("bucket", "a", bucket("a", inputs=("i1", "i2")))
    await disk.registry.put("bucket", "a", bucket("a", inputs=("i2", "i3")))
    await disk.registry.put("bucket", "b", bucket("b", inputs=("i4",)))
    await disk.registry.delete("bucket", "b")
    assert disk.database is not None
    rows = await disk.database.read(lambda raw: raw.execute("SELECT id, bucket FROM input ORDER BY id").fetchall())
    assert rows == [("i2", "a"), ("i3", "a")]


@registry_test
async def test_the_file_has_the_name_and_the_secret_that_a_record_has(disk: World) -> None:
    """The columns that make them unique follow each change of the record."""
    await disk.registry.put("bucket", "a", bucket("a", "old"))
    await disk.registry.put("bucket", "a", bucket("a", "new"))
    await disk.registry.put("token", "t", token("t", "old"))
    await disk.registry.put("token", "t", token("t", "new"))
    assert disk.database is not None
    sql = "SELECT name FROM bucket UNION ALL SELECT secret_hash FROM token"
    rows = await disk.database.read(lambda raw: raw.execute(sql).fetchall())
    assert rows == [("new",), ("new",)]


@registry_test
async def test_a_deletion_leaves_no_trace(world: World) -> None:
    """Every bucket is named until it is deleted, and not any more then."""
    for name in ("a", "b"):
        await world.registry.put("bucket", name, bucket(name))
    assert set(await world.registry.traces()) == {"a", "b"}
    await world.registry.delete("bucket", "b")
    assert set(await world.registry.traces()) == {"a"}


@registry_test
async def test_outputs_and_what_is_not_understood_come_back(world: World) -> None:
    """A bucket with everything that it can have reads as it was stored, also after a restart."""
    extra = {"note": {"a": [1, None, 2.5, "ü", True]}}
    rules = {"and": [{"match": {"type": "value", "value": 1, "parameter": {"source": "query", "name": "a"}}}]}
    bucket = Bucket(
        "b",
        "orders",
        1.5,
        2.5,
        ephemeral=True,
        rate_limit=RateLimit(5, 0.5),
        next_output=8,
        extra=extra,
        inputs=(
            Input(
                "i",
                "in",
                1.0,
                2.0,
                custom_domain="hooks.example.org",
                path_prefix="/shop",
                response_from_output="o",
                verify=Verify("github", ("one", "two"), "mark"),
                rate_limit=RateLimit(1),
                extra=extra,
            ),
        ),
        outputs=(Output("o", 7, "out", 1.0, 2.0, timeout=0.5, rules=rules, headers={"X": ["1"]}, extra=extra),),
    )
    await world.registry.put("bucket", "b", bucket)
    await world.reopen()
    assert world.registry.get("bucket", "b") == bucket


@registry_test
async def test_a_route_belongs_to_one_input(world: World) -> None:
    """A pair of custom domain and path prefix is taken until its input, or its bucket, is gone."""

    def bucket(key: str, *pairs: tuple[str, str]) -> Bucket:
        inputs = [
            Input(f"{key}-{n}", "in", 1.0, 1.0, custom_domain=domain, path_prefix=prefix)
            for n, (domain, prefix) in enumerate(pairs)
        ]
        return Bucket(key, key, 1.0, 1.0, inputs=tuple(inputs))

    await world.registry.put("bucket", "a", bucket("a", ("h", "/x"), ("", "/x"), ("h", ""), ("", ""), ("", "")))
    for pair in (("h", "/x"), ("", "/x"), ("h", "")):
        with pytest.raises(Conflict):
            await world.registry.put("bucket", "b", bucket("b", pair))
    with pytest.raises(Conflict):
        await world.registry.put("bucket", "b", bucket("b", ("", "/y"), ("", "/y")))
    await world.reopen()
    with pytest.raises(Conflict):
        await world.registry.put("bucket", "b", bucket("b", ("h", "/x")))
    await world.registry.put("bucket", "a", bucket("a", ("", "/x")))
    await world.registry.put("bucket", "b", bucket("b", ("h", "/x"), ("", "")))
    await world.registry.delete("bucket", "a")
    await world.registry.put("bucket", "b", bucket("b", ("h", "/x"), ("", "/x")))
