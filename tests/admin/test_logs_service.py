"""Logs: what is found by its id, and given to those who poll."""

from __future__ import annotations

import asyncio
import base64
import itertools
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from relay_tornado.admin import stored
from relay_tornado.admin.lookup import output_of
from relay_tornado.admin.resending import Range
from relay_tornado.admin.searching import Wanted
from relay_tornado.admin.stored import Judging
from relay_tornado.errors import Conflict, CursorLost, Invalid, NotClear, NotFound
from relay_tornado.model import Event, Gap, Retention, Token
from relay_tornado.wire.frames import gap_fields
from tests.admin.logs_world import ROOT, LogsWorld, forget, ids, logs_test, sqlite_logs
from tests.admin.logs_world import world as world

LOG = [
    *("id", "account_id", "bucket_id", "input_id", "output_id", "method", "status", "status_code", "body", "headers"),
    *("raw_query", "extra_path", "ip_address", "response_body", "response_headers", "duration_ms", "retries"),
    *("internal", "ephemeral", "created_at", "updated_at"),
]


@logs_test
async def test_a_log_has_the_stock_form(world: LogsWorld) -> None:
    """Its fields are the stock ones, then ours; status is text, times are whole, the answer's body is base64."""
    bucket = await world.bucket(outputs=1)
    (event_id,) = await world.send(bucket, b"hello", verified=True, verdict="matches")
    log = await world.logs.get(ROOT, event_id)
    assert list(log)[: len(LOG)] == LOG
    assert (log["status"], log["status_code"], log["response_body"], log["output_id"]) == ("received", 0, "", "")
    assert (log["body"], log["raw_query"], log["extra_path"]) == ("hello", "a=1", "/x")
    assert (log["ip_address"], log["method"], log["headers"]) == ("192.0.2.1", "POST", {"X-A": ["1"]})
    assert base64.b64decode(log["headers_base64"]) == b"Host: h\r\nX-A: 1\r\n"
    assert (log["verified"], log["verdict"], log["resend_of"], log["seq"]) == (True, "matches", None, 1)
    assert type(log["created_at"]) is int
    assert log["created_at"] == int(log["received_at"])
    assert "body_base64" not in log
    await world.answer(bucket, 1, 1, 201)
    log = await world.logs.get(ROOT, event_id)
    assert (log["status"], log["status_code"], log["updated_at"], log["retries"]) == ("sent", 201, 5, 1)
    assert base64.b64decode(log["response_body"]) == b"\xffok"
    assert (log["response_headers"], log["duration_ms"]) == ({"X": ["y"]}, 12)
    assert log["output_id"] == world.administration.find_bucket(bucket).outputs[0].id


@logs_test
async def test_a_body_that_is_no_text(world: LogsWorld) -> None:
    """It stands exactly in `body_base64`, and readable in `body`."""
    bucket = await world.bucket()
    (event_id,) = await world.send(bucket, b"\xff\x00a")
    log = await world.logs.get(ROOT, event_id)
    assert base64.b64decode(log["body_base64"]) == b"\xff\x00a"
    assert log["body"] == "�\x00a"


@logs_test
async def test_one_copy_by_its_id(world: LogsWorld) -> None:
    """E-1-2 is the copy for output 2 with its own results; E-1 has the newest of all; a copy of no output is none."""
    bucket = await world.bucket(outputs=2)
    (event_id,) = await world.send(bucket, b"x")
    outputs = [each.id for each in world.administration.find_bucket(bucket).outputs]
    found = [await world.logs.get(ROOT, each) for each in (f"{event_id}-1", f"{event_id}-2", event_id)]
    assert [each["output_id"] for each in found] == [*outputs, ""]
    await world.answer(bucket, 1, 1, 200)
    await world.answer(bucket, 1, 2, 0)
    found = [await world.logs.get(ROOT, each) for each in (f"{event_id}-1", f"{event_id}-2", event_id)]
    assert [each["id"] for each in found] == [f"{event_id}-1", f"{event_id}-2", event_id]
    assert [each["status"] for each in found] == ["sent", "failed", "failed"]
    assert [each["output_id"] for each in found] == [outputs[0], outputs[1], outputs[1]]
    with pytest.raises(NotFound):
        await world.logs.get(ROOT, f"{event_id}-3")
    await world.administration.delete_output(outputs[1])
    assert (await world.logs.get(ROOT, f"{event_id}-2"))["output_id"] == ""


@logs_test
async def test_an_id_of_nothing(world: LogsWorld) -> None:
    """What left, never was, or is out of the token's scope is not found, in the same words; nor is what is no id."""
    bucket = await world.bucket()
    (event_id,) = await world.send(bucket, b"x")
    epoch = event_id.partition("-")[0]
    other = Token("other", "h", 0.0, buckets=frozenset({"elsewhere"}))
    words = set()
    for token, log_id in ((ROOT, f"{epoch}-0"), (ROOT, f"{epoch}-2"), (ROOT, "zzzzzzzzzzzz-1"), (other, event_id)):
        with pytest.raises(NotFound) as caught:
            await world.logs.get(token, log_id)
        words.add(str(caught.value).replace(repr(log_id), "…"))
    assert len(words) == 1
    with pytest.raises(NotFound, match="a whole id is like"):
        await world.logs.get(ROOT, epoch)
    assert (await world.logs.list(other))["data"] == []


@logs_test
@pytest.mark.parametrize(("step", "words"), [("outline", "it was removed, or is damaged"), ("read", "is damaged")])
async def test_an_event_that_leaves_while_it_is_looked_for(
    world: LogsWorld, monkeypatch: pytest.MonkeyPatch, step: str, words: str
) -> None:
    """It is not there, or cannot be sent again any more."""
    bucket = await world.bucket()
    event_id, _ = await world.send(bucket, b"1", b"2")
    taken = getattr(world.log, step)

    async def then_taken(*asked: Any) -> Any:
        await world.log.trim(bucket, Retention(None, 1, None), None)
        return await taken(*asked)

    monkeypatch.setattr(world.log, step, then_taken)
    with pytest.raises(NotFound if step == "outline" else Conflict, match=words):
        await world.logs.resend(ROOT, event_id)


@logs_test
async def test_why_a_body_is_not_there(world: LogsWorld) -> None:
    """Only what was kept in memory is said to be of an ephemeral bucket, and what the disk damaged is not."""
    (faded,) = await world.send(await world.bucket("faded", ephemeral=True), b"x", ephemeral=True)
    forget(world.log)
    (kept,) = await world.send(await world.bucket(), b"x")
    read = world.log.read

    async def damaged(bucket_id: str, after: int, *asked: Any) -> Any:
        if bucket_id == world.administration.find_bucket("orders").id:
            raise CursorLost(after + 2)
        return await read(bucket_id, after, *asked)

    world.log.read = damaged  # type: ignore[method-assign]
    for event_id, words in ((faded, "is, or was, ephemeral"), (kept, "was removed, or is damaged")):
        with pytest.raises(NotFound, match=words):
            await world.logs.event(ROOT, event_id)


@logs_test
async def test_outputs_of_one_name(world: LogsWorld) -> None:
    """A bucket may have them from when it could: each is named by its id, and their name names none."""
    bucket = world.administration.find_bucket(await world.bucket(outputs=2))
    outputs = tuple(replace(each, name="twin") for each in bucket.outputs)
    twins = replace(bucket, outputs=outputs)
    assert [output_of(twins, each.id) for each in outputs] == list(outputs)
    with pytest.raises(NotClear, match=f"has 2 outputs 'twin'.*{outputs[0].id}, {outputs[1].id}"):
        output_of(twins, "twin")


@pytest.mark.gen_test
async def test_many_quick_looks_give_others_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """After each 3 ms, at a clock that goes on by one whenever it is looked at; what it took is counted."""
    ticks = itertools.count()
    monkeypatch.setattr(stored, "time", SimpleNamespace(perf_counter=lambda: next(ticks) / 1000))
    judging = Judging()
    event = Event(1, "epoch", 0.0, "input", "POST", b"", b"", b"", b"", "")
    turns: list[int] = []
    asyncio.get_running_loop().call_soon(turns.append, 0)
    seen = []
    for number in range(1, 7):
        assert await judging.fits(event, bool) is True
        seen.append(len(turns))
        asyncio.get_running_loop().call_soon(turns.append, number)
    assert seen == [0, 2, 2, 4, 4, 6]
    assert judging.seconds == pytest.approx(0.009)


@logs_test
async def test_an_id_counts_in_its_own_stretch_only(tmp_path: Path) -> None:
    """After a restart the old epoch's name is no id for a new event, though it is a cursor."""
    async with sqlite_logs(tmp_path) as world:
        bucket = await world.bucket()
        (old,) = await world.send(bucket, b"1")
    async with sqlite_logs(tmp_path) as world:
        (new,) = await world.send(bucket, b"2")
        before, after = old.partition("-")[0], new.partition("-")[0]
        assert before != after
        for epoch, seq in ((before, 2), (after, 1)):
            with pytest.raises(NotFound):
                await world.logs.get(ROOT, f"{epoch}-{seq}")
        assert (await world.logs.get(ROOT, old))["body"] == "1"
        assert (await world.logs.get(ROOT, new))["body"] == "2"
        assert ids(await world.logs.list(ROOT)) == [new, old]


@logs_test
async def test_a_list_goes_on_where_its_event_left_and_nowhere_else(world: LogsWorld) -> None:
    """Retention may remove the event of a cursor. One that the log never had is refused: whatever came since would be
    listed as if it were older."""
    bucket = await world.bucket()
    sent = await world.send(bucket, *(b"%d" % n for n in range(5)))
    await world.log.trim(bucket, Retention(max_events=3), None)
    for page in (partial(world.logs.list, ROOT), partial(world.logs.search, ROOT, Wanted())):
        assert ids(await page(bucket="orders", cursor=sent[0])) == []
        assert ids(await page(bucket="orders", cursor=sent[3])) == sent[2:3]
        with pytest.raises(Invalid, match="cursor"):
            await page(bucket="orders", cursor=f"{sent[0].partition('-')[0]}-9")


@logs_test
async def test_a_page_behind_a_cursor_is_stable(world: LogsWorld) -> None:
    """With a cursor the same events come as often as one asks, nothing is marked, and cursors lead on in order."""
    bucket = await world.bucket()
    sent = await world.send(bucket, *(b"%d" % n for n in range(5)))
    for _ in range(2):
        page = await world.logs.page(ROOT, "orders", limit=2, cursor="")
        assert (ids(page), page["has_more"], page["next_cursor"]) == (
            sent[:2],
            True,
            sent[1],
        )
    page = await world.logs.page(ROOT, "orders", limit=100, cursor=sent[1])
    assert (ids(page), page["has_more"], page["next_cursor"]) == (
        sent[2:],
        False,
        sent[4],
    )
    page = await world.logs.page(ROOT, "orders", cursor=sent[4])
    assert (page["logs"], page["has_more"], page["next_cursor"]) == ([], False, sent[4])
    assert {each["status"] for each in (await world.logs.list(ROOT))["data"]} == {"received"}
    await world.log.trim(bucket, Retention(None, 1, None), None)
    page = await world.logs.page(ROOT, "orders", limit=9, cursor=sent[0])
    assert ids(page) == sent[4:]
    assert page["gap"] == gap_fields(Gap("retention", 2, 4))
    with pytest.raises(Invalid, match="cursor"):
        await world.logs.page(ROOT, "orders", cursor="x")


@logs_test
async def test_a_cursor_between_the_copies_of_an_event(world: LogsWorld) -> None:
    """After E-1-1 comes E-1-2 for output 2, and nothing more of event 1 for output 1."""
    bucket = await world.bucket(outputs=2)
    (event_id,) = await world.send(bucket, b"x")
    page = await world.logs.page(ROOT, "orders", output="out-2", cursor=f"{event_id}-1")
    assert ids(page) == [f"{event_id}-2"]
    for output, cursor in (("out-1", f"{event_id}-1"), ("out-2", f"{event_id}-2"), ("", f"{event_id}-1")):
        assert (await world.logs.page(ROOT, "orders", output=output, cursor=cursor))["logs"] == []
    page = await world.logs.page(ROOT, "orders", output="out-2", cursor=f"{event_id.partition('-')[0]}-0-1")
    assert (ids(page), page.get("gap")) == ([f"{event_id}-2"], None)
    await world.send(bucket, b"y", b"z")
    await world.log.trim(bucket, Retention(None, 1, None), None)
    for output, first in (("out-1", 2), ("out-2", 1), ("", 2)):
        page = await world.logs.page(ROOT, "orders", output=output, cursor=f"{event_id}-1")
        assert page["gap"] == gap_fields(Gap("retention", first, 2))


@logs_test
async def test_an_ephemeral_bucket_keeps_stubs(world: LogsWorld) -> None:
    """A log is there with its place, time and status; its content only as long as it is in memory. Nothing drains."""
    bucket = await world.bucket(ephemeral=True)
    (event_id,) = await world.send(bucket, b"secret", ephemeral=True)
    log = await world.logs.get(ROOT, event_id)
    assert (log["body"], log["ephemeral"]) == ("secret", True)
    (copy,) = (await world.logs.resend(ROOT, event_id))["ids"]
    forget(world.log)
    for log_id in (event_id, copy):
        log = await world.logs.get(ROOT, log_id)
        assert (log["body"], log["headers"], log["ip_address"], log["ephemeral"]) == ("", {}, "", True)
        assert (log["method"], log["input_id"]) == ("POST", "input")
    await world.answer(bucket, 1)
    listed = (await world.logs.list(ROOT))["data"]
    assert [(each["id"], each["status"]) for each in listed] == [(copy, "received"), (event_id, "sent")]
    with pytest.raises(Conflict, match="content is gone"):
        await world.logs.resend(ROOT, event_id)
    assert (await world.logs.resend_range(ROOT, "orders", Range()))["ids"] == []
    with pytest.raises(Invalid, match="ephemeral"):
        await world.logs.drain(ROOT, "orders")
    page = await world.logs.page(ROOT, "orders", cursor=event_id)
    assert page["logs"] == []
    assert page["gap"] == gap_fields(Gap("ephemeral", 2, 2))
