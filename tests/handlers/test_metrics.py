"""/metrics on a real site: who may read it, and that what happens is counted."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
from prometheus_client.parser import text_string_to_metric_families
from websockets.asyncio.client import connect

from relay_tornado.admin.consumers import ConsumerAdministration
from relay_tornado.app import Relay
from relay_tornado.errors import Unavailable
from relay_tornado.gauges import ConsumerLevels
from relay_tornado.model import NewEvent, RateLimit, Retention
from relay_tornado.ops import backup_schedule
from relay_tornado.ops.backup_schedule import name_at
from relay_tornado.settings import Settings
from tests.handlers.edge import URL, edge
from tests.handlers.raw import Raw, basic, request
from tests.handlers.sockets import Client
from tests.pairs import write_pair

Samples = dict[tuple[str, str], float]


def samples(body: bytes) -> Samples:
    """By a sample's name and the value of its (one) label."""
    return {
        (sample.name, next(iter(sample.labels.values()), "")): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


async def scrape(port: int) -> Samples:
    async with Raw(port) as raw:
        reply = await raw.ask(request(b"/metrics", method=b"GET"))
    assert reply.status == 200
    assert (reply.header("Content-Type") or "").startswith("text/plain")
    return samples(reply.body)


@pytest.mark.gen_test
async def test_who_may_read_it() -> None:
    """An administrator's token may; another token, none, and nonsense get words."""
    async with edge() as site:
        keys, secrets = {}, {}
        for name, changes in {
            "all": {},
            "no API": {"api_access": False},
            "some": {"buckets": frozenset({"b-1"})},
            "expired": {"expires_at": 1.0},
        }.items():
            keys[name], secrets[name] = await site.token(**changes)
        async with Raw(site.port) as raw:

            async def ask(value: str) -> tuple[int, bytes]:
                line = f"Authorization: {value}\r\n".encode() if value else b""
                reply = await raw.ask(request(b"/metrics", method=b"GET", headers=line))
                return reply.status, reply.body

            assert (await ask(f"Bearer {secrets['all']}"))[0] == 200
            assert (await ask(basic(keys["all"], secrets["all"])))[0] == 200
            assert (await ask(basic(keys["some"], secrets["all"])))[0] == 401
            assert (await ask(basic(keys["some"], secrets["some"])))[0] == 403
            for value in ("", "Bearer", "Bearer x", f"Basic {secrets['all']}", f"Bearer {secrets['expired']}"):
                status, body = await ask(value)
                assert (status, b'"code": "unauthorized"' in body) == (401, True)
            for name in ("no API", "some"):
                assert (await ask(f"Bearer {secrets[name]}"))[0] == 403


@pytest.mark.gen_test
async def test_a_401_offers_what_is_taken() -> None:
    """Bearer and Basic: some clients send a key and secret only when they are asked."""
    async with edge() as site, Raw(site.port) as raw:
        reply = await raw.ask(request(b"/metrics", method=b"GET"))
        asked = [value.split()[0] for name, value in reply.headers if name.lower() == "www-authenticate"]
        assert (reply.status, asked) == (401, ["Basic", "Bearer"])


@pytest.mark.gen_test
async def test_refusals_are_counted() -> None:
    """Each webhook that is refused, by why."""
    async with edge(max_body=100, body_timeout=0.2) as site, Raw(site.port) as raw:
        counted = site.counters.rejections
        assert (await raw.ask(request(URL + b"x", b"x"))).status == 404
        assert (await raw.ask(request(URL, bytes(101)))).status == 413
        await site.change(input={"rate_limit": RateLimit(1, 600)})
        assert {(await raw.ask(request(URL, b"x"))).status for _ in range(3)} == {200, 429}
        await site.change()
        async with Raw(site.port) as slow:
            slow.send(request(URL, bytes(50))[:-10])
            assert (await slow.reply()).status == 408
        assert (counted["not_found"], counted["too_large"], counted["timeout"]) == (1, 1, 1)
        assert counted["rate_limited"] >= 1
        assert sum(counted.values()) == 3 + counted["rate_limited"]


def test_a_relay_under_traffic(tmp_path: Path) -> None:
    """What the open port gives out is what was done: events, deliveries, lag, gaps, failures, sizes, build."""

    async def run() -> tuple[Samples, Samples]:
        relay = Relay(Settings(port=0, metrics_port=0, data=tmp_path, retention_age=None))
        await relay.start()
        try:
            administration = relay.administration
            bucket = await administration.create_bucket("orders", dedupe={"header": "X-Id", "window": 60})
            token, secret = await administration.create_token()
            assert relay.metrics_port is not None
            before = await scrape(relay.metrics_port)
            url = f"/v1/webhooks/{bucket.inputs[0].id}".encode()
            async with connect(f"ws://127.0.0.1:{relay.port}/v1/socket", ping_interval=None, proxy=None) as socket:
                client = Client(socket)
                await client.say({"action": "auth", "key": token.key, "secret": "wrong"})
                await client.end()
            async with (
                connect(f"ws://127.0.0.1:{relay.port}/v1/socket", ping_interval=None, proxy=None) as socket,
                Raw(relay.port) as sender,
            ):
                for number in range(10):
                    assert (await sender.ask(request(url, b"x" * 100, b"X-Id: %d\r\n" % (number // 2)))).status == 200
                await administration._log.trim(bucket.id, Retention(max_events=4), None)
                client = Client(socket)
                await client.sign_in(token.key, secret)
                epoch = (await administration._log.bounds(bucket.id)).epochs[0].epoch
                await client.subscribe("orders", since=f"{epoch}-0")
                assert [(await client.hear())["meta"]["seq"] for _ in range(4)] == [2, 3, 4, 5]
                after = await scrape(relay.metrics_port)
            return before, after
        finally:
            await relay.stop()

    before, after = asyncio.run(asyncio.wait_for(run(), 60))
    assert before["relay_events_total", ""] == 0
    assert after["relay_events_total", ""] == 5
    assert after["relay_event_bytes_total", ""] > 500
    assert after["relay_duplicates_total", ""] == 5
    assert after["relay_commit_seconds_count", ""] == after["relay_commit_events_count", ""] > 0
    assert after["relay_commit_events_sum", ""] == 5
    assert after["relay_retention_events_total", ""] == 1
    assert after["relay_deliveries_total", ""] == 4
    assert after["relay_delivered_bytes_total", ""] > 400
    assert after["relay_auth_failures_total", ""] == 1
    assert after["relay_gaps_total", "retention"] == 1
    assert after["relay_subscribers", ""] == 1
    assert after["relay_bucket_lag_events", "orders"] == 0
    assert after["relay_buckets", ""] == 1
    assert after["relay_ready", ""] == 1
    assert after["relay_connections", ""] == 2
    assert after["relay_database_bytes", ""] > 0
    assert after["relay_space_free_bytes", ""] > after["relay_space_reserve_bytes", ""] > 0
    assert after["relay_events_missing", ""] == 0
    assert after["relay_append_queue_limit_bytes", ""] == Settings().append_queue
    assert after["process_open_fds", ""] > 0
    assert "relay_build_info" in {name for name, _ in after}


@pytest.mark.gen_test
async def test_what_is_wrong_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backup that failed beside one of before, a certificate whose new files are none, a destination that is away
    and waits for its next try, and how far behind its output is, which could not be read at first."""

    async def run(*_: object) -> None:
        raise backup_schedule._Failed("no room")

    real, broken = ConsumerAdministration.standings, [Unavailable("the disk fails")]

    async def standings(consumers: ConsumerAdministration, buckets: Any) -> Any:
        if broken:
            raise broken.pop()
        return await real(consumers, buckets)

    monkeypatch.setattr(backup_schedule, "_run", run)
    monkeypatch.setattr(ConsumerAdministration, "standings", standings)
    monkeypatch.setattr(ConsumerLevels, "EVERY", 0.05)
    ends = datetime.now(UTC) + timedelta(30)
    leaf = trustme.CA().issue_cert("127.0.0.1", not_after=ends)
    certificate, key = write_pair(tmp_path, leaf)
    (tmp_path / "backups").mkdir()
    (tmp_path / "backups" / name_at(1_000_000_000)).write_bytes(bytes(77))
    settings = Settings(port=0, metrics_port=0, data=tmp_path / "data", backup_dir=tmp_path / "backups")
    files = {"tls_cert": certificate, "tls_key": key}
    relay = Relay(dataclasses.replace(settings, **files, forward_allow="127.0.0.0/8", backup_every=7200.0))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        away = f"http://127.0.0.1:{taken.getsockname()[1]}/"
    await relay.start()
    try:
        bucket = await relay.administration.create_bucket("orders")
        await relay.administration.create_output(bucket.id, name="away", internal=False, destination=away)
        for _ in range(3):
            await relay.administration.logs.stored.log.append(
                bucket.id, NewEvent(bucket.inputs[0].id, "POST", b"", b"", b"", b"x", "::1")
            )
        (tmp_path / "cert.pem").write_text("none")
        relay.reload()
        port = relay.metrics_port
        assert port is not None
        found: Samples = {}
        async with asyncio.timeout(60):
            while (
                found.get(("relay_consumer_lag_events", "orders")) != 3
                or found["relay_forward_retries", ""] != 1
                or found["relay_forward_requests", ""] != 0  # it may be at its next try
                or found["relay_certificate_reload_success", ""] != 0
                or found["relay_backup_last_success", ""] != 0
            ):
                found = await scrape(port)
            wal = (tmp_path / "data" / "relay.db-wal").stat().st_size
    finally:
        await relay.stop()
    assert found["relay_forward_circuits_open", ""] == 0
    assert found["relay_consumer_lag_seconds", "orders"] > 0
    assert found["relay_dead_letters", "orders"] == 0
    assert abs(found["relay_certificate_expiry_timestamp_seconds", ""] - ends.timestamp()) <= 1
    assert found["relay_backup_interval_seconds", ""] == 7200
    assert found["relay_backup_last_success_timestamp_seconds", ""] == 1_000_000_000
    assert found["relay_backup_last_size_bytes", ""] == 77
    assert ("relay_backup_last_duration_seconds", "") not in found
    assert 0 < found["relay_wal_bytes", ""] <= wal


@pytest.mark.gen_test
async def test_slow_requests_leave_the_port_of_its_own() -> None:
    """Requests whose bodies never come hold no connection to it for longer than any other body may take."""
    async with edge(metrics_port=0, body_timeout=0.2) as site, AsyncExitStack() as stack:
        port = site.site.metrics_port
        assert port is not None
        slow = [await stack.enter_async_context(Raw(port)) for _ in range(32)]
        for each in slow:
            each.send(request(b"/metrics", b"x" * 5)[:-1])
        for each in slow:
            assert (await each.reply()).status == 408
            assert await each.closed() == b""
        async with Raw(port) as raw:
            assert (await raw.ask(request(b"/metrics", method=b"GET"))).status == 200
