"""Crashes and shutdowns under load: what was acknowledged is there, once, in order, and cursors stay good."""

import asyncio
import contextlib
import random
from collections.abc import Callable

import pytest

from tests.acceptance.clients import Sender, Subscriber, Webhook, read_log
from tests.acceptance.relay import TIMEOUT, Relay

ROUNDS = 20
SENDERS = 6


class Load:
    """Senders that send until the relay is gone, and note in their order what was acknowledged."""

    def __init__(self, relay: Relay, path: str, name: str) -> None:
        self.relay = relay
        self.path = path
        self.name = name
        self.acknowledged: list[list[bytes]] = [[] for _ in range(SENDERS)]
        self._more = asyncio.Event()

    async def until(self, count: int) -> None:
        """Waits until so many are acknowledged."""
        async with asyncio.timeout(TIMEOUT):
            while sum(len(bodies) for bodies in self.acknowledged) < count:
                self._more.clear()
                await self._more.wait()

    async def run(self) -> None:
        """Returns once every sender has lost its connection."""
        async with asyncio.timeout(TIMEOUT), asyncio.TaskGroup() as group:
            for number in range(SENDERS):
                group.create_task(self._send(number))

    async def _send(self, number: int) -> None:
        with contextlib.suppress(OSError, EOFError):
            async with Sender(self.relay, self.path) as sender:
                for count in range(100_000):
                    body = b"%s/%d/%d " % (self.name.encode(), number, count) + b"x" * 500
                    status = await sender.post(body)
                    if status == 503:  # it shuts down
                        return
                    assert status == 200
                    self.acknowledged[number].append(body)
                    self._more.set()


def check(log: list[Webhook], loads: list[Load]) -> None:
    """Every acknowledged event is in the log exactly once, each sender's in its order; no event is there twice."""
    place = {event.body: event.seq for event in log}
    assert len(place) == len(log), "an event is in the log twice"
    for load in loads:
        for bodies in load.acknowledged:
            places = [place.get(body, 0) for body in bodies]
            assert 0 not in places, f"{places.count(0)} acknowledged events of {load.name} are lost"
            assert places == sorted(places), "a sender's events changed their order"


@pytest.mark.heavy
def test_kill_9_under_load(relay: Relay) -> None:
    """20 times kill -9 under load: no acknowledged event is lost or doubled, and a cursor from before each kill is
    honoured after it and after every later one: no gap, the next seq, and each id still names the same event."""
    path = relay.create_bucket("orders")
    token = relay.create_token()
    loads: list[Load] = []
    seen: list[Webhook] = []
    cursor: object = "earliest"

    async def follow(subscriber: Subscriber) -> list[Webhook]:
        return [event async for event in subscriber.webhooks()]

    async def one_round(number: int) -> None:
        nonlocal cursor
        async with Subscriber(relay, token, "orders", cursor) as subscriber:
            assert subscriber.subscribed["gap"] is None
            assert subscriber.subscribed["recovered"] is True
            assert subscriber.subscribed["start"] == len(seen) + 1
            load = Load(relay, path, f"round {number}")
            loads.append(load)
            running = asyncio.ensure_future(load.run())
            following = asyncio.ensure_future(follow(subscriber))
            await load.until(random.randint(40, 200))
            relay.kill()
            await running
            new = await following
        assert [event.seq for event in new] == list(range(len(seen) + 1, len(seen) + 1 + len(new)))
        seen.extend(new)
        if seen:
            cursor = seen[-1].id

    for number in range(ROUNDS):
        asyncio.run(one_round(number))
        relay.start()
        assert "missing" not in relay.said().lower(), f"a false alarm of the witness:\n{relay.said()}"

    log = asyncio.run(read_log(relay, token, "orders"))
    check(log, loads)
    bodies = {event.id: event.body for event in log}
    assert all(bodies[event.id] == event.body for event in seen), "an id names another event than before the kill"
    ends = {event.id.partition("-")[0]: event for event in log}
    assert len(ends) == ROUNDS, "each start opens an epoch at its first append"
    asyncio.run(check_cursors(relay, token, [*ends.values(), *random.sample(seen, ROUNDS)]))
    assert relay.stop() == 0


async def check_cursors(relay: Relay, token: tuple[str, str], events: list[Webhook]) -> None:
    """The ids of these events are honoured exactly: delivery goes on at the next seq."""
    for event in events:
        async with Subscriber(relay, token, "orders", event.id) as subscriber:
            assert subscriber.subscribed["gap"] is None
            assert subscriber.subscribed["start"] == event.seq + 1


def test_sigterm_under_load(relay: Relay) -> None:
    """SIGTERM under load: sockets get 1001, a request that is half sent still gets its 200, the relay ends with 0
    within 10 s, and everything acknowledged is there at the next start."""
    path = relay.create_bucket("orders")
    token = relay.create_token()
    load = Load(relay, path, "load")

    async def run() -> None:
        async with Subscriber(relay, token, "orders", "latest") as subscriber, Sender(relay, path) as slow:
            running = asyncio.ensure_future(load.run())
            slow.writer.write(slow.head(10) + b"half ")
            await load.until(100)
            relay.terminate()
            async for _ in subscriber.webhooks():
                pass
            assert subscriber.socket.close_code == 1001
            slow.writer.write(b"then.")
            async with asyncio.timeout(TIMEOUT):
                assert await slow.answer() == 200
            await running

    asyncio.run(run())
    assert relay.wait(10) == 0
    load.acknowledged.append([b"half then."])
    relay.start()
    check(asyncio.run(read_log(relay, token, "orders")), [load])


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
