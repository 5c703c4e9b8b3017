"""The series: what is measured, in two resolutions, there after a restart, and gone when it is old."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from structlog.testing import capture_logs

from relay_tornado.counters import ConsumerLevel, Counters
from relay_tornado.model import DAY, MIB
from relay_tornado.series import file
from relay_tornado.series.series import Levels, Series
from relay_tornado.storage import sidecar
from relay_tornado.storage.connection import Connection
from relay_tornado.storage.space import Disk
from tests.waiting import until

START = 1_800_000_000
"""A multiple of every step."""


class World:
    """A relay to be measured, and a clock that goes when it is told to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = float(START)
        self.counters = Counters()
        self.levels = Levels(subscribers=2, lag=3, disk_free=1 << 30, totals={"b": 0})
        self.series = self.make()

    def make(self) -> Series:
        return Series(self.folder, self.counters, lambda: self.now)

    def rate(self, bucket_id: str) -> list[int]:
        return self.series.rate(bucket_id, self.levels.totals.get(bucket_id, 0))

    async def go(self, seconds: int, events: int = 0) -> None:
        """Time passes, a measure every 10 seconds, with so many events in each."""
        for _ in range(seconds // 10):
            self.now += 10
            if events:
                self.counters.committed(events, 100, 0.002)
                self.levels = replace(self.levels, totals={"b": self.levels.totals["b"] + events})
            await self.series.measure(self.levels)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    asyncio.run(made.series.close())


def points(values: object) -> list[float]:
    assert isinstance(values, list)
    return [each for each in values if each is not None]


@pytest.mark.gen_test
async def test_what_is_measured(world: World) -> None:
    """Events a second, how long commits took, who listens and lags, the disk, and refusals by their reason."""
    await world.series.open(world.levels.totals)
    world.counters.rejected("too_large")
    world.counters.rejected("too_large")
    world.levels = replace(world.levels, consumers=[ConsumerLevel("b", "worker", 70, 5.0, 0)])
    await world.go(10, events=50)
    world.counters.rejected("too_large")
    await world.go(10)
    first, step, found = await world.series.whole("hour")
    assert (step, first + 3600) == (10, START + 30)
    assert points(found["events"]) == [5.0, 0.0]
    assert points(found["subscribers"]) == [2, 2]
    assert points(found["lag"]) == [70, 70]
    assert points(found["disk_free"]) == [1 << 30] * 2
    assert points(found["errors:too_large"]) == [2, 1]
    assert [0.001 < each <= 0.0025 for each in points(found["commit_p50"])] == [True]
    assert found["events"][-2:] == [5.0, 0.0]
    assert found["events"][0] is None
    _, _, events = await world.series.bucket("hour", "b")
    assert points(list(events)) == [5.0, 0.0]
    _, _, lag = await world.series.consumer("hour", "b", "worker")
    assert points(list(lag)) == [70, 70]
    _, _, unknown = await world.series.consumer("hour", "b", "nobody")
    assert points(list(unknown)) == [0, 0]


@pytest.mark.gen_test
async def test_a_restart_loses_nothing(world: World) -> None:
    """What was measured before is there, what was missed is null, and the minutes of a bucket go on."""
    await world.series.open(world.levels.totals)
    await world.go(60, events=6)
    await world.series.close()
    world.now += 120
    world.counters = Counters()
    world.series = world.make()
    await world.series.open(world.levels.totals)
    await world.go(60, events=12)
    _, _, found = await world.series.whole("hour")
    assert points(found["events"]) == [0.6] * 6 + [pytest.approx(1.2)] * 6

    rate = world.rate("b")
    assert (len(rate), sum(rate)) == (60, 108)
    assert 0 in rate[-3:]  # the minute that was missed


@pytest.mark.gen_test
@pytest.mark.parametrize("opened", [False, True])
async def test_a_stop_loses_nothing(world: World, opened: bool) -> None:
    """What came since the last measure is measured at the end, and what comes in the same 10 seconds is added to it; so
    it is where the file is still being opened."""
    for came in (5, 7):
        task = asyncio.create_task(world.series.run(lambda: world.levels))
        await asyncio.sleep(0)
        if opened:
            await until(lambda: world.series._connection)
        world.levels = replace(world.levels, totals={"b": world.levels.totals["b"] + came})
        world.now += 2
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        world.series = world.make()
    await world.series.open(world.levels.totals)
    assert sum(world.rate("b")) == 12
    world.now = START
    await world.go(10, events=3)
    _, _, found = await world.series.bucket("hour", "b")
    assert points(list(found)) == [1.5]


@pytest.mark.gen_test
async def test_a_restart_within_10_seconds_loses_no_events_of_the_whole_relay(world: World) -> None:
    """They are in one point with those that came after the restart, as in the series of their bucket."""
    for came, seconds in ((50, 6), (20, 1)):
        await world.series.open(world.levels.totals)
        world.counters.committed(came, 100, 0.002)
        world.levels = replace(world.levels, totals={"b": world.levels.totals["b"] + came})
        world.now += seconds
        await world.series.measure(world.levels, last=True)
        await world.series.close()
        world.counters = Counters()
        world.series = world.make()
    world.now = START + 10.0
    await world.series.open(world.levels.totals)
    await world.series.measure(world.levels)
    _, _, found = await world.series.whole("hour")
    assert points(found["events"]) == [7.0]
    _, _, events = await world.series.bucket("hour", "b")
    assert points(list(events)) == [7.0]


@pytest.mark.gen_test
async def test_a_timer_that_fires_early(world: World) -> None:
    """The measurement waits for the clock: otherwise it would take the point before, and its own would be missing."""
    measured: list[float] = []

    def slow_clock() -> float:
        world.now += 0.001
        return world.now

    def levels() -> Levels:
        measured.append(world.now)
        return world.levels

    world.now = START + 9.98
    world.series = Series(world.folder, world.counters, slow_clock)
    task = asyncio.create_task(world.series.run(levels))
    await until(lambda: len(measured) > 1)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert measured[1] >= START + 10  # the first one is at the start


@pytest.mark.gen_test
async def test_a_clock_that_is_set_back_holds_up_no_measurement(world: World) -> None:
    world.now = START + 9.99
    task = asyncio.create_task(world.series._due())
    await asyncio.sleep(0)
    world.now = START - 3_600
    await task


@pytest.mark.gen_test
async def test_a_mistake_in_what_is_measured_is_logged(world: World) -> None:
    """It ends nothing else, and the file is closed at the end as ever."""

    def levels() -> Levels:
        if world.series._connection is None:
            return world.levels
        raise ZeroDivisionError

    with capture_logs() as logs:
        task = asyncio.create_task(world.series.run(levels))
        await until(lambda: world.series._connection)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert [each["event"] for each in logs] == ["series_failed"]
    assert world.series._connection is None


@pytest.mark.gen_test
@pytest.mark.parametrize("answers", [True, False])
async def test_rates_right_after_a_start(world: World, monkeypatch: pytest.MonkeyPatch, answers: bool) -> None:
    """Who asks waits until the last minutes are read, though not for a disk that does not answer."""
    await world.series.open(world.levels.totals)
    await world.go(10, events=5)
    await world.series.close()
    world.series = world.make()
    await world.series.ready()  # it was not begun: there is nothing to wait for
    gate, do = asyncio.Event(), world.series._do

    async def late(job: Any) -> Any:
        await gate.wait()
        return await do(job)

    monkeypatch.setattr(world.series, "_do", late)
    opening = asyncio.create_task(world.series.open(world.levels.totals))
    await asyncio.sleep(0)
    if not answers:
        monkeypatch.setattr("relay_tornado.series.series.PATIENCE", 0.01)
        await world.series.ready()
        assert sum(world.rate("b")) == 0
    asyncio.get_running_loop().call_soon(gate.set)
    await (world.series.ready() if answers else opening)
    assert sum(world.rate("b")) == 5
    await opening


@pytest.mark.gen_test
async def test_rates_by_the_minute(world: World) -> None:
    """The last 60 minutes of each bucket, with what came since the last measure; a bucket of which nothing is known has
    zeros."""
    await world.series.open(world.levels.totals)
    await world.go(3 * 60, events=1)
    world.levels = replace(world.levels, totals={"b": world.levels.totals["b"] + 4, "c": 9})
    rate = world.rate("b")
    assert len(rate) == 60
    assert sum(rate) == 18 + 4
    assert rate[-4:] == [5, 6, 6, 1 + 4]
    assert world.rate("c")[-1] == 9
    world.levels = replace(world.levels, totals={})
    await world.go(10)
    assert world.rate("b") == [0] * 60  # it is deleted
    world.levels = replace(world.levels, totals={"b": 4})
    await world.go(10)
    assert sum(world.rate("b")) == 4
    world.now += 60 * 2  # without a measure
    assert world.rate("b")[-3:] == [4, 0, 0]
    world.now += 3600 * 2
    assert sum(world.rate("b")[:-1]) == 0
    assert world.rate("unknown") == [0] * 60


@pytest.mark.parametrize(
    ("took", "p50", "p99"),
    [
        ([0.0001] * 10, 0.00025, 0.000495),
        ([0.002] * 100, 0.00175, 0.002485),
        ([0.002] * 50 + [0.02] * 50, 0.0025, 0.0247),
        ([99.0], 10.0, 10.0),
    ],
)
@pytest.mark.gen_test
async def test_how_long_commits_took(world: World, took: list[float], p50: float, p99: float) -> None:
    """Those since the measure before: within two bounds it is even, and behind the last one it is that."""
    world.counters.committed(1, 100, 5.0)
    await world.go(10)
    for seconds in took:
        world.counters.committed(1, 100, seconds)
    await world.go(10)
    _, _, found = await world.series.whole("hour")
    assert points(found["commit_p50"])[-1] == pytest.approx(p50)
    assert points(found["commit_p99"])[-1] == pytest.approx(p99)


@pytest.mark.gen_test
async def test_who_has_series_of_its_own(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many buckets those to which the most came, of many consumers those that are furthest behind."""
    monkeypatch.setattr("relay_tornado.series.series.BUCKETS", 2)
    monkeypatch.setattr("relay_tornado.series.series.CONSUMERS", 2)
    counts = {"one": 1, "many": 9, "some": 5, "none": 0}
    world.levels = Levels(totals=counts, consumers=[ConsumerLevel("b", name, n, 1.0, 0) for name, n in counts.items()])
    await world.go(10)
    world.levels = Levels(totals=counts, consumers=[ConsumerLevel("b", "none", 0, 0.0, 0)])
    await world.go(10)
    with closing(sqlite3.connect(world.series.path)) as raw:
        names = {name for (name,) in raw.execute("SELECT name FROM series WHERE name LIKE '%:%'")}
    assert names == {"bucket:many", "bucket:some", "lag:b/many", "lag:b/some"}


@pytest.mark.gen_test
async def test_five_minutes_become_one_point_and_the_old_leaves(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A day at 10 seconds, a month at 5 minutes: means, sums and the worst, and no row stays longer."""
    monkeypatch.setitem(file.KEPT, file.FINE, 900.0)
    monkeypatch.setitem(file.KEPT, file.COARSE, 3600.0)

    await world.series.open(world.levels.totals)
    world.counters.rejected("overloaded")
    await world.go(300, events=10)
    await world.go(3600)
    await world.go(600, events=20)
    with closing(sqlite3.connect(world.series.path)) as raw:
        rows = raw.execute("SELECT step, min(at), max(at) FROM point GROUP BY step").fetchall()
        names = {name for (name,) in raw.execute("SELECT name FROM series")}
    ranges = {step: (low, high) for step, low, high in rows}
    assert world.now - 900 <= ranges[10][0] < ranges[10][1] == world.now
    assert ranges[300][0] >= world.now - 3600
    assert "bucket:b" in names
    assert "errors:overloaded" not in names  # of which there is no point any more
    _, step, found = await world.series.whole("month")
    assert step == 1800
    assert max(points(found["events"])) > 0


@pytest.mark.gen_test
async def test_a_clock_that_was_ahead(world: World) -> None:
    """What is measured once it is right again becomes points of 5 minutes as ever."""
    await world.series.open(world.levels.totals)
    world.now += 400 * DAY
    await world.go(600, events=10)
    world.now = float(START)
    await world.go(2400, events=10)
    _, _, found = await world.series.whole("month")
    assert len(points(found["events"])) == 2


@pytest.mark.gen_test
async def test_sums_means_and_the_worst(world: World) -> None:
    """What stands for 5 minutes."""
    await world.series.open(world.levels.totals)
    for _ in range(3):
        world.counters.rejected("overloaded")
    world.levels = replace(world.levels, lag=90)
    await world.go(10, events=30)
    world.levels = replace(world.levels, lag=1)
    await world.go(600)
    with closing(sqlite3.connect(world.series.path)) as raw:
        rows = raw.execute(
            "SELECT name, value FROM point JOIN series ON series.id = series WHERE step = 300 AND at = ?", (START,)
        )
        found = dict(rows.fetchall())
    assert (found["lag"], found["errors:overloaded"], found["bucket:b"]) == (90, 3, 30)
    assert found["events"] == pytest.approx(3 / 29)


def test_counts_that_are_written_twice_add_up_and_levels_are_replaced(tmp_path: Path) -> None:
    """Where both are of one time; of a level the newest stays."""
    with closing(sqlite3.connect(tmp_path / file.NAME, isolation_level=None)) as raw:
        file.prepare(raw)
        for lag in (9, 2):
            file.write(raw, START, {"events": 1.0, "lag": lag, "bucket:b": 5})
        assert file.read(raw, START, START + 10, 10, ("lag", "bucket:b"), ()) == {"lag": [2], "bucket:b": [10]}


@pytest.mark.gen_test
async def test_a_month_is_there_when_its_fine_points_left(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read from the points of 5 minutes, and shorter spans from the fine ones, up to their end and no further."""
    monkeypatch.setitem(file.KEPT, file.FINE, 900.0)
    await world.series.open(world.levels.totals)
    await world.go(1800, events=10)
    await world.go(3600)
    for span, count in (("month", 1800), ("hour", 0)):
        _, step, found = await world.series.bucket(span, "b")
        assert round(sum(each * step for each in found if each)) == count, span
    with closing(sqlite3.connect(world.series.path)) as raw:
        (start,) = raw.execute("SELECT min(at) FROM point WHERE step = 10").fetchone()
        assert len(file.read(raw, start, start + 60, 10, ("events",), ())["events"]) == 6


@pytest.mark.parametrize("harm", ["no database", "another version", "taken away", "a directory", "not to be removed"])
@pytest.mark.gen_test
async def test_a_file_that_fails_disturbs_nobody(tmp_path: Path, harm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measures are dropped, reads find nothing, and where another file helps there is one at the next try."""
    monkeypatch.setattr("relay_tornado.series.series._AGAIN", 0.0)
    world = World(tmp_path)
    path = world.series.path
    if harm in ("no database", "not to be removed"):
        path.write_bytes(b"this is no database" * 1000)
        if harm == "not to be removed":
            monkeypatch.setattr("relay_tornado.storage.database_files.remove", Mock(side_effect=PermissionError(path)))
    elif harm == "another version":
        with closing(sqlite3.connect(path)) as raw:
            raw.execute("PRAGMA user_version = 99")
    elif harm == "a directory":
        path.mkdir()

    await world.series.open(world.levels.totals)
    await world.go(20, events=1)
    if harm == "taken away":
        for each in tmp_path.glob(file.NAME + "*"):
            each.unlink()
        await world.go(20, events=1)
    _, _, found = await world.series.whole("hour")
    assert len(points(found["events"])) == (0 if harm in ("a directory", "not to be removed") else 2)
    assert sum(world.rate("b")) == (4 if harm == "taken away" else 2)
    await world.series.close()


@pytest.mark.gen_test
async def test_a_disk_that_is_full_takes_nothing_away(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is good, and goes on when there is room."""
    monkeypatch.setattr("relay_tornado.series.series._AGAIN", 0.0)
    await world.series.open(world.levels.totals)
    await world.go(20, events=1)
    with monkeypatch.context() as patched:
        patched.setattr(file, "write", Mock(side_effect=sqlite3.OperationalError("database or disk is full")))
        await world.go(10, events=1)
    await world.go(10, events=1)
    _, _, found = await world.series.whole("hour")
    assert len(points(found["events"])) == 3


@pytest.mark.gen_test
async def test_it_takes_nothing_of_a_full_disk(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left of it is for relay.db; points are written again once there is room."""
    await world.go(10, events=10)
    with monkeypatch.context() as patch:
        patch.setattr(sidecar, "disk_of", lambda _: Disk(64 * MIB, MIB - 1))
        await world.go(20, events=10)
    await world.go(10, events=10)
    assert (await world.series.whole("hour"))[2]["events"][-4:] == [1.0, None, None, 1.0]


@pytest.mark.gen_test
async def test_a_file_that_is_being_let_go_of(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody opens it again meanwhile, to have it taken away from under them."""
    await world.series.open(world.levels.totals)
    closing_it, closed, opened = asyncio.Event(), asyncio.Event(), []
    close, writer = Connection.close, sidecar.writer

    async def slow(connection: Connection) -> None:
        closing_it.set()
        await closed.wait()
        await close(connection)

    def open_another(path: Path, begin: Any) -> Awaitable[Any]:
        opened.append(path)
        return writer(path, begin)

    def fail(*args: object) -> None:
        raise sqlite3.DatabaseError("it is malformed")

    monkeypatch.setattr(Connection, "close", slow)
    monkeypatch.setattr(sidecar, "writer", open_another)
    monkeypatch.setattr(file, "write", fail)
    failing = asyncio.create_task(world.go(10, events=1))
    await closing_it.wait()
    reading = asyncio.create_task(world.series.whole("hour"))
    await until(lambda: reading.done() or world.series._opening.locked())
    closed.set()
    await asyncio.gather(failing, reading)
    assert opened == []
    assert not world.series.path.exists()


@pytest.mark.gen_test
async def test_a_full_file_lets_go_of_the_oldest(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many series there are, there are no more points than may be; and no more leave than have to."""
    monkeypatch.setattr(file, "MOST_POINTS", 300)

    await world.series.open(world.levels.totals)
    await world.go(3600, events=1)
    with closing(sqlite3.connect(world.series.path)) as raw:
        count = raw.execute("SELECT count(*) FROM point").fetchone()[0]
    assert 300 <= count <= 300 + 10 * 30
    _, _, found = await world.series.whole("hour")
    assert points(found["events"])
