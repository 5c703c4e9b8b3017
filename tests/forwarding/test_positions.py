"""relay_tornado/forwarding/forwarding.py: which outputs are opened, and whose positions a start removes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from relay_tornado.forwarding import forwarder
from relay_tornado.log.consumers import Terms, output_key
from tests.failing import once
from tests.forwarding.target import Target
from tests.forwarding.world import B, World, public, world
from tests.waiting import until


@pytest.mark.gen_test
async def test_a_bucket_whose_record_is_hidden_keeps_its_positions() -> None:
    """Those of outputs that are not public any more leave; where damage hides the bucket's record, nothing does."""
    async with Target() as target, world(public(target.url)) as made:
        await made.log.create("hidden", "a" * 12)
        for bucket_id, number in ((B, 2), ("hidden", 1)):
            await made.consumers.create(output_key(bucket_id, number), 0, Terms(), 1.0)
        await made.restart()
        kept = {stored.key for stored in await made.consumers.list()}
        assert kept == {output_key(B, 1), output_key("hidden", 1)}


@pytest.mark.parametrize(("place", "name"), [("ledgers", "open"), (forwarder.Forwarder, "_take_over")])
@pytest.mark.gen_test
async def test_an_output_that_could_not_be_opened(place: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is opened a little later, where it was to begin, and those behind it are, too."""
    async with Target() as target, world() as w:
        holder = w.ledgers if place == "ledgers" else place
        monkeypatch.setattr(holder, name, once(getattr(holder, name)))
        await w.change(public(target.url, 1), public(target.url, 2))
        await w.append(b"1")
        await target.until(2)
        for number in (1, 2):
            await w.idle(number)
            assert w.forwarder(number).ledger.progress.floor == 1


@pytest.mark.gen_test
async def test_an_output_that_could_not_be_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a little later, as are those behind it: nothing goes on to where it no longer belongs."""
    async with Target() as old, Target() as new, world(public(old.url, 1), public(old.url, 2)) as w:
        monkeypatch.setattr(forwarder, "Goes", once(forwarder.Goes))
        await w.change(public(new.url, 1), public(new.url, 2))
        await until(lambda: w.forwarder(1).output.destination == new.url)
        await w.append(b"1")
        await new.until(2)
        assert old.bodies == []


@pytest.mark.gen_test
async def test_an_output_whose_position_is_made_anew_goes_on_from_there() -> None:
    """As where it was internal for a moment, which its forwarder did not notice."""
    async with Target() as target, world(public(target.url)) as w:
        await w.append(b"1")
        await w.settled(target, 1)
        await w.ledgers.delete(output_key(B, 1))
        await w.append(b"2")
        await target.until(2)
        await until(lambda: not w.forwarding._leaving)
        await w.idle()
        assert target.bodies == [b"1", b"2"]
        assert w.forwarder().ledger.live


@pytest.mark.gen_test
async def test_an_output_that_is_made_during_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is forwarded to from then on, as any other; the relay serves its administrators by then."""
    w, going = World(), asyncio.Event()
    listed = w.consumers.list

    async def slow(*args: Any) -> Any:
        found = await listed(*args)
        await going.wait()
        return found

    async with Target() as target:
        await w.add()
        monkeypatch.setattr(w.consumers, "list", slow)
        starting = asyncio.create_task(w.forwarding.start())
        try:
            await asyncio.sleep(0)
            await w.change(public(target.url))
            going.set()
            await starting
            await w.append(b"1")
            await target.until(1)
        finally:
            await w.forwarding.stop()
            w.responses.close()
