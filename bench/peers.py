"""What the relay is compared with: nchan (in memory, and with Redis), ntfy and NATS JetStream, as Debian packages them.

Each is set to be as durable as its name here says, and runs on the server's core with all its processes. Nothing of a
peer is needed but its program: `./scripts/bench` installs them.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from bench.ingest import BODY
from bench.load import CHUNK, END, TIMEOUT, UPGRADE, Loop, Readers, Senders, Subscribers
from bench.report import percentile
from bench.servers import LOAD_CORE, SERVER_CORE, PinnedRelay, Plain, processor_time
from bench.wrk import Blast, wrk
from tests.ports import port_for

_NCHAN = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")


class Contender:
    """A server to measure: it can be posted to, and (most of them) subscribed to and replayed from.

    `durable`: whether what it acknowledged is synced to the disk.
    """

    name: str
    durable: str

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        raise NotImplementedError

    def stop(self) -> None:
        raise NotImplementedError

    def empty(self) -> None:
        """Removes what it has stored; it is stopped."""

    def cpu(self) -> float:
        """Seconds of processor time so far, of all its processes."""
        raise NotImplementedError

    def memory(self) -> int:
        """Resident bytes of all its processes."""
        raise NotImplementedError

    def target(self) -> tuple[int, str]:
        """The port and the path that webhooks are posted to."""
        raise NotImplementedError

    def senders(self, loop: Loop, connections: int) -> Senders:
        """Senders of ours, for a steady pace."""
        return Senders(loop, *self.target(), connections, BODY)

    def blast(self, loop: Loop, connections: int, seconds: float) -> Blast:
        """Posts as fast as answers come, by wrk, which is fast enough for the fastest."""
        port, path = self.target()
        return wrk(loop, port, [path], connections, seconds)

    def subscribers(self, loop: Loop, count: int) -> Readers:
        """Live from now on."""
        raise NotImplementedError

    def replay(self, loop: Loop, count: int) -> Readers:
        """One reader of the newest `count` events."""
        raise NotImplementedError


class _Own(Contender):
    """A server of this repository's."""

    server: PinnedRelay | Plain
    token = ("", "")

    def start(self) -> None:
        self.server.start()

    def stop(self) -> None:
        self.server.stop()

    def cpu(self) -> float:
        return self.server.cpu()

    def memory(self) -> int:
        return self.server.memory()

    def subscribers(self, loop: Loop, count: int) -> Readers:
        return Subscribers(loop, self.server.port, self.token, count, {"buckets": ["bench"]})


class Ours(_Own):
    """The relay."""

    name = "relay"
    durable = "yes"

    def __init__(self, folder: Path) -> None:
        self.server: PinnedRelay = PinnedRelay(folder / "relay")
        self._path = ""

    def start(self) -> None:
        super().start()
        if not self._path:
            self._path = self.server.create_bucket("bench")
            self.token = self.server.create_token()

    def empty(self) -> None:
        shutil.rmtree(self.server.data)
        self._path = ""

    def target(self) -> tuple[int, str]:
        return self.server.port, self._path

    def replay(self, loop: Loop, count: int) -> Readers:
        subscribe = {"buckets": ["bench"], "since": {"last": count}}
        return Subscribers(loop, self.server.port, self.token, 1, subscribe)


class Nothing(_Own):
    """A Tornado handler that stores nothing."""

    name = "Tornado handler"
    durable = "stores nothing"

    def __init__(self, folder: Path) -> None:
        self.server = Plain(folder, False)

    def target(self) -> tuple[int, str]:
        return self.server.port, "/hook"


class _Program(Contender):
    """A program of somebody else's, on a port of its own, with its files in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / self.name.replace(" ", "-").replace(",", "")
        self.folder.mkdir()
        self.port = 0
        self._processes: list[subprocess.Popen[bytes]] = []

    def spawn(self, *command: str, port: int) -> None:
        """Starts a program on the server's core, and waits until it listens."""
        os.sched_setaffinity(0, {SERVER_CORE})
        try:
            with (self.folder / "output").open("ab") as output:
                process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        finally:
            os.sched_setaffinity(0, {LOAD_CORE})
        self._processes.append(process)
        deadline = time.monotonic() + TIMEOUT
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    said = (self.folder / "output").read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"{command[0]} does not listen: {said}") from None
                time.sleep(0.05)

    def stop(self) -> None:
        for process in reversed(self._processes):
            process.terminate()
            process.wait(TIMEOUT)
        self._processes.clear()

    def empty(self) -> None:
        shutil.rmtree(self.folder)
        self.folder.mkdir()

    def _pids(self) -> list[int]:
        found = []
        waiting = [process.pid for process in self._processes]
        while waiting:
            pid = waiting.pop()
            found.append(pid)
            for task in Path(f"/proc/{pid}/task").iterdir():
                waiting += [int(child) for child in (task / "children").read_text().split()]
        return found

    def cpu(self) -> float:
        return sum(map(processor_time, self._pids()))

    def memory(self) -> int:
        total = 0
        for pid in self._pids():
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
        return total


class Nchan(_Program):
    """nginx with nchan, one worker; messages in shared memory."""

    name = "nchan, in memory"
    durable = "no"
    mark = b'{"bench": "'

    def start(self) -> None:
        self.port = self.port or port_for(self)
        configuration = self.folder / "nginx.conf"
        places = "".join(
            f"{kind}_temp_path {self.folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        configuration.write_text(
            f"""
            load_module {_NCHAN};
            daemon off; worker_processes 1; pid {self.folder}/pid; error_log {self.folder}/error.log warn;
            events {{ worker_connections 16000; }}
            http {{
                access_log off; {places} keepalive_requests 1000000000; client_body_buffer_size 64k;
                nchan_shared_memory_size 1g;
                {self._storage()}
                server {{
                    listen 127.0.0.1:{self.port} backlog=4096;
                    location = /pub {{
                        nchan_publisher; nchan_channel_id bench; nchan_message_buffer_length 100000;
                        nchan_message_timeout 1h; {self._use()}
                    }}
                    location = /sub {{
                        nchan_subscriber websocket; nchan_channel_id bench; nchan_subscriber_first_message newest;
                        {self._use()}
                    }}
                    location = /all {{
                        nchan_subscriber websocket; nchan_channel_id bench; nchan_subscriber_first_message oldest;
                        {self._use()}
                    }}
                }}
            }}
            """
        )
        self.spawn("/usr/sbin/nginx", "-p", str(self.folder), "-c", str(configuration), port=self.port)

    def _storage(self) -> str:
        return ""

    def _use(self) -> str:
        return ""

    def target(self) -> tuple[int, str]:
        return self.port, "/pub"

    def subscribers(self, loop: Loop, count: int) -> Readers:
        return self._readers(loop, count, "/sub")

    def replay(self, loop: Loop, count: int) -> Readers:
        return self._readers(loop, 1, "/all")

    def _readers(self, loop: Loop, count: int, path: str) -> Readers:
        return Readers(loop, self.port, count, [(UPGRADE.format(path=path, port=self.port).encode(), END)], self.mark)


class NchanRedis(Nchan):
    """nchan with a Redis that syncs its file before it answers."""

    name = "nchan, Redis always"
    durable = "yes"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._redis = port_for(self)

    def start(self) -> None:
        options = {"dir": self.folder, "appendonly": "yes", "appendfsync": "always", "save": ""}
        flags = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        port = ["--bind", "127.0.0.1", "--port", str(self._redis)]
        self.spawn("redis-server", *port, *flags, port=self._redis)
        super().start()
        self._wait_for_redis()

    def _wait_for_redis(self) -> None:
        """nginx listens before it has found Redis; until then it answers 503, or not at all."""
        deadline = time.monotonic() + TIMEOUT
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=1)
            try:
                connection.request("POST", "/pub", BODY)
                if connection.getresponse().status < 300:
                    return
            except OSError:
                pass
            finally:
                connection.close()
            if time.monotonic() > deadline:
                raise RuntimeError("nchan does not find Redis")
            time.sleep(0.1)

    def _storage(self) -> str:
        return f"upstream redis {{ nchan_redis_server redis://127.0.0.1:{self._redis}; }}"

    def _use(self) -> str:
        return "nchan_redis_pass redis;"


class Ntfy(_Program):
    """ntfy with its file in write-ahead mode, synced at every commit."""

    name = "ntfy, WAL FULL"
    durable = "yes"
    mark = b'"event":"message"'

    def start(self) -> None:
        self.port = self.port or port_for(self)
        configuration = self.folder / "server.yml"
        configuration.write_text(
            json.dumps(
                {
                    "listen-http": f"127.0.0.1:{self.port}",
                    "base-url": f"http://127.0.0.1:{self.port}",
                    # With the 5 s that its driver waits for the lock by itself, a sender is refused now and then.
                    "cache-file": f"{self.folder / 'cache.db'}?_busy_timeout=120000",
                    "cache-startup-queries": "pragma journal_mode = WAL; pragma synchronous = FULL;",
                    "visitor-request-limit-exempt-hosts": "127.0.0.1",
                    "visitor-subscription-limit": 100_000,
                    "log-level": "error",
                }
            )
        )
        self.spawn("ntfy", "serve", "--config", str(configuration), port=self.port)

    def target(self) -> tuple[int, str]:
        return self.port, "/bench"

    def subscribers(self, loop: Loop, count: int) -> Readers:
        return self._readers(loop, count, UPGRADE.format(path="/bench/ws", port=self.port))

    def replay(self, loop: Loop, count: int) -> Readers:
        return self._readers(loop, 1, UPGRADE.format(path="/bench/ws?since=all", port=self.port))

    def _readers(self, loop: Loop, count: int, request: str) -> Readers:
        # It accepts the WebSocket before it subscribes it, and then says so.
        return Readers(loop, self.port, count, [(request.encode(), b'"event":"open"')], self.mark)


class _NatsSenders(Senders):
    """Publishes to JetStream and waits for its acknowledgement; the engine alone, with no HTTP before it."""

    handshake = b'CONNECT {"verbose":false,"pedantic":false}\r\nSUB _I.%d 1\r\nPING\r\n'

    def __init__(self, loop: Loop, port: int, connections: int) -> None:
        super().__init__(loop, port, "", connections, BODY)
        self._requests: dict[int, bytes] = {}
        for number, client in enumerate(self._sockets):
            client.sendall(self.handshake % number)
            data = b""
            while b"PONG\r\n" not in data:
                data += client.recv(CHUNK)
            self._requests[client.fileno()] = b"PUB bench _I.%d %d\r\n%s\r\n" % (number, len(BODY), BODY)

    def _next(self, fd: int) -> None:
        self._request = self._requests[fd]
        super()._next(fd)

    def _complete(self, data: bytes) -> bool:
        if b'"error"' in data:
            raise RuntimeError(f"no acknowledgement: {data[:300]!r}")
        return b'"seq":' in data and data.endswith(b"\r\n")


class Nats(_Program):
    """NATS JetStream that syncs its file before it acknowledges: an engine that could stand below HTTP."""

    name = "NATS JetStream, sync always"
    durable = "yes"

    def start(self) -> None:
        self.port = self.port or port_for(self)
        configuration = self.folder / "nats.conf"
        configuration.write_text(
            f"listen: 127.0.0.1:{self.port}\njetstream {{ store_dir: {self.folder}/js, sync_interval: always }}\n"
        )
        self.spawn("nats-server", "-c", str(configuration), port=self.port)
        with socket.create_connection(("127.0.0.1", self.port), TIMEOUT) as client:
            stream = json.dumps({"name": "bench", "subjects": ["bench"], "storage": "file"}).encode()
            client.sendall(
                _NatsSenders.handshake % 0
                + b"PUB $JS.API.STREAM.CREATE.bench _I.0 %d\r\n%s\r\n" % (len(stream), stream)
            )
            data = b""
            while b"stream_create_response" not in data:
                data += client.recv(CHUNK)

    def blast(self, loop: Loop, connections: int, seconds: float) -> Blast:
        with _NatsSenders(loop, self.port, connections) as senders:
            senders.post(1 << 60)
            start = time.perf_counter()
            loop.wait(start + seconds)
            loop.until(lambda: senders.answered > 0, "an answer")
            latencies, rate = list(senders.latencies), senders.answered / (time.perf_counter() - start)
            senders.limit = 0
            senders.settle()
        return Blast(rate, percentile(latencies, 0.5) * 1000, percentile(latencies, 0.99) * 1000)


def missing() -> Sequence[str]:
    """The Debian packages that hold what is not here."""
    needs = {
        "nginx": Path("/usr/sbin/nginx").exists(),
        "libnginx-mod-nchan": _NCHAN.exists(),
        "redis-server": shutil.which("redis-server") is not None,
        "ntfy": shutil.which("ntfy") is not None,
        "wrk": shutil.which("wrk") is not None,
        "nats-server": shutil.which("nats-server") is not None,
    }
    return [package for package, here in needs.items() if not here]


if __name__ == "__main__":
    sys.stdout.write(" ".join(missing()) + "\n" if missing() else "")
