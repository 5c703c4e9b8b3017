"""What there is, how it does and who listens, over REST: status, series, usage and connected clients."""

from __future__ import annotations

from collections.abc import Awaitable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from relay_tornado.admin.administration import Administration
from relay_tornado.admin.listing import _Merged
from relay_tornado.counters import ConsumerLevel
from relay_tornado.delivery.deliver import Delivery
from relay_tornado.delivery.subscription import Placement
from relay_tornado.gauges import ConsumerLevels
from relay_tornado.handlers.rest import buckets
from relay_tornado.handlers.rest.status import StatusHandler
from relay_tornado.log.sqlite import SqliteEventLog
from relay_tornado.pieces import PIECE_SIZE
from relay_tornado.series.series import Levels, Series
from tests.counting import calls_by_turn
from tests.handlers.rest.world import World, world
from tests.waiting import until


@pytest.mark.gen_test
async def test_status(here: World) -> None:
    """What a bucket holds, who listens, who lags, and what came in the last hour."""
    bucket = await here.bucket("orders", description="shop")
    await here.bucket("empty")
    for _ in range(3):
        await here.send(bucket, b"x")
    async with here.socket("administrator", "orders"):
        answer = (await here.call("GET", "/v1/status")).document
    orders, empty = answer["buckets"]
    assert (orders["first"], orders["head"], orders["events"], orders["subscribers"]) == (1, 3, 3, 1)
    assert (orders["description"], orders["ephemeral"], orders["lag"]) == ("shop", False, None)
    assert orders["bytes"] > 0
    assert orders["oldest_at"] <= orders["newest_at"] <= answer["now"]
    assert (len(orders["rate"]), sum(orders["rate"])) == (60, 3)
    assert (empty["events"], empty["oldest_at"], empty["newest_at"], sum(empty["rate"])) == (0, None, None, 0)


@pytest.mark.gen_test
async def test_status_right_after_a_start(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for the rates of before."""
    await here.bucket("orders")
    rates = [0] * 60

    async def ready(_: Series) -> None:
        rates[-1] = 7

    monkeypatch.setattr(Series, "ready", ready)
    monkeypatch.setattr(Series, "rate", lambda *_: list(rates))
    answer = (await here.call("GET", "/v1/status")).document
    assert [sum(each["rate"]) for each in answer["buckets"]] == [7]


@pytest.mark.gen_test
async def test_status_while_a_bucket_is_deleted(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is left out: the page that asks every few seconds gets no 404."""
    await here.bucket("orders")
    gone = await here.bucket("gone")
    real = SqliteEventLog.extents

    async def extents(log: SqliteEventLog, bucket_ids: Any) -> Any:
        found = await real(log, bucket_ids)
        await log.drop(gone.id)
        return found

    monkeypatch.setattr(SqliteEventLog, "extents", extents)
    answer = await here.call("GET", "/v1/status")
    assert (answer.status, [each["name"] for each in answer.document["buckets"]]) == (200, ["orders"])


@pytest.mark.gen_test
async def test_a_lag_is_of_the_bucket_that_it_was_read_of(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where another bucket, of somebody else, has got its name since."""
    monkeypatch.setattr(ConsumerLevels, "EVERY", 0.01)
    orders, other = await here.bucket("orders"), await here.bucket("other")
    await here.token("scoped", buckets=["other"])
    await here.consumer(orders, "worker")
    await here.send(orders)

    async def lags(token: str = "administrator") -> dict[str, Any]:
        found = (await here.call("GET", "/v1/status", token=token)).document["buckets"]
        return {each["id"]: each["lag"] and each["lag"]["consumer"] for each in found}

    expected = {orders.id: "worker", other.id: None}
    await until(lambda: _is(lags(), expected))

    async def nothing(_: ConsumerLevels) -> None:
        pass

    monkeypatch.setattr(ConsumerLevels, "read", nothing)
    await here.relay.administration.set_bucket("orders", name="former")
    await here.relay.administration.set_bucket("other", name="orders")
    assert await lags() == expected
    assert await lags("scoped") == {other.id: None}


async def _is(found: Awaitable[Any], expected: Any) -> bool:
    return bool(await found == expected)


@pytest.mark.gen_test
async def test_series(here: World) -> None:
    """The relay's, a bucket's and a consumer's; what needs a bucket says so."""
    await here.consumer(await here.bucket("orders"), "worker")
    for span, step in (("hour", 10), ("day", 60), ("month", 1800)):
        answer = (await here.call("GET", f"/v1/series?span={span}")).document
        assert (answer["step"], set(answer["series"]) >= {"events", "commit_p99", "disk_free"}) == (step, True)
        assert answer["from"] % step == 0
    assert list((await here.call("GET", "/v1/series?bucket=orders")).document["series"]) == ["events"]
    answer = await here.call("GET", "/v1/series?bucket=orders&consumer=worker")
    assert list(answer.document["series"]) == ["lag"]
    assert (await here.call("GET", "/v1/series?consumer=worker")).status == 400
    assert (await here.call("GET", "/v1/series?span=year")).status == 400
    absent, empty = [(await here.call("GET", f"/v1/series{query}")).document for query in ("", "?span=")]
    assert (empty["step"], set(empty["series"])) == (absent["step"], set(absent["series"]))


@pytest.mark.gen_test
async def test_series_of_a_consumer(here: World) -> None:
    """An output's by its name, too; of a deleted one what was measured; of one that never was a 404."""
    bucket = await here.bucket("orders")
    await here.relay.administration.create_output(
        bucket.id, name="shop", internal=False, destination="https://shop.example/", paused=True
    )
    levels = [ConsumerLevel(bucket.id, name, 7, 1.0, 0) for name in ("output:1", "gone", "output:9")]
    await here.site.rest.series.measure(Levels(consumers=levels))

    async def lag(consumer: str, span: str = "hour") -> Any:
        answer = await here.call("GET", f"/v1/series?bucket=orders&consumer={consumer}&span={span}")
        return answer.status, [each for each in answer.document.get("series", {}).get("lag", ()) if each]

    for consumer in ("output:1", "output:shop", "gone", "output:9"):
        assert await lag(consumer) == (200, [7]), consumer
    assert (await lag("gone", "month"))[0] == 200
    for consumer in ("never", "output:2", "token:none"):
        assert await lag(consumer) == (404, []), consumer
    answer = await here.call("GET", "/v1/series?bucket=orders&consumer=never")
    assert "has no consumer 'never'" in answer.document["message"]


@pytest.mark.gen_test
async def test_usage(here: World) -> None:
    """Counts of what there is, and what the settings allow."""
    bucket = await here.bucket("orders")
    await here.send(bucket)
    answer = (await here.call("GET", "/v1/usage")).document
    assert set(answer) == {"usage", "plan_meta"}
    assert isinstance(answer["plan_meta"]["retention_age"], int)
    assert (answer["usage"]["buckets"], answer["usage"]["webhooks_stored"]) == (1, 1)
    assert answer["plan_meta"]["max_body"] == 3 * 2**20


@pytest.mark.gen_test
async def test_connected_clients(here: World) -> None:
    """Each live subscriber with its token's key, buckets, address, and what it calls itself; gone when it is."""
    await here.bucket("orders")
    await here.bucket("billing")
    agent = {"User-Agent": "relay-agent/1.2.3 (linux)"}
    async with here.socket("administrator", "orders", **agent):
        clients = (await here.call("GET", "/v1/connected-clients")).document
        assert clients["tunnel_clients"] == []
        (client,) = clients["webhook_clients"]
        assert isinstance(client.pop("subscribed_at"), int)
        assert client == {
            "access_token_key": here.tokens["administrator"][0],
            "buckets": ["orders"],
            "client_ip": "127.0.0.1",
            "client_type": "relay-agent",
            "client_version": "1.2.3",
            "consumer": "",
            "destination": "",
            "positions": {"orders": 0},
        }
    await here.nobody()


@pytest.mark.gen_test
async def test_thousands_come_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many buckets and tokens, and of clients that read many, a few are looked at in a turn of the loop."""
    most = 2 * PIECE_SIZE
    # The index looks at them, too, in whatever turn it has.
    async with world(tmp_path, search_index=None) as here, AsyncExitStack() as stack:
        for number in range(most):
            await here.bucket(f"b{number}")
        administration = here.relay.administration
        while len(administration.list_tokens()) < most:
            await administration.create_token()
        looked_at = [
            calls_by_turn(monkeypatch, *function)
            for function in ((SqliteEventLog, "bounds"), (Delivery, "_enter"), (Placement, "answer"))
        ]
        for _ in range(3):
            await stack.enter_async_context(here.socket("administrator"))
        assert list(map(max, looked_at)) == [PIECE_SIZE] * 3
        monkeypatch.undo()
        for what, (where, name), times, at_once in (
            ("/v1/buckets", (buckets, "bucket_document"), most, PIECE_SIZE),
            ("/v1/status", (StatusHandler, "_bucket"), most, PIECE_SIZE),
            ("/v1/status", (Delivery, "positions"), 3, 1),
            ("/v1/connected-clients", (Delivery, "positions"), 3, 1),
            ("/v1/usage", (Delivery, "positions"), 3, 1),
            ("/v1/usage", (SqliteEventLog, "bounds"), most, PIECE_SIZE),
            ("/v1/tokens", (Administration, "describe_token"), most, PIECE_SIZE),
            ("/v1/logs", (SqliteEventLog, "bounds"), most, PIECE_SIZE),
            ("/v1/logs", (_Merged, "_push"), most, PIECE_SIZE),
            ("/v1/search", (SqliteEventLog, "bounds"), most, PIECE_SIZE),
        ):
            calls = calls_by_turn(monkeypatch, where, name)
            assert (await here.call("GET", what)).status == 200
            assert (sum(calls), max(calls)) == (times, at_once), what
            monkeypatch.undo()
        calls = calls_by_turn(monkeypatch, Delivery, "positions")
        assert [len(each["behind"]) for each in await here.relay.administration.list_clients()] == [most] * 3
        assert calls == [1, 1, 1]
