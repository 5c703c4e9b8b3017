"""What delivery waits for comes, also where there was no memory to set a timer for it."""

from __future__ import annotations

import pytest

from tests.delivery.durable import KEY as RECEIPTS
from tests.delivery.durable import client, with_row
from tests.delivery.virtual import event_loop as event_loop
from tests.delivery.virtual import virtual_test
from tests.delivery.workers import KEY, worker
from tests.delivery.world import stocked
from tests.failing import lose_timers


@virtual_test
async def test_what_delivery_waits_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Subscribers get everything in order, receipts are asked for, and what is not acked comes again."""
    world = await stocked(0)
    await with_row(world)
    lose_timers(monkeypatch)
    reader, _, _ = await world.subscribe("orders")
    durable = await client(world, "orders")
    one = await worker(world, ack_wait=5, max_in_flight=2)
    acked = 0
    for seq in range(1, 13):
        await world.append(1)
        await durable.answer(3)
        assert reader.seqs() == durable.reader.seqs() == list(range(1, seq + 1))
        tries = one.tries()
        for tried, _ in tries[acked:]:
            if tried % 3 or len([each for each, _ in tries if each == tried]) > 1:
                assert one.ack(tried)
        acked = len(tries)
    await durable.answer(20)
    for tried, attempt in one.tries()[acked:]:
        assert attempt > 1
        one.ack(tried)
    assert {seq for seq, _ in one.tries()} == set(range(1, 13))
    assert await world.floor(RECEIPTS) == await world.floor(KEY) == 12
