"""relay_tornado/log/size_check.py: what retention counts in a damaged file."""

from __future__ import annotations

from typing import Any

import pytest
from structlog.testing import capture_logs

from relay_tornado.log import rows, size_check
from relay_tornado.model import Retention
from tests.log.worlds import SqliteWorld, behind, event, fill, make, open_again, restart
from tests.storage.faults import Faults

log_test = pytest.mark.gen_test

SIZE = event(b"x" * 100).size


async def by_size(disk: SqliteWorld, most: int, *damage: str) -> tuple[int, list[str]]:
    """How many events leave where so many of 100 bytes may stay, after a restart with such damage; and what is told.
    What the log says to hold is right then."""
    await restart(disk, *damage)
    with capture_logs() as logs:
        left = await disk.log.trim("b", Retention(None, None, most * SIZE), None)
    said = await disk.database.read(lambda raw: raw.execute("SELECT bytes FROM log").fetchone()[0])
    assert said == disk.log._logs["b"].bytes
    return left, [entry["event"] for entry in logs]


@log_test
@pytest.mark.parametrize("wrong", ["bytes + (1 << 40)", f"{300 * SIZE}"])
async def test_a_damaged_sum_of_sizes(disk: SqliteWorld, monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    """Before events leave by size they are counted, whichever way the sum is wrong; it is right from then on."""
    monkeypatch.setattr(size_check, "STEP", 100)
    await make(disk.log, events=450, size=100)
    await fill(disk.log, 50, size=100)
    assert await by_size(disk, 200, f"UPDATE log SET bytes = {wrong}") == (300, ["log_bytes_wrong"])
    assert disk.log._logs["b"].bytes == 200 * SIZE
    assert await by_size(disk, 150) == (50, [])


@log_test
async def test_a_sum_of_sizes_is_judged_by_what_is_stored(disk: SqliteWorld) -> None:
    """The damaged size of an event, or of a stub, which can't be told from a right one, makes nothing leave; a sum that
    is too high with stubs among the events is corrected."""
    await make(disk.log, events=50, size=100)
    damaged = "UPDATE event SET size = size + (1 << 40) WHERE seq = {}"
    assert await by_size(disk, 49, damaged.format(40)) == (1, [])
    await disk.log.append("b", event(b"x" * 100, ephemeral=True))
    assert await by_size(disk, 49, damaged.format(51)) == (1, [])
    mended = "UPDATE event SET size = size - (1 << 40) WHERE seq = 51"
    assert await by_size(disk, 48, mended, "UPDATE log SET bytes = bytes * 100") == (1, ["log_bytes_wrong"])


@log_test
async def test_a_sum_of_sizes_that_can_not_be_checked(disk: SqliteWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where events can't be read the sum counts as it is."""
    await make(disk.log, events=50, size=100)
    monkeypatch.setattr(size_check, "_HELD", "SELECT json_extract(CAST(x'ff' AS TEXT), ?, ?, ?)")
    monkeypatch.setattr(rows, "is_damage", lambda error: True)
    assert await by_size(disk, 40) == (10, [])


@log_test
async def test_a_number_of_events_that_can_not_be_checked(disk: SqliteWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where events can't be counted as many stay as without that, and not one alone."""
    await make(disk.log, events=50)
    monkeypatch.setattr(size_check, "_OLDEST", "SELECT json_extract(CAST(x'ff' AS TEXT), ?, ?, ?)")
    monkeypatch.setattr(rows, "is_damage", lambda error: True)
    assert await disk.log.trim("b", Retention(None, 20, None), None) == 30


@log_test
async def test_a_sum_of_sizes_that_an_append_meets(disk: SqliteWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes in while events are counted is not taken for wrong."""
    await make(disk.log, events=50, size=100)
    with behind(disk) as raw:
        raw.execute("UPDATE log SET bytes = bytes + 1000000")
    await disk.reopen()
    read = disk.log._trimming._read

    async def meet(job: Any) -> Any:
        found = await read(job)
        if found == (50 * SIZE, 0):
            await fill(disk.log, 5, size=100)
        return found

    disk.log._trimming._read = meet  # type: ignore[method-assign]
    with capture_logs():
        await disk.log.trim("b", Retention(None, None, 40 * SIZE), None)
    held = disk.log.held("b")
    assert held == (40, 40 * SIZE)


@log_test
async def test_a_sum_of_sizes_that_a_trim_meets(disk: SqliteWorld) -> None:
    """What leaves while events are counted is no error; they are counted once more."""
    await make(disk.log, events=50, size=100)
    read, met = disk.log._trimming._read, False

    async def meet(job: Any) -> Any:
        nonlocal met
        found = await read(job)
        if not met and found == (50 * SIZE, 0):
            met = True
            await disk.log.trim("b", Retention(None, 30, None), None)
            await fill(disk.log, 5, size=100)
        return found

    disk.log._trimming._read = meet  # type: ignore[method-assign]
    with capture_logs() as logs:
        assert await disk.log.trim("b", Retention(None, None, 20 * SIZE), None) == 15
    assert (met, logs) == (True, [])


@log_test
async def test_a_first_that_is_too_high_makes_nothing_leave(disk: SqliteWorld) -> None:
    """What retention removes is what it counts; what lies below is there for whoever mends the file."""
    await make(disk.log, events=1000)
    await restart(disk, "UPDATE log SET first = first + 512")
    assert await disk.log.trim("b", Retention(None, 480, None), None) == 8
    left = await disk.database.read(lambda raw: raw.execute("SELECT min(seq), count(*) FROM event").fetchone())
    assert left == (1, 992)


@log_test
async def test_a_head_that_is_too_high_makes_nothing_leave(disk: SqliteWorld) -> None:
    """What a log lacks does not count for how many events it may hold; behind that it goes on."""
    await make(disk.log, events=1000)
    await restart(disk, "UPDATE log SET head = head + 4096")
    keep = Retention(None, 1010, None)
    for expected in (0, 0, 10):
        assert await disk.log.trim("b", keep, None) == expected
        await fill(disk.log, 10)
    assert await disk.database.read(lambda raw: raw.execute("SELECT count(*) FROM event").fetchone()) == (1020,)


@log_test
async def test_a_sum_of_sizes_that_is_wrong_when_the_file_is_opened_again_is_counted_again(
    faulty: SqliteWorld, faults: Faults
) -> None:
    """It was right at an earlier trim, and is not what it was."""
    await make(faulty.log, events=300, size=100)
    assert await faulty.log.trim("b", Retention(None, None, 200 * SIZE), None) == 100
    with behind(faulty) as raw:
        raw.execute("UPDATE log SET bytes = bytes * 100")
    with capture_logs() as logs:
        await open_again(faulty, faults)
        assert await faulty.log.trim("b", Retention(None, None, 150 * SIZE), None) == 50
    assert [entry["event"] for entry in logs if entry["event"] == "log_bytes_wrong"] == ["log_bytes_wrong"]


@log_test
async def test_a_damaged_first_removes_nothing_more(disk: SqliteWorld) -> None:
    """Events below it were not meant to leave: `relay check` finds them."""
    await make(disk.log, events=6)
    await restart(disk, "UPDATE log SET first = 4")
    assert await disk.log.trim("b", Retention(None, 2, None), None) == 1
    left = await disk.database.read(lambda raw: raw.execute("SELECT seq FROM event ORDER BY seq").fetchall())
    assert [seq for (seq,) in left] == [1, 2, 3, 5, 6]


@log_test
@pytest.mark.parametrize("wrong", ["bytes + 7", "1"])
async def test_a_wrong_sum_of_sizes_ends_with_what_it_counts(disk: SqliteWorld, wrong: str) -> None:
    """A log that is emptied holds nothing, and never less than that: what is old leaves all the same."""
    await make(disk.log, events=5)
    await restart(disk, f"UPDATE log SET bytes = {wrong}")
    assert await disk.log.trim("b", Retention(None, 2, None), None) == 3
    assert await disk.log.trim("b", Retention(None, 0, None), None) == 2
    assert disk.log.held("b") == (0, 0)
