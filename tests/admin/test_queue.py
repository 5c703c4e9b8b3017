"""Logs: what is given to those who poll."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from relay_tornado.admin import polling
from relay_tornado.errors import CursorLost
from relay_tornado.model import Event, Gap, Retention
from relay_tornado.wire.frames import gap_fields
from tests.admin.logs_world import ROOT, LogsWorld, forget, ids, logs_test
from tests.admin.logs_world import world as world


@logs_test
async def test_the_queue_drains_in_order(world: LogsWorld) -> None:
    """Without a cursor each event comes once, from the earliest on, and is `sent` then."""
    bucket = await world.bucket()
    sent = await world.send(bucket, b"1", b"2", b"3")
    page = await world.logs.drain(ROOT, "orders")
    assert (ids(page), page["has_more"], page.get("next_cursor")) == (
        sent[:1],
        True,
        None,
    )
    assert page["logs"][0]["status"] == "sent"
    page = await world.logs.drain(ROOT, "orders", limit=100)
    assert (ids(page), page["has_more"]) == (sent[1:], False)
    assert (await world.logs.drain(ROOT, "orders"))["logs"] == []
    assert {each["status"] for each in (await world.logs.list(ROOT))["data"]} == {"sent"}
    more = await world.send(bucket, b"4")
    assert ids(await world.logs.drain(ROOT, bucket)) == more


@logs_test
async def test_two_pollers_never_share_an_event(world: LogsWorld) -> None:
    """Many polls at once give out every event exactly once, also where each has a service of its own."""
    bucket = await world.bucket()
    sent = await world.send(bucket, *(b"%d" % n for n in range(30)))
    second = LogsWorld(world.log, world.registry, world.settings, world.consumers, world.results)
    services = [world.logs, second.logs]
    pages = await asyncio.gather(*(services[n % 2].drain(ROOT, "orders", limit=3) for n in range(10)))
    assert sorted(each["id"] for page in pages for each in page["logs"]) == sorted(sent)


@logs_test
async def test_pollers_of_one_service_have_their_turns(world: LogsWorld) -> None:
    """However many poll at once: none is refused because the others moved the queue."""
    bucket = await world.bucket()
    sent = await world.send(bucket, *(b"%d" % n for n in range(3 * polling._ATTEMPTS)))
    pages = await asyncio.gather(*(world.logs.drain(ROOT, "orders") for _ in sent))
    assert ids(*pages) == sent


@logs_test
async def test_what_was_answered_while_a_poll_read_is_not_given_out(
    world: LogsWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else is done with it by now."""
    bucket = await world.bucket()
    sent = await world.send(bucket, b"1", b"2", b"3")
    claim = world.results.claim

    async def late(*arguments: Any) -> Sequence[int] | None:
        await world.answer(bucket, 2)
        return await claim(*arguments)

    monkeypatch.setattr(world.results, "claim", late)
    assert ids(await world.logs.drain(ROOT, "orders", limit=9)) == [sent[0], sent[2]]


@logs_test
async def test_the_queue_of_an_output_goes_with_it(world: LogsWorld) -> None:
    """A deleted output leaves no position behind; the other queues keep theirs."""
    bucket = await world.bucket(outputs=2)
    await world.send(bucket, b"1")
    for output in ("", "out-1", "out-2"):
        await world.logs.drain(ROOT, "orders", output=output)
    await world.administration.delete_output("out-1", "orders")
    assert [await world.results.floor(bucket, number) for number in (0, 1, 2)] == [1, 0, 1]


@logs_test
async def test_the_queue_passes_over_what_is_done_or_old(world: LogsWorld) -> None:
    """Sent, failed and too old events are skipped for good; a stalled one is given out."""
    bucket = await world.bucket()
    sent = await world.send(bucket, *(b"%d" % n for n in range(5)))
    await world.answer(bucket, 1, 0, 200)
    await world.answer(bucket, 2, 4, 0)
    await world.answer(bucket, 3, 0, 0, status="stalled")
    page = await world.logs.drain(ROOT, "orders")
    assert ids(page) == sent[2:3]
    world.now = 1e11
    page = await world.logs.drain(ROOT, "orders", max_age=60, limit=9)
    assert (page["logs"], page["has_more"]) == ([], False)
    assert (await world.logs.drain(ROOT, "orders", limit=9))["logs"] == []


@logs_test
async def test_an_age_of_nothing_is_no_limit(world: LogsWorld) -> None:
    """`max_age` 0 is the default, as `limit` 0: it empties no queue, and no page."""
    bucket = await world.bucket()
    sent = await world.send(bucket, b"1", b"2")
    world.now = (await world.logs.get(ROOT, sent[0]))["received_at"] + 30
    assert ids(await world.logs.page(ROOT, "orders", limit=9, max_age=60)) == sent
    world.now = 1e11
    assert ids(await world.logs.page(ROOT, "orders", limit=9, max_age=0)) == sent
    assert ids(await world.logs.drain(ROOT, "orders", limit=9, max_age=0)) == sent


@logs_test
async def test_a_poll_looks_at_so_many_events_only(world: LogsWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """However few of them are wanted; the cursor goes on behind what was looked at."""
    monkeypatch.setattr(polling, "MOST_SCANNED", 10)
    monkeypatch.setattr(polling, "_READ", 4)
    bucket = await world.bucket()
    sent = await world.send(bucket, *(b"%d" % n for n in range(24)))
    world.now = 1e11
    page = await world.logs.page(ROOT, "orders", max_age=60)
    assert (page["logs"], page["has_more"], page["next_cursor"]) == ([], True, sent[9])
    page = await world.logs.page(ROOT, "orders", cursor=sent[9])
    assert ids(page) == sent[10:11]


@logs_test
async def test_the_queue_of_an_output(world: LogsWorld) -> None:
    """It has its own position and gets what goes there: by rules, by target, not while it is disabled."""
    bucket = await world.bucket(outputs=2)
    rules = {"match": {"type": "contains", "substring": "yes", "parameter": {"source": "payload", "name": ""}}}
    first, second = (each.id for each in world.administration.find_bucket(bucket).outputs)
    await world.administration.set_output(first, rules=rules)
    sent = await world.send(bucket, b"yes 1", b"no 2")
    copies = [
        *await world.send(bucket, b"yes 3", target=2),
        *await world.send(bucket, b"no 4", target=1, force=True),
    ]
    found = {
        output: ids(await world.logs.drain(ROOT, bucket, output=output, limit=9)) for output in ("out-1", second, "")
    }
    assert found["out-1"] == [f"{sent[0]}-1", f"{copies[1]}-1"]
    assert found[second] == [f"{sent[0]}-2", f"{sent[1]}-2", f"{copies[0]}-2"]
    assert found[""] == []
    await world.send(bucket, b"yes")
    await world.administration.set_output(first, disabled=True)
    assert (await world.logs.drain(ROOT, bucket, output=first))["logs"] == []
    assert (await world.logs.page(ROOT, bucket, output=first, limit=9))["logs"] == []
    await world.administration.set_output(first, disabled=False)
    assert len((await world.logs.drain(ROOT, bucket, output=first))["logs"]) == 1


@logs_test
async def test_a_poll_is_bounded_in_bytes(world: LogsWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large events come in more answers, at least one each, in order."""
    monkeypatch.setattr(polling, "PAGE_BYTES", 1000)
    bucket = await world.bucket()
    sent = await world.send(bucket, b"x" * 400, b"x" * 400, b"y" * 5000, b"z")
    found = [ids(await world.logs.drain(ROOT, "orders", limit=9)) for _ in range(4)]
    assert found == [sent[:2], sent[2:3], sent[3:], []]


@logs_test
async def test_a_page_tells_what_it_passes_over(world: LogsWorld) -> None:
    """One stretch a page, and the next one begins before another stretch: so each is told exactly, and once."""
    bucket = await world.bucket()
    sent = await world.send(bucket, b"1")
    await world.send(bucket, b"2", b"3", ephemeral=True)
    sent += await world.send(bucket, b"4")
    await world.send(bucket, b"5", ephemeral=True)
    sent += await world.send(bucket, b"6")
    forget(world.log)
    for begin, given in (("", sent[:2]), (sent[0], sent[1:2])):
        page = await world.logs.page(ROOT, "orders", limit=9, cursor=begin)
        assert (ids(page), page["has_more"]) == (given, True)
        assert page["gap"] == gap_fields(Gap("ephemeral", 2, 3))
    page = await world.logs.page(ROOT, "orders", limit=9, cursor=page["next_cursor"])
    assert (ids(page), page["has_more"]) == (sent[2:], False)
    assert page["gap"] == gap_fields(Gap("ephemeral", 5, 5))
    page = await world.logs.page(ROOT, "orders", limit=9, cursor=page["next_cursor"])
    assert (page["logs"], page.get("gap")) == ([], None)
    assert ids(await world.logs.drain(ROOT, "orders", limit=9)) == sent


@logs_test
async def test_a_page_tells_damage_and_what_left_meanwhile(world: LogsWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within the log it is damage; below the log's first event retention, which goes on with what was met before."""
    bucket = await world.bucket()
    sent = await world.send(bucket, b"1", b"2", b"3", b"4", b"5")
    read = world.log.read

    async def damaged(bucket_id: str, after: int, limit: int, max_bytes: int) -> Sequence[Event]:
        if after in (1, 2):
            raise CursorLost(4)
        return [event for event in await read(bucket_id, after, limit, max_bytes) if after or event.seq == 1]

    monkeypatch.setattr(world.log, "read", damaged)
    page = await world.logs.page(ROOT, "orders", limit=9, cursor="")
    assert ids(page) == [sent[0], *sent[3:]]
    assert page["gap"] == gap_fields(Gap("reset", 2, 3))

    async def late(bucket_id: str, after: int, limit: int, max_bytes: int) -> Sequence[Event]:
        await world.log.trim(bucket, Retention(max_events=1), None)
        return await read(bucket_id, after, limit, max_bytes)

    await world.log.trim(bucket, Retention(max_events=3), None)
    monkeypatch.setattr(world.log, "read", late)
    page = await world.logs.page(ROOT, "orders", limit=9, cursor=sent[0])
    assert ids(page) == sent[4:]
    assert page["gap"] == gap_fields(Gap("retention", 2, 4))


@logs_test
async def test_a_page_of_an_ephemeral_bucket_begins_at_its_head(world: LogsWorld) -> None:
    """Without a cursor, as over the socket: what came before is nobody's any more, even where memory still has it."""
    bucket = await world.bucket(ephemeral=True)
    (event_id,) = await world.send(bucket, b"1", ephemeral=True)
    page = await world.logs.page(ROOT, "orders", limit=9)
    assert page == {"logs": [], "has_more": False, "next_cursor": event_id}
