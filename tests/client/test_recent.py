"""How far a subscriber is that knows repeats by their ids alone."""

from __future__ import annotations

import json

import pytest

from relay_tornado.client.errors import CheckpointError
from relay_tornado.client.positions import REMEMBERED, SURE, Recent, Untracked
from tests.client.events import event


def test_recent_ids() -> None:
    """Only what the connection before brought, or an earlier run was done with, is left out; memory is bounded."""
    recent = Recent({"last": 1})
    assert recent.since() == {"last": 1}
    assert recent.received(event(1))
    assert recent.received(event(1))
    recent.cut()
    assert not recent.received(event(1))
    assert recent.received(event(2))
    assert recent.done(event(2))
    assert not recent.done(event(2))
    again = Recent()
    again.load(recent.text())
    assert not again.received(event(2))
    assert again.received(event(1))
    for seq in range(3, 3 * REMEMBERED):
        again.received(event(seq))
    assert len(again._seen) == REMEMBERED
    for cuts in (1, 2):
        again.cut()
        assert len(again._before) == REMEMBERED
        again.received(event(cuts, bucket="c"))
    untracked = Untracked()
    untracked.received(event(1))
    untracked.cut()
    assert untracked.received(event(1))


def test_what_a_consumer_is_moved_back_to_is_given() -> None:
    """An id is a repeat where the relay may not have heard of it: just before a cut, until it has caught up, or sends
    what it has heard of."""
    now = [100.0]
    recent = Recent(clock=lambda: now[0])
    recent.began(0)
    recent.received(event(1))
    now[0] += SURE + 1
    for seq in (2, 3, 4):
        recent.received(event(seq))
    for seq in (5, 6, 7):
        recent.received(event(seq, bucket="c"))
    for _ in range(2):  # a connection that is cut at once changes nothing
        recent.cut()
        recent.began(0)
    assert not recent.received(event(2))
    assert recent.received(event(2))
    assert recent.received(event(1))
    assert recent.received(event(3))
    assert not recent.received(event(5, bucket="c"))
    recent.caught_up("c")
    assert recent.received(event(6, bucket="c"))
    now[0] += SURE + 1
    recent.cut()
    recent.began(0)
    assert recent.received(event(6, bucket="c"))
    assert recent.received(event(7, bucket="c"))
    assert recent.received(event(4))


def kept(recent: Recent) -> set[str]:
    """The ids that the next run passes over."""
    return set(json.loads(recent.text())["recent"])


def test_a_checkpoint_keeps_the_ids_of_the_last_seconds() -> None:
    """What the relay surely heard of is given again if it comes again, as when the position was moved back."""
    now = [100.0]
    recent = Recent(clock=lambda: now[0])
    recent.began(0)
    for seq in range(1, 6):
        recent.received(event(seq))
        now[0] += SURE / 2
    for seq in range(1, 6):
        recent.done(event(seq))
    assert kept(recent) == {event(seq).id for seq in (4, 5)}
    now[0] += 10 * SURE  # without an event: nothing is saved meanwhile
    assert kept(recent) == {event(seq).id for seq in (4, 5)}
    recent.cut(10 * SURE)
    assert kept(recent) == {event(5).id}
    recent.began(0)
    recent.received(event(6))
    assert kept(recent) == {event(5).id}  # the relay may still repeat it: it is not done
    now[0] += SURE + 1
    recent.received(event(7))
    recent.done(event(7))
    assert kept(recent) == {event(7).id}
    again = Recent(clock=lambda: now[0])
    again.load(recent.text())
    again.began(0)
    assert again.received(event(1))
    assert not again.received(event(7))
    again.done(event(1))
    assert kept(again) == {event(seq).id for seq in (1, 7)}


def test_a_checkpoint_of_a_burst() -> None:
    """Ids of the last seconds are kept also if too many came to remember when each did."""
    recent = Recent(clock=lambda: 100.0)
    recent.began(0)
    for seq in range(1, REMEMBERED + 10):
        recent.received(event(seq))
    recent.done(event(1))
    assert kept(recent) == {event(1).id}
    recent.cut()
    recent.began(0)
    recent.received(event(REMEMBERED + 10))
    assert kept(recent) == set()


@pytest.mark.parametrize("text", ['{"version":1,"recent":5}', '{"version":1,"recent":"abc"}', "[" * 100_000])
def test_a_damaged_checkpoint_of_recent_ids(text: str) -> None:
    """It is told as what it is."""
    with pytest.raises(CheckpointError):
        Recent().load(text)
