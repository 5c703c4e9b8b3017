"""`relay replay` against a real relay and a real target."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

import pytest

from relay_tornado.client import subscribe
from tests.acceptance.relay import TIMEOUT, Relay, wait_for
from tests.agent.world import Agent, Target, logs, send

QUICK = ("--max-delay", "0.05")


def replay(
    relay: Relay, secret: str, *arguments: str, errors: int | IO[bytes] = subprocess.PIPE
) -> subprocess.CompletedProcess[str]:
    """`relay replay` over the network, whose notes go to `errors`."""
    environment = relay.environment() | {"RELAY_SECRET": secret, "PYTHONUNBUFFERED": ""}
    del environment["RELAY_DATA"]
    command = [sys.executable, "-m", "relay_tornado", "--url", relay.url, "replay", *arguments]
    return subprocess.run(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        timeout=TIMEOUT,
    )


@pytest.fixture(scope="module")
def shop(relay: Relay) -> str:
    """A bucket that stays as `ten` makes it; returns the path of its input."""
    return ten(relay, "shop")


def ten(relay: Relay, bucket: str) -> str:
    """Makes a bucket with ten events, which has two outputs; returns the path of its input."""
    path = relay.create_bucket(bucket)
    for name in ("worker", "other"):
        relay.command("output", "create", bucket, "--name", name, "--destination", "http://localhost:1/")
    for number in range(1, 11):
        send(relay, f"{path}/p{number}?q={number}", number, bytes([number]), X_Even=str(number % 2 == 0))
    return path


@pytest.mark.parametrize(
    ("arguments", "numbers"),
    [
        (["--from", "earliest"], range(1, 11)),
        (["--from", "last:3"], [8, 9, 10]),
        (["--from", "seq:2", "--to", "seq:4"], [2, 3, 4]),
        (["--from", "last:20", "--to", "last:9"], [1, 2]),
        (["--from", "1h"], range(1, 11)),
        (["--from", "0", "--to", "2100-01-01"], range(1, 11)),
        (["--from", "seq:3", "--filter", "header:X-Even=True", "--concurrency", "1"], [4, 6, 8, 10]),
        (["--from", "seq:3", "--to", "seq:5", "--filter", "header:X-Even=None"], []),
        (["--from", "seq:1", "--pace", "1000/s"], range(1, 11)),
        (["--from", "seq:1", "--pace", "original"], range(1, 11)),
        (["--from", "seq:1", "--pace", "1000x"], range(1, 11)),
    ],
)
def test_a_range_goes_to_a_url(
    relay: Relay, secret: str, shop: str, target: Target, arguments: list[str], numbers: Any
) -> None:
    """Each event of it once, in order, whatever the bucket's outputs are; the log grows by nothing."""
    before = logs(relay, "shop")
    run = replay(relay, secret, "shop", *arguments, "--to-url", f"{target.url}/again", "--json")
    assert run.returncode == 0, run.stderr
    assert target.numbers() == list(numbers)
    for each in target.seen():
        assert each.line == f"POST /again/p{each.number}?q={each.number} HTTP/1.1"
        assert each.body == bytes([each.number])
    assert json.loads(run.stdout)["sent"] == len(list(numbers))
    assert logs(relay, "shop") == before


def test_ids_are_places(relay: Relay, secret: str, shop: str, target: Target) -> None:
    """Both ends are in the range, also as the ids of copies."""
    ids = {seq: log["id"] for seq, log in logs(relay, "shop").items()}
    arguments = ("shop", "--from", ids[3], "--to", f"{ids[5]}-1", "--to-url", target.url)
    run = replay(relay, secret, *arguments)
    assert (run.returncode, run.stdout) == (0, "3 of 3 events sent again\n")
    assert target.numbers() == [3, 4, 5]


def test_on_the_relays_own_machine(relay: Relay, shop: str, target: Target) -> None:
    """With --data it needs no secret, and leaves no token."""
    before = relay.command("token", "list")
    run = relay.run("replay", "shop", "--from", "last:2", "--to-url", target.url)
    assert (run.returncode, run.stdout) == (0, "2 of 2 events sent again\n"), run.stderr
    assert target.numbers() == [9, 10]
    assert relay.command("token", "list") == before


def test_what_the_target_says(relay: Relay, secret: str, target: Target) -> None:
    """Refused and failed events are named and counted; a failed one makes the exit code 1."""
    path = relay.create_bucket("mixed")
    for number, answer in enumerate(("200", "404", "503", "503 200"), 1):
        send(relay, path, number, X_Answer=answer)
    run = replay(relay, secret, "mixed", "--from", "earliest", "--to-url", target.url, "--max-tries", "2", *QUICK)
    assert (run.returncode, run.stdout) == (1, "2 of 4 events sent again, 1 refused, 1 failed\n")
    ids = {seq: log["id"] for seq, log in logs(relay, "mixed").items()}
    assert f"{ids[2]}: the target answered 404" in run.stderr
    assert f"{ids[3]} failed: 503" in run.stderr
    assert target.numbers() == [1, 2, 3, 3, 4, 4]


def test_notes_that_can_not_be_written(relay: Relay, secret: str, target: Target) -> None:
    """As on a full disk: the work goes on, and says what came of it as if they had been."""
    path = relay.create_bucket("mute")
    for number, answer in enumerate(("404", "503 200", "200"), 1):
        send(relay, path, number, X_Answer=answer)
    with Path("/dev/full").open("wb") as full:
        run = replay(relay, secret, "mute", "--from", "earliest", "--to-url", target.url, *QUICK, errors=full)
    assert (run.returncode, run.stdout) == (0, "2 of 3 events sent again, 1 refused\n")
    assert target.numbers() == [1, 2, 2, 3]


def test_events_that_have_left(relay: Relay, secret: str, target: Target) -> None:
    """They are told and counted; the rest of the range goes on."""
    path = relay.create_bucket("short", "--retention-events", "3")
    for number in range(1, 6):
        send(relay, path, number)
    wait_for(lambda: min(logs(relay, "short")) == 3, "retention", timeout=60)
    run = replay(relay, secret, "short", "--from", "seq:1", "--to-url", target.url, "--json")
    assert run.returncode == 0, run.stderr
    assert target.numbers() == [3, 4, 5]
    assert json.loads(run.stdout) == {
        "bucket": "short",
        "first": 1,
        "last": 5,
        "sent": 3,
        "refused": 0,
        "failed": 0,
        "missing": 2,
    }


@pytest.mark.usefixtures("hearing")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_stopped_and_taken_up(
    relay: Relay, secret: str, shop: str, target: Target, tmp_path: Path, number: signal.Signals
) -> None:
    """Ctrl-C, or a closed terminal, says how far it came and how to go on, and that goes on there."""
    arguments = ("replay", "shop", "--from", "seq:2", "--to-url", target.url, "--pace", "0.001/s", "--json")
    agent = Agent(tmp_path, relay.url, secret, *arguments)
    agent.start(until=lambda: bool(target.seen()))
    with agent:
        assert agent.stop(number) == 130
    assert json.loads(agent.output.read_text())["next"] == 3
    [_, words] = agent.said().strip().split("the same command with ")
    again = words.split(" goes on there")[0].split()
    assert again == ["--from", "seq:3", "--to", "seq:10"]
    run = replay(relay, secret, "shop", *again, "--to-url", target.url)
    assert run.returncode == 0, run.stderr
    assert target.numbers() == list(range(2, 11))


@pytest.mark.parametrize("pace", ["2/s", "0.001/s"])
def test_a_token_that_is_revoked(relay: Relay, shop: str, target: Target, tmp_path: Path, pace: str) -> None:
    """Nothing more is sent, of what was read ahead neither; and it ends then, whatever its pace."""
    key, secret = relay.create_token()
    path = relay.create_bucket("many")
    for number in range(1, 101):
        send(relay, path, number)
    arguments = ("replay", "many", "--from", "earliest", "--to-url", target.url, "--pace", pace)
    agent = Agent(tmp_path, relay.url, secret, *arguments)
    agent.start(until=lambda: bool(target.seen()))
    with agent:
        relay.command("token", "revoke", key)
        assert agent.wait() == 1
    count = len(target.seen())
    assert count < 100
    assert f"the same command with --from seq:{count + 1} --to seq:100 goes on there" in agent.said()
    assert "the token was revoked" in agent.said()
    relay.call("bucket.delete", bucket="many", force=True)


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("bucket", "the bucket 'leaving' was deleted, or the token may not read it\n"),
        ("bucket while it is away", "the bucket 'leaving' was deleted, or the token may not read it\n"),
        ("token", "revoked"),
    ],
)
def test_what_is_taken_away_meanwhile(relay: Relay, target: Target, tmp_path: Path, what: str, words: str) -> None:
    """The rest was not sent: that is said with the place where it goes on, and is no success."""
    path = relay.create_bucket("leaving")
    key, secret = relay.create_token()
    for number in range(1, 13):  # more than the client reads ahead
        send(relay, path, number, bytes(2_900_000), X_Wait="5" if number == 1 else "0")
    agent = Agent(tmp_path, relay.url, secret, "replay", "leaving", "--from", "earliest", "--to-url", target.url)
    agent.start(until=lambda: bool(target.seen()))
    with agent:
        target.freeze()
        if what == "token":
            relay.call("token.revoke", key=key)
        elif what == "bucket while it is away":
            agent.send_signal(signal.SIGSTOP)
            relay.restart()
        relay.call("bucket.delete", bucket="leaving", force=True)
        agent.send_signal(signal.SIGCONT)
        os.kill(target.pid, signal.SIGCONT)
        assert agent.wait() == 1
    sent = target.numbers()
    assert sent == list(range(1, len(sent) + 1))
    assert len(sent) < 12
    assert f"stopped after {len(sent)} of 12" in agent.said()
    assert words in agent.said().splitlines(keepends=True)[-1]


def test_across_a_restart_of_the_relay(tmp_path: Path, target: Target) -> None:
    """It comes back by itself, and repeats and skips nothing."""
    with Relay(tmp_path / "data") as relay:
        path = relay.create_bucket("orders")
        _, secret = relay.create_token()
        for number in range(1, 9):
            send(relay, path, number, X_Answer="503 " * 4 + "200")
        arguments = ("replay", "orders", "--from", "earliest", "--to-url", target.url, *QUICK)
        agent = Agent(tmp_path, relay.url, secret, *arguments)
        agent.start(until=lambda: bool(target.seen()))
        with agent:
            relay.restart()
            assert agent.wait() == 0
    assert target.numbers() == [number for number in range(1, 9) for _ in range(5)]


def test_to_an_internal_output(relay: Relay, secret: str, target: Target, tmp_path: Path) -> None:
    """Whoever is connected gets copies for that output."""
    ten(relay, "copied")
    arguments = ("forward", "copied", target.url, "--output", "worker", "--json")
    with Agent(tmp_path, relay.url, secret, *arguments) as agent:
        run = replay(relay, secret, "copied", "--from", "seq:9", "--to", "seq:10", "--to-output", "worker")
        assert (run.returncode, run.stdout) == (0, "2 of 2 events sent again\n"), run.stderr
        run = replay(
            relay, secret, "copied", "--from", "seq:1", "--to", "seq:4", "--to-output", "worker", "--pace", "50/s"
        )
        assert (run.returncode, run.stdout) == (0, "4 of 4 events sent again\n"), run.stderr
        wait_for(lambda: len(target.seen()) == 6, "the copies")
        assert agent.stop() == 0
    assert target.numbers() == [9, 10, 1, 2, 3, 4]
    assert {each["output"] for each in agent.printed() if each["what"] != "totals"} == {"worker"}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["shop", "--from", "earliest"], 2, "--to-url, --to-output and --to-consumer"),
        (["shop", "--from", "earliest", "--to-url", "http://x", "--to-output", "y"], 2, "--to-url, --to-output"),
        (["shop", "--from", "yesterdy", "--to-url", "http://x"], 2, "last:100"),
        (["shop", "--from", "earliest", "--to-url", "localhost:1"], 2, "no URL like"),
        (["shop", "--from", "earliest", "--to-url", "http://1.2.3/"], 2, "no host that can be looked up"),
        (["shop", "--from", "earliest", "--to-output", "worker", "--timeout", "3"], 2, "--timeout belongs to --to-url"),
        (["shop", "--from", "earliest", "--to-output", "worker", "--pace", "original"], 2, "no pace of its own"),
        (["shop", "--from", "earliest", "--to-output", "nobody"], 1, "it has worker"),
        (["shop", "--from", "latest", "--to-url", "http://x"], 1, "no event in this range"),
        (["shop", "--from", "k3v9x1q7m2ab-1", "--to-url", "http://x"], 1, "k3v9x1q7m2ab-1"),
        (["nothing", "--from", "earliest", "--to-url", "http://x"], 1, "nothing"),
    ],
)
def test_what_is_refused(relay: Relay, secret: str, shop: str, arguments: list[str], code: int, words: str) -> None:
    """It says what to write instead."""
    run = replay(relay, secret, *arguments)
    assert (run.returncode, run.stdout) == (code, "")
    assert words in " ".join(run.stderr.split())
    assert "Traceback" not in run.stderr


def test_to_a_public_output(relay: Relay, secret: str, target: Target) -> None:
    """The relay itself sends the range again."""
    path = relay.create_bucket("public")
    relay.command("output", "create", "public", "--name", "out", "--destination", target.url, "--public")
    for number in range(1, 5):
        send(relay, path, number)
    wait_for(lambda: len(target.seen()) == 4, "the events")
    run = replay(relay, secret, "public", "--from", "seq:2", "--to", "seq:3", "--to-output", "out")
    assert (run.returncode, run.stdout) == (0, "2 of 2 events scheduled again\n"), run.stderr
    wait_for(lambda: len(target.seen()) == 6, "two of them again")
    run = relay.run("replay", "public", "--from", "seq:4", "--to-output", "out", "--pace", "original")
    assert (run.returncode, run.stdout) == (0, "1 of 1 event scheduled again\n"), run.stderr
    wait_for(lambda: len(target.seen()) == 7, "the last one again")
    assert target.numbers()[4:] == [2, 3, 4]


def test_to_a_consumer(relay: Relay, secret: str) -> None:
    """It is given the range again."""
    path = relay.create_bucket("consumed")

    async def consume(numbers: list[int], least: int) -> None:
        async with subscribe(relay.url, None, secret, buckets=["consumed"], since="earliest", consumer="c") as events:
            async for event in events:
                numbers.append(event.seq)
                await event.ack()
                if len(numbers) == least:
                    # The last ack is on its way; a socket that closes after it says so.
                    return

    for number in range(1, 5):
        send(relay, path, number)
    first: list[int] = []
    asyncio.run(asyncio.wait_for(consume(first, 4), TIMEOUT))
    wait_for(lambda: relay.command("consumer", "show", "consumed", "c")["pending"] == 0, "the acks")
    run = replay(relay, secret, "consumed", "--from", "seq:2", "--to", "seq:3", "--to-consumer", "c")
    assert (run.returncode, run.stdout) == (0, "2 of 2 events scheduled again\n"), run.stderr
    again: list[int] = []
    asyncio.run(asyncio.wait_for(consume(again, 2), TIMEOUT))
    assert (first, again) == ([1, 2, 3, 4], [2, 3])
