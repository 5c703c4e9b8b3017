"""relay_tornado/delivery/group.py: connections that share a consumer, and what becomes of what they are given."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay_tornado.delivery.deliver import Delivery
from relay_tornado.errors import Conflict
from relay_tornado.log.consumers import Key
from relay_tornado.model import Cursor, NewEvent, Output, Retention
from relay_tornado.progress import MAX_DELIVER
from relay_tornado.wire import control
from relay_tornado.wire.acks import Ack, Nak
from tests.delivery.virtual import day, run
from tests.delivery.world import TOKEN, Reader, World, quiet, until

KEY = Key("id-orders", "client", "w")


class Worker:
    """A client of a consumer with explicit acks."""

    def __init__(self, world: World, reader: Reader, delivery: Delivery, answers: list[dict[str, Any]]) -> None:
        self.world = world
        self.reader = reader
        self.delivery = delivery
        self.answers = answers

    @property
    def seqs(self) -> list[int]:
        return self.reader.seqs()

    @property
    def events(self) -> list[dict[str, Any]]:
        return [message for message in self.reader.messages if message["type"] == "webhook"]

    def tries(self) -> list[tuple[int, int]]:
        """(seq, attempt) of everything that came."""
        return [(each["meta"]["seq"], each["meta"].get("attempt", 1)) for each in self.events]

    def ack(self, id: str | int, *, all: bool = False) -> bool:
        return self.delivery.settle(Ack(self._cursor(id), all))

    def nak(self, id: str | int, delay: float = 0.0) -> bool:
        return self.delivery.settle(Nak(self._cursor(id), delay))

    def _cursor(self, id: str | int) -> Cursor:
        """From a seq, or from what stands behind the epoch of an id, as it came."""
        seq, _, output = str(id).partition("-")
        epoch = next((one["meta"]["epoch"] for one in self.events if one["meta"]["seq"] == int(seq)), "zzzzzzzzzzzz")
        return Cursor(epoch, int(seq), int(output) if output else None)

    def leave(self) -> None:
        """The connection is cut."""
        self.reader.close()
        self.world.deliveries.end(self.delivery)


def world_of(**options: Any) -> World:
    return World(clock=day, **options)


async def worker(world: World, *buckets: str, consumer: str = "w", **fields: Any) -> Worker:
    fields = {"since": "earliest"} | fields
    return Worker(world, *await world.subscribe(*(buckets or ("orders",)), consumer=consumer, **fields))


async def floor(world: World, key: Key = KEY) -> int:
    stored = await world.consumers.get(key)
    assert stored is not None
    return stored.floor


async def parked(world: World, key: Key = KEY) -> list[int]:
    """What is to be tried again."""
    stored = await world.consumers.get(key)
    assert stored is not None
    return sorted(stored.parked)


async def later(condition: Any) -> None:
    """Lets time pass until the condition holds."""
    while True:
        if condition():
            return
        await asyncio.sleep(0.01)


def test_what_is_acked_never_comes_again() -> None:
    """The position is kept over a crash: acked events are done, the others come again, and were tried before."""

    async def test() -> None:
        world = world_of()
        await world.bucket()
        await world.append(5)
        one = await worker(world)
        await until(lambda: one.seqs == [1, 2, 3, 4, 5])
        for seq in (1, 2, 4):
            assert one.ack(seq)
        assert await floor(world) == 2
        world.restart()
        again = await worker(world, since="latest")
        await until(lambda: again.seqs == [3, 5])
        assert again.answers[0]["start"] == 6
        assert again.answers[0]["consumer"]["pending"] == 2
        assert again.tries() == [(3, 2), (5, 2)]

    run(test)


def test_the_answer_tells_of_the_consumer() -> None:
    """Its name, its floor as an id, what it is not done with, and its terms: the last subscribe's count."""

    async def test() -> None:
        world = world_of()
        await world.bucket()
        await world.append(3)
        epoch = (await world.log.bounds("id-orders")).epochs[0].epoch
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

    run(test)


@pytest.mark.parametrize("members", [2, 5])
def test_members_share_the_work(members: int) -> None:
    """Each event goes to exactly one, in order on each connection, and everybody gets about as much."""

    async def test() -> None:
        world = world_of()
        await world.bucket()
        workers = [await worker(world) for _ in range(members)]
        for _ in range(20):
            await world.append(members)
            await quiet(20)
            for each in workers:
                for seq in each.seqs:
                    each.ack(seq)
        every = sorted(seq for each in workers for seq in each.seqs)
        assert every == list(range(1, 20 * members + 1))
        assert all(each.seqs == sorted(each.seqs) for each in workers)
        assert [len(each.seqs) for each in workers] == pytest.approx([20] * members, abs=2)

    run(test)


def test_single_events_go_round() -> None:
    """One event at a time: each idle member has its turn."""

    async def test() -> None:
        world = world_of()
        await world.bucket()
        workers = [await worker(world) for _ in range(3)]
        for _ in range(9):
            await world.append()
            await quiet(20)
        assert [each.seqs for each in workers] == [[1, 4, 7], [2, 5, 8], [3, 6, 9]]

    run(test)


def test_a_backlog_is_divided() -> None:
    """What is there when several wait does not go to the first one alone."""

    async def test() -> None:
        world = world_of()
        await world.bucket()
        workers = [await worker(world) for _ in range(4)]
        await quiet()
        for _ in range(40):
            await world.log.append("id-orders", _event())
        await until(lambda: sum(len(each.seqs) for each in workers) == 40)
        assert all(len(each.seqs) >= 5 for each in workers)

    run(test)


def _event() -> NewEvent:
    return NewEvent("in-id-orders", "POST", b"", b"", b"", b"{}", "192.0.2.1")


def test_unacked_events_go_to_another() -> None:
    """After `ack_wait`, with the number of the try; who let it pass gets what others have no room for, no more."""

    async def test() -> None:
        world = world_of()
        await world.bucket()
        stuck = await worker(world, ack_wait=30)
        await quiet()
        await world.append(6)
        await until(lambda: len(stuck.seqs) == 6)
        other = await worker(world)
        await asyncio.sleep(29.9)
        assert other.seqs == []
        await asyncio.sleep(0.2)
        await quiet()
        assert other.tries() == [(seq, 2) for seq in range(1, 7)]
        for seq in other.seqs:
            assert other.ack(seq)
        await world.append(4)
        await quiet()
        assert len(other.seqs) == 10
        assert len(stuck.seqs) == 6
        assert not stuck.ack(1), "it was given to another"
        assert await floor(world) == 6

    run(test)


def test_ack_wait_is_one_timer() -> None:
    """However much is out: what is acked in time does not come again, what is not comes each after its own time."""

    async def test() -> None:
        world = world_of()
        await world.bucket()
        one = await worker(world, ack_wait=10)
        came = []
        for seq in range(1, 4):
            await world.append()
            await until(lambda seq=seq: len(one.seqs) == seq)
            came.append(day())
            await asyncio.sleep(3)
        group = world.deliveries._groups._groups[KEY]
        assert group._timer is not None
        one.ack(2)
        await later(lambda: one.tries()[3:] == [(1, 2)])
        assert day() - came[0] == pytest.approx(10, abs=0.1)
        await later(lambda: one.tries()[4:] == [(3, 2)])
        assert day() - came[2] == pytest.approx(10, abs=0.1)

    run(test)


def test_a_nak_comes_again_after_its_delay() -> None:
    """At once without one; meanwhile later events go on."""

    async def test() -> None:
        world = world_of()
        await world.bucket()
        await world.append(2)
        one = await worker(world)
        await until(lambda: one.seqs == [1, 2])
        assert one.nak(1, 5)
        assert one.nak(2)
        await world.append()
        await quiet()
        assert one.tries()[2:] == [(2, 2), (3, 1)]
        await asyncio.sleep(4.9)
        assert len(one.seqs) == 4
        await asyncio.sleep(0.2)
        await quiet()
        assert one.tries()[4:] == [(1, 2)]
        assert not one.nak(99)

    run(test)


def test_what_fails_too_often_is_dead() -> None:
    """After `max_deliver` tries, whatever they ended with; then it counts as dealt with."""

    async def test() -> None:
        world = world_of()
        await world.bucket()
        await world.append(2)
        one = await worker(world, max_deliver=3, ack_wait=5)
        await until(lambda: one.seqs == [1, 2])
        one.ack(2)
        one.nak(1)
        await quiet()
        await asyncio.sleep(6)
        await quiet()
        assert one.tries() == [(1, 1), (2, 1), (1, 2), (1, 3)]
        one.leave()
        (letter,) = await world.consumers.dead("id-orders", KEY, 0, 10)
        assert (letter.seq, letter.attempts, letter.reason) == (1, 3, "max_deliver")
        assert await floor(world) == 2
        # Without end:
        two = await worker(world, consumer="patient", max_deliver=0)
        await until(lambda: two.seqs == [1, 2])
        for _ in range(50):
            assert two.nak(1)
            await quiet(10)
        assert two.tries()[-1] == (1, 51)

    run(test)


def test_what_a_connection_had_goes_to_another_at_once() -> None:
    """When it is cut, unsubscribes or takes another consumer."""

    async def test() -> None:
        world = world_of()
        await world.bucket()
        for end in ("cut", "unsubscribe", "replace"):
            first = await worker(world, consumer=end)
            await world.append(3)
            await until(lambda first=first: len(first.seqs) >= 3)
            had = first.seqs
            second = await worker(world, consumer=end)
            await quiet()
            assert second.seqs == []
            if end == "cut":
                first.leave()
            elif end == "unsubscribe":
                first.delivery.unsubscribe(control.Unsubscribe(("orders",)))
            else:
                await world.subscribe("orders", reader=first.reader, replaces=first.delivery, consumer="another")
            await quiet()
            assert second.tries() == [(seq, 2) for seq in had]
            second.leave()

    run(test)


def test_a_second_subscribe_keeps_what_is_out() -> None:
    """On the same consumer: nothing goes out again, and what came before can still be acked, in its order."""

    async def test() -> None:
        world = world_of()
        await world.bucket()
        await world.append(3)
        one = await worker(world, max_in_flight=4)
        await until(lambda: one.seqs == [1, 2, 3])
        again = Worker(world, *await world.subscribe("orders", reader=one.reader, replaces=one.delivery, consumer="w"))
        await world.append(2)
        await quiet()
        assert again.tries() == [(seq, 1) for seq in range(1, 6)]
        assert again.ack(3, all=True)
        assert await floor(world) == 3
        assert world.deliveries.connections(KEY) == 1

    run(test)


def test_all_acks_what_came_before_in_the_order_given() -> None:
    """Not what came later, though it be older, and in all buckets of the connection."""

    async def test() -> None:
        world = world_of()
        await world.bucket()
        await world.bucket("other")
        await world.append(4)
        one = await worker(world, "orders", "other")
        await until(lambda: len(one.seqs) == 4)
        one.nak(2)
        await quiet()
        await world.append(1, "id-other")
        await quiet()
        assert one.tries() == [(1, 1), (2, 1), (3, 1), (4, 1), (2, 2), (1, 1)]
        assert one.ack(4, all=True)
        assert await floor(world) == 4
        assert await parked(world) == [2], "it was given again after 4"
        await world.append(1)
        await quiet()
        assert one.ack(5, all=True)
        assert await floor(world) == 5
        assert await floor(world, KEY._replace(bucket_id="id-other")) == 1

    run(test)


def test_tries_count_across_crashes() -> None:
    """No event is given more often than it may be, however often the relay ends with no word; what was never written
    was not tried."""

    async def test() -> None:
        world = world_of()
        await world.bucket()
        await world.append(3)
        for attempt in (1, 2):
            one = await worker(world, max_deliver=2, max_in_flight=2)
            await until(lambda one=one: one.seqs == [1, 2])
            assert one.tries() == [(1, attempt), (2, attempt)]
            world.restart()
        last = await worker(world, max_deliver=2)
        await until(lambda: last.seqs == [3])
        assert last.tries() == [(3, 1)]
        letters = await world.consumers.dead("id-orders", KEY, 0, 9)
        assert [(each.seq, each.attempts, each.reason) for each in letters] == [
            (1, 2, MAX_DELIVER),
            (2, 2, MAX_DELIVER),
        ]

    run(test)


def outputs() -> tuple[Output, ...]:
    return tuple(Output(f"o{n}", n, f"out {n}", 0, 0, internal=True) for n in (1, 2))


def test_copies_are_one_unit() -> None:
    """Done when each copy was acked, or the event by its bare id; a nak of one copy brings all again."""

    async def test() -> None:
        world = world_of()
        await world.bucket(outputs=outputs())
        await world.append(3)
        one = await worker(world)
        await until(lambda: one.reader.ids() == ["1-1", "1-2", "2-1", "2-2", "3-1", "3-2"])
        assert one.ack("1-2")
        assert not one.ack("1-2"), "it was acked"
        assert not one.ack("1-3"), "there is none"
        assert await floor(world) == 0
        assert one.ack("1-1")
        assert await floor(world) == 1
        assert one.ack("2")
        assert await floor(world) == 2
        assert one.ack("3-1")
        assert one.nak("3-2")
        await quiet()
        assert one.reader.ids()[6:] == ["3-1", "3-2"]
        assert [each["meta"]["attempt"] for each in one.events[6:]] == [2, 2]
        assert one.ack("3-1", all=True)
        assert await parked(world) == [3]
        assert one.ack("3-2")
        assert await parked(world) == []

    run(test)


@pytest.mark.parametrize(
    ("copy", "kinds", "expected"),
    [(7, (), [3]), (2, (), [3]), (1, (True, True), [2, 3]), (2, (True, True), [3]), (1, (True, False), [3])],
)
def test_a_consumer_begins_behind_a_copy(copy: int, kinds: tuple[bool, ...], expected: list[int]) -> None:
    """Behind the last copy that there may be lies the next event, as for who reads without a consumer; between two
    copies the event is given whole. `kinds`: whether each output is internal."""

    async def test() -> None:
        world = world_of()
        made = [Output(f"o-{n}", n, f"o{n}", 0, 0, internal=internal) for n, internal in enumerate(kinds, 1)]
        await world.bucket(outputs=tuple(made))
        await world.append(3)
        epoch = (await world.log.bounds("id-orders")).epochs[0].epoch
        one = await worker(world, since=f"{epoch}-2-{copy}")
        await until(lambda: sorted(set(one.seqs)) == expected)
        assert one.answers[0]["start"] == expected[0]
        assert await floor(world) == expected[0] - 1

    run(test)


def test_what_is_not_for_the_subscriber_is_done() -> None:
    """A filter, rules, or no output at all: such events are passed over, and the floor with them."""

    async def test() -> None:
        world = world_of()
        await world.bucket()
        for number in range(6):
            await world.append(headers=b"N: %d\r\n" % (number % 2))
        parameter = {"source": "header", "name": "N"}
        one = await worker(world, filter={"match": {"type": "value", "value": "1", "parameter": parameter}})
        await until(lambda: one.seqs == [2, 4, 6])
        assert await floor(world) == 1
        assert one.ack(6, all=True)
        assert await floor(world) == 6
        await world.change(outputs=(replace(outputs()[0], internal=False),))
        await world.append(2)
        await quiet()
        assert await floor(world) == 8
        assert one.delivery.moved()["orders"].endswith("-8")

    run(test)


def test_bodies_and_outputs_as_they_were_asked_for() -> None:
    """`max_body` and `outputs: "none"`, at the first try and at later ones."""

    async def test() -> None:
        world = world_of()
        await world.bucket(outputs=outputs())
        await world.append(1, body=b"long" * 10)
        one = await worker(world, max_body=10, outputs="none")
        await until(lambda: one.reader.ids() == ["1"])
        assert one.nak("1")
        await quiet()
        assert one.reader.ids() == ["1", "1"]
        assert [each["truncated"] for each in one.events] == [True, True]
        assert one.ack("1")
        assert await floor(world) == 1

    run(test)


def test_no_more_in_flight_than_asked_for() -> None:
    """Over all buckets of the connection; each ack makes room, for whichever bucket waits."""

    async def test() -> None:
        world = world_of()
        await world.bucket()
        await world.bucket("other")
        await world.append(10)
        await world.append(10, "id-other")
        one = await worker(world, "orders", "other", max_in_flight=3)
        await quiet()
        had: list[tuple[str, int]] = []
        while len(had) < 20:
            now = [(each["meta"]["bucket_name"], each["meta"]["seq"]) for each in one.events]
            assert len(now) - len(had) <= 3
            new = [each for each in now if each not in had]
            meta = next(
                each["meta"] for each in one.events if (each["meta"]["bucket_name"], each["meta"]["seq"]) == new[0]
            )
            assert one.delivery.settle(Ack(Cursor(meta["epoch"], meta["seq"])))
            had.append(new[0])
            await quiet(20)
        assert sorted(had) == sorted((name, seq) for name in ("orders", "other") for seq in range(1, 11))

    run(test)


def test_who_can_not_write_keeps_nothing_from_the_others() -> None:
    """A connection whose client does not read has one write out; everything else goes to the other."""

    async def test() -> None:
        world = world_of()
        await world.bucket()
        stuck = await worker(world)
        await quiet()
        stuck.reader.paused = True
        await world.append(1)
        await quiet()
        other = await worker(world)
        await world.append(300, body=b"x" * 3000)
        await quiet(2000)
        got = set(other.seqs)
        for seq in sorted(got):
            other.ack(seq)
        await quiet(2000)
        assert len(set(other.seqs)) == 300
        assert stuck.reader.waiting < 5000

    run(test)


def test_a_seek_reaches_who_is_connected() -> None:
    """Delivery goes on from there at once; acks of before count for nothing."""

    async def test() -> None:
        world = world_of()
        await world.bucket()
        await world.append(5)
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
        assert await floor(world) == 3
        one.ack(7, all=True)
        assert await floor(world) == 7
        async with world.ledgers.using(KEY) as ledger:
            ledger.progress.seek(7)
            ledger.tell()
        await world.append()
        await quiet()
        assert one.seqs[-1] == 8
        assert one.ack(8)
        assert await floor(world) == 8

    run(test)


def test_what_is_scheduled_comes_when_it_is_due() -> None:
    """A replay on the server, at once and later."""

    async def test() -> None:
        world = world_of()
        await world.bucket()
        await world.append(5)
        one = await worker(world)
        await until(lambda: len(one.seqs) == 5)
        one.ack(5, all=True)
        async with world.ledgers.using(KEY) as ledger:
            assert ledger.progress.schedule({2: day(), 3: day() + 20}, day()) == [2, 3]
            ledger.save()
            ledger.tell()
        await quiet()
        assert one.tries()[5:] == [(2, 1)]
        await asyncio.sleep(21)
        assert one.tries()[5:] == [(2, 1), (3, 1)]

    run(test)


def test_a_deleted_consumer_ends() -> None:
    """The client is told, nothing comes any more, also when its bucket changes; a new subscribe makes it anew."""

    async def test() -> None:
        world = world_of()
        await world.bucket()
        await world.append(2)
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

    run(test)


def test_kinds_do_not_mix() -> None:
    """Explicit and receipt on one consumer: refused, before anything has changed."""

    async def test() -> None:
        world = world_of()
        await world.bucket()
        one = await worker(world)
        with pytest.raises(Conflict, match="explicit"):
            await world.subscribe("orders", reader=one.reader, replaces=one.delivery, consumer="w", ack="receipt")
        await world.append(1)
        await quiet()
        assert one.seqs == [1]
        await world.subscribe("orders", consumer="r", ack="receipt")
        with pytest.raises(Conflict, match="receipt"):
            await world.subscribe("orders", consumer="r")

    run(test)


def test_ephemeral_buckets_have_none() -> None:
    """Their entry says so, and nothing comes from them, now or when they are made later; the others go on."""

    async def test() -> None:
        world = world_of()
        await world.bucket()
        await world.bucket("brief", ephemeral=True)
        one = await worker(world, "orders", "brief", "later")
        assert [each.get("error") for each in one.answers] == [None, "ephemeral", "not_found"]
        await world.bucket("later", ephemeral=True)
        await world.append(1)
        await world.append(1, "id-brief")
        await quiet()
        assert [each["meta"]["bucket_name"] for each in one.events] == ["orders"]

    run(test)


def test_buckets_come_and_go() -> None:
    """Those made later have a consumer from their first event on; one that is deleted ends, and its name is free."""

    async def test() -> None:
        world = world_of()
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

    run(test)


def test_a_smaller_scope_ends_it() -> None:
    """What was out of a bucket that leaves the token's scope goes to others."""

    async def test() -> None:
        world = world_of()
        await world.bucket()
        await world.append(2)
        one = await worker(world)
        await until(lambda: len(one.seqs) == 2)
        other = await worker(world)
        one.delivery.rescope(replace(TOKEN, buckets=frozenset()))
        await quiet()
        assert other.tries() == [(1, 2), (2, 2)]
        assert one.reader.statuses()[-1]["status"] == "bucket_deleted"
        assert not one.ack(1)

    run(test)


def test_caught_up_and_positions() -> None:
    """Once everything was handed out to somebody; positions are those of the group."""

    async def test() -> None:
        world = world_of()
        await world.bucket()
        await world.append(4)
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

    run(test)


def test_a_gap_is_told() -> None:
    """What retention takes from under a consumer: in the answer, or while it is connected; delivery goes on behind."""

    async def test() -> None:
        world = world_of()
        await world.bucket()
        await world.append(4)
        one = await worker(world, max_in_flight=1)
        await until(lambda: one.seqs == [1])
        await world.append(6)
        await world.log.trim("id-orders", Retention(max_events=3), None)
        one.ack(1)
        await quiet()
        gaps = [each["gap"] for each in one.reader.statuses() if each["status"] == "gap"]
        assert gaps == [{"from": 2, "to": 7, "count": 6, "reason": "retention"}]
        assert one.seqs == [1, 8]
        one.leave()
        await world.append(5)
        await world.log.trim("id-orders", Retention(max_events=3), None)
        two = await worker(world)
        gap = two.answers[0]["gap"]
        assert (gap["from"], gap["to"], gap["reason"]) == (9, 12, "retention"), "8 was tried: it is a dead letter"
        await until(lambda: two.seqs == [13, 14, 15])
        three = await worker(world, on_gap="fail", max_in_flight=1)
        two.leave()
        await until(lambda: three.seqs == [13])
        await world.append(5)
        await world.log.trim("id-orders", Retention(max_events=3), None)
        three.ack(13)
        await until(lambda: three.reader.ends == ["gap_refused"])

    run(test)


@pytest.mark.parametrize("seed", range(8))
def test_what_is_given_back_comes_before_what_is_later(seed: int) -> None:
    """Large events: a share is more than one write may have, and reads take their time. First tries stay in order."""

    async def test() -> None:
        world = world_of(seed=seed)
        await world.bucket()
        workers = [await worker(world, max_in_flight=50) for _ in range(3)]
        await quiet()
        await world.append(45, body=b"x" * 60_000)
        for _ in range(300):
            await quiet(20)
            for each in workers:
                for seq in each.seqs:
                    each.ack(seq)
            if await floor(world) == 45:
                break
        assert sorted(seq for each in workers for seq in each.seqs) == list(range(1, 46))
        assert all(each.seqs == sorted(each.seqs) for each in workers)

    run(test)


def test_what_can_not_be_had_now_is_looked_for_again() -> None:
    """Where nothing comes of the log, what was taken is given back, and somebody tries again soon."""

    async def test() -> None:
        world = world_of()
        await world.bucket()
        one = await worker(world)
        await quiet()
        peek = world.log.peek
        world.log.peek = lambda *args: []  # type: ignore[method-assign]
        await world.append(3)
        await quiet()
        assert one.seqs == []
        world.log.peek = peek  # type: ignore[method-assign]
        await asyncio.sleep(1.1)
        assert one.tries() == [(1, 1), (2, 1), (3, 1)]

    run(test)


def test_a_full_window_opens_for_whoever_waits() -> None:
    """Ten thousand are out, so no new ones come, and nobody has caught up; one ack at the floor is enough."""

    async def test() -> None:
        world = world_of()
        await world.bucket()
        await world.append(10_002)
        one = await worker(world, max_in_flight=10_000, ack_wait=3600)
        await until(lambda: len(one.seqs) == 10_000)
        two = await worker(world)
        await quiet()
        assert two.seqs == []
        assert two.reader.statuses() == []
        one.ack(2)
        await quiet()
        assert two.seqs == []
        one.ack(1)
        await quiet()
        assert two.seqs == [10_001, 10_002]
        assert [each["status"] for each in two.reader.statuses()] == ["caught_up"]

    run(test)


def test_a_seek_while_events_are_read() -> None:
    """What was taken before it is not given: everything comes once from the new position on, and can be acked."""

    async def test() -> None:
        world = world_of()
        await world.bucket()
        await world.append(5)
        gate = asyncio.Event()
        read = world.log.read

        async def late(*args: Any) -> Any:
            await gate.wait()
            return await read(*args)

        world.log.read = late  # type: ignore[method-assign]
        world.log.peek = lambda *args: None  # type: ignore[method-assign]
        one = await worker(world)
        await quiet()
        async with world.ledgers.using(KEY) as ledger:
            ledger.progress.seek(2)
            ledger.tell()
        await quiet()
        world.log.read = read  # type: ignore[method-assign]
        gate.set()
        await quiet()
        assert one.seqs == [3, 4, 5]
        assert one.ack(5, all=True)
        assert await floor(world) == 5

    run(test)


def test_a_little_room_is_used_too() -> None:
    """A few acks make room at once, or nearly so; the order of what was given holds over several subscribes."""

    async def test() -> None:
        world = world_of()
        await world.bucket()
        await world.append(60)
        one = await worker(world, max_in_flight=20)
        await until(lambda: len(one.seqs) == 20)
        one.ack(1)
        await asyncio.sleep(0.01)
        assert one.seqs[20:] == [21]
        for seq in range(2, 8):
            one.ack(seq)
        await quiet()
        assert one.seqs[21:] == list(range(22, 28)), "a quarter does not wait"
        for _ in range(2):
            again = await world.subscribe(
                "orders", reader=one.reader, replaces=one.delivery, consumer="w", max_in_flight=25
            )
            one = Worker(world, *again)
            await quiet()
        assert one.seqs[27:] == list(range(28, 33))
        assert one.nak(8)
        await asyncio.sleep(0.01)
        assert one.tries()[-1] == (8, 2)
        assert one.ack(32, all=True)
        assert await floor(world) == 32
        assert await parked(world) == [8]

    run(test)


@given(seed=st.integers(0, 2**32), count=st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_everything_is_handled_whatever_happens(seed: int, count: int) -> None:
    """Connections come, go, ack, refuse, hang; time passes, the relay starts again: every event is acked in the end,
    nobody has more than agreed, nothing is out twice, and first tries come in order."""

    async def test() -> None:
        chance = random.Random(seed)
        world = world_of(seed=seed)
        await world.bucket()
        acked: set[int] = set()
        workers: list[Worker] = []
        most = 7
        total = 0

        def outstanding() -> list[int]:
            group = world.deliveries._groups._groups.get(KEY)
            return [] if group is None else list(group._out)

        def check() -> None:
            for each in workers:
                firsts = [seq for seq, attempt in each.tries() if attempt == 1]
                assert firsts == sorted(set(firsts))
                kept = each.delivery.kept
                assert kept is not None
                assert len(kept._in_flight) <= most
            assert sum(len(each.delivery.kept._in_flight) for each in workers if each.delivery.kept) == len(
                outstanding()
            )

        def act(each: Worker) -> None:
            kept = each.delivery.kept
            assert kept is not None
            items = list(kept._in_flight._items.values())
            if not items or each.reader.paused:
                return
            item = chance.choice(items)
            cursor = Cursor(item.epoch, item.taken.seq)
            match chance.randrange(4):
                case 0 | 1:
                    assert each.delivery.settle(Ack(cursor))
                    acked.add(item.taken.seq)
                case 2:
                    before = items[: items.index(item) + 1]
                    assert each.delivery.settle(Ack(cursor, all=True))
                    acked.update(one.taken.seq for one in before)
                case 3:
                    assert each.delivery.settle(Nak(cursor, chance.choice((0, 0.5, 20))))

        for _ in range(120):
            match chance.randrange(10):
                case 0 | 1 | 2:
                    number = chance.randrange(1, 6)
                    total += number
                    await world.append(number)
                case 3 | 4 | 5 if workers:
                    act(chance.choice(workers))
                case 6 if len(workers) < count:
                    workers.append(await worker(world, max_in_flight=most, max_deliver=0, ack_wait=5))
                case 7 if workers:
                    one = chance.choice(workers)
                    if chance.random() < 0.3:
                        workers.remove(one)
                        one.leave()
                    elif one.reader.paused:
                        one.reader.resume()
                    else:
                        one.reader.paused = chance.random() < 0.3
                case 8:
                    await asyncio.sleep(chance.choice((0, 0.3, 6)))
                case 9 if chance.random() < 0.2:
                    for each in workers:
                        each.reader.close()
                    old, workers[:] = list(workers), []
                    world.restart()
                    del old
            for _ in range(chance.randrange(30)):
                await asyncio.sleep(0)
            check()
        for each in workers:
            each.reader.resume()
        if not workers:
            workers.append(await worker(world, max_in_flight=most, max_deliver=0, ack_wait=5))
        for _ in range(3000):
            if acked == set(range(1, total + 1)) and await floor(world) == total:
                break
            for each in workers:
                for item in list(each.delivery.kept._in_flight._items.values()):  # type: ignore[union-attr]
                    assert each.delivery.settle(Ack(Cursor(item.epoch, item.taken.seq)))
                    acked.add(item.taken.seq)
            await asyncio.sleep(0.2)
        assert acked == set(range(1, total + 1))
        assert await floor(world) == total
        for each in workers:
            each.leave()
        await quiet()
        assert not world.deliveries._groups._groups

    run(test)
