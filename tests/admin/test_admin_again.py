"""What is given again: dead letters, ranges, and what waits where no more may wait."""

from __future__ import annotations

from math import isfinite

import pytest

from relay_tornado.admin import consumers
from relay_tornado.admin.consumers import MOST_EVENTS
from relay_tornado.consumer_progress import AT_ONCE, MOST_PARKED, Progress, Taken
from relay_tornado.errors import Conflict, Invalid, NotFound
from relay_tornado.ids import new_epoch
from relay_tornado.model import Cursor, Latest, Retention
from relay_tornado.pieces import PIECE_SIZE
from tests.admin.consumers_world import BUCKET, World
from tests.admin.consumers_world import world as world
from tests.counting import calls_by_turn
from tests.log.stores import there


@pytest.mark.gen_test
async def test_dead_letters_are_listed_given_again_and_forgotten(world: World) -> None:
    """By pages, by ids or all of them, of one consumer or the bucket; those given again are so at once."""
    await world.events(20)
    one, two = await world.open("one"), await world.open("two")
    world.bury(one, *range(1, 11))
    world.bury(two, 3, 5)
    page = await world.consumers.dead(BUCKET, "one", limit=4)
    assert [each["id"] for each in page["data"]] == [world.id(seq) for seq in (1, 2, 3, 4)]
    assert page["data"][0] == {
        "id": world.id(1),
        "seq": 1,
        "kind": "client",
        "consumer": "one",
        "output_name": None,
        "attempts": 1,
        "since": 1020.0,
        "at": 1020.0,
        "reason": "max_deliver",
    }
    rest = await world.consumers.dead(BUCKET, "one", cursor=page["next_cursor"])
    assert [each["seq"] for each in rest["data"]] == list(range(5, 11))
    assert "next_cursor" not in rest
    for limit in (1, 2, 3):
        seen: list[tuple[int, str]] = []
        cursor = ""
        while True:
            # A page ends between events, so that none of two consumers' letters is lost between two pages.
            every = await world.consumers.dead(BUCKET, None, limit=limit, cursor=cursor)
            seen += [(each["seq"], each["consumer"]) for each in every["data"]]
            if "next_cursor" not in every:
                break
            cursor = every["next_cursor"]
        assert sorted(seen) == sorted([*((seq, "one") for seq in range(1, 11)), (3, "two"), (5, "two")])
    told: list[int] = []
    one.watch(lambda: told.append(1))
    again = await world.consumers.resend(BUCKET, "one", [world.id(2), world.id(9), world.id(15)])
    assert again == {"scheduled": 2, "left": 0, "gone": 0}
    assert told
    assert [each[:2] for each in one.progress.take(10, 10, world.now)] == [(2, 1), (9, 1)]
    assert await world.consumers.forget(BUCKET, "one", [world.id(1), world.id(2)]) == {"forgotten": 1}
    assert await world.consumers.resend(BUCKET, "one", None) == {"scheduled": 7, "left": 0, "gone": 0}
    assert (await world.consumers.dead(BUCKET, "one"))["data"] == []
    assert await world.consumers.forget(BUCKET, "two", None) == {"forgotten": 2}
    with pytest.raises(Invalid, match="ids: "):
        await world.consumers.resend(BUCKET, "one", [f"{new_epoch()}-1"])
    for what in (world.consumers.dead(BUCKET, "v"), world.consumers.forget(BUCKET, "v", None),
                 world.consumers.resend(BUCKET, "v", None)):  # fmt: skip
        with pytest.raises(NotFound):
            await what


@pytest.mark.gen_test
async def test_a_replay_gives_a_range_again(world: World) -> None:
    """In pages, also what was done long ago; what is to come anyway is not counted, and comes once."""
    await world.events(MOST_EVENTS + 500, 0.001)
    ledger = await world.open(floor=MOST_EVENTS + 400)
    first = await world.consumers.replay(BUCKET, "w", first=1)
    assert (first["scheduled"], first["next"], first["full"]) == (MOST_EVENTS, MOST_EVENTS + 1, False)
    second = await world.consumers.replay(BUCKET, "w", first=MOST_EVENTS + 1)
    assert (second["scheduled"], second["next"]) == (400, None)
    taken = [each.seq for each in ledger.progress.take(MOST_EVENTS + 500, 10_000, world.now)]
    assert sorted(taken) == list(range(1, MOST_EVENTS + 501))
    assert taken[:MOST_EVENTS] == list(range(1, MOST_EVENTS + 1))
    some = await world.consumers.replay(BUCKET, "w", first=10, last=12)
    assert (some["scheduled"], some["next"]) == (0, None)
    nothing = await world.consumers.replay(BUCKET, "w", first=MOST_EVENTS + 5_000)
    assert (nothing["scheduled"], nothing["next"]) == (0, None)


@pytest.mark.gen_test
async def test_what_is_given_again_at_once_waits_for_no_clock(world: World) -> None:
    """Also where the clock of day is set back right behind it. Who delivers is told, and a restart has it still."""
    await world.events(3)
    ledger = await world.open()
    world.done(ledger, 1, 2)
    world.bury(ledger, 3)
    told: list[int] = []
    ledger.watch(lambda: told.append(1))
    await world.consumers.replay(BUCKET, "w", first=1, last=2)
    assert told
    stored = await there(world.store, ledger.key)
    assert set(stored.parked) == {1, 2}
    await world.consumers.resend(BUCKET, "w", None)
    assert {one.due for one in ledger.progress.parked.values()} == {AT_ONCE}


@pytest.mark.gen_test
async def test_a_replay_keeps_the_pace_over_its_pages(world: World) -> None:
    """So many times as fast as they came, whichever page they are in."""
    await world.events(MOST_EVENTS + 10, 2.0)
    ledger = await world.open(floor=MOST_EVENTS + 10)
    start = world.now
    first = await world.consumers.replay(BUCKET, "w", first=1, speed=4.0)
    world.now += 7
    second = await world.consumers.replay(BUCKET, "w", first=first["next"], speed=4.0, anchor=first["anchor"])
    assert second["next"] is None
    dues = {seq: one.due for seq, one in ledger.progress.parked.items()}
    assert dues == pytest.approx({seq: start + (seq - 1) * 0.5 for seq in range(1, MOST_EVENTS + 11)})
    other = await world.open("other", floor=MOST_EVENTS + 10)
    one = await world.consumers.replay(BUCKET, "other", first=5, last=5, speed=4.0)
    assert (one["scheduled"], list(other.progress.parked)) == (1, [5])
    none = await world.consumers.replay(BUCKET, "other", first=MOST_EVENTS + 11, speed=4.0)
    assert (none["scheduled"], none["next"], none["anchor"]) == (0, None, None)
    for anchor in ("x", "1@", "nan@1", "1@inf"):
        with pytest.raises(Invalid, match="anchor"):
            await world.consumers.replay(BUCKET, "w", first=1, speed=1.0, anchor=anchor)


@pytest.mark.gen_test
async def test_a_pace_that_never_ends(world: World) -> None:
    """Each event is due some day: one that is due never could not be stored."""
    await world.events(3, 2.0)
    ledger = await world.open(floor=3)
    await world.consumers.replay(BUCKET, "w", first=1, speed=1e-320)
    assert all(isfinite(one.due) for one in ledger.progress.parked.values())


@pytest.mark.gen_test
async def test_a_replay_waits_where_no_more_may_wait(world: World) -> None:
    """It says where to go on, and nothing of the range is lost, also while some are out."""
    count = MOST_PARKED + 2_000
    await world.events(count, 0.0)
    ledger = await world.open(floor=count)
    given: list[int] = []
    out: list[Taken] = []
    at: int | None = 1
    waits = 0
    while at is not None:
        answer = await world.consumers.replay(BUCKET, "w", first=at)
        at = answer["next"]
        if answer["full"]:
            waits += 1
            for each in out:
                ledger.progress.done(each)
            out = ledger.progress.take(count, 700, world.now)
            given += [each.seq for each in out]
    given += [each.seq for each in ledger.progress.take(count, count, world.now)]
    assert waits
    assert given == list(range(1, count + 1))


@pytest.mark.gen_test
async def test_an_event_that_is_out_for_a_retry_takes_one_place(world: World) -> None:
    """A replay has the room that is left beside it, and is not told that there is none."""
    count = MOST_PARKED
    await world.events(count, 0.0)
    ledger = await world.open(floor=count)
    for first in range(1, count - MOST_EVENTS, MOST_EVENTS):
        assert not (await world.consumers.replay(BUCKET, "w", first=first))["full"]
    assert len(ledger.progress.take(count, 700, world.now)) == 700
    answer = await world.consumers.replay(BUCKET, "w", first=count - MOST_EVENTS + 1)
    assert (answer["scheduled"], answer["next"], answer["full"]) == (MOST_EVENTS, None, False)


@pytest.mark.gen_test
async def test_room_is_lacking_only_for_what_can_be_given_again(world: World) -> None:
    """Not for dead letters whose events retention removed, nor for those that a seek gives again anyway."""
    await world.events(6)
    ledger = await world.open()
    for each in ledger.progress.take(2, 2, world.now):
        ledger.progress.fail(each, world.now + 60, world.now)
    await world.log.trim(BUCKET.id, Retention(None, 4, None), None)
    world.ledgers.trimmed(BUCKET.id, 3)
    world.bury(ledger, 3, 4, 5)
    await world.consumers.seek(BUCKET, "w", Cursor(world.epoch, 4))
    letters = [(each["seq"], each["reason"]) for each in (await world.consumers.dead(BUCKET, "w"))["data"]]
    assert letters == [*((seq, "retention") for seq in (1, 2)), *((seq, "max_deliver") for seq in (3, 4, 5))]
    assert await world.consumers.resend(BUCKET, "w", None) == {"scheduled": 2, "left": 0, "gone": 2}
    assert ledger.progress.expects(5)


@pytest.mark.gen_test
async def test_dead_letters_stay_where_no_more_may_wait(world: World) -> None:
    """Which is told."""
    await world.events(3)
    ledger = await world.open()
    world.bury(ledger, 1, 2, 3)
    await world.events(MOST_PARKED, 0.0)
    await world.consumers.seek(BUCKET, "w", Latest())
    at: int | None = 4
    while at is not None and len(ledger.progress.parked) < MOST_PARKED - 1:
        at = (await world.consumers.replay(BUCKET, "w", first=at, last=MOST_PARKED + 2))["next"]
    assert await world.consumers.resend(BUCKET, "w", None) == {"scheduled": 1, "left": 2, "gone": 0}
    assert [each["seq"] for each in (await world.consumers.dead(BUCKET, "w"))["data"]] == [2, 3]


@pytest.mark.gen_test
async def test_many_dead_letters_come_in_pieces(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A destination that was down for days has left hundreds of thousands: senders have their turn in between."""
    monkeypatch.setattr(consumers, "MOST_EVENTS", PIECE_SIZE)
    count = 3 * PIECE_SIZE
    await world.events(count)
    ledger = await world.open()
    world.bury(ledger, *range(1, count + 1))
    calls = calls_by_turn(monkeypatch, Progress, "schedule")
    answer = await world.consumers.resend(BUCKET, "w", None)
    assert (answer["scheduled"], calls) == (count, [1, 1, 1])


@pytest.mark.gen_test
async def test_what_is_moved_by_receipts_is_not_given_single_events(world: World) -> None:
    """It says what to do instead."""
    await world.events(3)
    await world.open("key", kind="token", receipt=True)
    with pytest.raises(Conflict, match="seek"):
        await world.consumers.replay(BUCKET, "token:key", first=1)
