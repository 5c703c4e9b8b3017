"""The client against services that are not this relay, or not well: faults that a real relay does not show."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http
import http.server
import json
import logging
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
from websockets.asyncio.server import Request, Response, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from relay_tornado.client import (
    Backoff,
    Gap,
    NotExtended,
    Notice,
    Refused,
    Rejected,
    RelayClientError,
    Subscription,
    Unreachable,
    subscribe,
)
from tests.client.world import SOON, bodies, free_port, run, take, until

AUTHENTICATED = {"type": "status", "status": "authenticated", "message": "connected successfully"}
SUBSCRIBED = {"type": "status", "status": "subscribed", "message": "subscribed to buckets: b"}
ENTRY = {"bucket_id": "B", "bucket_name": "b", "epoch": "abcdefghijkl", "first": 1, "head": 0, "start": 1, "gap": None}

Talk = Callable[["Peer"], Awaitable[None]]


class Peer:
    """The service's side of one connection."""

    def __init__(self, socket: ServerConnection, number: int) -> None:
        self.socket = socket
        self.number = number

    async def send(self, *documents: Any) -> None:
        for document in documents:
            await self.socket.send(document if isinstance(document, str | bytes) else json.dumps(document))

    async def receive(self) -> Any:
        return json.loads(await self.socket.recv())

    async def welcome(self, **more: Any) -> Any:
        """Up to the answer to subscribe, which it returns."""
        assert (await self.receive())["action"] == "auth"
        await self.send(AUTHENTICATED)
        subscribe = await self.receive()
        await self.send(SUBSCRIBED | more)
        return subscribe

    async def stay(self) -> None:
        """Until the client ends it."""
        async for _ in self.socket:
            pass


def webhook(id: str, body: str = "x", **meta: Any) -> dict[str, Any]:
    return {
        "type": "webhook", "headers": {}, "query": "", "body": body, "method": "POST",
        "meta": {"id": id, "bucked_id": "B", "bucket_name": "b", **meta},
    }  # fmt: skip


@asynccontextmanager
async def service(talk: Talk, **options: Any) -> AsyncIterator[str]:
    """A service on a port of its own; every connection has this conversation."""
    count = 0
    problems: list[Exception] = []

    async def talked(socket: ServerConnection) -> None:
        nonlocal count
        count += 1
        try:
            await talk(Peer(socket, count))
        except ConnectionClosed:
            pass
        except Exception as error:
            problems.append(error)

    logger = logging.getLogger("tests.service")
    logger.setLevel(logging.CRITICAL)
    async with serve(talked, "127.0.0.1", 0, logger=logger, **options) as server:
        scheme = "wss" if "ssl" in options else "ws"
        yield f"{scheme}://localhost:{next(iter(server.sockets)).getsockname()[1]}"
    assert not problems, problems


def at(url: str, **options: Any) -> Subscription:
    options.setdefault("backoff", SOON)
    return subscribe(url, "key", "secret", buckets="b", **options)


# the stock protocol


def test_the_stock_protocol_alone(tmp_path: Path) -> None:
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

    async def main() -> None:
        async with service(talk) as url:
            for expected in (["1", "2", "3", "4"], ["5"]):
                async with at(url, extended=False, checkpoint=tmp_path / "seen") as events:
                    got = await take(events, len(expected))
                    await got[-1].done()
                assert bodies(got) == expected
        assert heard == [{"action": "subscribe", "buckets": ["b"]}] * 3

    run(main())


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
            core = events._start()
            core._address = type(core._address)(core._address.socket, f"http://127.0.0.1:{rest.server_port}/v1")
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


def test_a_service_without_additions_is_noticed() -> None:
    """A client that counts on resuming does not go on in silence where that can't be."""

    async def talk(peer: Peer) -> None:
        await peer.welcome()
        await peer.stay()

    async def main() -> None:
        async with service(talk) as url, at(url) as events:
            with pytest.raises(NotExtended, match="extended=False"):
                await anext(events)

    run(main())


# ends


@pytest.mark.parametrize("code", [4001, 4500, 4503, 4999])
def test_final_closes(code: int) -> None:
    """4001 and 4500 to 4999 end it, with the reason; nothing is tried again."""
    connections = 0

    async def talk(peer: Peer) -> None:
        nonlocal connections
        connections = peer.number
        await peer.welcome(buckets=[ENTRY])
        await peer.socket.close(code, "because")

    async def main() -> None:
        async with service(talk) as url, at(url) as events:
            with pytest.raises(Refused, match="because") as refused:
                await anext(events)
            assert (refused.value.code, refused.value.reason) == (code, "because")

    run(main())
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

    async def main() -> None:
        async with service(talk) as url, at(url) as events:
            assert (await anext(events)).seq == 1

    run(main())


def test_errors_of_a_subscribe() -> None:
    """One that passes by itself is tried again, any other is raised."""

    async def talk(peer: Peer) -> None:
        await peer.receive()
        await peer.send(AUTHENTICATED)
        await peer.receive()
        code = "unavailable" if peer.number < 3 else "invalid"
        await peer.send({"type": "status", "status": "error", "code": code, "message": "words"})
        await peer.stay()

    async def main() -> None:
        async with service(talk) as url, at(url) as events:
            with pytest.raises(Rejected, match="words") as rejected:
                await anext(events)
            assert rejected.value.code == "invalid"

    run(main())


@pytest.mark.parametrize("status", [301, 401, 404])
def test_a_url_that_is_no_relays(status: int) -> None:
    """What waiting does not mend is said at once; a redirect is not followed, since the secret would go with it."""
    elsewhere: list[str] = []

    async def refuse(socket: ServerConnection, request: Request) -> Response:
        elsewhere.append(request.path)
        response = socket.respond(http.HTTPStatus(status), "")
        response.headers["Location"] = "/other"
        return response

    async def talk(peer: Peer) -> None:
        raise AssertionError

    async def main() -> None:
        async with service(talk, process_request=refuse) as url, at(url) as events:
            with pytest.raises(Unreachable, match=f"answers {status}"):
                await anext(events)

    run(main())
    assert elsewhere == ["/v1/socket"]


def test_statuses_that_pass() -> None:
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

    async def main() -> None:
        async with service(talk, process_request=refuse) as url, at(url) as events:
            await anext(events)

    run(main())
    assert left == []


def test_a_silent_service_is_left() -> None:
    """Where nothing comes for `idle_timeout`, and where a step takes longer than `open_timeout`, it dials again."""
    notices: list[Notice] = []

    async def talk(peer: Peer) -> None:
        if peer.number == 1:
            await peer.stay()
        await peer.welcome(buckets=[ENTRY])
        if peer.number == 3:
            await peer.send(webhook("abcdefghijkl-1"))
        await peer.stay()

    async def main() -> None:
        async with (
            service(talk) as url,
            at(url, idle_timeout=0.2, open_timeout=0.3, on_notice=notices.append) as events,
        ):
            await anext(events)

    run(main())
    said = [notice.message for notice in notices if notice.kind == "disconnected"]
    assert said[:2] == ["the relay does not answer", "nothing came for 0.2 s"]


def test_a_busy_application_shows_signs_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    """While nothing is read the client still says that it is there."""
    monkeypatch.setattr("relay_tornado.client.core.LIFE", 0.02)
    heard: list[Any] = []

    async def talk(peer: Peer) -> None:
        await peer.welcome(buckets=[ENTRY])
        sending = asyncio.create_task(
            peer.send(*(webhook(f"abcdefghijkl-{seq}", "x" * 100_000) for seq in range(1, 200)))
        )
        try:
            while True:
                heard.append(await peer.receive())
        finally:
            sending.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionClosed):
                await sending

    async def main() -> None:
        async with service(talk) as url, at(url, buffer=100_000) as events:
            await anext(events)
            core = events._core
            assert core is not None
            await until(lambda: core.intake.full, "a full buffer")
            before = len(heard)
            await until(lambda: len(heard) > before + 2, "signs of life")

    run(main())
    assert all(message == {"action": "pong"} for message in heard)


def test_a_message_that_is_too_big_ends_it() -> None:
    """An event over `max_message` would come again and again: it is said instead, with what to do."""

    async def talk(peer: Peer) -> None:
        await peer.welcome(buckets=[ENTRY])
        await peer.send(webhook("abcdefghijkl-1", "x" * 20_000))
        await peer.stay()

    async def main() -> None:
        async with service(talk) as url, at(url, max_message=10_000) as events:
            with pytest.raises(RelayClientError, match="raise max_message"):
                await anext(events)

    run(main())


def test_odd_frames_are_passed_over() -> None:
    """What it does not know, and what is no JSON, breaks nothing."""

    async def talk(peer: Peer) -> None:
        await peer.welcome(buckets=[ENTRY])
        await peer.send("", "[", "3", b"\x00", {"type": "tunnel"}, {"status": "new"}, {"type": "webhook", "meta": {}})
        await peer.send({"type": "status", "status": "error", "code": "x", "message": "words"})
        await peer.send({"type": "status", "status": "ping", "positions": {"who": "abcdefghijkl-5"}})
        await peer.send(webhook("abcdefghijkl-1"))
        await peer.stay()

    notices: list[str] = []

    async def main() -> None:
        async with service(talk) as url, at(url, on_notice=lambda notice: notices.append(notice.message)) as events:
            assert (await anext(events)).id == "abcdefghijkl-1"

    run(main())
    assert "words (x)" in notices


def test_notices_that_raise_break_nothing() -> None:
    """A callback's fault is logged, and the client goes on."""

    def fail(notice: Notice) -> None:
        raise RuntimeError("mine")

    async def talk(peer: Peer) -> None:
        await peer.welcome(buckets=[ENTRY, {"bucket_name": "x", "error": "not_found"}])
        await peer.send(webhook("abcdefghijkl-1"))
        await peer.stay()

    async def main() -> None:
        async with service(talk) as url, at(url, on_notice=fail) as events:
            await anext(events)

    run(main())


def test_what_goes_wrong_at_the_beginning_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """For who listens to no notice: an address where nobody answers, and a bucket that is not there."""
    ports: list[int] = []

    async def talk(peer: Peer) -> None:
        await peer.welcome(buckets=[ENTRY, {"bucket_name": "ordrs", "error": "not_found"}])
        await peer.send(webhook("abcdefghijkl-1"))

    async def main() -> None:
        async with service(talk) as url, at(url) as events:
            ports.append(int(url.rpartition(":")[2]))
            await anext(events)
            await asyncio.sleep(0.1)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.5), at(f"http://127.0.0.1:{ports[0]}") as events:
                await anext(events)

    with caplog.at_level(logging.WARNING, "relay_tornado.client"):
        run(main())
    said = [record.getMessage() for record in caplog.records]
    assert said[0] == "there is no bucket 'ordrs' yet, for this token"
    assert all("next try in" in each for each in said[1:])
    assert len(said) > 1


def test_waits_begin_anew_after_a_good_while() -> None:
    """A connection that held for `good` seconds resets the waits; one that did not makes them grow."""
    delays: list[float] = []

    async def talk(peer: Peer) -> None:
        await peer.welcome(buckets=[ENTRY])
        if peer.number == 5:
            await asyncio.sleep(0.3)
        await peer.socket.close(1001)

    def note(notice: Notice) -> None:
        if notice.delay is not None:
            delays.append(notice.delay)

    async def main() -> None:
        waits = Backoff(first=0.001, factor=6, longest=10, good=0.25)
        async with service(talk) as url, at(url, backoff=waits, on_notice=note) as events:
            waiting = asyncio.ensure_future(anext(events))
            await until(lambda: len(delays) >= 5, "five ends")
            waiting.cancel()

    run(main())
    assert delays[3] > 0.2 * 0.001 * 6**3 > delays[4]


# the way there


def test_tls(tmp_path: Path) -> None:
    """A certificate is verified; `ssl` names further authorities. One that is not trusted is said at once."""
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(server)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)

    async def talk(peer: Peer) -> None:
        await peer.welcome(buckets=[ENTRY])
        await peer.send(webhook("abcdefghijkl-1"))
        await peer.stay()

    async def main() -> None:
        async with service(talk, ssl=server) as url:
            async with at(url, ssl=trusting) as events:
                await anext(events)
            async with at(url) as events:
                with pytest.raises(Unreachable, match="not trusted"):
                    await anext(events)

    run(main())


def test_no_tls_where_it_is_expected() -> None:
    """What answers in clear is no relay's wss, which is said at once; what cuts the connection may come back."""
    answers = [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(4096)
        writer.write(answers.pop(0))
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        told: list[str] = []
        async with server, at(f"https://127.0.0.1:{port}", on_notice=lambda each: told.append(each.message)) as events:
            with pytest.raises(Unreachable, match=rf"does not speak HTTPS: try http://127\.0\.0\.1:{port}$"):
                await anext(events)
        assert [each for each in told if "cut the connection: if it does not speak HTTPS, try" in each]

    run(main())


def test_the_environments_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes through the proxy that the environment names, and past it with `proxy=None`."""
    asked: list[bytes] = []

    async def talk(peer: Peer) -> None:
        await peer.welcome(buckets=[ENTRY])
        await peer.send(webhook("abcdefghijkl-1"))
        await peer.stay()

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n"))
        writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def main() -> None:
        for name in ("no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY", "https_proxy", "HTTPS_PROXY"):
            monkeypatch.delenv(name, raising=False)
        async with service(talk) as url, await asyncio.start_server(proxy, "127.0.0.1", 0) as server:
            monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
            said: list[str] = []
            async with at(url, on_notice=lambda notice: said.append(notice.message)) as events:
                waiting = asyncio.ensure_future(anext(events))
                await until(lambda: said, "the proxy's refusal")
                waiting.cancel()
            assert "can't be reached" in said[0]
            async with at(url, proxy=None) as events:
                await anext(events)

    run(main())
    assert asked[0].startswith(b"CONNECT localhost:")


def test_nobody_there() -> None:
    """A refused connection is said in the system's words, and tried again."""
    notices: list[Notice] = []

    async def main() -> None:
        async with at(f"ws://127.0.0.1:{free_port()}", on_notice=notices.append) as events:
            waiting = asyncio.ensure_future(anext(events))
            await until(lambda: len(notices) >= 2, "two tries")
            waiting.cancel()

    run(main())
    assert "can't be reached" in notices[0].message


def test_a_gap_is_told_even_where_the_telling_was_cancelled() -> None:
    """`on_gap` that was broken off runs again: the event behind the gap does not come before it was told."""
    gap = {"from": 1, "to": 4, "count": 4, "reason": "retention"}
    told: list[str] = []
    blocked = asyncio.Event()

    async def tell(gap: Gap) -> None:
        told.append("begun")
        if len(told) == 1:
            blocked.set()
            await asyncio.Event().wait()
        told.append(str(gap))

    async def talk(peer: Peer) -> None:
        await peer.welcome(buckets=[ENTRY | {"start": 5, "gap": gap}])
        await peer.send(webhook("abcdefghijkl-5"))
        await peer.stay()

    async def main() -> None:
        async with service(talk) as url, at(url, on_gap=tell) as events:
            waiting = asyncio.ensure_future(anext(events))
            await blocked.wait()
            waiting.cancel()
            assert (await anext(events)).seq == 5
        assert told == ["begun", "begun", "4 events (1 to 4) of b are missing (retention)"]

    run(main())


def test_where_it_began_is_saved_before_the_first_event() -> None:
    """Whoever crashes over the first event after "latest" must meet it again."""
    saved: list[str] = []

    class Memory:
        def load(self) -> str | None:
            return None

        def save(self, text: str) -> None:
            saved.append(text)

    async def talk(peer: Peer) -> None:
        await peer.welcome(buckets=[ENTRY | {"head": 6, "start": 7}])
        await peer.send(webhook("abcdefghijkl-7"))
        await peer.stay()

    async def main() -> None:
        async with service(talk) as url, at(url, checkpoint=Memory()) as events:
            core = events._core
            assert core is not None
            await until(lambda: len(core.intake) >= 2, "the position and the event")
            await anext(events)
            assert json.loads(saved[-1])["buckets"]["B"]["id"] == "abcdefghijkl-6"

    run(main())
