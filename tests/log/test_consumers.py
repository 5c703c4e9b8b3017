"""What the store of consumers promises (log/consumers.py), over each engine."""

from __future__ import annotations

import pytest

from relay_tornado.consumer_changes import MAX_DELIVER, RETENTION, Changes, Dead, Parked
from relay_tornado.errors import BucketGone, Conflict
from relay_tornado.log import consumer_rows
from relay_tornado.log import consumers as contract
from relay_tornado.log.consumers import Consumers, DeadLetter, Gaps, Key, Stored, Terms
from relay_tornado.log.ledgers import Ledgers
from relay_tornado.model import Gap
from tests.log import memory_consumers
from tests.log.stores import KEY, OTHER, TERMS, keep_last, letters, save, there
from tests.log.worlds import World, make

log_test = pytest.mark.gen_test


@log_test
async def test_a_consumer_begins_where_it_is_made(world: World, consumers: Consumers) -> None:
    """It has its floor, its terms and its times, and nothing else yet."""
    await make(world.log, events=5)
    assert await consumers.get(KEY) is None
    stored = await consumers.create(KEY, 3, TERMS, 9.5)
    assert (stored.key, stored.floor, stored.terms, stored.created_at, stored.updated_at) == (KEY, 3, TERMS, 9.5, 9.5)
    assert (tuple(stored.done), dict(stored.parked), stored.dead, stored.gaps) == ((), {}, 0, None)
    assert await consumers.get(KEY) == stored


@log_test
async def test_one_that_is_there_gets_its_terms_only(world: World, consumers: Consumers) -> None:
    """Made again, it stays where it is, and the last terms count."""
    await make(world.log, events=5)
    await consumers.create(KEY, 3, TERMS, 9.5)
    again = await consumers.create(KEY, 5, Terms(1.0, 0, True), 11.0)
    assert (again.floor, again.terms, again.created_at) == (3, Terms(1.0, 0, True), 9.5)
    assert await consumers.get(KEY) == again


@log_test
async def test_a_consumer_needs_a_bucket(world: World, consumers: Consumers) -> None:
    """Of a bucket that is not there nothing is made and nothing is found."""
    with pytest.raises(BucketGone):
        await consumers.create(KEY, 0, TERMS, 1.0)
    assert await consumers.get(KEY) is None
    assert await consumers.list("b") == []
    assert await consumers.dead("b", None, 0, 9) == []
    assert await consumers.floor("b") is None
    assert not await consumers.delete(KEY)


@log_test
async def test_several_are_made_together(world: World, consumers: Consumers) -> None:
    """Each after its own floor; one whose bucket is gone keeps none of the others from it."""
    await make(world.log, events=5)
    await consumers.create_some({KEY: 3, KEY._replace(bucket_id="gone"): 0, OTHER: 5}, TERMS, 9.5)
    assert [(each.key, each.floor, each.terms) for each in await consumers.list()] == [
        (KEY, 3, TERMS),
        (OTHER, 5, TERMS),
    ]


@log_test
async def test_what_is_saved_comes_out(world: World, consumers: Consumers) -> None:
    """Floor, ranges, what is parked and what is dead, and their changes since."""
    await make(world.log, events=20)
    await consumers.create(KEY, 0, TERMS, 1.0)
    parked = {2: Parked(1, 5.0, 1.0), 9: Parked(2, 6.0, 2.0)}
    dead = {3: Dead(5, 7.0, 1.0, "max_deliver")}
    await save(consumers, Changes(3, ((5, 6), (9, 9)), False, parked, set(), dead))
    stored = await there(consumers)
    assert (stored.floor, tuple(stored.done), dict(stored.parked), stored.dead) == (3, ((5, 6), (9, 9)), parked, 1)
    assert stored.updated_at > 1.0
    assert await consumers.dead("b", KEY, 0, 9) == [DeadLetter(KEY, 3, 5, 1.0, 7.0, "max_deliver")]
    await save(consumers, Changes(6, (), False, {3: Parked(0, 1.0, 1.0)}, {2}, {}, {3}))
    stored = await there(consumers)
    assert (stored.floor, tuple(stored.done), stored.dead) == (6, (), 0)
    assert dict(stored.parked) == {3: Parked(0, 1.0, 1.0), 9: Parked(2, 6.0, 2.0)}
    await save(consumers, Changes(0, (), True))
    stored = await there(consumers)
    assert (stored.floor, dict(stored.parked)) == (0, {})


@log_test
async def test_what_is_being_tried_is_kept(world: World, consumers: Consumers) -> None:
    """As far as there are events, and the whole of it each time."""
    await make(world.log, events=9)
    await consumers.create(KEY, 0, TERMS, 1.0)
    await save(consumers, Changes(1, tried=((2, 4), (6, 6))))
    stored = await there(consumers)
    assert tuple(stored.tried) == ((2, 4), (6, 6))
    assert [tuple(each.tried) for each in await consumers.list("b")] == [((2, 4), (6, 6))]
    await keep_last(world, 6)
    stored = await there(consumers)
    assert tuple(stored.tried) == ((4, 4), (6, 6))
    await save(consumers, Changes(1))
    stored = await there(consumers)
    assert tuple(stored.tried) == ()


@log_test
async def test_a_try_counts_across_a_crash(world: World, consumers: Consumers) -> None:
    """A process that ends with no word, however often: no event is given more often than it may be."""
    await make(world.log, events=2)
    attempts = []
    for _ in range(4):
        crashed = Ledgers(consumers, world.log)
        ledger = await crashed.open(KEY, 0, Terms(30.0, 2))
        for one in ledger.progress.take(2, 9, 1.0):
            ledger.progress.begin(one)
            attempts.append((one.seq, one.attempt))
        ledger.save()
        await consumers.saved()
    assert attempts == [(1, 1), (2, 1), (1, 2), (2, 2)]
    assert await letters(consumers) == [(1, MAX_DELIVER), (2, MAX_DELIVER)]
    stored = await there(consumers)
    assert (stored.floor, dict(stored.parked), tuple(stored.tried)) == (2, {}, ())


@log_test
async def test_a_start_takes_up_what_was_being_tried(world: World, consumers: Consumers) -> None:
    """Also where nobody comes for it: what was tried as often as it may be is told as dead, the rest is parked."""
    await make(world.log, events=2)
    for key, most in ((KEY, 1), (KEY._replace(name="other"), 2)):
        ledger = await Ledgers(consumers, world.log).open(key, 0, Terms(30.0, most))
        (one,) = ledger.progress.take(2, 1, 1.0)
        ledger.progress.begin(one)
        ledger.save()
    await consumers.saved()
    await Ledgers(consumers, world.log).recover()
    assert await letters(consumers, None) == [(1, MAX_DELIVER)]
    stored = await there(consumers, KEY._replace(name="other"))
    assert (list(stored.parked), tuple(stored.tried)) == ([1], ())


@log_test
async def test_a_forwarder_is_the_judge_of_its_tries(world: World, consumers: Consumers) -> None:
    """What an output tried when the process ended is counted, and not given up by a client's terms."""
    await make(world.log, events=1)
    for attempt in range(1, 8):
        ledger = await Ledgers(consumers, world.log).open(OTHER, 0, Terms())
        (one,) = ledger.progress.take(1, 9, 1.0)
        assert one.attempt == attempt
        ledger.progress.begin(one)
        ledger.save()
        await consumers.saved()


@log_test
async def test_clients_make_only_so_many(world: World, consumers: Consumers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound of a bucket there is a conflict that says what to do; what is there stays, and others' do not
    count."""
    monkeypatch.setattr(contract, "MOST_CONSUMERS", 2)
    await make(world.log)
    await make(world.log, "c")
    for key in (KEY, OTHER, Key("b", "token", "t"), Key("b", "client", "second"), Key("b", "output", "2")):
        await consumers.create(key, 0, TERMS, 1.0)
    with pytest.raises(Conflict, match=r"has 2 consumers.*relay consumer delete"):
        await consumers.create(Key("b", "client", "third"), 0, TERMS, 1.0)
    assert (await consumers.create(KEY, 0, Terms(1.0, 1), 1.0)).terms == Terms(1.0, 1)
    await consumers.create(Key("b", "token", "u"), 0, TERMS, 1.0)
    await consumers.create(Key("c", "client", "third"), 0, TERMS, 1.0)
    assert await consumers.delete(KEY)
    await consumers.create(Key("b", "client", "third"), 0, TERMS, 1.0)


@log_test
async def test_saves_add_up(world: World, consumers: Consumers) -> None:
    """What is saved many times before a commit is as if each had been committed."""
    await make(world.log, events=9)
    await consumers.create(KEY, 0, TERMS, 1.0)
    consumers.save(KEY, lambda: Changes(1, (), False, {1: Parked(1, 1.0, 1.0)}))
    consumers.save(KEY, lambda: None)
    consumers.save(KEY, lambda: Changes(2, (), False, {}, {1}, {1: Dead(2, 2.0, 1.0, "x")}))
    consumers.save(KEY, lambda: Changes(4, (), False, {4: Parked(1, 1.0, 1.0)}))
    await consumers.saved()
    stored = await there(consumers)
    assert (stored.floor, set(stored.parked), stored.dead) == (4, {4}, 1)


@log_test
async def test_all_are_listed(world: World, consumers: Consumers) -> None:
    """By bucket or altogether, with what is parked where they are wanted whole."""
    for bucket_id in ("b", "c"):
        await make(world.log, bucket_id, events=3)
    for key in (OTHER, KEY, Key("c", "token", "t")):
        await consumers.create(key, 1, TERMS, 1.0)
    await save(consumers, Changes(1, (), False, {1: Parked(1, 1.0, 1.0)}))
    assert [(each.key, dict(each.parked)) for each in await consumers.list("b")] == [(KEY, {}), (OTHER, {})]
    assert len(await consumers.list()) == 3
    assert [(each.key, set(each.parked)) for each in await consumers.list("b", whole=True)] == [
        (KEY, {1}),
        (OTHER, set()),
    ]
    assert [await consumers.clients(bucket_id) for bucket_id in ("b", "c", "none")] == [1, 0, 0]


@log_test
async def test_one_that_is_renewed_begins_anew(world: World, consumers: Consumers) -> None:
    """Behind the floor, not beyond the head: what it was done with, tried and met is forgotten, and its terms and dead
    letters stay."""
    await make(world.log, events=5)
    await consumers.create(KEY, 0, TERMS, 1.0)
    parked, dead = {1: Parked(1, 1.0, 1.0)}, {2: Dead(1, 1.0, 1.0, "x")}
    await save(consumers, Changes(2, ((4, 4),), False, parked, set(), dead, tried=((5, 5),)))
    consumers.met(KEY, Gap("retention", 1, 1), 1.0)
    await consumers.saved()
    await consumers.renew(KEY, 3, 9.0)
    assert await consumers.get(KEY) == Stored(KEY, TERMS, 3, (), {}, 1, 1.0, 9.0)
    await consumers.renew(OTHER, 3, 9.0)
    assert await consumers.get(OTHER) is None


@log_test
async def test_what_is_deleted_is_gone(world: World, consumers: Consumers) -> None:
    """With what it parked and gave up; what is saved for it then is kept by nobody, also where it is made anew."""
    await make(world.log, events=5)
    await consumers.create(KEY, 0, TERMS, 1.0)
    await save(consumers, Changes(2, (), False, {1: Parked(1, 1.0, 1.0)}, set(), {2: Dead(1, 1.0, 1.0, "x")}))
    consumers.save(KEY, lambda: Changes(4, ()))
    assert await consumers.delete(KEY)
    assert not await consumers.delete(KEY)
    consumers.save(KEY, lambda: Changes(4, ()))
    await consumers.saved()
    assert await consumers.get(KEY) is None
    again = await consumers.create(KEY, 0, TERMS, 2.0)
    assert (again.floor, dict(again.parked), again.dead) == (0, {}, 0)
    await consumers.saved()
    assert (await consumers.get(KEY)) == again


@log_test
async def test_dead_letters_are_told_in_pages(world: World, consumers: Consumers) -> None:
    """In order of seq, of one consumer or of the bucket's; and forgotten one by one."""
    await make(world.log, events=9)
    for key, seqs in ((KEY, (1, 4, 6)), (OTHER, (2, 4))):
        await consumers.create(key, 0, TERMS, 1.0)
        await save(consumers, Changes(0, (), dead={seq: Dead(1, 1.0, 1.0, "x") for seq in seqs}), key)
    assert [each.seq for each in await consumers.dead("b", KEY, 0, 2)] == [1, 4]
    assert [each.seq for each in await consumers.dead("b", KEY, 4, 2)] == [6]
    assert [(each.key, each.seq) for each in await consumers.dead("b", None, 1, 3)] == [
        (OTHER, 2),
        (KEY, 4),
        (OTHER, 4),
    ]
    assert await consumers.forget_dead(KEY, [1, 4, 5]) == 2
    assert await consumers.forget_dead(KEY, [1]) == 0
    assert await consumers.forget_dead(Key("b", "client", "nobody"), [6]) == 0
    assert [each.seq for each in await consumers.dead("b", None, 0, 9)] == [2, 4, 6]


@log_test
async def test_what_retention_waits_for(world: World, consumers: Consumers) -> None:
    """The oldest seq that a consumer is not done with, parked ones too; the queue of those who poll does not count."""
    await make(world.log, events=20)
    await consumers.create(Key("b", "events", "0"), 0, TERMS, 1.0)
    assert await consumers.floor("b") is None
    await consumers.create(KEY, 7, TERMS, 1.0)
    await consumers.create(OTHER, 9, TERMS, 1.0)
    assert await consumers.floor("b") == 8
    await save(consumers, Changes(9, ((11, 11),), False, {5: Parked(1, 1.0, 1.0), 11: Parked(1, 1.0, 1.0)}))
    assert await consumers.floor("b") == 5
    await consumers.create(Key("b", "token", "t"), 2, TERMS, 1.0)
    assert await consumers.floor("b") == 3
    assert await consumers.floor("b", but=["t", "x"]) == 5
    assert await consumers.delete(Key("b", "token", "t"))
    await save(consumers, Changes(12, (), False, {}, {5, 11}))
    assert await consumers.floor("b") == 10


@log_test
async def test_what_belongs_to_events_leaves_with_them(world: World, consumers: Consumers) -> None:
    """Dead letters go, and what is parked becomes a dead letter that says why; what is kept stays as it is."""
    await make(world.log, events=10)
    await consumers.create(KEY, 0, TERMS, 1.0)
    parked = {2: Parked(3, 5.0, 1.5), 8: Parked(1, 5.0, 1.0)}
    dead = {3: Dead(5, 7.0, 1.0, "x"), 9: Dead(5, 7.0, 1.0, "x")}
    await save(consumers, Changes(9, (), False, parked, set(), dead))
    await keep_last(world, 5)
    stored = await there(consumers)
    assert (stored.floor, set(stored.parked), stored.dead) == (9, {8}, 2)
    assert await letters(consumers) == [(2, RETENTION), (9, "x")]
    (letter, _) = await consumers.dead("b", KEY, 0, 9)
    assert (letter.attempts, letter.since) == (3, 1.5)
    assert await consumers.forget_dead(KEY, [2]) == 1


@log_test
async def test_late_changes_about_events_that_left(world: World, consumers: Consumers) -> None:
    """What is saved about an event that has left is kept only where it says that retention took it."""
    await make(world.log, events=10)
    await consumers.create(KEY, 0, TERMS, 1.0)
    await keep_last(world, 5)
    late = {2: Dead(1, 1.0, 1.0, "x"), 3: Dead(1, 1.0, 1.0, RETENTION), 7: Dead(1, 1.0, 1.0, "x")}
    await save(consumers, Changes(6, (), False, {1: Parked(1, 1.0, 1.0), 6: Parked(1, 1.0, 1.0)}, set(), late))
    await keep_last(world, 5)
    assert [letter for letter in await letters(consumers) if letter[0] != 1] == [(3, RETENTION), (7, "x")]
    stored = await there(consumers)
    assert set(stored.parked) == {6}


@log_test
async def test_what_retention_took_is_bounded(
    world: World, consumers: Consumers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the dead letters about events that left the newest stay."""
    for module in (contract, consumer_rows, memory_consumers):
        monkeypatch.setattr(module, "MOST_MISSED", 3)
    monkeypatch.setattr(consumer_rows, "STEP", 4)
    await make(world.log, events=30)
    await consumers.create(KEY, 0, TERMS, 1.0)
    await save(consumers, Changes(30, (), False, {seq: Parked(1, 1.0, 1.0) for seq in range(1, 26)}))
    await keep_last(world, 10)
    assert [seq for seq, _ in await letters(consumers)] == [18, 19, 20]
    await keep_last(world, 8)
    assert [seq for seq, _ in await letters(consumers)] == [20, 21, 22]
    stored = await there(consumers)
    assert sorted(stored.parked) == [23, 24, 25]


@log_test
async def test_consumers_leave_with_their_bucket(world: World, consumers: Consumers) -> None:
    """A bucket that is dropped takes them along at once; one made anew under its id has none."""
    await make(world.log, events=5)
    await consumers.create(KEY, 0, TERMS, 1.0)
    await save(consumers, Changes(3, (), False, {1: Parked(1, 1.0, 1.0)}, set(), {2: Dead(1, 1.0, 1.0, "x")}))
    await world.log.drop("b")
    assert await consumers.get(KEY) is None
    assert await consumers.list() == []
    assert await consumers.dead("b", None, 0, 9) == []
    await make(world.log)
    assert await consumers.get(KEY) is None
    consumers.save(KEY, lambda: Changes(0, ()))
    await consumers.saved()
    assert await consumers.floor("b") is None


@log_test
async def test_gaps_are_counted(world: World, consumers: Consumers) -> None:
    """How many a consumer met, which was the last, and when."""
    await make(world.log)
    await consumers.create(KEY, 0, TERMS, 1.0)
    consumers.met(KEY, Gap("retention", 1, 3), 5.0)
    await consumers.saved()
    consumers.met(KEY, Gap("retention", 4, 4), 6.0)
    consumers.met(KEY, Gap("reset"), 7.0)
    await consumers.saved()
    stored = await there(consumers)
    assert stored.gaps == Gaps(3, Gap("reset"), 7.0)


@log_test
async def test_gaps_are_untold_until_they_are_told(world: World, consumers: Consumers) -> None:
    """Each for itself, within bounds; those that go on are one. Outputs and queues have nobody to tell."""
    await make(world.log)

    async def untold(key: Key = KEY) -> list[tuple[int | None, int | None]]:
        stored = await there(consumers, key)
        return [(gap.from_seq, gap.to_seq) for gap in stored.untold]

    token = KEY._replace(kind="token")
    for key in (KEY, OTHER, token):
        await consumers.create(key, 0, TERMS, 1.0)
        consumers.told(key, [Gap("retention", 1, 3)])
        for begin, end in ((1, 3), (4, 6), (9, 9)):
            consumers.met(key, Gap("retention", begin, end), 5.0)
    assert await untold(OTHER) == []
    assert await untold() == await untold(token) == [(1, 6), (9, 9)]
    consumers.told(KEY, [Gap("retention", 1, 6), Gap("retention", 1, 9)])
    assert await untold() == [(9, 9)]
    consumers.met(KEY, Gap("reset", 10, 10), 6.0)
    consumers.met(KEY, Gap("reset", 10, 10), 7.0)
    assert await untold() == [(9, 9), (10, 10)]
    stored = await there(consumers)
    assert stored.gaps == Gaps(5, Gap("reset", 10, 10), 7.0)
    consumers.told(KEY, [Gap("retention", 9, 9), Gap("reset", 10, 10)])
    assert await untold() == []
    for begin in range(1, 100, 2):
        consumers.met(KEY, Gap("retention", begin, begin), 8.0)
    found = await untold()
    assert (len(found), found[0], found[-1]) == (contract.UNTOLD, (1, 1), (31, 99))
    consumers.met(KEY, Gap("future"), 9.0)
    assert (await untold())[-1] == (None, None), "it vouches for nothing, nor does what it is one with"
    consumers.met(KEY, Gap("retention", 101, 101), 9.0)
    assert (await untold())[-1] == (None, None)
