"""A relay with something to see in it: buckets, signed webhooks, consumers that are behind, dead letters."""

from __future__ import annotations

import hashlib
import hmac
import json
import random
import time
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, Self

from websockets.sync.client import ClientConnection, connect

from tests.acceptance.relay import TIMEOUT, Relay, wait_for
from tests.ui.connection import Connection

SECRET = "a secret of the demo"
AGENT = {"User-Agent": "Shop/4.2", "Content-Type": "application/json"}


class Demo:
    """Fills `relay`; its end as a context manager is that of the clients that stay connected. `administrator` and
    `worker` are tokens: key and secret."""

    def __init__(self, relay: Relay) -> None:
        self.relay = relay
        self._stack = ExitStack()
        self._random = random.Random(7)
        self.connection = Connection(relay)
        self._stack.callback(self.connection.close)
        self.administrator = relay.create_token("--description", "operator")
        self.inputs = {
            name: relay.create_bucket(name, "--description", about)
            for name, about in (
                ("orders", "What the shop sells"),
                ("github", "Pushes and pull requests of the organisation"),
                ("payments", "Charges and refunds"),
            )
        }
        self.worker = relay.create_token("--description", "order worker", "--bucket", "orders", "--bucket", "payments")
        self.rest("PUT", f"/v1/buckets/github/inputs/{self.inputs['github'].rpartition('/')[2]}", {
            "name": "GitHub", "verify": {"provider": "github", "secrets": [SECRET], "on_failure": "mark"},
        })  # fmt: skip
        self.rest("POST", "/v1/buckets/orders/outputs", {
            "name": "warehouse", "internal": False, "destination": "https://warehouse.example.org/hook", "paused": True,
        })  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def rest(self, method: str, path: str, body: object = None) -> Any:
        """A request of the administrator."""
        headers = {"Authorization": f"Bearer {self.administrator[1]}"}
        content = b"" if body is None else json.dumps(body).encode()
        status, answer = self.connection.request(method, path, content, headers)
        assert status in (200, 201), answer
        return json.loads(answer)

    def consumer(self, name: str, bucket: str = "orders") -> Any:
        return self.rest("GET", f"/v1/buckets/{bucket}/consumers/{name}")

    # webhooks

    def order(self, number: int) -> None:
        """An order of the shop."""
        rng = self._random
        items = [
            {"sku": f"A-{rng.randrange(100):03}", "quantity": rng.randrange(1, 4)} for _ in range(rng.randrange(1, 4))
        ]
        body = {
            "order": 1000 + number,
            "customer": {"name": rng.choice(("Ada", "Grace", "Linus", "Zoë"))},
            "items": items,
        }
        path = self.inputs["orders"] + rng.choice(("/created", "/created", "/paid", "/cancelled?reason=stock"))
        self._send(rng.choice(("POST", "POST", "PUT")), path, json.dumps(body).encode(), AGENT)

    def push(self, number: int, *, signed: bool = True) -> None:
        """A push to GitHub; what is not signed has a wrong signature."""
        body = json.dumps({
            "ref": "refs/heads/main", "compare": f"https://example.org/compare/{number}", "pusher": {"name": "octocat"},
            "commits": [{"id": hashlib.sha1(b"%d" % number).hexdigest(), "message": f"Mend the count of {number}"}],
        }).encode()  # fmt: skip
        signature = hmac.new((SECRET if signed else "another one").encode(), body, hashlib.sha256).hexdigest()
        headers = {
            "User-Agent": "GitHub-Hookshot/7f3a",
            "X-GitHub-Event": "push",
            "X-Hub-Signature-256": f"sha256={signature}",
        }
        self._send("POST", self.inputs["github"], body, {**headers, "Content-Type": "application/json"})

    def payment(self, number: int) -> None:
        """A form, as some providers send it."""
        body = f"charge=ch_{number:06}&amount={self._random.randrange(100, 9000)}&currency=eur&status=paid".encode()
        self._send("POST", self.inputs["payments"], body, {"Content-Type": "application/x-www-form-urlencoded"})

    def _send(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> None:
        status, answer = self.connection.request(method, path, body, headers)
        assert status == 200, answer

    def send(self, count: int) -> None:
        """Some of each."""
        for number in range(count):
            self.order(number)
            if number % 3 == 0:
                self.push(number, signed=number % 9 != 6)
            if number % 4 == 0:
                self.payment(number)

    # clients

    def client(self, agent: str, **subscribe: object) -> ClientConnection:
        """A client of the worker's token that has subscribed."""
        opening = connect(
            self.relay.ws_url, user_agent_header=agent, open_timeout=TIMEOUT, close_timeout=1, ping_interval=None
        )
        client = self._stack.enter_context(opening)
        key, secret = self.worker
        for message in ({"action": "auth", "key": key, "secret": secret}, {"action": "subscribe", **subscribe}):
            client.send(json.dumps(message))
            client.recv(TIMEOUT)
        return client

    def readers(self, *, ack: int = 5) -> None:
        """A consumer that acks a few and stays; one that gives up some and goes; and a reader without one. They stay
        where they are: what is not acked would come again after half a minute, and be a dead letter at last."""
        orders: dict[str, object] = {
            "buckets": ["orders"], "since": "earliest", "outputs": "none", "max_in_flight": 20, "ack_wait": 3600
        }  # fmt: skip
        billing = self.client("billing/2.1", consumer="billing", **orders)
        for event in taken(billing, ack):
            billing.send(json.dumps({"action": "ack", "id": event}))
        wait_for(lambda: self.consumer("billing")["floor"].endswith(f"-{ack}"), "the acks")
        mailer = self.client("mailer/0.9", consumer="mailer", max_deliver=1, **orders)
        for event in taken(mailer, 3):
            mailer.send(json.dumps({"action": "nak", "id": event, "delay": 0}))
        wait_for(lambda: self.consumer("mailer")["dead"] == 3, "the dead letters")
        mailer.close()
        wait_for(lambda: self.consumer("mailer")["connections"] == 0, "it to be gone")
        self.client("dashboard/1.0", buckets=["orders", "payments"], since="latest", outputs="none")


def taken(client: ClientConnection, count: int) -> list[str]:
    """The ids of the next events that a client gets."""
    ids: list[str] = []
    deadline = time.monotonic() + TIMEOUT
    while len(ids) < count:
        frame = json.loads(client.recv(deadline - time.monotonic()))
        if frame.get("type") == "webhook":
            ids.append(frame["meta"]["id"])
    return ids
