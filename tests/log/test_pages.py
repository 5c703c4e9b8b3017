"""relay_tornado/log/pages.py: blocks of older events, each read once for all who want it."""

from __future__ import annotations

import asyncio
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from tornado.ioloop import IOLoop

from relay_tornado.log.loading import load
from relay_tornado.log.pages import Block, Pages
from relay_tornado.log.state import LogState
from relay_tornado.log.tail import Recent
from relay_tornado.model import MIB, Epoch, Retention
from tests.log.worlds import MANY, SqliteWorld, behind, event, fill, make, read_all, stored
from tests.waiting import until

log_test = pytest.mark.gen_test


async def reopened(folder: Path, events: int) -> SqliteWorld:
    """A log of so many events, none of which is in memory."""
    world = await SqliteWorld.open(folder)
    await make(world.log, events=events)
    await world.reopen()
    return world


@log_test
async def test_a_storm_of_readers_reads_each_block_once(io_loop: IOLoop, tmp_path: Path) -> None:
    """However many clients come back at once, each block is read from the file once."""
    world = await reopened(tmp_path, 2000)
    reads = 0
    read = world.database.read

    async def counted(job: Any) -> Any:
        nonlocal reads
        reads += 1
        return await read(job)

    world.log._pages._read = counted  # type: ignore[assignment]
    found = await asyncio.gather(*(read_all(world.log, after=(13 * n) % 1999, page=64) for n in range(60)))
    assert all(events[-1].seq == 2000 for events in found)
    assert reads == 8
    await world.close()


@log_test
async def test_a_block_that_is_just_there_is_not_read_again(io_loop: IOLoop, tmp_path: Path) -> None:
    """Who asks in the turn of the loop in which a block has come, and is not in the cache yet, gets that one."""
    world = await reopened(tmp_path, 10)
    pages, state = world.log._pages, world.log._logs["b"]
    read = world.database.read
    reads, found = 0, []

    def ask() -> None:
        try:
            pages.load(state, 1).send(None)
        except StopIteration as done:
            found.append(done.value)

    async def counted(job: Any) -> Any:
        nonlocal reads
        reads += 1
        block = await read(job)
        asyncio.get_running_loop().call_soon(ask)
        return block

    pages._read = counted  # type: ignore[assignment]
    block = await pages.load(state, 1)
    assert found == [block]
    assert reads == 1
    await world.close()


@log_test
@pytest.mark.parametrize("shared", [False, True])
async def test_who_is_not_told_that_a_block_has_come(
    io_loop: IOLoop, tmp_path: Path, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is no memory for that, they get it all the same, whoever read it."""
    monkeypatch.setattr("relay_tornado.log.pages.RETRY_DELAY", 0.01)
    world = await reopened(tmp_path, 10)
    pages, state = world.log._pages, world.log._logs["b"]
    loop, lost = asyncio.get_running_loop(), count()
    waiting = [asyncio.ensure_future(pages.load(state, 1)) for _ in range(1 + shared)]
    await asyncio.sleep(0)
    call_soon = loop.call_soon

    def losing(callback: Any, *arguments: Any, **options: Any) -> asyncio.Handle:
        # Futures call back with themselves; those who wait are told after the cache.
        if (
            arguments
            and isinstance(arguments[0], asyncio.Task)
            and not isinstance(callback, partial)
            and not next(lost)
        ):
            raise MemoryError
        return call_soon(callback, *arguments, **options)

    loop.set_exception_handler(lambda loop, context: None)
    monkeypatch.setattr(loop, "call_soon", losing)
    await until(lambda: all(each.done() for each in waiting), "the block", 20)
    assert next(lost) > 0
    assert {each.result() for each in waiting} == {pages.peek(state, 1)}
    await world.close()


@log_test
async def test_blocks_of_large_events(io_loop: IOLoop, tmp_path: Path) -> None:
    """Memory for a page is bounded whatever the size of events: each block that is kept holds at most 1 MiB."""
    world = await SqliteWorld.open(tmp_path)
    await make(world.log)
    for n in range(1, 301):
        await world.log.append("b", event(b"%d" % n + b" " * (20_000 if n % 100 else 3 * MIB)))
    await world.reopen()
    for _ in range(2):
        events = await read_all(world.log)
        assert [int(e.body) for e in events] == list(range(1, 301))
    blocks = world.log._pages._blocks.values()
    assert {block.level for block in blocks} == {1, 4, 16}
    assert all(sum(e.size for e in block.events if e) <= MIB for block in blocks)
    assert world.log._pages.used == sum(block.cost for block in blocks) <= world.settings.page_cache
    for after, limit, most in ((0, 256, MIB), (98, 256, MIB), (99, 256, MIB), (99, 1, 1)):
        page = await world.log.read("b", after, limit, most)
        assert page[0].seq == after + 1
        assert len(page) == 1 or sum(e.size for e in page) <= most
    await world.close()


@log_test
async def test_the_cache_is_bounded_and_lets_go_of_what_left(io_loop: IOLoop, tmp_path: Path) -> None:
    """It holds no more than its budget, and nothing of what was trimmed or dropped."""
    world = await SqliteWorld.open(tmp_path, page_cache=400_000, tail=100_000)
    await make(world.log, events=2990)
    await fill(world.log, 10)
    await read_all(world.log)
    pages, tail = world.log._pages, world.log._tail
    assert 0 < pages.used <= 400_000
    assert 0 < tail.used <= 50_000
    assert pages.used == sum(block.cost for block in pages._blocks.values())
    await world.log.trim("b", Retention(None, 0, None), None)
    assert pages.used == 0
    assert not world.log._logs["b"].recent.events
    await fill(world.log, 1000)
    await read_all(world.log, after=3000)
    assert pages.used > 0
    await world.log.drop("b")
    assert pages.used == 0
    await world.close()


@log_test
async def test_small_events_are_counted_with_what_they_take(io_loop: IOLoop, tmp_path: Path) -> None:
    """A block of 256 takes far more memory than their bytes, and is not kept where that is too much."""
    world = await SqliteWorld.open(tmp_path, page_cache=100_000, tail=0)
    await make(world.log, events=256)
    await read_all(world.log)
    assert world.log._pages.used == 0
    await world.close()


@log_test
async def test_a_block_that_ends_before_the_head_is_read_again(io_loop: IOLoop, tmp_path: Path) -> None:
    """It is of when the head was in it: a reader of what came since is not told that nothing is there."""
    world = await SqliteWorld.open(tmp_path, tail=0)
    await make(world.log, events=5)
    await read_all(world.log)
    await fill(world.log, 3)
    assert world.log.peek("b", 5, 9, MANY) is None
    assert [each.seq for each in await world.log.read("b", 5, 9, MANY)] == [6, 7, 8]
    pages = world.log._pages
    assert pages.used == sum(block.cost for block in pages._blocks.values())
    await world.close()


@log_test
async def test_the_tail_is_read_without_a_thread(disk: SqliteWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recent events come from memory: `peek` has them all, and no read goes to the file."""
    await make(disk.log, events=500)
    monkeypatch.setattr(disk.log._pages, "_read", None)
    assert len(await read_all(disk.log)) == 500
    page = disk.log.peek("b", 100, 256, MANY)
    assert page is not None
    assert [e.seq for e in page] == list(range(101, 357))


def test_a_block_is_read_no_further_than_the_head() -> None:
    """Also where the block itself goes on."""
    block = Block(257, [stored(seq) for seq in range(257, 513)], [0] * 256, 256)
    assert [e.seq for e in block.read(400, 402, 256, MANY)] == [401, 402]
    assert [e.seq for e in block.good(509, 600, 256, MANY)] == [510, 511, 512]


def block(end: int) -> Block:
    return Block(1, [stored(seq) for seq in range(1, end + 1)], [0] * end, 256)


def test_a_read_that_is_just_done_is_not_shared() -> None:
    """A reader of what came since would get it at once, again and again, and nothing else would ever run."""

    async def run() -> None:
        loop = asyncio.get_running_loop()
        reads: list[asyncio.Future[Block]] = []

        def read(job: Any) -> asyncio.Future[Block]:
            reads.append(loop.create_future())
            return reads[-1]

        pages = Pages(0, read)
        state = LogState(1, "b", (Epoch("e", 1),), True)
        state.head = 10
        waiting = loop.create_task(pages.load(state, 5))
        while not reads:  # noqa: ASYNC110 - a few turns of the loop
            await asyncio.sleep(0)
        state.head = 11
        came: list[bool] = []

        def come() -> None:
            reader = pages.load(state, 11)
            try:
                reader.send(None)
            except StopIteration:
                came.append(False)
            else:
                came.append(True)
            reader.close()

        reads[0].set_result(block(10))
        loop.call_soon(come)  # after the read's last step, and before anybody is told of its end
        assert (await waiting).end == 10
        assert came == [True]
        while len(reads) < 2:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0)
        shared = loop.create_task(pages.load(state, 11))
        await asyncio.sleep(0)
        reads[1].set_result(block(11))
        assert (await shared).end == 11
        assert len(reads) == 2
        await pages.close()

    asyncio.run(asyncio.wait_for(run(), 60))


@log_test
async def test_what_is_read_while_the_log_goes_back(io_loop: IOLoop, tmp_path: Path) -> None:
    """The events that the file lost are neither given nor kept: others have their seqs by then."""
    world = await reopened(tmp_path, 20)
    log, read, gate = world.log, world.database.read, asyncio.Event()
    held = 0

    async def late(job: Any) -> Any:
        nonlocal held
        found = await read(job)
        held += 1
        await gate.wait()
        return found

    log._pages._read = late  # type: ignore[assignment]
    reader = asyncio.create_task(log.read("b", 12, 8, MANY))
    await until(lambda: held, "the events to be read")
    with behind(world) as raw:
        raw.execute("DELETE FROM event WHERE seq > 12")
        raw.execute("UPDATE log SET head = 12")
    log._apply(await read(load))
    await log.append("b", event(b"new"))
    log._logs["b"].recent = Recent()  # that is read from the file, too
    gate.set()
    assert [(each.seq, each.body) for each in await reader] == [(13, b"new")]
    assert [(each.seq, each.body) for each in log.peek("b", 12, 8, MANY) or ()] == [(13, b"new")]
    await world.close()
