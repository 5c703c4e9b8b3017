"""Ingest's checks without a transport: signatures, rates, senders that wait."""

from __future__ import annotations

import asyncio
import dataclasses
import tracemalloc
from typing import ClassVar

import pytest

from relay_tornado.errors import NoSpace, Overloaded, Unavailable
from relay_tornado.model import Appended, Dedupe, NewEvent, RateLimit, Verify
from relay_tornado.signatures import sign
from tests.failing import once
from tests.ingest.world import BUCKET, HEADERS, INPUT, Bench, FailingLog, replace_input
from tests.log.memory import MemoryEventLog

pytestmark = pytest.mark.usefixtures("ways")


SECRET = "It's a Secret to Everybody"
VERIFYING = replace_input(verify=Verify("github", ("old", SECRET)))


def signed(body: bytes, secret: str = SECRET) -> bytes:
    lines = sign("github", secret, body, 0, "delivery")
    return HEADERS + "".join(f"{name}: {value}\r\n" for name, value in lines).encode()


@pytest.mark.gen_test
async def test_a_signature_is_checked() -> None:
    """Over the raw body, with each of the secrets; what passes is stored with its verdict."""
    bench = await Bench(VERIFYING).open()
    for content in (b"Hello, World!", b"", b"\xff\x00", b"x" * 100_000):
        assert (await bench.send(body=content, headers=signed(content), chunks=3)).status == 200
    assert [(event.verified, event.verdict) for event in await bench.events()] == [
        (True, "the signature matches secret 2 of 2")
    ] * 4


@pytest.mark.parametrize(
    "headers",
    [
        HEADERS,
        signed(b"another body"),
        signed(b"Hello, World!", "another secret"),
        HEADERS + b"X-Hub-Signature-256: \xff\xfe\r\n",
        HEADERS + b"X-Hub-Signature-256: sha256=" + b"," * 20_000 + b"\r\n",
        HEADERS + b"X-Hub-Signature-256\r\n: \r\n\r\n",
    ],
)
@pytest.mark.gen_test
async def test_a_signature_that_does_not_pass_is_refused(headers: bytes) -> None:
    """401 in words that hold no secret, and nothing is stored."""
    bench = await Bench(VERIFYING).open()
    answer = await bench.send(body=b"Hello, World!", headers=headers)
    assert answer.status == 401
    assert b"signature" in answer.body
    assert SECRET.encode() not in answer.body
    assert await bench.events() == []
    assert bench.ingest.buffered == 0


@pytest.mark.gen_test
async def test_a_signature_that_does_not_pass_is_marked() -> None:
    """Where the input says so it is stored with its verdict, and does not keep the true one out."""
    marking = replace_input(verify=Verify("github", (SECRET,), "mark"))
    bench = await Bench(dataclasses.replace(marking, dedupe=Dedupe("auto"))).open()
    forged = signed(b"x", "wrong")
    for _ in range(2):
        assert (await bench.send(body=b"x", headers=forged)).status == 200
        assert (await bench.send(body=b"x", headers=signed(b"x"))).status == 200
    assert [(event.verified, event.verdict) for event in await bench.events()] == [
        (False, "the signature does not match the secret"),
        (True, "the signature matches the secret"),
    ]


@pytest.mark.gen_test
async def test_a_check_that_cannot_be_made_lets_nothing_pass() -> None:
    """Its configuration was checked when it was given."""
    bench = await Bench(replace_input(verify=Verify("nobody", ()))).open()
    assert (await bench.send(headers=signed(b""))).status == 401


@pytest.mark.gen_test
async def test_rates_of_an_input_and_of_its_bucket() -> None:
    """Over either 429 with Retry-After; what is not stored is not counted; another input has its own rate."""
    first = dataclasses.replace(INPUT, rate_limit=RateLimit(2, 10.0))
    second = dataclasses.replace(INPUT, id="in-2")
    bucket = dataclasses.replace(BUCKET, inputs=(first, second), rate_limit=RateLimit(3, 60.0), max_body=10)
    bench = await Bench(bucket).open()
    for _ in range(5):
        assert (await bench.send(body=b"x" * 11)).status == 413
        assert (await bench.send(body=b"x" * 11, chunks=2)).status == 413
    assert [(await bench.send()).status for _ in range(3)] == [200, 200, 429]
    answer = await bench.send()
    assert ("Retry-After", "5") in answer.headers
    assert [(await bench.send(b"/v1/webhooks/in-2")).status for _ in range(2)] == [200, 429]
    assert ("Retry-After", "20") in (await bench.send(b"/v1/webhooks/in-2")).headers
    bench.now += 5
    assert (await bench.send()).status == 429
    bench.now += 15
    assert (await bench.send()).status == 200
    # A change that is not about the rate leaves it as used as it was; a new rate begins anew.
    await bench.registry.put("bucket", bucket.id, dataclasses.replace(bucket, name="sales"))
    assert (await bench.send()).status == 429
    await bench.registry.put("bucket", bucket.id, dataclasses.replace(bucket, rate_limit=None))
    assert (await bench.send()).status == 200
    assert list(bench.ingest.endpoints._limiters) == [("input", "in-1")]
    await bench.registry.delete("bucket", bucket.id)
    assert (await bench.send()).status == 404
    assert bench.ingest.endpoints._limiters == {}


@pytest.mark.gen_test
async def test_a_new_rate_begins_anew() -> None:
    """Whoever is over it is told to wait for whole seconds, and no less than it takes."""
    bench = await Bench(replace_input(rate_limit=RateLimit(1, 60.0))).open()
    assert [(await bench.send()).status for _ in range(2)] == [200, 429]
    await bench.registry.put("bucket", BUCKET.id, replace_input(rate_limit=RateLimit(2, 0.5)))
    assert [(await bench.send()).status for _ in range(3)] == [200, 200, 429]
    assert ("Retry-After", "1") in (await bench.send()).headers


@pytest.mark.gen_test
async def test_refused_signatures_and_senders_that_leave_do_not_count() -> None:
    """Nobody uses up an input's rate by what is not stored."""
    bench = await Bench(replace_input(verify=VERIFYING.inputs[0].verify, rate_limit=RateLimit(2, 60.0))).open()
    assert (await bench.send(headers=signed(b""))).status == 200
    for _ in range(3):
        assert (await bench.send()).status == 401
        upload = bench.upload(1)
        upload.abandon()
        upload.abandon()
    assert [(await bench.send(headers=signed(b""))).status for _ in range(2)] == [200, 429]


@pytest.mark.gen_test
async def test_what_the_log_refuses_does_not_count() -> None:
    """Whoever is told to send it again may."""
    log = FailingLog()
    bench = await Bench(replace_input(rate_limit=RateLimit(1, 60.0)), log).open()
    for error in (Unavailable(), NoSpace("full"), Overloaded()):
        log.error = error
        assert (await bench.send()).status in (503, 507)


WAITS = replace_input(response_from_output="anyOutput", status_code=201)


@pytest.mark.gen_test
async def test_a_sender_waits_for_a_clients_answer() -> None:
    """Once its event is committed; a repeat says that it is one; nobody waits where nothing was stored."""
    bench = await Bench(dataclasses.replace(WAITS, dedupe=Dedupe("auto"))).open()
    headers = HEADERS + b"webhook-id: 1\r\n"
    for _ in range(2):
        assert (await bench.send(headers=headers)).status == 202
    assert [(appended.seq, appended.duplicate) for _, _, appended in bench.answers.asked] == [(1, False), (1, True)]
    log = FailingLog()
    failing = await Bench(WAITS, log).open()
    assert (await failing.send()).status == 503
    assert failing.answers.asked == []


@pytest.mark.gen_test
async def test_nobody_waits_with_a_body_in_memory() -> None:
    """Once the event is committed, only its place is held."""

    class Forgetting(MemoryEventLog):
        def append(self, bucket_id: str, event: NewEvent) -> asyncio.Future[Appended]:
            future: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
            future.set_result(Appended("k3v9x1q7m2ab", len(event.body)))
            return future

    bench = await Bench(WAITS, Forgetting()).open()
    bench.answers.answer = None
    tracemalloc.start()
    try:
        uploads = []
        for _ in range(3):
            upload = bench.upload(2_000_000)
            for _ in range(2):
                assert upload.feed(bytes(1_000_000)) is None
            upload.finish(lambda answer: None)
            uploads.append(upload)
        await asyncio.sleep(0)
        assert [appended.seq for _, _, appended in bench.answers.asked] == [2_000_000] * 3
        assert tracemalloc.get_traced_memory()[0] < 500_000
    finally:
        tracemalloc.stop()


@pytest.mark.gen_test
async def test_a_sender_that_leaves_waits_no_longer() -> None:
    """Before its event is committed, or while it waits; the event is stored."""
    bench = await Bench(WAITS).open()
    bench.answers.answer = None
    for early in (True, False):
        upload = bench.upload(0)
        assert upload.waits
        upload.finish(lambda answer: pytest.fail("nobody is there"))
        if early:
            upload.leave()
        await asyncio.sleep(0)
        upload.leave()
    assert len(bench.answers.asked) == 1
    assert bench.answers.left == 1
    assert len(await bench.events()) == 2


@pytest.mark.gen_test
async def test_an_ephemeral_buckets_events_are_marked_as_such() -> None:
    """The log is told, so that only their place is stored."""

    class Noting(MemoryEventLog):
        seen: ClassVar[list[bool]] = []

        def append(self, bucket_id: str, event: NewEvent) -> asyncio.Future[Appended]:
            self.seen.append(event.ephemeral)
            return super().append(bucket_id, event)

    bench = await Bench(log=Noting()).open()
    await bench.send()
    await bench.registry.put("bucket", BUCKET.id, dataclasses.replace(BUCKET, ephemeral=True))
    await bench.send()
    assert Noting.seen == [False, True]


@pytest.mark.gen_test
async def test_what_the_relay_fails_on_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no memory to hand a webhook to the log, its sender may send it again at once."""
    bench = await Bench(replace_input(rate_limit=RateLimit(1, 60.0))).open()
    monkeypatch.setattr(bench.log, "submit", once(bench.log.submit))
    with pytest.raises(MemoryError):
        await bench.send(body=b"a")
    assert (await bench.send(body=b"a")).status == 200
    assert (await bench.send(body=b"a")).status == 429
    assert bench.ingest.buffered == 0
