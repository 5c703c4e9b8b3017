"""The log of what is changed."""

from __future__ import annotations

import dataclasses

import pytest
from structlog.testing import capture_logs

from relay_tornado.admin import change_log
from relay_tornado.admin.change_log import ChangeLog
from relay_tornado.model import Bucket, Input, Output, RateLimit, Token, Verify
from relay_tornado.registry.memory import MemoryRegistry

INPUT = Input("in-1", "web", 0, 0)
OUTPUT = Output("out-1", 1, "shop", 0, 0)
BUCKET = Bucket("b-1", "orders", 0, 0, inputs=(INPUT,), outputs=(OUTPUT,))
TOKEN = Token("key-1", "hash", 0, description="shop workers")


@pytest.mark.gen_test
async def test_what_is_changed_is_named_by_its_fields() -> None:
    """The log says what was made, changed and removed, by names; no value, and no input's id, is in it."""
    registry = MemoryRegistry()
    await registry.put("bucket", BUCKET.id, BUCKET)
    log = ChangeLog(registry)
    changes = [
        dataclasses.replace(BUCKET, rate_limit=RateLimit(7, 1.0), updated_at=1),
        dataclasses.replace(
            BUCKET,
            rate_limit=RateLimit(7, 1.0),
            inputs=(dataclasses.replace(INPUT, verify=Verify("github", ("the-secret",), "reject"), updated_at=2),),
            outputs=(dataclasses.replace(OUTPUT, rules={"or": []}, paused=True),),
        ),
        dataclasses.replace(BUCKET, inputs=(), outputs=(dataclasses.replace(OUTPUT, id="out-2", n=2, name="new"),)),
    ]
    with capture_logs() as lines:
        for each in changes:
            await registry.put("bucket", BUCKET.id, each)
        await registry.delete("bucket", BUCKET.id)
        await registry.put("token", TOKEN.key, TOKEN)
        await registry.put("token", TOKEN.key, dataclasses.replace(TOKEN, secret_hash="new", previous_hash="hash"))
        await registry.delete("token", TOKEN.key)
        log.close()
        await registry.put("token", TOKEN.key, TOKEN)
    token = {"token": "key-1", "description": "shop workers", "log_level": "info"}
    orders = {"bucket": "orders", "log_level": "info"}
    assert lines == [
        {"event": "bucket_changed", "changed": ["rate_limit"], **orders},
        {"event": "bucket_changed", "changed": ["input web: verify", "output shop: rules, paused"], **orders},
        {
            "event": "bucket_changed",
            "changed": ["rate_limit", "input web: deleted", "output new: created", "output shop: deleted"],
            **orders,
        },
        {"event": "bucket_deleted", **orders},
        {"event": "token_created", **token},
        {"event": "token_changed", "changed": ["secret"], **token},
        {"event": "token_revoked", **token},
    ]


@pytest.mark.gen_test
async def test_a_new_name_stands_beside_the_old_one() -> None:
    """Whoever looks for a bucket, an input or an output by the name that it had finds what became of it."""
    registry = MemoryRegistry()
    await registry.put("bucket", BUCKET.id, BUCKET)
    ChangeLog(registry)
    renamed = dataclasses.replace(
        BUCKET,
        name="sales",
        inputs=(dataclasses.replace(INPUT, name="site"),),
        outputs=(dataclasses.replace(OUTPUT, name="store", paused=True),),
    )
    with capture_logs() as lines:
        await registry.put("bucket", BUCKET.id, renamed)
    (line,) = lines
    assert (line["bucket"], line["was"]) == ("sales", "orders")
    assert line["changed"] == ["name", "input site (was web): name", "output store (was shop): name, paused"]


@pytest.mark.gen_test
async def test_thousands_of_changes_do_not_fill_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the rate, lines are left out and counted."""
    now = 0.0
    monkeypatch.setattr(change_log, "RATE", RateLimit(2, 2.0))
    registry = MemoryRegistry()
    ChangeLog(registry, lambda: now)
    with capture_logs() as lines:
        for number in range(6):
            now = 1.0 if number == 5 else 0.0
            await registry.put("bucket", BUCKET.id, dataclasses.replace(BUCKET, description=str(number)))
    assert [line.get("left_out") for line in lines] == [None, None, 3]
