"""What ledgers promise (log/ledgers.py), over each engine's consumers."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from relay_tornado.consumer_changes import RETENTION
from relay_tornado.errors import NotFound, Unavailable
from relay_tornado.log.consumers import Consumers, Key, Stored, Terms
from relay_tornado.log.ledgers import Ledger, Ledgers
from relay_tornado.model import Gap
from tests.counting import Compared
from tests.log.stores import KEY, OTHER, TERMS, keep_last, letters, there
from tests.log.worlds import World, make

log_test = pytest.mark.gen_test


@pytest.fixture
def ledgers(world: World, consumers: Consumers) -> Ledgers:
    return Ledgers(consumers, world.log, clock=lambda: 100.0)


@log_test
async def test_a_ledger_is_shared(world: World, ledgers: Ledgers) -> None:
    """Whoever opens a consumer has the same ledger, with the same state, until the last one lets go of it."""
    await make(world.log, events=5)
    one, two = await asyncio.gather(ledgers.open(KEY, 2, TERMS), ledgers.open(KEY, 0))
    assert one is two
    assert one is ledgers.find(KEY)
    taken = one.progress.take(5, 1, 0.0)
    assert two.progress.done(taken[0])
    two.save()
    ledgers.close(one)
    assert ledgers.find(KEY) is two
    ledgers.close(two)
    assert ledgers.find(KEY) is None
    again = await ledgers.open(KEY)
    assert again is not one
    assert again.progress.floor == 3
    ledgers.close(again)


@log_test
async def test_a_bucket_s_are_found_without_a_look_at_those_of_all_others(world: World, ledgers: Ledgers) -> None:
    """When its events leave, when its file loses some, and when it is gone: there may be thousands of buckets, and all
    are asked for one after the other."""
    opened = {}
    for number in range(30):
        key = Key(f"b-{number}", "client", "w")
        await make(world.log, key.bucket_id, events=3)
        opened[key.bucket_id] = await ledgers.open(key, 0, TERMS)
    bucket_id = Compared("b-7")
    Compared.times = 0
    ledgers.trimmed(bucket_id, 3)
    ledgers.lost(bucket_id, 2)
    ledgers.forget(bucket_id)
    assert Compared.times < 10
    assert [each for each, ledger in opened.items() if ledger.gone] == ["b-7"]
    assert [each for each, ledger in opened.items() if ledger.progress.floor] == ["b-7"]
    assert ledgers.find(opened["b-7"].key) is None
    assert ledgers.find(opened["b-8"].key) is opened["b-8"]


@log_test
async def test_a_consumer_that_is_not_there(world: World, ledgers: Ledgers) -> None:
    """Without a floor to begin at none is made."""
    await make(world.log)
    with pytest.raises(NotFound):
        await ledgers.open(KEY)
    with pytest.raises(NotFound):
        async with ledgers.using(KEY):
            pass
    assert ledgers.find(KEY) is None


@log_test
async def test_the_last_terms_count(world: World, ledgers: Ledgers) -> None:
    """They change for all, and for later; whoever would make one that is there changes nothing of it."""
    await make(world.log)
    one = await ledgers.open(KEY, 0, TERMS)
    two = await ledgers.open(KEY, 3, Terms(5.0, 5, True))
    assert two is one
    assert one.terms == TERMS
    await ledgers.agree(two, Terms(1.0, 1))
    assert one.terms == Terms(1.0, 1)
    for each in (one, two):
        ledgers.close(each)
    ledger = await ledgers.open(KEY, 3, Terms(5.0, 5, True))
    assert (ledger.terms, ledger.progress.floor) == (Terms(1.0, 1), 0)
    await ledgers.delete(KEY)
    await ledgers.agree(ledger, TERMS)
    assert await ledgers.store.get(KEY) is None


@log_test
async def test_a_deletion_reaches_those_who_use_it(world: World, ledgers: Ledgers) -> None:
    """They are told, and what they save afterwards is kept by nobody, also not by one that is made anew."""
    await make(world.log, events=5)
    ledger = await ledgers.open(KEY, 0, TERMS)
    told: list[bool] = []
    end = ledger.watch(lambda: told.append(ledger.gone))
    (taken,) = ledger.progress.take(5, 1, 0.0)
    ledger.progress.done(taken)
    ledger.save()
    assert await ledgers.delete(KEY)
    assert told == [True]
    ledger.save()
    anew = await ledgers.open(KEY, 0, TERMS)
    assert anew is not ledger
    ledgers.close(ledger)
    assert ledgers.find(KEY) is anew
    ledgers.close(anew)
    await ledgers.store.saved()
    stored = await there(ledgers.store)
    assert stored.floor == 0
    end()
    end()
    assert not await ledgers.delete(Key("b", "client", "nobody"))


@log_test
async def test_a_deletion_that_fails_changes_nothing(
    world: World, ledgers: Ledgers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those who use it go on with it, as does whoever opens it meanwhile or later, and what they save is kept."""
    await make(world.log, events=5)
    ledger = await ledgers.open(KEY, 0, TERMS)
    told: list[bool] = []
    ledger.watch(lambda: told.append(ledger.gone))
    opening: list[asyncio.Task[Ledger]] = []

    async def fail(key: Key) -> bool:
        opening.append(asyncio.get_running_loop().create_task(ledgers.open(key, 3, TERMS)))
        await asyncio.sleep(0)
        raise Unavailable("the disk fails")

    with monkeypatch.context() as patch:
        patch.setattr(ledgers.store, "delete", fail)
        with pytest.raises(Unavailable):
            await ledgers.delete(KEY)
    assert await opening[0] is ledger
    assert await ledgers.open(KEY) is ledger
    assert (told, ledger.gone) == ([], False)
    for taken in ledger.progress.take(5, 5, 0.0):
        ledger.progress.done(taken)
    ledger.save()
    await ledgers.store.saved()
    stored = await there(ledgers.store)
    assert stored.floor == 5
    assert await ledgers.delete(KEY)
    assert told == [True]


@log_test
async def test_what_happens_while_a_consumer_is_deleted(
    world: World, ledgers: Ledgers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever opens it gets a new one behind it, which keeps nothing of what was saved in the meantime; the last one
    who used it may close it."""
    await make(world.log, events=5)
    ledger = await ledgers.open(KEY, 0, TERMS)
    opening: list[asyncio.Task[Ledger]] = []
    delete = ledgers.store.delete

    async def slow(key: Key) -> bool:
        opening.append(asyncio.get_running_loop().create_task(ledgers.open(key, 1, TERMS)))
        await asyncio.sleep(0)
        deleted = await delete(key)
        ledger.progress.seek(4)
        ledger.save()
        ledgers.close(ledger)
        return deleted

    with monkeypatch.context() as patch:
        patch.setattr(ledgers.store, "delete", slow)
        assert await ledgers.delete(KEY)
    assert ledger.gone
    anew = await opening[0]
    assert anew is not ledger
    assert anew.progress.floor == 1
    await ledgers.store.saved()
    stored = await there(ledgers.store)
    assert stored.floor == 1
    ledgers.close(anew)


@log_test
async def test_a_loss_reaches_one_that_is_being_opened(
    world: World, ledgers: Ledgers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read of it before that would pass over the events that get the lost ones' seqs."""
    await make(world.log, events=5)
    await ledgers.store.create(KEY, 5, TERMS, 1.0)
    read = ledgers.store.get

    async def get(key: Key) -> Stored | None:
        stored = await read(key)
        ledgers.lost("c", 0)
        ledgers.lost("b", 3)
        return stored

    monkeypatch.setattr(ledgers.store, "get", get)
    ledger = await ledgers.open(KEY)
    assert ledger.progress.floor == 3
    assert [one.seq for one in ledger.progress.take(5, 9, 0.0)] == [4, 5]
    ledgers.close(ledger)


@log_test
async def test_a_bucket_takes_its_ledgers_along(world: World, ledgers: Ledgers) -> None:
    """Those who use one are told."""
    await make(world.log)
    ledger = await ledgers.open(KEY, 0, TERMS)
    told: list[bool] = []
    ledger.watch(lambda: told.append(ledger.gone))
    ledgers.forget("c")
    assert told == []
    ledgers.forget("b")
    assert told == [True]
    assert ledgers.find(KEY) is None


async def missing(ledgers: Ledgers, ledger: Ledger) -> tuple[list[tuple[int, str]], Gap | None]:
    await ledgers.store.saved()
    stored = await there(ledgers.store)
    gaps = stored.gaps
    assert ledger.gap == (None if gaps is None else gaps.last)
    assert ledgers.counters.gaps["retention"] == (0 if gaps is None else gaps.times)
    return await letters(ledgers.store), ledger.gap


@log_test
async def test_a_ledger_in_use_learns_what_retention_took(world: World, ledgers: Ledgers) -> None:
    """What was out or parked is dead, what was never tried is a gap; log, counter and row tell of it."""
    await make(world.log, events=10)
    ledger = await ledgers.open(KEY, 0, TERMS)
    assert await missing(ledgers, ledger) == ([], None)
    one, two, three = ledger.progress.take(10, 3, 0.0)
    ledger.progress.fail(one, 500.0, 0.0)
    ledger.progress.done(two)
    ledger.progress.begin(three)
    ledger.save()
    await keep_last(world, 4)
    told: list[int] = []
    ledger.watch(lambda: told.append(1))
    with capture_logs() as logs:
        ledgers.trimmed("b", (await world.log.bounds("b")).first)
        ledgers.trimmed("b", (await world.log.bounds("b")).first)
    assert [(each["event"], each["first"], each["last"]) for each in logs] == [("consumer_gap", 4, 6)]
    assert told == [1]
    assert await missing(ledgers, ledger) == ([(1, RETENTION), (3, RETENTION)], Gap("retention", 4, 6))
    assert [each.seq for each in ledger.progress.take(10, 9, 999.0)] == [7, 8, 9, 10]
    assert ledger.progress.done(three)
    ledger.save()
    assert await letters(ledgers.store) == [(1, RETENTION)]
    ledgers.close(ledger)


@log_test
async def test_receipts_of_what_left_are_waited_for(world: World, ledgers: Ledgers) -> None:
    """As long as a client was given all of it and may still confirm that; else it is a gap at once."""
    await make(world.log, events=10)
    ledger = await ledgers.open(KEY, 0, TERMS)
    await keep_last(world, 6)
    for given, floor in ((5, 0), (4, 0), (3, 4)):
        ledger.given = lambda given=given: given
        ledgers.trimmed("b", 5)
        assert ledger.progress.floor == floor
    assert ledger.gap == Gap("retention", 1, 4)
    ledgers.close(ledger)


@log_test
async def test_given_up_forwards_are_counted(world: World, ledgers: Ledgers) -> None:
    """What an output was trying when retention took it; not what a client was."""
    await make(world.log, events=3)
    for key in (KEY, OTHER):
        ledger = await ledgers.open(key, 0, TERMS)
        ledger.progress.begin(ledger.progress.take(3, 1, 0.0)[0])
    await keep_last(world, 1)
    ledgers.trimmed("b", 3)
    assert ledgers.counters.forward_given_up == 1


@log_test
async def test_a_consumer_that_comes_back_too_late_is_told(world: World, ledgers: Ledgers) -> None:
    """What left while nobody used it is a gap when it is opened."""
    await make(world.log, events=10)
    async with ledgers.using((await ledgers.open(KEY, 3, TERMS)).key) as ledger:
        (taken,) = ledger.progress.take(10, 1, 0.0)
        ledger.progress.fail(taken, 5.0, 0.0)
    ledgers.close(ledger)
    await keep_last(world, 2)
    with capture_logs() as logs:
        ledger = await ledgers.open(KEY)
    assert [each["event"] for each in logs if each["event"].startswith("consumer")] == ["consumer_gap"]
    assert await missing(ledgers, ledger) == ([(4, RETENTION)], Gap("retention", 5, 8))
    assert ledger.progress.floor == 8
    ledgers.close(ledger)


@log_test
async def test_what_left_before_a_loss_says_nothing_after_it(world: World, ledgers: Ledgers) -> None:
    """The log's numbers come again: what left under them was another event."""
    await make(world.log, events=9)
    ledger = await ledgers.open(KEY, 0, TERMS)
    ledger.given = lambda: 5
    ledger.leave(6)
    ledgers.lost("b", 2)
    ledger.given = lambda: 0
    ledger.leave()
    assert ledger.progress.floor == 2
    assert [each.seq for each in ledger.progress.take(4, 9, 999.0)] == [3, 4]
    ledgers.close(ledger)


@log_test
async def test_a_gap_that_a_connection_meets_is_the_consumer_s_unless_another_one_has_read_of_it(
    world: World, ledgers: Ledgers
) -> None:
    """Else it would be counted twice, or never; and what was read before a loss says nothing after it."""
    await make(world.log, events=9)
    ledger = await ledgers.open(KEY, 0, TERMS)
    ledger.read(5)
    assert ledger.has_met(Gap("retention", 6, 8))
    assert not ledger.has_met(Gap("retention", 5, 8))
    ledger.met(Gap("retention", 3, 6), 1.0)
    met = {(3, 6): True, (4, 5): True, (2, 6): False, (3, 7): False, (6, 6): True}
    assert {ends: ledger.has_met(Gap("retention", *ends)) for ends in met} == met
    ledgers.lost("b", 3)
    assert ledger.has_met(Gap("reset", 4, 8))
    ledgers.close(ledger)


@log_test
async def test_a_deleted_consumer_s_gap_is_not_another_one_s(world: World, ledgers: Ledgers) -> None:
    """A client that is told of it has read under one that is gone: that of the same name has its own to tell."""
    await make(world.log, events=9)
    gap = Gap("retention", 1, 3)
    before = await ledgers.open(KEY, 0, TERMS)
    before.met(gap, 1.0)
    await ledgers.delete(KEY)
    after = await ledgers.open(KEY, 0, TERMS)
    after.met(gap, 2.0)
    ledgers.told(before, [gap])
    ledgers.close(before)
    ledgers.close(after)
    assert list((await there(ledgers.store)).untold) == [gap]
