"""The agent's loop, with a relay that a test plays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from relay_tornado.agent import engine
from relay_tornado.agent.engine import Agent, Outcome
from relay_tornado.agent.request import Request, Shape
from relay_tornado.agent.target import Answer, Target
from relay_tornado.client.event import Event, Headers


class Relay:
    """Takes no answer before it is told to."""

    def __init__(self) -> None:
        self.back = asyncio.Event()
        self.asked = asyncio.Event()
        self.finished: list[str] = []

    async def respond(self, event: Event, outcome: Outcome) -> None:
        self.asked.set()
        await self.back.wait()

    async def done(self, event: Event) -> None:
        self.finished.append(event.id)

    async def events(self) -> AsyncIterator[Event]:
        texts: dict[str, Any] = dict.fromkeys(
            ("epoch", "bucket", "bucket_id", "input_id", "input_name", "output", "destination", "path", "query"), ""
        )
        yield Event(**texts, id="1", seq=1, method="GET", headers=Headers({}), body=b"", _handle=cast("Any", self))
        await asyncio.Event().wait()


class Fine:
    """A target that answers 200, and who is told of it."""

    async def send(self, request: Request) -> Answer:
        return Answer(200, {}, b"")

    def ended(self, event: Event, outcome: Outcome) -> None: ...


@pytest.mark.parametrize(("grace", "back", "finished"), [(0.05, False, []), (60.0, True, ["1"])])
def test_an_answer_has_a_while_once_it_is_stopped(
    monkeypatch: pytest.MonkeyPatch, grace: float, back: bool, finished: list[str]
) -> None:
    """One signal ends the agent also while the relay is away; the event is left undone, unless its answer is stored."""
    monkeypatch.setattr(engine, "GRACE", grace)

    async def main() -> tuple[list[str], int]:
        relay, fine = Relay(), cast("Any", Fine())
        agent = Agent(cast("Target", fine), Shape("http://localhost:1"), fine, respond=relay.respond)
        running = asyncio.create_task(agent.run(relay.events()))
        await relay.asked.wait()
        agent.stop()
        if back:
            relay.back.set()
        await asyncio.wait_for(running, 20)
        return relay.finished, agent.open

    assert asyncio.run(main()) == (finished, 1 - len(finished))
