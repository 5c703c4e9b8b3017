"""A relay, a target and an agent, each a process of its own, and what went between them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.acceptance.relay import TIMEOUT, Relay, Server, wait_for
from tests.serving import environment

SERVER = Path(__file__).parent / "target_server.py"

QUICK = ("--max-delay", "0.05", "--json")
"""Options of an agent that tries again soon, and whose lines can be read."""


@dataclass(frozen=True)
class Seen:
    """A request as the target got it."""

    head: bytes
    body: bytes

    @property
    def line(self) -> str:
        return self.head.partition(b"\r\n")[0].decode("latin-1")

    @property
    def headers(self) -> list[tuple[str, str]]:
        lines = self.head.decode("latin-1").split("\r\n")[1:-2]
        return [(name, value.strip()) for name, _, value in (each.partition(":") for each in lines)]

    @property
    def number(self) -> int:
        return int(dict(self.headers)["X-Number"])


class Target(Server):
    """The HTTP server that gets the events. What it got survives its death."""

    def __init__(self, folder: Path, certificate: Path | None = None) -> None:
        super().__init__(folder / "target.out")
        self.record = folder / "target.record"
        self.certificate = certificate

    def command_line(self) -> list[str]:
        last = [] if self.certificate is None else [str(self.certificate)]
        return [sys.executable, str(SERVER), str(self.record), str(self.port), *last]

    def seen(self) -> list[Seen]:
        if not self.record.exists():
            return []
        # Behind the last end of a line is what is still being written.
        lines = self.record.read_text().split("\n")[:-1]
        documents = [json.loads(each) for each in lines]
        return [Seen(each["head"].encode("latin-1"), each["body"].encode("latin-1")) for each in documents]

    def numbers(self) -> list[int]:
        return [each.number for each in self.seen()]


class Agent:
    """`relay forward`, or another command that runs on, as a process."""

    def __init__(self, folder: Path, relay_url: str, secret: str, *arguments: str) -> None:
        self.output = folder / "agent.out"
        self.errors = folder / "agent.err"
        self.command = [sys.executable, "-m", "relay_tornado", "--url", relay_url, *arguments]
        self.environment = environment(RELAY_SECRET=secret, XDG_STATE_HOME=str(folder / "state"))
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Agent:
        """Starts it, where it was not started."""
        if self.process is None:
            self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self, until: Callable[[], bool] | None = None) -> None:
        """Starts it; returns once it has subscribed (or `until` holds), or has ended."""
        assert self.process is None
        with self.output.open("ab") as output, self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                self.command, env=self.environment, stdin=subprocess.DEVNULL, stdout=output, stderr=errors
            )
        process, ready = self.process, until or (lambda: "connected" in self.said())
        wait_for(lambda: ready() or process.poll() is not None, "the agent to start")

    def said(self) -> str:
        """What it wrote to stderr since its last start."""
        return self.errors.read_text()

    def printed(self) -> list[Any]:
        """The JSON objects on stdout, of all starts; half a line of a killed one is left out."""
        found = []
        for line in self.output.read_text().splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return found

    def send_signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ends it in order; returns the exit code."""
        self.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        assert self.process is not None
        code = self.process.wait(TIMEOUT)
        self.process = None
        assert "Traceback" not in self.said()
        return code

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(TIMEOUT)
            self.process = None


def send(relay: Relay, path: str, number: int, body: bytes = b"{}", method: str = "POST", **headers: str) -> bytes:
    """A webhook that carries its number; returns the answer's body."""
    given = {"X-Number": str(number), **{name.replace("_", "-"): value for name, value in headers.items()}}
    request = urllib.request.Request(relay.url + path, body, given, method=method)
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        return bytes(response.read())


def logs(relay: Relay, bucket: str) -> dict[int, Any]:
    """The events of a bucket with their newest result, by seq."""
    page = relay.call("logs.list", bucket=bucket, limit=500)
    return {each["seq"]: each for each in page["data"]}


def forward(folder: Path, relay: Relay, secret: str, bucket: str, *arguments: str) -> Agent:
    """Runs `relay forward`."""
    return Agent(folder, relay.url, secret, "forward", bucket, *arguments, *QUICK)


def kept(checkpoint: Path) -> str:
    """The position in a checkpoint of one bucket."""
    [bucket] = json.loads(checkpoint.read_text())["buckets"].values()
    return str(bucket["id"])


def beyond(checkpoint: Path) -> str:
    """The end of the stretch beyond that position that is done, "" where there is none."""
    [bucket] = json.loads(checkpoint.read_text())["buckets"].values()
    return str(bucket.get("done", [["", ""]])[-1][-1])
