"""The client against services that refuse it or close: what ends a subscription, and what passes."""

from __future__ import annotations

import asyncio
import http
import http.server
import logging

import pytest
from websockets.asyncio.server import Request, Response, ServerConnection

from relay_tornado.client import Backoff, Notice, Refused, Rejected, RelayClientError, Unreachable
from tests.client.peer import AUTHENTICATED, ENTRY, Peer, at, first, one_event_before_the_end, service, webhook
from tests.client.world import client_test, run
from tests.ports import hold_port, port_of
from tests.waiting import until


@client_test
@pytest.mark.parametrize("code", [4001, 4500, 4503, 4999])
async def test_final_closes(code: int) -> None:
    """4001 and 4500 to 4999 end it, with the reason; nothing is tried again."""
    connections = 0

    async def talk(peer: Peer) -> None:
        nonlocal connections
        connections = peer.number
        await peer.welcome(buckets=[ENTRY])
        await peer.socket.close(code, "because")

    async with service(talk) as url, at(url) as events:
        with pytest.raises(Refused, match="because") as refused:
            await anext(events)
        assert (refused.value.code, refused.value.reason) == (code, "because")
    assert connections == 1


@pytest.mark.parametrize("code", [1000, 1001, 1011, 4008, 4029, 4499])
def test_other_closes_pass(code: int) -> None:
    """After any other close it comes back."""

    async def talk(peer: Peer) -> None:
        await peer.welcome(buckets=[ENTRY])
        if peer.number < 3:
            await peer.socket.close(code)
        await peer.send(webhook("abcdefghijkl-1"))
        await peer.stay()

    assert run(first(talk)).seq == 1


@client_test
async def test_errors_of_a_subscribe() -> None:
    """One that passes by itself is tried again, any other is raised."""

    async def talk(peer: Peer) -> None:
        await peer.receive()
        await peer.send(AUTHENTICATED)
        await peer.receive()
        code = "unavailable" if peer.number < 3 else "invalid"
        await peer.send({"type": "status", "status": "error", "code": code, "message": "words"})
        await peer.stay()

    async with service(talk) as url, at(url) as events:
        with pytest.raises(Rejected, match="words") as rejected:
            await anext(events)
        assert rejected.value.code == "invalid"


@client_test
async def test_a_subscribe_that_is_too_big() -> None:
    """It would be so each time: it is said, and not tried again."""
    connections: list[int] = []

    async def talk(peer: Peer) -> None:
        connections.append(peer.number)
        await peer.welcome(buckets=[ENTRY])

    async with service(talk, max_size=1_000) as url, at(url, filter={"body": "x" * 1_000}) as events:
        with pytest.raises(Rejected, match="too big"):
            await anext(events)
    assert connections == [1]


@client_test
@pytest.mark.parametrize(
    ("status", "leads"),
    [
        (301, " and leads to /other:"),
        (400, r": if it speaks HTTPS, try https://localhost:\d+$"),
        (401, ":"),
        (404, ": is that the relay's URL"),
        (426, ": does the proxy in front"),
    ],
)
async def test_a_url_that_is_no_relays(status: int, leads: str) -> None:
    """What waiting does not mend is said at once; a redirect is told and not followed, since the secret would go with
    it."""
    elsewhere: list[str] = []

    async def refuse(socket: ServerConnection, request: Request) -> Response:
        elsewhere.append(request.path)
        response = socket.respond(http.HTTPStatus(status), "")
        response.headers["Location"] = "/other"
        return response

    async def talk(peer: Peer) -> None:
        raise AssertionError

    async with service(talk, process_request=refuse) as url, at(url) as events:
        with pytest.raises(Unreachable, match=f"answers {status}{leads}"):
            await anext(events)
    assert elsewhere == ["/v1/socket"]


@client_test
async def test_statuses_that_pass() -> None:
    """A proxy that answers 503 or 429, or 404 once the relay was there, is waited for."""
    left = [503, 429, 404]

    async def refuse(socket: ServerConnection, request: Request) -> Response | None:
        if left and (left[0] != 404 or seen):
            return socket.respond(http.HTTPStatus(left.pop(0)), "")
        return None

    seen: list[int] = []

    async def talk(peer: Peer) -> None:
        seen.append(peer.number)
        await peer.welcome(buckets=[ENTRY])
        if peer.number == 1:
            await peer.socket.close(1001)
        await peer.send(webhook("abcdefghijkl-1"))
        await peer.stay()

    async with service(talk, process_request=refuse) as url, at(url) as events:
        await anext(events)
    assert left == []


def test_what_goes_wrong_at_the_beginning_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """For who listens to no notice: an address where nobody answers, and a bucket that is not there."""

    async def talk(peer: Peer) -> None:
        await peer.welcome(buckets=[ENTRY, {"bucket_name": "ordrs", "error": "not_found"}])
        await peer.send(webhook("abcdefghijkl-1"))

    async def main() -> None:
        async with service(talk) as url, at(url) as events:
            await anext(events)
        with hold_port() as held:
            async with at(f"http://127.0.0.1:{port_of(held)}") as events:
                waiting = asyncio.ensure_future(anext(events))
                before = len(caplog.records)
                await until(lambda: len(caplog.records) > before, "what is wrong")
                waiting.cancel()

    with caplog.at_level(logging.WARNING, "relay_tornado.client"):
        run(main())
    said = [record.getMessage() for record in caplog.records]
    assert said[0] == "there is no bucket 'ordrs', or the token may not read it: waiting for it"
    assert all("next try in" in each for each in said[1:])
    assert len(said) > 1


@client_test
async def test_waits_begin_anew_after_a_good_while() -> None:
    """A connection that held for `good` seconds resets the waits; one that did not makes them grow."""
    delays: list[float] = []
    waits = Backoff(first=0.001, factor=6, longest=10, good=3600)

    async def talk(peer: Peer) -> None:
        await peer.welcome(buckets=[ENTRY])
        if peer.number == 5:
            object.__setattr__(waits, "good", 0)
        await peer.socket.close(1001)

    def note(notice: Notice) -> None:
        if notice.delay is not None:
            delays.append(notice.delay)

    async with service(talk) as url, at(url, backoff=waits, on_notice=note) as events:
        waiting = asyncio.ensure_future(anext(events))
        await until(lambda: len(delays) >= 5, "five ends")
        waiting.cancel()
    assert delays[3] > 0.2 * 0.001 * 6**3 > delays[4]


@client_test
@pytest.mark.parametrize("cancelled", [False, True])
async def test_who_waits_for_an_event_is_told_of_the_end(cancelled: bool) -> None:
    """By the loop's end where the application closes it meanwhile; by an error where the end of what ran behind it was
    not its own, as of a loop that was left."""

    async def talk(peer: Peer) -> None:
        await peer.welcome(buckets=[ENTRY])
        await peer.stay()

    async with service(talk) as url, at(url) as events:
        waiting = asyncio.create_task(anext(events, None))
        await asyncio.sleep(0)
        if cancelled:
            assert events._task is not None
            events._task.cancel()
            with pytest.raises(RelayClientError, match="closed"):
                await waiting
        await asyncio.gather(events.aclose(), events.aclose())
        assert cancelled or await waiting is None
        assert await anext(events, None) is None


@client_test
async def test_one_that_was_closed_before_it_began_stays_closed() -> None:
    """Entering it connects to nothing: by receipt, a relay would take what came there for read."""
    came: list[str | None] = []

    async def talk(peer: Peer) -> None:
        came.append((await peer.welcome(buckets=[ENTRY])).get("consumer"))
        await peer.stay()

    async with service(talk) as url:
        events = at(url, consumer="c", ack="receipt")
        await events.aclose()
        async with events, at(url):
            await until(lambda: None in came, "another's connection")
            assert await anext(events, None) is None
    assert came == [None]


@client_test
async def test_an_error_that_is_raised_again_does_not_grow() -> None:
    """Whoever tries for ever, as each minute, gets the same error with a traceback of that try alone."""
    async with service(one_event_before_the_end) as url, at(url, consumer="c") as events:
        event = await anext(events)
        for attempt in (lambda: anext(events), event.ack, event.respond):
            lengths = []
            for _ in range(3):
                with pytest.raises(Refused) as caught:
                    await attempt()
                lengths.append(len(caught.traceback))
            assert len(set(lengths)) == 1
