"""The composition root: a relay starts whole or not at all, ends clean, and gives its directory free."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import socket
import sqlite3
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import websockets

from relay_tornado import app
from relay_tornado.admin.housekeeping import Housekeeping
from relay_tornado.app import Relay
from relay_tornado.engine import open_administration
from relay_tornado.errors import Locked, NewerSchema, StartupError
from relay_tornado.forwarding.forwarding import Forwarding
from relay_tornado.gauges import ConsumerLevels
from relay_tornado.handlers.site import Site
from relay_tornado.log.consumers import Key, Terms
from relay_tornado.ops.backup_schedule import Backups
from relay_tornado.registry.sqlite_uses import SqliteUses
from relay_tornado.search.index import Index
from relay_tornado.series.series import Series
from relay_tornado.settings import Settings
from relay_tornado.storage.database import Database
from relay_tornado.storage.maintenance import Maintenance
from tests.failing import once
from tests.forwarding.target import Target, once_open
from tests.handlers.raw import HEALTH, TIMEOUT, Raw, Reply, request
from tests.needs import needs_ipv6
from tests.storage.faults import Faults, always
from tests.waiting import until


def settings(folder: Path, **changes: Any) -> Settings:
    changes = {"data": folder, "port": 0, **changes}
    return dataclasses.replace(Settings(), **changes)


async def started(folder: Path, **changes: Any) -> Relay:
    relay = Relay(settings(folder, **changes))
    await relay.start()
    return relay


async def ask(port: int, asked: bytes) -> Reply:
    """The answer to a request on a connection of its own."""
    async with Raw(port) as raw:
        return await raw.ask(asked)


@pytest.mark.gen_test
async def test_a_relay(tmp_path: Path) -> None:
    """It takes webhooks, is stopped with all that it did in the background, and a second one on the same directory
    has them."""
    tasks = asyncio.all_tasks()
    relay = await started(tmp_path)
    bucket = await relay.administration.create_bucket("orders")
    path = f"/v1/webhooks/{bucket.inputs[0].id}".encode()
    async with Raw(relay.port) as raw:
        assert (await raw.ask(request(path, b"one"))).status == 200
        assert (await raw.ask(request(b"/readyz", method=b"GET"))).status == 200
        await relay.stop()
        assert await raw.closed() == b""
    await relay.stop()
    await until(lambda: asyncio.all_tasks() == tasks)
    relay = await started(tmp_path)
    async with Raw(relay.port) as raw:
        assert (await raw.ask(request(path, b"two"))).status == 200
    await relay.stop()
    with sqlite3.connect(tmp_path / "relay.db") as database:
        assert database.execute("SELECT seq, body FROM event ORDER BY seq").fetchall() == [(1, b"one"), (2, b"two")]
    database.close()


@pytest.mark.gen_test
async def test_a_loss_is_told_by_the_relay(tmp_path: Path) -> None:
    """Commands that open the directory before it leave the loss to it, whatever they change, as does a relay that
    could not start, and `/readyz` and the metrics say how many events are missing; the next relay says nothing any
    more."""
    relay = await started(tmp_path)
    bucket = await relay.administration.create_bucket("orders")
    path = f"/v1/webhooks/{bucket.inputs[0].id}".encode()
    await relay.stop()
    old = (tmp_path / "relay.db").read_bytes()
    relay = await started(tmp_path)
    async with Raw(relay.port) as raw:
        assert (await raw.ask(request(path, b"lost"))).status == 200
    await relay.stop()
    (tmp_path / "relay.db").write_bytes(old)
    for name in ("a", "b", "c"):
        async with open_administration(settings(tmp_path)) as administration:
            await administration.create_bucket(name)
    database = await Database.open(settings(tmp_path))
    await database.close()
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(StartupError, match="can't listen on"):
        await started(tmp_path, port=taken.getsockname()[1])
    for missing in (1, 0):
        relay = await started(tmp_path, metrics_port=0)
        assert relay.metrics_port is not None
        ready = await ask(relay.port, request(b"/readyz", method=b"GET"))
        metrics = await ask(relay.metrics_port, request(b"/metrics", method=b"GET"))
        assert json.loads(ready.body).get("events_missing", 0) == missing
        assert f"relay_events_missing {missing}.0\n".encode() in metrics.body
        await relay.stop()


@pytest.mark.parametrize("code", [sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR])
@pytest.mark.gen_test
async def test_a_disk_that_takes_nothing_keeps_no_relay_from_starting(
    tmp_path: Path, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What there is can be read, and what the start has to store of consumers and outputs is stored once it can be."""
    relay = await started(tmp_path)
    administration = relay.administration
    bucket = await administration.create_bucket("orders")
    assert (await ask(relay.port, request(f"/v1/webhooks/{bucket.inputs[0].id}".encode(), b"one"))).status == 200
    for name in ("a", "b", "c"):
        ledger = await administration.ledgers.open(Key(bucket.id, "client", name), 0, Terms(30.0, 2))
        (one,) = ledger.progress.take(1, 1, 1.0)
        ledger.progress.begin(one)
        ledger.save()
    await administration.ledgers.store.create(Key(bucket.id, "output", "9"), 0, Terms(), 1.0)
    await relay.stop()
    faults, opened, opens = Faults(), [], Database.open

    async def opening(*args: Any, **options: Any) -> Database:
        opened.append(await opens(*args, **options, factory=faults.factory))
        return opened[-1]

    monkeypatch.setattr(Database, "open", opening)
    faults.before = always("COMMIT", code)
    relay = await started(tmp_path)
    try:
        assert (await ask(relay.port, HEALTH)).status == 200
        ledgers = relay.administration.ledgers
        for name in ("a", "b", "c"):
            assert next(each for each in await ledgers.store.list() if each.key.name == name).tried
        await until(lambda: opened[0].problem)  # else what begins a moment later fails behind this
        faults.heal()
        await until(lambda: not opened[0].problem)
        for name in ("a", "b", "c"):
            stored = await ledgers.store.get(Key(bucket.id, "client", name))
            assert stored is not None
            assert (list(stored.parked), stored.tried) == ([1], ())
    finally:
        faults.heal()
        await relay.stop()


@pytest.mark.gen_test
async def test_sockets_are_told(tmp_path: Path) -> None:
    """At the end a socket that waits gets 1001, and the relay does not wait for it any longer."""
    relay = await started(tmp_path)
    token, secret = await relay.administration.create_token()
    async with asyncio.timeout(TIMEOUT), websockets.connect(f"ws://127.0.0.1:{relay.port}/v1/socket") as client:
        await client.send(json.dumps({"action": "auth", "key": token.key, "secret": secret}))
        assert json.loads(await client.recv())["status"] == "authenticated"
        stopping = asyncio.create_task(relay.stop())
        with pytest.raises(websockets.ConnectionClosed):
            await client.recv()
        assert client.close_code == 1001
        await stopping


@pytest.mark.gen_test
async def test_one_relay_a_directory(tmp_path: Path) -> None:
    """While one runs a second is refused, and so is the administration of its files; the first is not disturbed."""
    relay = await started(tmp_path)
    with pytest.raises(Locked):
        await started(tmp_path)
    with pytest.raises(Locked):
        async with open_administration(settings(tmp_path)):
            pass
    async with Raw(relay.port) as raw:
        assert (await raw.ask(request(b"/readyz", method=b"GET"))).status == 200
    await relay.stop()
    async with open_administration(settings(tmp_path)) as administration:
        await administration.create_bucket("orders")
    async with open_administration(settings(tmp_path)) as administration:
        assert [bucket.name for bucket in administration.list_buckets()] == ["orders"]


@pytest.mark.gen_test
async def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    """A newer schema and something that is no database are refused in words, again without a trace."""
    relay = await started(tmp_path / "newer")
    await relay.stop()
    with sqlite3.connect(tmp_path / "newer" / "relay.db") as database:
        database.execute("PRAGMA user_version = 999")
    database.close()
    with pytest.raises(NewerSchema):
        await started(tmp_path / "newer")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "relay.db").write_bytes(b"no database at all" * 1000)
    with pytest.raises(StartupError):
        await started(tmp_path / "other")
    (tmp_path / "file").write_text("no directory")
    with pytest.raises(StartupError):
        await started(tmp_path / "file")


@pytest.mark.gen_test
async def test_urls(tmp_path: Path) -> None:
    """Its URL is the public one where there is one, else its address, with brackets around IPv6."""
    needs_ipv6()
    relay = await started(tmp_path, host="::1")
    assert relay.url == relay.address == f"http://[::1]:{relay.port}"
    assert relay.administration.url == relay.url
    await relay.stop()
    relay = await started(tmp_path, public_url="https://relay.example/x")
    assert relay.address == f"http://127.0.0.1:{relay.port}"
    assert relay.administration.url == relay.url == "https://relay.example/x"
    await relay.stop()


@pytest.mark.gen_test
async def test_half_of_a_certificate(tmp_path: Path) -> None:
    """A certificate without its key, or with one that is not there, is refused before anything is opened."""
    for changes, words in (
        ({"tls_cert": tmp_path / "cert.pem"}, "--tls-key go together"),
        ({"tls_key": tmp_path / "key.pem"}, "--tls-key go together"),
        ({"tls_cert": tmp_path / "cert.pem", "tls_key": tmp_path / "key.pem"}, "there is no file"),
    ):
        with pytest.raises(StartupError, match=words):
            await started(tmp_path / "data", **changes)
    assert not (tmp_path / "data").exists()


@pytest.mark.gen_test
async def test_no_backups_in_a_file(tmp_path: Path) -> None:
    """Where they can never be made, the relay does not start; a directory that is missing is made."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StartupError, match=r"/file, which is a file: name a directory with --backup-dir"):
        await started(tmp_path / "data", backup_dir=tmp_path / "file")
    assert not (tmp_path / "data").exists()
    relay = await started(tmp_path / "data", backup_dir=tmp_path / "new" / "backups")
    await relay.stop()


@pytest.mark.gen_test
async def test_a_start_that_can_not_listen_makes_no_directory(tmp_path: Path) -> None:
    """Commands in the same place would take an empty one for the relay's."""
    data = tmp_path / "data"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartupError, match=r"can't listen .* with --host and --port"):
            await started(data, port=port)
        with pytest.raises(StartupError, match=r"can't listen .* with --metrics-host and --metrics-port"):
            await started(data, metrics_port=port)
    assert not data.exists()
    relay = await started(data, metrics_port=0)
    await relay.stop()


@pytest.mark.gen_test
async def test_a_port_that_is_taken(tmp_path: Path) -> None:
    """It keeps the relay from starting, and all that was opened is closed: no thread, no lock, no socket file."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(StartupError, match=r"can't listen .* with --metrics-host and --metrics-port"):
            await started(tmp_path, metrics_port=taken.getsockname()[1])
        with pytest.raises(StartupError, match=r"can't listen .* with --host and --port"):
            await started(tmp_path, port=taken.getsockname()[1])
    assert not (tmp_path / "relay.sock").exists()
    relay = await started(tmp_path, metrics_port=0)
    await relay.stop()


@pytest.mark.gen_test
async def test_what_goes_on_in_the_background_begins_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it fails in a way that nobody foresaw, it begins again a while later, and the end is a clean one."""
    monkeypatch.setattr("relay_tornado.app.RETRY_DELAY", 0.01)
    called: list[str] = []

    def failing(name: str) -> Callable[..., Any]:
        def call(*_: Any) -> Any:
            called.append(name)
            raise TypeError(name)

        return call

    for kind, name in ((ConsumerLevels, "read"), (SqliteUses, "run"), (Series, "open")):
        monkeypatch.setattr(kind, name, failing(f"{kind.__name__}.{name}"))
    relay = await started(tmp_path)
    await until(lambda: all(called.count(each) > 1 for each in called) and len(set(called)) == 3)
    await relay.stop()


@pytest.mark.gen_test
async def test_it_begins_again_without_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where there is none to say that it failed, or to wait."""
    monkeypatch.setattr(app, "RETRY_DELAY", 0.01)
    monkeypatch.setattr(app, "_log", SimpleNamespace(exception=once(lambda *_, **__: None)))
    monkeypatch.setattr(app, "asyncio", SimpleNamespace(sleep=once(asyncio.sleep), current_task=asyncio.current_task))
    begun: list[int] = []

    async def work() -> None:
        begun.append(1)
        raise MemoryError

    working = asyncio.create_task(app._again_and_again(work, "work"))
    await until(lambda: len(begun) > 3 or working.done())
    assert not working.done()
    working.cancel()


@pytest.mark.gen_test
async def test_work_that_fails_at_its_end_does_not_begin_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is cancelled once, so a stop would wait for it for ever."""
    monkeypatch.setattr(app, "RETRY_DELAY", 0.0)
    begun: list[int] = []

    async def work() -> None:
        begun.append(1)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if len(begun) == 1:
                raise OSError("its file can't be closed") from None
            raise

    working = asyncio.create_task(app._again_and_again(work, "work"))
    await until(lambda: bool(begun))
    working.cancel()
    await until(lambda: working.done() or len(begun) > 1)
    assert (len(begun), working.done()) == (1, True)


@pytest.mark.gen_test
async def test_an_end_that_fails_cuts_no_other_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes of a request that is out is stored all the same, and what failed comes out."""
    gate = asyncio.Event()

    async def fail(site: Site) -> None:
        site.listener.close()
        raise RuntimeError("the site")

    monkeypatch.setattr(Site, "stop", fail)
    async with Target(once_open(gate)) as target:
        relay = await started(tmp_path, forward_allow="127.0.0.0/8", drain_timeout=60.0)
        bucket = await relay.administration.create_bucket("orders")
        await relay.administration.create_output("orders", destination=target.url, internal=False)
        async with Raw(relay.port) as raw:
            assert (await raw.ask(request(f"/v1/webhooks/{bucket.inputs[0].id}".encode(), b"one"))).status == 200
        await target.until(1)
        stopping = asyncio.create_task(relay.stop())
        await asyncio.wait([stopping], timeout=1)
        gate.set()
        with pytest.raises(RuntimeError, match="the site"):
            await stopping
    with sqlite3.connect(tmp_path / "relay.db") as database:
        assert database.execute("SELECT status, status_code FROM delivery").fetchall() == [("sent", 200)]
    database.close()


@pytest.mark.gen_test
async def test_a_request_that_is_out_keeps_nobody_out(tmp_path: Path) -> None:
    """While a destination takes its time, webhooks are stored and nothing more is sent; an output that is made then
    gets what comes from then on. The next relay sends it all."""
    gate = asyncio.Event()
    async with Target(once_open(gate)) as slow, Target() as other:
        relay = await started(tmp_path, forward_allow="127.0.0.0/8", drain_timeout=4 * TIMEOUT)
        bucket = await relay.administration.create_bucket("orders")
        await relay.administration.create_output("orders", destination=slow.url, internal=False)
        webhook = f"/v1/webhooks/{bucket.inputs[0].id}".encode()
        async with Raw(relay.port) as raw:
            assert (await raw.ask(request(webhook, b"one"))).status == 200
        await slow.until(1)
        stopping = asyncio.create_task(relay.stop())
        await asyncio.sleep(0)
        async with Raw(relay.port) as raw:
            assert (await raw.ask(request(webhook, b"two"))).status == 200
            await relay.administration.create_output("orders", destination=other.url, internal=False)
            assert (await raw.ask(request(webhook, b"three"))).status == 200
        assert not stopping.done()
        gate.set()
        await asyncio.wait_for(stopping, TIMEOUT)
        assert (slow.bodies, other.bodies) == ([b"one"], [])
        relay = await started(tmp_path, forward_allow="127.0.0.0/8")
        await slow.until(3)
        await other.until(1)
        await relay.stop()
        assert sorted(slow.bodies) == [b"one", b"three", b"two"]
        assert other.bodies == [b"three"]


@pytest.mark.gen_test
async def test_what_can_be_left_for_the_next_start_ends_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While senders are still served: it may take long to end, and would keep them waiting. How it ends is not broken
    off."""
    served: dict[str, bool] = {}
    ended: list[str] = []

    def endless(name: str) -> Callable[..., Any]:
        async def run(_: object) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                while relay._site is not None and relay._site.listener._sockets:
                    served[name] = True
                    await asyncio.sleep(0.001)
                ended.append(name)

        return run

    for kind in (Maintenance, Housekeeping, Backups, Index):
        monkeypatch.setattr(kind, "run", endless(kind.__name__))
    relay = await started(tmp_path / "data", backup_dir=tmp_path / "backups")
    await asyncio.sleep(0)  # what is stopped before its first step has nothing to end
    await relay.stop()
    names = {"Maintenance", "Housekeeping", "Backups", "Index"}
    assert (served.keys(), set(ended)) == (names, names)


@pytest.mark.gen_test
async def test_its_url_is_known_once_it_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while the outputs are being opened, which may take seconds."""
    told: list[tuple[str | None, str]] = []
    start, relay = Forwarding.start, Relay(settings(tmp_path))

    async def begin(forwarding: Forwarding) -> None:
        told.append((relay.administration.url, relay.administration.address))
        await start(forwarding)

    monkeypatch.setattr(Forwarding, "start", begin)
    await relay.start()
    assert told == [(relay.url, relay.address)]
    await relay.stop()
