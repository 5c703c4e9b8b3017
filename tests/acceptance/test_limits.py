"""What is scarce: a full disk loses nothing and heals by itself; a stuck reader costs bounded memory, slows nobody."""

import asyncio
import contextlib
import http.client
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.acceptance.clients import Sender, Subscriber, read_log
from tests.acceptance.relay import TIMEOUT, Relay, wait_for
from tests.needs import needs, needs_root

MIB = 1 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 20 MiB of its own."""
    needs_root("it mounts a small file system")
    needs("mkfs.ext4", "install e2fsprogs")
    image = tmp_path / "disk.img"
    with image.open("wb") as file:
        file.truncate(20 * MIB)
    mount = tmp_path / "disk"
    mount.mkdir()
    subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", str(image)], check=True, timeout=TIMEOUT)
    subprocess.run(["mount", "-o", "loop", str(image), str(mount)], check=True, timeout=TIMEOUT)
    try:
        yield mount
    finally:
        subprocess.run(["umount", str(mount)], check=True, timeout=TIMEOUT)


def ready(relay: Relay) -> int:
    """The status of /readyz."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", relay.port, timeout=TIMEOUT)) as connection:
        connection.request("GET", "/readyz")
        return connection.getresponse().status


@pytest.mark.parametrize("reserve", [2 * MIB, 0], ids=["with-a-reserve", "with-none"])
def test_a_full_disk(small_disk: Path, reserve: int) -> None:
    """On a full disk senders get 507, nothing that was acknowledged is lost, reads go on, and once space is free the
    same process takes events again."""
    ballast, more = small_disk / "ballast", small_disk / "more"
    ballast.write_bytes(os.urandom(7 * MIB))
    more.write_bytes(os.urandom(4 * MIB))
    bodies: list[bytes] = []

    async def fill(relay: Relay, path: str) -> None:
        for number in range(400):
            body = b"%d " % number + os.urandom(50_000)
            async with Sender(relay, path) as sender:
                status = await sender.post(body)
            if status != 200:
                assert status == 507
                return
            bodies.append(body)
        raise AssertionError("the disk never got full")

    with Relay(small_disk / "data", reserve=reserve) as relay:
        relay.output = small_disk.parent / "relay.out"
        path = relay.create_bucket("orders")
        token = relay.create_token()
        asyncio.run(fill(relay, path))
        assert len(bodies) > 20
        assert [event.body for event in asyncio.run(read_log(relay, token, "orders"))] == bodies
        wait_for(lambda: ready(relay) == 503, "/readyz to say that events can't be committed")
        full = len(bodies)
        ballast.unlink()
        wait_for(lambda: ready(relay) == 200, "/readyz to say that events can be committed again")
        asyncio.run(fill(relay, path))
        assert len(bodies) > full + 20
        assert [event.body for event in asyncio.run(read_log(relay, token, "orders"))] == bodies
        more.unlink()
        assert relay.stop() == 0
        relay.start()
        assert [event.body for event in asyncio.run(read_log(relay, token, "orders"))] == bodies
        assert relay.stop() == 0


def stuck_reader(relay: Relay, token: tuple[str, str]) -> socket.socket:
    """A client that subscribes to everything and then never reads again. It has a small receive buffer."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(TIMEOUT)
    client.connect(("127.0.0.1", relay.port))
    client.sendall(
        b"GET /v1/socket HTTP/1.1\r\nHost: relay.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    for message, answer in (
        (b'{"action":"auth","key":"%s","secret":"%s"}' % (token[0].encode(), token[1].encode()), b"authenticated"),
        (b'{"action":"subscribe","buckets":["orders"],"since":"earliest"}', b"subscribed"),
    ):
        client.sendall(bytes([0x81, 0xFE]) + len(message).to_bytes(2) + bytes(4) + message)
        received = b""
        while answer not in received:
            received += client.recv(1)
    return client


@pytest.mark.heavy
def test_stuck_readers(new_relay: Callable[..., Relay]) -> None:
    """20 clients that never read cost the relay bounded memory, while a healthy client gets everything; then they are
    cut off."""
    relay = new_relay(tail="4MiB", page_cache="4MiB", replay_buffer="16MiB", stuck_timeout=2, ping_interval=1)
    relay.start()
    path = relay.create_bucket("orders")
    token = relay.create_token()
    body = os.urandom(100_000).hex().encode()
    count = 300

    async def send() -> None:
        async with Sender(relay, path) as sender:
            for number in range(count):
                assert await sender.post(b"%d " % number + body) == 200

    async def healthy(subscriber: Subscriber) -> None:
        number = 0
        async for event in subscriber.webhooks():
            assert event.body == b"%d " % number + body
            number += 1
            if number == count:
                return
        raise AssertionError(f"the healthy client was closed after {number} events")

    async def run() -> None:
        async with asyncio.timeout(2 * TIMEOUT), Subscriber(relay, token, "orders", "earliest") as subscriber:
            await asyncio.gather(send(), healthy(subscriber))

    with contextlib.ExitStack() as stack:
        open_before = relay.descriptors()
        for _ in range(20):
            stack.enter_context(stuck_reader(relay, token))
        before = relay.memory()
        asyncio.run(run())
        grown = relay.memory() - before
        assert grown < 40 * MIB, f"the relay grew by {grown >> 20} MiB while 60 MB went past 20 stuck readers"
        wait_for(lambda: relay.descriptors() <= open_before, "the stuck readers to be cut off")
    assert relay.stop() == 0
