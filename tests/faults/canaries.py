"""Canary secrets in every place that takes one: none comes out in a log, an error, a metric or what describes a backup.

What is looked through: everything that the relay said on stdout and stderr at its most talkative, every answer with an
error and every error frame, the metrics, the answers to a token that may not see secrets, and what the commands print.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import json
import random
import string
from pathlib import Path
from typing import Any
from urllib.parse import quote

import websockets.asyncio.client
from websockets.exceptions import ConnectionClosed

from tests.acceptance.clients import Subscriber
from tests.acceptance.relay import TIMEOUT, Relay
from tests.faults.outcome import Outcome

SHOWN = ("destination", "query", "header")
"""Who may see a bucket sees where its outputs lead to, and with which headers; so does who gets their frames."""


def run(folder: Path, rounds: int) -> Outcome:
    """Uses secrets rightly and wrongly, with so many rounds of requests that are broken at random."""
    outcome = Outcome()
    world = _World(folder)
    with world.relay:
        world.set_up()
        world.use()
        world.administer(folder)  # before what is made up: of that, some is in order, and stored
        world.misuse(rounds)
        asyncio.run(world.converse())
        world.relay.kill()
        world.keep("log", world.relay.said())
        world.relay.start()
        world.send("guarded", world.basic, b"after a kill")
        outcome.expect(world.relay.stop() == 0, "the relay did not end with 0")
        world.keep("log", world.relay.said())
    hits = world.hits()
    backup = (folder / "copy.db").read_bytes()
    in_backup = [name for name, secret in world.secrets.items() if name.startswith("secret of") and secret in backup]
    outcome.figures = {
        "secrets": len(world.secrets),
        "requests": world.requests,
        "errors among them": world.errors,
        "bytes looked through": sum(len(text) for _, text in world.said),
        "hits": len(hits),
        "token secrets in a backup": len(in_backup),
    }
    outcome.expect(world.secrets["password"] in backup, "what has to be usable is not found in the backup, either")
    outcome.expect(world.errors > rounds, f"{world.requests} requests led to {world.errors} errors only")
    outcome.expect(not hits, f"secrets came out: {sorted(set(hits))[:10]}")
    outcome.expect(not in_backup, f"in the backup's bytes: {in_backup}")
    return outcome


class _World:
    """A relay with secrets in it, and everything that it ever said."""

    def __init__(self, folder: Path) -> None:
        self.relay = Relay(folder / "canaries", log_level="debug", log_format="json", metrics_port=0)
        self.secrets: dict[str, bytes] = {}
        self.said: list[tuple[str, bytes]] = []
        self.paths: dict[str, str] = {}
        self.requests = self.errors = 0
        self._random = random.Random(7)

    def canary(self, name: str) -> str:
        """A secret of its own, that looks like nothing else."""
        made = "canary" + "".join(self._random.choices(string.ascii_letters + string.digits, k=26))
        self.secrets[name] = made.encode()
        return made

    def keep(self, where: str, text: str | bytes) -> None:
        self.said.append((where, text if isinstance(text, bytes) else text.encode()))

    def hits(self) -> list[str]:
        """Where a secret came out, in one of the forms that it may have."""
        found = []
        for name, secret in self.secrets.items():
            forms = {secret, base64.b64encode(secret).rstrip(b"="), quote(secret).encode(), secret.hex().encode()}
            forms |= {base64.b64encode(b"x" * pad + secret)[4:-4] for pad in (1, 2)}
            for where, text in self.said:
                if name.startswith("input") and where not in ("log", "metrics"):
                    continue  # who sends to an input knows it
                if name in SHOWN and where.startswith("a scoped token"):
                    continue
                found += [f"{name} in {where}" for form in forms if form in text]
        return found

    # requests

    def ask(
        self, method: str, path: str, authorization: str = "", body: bytes | None = None, **headers: str
    ) -> tuple[int, bytes]:
        """One request; the answer is kept where it is an error."""
        self.requests += 1
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if authorization:
            given["Authorization"] = authorization
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.relay.port, timeout=TIMEOUT)) as client:
            client.request(method, path, body, given)
            answer = client.getresponse()
            content = answer.read()
            if answer.status >= 400:
                self.errors += 1
                self.keep(f"{method} answered {answer.status}", str(answer.getheaders()).encode() + content)
            return answer.status, content

    def rest(self, method: str, path: str, document: Any) -> Any:
        """A request of an administrator that is in order."""
        body = json.dumps(document).encode()
        status, content = self.ask(method, path, self.admin, body, Content_Type="application/json")
        assert status < 300, content
        return json.loads(content) if content else None

    def send(self, bucket: str, authorization: str, body: bytes, **headers: str) -> int:
        return self.ask("POST", self.paths[bucket], authorization, body, **headers)[0]

    # what is done

    def set_up(self) -> None:
        """Makes buckets, inputs, outputs and tokens with secrets in all of them."""
        key, secret = self.relay.create_token()
        self.token = key, secret
        self.secrets["secret of a token"] = secret.encode()
        self.admin = _basic(key, secret)
        for name, auth in (
            ("guarded", {"type": "basic", "username": "shop", "password": self.canary("password")}),
            ("tokened", {"type": "token", "token": self.canary("token")}),
            ("signed", {"type": "none"}),
        ):
            bucket = self.rest("POST", "/v1/buckets", {"name": name, "auth": auth})
            self.paths[name] = f"/v1/webhooks/{bucket['inputs'][0]['id']}"
            self.secrets[f"input of {name}"] = bucket["inputs"][0]["id"].encode()
        self.basic = _basic("shop", self.secrets["password"].decode())
        secrets = [f"--verify-secret={self.canary(name)}" for name in ("signature", "replaced-signature")]
        self.keep("input set", self._command("input", "set", "signed", "--verify=github", *secrets))
        scoped = self.rest(
            "POST", "/v1/tokens", {"scopes": {"buckets": ["guarded", "signed"]}, "api_access": "enabled"}
        )
        self.secrets["secret of a scoped token"] = scoped["secret"].encode()
        self.scoped = _basic(scoped["key"], scoped["secret"])
        output = self.rest("POST", "/v1/buckets/signed/outputs", {"name": "app", "internal": True})
        place = f"/v1/buckets/signed/outputs/{output['id']}"
        self.rest("PUT", f"{place}/rules", self._rules(self.canary("rule"), "payload-hash-sha256"))
        # One that is forwarded to where nobody is, with secrets in its URL, its headers and for its signature.
        at = f"http://user:{self.canary('destination')}@127.0.0.1:9/hook?key={self.canary('query')}"
        public = {"name": "forwarded", "internal": False, "destination": at, "secret": self._signing()}
        public["headers"] = {"X-Key": [self.canary("header")]}
        self.rest("POST", "/v1/buckets/signed/outputs", public)

    def _signing(self) -> str:
        """A secret of the form that signatures of outgoing requests have."""
        made = "whsec_" + base64.b64encode(self._random.randbytes(32)).decode()
        self.secrets["outgoing signature"] = made.encode()
        return made

    def use(self) -> None:
        """Uses them rightly: what a token without full access reads is looked through as well."""
        assert self.send("guarded", self.basic, b"x") == 200
        assert self.send("tokened", "Bearer " + self.secrets["token"].decode(), b"x") == 200
        self.send("signed", "", b"x", X_Hub_Signature_256="sha256=" + "0" * 64)
        for path in ("/v1/buckets", "/v1/buckets/guarded", "/v1/logs?bucket=guarded", "/v1/tokens", "/v1/usage"):
            for authorization in (self.scoped, ""):
                self.keep(f"a scoped token's {path}", self.ask("GET", path, authorization)[1])
        for path in ("/v1/logs", "/v1/tokens", "/v1/connected-clients", "/v1/usage"):
            self.keep(f"an administrator's {path}", self.ask("GET", path, self.admin)[1])
        for path in ("/healthz", "/readyz", "/metrics", "/openapi.json"):
            self.keep("metrics" if path == "/metrics" else path, self.ask("GET", path, self.admin)[1])

    def misuse(self, rounds: int) -> None:
        """Uses them where they don't belong, and in documents that are broken."""
        texts = [secret.decode() for secret in self.secrets.values()]
        for text in texts:
            self.ask("GET", f"/v1/buckets/{quote(text)}?secret={quote(text)}", _basic("nobody", text))
            self.ask("GET", "/v1/buckets", f"Bearer {text}")
            self.ask("POST", self.paths["guarded"] + f"/{text}?key={text}", _basic("shop", text + "x"), b"x")
            self.ask("POST", self.paths["guarded"], f"Nonsense {text}", b"x")
            self.ask("GET", f"/{text}", body=b"x", X_Long=text * 2000)
        documents: list[tuple[str, str, Any]] = [
            ("POST", "/v1/buckets", {"name": 7, "auth": {"type": "basic", "username": "u", "password": "%"}}),
            ("POST", "/v1/buckets", {"name": "n", "auth": {"type": "%", "password": "%", "more": "%"}}),
            ("PUT", "/v1/buckets/guarded", {"auth": {"type": "basic", "username": ["%"], "password": {"a": "%"}}}),
            ("PUT", "/v1/buckets/guarded", {"auth": {"type": "token", "token": ["%"]}}),
            ("POST", "/v1/tokens", {"buckets": "none", "secret": "%", "key": "%"}),
            ("POST", "/v1/buckets/signed/inputs", {"verify": {"provider": "nobody", "secrets": ["%"]}}),
            ("POST", "/v1/buckets/signed/inputs", {"verify": {"provider": "github", "secrets": [7, "%"], "x": "%"}}),
            ("POST", "/v1/buckets/signed/outputs", {"name": "o", "headers": {"X": {"a": "%"}}}),
            ("POST", "/v1/buckets/signed/outputs", {"name": "o", "rules": self._rules("%", "nonsense")}),
            ("POST", "/v1/buckets/signed/outputs", {"name": "o", "rules": self._rules("%", 7)}),
        ]
        for number in range(rounds):
            method, path, document = documents[number % len(documents)]
            secret = texts[number % len(texts)]
            body = json.dumps(document).replace("%", secret)
            if number >= len(documents):
                body = self._broken(body, secret)
            self.ask(method, path, self.admin, body.encode(), Content_Type="application/json")

    def _rules(self, secret: str, type: object) -> Any:
        return {"and": [{"match": {"type": type, "secret": secret, "parameter": {"source": "header", "name": "X"}}}]}

    def _broken(self, body: str, secret: str) -> str:
        """The document with a piece taken out, doubled, or put in; never within the secret itself."""
        at = self._random.randrange(len(body))
        while secret in body and body.index(secret) <= at < body.index(secret) + len(secret):
            at = self._random.randrange(len(body))
        return body[:at] + self._random.choice(("", '"', "{", "]", ",", "\\", "\x00", "é", body[at])) + body[at + 1 :]

    async def converse(self) -> None:
        """Uses them on sockets, rightly and wrongly."""
        key, secret = self.token
        auth = {"action": "auth", "key": key, "secret": secret}
        for messages in (
            [{"action": "auth", "key": key, "secret": secret + "x"}],
            [{"action": "auth", "key": secret, "secret": [secret]}],
            [auth, {"action": "subscribe", "buckets": [], "filter": self._rules(secret, "nonsense")}],
            [auth, {"action": "respond", "extended": True, "id": "a-1", "body": secret, "secret": secret}],
        ):
            await self._on_a_socket(messages)
        # Who takes a secret for a bucket's name or an event's id gets it back as that; a log of it is another matter.
        for messages in (
            [{"action": secret}],
            [auth, {"action": "respond", "extended": True, "id": secret}],
            [auth, {"action": secret, "extended": True}, {"action": "subscribe", "since": secret, "buckets": [secret]}],
        ):
            await self._on_a_socket(messages, keep=False)
        async with Subscriber(self.relay, self.token, "guarded", "earliest") as subscriber:
            for event in await subscriber.until_caught_up():
                self.keep("a frame", json.dumps(event.frame))

    async def _on_a_socket(self, messages: list[dict[str, Any]], *, keep: bool = True) -> None:
        connect = websockets.asyncio.client.connect
        async with connect(self.relay.ws_url, compression=None, proxy=None, ping_interval=None) as socket:
            with contextlib.suppress(ConnectionClosed, TimeoutError):
                for message in messages:
                    await socket.send(json.dumps(message))
                    async with asyncio.timeout(0.3 if "auth" not in str(message["action"]) else TIMEOUT):
                        answer = await socket.recv()
                    if keep:
                        self.keep("an error frame", answer)
            self.keep("a close reason", str(socket.close_reason or ""))
            socket.transport.abort()

    def administer(self, folder: Path) -> None:
        """What the commands print that is not made to show secrets."""
        key, secret = self.token
        self.keep("backup", self._command("backup", str(folder / "copy.db"), "--json"))
        self.keep("check", self._command("check", "--json"))
        self.keep("check of a backup", self._command("check", str(folder / "copy.db")))
        self.keep("stats", self._command("stats"))
        self.keep("doctor", self._command("doctor", "--idle", "0"))
        self.keep("token list", self._command("token", "list", "--json"))
        self.keep("restore", self._command("restore", str(folder / "copy.db"), "--data", str(folder / "restored")))
        for command in (
            ("--url", self.relay.url, "--secret", secret + "x", "bucket", "list"),
            ("--url", self.relay.url, "--secret", secret, "bucket", "show", "nobody"),
            ("--url", f"{self.relay.url}/none", "--secret", secret, "token", "revoke", key),
            ("bucket", "set", "guarded", "--password", self.secrets["password"].decode(), "--auth", "token"),
        ):
            self.keep(f"relay {command[-2]}", self._command(*command))

    def _command(self, *arguments: str) -> str:
        run = self.relay.run(*arguments)
        return run.stdout + run.stderr


def _basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
