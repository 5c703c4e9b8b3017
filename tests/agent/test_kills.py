"""`relay forward` while it, the relay and the target are killed at random moments."""

from __future__ import annotations

import json
import random
import threading
import time
import urllib.error
from pathlib import Path

import pytest

from tests.acceptance.relay import Relay, wait_for
from tests.agent.world import Agent, Target, send

EVENTS = 120


class Sender:
    """Sends numbers until told to stop, each in a webhook of its own, however often the relay fails it. Who got no
    answer sends another number, so that each number is stored once at most."""

    def __init__(self, relay: Relay, path: str) -> None:
        self._relay, self._path = relay, path
        self.accepted: list[int] = []
        self.enough = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        number = 0
        while not (self.enough.is_set() and len(self.accepted) >= EVENTS):
            number += 1
            answer = random.Random(number).choice(["200", "200", "200", "200", "503 200"])
            try:
                send(self._relay, self._path, number, X_Answer=answer)
            except (OSError, urllib.error.URLError):
                pass
            else:
                self.accepted.append(number)
            time.sleep(0.01)

    def join(self) -> None:
        self._thread.join(300)
        assert not self._thread.is_alive()


class Auditor:
    """Reads the checkpoint again and again: whatever it says is done, the target has got."""

    def __init__(self, checkpoint: Path, target: Target) -> None:
        self._checkpoint, self._target = checkpoint, target
        self.looks: list[tuple[int, set[int]]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(0.02):
            try:
                [bucket] = json.loads(self._checkpoint.read_text())["buckets"].values()
            except FileNotFoundError:
                continue
            seq = int(bucket["id"].split("-")[1])
            if not self.looks or self.looks[-1][0] != seq:
                self.looks.append((seq, set(self._target.numbers())))

    def close(self) -> None:
        self._stop.set()
        self._thread.join(60)


@pytest.mark.parametrize("concurrency", [1, 8])
def test_nothing_is_lost(tmp_path: Path, concurrency: int) -> None:
    """Every event reaches the target, in order where it is ordered, and the checkpoint never skips one."""
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    with Relay(tmp_path / "data", log_level="error") as relay, Target(tmp_path) as target:
        path = relay.create_bucket("orders")
        _, secret = relay.create_token()
        place = tmp_path / "orders.checkpoint"
        arguments = ("forward", "orders", target.url, "--checkpoint", str(place), "--max-delay", "0.02")
        agent = Agent(tmp_path, relay.url, secret, *arguments, "--concurrency", str(concurrency), "--json")
        agent.start()
        sender, auditor = Sender(relay, path), Auditor(place, target)
        try:
            victims: list[Relay | Target | Agent] = [relay, relay, target, target, target, agent, agent, agent, agent]
            chance.shuffle(victims)
            for victim in victims:
                time.sleep(chance.uniform(0.0, 0.3))
                victim.kill()
                time.sleep(chance.uniform(0.0, 0.1))
                victim.start()
            sender.enough.set()
            sender.join()
            stored = numbers(relay)
            newest = f"-{len(stored)}"
            wait_for(lambda: place.exists() and newest in place.read_text(), f"the last event (seed {seed})")
            assert agent.stop() == 0
        finally:
            sender.enough.set()
            auditor.close()
            agent.kill()
        got = target.numbers()
    assert set(sender.accepted) <= set(stored), f"seed {seed}: the relay lost an event"
    assert set(got) == set(stored), f"seed {seed}"
    for seq, then in auditor.looks:
        assert set(stored[:seq]) <= then, f"seed {seed}: the checkpoint was at {seq} too early"
    if concurrency == 1:
        firsts = list(dict.fromkeys(got))
        assert firsts == stored, f"seed {seed}: an event came before one that was stored before it"


def numbers(relay: Relay) -> list[int]:
    """What is stored, in the order of the log."""
    run = relay.run("export", "orders")
    assert run.returncode == 0, run.stderr
    events = [json.loads(line) for line in run.stdout.splitlines()]
    heads = [each["headers"].lower() for each in events if "seq" in each]
    return [int(head.partition("x-number:")[2].split()[0]) for head in heads]
