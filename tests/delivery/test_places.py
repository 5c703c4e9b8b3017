"""relay_tornado/delivery: where delivery of a bucket begins, and a second subscribe."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from relay_tornado.delivery import buckets, deliver
from relay_tornado.delivery import reader as reader_
from relay_tornado.errors import Invalid
from relay_tornado.log.consumers import Key
from relay_tornado.model import Gap
from relay_tornado.pieces import PIECE_SIZE
from relay_tornado.wire import control
from tests.delivery.world import TOKEN, Reader, World, quiet, stocked, until


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("since", "start"),
    [("latest", 11), ("earliest", 1), ({"last": 3}, 8), ({"last": 99}, 1), ({"last": 0}, 11), ({"time": 0}, 1)],
)
async def test_positions(since: Any, start: int) -> None:
    """Delivery begins where the position says, and the answer tells the first seq that will be sent."""
    world = await stocked(10)
    reader, delivery, (answer,) = await world.subscribe("orders", since=since)
    assert answer["start"] == start
    assert (answer["first"], answer["head"], answer["recovered"], answer["gap"]) == (1, 10, True, None)
    await world.append(1)
    await until(lambda: not delivery.busy)
    await quiet()
    assert reader.seqs() == list(range(start, 12))


@pytest.mark.gen_test
@pytest.mark.parametrize("since", ["latest", "earliest", {"last": 2}, {"time": 0}])
async def test_an_ephemeral_bucket_begins_at_its_head(since: Any) -> None:
    """Whatever was asked for, and that is no gap."""
    world = await stocked(0, ephemeral=True)
    await world.append(3, ephemeral=True)
    reader, _, (answer,) = await world.subscribe("orders", since=since, extended=True)
    assert (answer["start"], answer["gap"]) == (4, None)
    await world.append(1, ephemeral=True)
    await until(lambda: reader.seqs() == [4])
    assert reader.gaps() == []


@pytest.mark.gen_test
async def test_a_cursor_is_continued() -> None:
    """After an event's id comes the next event."""
    world = await stocked(5)
    reader, _, _ = await world.subscribe("orders", since="earliest")
    await until(lambda: len(reader.seqs()) == 5)
    cursor = reader.messages[2]["meta"]["id"]
    again, _, (answer,) = await world.subscribe("orders", since=cursor)
    assert answer["start"] == 4
    await until(lambda: again.seqs() == [4, 5])


@pytest.mark.gen_test
async def test_a_bare_id_is_about_its_own_bucket() -> None:
    """The other buckets begin at the head; an epoch that none of them has is gap `reset` for each."""
    world = World()
    await world.bucket("a")
    await world.bucket("b")
    await world.append(4, "id-a")
    await world.append(4, "id-b")
    epoch = await world.epoch("id-a")
    _, _, answers = await world.subscribe("a", "b", since=f"{epoch}-2")
    assert [(each["bucket_name"], each["start"], each["gap"]) for each in answers] == [
        ("a", 3, None),
        ("b", 5, None),
    ]
    _, _, answers = await world.subscribe("a", "b", since="zzzzzzzzzzzz-2")
    reset = {"from": None, "to": None, "count": None, "reason": "reset"}
    assert [(each["start"], each["recovered"], each["gap"]) for each in answers] == [(1, False, reset)] * 2
    # Another bucket's id is no better than an unknown one where that bucket is not subscribed to, or in a map.
    _, _, answers = await world.subscribe("b", since=f"{epoch}-2")
    assert [each["gap"] for each in answers] == [reset]
    _, _, answers = await world.subscribe("a", "b", since={"b": f"{epoch}-2"})
    assert [(each["start"], each["gap"]) for each in answers] == [(5, None), (1, reset)]


@pytest.mark.gen_test
async def test_answers_name_what_is_not_there() -> None:
    """Unknown and forbidden names are told alike; a bucket named twice counts once, by name and by id."""
    world = World()
    await world.bucket("a")
    await world.bucket("b")
    world.token = replace(TOKEN, buckets=frozenset({"id-a"}))
    _, _, answers = await world.subscribe("b", "a", "x", "id-a", "a", extended=True)
    assert [answer.get("error", answer["bucket_name"]) for answer in answers] == ["not_found", "a", "not_found"]
    assert answers[0] == {"bucket_name": "b", "error": "not_found"}
    _, _, answers = await world.subscribe(extended=True)
    assert [answer["bucket_name"] for answer in answers] == ["a"]


@pytest.mark.gen_test
async def test_answers_name_what_is_not_there_in_since() -> None:
    """A name with a typo would have its bucket begin at the head, and nobody would know. One that is asked for counts
    once; a bucket that is there and not asked for is none, nor is an id, which belongs to its own bucket."""
    world = World()
    for name in ("a", "b", "c"):
        await world.bucket(name)
    world.token = replace(TOKEN, buckets=frozenset({"id-a", "id-c"}))
    since = {"*": "latest", "a": "earliest", "id-c": {"last": 1}, "b": "earliest", "x": {"time": 1}, "y": "latest"}
    since["renamed"] = f"{await world.epoch('id-c')}-0"
    for names in ((), ("a",), ("x", "a")):
        _, _, answers = await world.subscribe(*names, since=since)
        missing = [each["bucket_name"] for each in answers if each.get("error") == "not_found"]
        assert sorted(missing) == ["b", "x", "y"]
        assert [each["bucket_name"] for each in answers if "start" in each] == (["a"] if names else ["a", "c"])


@pytest.mark.gen_test
async def test_nothing_is_delivered_before_the_answer() -> None:
    """What is appended between placing and start comes after it, and none is missed."""
    world = await stocked(0)
    reader, delivery, _ = await world.subscribe("orders", start=False)
    await world.append(3)
    await quiet()
    assert reader.messages == []
    delivery.start()
    await until(lambda: reader.seqs() == [1, 2, 3])


@pytest.mark.gen_test
async def test_a_bucket_that_is_being_placed_is_handed_on() -> None:
    """A second subscribe, while the first is judging a new bucket's bounds, begins at its first event too; one that
    was unsubscribed meanwhile begins at the head."""
    for unsubscribed in (False, True):
        world = World()
        reader, first, _ = await world.subscribe()
        bounds = world.log.bounds
        asked = asyncio.Event()
        answer = asyncio.Event()

        async def slow(bucket_id: str) -> Any:
            asked.set()  # noqa: B023
            await answer.wait()  # noqa: B023
            return await bounds(bucket_id)  # noqa: B023

        world.log.bounds = slow  # type: ignore[method-assign]
        await world.bucket()
        await asked.wait()
        if unsubscribed:
            first.unsubscribe(control.Unsubscribe(("orders",)))
        subscribing = asyncio.ensure_future(world.subscribe(reader=reader, replaces=first))
        await quiet()
        await world.append(2)
        answer.set()
        _, second, _ = await subscribing
        await until(lambda: not second.busy)  # noqa: B023
        await world.append(1)
        await quiet()
        assert reader.seqs() == ([3] if unsubscribed else [1, 2, 3])


@pytest.mark.gen_test
async def test_a_position_by_the_name_that_a_bucket_had_is_its_own() -> None:
    """As pings told it before the bucket was renamed. What is said of the bucket as it is called now counts before."""
    world = World()
    await world.bucket("a")
    await world.append(3, "id-a")
    epoch = await world.epoch("id-a")
    await world.change("id-a", name="b")
    reader, _, (answer,) = await world.subscribe(since={"a": f"{epoch}-1"})
    assert (answer["bucket_name"], answer["start"], answer["gap"]) == ("b", 2, None)
    await until(lambda: reader.seqs("b") == [2, 3])
    for said in ("b", "id-a"):
        _, _, (answer,) = await world.subscribe(since={"a": f"{epoch}-1", said: f"{epoch}-2"})
        assert answer["start"] == 3
    _, _, (answer,) = await world.subscribe(since={"a": f"{epoch}-1", "*": "earliest"})
    assert answer["start"] == 2
    # Where another one has that name by now it is about that, and no id of it.
    await world.bucket("a", "id-a2")
    _, _, answers = await world.subscribe(since={"a": f"{epoch}-1"})
    found = {each["bucket_id"]: (each["start"], each["gap"] and each["gap"]["reason"]) for each in answers}
    assert found == {"id-a": (4, None), "id-a2": (1, "reset")}


@pytest.mark.gen_test
async def test_a_second_subscribe_keeps_positions() -> None:
    """Delivery ends after the write that it is in; a bucket in both goes on where it was, unless the second says."""
    world = World()
    await world.bucket("a")
    await world.bucket("b")
    reader = Reader(paused=True)
    await world.append(4, "id-a", body=b"x" * 150_000)
    _, first, _ = await world.subscribe("a", since="earliest", reader=reader)
    await until(lambda: reader.waiting > 0)
    await world.append(1, "id-b")
    subscribing = asyncio.ensure_future(world.subscribe("a", "b", reader=reader, replaces=first, extended=True))
    await quiet()
    assert not subscribing.done()
    reader.resume()
    had = reader.seqs("a")
    _, second, answers = await subscribing
    assert 0 < len(had) < 4
    assert [answer["start"] for answer in answers] == [len(had) + 1, 2]
    await until(lambda: reader.seqs("a") == [1, 2, 3, 4])
    await world.append(1, "id-b")
    await until(lambda: reader.seqs("b") == [2])
    _, third, (answer,) = await world.subscribe("a", reader=reader, replaces=second, since={"a": {"last": 1}})
    assert answer["start"] == 4
    await until(lambda: reader.seqs("a") == [1, 2, 3, 4, 4])
    _, _, (answer,) = await world.subscribe("a", reader=reader, replaces=third, since={"b": "earliest"})
    assert answer["start"] == 5


@pytest.mark.gen_test
async def test_a_bucket_made_while_a_subscribe_is_replaced_begins_at_its_first_event() -> None:
    """Also where the one before has ended already, or has not come to placing it."""
    world = World()
    await world.bucket("a")
    reader = Reader()
    _, first, _ = await world.subscribe(reader=reader)
    await until(lambda: not first.busy)
    await world.bucket("b")
    await world.append(2, "id-b")
    _, second, _ = await world.subscribe(reader=reader, replaces=first)
    reader.paused = True
    await world.append(1, "id-a")
    await until(lambda: reader.waiting > 0)
    subscribing = asyncio.ensure_future(world.subscribe(reader=reader, replaces=second))
    await quiet()
    await world.bucket("c")
    await world.append(2, "id-c")
    reader.resume()
    await subscribing
    await until(lambda: reader.seqs("b") == reader.seqs("c") == [1, 2])


@pytest.mark.gen_test
async def test_unsubscribe() -> None:
    """Buckets that are named end, for good; with none named everything does."""
    world = World()
    await world.bucket("a")
    await world.bucket("b")
    reader, delivery, _ = await world.subscribe()
    await quiet()
    delivery.unsubscribe(control.Unsubscribe(("a", "c")))
    await world.bucket("c")
    for each in ("id-a", "id-b", "id-c"):
        await world.append(1, each)
    await until(lambda: reader.seqs("b") == [1])
    delivery.unsubscribe(control.Unsubscribe())
    await world.bucket("d")
    for each in ("id-b", "id-d"):
        await world.append(1, each)
    await quiet()
    assert len(reader.messages) == 1
    assert delivery.positions() == {}


@pytest.mark.gen_test
async def test_its_turn_depends_on_how_far_it_is_from_the_head(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written moves it nearer."""
    world = await stocked(10)
    run = world.deliveries._shared.pacing.run
    told: list[int] = []

    async def note(section: Any, behind: int) -> Any:
        told.append(behind)
        return await run(section, behind)

    monkeypatch.setattr(world.deliveries._shared.pacing, "run", note)
    monkeypatch.setattr(reader_, "PAGE", 4)
    reader, delivery, _ = await world.subscribe("orders", since={"last": 8})
    await until(lambda: reader.seqs() == list(range(3, 11)) and not delivery.busy)
    assert told == [8, 8, 4, 4]


async def subscribed_in_a_storm(monkeypatch: pytest.MonkeyPatch, turns: int) -> tuple[World, Reader, deliver.Delivery]:
    """A subscriber to three events, so many turns after its subscribe. Whoever reads the log waits for its turn before
    each section, as in a storm of reconnects."""
    world = await stocked(3)
    run = world.deliveries._shared.pacing.run

    async def later(section: Any, behind: int) -> Any:
        await quiet(3)
        return await run(section, behind)

    monkeypatch.setattr(world.deliveries._shared.pacing, "run", later)
    reader, delivery, _ = await world.subscribe("orders", since="earliest")
    await quiet(turns)
    return world, reader, delivery


@pytest.mark.gen_test
async def test_nothing_follows_an_unsubscribe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even what was read before it and waited for its turn, whenever it comes."""
    seen = set()
    for turns in range(30):
        _, reader, delivery = await subscribed_in_a_storm(monkeypatch, turns)
        delivery.unsubscribe(control.Unsubscribe(("orders",)))
        before = reader.seqs()
        await quiet()
        assert not delivery.busy
        assert reader.seqs() == before
        seen.add(len(before))
    assert seen == {0, 3}


@pytest.mark.gen_test
async def test_a_second_subscribe_loses_nothing_that_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    """It continues behind what was written, not behind what was read and waited for its turn."""
    for turns in range(30):
        world, reader, delivery = await subscribed_in_a_storm(monkeypatch, turns)
        await world.subscribe("orders", reader=reader, replaces=delivery)
        await until(lambda seen=reader.seqs: len(seen()) == 3)
        await quiet()
        assert reader.seqs() == [1, 2, 3]


@pytest.mark.gen_test
async def test_no_end_of_names_is_unsubscribed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every bucket so many are remembered as there is room for; of those that were named, those that were."""
    monkeypatch.setattr(buckets, "MOST_ENDED", 10)
    world = World()
    await world.bucket("a")
    await world.bucket("b")
    reader, every, _ = await world.subscribe()
    named, one, _ = await world.subscribe("a", "b")
    await quiet()
    for delivery in (every, one):
        delivery.unsubscribe(control.Unsubscribe(("a",)))
    with pytest.raises(Invalid, match="subscribe again"):
        every.unsubscribe(control.Unsubscribe(("b", "long enough")))
    one.unsubscribe(control.Unsubscribe(("long enough",)))
    assert one.subscription.ended == {"a", "id-a"}
    for each in ("id-a", "id-b"):
        await world.append(1, each)
    await until(lambda: reader.seqs("b") == named.seqs("b") == [1])
    assert reader.seqs("a") == named.seqs("a") == []
    every.unsubscribe(control.Unsubscribe())
    assert every.positions() == {}


@pytest.mark.gen_test
async def test_unsubscribe_and_names_that_change() -> None:
    """One bucket ends, whatever it is called by then, and comes back by no new name; the others go on by theirs."""
    world = World()
    for name in ("a", "b", "c"):
        await world.bucket(name)
    named, one, _ = await world.subscribe("a", "b", "c")
    every, all_, _ = await world.subscribe(since="earliest")
    await world.change("id-a", name="a2")
    await world.change("id-c", name="c2")
    for each in ("id-a", "id-b", "id-c"):
        await world.append(1, each)
    await until(lambda: all(each.seqs(name) == [1] for each in (named, every) for name in ("a2", "b", "c2")))
    one.unsubscribe(control.Unsubscribe(("b", "c")))  # c by the name that it was asked for
    all_.unsubscribe(control.Unsubscribe(("a2",)))
    await world.change("id-b", name="b2")
    await world.change("id-a", name="a3")
    await world.append(1, "id-b")
    await world.append(1, "id-c")
    await world.append(1, "id-a")
    await until(lambda: named.seqs("a3") == [2] and every.seqs("c2") == [1, 2])
    await quiet()
    assert len(named.messages) == 4
    assert every.seqs("b2") == [2]
    assert every.seqs("a3") == []


@pytest.mark.gen_test
@pytest.mark.parametrize("again", [False, True])
async def test_what_happens_while_thousands_get_their_places(again: bool) -> None:
    """They do in pieces. What comes between two of them reaches the client once, whether its bucket had a place by
    then; a bucket that goes is told once; and of a consumer the answer tells what it missed until then."""
    world = World()
    most = 3 * PIECE_SIZE
    for number in range(most):
        await world.bucket(f"b{number}")
        await world.append(2, f"id-b{number}")
    reader, replaces = Reader(), None
    if again:
        _, replaces, _ = await world.subscribe(reader=reader, consumer="w", ack="receipt", since="earliest")
        await until(lambda: len(reader.messages) == 3 * most)
        reader.messages.clear()

    async def meddle() -> int:
        await until(lambda: any(0 < len(each._places) < most for each in world.deliveries._live - {replaces}))
        (delivery,) = world.deliveries._live
        placed = len(delivery._places)
        for number in (0, 1, most - 2, most - 1):
            await world.append(2, f"id-b{number}")
        for number in (1, most - 2):
            await world.delete(f"id-b{number}")
        await world.bucket("new")
        await world.append(1, "id-new")
        ledger = world.ledgers.find(Key(f"id-b{most - 3}", "client", "w"))
        assert ledger is not None
        ledger.met(Gap("reset"), 0)
        return placed

    meddling = asyncio.create_task(meddle())
    _, delivery, answers = await world.subscribe(
        reader=reader, replaces=replaces, consumer="w", ack="receipt", since="earliest"
    )
    assert await meddling < most
    await until(lambda: not delivery.busy)
    await quiet()
    had = [3, 4] if again else [1, 2, 3, 4]
    assert [reader.seqs(f"b{number}") for number in (0, 1, 2, most - 2, most - 1)] == [had, [], had[:-2], [], had]
    assert reader.seqs("new") == [1]
    deleted = [each["bucket_name"] for each in reader.statuses() if each["status"] == "bucket_deleted"]
    assert sorted(deleted) == sorted(("b1", f"b{most - 2}"))
    assert [each["bucket_name"] for each in answers if each["gap"]] == [f"b{most - 3}"]


@pytest.mark.gen_test
async def test_a_bucket_that_can_have_the_consumer_by_the_time_of_the_answer() -> None:
    """It was ephemeral as the others began to get their places, and comes as one that is changed later does."""
    world = World()
    for number in range(3 * PIECE_SIZE):
        await world.bucket(f"b{number}")
    await world.bucket("late", ephemeral=True)

    async def meddle() -> None:
        await until(lambda: any(each._places for each in world.deliveries._live))
        await world.change("id-late", ephemeral=False)

    meddling = asyncio.create_task(meddle())
    reader, _, answers = await world.subscribe(consumer="w", ack="receipt")
    assert meddling.done()
    assert [each["bucket_name"] for each in answers if "error" in each] == ["late"]
    await quiet()
    await world.append(2, "id-late")
    await quiet()
    assert reader.seqs("late") == [1, 2]
