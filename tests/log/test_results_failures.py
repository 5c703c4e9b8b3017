"""The store of what became of events on a damaged file, and on a disk that fails: other results are stored and read."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3

import pytest

from relay_tornado.errors import Malformed, Unavailable
from relay_tornado.log.sqlite_results import SqliteResults
from relay_tornado.model import Appended
from tests.log.worlds import SqliteWorld, behind, event, fill, make, result, spoil_leaf
from tests.storage.faults import Faults
from tests.waiting import until

log_test = pytest.mark.gen_test


@log_test
async def test_damage_of_one_bucket_refuses_no_others_results(disk: SqliteWorld) -> None:
    """What shares a commit with a result whose place in the index can't be read is stored all the same, events too."""
    await make(disk.log)
    await make(disk.log, "damaged")
    await fill(disk.log, 2)
    await fill(disk.log, 2000, "damaged")
    before = SqliteResults(disk.database, disk.settings)
    await asyncio.gather(*(before.record("damaged", seq, 1, result(body=b"")) for seq in range(1, 2001)))
    await before.close()
    await disk.close()
    with contextlib.closing(sqlite3.connect(disk.database.path)) as raw:
        (root,) = raw.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'delivery_event'").fetchone()
        (size,) = raw.execute("PRAGMA page_size").fetchone()
    with disk.database.path.open("r+b") as file:
        file.seek((root - 1) * size + 8)
        last = int.from_bytes(file.read(4))
        file.seek((last - 1) * size)
        file.write(b"\xff" * 8)
    await disk.reopen()
    after = SqliteResults(disk.database, disk.settings)
    told = await asyncio.gather(
        *(after.record(*place, 1, result()) for place in (("b", 1), ("damaged", 2000), ("b", 2), ("damaged", 1999))),
        *(disk.log.append("b", event()) for _ in range(2)),
        return_exceptions=True,
    )
    assert [type(each) for each in told[:4]] == [type(None), Malformed, type(None), Malformed]
    assert [each.seq for each in told[4:] if isinstance(each, Appended)] == [3, 4]
    assert len(await after.of("b", 1, 2)) == 2
    await after.close()


@log_test
@pytest.mark.parametrize(
    "damage",
    [
        *("headers = '{'", "headers = NULL", "headers = CAST(x'ff' AS TEXT)", "status = NULL"),
        *("status = CAST(x'ff' AS TEXT)", "body = 'x'", "at = 'x'", "at = 9e999", "duration_ms = NULL"),
    ],
)
async def test_a_damaged_result_is_as_none(disk: SqliteWorld, damage: str) -> None:
    """What became of other events comes out, and a queue goes on behind that one."""
    await make(disk.log, events=3)
    before = SqliteResults(disk.database, disk.settings)
    for seq in (1, 2, 3):
        await before.record("b", seq, 0, result())
    await before.close()
    await disk.close()
    with behind(disk) as raw:
        raw.execute("PRAGMA writable_schema = ON")
        raw.execute(
            "UPDATE sqlite_schema SET sql = replace(replace(sql, ' STRICT', ''), ' NOT NULL', '')"
            " WHERE name = 'delivery'"
        )
        raw.execute("PRAGMA writable_schema = RESET")
        raw.execute(f"UPDATE delivery SET {damage} WHERE seq = 2")
    await disk.reopen()
    after = SqliteResults(disk.database, disk.settings)
    there = [1, 3]
    assert sorted(await after.latest("b", [1, 2, 3], None)) == there
    assert sorted(seq for seq, _ in await after.of("b", 1, 3)) == there
    assert [await after.first("b", seq, None) is None for seq in (1, 2, 3)] == [False, True, False]
    assert {1, 3} <= (await after.statuses("b", 1, 3, None)).keys() <= {1, 2, 3}
    assert await after.claim("b", 0, 0, [1, 2, 3], 3, 1.0) in ([], [2])
    await after.close()


@log_test
async def test_a_result_that_sqlite_refuses_takes_no_other_along(faulty: SqliteWorld, faults: Faults) -> None:
    """Those of one commit are tried one by one, and whose is to blame is told."""
    await make(faulty.log, events=2)
    stored = SqliteResults(faulty.database, faulty.settings)
    left = [sqlite3.SQLITE_CONSTRAINT] * 2
    faults.before = lambda sql: left.pop() if left and sql.startswith("INSERT INTO delivery") else None
    told = await asyncio.gather(*(stored.record("b", seq, 1, result()) for seq in (1, 2)), return_exceptions=True)
    assert [type(each) for each in told] == [Unavailable, type(None)]
    assert set(await stored.of("b", 1, 2)) == {(2, 1)}
    await stored.close()


@log_test
async def test_results_of_a_disk_that_fails_are_not_as_none(faulty: SqliteWorld, faults: Faults) -> None:
    """Else what is only unread for a moment would be sent again."""
    await make(faulty.log, events=2)
    stored = SqliteResults(faulty.database, faulty.settings)
    await stored.record("b", 1, 1, result())
    faults.before = lambda sql: sqlite3.SQLITE_IOERR if "FROM delivery" in sql else None
    for reading in (
        stored.first("b", 1, None),
        stored.of("b", 1, 2),
        stored.latest("b", [1], None),
        stored.statuses("b", 1, 2, None),
    ):
        with pytest.raises(Unavailable):
            await reading
    with pytest.raises(Unavailable):
        await stored.claim("b", 1, 0, [1, 2], 2, 7.0)
    faults.heal()
    await until(lambda: not faulty.database.problem)
    assert await stored.claim("b", 1, 0, [1, 2], 2, 7.0) == [2]
    await stored.close()


@log_test
async def test_a_damaged_page_of_results_is_as_none(disk: SqliteWorld) -> None:
    """What became of other events comes out, and a queue goes on behind them."""
    await make(disk.log, events=400)
    before = SqliteResults(disk.database, disk.settings)
    await asyncio.gather(*(before.record("b", seq, 1, result(body=b"result" * 20)) for seq in range(1, 401)))
    await before.close()
    await disk.close()
    spoil_leaf(disk, b"resultresult")
    await disk.reopen()
    after = SqliteResults(disk.database, disk.settings)
    for output in (None, 1):
        there = await after.latest("b", range(1, 401), output)
        assert 300 < len(there) < 400
        assert await after.statuses("b", 1, 400, output) == dict.fromkeys(there, "sent")
        assert {seq for seq in range(1, 401) if await after.first("b", seq, output) is not None} == there.keys()
    assert await after.statuses("b", 1, 400, 2) == {}
    lost = [seq for seq in range(1, 401) if seq not in there]
    assert await after.of("b", lost[0], lost[0]) == {}
    for claimed in (lost, []):  # sent again rather than never, and once: their place in the queue is stored
        assert await after.claim("b", 1, 0 if claimed else 400, claimed or [400], 400, 1.0) == claimed
    await after.close()
