"""Events that are imported again: those that are there are compared."""

from __future__ import annotations

import msgspec
import pytest

from relay_tornado.errors import Conflict
from relay_tornado.model import Event
from relay_tornado.ops.export_format import document
from tests.admin.world import World


@pytest.mark.gen_test
async def test_events_in_another_order_are_compared(world: World) -> None:
    """As where two parts of an export that overlap are put together: what differs is not passed over."""
    await world.administration.create_bucket("orders")
    one, two, three = (
        Event(seq, "zzzzzzzzzzzz", 1000.0 + seq, "input", "POST", b"", b"", b"", b"x", "192.0.2.1") for seq in (1, 2, 3)
    )
    events = [document(each) for each in (one, two, three)]
    assert await world.administration.import_events("orders", events) == {"imported": 3, "head": 3}
    assert await world.administration.import_events("orders", events[::-1]) == {"imported": 0, "head": 3}
    for body in (b"another", b"y"):
        other = document(msgspec.structs.replace(one, body=body))
        with pytest.raises(Conflict, match="event 1 of the bucket differs"):
            await world.administration.import_events("orders", [events[2], events[1], other])
