"""Buckets, inputs and outputs over REST, and request bins, with bodies as clients send them."""

from __future__ import annotations

import asyncio

import pytest

from tests.handlers.rest.world import World

BUCKET = {
    *("id", "name", "description", "account_id", "created_at", "updated_at", "stream", "ephemeral", "suspended"),
    *("static_ip", "large_webhooks", "auth", "inputs", "outputs"),
}
INPUT = {
    *("id", "name", "description", "bucket_id", "function_id", "status_code", "body", "headers", "custom_domain"),
    *("path_prefix", "strip_path_prefix", "response_from_output", "created_at", "updated_at"),
}
OUTPUT = {
    *("id", "name", "description", "bucket_id", "destination", "internal", "disabled", "lock_path", "timeout"),
    *("retries", "tls_verification", "headers", "rules", "function_id", "throttle", "durability"),
    *("strict_order", "secret", "paused", "disabled_reason"),
    *("created_at", "updated_at"),
}


@pytest.mark.gen_test
async def test_a_buckets_life(here: World) -> None:
    """Made with one input, read by name and id, changed, refused while it has more than that, deleted by force."""
    made = await here.call("POST", "/v1/buckets", {"name": "orders", "description": "d", "auth": {"type": "none"}})
    assert made.status == 201
    bucket = made.document
    assert set(bucket) >= BUCKET
    assert [each["name"] for each in bucket["inputs"]] == ["Default public endpoint"]
    assert set(bucket["inputs"][0]) >= INPUT
    assert bucket["auth"] == {"type": "none", "username": "", "password": "", "token": ""}
    for reference in ("orders", bucket["id"]):
        assert (await here.call("GET", f"/v1/buckets/{reference}")).document == bucket
    assert (await here.call("POST", "/v1/buckets", {"name": "orders"})).status == 412
    # The Go client sends the whole bucket back.
    changed = await here.call("PUT", "/v1/buckets/orders", {**bucket, "name": "shop", "stream": False})
    assert (changed.status, changed.document["name"], changed.document["stream"]) == (200, "shop", False)
    assert (await here.call("GET", "/v1/buckets/orders")).status == 404
    path = f"/v1/buckets/{bucket['id']}"
    assert (await here.call("POST", f"{path}/inputs", {"name": "second"})).status == 201
    refused = await here.call("DELETE", path)
    assert (refused.status, refused.document["code"]) == (412, "conflict")
    assert (await here.call("DELETE", f"{path}?force=maybe")).document["field"] == "force"
    deleted = await here.call("DELETE", f"{path}?force=true")
    assert (deleted.status, deleted.document) == (200, {"id": bucket["id"], "status": "deleted"})
    assert (await here.call("DELETE", path)).status == 404


@pytest.mark.gen_test
async def test_a_bucket_without_an_input(here: World) -> None:
    """Made so where that is asked for, which is no field that it keeps; null asks for nothing."""
    made = [
        (await here.call("POST", "/v1/buckets", {"name": f"b{each}", "default_input": each})).document
        for each in (False, True, None)
    ]
    assert [len(each["inputs"]) for each in made] == [0, 1, 1]
    assert not any("default_input" in each for each in made)
    await here.refused("default_input", "POST", "/v1/buckets", {"name": "b", "default_input": "no"})


@pytest.mark.gen_test
async def test_go_zero_values(here: World) -> None:
    """An `auth` that was never filled in is none, also in a change; an empty type with a password is refused."""
    zero = {"type": "", "username": "", "password": "", "token": ""}
    made = await here.call("POST", "/v1/buckets", {"name": "orders", "auth": zero})
    assert (made.status, made.document["auth"]) == (201, {**zero, "type": "none"})
    await here.refused("auth.password", "PUT", "/v1/buckets/orders", {"auth": {**zero, "password": "p"}})


@pytest.mark.gen_test
async def test_an_inputs_life(here: World) -> None:
    """Made, perhaps with an id that was chosen; changed; deleted; found in its own bucket only."""
    await here.bucket("orders")
    await here.bucket("other")
    made = await here.call(
        "POST", "/v1/buckets/orders/inputs", {"id": "", "name": "in", "status_code": 0, "headers": {"X": "1"}}
    )
    assert made.status == 201
    assert set(made.document) >= INPUT
    assert (made.document["status_code"], made.document["headers"]) == (200, {"X": ["1"]})
    wrong = await here.call("POST", "/v1/buckets/orders/inputs", {"headers": ["X"]})
    assert (wrong.status, wrong.document["message"]) == (400, "headers: must be a JSON object.")
    path = f"/v1/buckets/orders/inputs/{made.document['id']}"
    changed = await here.call("PUT", path, {**made.document, "body": "ok", "status_code": 202})
    assert (changed.status, changed.document["body"], changed.document["status_code"]) == (200, "ok", 202)
    assert (await here.call("PUT", path.replace("orders", "other"), {"name": "x"})).status == 404
    assert (await here.call("PUT", path, {"status_code": 99})).document["field"] == "status_code"
    chosen = await here.call("POST", "/v1/buckets/orders/inputs", {"id": "my-shop"})
    assert chosen.document["id"] == "my-shop"
    assert (await here.call("POST", "/v1/buckets/other/inputs", {"id": "my-shop"})).status == 412
    deleted = await here.call("DELETE", path)
    assert deleted.document == {"id": made.document["id"], "status": "deleted"}
    assert (await here.call("DELETE", path)).status == 404


@pytest.mark.gen_test
async def test_an_outputs_life(here: World) -> None:
    """Made, changed, given rules and relieved of them, deleted; fields that nobody knows are echoed."""
    await here.bucket("orders")
    body = {
        "name": "local",
        "destination": "http://localhost:3000/hook",
        "internal": True,
        "timeout": 30,
        "headers": {"X-Env": ["dev"]},
        "overrides": {"something": [1, None]},
        "durability": {"enabled": True, "schedule": "long", "custom_delays": [1_000_000_000], "new": 1},
    }
    made = await here.call("POST", "/v1/buckets/orders/outputs", body)
    assert made.status == 201
    assert set(made.document) >= OUTPUT
    assert {name: made.document[name] for name in body} == body
    path = f"/v1/buckets/orders/outputs/{made.document['id']}"
    rules = {"match": {"type": "value", "value": "1", "parameter": {"source": "query", "name": "a"}}}
    ruled = await here.call("PUT", f"{path}/rules", rules)
    assert (ruled.status, ruled.document["rules"]) == (200, rules)
    wrong = await here.call("PUT", f"{path}/rules", {"match": {"type": "nothing"}})
    assert (wrong.status, wrong.document["field"].startswith("rules")) == (400, True)
    freed = await here.call("DELETE", f"{path}/rules")
    assert (freed.status, freed.document["rules"]) == (200, None)
    for nodes, status in ((32, 200), (33, 400)):
        deep: object = rules
        for _ in range(nodes - 1):
            deep = {"and": [deep]}
        answer = await here.call("PUT", f"{path}/rules", deep)
        assert (answer.status, "this is node 33" in str(answer.document)) == (status, status == 400)
    read = (await here.call("GET", "/v1/buckets/orders")).document
    assert (await here.call("PUT", "/v1/buckets/orders", read)).status == 200
    changed = await here.call("PUT", path, {"disabled": True})
    assert (changed.document["disabled"], changed.document["overrides"]) == (True, body["overrides"])
    assert (await here.call("PUT", path, {"timeout": 181})).document["field"] == "timeout"
    assert (await here.call("DELETE", path)).document["status"] == "deleted"
    assert (await here.call("PUT", path, {})).status == 404


@pytest.mark.gen_test
async def test_a_name_where_an_id_is_wanted(here: World) -> None:
    """A 404 that says so, and tells the id."""
    await here.bucket("orders")
    for kind, body in (("output", {"name": "o", "destination": "http://localhost/"}), ("input", {"name": "i"})):
        path = f"/v1/buckets/orders/{kind}s"
        made = (await here.call("POST", path, body)).document
        said = f"{body['name']!r} is the name of an {kind}, and here its id is wanted: {made['id']}"
        for method, given in (("PUT", {}), ("DELETE", None)):
            refused = await here.call(method, f"{path}/{body['name']}", given)
            assert (refused.status, refused.document["message"]) == (404, said)
        unknown = await here.call("DELETE", f"{path}/nothing")
        said = f"the bucket 'orders' has no {kind} 'nothing': its {kind}s are "
        assert unknown.document["message"].startswith(said)
        assert unknown.document["message"].endswith(f"{made['id']} ({body['name']!r})")


@pytest.mark.gen_test
async def test_an_internal_output_has_no_position(here: World) -> None:
    """The 404 says that this is the reason, whichever way the output is named."""
    await here.bucket("orders")
    made = (await here.call("POST", "/v1/buckets/orders/outputs", {"name": "o"})).document
    for path in (f"outputs/{made['id']}/position", "consumers/output:1", "consumers/output:o"):
        answer = await here.call("GET", f"/v1/buckets/orders/{path}")
        assert answer.status == 404
        assert answer.document["message"].startswith("the output 'o' is internal, and has no position")


@pytest.mark.gen_test
async def test_a_position_that_is_none(here: World) -> None:
    """A seek goes to one position: nothing is said of a map of buckets, which only a subscribe may have."""
    await here.bucket("orders")
    about = {"name": "p", "internal": False, "destination": "https://shop.example/", "paused": True}
    await here.call("POST", "/v1/buckets/orders/outputs", about)
    for to in ("newest", 5, {"orders": "latest"}):
        answer = await here.refused("to", "POST", "/v1/buckets/orders/consumers/output:1/seek", {"to": to})
        assert answer.document["message"].endswith('{"last": 10} or {"time": 1700000000}')


@pytest.mark.gen_test
async def test_a_secret_for_signing_that_is_none(here: World) -> None:
    """The message says its form, and what makes one, whatever is wrong with it."""
    await here.bucket("orders")
    for secret in ("secret", "whsec_x", "whsec_ AAAA", "whsec_" + "A" * 1020):
        answer = await here.call("POST", "/v1/buckets/orders/outputs", {"secret": secret})
        assert answer.document["message"].startswith("secret: must be whsec_ and base64, in at most 1024 characters")


@pytest.mark.gen_test
async def test_a_field_that_is_not_there(here: World) -> None:
    """The message lists those that are, in the part that is meant."""
    await here.bucket("orders")
    for path, body, said in (
        (
            "/v1/buckets/orders",
            {"rate_limit": {"rate": 5}},
            "rate_limit.rate: there is no such field here; there are events, interval.",
        ),
        (
            "/v1/buckets/orders/resend",
            {"since": 5},
            "since: there is no such field here; there are first, last, from, to, cursor, filter, output, "
            "process_policy.",
        ),
        (
            "/v1/tokens",
            {"scopes": {"bucket": "orders"}},
            "scopes.bucket: there is no such field here; there are buckets, tunnels.",
        ),
    ):
        answer = await here.call("PUT" if path.endswith("orders") else "POST", path, body)
        assert (answer.status, answer.document["message"]) == (400, said)


@pytest.mark.gen_test
async def test_what_does_not_fit(here: World) -> None:
    """A 400 whose message names the field, before anything is changed."""
    for body, field in (
        ({}, "name"),
        ({"name": 1}, "name"),
        ({"name": "a/b"}, "name"),
        ({"name": "n", "stream": "yes"}, "stream"),
        ({"name": "n", "auth": {"type": "secret"}}, "auth.type"),
        ({"name": "n", "auth": {"type": "basic"}}, "auth.username"),
        ({"name": "n", "retention": {"max_age": -1}}, "retention.max_age"),
    ):
        answer = await here.refused(field, "POST", "/v1/buckets", body)
        assert field in answer.document["message"]
    assert (await here.call("GET", "/v1/buckets")).document == []


@pytest.mark.gen_test
async def test_any_field_may_be_sent(here: World) -> None:
    """Names that mean something to a programmer are fields like others: kept and echoed."""
    odd = dict.fromkeys(("self", "bucket", "reference", "options", "extra", "n", "", "__class__"), 1)
    made = await here.call("POST", "/v1/buckets", {"name": "orders", **odd})
    assert made.status == 201, made.document
    for path in ("inputs", "outputs"):
        part = await here.call("POST", f"/v1/buckets/orders/{path}", {"name": "p", **odd})
        assert part.status == 201, part.document
        where = f"/v1/buckets/orders/{path}/{part.document['id']}"
        changed = await here.call("PUT", where, {**odd, "self": 2})
        assert (changed.status, changed.document["self"]) == (200, 2)
    changed = await here.call("PUT", "/v1/buckets/orders", {**odd, "self": 2})
    assert {name: changed.document[name] for name in odd} == {**odd, "self": 2}


@pytest.mark.gen_test
async def test_a_bucket_that_gets_too_large(here: World) -> None:
    """One input too many is refused with what to do, and the others stay."""
    await here.call("POST", "/v1/buckets", {"name": "orders"})
    for _ in range(16):
        made = await here.call("POST", "/v1/buckets/orders/inputs", {"body": "x" * 250_000})
        assert made.status == 201
    refused = await here.call("POST", "/v1/buckets/orders/inputs", {"body": "x" * 250_000})
    assert (refused.status, refused.document["code"]) == (412, "conflict")
    assert "shorten what its inputs answer" in refused.document["message"]
    assert len((await here.call("GET", "/v1/buckets/orders")).document["inputs"]) == 17


@pytest.mark.gen_test
async def test_request_bins(here: World) -> None:
    """One request makes a bucket for a day with its URL; twenty at a time, and one that is kept is none any more."""
    made = [await here.call("POST", "/v1/bins") for _ in range(20)]
    assert {each.status for each in made} == {201}
    first = made[0].document
    assert first["url"] == f"{here.url}/v1/webhooks/{first['bucket']['inputs'][0]['id']}"
    assert first["expires_at"] == first["bucket"]["expires_at"]
    assert 86_390 <= first["expires_at"] - first["bucket"]["created_at"] <= 86_410
    assert (await here.call("POST", "/v1/bins")).status == 412
    kept = await here.call("PUT", f"/v1/buckets/{first['bucket']['id']}", {"expires_at": None})
    assert kept.document["expires_at"] is None
    assert (await here.call("POST", "/v1/bins")).status == 201


@pytest.mark.gen_test
async def test_request_bins_that_are_made_at_once(here: World) -> None:
    """Those that are being made are counted, too."""
    made = await asyncio.gather(*(here.call("POST", "/v1/bins") for _ in range(30)))
    assert sorted(each.status for each in made) == [201] * 20 + [412] * 10


@pytest.mark.gen_test
async def test_a_consumers_dead_letters_and_position(here: World) -> None:
    """Those that are named are forgotten, and no others; a preview moves nothing."""
    bucket = await here.bucket("orders")
    logs = [await here.send(bucket) for _ in range(3)]
    await here.consumer(bucket, "worker")
    path = "/v1/buckets/orders/consumers/worker"
    for log in logs:
        assert (await here.call("POST", f"{path}/dead", {"id": log})).status == 200
    assert (await here.call("DELETE", f"{path}/dead?ids={logs[0]},{logs[2]}")).status == 200
    for query in ("", "?ids=", "?all=false", f"?ids={logs[1]}&all=true"):
        await here.refused("ids", "DELETE", f"{path}/dead{query}")
    for body in ({}, {"all": False}, {"ids": [logs[1]], "all": True}, {"ids": []}):
        await here.refused("ids", "POST", f"{path}/dead/resend", body)
    assert [each["id"] for each in (await here.call("GET", f"{path}/dead")).document["data"]] == logs[1:2]
    for body, seq in (({"preview": True}, 3), ({}, 0)):
        assert (await here.call("POST", f"{path}/seek", {"to": "earliest", **body})).status == 200
        assert (await here.call("GET", path)).document["floor"].endswith(f"-{seq}")
