"""What a machine does to the relay on it: it sets the clock, stands still, and has a disk that is slow or read-only."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.clients import Sender, Subscriber, post, read_log
from tests.acceptance.relay import Relay, wait_for
from tests.faults.disk import MIB, Disk, needs_disk
from tests.faults.failing_writes import needs_strace
from tests.forwarding.target import Target, answer
from tests.waiting import until

HOUR = 3600.0


class ShiftedRelay(Relay):
    """One whose clock of day can be set."""

    module = "tests.faults.shifted"

    def __init__(self, data: Path, **settings: object) -> None:
        super().__init__(data, **settings)
        self._shift = data.with_suffix(".shift")
        self._shift.write_bytes(bytes(8))

    def environment(self) -> dict[str, str]:
        return super().environment() | {"SHIFT": str(self._shift)}

    def shift(self, seconds: float) -> None:
        """From here on the clock is off by so many seconds."""
        with self._shift.open("r+b") as file:
            file.write(struct.pack("d", seconds))


class UnthreadedRelay(Relay):
    """One that loses its writer's thread with the third event."""

    module = "tests.faults.unthreaded"


class Worker(Subscriber):
    """One of a consumer with explicit acks that acks at the second try: it refuses every other event at first, and
    says nothing to the rest."""

    async def send(self, message: dict[str, Any]) -> None:
        fields = {"consumer": "worker", "ack_wait": 1} if message["action"] == "subscribe" else {}
        await super().send(message | fields)

    async def work(self) -> None:
        async for event in self.webhooks():
            if "attempt" in event.frame["meta"]:
                await self.send({"action": "ack", "id": event.id})
            elif event.seq % 2:
                await self.send({"action": "nak", "id": event.id, "delay": 1})


@contextlib.asynccontextmanager
async def at_work(*work: Any) -> Any:
    """These go on meanwhile, and have not ended by then."""
    tasks = [asyncio.ensure_future(each) for each in work]
    yield
    ended = [task for task in tasks if task.done()]
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert not ended


async def all_done(relay: Relay) -> bool:
    shown = await asyncio.to_thread(relay.call, "consumer.list", bucket="orders")
    return all(each["pending"] == 0 and each["lag"]["events"] == 0 for each in shown)


@pytest.mark.heavy
def test_the_clock_is_set(tmp_path: Path) -> None:
    """By hours, forwards and back: nobody is cut off, times stay in order, and what is to come again, to a client or to
    a destination, comes when it is due, and not hours later."""

    async def run(relay: ShiftedRelay, path: str, token: tuple[str, str]) -> None:
        tries: dict[bytes, int] = {}

        def turned_away(body: bytes) -> bytes:
            tries[body] = tries.get(body, 0) + 1
            return answer(503 if tries[body] == 1 else 200)

        async with (
            Target(lambda got: turned_away(got.body)) as target,
            Sender(relay, path) as sender,
            Worker(relay, token, "orders", "earliest") as worker,
            Subscriber(relay, token, "orders", "earliest") as subscriber,
        ):
            options = {"destination": target.url, "internal": False}
            await asyncio.to_thread(relay.call, "output.create", bucket="orders", options=options)
            await asyncio.to_thread(relay.call, "output.create", bucket="orders", options={"internal": True})
            async with at_work(worker.work()):
                for count, shift in enumerate((HOUR, -HOUR, 0.0)):
                    for number in range(4):
                        if number == 2:
                            relay.shift(shift)
                        assert await sender.post(b"%d/%d" % (count, number)) == 200
                    await until(lambda: all_done(relay), "everything to be done")
            times = []
            async for event in subscriber.webhooks():
                times.append(event.frame["meta"]["received_at"])
                if len(times) == 12:
                    break
        assert times == sorted(times)
        assert len(tries) == 12
        assert set(tries.values()) == {2}

    with ShiftedRelay(tmp_path / "shifted", forward_allow="127.0.0.0/8") as relay:
        asyncio.run(run(relay, relay.create_bucket("orders"), relay.create_token()))


def test_a_database_thread_is_lost(tmp_path: Path) -> None:
    """For lack of memory: whoever waits for it would wait for ever. The relay ends, so that it is started again, and
    nothing is lost."""

    async def run(path: str) -> None:
        async with Sender(relay, path) as sender:
            for number in range(2):
                assert await sender.post(b"%d" % number) == 200
            with pytest.raises((OSError, EOFError)):
                await sender.post(b"2")

    with UnthreadedRelay(tmp_path / "data") as relay:
        path, token = relay.create_bucket("orders"), relay.create_token()
        asyncio.run(run(path))
        assert relay.wait() == 1
        assert "database_thread_lost" in relay.said()
        relay.module = Relay.module
        relay.start()
        assert [event.body for event in asyncio.run(read_log(relay, token, "orders"))] == [b"0", b"1", b"2"]


@pytest.mark.heavy
def test_the_relay_stands_still(tmp_path: Path) -> None:
    """For longer than anybody has to answer, idle or in the middle of a request: what came meanwhile is answered, and
    whoever subscribes stays connected."""
    times = {"idle_timeout": 5, "head_timeout": 5, "body_timeout": 5, "stuck_timeout": 1, "ping_interval": 0.2}

    async def run(relay: Relay, path: str, token: tuple[str, str]) -> None:
        async with Subscriber(relay, token, "orders", "latest") as subscriber, contextlib.AsyncExitStack() as stack:
            seen: list[bytes] = []

            async def follow() -> None:
                async for event in subscriber.webhooks():
                    seen.append(event.body)  # noqa: PERF401  # one by one, as they come

            idle, sending = [
                [await stack.enter_async_context(Sender(relay, path)) for _ in range(20)] for _ in range(2)
            ]
            async with at_work(follow()):
                for sender in idle:
                    assert await sender.post(b"before") == 200
                for sender in sending:
                    sender.writer.write(sender.head(4) + b"me")
                    await sender.writer.drain()
                relay.freeze()
                for sender in idle:
                    sender.writer.write(sender.head(4) + b"idle")
                for sender in sending:
                    sender.writer.write(b"an")
                await asyncio.sleep(8)
                os.kill(relay.pid, signal.SIGCONT)
                for sender in (*idle, *sending):
                    assert await sender.answer() == 200
                await until(lambda: len(seen) == 60, "all events")
                await asyncio.sleep(1)

    with Relay(tmp_path / "frozen", **times) as relay:
        asyncio.run(run(relay, relay.create_bucket("orders"), relay.create_token()))


def traced(thread: Path) -> bool:
    """Whether somebody traces it; it may have ended meanwhile."""
    try:
        return "TracerPid:\t0" not in (thread / "status").read_text()
    except OSError:
        return False


@contextlib.contextmanager
def slow_syncs(relay: Relay) -> Iterator[None]:
    """Each sync of the relay's takes ten minutes, or until the end of this."""
    inject = "inject=fsync,fdatasync:delay_enter=600s"
    with subprocess.Popen(["strace", "-f", "-qq", "-o", os.devnull, "-e", inject, "-p", str(relay.pid)]) as strace:
        try:
            wait_for(lambda: all(map(traced, Path(f"/proc/{relay.pid}/task").iterdir())), "strace")
            yield
        finally:
            strace.terminate()


@pytest.mark.heavy
def test_a_sync_that_takes_long(tmp_path: Path) -> None:
    """While one is under way the loop goes on: reads and replays are answered, and the event is not."""
    needs_strace()

    async def run(relay: Relay, path: str, token: tuple[str, str]) -> None:
        async with Sender(relay, path) as sender:
            assert await sender.post(b"before") == 200
            with slow_syncs(relay):
                sending = asyncio.ensure_future(sender.post(b"meanwhile"))
                # More than one interval of what is synced by the clock.
                for _ in range(30):
                    assert [event.body for event in await read_log(relay, token, "orders")] == [b"before"]
                    await asyncio.sleep(0.1)
                assert not sending.done()
            assert await sending == 200

    with Relay(tmp_path / "slow") as relay:
        asyncio.run(run(relay, relay.create_bucket("orders"), relay.create_token()))


@pytest.mark.heavy
def test_a_disk_that_becomes_read_only(tmp_path: Path) -> None:
    """As ext4 does on an error: senders get 503, reads go on, /readyz says so, and once it is mounted anew the relay
    starts, and has what it acknowledged."""
    needs_disk()

    with Disk(tmp_path, 64 * MIB) as disk:
        relay = Relay(disk.place / "data")
        relay.output = tmp_path / "relay.out"
        with relay:
            path, token = relay.create_bucket("orders"), relay.create_token()
            assert asyncio.run(post(relay, path, b"x")) == 200
            disk.fail()
            for _ in range(3):
                assert asyncio.run(post(relay, path, b"x")) == 503
                assert len(asyncio.run(read_log(relay, token, "orders"))) == 1
            assert relay.ready()[0] == 503
            relay.stop()
            disk.unmount()
            disk.mount()
            relay.start()
            assert asyncio.run(post(relay, path, b"x")) == 200
            assert len(asyncio.run(read_log(relay, token, "orders"))) == 2
            assert relay.command("check")["findings"] == []
