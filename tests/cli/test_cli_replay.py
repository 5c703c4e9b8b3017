"""`relay replay` to an output or a consumer: the relay sends, this command says what, how fast and how far it is."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from relay_tornado import consumer_progress
from relay_tornado.admin import consumers
from relay_tornado.admin.consumers import ConsumerAdministration
from relay_tornado.storage.lock import Owner, read_owner
from tests.cli.runner import Runner
from tests.ops.filling import change, consume, fill


@pytest.fixture
def shop(relay: Runner) -> Runner:
    """A bucket with 1,100 events, an internal output, and a consumer that is done with all of them."""
    consume(relay.data, fill(relay.data, "shop", 1100))
    relay.json("output", "create", "shop", "--name", "worker")
    relay.json("consumer", "seek", "shop", "worker", "--to", "latest")
    return relay


def test_a_bucket_without_events(relay: Runner) -> None:
    """There is no range in it."""
    relay.json("bucket", "create", "shop")
    answer = relay("replay", "shop", "--from", "earliest", "--to-consumer", "worker")
    assert (answer.exit_code, "no event is kept in shop" in answer.output) == (1, True), answer.output


def test_a_range_of_more_than_one_request(shop: Runner) -> None:
    """All of it, to a consumer and to an output: the command goes on until there is no more."""
    answer = shop("replay", "shop", "--from", "earliest", "--to-consumer", "worker")
    assert (answer.exit_code, answer.stdout) == (0, "1100 of 1100 events scheduled again\n"), answer.output
    assert shop.json("consumer", "show", "shop", "worker")["parked"] == 1100
    answer = shop("replay", "shop", "--from", "earliest", "--to-output", "worker")
    assert (answer.exit_code, answer.stdout) == (0, "1100 of 1100 events sent again\n"), answer.output
    assert shop.json("logs", "list", "--bucket", "shop", "--limit", 1)["data"][0]["seq"] == 2200


def test_a_filter_holds_for_an_output(shop: Runner) -> None:
    """Only what fits is sent again; a consumer is given whole ranges alone, and says so."""
    wanted = ("replay", "shop", "--from", "seq:1", "--to", "seq:10", "--filter", "header:X-Odd~.")
    assert shop.json(*wanted, "--to-output", "worker")["sent"] == 5
    copies = shop.json("logs", "list", "--bucket", "shop", "--limit", 6)["data"]
    assert [int(each["resend_of"].split("-")[1]) for each in copies[:5]] == [10, 8, 6, 4, 2]
    assert copies[5]["seq"] == 1100
    assert "--filter goes with --to-url" in shop.misused(*wanted, "--to-consumer", "worker")


def test_events_that_left_are_counted(relay: Runner) -> None:
    """What is there is sent again, and how many are missing is told."""
    fill(relay.data, "shop", 10)
    leave = "UPDATE log SET first = 5, bytes = (SELECT sum(size) FROM event WHERE seq > 4)"
    change(relay.data / "relay.db", "DELETE FROM event WHERE seq < 5", leave)
    relay.json("output", "create", "shop", "--name", "worker")
    answer = relay("replay", "shop", "--from", "earliest", "--to-output", "worker")
    assert (answer.exit_code, answer.stdout) == (0, "6 of 10 events sent again, 4 missing\n"), answer.output


@pytest.mark.parametrize(("pace", "at_once", "least", "most"), [("10/s", 10, 0.0, 1.0), ("0.001/s", 1, 900.0, 1000.0)])
def test_stopped_between_two_steps(
    shop: Runner, monkeypatch: pytest.MonkeyPatch, pace: str, at_once: int, least: float, most: float
) -> None:
    """As many as its pace says go at once; Ctrl-C says from where the same command goes on."""
    slept: list[float] = []

    def interrupted(seconds: float) -> None:
        slept.append(seconds)
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupted)
    arguments = ("replay", "shop", "--from", "seq:5", "--to", "seq:50", "--to-consumer", "worker", "--pace", pace)
    answer = shop(*arguments, "--json")
    assert answer.exit_code == 130
    told = json.loads(answer.stdout)
    assert (told["first"], told["last"], told["sent"], told["next"]) == (5, 50, at_once, 5 + at_once)
    assert f"--from seq:{5 + at_once} --to seq:50 goes on there" in answer.stderr
    assert shop.json("consumer", "show", "shop", "worker")["parked"] == at_once
    assert least <= slept[0] <= most


@pytest.mark.parametrize(
    "pace", ["9" * 400 + "/s", "9" * 400 + "x", "0.00000000001/s", "0/s", "1000001x", "-1/s", "slow"]
)
def test_a_pace_that_none_can_be(relay: Runner, pace: str) -> None:
    """Nobody waits that long, or sends that much."""
    said = relay.misused("replay", "shop", "--from", "earliest", "--to-consumer", "worker", "--pace", pace)
    assert "a rate like 10/s, from 0.000001 to 1000000" in " ".join(said.split())


def test_the_pace_goes_over_requests(shop: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each request says what the one before it went by."""
    real = ConsumerAdministration.replay
    asked: list[str | None] = []
    told: list[str] = []

    async def replay(consumers: ConsumerAdministration, *arguments: Any, anchor: str | None, **others: Any) -> Any:
        asked.append(anchor)
        answer = await real(consumers, *arguments, anchor=anchor, **others)
        told.append(answer["anchor"])
        return answer

    monkeypatch.setattr(ConsumerAdministration, "replay", replay)
    monkeypatch.setattr(consumers, "MOST_EVENTS", 2)
    shop.json("replay", "shop", "--from", "last:5", "--to-consumer", "worker", "--pace", "original")
    assert asked == [None, told[0], told[1]]
    assert all(told)


def test_no_room_for_all(shop: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where as many wait as may, the rest waits here until there is room."""
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        monkeypatch.setattr(consumer_progress, "MOST_PARKED", 5)

    monkeypatch.setattr(consumer_progress, "MOST_PARKED", 3)
    monkeypatch.setattr(time, "sleep", sleep)
    answer = shop("replay", "shop", "--from", "last:5", "--to-consumer", "worker")
    assert (answer.exit_code, answer.stdout) == (0, "5 of 5 events scheduled again\n")
    assert slept == [0.5]


@pytest.mark.parametrize("pace", ["full", "2/s"])
def test_a_relay_may_start_meanwhile(shop: Runner, monkeypatch: pytest.MonkeyPatch, pace: str) -> None:
    """While it waits, for room or for its pace, it holds no data directory."""
    owners: list[Owner | None] = []

    def sleep(seconds: float) -> None:
        owners.append(read_owner(shop.data))
        monkeypatch.setattr(consumer_progress, "MOST_PARKED", 100)

    monkeypatch.setattr(consumer_progress, "MOST_PARKED", 3 if pace == "full" else 100)
    monkeypatch.setattr(time, "sleep", sleep)
    answer = shop("replay", "shop", "--from", "last:5", "--to-consumer", "worker", "--pace", pace)
    assert (answer.exit_code, answer.stdout) == (0, "5 of 5 events scheduled again\n"), answer.output
    assert owners == [None] * (1 if pace == "full" else 2)
