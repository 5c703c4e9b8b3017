"""Buckets that are deleted, come back or are renamed while a client listens to them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.client.peer import ENTRY, Peer, at, service, webhook
from tests.client.world import Memory, client_test
from tests.waiting import until


@client_test
async def test_a_bucket_that_is_deleted_leaves_the_checkpoint() -> None:
    """It is told in its place, and the place in that bucket is kept no longer."""
    saved: list[str] = []
    gone = asyncio.Event()
    notices: list[str] = []

    async def talk(peer: Peer) -> None:
        await peer.welcome(buckets=[ENTRY])
        await peer.send(webhook("abcdefghijkl-1"))
        await gone.wait()
        await peer.send({"type": "status", "status": "bucket_deleted", "bucket_name": "b"})
        await peer.stay()

    async with (
        service(talk) as url,
        at(url, checkpoint=Memory(saved), on_notice=lambda notice: notices.append(notice.kind)) as events,
    ):
        await anext(events)
        assert "abcdefghijkl" in saved[-1]
        gone.set()
        waiting = asyncio.create_task(anext(events))
        await until(lambda: "bucket_deleted" in notices, "the notice")
        await until(lambda: "abcdefghijkl" not in saved[-1], "the checkpoint")
        waiting.cancel()
        await asyncio.wait((waiting,))


@client_test
async def test_names_of_buckets_that_are_gone_take_no_memory() -> None:
    """Whether they went while the client was connected, or meanwhile."""
    entries = [ENTRY | {"bucket_id": f"B{n}", "bucket_name": f"b{n}", "epoch": f"epochnumber{n}"} for n in range(3)]
    looked = asyncio.Event()

    async def talk(peer: Peer) -> None:
        await peer.welcome(buckets=entries if peer.number == 1 else entries[2:])
        if peer.number > 1:
            await peer.stay()
        gone = {"type": "status", "status": "bucket_deleted", "bucket_name": "b0", "bucket_id": "B0"}
        await peer.send(gone)
        await looked.wait()

    async with service(talk) as url, at(url, since="earliest") as events:
        names = events._start()._names
        await until(lambda: sorted(names._named) == ["b1", "b2"], "the deletion")
        looked.set()
        await until(lambda: sorted(names._named) == ["b2"], "the second answer")


@client_test
async def test_a_bucket_that_comes_back_is_not_given_twice() -> None:
    """Nor is it forgotten what of it is done: it left and came back while the application was busy, and the relay began
    where it was asked to before."""
    saved: list[str] = []

    async def talk(peer: Peer) -> None:
        await peer.welcome(buckets=[ENTRY])
        await peer.send(*(webhook(f"abcdefghijkl-{seq}") for seq in (1, 2, 3)))
        await peer.send({"type": "status", "status": "bucket_deleted", "bucket_name": "b"})
        await peer.send(webhook("abcdefghijkl-1"))
        await peer.send({"type": "status", "status": "ping", "positions": {"b": "abcdefghijkl-1"}})
        await peer.send(*(webhook(f"abcdefghijkl-{seq}") for seq in (2, 3, 4)))
        await peer.send({"type": "status", "status": "caught_up", "bucket_name": "b", "id": "abcdefghijkl-4"})
        await peer.stay()

    notices: list[str] = []
    async with (
        service(talk) as url,
        at(url, checkpoint=Memory(saved), on_notice=lambda notice: notices.append(notice.kind)) as events,
    ):
        core = events._start()
        await until(lambda: core.intake._items and str(core.intake._items[-1][0]).find("caught_up") > 0, "all")
        got = [(await anext(events)).seq for _ in range(4)]
        waiting = asyncio.create_task(anext(events))
        await until(lambda: notices[-1] == "caught_up", "the last word")
        waiting.cancel()
        await asyncio.wait((waiting,))
        assert got == [1, 2, 3, 4]
    assert json.loads(saved[-1])["buckets"]["B"] == {"name": "b", "id": "abcdefghijkl-4"}


@client_test
@pytest.mark.parametrize(
    ("positions", "expected"),
    [
        # The bucket was renamed, and another one has its name; in either order.
        ({"b": "bcdefghijklm-7", "old b": "abcdefghijkl-1"}, "abcdefghijkl-1"),
        ({"old b": "abcdefghijkl-2", "b": "bcdefghijklm-7"}, "abcdefghijkl-2"),
        # Its log has a new epoch.
        ({"b": "bcdefghijklm-7"}, "bcdefghijklm-7"),
    ],
)
async def test_a_name_that_another_bucket_has_taken_moves_no_position(positions: dict[str, str], expected: str) -> None:
    """An epoch is one bucket's for good, whatever it is called; what is new counts for who had the name last."""
    asked: list[Any] = []
    done = asyncio.Event()

    async def talk(peer: Peer) -> None:
        asked.append(await peer.welcome(buckets=[ENTRY] if peer.number == 1 else [ENTRY | {"start": 2}]))
        if peer.number == 1:
            await peer.send(webhook("abcdefghijkl-1"))
            await peer.send({"type": "status", "status": "ping", "positions": positions})
            if len(positions) > 1:
                await peer.send({"type": "status", "status": "bucket_deleted", "bucket_name": "b"})
            return
        done.set()
        await peer.stay()

    async with service(talk) as url, at(url, since="earliest") as events:
        assert (await anext(events)).id == "abcdefghijkl-1"
        await done.wait()
    assert asked[1]["since"]["B"] == expected


@client_test
async def test_a_name_that_another_bucket_has_taken_ends_no_position() -> None:
    """Where that other one is deleted before anything else was told of it; it is told by its id."""
    asked: list[Any] = []
    done = asyncio.Event()
    gone = {"type": "status", "status": "bucket_deleted", "bucket_name": "b"}

    async def talk(peer: Peer) -> None:
        entries = [ENTRY, ENTRY | {"bucket_id": "C", "bucket_name": "c", "epoch": "bcdefghijklm"}]
        asked.append(await peer.welcome(buckets=entries))
        if peer.number == 1:
            await peer.send(webhook("abcdefghijkl-1"))
            await peer.send(gone | {"bucket_id": "another"}, gone | {"bucket_name": "b", "bucket_id": "C"})
            return
        done.set()
        await peer.stay()

    async with service(talk) as url, at(url, since="earliest") as events:
        assert (await anext(events)).id == "abcdefghijkl-1"
        waiting = asyncio.create_task(anext(events))
        await done.wait()
        waiting.cancel()
        await asyncio.wait((waiting,))
    assert asked[1]["since"] == {"B": "abcdefghijkl-1", "*": "earliest"}
