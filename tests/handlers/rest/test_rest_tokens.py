"""Tokens over REST: made, changed, given a new secret, revoked."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest

from tests.handlers.rest.world import World, world
from tests.handlers.streams import Source


@pytest.mark.gen_test
async def test_make_change_and_revoke(here: World) -> None:
    """The secret is shown once; scopes are given by names or ids and kept as ids; a revoked token opens nothing."""
    bucket, other = await here.bucket("orders"), await here.bucket("billing")
    body = {
        "description": "worker",
        "scopes": {"buckets": ["orders", other.id], "tunnels": ["t-2", "t-1"]},
        "api_access": "enabled",
    }
    made = await here.call("POST", "/v1/tokens", body)
    assert made.status == 201
    key = made.document["key"]
    here.tokens["worker"] = (key, made.document["secret"])
    assert made.document["scopes"]["buckets"] == sorted([bucket.id, other.id])
    listed = (await here.call("GET", "/v1/tokens")).document
    assert [each["key"] for each in listed] == [here.tokens["administrator"][0], key]
    assert made.document["secret"] not in json.dumps(listed)
    assert len((await here.call("GET", "/v1/buckets", token="worker")).document) == 2
    assert listed[1]["scopes"]["tunnels"] == ["t-2", "t-1"]
    # What was read may be sent back with a change.
    changed = await here.call("PUT", f"/v1/tokens/{key}", {**listed[1], "scopes": {"buckets": ["orders"]}})
    assert (changed.status, changed.document["description"]) == (200, "worker")
    assert changed.document["scopes"] == {"buckets": [bucket.id], "tunnels": ["t-2", "t-1"]}
    for tunnels in (["t-3"], None):
        changed = await here.call("PUT", f"/v1/tokens/{key}", {"scopes": {"tunnels": tunnels}})
        assert changed.document["scopes"] == {"buckets": [bucket.id], "tunnels": tunnels or []}
    # Only an empty list is every bucket: null leaves the scope as it is.
    for scopes in ({"buckets": None, "tunnels": None}, {}, None):
        changed = await here.call("PUT", f"/v1/tokens/{key}", {"scopes": scopes})
        assert changed.document["scopes"]["buckets"] == [bucket.id]
    assert len((await here.call("GET", "/v1/buckets", token="worker")).document) == 1
    assert (await here.call("PUT", f"/v1/tokens/{key}", {"api_access": "disabled"})).status == 200
    assert (await here.call("GET", "/v1/buckets", token="worker")).status == 403
    deleted = await here.call("DELETE", f"/v1/tokens/{key}")
    assert (deleted.status, deleted.document) == (200, {"id": key, "status": "deleted"})
    assert (await here.call("GET", "/v1/buckets", token="worker")).status == 401
    assert (await here.call("DELETE", f"/v1/tokens/{key}")).status == 404


@pytest.mark.gen_test
async def test_the_last_use_of_a_token(tmp_path: Path) -> None:
    """REST, a socket, a stream and the page's session each count, a wrong secret and no use at all don't; it outlives a
    restart."""

    async def uses(here: World) -> dict[str, int | None]:
        listed = (await here.call("GET", "/v1/tokens")).document
        return {each["description"]: each["last_used_at"] for each in listed}

    began = int(time.time())
    async with world(tmp_path) as here:
        await here.bucket("orders")
        for name in ("rest", "socket", "stream", "page", "wrong", "idle"):
            key = await here.token(name, description=name)
        assert (await here.call("GET", "/v1/usage", token="rest")).status == 200
        async with here.socket("socket", "orders"):
            pass
        async with Source(here.relay.port, here.tokens["stream"][1], "bucket=orders") as stream:
            assert stream.status == 200
        cookie = {"Cookie": await here.cookie("page")}
        here.relay.administration.uses.forget(here.tokens["page"][0])
        assert (await here.fetch("GET", "/v1/usage", None, cookie)).code == 200
        here.tokens["wrong"] = (here.tokens["wrong"][0], "wrong")
        assert (await here.call("GET", "/v1/usage", token="wrong")).status == 401
        found = await uses(here)
        assert [name for name, at in found.items() if at is None] == ["wrong", "idle"]
        assert all(at is None or began <= at <= time.time() for at in found.values())
        changed = await here.call("PUT", f"/v1/tokens/{key}", {"description": "idle", "last_used_at": began})
        assert (changed.status, changed.document["last_used_at"]) == (200, None)
    async with world(tmp_path) as here:
        again = await uses(here)
        assert {name: again[name] for name in found if name} == {name: at for name, at in found.items() if name}


@pytest.mark.gen_test
async def test_a_durable_token(here: World) -> None:
    """Said when it is made, or changed, and shown; what is left out stays."""
    made = await here.call("POST", "/v1/tokens", {"durable": True})
    assert (made.status, made.document["durable"]) == (201, True)
    path = f"/v1/tokens/{made.document['key']}"
    assert (await here.call("PUT", path, {"description": "x"})).document["durable"] is True
    assert (await here.call("PUT", path, {"durable": False})).document["durable"] is False
    assert (await here.call("POST", "/v1/tokens", {})).document["durable"] is False
    for wrong in (1, "true", None):
        await here.refused("durable", "POST", "/v1/tokens", {"durable": wrong})


@pytest.mark.gen_test
async def test_scopes(here: World) -> None:
    """An empty list is every bucket; an unknown name is a 400; a deleted bucket's id may stay, and its name made anew
    is not in the scope."""
    await here.bucket("orders")
    for scopes in ({}, None, {"buckets": []}, {"buckets": None}):
        made = await here.call("POST", "/v1/tokens", {"scopes": scopes})
        assert (made.status, made.document["scopes"]["buckets"]) == (201, []), scopes
    key = await here.token("worker", buckets=["orders"])
    for method, path in (("POST", "/v1/tokens"), ("PUT", f"/v1/tokens/{key}")):
        refused = await here.refused("scopes.buckets", method, path, {"scopes": {"buckets": ["nothing"]}})
        assert refused.document["message"].startswith("scopes.buckets: there is no bucket 'nothing'")
    await here.relay.administration.delete_bucket("orders")
    await here.bucket("orders")
    shown = (await here.call("GET", "/v1/tokens")).document[-1]
    assert (await here.call("PUT", f"/v1/tokens/{key}", shown)).status == 200
    assert (await here.call("GET", "/v1/buckets", token="worker")).document == []


@pytest.mark.gen_test
async def test_what_does_not_fit(here: World) -> None:
    """A 400 that names the field."""
    for body, field in (
        ({"api_access": "yes"}, "api_access"),
        ({"api_access": True}, "api_access"),
        ({"scopes": []}, "scopes"),
        ({"scopes": {"buckets": "orders"}}, "scopes.buckets"),
        ({"scopes": {"bucket": []}}, "scopes.bucket"),
        ({"expires_at": "soon"}, "expires_at"),
        ({"expires_at": "2030"}, "expires_at"),
        ({"expires_at": -1}, "expires_at"),
        ({"description": 1}, "description"),
        ({"nickname": "x"}, "nickname"),
    ):
        await here.refused(field, "POST", "/v1/tokens", body)


@pytest.mark.gen_test
async def test_a_key_that_is_none(here: World) -> None:
    """The answer names what lists the keys; where it is a secret, its token's key, and never the secret."""
    unknown = await here.call("DELETE", "/v1/tokens/nosuch")
    said = "there is no token with this key: GET /v1/tokens lists the keys"
    assert (unknown.status, unknown.document["message"]) == (404, said)
    made = (await here.call("POST", "/v1/tokens", {"description": "d"})).document
    refused = await here.call("DELETE", f"/v1/tokens/{made['secret']}")
    said = f"this is the secret of a token, not its key: its key is {made['key']}"
    assert (refused.status, refused.document["message"]) == (404, said)


@pytest.mark.gen_test
async def test_rotation_at_once(here: World) -> None:
    """The new secret opens, the old one does not, and sockets that were opened with it are closed for good."""
    await here.bucket("orders")
    key = await here.token("worker")
    async with here.socket("worker", "orders") as socket:
        rotated = await here.call("POST", f"/v1/tokens/{key}/rotate")
        assert rotated.status == 200
        async with asyncio.timeout(60):
            await socket.wait_closed()
        assert socket.close_code == 4503
    assert (await here.call("GET", "/v1/buckets", token="worker")).status == 401
    here.tokens["worker"] = (key, rotated.document["secret"])
    assert (await here.call("GET", "/v1/buckets", token="worker")).status == 200


@pytest.mark.gen_test
async def test_rotation_with_a_grace(here: World) -> None:
    """Both secrets open until it ends; then the old one does not, and its sockets are closed, the new one's not."""
    await here.bucket("orders")
    key = await here.token("old")
    async with here.socket("old", "orders") as before:
        await here.refused("grace", "POST", f"/v1/tokens/{key}/rotate", {"grace": "1.5"})
        rotated = await here.call("POST", f"/v1/tokens/{key}/rotate", {"grace": 1.5})
        here.tokens["new"] = (key, rotated.document["secret"])
        async with here.socket("old", "orders") as during, here.socket("new", "orders") as renewed:
            for token in ("old", "new"):
                assert (await here.call("GET", "/v1/buckets", token=token)).status == 200
            async with asyncio.timeout(60):
                await asyncio.gather(before.wait_closed(), during.wait_closed())
            assert (before.close_code, during.close_code) == (4503, 4503)
            assert (await here.call("GET", "/v1/buckets", token="old")).status == 401
            assert (await here.call("GET", "/v1/buckets", token="new")).status == 200
            await here.send(await here.bucket("more"))
            assert renewed.close_code is None
