"""What every event log promises (log/contract.py), over each engine."""

from __future__ import annotations

import asyncio
import time

import pytest

from relay_tornado.errors import BucketGone, Unavailable
from relay_tornado.ids import new_epoch
from relay_tornado.log.contract import Extent
from relay_tornado.log.lineage import Placed, place_cursor
from relay_tornado.model import Appended, Cursor, Gap, Retention
from tests.log.worlds import MANY, World, event, fill, make, read_all

log_test = pytest.mark.gen_test

ALL = Retention(None, None, None)


@log_test
async def test_an_append_gives_the_next_seq(world: World) -> None:
    """The first event of a bucket is 1, under the epoch that the bucket was made with, and the next one 2."""
    epoch = await make(world.log)
    first = await world.log.append("b", event())
    second = await world.log.append("b", event())
    assert [(first.epoch, first.seq), (second.epoch, second.seq)] == [(epoch, 1), (epoch, 2)]
    assert not first.duplicate


@log_test
async def test_an_event_comes_out_as_it_went_in(world: World) -> None:
    """Every part of an event is read back with the bytes that went in, zero bytes and all."""
    epoch = await make(world.log)
    before = time.time()
    sent = event(
        bytes(range(256)) * 5,
        input_id="ü",
        method="PÖST",
        path=b"/\x00\xff",
        query=b"\x00=\xfe",
        headers=b"A: 1\r\na: \xff\r\n",
        remote_ip="::1",
    )
    await world.log.append("b", sent)
    for _ in range(2):
        (stored,) = await world.log.read("b", 0, 10, MANY)
        for name in ("input_id", "method", "path", "query", "headers", "body", "remote_ip"):
            assert getattr(stored, name) == getattr(sent, name)
        assert (stored.seq, stored.epoch, stored.id) == (1, epoch, f"{epoch}-1")
        assert before - 1 <= stored.received_at <= time.time() + 1
        await world.reopen()


@log_test
async def test_seqs_are_dense_when_many_append_at_once(world: World) -> None:
    """Appends from many tasks to several buckets get 1, 2, 3, … in each, with no hole and none twice."""
    for bucket in "abc":
        await make(world.log, bucket)

    async def one(task: int) -> list[tuple[str, int]]:
        return [(b, (await world.log.append(b, event(b"%d" % task))).seq) for _ in range(10) for b in "abc"[task % 3 :]]

    given = [place for places in await asyncio.gather(*(one(task) for task in range(30))) for place in places]
    for bucket in "abc":
        seqs = sorted(seq for b, seq in given if b == bucket)
        assert seqs == list(range(1, len(seqs) + 1))
        assert [e.seq for e in await read_all(world.log, bucket)] == seqs


@log_test
async def test_order_of_appends_is_the_order_of_seqs(world: World) -> None:
    """Events that one caller appends without waiting keep their order."""
    await make(world.log)
    places = await fill(world.log, 700)
    assert [place.seq for place in places] == list(range(1, 701))
    assert [int(e.body) for e in await read_all(world.log)] == list(range(1, 701))


@log_test
async def test_who_submits_is_told_once_and_later(world: World) -> None:
    """Each is told its place or its error, none before `submit` returned, and whatever another one raises."""
    await make(world.log)
    told: list[list[Appended | BaseException]] = [[] for _ in range(5)]

    def failing(outcome: Appended | BaseException) -> None:
        raise RuntimeError("by intent")

    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    for number, each in enumerate(told):
        world.log.submit("gone" if number == 4 else "b", event(), each.append)
        world.log.submit("b", event(), failing)
    assert not any(told)
    last = await world.log.append("b", event())
    await asyncio.sleep(0)
    assert last.seq == 10
    assert [[outcome.seq if isinstance(outcome, Appended) else type(outcome) for outcome in each] for each in told] == [
        [1], [3], [5], [7], [BucketGone]
    ]  # fmt: skip


@log_test
async def test_a_page_has_at_least_one_event_and_no_more_than_asked(world: World) -> None:
    """`limit` and `max_bytes` bound a page; a single event that is larger comes all the same."""
    await make(world.log, events=600, size=100)
    size = event(b"1" * 100).size
    for after in (0, 1, 255, 256, 300, 511):
        for limit in (1, 3, 256, 1000):
            for most in (1, size - 1, size, 3 * size, 3 * size + 1, MANY):
                events = await world.log.read("b", after, limit, most)
                assert [e.seq for e in events] == list(range(after + 1, after + 1 + len(events)))
                assert 1 <= len(events) <= limit
                assert len(events) == 1 or sum(e.size for e in events) <= most
    assert len(await world.log.read("b", 256, 3, MANY)) == 3
    assert len(await world.log.read("b", 256, 256, 3 * size)) == 3


@log_test
async def test_nothing_is_read_at_the_head(world: World) -> None:
    """A reader at the head gets an empty page, also of an empty log, and `peek` knows it without waiting."""
    await make(world.log)
    assert list(await world.log.read("b", 0, 10, MANY)) == []
    await fill(world.log, 3)
    assert list(await world.log.read("b", 3, 10, MANY)) == []
    peeked = world.log.peek("b", 3, 10, MANY)
    assert peeked is not None
    assert list(peeked) == []


@log_test
async def test_peek_agrees_with_read(world: World) -> None:
    """Whatever `peek` answers is what `read` answers."""
    await make(world.log, events=20)
    for after in range(20):
        peeked = world.log.peek("b", after, 7, MANY)
        assert peeked is None or list(peeked) == list(await world.log.read("b", after, 7, MANY))


@log_test
async def test_a_bucket_that_is_not_there(world: World) -> None:
    """Every call about a log that does not exist says BucketGone; watching one is fine."""
    log = world.log
    for call in (
        lambda: log.append("x", event()),
        lambda: log.read("x", 0, 1, 1),
        lambda: log.bounds("x"),
        lambda: log.seek("x", 0.0),
        lambda: log.trim("x", ALL, None),
    ):
        with pytest.raises(BucketGone):
            await call()
    with pytest.raises(BucketGone):
        log.peek("x", 0, 1, 1)
    watch = log.watch(["x"], lambda bucket: None)
    assert watch.head("x") == 0
    watch.close()
    assert await log.find("aaaaaaaaaaaa") is None
    await log.drop("x")


@log_test
async def test_create_may_be_repeated(world: World) -> None:
    """A second create changes nothing, also when both run at once."""
    epoch = new_epoch()
    await asyncio.gather(world.log.create("b", epoch), world.log.create("b", new_epoch()))
    await fill(world.log, 3)
    await world.log.create("b", new_epoch())
    bounds = await world.log.bounds("b")
    assert (bounds.head, len(bounds.epochs), bounds.open) == (3, 1, True)
    assert list(await world.log.buckets()) == ["b"]


@log_test
async def test_bounds_and_find(world: World) -> None:
    """Bounds tell first, head and the epochs; find tells whose an epoch is."""
    epoch = await make(world.log)
    other = await make(world.log, "c")
    bounds = await world.log.bounds("b")
    assert (bounds.first, bounds.head, [e.epoch for e in bounds.epochs], bounds.open) == (1, 0, [epoch], True)
    await fill(world.log, 4)
    assert (await world.log.bounds("b")).head == 4
    assert await world.log.find(epoch) == "b"
    assert await world.log.find(other) == "c"


# watching


@log_test
async def test_watchers_wake_after_the_event_can_be_read(world: World) -> None:
    """When a watcher is called the head has moved and `peek` or `read` give the event."""
    await make(world.log)
    seen: list[tuple[int, int]] = []

    def wake(bucket: str) -> None:
        peeked = world.log.peek(bucket, watch.head(bucket) - 1, 1, MANY)
        seen.append((watch.head(bucket), peeked[0].seq if peeked else 0))

    watch = world.log.watch(["b"], wake)
    for _ in range(3):
        await world.log.append("b", event())
    assert [head for head, _ in seen] == [1, 2, 3]
    assert all(peeked in (0, head) for head, peeked in seen)
    watch.close()


@log_test
async def test_who_is_woken(world: World) -> None:
    """By bucket only for these, for all also for buckets made later, and for nothing after close."""
    await make(world.log, "a")
    await make(world.log, "b")
    calls: list[str] = []
    some = world.log.watch(["a", "later"], lambda bucket: calls.append(f"some {bucket}"))
    every = world.log.watch(None, lambda bucket: calls.append(f"every {bucket}"))
    await world.log.append("a", event())
    await world.log.append("b", event())
    await make(world.log, "later")
    await world.log.append("later", event())
    assert sorted(calls) == ["every a", "every b", "every later", "some a", "some later"]
    calls.clear()
    some.close()
    some.close()
    await world.log.append("a", event())
    assert calls == ["every a"]
    await world.log.drop("a")
    assert calls == ["every a", "every a"]
    every.close()


@log_test
async def test_a_watch_closed_by_another_one_is_not_woken(world: World) -> None:
    """No wake comes after `close` returned, even when both were due for the same commit."""
    await make(world.log)
    calls = []
    watches = []

    def wake(bucket: str) -> None:
        calls.append(bucket)
        for watch in watches:
            watch.close()

    watches += [world.log.watch(["b"], wake) for _ in range(3)]
    await world.log.append("b", event())
    assert calls == ["b"]


# dedupe


@log_test
async def test_a_repeat_has_the_place_of_the_first(world: World) -> None:
    """Within the window a repeat stores nothing, in this process and after a restart."""
    await make(world.log)
    first = await world.log.append("b", event(dedupe=b"d1", dedupe_window=1000.0))
    await fill(world.log, 2)
    again = await world.log.append("b", event(dedupe=b"d1", dedupe_window=1000.0))
    assert (again.epoch, again.seq, again.duplicate) == (first.epoch, first.seq, True)
    await world.reopen()
    again = await world.log.append("b", event(dedupe=b"d1", dedupe_window=1000.0))
    assert (again.epoch, again.seq, again.duplicate) == (first.epoch, first.seq, True)
    assert (await world.log.bounds("b")).head == 3


@log_test
async def test_a_repeat_has_the_id_of_the_first_in_a_later_epoch(world: World) -> None:
    """The epoch is that of the first, not the one that appends after a restart have."""
    epoch = await make(world.log)
    await world.log.append("b", event(dedupe=b"d", dedupe_window=1000.0))
    await world.reopen()
    later = await world.log.append("b", event())
    again = await world.log.append("b", event(dedupe=b"d", dedupe_window=1000.0))
    assert later.epoch != epoch
    assert again == Appended(epoch, 1, True)


@log_test
async def test_repeats_at_once(world: World) -> None:
    """Repeats that are appended together store one event; the others get its place."""
    await make(world.log)
    places = await asyncio.gather(
        *(world.log.append("b", event(dedupe=b"d%d" % (n % 3), dedupe_window=1000.0)) for n in range(90))
    )
    assert (await world.log.bounds("b")).head == 3
    assert sum(not place.duplicate for place in places) == 3
    assert {place.seq for place in places} == {1, 2, 3}
    for n, place in enumerate(places):
        assert place.seq == places[n % 3].seq


@log_test
async def test_dedupe_is_by_bucket_and_window(world: World) -> None:
    """Another bucket, or a time beyond the window, makes a new event, whose place later repeats get."""
    await make(world.log, "a")
    await make(world.log, "b")
    await world.log.append("a", event(dedupe=b"d", dedupe_window=1000.0))
    assert not (await world.log.append("b", event(dedupe=b"d", dedupe_window=1000.0))).duplicate
    await asyncio.sleep(0.02)
    later = await world.log.append("a", event(dedupe=b"d", dedupe_window=0.001))
    assert (later.seq, later.duplicate) == (2, False)
    repeat = await world.log.append("a", event(dedupe=b"d", dedupe_window=1000.0))
    assert (repeat.seq, repeat.duplicate) == (2, True)


@log_test
async def test_a_repeat_is_known_until_its_window_is_over(world: World) -> None:
    """Nothing that removes old events or what is known of repeats makes one new before."""
    await make(world.log)
    await world.log.append("b", event(dedupe=b"old", dedupe_window=0.001))
    first = await world.log.append("b", event(dedupe=b"d", dedupe_window=100.0))
    await world.log.append("b", event())
    await asyncio.sleep(0.02)
    await world.log.trim("b", Retention(None, 1, None), None)
    await world.log.forget_repeats("b")
    again = await world.log.append("b", event(dedupe=b"d", dedupe_window=100.0))
    assert again == Appended(first.epoch, first.seq, True)
    with pytest.raises(BucketGone):
        await world.log.forget_repeats("x")


@log_test
async def test_repeats_after_a_clock_that_was_ahead(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are found for their window, and no longer, though the times of the bucket's events can't go back."""
    now = time.time()
    appended = []
    await make(world.log)
    for at in (now + 1e7, now, now + 900, now + 2000, now + 1500):
        monkeypatch.setattr(time, "time", lambda at=at: at)
        appended.append(await world.log.append("b", event(dedupe=b"d", dedupe_window=1000.0)))
    assert [(each.seq, each.duplicate) for each in appended] == [
        (1, False),
        (2, False),
        (2, True),
        (3, False),
        (3, True),
    ]


# time


@log_test
async def test_seek_finds_the_first_event_at_or_after_a_time(world: World) -> None:
    """The position before it, whatever time is asked for, and never below first - 1."""
    await make(world.log)
    for _ in range(8):
        await world.log.append("b", event())
    times = [e.received_at for e in await read_all(world.log)]
    assert times == sorted(times)
    for moment in [0.0, *times, *(t + 1e-6 for t in times), times[-1] + 100]:
        expected = sum(t < moment for t in times)
        assert await world.log.seek("b", moment) == expected
    await world.log.trim("b", Retention(None, 5, None), None)
    assert await world.log.seek("b", 0.0) == 3
    await make(world.log, "empty")
    assert await world.log.seek("empty", 0.0) == 0


@log_test
async def test_received_at_never_goes_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wall clock that is set back leaves the times of a bucket in order, also over a restart."""
    await make(world.log)
    await world.log.append("b", event())
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    await world.log.append("b", event())
    await world.reopen()
    await world.log.append("b", event())
    times = [e.received_at for e in await read_all(world.log)]
    assert times == sorted(times)
    assert times[0] > 1000.0


# dropping


@log_test
async def test_drop_and_make_anew(world: World) -> None:
    """A dropped log is gone at once; one that is made anew starts at 1 and knows nothing of the old ids."""
    old = await make(world.log, events=300)
    await world.log.append("b", event(dedupe=b"d", dedupe_window=1000.0))
    await world.log.drop("b")
    await world.log.drop("b")
    assert await world.log.find(old) is None
    assert list(await world.log.buckets()) == []
    with pytest.raises(BucketGone):
        await world.log.read("b", 0, 1, MANY)
    new = await make(world.log)
    assert list(await world.log.read("b", 0, 10, MANY)) == []
    place = await world.log.append("b", event(b"new", dedupe=b"d", dedupe_window=1000.0))
    assert (place.epoch, place.seq, place.duplicate) == (new, 1, False)
    assert [e.body for e in await read_all(world.log)] == [b"new"]
    await world.reopen()
    assert [e.body for e in await read_all(world.log)] == [b"new"]
    bounds = await world.log.bounds("b")
    assert place_cursor(bounds, Cursor(old, 5)) == Placed(0, Gap("reset"))


@log_test
async def test_appends_meet_a_drop(world: World) -> None:
    """An append that meets a drop is either stored before it or told that the bucket is gone."""
    await make(world.log)
    appends = [asyncio.ensure_future(world.log.append("b", event())) for _ in range(50)]
    dropping = asyncio.ensure_future(world.log.drop("b"))
    appends += [asyncio.ensure_future(world.log.append("b", event())) for _ in range(50)]
    await dropping
    for result in await asyncio.gather(*appends, return_exceptions=True):
        assert isinstance(result, BucketGone) or getattr(result, "seq", 0) > 0
    with pytest.raises(BucketGone):
        await world.log.append("b", event())


@log_test
async def test_a_closed_log_takes_nothing(world: World) -> None:
    """What is queued at the close is committed; what comes later is refused."""
    await make(world.log)
    queued = [asyncio.ensure_future(world.log.append("b", event())) for _ in range(400)]
    await world.log.close()
    assert [place.seq for place in await asyncio.gather(*queued)] == list(range(1, 401))
    with pytest.raises(Unavailable):
        await world.log.append("b", event())
    await world.reopen()
    assert len(await read_all(world.log)) == 400


@log_test
async def test_single_events_are_picked(world: World) -> None:
    """In the order asked for, None for what is not there, and no more bytes than asked but for the first."""
    await make(world.log)
    for number in range(6):
        await world.log.append("b", event(b"%d" % number * 100))
    await world.log.trim("b", Retention(None, 5, None), None)
    found = await world.log.pick("b", [6, 1, 3, 99, 2], 1 << 30)
    assert [None if each is None else each.seq for each in found] == [6, None, 3, None, 2]
    size = found[0].size if found[0] is not None else 0
    assert [each and each.seq for each in await world.log.pick("b", [6, 5, 4], 2 * size)] == [6, 5]
    assert [each and each.seq for each in await world.log.pick("b", [6, 5, 4], 1)] == [6]
    assert list(await world.log.pick("b", [], 1)) == []
    with pytest.raises(BucketGone):
        await world.log.pick("nobody", [1], 1)


@log_test
async def test_how_much_a_log_holds(world: World) -> None:
    """Its events and bytes, and when its oldest and newest event were received; nothing of one that is gone."""
    await make(world.log)
    assert world.log.held("b") == (0, 0)
    with pytest.raises(BucketGone):
        world.log.held("nobody")
    assert dict(await world.log.extents(["b", "nobody"])) == {"b": Extent(0, None, None)}
    for _ in range(3):
        await world.log.append("b", event(b"body"))
    await world.log.trim("b", Retention(None, 2, None), None)
    events = await world.log.read("b", 1, 10, MANY)
    extent = (await world.log.extents(["b"]))["b"]
    assert extent == Extent(sum(each.size for each in events), events[0].received_at, events[-1].received_at)
    assert world.log.held("b") == (2, extent.bytes)
    await world.log.trim("b", Retention(None, 1, None), None)
    extent = (await world.log.extents(["b"]))["b"]
    assert extent == Extent(events[-1].size, events[-1].received_at, events[-1].received_at)
