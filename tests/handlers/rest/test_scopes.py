"""Who may do what: one row for each endpoint and kind of token, and nothing that tells of others' buckets."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from relay_tornado.handlers.rest import HANDLERS
from relay_tornado.handlers.rest.base import operations
from relay_tornado.handlers.rest.scopes import NEEDS
from tests.handlers.rest.world import World, world

KINDS = ("none", "wrong", "administrator", "all without API", "scoped with API", "scoped without API", "other")
"""`other` has API access to another bucket."""

YES, NO, HIDDEN, UNKNOWN = "2xx", 403, 404, 401

# Method, path, body, and the outcome for each of KINDS.
ROWS: list[tuple[str, str, Any, tuple[Any, ...]]] = [
    ("GET", "/openapi.json", None, (YES, YES, YES, YES, YES, YES, YES)),
    ("GET", "/v1/buckets", None, (UNKNOWN, UNKNOWN, YES, NO, YES, NO, YES)),
    ("POST", "/v1/buckets", {"name": "new"}, (UNKNOWN, UNKNOWN, YES, NO, NO, NO, NO)),
    ("GET", "/v1/buckets/{bucket}", None, (UNKNOWN, UNKNOWN, YES, NO, YES, NO, HIDDEN)),
    ("PUT", "/v1/buckets/{bucket}", {"description": "d"}, (UNKNOWN, UNKNOWN, YES, NO, YES, NO, HIDDEN)),
    ("DELETE", "/v1/buckets/{bucket}?force=true", None, (UNKNOWN, UNKNOWN, YES, NO, YES, NO, HIDDEN)),
    ("POST", "/v1/buckets/{bucket}/inputs", {"name": "i"}, (UNKNOWN, UNKNOWN, YES, NO, YES, NO, HIDDEN)),
    ("PUT", "/v1/buckets/{bucket}/inputs/{input}", {"name": "i"}, (UNKNOWN, UNKNOWN, YES, NO, YES, NO, HIDDEN)),
    ("DELETE", "/v1/buckets/{bucket}/inputs/{input}", None, (UNKNOWN, UNKNOWN, YES, NO, YES, NO, HIDDEN)),
    ("POST", "/v1/buckets/{bucket}/outputs", {"name": "o"}, (UNKNOWN, UNKNOWN, YES, NO, YES, NO, HIDDEN)),
    ("PUT", "/v1/buckets/{bucket}/outputs/{output}", {"name": "o"}, (UNKNOWN, UNKNOWN, YES, NO, YES, NO, HIDDEN)),
    ("DELETE", "/v1/buckets/{bucket}/outputs/{output}", None, (UNKNOWN, UNKNOWN, YES, NO, YES, NO, HIDDEN)),
    ("PUT", "/v1/buckets/{bucket}/outputs/{output}/rules", {}, (UNKNOWN, UNKNOWN, YES, NO, YES, NO, HIDDEN)),
    ("DELETE", "/v1/buckets/{bucket}/outputs/{output}/rules", None, (UNKNOWN, UNKNOWN, YES, NO, YES, NO, HIDDEN)),
    ("GET", "/v1/buckets/{bucket}/logs/{log}", None, (UNKNOWN, UNKNOWN, YES, NO, YES, NO, HIDDEN)),
    ("POST", "/v1/buckets/{bucket}/resend", {}, (UNKNOWN, UNKNOWN, YES, NO, YES, NO, HIDDEN)),
    ("GET", "/v1/logs", None, (UNKNOWN, UNKNOWN, YES, NO, YES, NO, YES)),
    ("GET", "/v1/logs?bucket={bucket}", None, (UNKNOWN, UNKNOWN, YES, NO, YES, NO, HIDDEN)),
    ("GET", "/v1/logs/{log}", None, (UNKNOWN, UNKNOWN, YES, NO, YES, NO, HIDDEN)),
    ("PUT", "/v1/logs/{log}", {"status_code": 200}, (UNKNOWN, UNKNOWN, YES, YES, YES, YES, HIDDEN)),
    ("POST", "/v1/logs/{log}/action", {"action": "resend"}, (UNKNOWN, UNKNOWN, YES, NO, YES, NO, HIDDEN)),
    ("GET", "/v1/events?bucket={bucket}", None, (UNKNOWN, UNKNOWN, YES, NO, YES, NO, HIDDEN)),
    ("GET", "/v1/tokens", None, (UNKNOWN, UNKNOWN, YES, NO, NO, NO, NO)),
    ("POST", "/v1/tokens", {}, (UNKNOWN, UNKNOWN, YES, NO, NO, NO, NO)),
    ("PUT", "/v1/tokens/{token}", {}, (UNKNOWN, UNKNOWN, YES, NO, NO, NO, NO)),
    ("DELETE", "/v1/tokens/{token}", None, (UNKNOWN, UNKNOWN, YES, NO, NO, NO, NO)),
    ("POST", "/v1/tokens/{token}/rotate", None, (UNKNOWN, UNKNOWN, YES, NO, NO, NO, NO)),
    ("GET", "/v1/usage", None, (UNKNOWN, UNKNOWN, YES, NO, YES, NO, YES)),
    ("GET", "/v1/connected-clients", None, (UNKNOWN, UNKNOWN, YES, NO, YES, NO, YES)),
]


async def populate(here: World, number: int) -> dict[str, str]:
    """A fresh bucket with one of everything, and a token of each kind."""
    bucket = await here.bucket(f"orders-{number}")
    other = await here.bucket(f"other-{number}")
    _, output = await here.relay.administration.create_output(bucket.id, name="o")
    log = await here.send(bucket)
    spare, _ = await here.relay.administration.create_token()
    here.tokens["wrong"] = (here.tokens["administrator"][0], "sk-rly_wrong")
    await here.token("all without API", api_access=False)
    await here.token("scoped with API", buckets=[bucket.name])
    await here.token("scoped without API", buckets=[bucket.name], api_access=False)
    await here.token("other", buckets=[other.name])
    return {"bucket": bucket.id, "input": bucket.inputs[0].id, "output": output.id, "log": log, "token": spare.key}


def test_every_endpoint_has_a_row() -> None:
    """The table of needs, the handlers and the rows here name the same endpoints."""
    served = {(method, handler.PATH) for handler in HANDLERS for method in operations(handler)}
    assert served == set(NEEDS)
    assert {(method, path.partition("?")[0]) for method, path, _, _ in ROWS} == set(NEEDS)


def test_each_kind_of_token_may_do_what_the_table_says(tmp_path: Path) -> None:
    """A row of outcomes for each endpoint; each request is made in a bucket of its own."""

    async def run() -> list[str]:
        wrong = []
        async with world(tmp_path) as here:
            for number, (method, path, body, outcomes) in enumerate(ROWS):
                things = await populate(here, number)
                # What succeeds may delete the thing, so the refusals come first.
                for kind, expected in sorted(zip(KINDS, outcomes, strict=True), key=lambda each: each[1] == YES):
                    if method == "DELETE" and expected == YES:
                        things = await populate(here, number * 100 + 1000 + KINDS.index(kind))
                    if method == "POST" and path == "/v1/buckets":
                        body = {"name": f"new-{kind}"}
                    target = path.format(**things)
                    answer = await here.call(method, target, body, None if kind == "none" else kind)
                    if (answer.status // 100 == 2) if expected == YES else answer.status == expected:
                        continue
                    wrong.append(f"{method} {path} with {kind}: {answer.status}, not {expected}: {answer.document}")
        return wrong

    assert asyncio.run(run()) == []


@pytest.mark.parametrize(
    ("method", "path", "body"), [(m, p, b) for m, p, b, outcomes in ROWS if outcomes[-1] == HIDDEN]
)
def test_a_hidden_thing_answers_as_one_that_is_not_there(tmp_path: Path, method: str, path: str, body: Any) -> None:
    """Another's bucket and a bucket that never was give the same answer, but for the name that was asked for."""

    async def run() -> None:
        async with world(tmp_path) as here:
            things = await populate(here, 0)
            missing = {"bucket": "0" * 36, "input": "0" * 36, "output": "0" * 36, "log": "k3v9x1q7m2ab-1", "token": ""}
            hidden = await here.call(method, path.format(**things), body, "other")
            absent = await here.call(method, path.format(**missing), body, "other")
            assert (hidden.status, absent.status) == (404, 404)
            for name in ("bucket", "log"):
                hidden.document["message"] = hidden.document["message"].replace(things[name], missing[name])
            assert hidden.document == absent.document

    asyncio.run(run())


def test_lists_hold_only_the_tokens_buckets(tmp_path: Path) -> None:
    """Buckets, logs, usage and connected clients of others are not in any list."""

    async def run() -> None:
        async with world(tmp_path) as here:
            things = await populate(here, 0)
            async with here.socket("scoped with API", things["bucket"]), here.socket("administrator"):
                buckets = (await here.call("GET", "/v1/buckets", token="other")).document
                assert [each["name"] for each in buckets] == ["other-0"]
                assert (await here.call("GET", "/v1/logs", token="other")).document["data"] == []
                assert (await here.call("GET", "/v1/usage", token="other")).document["usage"] == {
                    "buckets": 1,
                    "inputs": 1,
                    "outputs": 0,
                    "webhooks": 0,
                    "webhooks_stored": 0,
                    "connected_clients": 1,
                }
                clients = (await here.call("GET", "/v1/connected-clients", token="other")).document["webhook_clients"]
                assert [(each["access_token_key"], each["buckets"]) for each in clients] == [("", ["other-0"])]

    asyncio.run(run())


def test_what_all_buckets_share_is_an_administrators(tmp_path: Path) -> None:
    """A token with some buckets can't find out by a name, a route or an id whether it is taken."""

    async def run() -> None:
        async with world(tmp_path) as here:
            things = await populate(here, 0)
            bucket = f"/v1/buckets/{things['bucket']}"
            inputs = f"{bucket}/inputs"
            for method, path, body in (
                ("PUT", bucket, {"name": "other-0"}),
                ("PUT", bucket, {"name": "free"}),
                ("POST", inputs, {"id": "chosen"}),
                ("POST", inputs, {"custom_domain": "hooks.example.org"}),
                ("PUT", f"{inputs}/{things['input']}", {"path_prefix": "/shop"}),
            ):
                answer = await here.call(method, path, body, "scoped with API")
                assert (answer.status, answer.document["code"]) == (403, "forbidden"), (path, body)

    asyncio.run(run())


def test_secrets_are_shown_to_administrators_only(tmp_path: Path) -> None:
    """Others read them empty, and what they read they may send back without a change."""

    async def run() -> None:
        async with world(tmp_path) as here:
            things = await populate(here, 0)
            path = f"/v1/buckets/{things['bucket']}"
            rules = {"match": {"type": "payload-hash-sha256", "secret": "hmac-key", "parameter": SIGNED}}
            for where, body in (
                (path, {"auth": {"type": "basic", "username": "u", "password": "hidden-password"}}),
                (f"{path}/inputs/{things['input']}", {"verify": {"provider": "github", "secrets": ["hidden-secret"]}}),
                (f"{path}/outputs/{things['output']}/rules", rules),
            ):
                assert (await here.call("PUT", where, body)).status == 200
            before = (await here.call("GET", path)).document
            seen = (await here.call("GET", path, token="scoped with API")).document
            assert seen["auth"] == {"type": "basic", "username": "u", "password": "", "token": ""}
            assert seen["inputs"][0]["verify"]["secrets"] == []
            assert seen["outputs"][0]["rules"]["match"]["secret"] == ""
            for part, where in (
                (seen, path),
                (seen["inputs"][0], f"{path}/inputs/{things['input']}"),
                (seen["outputs"][0], f"{path}/outputs/{things['output']}"),
            ):
                answer = await here.call("PUT", where, {**part, "description": "mine"}, "scoped with API")
                assert answer.status == 200, answer.document
                assert "hidden" not in str(answer.document)
            partly = {"auth": {"type": "basic", "username": "new", "password": ""}}
            assert (await here.call("PUT", path, partly, "scoped with API")).status == 200
            partly = {"verify": {"provider": "github", "secrets": [], "on_failure": "mark"}}
            where = f"{path}/inputs/{things['input']}"
            assert (await here.call("PUT", where, partly, "scoped with API")).status == 200
            after = (await here.call("GET", path)).document
            assert (after["auth"].pop("username"), before["auth"].pop("username")) == ("new", "u")
            marked, verify = (each["inputs"][0]["verify"].pop("on_failure") for each in (after, before))
            assert (marked, verify) == ("mark", "reject")
            assert after["auth"] == before["auth"]
            assert after["inputs"][0]["verify"] == before["inputs"][0]["verify"]
            assert after["outputs"][0]["rules"] == before["outputs"][0]["rules"]
            assert after["description"] == "mine"

    asyncio.run(run())


SIGNED = {"source": "header", "name": "X-Signature"}


def test_a_token_that_ends_gives_no_access_that_outlasts_it(tmp_path: Path) -> None:
    """What it makes ends with it or before, and it changes or rotates none that lives longer."""

    async def run() -> None:
        async with world(tmp_path) as here:
            end = 4_000_000_000.0
            own = await here.token("brief", expires_at=end)
            forever = here.tokens["administrator"][0]
            made = await here.call("POST", "/v1/tokens", {}, "brief")
            assert (made.status, made.document["expires_at"]) == (201, end)
            for method, path, body in (
                ("POST", "/v1/tokens", {"expires_at": end + 1}),
                ("PUT", f"/v1/tokens/{own}", {"expires_at": None}),
                ("PUT", f"/v1/tokens/{forever}", {"description": "x"}),
                ("POST", f"/v1/tokens/{forever}/rotate", None),
            ):
                assert (await here.call(method, path, body, "brief")).status == 403, path

    asyncio.run(run())
