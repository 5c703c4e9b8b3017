"""relay_tornado/forwarding/forwarding.py: which outputs are opened, and whose positions a start removes."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from structlog.testing import capture_logs

from relay_tornado.errors import Unavailable
from relay_tornado.forwarding import forwarder, forwarding
from relay_tornado.log.consumers import Key, Stored, output_key
from tests.failing import once
from tests.forwarding.target import Target
from tests.forwarding.world import B, World, public, slow_to_read, world
from tests.waiting import until


@pytest.mark.gen_test
async def test_a_start_waits_for_no_output_that_there_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay_tornado.forwarding.forwarding._PATIENCE", 3600.0)
    async with world() as w:
        assert w.forwarding.in_flight == 0


@pytest.mark.gen_test
async def test_a_start_waits_only_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a position whose reading takes longer; that goes on."""
    monkeypatch.setattr("relay_tornado.forwarding.forwarding._PATIENCE", 0.01)
    going = asyncio.Event()
    async with Target() as target, world(public(target.url)) as w:
        get = w.consumers.get

        async def slow(key: Key) -> Stored | None:
            await going.wait()
            return await get(key)

        monkeypatch.setattr(w.consumers, "get", slow)
        await w.restart()
        assert not w.forwarding._forwarders
        await w.append(b"1")
        going.set()
        await target.until(1)


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
        await w.forwarding.stop()
        assert [w.ledgers.find(output_key(B, number)) for number in (1, 2)] == [None, None]


@pytest.mark.parametrize(
    "errors", [(Unavailable("one"), Unavailable("two")), (OSError(1, "one"), ValueError("two"))], ids=["known", "not"]
)
@pytest.mark.gen_test
async def test_an_output_that_can_not_be_opened_for_long(
    errors: tuple[Exception, Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is logged once for each reason, and once more if it happens again later."""
    tried: list[str] = []
    working = True
    async with Target() as target, world() as w:
        opening = w.ledgers.open

        async def failing(key: Key, *args: Any) -> Any:
            tried.append(key.name)
            if working:
                return await opening(key, *args)
            raise errors[len(tried) // 2 % 2]

        monkeypatch.setattr(forwarding, "_AGAIN", 0.0)
        monkeypatch.setattr(w.ledgers, "open", failing)
        for _ in range(2):
            with capture_logs() as said:
                working = False
                await w.change(public(target.url, 1), public(target.url, 2))
                tried.clear()
                await until(lambda: len(tried) > 20)
                working = True
                await until(lambda: len(w.forwarding._forwarders.get(B, ())) == 2)
            told = [(each["event"], each["output"]) for each in said]
            assert sorted(told) == sorted([("output_not_opened", 1), ("output_not_opened", 2)] * 2)
            await w.change()
            await until(lambda: not w.forwarding._forwarders)


@pytest.mark.parametrize("when", ["it is tried again later", "another one is opened"])
@pytest.mark.gen_test
async def test_an_output_that_could_not_be_opened_and_changes(when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It begins where it was to begin all the same: what comes until it is opened is sent to it."""
    going, tried = asyncio.Event(), []
    async with Target() as target, Target() as other, world() as w:
        opening = w.ledgers.open

        async def slow(key: Key, *args: Any) -> Any:
            tried.append(key.name)
            if tried == ["1"]:
                raise Unavailable("no")
            if key.name == "2":
                await going.wait()
            return await opening(key, *args)

        monkeypatch.setattr(w.ledgers, "open", slow)
        others = [] if when == "it is tried again later" else [public(other.url, 2)]
        await w.change(public(target.url), *others)
        await until(lambda: tried == ["1", *(["2"] if others else [])])
        await w.append(b"1")
        await w.change(public(target.url, timeout=5), *others)
        going.set()
        await target.until(1)


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
async def test_an_output_that_is_no_longer_public_sends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if its position can't be removed yet."""
    asked = asyncio.Event()

    async def refused(key: Key) -> None:
        asked.set()
        raise Unavailable("no")

    async with Target() as target, world(public(target.url)) as w:
        monkeypatch.setattr(w.consumers, "delete", refused)
        await w.change(replace(public(target.url), internal=True))
        await asked.wait()
        await w.append(b"1")
        assert w.forwarding.in_flight == 0
        assert not w.forwarding._forwarders


@pytest.mark.parametrize("public_again", [False, True])
@pytest.mark.gen_test
async def test_a_deleted_output_sends_nothing_while_another_is_opened(
    public_again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that becomes public again meanwhile goes on once that is done."""
    async with Target() as target, world(public(target.url)) as w:
        asked, going = slow_to_read(monkeypatch, w)
        await w.change(public(target.url), public(target.url, 2))
        await asked.wait()
        await w.change(public(target.url, 2))
        await w.append(b"1")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert w.forwarding.in_flight == 0
        assert target.bodies == []
        if public_again:
            await w.change(public(target.url), public(target.url, 2))
        going.set()
        await until(lambda: w.forwarding._worker is None)
        assert w.forwarding._forwarders[B].keys() == ({1, 2} if public_again else {2})
        assert all(w.forwarder(n).active for n in w.forwarding._forwarders[B])


@pytest.mark.parametrize("change", ["deleted", "internal", "paused", "stop"])
@pytest.mark.gen_test
async def test_an_event_that_was_being_read_is_not_sent(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the output was changed meanwhile, or the relay is to stop."""
    async with Target() as target, world() as w:
        asked, going, peek = asyncio.Event(), asyncio.Event(), w.log.peek

        async def slow(*what: Any) -> Any:
            asked.set()
            await going.wait()
            return peek(*what)

        monkeypatch.setattr(w.log, "peek", lambda *_: None)
        monkeypatch.setattr(w.log, "read", slow)
        output = public(target.url)
        await w.change(output)
        await until(lambda: w.forwarding._forwarders)
        await w.append(b"1")
        await asked.wait()
        sending = w.forwarder()
        if change == "stop":
            await w.forwarding.finish(0)
        else:
            changes = {"deleted": (), "internal": (replace(output, internal=True),)}
            await w.change(*changes.get(change, (replace(output, paused=True),)))
        going.set()
        await sending.ended()
        assert (target.bodies, sending.ledger.progress.out) == ([], 0)


@pytest.mark.gen_test
async def test_an_output_that_becomes_internal_while_it_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not opened, and has no position."""
    async with Target() as target, world() as w:
        asked, going = slow_to_read(monkeypatch, w)
        await w.change(public(target.url))
        await asked.wait()
        await w.change(replace(public(target.url), internal=True))
        going.set()
        await until(lambda: w.forwarding._worker is None)
        assert not w.forwarding._forwarders
        assert await w.consumers.list() == []


@pytest.mark.gen_test
async def test_an_output_of_a_bucket_whose_log_is_gone_is_not_tried_again() -> None:
    async with world() as w:
        await w.log.drop(B)
        await w.change(public("http://127.0.0.1:1"))
        await until(lambda: w.forwarding._worker is None)


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
async def test_an_output_whose_position_was_deleted_waits_for_the_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long that takes: what it sent without one would be sent twice."""
    going, asked = asyncio.Event(), asyncio.Event()
    async with Target() as target, Target() as other, world(public(target.url)) as w:
        get = w.consumers.get

        async def slow(key: Key) -> Stored | None:
            if key.name == "2":
                asked.set()
                await going.wait()
            return await get(key)

        monkeypatch.setattr(w.consumers, "get", slow)
        await w.change(public(target.url), public(other.url, 2))
        await asked.wait()
        await w.ledgers.delete(output_key(B, 1))
        await w.append(b"1")
        await w.turn(0)
        assert w.forwarding.in_flight == 0
        going.set()
        await w.settled(target, 1)
        assert target.bodies == [b"1"]


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
