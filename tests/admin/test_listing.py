"""Lists of logs: which events, in which order, page by page, and how many are looked at for one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from relay_tornado.admin import listing
from relay_tornado.errors import Invalid, NotFound, Unavailable
from relay_tornado.log.contract import Outline
from relay_tornado.model import MIB, Bounds, Retention, Token
from tests.admin.logs_world import ROOT, LogsWorld, forget, ids, logs_test
from tests.admin.logs_world import world as world


@logs_test
async def test_the_list_is_newest_first_in_pages(world: LogsWorld) -> None:
    """Pages by cursor hold every log once, whatever the limit, and the last one leads nowhere."""
    bucket = await world.bucket()
    sent = await world.send(bucket, *(b"%d" % n for n in range(40)))
    for limit in (1, 7, 20, 40, 500):
        pages = await world.pages(bucket="orders", limit=limit)
        assert {page["total"] for page in pages} == {40}
        assert all(len(page["data"]) <= limit for page in pages)
        assert ids(*pages) == sent[::-1]
    assert len((await world.logs.list(ROOT))["data"]) == 40


@logs_test
async def test_a_list_over_many_buckets_costs_no_look_at_all_of_them_for_each_event(
    world: LogsWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How much was read is added up, not counted anew."""
    looks = 0

    class Place(listing._Place):
        @property
        def looked(self) -> int:
            nonlocal looks
            looks += 1
            return self._looked

        @looked.setter
        def looked(self, size: int) -> None:
            self._looked = size

    monkeypatch.setattr(listing, "_Place", Place)
    for number in range(20):
        await world.send(await world.bucket(f"b{number}"), *[b"x"] * 10)
    page = await world.logs.list(ROOT, status="received", limit=500)
    assert len(page["data"]) == 200
    assert 0 < looks < 3 * 200


@logs_test
async def test_pages_stay_right_while_events_arrive(world: LogsWorld) -> None:
    """What arrives between two pages moves nothing: not by cursor, and not by offset."""
    bucket = await world.bucket()
    sent = await world.send(bucket, *(b"%d" % n for n in range(10)))
    first = await world.logs.list(ROOT, limit=4)
    assert (first["next_cursor"], "truncated" in first) == (sent[6], False)
    await world.send(bucket, b"new", b"new")
    by_cursor = await world.logs.list(ROOT, limit=4, cursor=first["next_cursor"])
    by_offset = await world.logs.list(ROOT, limit=4, offset=4)
    assert ids(first) + ids(by_cursor) == sent[:1:-1]
    assert ids(by_offset) == ids(by_cursor)
    assert ids(await world.logs.list(ROOT, limit=2, offset=2, cursor=first["next_cursor"])) == sent[3:1:-1]
    assert (await world.logs.list(ROOT, limit=1))["data"][0]["body"] == "new"


@logs_test
async def test_several_buckets_are_one_list(world: LogsWorld) -> None:
    """Without `bucket` the logs of every bucket in scope come, ordered by time, each once over all pages."""
    buckets = [await world.bucket(name) for name in ("a", "b", "c")]
    sent = []
    for n in range(30):
        sent += await world.send(buckets[n % 3], b"%d" % n)
    pages = await world.pages(limit=7)
    times = [each["received_at"] for page in pages for each in page["data"]]
    assert sorted(ids(*pages)) == sorted(sent)
    assert times == sorted(times, reverse=True)
    some = Token("some", "h", 0.0, buckets=frozenset(buckets[:2]))
    page = await world.logs.list(some)
    assert page["total"] == 20
    assert {each["bucket_id"] for each in page["data"]} == set(buckets[:2])
    with pytest.raises(NotFound):
        await world.logs.list(some, bucket="c")


@logs_test
async def test_events_of_one_moment_in_several_buckets(world: LogsWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where times are equal pages are complete all the same."""
    monkeypatch.setattr("time.time", lambda: 1_900_000_000.0)
    buckets = [await world.bucket(name) for name in ("a", "b", "c")]
    sent = [each for bucket in buckets for each in await world.send(bucket, b"1", b"2", b"3")]
    assert sorted(ids(*await world.pages(limit=2))) == sorted(sent)


@logs_test
async def test_filters(world: LogsWorld) -> None:
    """By status, by output and by time, with the number of those that fit."""
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
        assert [each["seq"] for each in page["data"]] == seqs
        assert page == {"data": page["data"], "total": len(seqs), "limit": 50, "offset": 0}
        assert all(each["status"] == status for each in page["data"])
    page = await world.logs.list(ROOT, bucket="orders", output="out-2")
    assert ids(page) == [f"{each}-2" for each in sent[::-1]]
    times = [each["received_at"] for each in (await world.logs.list(ROOT))["data"]][::-1]
    page = await world.logs.list(ROOT, since=times[2], until=times[4])
    assert [each["received_at"] for each in page["data"]] == [at for at in times[::-1] if times[2] <= at < times[4]]
    for cursor in ("", sent[5]):
        page = await world.logs.list(ROOT, until=times[2], cursor=cursor)
        assert ids(page) == [each for each, at in zip(sent[::-1], times[::-1], strict=True) if at < times[2]]
    page = await world.logs.list(ROOT, status="received", limit=1, offset=1)
    assert ([each["seq"] for each in page["data"]], page["total"], page["next_cursor"]) == ([5], 3, sent[4])
    assert (await world.logs.list(ROOT, offset=10_000))["data"] == []
    assert (await world.logs.list(ROOT, since=times[4], until=times[2]))["total"] == 0
    for wrong in ({"cursor": "x"}, {"cursor": "zzzzzzzzzzzz-1"}, {"output": "none"}, {"offset": 10_001}):
        with pytest.raises(Invalid):
            await world.logs.list(ROOT, **wrong)  # type: ignore[arg-type]


@logs_test
async def test_a_request_looks_at_so_many_events_only(world: LogsWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """A filter that fits little is `truncated`, and its cursors lead through everything all the same."""
    monkeypatch.setattr(listing, "MOST_SCANNED", 10)
    bucket = await world.bucket()
    sent = await world.send(bucket, *(b"%d" % n for n in range(35)))
    for seq in (1, 20, 30):
        await world.answer(bucket, seq)
    assert (await world.logs.list(ROOT, status="sent"))["next_cursor"] == sent[25]
    pages = await world.pages(status="sent", limit=2)
    assert ids(*pages) == [sent[29], sent[19], sent[0]]
    assert [page.get("truncated") for page in pages] == [True, True, True, None]
    received = ids(*await world.pages(status="received", limit=4))
    assert received == [sent[seq - 1] for seq in range(35, 0, -1) if seq not in (1, 20, 30)]


@logs_test
async def test_a_page_has_so_many_logs(world: LogsWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many are asked for, and says how many that are."""
    monkeypatch.setattr(listing, "MOST", 3)
    sent = await world.send(await world.bucket(), b"1", b"2", b"3", b"4")
    page = await world.logs.list(ROOT, limit=9)
    assert (ids(page), page["limit"], page["total"]) == (sent[:0:-1], 3, 4)


@logs_test
async def test_offsets_are_counted_from_the_first_page_for_so_long(
    world: LogsWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten minutes behind it, and as long as few others ask: who asked longest ago is forgotten first."""
    now = [0.0]
    monkeypatch.setattr(listing, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(listing, "_ANCHORS", 2)
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
async def test_offsets_are_not_counted_from_a_first_page_that_was_empty_since(world: LogsWorld) -> None:
    """What it began with was removed, and the same request has found nothing: what comes then is counted."""
    bucket = await world.bucket("orders")
    await world.send(bucket, b"old")
    assert len(ids(await world.logs.list(ROOT, bucket="orders"))) == 1
    await world.log.trim(bucket, Retention(max_events=0), None)
    assert ids(await world.logs.list(ROOT, bucket="orders")) == []
    sent = await world.send(bucket, b"1", b"2", b"3")
    assert ids(await world.logs.list(ROOT, bucket="orders", offset=1)) == [sent[1], sent[0]]


@logs_test
async def test_offsets_in_a_bucket_are_not_counted_from_one_that_had_its_name(world: LogsWorld) -> None:
    """It was deleted, and another one was made: all its events came later."""
    bucket = await world.bucket("orders")
    await world.send(bucket, b"old")
    await world.logs.list(ROOT, bucket="orders", limit=1)
    await world.administration.delete_bucket(bucket)
    sent = await world.send(await world.bucket("orders"), b"1", b"2", b"3")
    assert ids(await world.logs.list(ROOT, bucket="orders", offset=1)) == [sent[1], sent[0]]


@logs_test
async def test_an_output_says_which_bucket(world: LogsWorld) -> None:
    """By its id; its name is one of a bucket's, or of the only one's."""
    buckets = [await world.bucket(name, outputs=2) for name in ("a", "b")]
    sent = [await world.send(bucket, b"x") for bucket in buckets]
    for bucket, (event_id,) in zip(buckets, sent, strict=True):
        for output in world.administration.find_bucket(bucket).outputs:
            page = await world.logs.list(ROOT, output=output.id)
            assert (ids(page), page["data"][0]["output_id"]) == ([f"{event_id}-{output.n}"], output.id)
    with pytest.raises(Invalid, match="name its `bucket`, too"):
        await world.logs.list(ROOT, output="out-1")
    assert ids(await world.logs.list(ROOT, bucket="b", output="out-1")) == [f"{sent[1][0]}-1"]


@logs_test
async def test_a_bucket_that_is_deleted_meanwhile_is_not_listed(
    world: LogsWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are."""
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
    assert (ids(page), page["total"]) == (sent, 1)
    read = world.log.read

    async def gone_first(*asked: Any) -> Any:
        await world.administration.delete_bucket("kept")
        return await read(*asked)

    monkeypatch.setattr(world.log, "read", gone_first)
    with pytest.raises(NotFound, match="deleted meanwhile"):
        await world.logs.list(ROOT)


@logs_test
async def test_a_bucket_that_is_deleted_as_a_later_page_begins(
    world: LogsWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is left out behind a cursor, too."""
    kept, gone = [await world.bucket(name) for name in ("kept", "gone")]
    sent = await world.send(kept, b"1", b"2")
    await world.send(gone, b"x")
    seek = world.log.seek

    async def gone_first(bucket_id: str, time: float) -> int:
        await world.administration.delete_bucket("gone")
        return await seek(bucket_id, time)

    monkeypatch.setattr(world.log, "seek", gone_first)
    assert ids(await world.logs.list(ROOT, cursor=sent[1])) == sent[:1]


@logs_test
async def test_events_that_are_damaged_altogether_are_passed_over(
    world: LogsWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In any list, also where all of a stretch is."""
    monkeypatch.setattr(listing, "_CHUNKS", (1, 1))
    sent = await world.send(await world.bucket(outputs=1), b"1", b"2", b"3")
    outline = world.log.outline

    async def damaged(*asked: Any) -> list[Outline]:
        return [each for each in await outline(*asked) if each.seq != 2]

    monkeypatch.setattr(world.log, "outline", damaged)
    assert ids(await world.logs.list(ROOT)) == [sent[2], sent[0]]
    assert ids(await world.logs.list(ROOT, bucket="orders", output="out-1")) == [f"{sent[2]}-1", f"{sent[0]}-1"]


@logs_test
@pytest.mark.parametrize("meanwhile", ["nothing", "retention", "deletion"])
async def test_events_none_of_which_can_be_read(
    world: LogsWorld, monkeypatch: pytest.MonkeyPatch, meanwhile: str
) -> None:
    """The list is not taken for an empty one, unless they were removed meanwhile."""
    bucket = await world.bucket()
    sent = await world.send(bucket, b"1", b"2", b"3")
    page = await world.logs.list(ROOT, limit=1)
    await world.bucket("empty")
    outline = world.log.outline

    async def unreadable(bucket_id: str, first: int, last: int) -> list[Outline]:
        if meanwhile == "retention":
            await world.log.trim(bucket, Retention(max_events=0), None)
        elif meanwhile == "deletion":
            await world.log.drop(bucket)
        return []

    monkeypatch.setattr(world.log, "outline", unreadable)
    assert (await world.logs.list(ROOT, bucket="empty"))["data"] == []
    if meanwhile != "nothing":
        assert (await world.logs.list(ROOT))["data"] == []
        return
    for asked in ({}, {"bucket": "orders"}, {"status": "received"}):
        with pytest.raises(Unavailable, match=r"none of these 3 events can be read: relay\.db is damaged"):
            await world.logs.list(ROOT, **asked)
    monkeypatch.setattr(world.log, "outline", outline)
    rest = await world.logs.list(ROOT, cursor=page["next_cursor"])
    assert ids(page) + ids(rest) == sent[::-1]


@logs_test
async def test_the_oldest_events_can_not_be_read(world: LogsWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who pages comes to the end all the same."""
    bucket = await world.bucket()
    sent = await world.send(bucket, b"1", b"2", b"3")
    cursor = (await world.logs.list(ROOT, limit=1))["next_cursor"]
    outline = world.log.outline

    async def damaged(bucket_id: str, first: int, last: int) -> list[Outline]:
        return [each for each in await outline(bucket_id, first, last) if each.seq == 3]

    monkeypatch.setattr(world.log, "outline", damaged)
    assert ids(await world.logs.list(ROOT)) == sent[2:]
    last = await world.logs.list(ROOT, cursor=cursor)
    assert last["data"] == []
    assert "next_cursor" not in last


@logs_test
async def test_a_page_is_bounded_in_bytes(world: LogsWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large events come in more pages, at least one a page."""
    monkeypatch.setattr(listing, "PAGE_BYTES", 1000)
    bucket = await world.bucket()
    sent = await world.send(bucket, *(b"x" * 400 for _ in range(4)), b"y" * 5000)
    pages = await world.pages()
    assert [ids(page) for page in pages] == [[sent[4]], [sent[3], sent[2]], [sent[1], sent[0]]]
    assert [page.get("truncated") for page in pages] == [True, True, None]
    assert pages[-1].keys() == {"data", "total", "limit", "offset"}
    await world.answer(bucket, 4, body=b"z" * 700)
    assert ids(await world.logs.list(ROOT, cursor=sent[4])) == [sent[3]]


@logs_test
@pytest.mark.parametrize("status", ["received", "sent"])
async def test_a_page_that_is_full_before_all_that_was_looked_at_is_on_it(
    world: LogsWorld, monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    """Its cursor goes on behind its last log, not behind what was looked at: nothing is passed over."""
    monkeypatch.setattr(listing, "PAGE_BYTES", 1000)
    monkeypatch.setattr(listing, "MOST_SCANNED", 6)
    bucket = await world.bucket()
    sent = await world.send(bucket, *[b"x" * 400] * 20)
    for seq in range(1, 21, 2):
        await world.answer(bucket, seq)
    wanted = sent[::2] if status == "sent" else sent[1::2]
    assert ids(*await world.pages(status=status)) == wanted[::-1]


@logs_test
async def test_a_cursor_whose_event_has_left(world: LogsWorld) -> None:
    """In one bucket there is nothing behind it any more; over several it can't be placed, and says so."""
    bucket = await world.bucket()
    sent = await world.send(bucket, b"1", b"2", b"3")
    await world.log.trim(bucket, Retention(None, 1, None), None)
    page = await world.logs.list(ROOT, cursor=sent[1])
    assert (page["data"], page.get("next_cursor")) == ([], None)
    await world.bucket("others")
    with pytest.raises(Invalid, match="begin without"):
        await world.logs.list(ROOT, cursor=sent[1])


@logs_test
@pytest.mark.parametrize("room", [1, MIB])
async def test_only_copies_that_there_are(world: LogsWorld, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    """An output's list, and a copy's id, know what goes there as it is now, and what has a delivery."""
    monkeypatch.setattr(listing, "_CHUNK_BYTES", room)
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
        assert page.keys() == {"data", "total", "limit", "offset"}
        assert page["total"] == len(page["data"])
        seqs = [each["seq"] for each in page["data"]]
        for seq, event_id in enumerate(sent, 1):
            if status or seq in seqs:
                continue
            with pytest.raises(NotFound, match="does not go to"):
                await world.logs.get(ROOT, f"{event_id}-{number}")
        for each in page["data"]:
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
    assert len((await world.logs.list(ROOT))["data"]) == 8


@pytest.mark.parametrize(("room", "number"), [(1, 1), (99, 1), (200, 2), (299, 2), (300, 3)])
def test_as_many_are_looked_at_together_as_there_is_room_for(
    monkeypatch: pytest.MonkeyPatch, room: int, number: int
) -> None:
    """The newest of them, and one at least."""
    monkeypatch.setattr(listing, "_CHUNK_BYTES", room)
    outlines = [Outline(seq, 0.0, "input", "POST", 100, 0, False) for seq in (1, 2, 3)]
    assert listing._newest(outlines) == outlines[-number:]
    assert listing._newest([]) == []


@logs_test
async def test_a_list_of_copies_looks_at_so_many_bytes(world: LogsWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then it is truncated, and its cursor goes on to the end."""
    monkeypatch.setattr(listing, "_CHUNK_BYTES", 400)
    monkeypatch.setattr(listing, "LOOKED", 700)
    bucket = await world.bucket(outputs=1)
    sent = await world.send(bucket, *(b"x" * 150 for _ in range(20)))
    output = world.administration.find_bucket(bucket).outputs[0].id
    pages = await world.pages(output=output)
    assert len(pages) > 3
    assert all(page["truncated"] for page in pages[:-1])
    assert ids(*pages) == [f"{each}-1" for each in sent[::-1]]
