"""Ingest's checks of a bucket's credentials."""

from __future__ import annotations

import base64
import dataclasses

import pytest

from relay_tornado.model import Bucket, BucketAuth, Dedupe
from tests.ingest.world import BUCKET, Bench, finish

pytestmark = pytest.mark.usefixtures("ways")

BASIC = dataclasses.replace(BUCKET, auth=BucketAuth("basic", username="Aladdin", password="open sesämi:"))
BEARER = dataclasses.replace(BUCKET, auth=BucketAuth("token", token="s3cret"))
GOOD_BASIC = b"Basic " + base64.b64encode("Aladdin:open sesämi:".encode())


@pytest.mark.parametrize(
    ("bucket", "lines"),
    [
        (BASIC, b"Authorization: " + GOOD_BASIC + b"\r\n"),
        (BASIC, b"authorization:" + GOOD_BASIC.replace(b"Basic", b"basic") + b" \t\n"),
        (BEARER, b"Authorization: Bearer s3cret\r\n"),
        (BEARER, b"AUTHORIZATION: bearer  s3cret\r\n"),
    ],
)
@pytest.mark.gen_test
async def test_bucket_auth(bucket: Bucket, lines: bytes) -> None:
    """The right credentials are let in, and their line alone is cut from what is stored."""
    bench = await Bench(bucket).open()
    headers = b"A: 1\r\n" + lines + b"X-Authorization: kept\r\nB:  2 \n"
    assert (await bench.send(headers=headers)).status == 200
    deduping = dataclasses.replace(bucket, dedupe=Dedupe("A", 60))
    await bench.registry.put("bucket", bucket.id, deduping)
    assert (await bench.send(headers=headers)).status == 200
    assert [event.headers for event in await bench.events()] == [b"A: 1\r\nX-Authorization: kept\r\nB:  2 \n"] * 2


@pytest.mark.parametrize(
    ("bucket", "lines"),
    [
        (BASIC, b""),
        (BASIC, b"Authorization: Basic\r\n"),
        (BASIC, b"Authorization: Basic !!!\r\n"),
        (BASIC, b"Authorization: Basic " + base64.b64encode(b"Aladdin:wrong") + b"\r\n"),
        (BASIC, b"Authorization: Bearer " + GOOD_BASIC[6:] + b"\r\n"),
        (BASIC, b"X-Authorization: " + GOOD_BASIC + b"\r\n"),
        (BASIC, b"X: Authorization: " + GOOD_BASIC + b"\r\n"),
        (BASIC, (b"Authorization: " + GOOD_BASIC + b"\r\n") * 2),
        (BEARER, b"Authorization: Bearer s3cret2\r\n"),
        (BEARER, b"Authorization: Bearer\r\n"),
        (BEARER, b"Authorization: s3cret\r\n"),
        (BEARER, b"Authorization: Basic s3cret\r\n"),
    ],
)
@pytest.mark.gen_test
async def test_wrong_bucket_auth(bucket: Bucket, lines: bytes) -> None:
    """Anything else is answered 401 `Unauthorized` from the head alone, with the scheme that is asked for."""
    bench = await Bench(bucket).open()
    answer = bench.refusal(5, b"A: 1\r\n" + lines)
    assert (answer.status, answer.body) == (401, b"Unauthorized")
    assert dict(answer.headers)["WWW-Authenticate"].split(" ")[0] == ("Basic" if bucket is BASIC else "Bearer")


@pytest.mark.gen_test
async def test_an_authorization_that_nobody_asked_for() -> None:
    """A bucket without auth stores the sender's Authorization header: it is part of the webhook."""
    bench = await Bench().open()
    assert (await bench.send(headers=b"Authorization: Bearer x\r\n")).status == 200
    assert (await bench.events())[0].headers == b"Authorization: Bearer x\r\n"


@pytest.mark.gen_test
async def test_credentials_that_are_asked_for_while_the_body_comes() -> None:
    """They are not stored either."""
    bench = await Bench().open()
    headers = b"A: b\r\nAuthorization: Bearer s3cret\r\n"
    upload = bench.upload(4, headers)
    after = dataclasses.replace(BUCKET, auth=BucketAuth("token", token="s3cret"))
    await bench.registry.put("bucket", BUCKET.id, after)
    assert upload.feed(b"body") is None
    assert (await finish(upload)).status == 200
    assert [event.headers for event in await bench.events()] == [b"A: b\r\n"]


@pytest.mark.gen_test
async def test_credentials_stay_good_when_something_else_changes_while_the_body_comes() -> None:
    """Credentials that the head has shown are still good."""
    before = dataclasses.replace(BUCKET, auth=BucketAuth("token", token="s3cret"))
    bench = await Bench(before).open()
    upload = bench.upload(4, b"A: b\r\nAuthorization: Bearer s3cret\r\n")
    await bench.registry.put("bucket", BUCKET.id, dataclasses.replace(before, name="sales"))
    assert upload.feed(b"body") is None
    assert (await finish(upload)).status == 200
    assert [event.headers for event in await bench.events()] == [b"A: b\r\n"]


@pytest.mark.gen_test
async def test_a_hostile_header_costs_no_time() -> None:
    """Long runs of blanks in a header that is looked at are read once (quadratic work here would take minutes)."""
    blanks = b" \t" * 500_000
    bench = await Bench(dataclasses.replace(BEARER, dedupe=Dedupe("auto"))).open()
    headers = b"webhook-id:" + blanks + b"x" + blanks + b"\r\nAuthorization: Bearer s3cret" + blanks + b"\r\n"
    assert (await bench.send(headers=headers)).status == 200
