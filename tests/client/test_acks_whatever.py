"""Acks of a client that reads ahead, with the relay's side of its connection: nothing is done that the application did
not get, whatever is late, cut off or given again."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from relay_tornado.client.acks import Acks
from relay_tornado.consumer_progress import AT_ONCE, Progress
from relay_tornado.delivery.in_flight import InFlight, Item, Member
from relay_tornado.ids import parse_id
from tests.client.events import EPOCH


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Relay:
    """A consumer of one bucket, and the one connection that works on it; it has room for a few events."""

    def __init__(self, chance: random.Random) -> None:
        self.progress = Progress(0)
        self.head = 0
        self._chance = chance
        self.connect()

    def connect(self) -> None:
        """The connection before ends with this one."""
        if self.head:
            self.lapse(len(self._member.items))
        nothing: Any = None
        self._in_flight = InFlight(self._chance.choice((1, 3, 10)))
        self._member = Member(self, nothing, self._in_flight, nothing)  # type: ignore[arg-type]

    def give(self) -> list[tuple[str, int]]:
        """The ids that it sends, each with the number of the try."""
        given = []
        for taken in self.progress.take(self.head, self._in_flight.credit, 0.0):
            self.progress.begin(taken)
            self._in_flight.give(self._member, taken, EPOCH, None, 0.0)
            given.append((f"{EPOCH}-{taken.seq}", taken.attempt))
        return given

    def lapse(self, count: int) -> None:
        """Takes back the oldest events in flight."""
        for item in list(self._member.items)[:count]:
            self.progress.fail(item.taken, AT_ONCE, 0.0)
            self._in_flight.drop(item, answered=False)

    def seek(self) -> set[str]:
        """Somebody moves the consumer. Returns the events that it will not get for that."""
        for item in list(self._member.items):
            self._in_flight.drop(item, answered=False)
        self.progress.seek(self._chance.randrange(self.head + 1))
        return {f"{EPOCH}-{seq}" for seq in range(1, self.progress.floor + 1)}

    def hear(self, message: str) -> None:
        document = json.loads(message)
        cursor = parse_id(document["id"])
        if document["action"] == "ack":
            self._in_flight.ack(cursor, all=document.get("all", False))
        else:
            self._in_flight.nak(cursor, 0.0)

    def done(self, item: Item) -> None:
        self.progress.done(item.taken)
        self._in_flight.drop(item)

    def refuse(self, item: Item, delay: float) -> None:
        self.progress.fail(item.taken, AT_ONCE, 0.0)
        self._in_flight.drop(item)

    def finished(self) -> set[str]:
        seqs = range(1, self.head + 1)
        return {f"{EPOCH}-{seq}" for seq in seqs if not (self.progress.expects(seq) or self.progress.has_out(seq))}


@pytest.mark.parametrize("seed", range(200))
def test_nothing_is_done_that_the_application_did_not_answer(seed: int) -> None:
    """It handles events in order, and acks one, or all up to one, or refuses one; the process may die, too."""
    chance = random.Random(seed)
    clock = Clock()
    relay, acks = Relay(chance), Acks(clock)
    answered: set[str] = set()
    down: list[tuple[str, int]] = []
    up: list[str] = []
    ahead: list[tuple[str, int]] = []
    hand: list[str] = []
    for _ in range(150):
        clock.now += chance.choice((0, 0, 0.1, 3))
        match chance.choices(range(9), (15, 20, 10, 20, 15, 10, 7, 2, 2))[0]:
            case 0:
                relay.head += 1
            case 1:
                down += relay.give()
            case 2:
                relay.lapse(chance.randrange(1, 4))
            case 3 if down:
                event, attempt = down.pop(0)
                if not acks.came(event, "b", attempt):
                    ahead.append((event, attempt))
                up += acks.late()
            case 4 if ahead:
                event, attempt = ahead.pop(0)
                if attempt == 1 or not acks.answered(event):
                    acks.given(event)
                    hand.append(event)
            case 5 if hand:
                event = chance.choice(hand)
                place = hand.index(event)
                match chance.randrange(3):
                    case 0:
                        answered |= set(hand[: place + 1])
                        said = acks.ack(event, True)
                        del hand[: place + 1]
                    case 1:
                        answered.add(event)
                        said = acks.ack(event, False)
                        del hand[place]
                    case _:
                        said = acks.nak(event, None)
                        del hand[place]
                up += [*acks.late(), said] if said else acks.late()
            case 6 if up:
                relay.hear(up.pop(0))
            case 7:
                relay.connect()
                if chance.randrange(2):
                    acks.cut(chance.choice((0.0, 5.0)))
                else:
                    acks, hand = Acks(clock), []
                down, up, ahead = [], [], []
            case 8:
                answered |= relay.seek()
        assert relay.finished() <= answered
