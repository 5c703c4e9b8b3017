"""relay_tornado/forwarding/forwarding.py: whose positions a start removes."""

from __future__ import annotations

import pytest

from relay_tornado.forwarding.forwarding import key_of
from relay_tornado.log.consumers import Terms
from tests.forwarding.target import Target
from tests.forwarding.world import B, public, world


@pytest.mark.gen_test
async def test_a_bucket_whose_record_is_hidden_keeps_its_positions() -> None:
    """Those of outputs that are not public any more leave; where damage hides the bucket's record, nothing does."""
    async with Target() as target, world(public(target.url)) as made:
        await made.log.create("hidden", "a" * 12)
        for bucket_id, number in ((B, 2), ("hidden", 1)):
            await made.consumers.create(key_of(bucket_id, number), 0, Terms(), 1.0)
        await made.restart()
        kept = {stored.key for stored in await made.consumers.list()}
        assert kept == {key_of(B, 1), key_of("hidden", 1)}
