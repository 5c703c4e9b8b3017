"""Backups of a relay that senders load, and what each is good for once it is restored."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from tests.acceptance.clients import Sender, Subscriber, read_log
from tests.acceptance.relay import TIMEOUT, Relay

SENDERS = 4
PAUSE = 0.002


class Load:
    """Senders that send while they are `on`, and note what was acknowledged."""

    def __init__(self, relay: Relay, path: str) -> None:
        self.relay = relay
        self.path = path
        self.acknowledged: set[bytes] = set()
        self._numbers = itertools.count()
        self._more = asyncio.Event()

    async def until(self, count: int) -> None:
        """Waits until so many are acknowledged."""
        async with asyncio.timeout(TIMEOUT):
            while len(self.acknowledged) < count:
                self._more.clear()
                await self._more.wait()

    @contextlib.asynccontextmanager
    async def on(self) -> AsyncIterator[None]:
        enough = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for _ in range(SENDERS):
                group.create_task(self._send(enough))
            yield
            enough.set()

    async def _send(self, enough: asyncio.Event) -> None:
        async with Sender(self.relay, self.path) as sender:
            while not enough.is_set():
                body = b"%d " % next(self._numbers) + b"x" * 700
                assert await sender.post(body) == 200
                self.acknowledged.add(body)
                self._more.set()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(enough.wait(), PAUSE)


async def command(relay: Relay, *arguments: str) -> Any:
    """`relay ARGUMENTS --json`, without keeping the senders waiting."""
    return await asyncio.to_thread(relay.command, *arguments)


async def backups_under_load(folder: Path, rounds: int) -> list[str]:
    """Makes backups of a relay under load and restores each; fails where one does not keep what it promises.

    Returns a line for each.
    """
    relay = Relay(folder / "live")
    path = relay.create_bucket("orders")
    token = relay.create_token()
    said = []
    with relay:
        load = Load(relay, path)
        for number in range(rounds):
            file = folder / f"backup-{number}.db"
            async with load.on():
                await load.until(200 * (number + 1))
                before = frozenset(load.acknowledged)
                made = await command(relay, "backup", str(file))
                # Past its end, so that there are cursors that the backup can't know.
                await load.until(len(load.acknowledged) + 20)
            # What came last is in the WAL alone. Under load it is in the file by the time a backup has begun.
            async with Sender(relay, path) as sender:
                last = b"%d, the last" % number
                assert await sender.post(last) == 200
            load.acknowledged.add(last)
            quiet = await command(relay, "backup", str(folder / f"quiet-{number}.db"))
            assert quiet["events"] == len(load.acknowledged), "a backup lacks what was acknowledged last"
            # Not under load: the slower the machine, the more there would be to look at.
            said.append(await _restored(folder / f"restored-{number}", file, relay, token, before, made))
        assert (await command(relay, "check"))["findings"] == []
        log = await read_log(relay, token, "orders")
        assert {event.body for event in log} == load.acknowledged, "the live relay lost something"
    return said


async def _restored(
    data: Path, file: Path, live: Relay, token: tuple[str, str], before: frozenset[bytes], made: dict[str, Any]
) -> str:
    restored = Relay(data)
    answer = await command(restored, "restore", str(file))
    assert [each["key"] for each in answer["tokens"]] == [token[0]]
    whole = await read_log(live, token, "orders")
    await asyncio.to_thread(restored.start)
    try:
        assert "witness" not in restored.said()
        kept = await read_log(restored, token, "orders")
        head = len(kept)
        assert head == answer["events"] == made["events"]
        assert before <= {event.body for event in kept}, "what was acknowledged before it began is missing"
        ids = [event.id for event in whole]
        assert [event.id for event in kept] == ids[:head], "the ids are not the same"
        # Every cursor up to the head is honoured: the first, the last, and some between.
        for seq in {1, head // 3, head // 2, head - 1, head}:
            async with Subscriber(restored, token, "orders", ids[seq - 1]) as subscriber:
                assert subscriber.subscribed["gap"] is None
                assert subscriber.subscribed["start"] == seq + 1
        # One beyond is told what it misses, exactly.
        async with Subscriber(restored, token, "orders", ids[head + 9]) as subscriber:
            gap = {"from": head + 1, "to": head + 10, "count": 10, "reason": "reset"}
            assert subscriber.subscribed["gap"] == gap
            assert subscriber.subscribed["start"] == head + 1
        buckets = await command(restored, "bucket", "list")
        async with Sender(restored, f"/v1/webhooks/{buckets[0]['inputs'][0]['id']}") as sender:
            assert await sender.post(b"new") == 200
        newest = (await read_log(restored, token, "orders"))[-1]
        assert (newest.seq, newest.body) == (head + 1, b"new")
        assert newest.id.partition("-")[0] not in {one.partition("-")[0] for one in ids}, "a new event has an old epoch"
    finally:
        await asyncio.to_thread(restored.stop)
    checked = await command(restored, "check")
    assert checked["findings"] == []
    return f"{file.name}: {head} events, {len(before)} acknowledged before, {made['seconds']} s"
