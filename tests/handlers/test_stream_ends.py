"""/v1/stream: signs of life, and what ends a stream."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from urllib.parse import quote

import pytest
import structlog

from relay_tornado.delivery.bounds import CHUNK
from relay_tornado.handlers import feed
from relay_tornado.ids import hash_secret
from relay_tornado.model import Retention
from tests.handlers.edge import BUCKET
from tests.handlers.raw import TIMEOUT
from tests.handlers.streams import Source, here
from tests.waiting import until


async def ended(source: Source, code: str) -> None:
    """The next event says why, and is the last one."""
    assert (await source.hear("error")).document["code"] == code
    assert await source.next() is None


@pytest.mark.gen_test
async def test_it_ends_with_its_token() -> None:
    """Revoked, expired, or with a secret that was rotated away; one that loses a bucket loses that one's events."""
    async with here() as site:
        registry = site.edge.registry
        revoked, brief, rotated, scoped = [await site.token() for _ in range(4)]
        async with site.source(secret=revoked) as source:
            await source.hear("subscribed")
            await registry.delete("token", hash_secret(revoked))
            await source.hear("caught_up")
            await ended(source, "token_revoked")
        async with site.source(secret=brief) as source:
            await source.hear("subscribed")
            await source.hear("caught_up")
            token = registry.get("token", hash_secret(brief))
            await registry.put("token", token.key, dataclasses.replace(token, expires_at=time.time() + 0.2))
            await ended(source, "token_expired")
        async with site.source(secret=rotated) as source:
            await source.hear("subscribed")
            await source.hear("caught_up")
            token = registry.get("token", hash_secret(rotated))
            fresh = dataclasses.replace(token, secret_hash="h", previous_hash=token.secret_hash,
                                        previous_until=time.time() + 0.2)  # fmt: skip
            await registry.put("token", token.key, fresh)
            await ended(source, "token_revoked")
        async with site.source("bucket=orders", secret=scoped) as source:
            await source.hear("subscribed")
            await source.hear("caught_up")
            token = registry.get("token", hash_secret(scoped))
            await registry.put("token", token.key, dataclasses.replace(token, buckets=frozenset({"id-x"})))
            await source.hear("bucket_deleted")


@pytest.mark.gen_test
async def test_it_ends_once() -> None:
    """Whatever else would end it while its client reads the last words."""
    async with here() as site:
        await site.append(200, body=b"x" * 100_000)
        async with site.source("since=earliest") as source:
            await source.hear("subscribed")
            (there,) = site.edge.site.clients.subscribed
            await until(there._stream.writing)  # type: ignore[attr-defined]
            there.token_expired()
            there.send_away("later")
            assert (await source.until("error")).document["code"] == "token_expired"
            assert await source.next() is None
            assert await source.reader.read() == b""


@pytest.mark.gen_test
async def test_at_a_drain_it_is_told_to_come_back() -> None:
    """And nobody waits for it, nor for a client that reads nothing any more."""
    async with here() as site, site.source() as source, site.source() as deaf:
        await source.hear("subscribed")
        await source.hear("caught_up")
        await deaf.hear("subscribed")
        with structlog.testing.capture_logs() as lines:
            await asyncio.wait_for(site.edge.site.stop(), TIMEOUT)
        await ended(source, "going_away")
        assert [each["event"] for each in lines if each["event"] in ("stream_closed", "clients_sent_away")] == [
            "clients_sent_away"
        ]


@pytest.mark.gen_test
async def test_retention_that_overtakes_a_slow_reader_is_told() -> None:
    """As a gap; with on_gap fail it is the end."""
    async with here() as site:
        await site.append(400, body=b"x" * 50_000)
        async with site.source("since=earliest") as slow, site.source("since=earliest&on_gap=fail") as failing:
            for each in (slow, failing):
                assert (await each.hear("subscribed")).document["buckets"][0]["gap"] is None
            await site.edge.log.trim(BUCKET.id, Retention(max_events=1), None)
            got = []
            while (message := await slow.next()) is not None and message.kind == "webhook":
                got.append(message.document["meta"]["seq"])
            assert message is not None
            assert message.kind == "gap"
            assert got == list(range(1, len(got) + 1))
            assert message.document["gap"]["from"] == len(got) + 1
            assert message.document["gap"]["to"] == 399
            assert message.id.partition("@")[0].endswith("-399")
            assert await slow.seqs(1) == [400]
            while (message := await failing.next()) is not None and message.kind == "webhook":
                pass
            assert message is not None
            assert message.kind == "gap"
            await ended(failing, "gap_refused")


@pytest.mark.gen_test
async def test_a_slow_reader_costs_bounded_memory_and_slows_nobody() -> None:
    """40 MB that it does not read stay in the log; others get everything meanwhile, and it does when it reads on."""
    async with here() as site, site.source("bucket=orders") as slow, site.source("bucket=orders") as quick:
        for each in (slow, quick):
            await each.hear("subscribed")
            await each.hear("caught_up")
        feeds = site.edge.site.clients.subscribed
        assert len(feeds) == 2
        most = 0
        for seq in range(1, 401):
            await site.append(body=b"x" * 100_000)
            assert await quick.seqs(1) == [seq]
            waiting = [len(each._stream._write_buffer) for each in feeds]  # type: ignore[attr-defined]
            most = max(most, *waiting)
        assert 0 < most <= 2 * CHUNK
        assert site.edge.site.clients.deliveries.budget.outstanding <= 2 * CHUNK
        assert await slow.seqs(400) == list(range(1, 401))


@pytest.mark.gen_test
async def test_one_that_reads_nothing_for_long_is_cut_off() -> None:
    """After `stuck_timeout`, while one that only has nothing to read stays."""
    async with here(stuck_timeout=0.8, ping_interval=0.1) as site:
        await site.append(200, body=b"x" * 100_000)
        async with site.source() as idle, site.source("since=earliest") as stuck:
            await idle.hear("subscribed")
            await stuck.hear("subscribed")
            await until(lambda: site.edge.site.clients.count == 1)
            await idle.hear("caught_up")
            await site.append()
            await idle.hear("webhook")


@pytest.mark.gen_test
async def test_heartbeats_that_do_not_leave_are_not_made_again() -> None:
    """One is enough for a client that reads nothing."""
    async with here(ping_interval=0.02) as site:
        await site.append(200, body=b"x" * 100_000)
        async with site.source("since=earliest") as source:
            await source.hear("subscribed")
            (there,) = site.edge.site.clients.subscribed
            assert isinstance(there, feed.Feed)
            heartbeat = None
            while heartbeat is None or heartbeat.done():  # the kernel took it
                await until(lambda: there._heartbeat is not None and not there._heartbeat.done())
                heartbeat, due = there._heartbeat, there._next
                await until(lambda: there._next > due + 0.1)  # noqa: B023
            assert there._heartbeat is heartbeat


@pytest.mark.gen_test
async def test_last_words_that_nobody_reads_are_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that reads nothing keeps its place for a moment only once its stream has ended."""
    monkeypatch.setattr(feed, "_LAST_WORDS", 0.1)
    async with here() as site:
        await site.append(200, body=b"x" * 100_000)
        secret = await site.token()
        async with site.source("since=earliest", secret=secret) as source:
            await source.hear("subscribed")
            (there,) = site.edge.site.clients.subscribed
            await until(there._stream.writing)  # type: ignore[attr-defined]
            await site.edge.registry.delete("token", hash_secret(secret))
            await until(lambda: not site.edge.site.clients.count, timeout=30)


@pytest.mark.gen_test
async def test_where_nothing_is_acknowledged_one_whose_kernel_takes_all_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not known there what its side has received."""
    monkeypatch.setattr(feed, "acknowledged", lambda _: None)
    async with here(stuck_timeout=0.4, ping_interval=0.1) as site, site.source() as source:
        for _ in range(12):
            await source.until("ping")


@pytest.mark.gen_test
async def test_the_connection_ends_with_its_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once they have left: nobody waits for the client to close it."""
    monkeypatch.setattr(feed, "_LAST_WORDS", 1000.0)
    async with here() as site:
        secret = await site.token()
        async with site.source(secret=secret) as source:
            await source.hear("subscribed")
            await site.edge.registry.delete("token", hash_secret(secret))
            await until(lambda: not site.edge.site.clients.count)
            await source.closed()


@pytest.mark.gen_test
async def test_heartbeats_are_events_with_positions() -> None:
    """Also where nothing has moved, so that a page's script knows that its connection is alive."""
    async with here(ping_interval=0.05) as site, site.source("bucket=orders") as source:
        epoch = (await source.hear("subscribed")).id.partition("-")[0]
        await source.hear("caught_up")
        await site.append(2)
        assert await source.seqs(2) == [1, 2]
        moved: list[dict[str, str]] = []
        while not moved or moved[-1]:
            ping = await source.hear("ping")
            assert ping.id == f"{epoch}-2"
            moved.append(ping.document["positions"])
        assert {"orders": f"{epoch}-2"} in moved


@pytest.mark.gen_test
async def test_heartbeats_have_their_time_between_them() -> None:
    """However much is delivered meanwhile; a stream is no flood of signs of life."""
    async with here(ping_interval=0.05) as site, site.source("bucket=orders") as source:
        await source.until("caught_up")
        (there,) = site.edge.site.clients.subscribed
        there._heartbeats = 1000.0  # type: ignore[attr-defined]
        await source.until("ping")
        pings = 0
        for seq in range(1, 11):
            await site.append()
            message = await source.next()
            while message is not None and message.kind == "ping":
                pings += 1
                message = await source.next()
            assert message is not None
            assert message.document["meta"]["seq"] == seq
        assert pings <= 1, "it may have been on its way"


@pytest.mark.gen_test
async def test_a_filter_that_passes_nothing_still_moves_the_position() -> None:
    """By pings, which carry an id, so that a client that comes back does not begin where it once began."""
    rules = quote('{"match": {"type": "value", "parameter": {"source": "header", "name": "X"}, "value": "1"}}')

    async with here(ping_interval=0.05) as site:
        for query in (f"bucket=orders&filter={rules}", f"filter={rules}"):
            async with site.source(query) as source:
                await source.hear("subscribed")
                await source.hear("caught_up")
                await site.append(20)
                head = (await site.edge.log.bounds(BUCKET.id)).head
                while True:
                    ping = await source.hear("ping")
                    if ping.id.partition("@")[0].endswith(f"-{head}"):
                        break
                assert ping.document["positions"] == {"orders": ping.id.partition("@")[0]}


@pytest.mark.gen_test
async def test_no_id_leads_back() -> None:
    """Also where a sign of life is made while events are on their way that delivery does not know to be written."""
    async with here(ping_interval=0.05) as site:
        await site.append(200, body=b"x" * 100_000)
        async with site.source("bucket=orders&since=earliest") as source:
            await source.hear("subscribed")
            (there,) = site.edge.site.clients.subscribed
            await until(lambda: there._heartbeat is not None and there._stream.writing())  # type: ignore[attr-defined]
            before = there._ids[BUCKET.id]  # type: ignore[attr-defined]
            there._beat()  # type: ignore[attr-defined]
            assert there._ids[BUCKET.id] == before  # type: ignore[attr-defined]
            seqs = [int(source.id.rpartition("-")[2])]
            while seqs[-1] < 200:
                message = await source.next()
                assert message is not None
                seqs.append(int(message.id.rpartition("-")[2]))
            assert seqs == sorted(seqs)


def test_they_come_every_15_seconds() -> None:
    """With the settings that there are, proxies' usual time-outs of 30 and 60 s are never met."""
    assert feed.HEARTBEAT == 15.0
