"""Senders that wait for a client's answer, over real sockets: HTTP on one side, a WebSocket on the other."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import math
import time
from base64 import b64encode
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import structlog
from websockets.asyncio.client import connect

from relay_tornado import rules
from relay_tornado.delivery import deliveries
from relay_tornado.delivery.responses import Responses
from relay_tornado.ingest.ingest import Ingest
from relay_tornado.model import Dedupe, Output, Verify
from relay_tornado.signatures import sign
from tests.handlers.desk import Desk, desk
from tests.handlers.edge import INPUT, URL, edge
from tests.handlers.raw import Raw, bearer, request
from tests.handlers.sockets import TIMEOUT, Client
from tests.waiting import until

pytestmark = [pytest.mark.filterwarnings("error"), pytest.mark.usefixtures("transport")]
OUTPUTS = tuple(Output(f"out-{n}", n, f"output {n}", 0, 0, destination=f"http://to-{n}.example") for n in (1, 2))


@pytest.mark.gen_test
async def test_the_answer_over_the_socket(folder: Path | None) -> None:
    """Status, headers and body reach the sender; what may not, does not; the client is told that it is kept."""
    async with desk(folder) as site:
        client = await site.client()
        sender = await site.sender(request(URL + b"/path", b"body"))
        (event,) = await client.webhooks(1)
        headers = {
            "Content-Type": "application/json", "X-Many": ["1", "2"], "Set-Cookie": "a=b", "Content-Length": "999",
            "Transfer-Encoding": "chunked", "Connection": "X-Named", "X-Named": "x", "X-Split": "a\r\nB: c",
            "bad name": "x", "Content-Security-Policy": "default-src *", "X-Unicode": "é",
            "clear-site-data": '"*"',
        }  # fmt: skip
        await client.say(
            {"action": "respond", "id": event["meta"]["id"], "status": 418, "headers": headers, "body": '{"é": 1}'}
        )
        assert await client.hear() == {"type": "status", "status": "responded", "id": event["meta"]["id"]}
        reply = await sender.reply()
        assert (reply.status, reply.body) == (418, '{"é": 1}'.encode())
        got = [(name, value.encode("latin-1").decode()) for name, value in reply.headers if name != "Date"]
        assert got == [
            ("Content-Security-Policy", "sandbox"),
            ("X-Content-Type-Options", "nosniff"),
            ("Content-Type", "application/json"),
            ("X-Many", "1"),
            ("X-Many", "2"),
            ("X-Unicode", "é"),
            ("Content-Length", "9"),
        ]
        # The connection goes on.
        sender.send(request(URL, b"second"))
        (event,) = await client.webhooks(1)
        await client.say({"action": "respond", "id": event["meta"]["id"], "status": 204, "body_base64": "/w=="})
        reply = await sender.reply()
        assert (reply.status, reply.body) == (204, b"")
        assert site.waiting == 0


@pytest.mark.gen_test
async def test_a_refusal_after_an_answer_of_a_client(folder: Path | None) -> None:
    """Its body is dropped, and the next webhook on the connection is stored."""
    async with desk(folder) as site:
        client = await site.client()
        sender = await site.sender(request(URL, b"first"))
        (event,) = await client.webhooks(1)
        await client.say({"action": "respond", "id": event["meta"]["id"], "status": 201})
        assert (await sender.reply()).status == 201
        refused = request(URL + b"x", b"dropped")
        sender.send(refused[:-7])
        assert (await sender.reply()).status == 404
        sender.send(refused[-7:] + request(URL, b"second"))
        (event,) = await client.webhooks(1)
        assert event["body"] == "second"


@pytest.mark.gen_test
async def test_what_becomes_of_an_event_that_is_answered(folder: Path | None) -> None:
    """What an application refused is found as failed; a redirect is an answer that it meant."""
    async with desk(folder, output="") as site:
        client = await site.client()
        rest = await site.stack.enter_async_context(Raw(site.site.port))
        for status, kept in ((204, "sent"), (302, "sent"), (404, "failed"), (500, "failed"), (0, "failed")):
            await site.sender(request(URL, b"x"))
            (event,) = await client.webhooks(1)
            log_id = event["meta"]["id"]
            await client.say({"action": "respond", "id": log_id, "status": status})
            await client.hear_status("responded")
            reply = await rest.ask(request(f"/v1/logs/{log_id}".encode(), b"", bearer(client.token[1]), b"GET"))
            log = json.loads(reply.body)
            assert (log["status"], log["status_code"]) == (kept, status)


@pytest.mark.gen_test
async def test_a_stock_client_answers(folder: Path | None) -> None:
    """Many senders at once get the answer, a 3 MB body byte for byte; HEAD without a body."""
    async with desk(folder, outputs=OUTPUTS[:1]) as site:
        body = bytes(range(256)) * 12_288
        await site.stock_client(
            {
                "response_body": b64encode(body).decode(),
                "status_code": 200,
                "status": "sent",
                "retries": 0,
                "response_headers": {"X": ["y"]},
            }
        )
        senders = [await site.sender(request(URL, b"%d" % number)) for number in range(8)]
        for sender in senders:
            reply = await sender.reply()
            assert (reply.status, reply.header("X"), reply.body == body) == (200, "y", True)
        sender = await site.sender(request(URL, method=b"HEAD"))
        reply = await sender.reply(head=True)
        assert (reply.status, reply.header("Content-Length")) == (200, str(len(body)))


@pytest.mark.gen_test
async def test_a_stock_client_that_fails() -> None:
    """Its status code 0 answers nobody: the sender waits for another one."""
    async with desk() as site:
        await site.stock_client({"response_body": "", "status_code": 0, "response_headers": None,
                                 "status": "failed", "retries": 0})  # fmt: skip
        client, sender, event = await site.waiting_sender()
        async with asyncio.timeout(TIMEOUT):
            assert await site.put.get() == 200
        assert site.waiting == 1
        await client.say({"action": "respond", "id": event["meta"]["id"], "status": 200, "body": "the other"})
        assert (await sender.reply()).body == b"the other"


@pytest.mark.gen_test
async def test_nobody_is_there(folder: Path | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """504 at once, with the id of the event, which is stored: nobody connected, nobody subscribed, the output gone."""
    # A filter counts as slow by the clock, also where another process had the processor: then the event may pass it.
    monkeypatch.setattr(rules, "_QUICK", math.inf)
    monkeypatch.setattr(deliveries, "_FILTERING", math.inf)
    async with desk(folder) as site:
        site.site.site.clients.responses._wait = 3600.0

        async def refused() -> str:
            reply = await (await site.sender(request(URL, b"x"))).reply()
            assert reply.status == 504
            assert reply.header("Content-Security-Policy") == "sandbox"
            return reply.body.decode()

        text = await refused()
        (event,) = await site.site.events()
        assert event.id in text
        assert "no client is connected that would get and answer it" in text
        client = await site.client(
            filter={"match": {"type": "contains", "substring": "never", "parameter": {"source": "payload", "name": ""}}}
        )
        await refused()
        await client.say({"action": "subscribe", "buckets": ["another"]})
        await until(lambda: not site.site.site.clients.deliveries._shared.dispatcher._places)
        await refused()
        await site.client()
        await site.change("out-2", outputs=OUTPUTS[:1])
        await refused()
        await site.change("out-2", outputs=(OUTPUTS[0], dataclasses.replace(OUTPUTS[1], disabled=True)))
        await refused()
        await site.change(stream=False)
        await refused()


@pytest.mark.gen_test
async def test_a_client_that_dies(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that comes back from its cursor may still answer; where nobody does, 504 when the time is over."""
    async with desk() as site:
        client, sender, event = await site.waiting_sender(b"first")
        client.abort()
        await until(lambda: site.site.site.clients.count == 0)
        again = await site.client(since="earliest")
        (same,) = await again.webhooks(1)
        assert same["meta"]["id"] == event["meta"]["id"]
        await again.say({"action": "respond", "id": same["meta"]["id"], "status": 200, "body": "from the second"})
        assert (await sender.reply()).body == b"from the second"
        monkeypatch.setattr(site.site.site.clients.responses, "_wait", 0.3)
        sender.send(request(URL, b"second"))
        await again.webhooks(1)
        again.abort()
        reply = await sender.reply()
        assert reply.status == 504
        assert b"no client answered it within 0.3 seconds" in reply.body


@pytest.mark.gen_test
async def test_duplicates(folder: Path | None) -> None:
    """A repeat while the first one waits gets the same answer, and so does one that comes later, from the store."""
    async with desk(folder, dedupe=Dedupe("auto")) as site:
        client = await site.client()
        webhook = request(URL, b"x", b"webhook-id: 1\r\n")
        senders = [await site.sender(webhook) for _ in range(2)]
        (event,) = await client.webhooks(1)
        await until(lambda: site.waiting == 2)
        await client.say({"action": "respond", "id": event["meta"]["id"], "status": 201, "body": "once"})
        await client.hear_status("responded")
        client.abort()
        senders.append(await site.sender(webhook))
        for sender in senders:
            reply = await sender.reply()
            assert (reply.status, reply.body) == (201, b"once")
        assert len(await site.site.events()) == 1


@pytest.mark.gen_test
async def test_a_repeat_of_what_a_consumer_is_given_again() -> None:
    """The application died over it, and its next connection has it again: the sender that repeats waits for that."""
    async with desk(dedupe=Dedupe("auto")) as site:
        webhook = request(URL, b"x", b"webhook-id: 1\r\n")
        client = await site.client(consumer="w")
        sender = await site.sender(webhook)
        await client.webhooks(1)
        client.abort()
        sender.writer.transport.abort()
        await until(lambda: site.waiting == 0)
        again = await site.client(consumer="w")
        (event,) = await again.webhooks(1)
        assert event["meta"]["attempt"] == 2
        sender = await site.sender(webhook)
        await until(lambda: site.waiting == 1)
        await again.say({"action": "respond", "id": event["meta"]["id"], "status": 201, "body": "at last"})
        reply = await sender.reply()
        assert (reply.status, reply.body) == (201, b"at last")
        assert len(await site.site.events()) == 1


@pytest.mark.gen_test
async def test_senders_of_one_input_that_nobody_answers_leave_others_their_places() -> None:
    """Those over its share get 503 at once; another input's sender waits, and gets its client's answer."""
    async with desk() as made:
        waits = dataclasses.replace(INPUT, response_from_output="anyOutput")
        await made.site.change(inputs=(waits, dataclasses.replace(waits, id="in-2")))
        made.site.site.clients.responses.shares.capacity = 8
        client = await made.client()
        silent = [await made.sender(request(URL, b"silent")) for _ in range(12)]
        await client.webhooks(12)
        await until(lambda: made.waiting == 6)
        other = await made.sender(request(b"/v1/webhooks/in-2", b"other"))
        (event,) = await client.webhooks(1)
        await until(lambda: made.waiting == 7)
        await client.say({"action": "respond", "id": event["meta"]["id"], "status": 201, "body": "yes"})
        assert ((await other.reply()).status, made.waiting) == (201, 6)
        replies = [asyncio.create_task(raw.reply()) for raw in silent]
        await until(lambda: sum(reply.done() for reply in replies) == 6)
        assert {reply.result().status for reply in replies if reply.done()} == {503}
        for reply in replies:
            reply.cancel()


@pytest.mark.gen_test
async def test_a_named_output() -> None:
    """Its copy's answer alone counts."""
    async with desk(output="out-2", outputs=OUTPUTS) as site:
        client = await site.client()
        sender = await site.sender(request(URL, b"x"))
        first, second = await client.webhooks(2)
        assert [each["meta"]["output_name"] for each in (first, second)] == ["output 1", "output 2"]
        await client.say({"action": "respond", "id": first["meta"]["id"], "status": 500})
        await client.hear_status("responded")
        assert site.waiting == 1
        await client.say({"action": "respond", "id": second["meta"]["id"], "status": 202})
        assert (await sender.reply()).status == 202


@pytest.mark.gen_test
async def test_a_sender_that_leaves_waits_no_longer() -> None:
    """Its place is free at once."""
    async with desk() as site:
        _, sender, _ = await site.waiting_sender()
        await until(lambda: site.waiting == 1)
        sender.writer.transport.abort()
        await until(lambda: site.waiting == 0)


@pytest.mark.gen_test
async def test_a_sender_that_leaves_where_it_waits_by_a_change_while_its_body_came() -> None:
    """The same, and not only when nobody has answered in time."""
    async with desk(output="") as site:
        site.site.site.clients.responses._wait = 3600.0
        client = await site.client()
        webhook = request(URL, b"body")
        sender = await site.sender(webhook[:-2])
        await until(lambda: site.site.site.ingest.buffered == len(b"bo"))
        await site.change()
        sender.send(webhook[-2:])
        await client.webhooks(1)
        await until(lambda: site.waiting == 1)
        sender.writer.transport.abort()
        await until(lambda: site.waiting == 0)


@pytest.mark.gen_test
@pytest.mark.parametrize(("owner", "name"), [(Responses, "_peek"), (Ingest, "answer")])
async def test_a_sender_on_which_the_relay_fails_once_it_is_stored(
    owner: type, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told so, once, takes no place, and its connection goes on."""
    async with desk(output="anyOutput" if owner is Responses else "") as site:
        sender = await site.sender(b"")
        with monkeypatch.context() as patch, structlog.testing.capture_logs():
            patch.setattr(owner, name, lambda *_: 1 // 0)
            webhook = request(URL, b"body")
            sender.send(webhook[:-2])
            await until(lambda: site.site.site.ingest.buffered == len(b"bo"))
            sender.send(webhook[-2:])
            reply = await sender.reply()
        assert (reply.status, b"may have been stored" in reply.body, site.waiting) == (500, True, 0)
        assert (await sender.ask(request(URL, b"x"))).status == (504 if owner is Responses else 200)
        assert [event.body for event in await site.site.events()] == [b"body", b"x"]


@pytest.mark.gen_test
async def test_the_relay_stops() -> None:
    """Whoever waits is told."""
    async with desk() as site:
        client, sender, _ = await site.waiting_sender()
        stopping = asyncio.create_task(site.site.site.stop())
        assert (await client.end())[0] == 1001
        reply = await sender.reply()
        assert reply.status == 504
        assert b"before the relay stopped" in reply.body
        await stopping


@pytest.mark.gen_test
async def test_answers_that_are_nobodys() -> None:
    """An error with its code, and the connection goes on; before auth it ends."""
    async with desk() as site:
        client = await site.client()
        for fields, code in (
            ({"id": "k3v9x1q7m2ab-1"}, "not_found"),
            ({"id": "1"}, "invalid"),
            ({}, "invalid"),
            ({"id": "k3v9x1q7m2ab-1", "status": 700}, "invalid"),
        ):
            await client.say({"action": "respond", **fields})
            assert (await client.hear_status("error"))["code"] == code
        stranger = Client(await connect(f"ws://127.0.0.1:{site.site.port}/v1/socket", close_timeout=5))
        site.stack.callback(stranger.abort)
        await stranger.say({"action": "respond", "id": "k3v9x1q7m2ab-1"})
        assert (await stranger.end())[0] == 4001


@pytest.mark.gen_test
async def test_the_verdict_travels_with_the_event(folder: Path | None) -> None:
    """In live frames and in replays."""
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    async with edge(folder) as made, AsyncExitStack() as stack:
        site = Desk(made, stack)
        await made.change(input={"verify": Verify("standard-webhooks", (secret,), "mark")})
        client = await site.client()
        lines = sign("standard-webhooks", secret, b"x", time.time(), "m")
        headers = "".join(f"{name}: {value}\r\n" for name, value in lines).encode()
        sender = await site.sender(request(URL, b"x", headers))
        assert (await sender.reply()).status == 200
        assert (await sender.ask(request(URL, b"y", headers))).status == 200
        replaying = await site.client(since="earliest")
        for each in (client, replaying):
            assert [event["meta"]["verified"] for event in await each.webhooks(2)] == [True, False]
        await made.change(input={"verify": Verify("standard-webhooks", (secret,))})
        reply = await sender.ask(request(URL, b"y", headers))
        assert (reply.status, len(await made.events())) == (401, 2)
        assert b"signature" in reply.body
