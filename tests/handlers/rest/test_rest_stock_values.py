"""Ages, times, numbers and names as the original's own clients write them."""

from __future__ import annotations

import pytest

from relay_tornado.handlers.rest.queries import EventQuery, LogQuery
from relay_tornado.wire.fields import load
from tests.handlers.rest.world import World


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("60", 60), ("0", 0), ("24h", 86_400), ("1h30m", 5_400), ("90s", 90), ("1.5h", 5_400), ("500ms", 1),
        ("720h0m0s", 2_592_000), ("0s", 0), ("1ns", 1), ("1m0.5s", 61),
    ],
)  # fmt: skip
def test_an_age_as_go_writes_it(text: str, seconds: int) -> None:
    """Up to the next second: 0 would be no limit."""
    assert load(EventQuery(), {"bucket": "b", "max_age": text})["max_age"] == seconds


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("1767225600", 1_767_225_600),
        ("2026-01-01T00:00:00Z", 1_767_225_600),
        ("2026-01-01t00:00:00z", 1_767_225_600),
        ("2026-01-01", 1_767_225_600),
        ("2026-01-01T02:00:00+02:00", 1_767_225_600),
        ("2026-01-01T02:00:00 02:00", 1_767_225_600),
        ("2025-12-31t19:00:00.25-05:00", 1_767_225_600.25),
        ("1767225600.25", 1_767_225_600.25),
        ("1767225600.0", 1_767_225_600),
        ("1.76722560025E9", 1_767_225_600.25),
        ("1.7672256e 09", 1_767_225_600),
        ("1969-01-01T00:00:00Z", 0),
    ],
)
def test_a_time_as_clients_write_it(text: str, time: float) -> None:
    """The library in Go asks for logs as RFC 3339 has it, and the original's description of its API has dates, too.
    Unix times have a fraction in Python and JavaScript, and an exponent as a double of Java or Go."""
    read = load(LogQuery(), {"from": text, "to": text})
    assert (read["since"], read["until"]) == (time, time)


@pytest.mark.gen_test
async def test_queries_that_do_not_fit(here: World) -> None:
    """A 400 that names the parameter; one with nothing behind its name is not there."""
    bucket = await here.bucket("orders")
    await here.send(bucket)
    for path, field in (
        ("/v1/events?bucket=orders&max_age=1d", "max_age"),
        ("/v1/events?bucket=orders&max_age=h", "max_age"),
        ("/v1/events?bucket=orders&max_age=-1h", "max_age"),
        ("/v1/events?bucket=orders&max_age=999999999999h", "max_age"),
        ("/v1/logs?bucket=orders&from=2026-1-1", "from"),
        ("/v1/logs?bucket=orders&from=2026-02-30", "from"),
        ("/v1/logs?bucket=orders&from=1767225600.", "from"),
        ("/v1/logs?bucket=orders&from=1e999", "from"),
        ("/v1/logs?bucket=orders&to=9999999999999.5", "to"),
        ("/v1/logs?bucket=orders&from=2026-13-01T00:00:00Z", "from"),
        ("/v1/logs?bucket=orders&to=2026-01-01T00:00:00", "to"),
        ("/v1/logs?bucket=orders&limit=many", "limit"),
        ("/v1/logs?bucket=orders&status=6", "status"),
        ("/v1/logs?bucket=orders&status=-1", "status"),
    ):
        await here.refused(field, "GET", path)
    listed = await here.call("GET", "/v1/logs?bucket=orders&limit=&offset=&from=&to=&status=")
    assert (listed.status, listed.document["total"]) == (200, 1)
    preparing = await here.call("GET", "/v1/logs?bucket=orders&status=preparing")  # one of the original's
    assert (preparing.status, preparing.document["total"]) == (200, 0)
    for number, total in ((0, 0), (1, 0), (4, 1), (5, 0)):  # the library in JavaScript has numbers for them
        numbered = await here.call("GET", f"/v1/logs?bucket=orders&status={number}")
        assert (numbered.status, numbered.document["total"]) == (200, total)
    later = await here.call("GET", "/v1/logs?bucket=orders&from=2999-01-01T00:00:00Z")
    assert (later.status, later.document["total"]) == (200, 0)
    drained = await here.call("GET", "/v1/events?bucket=orders&limit=&max_age=24h")
    assert (drained.status, len(drained.document["logs"])) == (200, 1)


@pytest.mark.gen_test
async def test_a_timeout_is_whole_seconds(here: World) -> None:
    """A client in Go reads no other, nor any bucket of a list that has one."""
    await here.bucket("orders")
    await here.refused("timeout", "POST", "/v1/buckets/orders/outputs", {"timeout": 1.5})
    made = await here.call("POST", "/v1/buckets/orders/outputs", {"timeout": 5.0})
    assert (made.status, type(made.document["timeout"])) == (201, int)


@pytest.mark.gen_test
async def test_whole_numbers_stay_whole(here: World) -> None:
    """5.0 in what comes is 5 in what goes out, in every part of an output: as above."""
    throttle = {"enabled": True, "mode": "rate", "rate": 10.0, "deadline": 3.6e12}
    durability = {"enabled": True, "schedule": "custom", "custom_delays": [1e9, 2], "deadline": 3.6e12}

    await here.bucket("orders")
    body = {"retries": 2.0, "throttle": throttle, "durability": durability}
    made = await here.call("POST", "/v1/buckets/orders/outputs", body)
    assert (made.status, made.document["throttle"]) == (201, throttle)
    shown = (await here.call("GET", "/v1/buckets/orders")).document["outputs"][0]
    numbers = [shown["retries"], shown["throttle"]["rate"], shown["throttle"]["deadline"]]
    numbers += [shown["durability"]["deadline"], *shown["durability"]["custom_delays"]]
    assert [(type(each), each) for each in numbers] == [
        (int, each) for each in (2, 10, 3_600_000_000_000, 3_600_000_000_000, 1_000_000_000, 2)
    ]


@pytest.mark.gen_test
async def test_names_as_the_agent_of_the_original_gives_them(here: World) -> None:
    """An output is called as its destination is, and an input after it, however long that is."""
    await here.bucket("orders")
    destination = "http://jenkins:8080/generic-webhook-trigger/invoke?token=".ljust(2_048, "a")
    name = f"ingress for {destination}"
    made = await here.call("POST", "/v1/buckets/orders/inputs", {"name": name})
    assert (made.status, made.document["name"]) == (201, name)
    made = await here.call("POST", "/v1/buckets/orders/outputs", {"name": destination, "destination": destination})
    assert (made.status, made.document["name"]) == (201, destination)
