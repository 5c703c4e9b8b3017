"""Consumers as their owner sees them, from outside: commands, REST, metrics and clients of a real relay."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

from tests.acceptance.relay import TIMEOUT, Relay, wait_for


def post(relay: Relay, path: str, body: bytes) -> None:
    with urllib.request.urlopen(f"{relay.url}{path}", body, timeout=TIMEOUT) as response:
        assert response.status == 200


class Worker:
    """A client that works with a consumer."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    def events(self, count: int) -> list[tuple[int, str, int]]:
        """Seq, id and attempt of the next events."""
        found: list[tuple[int, str, int]] = []
        while len(found) < count:
            heard = json.loads(self.socket.recv(TIMEOUT))
            if heard["type"] == "webhook":
                meta = heard["meta"]
                found.append((meta["seq"], meta["id"], meta.get("attempt", 1)))
        return found

    def ack(self, *ids: str) -> None:
        for each in ids:
            self.socket.send(json.dumps({"action": "ack", "id": each}))

    def nak(self, event: str, **fields: Any) -> None:
        self.socket.send(json.dumps({"action": "nak", "id": event, **fields}))

    def status(self, status: str) -> Any:
        """The next message of this status; others before it are passed over."""
        while (heard := json.loads(self.socket.recv(TIMEOUT))).get("status") != status:
            pass
        return heard


@contextmanager
def worker(relay: Relay, secret: str, **fields: Any) -> Iterator[Worker]:
    with connect(relay.ws_url, proxy=None, open_timeout=TIMEOUT) as socket:
        socket.send(json.dumps({"action": "auth", "key": "whr", "secret": secret}))
        socket.recv(TIMEOUT)
        socket.send(json.dumps({"action": "subscribe", "buckets": ["orders"], "consumer": "w", **fields}))
        made = Worker(socket)
        made.status("subscribed")
        yield made


def left(relay: Relay) -> dict[str, Any]:
    """What the consumer is once its client has gone."""

    def gone() -> Any:
        shown = relay.command("consumer", "show", "orders", "w")
        return shown if shown["connections"] == 0 else None

    found: dict[str, Any] = wait_for(gone, "the relay to see that the client has gone")
    return found


def test_what_is_done_to_a_consumer_holds_and_is_heard(tmp_path: Path) -> None:
    """Seeks, replays and dead letters, by command and REST, with a client that listens and through kill -9."""
    with Relay(tmp_path / "data") as relay:
        path = relay.create_bucket("orders")
        _, secret = relay.create_token()
        for number in range(20):
            post(relay, path, b"%d" % number)
        with worker(relay, secret, since="earliest", max_in_flight=10) as client:
            first = client.events(10)
            assert [seq for seq, _, _ in first] == list(range(1, 11))
            client.ack(*(each for _, each, _ in first))
            assert [seq for seq, _, _ in client.events(10)] == list(range(11, 21))
        epoch = first[0][1].partition("-")[0]
        # What it had out is tried again: parked.
        shown = left(relay)
        assert (shown["floor"], shown["pending"], shown["parked"]) == (f"{epoch}-20", 10, 10)

        looked = relay.command("consumer", "seek", "orders", "w", "--to", f"{epoch}-5", "--preview")
        assert (looked["repeats"], looked["skips"]) == (5, 0)
        assert relay.command("consumer", "show", "orders", "w")["pending"] == 10
        consumer = "/v1/buckets/orders/consumers/w"
        moved = relay.rest(secret, "POST", f"{consumer}/seek", {"to": f"{epoch}-5"})
        assert (moved["from"], moved["to"]) == (f"{epoch}-20", f"{epoch}-5")
        relay.restart()
        shown = relay.rest(secret, "GET", consumer)
        assert (shown["floor"], shown["pending"], shown["parked"]) == (f"{epoch}-5", 15, 0)
        wait_for(
            lambda: (
                'relay_consumer_lag_events{bucket="orders",consumer="w"} 15.0' in relay.rest(secret, "GET", "/metrics")
            ),
            "the metric",
        )

        with worker(relay, secret, max_deliver=1) as client:
            got = client.events(15)
            assert [(seq, attempt) for seq, _, attempt in got] == [(seq, 1) for seq in range(6, 21)]
            client.ack(*(each for _, each, _ in got[:13]))
            # Moved while it listens: it goes on there at once, and what it had before is strange.
            done = relay.command("consumer", "seek", "orders", "w", "--to", "last:3")
            again = client.events(3)
            assert [seq for seq, _, _ in again] == [18, 19, 20]
            assert done["to"] == f"{epoch}-17"
            client.ack(*(each for _, each, _ in again))
            answer = relay.rest(secret, "POST", f"{consumer}/replay", {"first": 2, "last": 4})
            assert (answer["scheduled"], answer["next"]) == (3, None)
            replayed = client.events(3)
            assert [seq for seq, _, _ in replayed] == [2, 3, 4]
            client.ack(replayed[0][1])
            for _, each, _ in replayed[1:]:
                client.nak(each)

            def dead() -> Any:
                letters = relay.command("consumer", "dead", "orders", "w")["data"]
                return letters if len(letters) == 2 else None

            letters = wait_for(dead, "two dead letters")
            assert [(each["seq"], each["reason"]) for each in letters] == [(3, "max_deliver"), (4, "max_deliver")]
            assert relay.command("consumer", "resend", "orders", "w", letters[1]["id"]) == {
                "scheduled": 1,
                "left": 0,
                "gone": 0,
            }
            ((seq, resent, _),) = client.events(1)
            assert seq == 4
            client.ack(resent)
            assert relay.command("consumer", "forget", "orders", "w", "--all", "--yes") == {"forgotten": 1}
            (listed,) = relay.command("consumer", "list")
            assert (listed["dead"], listed["connections"]) == (0, 1)
            wait_for(lambda: relay.command("consumer", "show", "orders", "w")["pending"] == 0, "the last ack")
            relay.command("consumer", "delete", "orders", "w", "--yes")
            client.status("consumer_deleted")
        assert relay.command("consumer", "list") == []
        assert relay.stop() == 0


def test_what_fails_too_often_can_be_sent_again(relay: Relay) -> None:
    """A nak brings an event again after its delay; after `max_deliver` tries it is a dead letter, which can be listed
    and sent again by REST."""
    path = relay.create_bucket("orders")
    _, secret = relay.create_token()
    consumer = "/v1/buckets/orders/consumers/w"
    for number in range(2):
        post(relay, path, b"event %d" % number)
    with worker(relay, secret, since="earliest", max_deliver=2) as client:
        (_, first, _), (_, second, _) = client.events(2)
        client.nak(first, delay=0.3)
        client.ack(second)
        assert client.events(1) == [(1, first, 2)]
        client.nak(first)
        wait_for(lambda: relay.rest(secret, "GET", consumer)["dead"] == 1, "the dead letter")
        (letter,) = relay.rest(secret, "GET", f"{consumer}/dead")["data"]
        assert (letter["id"], letter["attempts"], letter["reason"]) == (first, 2, "max_deliver")
        relay.rest(secret, "POST", f"{consumer}/dead/resend", {"all": True})
        assert client.events(1)[0][1] == first
        client.ack(first)
        wait_for(lambda: relay.rest(secret, "GET", consumer)["pending"] == 0, "its ack")
        assert relay.rest(secret, "GET", consumer)["dead"] == 0


def test_tries_count_through_kill_9(tmp_path: Path) -> None:
    """An event is tried as often as it may be and no more, however often the relay is killed meanwhile."""
    with Relay(tmp_path / "data") as relay:
        post(relay, relay.create_bucket("orders"), b"poison")
        _, secret = relay.create_token()
        for attempt in (1, 2):
            with worker(relay, secret, since="earliest", max_deliver=2) as client:
                assert [(seq, tried) for seq, _, tried in client.events(1)] == [(1, attempt)]
                # Whoever looks at it sees what is committed.
                assert relay.command("consumer", "show", "orders", "w")["out"] == 1
                relay.restart()
        (letter,) = relay.command("consumer", "dead", "orders", "w")["data"]
        assert (letter["attempts"], letter["reason"]) == (2, "max_deliver")
        assert relay.stop() == 0


def test_a_stream_goes_on_through_kill_9(tmp_path: Path) -> None:
    """With the id that it has, over a restart that ends the epoch."""
    with Relay(tmp_path / "data") as relay:
        path = relay.create_bucket("orders")
        other = relay.create_bucket("billing")
        _, secret = relay.create_token()
        last = ""
        got: list[str] = []
        for number in range(5):
            post(relay, path, b"%d" % number)
            post(relay, other, b"%d" % number)
            request = urllib.request.Request(f"{relay.url}/v1/stream?since=earliest")
            request.add_header("Authorization", f"Bearer {secret}")
            if last:
                request.add_header("Last-Event-ID", last)
            with urllib.request.urlopen(request, timeout=TIMEOUT) as stream:
                kind = ""
                while len(got) < 2 * (number + 1):
                    name, _, value = stream.readline().decode().rstrip("\n").partition(": ")
                    kind = value if name == "event" else kind
                    if name == "id":
                        last = value
                    if name == "data" and kind == "webhook":
                        document = json.loads(value)
                        got.append(f"{document['meta']['bucket_name']} {document['body']}")
                    assert kind != "gap"
            relay.restart()
        assert sorted(got) == sorted(f"{name} {number}" for name in ("orders", "billing") for number in range(5))
