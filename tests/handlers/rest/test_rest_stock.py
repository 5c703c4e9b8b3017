"""Requests as the original's own clients make them: its libraries in Go and JavaScript and its Terraform provider.

They leave out what is false, send back what they read, and write null for nothing.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.handlers.rest.world import World


@pytest.mark.parametrize(
    ("destination", "internal"),
    [
        ("https://example.org/hook", False),
        ("http://93.184.215.14:8080", False),
        ("https://[2606:2800:21f:cb07:6820:80da:af6b:8b2c]/", False),
        ("http://localhost:3000/hook", True),
        ("http://app.localhost/", True),
        ("http://127.0.0.1:3000", True),
        ("http://10.0.0.7/hook", True),
        ("http://[::1]/", True),
        ("http://jenkins:8080/", True),
        ("http://shop.default.svc.cluster.local/", True),
        ("http://shop.default.svc:8080/hooks", True),
        ("http://host.docker.internal/", True),
        ("", True),
        ("not a URL", True),
    ],
)
@pytest.mark.gen_test
async def test_an_output_is_public_where_its_url_is(here: World, destination: str, internal: bool) -> None:
    """Where a client does not say what it is: those in Go leave `false` out."""
    await here.bucket("orders")
    for body in ({"destination": destination}, {"destination": destination, "internal": None}):
        made = await here.call("POST", "/v1/buckets/orders/outputs", body)
        assert (made.status, made.document["internal"]) == (201, internal), made.document
    said = {"destination": destination, "internal": True}
    assert (await here.call("POST", "/v1/buckets/orders/outputs", said)).document["internal"] is True


def in_go(**fields: Any) -> dict[str, Any]:
    """An output as the library in Go writes one: whole, but for the parts that it does not have."""
    zero = -62135596800
    texts = ("id", "name", "bucket_id", "cron_id", "function_id", "response_function_id", "description", "created_by")
    flags = ("disabled", "lock_path", "internal", "tls_verification")
    whole = {"created_at": zero, "updated_at": zero, "headers": None, "timeout": 0, "retries": 0}
    return {**whole, **dict.fromkeys(texts, ""), **dict.fromkeys(flags, False), **fields}


@pytest.mark.parametrize(
    ("destination", "internal"),
    [("https://example.org/hook", False), ("http://localhost:8080/webhooks", True), ("http://10.0.0.7/", True)],
)
@pytest.mark.gen_test
async def test_an_output_as_the_library_in_go_makes_it(here: World, destination: str, internal: bool) -> None:
    """It can't leave out that it is not internal; a URL that the relay does not call makes it so, as it does there."""
    await here.bucket("orders")
    path = "/v1/buckets/orders/outputs"
    made = await here.call("POST", path, in_go(destination=destination))
    assert (made.status, made.document["internal"]) == (201, internal), made.document
    # What somebody made public stays so.
    public = (await here.call("POST", path, {"destination": destination, "internal": False})).document
    assert public["internal"] is False
    kept = await here.call("PUT", f"{path}/{public['id']}", in_go(name="a", destination=destination))
    assert (kept.status, kept.document["internal"]) == (200, False)


@pytest.mark.gen_test
async def test_an_output_as_the_library_in_go_changes_it(here: World) -> None:
    """It says `false` then, too, and so does the Kubernetes operator at each turn: what the relay does not call stays
    what it is, and such a URL in the place of a public one makes the output internal."""
    public, private = "https://example.org/hook?key=1", "http://jenkins:8080/hook?key=1"
    bucket = await here.bucket("orders")
    await here.token("scoped", buckets=[bucket.id])
    path = "/v1/buckets/orders/outputs"
    for token in ("administrator", "scoped"):
        made = (await here.call("POST", path, in_go(name=token, destination=private), token=token)).document
        path_of_it = f"{path}/{made['id']}"
        for destination, internal in ((private, True), (public, False), (public, False), (private, True)):
            sent = in_go(name=token, destination=destination)
            changed = await here.call("PUT", path_of_it, sent, token=token)
            assert (changed.status, changed.document["internal"]) == (200, internal), changed.document
        # Who writes no more than what is to change means it.
        changed = await here.call("PUT", path_of_it, {"internal": False}, token=token)
        assert changed.document["internal"] is False
        # As it is read, so it is sent back.
        for sent in (changed.document, in_go(name=token, destination=changed.document["destination"])):
            kept = await here.call("PUT", path_of_it, sent, token=token)
            assert (kept.status, kept.document["internal"]) == (200, False)


@pytest.mark.gen_test
async def test_a_path_with_a_slash_at_its_end(here: World) -> None:
    """As the original's first description of its API had it behind each id, and clients that were made from it."""
    bucket = await here.bucket("orders")
    log = await here.send(bucket)
    assert (await here.call("GET", f"/v1/buckets/{bucket.id}/")).document["id"] == bucket.id
    assert (await here.call("PUT", "/v1/buckets/orders/", {"description": "new"})).document["description"] == "new"
    token = (await here.call("POST", "/v1/tokens/", {})).document
    assert (await here.call("PUT", f"/v1/tokens/{token['id']}/", {"description": "new"})).status == 200
    assert (await here.call("DELETE", f"/v1/tokens/{token['id']}/")).document["status"] == "deleted"
    assert (await here.call("PUT", f"/v1/logs/{log}/", {"status_code": 200})).status == 200
    assert (await here.call("GET", "/v1/logs/?bucket=orders")).document["total"] == 1
    assert (await here.call("DELETE", f"/v1/buckets/{bucket.id}/?force=true")).status == 200
    assert (await here.call("GET", "/v1/buckets//")).status == 404


@pytest.mark.gen_test
async def test_parts_that_the_library_in_go_removes_from_an_output(here: World) -> None:
    """It leaves them out then, of an output that is whole else; what others leave out stays, as what its older versions
    don't know."""
    parts = {
        "rules": {"match": {"type": "value", "value": "push", "parameter": {"source": "header", "name": "X-Event"}}},
        "throttle": {"enabled": True, "mode": "rate", "rate": 10, "interval": "minute"},
        "durability": {"enabled": True, "schedule": "long", "deadline": 2_592_000_000_000_000},
    }

    await here.bucket("orders")
    path = "/v1/buckets/orders/outputs"
    made = (await here.call("POST", path, in_go(name="a", internal=True, **parts))).document
    path += f"/{made['id']}"
    older = in_go(name="a", internal=True)
    del older["retries"], older["tls_verification"]
    for kept in (parts, {"description": "new"}, older, in_go(name="a", internal=True, **parts)):
        changed = (await here.call("PUT", path, kept)).document
        assert {name: changed[name] for name in parts} == parts
    left = {"rules": parts["rules"]}
    changed = (await here.call("PUT", path, in_go(name="a", internal=True, **left))).document
    assert {name: changed[name] for name in parts} == {**dict.fromkeys(parts), **left}
    changed = (await here.call("PUT", path, in_go(name="a", internal=True))).document
    assert {name: changed[name] for name in parts} == dict.fromkeys(parts)
    assert "replay_missing" not in changed


@pytest.mark.gen_test
async def test_missing_replays_that_the_library_in_go_removes_from_an_output(here: World) -> None:
    """The relay only keeps the setting; were it kept then, too, the Kubernetes operator would change the output at each
    turn for good."""
    await here.bucket("orders")
    path = "/v1/buckets/orders/outputs"
    sent = in_go(name="a", internal=True, replay_missing={"enabled": True, "lookback": 3_600_000_000_000, "limit": 50})
    made = (await here.call("POST", path, {**sent, "colour": "blue"})).document
    path += f"/{made['id']}"
    for kept in ({"description": "new"}, sent):
        changed = (await here.call("PUT", path, kept)).document
        assert changed["replay_missing"] == sent["replay_missing"]
    changed = (await here.call("PUT", path, in_go(name="a", internal=True))).document
    assert (changed["replay_missing"], changed["colour"]) == (None, "blue")


@pytest.mark.gen_test
async def test_a_change_by_the_library_in_go_that_names_nothing(here: World) -> None:
    """It takes an id, and can't leave the name out: that stays. Who writes no more than an empty name means it."""
    bucket = await here.bucket("orders")
    made = (await here.call("POST", "/v1/buckets/orders/outputs", {"name": "local"})).document
    for path, name in (
        (f"/v1/buckets/{bucket.id}", "orders"),
        (f"/v1/buckets/{bucket.id}/inputs/{bucket.inputs[0].id}", "Default public endpoint"),
        (f"/v1/buckets/{bucket.id}/outputs/{made['id']}", "local"),
    ):
        sent = {"name": "", "created_at": -62135596800, "description": "new"}
        changed = await here.call("PUT", path, sent)
        assert (changed.status, changed.document.get("name")) == (200, name), changed.document
        assert changed.document["description"] == "new"
        await here.refused("name", "PUT", path, {"name": ""})


@pytest.mark.gen_test
async def test_no_two_outputs_of_a_bucket_have_one_name(here: World) -> None:
    """Clients look them up by it; those without a name get one."""
    await here.bucket("orders")
    await here.bucket("billing")
    path = "/v1/buckets/orders/outputs"
    made = [(await here.call("POST", path, {"name": name})).document for name in ("slack", "", "")]
    assert [each["name"] for each in made] == ["slack", "Output 2", "Output 3"]
    again = await here.call("POST", path, {"name": "slack"})
    assert (again.status, again.document["code"]) == (412, "conflict")
    renamed = await here.call("PUT", f"{path}/{made[1]['id']}", {"name": "slack"})
    assert renamed.status == 412
    same = await here.call("PUT", f"{path}/{made[0]['id']}", {"name": "slack", "disabled": True})
    assert (same.status, same.document["disabled"]) == (200, True)
    assert (await here.call("POST", "/v1/buckets/billing/outputs", {"name": "slack"})).status == 201


@pytest.mark.gen_test
async def test_an_output_that_an_input_answers_from_is_replaced(here: World) -> None:
    """As the Kubernetes operator and Terraform do it: the old one goes first, the input is changed last. Meanwhile
    senders get the input's own answer. The operator does not survive an error at the deletion."""
    bucket = await here.bucket("orders")
    outputs, hook = "/v1/buckets/orders/outputs", f"/v1/webhooks/{bucket.inputs[0].id}"
    given = f"/v1/buckets/orders/inputs/{bucket.inputs[0].id}"
    old = (await here.call("POST", outputs, {"name": "old"})).document["id"]
    assert (await here.call("PUT", given, {"response_from_output": old})).status == 200
    assert (await here.fetch("POST", hook, b"q", {})).code == 504
    assert (await here.call("DELETE", f"{outputs}/{old}")).document == {"id": old, "status": "deleted"}
    assert (await here.fetch("POST", hook, b"q", {})).code == 200
    new = (await here.call("POST", outputs, {"name": "new"})).document["id"]
    assert (await here.call("PUT", given, {"response_from_output": new})).status == 200
    (read,) = (await here.call("GET", "/v1/buckets/orders")).document["inputs"]
    assert read["response_from_output"] == new


@pytest.mark.gen_test
async def test_null_is_left_out(here: World) -> None:
    """In what the original has; in what is ours, null that means nothing is refused."""
    nothing: dict[str, Any] = {"description": None, "stream": None, "ephemeral": None, "auth": None, "static_ip": None}
    bucket = await here.call("POST", "/v1/buckets", {"name": "orders", **nothing})
    assert (bucket.status, bucket.document["stream"], bucket.document["static_ip"]) == (201, True, False)
    basic = {"type": "basic", "username": "shop", "password": "secret"}
    await here.call("PUT", "/v1/buckets/orders", {"description": "kept", "static_ip": True})
    made = await here.call("PUT", "/v1/buckets/orders", {"auth": {**basic, "token": None}})
    assert (made.status, made.document["auth"]) == (200, {**basic, "token": ""})
    same = await here.call("PUT", "/v1/buckets/orders", {"auth": {**basic, "username": None, "password": None}})
    assert (same.status, same.document["auth"]) == (200, {**basic, "token": ""})
    changed = await here.call("PUT", "/v1/buckets/orders", {**nothing, "name": None})
    assert (changed.status, changed.document["description"], changed.document["static_ip"]) == (200, "kept", True)
    given = {"name": None, "body": None, "status_code": None, "custom_domain": None, "headers": None}
    assert (await here.call("POST", "/v1/buckets/orders/inputs", given)).status == 201
    given = {"name": None, "internal": None, "disabled": None, "timeout": None, "retries": None}
    assert (await here.call("POST", "/v1/buckets/orders/outputs", given)).status == 201
    assert (await here.call("POST", "/v1/tokens", {"description": None, "api_access": None})).status == 201
    for path, body in (
        ("/v1/buckets", {"name": None}),
        ("/v1/buckets", {"name": "b", "retention": None}),
        ("/v1/buckets", {"name": "b", "auth": {"type": None}}),
        ("/v1/buckets", {"name": "b", "auth": {**basic, "password": None}}),
        ("/v1/buckets/orders/outputs", {"secret": None}),
        ("/v1/buckets/orders/outputs", {"paused": None}),
    ):
        refused = await here.call("POST", path, body)
        assert (refused.status, refused.document["field"].partition(".")[0]) == (400, list(body)[-1])


@pytest.mark.gen_test
async def test_null_changes_nothing_for_any_token(here: World) -> None:
    """What null leaves as it is, is neither forbidden to a token with some buckets, nor taken for a value: the name of
    a bucket, and the destination of a public output in a change by who writes all that an output has."""
    bucket = await here.bucket("orders")
    await here.token("scoped", buckets=[bucket.id])
    url = "https://example.org/hook?key=1"
    public = {"destination": url, "internal": False, "paused": True}
    made = (await here.call("POST", "/v1/buckets/orders/outputs", public)).document
    path = f"/v1/buckets/orders/outputs/{made['id']}"
    for token in ("administrator", "scoped"):
        same = await here.call("PUT", "/v1/buckets/orders", {"name": None, "description": token}, token=token)
        assert (same.status, same.document["name"], same.document["description"]) == (200, "orders", token)
        for sent in ({"destination": None}, in_go(name="o", destination=None, tls_verification=True)):
            assert (await here.call("PUT", path, sent, token=token)).status == 200
            (stored,) = (await here.call("GET", "/v1/buckets/orders")).document["outputs"]
            assert stored.items() >= public.items()


@pytest.mark.gen_test
async def test_a_place_comes_back_as_it_was_given(here: World) -> None:
    """A client that compares it with its own would change it at every turn, as the original's Kubernetes operator
    does."""
    await here.bucket("orders")
    path = "/v1/buckets/orders/inputs"
    given = {"custom_domain": "Hooks.Example.org.", "path_prefix": "/Shop/"}
    made = (await here.call("POST", path, given)).document
    assert made.items() >= given.items()
    same = await here.call("PUT", f"{path}/{made['id']}", {**made, "description": "d"})
    assert same.document.items() >= given.items()
    for domain in ("hooks.example.org", "HOOKS.example.org", ""):
        changed = await here.call("PUT", f"{path}/{made['id']}", {"custom_domain": domain})
        assert changed.document.items() >= {**given, "custom_domain": domain}.items()
    taken = await here.call("POST", path, {"path_prefix": "/Shop"})
    assert (taken.status, taken.document["message"].startswith("another input has path_prefix /Shop:")) == (412, True)


@pytest.mark.gen_test
async def test_no_headers_as_a_list(here: World) -> None:
    """PHP writes an empty object so; a list that is not empty is none. Go writes null for a header without values."""
    await here.bucket("orders")
    for parts in ("inputs", "outputs"):
        path = f"/v1/buckets/orders/{parts}"
        made = await here.call("POST", path, {"headers": []})
        assert (made.status, made.document["headers"]) == (201, {}), made.document
        changed = await here.call("PUT", f"{path}/{made.document['id']}", {"headers": {"X-A": ["1"]}})
        assert (changed.status, changed.document["headers"]) == (200, {"X-A": ["1"]})
        changed = await here.call("PUT", f"{path}/{made.document['id']}", {"headers": []})
        assert (changed.status, changed.document["headers"]) == (200, {})
        await here.refused("headers", "PUT", f"{path}/{made.document['id']}", {"headers": ["X-A"]})
        changed = await here.call("PUT", f"{path}/{made.document['id']}", {"headers": {"X-A": None, "X-B": "1"}})
        assert (changed.status, changed.document["headers"]) == (200, {"X-B": ["1"]})


@pytest.mark.gen_test
async def test_an_inputs_body_as_a_list_of_bytes(here: World) -> None:
    """The original's library in JavaScript has it so beside a text; it is text in UTF-8."""
    await here.bucket("orders")
    path = "/v1/buckets/orders/inputs"
    for given, body in (([104, 105.0], "hi"), ([195, 169], "\xe9"), ([-61, -87], "\xe9"), ([], "")):
        made = await here.call("POST", path, {"name": "i", "body": given})
        assert (made.status, made.document["body"]) == (201, body)
    for wrong in ([255], [256], ["a"], [104, 1.5], {"a": 1}, 7, [104] * 250_001):
        await here.refused("body", "POST", path, {"name": "i", "body": wrong})


@pytest.mark.gen_test
async def test_an_auth_as_the_original_shows_it(here: World) -> None:
    """It has an id and times of its own there."""
    auth = {"id": "a", "type": "basic", "username": "u", "password": "p", "token": ""}
    body = {"name": "orders", "auth": {**auth, "created_at": 0, "updated_at": 0}}
    made = await here.call("POST", "/v1/buckets", body)
    assert made.status == 201
    assert made.document["auth"] == {"type": "basic", "username": "u", "password": "p", "token": ""}
    await here.refused("auth.user", "PUT", "/v1/buckets/orders", {"auth": {"user": "u"}})


@pytest.mark.gen_test
async def test_another_type_of_auth_in_what_was_read(here: World) -> None:
    """Clients that change it there send what the type before needed along; anything else would do nothing, and is
    refused."""
    bucket = await here.bucket("orders")
    await here.token("scoped", buckets=[bucket.id])
    basic = {"type": "basic", "username": "u", "password": "p"}
    bearer = {"type": "token", "token": "t"}
    for token, changed in (("administrator", {"type": "none"}), ("administrator", bearer), ("scoped", bearer)):
        await here.call("PUT", "/v1/buckets/orders", {"auth": basic})
        read = (await here.call("GET", "/v1/buckets/orders", token=token)).document
        sent = {**read, "auth": {**read["auth"], **changed}}
        answer = await here.call("PUT", "/v1/buckets/orders", sent, token=token)
        assert answer.status == 200, answer.document
        shown = (await here.call("GET", "/v1/buckets/orders")).document["auth"]
        assert shown == {"username": "", "password": "", "token": "", **changed}
    await here.call("PUT", "/v1/buckets/orders", {"auth": basic})
    for field in ("username", "password"):
        sent = {"auth": {"type": "none", "username": "u", "password": "p", field: "another"}}
        await here.refused(f"auth.{field}", "PUT", "/v1/buckets/orders", sent)


@pytest.mark.gen_test
async def test_a_token_as_the_library_in_go_sends_it_back(here: World) -> None:
    """Whole, with what nobody can set; it reads a token that works as active."""
    bucket = await here.bucket("orders")
    made = (await here.call("POST", "/v1/tokens", {"scopes": {"tunnels": None, "buckets": None}})).document
    times = {"created_at": -62135596800, "updated_at": -62135596800, "last_login": ""}
    sent = {**times, "id": made["key"], "description": "new", "api_access": "enabled", "active": False}
    sent["scopes"] = {"tunnels": None, "buckets": ["orders"]}
    changed = await here.call("PUT", f"/v1/tokens/{made['key']}", sent)
    assert (changed.status, changed.document["description"]) == (200, "new"), changed.document
    assert changed.document["scopes"]["buckets"] == [bucket.id]
    shown = {each["key"]: each for each in (await here.call("GET", "/v1/tokens")).document}
    mine = shown[here.tokens["administrator"][0]]
    assert (mine["active"], mine["last_login"][10:11], mine["updated_at"]) == (True, "T", mine["created_at"])
    assert shown[made["key"]]["last_login"] == ""
    # By hand it would mean something.
    await here.refused("active", "PUT", f"/v1/tokens/{made['key']}", {"active": False})


@pytest.mark.gen_test
async def test_a_token_with_a_name(here: World) -> None:
    """The original has it as a second name of the description: clients that give one look for it in the list."""
    made = (await here.call("POST", "/v1/tokens", {"name": "worker", "api_access": "enabled"})).document
    path = f"/v1/tokens/{made['key']}"
    listed = {each["key"]: each for each in (await here.call("GET", "/v1/tokens")).document}[made["key"]]
    assert (listed["name"], listed["description"]) == ("worker", "worker")
    for sent, description in (
        ({"name": "shop"}, "shop"),
        ({"name": None}, "shop"),
        ({"name": "ignored", "description": "billing"}, "billing"),
        ({"name": "orders", "description": ""}, "orders"),
        # What was read, with the description changed or taken away.
        ({**listed, "name": "orders", "description": "new"}, "new"),
        ({**listed, "name": "new", "description": ""}, ""),
        ({"api_access": "enabled"}, ""),
    ):
        changed = await here.call("PUT", path, sent)
        assert (changed.status, changed.document["description"]) == (200, description), (sent, changed.document)
        assert changed.document["name"] == description
    await here.refused("name", "PUT", path, {"name": 7})


@pytest.mark.gen_test
async def test_a_bucket_goes_without_force_with_its_first_input_alone(here: World) -> None:
    """Also where that was renamed, and not where another one stands in its place."""
    for replace in (False, True):
        bucket = (await here.call("POST", "/v1/buckets", {"name": "orders"})).document
        path = f"/v1/buckets/{bucket['id']}"
        first = f"{path}/inputs/{bucket['inputs'][0]['id']}"
        await here.call("PUT", first, {"name": "mine"})
        if replace:
            await here.call("POST", f"{path}/inputs", {"name": "other"})
            assert (await here.call("DELETE", first)).status == 200
            assert (await here.call("DELETE", path)).status == 412
            for force in ("", "False"):
                assert (await here.call("DELETE", f"{path}?force={force}")).status == 412
            # What Python's clients make of True.
            assert (await here.call("DELETE", f"{path}?force=True")).status == 200
        else:
            assert (await here.call("DELETE", path)).status == 200


@pytest.mark.gen_test
async def test_a_body_beside_a_status_that_has_none(here: World) -> None:
    """It is kept, and goes out with another status: 204 and 304 go without, whatever is set."""
    bucket = await here.bucket("orders")
    path = f"/v1/buckets/orders/inputs/{bucket.inputs[0].id}"
    for status, sent in ((200, b"thanks"), (204, b""), (304, b""), (200, b"thanks")):
        for fields in ({"status_code": status, "body": "thanks"}, {"status_code": status}):
            changed = await here.call("PUT", path, fields)
            assert (changed.status, changed.document.get("body")) == (200, "thanks"), changed.document
        answer = await here.fetch("POST", f"/v1/webhooks/{bucket.inputs[0].id}", b"", {})
        assert (answer.code, answer.body) == (status, sent)
    made = await here.call("POST", "/v1/buckets/orders/inputs", {"status_code": 204, "body": "thanks"})
    assert (made.status, made.document["body"]) == (201, "thanks")
