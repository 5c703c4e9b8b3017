"""The client against services that speak the stock protocol alone."""

from __future__ import annotations

import asyncio
import base64
import http
import http.server
import json
import socket
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from relay_tornado.client import NotExtended, Rejected, RelayClientError, Subscription
from tests.client.peer import Peer, at, service, webhook
from tests.client.world import TIMEOUT, bodies, client_test, run, take


@client_test
async def test_the_stock_protocol_alone(tmp_path: Path) -> None:
    """With `extended=False` it sends stock messages only, leaves repeats out, and keeps them out over runs."""
    heard: list[Any] = []

    async def talk(peer: Peer) -> None:
        heard.append(await peer.welcome())
        await peer.send({"type": "status", "status": "ping", "message": ""})
        for number in range(peer.number, peer.number + 3):
            await peer.send(webhook(f"uuid-{number}", str(number)))
        if peer.number == 1:
            await peer.socket.close(1001)
        await peer.stay()

    async with service(talk) as url:
        for expected in (["1", "2", "3", "4"], ["5"]):
            async with at(url, extended=False, checkpoint=tmp_path / "seen") as events:
                got = await take(events, len(expected))
                await got[-1].done()
            assert bodies(got) == expected
    assert heard == [{"action": "subscribe", "buckets": ["b"]}] * 3


def test_answers_over_rest() -> None:
    """Without additions an answer is PUT to the log, as stock clients do it; what is refused is Rejected."""
    got: list[Any] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got.append((self.path, self.headers["Authorization"], json.loads(body)))
            refused = "bad" in self.path
            self.send_response(404 if refused else 307 if "elsewhere" in self.path else 200)
            if "elsewhere" in self.path:
                self.send_header("Location", "http://127.0.0.1:1/")
            answer = b'{"message": "no such log", "code": "not_found"}' if refused else b"{}"
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *args: object) -> None:
            pass

    async def talk(peer: Peer) -> None:
        await peer.welcome()
        await peer.send(webhook("a/b"), webhook("bad"), webhook("elsewhere"))
        await peer.stay()

    async def main(rest: http.server.HTTPServer) -> None:
        async with service(talk) as url, at(url, extended=False) as events:
            answers_at(events, rest.server_port)
            good, bad, elsewhere = await take(events, 3)
            await good.respond(201, b"\xff", {"X": "1"})
            with pytest.raises(Rejected, match="no such log") as rejected:
                await bad.respond()
            assert rejected.value.code == "not_found"
            with pytest.raises(Rejected, match="307"):
                await elsewhere.respond()
            with pytest.raises(RelayClientError, match="consumer"):
                await good.ack()

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as rest:
        serving = threading.Thread(target=rest.serve_forever, args=(0.01,))
        serving.start()
        try:
            run(main(rest))
        finally:
            rest.shutdown()
            serving.join()
    path, authorization, document = got[0]
    assert path == "/v1/logs/a%2Fb"
    assert base64.b64decode(authorization.removeprefix("Basic ")) == b"key:secret"
    assert document == {
        "id": "a/b", "status": "sent", "status_code": 201, "response_headers": {"X": ["1"]},
        "response_body": base64.b64encode(b"\xff").decode(), "retries": 0,
    }  # fmt: skip


async def one_event(peer: Peer) -> None:
    await peer.welcome()
    await peer.send(webhook("uuid-1"))
    await peer.stay()


def answers_at(events: Subscription, port: int) -> None:
    """Answers over REST go to this port of this machine."""
    core = events._start()
    core._address = type(core._address)(core._address.socket, f"http://127.0.0.1:{port}/v1")


def test_an_answer_that_nobody_waits_for_any_more() -> None:
    """Where REST is silent, a program whose wait for it is cancelled ends at once."""

    async def main(port: int) -> None:
        async with service(one_event) as url, at(url, extended=False) as events:
            answers_at(events, port)
            event = await anext(events)
            waiting = asyncio.ensure_future(event.respond(timeout=3600))
            connection, _ = await asyncio.to_thread(silent.accept)
            open_until_the_end.enter_context(connection)
            assert await asyncio.to_thread(connection.recv, 1)
            waiting.cancel()
            await asyncio.wait((waiting,))

    with socket.create_server(("127.0.0.1", 0)) as silent, ExitStack() as open_until_the_end:
        silent.settimeout(TIMEOUT)
        run(main(silent.getsockname()[1]))


def test_an_answer_that_waits_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its `timeout` holds for the whole of it, the wait for its turn included."""
    monkeypatch.setattr("relay_tornado.client.core.PUTS", 1)

    async def main(port: int) -> None:
        async with service(one_event) as url, at(url, extended=False) as events:
            answers_at(events, port)
            event = await anext(events)
            first = asyncio.ensure_future(event.respond(timeout=TIMEOUT / 3))
            await asyncio.sleep(0)
            with pytest.raises(TimeoutError):
                await event.respond(timeout=0.1)
            assert not first.done()
            first.cancel()
            await asyncio.wait((first,))

    with socket.create_server(("127.0.0.1", 0)) as silent:
        run(main(silent.getsockname()[1]))


@client_test
@pytest.mark.parametrize(
    ("answer", "passes"),
    [
        ("200 OK\r\nContent-Length: 100\r\n\r\n{", True),
        ("502 Bad Gateway\r\n\r\nthe proxy's", True),
        ('429 Too Many Requests\r\n\r\n{"message": "the service\'s"}', True),
        ('503 Service Unavailable\r\n\r\n{"code": "unavailable", "message": "the relay\'s"}', False),
        ("404 Not Found\r\nContent-Length: 100\r\n\r\n{", False),
        ("404 Not Found\r\n\r\n" + "[" * 200_000, False),
    ],
    ids=["broken off", "away", "too many", "said", "refused and broken off", "refused in words that nobody reads"],
)
async def test_an_answer_over_rest_is_sent_until_it_is_stored(answer: str, passes: bool) -> None:
    """Again after what passes; a relay's own word, and a refusal, are told."""
    answers = [answer, "200 OK\r\nContent-Length: 0\r\n\r\n"]

    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"}")
        writer.write(f"HTTP/1.1 {answers.pop(0)}".encode())
        writer.close()

    server = await asyncio.start_server(cut, "127.0.0.1", 0)
    async with server, service(one_event) as url, at(url, extended=False) as events:
        answers_at(events, server.sockets[0].getsockname()[1])
        event = await anext(events)
        if passes:
            await event.respond()
        else:
            with pytest.raises(Rejected):
                await event.respond()
    assert len(answers) == (0 if passes else 1)


@client_test
async def test_an_answer_over_rest_ends_with_the_subscription() -> None:
    """One that waits for its next try says so."""
    tried = asyncio.Event()

    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()
        tried.set()

    server = await asyncio.start_server(cut, "127.0.0.1", 0)
    async with server, service(one_event) as url, at(url, extended=False) as events:
        answers_at(events, server.sockets[0].getsockname()[1])
        waiting = asyncio.ensure_future((await anext(events)).respond())
        await tried.wait()
        await events.aclose()
        with pytest.raises(RelayClientError, match="closed"):
            await waiting


@client_test
async def test_a_service_without_additions_is_noticed() -> None:
    """A client that counts on resuming does not go on in silence where that can't be."""

    async def talk(peer: Peer) -> None:
        await peer.welcome()
        await peer.stay()

    async with service(talk) as url, at(url) as events:
        with pytest.raises(NotExtended, match="extended=False"):
            await anext(events)
