"""Forwarding in a whole relay: from a webhook to its destination and what REST shows of it; across kills."""

from __future__ import annotations

import asyncio
import dataclasses
import http.client
import http.server
import json
import random
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from relay_tornado.app import Relay
from relay_tornado.settings import Settings
from tests.acceptance.relay import Relay as Process
from tests.acceptance.relay import wait_for
from tests.forwarding.target import Target, answer, once_open
from tests.handlers.raw import Raw, request
from tests.waiting import until


@asynccontextmanager
async def started(folder: Path, **changes: Any) -> AsyncIterator[Relay]:
    changes = {"data": folder, "port": 0, "forward_allow": "127.0.0.0/8", **changes}
    relay = Relay(dataclasses.replace(Settings(), **changes))
    await relay.start()
    try:
        yield relay
    finally:
        await relay.stop()


@pytest.mark.gen_test
async def test_from_sender_to_destination(tmp_path: Path) -> None:
    """A webhook is forwarded, its Log says so, a sender waits for the destination's answer, and a stopped relay goes on
    where it stopped."""

    async def log(raw: Raw, secret: str) -> Any:
        headers = b"Authorization: Bearer " + secret.encode() + b"\r\n"
        answered = await raw.ask(request(b"/v1/logs?bucket=orders", b"", headers, method=b"GET"))
        return json.loads(answered.body)["data"][0]

    tasks = asyncio.all_tasks()
    async with Target(lambda got: answer(202, b"taken:" + got.body)) as target:
        async with started(tmp_path) as relay:
            administration = relay.administration
            bucket = await administration.create_bucket("orders")
            _, output = await administration.create_output(
                "orders", name="shop", destination=f"{target.url}/in", internal=False
            )
            _, secret = await administration.create_token()
            path = f"/v1/webhooks/{bucket.inputs[0].id}".encode()
            async with Raw(relay.port) as raw:
                assert (await raw.ask(request(path + b"/x?y=1", b"one"))).status == 200
                await target.until(1)
                assert (target.got[0].target, target.got[0].body) == (b"/in/x?y=1", b"one")
                while (found := await log(raw, secret))["status"] == "received":  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
                assert (found["status"], found["status_code"], found["output_id"]) == ("sent", 202, output.id)
                await administration.set_input("orders", response_from_output=output.id)
                answered = await raw.ask(request(path, b"two"))
                assert (answered.status, answered.body) == (202, b"taken:two")
                await administration.set_output(output.id, paused=True)
                assert (await raw.ask(request(path, b"three"))).status == 504
        await until(lambda: not [task for task in asyncio.all_tasks() - tasks if "_serve" not in repr(task)])
        async with started(tmp_path) as relay:
            await relay.administration.set_output(output.id, paused=False)
            await target.until(3)
            assert target.bodies == [b"one", b"two", b"three"]


@pytest.mark.gen_test
async def test_a_full_queue_answers_429(tmp_path: Path) -> None:
    """With max_queue_depth senders are told to come again while so many events wait for the one that is out."""
    gate = asyncio.Event()
    throttle = {"enabled": True, "mode": "concurrency", "max_concurrent": 1, "max_queue_depth": 2}
    async with Target(once_open(gate)) as target, started(tmp_path) as relay:
        bucket = await relay.administration.create_bucket("orders")
        await relay.administration.create_output("orders", destination=target.url, internal=False, throttle=throttle)
        path = f"/v1/webhooks/{bucket.inputs[0].id}".encode()
        async with Raw(relay.port) as raw:
            await target_ready(relay)
            statuses = []
            for number in range(5):
                statuses.append((await raw.ask(request(path, b"%d" % number))).status)
                await target.until(1)  # that one is out, and none of those that wait
            assert statuses == [200, 200, 200, 429, 429]
            gate.set()
            await target.until(3)
            async with asyncio.timeout(60):
                while (await raw.ask(request(path, b"again"))).status != 200:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            await target.until(4)


@pytest.mark.parametrize("transport", ["direct", "tornado"])
@pytest.mark.gen_test
async def test_a_burst_fills_a_queue_no_further(tmp_path: Path, transport: str) -> None:
    """Of those that come in at once, before the first of them is committed, as many are taken as may wait."""
    gate = asyncio.Event()
    throttle = {"enabled": True, "mode": "concurrency", "max_concurrent": 1, "max_queue_depth": 5}
    async with (
        Target(once_open(gate)) as target,
        started(tmp_path, transport=transport) as relay,
        AsyncExitStack() as stack,
    ):
        bucket = await relay.administration.create_bucket("orders")
        await relay.administration.create_output("orders", destination=target.url, internal=False, throttle=throttle)
        path = f"/v1/webhooks/{bucket.inputs[0].id}".encode()
        await target_ready(relay)
        senders = [await stack.enter_async_context(Raw(relay.port)) for _ in range(20)]
        assert (await senders[0].ask(request(path, b"first"))).status == 200
        await target.until(1)
        replies = await asyncio.gather(*(each.ask(request(path, b"burst")) for each in senders))
        assert sorted(each.status for each in replies) == [200] * 5 + [429] * 15
        gate.set()
        await target.until(6)


async def target_ready(relay: Relay) -> None:
    """Waits until the output's position is open."""
    site = relay._site
    assert site is not None
    forwarding: Any = site.clients.responses.forwarding
    await until(lambda: forwarding._forwarders)


@pytest.mark.gen_test
async def test_rest_shows_the_event_that_is_tried_again_and_an_open_circuit(tmp_path: Path) -> None:
    """An output's position and the list of consumers name the oldest event and its next try, and that of the output."""

    async def get(raw: Raw, path: str, secret: str) -> Any:
        headers = b"Authorization: Bearer " + secret.encode() + b"\r\n"
        answered = await raw.ask(request(path.encode(), b"", headers, method=b"GET"))
        assert answered.status == 200, answered.body
        return json.loads(answered.body)

    throttle = {"enabled": True, "mode": "concurrency", "max_concurrent": 10}
    refusal = answer(500, b"", "Retry-After: 3600")
    async with Target(lambda got: refusal) as target, started(tmp_path) as relay:
        administration = relay.administration
        bucket = await administration.create_bucket("orders")
        _, output = await administration.create_output(
            "orders", destination=target.url, internal=False, throttle=throttle
        )
        _, secret = await administration.create_token()
        await target_ready(relay)
        position = f"/v1/buckets/orders/outputs/{output.id}/position"
        path = f"/v1/webhooks/{bucket.inputs[0].id}".encode()
        async with Raw(relay.port) as raw:
            assert (await raw.ask(request(path, b"0"))).status == 200
            async with asyncio.timeout(60):
                while not (shown := await get(raw, position, secret))["parked"]:
                    pass
            oldest = shown["oldest"]
            assert (oldest["id"], oldest["attempts"], oldest["out"]) == (shown["head"], 1, False)
            assert bucket.created_at <= oldest["since"] < oldest["next_at"] - 1800
            assert shown["circuit"] is None
            for number in range(1, 10):
                assert (await raw.ask(request(path, b"%d" % number))).status == 200
            async with asyncio.timeout(60):
                while not (shown := await get(raw, position, secret))["circuit"]:
                    pass
            assert shown["oldest"] == oldest
            assert oldest["since"] < shown["circuit"]["next_at"] < oldest["next_at"]
            (listed,) = await get(raw, "/v1/buckets/orders/consumers", secret)
            assert listed["circuit"]


@pytest.mark.gen_test
async def test_its_own_address_is_refused(tmp_path: Path) -> None:
    """An output that leads to the relay's own port sends nothing, though the range is allowed."""
    async with started(tmp_path) as relay:
        bucket = await relay.administration.create_bucket("orders")
        url = f"{relay.url}/v1/webhooks/{bucket.inputs[0].id}"
        await relay.administration.create_output("orders", destination=url, internal=False, retries=-1)
        path = f"/v1/webhooks/{bucket.inputs[0].id}".encode()
        async with Raw(relay.port) as raw:
            await raw.ask(request(path, b"one"))
        ledgers = relay.administration.ledgers
        async with asyncio.timeout(60):
            while not (found := await ledgers.store.dead(bucket.id, None, 0, 10)):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert [(letter.seq, letter.reason) for letter in found] == [(1, "retries: refused")]


class Sink(http.server.ThreadingHTTPServer):
    """A destination in threads, for relays in processes: it answers after a moment, and keeps what it got."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.bodies: list[bytes] = []


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert isinstance(self.server, Sink)
        self.server.bodies.append(body)
        time.sleep(0.002)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None: ...


@pytest.fixture
def sink() -> Iterator[Sink]:
    with Sink() as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.01,))
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.mark.heavy
def test_kill_9_between_send_and_mark(tmp_path: Path, sink: Sink) -> None:
    """A relay that is killed again and again while it forwards loses nothing that it has acknowledged: every event
    arrives at least once, the first time in order, and repeats are few."""
    acknowledged: list[bytes] = []
    kills = 6
    with Process(tmp_path / "data", forward_allow="127.0.0.0/8") as relay:
        path = relay.create_bucket("orders")
        url = f"http://127.0.0.1:{sink.server_address[1]}/"
        relay.command("output", "create", "orders", "--public", "--destination", url)
        number = 0
        for _ in range(kills):
            until = time.monotonic() + random.uniform(0.05, 0.4)
            connection = http.client.HTTPConnection("127.0.0.1", relay.port, timeout=60)
            while time.monotonic() < until:
                body = b"%d" % number
                number += 1
                connection.request("POST", path, body)
                answered = connection.getresponse()
                answered.read()
                assert answered.status == 200
                acknowledged.append(body)
            connection.close()
            relay.restart()
        wait_for(lambda: set(acknowledged) <= set(sink.bodies), "every event to arrive")
        relay.stop()
    firsts = list(dict.fromkeys(sink.bodies))
    assert firsts == acknowledged
    assert len(sink.bodies) - len(firsts) < len(acknowledged)


def test_a_destination_takes_no_more_threads(tmp_path: Path, sink: Sink) -> None:
    """libuv, below uvloop, begins four for the first name that it looks up, and ends the process where it can't."""
    with Process(tmp_path / "data", forward_allow="127.0.0.0/8") as relay:
        path = relay.create_bucket("orders")
        url = f"http://127.0.0.1:{sink.server_address[1]}/"
        relay.command("output", "create", "orders", "--public", "--destination", url)
        connection = http.client.HTTPConnection("127.0.0.1", relay.port, timeout=60)
        connection.request("POST", path, b"1")
        assert connection.getresponse().status == 200
        connection.close()
        wait_for(lambda: sink.bodies, "the event to arrive")
        names = set()
        for each in Path(f"/proc/{relay.pid}/task").glob("*/comm"):
            with suppress(OSError):  # it has just ended
                names.add(each.read_text().strip())
        assert names
        assert "libuv-worker" not in names
