"""What the store of what became of events promises (log/results.py), over each engine."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any
from unittest.mock import AsyncMock

import pytest
from tornado.ioloop import IOLoop

from relay_tornado.errors import BucketGone, Invalid, NotFound, Overloaded, Unavailable
from relay_tornado.log import reclaim
from relay_tornado.log.results import MOST_RESULTS, READ_BYTES, Latest, Results, sent
from relay_tornado.log.sqlite_results import SqliteResults
from relay_tornado.model import Retention
from tests.log.memory_results import MemoryResults
from tests.log.worlds import SqliteWorld, World, event, make, result
from tests.waiting import until

log_test = pytest.mark.gen_test


@pytest.fixture
def results(world: World, io_loop: IOLoop) -> Iterator[Results]:
    """The store beside the log of `world`."""
    if isinstance(world, SqliteWorld):
        made = SqliteResults(world.database, world.settings)
        yield made
        io_loop.run_sync(made.close)
    else:
        yield MemoryResults(world.log)


@pytest.fixture
def stored(disk: SqliteWorld, io_loop: IOLoop) -> Iterator[SqliteResults]:
    """The store in a file."""
    made = SqliteResults(disk.database, disk.settings)
    yield made
    io_loop.run_sync(made.close)


@log_test
async def test_a_result_comes_out_as_it_went_in(world: World, results: Results) -> None:
    """Every part of a result is read back, by event and copy, oldest first."""
    await make(world.log, events=3)
    failed, answered = result(0, status="failed", headers={}, body=b""), result(201)
    await results.record("b", 2, 1, failed)
    await results.record("b", 2, 1, answered)
    await results.record("b", 3, 0, answered)
    assert await results.of("b", 1, 3) == {(2, 1): [failed, answered], (3, 0): [answered]}
    assert await results.of("b", 3, 9) == {(3, 0): [answered]}
    assert await results.of("b", 1, 1) == {}


@log_test
async def test_the_first_answer_of_a_copy_stays(world: World, results: Results) -> None:
    """The first result of a copy with a status code is its answer; what comes before or after it is stored only."""
    await make(world.log, events=1)
    await results.record("b", 1, 1, result(0, status="failed"))
    assert await results.first("b", 1, None) is None
    await results.record("b", 1, 1, result(201))
    await results.record("b", 1, 1, result(202))
    await results.record("b", 1, 2, result(203))
    for output, code in ((1, 201), (2, 203), (None, 201)):
        first = await results.first("b", 1, output)
        assert first is not None
        assert first.status_code == code
    assert await results.first("b", 1, 3) is None


@log_test
async def test_of_answers_at_once_one_is_the_first(world: World, results: Results) -> None:
    """Of many that come for one copy at the same time the answer is the one that came first."""
    await make(world.log, events=1)
    await asyncio.gather(*(results.record("b", 1, 1, result(200 + n)) for n in range(15)))
    first = await results.first("b", 1, 1)
    assert first is not None
    assert first.status_code == 200


@log_test
async def test_what_is_read_at_once_is_bounded(world: World, results: Results) -> None:
    """Of more than is read at once the status of all is there, and of the newest (or the first that are asked for) what
    was answered."""
    large = b"x" * (READ_BYTES // 4)
    await make(world.log, events=5)
    for seq in (1, 1, 1, 1, 1, 2, 3, 4, 5):
        await results.record("b", seq, 1, result(200, body=large))
    for kept in (
        (await results.of("b", 1, 1))[1, 1],
        [(await results.latest("b", [1, 2, 3, 4, 5], None))[seq].result for seq in (5, 4, 3, 2, 1)],
    ):
        assert [each.status_code for each in kept] == [200] * 5
        assert [each.left_out for each in kept] == [True, True, False, False, False]
        assert [each.body for each in kept] == [b"", b"", large, large, large]
    whole = await results.first("b", 1, 1)
    assert whole is not None
    assert whole.body == large


@log_test
async def test_the_results_of_a_copy_are_bounded(world: World, results: Results) -> None:
    """Of very many results of a copy the first answer and the newest ones are kept."""
    await make(world.log, events=1)
    for n in range(MOST_RESULTS):
        await results.record("b", 1, 1, result(0, at=float(n)))
    await results.record("b", 1, 1, result(200, at=100.0))
    for n in range(2 * MOST_RESULTS):
        await results.record("b", 1, 1, result(500, at=200.0 + n))
    await results.record("b", 1, 2, result(0))
    kept = (await results.of("b", 1, 1))[1, 1]
    newest = [200.0 + n for n in range(MOST_RESULTS + 1, 2 * MOST_RESULTS)]
    assert [each.at for each in kept] == [100.0, *newest]


@log_test
async def test_the_newest_result_counts(world: World, results: Results) -> None:
    """`latest` and `statuses` tell of the newest result, of one copy or of any."""
    await make(world.log, events=4)
    failed, answered = result(0, status="failed"), result(201)
    await results.record("b", 1, 1, answered)
    await results.record("b", 1, 2, failed)
    await results.record("b", 3, 1, failed)
    await results.record("b", 3, 1, answered)
    assert await results.latest("b", [1, 2, 3], None) == {1: Latest(2, failed), 3: Latest(1, answered)}
    assert await results.latest("b", [1, 2, 3], 1) == {1: Latest(1, answered), 3: Latest(1, answered)}
    assert await results.statuses("b", 1, 4, None) == {1: "failed", 3: "sent"}
    assert await results.statuses("b", 1, 2, 1) == {1: "sent"}
    assert await results.statuses("b", 1, 4, 9) == {}


@log_test
async def test_results_belong_to_events_that_are_there(world: World, results: Results) -> None:
    """For an event that the log does not hold, or of no bucket, nothing is stored and nothing is found."""
    await make(world.log, events=2)
    for seq in (0, 3):
        with pytest.raises(NotFound):
            await results.record("b", seq, 1, result())
    with pytest.raises(BucketGone):
        await results.record("x", 1, 1, result())
    with pytest.raises(BucketGone):
        await results.claim("x", 0, 0, [1], 1, 1.0)
    assert await results.of("b", 0, 9) == {}
    assert await results.of("x", 0, 9) == {}
    assert await results.first("x", 1, None) is None
    assert await results.floor("x", 0) == 0


@log_test
async def test_results_leave_with_their_events(world: World, results: Results) -> None:
    """What retention takes, takes its results along; a bucket's go with it, also where its id has a log again."""
    await make(world.log, events=6)
    for seq in range(1, 7):
        await results.record("b", seq, 1, result())
    await world.log.trim("b", Retention(None, 2, None), None)
    assert set(await results.of("b", 0, 9)) == {(5, 1), (6, 1)}
    assert await results.latest("b", [1], None) == {}
    assert await results.first("b", 1, None) is None
    with pytest.raises(NotFound):
        await results.record("b", 4, 1, result())
    await results.claim("b", 0, 0, [], 6, 1.0)
    await world.log.drop("b")
    await make(world.log, events=6)
    assert await results.of("b", 0, 9) == {}
    assert await results.floor("b", 0) == 0


@log_test
async def test_results_leave_with_their_log(disk: SqliteWorld, stored: SqliteResults) -> None:
    """In the background, before it does."""
    await make(disk.log, events=2)
    for seq in (1, 2):
        await stored.record("b", seq, 1, result())
    await disk.log.drop("b")
    logs = "SELECT count(*) FROM log"
    await until(lambda: disk.database.read(lambda raw: raw.execute(logs).fetchone()[0] == 0))
    assert await disk.database.read(lambda raw: raw.execute("SELECT count(*) FROM delivery").fetchone()[0]) == 0


@log_test
async def test_what_can_not_be_stored_is_refused(world: World, results: Results) -> None:
    """Half a surrogate pair and numbers without measure are refused, and others' results are stored."""
    await make(world.log, events=1)
    bad = [result(headers={"X": ["\ud800"]}), result(-1), result(duration_ms=1 << 80), result(status="\ud800")]
    told = await asyncio.gather(*(results.record("b", 1, 1, each) for each in [*bad, result()]), return_exceptions=True)
    assert [isinstance(each, Invalid) for each in told] == [True] * 4 + [False]
    assert len((await results.of("b", 1, 1))[1, 1]) == 1


@log_test
async def test_a_claim_marks_and_moves_at_once(world: World, results: Results) -> None:
    """A claim moves the consumer and marks what is not done with; from another position nothing happens."""
    await make(world.log, events=5)
    await results.record("b", 2, 1, result())
    await results.record("b", 3, 1, result(0, status="stalled"))
    assert await results.claim("b", 0, 0, [1, 2, 3], 4, 7.0) == [1, 3]
    assert await results.floor("b", 0) == 4
    assert await results.claim("b", 0, 0, [5], 5, 7.0) is None
    assert await results.floor("b", 0) == 4
    assert await results.statuses("b", 1, 5, None) == {1: "sent", 2: "sent", 3: "sent"}
    assert (await results.latest("b", [1], 0))[1] == Latest(0, sent(7.0))
    assert await results.claim("b", 3, 0, [1, 5], 5, 7.0) == [1, 5]
    assert await results.floor("b", 3) == 5


@log_test
async def test_small_claims_share_a_commit(disk: SqliteWorld, stored: SqliteResults) -> None:
    """Those of many queues; of one queue, only the first one counts. A large claim keeps senders waiting alone."""
    await make(disk.log, events=20)
    before = disk.database.commits
    claims = [stored.claim("b", output, 0, [1, 2], 2, 1.0) for output in (1, 2, 3, 3)]
    assert await asyncio.gather(*claims) == [[1, 2], [1, 2], [1, 2], None]
    assert disk.database.commits == before + 1
    many = range(1, 21)
    await asyncio.gather(*(stored.claim("b", output, 0, many, 20, 1.0) for output in (4, 5, 6)))
    assert disk.database.commits == before + 4


@log_test
async def test_events_that_the_log_does_not_hold_are_not_claimed(world: World, results: Results) -> None:
    await make(world.log, events=6)
    await world.log.trim("b", Retention(None, 4, None), None)
    assert await results.claim("b", 1, 0, [2, 3, 6, 7], 6, 7.0) == [3, 6]
    assert set(await results.of("b", 0, 9)) == {(3, 1), (6, 1)}


@log_test
async def test_a_queue_that_is_ended_has_no_position(world: World, results: Results) -> None:
    """The other queues and the results stay; a missing queue, or log, is no error."""
    await make(world.log, events=5)
    for output in (0, 3):
        await results.claim("b", output, 0, [1], 4, 7.0)
    await results.end_queue("b", 3)
    await results.end_queue("b", 3)
    await results.end_queue("nobody's", 3)
    assert [await results.floor("b", output) for output in (0, 3)] == [4, 0]
    assert sorted(await results.of("b", 1, 1)) == [(1, 0), (1, 3)]


@log_test
async def test_two_that_claim_never_share(world: World, results: Results) -> None:
    """Of many claims from one position one succeeds."""
    await make(world.log, events=5)
    claims = await asyncio.gather(*(results.claim("b", 0, 0, [1], 1, 1.0) for _ in range(9)))
    assert [each for each in claims if each is not None] == [[1]]


@log_test
async def test_what_is_stored_outlives_the_process(disk: SqliteWorld) -> None:
    """Results and positions are there after a restart."""
    await make(disk.log, events=2)
    before = SqliteResults(disk.database, disk.settings)
    await before.record("b", 1, 2, result())
    await before.claim("b", 0, 0, [2], 2, 1.0)
    await before.close()
    await disk.reopen()
    after = SqliteResults(disk.database, disk.settings)
    assert await after.of("b", 1, 2) == {(1, 2): [result()], (2, 0): [sent(1.0)]}
    assert await after.floor("b", 0) == 2
    await after.close()


@log_test
async def test_results_share_commits(disk: SqliteWorld, stored: SqliteResults) -> None:
    """Hundreds of results at once take a handful of transactions."""
    await make(disk.log, events=300)
    before = disk.database.commits
    await asyncio.gather(*(stored.record("b", seq, 1, result()) for seq in range(1, 301)))
    assert 2 <= disk.database.commits - before <= 4
    assert len(await stored.of("b", 1, 300)) == 300


@log_test
async def test_results_share_the_commit_of_events_that_wait(disk: SqliteWorld, stored: SqliteResults) -> None:
    """A sender waits for the disk once, not for the results first."""
    await make(disk.log, events=3)
    before, writer, done = disk.database.commits, disk.database._writer, threading.Event()
    commit = asyncio.create_task(disk.database.write(lambda raw: done.wait(60)))
    await until(lambda: writer._work is not None)
    waiting = asyncio.gather(
        *(stored.record("b", seq, 1, result()) for seq in (1, 2, 3)), *(disk.log.append("b", event()) for _ in range(3))
    )
    await until(lambda: bool(writer._jobs))
    done.set()
    await asyncio.gather(commit, waiting)
    assert disk.database.commits == before + 2
    assert (await disk.log.bounds("b")).head == 6
    assert len(await stored.of("b", 1, 6)) == 3


@log_test
async def test_a_commit_of_results_has_no_more_bytes_than_it_may(disk: SqliteWorld) -> None:
    await make(disk.log, events=1)
    results = SqliteResults(disk.database, type(disk.settings)(data=disk.settings.data, commit_bytes=10_000))
    before = disk.database.commits
    await asyncio.gather(*(results.record("b", 1, output, result(body=b"x" * 4000)) for output in range(1, 7)))
    assert disk.database.commits == before + 3
    await results.close()


@log_test
async def test_the_queue_is_bounded(disk: SqliteWorld) -> None:
    """Over its bytes results are refused, and nothing that was taken is lost. An empty one takes any result."""
    await make(disk.log, events=1)
    disk.settings = type(disk.settings)(data=disk.settings.data, append_queue=10_000)
    results = SqliteResults(disk.database, disk.settings)
    told = await asyncio.gather(
        *(results.record("b", 1, output, result(body=b"x" * 3000)) for output in range(9)), return_exceptions=True
    )
    taken = [each for each in told if each is None]
    assert len(taken) == 2
    assert all(each is None or isinstance(each, Overloaded) for each in told)
    assert len(await results.of("b", 1, 1)) == len(taken)
    await results.record("b", 1, 1, result(body=b"x" * 20_000))
    await results.close()
    with pytest.raises(Unavailable):
        await results.record("b", 1, 1, result())


@log_test
async def test_a_commit_of_results_that_fails_for_lack_of_memory_leaves_nobody_waiting(
    disk: SqliteWorld, stored: SqliteResults, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor do its results take up room; the next ones are stored."""
    await make(disk.log, events=1)
    with monkeypatch.context() as patch:
        patch.setattr(disk.database, "write", AsyncMock(side_effect=MemoryError))
        told = await asyncio.gather(*(stored.record("b", 1, n, result()) for n in (1, 2)), return_exceptions=True)
    assert [type(each) for each in told] == [Unavailable] * 2
    assert stored._bytes == 0
    await stored.record("b", 1, 3, result())
    assert set(await stored.of("b", 1, 1)) == {(1, 3)}


@log_test
async def test_a_cancelled_caller_takes_nothing_back(disk: SqliteWorld, stored: SqliteResults) -> None:
    """Who leaves before the commit leaves a result that is stored all the same, and harms nobody else's."""
    await make(disk.log, events=1)
    tasks = [asyncio.create_task(stored.record("b", 1, output, result())) for output in (1, 2)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    await tasks[1]
    assert set(await stored.of("b", 1, 1)) == {(1, 1), (1, 2)}


@log_test
async def test_rows_of_events_that_left_are_deleted(disk: SqliteWorld, stored: SqliteResults) -> None:
    """After a trim and a drop nothing of what became of the events is in the file, in steps however much it was."""
    await make(disk.log, events=600)
    await asyncio.gather(*(stored.record("b", seq, 1, result()) for seq in range(1, 601)))
    await stored.claim("b", 1, 0, [], 5, 1.0)
    count = "SELECT (SELECT count(*) FROM delivery), (SELECT count(*) FROM consumer)"
    await disk.log.trim("b", Retention(None, 10, None), None)
    assert await disk.database.read(lambda raw: raw.execute(count).fetchone()) == (10, 1)
    await disk.log.drop("b")
    await until(lambda: disk.database.read(lambda raw: raw.execute("SELECT 1 FROM log").fetchone() is None))
    assert await disk.database.read(lambda raw: raw.execute(count).fetchone()) == (0, 0)


@log_test
async def test_results_that_have_yet_to_leave_are_not_read(
    disk: SqliteWorld, stored: SqliteResults, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their events are gone already."""
    monkeypatch.setattr(reclaim, "has_old_deliveries", lambda raw, log: False)
    await make(disk.log, events=3)
    for seq in (1, 2, 3):
        await stored.record("b", seq, 1, result())
    assert await disk.log.trim("b", Retention(None, 1, None), None) == 2
    assert await disk.database.read(lambda raw: raw.execute("SELECT count(*) FROM delivery").fetchone()) == (3,)
    assert [await stored.first("b", seq, None) is None for seq in (1, 2, 3)] == [True, True, False]
    assert set(await stored.of("b", 1, 3)) == {(3, 1)}
    assert set(await stored.latest("b", [1, 2, 3], None)) == {3}
    assert await stored.statuses("b", 1, 3, None) == {3: "sent"}


@log_test
async def test_results_leave_in_steps_of_so_many_bytes(
    disk: SqliteWorld, stored: SqliteResults, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is larger leaves by itself."""
    await make(disk.log, events=2)
    for output, size in enumerate([10] * 6 + [100], 1):
        await stored.record("b", 1, output, result(body=b"x" * size))
    monkeypatch.setattr(reclaim, "STEP_BYTES", 30)
    before = disk.database.commits
    assert await disk.log.trim("b", Retention(None, 1, None), None) == 1
    assert disk.database.commits == before + 1 + 3
    assert await disk.database.read(lambda raw: raw.execute("SELECT count(*) FROM delivery").fetchone()) == (0,)


@log_test
async def test_an_event_keeps_its_marks(world: World) -> None:
    """What an event is a copy of, who gets it and what its signature said are read back, also after a restart."""
    await make(world.log)
    marks: dict[str, Any] = {"resend_of": "x-1", "target": 2, "force": True, "verified": False, "verdict": "no ü"}
    await asyncio.gather(*(world.log.append("b", event(**each)) for each in ({}, marks, {"verified": True}, {})))
    for _ in range(2):
        events = await world.log.read("b", 0, 9, 1 << 20)
        assert [each.seq for each in events] == [1, 2, 3, 4]
        assert {name: getattr(events[1], name) for name in marks} == marks
        assert (events[2].verified, events[2].verdict) == (True, "")
        assert (events[3].verified, events[3].resend_of, events[3].target, events[3].force) == (None, None, None, False)
        await world.reopen()
