"""relay_tornado/forwarding/attempt.py: one request to a destination, and what is stored of its answer."""

from __future__ import annotations

import asyncio

import pytest

from tests.forwarding.target import Target, answer, once_open
from tests.forwarding.world import public, world
from tests.outgoing.requests import context_of
from tests.waiting import until


@pytest.mark.parametrize(("verified", "status"), [(True, "failed"), (False, "sent")])
@pytest.mark.gen_test
async def test_a_certificate_that_nobody_vouches_for(verified: bool, status: str) -> None:
    """Its destination gets events only if the output says that it is not checked."""
    async with (
        Target(tls=context_of(True)) as target,
        world(public(target.url, retries=-1, tls_verification=verified)) as w,
    ):
        await w.append(b"1")
        await w.idle()
        assert [each.status for each in await w.stored(1)] == [status]
        assert target.bodies == [b"1"] * (not verified)


@pytest.mark.gen_test
async def test_an_answer_to_head_has_no_body() -> None:
    """Its length is that of another answer: nothing is waited for."""
    async with (
        Target(lambda got: b"HTTP/1.1 200 X\r\nContent-Length: 9\r\n\r\n") as target,
        world(public(target.url, retries=-1)) as w,
    ):
        await w.append(b"", method="HEAD")
        await w.settled(target, 1)
        (result,) = await w.stored(1)
        assert (result.status, result.body, result.headers.get("X-Relay-Truncated")) == ("sent", b"", None)


@pytest.mark.gen_test
async def test_an_answer_that_is_late_or_incomplete() -> None:
    """The output's own limit counts, and of a body that broke off it is told how much there is."""
    gate = asyncio.Event()
    async with Target(once_open(gate)) as target, world(public(target.url, retries=-1, timeout=0.05)) as w:
        await w.append(b"1")
        # Where the machine is busy, the limit ends before the destination has read the request.
        await until(lambda: w.forwarder().failure)
        await w.idle()
        assert (await w.stored(1))[0].body == b"No answer: it did not answer within 0.05 seconds."
        target.answers = lambda got: b"HTTP/1.1 200 X\r\nConnection: close\r\nContent-Length: 9\r\n\r\nhalf"
        await w.change(public(target.url, retries=-1))
        await w.append(b"2")
        await until(lambda: b"2" in target.bodies)
        await w.idle()
        (result,) = await w.stored(2)
        assert (result.body, result.headers["X-Relay-Truncated"]) == (b"half", ["after 4 bytes"])


@pytest.mark.parametrize(("code", "status"), [(200, "sent"), (299, "sent"), (300, "failed"), (500, "failed")])
@pytest.mark.gen_test
async def test_what_counts_as_sent(code: int, status: str) -> None:
    """A redirect does not; how long each took is counted."""
    async with Target(lambda got: answer(code)) as target, world(public(target.url, retries=-1)) as w:
        await w.append(b"1")
        await w.settled(target, 1)
        assert [(each.status, each.status_code) for each in await w.stored(1)] == [(status, code)]
        assert sum(w.counters.forward_seconds.counts) == 1


@pytest.mark.gen_test
async def test_an_output_whose_limit_is_0_has_the_usual_one() -> None:
    async with Target() as target, world(public(target.url, retries=-1, timeout=0.0)) as w:
        await w.append(b"1")
        await w.settled(target, 1)
        assert [each.status for each in await w.stored(1)] == ["sent"]


@pytest.mark.gen_test
async def test_what_the_destination_sent_instead_of_an_answer() -> None:
    """It stands in the event's result, and not in the reason for the log."""
    async with Target(lambda got: b"what?\r\n\r\n") as target, world(public(target.url, retries=-1)) as w:
        await w.append(b"1")
        await w.settled(target, 1)
        (result,) = await w.stored(1)
        assert (result.status, b"what?" in result.body) == ("failed", True)
        assert w.forwarder().failure == "No answer: its answer is no HTTP."
