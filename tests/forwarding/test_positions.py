"""relay_tornado/forwarding/forwarding.py: whose positions a start removes, and one that can't be opened."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from relay_tornado.errors import Unavailable
from relay_tornado.forwarding import forwarding
from relay_tornado.forwarding.forwarding import key_of
from relay_tornado.log.consumers import Key, Stored, Terms
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


@pytest.mark.parametrize("error", [Unavailable("the file can't be read"), MemoryError()])
@pytest.mark.gen_test
async def test_a_position_that_can_not_be_opened_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Whatever it was; the output gets what came meanwhile."""
    monkeypatch.setattr(forwarding, "_AGAIN", 0.01)
    async with Target() as target, world() as made:
        get, errors = made.consumers.get, [error]

        async def fails(key: Key) -> Stored | None:
            if errors:
                raise errors.pop()
            return await get(key)

        made.consumers.get = fails  # type: ignore[method-assign]
        with capture_logs() as said:
            await made.change(public(target.url))
            await made.append(b"1")
            await target.until(1)
        assert [each["event"] for each in said] == ["output_not_opened"]
