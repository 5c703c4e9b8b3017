"""The asynchronous client against a real relay."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from relay_tornado.client import CheckpointError, Gap, GapRefused, Refused, Rejected, RelayClientError, subscribe
from tests.client.world import SOON, Cable, Memory, World, bodies, client_test, run, take
from tests.waiting import until


@client_test
async def test_events_come_whole(shared: World) -> None:
    """Method, path, query, headers and the body's bytes are what the sender sent."""
    bucket = shared.bucket()
    raw = bytes(range(256))
    async with shared.subscribe(bucket, since="earliest") as events:
        shared.send(raw, '{"n": 1}', bucket=bucket, path="/a%20b?x=1&y=2", X_Kind="first", Content_Type="text/plain")
        first, second = await take(events, 2)
    assert first.body == raw
    assert second.json() == {"n": 1}
    assert (first.method, first.path, first.query) == ("POST", "/a%20b", "x=1&y=2")
    assert first.headers["x-kind"] == "first"
    assert ("X-Kind", "first") in first.headers.pairs()
    assert (first.bucket, first.seq, second.seq, first.attempt) == (bucket, 1, 2, 1)
    assert first.id == f"{first.epoch}-1"
    assert first.received_at is not None
    assert (first.output, first.verified, first.truncated) == ("", None, False)


@client_test
async def test_since_and_limits(shared: World) -> None:
    """`since`, `filter` and `max_body` go to the relay; an id begins behind it."""
    bucket = shared.bucket()
    shared.send("one", "two", "a long body", bucket=bucket, X_Kind="y")
    async with shared.subscribe(bucket, since={"last": 2}, max_body=5) as events:
        second, third = await take(events, 2)
        assert (second.text, second.truncated, third.body, third.truncated) == ("two", False, b"", True)
    async with shared.subscribe(bucket, since=second.id) as events:
        assert bodies(await take(events, 1)) == ["a long body"]
    rules = {"match": {"type": "regex", "regex": "^o", "parameter": {"source": "payload", "name": ""}}}
    async with shared.subscribe(bucket, since="earliest", filter=rules) as events:
        assert bodies(await take(events, 1)) == ["one"]


@client_test
async def test_what_cannot_be_followed_is_said(shared: World) -> None:
    """Wrong credentials raise Refused with 4001, a wrong filter Rejected; and again when it is asked again."""
    async with subscribe(shared.relay.url, shared.key, "wrong", buckets="orders") as events:
        for _ in range(2):
            with pytest.raises(Refused) as refused:
                await anext(events)
        assert refused.value.code == 4001
        assert "wrong" not in repr(events)
    async with shared.subscribe(filter={"match": {"type": "nothing"}}) as events:
        with pytest.raises(Rejected, match=r"filter\.match"):
            await anext(events)


@client_test
async def test_a_revoked_token_ends_it(world: World) -> None:
    """A final close comes out as Refused with its code and reason, behind what was received."""
    async with world.subscribe(since="earliest") as events:
        world.send("one", "two")
        await anext(events)
        assert events._core is not None
        core = events._core
        await until(lambda: len(core.intake) >= 1, "the second event")
        world.relay.command("token", "revoke", world.key)
        assert (await anext(events)).text == "two"
        with pytest.raises(Refused, match="revoked") as refused:
            await anext(events)
        assert refused.value.code == 4503


def test_it_comes_back_after_kills(world: World) -> None:
    """Across kills and restarts of the relay every event comes once and in order; what happened is told."""
    notices: list[str] = []
    said = threading.Event()

    def sender() -> None:
        for number in range(60):
            if number % 20 == 10:
                world.relay.kill()
                world.relay.start()
            world.send(str(number))
        said.set()

    async def main() -> None:
        async with world.subscribe(since="earliest", on_notice=lambda notice: notices.append(notice.kind)) as events:
            await until(lambda: "connected" in notices, "the first connection")
            sending = asyncio.create_task(asyncio.to_thread(sender))
            got = await take(events, 60)
            await sending
        assert bodies(got) == [str(number) for number in range(60)]
        assert [event.seq for event in got] == list(range(1, 61))
        assert len({event.epoch for event in got}) > 1

    run(main())
    assert notices.count("connected") > 1
    assert notices.count("disconnected") >= notices.count("connected") - 1


def test_it_resumes_after_cuts_without_a_repeat(shared: World) -> None:
    """A connection that is cut over and over, within frames, loses and repeats nothing."""
    bucket = shared.bucket()
    shared.send(*(f"{number:04}" for number in range(120)), bucket=bucket)

    async def main() -> int:
        async with Cable(shared.relay.port) as cable:
            # The answer to subscribe and some frames fit; most cuts come within a frame.
            cable.cut_after = 4_321
            async with shared.subscribe(bucket, url=cable.url, since="earliest") as events:
                got = await take(events, 120)
            assert bodies(got) == [f"{number:04}" for number in range(120)]
            return cable.connections

    assert run(main()) > 5


@client_test
async def test_buckets_made_while_away_are_met_from_their_first_event(world: World) -> None:
    """A subscriber to all buckets that was away gets what came to a new bucket meanwhile, and no repeat."""
    async with (
        Cable(world.relay.port) as cable,
        subscribe(cable.url, world.key, world.secret, backoff=SOON) as events,
    ):
        pending = asyncio.ensure_future(anext(events))
        await until(lambda: cable.connections == 1, "a connection")
        core = events._core
        assert core is not None
        await until(lambda: core._link is not None, "the subscription")
        world.send("old")
        assert (await pending).text == "old"
        cable.cut_after = 1
        cable.cut()
        await until(lambda: core._link is None, "the cut")
        world.bucket("fresh")
        world.send("first", bucket="fresh")
        cable.cut_after = None
        event = await anext(events)
        assert (event.bucket, event.text, event.seq) == ("fresh", "first", 1)


# checkpoints


def test_a_checkpoint_moves_when_the_next_event_is_asked_for(shared: World, tmp_path: Path) -> None:
    """The event in hand comes again, what is before it never; `done` moves past it."""
    bucket = shared.bucket()
    shared.send("1", "2", "3", bucket=bucket)
    path = tmp_path / "checkpoint"

    async def read(number: int, done: bool) -> list[str]:
        async with shared.subscribe(bucket, since="earliest", checkpoint=path) as events:
            got = await take(events, number)
            if done:
                await got[-1].done()
            return bodies(got)

    assert run(read(2, done=False)) == ["1", "2"]
    assert run(read(1, done=False)) == ["2"]
    assert run(read(1, done=True)) == ["2"]
    assert run(read(1, done=True)) == ["3"]
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in tmp_path.iterdir() if entry.is_file()] == ["checkpoint"]


@client_test
async def test_the_checkpoint_is_saved_before_the_next_event_is_given(shared: World) -> None:
    """Whatever happens while an event is in hand, what came before it is saved."""
    bucket = shared.bucket()
    shared.send("1", "2", "3", bucket=bucket)
    saved: list[str] = []
    async with shared.subscribe(bucket, since="earliest", checkpoint=Memory(saved)) as events:
        before = None
        async for event in events:
            if before is not None:
                [kept] = json.loads(saved[-1])["buckets"].values()
                assert kept["id"] == before.id
            before = event
            if event.text == "3":
                break


@client_test
async def test_events_done_in_any_order(shared: World, tmp_path: Path) -> None:
    """With `auto_done=False` the checkpoint holds what is done; the rest comes again, and nothing twice."""
    bucket = shared.bucket()
    shared.send(*"123456", bucket=bucket)
    path = tmp_path / "checkpoint"
    async with shared.subscribe(bucket, since="earliest", checkpoint=path, auto_done=False) as events:
        got = await take(events, 5)
        for number in (4, 0, 2):
            await got[number].done()
    async with shared.subscribe(bucket, checkpoint=path, auto_done=False) as events:
        again = await take(events, 3)
        assert bodies(again) == ["2", "4", "6"]
        await asyncio.gather(*(event.done() for event in again))
    [kept] = json.loads(path.read_text())["buckets"].values()
    assert kept["id"] == again[-1].id
    assert "done" not in kept


def test_pings_move_a_checkpoint_only_past_what_is_done(tmp_path: Path) -> None:
    """Filtered events move it by pings, but never beyond an event in hand."""
    with World(tmp_path / "data", ping_interval=0.05) as world:
        path = tmp_path / "checkpoint"
        rules = {"match": {"type": "value", "value": "yes", "parameter": {"source": "payload", "name": ""}}}

        def kept() -> str:
            [bucket] = json.loads(path.read_text())["buckets"].values()
            return str(bucket["id"])

        async def main() -> None:
            async with world.subscribe(since="earliest", checkpoint=path, filter=rules) as events:
                world.send("no", "yes", "no", "no")
                event = await anext(events)
                core = events._core
                assert core is not None
                await until(lambda: core.tracker.since()[event.bucket_id].endswith("-4"), "a ping")  # type: ignore[attr-defined]
                assert event.seq == 2
                assert kept().rpartition("-")[2] < "2"
                waiting = asyncio.ensure_future(anext(events))
                await until(lambda: kept().endswith("-4"), "the checkpoint to move with the pings")
                waiting.cancel()

        run(main())


@client_test
async def test_a_checkpoint_that_fails_is_told(shared: World, tmp_path: Path) -> None:
    """What can't be saved or read raises CheckpointError with words; nothing is lost by it."""
    bucket = shared.bucket()
    shared.send("1", "2", bucket=bucket)

    class Broken:
        fails = True

        async def load(self) -> str | None:
            return None

        async def save(self, text: str) -> None:
            if self.fails:
                raise OSError("the disk is gone")

    broken = Broken()
    async with shared.subscribe(bucket, since="earliest", checkpoint=broken) as events:
        with pytest.raises(CheckpointError, match="the disk is gone"):
            await anext(events)
        broken.fails = False
        assert (await anext(events)).text == "1"
        broken.fails = True
        with pytest.raises(RelayClientError, match="the disk is gone"):
            await anext(events)
        broken.fails = False
        assert (await anext(events)).text == "2"
    (tmp_path / "bad").write_text("{}")
    async with shared.subscribe(bucket, checkpoint=tmp_path / "bad") as events:
        with pytest.raises(RelayClientError, match="delete it"):
            await anext(events)
    async with shared.subscribe(bucket, checkpoint=tmp_path) as events:
        with pytest.raises(CheckpointError, match=r"can't be read: .* is no regular file"):
            await anext(events)


@client_test
async def test_nothing_is_given_while_the_checkpoint_cannot_be_saved(shared: World) -> None:
    """Also in a later run: a program that is started again and again would get the same event each time."""
    bucket = shared.bucket()
    shared.send("1", bucket=bucket)
    saved: list[str] = []
    async with shared.subscribe(bucket, since="earliest", checkpoint=Memory(saved)) as events:
        assert (await anext(events)).text == "1"

    class Full(Memory):
        def save(self, text: str) -> None:
            raise OSError("the disk is full")

    with pytest.raises(CheckpointError, match="the disk is full"):
        async with shared.subscribe(bucket, checkpoint=Full(saved)) as events:
            await anext(events)
    async with shared.subscribe(bucket, checkpoint=Memory(saved)) as events:
        assert (await anext(events)).text == "1"


# gaps


def test_gaps_are_told_in_their_place(tmp_path: Path) -> None:
    """A position whose events are gone gives a Gap before the next event, once; "fail" raises it every time."""
    path = tmp_path / "checkpoint"
    told: list[Any] = []

    async def main(world: World) -> None:
        bucket = world.bucket("short", "--retention-events", "2")
        world.send("1", bucket=bucket)
        async with world.subscribe(bucket, since="earliest", checkpoint=path) as events:
            first = await anext(events)
            await first.done()
        world.send(*"23456", bucket=bucket)

        def trimmed() -> bool:
            return len(world.relay.call("logs.list", bucket=bucket)["data"]) == 2

        await until(trimmed, "retention")
        for _ in range(2):
            async with world.subscribe(bucket, checkpoint=path, on_gap="fail") as events:
                with pytest.raises(GapRefused) as refused:
                    await anext(events)
            assert refused.value.code == 4509
            assert refused.value.gaps == (Gap(bucket, 2, 4, 3, "retention"),)

        async def tell(gap: Gap) -> None:
            await asyncio.sleep(0)
            told.append(gap)

        async with world.subscribe(bucket, checkpoint=path, on_gap=tell) as events:
            event = await anext(events)
            assert told == [Gap(bucket, 2, 4, 3, "retention")]
            assert event.text == "5"
        assert str(told[0]) == "3 events (2 to 4) of short are missing (retention)"
        # Past the gap the position is good, even with no event done since.
        async with world.subscribe(bucket, checkpoint=path, on_gap="fail") as events:
            assert (await anext(events)).text == "5"

    with World(tmp_path / "data", retention_interval=0.05) as world:
        run(main(world))


# answers


@client_test
async def test_respond(shared: World) -> None:
    """An answer is stored with status, headers and body, and becomes the sender's where the input waits for it."""
    bucket = shared.bucket()
    shared.relay.command("output", "create", bucket, "--name", "out", "--destination", "http://127.0.0.1:1/")
    shared.relay.command("input", "set", bucket, "--response-from-output", "anyOutput")
    async with shared.subscribe(bucket) as events:
        pending = asyncio.ensure_future(anext(events))
        core = events._core
        while core is None or core._link is None:
            await asyncio.sleep(0.005)
            core = events._core
        sending = asyncio.create_task(asyncio.to_thread(shared.post, bucket, "x"))
        event = await pending
        assert (event.output, event.destination) == ("out", "http://127.0.0.1:1/")
        await event.respond(201, b"\xff\x00", {"X-A": ["1", "2"], "X-B": "3"})
        assert await sending == (201, b"\xff\x00")
        with pytest.raises(Rejected) as rejected:
            await event.respond(42)
        assert rejected.value.code == "invalid"
    with pytest.raises(RelayClientError, match="closed"):
        await event.respond(200)


@client_test
async def test_an_answer_survives_a_cut(shared: World) -> None:
    """What was not answered when the connection ended is sent again on the next one."""
    bucket = shared.bucket()
    shared.send("1", bucket=bucket)
    async with (
        Cable(shared.relay.port) as cable,
        shared.subscribe(bucket, url=cable.url, since="earliest") as events,
    ):
        event = await anext(events)
        cable.cut_after = 1
        cable.cut()
        core = events._core
        assert core is not None
        await until(lambda: core._link is None, "the cut")
        answering = asyncio.create_task(event.respond(202, "done"))
        await until(lambda: len(core._answers._waiting) == 1, "the answer to wait")
        cable.cut_after = None
        await answering
    stored = shared.relay.command("logs", "show", event.id)
    assert stored["status_code"] == 202


# bounds and ends


def test_it_reads_no_further_than_its_buffer(shared: World) -> None:
    """An application that takes nothing holds the buffer's size and what the library reads at once, not the log."""
    bucket = shared.bucket()
    body = "x" * 100_000
    shared.send(*(body for _ in range(60)), bucket=bucket)

    async def main() -> None:
        async with shared.subscribe(bucket, since="earliest", buffer=500_000) as events:
            first = await anext(events)
            core = events._core
            assert core is not None
            await until(lambda: core.intake.full, "a full buffer")
            for _ in range(20):
                await asyncio.sleep(0.01)
                assert core.intake.size < 500_000 + 101_000
            # An answer gets through all the same: its word lies behind what is unread.
            await first.respond(200, b"")
            rest = await take(events, 59)
            assert [event.seq for event in rest] == list(range(2, 61))

    run(main())


@client_test
async def test_cancelling_loses_nothing(shared: World) -> None:
    """A wait that is cut short, over and over, leaves every event to the next one."""
    bucket = shared.bucket()
    async with shared.subscribe(bucket, since="earliest") as events:
        got: list[str] = []
        sending = asyncio.create_task(asyncio.to_thread(shared.send, *map(str, range(40)), bucket=bucket))
        while len(got) < 40:
            waiting = asyncio.ensure_future(anext(events))
            await asyncio.sleep(0.001)
            waiting.cancel()
            with suppress(asyncio.CancelledError):
                got.append((await waiting).text)
        await sending
        assert got == [str(number) for number in range(40)]


def test_it_ends_when_it_is_closed_or_dropped(shared: World) -> None:
    """`aclose` ends a waiting iteration; a subscription that nobody holds closes its connection."""
    bucket = shared.bucket()
    shared.send("1", bucket=bucket)

    async def first() -> str:
        async for event in shared.subscribe(bucket, since="earliest"):
            return event.text
        raise AssertionError

    async def main() -> None:
        async with shared.subscribe(bucket) as events:
            waiting = asyncio.ensure_future(anext(events, None))
            await asyncio.sleep(0)
            await events.aclose()
            assert await waiting is None
            assert [event async for event in events] == []
        assert await first() == "1"
        gc.collect()
        await until(lambda: len(asyncio.all_tasks()) <= 2, "the client's task to end")

    run(main())


@client_test
async def test_without_a_relay_it_waits(tmp_path: Path) -> None:
    """A relay that is not there yet is waited for, with growing waits, and said."""
    said: list[float] = []
    world = World(tmp_path / "data")
    with world:
        url, key, secret = world.relay.url, world.key, world.secret
        world.relay.kill()
        async with subscribe(
            url,
            key,
            secret,
            since="earliest",
            backoff=SOON,
            on_notice=lambda notice: said.append(notice.delay or 0),
        ) as events:
            waiting = asyncio.ensure_future(anext(events))
            await until(lambda: len(said) >= 3, "three tries")
            await asyncio.to_thread(world.relay.start)
            world.send("there")
            assert (await waiting).text == "there"
    assert all(0 < delay <= SOON.longest for delay in said[:3])
