"""Two relays on one directory, and one that goes. What crashes and shutdowns under load do is in tests/faults."""

import asyncio
import contextlib
import http.client
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.clients import Sender, read_log
from tests.acceptance.relay import Relay


async def send(relay: Relay, path: str, body: bytes) -> int:
    async with Sender(relay, path) as sender:
        return await sender.post(body)


def readiness(relay: Relay) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", relay.port, timeout=60)
    with contextlib.closing(connection):
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def test_a_second_process_on_the_directory(relay: Relay, new_relay: Callable[..., Relay]) -> None:
    """A second relay on one directory refuses, says who holds it, and disturbs nothing."""
    path = relay.create_bucket("orders")
    token = relay.create_token()

    assert asyncio.run(send(relay, path, b"before")) == 200
    second = new_relay("data")
    second.output = second.output.with_name("second.out")
    second.spawn()
    assert second.wait() not in (0, None)
    assert str(relay.pid) in second.said()
    assert "Traceback" not in second.said()
    assert asyncio.run(send(relay, path, b"after")) == 200
    assert [event.body for event in asyncio.run(read_log(relay, token, "orders"))] == [b"before", b"after"]
    assert relay.stop() == 0


@pytest.mark.parametrize("what", ["a backup", "another relay's", "nothing"])
def test_a_file_that_is_written_over(relay: Relay, new_relay: Callable[..., Relay], what: str) -> None:
    """From the next checkpoint on nobody is told 200; the file stays what it has become, and so does the WAL."""
    path = relay.create_bucket("orders")
    source = relay.data.with_name("source.db")
    if what == "a backup":
        assert relay.run("backup", str(source)).returncode == 0
    elif what == "another relay's":
        with new_relay("other") as other:
            other.create_bucket("orders")
            assert other.stop() == 0
        shutil.copy(other.data / "relay.db", source)
    else:
        source.touch()

    async def post(count: int) -> list[int]:
        async with Sender(relay, path) as sender:
            return [await sender.post(bytes(50_000)) for _ in range(count)]

    assert set(asyncio.run(post(50))) == {200}
    shutil.copyfile(source, relay.data / "relay.db")
    statuses = asyncio.run(post(100))  # which fill more of the WAL than there may be without a checkpoint
    assert statuses == sorted(statuses)
    assert statuses[-1] == 503
    status, words = readiness(relay)
    assert (status, "relay.db was written over while the relay ran" in words) == (503, True)
    assert relay.said().count("database_unavailable") == 1
    assert relay.stop() == 0
    assert (relay.data / "relay.db").read_bytes() == source.read_bytes()
    assert (relay.data / "relay.db-wal").stat().st_size > 0
    relay.spawn()
    assert relay.wait() not in (0, None)
    assert "relay.db-wal" in relay.said()


def test_a_directory_that_is_deleted_under_it(relay: Relay) -> None:
    """Nothing is told 200 that no start will find again; what there is can be copied out of the process."""
    path = relay.create_bucket("orders")
    token = relay.create_token()

    assert asyncio.run(send(relay, path, b"before")) == 200
    assert readiness(relay)[0] == 200
    shutil.rmtree(relay.data)
    status, words = readiness(relay)
    assert (status, "relay.db was deleted, moved or replaced" in words) == (503, True)
    assert asyncio.run(send(relay, path, b"after")) == 503
    held = {}
    for fd in Path(f"/proc/{relay.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            held[fd.readlink().name.removesuffix(" (deleted)")] = fd
    relay.data.mkdir(0o700)
    for name in ("relay.db", "relay.db-wal"):
        shutil.copy(held[name], relay.data / f"{name}.saved")
    assert relay.stop() == 0
    for name in ("relay.db", "relay.db-wal"):
        (relay.data / f"{name}.saved").rename(relay.data / name)
    relay.start()
    assert asyncio.run(send(relay, path, b"again")) == 200
    bodies = [event.body for event in asyncio.run(read_log(relay, token, "orders"))]
    assert bodies[0] == b"before"
    assert bodies[-1] == b"again"
