"""Events that were exported go back into a log, on every engine."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from relay_tornado.errors import BucketGone, Conflict, CursorLost, Invalid, NoSpace
from relay_tornado.log.lineage import Placed, place_cursor
from relay_tornado.model import Cursor, Event, Gap, Retention
from relay_tornado.storage.space import Space
from tests.log.worlds import MANY, SqliteWorld, World, event, make, read_all
from tests.waiting import until

log_test = pytest.mark.gen_test


def exported(first: int, last: int, at: float = 1000.0) -> list[Event]:
    """Events first to last, one a second; every third has marks."""
    return [
        Event(seq, "zzzzzzzzzzzz", at + seq, "i", "POST", b"/\xff", b"", b"A: b\r\n", b"%d" % seq, "::1")
        if seq % 3
        else Event(
            *(seq, "zzzzzzzzzzzz", at + seq, "i", "POST", b"", b"", b"", b"%d" % seq, "::1"),
            resend_of="k3v9x1q7m2ab-1",
            verified=True,
            verdict="good",
        )
        for seq in range(first, last + 1)
    ]


def under(epoch: str, events: list[Event]) -> list[Event]:
    return [msgspec.structs.replace(each, epoch=epoch) for each in events]


@log_test
async def test_places_and_times_are_kept(world: World) -> None:
    """Whole batches, then another, then an append: one dense log in its own epoch, after a restart too."""
    epoch = await make(world.log)
    await world.log.import_events("b", exported(1, 300), {})
    await world.log.import_events("b", exported(301, 310), {})
    appended = await world.log.append("b", event())
    assert (appended.seq, appended.epoch) == (311, epoch)
    found = await read_all(world.log)
    assert found[:310] == under(epoch, exported(1, 310))
    await world.reopen()
    assert (await read_all(world.log))[:310] == under(epoch, exported(1, 310))
    assert await world.log.seek("b", 1005.0) == 4


@log_test
async def test_a_log_may_begin_anywhere(world: World) -> None:
    """What an empty log takes over first is its first event, with which it began: nothing before it was ever there, so
    that no position from before misses any of that."""
    epoch = await make(world.log)
    await make(world.log, "c")
    await world.log.import_events("b", exported(41, 60), {})
    bounds = await world.log.bounds("b")
    assert (bounds.first, bounds.head, bounds.begin, world.log.begin("b")) == (41, 60, 41, 41)
    assert place_cursor(bounds, Cursor(epoch, 0)) == Placed(40)
    assert await read_all(world.log, after=40) == under(epoch, exported(41, 60))
    with pytest.raises(CursorLost):
        await world.log.read("b", 3, 10, MANY)
    await world.reopen()
    assert (await world.log.bounds("b")).first == world.log.begin("b") == 41
    before = (await world.log.bounds("c")).epochs[0].epoch
    await world.log.import_events("c", exported(41, 45), {})
    bounds = await world.log.bounds("c")
    assert [each.from_seq for each in bounds.epochs] == [41, 41]
    assert place_cursor(bounds, Cursor(before, 0)) == Placed(40)
    await world.log.trim("c", Retention(None, 2, None), None)
    assert place_cursor(await world.log.bounds("c"), Cursor(before, 0)) == Placed(43, Gap("retention", 41, 43))
    assert (await world.log.bounds("c")).epochs == bounds.epochs


@log_test
async def test_a_log_may_be_made_to_begin_anywhere(world: World) -> None:
    """It is as one whose events have left: its first seq is that, whether it is imported or appended, after a restart
    too, and whoever begins at its first event misses nothing."""
    await world.log.create("b", "aaaaaaaaaaaa", 41)
    await world.log.create("c", "cccccccccccc", 7)
    bounds = await world.log.bounds("b")
    assert (bounds.first, bounds.head) == (41, 40)
    assert not await world.log.read("b", bounds.first - 1, 10, MANY)
    with pytest.raises(Conflict):
        await world.log.import_events("b", exported(1, 60), {})
    await world.log.import_events("b", exported(41, 60), {})
    assert await read_all(world.log, after=40) == under("aaaaaaaaaaaa", exported(41, 60))
    await world.reopen()
    assert [(await world.log.bounds(each)).first for each in ("b", "c")] == [41, 7]
    assert [world.log.begin(each) for each in ("b", "c")] == [41, 7]
    assert (await world.log.append("c", event())).seq == 7


@log_test
async def test_a_later_run_opens_an_epoch(world: World) -> None:
    """As an append does: what was lost with a crash can't come back under an old id."""
    epoch = await make(world.log)
    await world.log.import_events("b", exported(1, 5), {})
    await world.reopen()
    await world.log.import_events("b", exported(6, 9), {})
    bounds = await world.log.bounds("b")
    assert [each.from_seq for each in bounds.epochs] == [1, 6]
    assert bounds.epochs[0].epoch == epoch
    assert bounds.open
    assert await world.log.find(bounds.epochs[1].epoch) == "b"
    assert [each.epoch for each in await read_all(world.log)] == [epoch] * 5 + [bounds.epochs[1].epoch] * 4


@log_test
async def test_what_does_not_follow_is_refused_whole(world: World) -> None:
    """A hole, a repeat, times that go back, and no bucket: nothing of the batch is taken over."""
    await make(world.log, events=3)
    late = 4e9
    for events, error in (
        (exported(5, 9, late), Conflict),
        (exported(3, 9, late), Conflict),
        (exported(4, 6, late) + exported(8, 9, late), Invalid),
        (exported(4, 5), Invalid),
        ([*exported(4, 4, late), *exported(5, 5)], Invalid),
    ):
        with pytest.raises(error):
            await world.log.import_events("b", events, {})
        assert (await world.log.bounds("b")).head == 3
    with pytest.raises(BucketGone):
        await world.log.import_events("nowhere", exported(1, 1), {})
    await world.log.import_events("b", exported(4, 6, late), {})
    assert [each.seq for each in await read_all(world.log)] == [1, 2, 3, 4, 5, 6]


@log_test
async def test_what_is_taken_over_counts_as_what_came_in(world: World) -> None:
    """Events of one time, as of one commit, are in order; their bytes count; and the next event is not older."""
    await make(world.log)
    events = [msgspec.structs.replace(each, received_at=4e9) for each in exported(1, 3)]
    await world.log.import_events("b", events, {})
    assert world.log.held("b") == (3, sum(each.size for each in events))
    await world.log.append("b", event())
    assert [each.received_at for each in await read_all(world.log)] == [4e9] * 4


@log_test
async def test_a_stub_is_as_large_as_what_comes_with_it(world: World) -> None:
    """Else its size is wrong, and nothing is taken over."""
    await make(world.log)
    with pytest.raises(Invalid):
        await world.log.import_events("b", exported(1, 1), {1: exported(1, 1)[0].size - 1})
    assert (await world.log.bounds("b")).head == 0


@log_test
async def test_stubs_stay_stubs(world: World) -> None:
    """The place of an ephemeral event is taken over with its size, and its content is not there."""
    await make(world.log)
    stub = Event(2, "zzzzzzzzzzzz", 1002.0, "i", "POST", b"", b"", b"", b"", "")
    await world.log.import_events("b", [exported(1, 1)[0], stub, exported(3, 3)[0]], {2: 700})
    outline = await world.log.outline("b", 1, 3)
    assert [(each.stub, each.size) for each in outline][1] == (True, 700)
    assert [each.stub for each in outline] == [False, True, False]


@log_test
async def test_readers_are_woken_and_senders_go_between(world: World) -> None:
    """Whoever watches hears of it; appends that are made meanwhile are answered, and the log stays dense."""
    await make(world.log, "a")
    await make(world.log)
    woken: list[str] = []
    watch = world.log.watch(None, woken.append)
    done = await asyncio.gather(
        world.log.import_events("b", exported(1, 200), {}), *(world.log.append("a", event()) for _ in range(20))
    )
    assert len(done) == 21
    assert "b" in woken
    assert watch.head("b") == 200
    watch.close()
    assert [each.seq for each in await read_all(world.log, "a")] == list(range(1, 21))


@log_test
async def test_a_log_that_is_dropped_takes_nothing_over(disk: SqliteWorld) -> None:
    """Nor do rows stay in the file that belong to no log, where the drop is committed right before."""
    await make(disk.log)
    dropping = asyncio.ensure_future(disk.log.drop("b"))
    await asyncio.sleep(0)
    with pytest.raises(BucketGone):
        await disk.log.import_events("b", exported(1, 9), {})
    await dropping
    await until(lambda: not disk.log._trimming._purges)
    assert await disk.database.read(lambda raw: raw.execute("SELECT count(*) FROM event").fetchone()) == (0,)


@log_test
async def test_the_reserve_of_the_disk_is_not_for_what_is_taken_over(
    disk: SqliteWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make(disk.log)
    monkeypatch.setattr(Space, "low", lambda self, *sizes: True)
    with pytest.raises(NoSpace):
        await disk.log.import_events("b", exported(1, 9), {})
    assert disk.log.held("b").events == 0
