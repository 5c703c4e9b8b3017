"""Who may do what: one row for each endpoint and kind of token, and nothing that tells of others' buckets."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from relay_tornado.counters import ConsumerLevel
from relay_tornado.handlers.rest import HANDLERS
from relay_tornado.handlers.rest.base import operations
from relay_tornado.handlers.rest.endpoints import ENDPOINTS
from tests.handlers.rest.rows import HIDDEN, KINDS, ROWS, YES, filled, populate
from tests.handlers.rest.world import World, world


def test_every_endpoint_has_a_row() -> None:
    """The table of endpoints, the handlers and the rows here name the same endpoints."""
    served = {(method, handler.PATH) for handler in HANDLERS for method in operations(handler)}
    assert served == set(ENDPOINTS)
    rows = {(method, path.partition("?")[0].replace("{public}", "{output}")) for method, path, _, _ in ROWS}
    assert rows == set(ENDPOINTS)


def test_each_kind_of_token_may_do_what_the_table_says(tmp_path: Path) -> None:
    """A row of outcomes for each endpoint; each request is made in a bucket of its own."""

    async def run() -> list[str]:
        wrong = []
        async with world(tmp_path) as here:
            for number, (method, path, body, outcomes) in enumerate(ROWS):
                things = await populate(here, number)
                # What succeeds may delete the thing, so the refusals come first.
                for kind, expected in sorted(zip(KINDS, outcomes, strict=True), key=lambda each: each[1] == YES):
                    if (method == "DELETE" or path.endswith("/dead")) and expected == YES:
                        things = await populate(here, number * 100 + 1000 + KINDS.index(kind))
                    if method == "POST" and path in ("/v1/buckets", "/v1/buckets/{bucket}/outputs"):
                        body = {"name": f"new-{kind}"}
                    target = path.format(**things)
                    answer = await here.call(method, target, filled(body, things), None if kind == "none" else kind)
                    if (answer.status // 100 == 2) if expected == YES else answer.status == expected:
                        continue
                    wrong.append(f"{method} {path} with {kind}: {answer.status}, not {expected}: {answer.document}")
        return wrong

    assert asyncio.run(run()) == []


@pytest.mark.parametrize(
    ("method", "path", "body"), [(m, p, b) for m, p, b, outcomes in ROWS if outcomes[-1] == HIDDEN]
)
@pytest.mark.gen_test
async def test_a_hidden_thing_answers_as_one_that_is_not_there(here: World, method: str, path: str, body: Any) -> None:
    """Another's bucket and a bucket that never was give the same answer, but for the name that was asked for."""
    things = await populate(here, 0)
    missing = {"bucket": "0" * 36, "input": "0" * 36, "output": "0" * 36, "log": "k3v9x1q7m2ab-1", "token": "",
               "public": "0" * 36, "consumer": "worker"}  # fmt: skip
    hidden = await here.call(method, path.format(**things), body, "other")
    absent = await here.call(method, path.format(**missing), body, "other")
    assert (hidden.status, absent.status) == (404, 404)
    for name in ("bucket", "log"):
        hidden.document["message"] = hidden.document["message"].replace(things[name], missing[name])
    assert hidden.document == absent.document


@pytest.mark.gen_test
async def test_what_another_bucket_has_is_in_no_path_of_ones_own(here: World) -> None:
    """An input, an output or an event is named within its bucket alone; by another one's path it answers as if it were
    not there, and stays as it is."""
    things = await populate(here, 0)
    own = {**things, "bucket": "other-0"}
    missing = {**own, "input": "0" * 36, "output": "0" * 36, "public": "0" * 36, "log": "k3v9x1q7m2ab-1"}
    before = (await here.call("GET", f"/v1/buckets/{things['bucket']}")).document
    for method, path, body, _ in ROWS:
        names = [name for name in ("input", "output", "public", "log") if f"{{{name}}}" in path]
        if "{bucket}" not in path or not names:
            continue
        there = await here.call(method, path.format(**own), filled(body, things), "other")
        absent = await here.call(method, path.format(**missing), filled(body, things), "other")
        assert (there.status, absent.status) == (404, 404), (method, path, there.document)
        message = there.document["message"].replace(things[names[0]], missing[names[0]])
        assert {**there.document, "message": message} == absent.document
    assert (await here.call("GET", f"/v1/buckets/{things['bucket']}")).document == before


# Method and path of what a consumer has, and its body.
OF_A_CONSUMER: list[tuple[str, str, Any]] = [
    ("GET", "", None),
    ("POST", "/seek", {"to": "earliest", "preview": True}),
    ("GET", "/dead", None),
    ("POST", "/dead", {"id": "{log}"}),
    ("DELETE", "/dead?all=true", None),
    ("POST", "/dead/resend", {"all": True}),
    ("POST", "/replay", {"first": 1}),
    ("DELETE", "", None),
]


@pytest.mark.gen_test
async def test_a_tokens_position_is_its_own(here: World) -> None:
    """A durable token's consumer is seen and moved by administrators and by that token; for others it is not there,
    in no list and by no path. Clients' and outputs' are whoever's the bucket is."""
    things = await populate(here, 0)
    key = await here.token("durable", buckets=["orders-0"], durable=True)
    other = await here.token("also durable", buckets=["orders-0"], durable=True)
    consumers = f"/v1/buckets/{things['bucket']}/consumers"
    theirs = {("client", "worker"), ("output", "2")}
    for who, expected in (
        ("administrator", theirs | {("token", key), ("token", other)}),
        ("durable", theirs | {("token", key)}),
        ("also durable", theirs | {("token", other)}),
        ("scoped with API", theirs),
    ):
        for path in (consumers, "/v1/consumers"):
            listed = (await here.call("GET", path, token=who)).document
            assert {(each["kind"], each["name"]) for each in listed} == expected, (who, path)
    for method, part, wanted in OF_A_CONSUMER:
        body = filled(wanted, things)
        for who in ("scoped with API", "also durable"):
            hidden = await here.call(method, f"{consumers}/token:{key}{part}", body, who)
            absent = await here.call(method, f"{consumers}/token:nobody{part}", body, who)
            assert (hidden.status, absent.status) == (404, 404), (who, method, part, hidden.document)
            hidden.document["message"] = hidden.document["message"].replace(key, "nobody")
            assert hidden.document == absent.document
        # Its position can be neither deleted nor given single events.
        may = 412 if part == "/replay" or (method, part) in (("DELETE", ""), ("POST", "/dead")) else 200
        for who in ("administrator", "durable"):
            answer = await here.call(method, f"{consumers}/token:{key}{part}", body, who)
            assert answer.status == may, (who, method, part, answer.document)
    series = f"/v1/series?bucket={things['bucket']}&consumer=token:"
    for name in (key, "nobody"):
        for who in ("scoped with API", "also durable"):
            assert (await here.call("GET", series + name, token=who)).status == 404
    for who in ("administrator", "durable"):
        assert (await here.call("GET", series + key, token=who)).status == 200
    here.site.rest.lags = lambda: [
        ConsumerLevel(things["bucket"], f"token:{key}", 9, 90.0, 0),
        ConsumerLevel(things["bucket"], "worker", 1, 5.0, 0),
    ]
    for who, slowest in (
        ("administrator", f"token:{key}"),
        ("durable", f"token:{key}"),
        ("scoped with API", "worker"),
    ):
        status = (await here.call("GET", "/v1/status", token=who)).document
        assert [each["lag"]["consumer"] for each in status["buckets"] if each["name"] == "orders-0"] == [slowest]
    for method, part, body in OF_A_CONSUMER[:-1]:
        answer = await here.call(method, f"{consumers}/output:2{part}", filled(body, things), "scoped with API")
        assert answer.status == 200, (method, part, answer.document)


@pytest.mark.gen_test
async def test_lists_hold_only_the_tokens_buckets(here: World) -> None:
    """Buckets, logs, usage and connected clients of others are not in any list."""
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


@pytest.mark.gen_test
async def test_what_all_buckets_share_is_an_administrators(here: World) -> None:
    """A token with some buckets can't find out by a name, a route or an id whether it is taken."""
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
    none = {"custom_domain": "", "path_prefix": ""}
    assert (await here.call("POST", inputs, none, "scoped with API")).status == 201


@pytest.mark.gen_test
async def test_half_of_a_route_is_cleared_by_an_administrator_only(here: World) -> None:
    """A domain without its prefix, and a prefix without its domain, match more requests, which may be others'. A token
    with some buckets can't get them, nor find out whether another input has that route; it may give up the whole
    route."""
    things = await populate(here, 0)
    bucket = f"/v1/buckets/{things['bucket']}"
    path = f"{bucket}/inputs/{things['input']}"
    route = {"custom_domain": "hooks.example.org", "path_prefix": "/shop"}
    assert (await here.call("PUT", path, route)).status == 200
    assert (await here.call("POST", "/v1/buckets/other-0/inputs", {"path_prefix": "/shop"})).status == 201
    for half in ({"custom_domain": ""}, {"path_prefix": ""}, {"custom_domain": None, "path_prefix": ""}):
        answer = await here.call("PUT", path, half, "scoped with API")
        assert (answer.status, answer.document["code"]) == (403, "forbidden"), half
    found = next(each for each in (await here.call("GET", bucket)).document["inputs"] if each["id"] == things["input"])
    assert {name: found[name] for name in route} == route
    back = await here.call("PUT", path, {**found, "description": "mine"}, "scoped with API")
    assert (back.status, back.document["custom_domain"]) == (200, "hooks.example.org")
    none = {"custom_domain": "", "path_prefix": ""}
    assert (await here.call("PUT", path, none, "scoped with API")).status == 200
    assert (await here.call("PUT", path, {**route, "path_prefix": "/"})).status == 200
    assert (await here.call("PUT", path, {"custom_domain": ""}, "scoped with API")).status == 200
    assert (await here.call("PUT", path, {"path_prefix": "/mine"})).status == 200
    assert (await here.call("PUT", path, {"path_prefix": ""}, "scoped with API")).status == 200


@pytest.mark.gen_test
async def test_secrets_are_shown_to_administrators_only(here: World) -> None:
    """Others read them empty, and what they read they may send back without a change."""
    things = await populate(here, 0)
    path = f"/v1/buckets/{things['bucket']}"
    signed = {"match": {"type": "payload-hash-sha256", "secret": "hidden-key", "parameter": SIGNED}}
    rules = {"and": [signed, {"not": {"or": [signed]}}]}
    for where, body in (
        (path, {"auth": {"type": "basic", "username": "u", "password": "hidden-password"}}),
        (f"{path}/inputs/{things['input']}", {"verify": {"provider": "github", "secrets": ["hidden-secret"]}}),
        (f"{path}/outputs/{things['output']}/rules", rules),
        (f"{path}/outputs/{things['output']}", {"secret": "whsec_hidden0h"}),
    ):
        assert (await here.call("PUT", where, body)).status == 200
    before = (await here.call("GET", path)).document
    seen = (await here.call("GET", path, token="scoped with API")).document
    assert seen["auth"] == {"type": "basic", "username": "u", "password": "", "token": ""}
    assert seen["inputs"][0]["verify"]["secrets"] == []
    assert "hidden" not in str(seen)
    assert seen["outputs"][0]["rules"]["and"][0]["match"] == {**signed["match"], "secret": ""}
    assert (seen["outputs"][0]["secret"], before["outputs"][0]["secret"]) == ("", "whsec_hidden0h")
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
    # GitLab's secret stands in its events, which this token reads.
    for provider in ({"provider": "gitlab"}, {"provider": "gitlab", "secrets": []}):
        assert (await here.call("PUT", where, {"verify": provider}, "scoped with API")).status == 403
    after = (await here.call("GET", path)).document
    assert (after["auth"].pop("username"), before["auth"].pop("username")) == ("new", "u")
    marked, verify = (each["inputs"][0]["verify"].pop("on_failure") for each in (after, before))
    assert (marked, verify) == ("mark", "reject")
    assert after["auth"] == before["auth"]
    assert after["inputs"][0]["verify"] == before["inputs"][0]["verify"]
    assert after["outputs"][0]["rules"] == before["outputs"][0]["rules"]
    assert after["outputs"][0]["secret"] == before["outputs"][0]["secret"]
    assert after["description"] == "mine"
    anew = {"verify": {"provider": "gitlab", "secrets": ["my own"]}}
    assert (await here.call("PUT", where, anew, "scoped with API")).status == 200
    # The other kind of a bucket's `auth`.
    assert (await here.call("PUT", path, {"auth": {"type": "token", "token": "hidden-token"}})).status == 200
    seen = (await here.call("GET", path, token="scoped with API")).document
    assert seen["auth"] == {"type": "token", "username": "", "password": "", "token": ""}
    back = await here.call("PUT", path, {"auth": seen["auth"], "description": "still mine"}, "scoped with API")
    assert (back.status, "hidden" in str(back.document)) == (200, False)
    # Senders go on sending it, and without auth it would be stored.
    for none in ({"type": "none"}, {"type": ""}):
        assert (await here.call("PUT", path, {"auth": none}, "scoped with API")).status == 403
    assert (await here.call("GET", path)).document["auth"]["token"] == "hidden-token"
    assert (await here.call("PUT", path, {"auth": none})).status == 200
    assert (await here.call("PUT", path, {"auth": {"type": "none"}}, "scoped with API")).status == 200


@pytest.mark.gen_test
async def test_what_is_only_kept_is_shown_as_it_is(here: World) -> None:
    """Whatever a field looks like that the relay does not know: to others it is shown as it came, and what it is beside
    is still without its secrets."""
    things = await populate(here, 0)
    path = f"/v1/buckets/{things['bucket']}"
    like = {"internal": False, "destination": 1, "secret": "s", "auth": {"password": "p"}, "verify": 2}
    for where, body in (
        (path, {"internal": False, "meta": like, "auth": {"type": "basic", "username": "u", "password": "hid"}}),
        (
            f"{path}/inputs/{things['input']}",
            {"internal": False, "outputs": [like], "verify": {"provider": "github", "secrets": ["hid"]}},
        ),
        (
            f"{path}/outputs/{things['public']}",
            {"verify": like, "throttle": {"internal": False}, "secret": "whsec_hid0", "headers": {"X-Key": "hid"}},
        ),
    ):
        assert (await here.call("PUT", where, body)).status == 200
    (listed,) = (await here.call("GET", "/v1/buckets", token="scoped with API")).document
    whole = (await here.call("GET", path, token="scoped with API")).document
    assert listed == whole
    assert "hid" not in str(whole)
    output = next(each for each in whole["outputs"] if each["id"] == things["public"])
    assert (whole["internal"], whole["meta"]) == (False, like)
    assert (whole["inputs"][0]["internal"], whole["inputs"][0]["outputs"]) == (False, [like])
    assert (output["verify"], output["throttle"]) == (like, {"internal": False})


@pytest.mark.gen_test
async def test_what_a_public_output_sends_is_masked(here: World) -> None:
    """The login and the query of its destination and headers that look secret: others read `***`, may send that back
    without a change, and get at nothing by changing something else."""
    things = await populate(here, 0)
    bucket = f"/v1/buckets/{things['bucket']}"
    path = f"{bucket}/outputs/{things['public']}"
    url = "https://u:hidden-1@shop.example:8443/in?key=hidden-2&hidden-3"
    headers = {"X-Kind": ["a"], "Authorization": ["Bearer hidden-4"], "x-api-key": ["hidden-5", "hidden-6"]}
    before = (await here.call("PUT", path, {"destination": url, "headers": headers})).document
    assert (before["destination"], before["headers"]) == (url, headers)
    whole = (await here.call("GET", bucket, token="scoped with API")).document
    listed = (await here.call("GET", "/v1/buckets", token="scoped with API")).document
    assert "hidden" not in str((whole, listed))
    seen = next(each for each in whole["outputs"] if each["id"] == things["public"])
    assert seen["destination"] == "https://***@shop.example:8443/in?key=***&***"
    pasted = {"destination": f"\u00a0{url}\u3000"}  # as from a web page
    assert (await here.call("PUT", path, pasted)).document["destination"] == pasted["destination"]
    assert "hidden" not in str((await here.call("GET", bucket, token="scoped with API")).document)
    assert (await here.call("PUT", path, {"destination": url})).status == 200
    assert seen["headers"] == {"X-Kind": ["a"], "Authorization": ["***"], "x-api-key": ["***", "***"]}

    async def put(**fields: Any) -> Any:
        answer = await here.call("PUT", path, fields, "scoped with API")
        assert "hidden" not in str(answer.document)
        return answer

    async def stored() -> tuple[str, Any]:
        document = (await here.call("GET", bucket)).document
        found = next(each for each in document["outputs"] if each["id"] == things["public"])
        return found["destination"], found["headers"]

    assert (await put(**{**seen, "description": "mine"})).document["description"] == "mine"
    assert await stored() == (url, headers)
    assert (await put(headers={**seen["headers"], "X-Kind": ["b"]})).status == 200
    headers["X-Kind"] = ["b"]
    assert await stored() == (url, headers)
    for fields, status in (
        ({"destination": "https://***@evil.example/"}, 400),
        ({"destination": "https://***@shop.example:8443/other"}, 400),
        ({"headers": {"X-New": ["***"]}}, 400),
        ({"headers": {"x-api-key": ["***"]}}, 400),
        ({"headers": {"x-api-key": ["***", "mine"]}}, 400),
        ({"headers": {"x-api-key": ["mine", " ***"]}}, 400),
        ({"headers": {"X-Kind": ["***"]}}, 400),
        ({"internal": True}, 403),
        ({"internal": True, "destination": "https://mine.example/"}, 403),
        ({"internal": True, "headers": {}}, 403),
        ({"internal": True, "headers": seen["headers"]}, 403),
        ({"destination": "https://evil.example/"}, 403),
        ({"destination": "https://evil.example/", "headers": seen["headers"]}, 403),
        ({"destination": "http://shop.example:8443/"}, 403),
        ({"destination": "https://shop.example/"}, 403),
        ({"headers": {**seen["headers"], "host": "evil.example"}}, 403),
        ({"headers": {"Host": ["evil.example"]}}, 403),
        ({"tls_verification": False}, 403),
        # Null leaves the destination as it is, and what is hidden in it.
        ({"internal": True, "destination": None}, 403),
        ({"internal": True, "destination": None, "headers": {}}, 403),
        ({"tls_verification": False, "destination": None, "headers": {}}, 403),
        ({"headers": {"Host": ["evil.example"]}, "destination": None}, 403),
    ):
        answer = await put(**fields)
        assert answer.status == status, (fields, answer.document)
        assert await stored() == (url, headers)
    # As what is stored: without blanks, and null is none.
    blank = {**seen["headers"], "X-Kind": "b", "Authorization": " ***\t", "Host": None}
    assert (await put(headers=blank)).status == 200
    assert await stored() == (url, headers)
    assert (await put(destination="https://shop.example:8443/other")).status == 200
    assert await stored() == ("https://shop.example:8443/other", headers)
    # An administrator's Host stays, and may be sent back; others change it together with all that is secret.
    hosted = {**headers, "Host": ["shop.internal"]}
    assert (await here.call("PUT", path, {"headers": hosted, "tls_verification": False})).status == 200
    back = {**seen["headers"], "X-Kind": ["b"], "Host": "shop.internal"}
    assert (await put(headers=back, tls_verification=False)).status == 200
    assert await stored() == ("https://shop.example:8443/other", {**headers, "Host": ["shop.internal"]})
    assert (await put(headers=seen["headers"])).status == 403
    mine = {"X-Kind": ["c"], "Host": ["mine.example"]}
    assert (await put(destination="https://mine.example/", headers=mine, tls_verification=False)).status == 200
    assert (await put(internal=True)).status == 200


SIGNED = {"source": "header", "name": "X-Signature"}


@pytest.mark.gen_test
async def test_a_token_that_ends_gives_no_access_that_outlasts_it(here: World) -> None:
    """What it makes ends with it or before, and it changes or rotates none that lives longer."""
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
