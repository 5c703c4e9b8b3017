"""relay_tornado/delivery/bound_consumers.py: the gaps of a consumer with explicit acks are told until somebody has read
them."""

from __future__ import annotations

from tests.delivery.virtual import event_loop as event_loop
from tests.delivery.virtual import virtual_test
from tests.delivery.workers import KEY, worker
from tests.delivery.world import quiet, stocked, until


@virtual_test
async def test_a_gap_is_told() -> None:
    """What retention takes from under a consumer: in the answer, or while it is connected; delivery goes on behind."""
    world = await stocked(4)
    one = await worker(world, max_in_flight=1)
    await until(lambda: one.seqs == [1])
    await world.append(6)
    await world.keep(3)
    one.ack(1)
    await quiet()
    assert one.reader.gaps() == [{"from": 2, "to": 7, "count": 6, "reason": "retention"}]
    assert one.seqs == [1, 8]
    one.read()
    one.leave()
    await world.append(5)
    await world.keep(3)
    two = await worker(world)
    gap = two.answers[0]["gap"]
    assert (gap["from"], gap["to"], gap["reason"]) == (9, 12, "retention"), "8 was tried: it is a dead letter"
    await until(lambda: two.seqs == [13, 14, 15])
    three = await worker(world, on_gap="fail", max_in_flight=1)
    two.leave()
    await until(lambda: three.seqs == [13])
    await world.append(5)
    await world.keep(3)
    three.ack(13)
    await until(lambda: three.reader.ends == ["gap_refused"])


@virtual_test
async def test_a_gap_is_told_until_somebody_has_read_it() -> None:
    """By whoever it was met: a client whose connection dies before it has read the answer keeps it from nobody."""
    world = await stocked(0)
    one = await worker(world)
    one.leave()
    await world.append(9)
    await world.keep(4)
    async with world.ledgers.using(KEY):
        pass
    gap = {"from": 1, "to": 5, "count": 5, "reason": "retention"}
    _, died, answers = await world.subscribe("orders", consumer="w", start=False)
    assert (answers[0]["gap"], answers[0]["recovered"], answers[0]["start"]) == (gap, False, 6)
    world.deliveries.end(died)
    two = await worker(world)
    assert two.answers[0]["gap"] == gap
    three = await worker(world)
    assert three.answers[0]["gap"] == gap, "nobody has read it yet"
    world.restart()
    four = await worker(world)
    assert four.answers[0]["gap"] == gap, "nor before a crash"
    assert world.counters.gaps["retention"] == 0, "it was met and counted before"
    four.leave()
    four.read()
    five = await worker(world)
    assert five.answers[0]["gap"] is None
    assert five.reader.pings == []
    world.restart()
    assert (await worker(world)).answers[0]["gap"] is None


@virtual_test
async def test_a_gap_under_a_group_is_told_until_somebody_has_read_it() -> None:
    """All who are connected are told at once; where they die, whoever comes next is, and of all in between."""
    world = await stocked(0)
    one, two = await worker(world, max_in_flight=1), await worker(world, max_in_flight=1)
    for kept in (3, 2):
        await world.append(5)
        await world.keep(kept)
        world.ledgers.trimmed("id-orders", (await world.log.bounds("id-orders")).first)
        await quiet()
    for each in (one, two):
        assert [(gap["from"], gap["to"]) for gap in each.reader.gaps()] == [(1, 2), (5, 8)], "3 and 4 were tried"
        each.leave()
    three = await worker(world)
    assert (three.answers[0]["gap"]["from"], three.answers[0]["gap"]["to"]) == (1, 8)
    await world.append(1)
    three.reader.paused = True
    await world.append(5)
    await world.keep(1)
    three.read()
    four = await worker(world, on_gap="fail")
    assert four.answers[0]["gap"]["to"] == 15
    assert four.answers[0]["gap"]["from"] > 8


@virtual_test
async def test_a_gap_before_where_a_consumer_is_made_is_its_own() -> None:
    """It is told until it was read, and counted once."""
    world = await stocked(9)
    await world.keep(4)
    epoch = await world.epoch()
    one = await worker(world, since=f"{epoch}-2")
    assert (one.answers[0]["gap"]["from"], one.answers[0]["gap"]["to"]) == (3, 5)
    one.leave()
    two = await worker(world)
    assert two.answers[0]["gap"] == one.answers[0]["gap"]
    assert world.counters.gaps["retention"] == 1


@virtual_test
async def test_a_client_that_answers_no_pings_is_not_remembered_without_end() -> None:
    """A ping after a gap counts until a few more have followed; the newest one is after everything that was told."""
    world = await stocked(1)
    one = await worker(world, max_in_flight=1)
    await until(lambda: one.seqs == [1])
    for count in range(1, 11):
        one.ack(one.seqs[-1])
        await quiet()
        await world.append(3)
        await until(lambda count=count: len(one.seqs) == count + 1)
        await world.append(3)
        await world.keep(1)
    gaps = len((await world.stored(KEY)).untold)
    first, *_, last = one.reader.pings
    one.delivery.ponged(first)
    assert len((await world.stored(KEY)).untold) == gaps > 0
    one.delivery.ponged(last)
    assert (await world.stored(KEY)).untold == ()
