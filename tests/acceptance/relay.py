"""A real relay for a test or a measurement: a process of its own on its own directory, driven by its command line."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from relay_tornado.cli import client
from tests.ports import port_for

TIMEOUT = 90.0
"""Seconds after which whatever a test waits for is taken as never to come."""

_LISTENING = re.compile(r"listening on (https?://[^\s\"',]+)")


def wait_for(condition: Callable[[], Any], what: str, timeout: float = TIMEOUT) -> Any:
    """Waits until `condition()` is true, and returns what it returned; fails after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {timeout} s for {what}"
        time.sleep(0.01)
    return value


def rest(url: str, secret: str, method: str, path: str, body: Any = None) -> Any:
    """What the relay at this URL answers by REST: data if it is JSON, else text."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url + path, data, {"Authorization": f"Bearer {secret}"}, method=method)
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
        content = answer.read()
        return json.loads(content) if answer.headers["Content-Type"] == "application/json" else content.decode()


class Server:
    """A server as a subprocess that says `listening on http://…`. A context manager kills what still runs at its end.

    After a restart it has the port that it had, which nobody gets meanwhile.
    """

    def __init__(self, output: Path) -> None:
        self.output = output
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None

    def command_line(self) -> list[str]:
        """What is to be run."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        """Without what would change how the server runs."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("RELAY_", "PYTHONDEVMODE"))}
        return kept | {"PYTHONUNBUFFERED": "1"}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/v1/socket"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self) -> None:
        """Starts the server and waits until it says where it listens."""
        if not self.port:
            self.port = port_for(self)
        assert self.listens(), f"the server ended with {self.wait()}:\n{self.said()}"

    def listens(self) -> bool:
        """Starts the server and waits until it says where it listens. False if it ended instead: `wait` returns its
        code."""
        self.spawn()
        wait_for(lambda: self._ended() or self._listening(), "the server to listen")
        match = self._listening()
        if match is not None:
            self.port = int(match[1].rpartition(":")[2].strip("/"))
        return match is not None

    def spawn(self) -> None:
        """Starts the server without waiting for it."""
        assert self.process is None
        command = self.command_line()
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                command, env=self.environment(), stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

    def _ended(self) -> bool:
        assert self.process is not None
        return self.process.poll() is not None

    def _listening(self) -> re.Match[str] | None:
        return _LISTENING.search(self.said())

    def said(self) -> str:
        """What it wrote to stdout and stderr since its last start."""
        return self.output.read_text(errors="replace")

    def wait(self, timeout: float = TIMEOUT) -> int:
        """Waits for it to end and returns its exit code; what it said is told if it does not end."""
        assert self.process is not None
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired as exc:
            raise AssertionError(f"the server did not end in {timeout} s:\n{self.said()}") from exc
        self.process = None
        return code

    def terminate(self) -> None:
        os.kill(self.pid, signal.SIGTERM)

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        self.terminate()
        return self.wait()

    def kill(self) -> None:
        """SIGKILL, where it still runs."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(TIMEOUT)
            self.process = None

    def freeze(self) -> None:
        """SIGSTOP, and returns once no thread runs; one that waits in the kernel runs no further when that is over."""
        os.kill(self.pid, signal.SIGSTOP)
        threads = Path(f"/proc/{self.pid}/task")

        def still() -> bool:
            try:
                states = [each.joinpath("stat").read_text().rpartition(")")[2].split()[0] for each in threads.iterdir()]
            except (FileNotFoundError, ProcessLookupError):
                return False  # one that had come to its end
            return all(state in ("T", "D") for state in states)

        wait_for(still, "the server to stand still")

    def restart(self) -> None:
        """Starts again; kills what runs."""
        self.kill()
        self.start()

    def memory(self) -> int:
        """Resident bytes."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no VmRSS")

    def descriptors(self) -> int:
        """How many files and sockets are open."""
        return sum(1 for _ in Path(f"/proc/{self.pid}/fd").iterdir())

    def connections(self) -> int:
        """How many TCP connections to its port it holds, open or not."""
        local, listens, nobodys = f":{self.port:04X}", "0A", "0"  # as Linux writes them in /proc/net/tcp
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        return sum(row[1].endswith(local) and row[3] != listens and row[9] != nobodys for row in rows)


class Relay(Server):
    """`relay serve` on the directory `data`.

    `settings` are flags by their names: `Relay(folder, tail="1MiB")` is `--tail 1MiB`.
    """

    module = "relay_tornado"
    """What runs it, as `python -m` does: a test's may change it first."""

    def __init__(self, data: Path, **settings: object) -> None:
        super().__init__(data.parent / f"{data.name}.out")
        self.data = data
        self.settings = settings

    def command_line(self) -> list[str]:
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in self.settings.items()]
        return [sys.executable, "-m", self.module, "serve", f"--port={self.port}", *flags]

    def environment(self) -> dict[str, str]:
        return super().environment() | {"RELAY_DATA": str(self.data)}

    def ready(self) -> tuple[int, Any]:
        """Status and document of /readyz."""
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT)) as connection:
            connection.request("GET", "/readyz")
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

    def command(self, *arguments: str) -> Any:
        """Runs `relay ARGUMENTS --json` on this directory and returns what it printed, as data."""
        run = self.run(*arguments, "--json")
        assert run.returncode == 0, run.stderr
        return json.loads(run.stdout)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs `relay ARGUMENTS` on this directory."""
        command = [sys.executable, "-m", "relay_tornado", *arguments]
        return subprocess.run(
            command, env=self.environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT
        )

    def call(self, command: str, **arguments: Any) -> Any:
        """What the running relay answers such a command: a process of its own, as of `command`, takes much longer."""
        relay = client.Relay(self.data, create=False)
        try:
            return relay.call(command, **arguments)
        finally:
            relay.close()

    def rest(self, secret: str, method: str, path: str, body: Any = None) -> Any:
        """What the running relay answers by REST; see `rest`."""
        return rest(self.url, secret, method, path, body)

    def create_bucket(self, name: str, *options: str) -> str:
        """Makes a bucket and returns the path of its input's URL."""
        if options or self.process is None:
            bucket = self.command("bucket", "create", name, *options)
        else:
            bucket = self.call("bucket.create", name=name, options={})
        return f"/v1/webhooks/{bucket['inputs'][0]['id']}"

    def create_token(self, *options: str) -> tuple[str, str]:
        """Makes a token and returns its key and secret."""
        if options or self.process is None:
            token = self.command("token", "create", *options)
        else:
            token = self.call("token.create", options={})
        return token["key"], token["secret"]
