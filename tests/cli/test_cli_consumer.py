"""`relay consumer`: the same through a running relay, over REST, and with none running."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

from relay_tornado.cli.consumer import circuit_words, oldest_words, waited_words
from relay_tornado.cli.printing import when
from relay_tornado.model import Retention
from relay_tornado.storage.lock import Lock
from tests.cli.runner import Runner
from tests.cli.server import WAYS, Server, reaching, serving


def until_all_left(server: Server) -> None:
    """Returns once the relay has noticed that no client is connected."""

    async def gone() -> None:
        async with asyncio.timeout(60):
            while server.relay.administration.clients():  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    server.ask(gone())


@contextmanager
def subscribed(server: Server, **fields: Any) -> Iterator[ClientConnection]:
    """A client with the consumer `billing`."""
    url = server.url.replace("http", "ws") + "/v1/socket"
    with connect(url, proxy=None, open_timeout=60) as socket:
        socket.send(json.dumps({"action": "auth", "key": "whr", "secret": server.secret}))
        socket.recv(20)
        socket.send(json.dumps({"action": "subscribe", "buckets": ["orders"], "consumer": "billing", **fields}))
        socket.recv(20)
        yield socket


def work(server: Server, acks: int) -> None:
    """A client with the consumer `billing` gets all three events, acks the first ones, and leaves: each may be tried
    once, so that the others are given up."""
    with subscribed(server, since="earliest", max_deliver=1) as socket:
        ids: list[str] = []
        while len(ids) < 3:
            heard = json.loads(socket.recv(20))
            if heard["type"] == "webhook":
                ids.append(heard["meta"]["id"])
        for each in ids[:acks]:
            socket.send(json.dumps({"action": "ack", "id": each}))
    until_all_left(server)


@WAYS
def test_show_move_and_handle_what_was_given_up(relay: Runner, way: str) -> None:
    """All commands, in words and as JSON; with as many ids as one likes."""
    made = relay.json("bucket", "create", "orders")

    def prepare(server: Server) -> None:
        for n in range(3):
            server.send(made["inputs"][0]["id"], b"body %d" % n)
        work(server, 1)

    with reaching(relay.data, way, prepare) as variables:
        check(relay, **variables)


def check(relay: Runner, **variables: str) -> None:
    assert "billing" in relay("consumer", "list", **variables).stdout
    (found,) = relay.json("consumer", "list", "orders", **variables)
    assert relay.json("consumer", "list", **variables) == [found]
    assert relay.json("consumer", "show", "orders", "billing", **variables) == found
    assert (found["dead"], found["pending"], found["max_deliver"]) == (2, 0, 1)
    shown = relay("consumer", "show", "orders", "billing", **variables).stdout
    assert "dead         2 given up, see `relay consumer dead`\n" in shown
    assert "terms        1 attempt, 30s for an ack\n" in shown
    letters = relay.json("consumer", "dead", "orders", "--limit", "1", **variables)
    rest = relay.json("consumer", "dead", "orders", "billing", "--cursor", letters["next_cursor"], **variables)
    (second,), (third,) = letters["data"], rest["data"]
    assert (second["seq"], third["seq"], third["reason"]) == (2, 3, "max_deliver")
    table = relay("consumer", "dead", "orders", "--limit", "1", **variables)
    assert second["id"] in table.stdout
    assert "go on with --cursor" in table.stderr
    assert "by their ids" in relay.misused("consumer", "resend", "orders", "billing", **variables)
    assert "by their ids" in relay.misused("consumer", "resend", "orders", "billing", "x", "--all", **variables)
    epoch = second["id"].partition("-")[0]
    others = [f"{epoch}-1"] * 3_000
    again = relay("consumer", "resend", "orders", "billing", *others, second["id"], **variables)
    assert again.stdout == "1 event will be delivered again.\n"
    gave = relay("consumer", "give-up", "orders", "billing", second["id"], **variables).stdout
    assert gave == f"Gave {second['id']} up, not tried: `relay consumer resend` delivers it again.\n"
    refused = relay("consumer", "give-up", "orders", "billing", second["id"], **variables)
    assert (refused.exit_code, "is done with" in refused.stderr) == (1, True)
    relay("consumer", "resend", "orders", "billing", second["id"], **variables)
    assert relay.json("consumer", "give-up", "orders", "billing", second["id"], **variables)["reason"] == "given_up"
    relay("consumer", "resend", "orders", "billing", second["id"], **variables)
    assert "say --yes" in relay.misused("consumer", "forget", "orders", "billing", "--all", **variables)
    assert relay("consumer", "forget", "orders", "billing", *others, third["id"], "--yes", **variables).stdout == (
        "Forgot 1 dead letter.\n"
    )
    assert relay("consumer", "dead", "orders", **variables).stderr == "relay: there are no dead letters\n"
    looked = relay("consumer", "seek", "orders", "billing", "--to", "last:2", "--preview", **variables).stdout
    assert looked == f"Would move from {epoch}-3 to {epoch}-1: 1 event again, 0 events passed over\n"
    moved = relay.json("consumer", "seek", "orders", "billing", "--to", f"{epoch}-0", **variables)
    assert moved == {"from": f"{epoch}-3", "to": f"{epoch}-0", "repeats": 2, "skips": 0, "preview": False}
    assert relay.json("consumer", "show", "orders", "billing", **variables)["pending"] == 3
    assert relay.json("consumer", "seek", "orders", "billing", "--to", "1h", **variables)["repeats"] == 0
    assert "a number alone" in relay.misused("consumer", "seek", "orders", "billing", "--to", "seq:1", **variables)
    for unknown in ("other", "token:x", "output:x"):
        assert "orders" in relay.refused("consumer", "show", "orders", unknown, **variables)
    assert "say --yes" in relay.misused("consumer", "delete", "orders", "billing", **variables)
    assert relay("consumer", "delete", "orders", "billing", "--yes", **variables).stdout == "Deleted billing.\n"
    assert relay.json("consumer", "list", **variables) == []


def refuse(server: Server) -> None:
    """A client with the consumer `billing` refuses the first event for an hour, acks the next, and leaves."""
    with subscribed(server, since="earliest", max_in_flight=2) as socket:
        for answer in ({"action": "nak", "delay": 3600}, {"action": "ack"}):
            while (heard := json.loads(socket.recv(20)))["type"] != "webhook":
                pass
            socket.send(json.dumps({**answer, "id": heard["meta"]["id"]}))
    until_all_left(server)


@WAYS
def test_the_event_that_is_refused_is_named_and_skipped(relay: Runner, way: str) -> None:
    """With its tries and when it is due; a move to the position skips it alone, and repeats nothing."""
    made = relay.json("bucket", "create", "orders")

    def prepare(server: Server) -> None:
        for n in range(2):
            server.send(made["inputs"][0]["id"], b"body %d" % n)
        refuse(server)

    with reaching(relay.data, way, prepare) as variables:
        found = relay.json("consumer", "show", "orders", "billing", **variables)
        oldest, epoch = found["oldest"], found["floor"].partition("-")[0]
        assert (found["floor"], found["parked"], found["pending"]) == (f"{epoch}-2", 1, 1)
        assert (oldest["id"], oldest["attempts"], oldest["out"]) == (f"{epoch}-1", 1, False)
        assert 3500 < oldest["next_at"] - oldest["since"] < 3700
        assert relay.json("consumer", "list", **variables)[0]["oldest"] == oldest
        words = relay("consumer", "show", "orders", "billing", **variables).stdout
        since, due = when(oldest["since"], seconds=True), when(oldest["next_at"], seconds=True)
        assert f"oldest       {epoch}-1, tried 1 time, since {since}, due at {due}\n" in words
        assert "circuit" not in words
        moved = relay("consumer", "seek", "orders", "billing", "--to", found["floor"], **variables).stdout
        assert moved == f"Moved from {epoch}-2 to {epoch}-2: 0 events again, 1 event passed over\n"
        assert relay.json("consumer", "show", "orders", "billing", **variables)["oldest"] is None


@WAYS
def test_an_output_is_shown_by_number_and_name(relay: Runner, way: str) -> None:
    """In a list, alone, and where it gave an event up; as JSON beside its number."""
    made = relay.json("bucket", "create", "orders")
    options = ("--name", "My shop", "--destination", "http://127.0.0.1:9/", "--public", "--retries", "-1")
    relay("output", "create", "orders", *options)

    def prepare(server: Server) -> None:
        server.send(made["inputs"][0]["id"], b"body")

        async def given_up() -> None:
            administration = server.relay.administration
            bucket = administration.find_bucket("orders")
            async with asyncio.timeout(60):
                while not (await administration.consumers.dead(bucket, None))["data"]:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)

        server.ask(given_up())

    with reaching(relay.data, way, prepare) as variables:
        (found,) = relay.json("consumer", "list", **variables)
        assert (found["kind"], found["name"], found["output_name"]) == ("output", "1", "My shop")
        assert "  output:1 (My shop)  " in relay("consumer", "list", **variables).stdout
        shown = relay("consumer", "show", "orders", "output:My shop", **variables).stdout
        assert shown.startswith("consumer     output:1 (My shop)\n")
        (letter,) = relay.json("consumer", "dead", "orders", **variables)["data"]
        assert (letter["consumer"], letter["output_name"]) == ("1", "My shop")
        assert "  output:1 (My shop)  " in relay("consumer", "dead", "orders", **variables).stdout


def test_what_cannot_be_delivered_again_is_told(relay: Runner) -> None:
    """Dead letters whose events retention removed, apart from those that are."""
    made = relay.json("bucket", "create", "orders")
    with serving(relay.data) as server:
        for n in range(3):
            server.send(made["inputs"][0]["id"], b"body %d" % n)
        refuse(server)
        server.ask(server.relay.administration.consumers._log.trim(made["id"], Retention(None, 1, None), None))
        (letter,) = relay.json("consumer", "dead", "orders", "billing")["data"]
        assert (letter["seq"], letter["reason"]) == (1, "retention")
        done = relay("consumer", "resend", "orders", "billing", "--all")
        assert done.stdout == "0 events will be delivered again.\n"
        assert done.stderr == "relay: 1 event can't be delivered again: retention removed it\n"
        answer = relay.json("consumer", "resend", "orders", "billing", letter["id"], **server.variables)
        assert answer == {"scheduled": 0, "left": 0, "gone": 1}


def test_a_gap_is_said_with_when_it_was_noticed(relay: Runner) -> None:
    """Not when the events left: nobody noted that while no client used the consumer."""
    made = relay.json("bucket", "create", "orders")
    with serving(relay.data) as server:
        for n in range(3):
            server.send(made["inputs"][0]["id"], b"body %d" % n)
        work(server, 3)
        for n in range(3):
            server.send(made["inputs"][0]["id"], b"later %d" % n)
        server.ask(server.relay.administration.consumers._log.trim(made["id"], Retention(None, 1, None), None))
        shown = relay("consumer", "show", "orders", "billing").stdout
        assert "missed       1 gap, the last one 4 to 5 (retention), noticed 20" in shown


def test_how_an_oldest_event_and_a_circuit_are_said() -> None:
    """A circuit with its next try; an event that is in flight, and one that was never tried."""
    assert circuit_words({"next_at": 60.0}) == "open, next try at 1970-01-01 00:01:00 UTC"
    assert circuit_words({"next_at": None}) == "open, the next try is in flight"
    fresh = {"id": "e-1", "attempts": 0, "out": False, "since": None, "next_at": None}
    assert oldest_words(fresh) == "e-1, not tried yet"
    assert oldest_words({**fresh, "attempts": 2, "since": 60.0, "out": True}) == (
        "e-1, tried 2 times, since 1970-01-01 00:01:00 UTC, in flight"
    )


def test_a_bucket_that_becomes_ephemeral_says_who_stays_behind(relay: Runner) -> None:
    """Clients' consumers, which nobody can use until it is so no longer: they go on where they were then."""
    made = relay.json("bucket", "create", "orders")
    assert relay("bucket", "set", "orders", "--ephemeral").stderr == ""
    relay("bucket", "set", "orders", "--no-ephemeral")
    relay.json("token", "create", "--durable")
    with serving(relay.data) as server:
        for n in range(3):
            server.send(made["inputs"][0]["id"], b"body %d" % n)
        work(server, 1)
        told = relay("bucket", "set", "orders", "--ephemeral").stderr
        assert told.startswith(
            "relay: no client can subscribe with these consumers while the bucket is ephemeral: billing."
        )
        assert relay("bucket", "set", "orders", "--ephemeral").stderr == ""
        (kept,) = relay.json("consumer", "list", "orders")
        assert (kept["name"], kept["dead"]) == ("billing", 2)
        assert relay("bucket", "set", "orders", "--no-ephemeral").stderr == ""


def test_stats_and_list_say_who_has_what(relay: Runner) -> None:
    """A client with a consumer is shown with it."""
    relay.json("bucket", "create", "orders")
    with serving(relay.data) as server, subscribed(server):
        (client,) = relay.json("stats")["clients"]
        assert client["consumer"] == "billing"
        assert "billing" in relay("stats").stdout
        (found,) = server.rest("GET", "/v1/connected-clients")["webhook_clients"]
        assert found["consumer"] == "billing"
        assert relay.json("consumer", "show", "orders", "billing")["connections"] == 1


def test_a_question_keeps_nobody_waiting(relay: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """While somebody thinks about it, with no relay running, one may start."""
    made = relay.json("bucket", "create", "orders")
    with serving(relay.data) as server:
        for _ in range(3):
            server.send(made["inputs"][0]["id"], b"x")
        work(server, 0)
    asked: list[str] = []

    def ask(yes: bool, question: str) -> None:
        Lock.acquire(relay.data).release()
        asked.append(question)

    monkeypatch.setattr("relay_tornado.cli.consumer.ask", ask)
    assert relay("consumer", "delete", "orders", "billing").stdout == "Deleted billing.\n"
    assert "Delete the consumer billing of orders" in asked[0]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (7199, "119m"),
        (7200, "2h"),
        (93_784, "26h"),
        (172_800, "2d"),
        (1_234_567, "14d"),
    ],
)
def test_how_long_the_oldest_event_has_waited(seconds: int, words: str) -> None:
    """In a unit that one reads at a glance."""
    assert waited_words(seconds) == words
