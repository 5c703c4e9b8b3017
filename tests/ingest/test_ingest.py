"""Ingest without a transport: what it decides from a head, what it stores, what it answers."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from relay_tornado import errors
from relay_tornado.ingest.endpoints import Endpoint
from relay_tornado.ingest.ingest import AT_ONCE, Head, Upload
from relay_tornado.model import Bucket, BucketAuth, Dedupe, RateLimit, Verify
from relay_tornado.wire.answers import Answer
from tests.ingest.world import BUCKET, HEADERS, INPUT, Bench, FailingLog, finish, replace_input
from tests.waiting import until

pytestmark = pytest.mark.usefixtures("ways")


@given(st.binary(), st.binary(), st.binary(), st.integers(2, 5))
def test_what_came_is_stored(path: bytes, query: bytes, body: bytes, chunks: int) -> None:
    """Method, path, query, headers and body are stored with the bytes that came, however the body was cut."""
    path = b"/" + path.replace(b"?", b"")

    async def check() -> None:
        bench = await Bench().open()
        assert (
            await bench.send(b"/v1/webhooks/in-1" + path + b"?" + query, body, method="PURGE", chunks=chunks)
        ).status == 200
        (event,) = await bench.events()
        assert (event.method, event.path, event.query, event.headers) == ("PURGE", path, query, HEADERS)
        assert (event.body, event.input_id, event.remote_ip) == (body, "in-1", "192.0.2.7")
        assert bench.ingest.buffered == 0

    asyncio.run(check())


@pytest.mark.gen_test
async def test_the_default_answer() -> None:
    """200, no body, and the two headers that keep a browser from taking an answer for a page."""
    answer = await (await Bench().open()).send(body=b"x")
    assert answer.encode(b"Date: now\r\n") == (
        b"HTTP/1.1 200 OK\r\nContent-Security-Policy: sandbox\r\nX-Content-Type-Options: nosniff\r\n"
        b"Content-Length: 0\r\nDate: now\r\n\r\n"
    )


@pytest.mark.gen_test
async def test_a_static_answer() -> None:
    """An input's own status, headers and body; names that are not its to give and values that would break the
    response are left out."""
    configured = dataclasses.replace(
        INPUT,
        status_code=202,
        body="grüezi",
        headers={
            "X-Key": ["a", "b"],
            "content-type": ["text/x"],
            "X-Umlaut": ["ü"],
            "Connection": ["close"],
            "Content-Length": ["1"],
            "Transfer-Encoding": ["chunked"],
            "Set-Cookie": ["a=b"],
            "Clear-Site-Data": ['"*"'],
            "content-security-policy": ["default-src *"],
            "X-Split": ["a\r\nX-Evil: 1", "b\x00", "fine"],
            "Bad Name": ["x"],
        },
    )

    answer = await (await Bench(dataclasses.replace(BUCKET, inputs=(configured,))).open()).send()
    assert answer.encode() == (
        b"HTTP/1.1 202 Accepted\r\nContent-Security-Policy: sandbox\r\nX-Content-Type-Options: nosniff\r\n"
        b"X-Key: a\r\nX-Key: b\r\ncontent-type: text/x\r\nX-Umlaut: \xc3\xbc\r\nX-Split: fine\r\n"
        b"Content-Length: 7\r\n\r\ngr\xc3\xbcezi"
    )
    assert answer.encode(head=True).endswith(b"Content-Length: 7\r\n\r\n")


@pytest.mark.parametrize("status", [204, 304])
@pytest.mark.gen_test
async def test_answers_without_a_body(status: int) -> None:
    """204 and 304 carry neither a body nor a Content-Length."""
    configured = dataclasses.replace(INPUT, status_code=status, body="not to be sent")

    answer = await (await Bench(dataclasses.replace(BUCKET, inputs=(configured,))).open()).send()
    assert answer.status == status
    assert b"ength" not in answer.encode()
    assert answer.encode().endswith(b"\r\n\r\n")


@pytest.mark.gen_test
async def test_a_changed_input_answers_anew() -> None:
    """A change to a bucket counts from the next webhook on, and so does its deletion."""
    bench = await Bench().open()
    assert (await bench.send()).status == 200
    changed = dataclasses.replace(BUCKET, inputs=(dataclasses.replace(INPUT, status_code=201),))
    await bench.registry.put("bucket", BUCKET.id, changed)
    assert (await bench.send()).status == 201
    await bench.registry.put("bucket", BUCKET.id, dataclasses.replace(BUCKET, inputs=()))
    assert (await bench.send()).status == 404
    await bench.registry.put("bucket", BUCKET.id, changed)
    assert (await bench.send()).status == 201
    await bench.registry.delete("bucket", BUCKET.id)
    assert (await bench.send()).status == 404


SIGNED = Verify("github", ("a secret",), "reject")


@pytest.mark.parametrize(
    ("before", "after", "status"),
    [
        (BUCKET, dataclasses.replace(BUCKET, ephemeral=True), 200),
        (dataclasses.replace(BUCKET, ephemeral=True), BUCKET, 200),
        (BUCKET, dataclasses.replace(BUCKET, inputs=()), 404),
        (BUCKET, None, 404),
        (BUCKET, dataclasses.replace(BUCKET, auth=BucketAuth("token", token="s3cret")), 401),
        (BUCKET, dataclasses.replace(BUCKET, max_body=3), 413),
        (BUCKET, replace_input(verify=SIGNED), 401),
        (replace_input(verify=SIGNED), BUCKET, 200),
    ],
)
@pytest.mark.gen_test
async def test_a_change_while_the_body_comes(before: Bucket, after: Bucket | None, status: int) -> None:
    """What is asked for, and whether the content is stored, is as it is once the body is there."""
    bench = await Bench(before).open()
    upload = bench.upload(4)
    assert upload.feed(b"bo") is None
    if after is None:
        await bench.registry.delete("bucket", BUCKET.id)
    else:
        await bench.registry.put("bucket", BUCKET.id, after)
    assert upload.feed(b"dy") is None
    assert (await finish(upload)).status == status
    outlines = await bench.log.outline(BUCKET.id, 1, 9)
    assert [each.stub for each in outlines] == ([after is not None and after.ephemeral] if status == 200 else [])
    assert bench.ingest.buffered == 0
    refused = 0 if status == 200 else 1
    assert sum(bench.ingest.counters.rejections.values()) == len(bench.ingest.refusals.documents()) == refused


@pytest.mark.gen_test
async def test_a_change_of_auth_and_dedupe_while_the_body_comes() -> None:
    """Credentials that were used up are not stored, and a repeat is known by what is asked for now."""
    before = dataclasses.replace(BUCKET, auth=BucketAuth("token", token="s3cret"))
    bench = await Bench(before).open()
    uploads = []
    for _ in range(3):
        headers = b"Authorization: Bearer s3cret\r\nwebhook-id: 1\r\n"
        upload = bench.upload(4, headers)
        uploads.append(upload)
    await bench.registry.put("bucket", BUCKET.id, dataclasses.replace(BUCKET, dedupe=Dedupe("auto", 60)))
    for upload, body in zip(uploads, (b"body", b"body", b"more"), strict=True):
        assert upload.feed(body) is None
        assert (await finish(upload)).status == 200
    assert [event.headers for event in await bench.events()] == [b"webhook-id: 1\r\n"] * 2


@pytest.mark.parametrize("target", [b"/v1/webhooks/in-2", b"/v1/webhooks/", b"/v1/webhooks/%69n-1", b"/other"])
@pytest.mark.gen_test
async def test_an_unknown_input(target: bytes) -> None:
    """404 from the head alone, in words."""
    bench = await Bench().open()
    answer = bench.ingest.begin(Head("POST", target, HEADERS, 5, "192.0.2.7"))
    assert isinstance(answer, Answer)
    assert answer.status == 404
    assert b"relay bucket show" in answer.body


@pytest.mark.gen_test
async def test_too_long_by_its_head() -> None:
    """A declared length over the limit is refused before any of the body is read; the limit itself is not."""
    bench = await Bench(max_body=10).open()
    answer = bench.refusal(11)
    assert (answer.status, answer.body) == (413, b"The body is larger than the 10 bytes that this bucket takes.\n")
    assert (await bench.send(body=b"x" * 10)).status == 200


@pytest.mark.gen_test
async def test_too_long_on_the_way() -> None:
    """A body of no declared length is refused at the byte that is too many, and its bytes are let go."""
    bench = await Bench(max_body=10).open()
    upload = bench.upload(None)
    assert upload.feed(b"x" * 10) is None
    assert bench.ingest.buffered == 10
    refusal = upload.feed(b"x")
    assert refusal is not None
    assert refusal.status == 413
    assert bench.ingest.buffered == 0
    assert await bench.events() == []


@pytest.mark.parametrize(
    ("changes", "limit"),
    [({}, 10), ({"large_webhooks": True}, 20), ({"max_body": 15}, 15), ({"max_body": 0, "large_webhooks": True}, 0)],
)
@pytest.mark.gen_test
async def test_the_limit_of_a_bucket(changes: dict[str, Any], limit: int) -> None:
    """A bucket's own limit comes first, then large_webhooks, then the setting."""
    bench = await Bench(dataclasses.replace(BUCKET, **changes), max_body=10, large_max_body=20).open()
    assert (await bench.send(body=b"x" * limit)).status == 200
    assert (await bench.send(body=b"x" * (limit + 1))).status == 413


def two_inputs() -> Bucket:
    """A bucket with the inputs in-1 and in-2."""
    return dataclasses.replace(BUCKET, inputs=(INPUT, dataclasses.replace(INPUT, id="in-2")))


def begin(bench: Bench, input_id: str, length: int | None) -> Upload | Answer:
    return bench.ingest.begin(Head("POST", b"/v1/webhooks/" + input_id.encode(), HEADERS, length, "192.0.2.7"))


@pytest.mark.gen_test
async def test_the_ingest_buffer() -> None:
    """Bodies on their way are bounded in all: over it 503 with Retry-After, by the declared length or on the way;
    what is refused, abandoned or done is let go."""
    bench = await Bench(two_inputs(), ingest_buffer=100_000).open()
    first = begin(bench, "in-1", 80_000)
    assert isinstance(first, Upload)
    assert first.feed(b"x" * 60_000) is None
    assert bench.ingest.buffered == 60_000
    full = begin(bench, "in-2", 40_001)
    assert isinstance(full, Answer)
    assert full.status == 503
    assert ("Retry-After", "1") in full.headers
    assert b"not stored" in full.body
    second = begin(bench, "in-2", None)
    assert isinstance(second, Upload)
    assert second.feed(b"x" * 40_000) is None
    refusal = second.feed(b"x")
    assert refusal is not None
    assert refusal.status == 503
    assert bench.ingest.counters.rejections["overloaded"] == 2
    assert bench.ingest.buffered == 60_000
    assert first.feed(b"x" * 20_000) is None
    assert (await finish(first)).status == 200
    assert bench.ingest.buffered == 0
    third = begin(bench, "in-1", 100)
    assert isinstance(third, Upload)
    third.feed(b"x" * 50)
    third.abandon()
    third.abandon()
    assert bench.ingest.buffered == 0


@pytest.mark.gen_test
async def test_bodies_of_one_input_leave_room_for_others() -> None:
    """Several bodies of one input get three quarters of the buffer, by the declared length or on their way, however
    many are begun; another input's body has room meanwhile. Alone, a body may be larger."""
    bench = await Bench(two_inputs(), ingest_buffer=100_000).open()
    stalled = [begin(bench, "in-1", 40_000) for _ in range(4)]
    refusals = []
    for upload in stalled:
        assert isinstance(upload, Upload)
        refusals.append(upload.feed(b"x" * 20_000))
    assert [refusal is not None and refusal.status for refusal in refusals] == [False, False, False, 503]
    assert bench.ingest.buffered == 60_000
    assert (await bench.send(body=b"x" * 40_000)).status == 503
    other = begin(bench, "in-2", 40_000)
    assert isinstance(other, Upload)
    assert other.feed(b"y" * 40_000) is None
    assert (await finish(other)).status == 200
    assert isinstance(stalled[0], Upload)
    assert stalled[0].feed(b"x" * 15_000) is None
    refusal = stalled[0].feed(b"x")
    assert refusal is not None
    assert refusal.status == 503
    assert bench.ingest.buffered == 40_000
    for upload in stalled[1:3]:
        assert isinstance(upload, Upload)
        upload.abandon()
    assert (await bench.send(body=b"x" * 100_000)).status == 200
    assert bench.ingest.buffered == 0


@pytest.mark.gen_test
async def test_who_stalls_keeps_no_small_webhook_out() -> None:
    """A body of up to 32 KiB that arrives whole needs no room in the buffer; in parts, or larger, it does."""
    bench = await Bench(ingest_buffer=100_000).open()
    stalled = begin(bench, "in-1", 100_000)
    assert isinstance(stalled, Upload)
    assert stalled.feed(b"x" * 99_999) is None
    assert (await bench.send(body=b"y" * AT_ONCE)).status == 200
    assert (await bench.send(body=b"y" * (AT_ONCE + 1))).status == 503
    for size in (AT_ONCE, None):
        upload = begin(bench, "in-1", size)
        assert isinstance(upload, Upload)
        refusal = upload.feed(b"y" * (AT_ONCE - 1))
        assert refusal is not None
        assert refusal.status == 503
    assert bench.ingest.buffered == 99_999
    stalled.abandon()
    assert bench.ingest.buffered == 0


@pytest.mark.parametrize("error", [MemoryError, ZeroDivisionError])
@pytest.mark.gen_test
async def test_a_body_that_the_relay_fails_on_is_let_go(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """Neither its bytes nor its turn stay taken. For want of memory it is refused, as anywhere on its way."""
    bench = await Bench(dataclasses.replace(BUCKET, rate_limit=RateLimit(1))).open()

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(Endpoint, "verdict", fail)
    upload = bench.upload(4)
    assert upload.feed(b"body") is None
    if error is MemoryError:
        assert (await finish(upload)).status == 503
    else:
        with pytest.raises(error):
            await finish(upload)
    assert bench.ingest.buffered == 0
    monkeypatch.undo()
    assert (await bench.send(body=b"x")).status == 200


@pytest.mark.parametrize(
    ("error", "status", "retry", "words"),
    [
        (errors.Overloaded("queue"), 503, "1", b"was not stored: send it again"),
        (errors.Unavailable("disk I/O error"), 503, "5", b"was not stored: send it again"),
        (errors.Unknown("disk I/O error"), 503, "5", b"may have been: send it again"),
        (errors.NoSpace("full"), 507, "60", b"no disk space left"),
        (errors.BucketGone("b-1"), 503, "5", b"was not stored: send it again"),
        (ValueError("a bug"), 500, None, b"The relay failed"),
        (asyncio.CancelledError(), 503, "5", b"may have been"),
    ],
)
@pytest.mark.gen_test
async def test_what_could_not_be_stored(error: BaseException, status: int, retry: str | None, words: bytes) -> None:
    """Every error of the log has its status and says whether to send again; what it says of the inside is not told."""
    log = FailingLog()
    log.error = error
    answer = await (await Bench(log=log).open()).send(body=b"x")
    assert answer.status == status
    assert dict(answer.headers).get("Retry-After") == retry
    assert words in answer.body
    assert str(error) == "" or str(error).encode() not in answer.body


@pytest.mark.gen_test
async def test_a_webhook_whose_bucket_is_deleted_before_the_commit_gets_404() -> None:
    """It is gone for good, and so its sender is told."""
    log = FailingLog()
    log.error = errors.BucketGone(BUCKET.id)
    bench = await Bench(log=log).open()
    answers: list[Answer] = []
    bench.upload(0).finish(answers.append)
    await bench.registry.delete("bucket", BUCKET.id)
    await until(lambda: answers)
    assert [answer.status for answer in answers] == [404]


@pytest.mark.gen_test
async def test_a_bug_is_logged() -> None:
    """An error that is none of the log's is logged, with its traceback and without anything of the webhook."""
    log = FailingLog()
    log.error = ValueError("a bug")
    bench = await Bench(log=log).open()
    with structlog.testing.capture_logs() as lines:
        await bench.send(body=b"x")
    assert lines == [{"event": "append_failed", "log_level": "error", "exc_info": log.error}]
