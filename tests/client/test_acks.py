"""The client's acks: which go out, on which connection, and which are said again after a cut."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

import pytest

from relay_tornado.client.acks import MEMORY, REMEMBERED, SURE, Acks


def give(acks: Acks, ids: Iterable[str]) -> None:
    """The events come, and the application gets them."""
    for each in ids:
        acks.came(each, "orders")
        acks.given(each)


def test_an_ack_goes_out_on_the_events_own_connection() -> None:
    """On it at once; after a cut it waits for the event, which is not given to the application again."""
    now = [0.0]
    acks = Acks(lambda: now[0])
    assert not acks.came("a", "orders")
    assert not acks.came("b", "orders")
    assert acks.ack("a", False) == '{"action":"ack","id":"a"}'
    now[0] += SURE + 1
    acks.cut()
    assert acks.ack("b", False) is None
    assert acks.late() == []
    assert acks.came("b", "orders")
    assert acks.late() == ['{"action":"ack","id":"b"}']
    assert acks.late() == []
    # Long ago it was acknowledged, so the relay means it.
    assert not acks.came("a", "orders")
    assert not acks.came("b", "orders")


def test_an_ack_just_before_a_cut_is_said_again() -> None:
    """The relay may not have had it."""
    now = [0.0]
    acks = Acks(lambda: now[0])
    acks.came("a", "orders")
    acks.ack("a", False)
    for _ in range(2):
        acks.cut()
        acks.cut()
        now[0] += MEMORY - 1
        assert acks.came("a", "orders")
    acks.cut()
    now[0] += MEMORY + 1
    assert not acks.came("a", "orders")


def test_acks_of_a_long_silence_are_said_again() -> None:
    """However long it was: the relay had none of them. The newest are remembered, and all of the last seconds."""
    now = [0.0]
    acks = Acks(lambda: now[0])
    for each in range(2 * REMEMBERED):
        acks.came(str(each), "orders")
        acks.ack(str(each), False)
    now[0] += 6 * SURE
    acks.came("last", "orders")
    acks.ack("last", False)
    acks.cut(7 * SURE)
    assert not acks.came("0", "orders")
    assert acks.came(str(2 * REMEMBERED - 1), "orders")
    assert acks.came("last", "orders")


def test_events_that_are_never_acknowledged_take_bounded_memory() -> None:
    """The oldest was taken back by the relay: an ack of it waits for its redelivery. Those that may be in flight are
    acknowledged at once."""
    acks = Acks()
    for each in range(3 * REMEMBERED):
        acks.came(str(each), "orders")
    assert len(acks._open) + len(acks._before) <= 2 * REMEMBERED
    assert acks.ack(str(2 * REMEMBERED), False) is not None
    assert acks.ack(str(2 * REMEMBERED - 1), False) is None
    assert acks.late() == []
    assert acks.came(str(2 * REMEMBERED - 1), "orders")
    assert len(acks.late()) == 1


def test_each_ack_finds_the_oldest_at_once() -> None:
    """Some ten thousand are remembered, and the oldest leaves at each: a dict goes over all that left to find it."""
    now = 0.0
    acks = Acks(clock=lambda: now)
    for connection in range(2):
        for number in range(REMEMBERED + 50):
            now += SURE / 100
            acks.came(f"e-{connection}-{number}", "b")
            acks.ack(f"e-{connection}-{number}", False)
        assert len(acks._sent) <= REMEMBERED
        assert isinstance(acks._sent, OrderedDict)
        acks.cut()


def test_what_comes_again_after_everything_came_is_meant() -> None:
    """Once the relay has caught up, in this bucket, an ack from before the cut is said for nothing any more."""
    acks = Acks()
    for each, bucket in (("a", "orders"), ("b", "orders"), ("c", "others")):
        acks.came(each, bucket)
        acks.ack(each, False)
    acks.cut()
    assert acks.came("a", "orders")
    acks.caught_up("orders")
    assert not acks.came("b", "orders")
    assert acks.came("c", "others")


def test_what_a_dead_connection_held_is_acknowledged_again() -> None:
    """Where the relay took it for alive until after the bucket was caught up with: what was out there comes as one more
    attempt. What the application was given since is its own again."""
    now = [0.0]
    acks = Acks(lambda: now[0])
    for each in "abc":
        acks.came(each, "orders")
        acks.ack(each, False)
    acks.cut()
    acks.caught_up("orders")
    assert acks.came("a", "orders", 2)
    assert acks.late() == ['{"action":"ack","id":"a"}']
    assert not acks.came("b", "orders", 1)
    assert not acks.came("b", "orders", 2)
    acks.cut()
    now[0] += MEMORY + 1
    assert not acks.came("c", "orders", 2)


def test_what_the_relay_knows_and_sends_again_is_meant() -> None:
    """Its consumer was moved back while nobody was connected: so what follows is meant, too, in this bucket."""
    now = [0.0]
    acks = Acks(lambda: now[0])
    for each, bucket in (("a", "orders"), ("z", "others")):
        acks.came(each, bucket)
        acks.ack(each, False)
    now[0] += SURE + 1
    for each, bucket in (("b", "orders"), ("c", "orders"), ("y", "others")):
        acks.came(each, bucket)
        acks.ack(each, False)
    acks.cut()
    for each in "abc":
        assert not acks.came(each, "orders")
    assert acks.late() == []
    assert acks.came("y", "others")
    for each in range(2 * REMEMBERED):
        acks.came(str(each), "orders")
        acks.ack(str(each), False)
    now[0] += SURE + 1
    acks.cut()
    assert len(acks._known) == REMEMBERED


def test_an_ack_after_a_cut_is_of_its_event_alone() -> None:
    """Not of what came before it; nor is one that was given back acknowledged by what follows."""
    acks = Acks()
    for each in "abc":
        acks.came(each, "orders")
    acks.cut()
    assert acks.nak("c", None) is None
    for each in "bc":
        assert acks.ack(each, False) is None
    assert not acks.came("a", "orders")
    assert acks.came("b", "orders")
    assert not acks.came("c", "orders")


def test_everything_is_what_came_before_on_this_connection() -> None:
    """In the order in which it came the last time, less what was given back since."""
    acks = Acks()
    give(acks, "abcda")
    assert acks.nak("b", None) == '{"action":"nak","id":"b"}'
    assert acks.ack("c", True) == '{"action":"ack","id":"c","all":true}'
    acks.cut()
    assert acks.came("c", "orders")
    for each in "abd":
        assert not acks.came(each, "orders")


def test_everything_before_an_event_that_came_twice() -> None:
    """Is what came before its first time: the application may have got no further."""
    acks = Acks()
    give(acks, "abcabd")
    assert acks.ack("b", True) == '{"action":"ack","id":"b","all":true}'
    acks.cut()
    assert acks.came("a", "orders")
    assert acks.came("b", "orders")
    assert not acks.came("c", "orders")
    assert not acks.came("d", "orders")


@pytest.mark.parametrize("answer", ["ack", "nak"])
def test_everything_before_an_event_that_was_answered_between_its_times(answer: str) -> None:
    """The answer may be about the first time, and the application gets the second one after it: what came between that
    and the third is not acknowledged."""
    acks = Acks()
    give(acks, "aba")
    assert acks.ack("a", False) if answer == "ack" else acks.nak("a", None)
    give(acks, "c")
    acks.came("a", "orders", 3)
    assert acks.ack("a", True) == '{"action":"ack","id":"a","all":true}'
    acks.cut()
    assert acks.came("a", "orders", 4)
    assert not acks.came("b", "orders", 2)
    assert not acks.came("c", "orders", 2)


def test_everything_before_an_event_of_which_the_relay_heard_no_answer_for_long() -> None:
    """Is what came before its first time, although it was forgotten as an event of this connection."""
    acks = Acks()
    give(acks, (f"id-{each}" for each in range(REMEMBERED + 1)))
    acks.came("id-0", "orders", 2)
    assert acks.ack("id-0", True) == '{"action":"ack","id":"id-0","all":true}'
    acks.cut()
    assert acks.came("id-0", "orders", 3)
    assert not acks.came("id-5", "orders", 2)


def test_acks_of_everything_and_naks() -> None:
    """With everything, what came before is acknowledged, too; a nak after a cut says nothing."""
    acks = Acks()
    give(acks, "abcd")
    assert acks.ack("b", True) == '{"action":"ack","id":"b","all":true}'
    assert acks.nak("c", 5) == '{"action":"nak","id":"c","delay":5}'
    acks.came("e", "orders")
    acks.cut()
    assert acks.nak("e", None) is None
    assert acks.ack("d", True) is None
    assert acks.came("a", "orders")
    assert acks.came("b", "orders")
    assert acks.came("d", "orders")
    assert not acks.came("e", "orders")
    assert acks.ack("never", False) is None


def test_everything_is_only_what_the_application_got() -> None:
    """It may mean an event's delivery on an earlier connection, and have yet to get what came before it on this one.
    What it got before the event, on whatever connection, it means, also if that came again; not what it got after."""
    acks = Acks()
    give(acks, "bdea")
    assert acks.nak("b", None) is not None
    acks.cut()
    for each in "abcde":
        acks.came(each, "orders", 2)
    assert acks.ack("e", True) == '{"action":"ack","id":"e"}'
    assert acks.late() == ['{"action":"ack","id":"d"}']
    assert [each for each in "abcde" if acks.answered(each)] == ["d", "e"]
    acks.cut()
    assert acks.ack("a", True) is None
    assert [each for each in "abcde" if acks.came(each, "orders", 3)] == ["a", "d", "e"]
