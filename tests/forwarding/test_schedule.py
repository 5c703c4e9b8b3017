"""When tries are repeated, how fast an output is fed, and when a destination is left alone: pure, by numbers."""

from __future__ import annotations

import itertools
import math
from collections import deque
from random import Random
from typing import Any

import pytest

from relay_tornado.forwarding.circuit import FAILURES, FIRST, LONGEST, Circuit
from relay_tornado.forwarding.schedule import QUICK, begun, schedule_of
from relay_tornado.forwarding.throttle import Throttle
from relay_tornado.ids import new_signing_secret
from relay_tornado.model import DAY
from relay_tornado.signatures import sign
from relay_tornado.wire.rest import MOST_AT_ONCE
from tests.forwarding.world import public

SECOND = 10**9


def times(spread: float = 1.0, **fields: Any) -> tuple[list[float], str]:
    """When an event that always fails is tried, in seconds from when it came in, and why it is given up."""
    schedule = schedule_of(public("http://h", **fields))
    now, found = 0.0, [0.0]
    while True:
        due = schedule.due(len(found), 0.0, now, spread, None)
        if isinstance(due, str):
            return found, due
        now = due
        found.append(due)


def test_retries() -> None:
    """Three quick tries, and `retries` more at growing distances; -1 is one try alone."""
    assert times() == ([0, 1, 4], "retries")
    assert times(retries=3) == ([0, 1, 4, 14, 34, 74], "retries")
    assert times(retries=-1) == ([0], "retries")
    many, _ = times(retries=1000)
    assert len(many) == 1003
    assert max(b - a for a, b in itertools.pairwise(many)) == 900


@pytest.mark.parametrize(("name", "deadline"), [("seconds", 25 * 60), ("medium", 16 * 3600), ("long", 30 * DAY)])
def test_named_schedules(name: str, deadline: float) -> None:
    """They go on until about 25 minutes, 16 hours, 30 days; a deadline that is given counts instead."""
    found, why = times(durability={"enabled": True, "schedule": name, "deadline": 0})
    assert why == "deadline"
    assert deadline * 0.8 < found[-1] <= deadline
    pauses = [b - a for a, b in itertools.pairwise(found)][QUICK - 1 :]
    assert sorted(pauses) == pauses
    assert len(found) < 120
    found, _ = times(durability={"enabled": True, "schedule": name, "deadline": 600 * SECOND})
    assert 200 < found[-1] <= 600
    assert times(durability={"enabled": False, "schedule": name}) == times()


def test_a_schedule_without_a_name() -> None:
    """It is the long one, as in the original."""
    usual = times(durability={"enabled": True, "schedule": "long"})
    for durability in ({"enabled": True}, {"enabled": True, "schedule": "", "deadline": 0}):
        assert times(durability=durability) == usual


def test_custom_schedule() -> None:
    """Its delays once each; with a deadline the last one again and again until then."""
    custom = {"enabled": True, "schedule": "custom", "custom_delays": [5 * SECOND, 60 * SECOND]}
    assert times(durability=custom) == ([0, 1, 4, 9, 69], "retries")
    assert times(durability=custom | {"deadline": 200 * SECOND}) == ([0, 1, 4, 9, 69, 129, 189], "deadline")
    for deadline in (0, 200 * SECOND):
        bare = {"enabled": True, "schedule": "custom", "custom_delays": None, "deadline": deadline}
        assert times(durability=bare) == ([0, 1, 4], "retries")
    assert times(durability=custom | {"custom_delays": [0, 5 * SECOND]}) == ([0, 1, 4, 4, 9], "retries")
    assert times(durability=custom, retries=-1) == ([0, 5, 65], "retries")


def test_spread() -> None:
    """Delays are spread, so that what failed together does not come back together."""
    assert times(0.8)[0] == [0, 0.8, pytest.approx(3.2)]
    assert times(1.2)[0] == [0, 1.2, pytest.approx(4.8)]


def test_deadlines_count_from_when_it_came_in() -> None:
    """But for what was first tried only after its deadline: sent again, or kept by a pause."""
    assert begun(100.0, None, 50.0) == 100.0
    assert begun(100.0, 120.0, 50.0) == 100.0
    assert begun(100.0, 500.0, 50.0) == 500.0
    assert begun(100.0, 500.0, None) == 100.0


def test_a_destination_may_ask_for_more() -> None:
    """Never less than Retry-After."""
    schedule = schedule_of(public("http://h"))
    assert schedule.due(1, 0.0, 0.0, 0.8, 30.0) == 30
    assert schedule.due(1, 0.0, 0.0, 1.0, 0.1) == 1


def test_throttle() -> None:
    """Rates by interval; concurrency; what is not enabled is one after the other without a limit."""
    for document in (None, {}, {"enabled": False, "rate": 1}, {"enabled": True}):
        throttle = Throttle(document)
        assert (throttle.at_once, throttle.depth, throttle.deadline, throttle.wait(0.0)) == (1, None, None, 0.0)
    throttle = Throttle({"enabled": True, "mode": "rate", "rate": 30, "interval": "minute"})
    for second in range(30):
        assert throttle.wait(second) == 0
        throttle.take()
        throttle.begin(second)
    assert throttle.wait(30.0) == pytest.approx(30.0)
    assert throttle.wait(60.0) == 0
    throttle.take()
    assert throttle.wait(60.0) == pytest.approx(1.0)
    throttle.give_back()
    assert throttle.wait(60.0) == 0, "what never began counts for nothing"
    throttle = Throttle({"enabled": True, "mode": "concurrency", "max_concurrent": 10**6, "rate": 1})
    assert throttle.at_once == MOST_AT_ONCE
    throttle.take()
    assert throttle.wait(0.0) == 0, "the rate belongs to the other mode"


@pytest.mark.parametrize("rate", [1, 3, 50, 5_000])
def test_no_interval_has_more_tries_than_its_rate(rate: int) -> None:
    """Whenever tries are wanted, and however long they take to begin: no second has more; and few are kept for it."""
    random = Random(rate)
    throttle = Throttle({"enabled": True, "mode": "rate", "rate": rate, "max_concurrent": 3})
    now, taken, begun = 0.0, 0, deque[float]()
    for _ in range(20_000):
        if taken < 3 and throttle.wait(now) == 0:
            throttle.take()
            taken += 1
        if taken and random.random() < 0.6:
            taken -= 1
            if random.random() < 0.3:
                throttle.give_back()
            else:
                throttle.begin(now)
                begun.append(now)
                while begun[0] <= now - 1.0:
                    begun.popleft()
                assert len(begun) <= rate
        now += random.expovariate(2 * rate)
        if random.random() < 0.001:
            now += 2.0
    assert throttle._window is not None
    assert len(throttle._window._entries) <= 1_001


def test_circuit() -> None:
    """It opens after failures one after the other, lets one try through, doubles its time, and closes by a success."""
    circuit = Circuit()
    for number in range(FAILURES):
        assert circuit.wait(0.0) == 0
        probe = circuit.begin()
        assert circuit.failed(0.0, probe) == (number == FAILURES - 1)
    expected = FIRST
    now = 0.0
    for _ in range(8):
        assert circuit.wait(now) == pytest.approx(expected)
        now += expected
        assert circuit.wait(now) == 0
        circuit.begin()
        assert circuit.wait(now) == math.inf
        circuit.cancelled(True)
        assert circuit.wait(now) == 0, "no try came of it"
        circuit.begin()
        assert not circuit.failed(now, True)
        expected = min(expected * 2, LONGEST)
    circuit.begin()
    assert circuit.succeeded()
    assert circuit.wait(now) == 0
    for _ in range(FAILURES - 1):
        assert not circuit.failed(now, True)
    circuit.succeeded()
    assert not circuit.failed(now, True), "only failures one after the other count"


def test_signature_vector() -> None:
    """The vector of Standard Webhooks' own reference; a new secret can sign."""
    made = dict(
        sign(
            "standard-webhooks",
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            b'{"test": 2432232314}',
            1614265330.9,
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
        )
    )
    assert made == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
    assert new_signing_secret() != new_signing_secret()
    assert sign("standard-webhooks", new_signing_secret(), b"", 0.0, "id")


def test_tries_of_before_the_circuit_opened() -> None:
    """They find nothing out: neither do they make room for a second try, nor do they make it longer."""
    circuit = Circuit()
    early = [circuit.begin() for _ in range(FAILURES + 2)]
    for probe in early[:FAILURES]:
        opened = circuit.failed(0.0, probe)
    assert opened
    probe = circuit.begin()
    circuit.cancelled(early[FAILURES])
    assert circuit.wait(FIRST) == math.inf
    assert not circuit.failed(1.0, early[FAILURES + 1])
    assert circuit.wait(FIRST) == math.inf
    assert not circuit.failed(FIRST, probe)
    assert circuit.wait(FIRST) == pytest.approx(2 * FIRST)


def fail(circuit: Circuit, times: int, now: float) -> None:
    for _ in range(times):
        circuit.failed(now, circuit.begin())


def test_a_circuit_that_closed_opens_for_as_long_as_at_first() -> None:
    """Each time is spread, so that many outputs do not try at once."""
    circuit = Circuit(lambda: 1.2)
    fail(circuit, FAILURES, 0.0)
    assert circuit.wait(0.0) == pytest.approx(FIRST * 1.2)
    fail(circuit, 1, 100.0)
    assert circuit.wait(100.0) == pytest.approx(2 * FIRST * 1.2)
    circuit.begin()
    circuit.succeeded()
    fail(circuit, FAILURES, 200.0)
    assert circuit.wait(200.0) == pytest.approx(FIRST * 1.2)


def test_a_destination_that_asks_for_a_while_gets_the_longest() -> None:
    """Of those that it asked for, and of that for which the circuit is open."""
    circuit = Circuit()
    circuit.hold(50.0)
    circuit.hold(20.0)
    assert circuit.wait(0.0) == 50.0
    fail(circuit, FAILURES, 0.0)
    assert circuit.wait(0.0) == 50.0


def test_attempts_that_begin_together_count_together() -> None:
    """Those within a thousandth of the interval, until the last of them is out of it; a later one counts alone."""
    throttle = Throttle({"enabled": True, "rate": 3, "interval": "second"})
    for now in (0.0, 0.0009, 0.0018):
        assert throttle.wait(now) == 0
        throttle.take()
        throttle.begin(now)
    assert throttle.wait(1.0005) == pytest.approx(0.0004)
    assert throttle.wait(1.001) == 0
    for now in (1.001, 1.0015):
        assert throttle.wait(now) == 0
        throttle.take()
        throttle.begin(now)
    assert throttle.wait(1.0016) == pytest.approx(0.0002)
