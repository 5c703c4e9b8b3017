"""What the service manager hears, and what it hands over."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from relay_tornado.notify import Notifier, inherited_sockets
from tests.needs import needs


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """A service manager's socket, with the value of NOTIFY_SOCKET that names it."""
    address = str(tmp_path / "notify") if request.param == "path" else f"@{uuid.uuid4().hex}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(address.replace("@", "\0", 1) if request.param == "abstract" else address)
        listening.settimeout(60)
        yield address, listening


def test_it_says_how_the_relay_is(manager: tuple[str, socket.socket]) -> None:
    """Ready, and stopping with the time that it may take, arrive in sd_notify's form, one message each."""
    address, listening = manager
    notifier = Notifier({"NOTIFY_SOCKET": address})
    notifier.ready("listening on port 8080")
    notifier.stopping(23.0)
    assert [listening.recv(4096) for _ in range(2)] == [
        b"READY=1\nSTATUS=listening on port 8080",
        b"STOPPING=1\nSTATUS=stopping, within 23 s\nEXTEND_TIMEOUT_USEC=23000000",
    ]


def test_a_status_is_one_line(manager: tuple[str, socket.socket]) -> None:
    """What is in a status can't be taken for another assignment."""
    address, listening = manager
    Notifier({"NOTIFY_SOCKET": address}).ready("a\nMAINPID=1\r\nb")
    assert listening.recv(4096) == b"READY=1\nSTATUS=a MAINPID=1 b"


def test_outside_a_service_manager_nothing_happens() -> None:
    """Every call is without effect, and keep_alive returns."""
    notifier = Notifier({})
    notifier.ready("x")
    notifier.alive()
    assert notifier.watchdog is None
    asyncio.run(asyncio.wait_for(notifier.keep_alive(), 60))


def test_a_manager_that_is_gone_stops_nothing(tmp_path: Path) -> None:
    """A message that can't be sent is a warning in the log."""
    with capture_logs() as lines:
        Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready("x")
    assert [(line["event"], line["log_level"]) for line in lines] == [("service_manager_not_told", "warning")]


@pytest.mark.parametrize(
    ("usec", "pid", "seconds"),
    [
        ("30000000", "ours", 30.0),
        ("30000000", "", 30.0),
        ("30000000", "1", None),
        ("", "", None),
        ("0", "", None),
        ("soon", "", None),
        ("-5", "", None),
    ],
)
def test_a_watchdog_is_ours_or_it_is_none(usec: str, pid: str, seconds: float | None) -> None:
    """Only a number of microseconds that is meant for this process counts."""
    pid = pid.replace("ours", str(os.getpid()))
    environ = {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": usec, "WATCHDOG_PID": pid}
    assert Notifier(environ).watchdog == seconds
    assert not environ, "a child would speak in the relay's name"


def test_signs_of_life_come_until_the_loop_is_stuck(manager: tuple[str, socket.socket]) -> None:
    """They come again and again within the watchdog's time, and end with the task."""
    address, listening = manager
    notifier = Notifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "30000"})

    async def run() -> list[bytes]:
        listening.setblocking(False)
        beating = asyncio.create_task(notifier.keep_alive())
        async with asyncio.timeout(60):
            heard = [await asyncio.get_running_loop().sock_recv(listening, 100) for _ in range(4)]
        beating.cancel()
        await asyncio.wait([beating])
        return heard

    assert asyncio.run(run()) == [b"WATCHDOG=1"] * 4


def test_a_socket_is_handed_over(tmp_path: Path) -> None:
    """A process that systemd starts for a connection serves it from the socket that it was given."""
    needs("systemd-socket-activate", "apt-get install systemd")
    path = tmp_path / "listen"
    serve = (
        "from relay_tornado.notify import inherited_sockets as take; import os\n"
        "[s] = take(); assert not take() and 'LISTEN_FDS' not in os.environ and not os.get_inheritable(s.fileno())\n"
        "assert s.getblocking() is False\n"
        "c, _ = s.accept(); c.sendall(b'served'); c.close(); s.close()"
    )
    variables = [f"--setenv={name}={os.environ[name]}" for name in ("PYTHONPATH", "PATH") if name in os.environ]
    command = ["systemd-socket-activate", f"--listen={path}", *variables, sys.executable, "-c", serve]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        try:
            assert process.stderr is not None
            assert b"Listening" in process.stderr.readline()
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(60)
                client.connect(str(path))
                assert client.recv(100) == b"served"
            assert process.wait(60) == 0
        finally:
            process.kill()


@pytest.mark.parametrize(("pid", "count"), [("", ""), ("1", "1"), ("ours", "x"), ("ours", "0")])
def test_what_is_meant_for_another_process_is_left_alone(pid: str, count: str) -> None:
    """Descriptor 3 is taken only where it was handed to this very process."""
    assert inherited_sockets({"LISTEN_PID": pid.replace("ours", str(os.getpid())), "LISTEN_FDS": count}) == []
