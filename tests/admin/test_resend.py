"""Logs: what is sent again."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise

import pytest

from relay_tornado.admin import resending
from relay_tornado.admin.resending import Range
from relay_tornado.errors import Conflict, Invalid, NotFound, Overloaded
from relay_tornado.model import Appended, Bounds, Event, NewEvent, Retention
from relay_tornado.rules import Rules
from relay_tornado.subject import Subject
from tests.admin.logs_world import ROOT, LogsWorld, forget, logs_test
from tests.admin.logs_world import world as world
from tests.hostile import HOSTILE, HOSTILE_BODY


@logs_test
async def test_resend_appends_a_copy(world: LogsWorld) -> None:
    """The copy is a new event with the same content and verdict that names the first one, and perhaps one output."""
    bucket = await world.bucket(outputs=2)
    (event_id,) = await world.send(bucket, b"x", verified=True, verdict="v", dedupe=b"d", dedupe_window=1e9)
    (copy,) = (await world.logs.resend(ROOT, event_id))["ids"]
    log = await world.logs.get(ROOT, copy)
    assert (log["seq"], log["resend_of"], log["body"], log["verified"], log["verdict"]) == (
        2,
        event_id,
        "x",
        True,
        "v",
    )
    for asked, options, target, force in (
        (event_id, {"output": "out-2", "process_policy": "force"}, 2, True),
        (f"{event_id}-1", {}, 1, False),
        (f"{event_id}-1", {"output": "out-2"}, 2, False),
        (event_id, {"process_policy": "skip"}, None, False),
    ):
        await world.logs.resend(ROOT, asked, **options)  # type: ignore[arg-type]
        head = (await world.log.bounds(bucket)).head
        (event,) = await world.log.read(bucket, head - 1, 1, 1 << 20)
        assert (event.target, event.force, event.resend_of) == (target, force, event_id)
    head = (await world.log.bounds(bucket)).head
    for wrong, options, error in (
        (event_id, {"output": "out-3"}, Invalid),
        (event_id, {"process_policy": "never"}, Invalid),
        (f"{event_id}-9", {}, Conflict),
        (event_id + "0", {}, NotFound),
    ):
        with pytest.raises(error):
            await world.logs.resend(ROOT, wrong, **options)  # type: ignore[arg-type]
    with pytest.raises(NotFound):
        await world.logs.resend_range(ROOT, "nowhere", Range())
    assert (await world.log.bounds(bucket)).head == head


@logs_test
async def test_resend_of_a_range_keeps_the_order(world: LogsWorld) -> None:
    """By seq, by filter and by cursor, perhaps to one output; what is appended meanwhile is not sent again."""
    bucket = await world.bucket(outputs=2)
    sent = await world.send(bucket, *(b'{"n": %d}' % n for n in range(8)))
    resent = await world.logs.resend_range(ROOT, "orders", Range(first=3, last=6))
    assert "next_cursor" not in resent
    copies = [await world.logs.get(ROOT, each) for each in resent["ids"]]
    assert [each["resend_of"] for each in copies] == sent[2:6]
    assert [each["seq"] for each in copies] == [9, 10, 11, 12]
    match = {"match": {"type": "regex", "regex": "[05]", "parameter": {"source": "payload", "name": "n"}}}
    resent = await world.logs.resend_range(ROOT, "orders", Range(last=8, filter=match))
    assert await world.originals(resent["ids"]) == [sent[0], sent[5]]
    assert (await world.logs.resend_range(ROOT, "orders", Range(cursor=resent["ids"][-1])))["ids"] == []
    for wanted, those in (
        (Range(first=13, last=99), resent["ids"]),
        (Range(first=3, last=6, cursor=sent[3]), sent[4:6]),
        (Range(first=5, last=6, cursor=sent[0]), sent[4:6]),
        (Range(last=4, cursor=f"{sent[1]}..{sent[7]}"), sent[2:4]),
    ):
        resent = await world.logs.resend_range(ROOT, "orders", wanted, output="out-2")
        assert "next_cursor" not in resent
        copies = [await world.logs.get(ROOT, each) for each in resent["ids"]]
        assert [(each["resend_of"], each["target"]) for each in copies] == [(each, 2) for each in those]
    with pytest.raises(Invalid, match=r"filter\.match\.type"):
        await world.logs.resend_range(ROOT, "orders", Range(filter={"match": {"type": "?"}}))


@logs_test
async def test_resend_of_a_span_of_time(world: LogsWorld) -> None:
    """Its beginning is in it, its end is not; within a range of seqs it restricts that."""
    bucket = await world.bucket()
    sent: list[str] = []
    times: list[float] = []
    for _ in range(3):
        sent += await world.send(bucket, b"1", b"2")
        times.append((await world.logs.get(ROOT, sent[-2]))["received_at"])
        await asyncio.sleep(0.005)
    for wanted, those in (
        (Range(since=times[1], last=6), sent[2:]),
        (Range(until=times[1]), sent[:2]),
        (Range(since=times[1], until=times[2]), sent[2:4]),
        (Range(first=4, since=times[1], until=times[2], last=6), sent[3:4]),
        (Range(first=1, since=times[2], last=6), sent[4:]),
        (Range(until=times[1], last=1), sent[:1]),
    ):
        resent = await world.logs.resend_range(ROOT, "orders", wanted)
        assert await world.originals(resent["ids"]) == those


@logs_test
async def test_resend_makes_so_many_copies_a_request(world: LogsWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over the bound it stops with a cursor, from which the same request goes on to the end, each event once."""
    monkeypatch.setattr(resending, "MOST", 7)
    monkeypatch.setattr(resending, "_READ", 3)
    bucket = await world.bucket()
    sent = await world.send(bucket, *(b"%d" % n for n in range(20)))
    found: list[str] = []
    cursor = ""
    while True:
        resent = await world.logs.resend_range(ROOT, "orders", Range(last=20, cursor=cursor))
        assert len(resent["ids"]) <= 7
        found += resent["ids"]
        if "next_cursor" not in resent:
            break
        cursor = resent["next_cursor"]
    assert await world.originals(found) == sent


@logs_test
async def test_a_resend_looks_at_so_many_events_only(world: LogsWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """However few of them match; each answer tells what it passed over, and where to go on."""
    monkeypatch.setattr(resending, "MOST_SCANNED", 10)
    monkeypatch.setattr(resending, "_READ", 4)
    bucket = await world.bucket()
    await world.send(bucket, b"", b"", ephemeral=True)
    sent = await world.send(bucket, *(b'{"n": %d}' % n for n in range(24)))
    forget(world.log)
    match = {"match": {"type": "regex", "regex": "^23$", "parameter": {"source": "payload", "name": "n"}}}
    first = await world.logs.resend_range(ROOT, "orders", Range(filter=match))
    assert [(each["from"], each["to"]) for each in first["skipped"]] == [(1, 2)]
    assert first["next_cursor"] == f"{sent[8]}..{sent[23]}"
    second = await world.logs.resend_range(ROOT, "orders", Range(filter=match, cursor=first["next_cursor"]))
    assert (first["ids"], second["ids"], second.get("skipped")) == ([], [], None)
    third = await world.logs.resend_range(ROOT, "orders", Range(filter=match, cursor=second["next_cursor"]))
    assert await world.originals(third["ids"]) == sent[-1:]
    assert "next_cursor" not in third


@logs_test
async def test_a_resend_looks_for_so_long_only(world: LogsWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """At one event at least; it goes on with the next request."""
    monkeypatch.setattr(resending, "LONG", 1e-9)
    bucket = await world.bucket()
    sent = await world.send(bucket, *(b"%d" % n for n in range(4)))
    parameter = {"source": "body"}
    odd = {"match": {"type": "regex", "regex": "[13]", "parameter": parameter}}
    wanted, made = Range(filter=odd), []
    for more in (True, True, True, False):
        resent = await world.logs.resend_range(ROOT, "orders", wanted)
        assert ("next_cursor" in resent) == more
        made.append(await world.originals(resent["ids"]))
        wanted = Range(filter=odd, cursor=resent.get("next_cursor", ""))
    assert made == [[], sent[1:2], [], sent[3:]]


@logs_test
@pytest.mark.parametrize("request_", ["resend", "list", "page", "drain"])
async def test_others_have_their_turn_while_rules_look(
    world: LogsWorld, monkeypatch: pytest.MonkeyPatch, request_: str
) -> None:
    """Between two events, where each takes long."""
    turns: list[int] = []
    gone_round = itertools.count()
    matches = Rules.matches

    def noted(self: Rules, subject: Subject) -> bool:
        turns.append(next(gone_round))
        return matches(self, subject)

    async def others() -> None:
        while True:
            next(gone_round)
            await asyncio.sleep(0)

    bucket = await world.bucket()
    await world.administration.create_output("orders", name="out", rules=HOSTILE)
    await world.send(bucket, *([HOSTILE_BODY] * 4))
    monkeypatch.setattr(Rules, "matches", noted)
    monkeypatch.setattr(resending, "LONG", math.inf)
    task = asyncio.create_task(others())
    match request_:
        case "resend":
            assert (await world.logs.resend_range(ROOT, "orders", Range(filter=HOSTILE)))["ids"] == []
        case "list":
            assert (await world.logs.list(ROOT, bucket="orders", output="out"))["data"] == []
        case "page":
            assert (await world.logs.page(ROOT, "orders", output="out"))["logs"] == []
        case "drain":
            assert (await world.logs.drain(ROOT, "orders", output="out"))["logs"] == []
    task.cancel()
    assert len(turns) == 4
    assert all(later - before > 1 for before, later in pairwise(turns))


@logs_test
async def test_a_resend_without_an_end_ends(world: LogsWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Following `next_cursor` alone sends what was there at the first request once, and never a copy of it."""
    monkeypatch.setattr(resending, "MOST", 7)
    bucket = await world.bucket()
    sent = await world.send(bucket, *(b"%d" % n for n in range(20)))
    found: list[str] = []
    cursor = ""
    rounds = 0
    while rounds == 0 or (cursor and rounds < 10):
        resent = await world.logs.resend_range(ROOT, "orders", Range(cursor=cursor))
        found += resent["ids"]
        await world.send(bucket, b"meanwhile")
        cursor = resent.get("next_cursor", "")
        rounds += 1
    assert rounds == 3
    assert await world.originals(found) == sent
    at_once = await world.logs.resend_range(ROOT, "orders", Range(last=3))
    assert (len(at_once["ids"]), at_once.get("next_cursor")) == (3, None)


@logs_test
async def test_a_resend_stops_at_what_is_refused(world: LogsWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing behind it is taken, so going on by `next_cursor` sends each event once, and in order."""
    bucket = await world.bucket()
    sent = await world.send(bucket, b"1", b"2", b"3" * 100, b"4", b"5")
    append = world.log.append
    room = [2]

    def crowded(bucket_id: str, event: NewEvent) -> asyncio.Future[Appended]:
        room[0] -= 1
        if room[0] < 0 and len(event.body) > 1:
            refused: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
            refused.set_exception(Overloaded("later"))
            return refused
        return append(bucket_id, event)

    monkeypatch.setattr(world.log, "append", crowded)
    resent = await world.logs.resend_range(ROOT, "orders", Range())
    assert (len(resent["ids"]), resent["problem"]) == (2, "later")
    assert (await world.log.bounds(bucket)).head == 7
    with pytest.raises(Overloaded):  # nothing was taken, so there is nothing to tell but this
        await world.logs.resend_range(ROOT, "orders", Range(cursor=sent[1]))
    room[0] = 9
    rest = await world.logs.resend_range(ROOT, "orders", Range(cursor=resent.get("next_cursor", "")))
    assert "next_cursor" not in rest
    copies = [await world.logs.get(ROOT, each) for each in [*resent["ids"], *rest["ids"]]]
    assert [each["resend_of"] for each in copies] == sent
    assert (await world.log.bounds(bucket)).head == 10


@logs_test
async def test_a_bucket_that_is_made_ephemeral_while_a_resend_looks(
    world: LogsWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copies' content is stored no more; and where the bucket is gone by then, none is made."""
    bucket = await world.bucket()
    await world.send(bucket, b"1", b"2")
    fits = resending.Judging.fits

    async def judged(self: resending.Judging, event: Event, rule: Callable[[Event], bool]) -> bool:
        await world.administration.set_bucket("orders", ephemeral=True)
        return await fits(self, event, rule)

    monkeypatch.setattr(resending.Judging, "fits", judged)
    assert len((await world.logs.resend_range(ROOT, "orders", Range()))["ids"]) == 2
    assert [each.stub for each in await world.log.outline(bucket, 1, 9)] == [False, False, True, True]

    async def gone(self: resending.Judging, event: Event, rule: Callable[[Event], bool]) -> bool:
        with suppress(NotFound):
            await world.administration.delete_bucket("orders")
        return True

    monkeypatch.setattr(resending.Judging, "fits", gone)
    with pytest.raises(NotFound):
        await world.logs.resend_range(ROOT, "orders", Range(last=2))


@logs_test
async def test_a_cursor_that_cannot_be_honoured_resends_nothing(world: LogsWorld) -> None:
    """An unknown epoch, another bucket's id and what is above the head are refused in words, for lists, too."""
    bucket = await world.bucket()
    (other,) = await world.send(await world.bucket("other"), b"x")
    sent = await world.send(bucket, b"1", b"2")
    epoch = sent[0].partition("-")[0]
    for cursor in ("zzzzzzzzzzzz-1", other, f"{epoch}-99", f"{sent[0]}..{epoch}-99", f"{sent[0]}..", "x", ".."):
        with pytest.raises(Invalid, match="cursor") as caught:
            await world.logs.resend_range(ROOT, "orders", Range(cursor=cursor))
        assert caught.value.field == "cursor"
        with pytest.raises(Invalid, match="cursor") as caught:
            await world.logs.list(ROOT, bucket="orders", cursor=cursor)
        assert caught.value.field == "cursor"
    assert (await world.log.bounds(bucket)).head == 2
    with pytest.raises(Invalid, match=f"ends at {sent[1]}"):
        await world.logs.list(ROOT, cursor=f"{epoch}-99")


@logs_test
async def test_a_resend_tells_what_it_passes_over(world: LogsWorld) -> None:
    """Events whose content was not kept, and those that left behind a place that was named, are in `skipped`."""
    bucket = await world.bucket()
    kept = await world.send(bucket, b"1")
    await world.send(bucket, b"2", b"3", ephemeral=True)
    kept += await world.send(bucket, b"4")
    forget(world.log)
    resent = await world.logs.resend_range(ROOT, "orders", Range())
    assert await world.originals(resent["ids"]) == kept
    assert resent["skipped"] == [{"from": 2, "to": 3, "count": 2, "reason": "ephemeral"}]
    resent = await world.logs.resend_range(ROOT, "orders", Range(last=2))
    assert [(each["from"], each["to"]) for each in resent["skipped"]] == [(2, 2)]
    await world.log.trim(bucket, Retention(None, 1, None), None)
    first = (await world.log.bounds(bucket)).first
    for wanted, gap in (
        (Range(first=1), (1, first - 1)),
        (Range(first=2, last=4), (2, 4)),
        (Range(cursor=kept[0]), (2, first - 1)),
    ):
        (told,) = (await world.logs.resend_range(ROOT, "orders", wanted))["skipped"]
        assert (told["reason"], told["from"], told["to"]) == ("retention", *gap)
    for unnamed in (Range(), Range(first=1, since=0.0)):
        assert "skipped" not in await world.logs.resend_range(ROOT, "orders", unnamed)


@logs_test
async def test_what_leaves_while_a_resend_begins_is_told_as_one(
    world: LogsWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what had left before."""
    bucket = await world.bucket()
    sent = await world.send(bucket, *(b"%d" % n for n in range(6)))
    await world.log.trim(bucket, Retention(None, 4, None), None)
    assert (await world.log.bounds(bucket)).first == 3
    bounds = world.log.bounds

    async def then_trimmed(bucket_id: str) -> Bounds:
        monkeypatch.setattr(world.log, "bounds", bounds)
        found = await bounds(bucket_id)
        await world.log.trim(bucket, Retention(None, 2, None), None)
        return found

    monkeypatch.setattr(world.log, "bounds", then_trimmed)
    resent = await world.logs.resend_range(ROOT, "orders", Range(first=1))
    assert await world.originals(resent["ids"]) == sent[4:]
    assert [(each["reason"], each["from"], each["to"]) for each in resent["skipped"]] == [("retention", 1, 4)]
