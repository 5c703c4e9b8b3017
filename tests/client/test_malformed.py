"""The client against services that say what it does not know, and what nobody can read."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from tests.client.peer import ENTRY, Peer, at, first, service, webhook
from tests.client.world import client_test, run


@client_test
async def test_what_it_does_not_know_is_passed_over() -> None:
    """A later relay may say more; a word about a bucket that it never heard of moves nothing."""

    async def talk(peer: Peer) -> None:
        assert peer.number == 1
        await peer.welcome(buckets=[ENTRY])
        await peer.send({"type": "tunnel"}, {"type": "status", "status": "new"}, {})
        await peer.send({"type": "status", "status": "error", "code": "x", "message": "words"})
        await peer.send({"type": "status", "status": "ping", "positions": {"who": "bcdefghijklm-5"}})
        await peer.send({"type": "status", "status": "consumer_deleted", "bucket_name": "b", "consumer": "c"})
        await peer.send(webhook("abcdefghijkl-1"))
        await peer.stay()

    notices: list[str] = []
    async with service(talk) as url, at(url, on_notice=lambda notice: notices.append(notice.message)) as events:
        assert (await anext(events)).id == "abcdefghijkl-1"
    assert "words (x)" in notices
    assert "the consumer 'c' of b was deleted" in notices


BROKEN = json.dumps(webhook("abcdefghijkl-2"))[:-1]


@client_test
@pytest.mark.parametrize(
    "frame",
    [
        *("", "3", b"\x00", BROKEN),
        {"type": "webhook", "meta": {}},
        webhook("../../etc"),
        webhook(f"abcdefghijkl-{10**25}"),
        webhook("abcdefghijkl-2") | {"body_base64": "%"},
        {"type": "status", "status": "ping", "positions": ["b"]},
        {"type": "status", "status": "ping", "positions": {"b": 5}},
        {"type": "status", "status": "caught_up", "bucket_name": "b"},
        {"type": "status", "status": "gap", "bucket_name": "b"},
        {"type": "status", "status": "gap", "bucket_name": "b", "gap": {"from": "1", "to": "2"}},
    ],
    ids=str,
)
async def test_what_can_not_be_read_is_asked_for_again(frame: Any) -> None:
    """It may have been an event: the next connection begins behind what came before it, and none is left out."""
    asked: list[Any] = []

    async def talk(peer: Peer) -> None:
        asked.append((await peer.welcome(buckets=[ENTRY])).get("since"))
        if peer.number == 1:
            await peer.send(webhook("abcdefghijkl-1"), frame, webhook("abcdefghijkl-3"))
        else:
            await peer.send(webhook("abcdefghijkl-2"), webhook("abcdefghijkl-3"))
        await peer.stay()

    async with service(talk) as url, at(url) as events:
        assert [(await anext(events)).seq for _ in range(3)] == [1, 2, 3]
    assert asked[0] is None
    assert asked[1]["B"] == "abcdefghijkl-1"


@pytest.mark.parametrize(
    "entry",
    [
        "b",
        ENTRY | {"start": "x"},
        ENTRY | {"start": 0},
        ENTRY | {"start": 10**25},
        ENTRY | {"epoch": None},
        ENTRY | {"gap": "x"},
    ],
)
def test_an_answer_to_a_subscribe_that_can_not_be_read(entry: Any) -> None:
    """It ends that connection, and not the client."""

    async def talk(peer: Peer) -> None:
        await peer.welcome(buckets=[entry if peer.number == 1 else ENTRY])
        await peer.send(webhook("abcdefghijkl-1"))
        await peer.stay()

    assert run(first(talk)).seq == 1


def test_what_can_not_be_read_of_the_original_service(caplog: pytest.LogCaptureFixture) -> None:
    """It would not come again: it is passed over, and said in the log."""

    async def talk(peer: Peer) -> None:
        assert peer.number == 1
        await peer.welcome(buckets=["b"])
        await peer.send(BROKEN, {"type": "webhook"}, webhook("abcdefghijkl-3"))
        await peer.stay()

    async def main() -> None:
        async with service(talk) as url, at(url, extended=False) as events:
            assert (await anext(events)).seq == 3

    with caplog.at_level(logging.WARNING, "relay_tornado.client"):
        run(main())
    assert [record.getMessage() for record in caplog.records] == [
        "the relay sent a message that is no JSON",
        "the relay sent an event without an id",
    ]
