"""Two relays on one directory. What crashes and shutdowns under load do is in tests/faults."""

import asyncio
from collections.abc import Callable

from tests.acceptance.clients import Sender, read_log
from tests.acceptance.relay import Relay


def test_a_second_process_on_the_directory(relay: Relay, new_relay: Callable[..., Relay]) -> None:
    """A second relay on one directory refuses, says who holds it, and disturbs nothing."""
    path = relay.create_bucket("orders")
    token = relay.create_token()

    async def send(body: bytes) -> int:
        async with Sender(relay, path) as sender:
            return await sender.post(body)

    assert asyncio.run(send(b"before")) == 200
    second = new_relay("data")
    second.output = second.output.with_name("second.out")
    second.spawn()
    assert second.wait() not in (0, None)
    assert str(relay.pid) in second.said()
    assert "Traceback" not in second.said()
    assert asyncio.run(send(b"after")) == 200
    assert [event.body for event in asyncio.run(read_log(relay, token, "orders"))] == [b"before", b"after"]
    assert relay.stop() == 0
