"""relay_tornado/delivery/group.py: what a connection learns and asks of its consumer, and how it comes and goes."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from relay_tornado.delivery.group import Group
from relay_tornado.delivery.in_flight import Member
from relay_tornado.errors import Conflict
from relay_tornado.log.consumers import Key, Terms
from relay_tornado.model import Output
from relay_tornado.wire import control
from tests.delivery.virtual import day, virtual_test
from tests.delivery.virtual import event_loop as event_loop
from tests.delivery.workers import KEY, Worker, held_up, outputs, worker
from tests.delivery.world import TOKEN, World, quiet, stocked, until


@virtual_test
async def test_the_answer_tells_of_the_consumer() -> None:
    """Its name, its floor as an id, what it is not done with, and its terms: the last subscribe's count."""
    world = await stocked(3)
    epoch = await world.epoch()
    one = await worker(world, ack_wait=7, max_deliver=9)
    assert one.answers[0]["consumer"] == {
        "name": "w", "ack": "explicit", "floor": f"{epoch}-0", "pending": 3, "ack_wait": 7.0, "max_deliver": 9,
    }  # fmt: skip
    two = await worker(world, max_deliver=2)
    assert two.answers[0]["consumer"]["ack_wait"] == 7.0
    assert two.answers[0]["consumer"]["max_deliver"] == 2
    latest = await worker(world, consumer="x", since="latest")
    assert latest.answers[0]["consumer"]["floor"] == f"{epoch}-3"
    assert latest.answers[0]["consumer"]["pending"] == 0


@virtual_test
async def test_a_consumer_without_a_position() -> None:
    """It begins at the head, however old its bucket is."""
    world = await stocked(3, created_at=day())
    one = Worker(world, *await world.subscribe("orders", consumer="w"))
    assert one.answers[0]["start"] == 4
    await world.append(1)
    await until(lambda: one.seqs == [4])


@virtual_test
async def test_a_second_subscribe_keeps_what_is_out() -> None:
    """On the same consumer: nothing goes out again, and what came before can still be acked, in its order."""
    world = await stocked(3)
    one = await worker(world, max_in_flight=4)
    await until(lambda: one.seqs == [1, 2, 3])
    again = Worker(world, *await world.subscribe("orders", reader=one.reader, replaces=one.delivery, consumer="w"))
    await world.append(2)
    await quiet()
    assert again.tries() == [(seq, 1) for seq in range(1, 6)]
    assert again.ack(3, all=True)
    assert await world.floor(KEY) == 3
    assert world.deliveries.connections(KEY) == 1


@virtual_test
@pytest.mark.parametrize(
    ("copy", "kinds", "expected"),
    [(7, (), [3]), (2, (), [3]), (1, (True, True), [2, 3]), (2, (True, True), [3]), (1, (True, False), [3])],
)
async def test_a_consumer_begins_behind_a_copy(copy: int, kinds: tuple[bool, ...], expected: list[int]) -> None:
    """Behind the last copy that there may be lies the next event, as for who reads without a consumer; between two
    copies the event is given whole. `kinds`: whether each output is internal."""
    world = World()
    made = [Output(f"o-{n}", n, f"o{n}", 0, 0, internal=internal) for n, internal in enumerate(kinds, 1)]
    await world.bucket(outputs=tuple(made))
    await world.append(3)
    epoch = await world.epoch()
    one = await worker(world, since=f"{epoch}-2-{copy}")
    await until(lambda: sorted(set(one.seqs)) == expected)
    assert one.answers[0]["start"] == expected[0]
    assert await world.floor(KEY) == expected[0] - 1


@virtual_test
async def test_what_is_not_for_the_subscriber_is_done() -> None:
    """A filter, rules, or no output at all: such events are passed over, and the floor with them."""
    world = await stocked(0)
    for number in range(6):
        await world.append(headers=b"N: %d\r\n" % (number % 2))
    parameter = {"source": "header", "name": "N"}
    one = await worker(world, filter={"match": {"type": "value", "value": "1", "parameter": parameter}})
    await until(lambda: one.seqs == [2, 4, 6])
    assert await world.floor(KEY) == 1
    assert one.ack(6, all=True)
    assert await world.floor(KEY) == 6
    await world.change(outputs=(replace(outputs()[0], internal=False),))
    await world.append(2, headers=b"N: 1\r\n")
    await quiet()
    assert await world.floor(KEY) == 8
    assert one.delivery.moved()["orders"].endswith("-8")


@virtual_test
async def test_bodies_and_outputs_as_they_were_asked_for() -> None:
    """`max_body` and `outputs: "none"`, at the first try and at later ones."""
    world = await stocked(0, outputs=outputs())
    await world.append(1, body=b"long" * 10)
    one = await worker(world, max_body=10, outputs="none")
    await until(lambda: one.reader.ids() == ["1"])
    assert one.nak("1")
    await quiet()
    assert one.reader.ids() == ["1", "1"]
    assert [each["truncated"] for each in one.events] == [True, True]
    assert one.ack("1")
    assert await world.floor(KEY) == 1


@virtual_test
async def test_a_seek_reaches_who_is_connected() -> None:
    """Delivery goes on from there at once; acks of before count for nothing."""
    world = await stocked(5)
    one = await worker(world)
    await until(lambda: len(one.seqs) == 5)
    one.ack(5, all=True)
    await world.append(2)
    await quiet()
    async with world.ledgers.using(KEY) as ledger:
        ledger.progress.seek(3)
        ledger.tell()
    await quiet()
    assert one.seqs == [1, 2, 3, 4, 5, 6, 7, 4, 5, 6, 7]
    assert await world.floor(KEY) == 3
    async with world.ledgers.using(KEY) as ledger:
        ledger.tell()  # of something else
    assert one.ack(7, all=True)
    assert await world.floor(KEY) == 3, "which may be of before"
    assert one.ack(5, all=True)
    assert await world.floor(KEY) == 7
    async with world.ledgers.using(KEY) as ledger:
        ledger.progress.seek(7)
        ledger.tell()
    await world.append()
    await quiet()
    assert one.seqs[-1] == 8
    assert one.ack(8)
    assert await world.floor(KEY) == 8


@virtual_test
async def test_a_seek_moves_the_position_that_is_told() -> None:
    """Back to what is given again."""
    world = await stocked(5)
    one = await worker(world, max_in_flight=1)
    for seq in range(1, 6):
        await until(lambda seq=seq: one.seqs[-1:] == [seq])
        one.ack(seq)
    await quiet()
    assert one.delivery.reached()["id-orders"].endswith("-5")
    async with world.ledgers.using(KEY) as ledger:
        ledger.progress.seek(1)
        ledger.tell()
    await until(lambda: one.seqs[5:] == [2])
    assert one.delivery.reached()["id-orders"].endswith("-2")


@virtual_test
async def test_a_deleted_consumer_ends() -> None:
    """The client is told, nothing comes any more, also when its bucket changes; a new subscribe makes it anew."""
    world = await stocked(2)
    one = await worker(world)
    await until(lambda: len(one.seqs) == 2)
    assert await world.ledgers.delete(KEY)
    await quiet()
    assert one.reader.statuses()[-1] == {
        "type": "status", "status": "consumer_deleted", "bucket_name": "orders", "consumer": "w",
    }  # fmt: skip
    assert not one.ack(1)
    await world.append(2)
    await world.change(description="other")
    await quiet()
    assert len(one.seqs) == 2
    assert await world.consumers.get(KEY) is None
    again = await worker(world, since="latest")
    assert again.answers[0]["start"] == 5
    assert world.deliveries.connections(KEY) == 1


@virtual_test
async def test_kinds_do_not_mix() -> None:
    """Explicit and receipt on one consumer: refused, before anything has changed."""
    world = await stocked(0)
    one = await worker(world)
    with pytest.raises(Conflict, match="explicit"):
        await world.subscribe("orders", reader=one.reader, replaces=one.delivery, consumer="w", ack="receipt")
    await world.append(1)
    await quiet()
    assert one.seqs == [1]
    await world.subscribe("orders", consumer="r", ack="receipt")
    with pytest.raises(Conflict, match="receipt"):
        await world.subscribe("orders", consumer="r")


@virtual_test
async def test_the_first_kind_in_a_new_bucket_stays() -> None:
    """Who asks the other one is refused: at once, or, where its bucket came later, in that bucket alone."""
    world = await stocked(0)
    found: list[Any] = await asyncio.gather(
        worker(world), world.subscribe("orders", consumer="w", ack="receipt"), return_exceptions=True
    )
    assert [type(each) for each in found] == [Worker, Conflict]
    one = await worker(world, "orders", "new", ack_wait=600, max_deliver=1)
    # A receipt consumer in one bucket, and the same name in one that both come to meet in.
    other = await worker(world, "elsewhere", "new", ack="receipt")
    two = await worker(world, "orders", "new")
    await world.bucket("new")
    await world.append(2, "id-new")
    await until(lambda: len(one.reader.seqs("new")) + len(two.reader.seqs("new")) == 2)
    await until(lambda: len(other.reader.statuses()) == 2)
    key = Key("id-new", "client", "w")
    assert (await world.stored(key)).terms == Terms(600, 1), "who names no terms takes them as they are"
    assert [each["status"] for each in other.reader.statuses()] == ["error", "unsubscribed"]
    refusal, end = other.reader.statuses()
    assert (refusal["code"], end["message"]) == ("conflict", "unsubscribed from buckets: new")
    assert "'new' is moved by explicit acks" in refusal["message"]
    assert other.reader.ends == []
    await world.bucket("elsewhere")
    await world.append(1, "id-elsewhere")
    await world.change("id-new", description="other")
    await until(lambda: other.reader.seqs("elsewhere") == [1])
    assert other.reader.seqs("new") == []
    assert len(other.reader.statuses()) == 2
    assert world.deliveries.connections(key) == 2
    await world.append(1, "id-new")
    await asyncio.sleep(5)
    assert await world.floor(key) == 0
    one.leave()
    two.leave()
    assert world.ledgers.find(key) is None


@virtual_test
async def test_ephemeral_buckets_have_none() -> None:
    """Their entry says so, and nothing comes from them, now or when they are made later; the others go on."""
    world = await stocked(0)
    await world.bucket("brief", ephemeral=True)
    one = await worker(world, "orders", "brief", "later")
    assert [each.get("error") for each in one.answers] == [None, "ephemeral", "not_found"]
    await world.bucket("later", ephemeral=True)
    await world.append(1)
    for name in ("brief", "later"):
        await world.append(1, f"id-{name}")
    await quiet()
    assert [each["meta"]["bucket_name"] for each in one.events] == ["orders"]


@virtual_test
async def test_buckets_come_and_go() -> None:
    """Those made later have a consumer from their first event on; one that is deleted ends, and its name is free."""
    world = World()
    await world.bucket("a")
    one = Worker(world, *await world.subscribe(consumer="w", since="latest"))
    await world.bucket("b")
    await world.append(2, "id-b")
    await until(lambda: len(one.reader.seqs("b")) == 2)
    assert (await world.consumers.get(Key("id-b", "client", "w"))) is not None
    await world.delete("id-b")
    await quiet()
    assert one.reader.statuses()[-1]["status"] == "bucket_deleted"
    assert world.ledgers.find(Key("id-b", "client", "w")) is None
    await world.append(1, "id-a")
    await quiet()
    assert one.reader.seqs("a") == [1]


@virtual_test
async def test_a_smaller_scope_ends_it() -> None:
    """What was out of a bucket that leaves the token's scope goes to others."""
    world = await stocked(2)
    one = await worker(world)
    await until(lambda: len(one.seqs) == 2)
    other = await worker(world)
    one.delivery.rescope(replace(TOKEN, buckets=frozenset()))
    await quiet()
    assert other.tries() == [(1, 2), (2, 2)]
    assert one.reader.statuses()[-1]["status"] == "bucket_deleted"
    assert not one.ack(1)


@virtual_test
async def test_who_joins_costs_no_look_at_all_who_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand may share a consumer, and come back at once."""
    shown, show = 0, Group._show

    def counting(group: Group, member: Member) -> None:
        nonlocal shown
        shown += 1
        show(group, member)

    monkeypatch.setattr(Group, "_show", counting)
    world = await stocked(0)
    workers = [await worker(world) for _ in range(50)]
    await until(lambda: sum(len(each.reader.statuses()) for each in workers) == len(workers))
    assert {each.reader.statuses()[0]["status"] for each in workers} == {"caught_up"}
    assert 0 < shown <= 5 * len(workers)


@virtual_test
async def test_caught_up_and_positions() -> None:
    """Once everything was handed out to somebody; positions are those of the group."""
    world = await stocked(4)
    one = await worker(world, max_in_flight=2)
    await quiet()
    assert one.seqs == [1, 2]
    assert one.reader.statuses() == []
    one.ack(2, all=True)
    await quiet()
    assert one.reader.statuses() == []
    one.ack(3)
    await quiet()
    (status,) = one.reader.statuses()
    assert status["status"] == "caught_up"
    assert status["id"].endswith("-4")
    assert one.delivery.moved()["orders"].endswith("-4")
    assert world.deliveries.lag() == {"id-orders": 0}
    empty = await worker(world, consumer="x", since="latest")
    await until(empty.reader.statuses)
    assert empty.reader.statuses()[0]["id"].endswith("-4")


@virtual_test
async def test_who_leaves_takes_nothing_from_one_that_is_being_given_it() -> None:
    """Its events are being read."""
    world = await stocked(0)
    one, two = await worker(world), await worker(world)
    await quiet()
    gate = held_up(world)
    await world.append(1)
    await quiet()
    two.leave()
    gate.set()
    await quiet()
    assert (one.seqs, one.reader.ends) == ([1], [])


@virtual_test
async def test_who_joins_behind_a_seek_is_told_a_whole_position() -> None:
    """Also where no event has told its epoch since then."""
    world = await stocked(4)
    await worker(world)
    await quiet()
    async with world.ledgers.using(KEY) as ledger:
        ledger.progress.seek(4)
        ledger.tell()
    two = await worker(world)
    await until(two.reader.statuses)
    assert two.reader.statuses()[0]["id"] == f"{await world.epoch()}-4"


@virtual_test
async def test_who_unsubscribes_waits_for_nothing() -> None:
    """What comes then goes to those who are left, though its connection goes on in another bucket."""
    world = await stocked(0)
    await world.bucket("other")
    one = await worker(world, "orders", "other")
    two = await worker(world)
    await quiet()
    one.delivery.unsubscribe(control.Unsubscribe(("orders",)))
    await world.append(1)
    await until(lambda: two.seqs == [1])
    await world.append(1, "id-other")
    await until(lambda: one.reader.seqs("other") == [1])


@virtual_test
async def test_who_leaves_as_it_waits_for_its_turn() -> None:
    """Another one is being given events: it is told nothing of the bucket any more, and nobody waits in the group."""
    world = await stocked(1)
    await world.bucket("other")
    gate = held_up(world)
    one = await worker(world)
    two = await worker(world, "orders", "other", extended=True)
    group = world.deliveries._groups._groups[KEY]
    await quiet()
    two.delivery.unsubscribe(control.Unsubscribe(("orders",)))
    gate.set()
    await until(lambda: one.seqs == [1])
    await quiet()
    assert [each["bucket_name"] for each in two.reader.statuses()] == ["other"]
    assert set(group._waiting) == set(group._members)


@virtual_test
async def test_nothing_is_left_of_a_group_that_all_have_left() -> None:
    """Nobody is behind then, however much comes. Who comes later gets all that is open, and what is new, also where
    somebody who administers the consumer has used it all the while."""
    world = await stocked(2)
    one = await worker(world)
    await until(lambda: one.seqs == [1, 2])
    async with world.ledgers.using(KEY) as ledger:
        one.leave()
        assert not ledger._watchers
        await world.append(1)
        await quiet()
        assert world.deliveries.lag() == {}
        two = await worker(world)
        await until(lambda: two.seqs == [1, 2, 3])
        await world.append(1)
        await until(lambda: two.seqs == [1, 2, 3, 4])


@virtual_test
async def test_what_is_given_once_more_moves_no_position_back() -> None:
    """Pings and lag tell how far the group has got, also when an old event is replayed."""
    world = await stocked(5)
    one = await worker(world)
    await until(lambda: len(one.seqs) == 5)
    one.ack(5, all=True)
    async with world.ledgers.using(KEY) as ledger:
        assert ledger.progress.schedule({2: 0.0}, day()) == [2]
        ledger.tell()
    await until(lambda: one.tries()[5:] == [(2, 1)])
    await quiet()
    assert one.delivery.moved()["orders"].endswith("-5")
    assert world.deliveries.lag() == {"id-orders": 0}


@virtual_test
async def test_what_is_given_up_while_it_is_read_moves_no_position_back() -> None:
    """It is not among those that are to be tried again any more."""
    world = await stocked(5)
    one = await worker(world)
    await until(lambda: len(one.seqs) == 5)
    gate = held_up(world)
    assert one.nak(2)
    await quiet()
    async with world.ledgers.using(KEY) as ledger:
        assert ledger.progress.give_up(2, 5, day()) is not None
        ledger.save()
        ledger.tell()
    gate.set()
    await quiet()
    assert one.delivery.moved()["orders"].endswith("-5")
    assert world.deliveries.lag() == {"id-orders": 0}


@virtual_test
async def test_a_log_that_goes_while_events_are_read() -> None:
    """Delivery ends there, as with the bucket; in others it goes on."""
    world = await stocked(1)
    await world.bucket("b")
    gate = held_up(world)
    one = await worker(world, "orders", "b")
    await quiet()
    await world.log.drop("id-orders")
    gate.set()
    await quiet()
    await world.append(1, "id-b")
    await quiet()
    assert (one.seqs, one.reader.seqs("b"), one.reader.ends) == ([], [1], [])
    assert [each["bucket_name"] for each in one.reader.statuses() if each["status"] == "bucket_deleted"] == ["orders"]


@virtual_test
async def test_a_seek_while_events_are_read() -> None:
    """What was taken before it is not given: everything comes once from the new position on, and can be acked."""
    world = await stocked(5)
    gate = held_up(world)
    one = await worker(world)
    await quiet()
    async with world.ledgers.using(KEY) as ledger:
        ledger.progress.seek(2)
        ledger.tell()
    await quiet()
    gate.set()
    await quiet()
    assert one.seqs == [3, 4, 5]
    assert one.ack(5, all=True)
    assert await world.floor(KEY) == 5
