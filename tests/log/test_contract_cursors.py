"""What every event log promises of cursors and epochs (log/contract.py), over each engine."""

from __future__ import annotations

import pytest

from relay_tornado.ids import parse_id
from relay_tornado.log.lineage import Placed, place_cursor
from relay_tornado.model import Cursor, Gap, Retention
from tests.log.worlds import World, event, make, read_all

log_test = pytest.mark.gen_test


@log_test
async def test_a_cursor_is_honoured_after_a_restart(world: World) -> None:
    """Every id that was given out before a restart is a good cursor after it, and after the next append."""
    epoch = await make(world.log, events=5)
    await world.reopen()
    bounds = await world.log.bounds("b")
    assert (bounds.head, bounds.open) == (5, False)
    for seq in range(6):
        assert place_cursor(bounds, Cursor(epoch, seq)) == Placed(seq)
    appended = await world.log.append("b", event())
    assert appended.seq == 6
    assert appended.epoch != epoch
    bounds = await world.log.bounds("b")
    assert (bounds.open, [(e.epoch, e.from_seq) for e in bounds.epochs]) == (True, [(epoch, 1), (appended.epoch, 6)])
    for seq in range(6):
        assert place_cursor(bounds, Cursor(epoch, seq)) == Placed(seq)
    assert place_cursor(bounds, parse_id(f"{appended.epoch}-6")) == Placed(6)
    assert await world.log.find(appended.epoch) == "b"
    assert [e.epoch for e in await read_all(world.log)] == [epoch] * 5 + [appended.epoch]


@log_test
async def test_a_cursor_of_lost_events_has_a_gap(world: World) -> None:
    """What a crash took never comes back under an old id: a cursor into it has gap reset, and what is there goes on."""
    epoch = await make(world.log, events=10)
    await world.lose("b", 4)
    bounds = await world.log.bounds("b")
    assert (bounds.head, bounds.open) == (6, False)
    assert place_cursor(bounds, Cursor(epoch, 6)) == Placed(6)
    assert place_cursor(bounds, Cursor(epoch, 9)) == Placed(6, Gap("reset", 7, 9))
    again = [await world.log.append("b", event(b"new")) for _ in range(4)]
    assert [place.seq for place in again] == [7, 8, 9, 10]
    assert epoch not in {place.epoch for place in again}
    bounds = await world.log.bounds("b")
    assert place_cursor(bounds, Cursor(epoch, 9)) == Placed(6, Gap("reset", 7, 9))
    assert [e.body for e in await read_all(world.log, after=6)] == [b"new"] * 4


@log_test
async def test_a_lost_epoch_is_unknown(world: World) -> None:
    """Where the first events of an epoch are lost with it, its ids are unknown from then on."""
    await make(world.log, events=3)
    await world.reopen()
    lost = await world.log.append("b", event())
    await world.lose("b", 1)
    assert await world.log.find(lost.epoch) is None
    bounds = await world.log.bounds("b")
    assert place_cursor(bounds, Cursor(lost.epoch, lost.seq)) == Placed(0, Gap("reset"))
    assert (await world.log.append("b", event())).seq == 4


@log_test
async def test_a_cursor_from_the_future(world: World) -> None:
    """In an epoch of this process no seq above the head was ever given out: gap future."""
    epoch = await make(world.log, events=3)
    assert place_cursor(await world.log.bounds("b"), Cursor(epoch, 4)) == Placed(0, Gap("future"))


@log_test
async def test_a_cursor_below_first(world: World) -> None:
    """What retention took is told exactly, and first - 1 is no gap."""
    epoch = await make(world.log, events=10)
    assert await world.log.trim("b", Retention(None, 4, None), None) == 6
    bounds = await world.log.bounds("b")
    assert (bounds.first, bounds.head) == (7, 10)
    assert place_cursor(bounds, Cursor(epoch, 6)) == Placed(6)
    assert place_cursor(bounds, Cursor(epoch, 3)) == Placed(6, Gap("retention", 4, 6))


@log_test
async def test_every_restart_with_an_append_opens_one_epoch(world: World) -> None:
    """Restarts without an append leave no epoch; ids of all epochs stay good."""
    given = []
    await make(world.log)
    for _ in range(4):
        given += [await world.log.append("b", event()) for _ in range(2)]
        await world.reopen()
        await world.reopen()
    bounds = await world.log.bounds("b")
    assert len(bounds.epochs) == 4
    for place in given:
        assert place_cursor(bounds, Cursor(place.epoch, place.seq)) == Placed(place.seq)
