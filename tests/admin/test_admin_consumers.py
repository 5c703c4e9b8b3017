"""Consumers as one administers them: every change reaches whoever delivers, and is there after a restart."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from relay_tornado.admin.commands import Commands
from relay_tornado.admin.consumers import MOST, ConsumerAdministration, key_of
from relay_tornado.errors import Conflict, Invalid, NotFound
from relay_tornado.ids import new_epoch
from relay_tornado.log.consumers import Key, Terms
from relay_tornado.log.ledgers import Ledger, Ledgers
from relay_tornado.log.memory import MemoryEventLog
from relay_tornado.log.memory_consumers import MemoryConsumers
from relay_tornado.model import (
    Bucket,
    Cursor,
    Earliest,
    Gap,
    Last,
    Latest,
    NewEvent,
    Output,
    Position,
    Retention,
    Since,
)
from relay_tornado.progress import AT_ONCE, PARKED, Taken

BUCKET = Bucket(
    "b-1", "orders", 0, 0, outputs=(Output("o-0", 2, "inside", 0, 0), Output("o-1", 3, "shop", 0, 0, internal=False))
)


@dataclass
class World:
    """A log with a bucket, consumers, and a clock that is set by hand."""

    now: float = 1_000.0
    epoch: str = field(default_factory=new_epoch)

    def __post_init__(self) -> None:
        self.log = MemoryEventLog(time=lambda: self.now)
        self.store = MemoryConsumers(self.log, lambda: self.now)
        self.ledgers = Ledgers(self.store, self.log, lambda: self.now)
        self.consumers = ConsumerAdministration(self.log, self.ledgers)

    async def events(self, count: int, apart: float = 1.0) -> None:
        for _ in range(count):
            self.now += apart
            await self.log.append(BUCKET.id, NewEvent("in", "POST", b"", b"", b"", b"x", ""))

    async def open(self, name: str = "w", floor: int = 0, kind: Any = "client", **terms: Any) -> Ledger:
        return await self.ledgers.open(Key(BUCKET.id, kind, name), floor, Terms(**terms))

    def id(self, seq: int) -> str:
        return f"{self.epoch}-{seq}"

    def done(self, ledger: Ledger, *seqs: int) -> None:
        """Takes what there is, and is done with these."""
        taken = {each.seq: each for each in ledger.progress.take(1_000_000, 1_000_000, self.now)}
        for seq in seqs:
            assert ledger.progress.done(taken.pop(seq))
        for each in taken.values():
            ledger.progress.release(each)
        ledger.save()

    async def bury(self, ledger: Ledger, *seqs: int) -> None:
        taken = {each.seq: each for each in ledger.progress.take(1_000_000, 1_000_000, self.now)}
        for seq in seqs:
            assert ledger.progress.bury(taken.pop(seq), self.now, "max_deliver")
        for each in taken.values():
            ledger.progress.release(each)
        ledger.save()


@asynccontextmanager
async def opened() -> AsyncIterator[World]:
    world = World()
    await world.log.create(BUCKET.id, world.epoch)
    yield world
    await world.log.close()


@pytest.mark.gen_test
async def test_show_tells_where_it_is() -> None:
    """Counts, lag in events and seconds, terms, and the gaps that it met; looking changes nothing."""
    async with opened() as world:
        await world.events(10)
        ledger = await world.open(ack_wait=45.5, max_deliver=3)
        world.done(ledger, 1, 2, 5)
        taken = ledger.progress.take(10, 2, world.now)
        ledger.progress.fail(taken[0], world.now + 60, world.now)
        ledger.save()
        world.now += 30
        world.consumers.connections = lambda key: 2 if key == ledger.key else 0
        for _ in range(2):
            shown = await world.consumers.show(BUCKET, "w")
            assert shown == {
                "bucket_id": "b-1",
                "bucket_name": "orders",
                "kind": "client",
                "name": "w",
                "ack": "explicit",
                "floor": world.id(3),
                "head": world.id(10),
                "pending": 7,
                "out": 1,
                "parked": 1,
                "dead": 0,
                "connections": 2,
                "ack_wait": 45.5,
                "max_deliver": 3,
                "lag": {"events": 7, "seconds": 37.0},
                "gaps": None,
                "created_at": 1010,
                "updated_at": 1010,
            }
        world.ledgers.close(ledger)
        assert (await world.consumers.show(BUCKET, "w"))["pending"] == 7
        await world.log.trim(BUCKET.id, Retention(None, 4, None), None)
        assert (await world.consumers.show(BUCKET, "w"))["pending"] == 4
        ledger = await world.open()
        gaps = (await world.consumers.show(BUCKET, "w"))["gaps"]
        assert gaps["last"] == {"from": 4, "to": 6, "count": 3, "reason": "retention"}


@pytest.mark.gen_test
async def test_what_left_while_nobody_used_it_is_shown() -> None:
    """As the gap that it will have met when somebody comes; a look meets none, and takes none from whoever comes."""
    async with opened() as world:
        await world.events(10)
        world.ledgers.close(await world.open())
        before = (await world.consumers.show(BUCKET, "w"))["gaps"]
        for keep, to in ((6, 4), (4, 6)):
            await world.log.trim(BUCKET.id, Retention(None, keep, None), None)
            world.now += 1
            for shown in (await world.consumers.show(BUCKET, "w"), *await world.consumers.listing(BUCKET)):
                last = {"from": 1, "to": to, "count": to, "reason": "retention"}
                assert shown["gaps"] == {"times": 1, "last": last, "at": int(world.now)}
        assert before is None
        assert world.ledgers.counters.gaps["retention"] == 0
        ledger = await world.open()
        assert ledger.untold == (Gap("retention", 1, 6),)
        met = (await world.consumers.show(BUCKET, "w"))["gaps"]
        assert (met["times"], met["last"]) == (1, last)
        world.ledgers.close(ledger)
        await world.log.trim(BUCKET.id, Retention(None, 1, None), None)
        again = (await world.consumers.show(BUCKET, "w"))["gaps"]
        assert (again["times"], again["last"]["from"], again["last"]["to"]) == (2, 7, 9)


@pytest.mark.gen_test
async def test_all_kinds_are_listed_but_the_queues() -> None:
    """Of the one bucket; each is found by what the list says, and a name that looks like a kind's by its kind."""
    async with opened() as world:
        await world.open("w")
        await world.open("token:w")
        await world.open("key", kind="token", receipt=True)
        await world.open("3", kind="output")
        await world.open("0", kind="events")
        found = await world.consumers.listing(BUCKET)
        assert sorted((each["kind"], each["name"], each["ack"]) for each in found) == [
            ("client", "token:w", "explicit"),
            ("client", "w", "explicit"),
            ("output", "3", "forward"),
            ("token", "key", "receipt"),
        ]
        for reference, name in (("w", "w"), ("client:w", "w"), ("client:token:w", "token:w"), ("token:key", "key"),
                                ("output:3", "3"), ("output:shop", "3"), ("output:o-1", "3")):  # fmt: skip
            assert (await world.consumers.show(BUCKET, reference))["name"] == name
        for reference in ("v", "token:w", "output:4", "events:0"):
            with pytest.raises(NotFound):
                await world.consumers.show(BUCKET, reference)


@pytest.mark.parametrize(
    ("to", "floor"),
    [
        (Latest(), 20),
        (Earliest(), 4),
        (Last(3), 17),
        (Last(300), 4),
        (Since(1_012.0), 11),
        (Since(0.0), 4),
        (Cursor("E", 9), 9),
        (Cursor("E", 2), 4),
        (Cursor("E", 9, 1), 8),
        (Cursor("E", 9, 2), 9),
        (Cursor("E", 9, 7), 9),
        (Cursor("E", 0), 4),
    ],
)
@pytest.mark.gen_test
async def test_a_seek_goes_to_any_position(to: Position, floor: int) -> None:
    """Those of a subscribe; a position between two copies of an event repeats the event, one behind the last copy does
    not. What lies behind is given, and nothing else; whoever delivers is told, and after a restart it is so still."""
    async with opened() as world:
        await world.events(20)
        await world.log.trim(BUCKET.id, Retention(None, 16, None), None)
        ledger = await world.open(floor=10)
        world.done(ledger, 12, 15)
        told: list[int] = []
        ledger.watch(lambda: told.append(ledger.progress.floor))
        place = dataclasses.replace(to, epoch=world.epoch) if isinstance(to, Cursor) else to
        before = {each.seq for each in ledger.progress.take(20, 100, world.now)}
        looked = await world.consumers.seek(BUCKET, "w", place, preview=True)
        assert told == []
        assert {each.seq for each in ledger.progress.take(20, 100, world.now)} == set()
        done = await world.consumers.seek(BUCKET, "w", place)
        assert {**looked, "preview": False} == done
        assert told == [floor]
        after = {each.seq for each in ledger.progress.take(20, 100, world.now)}
        assert after == set(range(floor + 1, 21))
        assert (done["from"], done["to"]) == (world.id(10), world.id(floor))
        assert (done["repeats"], done["skips"]) == (len(after - before), len(before - after))
        stored = await world.store.get(ledger.key)
        assert stored is not None
        assert (stored.floor, list(stored.done)) == (floor, [])


@pytest.mark.gen_test
async def test_a_look_at_a_seek_changes_nothing() -> None:
    """Nor does it take from anybody what is missing."""
    async with opened() as world:
        await world.events(10)
        ledger = await world.open()
        world.ledgers.close(ledger)
        await world.log.trim(BUCKET.id, Retention(max_events=4), None)
        before = await world.store.get(ledger.key)
        looked = await world.consumers.seek(BUCKET, "w", Latest(), preview=True)
        assert (looked["from"], looked["to"], looked["repeats"], looked["skips"]) == (world.id(6), world.id(10), 0, 4)
        assert await world.store.get(ledger.key) == before
        assert world.ledgers.find(ledger.key) is None
        assert world.ledgers.counters.gaps["retention"] == 0
        with pytest.raises(NotFound):
            await world.consumers.seek(BUCKET, "v", Latest(), preview=True)
        await world.consumers.seek(BUCKET, "w", Latest())
        assert (await world.open()).untold == (Gap("retention", 1, 6),)


@pytest.mark.gen_test
async def test_a_seek_counts_what_was_tried_and_given_up() -> None:
    """Parked ones that it passes over are skipped, dead ones that it gives again are repeats."""
    async with opened() as world:
        await world.events(10)
        ledger = await world.open()
        taken = ledger.progress.take(10, 10, world.now)
        ledger.progress.fail(taken[1], world.now + 5, world.now)
        ledger.progress.bury(taken[3], world.now, "max_deliver")
        for each in (taken[0], taken[2], taken[4], taken[8]):
            ledger.progress.done(each)
        # 2 is parked, 4 dead, 6 to 8 and 10 are out.
        assert (await world.consumers.seek(BUCKET, "w", Cursor(world.epoch, 3), preview=True))["repeats"] == 3
        looked = await world.consumers.seek(BUCKET, "w", Cursor(world.epoch, 1), preview=True)
        assert (looked["repeats"], looked["skips"]) == (4, 0)
        seeked = await world.consumers.seek(BUCKET, "w", Cursor(world.epoch, 3))
        assert (seeked["from"], seeked["repeats"], seeked["skips"]) == (world.id(5), 3, 1)
        assert len((await world.consumers.dead(BUCKET, "w"))["data"]) == 1


@pytest.mark.gen_test
async def test_a_seek_to_what_the_log_does_not_have_is_refused() -> None:
    """Another bucket's id, or one above the head: never a guess."""
    async with opened() as world:
        await world.events(2)
        await world.open()
        for cursor in (Cursor(new_epoch(), 1), Cursor(world.epoch, 3)):
            with pytest.raises(Invalid, match=r"to: .* names no event of this bucket"):
                await world.consumers.seek(BUCKET, "w", cursor)
        with pytest.raises(NotFound):
            await world.consumers.seek(BUCKET, "v", Latest())


@pytest.mark.gen_test
async def test_an_output_may_stand_behind_its_copy() -> None:
    """The id of its own copy is behind the event, that of a copy before it is not."""
    async with opened() as world:
        await world.events(5)
        await world.open("3", kind="output")
        for number, floor in ((2, 3), (3, 4), (4, 4)):
            seeked = await world.consumers.seek(BUCKET, "output:3", Cursor(world.epoch, 4, number))
            assert seeked["to"] == world.id(floor)


@pytest.mark.gen_test
async def test_a_client_s_consumer_is_deleted_and_no_other() -> None:
    """Those who use it learn of it; a token's and an output's belong to these."""
    async with opened() as world:
        ledger = await world.open()
        await world.open("key", kind="token", receipt=True)
        await world.open("3", kind="output")
        told: list[bool] = []
        ledger.watch(lambda: told.append(ledger.gone))
        assert (await world.consumers.delete(BUCKET, "w")).name == "w"
        assert told == [True]
        with pytest.raises(NotFound):
            await world.consumers.delete(BUCKET, "w")
        for reference in ("token:key", "output:3"):
            with pytest.raises(Conflict):
                await world.consumers.delete(BUCKET, reference)


@pytest.mark.gen_test
async def test_dead_letters_are_listed_given_again_and_forgotten() -> None:
    """By pages, by ids or all of them, of one consumer or the bucket; those given again are so at once."""
    async with opened() as world:
        await world.events(20)
        one, two = await world.open("one"), await world.open("two")
        await world.bury(one, *range(1, 11))
        await world.bury(two, 3, 5)
        page = await world.consumers.dead(BUCKET, "one", limit=4)
        assert [each["id"] for each in page["data"]] == [world.id(seq) for seq in (1, 2, 3, 4)]
        assert page["data"][0] == {
            "id": world.id(1),
            "seq": 1,
            "kind": "client",
            "consumer": "one",
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
        assert again == {"scheduled": 2, "left": 0}
        assert told
        assert [each[:2] for each in one.progress.take(10, 10, world.now)] == [(2, 1), (9, 1)]
        assert await world.consumers.forget(BUCKET, "one", [world.id(1), world.id(2)]) == {"forgotten": 1}
        assert await world.consumers.resend(BUCKET, "one", None) == {"scheduled": 7, "left": 0}
        assert (await world.consumers.dead(BUCKET, "one"))["data"] == []
        assert await world.consumers.forget(BUCKET, "two", None) == {"forgotten": 2}
        with pytest.raises(Invalid, match="ids: "):
            await world.consumers.resend(BUCKET, "one", [f"{new_epoch()}-1"])
        for what in (world.consumers.dead(BUCKET, "v"), world.consumers.forget(BUCKET, "v", None),
                     world.consumers.resend(BUCKET, "v", None)):  # fmt: skip
            with pytest.raises(NotFound):
                await what


@pytest.mark.gen_test
async def test_a_replay_gives_a_range_again() -> None:
    """In pages, also what was done long ago; what is to come anyway is not counted, and comes once."""
    async with opened() as world:
        await world.events(MOST + 500, 0.001)
        ledger = await world.open(floor=MOST + 400)
        first = await world.consumers.replay(BUCKET, "w", first=1)
        assert (first["scheduled"], first["next"], first["full"]) == (MOST, MOST + 1, False)
        second = await world.consumers.replay(BUCKET, "w", first=MOST + 1)
        assert (second["scheduled"], second["next"]) == (400, None)
        taken = [each.seq for each in ledger.progress.take(MOST + 500, 10_000, world.now)]
        assert sorted(taken) == list(range(1, MOST + 501))
        assert taken[:MOST] == list(range(1, MOST + 1))
        some = await world.consumers.replay(BUCKET, "w", first=10, last=12)
        assert (some["scheduled"], some["next"]) == (0, None)
        nothing = await world.consumers.replay(BUCKET, "w", first=MOST + 5_000)
        assert (nothing["scheduled"], nothing["next"]) == (0, None)


@pytest.mark.gen_test
async def test_what_is_given_again_at_once_waits_for_no_clock() -> None:
    """Also where the clock of day is set back right behind it. Who delivers is told, and a restart has it still."""
    async with opened() as world:
        await world.events(3)
        ledger = await world.open()
        world.done(ledger, 1, 2)
        await world.bury(ledger, 3)
        told: list[int] = []
        ledger.watch(lambda: told.append(1))
        await world.consumers.replay(BUCKET, "w", first=1, last=2)
        assert told
        stored = await world.store.get(ledger.key)
        assert stored is not None
        assert set(stored.parked) == {1, 2}
        await world.consumers.resend(BUCKET, "w", None)
        assert {one.due for one in ledger.progress.parked.values()} == {AT_ONCE}


@pytest.mark.gen_test
async def test_a_replay_keeps_the_pace_over_its_pages() -> None:
    """So many times as fast as they came, whichever page they are in."""
    async with opened() as world:
        await world.events(MOST + 10, 2.0)
        ledger = await world.open(floor=MOST + 10)
        start = world.now
        first = await world.consumers.replay(BUCKET, "w", first=1, speed=4.0)
        world.now += 7
        second = await world.consumers.replay(BUCKET, "w", first=first["next"], speed=4.0, anchor=first["anchor"])
        assert second["next"] is None
        dues = {seq: one.due for seq, one in ledger.progress.parked.items()}
        assert dues == pytest.approx({seq: start + (seq - 1) * 0.5 for seq in range(1, MOST + 11)})
        other = await world.open("other", floor=MOST + 10)
        one = await world.consumers.replay(BUCKET, "other", first=5, last=5, speed=4.0)
        assert (one["scheduled"], list(other.progress.parked)) == (1, [5])
        none = await world.consumers.replay(BUCKET, "other", first=MOST + 11, speed=4.0)
        assert (none["scheduled"], none["next"], none["anchor"]) == (0, None, None)
        for anchor in ("x", "1@", "nan@1", "1@inf"):
            with pytest.raises(Invalid, match="anchor"):
                await world.consumers.replay(BUCKET, "w", first=1, speed=1.0, anchor=anchor)


@pytest.mark.gen_test
async def test_a_replay_waits_where_no_more_may_wait() -> None:
    """It says where to go on, and nothing of the range is lost, also while some are out."""
    async with opened() as world:
        count = PARKED + 2_000
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
async def test_dead_letters_stay_where_no_more_may_wait() -> None:
    """Which is told."""
    async with opened() as world:
        await world.events(3)
        ledger = await world.open()
        await world.bury(ledger, 1, 2, 3)
        await world.events(PARKED, 0.0)
        await world.consumers.seek(BUCKET, "w", Latest())
        at: int | None = 4
        while at is not None and len(ledger.progress.parked) < PARKED - 1:
            at = (await world.consumers.replay(BUCKET, "w", first=at, last=PARKED + 2))["next"]
        assert await world.consumers.resend(BUCKET, "w", None) == {"scheduled": 1, "left": 2}
        assert [each["seq"] for each in (await world.consumers.dead(BUCKET, "w"))["data"]] == [2, 3]


@pytest.mark.gen_test
async def test_standings_are_of_each_bucket_s_own_consumers() -> None:
    """In the order of the buckets; the queues of those who poll are not among them."""
    async with opened() as world:
        other = dataclasses.replace(BUCKET, id="b-2", name="billing")
        await world.log.create(other.id, new_epoch())
        await world.open("w")
        await world.open("0", kind="events")
        await world.ledgers.open(Key(other.id, "client", "v"), 0, Terms())
        found = await world.consumers.standings([other, BUCKET])
        assert [(bucket.id, each.key.name) for bucket, each in found] == [("b-2", "v"), ("b-1", "w")]


@pytest.mark.gen_test
async def test_what_is_moved_by_receipts_is_not_given_single_events() -> None:
    """It says what to do instead."""
    async with opened() as world:
        await world.events(3)
        await world.open("key", kind="token", receipt=True)
        with pytest.raises(Conflict, match="seek"):
            await world.consumers.replay(BUCKET, "token:key", first=1)


def test_names_are_read_as_they_are_written() -> None:
    """A bare one is a client's, whatever is in it."""
    assert key_of(BUCKET, "a:b") == Key("b-1", "client", "a:b")
    assert key_of(BUCKET, "events:0") == Key("b-1", "client", "events:0")
    assert key_of(BUCKET, "token:a:b") == Key("b-1", "token", "a:b")


def test_an_outputs_number_comes_before_anothers_name() -> None:
    """Whoever names an output by its id comes to it by its number."""
    outputs = (Output("o-1", 1, "2", 0, 0), Output("o-2", 2, "o-1", 0, 0), Output("o-3", 3, "shop", 0, 0))
    bucket = dataclasses.replace(BUCKET, outputs=outputs)
    for words, number in (("1", "1"), ("2", "2"), ("o-1", "1"), ("o-2", "2"), ("shop", "3")):
        assert key_of(bucket, f"output:{words}") == Key("b-1", "output", number)
    with pytest.raises(NotFound):
        key_of(bucket, "output:4")


@pytest.mark.gen_test
async def test_a_bucket_that_is_deleted_while_all_are_listed() -> None:
    """It is left out, as one that was deleted before; asked for by its name it is not found."""
    async with opened() as world:
        await world.open()
        gone = Bucket("b-2", "deleted", 0, 0)
        administration: Any = SimpleNamespace(
            consumers=world.consumers, list_buckets=lambda: [gone, BUCKET], find_bucket=lambda name: gone
        )
        commands = Commands(administration)
        assert [each["name"] for each in await commands.consumer_list()] == ["w"]
        with pytest.raises(NotFound):
            await commands.consumer_list("deleted")


@pytest.mark.gen_test
@pytest.mark.parametrize("change", ["seek", "replay", "resend"])
async def test_a_change_is_answered_once_it_is_stored(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it saves it waits for: a kill behind the answer takes nothing of it back."""
    async with opened() as world:
        await world.events(3)
        await world.bury(await world.open(), 1)
        seen: list[str] = []
        save, saved = world.store.save, world.store.saved

        def saving(*arguments: Any) -> None:
            seen.append("save")
            save(*arguments)

        async def waited() -> None:
            await saved()
            seen.append("saved")

        monkeypatch.setattr(world.store, "save", saving)
        monkeypatch.setattr(world.store, "saved", waited)
        if change == "seek":
            await world.consumers.seek(BUCKET, "w", Earliest())
        elif change == "replay":
            await world.consumers.replay(BUCKET, "w", first=1)
        else:
            await world.consumers.resend(BUCKET, "w", None)
        assert "saved" in seen[seen.index("save") :]
