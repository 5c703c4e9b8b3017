"""How far a subscriber is: in memory, in a checkpoint's text, across any order of events, cuts and restarts."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay_tornado.client.errors import CheckpointError
from relay_tornado.client.event import EventData
from relay_tornado.client.messages import parse_position
from relay_tornado.client.positions import ABSENT, STRETCHES, Left, Passed, Positions, Recent, Tracker
from tests.client.events import EPOCH, event

LATER = "bcdefghijklm"


def entry(start: int, bucket: str = "b", epoch: str = EPOCH, gap: Any = None) -> dict[str, Any]:
    return {"bucket_id": bucket, "bucket_name": f"name of {bucket}", "epoch": epoch, "start": start, "gap": gap}


def begun(since: Any = None, start: int = 1) -> Positions:
    positions = Positions(since)
    positions.began(1000.0)
    passed = positions.subscribed(entry(start))
    assert passed is not None
    positions.reached(passed)
    return positions


def kept(positions: Tracker) -> Any:
    return json.loads(positions.text())["buckets"]["b"]


def test_of_buckets_that_are_gone_some_are_remembered() -> None:
    """Of those that were deleted while nobody listened: each would else be said at every subscribe."""
    positions = begun("earliest")
    for number in range(ABSENT + 10):
        positions.subscribed(entry(1, bucket=str(number)))
    positions.listed({"b"})
    assert positions.since().keys() == {"b", "*", *map(str, range(10, ABSENT + 10))}


def test_since_goes_on_where_it_was() -> None:
    """The first subscribe asks for what was wanted, later ones for each bucket's last id; new buckets come whole."""
    for asked, rest in (
        (None, {"time": 1000.0}),
        ("latest", {"time": 1000.0}),
        ({"last": 3}, {"time": 1000.0}),
        (f"{EPOCH}-7", {"time": 1000.0}),
        ("earliest", "earliest"),
        ({"time": 5}, {"time": 5}),
    ):
        positions = Positions(asked)
        assert positions.since() == asked
        positions.began(1000.0)
        positions.subscribed(entry(8))
        assert positions.since() == {"b": f"{EPOCH}-7", "*": rest}
    assert begun({"last": "earliest"}).since()["last"] == "earliest"  # a bucket of that name
    for rest, later in (({"last": 2}, {"time": 1000.0}), ("earliest", "earliest")):
        named = begun({"name of c": "earliest", "*": rest})
        for _ in range(2):
            assert named.since() == {"b": f"{EPOCH}-0", "name of c": "earliest", "*": later}


def test_a_bucket_of_a_name_that_is_made_while_away_is_met_from_its_first_event() -> None:
    """Where `since` names it: what is relative to its head, or an id, counts at the beginning only."""
    for asked in ("latest", {"last": 3}, f"{EPOCH}-7"):
        positions = begun({"name of c": asked, "name of d": {"time": 5}})
        assert positions.since() == {
            "name of c": {"time": 1000.0}, "name of d": {"time": 5}, "b": f"{EPOCH}-0", "*": {"time": 1000.0},
        }  # fmt: skip
    again = Positions({"name of c": f"{EPOCH}-7", "name of d": "latest", "name of e": {"last": 3}})
    again.load(positions.text())
    assert again.since()["name of c"] == f"{EPOCH}-7"
    assert again.since()["name of d"] == again.since()["name of e"] == {"time": 1000.0}


def test_a_clock_that_is_set_back() -> None:
    """A bucket that was made since then has times from before this began, and is met from its first event all the
    same. A clock that goes forward, or is told a little late, changes nothing."""
    now = [50.0]
    positions = Positions(None, clock=lambda: now[0])
    told = []
    for passed, time in ((0, 1000.0), (10, 1009.0), (10, 5000.0), (10, 30.0), (10, 4000.0), (10, 50.0)):
        now[0] += passed
        positions.dialled(time)
        positions.since()
        positions.began(time)
        told.append(positions.since()["*"])
    assert told == [{"time": 1000.0}] * 3 + [{"time": 0.0}] * 3


def test_a_clock_that_was_set_back_between_two_runs() -> None:
    """Nobody knows by how much: what was not there before comes from its beginning."""
    again = Positions(None)
    again.load(begun().text())
    again.dialled(1000.0)
    assert again.since()["*"] == {"time": 1000.0}
    again = Positions(None)
    again.load(begun().text())
    again.dialled(900.0)
    assert again.since()["*"] == {"time": 0.0}


def test_a_position_between_two_copies_is_kept() -> None:
    """Delivery that begins within an event, behind one of its copies, does not go back to its first copy."""
    for key in (None, "b", "name of b", "*"):
        positions = begun(f"{EPOCH}-7-2" if key is None else {"c": "latest", key: f"{EPOCH}-7-2"}, start=7)
        assert positions.since()["b"] == f"{EPOCH}-7-2"
        assert positions.received(event(7, 2)) is False
        assert positions.received(event(7, 3)) is True
    assert begun(f"{EPOCH}-7", start=8).since()["b"] == f"{EPOCH}-7"
    # Where events are lost it begins where the relay says.
    for asked, start in (("7-2", 1), ("7-2", 12), ("7", 1), ("7", 7), ("7", 12)):
        assert begun(f"{EPOCH}-{asked}", start=start).since()["b"] == f"{EPOCH}-{start - 1}"


def test_repeats_are_passed_over() -> None:
    """Within an epoch nothing at or below the position is given again; another epoch is the relay's word."""
    positions = begun()
    assert positions.received(event(1, 1)) is True
    assert positions.received(event(1, 2)) is True
    assert positions.received(event(1, 1)) is False
    positions.passed("b", f"{EPOCH}-1")
    assert positions.received(event(1, 3)) is False
    assert positions.received(event(2)) is True
    assert positions.received(event(2, 1)) is False
    assert positions.received(event(1, epoch=LATER)) is True


def test_a_gap_moves_the_position_past_it() -> None:
    """After a gap the subscriber is where delivery goes on, also when no event came since."""
    positions = begun()
    positions.received(event(1))
    assert positions.subscribed(entry(2)) is None
    passed = positions.subscribed(entry(40, epoch=LATER, gap={"reason": "reset"}))
    assert passed == Passed("b", f"{LATER}-39")
    positions.given(event(1))
    positions.reached(passed)
    assert kept(positions)["id"] == f"{EPOCH}-0"
    assert positions.done(event(1)) is True
    assert kept(positions)["id"] == f"{LATER}-39"
    assert positions.since()["b"] == f"{LATER}-39"


def test_a_gap_may_lead_back() -> None:
    """Where the relay has lost what was received, what it sends under the same ids is no repeat."""
    positions = begun()
    assert positions.received(event(5)) is True
    assert positions.subscribed(entry(3, gap={"reason": "future"})) == Passed("b", f"{EPOCH}-2")
    assert [positions.received(event(seq)) for seq in (3, 4, 5, 5)] == [True, True, True, False]


def test_deleted_buckets_are_forgotten() -> None:
    """Nothing of them is asked for or kept; words about unknown buckets change nothing."""
    positions = begun()
    for left in (Left("b"), Left("never heard of")):
        positions.left(left)
        positions.deleted(left)
    assert positions.passed("b", f"{EPOCH}-5") is None
    positions.reached(Passed("b", f"{EPOCH}-5"))
    positions.given(event(1))
    assert positions.done(event(1)) is False
    assert json.loads(positions.text())["buckets"] == {}


def test_a_bucket_that_leaves_and_comes_back() -> None:
    """What was received before is no less received; it is forgotten only where it has not come back by the time that
    the application got all of it."""
    positions = begun()
    assert [positions.received(event(seq)) for seq in (1, 2)] == [True, True]
    once, again = Left("b"), Left("b")
    positions.left(once)
    assert positions.since()["b"] == f"{EPOCH}-2"
    assert [positions.received(event(seq)) for seq in (1, 2, 3)] == [False, False, True]
    positions.left(again)
    positions.deleted(once)
    for seq in (1, 2, 3):
        positions.given(event(seq))
        assert positions.done(event(seq))
    assert kept(positions)["id"] == f"{EPOCH}-3"
    positions.deleted(again)
    assert json.loads(positions.text())["buckets"] == {}


def test_a_bucket_that_joins_later() -> None:
    """Its first event gives it a position, which pings move."""
    positions = begun()
    assert positions.received(event(1, bucket="c")) is True
    assert positions.since()["c"] == f"{EPOCH}-1"
    assert json.loads(positions.text())["buckets"]["c"]["id"] == f"{EPOCH}-0"
    assert positions.passed("c", f"{EPOCH}-3") == Passed("c", f"{EPOCH}-3")
    assert positions.received(event(3, bucket="c")) is False
    assert positions.received(event(5, bucket="d")) is True
    assert json.loads(positions.text())["buckets"]["d"]["id"] == f"{EPOCH}-4"


def test_a_renamed_bucket_keeps_its_position() -> None:
    """An event, or the answer to a subscribe, says what it is called now."""
    positions = begun()
    assert positions.received(replace(event(1), bucket="new")) is True
    assert kept(positions)["name"] == "new"
    passed = positions.passed("b", f"{EPOCH}-2")
    assert passed == Passed("b", f"{EPOCH}-2")
    positions.reached(passed)
    assert kept(positions)["id"] == f"{EPOCH}-2"
    assert positions.subscribed(entry(3) | {"bucket_name": "newer"}) is None
    assert kept(positions)["name"] == "newer"
    assert positions.since()["b"] == f"{EPOCH}-2"


def test_what_is_no_checkpoint_is_refused() -> None:
    """A text of another kind, or a damaged one, raises with words."""
    recent = Recent()
    for text in ("", "{", "[]", "{}", '{"version": 2, "begun": 1, "buckets": {}}', recent.text()):
        with pytest.raises(CheckpointError, match="delete it"):
            Positions(None).load(text)
    for rest in (
        '"buckets": 3, "begun": 1',
        '"buckets": {}',
        '"buckets": {}, "begun": "x"',
        '"buckets": {}, "begun": []',
        '"buckets": {"b": {"name": "n", "id": "x", "done": [["one"]]}}, "begun": 1',
    ):
        with pytest.raises(CheckpointError):
            Positions(None).load(f'{{"version": 1, {rest}}}')
    with pytest.raises(CheckpointError):
        recent.load(begun().text())


def test_what_is_done_beyond_an_open_event_is_kept_over_restarts() -> None:
    """As long as an earlier one is open: not received anew, in the intake, and passed; then it is let go."""
    text = ""
    for run in range(3):
        positions = Positions("earliest") if run else begun("earliest")
        if run:
            positions.load(text)
        assert positions.received(event(1)) is True
        positions.given(event(1))
        for seq in (2, 3):
            got = positions.received(event(seq))
            if run:
                assert got == Passed("b", event(seq).id)
                assert kept(positions)["done"][-1] == [event(2).id, event(3).id]
                positions.reached(got)
            else:
                positions.given(event(seq))
                positions.done(event(seq))
        positions.reached(Passed("b", f"{EPOCH}-3"))
        text = positions.text()
        assert kept(positions) == {"name": "name of b", "id": f"{EPOCH}-0", "done": [[event(2).id, event(3).id]]}
    assert positions.done(event(1)) is True
    assert positions.done(event(1)) is False
    assert kept(positions) == {"name": "name of b", "id": f"{EPOCH}-3"}


def test_a_position_told_at_an_open_event_does_not_count_as_done() -> None:
    """A ping tells the id of the last event that was sent; what is done after that is known without that event."""
    positions = begun("earliest")
    for seq in (1, 2):
        assert positions.received(event(seq)) is True
        positions.given(event(seq))
    told = positions.passed("b", event(2).id)
    assert told is not None
    positions.reached(told)
    for seq in (3, 4):
        positions.given(event(seq))
        positions.done(event(seq))
    assert kept(positions)["done"] == [[event(3).id, event(4).id]]
    again = Positions("earliest")
    again.load(positions.text())
    assert [again.received(event(seq)) is True for seq in (1, 2, 3, 4)] == [True, True, False, False]


def test_what_is_done_behind_an_open_event_takes_no_room() -> None:
    """However much it is, in memory and in the text: and a later run gets none of it again."""
    positions = begun()
    newest = 30_000
    for seq in range(1, newest + 1):
        for output in (1, 2):
            positions.received(event(seq, output))
            positions.given(event(seq, output))
            assert (seq, output) == (1, 2) or positions.done(event(seq, output))
    trail = positions._buckets["b"].trail
    assert (len(trail._open), len(trail.beyond())) == (1, 1)
    assert kept(positions)["id"] == f"{EPOCH}-1-1"
    assert kept(positions)["done"] == [[f"{EPOCH}-2-1", f"{EPOCH}-{newest}-2"]]
    again = Positions(None)
    again.load(positions.text())
    assert again.received(event(1, 2)) is True
    again.given(event(1, 2))
    for seq in range(2, newest + 1):
        for output in (1, 2):
            assert again.received(event(seq, output)) == Passed("b", event(seq, output).id)
            again.reached(Passed("b", event(seq, output).id))
    assert again.received(event(newest + 1, 1)) is True
    assert again.done(event(1, 2))
    assert kept(again) == {"name": "name of b", "id": f"{EPOCH}-{newest}-2"}


def test_stretches_over_epochs() -> None:
    """A stretch is of one epoch; what was done of another is known beside it, and ids of an older text count, too."""
    positions = begun()
    for epoch, seq in ((EPOCH, 1), (EPOCH, 2), (EPOCH, 3), (LATER, 4), (LATER, 5)):
        positions.received(event(seq, epoch=epoch))
        positions.given(event(seq, epoch=epoch))
        assert seq == 1 or positions.done(event(seq, epoch=epoch))
    assert kept(positions)["done"] == [[f"{EPOCH}-2", f"{EPOCH}-3"], [f"{LATER}-4", f"{LATER}-5"]]
    document = json.loads(positions.text())
    document["buckets"]["b"]["done"] += [f"{LATER}-7", f"{LATER}-8", "what is no id"]
    again = Positions(None)
    again.load(json.dumps(document))
    got = [again.received(event(seq, epoch=LATER)) for seq in (4, 5, 6, 7, 8, 9)]
    assert [each is True for each in got] == [False, False, True, False, False, True]
    again.given(event(6, epoch=LATER))
    assert kept(again)["done"] == [[f"{EPOCH}-2", f"{EPOCH}-3"], f"{LATER}-7", f"{LATER}-8"]


def test_an_event_that_is_given_twice_is_open_once() -> None:
    """Where a gap led back over one that is open, it is the later one that counts."""
    positions = begun()
    for seq in (1, 2):
        positions.given(event(seq))
    positions.reached(Passed("b", f"{EPOCH}-0"))
    for seq in (1, 2):
        positions.given(event(seq))
        assert positions.done(event(seq))
    assert kept(positions) == {"name": "name of b", "id": f"{EPOCH}-2"}


def test_an_event_that_is_given_twice_is_not_done_by_that() -> None:
    """Where a gap led back over it: the next run is given it again."""
    positions = begun("earliest")
    for seq in (1, 2, 3):
        positions.given(event(seq))
    positions.done(event(3))
    positions.reached(Passed("b", f"{EPOCH}-1"))
    for seq in (2, 3):
        positions.given(event(seq))
    positions.done(event(3))
    again = Positions("earliest")
    again.load(positions.text())
    assert [again.received(event(seq)) is True for seq in (1, 2, 3)] == [True, True, False]
    for seq in (1, 2):
        assert positions.done(event(seq))
    assert kept(positions) == {"name": "name of b", "id": f"{EPOCH}-3"}


def test_a_checkpoint_stays_small() -> None:
    """Of stretches between events that are open so many are kept: the first ones, which come first again."""
    positions = begun()
    for seq in range(1, 2 * STRETCHES + 4):
        positions.given(event(seq))
        assert seq % 2 or positions.done(event(seq))
    assert kept(positions)["done"][0] == f"{EPOCH}-2"
    assert len(kept(positions)["done"]) == STRETCHES


LOGS = (
    [event(seq) for seq in range(1, 9)],
    [event(seq, output) for seq in range(1, 9) for output in (1, 2)],
)
STEPS = st.lists(st.sampled_from(("receive", "take", "done", "cut", "crash", "ping", "nothing")), max_size=80)


@given(st.sampled_from(LOGS), STEPS, st.data())
def test_nothing_twice_on_one_checkpoint_and_nothing_missed(
    log: list[EventData], steps: list[str], data: st.DataObject
) -> None:
    """Whatever happens: what a saved text says to be done is never given again, and everything is given in the end.

    A log of events, or of two copies of each, a server that begins exactly behind the position that it is asked for, an
    application that takes events and is done with them in any order, cuts, and crashes that lose all but the text.
    """
    positions = Positions("earliest")
    text, at, connected = None, 0, False
    queue: list[EventData | Passed] = []
    hand: list[EventData] = []
    done_in_text: set[str] = set()
    done: set[str] = set()

    def order(id: str) -> tuple[int, float]:
        position = parse_position(id)
        assert position is not None
        return position.order

    def connect() -> None:
        nonlocal at, connected
        since = positions.since()
        after = since["b"] if isinstance(since, dict) and "b" in since else f"{EPOCH}-0"
        place = parse_position(after)
        assert place is not None
        at = sum(1 for each in log if order(each.id) <= place.order)
        positions.began(1.0)
        start = log[at].seq if at < len(log) else log[-1].seq + 1
        passed = positions.subscribed(entry(start))
        if passed is not None:
            queue.append(passed)
        connected = True

    def receive() -> None:
        nonlocal at
        if at < len(log):
            got = positions.received(log[at])
            at += 1
            if got is True:
                queue.append(log[at - 1])
            elif got is not False:
                queue.append(got)

    def take() -> None:
        item = queue.pop(0)
        if isinstance(item, Passed):
            positions.reached(item)
            return
        assert item.id not in done_in_text
        positions.given(item)
        hand.append(item)

    for step in steps:
        if not connected:
            connect()
        if step == "receive":
            receive()
        elif step == "take" and queue:
            take()
        elif step == "done" and hand:
            finished = hand.pop(data.draw(st.integers(0, len(hand) - 1)))
            positions.done(finished)
            done.add(finished.id)
            text = positions.text()
            done_in_text = set(done)
        elif step == "ping" and at and (at == len(log) or log[at].seq > log[at - 1].seq):
            passed = positions.passed("b", f"{EPOCH}-{log[at - 1].seq}")
            assert passed is not None
            queue.append(passed)
        elif step == "cut":
            positions.cut()
            connected = False
        elif step == "crash":
            positions = Positions("earliest")
            if text is not None:
                positions.load(text)
            done = set(done_in_text)
            queue, hand, connected = [], [], False
    if not connected:
        connect()
    while at < len(log):
        receive()
    while queue:
        take()
    while hand:
        finished = hand.pop()
        positions.done(finished)
        done.add(finished.id)
    assert done == {each.id for each in log}
    assert kept(positions)["id"] in (log[-1].id, f"{EPOCH}-{log[-1].seq}")
    assert "done" not in kept(positions)
