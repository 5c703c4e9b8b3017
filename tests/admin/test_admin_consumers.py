"""Consumers as one administers them: every change reaches whoever delivers, and is there after a restart."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest

from relay_tornado.admin.commands import Commands
from relay_tornado.admin.consumer_names import key_of
from relay_tornado.consumer_progress import AT_ONCE
from relay_tornado.errors import Conflict, Invalid, NotClear, NotFound
from relay_tornado.ids import new_epoch
from relay_tornado.log.consumers import Key, Terms
from relay_tornado.model import Bucket, Cursor, Earliest, Gap, Last, Latest, Output, Position, Retention, Since
from tests.admin.consumers_world import BUCKET, World
from tests.admin.consumers_world import world as world
from tests.counting import Compared
from tests.log.stores import there


@pytest.mark.gen_test
async def test_show_tells_where_it_is(world: World) -> None:
    """Counts, lag in events and seconds, terms, and the gaps that it met; looking changes nothing."""
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
            "output_name": None,
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
            "oldest": {
                "id": world.id(3),
                "attempts": 1,
                "out": False,
                "since": 1010.0,
                "next_at": 1070.0,
            },
            "circuit": None,
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
async def test_the_oldest_event_is_shown_with_its_tries(world: World) -> None:
    """From the first try on, while it waits, while it is in flight again, and also where nobody uses the consumer."""

    async def oldest() -> Any:
        shown = await world.consumers.show(BUCKET, "w")
        assert [each["oldest"] for each in await world.consumers.listing(BUCKET)] == [shown["oldest"]]
        return shown["oldest"]

    await world.events(3)
    ledger = await world.open()
    fresh = {"id": world.id(1), "attempts": 0, "out": False, "since": None, "next_at": None}
    assert await oldest() == fresh
    one, two, three = ledger.progress.take(3, 3, world.now)
    ledger.progress.begin(one)
    assert await oldest() == {**fresh, "attempts": 1, "out": True}
    failed = {**fresh, "attempts": 1, "since": 1003.0, "next_at": 1063.0}
    ledger.progress.fail(one, world.now + 60, world.now)
    ledger.progress.done(two)
    assert await oldest() == failed
    world.now += 60
    assert await oldest() == {**failed, "next_at": None}  # it is due
    (one,) = ledger.progress.take(3, 1, world.now)
    ledger.progress.begin(one)
    assert await oldest() == {**failed, "attempts": 2, "out": True, "next_at": None}
    ledger.progress.fail(one, AT_ONCE, world.now)
    at_once = {**failed, "attempts": 2, "next_at": None}
    assert await oldest() == at_once
    ledger.progress.release(three)
    ledger.save()
    await world.store.saved()
    world.ledgers.close(ledger)
    assert await oldest() == at_once
    assert (await world.consumers.seek(BUCKET, "w", Cursor(world.epoch, 2)))["skips"] == 1
    assert await oldest() == {**fresh, "id": world.id(3)}
    await world.consumers.seek(BUCKET, "w", Latest())
    assert await oldest() is None


@pytest.mark.gen_test
async def test_the_oldest_event_is_one_that_is_kept(world: World) -> None:
    """Also before whoever uses the consumer knows what retention removed."""
    await world.events(5)
    ledger = await world.open()
    for each in ledger.progress.take(5, 5, world.now):
        ledger.progress.fail(each, world.now + 60, world.now)
    await world.log.trim(BUCKET.id, Retention(None, 2, None), None)
    assert (await world.consumers.show(BUCKET, "w"))["oldest"]["id"] == world.id(4)


@pytest.mark.gen_test
async def test_the_next_event_is_skipped_by_its_id_and_one_before_the_position_by_that(world: World) -> None:
    """As `oldest` and `floor` tell: nothing but what waits for another try is skipped, and nothing repeated."""
    await world.events(4)
    ledger = await world.open()
    one, two, *_ = ledger.progress.take(4, 4, world.now)
    ledger.progress.fail(one, world.now + 60, world.now)
    ledger.progress.done(two)
    ledger.save()
    shown = await world.consumers.show(BUCKET, "w")
    assert (shown["oldest"]["id"], shown["floor"]) == (world.id(1), world.id(2))
    by_position = await world.consumers.seek(BUCKET, "w", Cursor(world.epoch, 2), preview=True)
    assert (by_position["repeats"], by_position["skips"]) == (0, 1)
    by_id = await world.consumers.seek(BUCKET, "w", Cursor(world.epoch, 1), preview=True)
    assert (by_id["repeats"], by_id["skips"]) == (1, 1)
    await world.consumers.seek(BUCKET, "w", Cursor(world.epoch, 2))
    shown = await world.consumers.show(BUCKET, "w")
    assert shown["oldest"]["id"] == world.id(3)
    by_id = await world.consumers.seek(BUCKET, "w", Cursor(world.epoch, 3), preview=True)
    assert (by_id["repeats"], by_id["skips"]) == (0, 1)


@pytest.mark.gen_test
async def test_what_left_while_nobody_used_it_is_shown(world: World) -> None:
    """As the gap that it will have met when somebody comes; a look meets none, and takes none from whoever comes."""
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
async def test_all_kinds_are_listed_but_the_queues(world: World) -> None:
    """Of the one bucket; each is found by what the list says, and a name that looks like a kind's by its kind."""
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
async def test_a_seek_goes_to_any_position(world: World, to: Position, floor: int) -> None:
    """Those of a subscribe; a position between two copies of an event repeats the event, one behind the last copy does
    not. What lies behind is given, and nothing else; whoever delivers is told, and after a restart it is so still."""
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
    stored = await there(world.store, ledger.key)
    assert (stored.floor, list(stored.done)) == (floor, [])


@pytest.mark.gen_test
async def test_a_look_at_a_seek_changes_nothing(world: World) -> None:
    """Nor does it take from anybody what is missing."""
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
async def test_a_seek_counts_what_was_tried_and_given_up(world: World) -> None:
    """Parked ones that it passes over are skipped, dead ones that it gives again are repeats."""
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
async def test_a_seek_to_what_the_log_does_not_have_is_refused(world: World) -> None:
    """Another bucket's id, or one above the head: never a guess."""
    await world.events(2)
    await world.open()
    for cursor in (Cursor(new_epoch(), 1), Cursor(world.epoch, 3)):
        said = r"to: .* names no event of this bucket.*; name another event, or `earliest` or `latest`"
        with pytest.raises(Invalid, match=said):
            await world.consumers.seek(BUCKET, "w", cursor)
    with pytest.raises(NotFound):
        await world.consumers.seek(BUCKET, "v", Latest())


@pytest.mark.gen_test
async def test_an_output_may_stand_behind_its_copy(world: World) -> None:
    """The id of its own copy is behind the event, that of a copy before it is not."""
    await world.events(5)
    await world.open("3", kind="output")
    for number, floor in ((2, 3), (3, 4), (4, 4)):
        seeked = await world.consumers.seek(BUCKET, "output:3", Cursor(world.epoch, 4, number))
        assert seeked["to"] == world.id(floor)


@pytest.mark.gen_test
async def test_a_client_s_consumer_is_deleted_and_no_other(world: World) -> None:
    """Those who use it learn of it; a token's and an output's belong to these."""
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
async def test_standings_are_of_each_bucket_s_own_consumers(world: World) -> None:
    """In the order of the buckets; the queues of those who poll are not among them."""
    other = dataclasses.replace(BUCKET, id="b-2", name="billing")
    await world.log.create(other.id, new_epoch())
    await world.open("w")
    await world.open("0", kind="events")
    await world.ledgers.open(Key(other.id, "client", "v"), 0, Terms())
    found = await world.consumers.standings([other, BUCKET])
    assert [(bucket.id, each.key.name) for bucket, each in found] == [("b-2", "v"), ("b-1", "w")]


@pytest.mark.gen_test
async def test_a_look_at_all_is_one_read(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many buckets there are: each consumer is neither read by itself nor looked for in every bucket."""
    buckets = [dataclasses.replace(BUCKET, id=Compared(f"c-{n}")) for n in range(40)]
    for bucket in buckets:
        await world.log.create(str(bucket.id), new_epoch())
        await world.ledgers.open(Key(str(bucket.id), "client", "w"), 0, Terms())

    async def alone(key: Key) -> None:
        raise AssertionError("one was read by itself")

    monkeypatch.setattr(world.store, "get", alone)
    Compared.times = 0
    assert len(await world.consumers.standings(buckets)) == 40
    assert Compared.times < 10 * 40
    assert [each["bucket_id"] for each in await world.consumers.listings(buckets[5:30])] == [
        f"c-{n}" for n in range(5, 30)
    ]
    assert [each["name"] for each in await world.consumers.listing(buckets[7])] == ["w"]


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("worker", "worker"),
        ("output", "output"),
        ("a:b", "a:b"),
        ("output:1", "client:output:1"),
        (".", "client:."),
        ("..", "client:.."),
        ("client:", "client:client:"),
    ],
)
def test_a_client_is_named_with_its_kind_only_if_its_name_alone_is_no_reference(name: str, reference: str) -> None:
    key = Key("b-1", "client", name)
    assert key.reference == reference
    assert key_of(BUCKET, reference) == key


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


def test_a_name_that_several_outputs_have() -> None:
    """As relays up to 0.4 allowed: none is moved in the place of another one."""
    outputs = (Output("o-1", 1, "shop", 0, 0), Output("o-2", 2, "shop", 0, 0))
    bucket = dataclasses.replace(BUCKET, outputs=outputs)
    with pytest.raises(NotClear, match=r"2 outputs 'shop': name the one you mean by its id \(o-1, o-2\)"):
        key_of(bucket, "output:shop")
    assert key_of(bucket, "output:o-2").name == key_of(bucket, "output:2").name == "2"


@pytest.mark.gen_test
async def test_an_event_that_was_lost_is_not_one_to_come(world: World) -> None:
    """Its id names nothing, also before the next event opens another epoch, as after a restore."""
    await world.events(5)
    world.ledgers.close(await world.open())
    with pytest.raises(Invalid, match=r"is no event of this bucket yet$"):
        await world.consumers.give_up(BUCKET, "w", world.id(6))
    world.log.lose(BUCKET.id, 2)
    lost = world.id(4)
    for refused in (
        world.consumers.give_up(BUCKET, "w", lost),
        world.consumers.resend(BUCKET, "w", [lost]),
        world.consumers.forget(BUCKET, "w", [lost]),
    ):
        with pytest.raises(Invalid, match=f"{lost} is no event of this bucket$"):
            await refused
    assert (await world.consumers.give_up(BUCKET, "w", world.id(1)))["id"] == world.id(1)


@pytest.mark.gen_test
async def test_a_bucket_that_is_deleted_while_all_are_listed(world: World) -> None:
    """It is left out, as one that was deleted before; asked for by its name it is not found."""
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
async def test_a_change_is_answered_once_it_is_stored(
    world: World, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it saves it waits for: a kill behind the answer takes nothing of it back."""
    await world.events(3)
    world.bury(await world.open(), 1)
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
