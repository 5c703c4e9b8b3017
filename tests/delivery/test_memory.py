"""relay_tornado/delivery where memory is short: nobody waits in vain, gets anything twice, or takes up room."""

from __future__ import annotations

import asyncio
import gc

import pytest
from structlog.testing import capture_logs

from relay_tornado.delivery import dispatch
from relay_tornado.delivery.bounds import PendingWrite, WriteBudget
from relay_tornado.delivery.deliver import Delivery
from tests import waiting
from tests.delivery.world import Reader, World, quiet, stocked, until
from tests.failing import once


@pytest.mark.gen_test
async def test_a_pass_without_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever was not served is, once there is some: nobody waits for the next event."""
    monkeypatch.setattr(dispatch, "_AGAIN", 0.01)
    world = await stocked(0)
    readers = [(await world.subscribe("orders"))[0] for _ in range(3)]
    await quiet()
    monkeypatch.setattr(dispatch.Dispatcher, "_serve", once(dispatch.Dispatcher._serve))
    with capture_logs() as logs:
        await world.append(2)
        await waiting.until(lambda: all(reader.seqs() == [1, 2] for reader in readers))
    assert [entry["event"] for entry in logs] == ["pass_failed"]


@pytest.mark.gen_test
async def test_a_pass_that_ends_in_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it had read is that bucket's alone: the next pass is over another one, at the same place."""
    monkeypatch.setattr(dispatch, "_AGAIN", 0.01)
    world = World()
    for name in "ab":
        await world.bucket(name)
    readers = [(await world.subscribe("a", "b"))[0] for _ in range(2)]
    await quiet()
    send, sent = dispatch._send, list[bytes]()

    def full(place: dispatch.Place, data: bytes) -> bool:
        """The second one, at first."""
        sent.append(data)
        return len(sent) != 2 and send(place, data)

    monkeypatch.setattr(dispatch, "_send", full)
    monkeypatch.setattr(dispatch.Dispatcher, "_leave", once(dispatch.Dispatcher._leave))
    with capture_logs() as logs:
        await world.append(1, "id-a")
        await world.append(1, "id-b")
        await waiting.until(lambda: all(len(reader.seqs("a") + reader.seqs("b")) == 2 for reader in readers))
    assert [entry["event"] for entry in logs] == ["pass_failed"]
    assert all(reader.seqs("a") == reader.seqs("b") == [1] for reader in readers)


class _Cut(Reader):
    """One that is closed where it is to come back."""

    def unavailable(self, reason: str) -> None:
        super().unavailable(reason)
        self.close()


@pytest.mark.gen_test
async def test_a_frame_that_may_have_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its subscriber has to come back: it is sent nothing twice. The others get what they always do."""
    world = await stocked(0)
    readers = [(await world.subscribe("orders", reader=_Cut()))[0] for _ in range(3)]
    await quiet()
    send = dispatch._send
    failing = once(lambda: None)

    def sent_and_failed(place: dispatch.Place, data: bytes) -> bool:
        sent = send(place, data)
        failing()
        return sent

    monkeypatch.setattr(dispatch, "_send", sent_and_failed)
    with capture_logs() as logs:
        await world.append(1)
        await until(lambda: any(reader.ends for reader in readers))
    assert [entry["event"] for entry in logs] == ["send_failed"]
    await world.append(1)
    await until(lambda: sum(reader.seqs() == [1, 2] for reader in readers) == 2)
    await quiet()
    cut = [reader for reader in readers if reader.ends]
    assert [reader.seqs() for reader in cut] == [[1]]
    assert sorted(reader.seqs() for reader in readers) == [[1], [1, 2], [1, 2]]


@pytest.mark.gen_test
async def test_a_write_that_nobody_waits_for_is_no_longer_in_flight() -> None:
    """It is dropped where there was no memory to wait for it."""
    budget = WriteBudget(1000)
    pending = PendingWrite(budget, asyncio.sleep(0), 10)
    assert budget.outstanding == 10
    await pending
    assert budget.outstanding == 0
    waiting_for = asyncio.sleep(0)
    pending = PendingWrite(budget, waiting_for, 10)
    del pending
    waiting_for.close()
    assert budget.outstanding == 0


@pytest.mark.gen_test
async def test_nothing_of_a_delivery_is_kept_once_it_has_ended() -> None:
    """Of one that was replaced, or that its client left."""
    world = await stocked(1)
    gc.collect()
    before = {id(each) for each in gc.get_objects() if isinstance(each, Delivery)}

    async def begin_and_end() -> None:
        _, first, _ = await world.subscribe("orders", since="earliest")
        await until(lambda: not first.busy)
        _, second, _ = await world.subscribe("orders", replaces=first)
        await until(lambda: not second.busy)
        world.deliveries.end(second)
        await second.ended()

    await begin_and_end()
    await quiet()
    gc.collect()
    kept = [each for each in gc.get_objects() if isinstance(each, Delivery) and id(each) not in before]
    assert kept == []
