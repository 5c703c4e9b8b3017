"""The index follows the log: to the oldest and to the newest, over restarts, trims and drops, in its bound."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from relay_tornado.errors import Overloaded
from relay_tornado.ids import new_epoch
from relay_tornado.log.sqlite import SqliteEventLog
from relay_tornado.model import Retention
from relay_tornado.pieces import PIECE_SIZE
from relay_tornado.search import file, index, pacing, pages
from relay_tornado.search.index import Index
from relay_tornado.search.text import parse_query
from tests.counting import calls_by_turn
from tests.log.memory import MemoryEventLog
from tests.log.worlds import SqliteWorld, event
from tests.search.indexing import BOUND, caught_up, fill, indexed, log_test, look, noise
from tests.waiting import until

pytestmark = pytest.mark.usefixtures("at_once")


def test_a_bound_that_is_too_small_is_said(tmp_path: Path) -> None:
    """The least counts, and whoever asked for less can see that."""
    with capture_logs() as said:
        Index(tmp_path, MemoryEventLog(), list, 1 << 20)
    (line,) = said
    assert (line["event"], line["asked"], line["bytes"]) == ("search_index_raised", 1 << 20, 64 << 20)


@log_test
async def test_seqs_that_a_row_has_no_room_for(world: SqliteWorld, tmp_path: Path) -> None:
    """They are not covered, so that whoever searches looks at the events; what is below is, and other buckets are."""
    await world.log.create("at", "cccccccccccc", file.MOST_SEQ - 5)
    await world.log.create("beyond", "dddddddddddd", 1 << 41)
    for name in ("b", "at", "beyond"):
        for number in range(20):
            await world.log.append(name, event(b"needle of %s %d" % (name.encode(), number)))
    async with indexed(world, tmp_path, ("b", "at", "beyond")) as made:
        await caught_up(made, world)
        await until(lambda: made._whole)
        assert made.covered("at") == (file.MOST_SEQ - 5, file.MOST_SEQ)
        assert made.covered("beyond") is None
        assert await look(made, world, "needle of b") == list(range(20, 0, -1))
        assert await look(made, world, "needle of at", "at") == list(range(file.MOST_SEQ, file.MOST_SEQ - 6, -1))
        for number in range(20):
            await world.log.append("beyond", event(b"needle of beyond %d" % number))
        await world.log.append("b", event(b"the last"))
        await caught_up(made, world)
        assert made.covered("beyond") is None
        assert await look(made, world, "the last") == [21]


@log_test
async def test_a_bucket_that_is_made_meanwhile_is_indexed_from_its_first_event(
    world: SqliteWorld, tmp_path: Path
) -> None:
    """Also what came before the index learned of it."""
    await fill(world, 1)
    async with indexed(world, tmp_path, ("b", "new")) as made:
        await caught_up(made, world)
        await until(lambda: made._whole)
        await world.log.create("new", "cccccccccccc", 1)
        await asyncio.gather(*(world.log.append("new", event(b"needle %d" % number)) for number in range(3)))
        await caught_up(made, world, "new")
        assert await look(made, world, "needle", "new") == [3, 2, 1]


@log_test
async def test_old_and_new_events_are_found(world: SqliteWorld, tmp_path: Path) -> None:
    """What was there before, in many steps from the newest on, and what comes while it runs; in each bucket its own."""
    await world.log.create("c", "cccccccccccc")
    await fill(world, 3 * pages.EVENTS)
    await fill(world, 5, "c")
    await world.log.create("empty", "dddddddddddd")
    async with indexed(world, tmp_path, ("b", "c", "empty")) as made:
        await caught_up(made, world)
        await caught_up(made, world, "c")
        assert await look(made, world, "number-000001") == [1]
        assert await look(made, world, "number-000767") == [767]
        assert await look(made, world, "number-000001", "c") == [1]
        assert len(await look(made, world, "event number")) == 3 * pages.EVENTS
        await fill(world, 3)
        await caught_up(made, world)
        assert await look(made, world, "number-000771") == [771]
        assert await look(made, world, "number-00077") == [771, 770]
        made._state.parts[made._state.places["b"].key].append(file.Part(1 << 30, 1, 771, 0.0))
        assert await made.find("b", parse_query("number").match(), 1, 771, 1) is None
        made._state = await made._connection().run(file.load)


@log_test
async def test_old_events_are_indexed_while_new_ones_come(world: SqliteWorld, tmp_path: Path) -> None:
    """However often: they are not put off until none comes."""
    await fill(world, 3 * pages.EVENTS)

    class Busy(Index):
        async def _step(self) -> int:
            await world.log.append("b", event(b"a new one"))
            return await super()._step()

    async with indexed(world, tmp_path, kind=Busy) as made:
        await until(lambda: (made.covered("b") or (9, 9))[0] == 1, "the old ones")
        assert await look(made, world, "number-000001") == [1]
        assert await look(made, world, "a new one")


@log_test
async def test_thousands_of_buckets_come_in_pieces(
    world: SqliteWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start looks at all of them, and so does each check for what left the log."""
    names = [f"b{number}" for number in range(2 * PIECE_SIZE)]
    for name in names:
        await world.log.create(name, new_epoch())
        await world.log.append(name, event())
    async with indexed(world, tmp_path, names) as made:
        await until(lambda: made._whole)
    looked_at = calls_by_turn(monkeypatch, SqliteEventLog, "bounds")
    async with indexed(world, tmp_path, names) as made:
        await until(lambda: made._whole)
    assert sum(looked_at) >= 3 * len(names)
    assert max(looked_at) <= PIECE_SIZE


@log_test
async def test_so_many_look_ups_wait_for_one_another(
    world: SqliteWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One more is told to come again."""
    monkeypatch.setattr(index, "_SEARCHES", 2)
    await fill(world, 3)
    async with indexed(world, tmp_path) as made:
        await caught_up(made, world)
        answers = await asyncio.gather(*(look(made, world, "event") for _ in range(3)), return_exceptions=True)
        assert answers[:2] == [[3, 2, 1], [3, 2, 1]]
        assert isinstance(answers[2], Overloaded)
        assert await look(made, world, "event") == [3, 2, 1]


@log_test
async def test_it_goes_on_where_it_was(world: SqliteWorld, tmp_path: Path) -> None:
    """After a restart nothing is indexed again, and what came meanwhile is."""
    await fill(world, 10)
    async with indexed(world, tmp_path) as made:
        await caught_up(made, world)
        key = made._state.places["b"].key
    await world.reopen()
    await fill(world, 5)
    async with indexed(world, tmp_path) as made:
        await caught_up(made, world)
        assert await look(made, world, "event") == list(range(15, 0, -1))
        assert made._state.places["b"].key == key
    with closing(sqlite3.connect(tmp_path / file.NAME)) as raw:
        rows = raw.execute("SELECT segment, first, last FROM part ORDER BY first").fetchall()
    assert [row[1:] for row in rows] in ([(1, 10), (11, 15)], [(1, 15)])


@pytest.mark.gen_test(timeout=500)
async def test_it_stays_within_its_bound(world: SqliteWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest leave it; what is left is found, and what is covered says from where on."""
    monkeypatch.setattr(index, "LEAST", 1)
    monkeypatch.setattr(pages, "EVENTS", 16)
    bound = 2_000_000
    async with indexed(world, tmp_path, bound=bound) as made:
        await until(lambda: made._writer is not None, "it to open")
        writer = made._writer
        for turn in range(6):
            for start in range(0, 200, 50):
                texts = [f"{turn}-{start}-{n} {noise()}".encode() for n in range(50)]
                await asyncio.gather(*(world.log.append("b", event(text)) for text in texts))
            await caught_up(made, world, low=(turn + 1) * 200)
            await until(lambda: made._used <= bound, "the oldest to leave")
        covered = made.covered("b")
        assert covered is not None
        assert 1 < covered.low < 1150
        assert len(made._state.segments) > 1
        assert await look(made, world, "5-150-49") == [1200]
        assert await look(made, world, "0-0-49 ") == []
        covered = made.covered("b")  # older ones are taken in again, where there is room
        assert covered is not None
        assert await made.find("b", '"abc"', covered.low - 1, 1200, 1) is None
        assert made._writer is writer
        size = (tmp_path / file.NAME).stat().st_size
        assert size < 1.5 * bound


@log_test
async def test_what_was_there_before_stops_at_the_bound(
    world: SqliteWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a log that is larger than the index may be, the newest part is in it, and none of it was thrown away, nor is
    more taken in at each start. A smaller bound counts from the next event on."""
    monkeypatch.setattr(index, "LEAST", 1)
    monkeypatch.setattr(pages, "EVENTS", 16)
    for turn in range(8):
        texts = [f"{turn}-{n} {noise()}".encode() for n in range(256)]
        await asyncio.gather(*(world.log.append("b", event(text)) for text in texts))
    async with indexed(world, tmp_path, bound=2_000_000) as made:
        await until(lambda: made._whole, "the index to have enough")
        covered = made.covered("b")
        assert covered is not None
        assert 1 < covered.low < covered.high == 2048
        used = made._used
    async with indexed(world, tmp_path, bound=2_000_000) as made:
        await until(lambda: made._whole, "the index to have enough")
        assert made.covered("b") == covered
    async with indexed(world, tmp_path, bound=used // 4) as made:
        await fill(world, 1)
        await until(lambda: (made.covered("b") or covered).high == 2049, "the newest event")
        await until(lambda: made._used <= used // 4, "the oldest to leave")


@log_test
async def test_what_left_the_log_leaves_the_index(
    world: SqliteWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trimmed events are in no part, and a segment that has nothing left goes; so do the places of dropped buckets."""
    monkeypatch.setattr(index, "_TIDY", 0.01)
    await world.log.create("c", "cccccccccccc")
    await fill(world, 10)
    await fill(world, 3, "c")
    live = ["b", "c"]
    async with indexed(world, tmp_path, live) as made:
        await caught_up(made, world)
        await caught_up(made, world, "c")
        writer = made._writer
        await world.log.trim("b", Retention(None, 0, None), None)
        key = made._state.places["b"].key
        await until(lambda: not made._state.parts.get(key), "the trim")
        assert await look(made, world, "number") == []
        live.remove("c")
        await world.log.drop("c")
        await until(lambda: "c" not in made._state.places, "the drop")
        assert made.covered("c") is None
        live.remove("b")
        await world.log.drop("b")
        await until(lambda: not made._state.segments, "the segments to go")
        assert made._writer is writer


@pytest.mark.parametrize("left", ["its record", "its log"])
@log_test
async def test_half_of_a_bucket_is_none(
    world: SqliteWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: str
) -> None:
    """Where the log of a deleted bucket could not be dropped, or a damaged file has a bucket without its log: it leaves
    the index, which goes on in the others."""
    monkeypatch.setattr(index, "_TIDY", 0.01)
    monkeypatch.setattr(index, "_AGAIN", 3600.0)
    await world.log.create("c", "cccccccccccc")
    await fill(world, 3, "c")
    live = ["b", "c"]
    async with indexed(world, tmp_path, live) as made:
        await caught_up(made, world, "c")
        if left == "its log":
            live.remove("c")
        else:
            await world.log.drop("c")
        await until(lambda: "c" not in made._state.places, "the bucket to leave")
        await fill(world, 1)
        await caught_up(made, world)


@log_test
async def test_some_of_a_bucket_leaves_the_log(
    world: SqliteWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The segments of that go, and what is left is found to its first event, in the middle of a segment."""
    monkeypatch.setattr(index, "_TIDY", 0.01)
    monkeypatch.setattr(index, "SEGMENTS", BOUND)  # each stretch has its own
    async with indexed(world, tmp_path) as made:
        await until(lambda: made._whole, "it to begin")
        for count in (10, 20, 30):
            await fill(world, 10)
            await caught_up(made, world)
            assert len(made._state.segments) >= count // 10
        await world.log.trim("b", Retention(None, 16, None), None)
        key = made._state.places["b"].key
        await until(lambda: made._state.parts[key][0].first == 15, "the trim")
        assert all(part.last >= 15 for part in made._state.parts[key])
        assert await look(made, world, "number") == list(range(30, 14, -1))
        await until(lambda: len(made._state.segments) == len(made._state.parts[key]), "the segments to go")


@log_test
async def test_what_leaves_makes_room(world: SqliteWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For older events of other buckets, and on the disk."""
    monkeypatch.setattr(index, "LEAST", 1)
    monkeypatch.setattr(pages, "EVENTS", 16)
    monkeypatch.setattr(index, "_TIDY", 0.01)
    bound = 1_000_000
    await world.log.create("large", "cccccccccccc")
    for turn in range(4):
        texts = [f"{turn}-{n} {noise()}".encode() for n in range(256)]
        await asyncio.gather(*(world.log.append("large", event(text)) for text in texts))
    await fill(world, 3)
    live = ["large"]
    async with indexed(world, tmp_path, live, bound=bound) as made:
        await until(lambda: made._whole, "the index to have enough")
        live.append("b")
        await fill(world, 1)
        await until(lambda: "b" in made._state.places, "the other bucket")
        assert made.covered("b") is None
        live.remove("large")
        await world.log.drop("large")
        await caught_up(made, world)

        async def is_small() -> bool:
            return (await made._connection().run(file.free_pages))[0] <= bound // 4

        await until(is_small, "the file to be made smaller")


@log_test
async def test_a_machine_that_has_just_begun(
    world: SqliteWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What left the log before the start leaves the index at the start, though the machine's clock shows little more
    than 0."""
    await fill(world, 10)
    async with indexed(world, tmp_path) as made:
        await caught_up(made, world)
        key = made._state.places["b"].key
    await world.log.trim("b", Retention(None, 0, None), None)
    monkeypatch.setattr(index, "time", SimpleNamespace(monotonic=lambda: 5.0))
    async with indexed(world, tmp_path) as made:
        await until(lambda: made._whole, "all to be in it")
        assert not made._state.parts.get(key)


@log_test
async def test_what_left_many_buckets_is_one_write(
    world: SqliteWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that the file says of all buckets is read behind a write: not once for each bucket that lost something."""
    names = [f"b{number}" for number in range(20)]
    for name in names:
        await world.log.create(name, f"{name:x<12}")
        await fill(world, 2, name)
    live = list(names)
    async with indexed(world, tmp_path, live) as made:
        for name in names:
            await caught_up(made, world, name)
        reads: list[file.State] = []
        load = file.load
        monkeypatch.setattr(file, "load", lambda raw: (reads.append(load(raw)), reads[-1])[1])
        for name in names[:10]:
            await world.log.trim(name, Retention(None, 0, None), None)
        for name in names[10:]:
            live.remove(name)
            await world.log.drop(name)
        await made._tidy()
        assert made._state.places.keys() == set(names[:10])
        assert not any(made._state.parts.values())
        assert len(reads) < 10


@log_test
async def test_ephemeral_events_are_not_in_it(world: SqliteWorld, tmp_path: Path) -> None:
    """What is kept in memory only is written to no file by way of the index, whether it was there before or comes."""
    await world.log.append("b", event(b"a secret that flies by", ephemeral=True))
    await fill(world, 1)
    await world.log.append("b", event(b"a secret of the newest", ephemeral=True))
    async with indexed(world, tmp_path) as made:
        await caught_up(made, world)
        assert await look(made, world, "number") == [2]
        assert await look(made, world, "secret") == []
        await world.log.append("b", event(b"a secret that flies by later", ephemeral=True))
        await caught_up(made, world)
        assert await look(made, world, "number") == [2]
        assert await look(made, world, "secret") == []
    assert b"sec" not in b"".join(each.read_bytes() for each in tmp_path.glob(file.NAME + "*"))


@log_test
async def test_the_index_rests_where_there_is_nothing_to_add(
    world: SqliteWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To read a log that has nothing but stubs takes time as well."""
    rested: list[float] = []
    monkeypatch.setattr(pacing.Pacing, "due", lambda self: rested.append(0.0) or 0.0)
    monkeypatch.setattr(pacing.Pacing, "rest", lambda self: None)
    for _ in range(3):
        await world.log.append("b", event(b"flies by", ephemeral=True))
    async with indexed(world, tmp_path) as made:
        await caught_up(made, world)
    assert rested


@log_test
async def test_large_events_are_read_few_at_once(
    world: SqliteWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stretch has no more bytes than may be held, in either direction, and still nothing is left out."""
    monkeypatch.setattr(pages, "BYTES", 3_000)
    for n in range(9):
        await world.log.append("b", event(f"big-{n} ".encode() + b"x" * 1_000 * (n % 4)))
    stretch = await pages.above(world.log, "b", 0, 9)
    assert (stretch.first, len(stretch.rows)) == (1, stretch.last)
    assert stretch.last < 9
    (last,) = await world.log.pick("b", [stretch.last], 1 << 20)
    assert last is not None
    assert stretch.newest == last.received_at
    for before in range(2, 11):
        stretch = await pages.below(world.log, "b", before, 1)
        assert [row.seq for row in stretch.rows] == list(range(stretch.first, before))
        assert stretch.last == before - 1
    assert stretch.first > 1
    async with indexed(world, tmp_path) as made:
        await caught_up(made, world)
        assert await look(made, world, "big-") == list(range(9, 0, -1))


def watched(see: Callable[[Sequence[Any]], object]) -> type[Index]:
    """An index that shows what it is about to add."""

    class Watched(Index):
        async def _add(self, found: Sequence[Any], backwards: bool) -> None:
            see(found)
            await super()._add(found, backwards)

    return Watched


@log_test
async def test_large_events_of_many_buckets_are_not_held_together(
    world: SqliteWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step ends with the bucket in which it came to the bytes that may be held."""
    monkeypatch.setattr(pages, "BYTES", 3_000)
    steps: list[int] = []
    names = [f"b{n}" for n in range(8)]
    kind = watched(lambda found: steps.append(sum(len(row.text) for each in found for row in each.stretch.rows)))

    for n, name in enumerate(names):
        await world.log.create(name, f"aaaaaaaaaaa{n}")
        await world.log.append(name, event(b"large " + b"x" * 2_000))
    async with indexed(world, tmp_path, names, kind=kind) as made:
        for name in names:
            await caught_up(made, world, name)
            assert await look(made, world, "large", name) == [1]
    assert sum(steps) > 16_000
    assert max(steps) < 6_000


@log_test
async def test_small_events_of_many_buckets_are_not_indexed_together(
    world: SqliteWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does a step have more events of thousands of buckets than of one."""
    monkeypatch.setattr(pages, "EVENTS", 16)
    steps: list[int] = []
    names = [f"b{n}" for n in range(8)]
    kind = watched(lambda found: steps.append(sum(len(each.stretch.rows) for each in found)))

    for n, name in enumerate(names):
        await world.log.create(name, f"aaaaaaaaaaa{n}")
        await fill(world, 10, name)
    async with indexed(world, tmp_path, names, kind=kind) as made:
        for name in names:
            await caught_up(made, world, name)
    assert sum(steps) == 80
    assert max(steps) < 2 * 16


@log_test
async def test_large_events_without_a_text_are_taken_in_once(
    world: SqliteWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a stretch has of text may be little where its events are large: the step ends with it all the same, in
    either direction, and the next one follows at once."""
    monkeypatch.setattr(pages, "BYTES", 3_000)
    monkeypatch.setattr(index, "_SETTLE", 3600.0)
    taken: list[tuple[int, int]] = []
    kind = watched(lambda found: taken.extend((each.stretch.first, each.stretch.last) for each in found))

    for order in ([3, 2, 1], [4, 5, 6]):
        for _ in order:
            await world.log.append("b", event(b"\xff" * 2_000))
        taken.clear()
        async with indexed(world, tmp_path, kind=kind) as made:
            await caught_up(made, world)
        assert taken == [(seq, seq) for seq in order]
