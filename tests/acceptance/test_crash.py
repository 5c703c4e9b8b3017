"""Two relays on one directory, and one that goes. What crashes and shutdowns under load do is in tests/faults."""

import asyncio
import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.acceptance.clients import post, read_log
from tests.acceptance.relay import Relay


def test_a_second_process_on_the_directory(relay: Relay, new_relay: Callable[..., Relay]) -> None:
    """A second relay on one directory refuses, says who holds it, and disturbs nothing."""
    path = relay.create_bucket("orders")
    token = relay.create_token()

    assert asyncio.run(post(relay, path, b"before")) == 200
    second = new_relay("data")
    second.output = second.output.with_name("second.out")
    second.spawn()
    assert second.wait() not in (0, None)
    assert str(relay.pid) in second.said()
    assert "Traceback" not in second.said()
    assert asyncio.run(post(relay, path, b"after")) == 200
    assert [event.body for event in asyncio.run(read_log(relay, token, "orders"))] == [b"before", b"after"]
    assert relay.stop() == 0


def test_a_directory_that_is_deleted_under_it(relay: Relay) -> None:
    """Nothing is told 200 that no start will find again; what there is can be copied out of the process."""
    path = relay.create_bucket("orders")
    token = relay.create_token()

    assert asyncio.run(post(relay, path, b"before")) == 200
    assert relay.ready()[0] == 200
    shutil.rmtree(relay.data)
    status, said = relay.ready()
    assert (status, "relay.db was deleted, moved or replaced" in str(said)) == (503, True)
    assert asyncio.run(post(relay, path, b"after")) == 503
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
    assert asyncio.run(post(relay, path, b"again")) == 200
    bodies = [event.body for event in asyncio.run(read_log(relay, token, "orders"))]
    assert bodies[0] == b"before"
    assert bodies[-1] == b"again"
