"""What subscribers get where the file has lost events that were committed and delivered, while the relay runs."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from relay_tornado.delivery import receipts
from relay_tornado.delivery.deliver import Delivery
from relay_tornado.delivery.deliveries import Deliveries
from relay_tornado.errors import RelayError
from relay_tornado.ids import new_epoch
from relay_tornado.log.ledgers import Ledgers
from relay_tornado.log.sqlite_consumers import SqliteConsumers
from relay_tornado.model import Bucket, Earliest, Gap, Input, Latest
from relay_tornado.registry.memory import MemoryRegistry
from relay_tornado.wire import control
from tests.delivery.world import TOKEN, Reader
from tests.log.worlds import SqliteWorld, behind, event
from tests.storage.faults import Faults
from tests.waiting import until


class World:
    """A relay's delivery over a file that fails as told."""

    def __init__(self, file: SqliteWorld, faults: Faults) -> None:
        self.file = file
        self.log = file.log
        self._faults = faults
        self._registry = MemoryRegistry()
        self.consumers = SqliteConsumers(file.database)
        ledgers = Ledgers(self.consumers, file.log)
        self.deliveries = Deliveries(file.log, self._registry, file.settings, ledgers, ledgers.counters)

    async def bucket(self) -> None:
        await self.log.create("b", new_epoch())
        made = Bucket("b", "orders", 0, 0, inputs=(Input("input-1", "in", 0, 0),))
        await self._registry.put("bucket", "b", made)

    async def append(self, *bodies: bytes) -> None:
        for body in bodies:
            await self.log.append("b", event(body))

    async def subscribe(
        self, since: Any, reader: Reader | None = None, replaces: Delivery | None = None, **fields: Any
    ) -> tuple[Reader, Delivery]:
        reader = reader or Reader()
        request = control.Subscribe(since=since, **fields)
        delivery, _ = await self.deliveries.subscribe(
            reader, request, TOKEN, extended=True, replaces=replaces, ping=reader.ping
        )
        delivery.start()
        return reader, delivery

    async def lose(self, head: int) -> None:
        """The log ends at `head` again, and the relay finds out as a write fails."""
        with behind(self.file) as raw:
            raw.execute("DELETE FROM event WHERE seq > ?", (head,))
            raw.execute("UPDATE log SET head = ?", (head,))
        self._faults.before = lambda sql: sqlite3.SQLITE_IOERR if sql.startswith("INSERT OR FAIL INTO event") else None
        with pytest.raises(RelayError):
            await self.append(b"refused")
        self._faults.heal()
        async with asyncio.timeout(60):
            while self.file.database.problem or (await self.log.bounds("b")).head != head:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


@asynccontextmanager
async def world(path: Path) -> AsyncIterator[World]:
    faults = Faults()
    file = await SqliteWorld.open(path, faults.factory)
    made = World(file, faults)
    try:
        await made.bucket()
        yield made
    finally:
        made.deliveries.close()
        await file.close()


def bodies(reader: Reader) -> list[str]:
    return [message["body"] for message in reader.events()]


def gaps(reader: Reader) -> list[dict[str, Any]]:
    return [message["gap"] for message in reader.statuses() if message["status"] == "gap"]


OLD = [b"old %d" % number for number in range(1, 11)]
RESET = [{"from": None, "to": None, "count": None, "reason": "reset"}]


@pytest.mark.gen_test
@pytest.mark.parametrize("at_once", [False, True])
async def test_who_had_what_is_lost_is_told_and_misses_nothing_new(tmp_path: Path, at_once: bool) -> None:
    """New events have the seqs of the lost ones, and reach a subscriber that had those; also where they come before it
    had a turn. One that had less goes on."""
    async with world(tmp_path) as here:
        await here.append(*OLD[:5])
        live, _ = await here.subscribe(Earliest())
        await here.append(*OLD[5:])
        await until(lambda: len(bodies(live)) == 10)
        await here.lose(8)
        if not at_once:
            await until(live.gaps)
        await here.append(b"new 1", b"new 2", b"new 3")
        await until(lambda: bodies(live)[-1] == "new 3")
        assert bodies(live)[10:] == ["new 1", "new 2", "new 3"]
        assert live.gaps() == RESET
        again, _ = await here.subscribe(Earliest())
        await until(lambda: len(bodies(again)) == 11)
        assert bodies(again) == [*(each.decode() for each in OLD[:8]), "new 1", "new 2", "new 3"]
        assert again.gaps() == []


@pytest.mark.gen_test
@pytest.mark.parametrize("since", [Latest(), "kept"])
async def test_a_loss_while_a_position_is_judged(tmp_path: Path, since: Any) -> None:
    """By a log that still had what is lost: other events have those seqs, and none of them is missed."""
    async with world(tmp_path) as here:
        await here.append(*OLD)
        bounds = here.log.bounds
        reader, before = await here.subscribe(Latest())

        async def late(bucket_id: str) -> Any:
            found = await bounds(bucket_id)
            here.log.bounds = bounds  # type: ignore[method-assign]
            await here.lose(8)
            await here.append(b"new 1")
            return found

        here.log.bounds = late  # type: ignore[method-assign]
        if since == "kept":
            await here.subscribe(None, reader, replaces=before)
        else:
            reader, _ = await here.subscribe(since)
        await here.append(b"new 2", b"new 3")
        await until(lambda: bodies(reader)[-1:] == ["new 3"])
        assert bodies(reader) == ["new 1", "new 2", "new 3"]
        assert reader.gaps() == RESET


@pytest.mark.gen_test
async def test_two_losses_while_a_position_is_judged(tmp_path: Path) -> None:
    """Delivery begins behind the lower end: what came between them and is still there is new."""
    async with world(tmp_path) as here:
        await here.append(*OLD)
        bounds = here.log.bounds

        async def late(bucket_id: str) -> Any:
            found = await bounds(bucket_id)
            here.log.bounds = bounds  # type: ignore[method-assign]
            await here.lose(6)
            await here.append(b"new 1", b"new 2", b"new 3")
            await here.lose(8)
            return found

        here.log.bounds = late  # type: ignore[method-assign]
        reader, _ = await here.subscribe(Latest())
        await here.append(b"new 4")
        await until(lambda: bodies(reader)[-1:] == ["new 4"])
        assert bodies(reader) == ["new 1", "new 2", "new 4"]
        assert reader.gaps() == RESET


@pytest.mark.gen_test
@pytest.mark.parametrize("when", ["before", "between", "found"])
async def test_a_loss_while_a_subscribe_waits_for_the_one_before(tmp_path: Path, when: str) -> None:
    """That one is still in its write, and was told nothing yet of what was lost before or is lost then; or (`found`) it
    ended as it was about to be told."""
    async with world(tmp_path) as here:
        await here.append(*OLD)
        reader = Reader()
        reader.paused = when != "found"
        _, before = await here.subscribe(Earliest(), reader)
        await until(lambda: reader.waiting if reader.paused else not before.busy)
        bounds, looks, goes_on = here.log.bounds, asyncio.Event(), asyncio.Event()

        async def late(bucket_id: str) -> Any:
            if asyncio.current_task() is before._task:
                looks.set()
                await goes_on.wait()
            return await bounds(bucket_id)

        if when == "found":
            here.log.bounds = late  # type: ignore[method-assign]
        if when != "between":
            await here.lose(8)
        if when == "found":
            await looks.wait()
        again = asyncio.create_task(here.subscribe(None, reader, replaces=before))
        await until(lambda: before.over)
        if when == "between":
            await here.lose(8)
        await here.append(b"new 1", b"new 2", b"new 3")
        goes_on.set()
        reader.resume()
        await again
        await here.append(b"new 4")
        await until(lambda: bodies(reader)[-1:] == ["new 4"])
        assert [body for body in bodies(reader) if body.startswith("new")] == ["new 1", "new 2", "new 3", "new 4"]
        assert reader.gaps() == RESET


@pytest.mark.gen_test
async def test_two_losses_before_a_subscriber_is_told_of_one(tmp_path: Path) -> None:
    """It goes on behind the lower end: what came between them and is still there is new to it."""
    async with world(tmp_path) as here:
        await here.append(*OLD)
        reader = Reader(paused=True)
        await here.subscribe(Earliest(), reader)
        await until(lambda: reader.waiting)
        await here.lose(6)
        await here.append(b"new 1", b"new 2", b"new 3")
        await here.lose(8)
        reader.resume()
        await here.append(b"new 4")
        await until(lambda: bodies(reader)[-1:] == ["new 4"])
        assert bodies(reader)[10:] == ["new 1", "new 2", "new 4"]
        assert reader.gaps() == RESET


@pytest.mark.gen_test
async def test_who_asks_for_the_newest_behind_a_loss_has_no_gap(tmp_path: Path) -> None:
    """Its position is judged once the subscribe before it has ended, by a log that lost what it did before that."""
    async with world(tmp_path) as here:
        await here.append(*OLD)
        reader = Reader()
        reader.paused = True
        _, before = await here.subscribe(Earliest(), reader)
        await until(lambda: reader.waiting)
        again = asyncio.create_task(here.subscribe(Latest(), reader, replaces=before))
        await until(lambda: before.over)
        await here.lose(8)
        await here.append(b"new 1", b"new 2", b"new 3")
        reader.resume()
        await again
        await here.append(b"new 4")
        await until(lambda: bodies(reader)[-1:] == ["new 4"])
        assert [body for body in bodies(reader) if body.startswith("new")] == ["new 4"]
        assert reader.gaps() == []


@pytest.mark.gen_test
async def test_who_does_not_want_to_go_on_gets_nothing_behind_a_loss(tmp_path: Path) -> None:
    """Also where there is something new by the time that it looks."""
    async with world(tmp_path) as here:
        await here.append(*OLD[:9])
        reader, delivery = await here.subscribe(Earliest(), on_gap="fail")
        await until(lambda: not delivery.busy)
        reader.paused = True
        await here.append(OLD[9])
        await until(lambda: reader.waiting)
        await here.lose(8)
        await here.append(b"new 1", b"new 2")
        reader.resume()
        await until(lambda: reader.ends)
        assert reader.ends == ["gap_refused"]
        assert bodies(reader) == [each.decode() for each in OLD]
        assert reader.gaps() == RESET


@pytest.mark.gen_test
async def test_what_comes_instead_of_what_is_lost_reaches_who_is_there(tmp_path: Path) -> None:
    """Its sender may wait for an answer, though the seq is one that the subscriber began behind."""
    async with world(tmp_path) as here:
        await here.append(*OLD)
        reader, _ = await here.subscribe(Latest())
        await here.lose(8)
        await until(reader.gaps)
        await here.append(b"new 1")
        (event,) = await here.log.read("b", 8, 1, 1 << 20)
        assert here.deliveries.reaches("b", event, None)
        await until(lambda: bodies(reader) == ["new 1"])


@pytest.mark.gen_test
async def test_a_position_that_a_loss_moved_back_is_told(tmp_path: Path) -> None:
    """Before anything comes instead: a client that keeps it would begin behind the log's end."""
    async with world(tmp_path) as here:
        await here.append(*OLD)
        reader, delivery = await here.subscribe(Earliest())
        await until(lambda: len(bodies(reader)) == 10)
        assert delivery.moved()["orders"].endswith("-10")
        await here.lose(8)
        await until(reader.gaps)
        assert delivery.moved()["orders"].endswith("-8")


@pytest.mark.gen_test
async def test_what_was_read_before_a_loss_is_not_written_behind_it(tmp_path: Path) -> None:
    """A subscriber that had nothing of it has no gap."""
    async with world(tmp_path) as here:
        await here.append(*OLD)
        read, peek = here.log.read, here.log.peek
        gate, found = asyncio.Event(), asyncio.Event()

        async def late(*arguments: Any) -> Any:
            events = await read(*arguments)
            found.set()
            await gate.wait()
            return events

        here.log.read = late  # type: ignore[method-assign]
        here.log.peek = lambda *_: None  # type: ignore[method-assign,assignment,return-value]
        reader, _ = await here.subscribe(Earliest())
        await found.wait()
        here.log.read, here.log.peek = read, peek  # type: ignore[method-assign]
        await here.lose(1)
        gate.set()
        await here.append(b"new 2")
        await until(lambda: bodies(reader)[-1:] == ["new 2"])
        assert bodies(reader) == ["old 1", "new 2"]
        assert reader.gaps() == []


@pytest.mark.gen_test
@pytest.mark.parametrize("live", [False, True])
async def test_who_is_slow_gets_nothing_of_what_is_lost(tmp_path: Path, live: bool) -> None:
    """What was read for it before the loss and is not written yet is not written any more, whether it had been up to
    date before."""
    async with world(tmp_path) as here:
        large = [b"%d" % number + b"x" * 100_000 for number in range(1, 11)]
        reader = Reader()
        if live:
            await here.subscribe(Earliest(), reader)
            await until(reader.statuses)
        else:
            await here.append(*large)
        reader.paused = True
        if live:
            await asyncio.gather(*(here.log.append("b", event(body)) for body in large))
        else:
            await here.subscribe(Earliest(), reader)
        await until(lambda: reader.waiting)
        await here.lose(1)
        await here.append(b"new 2", b"new 3")
        reader.resume()
        await until(lambda: bodies(reader) and bodies(reader)[-1] == "new 3")
        written = [body[:1] for body in bodies(reader)[:-2]]
        assert written == ["1", "2"][: len(written)]
        assert bodies(reader)[-2:] == ["new 2", "new 3"]
        assert reader.gaps() == (RESET if len(written) > 1 else [])


async def _read_by_receipt(here: World, stored: bool) -> tuple[Reader, Delivery]:
    """A client that was given ten events by receipt, and the receipt is there (`stored`) or on its way."""
    await here.append(*OLD)
    reader, delivery = await here.subscribe(Earliest(), consumer="w", ack="receipt")
    await until(lambda: len(bodies(reader)) == 10 and len(reader.pings) == 2)
    if stored:
        delivery.ponged(reader.pings[1])
    return reader, delivery


@pytest.mark.gen_test
@pytest.mark.parametrize("stored", [False, True])
async def test_a_receipt_of_what_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored: bool) -> None:
    """It says nothing of the new events that have those seqs: nobody has read them."""
    monkeypatch.setattr(receipts, "INTERVAL", 0.01)
    async with world(tmp_path) as here:
        reader, delivery = await _read_by_receipt(here, stored)
        reader.paused = True
        await here.lose(8)
        await here.append(b"new 1", b"new 2")
        if not stored:
            delivery.ponged(reader.pings[1])
        reader.close()
        here.deliveries.end(delivery)
        again, _ = await here.subscribe(Earliest(), consumer="w", ack="receipt")
        await until(lambda: bodies(again) == ["new 1", "new 2"])


@pytest.mark.gen_test
async def test_what_is_lost_is_in_no_later_ping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that takes its time with a write answers pings meanwhile: they say nothing of the new events that have
    the seqs of lost ones."""
    monkeypatch.setattr(receipts, "INTERVAL", 0.01)
    async with world(tmp_path) as here:
        reader, delivery = await _read_by_receipt(here, stored=False)
        reader.paused = True
        await here.append(b"old 11")
        await until(lambda: reader.waiting)
        await here.lose(8)
        await here.append(b"new 1", b"new 2")
        for _ in range(10):
            await asyncio.sleep(0.01)
            delivery.ponged(reader.pings[-1])
        reader.close()
        here.deliveries.end(delivery)
        again, _ = await here.subscribe(Earliest(), consumer="w", ack="receipt")
        await until(lambda: bodies(again) == ["new 1", "new 2"])


@pytest.mark.gen_test
@pytest.mark.parametrize("stored", [False, True])
async def test_who_reads_by_receipt_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored: bool) -> None:
    """As any other client that had what is lost, wherever its consumer is."""
    monkeypatch.setattr(receipts, "INTERVAL", 0.01)
    async with world(tmp_path) as here:
        reader, _ = await _read_by_receipt(here, stored)
        await here.lose(8)
        await here.append(b"new 1", b"new 2")
        await until(lambda: bodies(reader)[-1] == "new 2")
        assert bodies(reader)[10:] == ["new 1", "new 2"]
        assert reader.gaps() == RESET


@pytest.mark.gen_test
async def test_a_receipt_of_what_comes_instead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It counts as any other, although its position was told before: that was of what is lost."""
    monkeypatch.setattr(receipts, "INTERVAL", 0.01)
    async with world(tmp_path) as here:
        reader, delivery = await _read_by_receipt(here, stored=False)
        await here.lose(8)
        await here.append(b"new 1", b"new 2")
        await until(lambda: bodies(reader)[-1] == "new 2")
        async with asyncio.timeout(60):
            while (await here.consumers.list())[0].floor < 10:
                delivery.ponged(reader.pings[-1])
                await asyncio.sleep(0.01)


@pytest.mark.gen_test
async def test_who_shares_a_consumer_is_told(tmp_path: Path) -> None:
    """As any other client that had what is lost, and it is kept with the consumer."""
    async with world(tmp_path) as here:
        await here.append(*OLD)
        reader, delivery = await here.subscribe(Earliest(), consumer="w")
        await until(lambda: len(bodies(reader)) == 10)
        await here.lose(8)
        await here.append(b"new 1", b"new 2")
        await until(lambda: bodies(reader)[-1] == "new 2")
        assert reader.gaps() == RESET
        here.deliveries.end(delivery)
        (stored,) = await here.consumers.list()
        assert stored.untold == (Gap("reset"),)
