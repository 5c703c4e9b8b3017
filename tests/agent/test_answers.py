"""The target's answers on their way back, to a service that a test writes."""

from __future__ import annotations

from typing import Any

import pytest

from relay_tornado.agent import answers
from relay_tornado.agent.agent import Outcome
from relay_tornado.agent.answers import TRIES, answer_of, respond
from relay_tornado.agent.target import Answer
from relay_tornado.client.backoff import Backoff
from tests.client.peer import AUTHENTICATED, ENTRY, Peer, at, service, webhook
from tests.client.world import client_test

ID = "abcdefghijkl-1"
STORED = {"type": "status", "status": "responded", "id": ID}


def refused(code: str) -> dict[str, Any]:
    return {"type": "status", "status": "error", "id": ID, "code": code, "message": f"it is {code}"}


def outcome(whole: bool = True) -> Outcome:
    return Outcome("delivered", Answer(200, {}, b"fine" if whole else b"", whole=whole), 1, 0.1, None)


@pytest.mark.parametrize(
    ("status", "back"), [(101, False), (200, True), (503, True), (599, True), (600, False), (999, False)]
)
def test_only_a_status_that_a_sender_can_get_goes_back(status: int, back: bool) -> None:
    """With its headers and body. Any other is as if nobody had answered."""
    result = Answer(status, {"X-A": ["b"]}, b"body")
    whole = (status, {"X-A": ["b"]}, b"body")
    assert answer_of(Outcome("failed", result, 1, 0.1, None)) == (whole if back else (0, {}, b""))


async def gave_the_event(peer: Peer) -> bool:
    """Whether this was the first connection, over which an event goes out; the second one is for answers."""
    if peer.number == 1:
        await peer.welcome(buckets=[ENTRY])
        await peer.send(webhook(ID))
        await peer.stay()
        return True
    assert (await peer.receive())["action"] == "auth"
    await peer.send(AUTHENTICATED)
    return False


@client_test
@pytest.mark.parametrize(
    ("said", "tries", "told"),
    [
        ([STORED], 1, []),
        ([refused("unavailable"), refused("no_space"), STORED], 3, []),
        ([refused("not_found")], 1, [f"the answer to {ID} was not stored: it is not_found"]),
        ([refused("overloaded")] * TRIES, TRIES, [f"the answer to {ID} was not stored: it is overloaded"]),
        ([4001], 1, [f"the answer to {ID} was not stored: the relay refuses this client: no more (4001)"]),
    ],
    ids=["stored", "later", "never", "given up", "the token ended"],
)
async def test_an_answer_is_given_until_it_is_stored(
    monkeypatch: pytest.MonkeyPatch, said: list[Any], tries: int, told: list[str]
) -> None:
    """Again where that may help; what can't be stored is told once, and given up."""
    monkeypatch.setattr(answers, "_BACKOFF", Backoff(first=0.01, longest=0.01))
    left, came = list(said), []

    async def talk(peer: Peer) -> None:
        if await gave_the_event(peer):
            return
        async for text in peer.socket:
            came.append(text)
            word = left.pop(0)
            if isinstance(word, int):
                await peer.socket.close(word, "no more")
            else:
                await peer.send(word)

    problems: list[str] = []
    async with service(talk) as url, at(url) as events:
        await respond(problems.append, await anext(events), outcome())
    assert (len(came), problems) == (tries, told)


@client_test
async def test_a_relay_that_says_nothing_to_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is given up after a while, which is told."""
    monkeypatch.setattr(answers, "PATIENCE", 0.5)

    async def talk(peer: Peer) -> None:
        if not await gave_the_event(peer):
            await peer.stay()

    problems: list[str] = []
    async with service(talk) as url, at(url) as events:
        await respond(problems.append, await anext(events), outcome())
    assert problems == [f"the answer to {ID} was not stored: the relay was away for too long"]


@client_test
async def test_an_answer_that_is_too_large() -> None:
    """Its status goes back without the body, which is told."""
    came = []

    async def talk(peer: Peer) -> None:
        if await gave_the_event(peer):
            return
        came.append(await peer.receive())
        await peer.send(STORED)

    problems: list[str] = []
    async with service(talk) as url, at(url) as events:
        await respond(problems.append, await anext(events), outcome(whole=False))
    assert [each["action"] for each in came] == ["respond"]
    assert problems == [f"the answer to {ID} goes back without its body, which is over 512 KiB"]
