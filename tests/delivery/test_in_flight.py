"""What a connection was given and has not answered for, over many buckets (delivery/in_flight.py)."""

from __future__ import annotations

import asyncio
from collections.abc import ItemsView, ValuesView
from types import SimpleNamespace
from typing import Any

import pytest

from relay_tornado.consumer_progress import Taken
from relay_tornado.delivery.in_flight import InFlight, Item, Member
from relay_tornado.model import Cursor
from tests.delivery.virtual import event_loop as event_loop
from tests.delivery.virtual import virtual_test

BUCKETS, EACH = 40, 5


class Walked(dict[Any, Any]):
    """A dict that counts how often somebody goes through it."""

    times = 0

    def items(self) -> ItemsView[Any, Any]:
        self.times += 1
        return super().items()

    def values(self) -> ValuesView[Any]:
        self.times += 1
        return super().values()


class Group:
    """What becomes of its items."""

    def __init__(self) -> None:
        self.acked: list[int] = []

    def done(self, item: Item) -> None:
        self.acked.append(item.order)
        item.member.in_flight.drop(item)


def given() -> tuple[InFlight, list[Member], Group]:
    """A connection that was given some events of each of its buckets, in turn."""
    in_flight, group = InFlight(1_000), Group()
    in_flight._items = Walked()
    nobody: Any = None
    members = [Member(group, nobody, in_flight, nobody) for _ in range(BUCKETS)]  # type: ignore[arg-type]
    for seq in range(1, EACH + 1):
        for number, member in enumerate(members):
            in_flight.give(member, Taken(seq, 1, 0), f"{number:012}", None, 0.0)
    return in_flight, members, group


def test_what_is_of_one_bucket_is_known() -> None:
    """A connection that ends leaves thousands of buckets, and does not go through all that it has for each."""
    in_flight, members, _ = given()
    for left, member in enumerate(members, 1):
        assert [item.taken.seq for item in member.items] == list(range(1, EACH + 1))
        for item in list(member.items):
            in_flight.drop(item)
        assert member.items == {}
        assert len(in_flight._items) == (BUCKETS - left) * EACH
    assert in_flight._items.times == 0  # type: ignore[attr-defined]


def test_what_is_adopted_is_put_in_order_once() -> None:
    """A connection that subscribes anew takes over what it has of thousands of buckets; an ack of all up to one of
    these goes by the order in which they were given."""
    before, members, group = given()
    in_flight = InFlight(1_000, before)
    in_flight._items = walked = Walked()
    nobody: Any = None
    heirs = [Member(group, nobody, in_flight, nobody) for _ in members]  # type: ignore[arg-type]
    for old, new in zip(members, heirs, strict=True):
        in_flight.adopt(old, new)
        assert (len(old.items), len(new.items)) == (0, EACH)
    assert (len(before._items), len(walked), walked.times) == (0, BUCKETS * EACH, 0)
    assert in_flight.ack(Cursor(f"{3:012}", 2), all=True)
    assert sorted(group.acked) == list(range(1, BUCKETS + 5))
    assert walked.times == 1


def test_what_is_given_after_an_adoption_comes_after_everything() -> None:
    """Also after what the connection was given before it: an ack of all up to that does not ack what came later."""
    before, _, group = given()
    in_flight = InFlight(1_000, before)
    nobody: Any = None
    own, old, new = (Member(group, nobody, each, nobody) for each in (in_flight, before, in_flight))  # type: ignore[arg-type]
    for seq in range(1, BUCKETS * EACH + 10):
        last = in_flight.give(own, Taken(seq, 1, 0), "own", None, 0.0)
    before.give(old, Taken(1, 1, 0), "adopted", None, 0.0)
    in_flight.adopt(old, new)
    later = in_flight.give(own, Taken(1, 1, 0), "later", None, 0.0)
    assert in_flight.ack(Cursor("own", last.taken.seq), all=True)
    assert later.order not in group.acked
    assert list(own.items) == [later]


def test_what_is_given_while_the_next_subscription_is_made_comes_before_everything_of_that() -> None:
    """The subscription before ends its write. Its client acks what came in that, as it came then, and has yet to read
    what came since."""
    before, group = InFlight(10), Group()
    in_flight = InFlight(10, before)
    nobody: Any = None
    old, new = (Member(group, nobody, each, nobody) for each in (before, in_flight))  # type: ignore[arg-type]
    for seq in (1, 2, 3):
        before.drop(before.give(old, Taken(seq, 1, 0), "left", None, 0.0), answered=False)
    later = in_flight.give(new, Taken(1, 1, 0), "other", None, 0.0)
    in_flight.give(new, Taken(3, 2, 0), "left", None, 0.0)
    assert in_flight.ack(Cursor("left", 3), all=True)
    assert list(new.items) == [later]


def test_what_was_taken_back_is_remembered_for_longer_than_it_may_be_in_flight() -> None:
    """A client that may have two in flight is 200 events behind, and acks an old one as it came the first time: what it
    was given since is not acked with it."""
    in_flight, group = InFlight(2), Group()
    nobody: Any = None
    member = Member(group, nobody, in_flight, nobody)  # type: ignore[arg-type]
    for seq in range(1, 201):
        in_flight.drop(in_flight.give(member, Taken(seq, 1, 0), "e", None, 0.0), answered=False)
    later = in_flight.give(member, Taken(201, 1, 0), "e", None, 0.0)
    again = in_flight.give(member, Taken(1, 2, 0), "e", None, 0.0)
    assert in_flight.ack(Cursor("e", 1), all=True)
    assert group.acked == [again.order]
    assert list(member.items) == [later]


class Woken:
    """A receiver that counts how often it is woken."""

    times = 0

    def mark(self, bucket_id: str) -> None:
        self.times += 1


def short(limit: int) -> tuple[InFlight, Member, Woken]:
    """A member that waits for places, as all are taken."""
    in_flight, receiver, group, place = InFlight(limit), Woken(), Group(), SimpleNamespace(bucket_id="b")
    member = Member(group, receiver, in_flight, place)  # type: ignore[arg-type]
    for seq in range(limit):
        in_flight.give(member, Taken(seq, 1, 0), "e", None, 0.0)
    in_flight.run_short(member)
    return in_flight, member, receiver


@pytest.mark.parametrize(("limit", "enough"), [(12, 3), (1_000, 64)])
@virtual_test
async def test_who_waits_for_places_is_woken_once_there_are_enough(limit: int, enough: int) -> None:
    """A quarter of all, or 64; and not again for those that come after them."""
    in_flight, member, receiver = short(limit)
    for item in list(member.items)[: enough - 1]:
        in_flight.drop(item)
    assert receiver.times == 0
    for item in list(member.items)[:3]:
        in_flight.drop(item)
        assert receiver.times == 1
    await asyncio.sleep(1)
    assert receiver.times == 1


@virtual_test
async def test_fewer_places_are_worth_it_after_a_moment() -> None:
    """Once, too."""
    in_flight, member, receiver = short(12)
    for _ in range(2):
        in_flight.drop(next(iter(member.items)))
        assert receiver.times == 0
    await asyncio.sleep(1)
    assert receiver.times == 1
