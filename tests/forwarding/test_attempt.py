"""relay_tornado/forwarding/attempt.py: one request to a destination, and what is stored of its answer."""

from __future__ import annotations

import asyncio

import pytest

from tests.forwarding.target import Target, once_open
from tests.forwarding.world import public, world
from tests.outgoing.requests import context_of


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
        await w.settled(target, 1)
        assert (await w.stored(1))[0].body == b"No answer: it did not answer within 0.05 seconds."
        target.answers = lambda got: b"HTTP/1.1 200 X\r\nConnection: close\r\nContent-Length: 9\r\n\r\nhalf"
        await w.change(public(target.url, retries=-1))
        await w.append(b"2")
        await w.settled(target, 2)
        (result,) = await w.stored(2)
        assert (result.body, result.headers["X-Relay-Truncated"]) == (b"half", ["after 4 bytes"])
