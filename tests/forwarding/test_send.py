"""relay_tornado/forwarding/forwarding.py: one event sent to a URL, on demand."""

from __future__ import annotations

import asyncio

import pytest

from relay_tornado.errors import Forbidden, NotSent, Overloaded
from relay_tornado.model import Event
from tests.forwarding.target import Got, Target, answer, once_open
from tests.forwarding.world import B, World, world
from tests.outgoing.requests import context_of


async def event(w: World) -> Event:
    await w.append(b"1")
    (found,) = await w.log.read(B, 0, 1, 1)
    return found


@pytest.mark.gen_test
async def test_so_many_are_sent_at_once() -> None:
    """One more is refused until another one has ended; those that failed take no place."""
    gate = asyncio.Event()
    async with Target(once_open(gate)) as target, world() as w:
        one = await event(w)
        for _ in range(10):
            with pytest.raises(Forbidden):
                await w.forwarding.send(one, "http://192.0.2.1/")
        sending = [asyncio.create_task(w.forwarding.send(one, target.url)) for _ in range(10)]
        await target.until(10)
        with pytest.raises(Overloaded):
            await w.forwarding.send(one, target.url)
        gate.set()
        await asyncio.gather(*sending)
        await w.forwarding.send(one, target.url)


@pytest.mark.parametrize("public_url", ["http://relay.test/x", "http://relay.test/x/"])
@pytest.mark.parametrize("host", ["relay.test", "relay.test.", "relay.test:80"])
@pytest.mark.gen_test
async def test_its_public_url_is_not_sent_to(public_url: str, host: str) -> None:
    """It would store the event again."""
    async with world(public_url=public_url) as w:
        with pytest.raises(Forbidden, match="this relay's own"):
            await w.forwarding.send(await event(w), f"http://{host}/x/v1/webhooks/a")


@pytest.mark.gen_test
async def test_what_is_beside_its_public_url_is_sent_to() -> None:
    """On another port, or under another path."""
    async with Target() as target, Target() as other, world(public_url=f"{target.url}/x") as w:
        one = await event(w)
        for url in (f"{other.url}/x/v1/webhooks/a", f"{target.url}/v1/webhooks/a", f"{target.url}/x/a"):
            answer, _ = await w.forwarding.send(one, url)
            assert answer.status == 200


@pytest.mark.gen_test
async def test_its_certificate_is_checked() -> None:
    async with Target(tls=context_of(True)) as target, world() as w:
        with pytest.raises(NotSent, match="certificate"):
            await w.forwarding.send(await event(w), target.url)


@pytest.mark.gen_test
async def test_the_seconds_until_the_answer() -> None:
    """Whatever the clock of day does meanwhile."""

    def answers(got: Got) -> bytes:
        w.now += 3.0
        w.back = 3600.0
        return answer()

    async with Target(answers) as target, world() as w:
        assert (await w.forwarding.send(await event(w), target.url))[1] == 3.0
