"""relay_tornado/delivery: what a subscriber gets, in which order, and what it is told."""

import asyncio
import random
import time
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay_tornado.delivery.flight import CHUNK, LEAST_CHUNK, Flight
from relay_tornado.errors import CursorLost, Unavailable
from relay_tornado.model import Retention
from relay_tornado.wire import control
from tests.delivery.world import TOKEN, Reader, World, quiet, until


def run(test: Any) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await test()

    asyncio.run(bounded())


def test_live_events_come_in_order_and_once() -> None:
    """A subscriber that is caught up gets what is appended, at once and without a task."""

    async def test() -> None:
        world = World()
        await world.bucket()
        await world.append(3)
        reader, delivery, _ = await world.subscribe("orders")
        await until(lambda: not delivery.busy)
        for _ in range(5):
            await world.append(2)
            await quiet(2)
        assert reader.seqs() == list(range(4, 14))
        assert not reader.writes
        assert reader.at_once == 5
        assert reader.statuses() == []

    run(test)


@pytest.mark.parametrize(
    ("since", "start"),
    [("latest", 11), ("earliest", 1), ({"last": 3}, 8), ({"last": 99}, 1), ({"last": 0}, 11), ({"time": 0}, 1)],
)
def test_positions(since: Any, start: int) -> None:
    """Delivery begins where the position says, and the answer tells the first seq that will be sent."""

    async def test() -> None:
        world = World()
        await world.bucket()
        await world.append(10)
        reader, delivery, (answer,) = await world.subscribe("orders", since=since)
        assert answer["start"] == start
        assert (answer["first"], answer["head"], answer["recovered"], answer["gap"]) == (1, 10, True, None)
        await world.append(1)
        await until(lambda: not delivery.busy)
        await quiet()
        assert reader.seqs() == list(range(start, 12))

    run(test)


def test_a_cursor_is_continued() -> None:
    """After an event's id comes the next event."""

    async def test() -> None:
        world = World()
        await world.bucket()
        await world.append(5)
        reader, _, _ = await world.subscribe("orders", since="earliest")
        await until(lambda: len(reader.seqs()) == 5)
        cursor = reader.messages[2]["meta"]["id"]
        again, _, (answer,) = await world.subscribe("orders", since=cursor)
        assert answer["start"] == 4
        await until(lambda: again.seqs() == [4, 5])

    run(test)


def test_a_bare_id_is_about_its_own_bucket() -> None:
    """The other buckets begin at the head; an epoch that none of them has is gap `reset` for each."""

    async def test() -> None:
        world = World()
        await world.bucket("a")
        await world.bucket("b")
        await world.append(4, "id-a")
        await world.append(4, "id-b")
        epoch = (await world.log.bounds("id-a")).epochs[0].epoch
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

    run(test)


def test_a_future_cursor_is_told() -> None:
    """Above the head of an epoch that may still grow: gap `future`, and on at first."""

    async def test() -> None:
        world = World()
        await world.bucket()
        await world.append(2)
        epoch = (await world.log.bounds("id-orders")).epochs[0].epoch
        _, _, (answer,) = await world.subscribe("orders", since=f"{epoch}-3")
        assert answer["gap"]["reason"] == "future"
        assert answer["start"] == 1

    run(test)


def test_a_cursor_below_retention_is_told() -> None:
    """The gap is exact, and delivery goes on at first."""

    async def test() -> None:
        world = World()
        await world.bucket()
        await world.append(10)
        epoch = (await world.log.bounds("id-orders")).epochs[0].epoch
        await world.log.trim("id-orders", Retention(max_events=3), None)
        reader, _, (answer,) = await world.subscribe("orders", since=f"{epoch}-4")
        assert answer["gap"] == {"from": 5, "to": 7, "count": 3, "reason": "retention"}
        assert answer["start"] == 8
        await until(lambda: reader.seqs() == [8, 9, 10])
        _, _, (answer,) = await world.subscribe("orders", since=f"{epoch}-7")
        assert answer["recovered"]

    run(test)


def test_answers_name_what_is_not_there() -> None:
    """Unknown and forbidden names are told alike; a bucket named twice counts once, by name and by id."""

    async def test() -> None:
        world = World()
        await world.bucket("a")
        await world.bucket("b")
        world.token = replace(TOKEN, buckets=frozenset({"id-a"}))
        _, _, answers = await world.subscribe("b", "a", "x", "id-a", "a", extended=True)
        assert [answer.get("error", answer["bucket_name"]) for answer in answers] == ["not_found", "a", "not_found"]
        assert answers[0] == {"bucket_name": "b", "error": "not_found"}
        _, _, answers = await world.subscribe(extended=True)
        assert [answer["bucket_name"] for answer in answers] == ["a"]

    run(test)


def test_caught_up_comes_once_a_bucket() -> None:
    """When replay meets the head, also for latest and for an empty bucket; stock clients are told nothing."""

    async def test() -> None:
        world = World()
        await world.bucket("a")
        await world.bucket("b")
        await world.append(3, "id-a")
        epochs = [(await world.log.bounds(each)).epochs[0].epoch for each in ("id-a", "id-b")]
        reader, delivery, _ = await world.subscribe(since={"a": "earliest"})
        await until(lambda: len(reader.statuses()) == 2)
        await world.append(1, "id-a")
        await quiet()
        assert reader.statuses() == [
            {"type": "status", "status": "caught_up", "bucket_name": "b", "id": f"{epochs[1]}-0"},
            {"type": "status", "status": "caught_up", "bucket_name": "a", "id": f"{epochs[0]}-3"},
        ]
        at = [message.get("status", message.get("meta", {}).get("seq")) for message in reader.messages]
        assert at[-2:] == ["caught_up", 4]
        assert not delivery.busy
        stock, _, _ = await world.subscribe()
        await quiet()
        assert stock.messages == []

    run(test)


def test_nothing_is_delivered_before_the_answer() -> None:
    """What is appended between placing and start comes after it, and none is missed."""

    async def test() -> None:
        world = World()
        await world.bucket()
        reader, delivery, _ = await world.subscribe("orders", start=False)
        await world.append(3)
        await quiet()
        assert reader.messages == []
        delivery.start()
        await until(lambda: reader.seqs() == [1, 2, 3])

    run(test)


def test_a_new_bucket_joins_from_its_first_event() -> None:
    """One that fits what was asked for, by "all" or by its name, and that the token reads; no other."""

    async def test() -> None:
        world = World()
        every, _, _ = await world.subscribe()
        named, _, _ = await world.subscribe("orders")
        other, _, _ = await world.subscribe("billing", since="latest")
        world.token = replace(TOKEN, buckets=frozenset({"id-billing"}))
        narrow, _, _ = await world.subscribe()
        await quiet()
        await world.bucket("orders")
        await world.append(2)
        await until(lambda: every.seqs() == named.seqs() == [1, 2])
        await world.append(1)
        await until(lambda: every.seqs() == named.seqs() == [1, 2, 3])
        assert other.messages == narrow.messages == []

    run(test)


def test_a_bucket_made_while_positions_are_judged_is_not_missed() -> None:
    """It joins like one that is made later."""

    async def test() -> None:
        world = World()
        await world.bucket("a")
        made = asyncio.Event()
        bounds = world.log.bounds

        async def slow(bucket_id: str) -> Any:
            found = await bounds(bucket_id)
            if not made.is_set():
                made.set()
                await world.bucket("b")
                await world.append(1, "id-b")
            return found

        world.log.bounds = slow  # type: ignore[method-assign]
        reader, _, _ = await world.subscribe()
        await until(lambda: reader.seqs("b") == [1])

    run(test)


def test_a_new_bucket_that_changes_at_once_is_still_new() -> None:
    """Its first event comes although it, or the token, was changed before it was placed."""

    async def test() -> None:
        world = World()
        reader, delivery, _ = await world.subscribe()
        bucket = await world.bucket()
        await world.registry.put("bucket", bucket.id, replace(bucket, description="new"))
        delivery.rescope(TOKEN)
        await world.append(2)
        await until(lambda: reader.seqs() == [1, 2])

    run(test)


def test_a_bucket_that_is_being_placed_is_handed_on() -> None:
    """A second subscribe, while the first is judging a new bucket's bounds, begins at its first event too; one that
    was unsubscribed meanwhile begins at the head."""

    async def test() -> None:
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

    run(test)


def test_a_bucket_that_comes_into_scope_joins_at_the_position_asked_for() -> None:
    """By its token's new scope or by a new name: latest, unless the subscribe says otherwise."""

    async def test() -> None:
        world = World()
        await world.bucket("a")
        bucket = await world.bucket("b")
        await world.append(2, "id-a")
        await world.append(2, "id-b")
        world.token = narrow = replace(TOKEN, buckets=frozenset({"id-a"}))
        stock, delivery, _ = await world.subscribe()
        early, early_delivery, _ = await world.subscribe(since={"*": "earliest"})
        named, _, _ = await world.subscribe("c")
        await quiet()
        wide = replace(narrow, buckets=frozenset({"id-a", "id-b"}))
        delivery.rescope(wide)
        early_delivery.rescope(wide)
        await quiet()
        await world.append(1, "id-b")
        await until(lambda: stock.seqs("b") == [3] and early.seqs("b") == [1, 2, 3])
        world.token = TOKEN
        named, _, _ = await world.subscribe("c")
        await world.registry.put("bucket", "id-b", replace(bucket, name="c"))
        await quiet()
        await world.append(1, "id-b")
        await until(lambda: named.seqs("c") == [4])
        assert stock.seqs("c") == [4]

    run(test)


def test_a_bucket_that_leaves() -> None:
    """Deleted or out of scope: nothing more of it comes, who asked for our additions is told once, others are not."""

    async def test() -> None:
        world = World()
        await world.bucket("a")
        await world.bucket("b")
        reader, delivery, _ = await world.subscribe(extended=True)
        stock, _, _ = await world.subscribe()
        await until(lambda: len(reader.statuses()) == 2)
        reader.messages.clear()
        await world.delete("id-a")
        await quiet()
        gone = {"type": "status", "status": "bucket_deleted", "bucket_name": "a"}
        assert reader.messages == [gone]
        delivery.rescope(replace(TOKEN, buckets=frozenset()))
        await world.append(1, "id-b")
        await quiet()
        assert reader.messages == [gone, gone | {"bucket_name": "b"}]
        assert [message["type"] for message in stock.messages] == ["webhook"]
        # A bucket made anew under the old name is another one, and joins.
        await world.bucket("a", "id-a2")
        await world.append(1, "id-a2")
        await until(lambda: stock.seqs("a") == [1])

    run(test)


def test_nothing_of_a_bucket_comes_after_it_left() -> None:
    """Not from a page that was read before, nor from a pass that was under way."""

    async def test() -> None:
        world = World()
        await world.bucket("a")
        await world.bucket("b")
        await world.append(8, "id-a", body=b"x" * 100_000)
        reader = Reader()
        reader.paused = True
        await world.subscribe("a", since="earliest", reader=reader)
        await until(lambda: reader.waiting > 0)
        await world.delete("id-a")
        reader.resume()
        await quiet()
        assert 0 < len(reader.seqs("a")) < 3
        assert reader.messages[-1]["status"] == "bucket_deleted"

        first, second = Reader(), Reader()
        await world.subscribe("b", reader=first)
        _, delivery, _ = await world.subscribe("b", reader=second)
        await until(lambda: not delivery.busy)
        send = first.send_now
        first.send_now = lambda data: delivery.unsubscribe(control.Unsubscribe(("b",))) or send(data)  # type: ignore
        await world.append(1, "id-b")
        await until(lambda: first.seqs("b") == [1])
        await quiet()
        assert second.messages == []

    run(test)


def test_a_log_that_is_gone_before_its_bucket_is_no_failure() -> None:
    """The reader loses the bucket, not its connection."""

    async def test() -> None:
        world = World()
        await world.bucket()
        await world.append(3)
        reader = Reader()
        reader.paused = True
        await world.subscribe("orders", since="earliest", reader=reader, max_body=10)
        await quiet()
        await world.append(1)
        await world.log.drop("id-orders")
        reader.resume()
        await quiet()
        assert reader.ends == []

    run(test)


def test_retention_overtakes_a_slow_reader() -> None:
    """It is told exactly what it missed, and goes on at the first event that is there."""

    async def test() -> None:
        world = World()
        await world.bucket()
        await world.append(4, body=b"x" * 200_000)
        reader = Reader()
        reader.paused = True
        await world.subscribe("orders", since="earliest", reader=reader)
        await until(lambda: reader.waiting > 0)
        await world.append(6, body=b"x" * 200_000)
        await world.log.trim("id-orders", Retention(max_events=3), None)
        reader.resume()
        await until(lambda: reader.seqs()[-1:] == [10])
        seqs = reader.seqs()
        (gap,) = [each["gap"] for each in reader.statuses() if each["status"] == "gap"]
        missed = list(range(gap["from"], gap["to"] + 1))
        assert gap["reason"] == "retention"
        assert gap["count"] == len(missed)
        assert seqs + missed != sorted(seqs + missed)
        assert sorted(seqs + missed) == list(range(1, 11))
        at = [each["type"] for each in reader.messages].index("status")
        assert reader.messages[at + 1]["meta"]["seq"] == gap["to"] + 1

    run(test)


def test_a_damaged_stretch_is_a_reset() -> None:
    """Events within the log that can't be read are told as such, and passed over."""

    async def test() -> None:
        world = World()
        await world.bucket()
        await world.append(9)
        whole = world.log.peek

        def damaged(bucket_id: str, after: int, limit: int, max_bytes: int) -> Any:
            if 3 <= after + 1 <= 5:
                raise CursorLost(6)
            found = whole(bucket_id, after, limit, max_bytes)
            return [event for event in found if not (after < 3 and event.seq >= 3)]

        world.log.peek = damaged  # type: ignore[method-assign]
        reader, delivery, _ = await world.subscribe("orders", since="earliest")
        await until(lambda: reader.seqs() == [1, 2, 6, 7, 8, 9])
        gaps = [each["gap"] for each in reader.statuses() if each["status"] == "gap"]
        assert gaps == [{"from": 3, "to": 5, "count": 3, "reason": "reset"}]
        await until(lambda: not delivery.busy)

    run(test)


def test_on_gap_fail_ends_a_reader_that_was_overtaken() -> None:
    """It is told, and then nothing more is written."""

    async def test() -> None:
        world = World()
        await world.bucket()
        await world.append(2, body=b"x" * 300_000)
        reader = Reader()
        reader.paused = True
        await world.subscribe("orders", since="earliest", on_gap="fail", reader=reader)
        await until(lambda: reader.waiting > 0)
        await world.append(5)
        await world.log.trim("id-orders", Retention(max_events=2), None)
        reader.resume()
        await until(lambda: reader.ends == ["gap_refused"])
        assert reader.messages[-1]["status"] == "gap"
        await world.append(1)
        await quiet()
        assert reader.messages[-1]["status"] == "gap"

    run(test)


def test_a_stock_client_that_was_overtaken_is_told_nothing() -> None:
    """The log tells; the client gets events only."""

    async def test() -> None:
        world = World()
        await world.bucket()
        reader = Reader()
        await world.subscribe("orders", reader=reader)
        reader.paused = True
        await world.append(2, body=b"x" * 300_000)
        await until(lambda: reader.waiting > 0)
        await world.append(5)
        await world.log.trim("id-orders", Retention(max_events=2), None)
        reader.resume()
        await until(lambda: reader.seqs()[-2:] == [6, 7])
        assert reader.statuses() == []

    run(test)


def test_a_second_subscribe_keeps_positions() -> None:
    """Delivery ends after the write that it is in; a bucket in both goes on where it was, unless the second says."""

    async def test() -> None:
        world = World()
        await world.bucket("a")
        await world.bucket("b")
        reader = Reader()
        reader.paused = True
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

    run(test)


def test_a_bucket_made_while_a_subscribe_is_replaced_begins_at_its_first_event() -> None:
    """Also where the one before has ended already, or has not come to placing it."""

    async def test() -> None:
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

    run(test)


def test_a_kept_position_may_be_overtaken_too() -> None:
    """The second answer tells the gap."""

    async def test() -> None:
        world = World()
        await world.bucket()
        _, first, _ = await world.subscribe("orders")
        await quiet()
        first.end()
        await world.append(5)
        await world.log.trim("id-orders", Retention(max_events=2), None)
        _, _, (answer,) = await world.subscribe("orders", replaces=first, extended=True)
        assert answer["gap"] == {"from": 1, "to": 3, "count": 3, "reason": "retention"}

    run(test)


def test_unsubscribe() -> None:
    """Buckets that are named end, for good; with none named everything does."""

    async def test() -> None:
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

    run(test)


def test_unsubscribe_and_names_that_change() -> None:
    """One bucket ends, whatever it is called by then, and comes back by no new name; the others go on by theirs."""

    async def test() -> None:
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

    run(test)


def test_large_bodies_are_cut_for_who_asks() -> None:
    """`max_body` is about the body's bytes; others get everything, replayed and live."""

    async def test() -> None:
        world = World()
        await world.bucket()
        await world.append(1, body=b"x" * 11)
        await world.append(1, body=b"x" * 10)
        small, delivery, _ = await world.subscribe("orders", since="earliest", max_body=10)
        whole, other, _ = await world.subscribe("orders", since="earliest")
        await until(lambda: not delivery.busy and not other.busy)
        await world.append(1, body=b"x" * 11)
        await world.append(1, body=b"x" * 10)
        await until(lambda: len(small.seqs()) == len(whole.seqs()) == 4)
        events = [each for each in small.messages if each["type"] == "webhook"]
        assert [each.get("truncated", False) for each in events] == [True, False, True, False]
        assert ["body" in each for each in events] == [False, True, False, True]
        assert all(len(each["body"]) > 9 for each in whole.messages if each["type"] == "webhook")

    run(test)


def test_positions_are_told_once_they_moved() -> None:
    """By name, with the epoch; only what was wholly written, and only since the last time."""

    async def test() -> None:
        world = World()
        await world.bucket("a")
        await world.bucket("b")
        epoch = (await world.log.bounds("id-a")).epochs[0].epoch
        reader = Reader()
        _, delivery, _ = await world.subscribe(reader=reader, extended=True)
        await until(lambda: not delivery.busy)
        assert delivery.moved() == {}
        await world.append(2, "id-a")
        await until(lambda: len(reader.seqs("a")) == 2)
        assert delivery.moved() == {"a": f"{epoch}-2"}
        assert delivery.moved() == {}
        reader.paused = True
        await world.append(1, "id-a")
        await until(lambda: reader.waiting > 0)
        assert delivery.moved() == {}
        assert delivery.positions() == {"id-a": (2, 0), "id-b": (0, 0)}
        reader.resume()
        await until(lambda: not delivery.busy)
        assert delivery.moved() == {"a": f"{epoch}-3"}

    run(test)


def test_a_changed_bucket_has_new_frames() -> None:
    """A new name stands in the frames of events that were encoded before."""

    async def test() -> None:
        world = World()
        bucket = await world.bucket()
        await world.append(1)
        reader, _, _ = await world.subscribe("orders", since="earliest")
        await until(lambda: reader.seqs() == [1])
        await world.registry.put("bucket", bucket.id, replace(bucket, name="sales"))
        again, _, _ = await world.subscribe("sales", since="earliest")
        await until(lambda: again.seqs("sales") == [1])

    run(test)


def test_a_log_that_fails_ends_the_reader_with_words() -> None:
    """The client is told to come back; the others go on."""

    async def test() -> None:
        world = World()
        await world.bucket("a")
        await world.bucket("b")
        await world.append(1, "id-a")
        whole = world.log.peek

        def broken(bucket_id: str, after: int, limit: int, max_bytes: int) -> Any:
            if bucket_id == "id-a":
                raise Unavailable("the disk")
            return whole(bucket_id, after, limit, max_bytes)

        world.log.peek = broken  # type: ignore[method-assign]
        reader, _, _ = await world.subscribe("a", since="earliest")
        other, _, _ = await world.subscribe("b")
        await until(lambda: reader.ends != [])
        assert "come back later" in reader.ends[0]
        await world.append(1, "id-b")
        await until(lambda: other.seqs("b") == [1])

    run(test)


def test_a_closed_outlet_ends_the_delivery() -> None:
    """Its task ends, and nothing of it stays with the dispatcher."""

    async def test() -> None:
        world = World()
        await world.bucket()
        await world.append(3)
        reader = Reader()
        reader.paused = True
        _, delivery, _ = await world.subscribe("orders", since="earliest", reader=reader)
        await until(lambda: reader.waiting > 0)
        reader.close()
        await delivery.ended()
        world.deliveries.end(delivery)
        assert world.deliveries._dispatcher._places == {}
        assert world.deliveries._live == set()
        assert world.deliveries.flight.outstanding == 0

    run(test)


def test_writes_are_chunks() -> None:
    """Frames are joined up to the chunk's size; a larger event goes alone."""

    async def test() -> None:
        world = World()
        await world.bucket()
        await world.append(300, body=b"x" * 2000)
        await world.append(1, body=b"x" * 1_000_000)
        reader, delivery, _ = await world.subscribe("orders", since="earliest")
        await until(lambda: len(reader.seqs()) == 301)
        assert reader.seqs() == list(range(1, 302))
        assert sorted(reader.writes)[-2] <= CHUNK < max(reader.writes)
        assert len(reader.writes) < 12
        await until(lambda: not delivery.busy)
        # A live event over the chunk is no business of the fast path.
        reader.at_once = 0
        await world.append(1, body=b"x" * 1_000_000)
        await until(lambda: len(reader.seqs()) == 302)
        assert reader.at_once == 0

    run(test)


def test_buckets_take_turns() -> None:
    """A long replay of one bucket does not hold up another."""

    async def test() -> None:
        world = World()
        await world.bucket("a")
        await world.bucket("b")
        await world.append(1500, "id-a", body=b"x" * 1000)
        await world.append(1, "id-b")
        reader, _, _ = await world.subscribe(since="earliest")
        await until(lambda: len(reader.seqs("a")) == 1500)
        names = [message["meta"]["bucket_name"] for message in reader.messages if message["type"] == "webhook"]
        assert names.index("b") < 600

    run(test)


def test_the_fast_path_shares_its_frames() -> None:
    """Everybody at one position gets the same bytes, read and encoded once."""

    async def test() -> None:
        world = World()
        await world.bucket()
        given: list[bytes] = []
        readers = []
        for _ in range(200):
            reader, delivery, _ = await world.subscribe("orders")
            await until(lambda delivery=delivery: not delivery.busy)
            send = reader.send_now
            reader.send_now = lambda data, send=send: given.append(data) or send(data)  # type: ignore
            readers.append(reader)
        await world.append(2)
        await until(lambda: all(reader.seqs() == [1, 2] for reader in readers))
        assert len(given) == 200
        assert len({id(data) for data in given}) < 100

    run(test)


def test_the_fast_path_gives_the_loop_back() -> None:
    """A pass over many subscribers is done in slices, and what comes meanwhile is not lost."""

    async def test() -> None:
        world = World()
        await world.bucket()
        readers = []
        for _ in range(300):
            reader, _, _ = await world.subscribe("orders")
            send = reader.send_now

            def slow(data: bytes, send: Any = send) -> bool:
                until = time.perf_counter() + 50e-6
                while time.perf_counter() < until:
                    pass
                return bool(send(data))

            reader.send_now = slow  # type: ignore[method-assign]
            readers.append(reader)
        await until(lambda: not any(delivery.busy for delivery in world.deliveries._live))
        await world.append(1)
        turns = 0
        while not readers[-1].seqs():
            await asyncio.sleep(0)
            turns += 1
            if turns == 2:
                await world.append(1)
        assert turns > 3
        await until(lambda: all(reader.seqs() == [1, 2] for reader in readers))

    run(test)


def test_a_slow_reader_holds_nobody_up() -> None:
    """One that reads nothing keeps one write waiting; another one goes on at the head."""

    async def test() -> None:
        world = World()
        await world.bucket()
        stuck = Reader()
        await world.subscribe("orders", reader=stuck)
        quick, _, _ = await world.subscribe("orders")
        await quiet()
        stuck.paused = True
        for _ in range(40):
            await world.append(10, body=b"x" * 5000)
            await quiet(3)
        await until(lambda: len(quick.seqs()) == 400)
        assert stuck.waiting <= CHUNK
        assert world.deliveries.flight.outstanding == stuck.waiting
        stuck.resume()
        await until(lambda: stuck.seqs() == list(range(1, 401)))
        assert world.deliveries.flight.outstanding == 0

    run(test)


def test_much_in_flight_makes_smaller_chunks() -> None:
    """Nobody waits for anybody: the chunks shrink to their least, and grow again."""
    flight = Flight(1 << 20)
    assert flight.chunk() == CHUNK
    flight.took_off(1 << 19)
    assert flight.chunk() == CHUNK
    flight.took_off(1 << 18)
    assert flight.chunk() == CHUNK // 2
    flight.took_off(1 << 18)
    assert flight.chunk() == LEAST_CHUNK
    flight.took_off(1 << 20)
    assert flight.chunk() == LEAST_CHUNK
    flight.landed(1 << 21)
    assert flight.chunk() == CHUNK


def test_many_stuck_readers_stay_within_the_budget() -> None:
    """Each keeps a write, and later ones are small."""

    async def test() -> None:
        world = World(replay_buffer=1 << 20)
        await world.bucket()
        await world.append(200, body=b"x" * 5000)
        readers = []
        for _ in range(40):
            reader = Reader()
            reader.paused = True
            readers.append(reader)
            await world.subscribe("orders", since="earliest", reader=reader)
        await until(lambda: all(reader.waiting for reader in readers))
        outstanding = world.deliveries.flight.outstanding
        assert outstanding <= (1 << 20) + 40 * LEAST_CHUNK
        assert outstanding == sum(reader.waiting for reader in readers)
        for reader in readers:
            reader.resume()
        await until(lambda: all(len(reader.seqs()) == 200 for reader in readers))

    run(test)


def test_delivery_gives_the_loop_back() -> None:
    """Also where everything comes from memory and every write is taken at once."""

    async def test() -> None:
        world = World()
        await world.bucket()
        await world.append(6000, body=b"x" * 1000)
        reader, _, _ = await world.subscribe("orders", since="earliest")
        turns = 0
        while len(reader.seqs()) < 6000:
            await asyncio.sleep(0)
            turns += 1
        assert turns > 5

    run(test)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1 << 32), extended=st.booleans())
def test_no_hole_and_no_repeat_however_it_interleaves(seed: int, extended: bool) -> None:
    """Appends, pauses, renewed subscribes, buckets that come and go and slow reads at random: each bucket's events
    come in order, without hole or repeat, from the answer's start to the head, replay to live."""

    async def test() -> None:
        chance = random.Random(seed)
        world = World(seed)
        names = ["a", "b"]
        for name in names:
            await world.bucket(name)
            await world.append(chance.randrange(20), f"id-{name}", body=b"x" * chance.choice([10, 10_000, 100_000]))
        since = chance.choice(["earliest", {"last": 3}, {"*": "earliest"}])
        reader, delivery, answers = await world.subscribe(since=since, extended=extended)
        starts = {answer["bucket_name"]: answer["start"] for answer in answers}
        for _ in range(chance.randrange(10, 60)):
            match chance.randrange(10):
                case 0:
                    reader.paused = True
                case 1 | 2:
                    reader.resume()
                case 3:
                    if not reader.paused:
                        reader, delivery, _ = await world.subscribe(reader=reader, replaces=delivery, extended=extended)
                case 4:
                    if len(names) < 4:
                        names.append(f"n{len(names)}")
                        await world.bucket(names[-1])
                        starts[names[-1]] = 1
                case 5:
                    await quiet(chance.randrange(5))
                case _:
                    body = b"x" * chance.choice([10, 1000, 50_000])
                    await world.append(chance.randrange(1, 5), f"id-{chance.choice(names)}", body=body)
        reader.resume()
        heads = {name: (await world.log.bounds(f"id-{name}")).head for name in names}

        def done() -> bool:
            return all(place.seq == heads[place.bucket_id[3:]] for place in delivery._places.values()) and (
                not delivery.busy and len(delivery._places) == len(names)
            )

        await until(done)
        for name in names:
            assert reader.seqs(name) == list(range(starts[name], heads[name] + 1)), name
        assert reader.ends == []
        if not extended and since != {"last": 3} and isinstance(since, dict):
            assert all(each["status"] == "caught_up" for each in reader.statuses())
        assert world.deliveries.flight.outstanding == 0

    run(test)
