"""Ephemeral events: their place is stored, their content is in memory for a while, and a reader is told what left."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from relay_tornado.errors import CursorLost
from relay_tornado.log.ephemeral import Ephemeral, EphemeralEvents
from relay_tornado.log.tail import EVENT_OVERHEAD
from relay_tornado.model import MIB, Event, Retention
from tests.delivery.virtual import run
from tests.failing import lose_timers
from tests.log.worlds import MANY, SqliteWorld, World, event, make, stored
from tests.waiting import until

log_test = pytest.mark.gen_test


def held(world: World) -> Ephemeral:
    """The content that the engine holds."""
    log: Any = world.log
    found: Ephemeral = log._ephemeral
    return found


async def send(world: World, *bodies: bytes, ephemeral: bool = True) -> None:
    for body in bodies:
        await world.log.append("b", event(body, ephemeral=ephemeral))


async def lost(world: World, after: int) -> tuple[int, str]:
    """Where reading goes on, and why the events before are not there."""
    with pytest.raises(CursorLost) as caught:
        await world.log.read("b", after, 10, MANY)
    return caught.value.first, caught.value.reason


@log_test
async def test_content_is_read_while_it_is_there(world: World) -> None:
    """Seqs are dense over both kinds of events, and everything is read in order, by `peek` as by `read`."""
    epoch = await make(world.log)
    await send(world, b"1", b"2")
    await send(world, b"3", b"4", ephemeral=False)
    await send(world, b"5")
    await send(world, b"6", ephemeral=False)
    found: list[Event] = []
    while events := await world.log.read("b", len(found), 10, MANY):
        found += events
    assert [(each.seq, each.body, each.epoch) for each in found] == [(n, b"%d" % n, epoch) for n in range(1, 7)]
    assert [each.headers for each in found] == [event().headers] * 6
    peeked = world.log.peek("b", 0, 1, MANY)
    assert peeked is not None
    assert [each.body for each in peeked] == [b"1"]
    assert [each and each.body for each in await world.log.pick("b", [5, 3], MANY)] == [b"5", b"3"]


@log_test
async def test_what_left_is_a_gap(world: World) -> None:
    """Behind content that has left reading goes on at the next that is there, for the reason `ephemeral`."""
    await make(world.log)
    await send(world, b"1", b"2")
    await send(world, b"3", ephemeral=False)
    await send(world, b"4", b"5")
    held(world).close()
    assert await lost(world, 0) == (3, "ephemeral")
    assert [each.body for each in await world.log.read("b", 2, 10, MANY)] == [b"3"]
    assert await lost(world, 3) == (6, "ephemeral")
    await send(world, b"6")
    assert await lost(world, 3) == (6, "ephemeral")
    assert [each.body for each in await world.log.read("b", 5, 10, MANY)] == [b"6"]
    assert list(await world.log.read("b", 6, 10, MANY)) == []


@log_test
async def test_what_is_there_of_an_earlier_run_is_read(disk: SqliteWorld) -> None:
    """The first of a run has left, and a run behind it is the newest: its later events are still given."""
    await make(disk.log)
    held(disk)._budget = 2 * (event(b"1").size + EVENT_OVERHEAD)
    await send(disk, b"1", b"2")
    await send(disk, b"3", ephemeral=False)
    await send(disk, b"4")
    assert await lost(disk, 0) == (2, "ephemeral")


@log_test
async def test_after_a_restart_nothing_is_there(world: World) -> None:
    """Places go on where they were; the content was never stored."""
    await make(world.log)
    await send(world, b"1", b"2")
    await send(world, b"3", ephemeral=False)
    await send(world, b"4")
    await world.reopen()
    assert await lost(world, 0) == (3, "ephemeral")
    assert await lost(world, 3) == (5, "ephemeral")
    await send(world, b"5")
    assert [each.seq for each in await world.log.read("b", 4, 10, MANY)] == [5]
    assert (await world.log.bounds("b")).head == 5


@log_test
async def test_an_outline_stays(world: World) -> None:
    """Seq, time, input, method and size of an ephemeral event are known for as long as its log keeps it."""
    await make(world.log)
    await send(world, b"12345")
    await send(world, b"12345", ephemeral=False)
    held(world).close()
    await world.reopen()
    outlines = await world.log.outline("b", 0, 99)
    size = event(b"12345").size
    assert [(each.seq, each.input_id, each.method, each.size, each.stub) for each in outlines] == [
        (1, "input-1", "POST", size, True),
        (2, "input-1", "POST", size, False),
    ]
    assert outlines[0].received_at <= outlines[1].received_at
    assert await world.log.outline("b", 2, 1) == []
    assert [each.seq for each in await world.log.outline("b", 2, 2)] == [2]


@log_test
async def test_retention_takes_stubs(world: World) -> None:
    """Trims by number and by size count ephemeral events as they came in, and what is left adds up."""
    await make(world.log)
    await send(world, *(b"x" * 100 for _ in range(10)))
    size = event(b"x" * 100).size
    assert await world.log.trim("b", Retention(None, 8, None), None) == 2
    assert await world.log.trim("b", Retention(None, None, 5 * size), None) == 3
    assert await world.log.trim("b", Retention(None, None, 5 * size), None) == 0
    assert [each.seq for each in await world.log.outline("b", 0, 99)] == [6, 7, 8, 9, 10]
    assert (await world.log.bounds("b")).first == 6
    await send(world, b"y", ephemeral=False)
    assert await world.log.trim("b", Retention(None, 0, None), None) == 6


@log_test
async def test_nothing_of_the_content_is_in_the_file(disk: SqliteWorld) -> None:
    """Neither body nor path, query, headers and the sender's address of an ephemeral event reach the disk."""
    await make(disk.log)
    secret = b"nobody-reads-this"
    await disk.log.append(
        "b",
        event(
            secret, path=b"/" + secret, query=secret, headers=b"A: " + secret, remote_ip="198.51.100.77", ephemeral=True
        ),
    )
    await send(disk, b"written-out", ephemeral=False)
    await disk.close()
    files = b"".join(path.read_bytes() for path in disk.settings.data.iterdir() if path.is_file())
    assert b"written-out" in files
    assert secret not in files
    assert b"198.51.100.77" not in files
    await disk.reopen()


@log_test
async def test_ephemeral_content_is_not_in_the_tail(disk: SqliteWorld) -> None:
    """It would be there for longer than it may."""
    await make(disk.log)
    await send(disk, b"1", ephemeral=False)
    used = disk.log._tail.used
    await send(disk, b"2")
    assert disk.log._tail.used == used
    assert list(disk.log._state("b").recent.events) == [1]


@log_test
@pytest.mark.parametrize("lost", [False, True])
async def test_content_leaves_by_age(lost: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each leaves when it is old, also where nothing else happens, and where there was no memory to set a timer."""
    if lost:
        lose_timers(monkeypatch)
    ephemeral = Ephemeral(age=0.02)
    events = EphemeralEvents()
    ephemeral.add(events, [stored(1), stored(2)])
    assert len(events.events) == 2
    await until(lambda: not events.events)
    assert ephemeral.used == 0
    assert ephemeral._timer.at is None
    ephemeral.add(events, [stored(3)])
    assert ephemeral._timer.at is not None
    ephemeral.close()
    assert (ephemeral.used, events.events) == (0, {})


def test_content_leaves_by_its_own_age() -> None:
    """What came later stays for as long."""

    async def test() -> None:
        ephemeral, events = Ephemeral(age=60.0), EphemeralEvents()
        for seq in (1, 2):
            ephemeral.add(events, [stored(seq)])
            await asyncio.sleep(40)
        assert list(events.events) == [2]
        await asyncio.sleep(30)
        assert (list(events.events), ephemeral.used) == ([], 0)

    run(test)


@log_test
async def test_content_leaves_by_size() -> None:
    """Over the budget the oldest goes first, whichever log's it is."""
    ephemeral = Ephemeral(budget=3 * (100 + EVENT_OVERHEAD))
    a, b = EphemeralEvents(), EphemeralEvents()
    ephemeral.add(a, [stored(1), stored(2)])
    ephemeral.add(b, [stored(1)])
    ephemeral.add(a, [stored(3)])
    assert (list(a.events), list(b.events)) == ([2, 3], [1])
    ephemeral.add(b, [stored(2)])
    assert (list(a.events), list(b.events)) == ([3], [1, 2])
    assert ephemeral.used == 3 * (100 + EVENT_OVERHEAD)
    ephemeral.add(b, [stored(3, MIB)])
    assert (a.events, b.events, ephemeral.used) == ({}, {}, 0)
    ephemeral.close()


@log_test
async def test_a_page_of_content_is_bounded() -> None:
    """As any page: at most so many events and bytes, at least one."""
    ephemeral = Ephemeral()
    events = EphemeralEvents()
    ephemeral.add(events, [stored(seq) for seq in range(5, 10)])
    for limit, most, seqs in ((2, MANY, [5, 6]), (9, 250, [5, 6]), (9, 1, [5]), (9, MANY, [5, 6, 7, 8, 9])):
        found = events.read(4, limit, most)
        assert found is not None
        assert [each.seq for each in found] == seqs
    assert events.read(3, 9, MANY) is None
    assert events.read(9, 9, MANY) is None
    assert (events.beyond(4), events.beyond(5), events.beyond(9)) == (None, 6, 10)
    ephemeral.close()
