"""`relay forward`: how far it is, over starts, signals and lines that can't be printed."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.acceptance.relay import TIMEOUT, Relay, wait_for
from tests.agent.world import QUICK, Agent, Target, beyond, forward, kept, logs, send


def test_several_at_once(relay: Relay, secret: str, target: Target, tmp_path: Path) -> None:
    """Others pass an event that is tried again; the checkpoint does not, and a later start repeats it alone."""
    path = relay.create_bucket("many")
    place = tmp_path / "many.checkpoint"
    arguments = ("many", target.url, "--concurrency", "3", "--checkpoint", str(place))
    with forward(tmp_path, relay, secret, *arguments) as agent:
        send(relay, path, 1)
        wait_for(lambda: place.exists() and kept(place).endswith("-1"), "the first event")
        send(relay, path, 2, X_Answer="503 " * 1000)
        for number in range(3, 9):
            send(relay, path, number)
        wait_for(lambda: len({*target.numbers()}) == 8, "the others")
        wait_for(lambda: beyond(place).endswith("-8"), "the checkpoint")
        assert kept(place).endswith("-1")
        assert agent.stop() == 0
        assert agent.printed()[-1]["unfinished"] == 1
    before = len(target.numbers())
    target.restart()
    with forward(tmp_path, relay, secret, *arguments):
        send(relay, path, 9)
        wait_for(lambda: 9 in target.numbers(), "the next event")
    assert {*target.numbers()[before:]} == {2, 9}


def test_one_that_is_stuck_among_many(relay: Relay, secret: str, target: Target, tmp_path: Path) -> None:
    """However many pass an event that is tried without end, a later start repeats none of them."""
    path = relay.create_bucket("stuck")
    place = tmp_path / "stuck.checkpoint"
    arguments = ("stuck", target.url, "--concurrency", "3", "--no-respond", "--checkpoint", str(place))
    with forward(tmp_path, relay, secret, *arguments) as agent:
        send(relay, path, 1, X_Answer="500")
        for number in range(2, 1_501):
            send(relay, path, number)
        wait_for(lambda: beyond(place).endswith("-1500"), "the checkpoint")
        assert kept(place).endswith("-0")
        assert agent.stop() == 0
    before = len(target.numbers())
    with forward(tmp_path, relay, secret, *arguments):
        send(relay, path, 1_501)
        wait_for(lambda: 1_501 in target.numbers(), "the next event")
    assert {*target.numbers()[before:]} == {1, 1_501}


@pytest.mark.parametrize("more", [QUICK, QUICK[:-1]], ids=["json", "people"])
def test_lines_that_can_not_be_printed(
    relay: Relay, secret: str, target: Target, tmp_path: Path, more: tuple[str, ...]
) -> None:
    """On a full disk, stderr with them or not, the events go on all the same; a reader that leaves ends it in order.
    In either case no event that was delivered comes again."""
    path = relay.create_bucket("mute")
    for number in (1, 2, 3):
        send(relay, path, number)

    def run(place: str, output: int, errors: int, count: int | None) -> tuple[int, str]:
        """Until so many events are done, or it ends by itself; the exit code, and what it said."""
        checkpoint = tmp_path / place
        arguments = ("forward", "mute", target.url, "--since", "earliest", "--checkpoint", str(checkpoint), *more)
        agent = Agent(tmp_path, relay.url, secret, *arguments)
        with subprocess.Popen(
            agent.command, env=agent.environment, stdin=subprocess.DEVNULL, stdout=output, stderr=errors, text=True
        ) as process:
            if count is not None:
                wait_for(lambda: checkpoint.exists() and kept(checkpoint).endswith(f"-{count}"), "the checkpoint")
                process.terminate()
            said = process.communicate(timeout=TIMEOUT)[1]
        return process.returncode, said or ""

    with Path("/dev/full").open("wb") as full:
        code, said = run("full", full.fileno(), subprocess.PIPE, 3)
        assert (code, said.count("standard output: the disk is full"), "Traceback" in said) == (0, 1, False)
        assert run("both", full.fileno(), subprocess.STDOUT, 3) == (0, "")
    reader, writer = os.pipe()
    os.close(reader)
    before = len(target.numbers())
    code, said = run("left", writer, subprocess.PIPE, None)
    os.close(writer)
    assert (code, "Traceback" in said) == (0, False), said
    assert kept(tmp_path / "left").endswith(f"-{len(target.numbers()) - before}")
    relay.call("bucket.delete", bucket="mute", force=True)


def test_the_first_start_is_kept(relay: Relay, secret: str, target: Target, tmp_path: Path) -> None:
    """What comes after it is not missed, though the agent was killed before any event."""
    path = relay.create_bucket("first")
    send(relay, path, 1)
    agent = forward(tmp_path, relay, secret, "first", target.url)
    with agent:
        wait_for(lambda: [*(tmp_path / "state" / "relay").glob("forward-first-*.checkpoint")], "the checkpoint")
    send(relay, path, 2)
    with agent:
        wait_for(target.seen, "the second event")
    assert target.numbers() == [2]


def test_where_to_begin(relay: Relay, secret: str, target: Target, tmp_path: Path) -> None:
    """--since counts as long as there is no checkpoint."""
    path = relay.create_bucket("since")
    send(relay, path, 1)
    send(relay, path, 2)
    for number in (2, 3):
        with forward(tmp_path, relay, secret, "since", target.url, "--since", "earliest") as agent:
            wait_for(lambda number=number: len(target.numbers()) == number, "the events")  # type: ignore[misc]
            assert agent.stop() == 0
        send(relay, path, number + 1)
    assert target.numbers() == [1, 2, 3]


def test_one_agent_a_checkpoint(relay: Relay, secret: str, target: Target, tmp_path: Path) -> None:
    """A second one does not start, and says who holds it."""
    relay.create_bucket("twice")
    with forward(tmp_path, relay, secret, "twice", target.url) as first:
        second = forward(tmp_path, relay, secret, "twice", target.url)
        assert first.process is not None
        with second:
            assert second.wait() == 1
        assert f"process {first.process.pid} " in second.said()
        assert "--checkpoint" in second.said()


@pytest.mark.usefixtures("hearing")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_what_runs_comes_to_its_end(
    relay: Relay, secret: str, target: Target, tmp_path: Path, number: signal.Signals
) -> None:
    """A signal waits for the answer to a request that is out, begins no other one, and exits with 0. That of a closed
    terminal comes twice."""
    bucket = f"ending-{number.name.lower()}"
    path = relay.create_bucket(bucket)
    with forward(tmp_path, relay, secret, bucket, target.url) as agent:
        send(relay, path, 1, X_Wait="5")
        send(relay, path, 2)
        wait_for(target.seen, "the request")
        agent.send_signal(number)
        wait_for(lambda: "stopping" in agent.said(), "the signal")
        if number == signal.SIGHUP:
            agent.send_signal(number)
        assert agent.wait() == 0
    assert target.numbers() == [1]
    assert agent.printed()[-1]["delivered"] == 1
    assert logs(relay, bucket)[1]["status"] == "sent"


def test_a_second_signal_ends_at_once(relay: Relay, secret: str, target: Target, tmp_path: Path) -> None:
    """What runs is left undone."""
    path = relay.create_bucket("hurry")
    with forward(tmp_path, relay, secret, "hurry", target.url) as agent:
        send(relay, path, 1, X_Wait="1000")
        wait_for(target.seen, "the request")
        agent.send_signal(signal.SIGINT)
        wait_for(lambda: "stopping" in agent.said(), "the first signal")
        assert agent.stop(signal.SIGINT) == 0
        assert agent.printed()[-1]["unfinished"] == 1
