"""`relay listen` as a process beside a relay."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.acceptance.relay import wait_for
from tests.client.world import TIMEOUT, World
from tests.serving import RELAY


def command(*arguments: object) -> list[str]:
    return [*RELAY, *map(str, arguments)]


def listen(world: World, *arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs it until it ends by itself."""
    return subprocess.run(
        command("listen", *arguments), env=world.relay.environment() | variables, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=TIMEOUT,
    )  # fmt: skip


def lines(run: subprocess.CompletedProcess[str]) -> list[Any]:
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]


@contextmanager
def listening(world: World, *arguments: object, name: str = "listen") -> Iterator[subprocess.Popen[str]]:
    """It, or the command of that name, runs meanwhile; what still runs at the end is killed."""
    wait_for(lambda: clients(world) == 0, "those of before to be gone")
    process = subprocess.Popen(
        command(name, *arguments), env=world.relay.environment(), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def clients(world: World) -> int:
    return len(world.relay.call("client.list"))
