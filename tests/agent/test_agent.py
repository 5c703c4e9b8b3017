"""The agent's loop, with a relay that a test plays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from relay_tornado.agent import agent as agent_module
from relay_tornado.agent.agent import Agent, Outcome
from relay_tornado.agent.request import Request, Shape
from relay_tornado.agent.target import Answer, Trouble
from relay_tornado.client.event import Event, Headers
from tests.waiting import until


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

    def event(self, seq: int, **more: str) -> Event:
        texts: dict[str, Any] = dict.fromkeys(
            ("epoch", "bucket", "bucket_id", "input_id", "input_name", "output", "destination", "path", "query"), ""
        )
        handle = cast("Any", self)
        return Event(**texts | more, id=str(seq), seq=seq, method="GET", headers=Headers({}), body=b"", _handle=handle)

    async def one(self) -> AsyncIterator[Event]:
        """An event, and then nothing more."""
        yield self.event(1)
        await asyncio.Event().wait()

    async def these(self, *events: Event) -> AsyncIterator[Event]:
        """These events, and then the end."""
        for event in events:
            yield event


class Fine:
    """A target that answers 200, and who is told of it."""

    async def send(self, request: Request) -> Answer | Trouble:
        return Answer(200, {}, b"")

    def ended(self, event: Event, outcome: Outcome) -> None: ...


class Told(Fine):
    """One that keeps what it is told."""

    def __init__(self, status: int = 200) -> None:
        self.status = status
        self.outcomes: list[Outcome] = []

    async def send(self, request: Request) -> Answer | Trouble:
        return Answer(self.status, {}, b"")

    def ended(self, event: Event, outcome: Outcome) -> None:
        self.outcomes.append(outcome)


class Slow(Fine):
    """One that answers when it is told to."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.go = asyncio.Event()

    async def send(self, request: Request) -> Answer | Trouble:
        self.asked.set()
        await self.go.wait()
        return await super().send(request)


class Away(Told):
    """One that never answers, and that can't be tried at first."""

    def __init__(self, lacks: int = 0) -> None:
        super().__init__()
        self.failures: list[int] = []
        self.lacks = lacks

    async def send(self, request: Request) -> Trouble:
        return Trouble("away", tried=len(self.failures) >= self.lacks)

    def delay(self, failures: int) -> float:
        self.failures.append(failures)
        return 0.0

    def retrying(self, event: Event, request: Request, result: Answer, tries: int, wait: float) -> None: ...


class Busy(Fine):
    """One that asks for an hour."""

    def __init__(self) -> None:
        self.waits: list[tuple[int, float]] = []

    async def send(self, request: Request) -> Answer:
        return Answer(503, {}, b"", retry_after=3600.0)

    def retrying(self, event: Event, request: Request, result: Answer, tries: int, wait: float) -> None:
        self.waits.append((tries, wait))


def agent_for(target: Any, url: str = "http://localhost:1", **options: Any) -> Agent:
    """An agent whose target is told of what comes of its events, too."""
    return Agent(target, Shape(url), target, **options)


@pytest.mark.gen_test
@pytest.mark.parametrize(("grace", "back", "finished"), [(0.05, False, []), (60.0, True, ["1"])])
async def test_an_answer_has_a_while_once_it_is_stopped(
    monkeypatch: pytest.MonkeyPatch, grace: float, back: bool, finished: list[str]
) -> None:
    """One signal ends the agent also while the relay is away; the event is left undone, unless its answer is stored."""
    monkeypatch.setattr(agent_module, "GRACE", grace)
    relay = Relay()
    agent = agent_for(Fine(), respond=relay.respond)
    running = asyncio.create_task(agent.run(relay.one()))
    await relay.asked.wait()
    agent.stop()
    if back:
        relay.back.set()
    await asyncio.wait_for(running, 60)
    assert (relay.finished, agent.open) == (finished, 1 - len(finished))


@pytest.mark.gen_test
async def test_an_answer_that_comes_after_the_stop_has_a_while_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The try that runs is waited for, and then the relay that is away for no longer than it was for the others."""
    monkeypatch.setattr(agent_module, "GRACE", 0.05)
    relay, slow = Relay(), Slow()
    agent = agent_for(slow, respond=relay.respond)
    running = asyncio.create_task(agent.run(relay.one()))
    await slow.asked.wait()
    agent.stop()
    slow.go.set()
    await asyncio.wait_for(running, 60)
    assert (relay.asked.is_set(), relay.finished, agent.open) == (True, [], 1)


@pytest.mark.gen_test
async def test_it_stops_when_answers_are_back() -> None:
    """Those that the relay has are waited for no more."""
    relay = Relay()
    relay.back.set()
    agent = agent_for(Fine(), respond=relay.respond)
    running = asyncio.create_task(agent.run(relay.one()))
    while agent.open or not relay.finished:  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0)
    agent.stop()
    await asyncio.wait_for(running, 60)
    assert relay.finished == ["1"]


@pytest.mark.gen_test
async def test_what_waits_for_its_next_try_is_left_undone() -> None:
    """It waits as long as the target asks for, and not when it is told to stop."""
    relay, busy = Relay(), Busy()
    agent = agent_for(busy, respond=relay.respond)
    running = asyncio.create_task(agent.run(relay.one()))
    while not busy.waits:  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0)
    for _ in range(20):
        await asyncio.sleep(0)
    assert busy.waits == [(1, 3600.0)]
    agent.stop()
    await asyncio.wait_for(running, 60)
    assert (relay.finished, agent.open, busy.waits) == ([], 1, [(1, 3600.0)])


@pytest.mark.parametrize(
    ("status", "verdict"), [(200, "delivered"), (302, "delivered"), (404, "refused"), (410, "refused")]
)
@pytest.mark.gen_test
async def test_a_final_answer_ends_an_event_after_one_try(status: int, verdict: str) -> None:
    """Whatever its status is."""
    relay, told = Relay(), Told(status)
    await asyncio.wait_for(agent_for(told).run(relay.these(relay.event(1))), 60)
    assert [(each.verdict, each.tries) for each in told.outcomes] == [(verdict, 1)]
    assert relay.finished == ["1"]


@pytest.mark.parametrize("lacks", [0, 5])
@pytest.mark.gen_test
async def test_an_event_without_an_answer_fails_after_max_tries(lacks: int) -> None:
    """With longer and longer waits between the tries. It is done then. Those for which this machine has no means count
    as none."""
    relay, away = Relay(), Away(lacks)
    agent = agent_for(away, max_tries=3, backoff=away)
    await asyncio.wait_for(agent.run(relay.these(relay.event(1))), 60)
    assert [(each.verdict, each.tries) for each in away.outcomes] == [("failed", 3)]
    assert away.failures == list(range(1, lacks + 3))
    assert relay.finished == ["1"]


@pytest.mark.gen_test
async def test_there_is_room_for_the_next_however_many_came() -> None:
    """More than may be unanswered at once, those of other outputs among them: each is done, and none is open."""
    relay, told = Relay(), Told()
    relay.back.set()
    count = 4 * agent_module.UNANSWERED

    events = relay.these(*(relay.event(seq, output="ours" if seq % 4 else "other") for seq in range(1, count + 1)))
    agent = agent_for(told, respond=relay.respond, output="ours")
    await asyncio.wait_for(agent.run(events), 60)
    assert (agent.open, len(told.outcomes)) == (0, count * 3 // 4)
    assert sorted(map(int, relay.finished)) == list(range(1, count + 1))


@pytest.mark.gen_test
async def test_open_events_are_bounded_by_concurrency_and_untaken_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as the target is asked at once, and so many more whose answers the relay has not taken."""
    monkeypatch.setattr(agent_module, "UNANSWERED", 3)
    relay, slow = Relay(), Slow()
    events = relay.these(*map(relay.event, range(1, 51)))
    agent = agent_for(slow, concurrency=2, respond=relay.respond)
    running = asyncio.create_task(agent.run(events))
    for go, most in ((asyncio.Event(), 2), (slow.go, 5)):
        go.set()
        for _ in range(200):
            await asyncio.sleep(0)
        assert agent.open == most
    relay.back.set()
    await asyncio.wait_for(running, 60)
    assert (agent.open, sorted(map(int, relay.finished))) == (0, list(range(1, 51)))


@pytest.mark.gen_test
async def test_a_run_after_an_event_was_held_begins_anew() -> None:
    """The event is there again, with somewhere to go to, and nothing is held or open when it has gone there."""
    relay, tasks = Relay(), asyncio.all_tasks()
    relay.back.set()

    async def events(destination: str) -> AsyncIterator[Event]:
        yield relay.event(1, destination=destination)
        yield relay.event(2, destination=destination)
        if not destination:
            await asyncio.Event().wait()

    agent = agent_for(Fine(), "", respond=relay.respond, hold=True)
    await asyncio.wait_for(agent.run(events("")), 60)
    assert agent.held is not None
    assert (agent.held[0].id, relay.finished) == ("1", [])
    await agent.pause(0.01)
    await asyncio.wait_for(agent.run(events("http://localhost:1/")), 60)
    assert (agent.held, agent.open, agent.stopping) == (None, 0, False)
    assert relay.finished == ["1", "2"]
    await until(lambda: asyncio.all_tasks() == tasks, "nothing to wait for the stop")


@pytest.mark.gen_test
async def test_what_its_events_raise_ends_the_run() -> None:
    """As it is; what was begun is left undone."""
    relay, slow = Relay(), Slow()

    async def events() -> AsyncIterator[Event]:
        yield relay.event(1)
        await slow.asked.wait()
        raise ConnectionError("gone")

    agent = agent_for(slow, concurrency=2)
    with pytest.raises(ConnectionError, match="gone"):
        await asyncio.wait_for(agent.run(events()), 60)
    assert relay.finished == []


@pytest.mark.gen_test
async def test_once_it_is_stopped_it_does_not_wait_for_another_run() -> None:
    agent = agent_for(Fine())
    agent.stop()
    await asyncio.wait_for(agent.pause(3600.0), 60)


@pytest.mark.gen_test
async def test_an_event_that_is_not_held_has_failed() -> None:
    """Where nothing can be asked for again, an event that has nowhere to go holds up none behind it."""
    relay, told = Relay(), Told()
    relay.back.set()
    events = relay.these(relay.event(1), relay.event(2, destination="http://localhost:1/"))
    agent = agent_for(told, "", respond=relay.respond)
    await asyncio.wait_for(agent.run(events), 60)
    assert (agent.held, agent.open) == (None, 0)
    assert relay.finished == ["1", "2"]
    assert [(each.verdict, each.tries) for each in told.outcomes] == [("failed", 0), ("delivered", 1)]


@pytest.mark.gen_test
async def test_an_event_that_can_not_be_sent_is_not_held() -> None:
    """No other destination would help: who sends it holds up none behind it."""
    relay, told = Relay(), Told()
    events = relay.these(relay.event(1, path="/../x"), relay.event(2))
    agent = agent_for(told, "http://localhost:1/in", hold=True)
    await asyncio.wait_for(agent.run(events), 60)
    assert (agent.held, relay.finished) == (None, ["1", "2"])
    assert [each.verdict for each in told.outcomes] == ["failed", "delivered"]
