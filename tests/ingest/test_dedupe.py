"""What ingest takes for a repeat."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import pytest

from relay_tornado.model import Appended, Bucket, Dedupe, NewEvent
from tests.ingest.world import BUCKET, INPUT, Bench
from tests.log.memory import MemoryEventLog

pytestmark = pytest.mark.usefixtures("ways")

AUTO = dataclasses.replace(BUCKET, dedupe=Dedupe("auto", 60))


async def digests(bucket: Bucket, *sent: dict[str, Any]) -> list[bytes | None]:
    """The digests under which these webhooks would be appended."""
    seen: list[bytes | None] = []

    class Watching(MemoryEventLog):
        def append(self, bucket_id: str, event: NewEvent) -> asyncio.Future[Appended]:
            assert event.dedupe is None or event.dedupe_window == 60
            seen.append(event.dedupe)
            return super().append(bucket_id, event)

    bench = await Bench(bucket, Watching()).open()
    for each in sent:
        assert (await bench.send(**each)).status == 200
    return seen


@pytest.mark.parametrize("name", [b"X-GitHub-Delivery", b"WEBHOOK-ID", b"idempotency-key", b"X-Shopify-Webhook-Id"])
@pytest.mark.gen_test
async def test_dedupe_auto(name: bytes) -> None:
    """A repeat under a well-known delivery id is one event, and is answered as the first was."""
    bench = await Bench(AUTO).open()
    one, two = b"A: b\r\n" + name + b": 1\r\n", name + b":   1 \r\n"
    assert (await bench.send(headers=one, body=b"body")).status == 200
    assert (await bench.send(headers=two, body=b"body", chunks=2)).status == 200
    assert len(await bench.events()) == 1
    assert (await bench.send(headers=name + b": 2\r\n", body=b"body")).status == 200
    assert [event.verified for event in await bench.events()] == [None, None]


@pytest.mark.gen_test
async def test_what_makes_a_repeat() -> None:
    """Everything counts: input, method, path, query, header, value and body; where one differs, so does the digest."""
    two_inputs = dataclasses.replace(AUTO, inputs=(INPUT, dataclasses.replace(INPUT, id="in-2")))
    first: dict[str, Any] = {"headers": b"webhook-id: 1\r\n", "body": b"b", "target": b"/v1/webhooks/in-1/p?q"}
    others: list[dict[str, Any]] = [
        {"target": b"/v1/webhooks/in-2/p?q"},
        {"method": "PUT"},
        {"target": b"/v1/webhooks/in-1/p2?q"},
        {"target": b"/v1/webhooks/in-1/p?q2"},
        {"target": b"/v1/webhooks/in-1/pq"},
        {"headers": b"webhook-id: 1b\r\n", "body": b""},
        {"headers": b"idempotency-key: 1\r\n"},
        {"body": b"b2"},
    ]

    found = await digests(two_inputs, *[first | other for other in [{}, *others]])
    assert None not in found
    assert len(set(found)) == len(found)
    assert (
        await digests(two_inputs, first, first | {"chunks": 3}, first | {"headers": b"A: b\r\nWebhook-Id: 1\n"})
        == [found[0]] * 3
    )


@pytest.mark.gen_test
async def test_no_dedupe_without_its_header() -> None:
    """Where the header is missing or empty, or the bucket does not ask, or asks for another one, all are events."""
    named = dataclasses.replace(BUCKET, dedupe=Dedupe("X-Event.Id", 60))

    delivery = {"headers": b"X-GitHub-Delivery: 1\r\n"}
    assert await digests(BUCKET, delivery) == [None]
    assert await digests(AUTO, {"headers": b"X-Delivery: 1\r\n"}) == [None]
    assert await digests(named, delivery, {"headers": b"X-EventXId: 1\r\n"}) == [None, None]
    assert await digests(named, {"headers": b"x-event.id: 1\r\n"}) != [None]
    assert await digests(named, {"headers": b"x-event.id: \t\r\n"}) == [None]
    empty = {"headers": b"X-GitHub-Delivery:\r\nIdempotency-Key: 1\r\n"}
    assert await digests(AUTO, {"headers": b"X-GitHub-Delivery:\r\n"}) == [None]
    assert await digests(AUTO, empty) == await digests(AUTO, {"headers": b"Idempotency-Key: 1\r\n"}) != [None]
