"""What is remembered and logged of refused webhooks."""

from __future__ import annotations

import dataclasses

import pytest
from structlog.testing import capture_logs

from relay_tornado.counters import REJECTIONS
from relay_tornado.errors import BucketGone, Malformed, RelayError, Unavailable
from relay_tornado.ingest import refusals
from relay_tornado.ingest.refusals import HINTS, PAUSE, Refusals
from relay_tornado.model import Bucket, BucketAuth, RateLimit, Verify
from tests.failing import once
from tests.ingest.world import BUCKET, INPUT, Bench, replace_input

VERIFY = Verify("github", ("secret",), "reject")


def test_every_reason_is_one_that_is_counted() -> None:
    assert set(HINTS) <= set(REJECTIONS)


@pytest.mark.parametrize(
    ("bucket", "reason", "why"),
    [
        (dataclasses.replace(BUCKET, auth=BucketAuth("token", token="t")), "unauthorized", ""),
        (dataclasses.replace(BUCKET, max_body=1), "too_large", ""),
        (replace_input(verify=VERIFY), "signature", "there is no X-Hub-Signature-256 header"),
    ],
)
@pytest.mark.usefixtures("ways")
@pytest.mark.gen_test
async def test_a_refusal_names_its_bucket_input_and_reason(bucket: Bucket, reason: str, why: str) -> None:
    """In the log without the input's id, which is a secret."""
    bench = await Bench(bucket).open()
    with capture_logs() as lines:
        await bench.send(body=b"xx")
    (line,) = lines
    assert (line["event"], line["log_level"]) == ("webhooks_refused", "warning")
    assert (line["bucket"], line["input"], line["reason"]) == ("orders", INPUT.name, reason)
    assert (line["count"], line["hint"]) == (1, HINTS[reason])
    assert INPUT.id not in str(lines)
    (found,) = bench.ingest.refusals.documents()
    assert (found["bucket"], found["reason"], found["count"]) == ("orders", reason, 1)
    assert why in (found["why"], "there is no X-Hub-Signature-256 header")


@pytest.mark.usefixtures("ways")
@pytest.mark.gen_test
async def test_a_rate_that_is_exceeded() -> None:
    """It is one line for thousands of webhooks; those that are stored are none."""
    bench = await Bench(replace_input(rate_limit=RateLimit(1, 1000.0))).open()
    with capture_logs() as lines:
        for _ in range(50):
            await bench.send()
    assert [(line["event"], line["reason"]) for line in lines] == [("webhooks_refused", "rate_limited")]
    assert [each["count"] for each in bench.ingest.refusals.documents()] == [49]


@pytest.mark.usefixtures("ways")
@pytest.mark.parametrize("error", [Malformed("the write failed (malformed)"), BucketGone("b-1")])
@pytest.mark.gen_test
async def test_a_bucket_whose_events_meet_damage(error: RelayError, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named, as /readyz goes by all buckets; a disk that fails all of them is told there."""
    bench = await Bench().open()
    monkeypatch.setattr(bench.log, "submit", lambda bucket_id, event, done: done(error))
    with capture_logs() as lines:
        assert (await bench.send()).status == 503
    (line,) = lines
    assert (line["event"], line["bucket"], line["reason"]) == ("webhooks_refused", "orders", "unavailable")
    assert "relay check" in line["hint"]
    monkeypatch.setattr(bench.log, "submit", lambda bucket_id, event, done: done(Unavailable()))
    assert (await bench.send()).status == 503
    assert [each["count"] for each in bench.ingest.refusals.documents()] == [1]


@pytest.mark.gen_test
async def test_a_webhook_for_no_input() -> None:
    """The log says where it came from, and not for what; that of `relay doctor` does not count."""
    bench = await Bench().open()
    with capture_logs() as lines:
        await bench.send(b"/v1/webhooks/doctor")
        assert bench.ingest.refusals.documents() == []
        await bench.send(b"/v1/webhooks/in-0")
    (line,) = lines
    assert (line["reason"], line["why"]) == ("not_found", "the last came from 192.0.2.7")
    assert "in-0" not in str(lines)


@pytest.mark.usefixtures("ways")
@pytest.mark.parametrize(("target", "status"), [(b"/v1/webhooks/in-1", 401), (b"/v1/webhooks/in-0", 404)])
@pytest.mark.gen_test
async def test_a_refusal_that_can_not_be_noted(target: bytes, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no memory for that, the sender has its answer all the same."""
    bench = await Bench(dataclasses.replace(BUCKET, auth=BucketAuth("token", token="t"))).open()
    monkeypatch.setattr(Refusals, "_add", once(Refusals._add))
    with capture_logs() as lines:
        for _ in range(2):
            assert (await bench.send(target)).status == status
    assert [line["event"] for line in lines] == ["webhooks_refused"]
    assert [each["count"] for each in bench.ingest.refusals.documents()] == [1]


def test_a_refusal_that_goes_on_is_logged_again() -> None:
    """After ten minutes, with how many there were since; another reason or input has a line of its own."""
    times = iter((0.0, 1.0, PAUSE - 1, PAUSE, PAUSE + 1, PAUSE + 1))
    found = Refusals(lambda: 5.0, lambda: next(times))
    with capture_logs() as lines:
        for _ in range(5):
            found.add(BUCKET, INPUT, "signature")
        found.add(BUCKET, INPUT, "too_large")
    assert [(line["reason"], line["count"]) for line in lines] == [("signature", 1), ("signature", 3), ("too_large", 1)]
    assert [(each["reason"], each["count"], each["at"]) for each in found.documents()] == [
        ("signature", 5, 5.0),
        ("too_large", 1, 5.0),
    ]


def test_refusals_are_listed_from_the_last_on() -> None:
    """By the names that their bucket and input have now."""
    times = iter((1.0, 2.0, 3.0))
    found = Refusals(lambda: next(times))
    found.add(BUCKET, INPUT, "signature")
    found.add(BUCKET, INPUT, "too_large")
    assert [each["reason"] for each in found.documents()] == ["too_large", "signature"]
    found.add(dataclasses.replace(BUCKET, name="sales"), dataclasses.replace(INPUT, name="shop"), "signature")
    assert [(each["bucket"], each["input"], each["reason"]) for each in found.documents()] == [
        ("sales", "shop", "signature"),
        ("orders", INPUT.name, "too_large"),
    ]


def test_lines_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many inputs refuse webhooks; what was left out is counted in the next line."""
    monkeypatch.setattr(refusals, "RATE", RateLimit(2, 2.0))
    monkeypatch.setattr(refusals, "_MOST", 3)
    now = 5.0
    found = Refusals(lambda: 5.0, lambda: now)
    with capture_logs() as lines:
        for number in [0, 1, 2, 2, 3, 4, 4]:
            found.add(BUCKET, dataclasses.replace(INPUT, id=str(number), name=str(number)), "signature")
        now = 6.0
        found.add(BUCKET, dataclasses.replace(INPUT, id="2", name="2"), "signature")
        found.add(BUCKET, dataclasses.replace(INPUT, id="5", name="5"), "signature")
    assert [(line["input"], line["count"]) for line in lines] == [("0", 1), ("1", 1), ("2", 3)]


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inputs that were deleted since are forgotten at last."""
    monkeypatch.setattr(refusals, "_MOST", 2)
    found = Refusals()
    for number in range(4):
        found.add(BUCKET, dataclasses.replace(INPUT, id=str(number), name=str(number)), "signature")
    assert {each["input"] for each in found.documents()} == {"2", "3"}
