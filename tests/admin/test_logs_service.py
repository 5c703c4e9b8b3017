"""Logs: what is listed, found, sent again and given to those who poll."""

from __future__ import annotations

import asyncio
import base64
import itertools
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from relay_tornado.admin import listing, stored
from relay_tornado.admin.resending import Range
from relay_tornado.admin.searching import Wanted
from relay_tornado.admin.stored import Judging
from relay_tornado.errors import Conflict, Invalid, NotClear, NotFound
from relay_tornado.log.contract import Outline
from relay_tornado.model import MIB, Bounds, Event, Gap, Retention, Token
from tests.admin.logs_world import ROOT, OpenLogs, forget, ids, logs_test, sqlite_logs

LOG = [
    *("id", "account_id", "bucket_id", "input_id", "output_id", "method", "status", "status_code", "body", "headers"),
    *("raw_query", "extra_path", "ip_address", "response_body", "response_headers", "duration_ms", "retries"),
    *("internal", "ephemeral", "created_at", "updated_at"),
]


@logs_test
async def test_a_log_has_the_stock_form(open_logs: OpenLogs) -> None:
    """Its fields are the stock ones, then ours; status is text, times are whole, the answer's body is base64."""
    async with open_logs() as world:
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
async def test_a_body_that_is_no_text(open_logs: OpenLogs) -> None:
    """It stands exactly in `body_base64`, and readable in `body`."""
    async with open_logs() as world:
        bucket = await world.bucket()
        (event_id,) = await world.send(bucket, b"\xff\x00a")
        log = await world.logs.get(ROOT, event_id)
        assert base64.b64decode(log["body_base64"]) == b"\xff\x00a"
        assert log["body"] == "�\x00a"


@logs_test
async def test_one_copy_by_its_id(open_logs: OpenLogs) -> None:
    """E-1-2 is the copy for output 2 with its own results; E-1 has the newest of all; a copy of no output is none."""
    async with open_logs() as world:
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
async def test_an_id_of_nothing(open_logs: OpenLogs) -> None:
    """What left, never was, or is out of the token's scope is not found, in the same words; nor is what is no id."""
    async with open_logs() as world:
        bucket = await world.bucket()
        (event_id,) = await world.send(bucket, b"x")
        epoch = event_id.partition("-")[0]
        other = Token("other", "h", 0.0, buckets=frozenset({"elsewhere"}))
        words = set()
        for token, log_id in (
            (ROOT, f"{epoch}-0"),
            (ROOT, f"{epoch}-2"),
            (ROOT, "zzzzzzzzzzzz-1"),
            (other, event_id),
        ):
            with pytest.raises(NotFound) as caught:
                await world.logs.get(token, log_id)
            words.add(str(caught.value).replace(repr(log_id), "…"))
        assert len(words) == 1
        with pytest.raises(NotFound, match="a whole id is like"):
            await world.logs.get(ROOT, epoch)
        assert (await world.logs.list(other)).data == []


@logs_test
@pytest.mark.parametrize(("step", "words"), [("outline", "it has left, or is damaged"), ("read", "is damaged")])
async def test_an_event_that_leaves_while_it_is_looked_for(
    open_logs: OpenLogs, monkeypatch: pytest.MonkeyPatch, step: str, words: str
) -> None:
    """It is not there, or cannot be sent again any more."""
    async with open_logs() as world:
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
async def test_outputs_of_one_name(open_logs: OpenLogs) -> None:
    """A bucket may have them from when it could: each is named by its id, and their name names none."""
    async with open_logs() as world:
        bucket = world.administration.find_bucket(await world.bucket(outputs=2))
        outputs = tuple(replace(each, name="twin") for each in bucket.outputs)
        twins = replace(bucket, outputs=outputs)
        assert [stored.output_of(twins, each.id) for each in outputs] == list(outputs)
        with pytest.raises(NotClear, match=f"has 2 outputs 'twin'.*{outputs[0].id}, {outputs[1].id}"):
            stored.output_of(twins, "twin")


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
async def test_the_list_is_newest_first_in_pages(open_logs: OpenLogs) -> None:
    """Pages by cursor hold every log once, whatever the limit, and the last one leads nowhere."""
    async with open_logs() as world:
        bucket = await world.bucket()
        sent = await world.send(bucket, *(b"%d" % n for n in range(40)))
        for limit in (1, 7, 20, 40, 500):
            found: list[str] = []
            cursor = ""
            while True:
                page = await world.logs.list(ROOT, bucket="orders", limit=limit, cursor=cursor)
                assert page.total == 40
                assert len(page.data) <= limit
                found += ids(page)
                if page.next_cursor is None:
                    break
                cursor = page.next_cursor
            assert found == sent[::-1]
        assert len((await world.logs.list(ROOT)).data) == 40


@logs_test
async def test_pages_stay_right_while_events_arrive(open_logs: OpenLogs) -> None:
    """What arrives between two pages moves nothing: not by cursor, and not by offset."""
    async with open_logs() as world:
        bucket = await world.bucket()
        sent = await world.send(bucket, *(b"%d" % n for n in range(10)))
        first = await world.logs.list(ROOT, limit=4)
        assert (first.next_cursor, first.truncated) == (sent[6], False)
        await world.send(bucket, b"new", b"new")
        by_cursor = await world.logs.list(ROOT, limit=4, cursor=first.next_cursor)
        by_offset = await world.logs.list(ROOT, limit=4, offset=4)
        assert ids(first) + ids(by_cursor) == sent[:1:-1]
        assert ids(by_offset) == ids(by_cursor)
        assert ids(await world.logs.list(ROOT, limit=2, offset=2, cursor=first.next_cursor)) == sent[3:1:-1]
        assert (await world.logs.list(ROOT, limit=1)).data[0]["body"] == "new"


@logs_test
async def test_several_buckets_are_one_list(open_logs: OpenLogs) -> None:
    """Without `bucket` the logs of every bucket in scope come, ordered by time, each once over all pages."""
    async with open_logs() as world:
        buckets = [await world.bucket(name) for name in ("a", "b", "c")]
        sent = []
        for n in range(30):
            sent += await world.send(buckets[n % 3], b"%d" % n)
        found: list[str] = []
        times: list[float] = []
        cursor = ""
        while True:
            page = await world.logs.list(ROOT, limit=7, cursor=cursor)
            found += ids(page)
            times += [each["received_at"] for each in page.data]
            if page.next_cursor is None:
                break
            cursor = page.next_cursor
        assert sorted(found) == sorted(sent)
        assert times == sorted(times, reverse=True)
        some = Token("some", "h", 0.0, buckets=frozenset(buckets[:2]))
        page = await world.logs.list(some)
        assert page.total == 20
        assert {each["bucket_id"] for each in page.data} == set(buckets[:2])
        with pytest.raises(NotFound):
            await world.logs.list(some, bucket="c")


@logs_test
async def test_events_of_one_moment_in_several_buckets(open_logs: OpenLogs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where times are equal pages are complete all the same."""
    monkeypatch.setattr("time.time", lambda: 1_900_000_000.0)
    async with open_logs() as world:
        buckets = [await world.bucket(name) for name in ("a", "b", "c")]
        sent = [each for bucket in buckets for each in await world.send(bucket, b"1", b"2", b"3")]
        found: list[str] = []
        cursor = ""
        while True:
            page = await world.logs.list(ROOT, limit=2, cursor=cursor)
            found += ids(page)
            if page.next_cursor is None:
                break
            cursor = page.next_cursor
        assert sorted(found) == sorted(sent)


@logs_test
async def test_filters(open_logs: OpenLogs) -> None:
    """By status, by output and by time, with the number of those that fit."""
    async with open_logs() as world:
        bucket = await world.bucket(outputs=2)
        sent = await world.send(bucket, *(b"%d" % n for n in range(6)))
        await world.answer(bucket, 2, 1, 200)
        await world.answer(bucket, 3, 1, 0)
        await world.answer(bucket, 4, 2, 0)
        await world.answer(bucket, 4, 2, 200)
        outputs = [each.id for each in world.administration.find_bucket(bucket).outputs]
        for status, output, seqs in (
            ("sent", "", [4, 2]),
            ("failed", "", [3]),
            ("received", "", [6, 5, 1]),
            ("stalled", "", []),
            ("sent", outputs[0], [2]),
            ("received", outputs[1], [6, 5, 3, 2, 1]),
        ):
            page = await world.logs.list(ROOT, status=status, output=output)
            assert [each["seq"] for each in page.data] == seqs
            assert (page.total, page.truncated, page.next_cursor) == (len(seqs), False, None)
            assert all(each["status"] == status for each in page.data)
        page = await world.logs.list(ROOT, bucket="orders", output="out-2")
        assert ids(page) == [f"{each}-2" for each in sent[::-1]]
        times = [each["received_at"] for each in (await world.logs.list(ROOT)).data][::-1]
        page = await world.logs.list(ROOT, since=times[2], until=times[4])
        assert [each["received_at"] for each in page.data] == [at for at in times[::-1] if times[2] <= at < times[4]]
        for cursor in ("", sent[5]):
            page = await world.logs.list(ROOT, until=times[2], cursor=cursor)
            assert ids(page) == [each for each, at in zip(sent[::-1], times[::-1], strict=True) if at < times[2]]
        page = await world.logs.list(ROOT, status="received", limit=1, offset=1)
        assert ([each["seq"] for each in page.data], page.total, page.next_cursor) == ([5], 3, sent[4])
        assert (await world.logs.list(ROOT, offset=10_000)).data == []
        assert (await world.logs.list(ROOT, since=times[4], until=times[2])).total == 0
        for wrong in ({"cursor": "x"}, {"cursor": "zzzzzzzzzzzz-1"}, {"output": "none"}, {"offset": 10_001}):
            with pytest.raises(Invalid):
                await world.logs.list(ROOT, **wrong)  # type: ignore[arg-type]


@logs_test
async def test_a_request_looks_at_so_many_events_only(open_logs: OpenLogs, monkeypatch: pytest.MonkeyPatch) -> None:
    """A filter that fits little is `truncated`, and its cursors lead through everything all the same."""
    monkeypatch.setattr(listing, "SCAN", 10)
    async with open_logs() as world:
        bucket = await world.bucket()
        sent = await world.send(bucket, *(b"%d" % n for n in range(35)))
        for seq in (1, 20, 30):
            await world.answer(bucket, seq)
        found: list[str] = []
        cursor, pages = "", 0
        assert (await world.logs.list(ROOT, status="sent")).next_cursor == sent[25]
        while True:
            page = await world.logs.list(ROOT, status="sent", limit=2, cursor=cursor)
            pages += 1
            found += ids(page)
            if page.next_cursor is None:
                break
            assert page.truncated
            cursor = page.next_cursor
        assert found == [sent[29], sent[19], sent[0]]
        assert pages == 4
        found = []
        while True:
            page = await world.logs.list(ROOT, status="received", limit=4, cursor=cursor if found else "")
            found += ids(page)
            if page.next_cursor is None:
                break
            cursor = page.next_cursor
        assert found == [sent[seq - 1] for seq in range(35, 0, -1) if seq not in (1, 20, 30)]


@logs_test
async def test_a_page_has_so_many_logs(open_logs: OpenLogs, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many are asked for, and says how many that are."""
    monkeypatch.setattr(listing, "MOST", 3)
    async with open_logs() as world:
        sent = await world.send(await world.bucket(), b"1", b"2", b"3", b"4")
        page = await world.logs.list(ROOT, limit=9)
        assert (ids(page), page.limit, page.total) == (sent[:0:-1], 3, 4)


@logs_test
async def test_offsets_are_counted_from_the_first_page_for_so_long(
    open_logs: OpenLogs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten minutes behind it, and as long as few others ask: who asked longest ago is forgotten first."""
    now = [0.0]
    monkeypatch.setattr(listing, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(listing, "_ANCHORS", 2)
    async with open_logs() as world:
        buckets = {name: await world.bucket(name) for name in "abc"}
        sent = {name: await world.send(bucket, b"1", b"2") for name, bucket in buckets.items()}

        async def second(name: str) -> int:
            """Which of the two the second log of the list is."""
            return sent[name].index(*ids(await world.logs.list(ROOT, bucket=name, limit=1, offset=1)))

        for name in "abac":
            await world.logs.list(ROOT, bucket=name, limit=1)
        for bucket in buckets.values():
            await world.send(bucket, b"new")
        assert [await second(name) for name in "abc"] == [0, 1, 0]
        now[0] = 599.9
        assert await second("a") == 0
        now[0] = 600.0
        assert await second("a") == 1


@logs_test
async def test_an_output_says_which_bucket(open_logs: OpenLogs) -> None:
    """By its id; its name is one of a bucket's, or of the only one's."""
    async with open_logs() as world:
        buckets = [await world.bucket(name, outputs=2) for name in ("a", "b")]
        sent = [await world.send(bucket, b"x") for bucket in buckets]
        for bucket, (event_id,) in zip(buckets, sent, strict=True):
            for output in world.administration.find_bucket(bucket).outputs:
                page = await world.logs.list(ROOT, output=output.id)
                assert (ids(page), page.data[0]["output_id"]) == ([f"{event_id}-{output.n}"], output.id)
        with pytest.raises(Invalid, match="by its name it is found with `bucket`"):
            await world.logs.list(ROOT, output="out-1")
        assert ids(await world.logs.list(ROOT, bucket="b", output="out-1")) == [f"{sent[1][0]}-1"]


@logs_test
async def test_a_bucket_that_is_deleted_meanwhile_is_not_listed(
    open_logs: OpenLogs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are."""
    async with open_logs() as world:
        kept, gone = [await world.bucket(name) for name in ("kept", "gone")]
        sent = await world.send(kept, b"x")
        await world.send(gone, b"y")
        bounds = world.log.bounds

        async def then_gone(bucket_id: str) -> Bounds:
            monkeypatch.setattr(world.log, "bounds", bounds)
            found = await bounds(bucket_id)
            await world.administration.delete_bucket("gone")
            return found

        monkeypatch.setattr(world.log, "bounds", then_gone)
        page = await world.logs.list(ROOT)
        assert (ids(page), page.total) == (sent, 1)
        read = world.log.read

        async def gone_first(*asked: Any) -> Any:
            await world.administration.delete_bucket("kept")
            return await read(*asked)

        monkeypatch.setattr(world.log, "read", gone_first)
        with pytest.raises(NotFound, match="deleted meanwhile"):
            await world.logs.list(ROOT)


@logs_test
async def test_events_that_are_damaged_altogether_are_passed_over(
    open_logs: OpenLogs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In any list, also where all of a stretch is."""
    monkeypatch.setattr(listing, "_CHUNKS", (1, 1))
    async with open_logs() as world:
        sent = await world.send(await world.bucket(outputs=1), b"1", b"2", b"3")
        outline = world.log.outline

        async def damaged(*asked: Any) -> list[Outline]:
            return [each for each in await outline(*asked) if each.seq != 2]

        monkeypatch.setattr(world.log, "outline", damaged)
        assert ids(await world.logs.list(ROOT)) == [sent[2], sent[0]]
        assert ids(await world.logs.list(ROOT, bucket="orders", output="out-1")) == [f"{sent[2]}-1", f"{sent[0]}-1"]


@logs_test
async def test_a_page_is_bounded_in_bytes(open_logs: OpenLogs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large events come in more pages, at least one a page."""
    monkeypatch.setattr(listing, "PAGE_BYTES", 1000)
    async with open_logs() as world:
        bucket = await world.bucket()
        sent = await world.send(bucket, *(b"x" * 400 for _ in range(4)), b"y" * 5000)
        found: list[list[str]] = []
        cursor = ""
        while True:
            page = await world.logs.list(ROOT, cursor=cursor)
            found.append(ids(page))
            if page.next_cursor is None:
                break
            assert page.truncated
            cursor = page.next_cursor
            document = listing.listed_document(page)
            assert (document["truncated"], document["next_cursor"]) == (True, cursor)
        assert found == [[sent[4]], [sent[3], sent[2]], [sent[1], sent[0]]]
        assert listing.listed_document(page).keys() == {"data", "total", "limit", "offset"}
        await world.answer(bucket, 4, body=b"z" * 700)
        assert ids(await world.logs.list(ROOT, cursor=sent[4])) == [sent[3]]


@logs_test
async def test_a_cursor_whose_event_has_left(open_logs: OpenLogs) -> None:
    """In one bucket there is nothing behind it any more; over several it can't be placed, and says so."""
    async with open_logs() as world:
        bucket = await world.bucket()
        sent = await world.send(bucket, b"1", b"2", b"3")
        await world.log.trim(bucket, Retention(None, 1, None), None)
        page = await world.logs.list(ROOT, cursor=sent[1])
        assert (page.data, page.next_cursor) == ([], None)
        await world.bucket("others")
        with pytest.raises(Invalid, match="begin without"):
            await world.logs.list(ROOT, cursor=sent[1])


@logs_test
@pytest.mark.parametrize("room", [1, MIB])
async def test_only_copies_that_there_are(open_logs: OpenLogs, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    """An output's list, and a copy's id, know what goes there as it is now, and what has a delivery."""
    monkeypatch.setattr(listing, "_CHUNK_BYTES", room)
    async with open_logs() as world:
        bucket = await world.bucket(outputs=2)
        rules = {"match": {"type": "contains", "substring": "yes", "parameter": {"source": "payload", "name": ""}}}
        first, second = (each.id for each in world.administration.find_bucket(bucket).outputs)
        await world.administration.set_output(first, rules=rules)
        sent = await world.send(bucket, b"yes 1", b"no 2", b"no 3")
        sent += await world.send(bucket, b"yes 4", target=2)
        sent += await world.send(bucket, b"no 5", target=1, force=True)
        sent += await world.send(bucket, b"no 6", ephemeral=True)
        sent += await world.send(bucket, b"no 7", b"no 8")
        await world.answer(bucket, 3, 1, 200)

        async def there(output: str, number: int, status: str = "") -> list[int]:
            page = await world.logs.list(ROOT, output=output, status=status)
            assert (page.total, page.truncated, page.next_cursor) == (len(page.data), False, None)
            seqs = [each["seq"] for each in page.data]
            for seq, event_id in enumerate(sent, 1):
                if status or seq in seqs:
                    continue
                with pytest.raises(NotFound, match="does not go to"):
                    await world.logs.get(ROOT, f"{event_id}-{number}")
            for each in page.data:
                assert (await world.logs.get(ROOT, each["id"]))["id"] == f"{sent[each['seq'] - 1]}-{number}"
            return seqs

        assert await there(first, 1) == [5, 3, 1]
        assert await there(first, 1, "received") == [5, 1]
        assert await there(first, 1, "sent") == [3]
        assert await there(second, 2) == [8, 7, 6, 4, 3, 2, 1]
        forget(world.log)
        # Nobody can look at it any more, so nobody can say that it did not go there.
        assert await there(first, 1) == [6, 5, 3, 1]
        await world.administration.set_output(first, disabled=True)
        assert await there(first, 1) == [3]
        assert len((await world.logs.list(ROOT)).data) == 8


@pytest.mark.parametrize(("room", "number"), [(1, 1), (99, 1), (200, 2), (299, 2), (300, 3)])
def test_as_many_are_looked_at_together_as_there_is_room_for(
    monkeypatch: pytest.MonkeyPatch, room: int, number: int
) -> None:
    """The newest of them, and one at least."""
    monkeypatch.setattr(listing, "_CHUNK_BYTES", room)
    outlines = [Outline(seq, 0.0, "input", "POST", 100, False) for seq in (1, 2, 3)]
    assert listing._newest(outlines) == outlines[-number:]
    assert listing._newest([]) == []


@logs_test
async def test_a_list_of_copies_looks_at_so_many_bytes(open_logs: OpenLogs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then it is truncated, and its cursor goes on to the end."""
    monkeypatch.setattr(listing, "_CHUNK_BYTES", 400)
    monkeypatch.setattr(listing, "LOOKED", 700)
    async with open_logs() as world:
        bucket = await world.bucket(outputs=1)
        sent = await world.send(bucket, *(b"x" * 150 for _ in range(20)))
        output = world.administration.find_bucket(bucket).outputs[0].id
        found: list[str] = []
        page = await world.logs.list(ROOT, output=output)
        rounds = 1
        while page.next_cursor is not None:
            assert page.truncated
            found += ids(page)
            page = await world.logs.list(ROOT, output=output, cursor=page.next_cursor)
            rounds += 1
        assert rounds > 3
        assert found + ids(page) == [f"{each}-1" for each in sent[::-1]]


@logs_test
async def test_a_search_of_a_span_of_time(open_logs: OpenLogs) -> None:
    """Its beginning is in it, its end is not; a cursor leads on within it, over all buckets."""
    async with open_logs() as world:
        buckets = [await world.bucket(name) for name in "ab"]
        for number in range(8):
            await world.send(buckets[number % 2], b"x")
            await asyncio.sleep(0.002)
        newest_first = (await world.logs.list(ROOT)).data
        begin, end = newest_first[5]["received_at"], newest_first[2]["received_at"]
        for since, until, number in ((begin, None, 6), (None, end, 5), (begin, end, 3)):
            fitting = [
                each["id"]
                for each in newest_first
                if (since is None or each["received_at"] >= since) and (until is None or each["received_at"] < until)
            ]
            assert len(fitting) == number
            found: list[str] = []
            cursor: str | None = ""
            while cursor is not None:
                page = await world.logs.search(ROOT, Wanted(since=since, until=until), limit=2, cursor=cursor)
                found += [each["id"] for each in page.data]
                cursor = page.next_cursor
            assert found == fitting


@logs_test
async def test_a_page_behind_a_cursor_is_stable(open_logs: OpenLogs) -> None:
    """With a cursor the same events come as often as one asks, nothing is marked, and cursors lead on in order."""
    async with open_logs() as world:
        bucket = await world.bucket()
        sent = await world.send(bucket, *(b"%d" % n for n in range(5)))
        for _ in range(2):
            page = await world.logs.page(ROOT, "orders", limit=2, cursor="")
            assert ([each["id"] for each in page.logs], page.has_more, page.next_cursor) == (sent[:2], True, sent[1])
        page = await world.logs.page(ROOT, "orders", limit=100, cursor=sent[1])
        assert ([each["id"] for each in page.logs], page.has_more, page.next_cursor) == (sent[2:], False, sent[4])
        page = await world.logs.page(ROOT, "orders", cursor=sent[4])
        assert (page.logs, page.has_more, page.next_cursor) == ([], False, sent[4])
        assert {each["status"] for each in (await world.logs.list(ROOT)).data} == {"received"}
        await world.log.trim(bucket, Retention(None, 1, None), None)
        page = await world.logs.page(ROOT, "orders", limit=9, cursor=sent[0])
        assert [each["id"] for each in page.logs] == sent[4:]
        assert page.gap is not None
        assert (page.gap.reason, page.gap.from_seq, page.gap.to_seq) == ("retention", 2, 4)
        with pytest.raises(Invalid, match="cursor"):
            await world.logs.page(ROOT, "orders", cursor="x")


@logs_test
async def test_a_cursor_between_the_copies_of_an_event(open_logs: OpenLogs) -> None:
    """After E-1-1 comes E-1-2 for output 2, and nothing more of event 1 for output 1."""
    async with open_logs() as world:
        bucket = await world.bucket(outputs=2)
        (event_id,) = await world.send(bucket, b"x")
        page = await world.logs.page(ROOT, "orders", output="out-2", cursor=f"{event_id}-1")
        assert [each["id"] for each in page.logs] == [f"{event_id}-2"]
        for output, cursor in (("out-1", f"{event_id}-1"), ("out-2", f"{event_id}-2"), ("", f"{event_id}-1")):
            assert (await world.logs.page(ROOT, "orders", output=output, cursor=cursor)).logs == []
        page = await world.logs.page(ROOT, "orders", output="out-2", cursor=f"{event_id.partition('-')[0]}-0-1")
        assert ([each["id"] for each in page.logs], page.gap) == ([f"{event_id}-2"], None)
        await world.send(bucket, b"y", b"z")
        await world.log.trim(bucket, Retention(None, 1, None), None)
        for output, first in (("out-1", 2), ("out-2", 1), ("", 2)):
            page = await world.logs.page(ROOT, "orders", output=output, cursor=f"{event_id}-1")
            assert page.gap == Gap("retention", first, 2)


@logs_test
async def test_an_ephemeral_bucket_keeps_stubs(open_logs: OpenLogs) -> None:
    """A log is there with its place, time and status; its content only as long as it is in memory. Nothing drains."""
    async with open_logs() as world:
        bucket = await world.bucket(ephemeral=True)
        (event_id,) = await world.send(bucket, b"secret", ephemeral=True)
        log = await world.logs.get(ROOT, event_id)
        assert (log["body"], log["ephemeral"]) == ("secret", True)
        (copy,) = (await world.logs.resend(ROOT, event_id)).ids
        forget(world.log)
        for log_id in (event_id, copy):
            log = await world.logs.get(ROOT, log_id)
            assert (log["body"], log["headers"], log["ip_address"], log["ephemeral"]) == ("", {}, "", True)
            assert (log["method"], log["input_id"]) == ("POST", "input")
        await world.answer(bucket, 1)
        listed = (await world.logs.list(ROOT)).data
        assert [(each["id"], each["status"]) for each in listed] == [(copy, "received"), (event_id, "sent")]
        with pytest.raises(Conflict, match="content is gone"):
            await world.logs.resend(ROOT, event_id)
        assert (await world.logs.resend_range(ROOT, "orders", Range())).ids == []
        with pytest.raises(Invalid, match="ephemeral"):
            await world.logs.drain(ROOT, "orders")
        page = await world.logs.page(ROOT, "orders", cursor=event_id)
        assert page.logs == []
        assert page.gap is not None
        assert (page.gap.reason, page.gap.from_seq, page.gap.to_seq) == ("ephemeral", 2, 2)
