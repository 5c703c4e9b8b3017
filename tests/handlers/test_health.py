"""/healthz, /readyz, and what every other path answers."""

from __future__ import annotations

import json

import pytest
import structlog

from relay_tornado.storage.witness import Loss
from tests.handlers.edge import edge
from tests.handlers.raw import Raw, Reply, request


async def get(raw: Raw, path: bytes, method: bytes = b"GET") -> tuple[Reply, dict[str, object]]:
    reply = await raw.ask(request(path, method=method))
    assert reply.header("Content-Type") == "application/json"
    assert reply.header("Request-Id")
    assert reply.header("Server") is None
    return reply, json.loads(reply.body)


@pytest.mark.gen_test
async def test_healthy() -> None:
    """Both are 200 while all is well, also to HEAD."""
    async with edge() as site, Raw(site.port) as raw:
        reply, document = await get(raw, b"/healthz")
        assert (reply.status, document) == (200, {"status": "ok", "instance": "i-1"})
        reply, document = await get(raw, b"/readyz?x=1")
        assert (reply.status, document) == (200, {"status": "ready"})
        assert (await raw.ask(request(b"/readyz", method=b"HEAD"), head=True)).status == 200


@pytest.mark.gen_test
async def test_not_ready() -> None:
    """Where events can't be committed /readyz says 503 and why; /healthz stays 200."""
    async with edge() as site, Raw(site.port) as raw:
        site.store.problem = "the disk is full"
        reply, document = await get(raw, b"/readyz")
        assert (reply.status, document) == (503, {"status": "unavailable", "problem": "the disk is full"})
        assert (await get(raw, b"/healthz"))[0].status == 200


@pytest.mark.gen_test
async def test_events_missing() -> None:
    """Events that were found missing at the start are told, and don't make the relay unready."""
    async with edge() as site, Raw(site.port) as raw:
        site.store.loss = Loss(commits=2, events=17)
        reply, document = await get(raw, b"/readyz")
        assert (reply.status, document) == (200, {"status": "ready", "events_missing": 17})


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("path", "method", "status", "code"),
    [
        (b"/", b"GET", 404, "not_found"),
        (b"/v1/webhooks", b"POST", 404, "not_found"),
        (b"/v1/nothing", b"PURGE", 404, "not_found"),
        (b"/healthz/", b"GET", 404, "not_found"),
        (b"*", b"OPTIONS", 404, "not_found"),
        (b"/healthz", b"POST", 405, "method_not_allowed"),
        (b"/readyz", b"PURGE", 405, "method_not_allowed"),
    ],
)
async def test_other_requests(path: bytes, method: bytes, status: int, code: str) -> None:
    """Everything else is a JSON error with a code and words, and the log does not name the path."""
    async with edge() as site, Raw(site.port) as raw:
        with structlog.testing.capture_logs() as lines:
            reply, document = await get(raw, path, method)
        assert (reply.status, document["code"]) == (status, code)
        assert document["message"]
        assert ("/v1/webhooks/" in document["message"]) == (status == 404)
        assert reply.header("Allow") == ("GET, HEAD" if status == 405 else None)
        assert all(b"nothing" not in str(line).encode() for line in lines)
