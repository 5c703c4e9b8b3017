"""What an input answers to its senders."""

import dataclasses
from typing import Any

import pytest

from relay_tornado.errors import Conflict, Invalid, NotFound
from relay_tornado.model import RateLimit, Verify
from relay_tornado.wire.answers import NOT_CONFIGURABLE, static_answer
from relay_tornado.wire.place import as_given
from relay_tornado.wire.rest import input_document
from tests.admin.world import OpenWorld, World


@pytest.mark.gen_test
async def test_an_answer_is_set(world: World) -> None:
    """Status, body and headers arrive in the record, by the input's id or by its bucket's name, and go out as set."""
    bucket = await world.administration.create_bucket("orders")
    headers = {"Content-Type": "text/plain", "X-Many": ["a ", "b"], "X-None": []}
    world.now += 5
    _, changed = await world.administration.set_input(
        bucket.inputs[0].id, status_code=202, body="grüezi\n", headers=headers, name="shop"
    )
    assert changed.headers == {"Content-Type": ["text/plain"], "X-Many": ["a", "b"]}
    assert (changed.status_code, changed.body, changed.name) == (202, "grüezi\n", "shop")
    assert changed.updated_at == world.now
    again, same = await world.administration.set_input("orders", status_code=202)
    assert same == changed
    assert world.registry.get("bucket", bucket.id) == again
    answer = static_answer(changed).encode()
    assert b"X-Many: a\r\nX-Many: b\r\n" in answer
    assert answer.endswith("\r\n\r\ngrüezi\n".encode())


@pytest.mark.gen_test
async def test_a_header_that_was_taken_before(open_memory: OpenWorld) -> None:
    """One that can't be set any more stays in its input, and may be sent back as it was, but goes to no sender."""
    async with open_memory() as world:
        bucket = await world.administration.create_bucket("orders")
        (old,) = bucket.inputs
        old = dataclasses.replace(old, headers={"Refresh": ("1",), "X-A": ("b",)})
        await world.registry.put("bucket", bucket.id, dataclasses.replace(bucket, inputs=(old,)))
        sent = input_document(bucket.id, old)["headers"]
        _, changed = await world.administration.set_input("orders", headers=sent, body="x")
        assert (changed.headers, changed.body) == (old.headers, "x")
        assert b"Refresh" not in static_answer(changed).encode()
        with pytest.raises(Invalid, match="Refresh"):
            await world.administration.set_input("orders", headers={**sent, "X-A": ["c"]})


@pytest.mark.gen_test
@pytest.mark.parametrize("name", [*sorted(NOT_CONFIGURABLE), "Set-Cookie", "CONNECTION", "Clear-Site-Data"])
async def test_refused_headers(open_memory: OpenWorld, name: str) -> None:
    """A header that is the connection's, the relay's own, or sets state in a browser is refused by its name."""
    async with open_memory() as world:
        await world.administration.create_bucket("orders")
        with pytest.raises(Invalid, match=f"headers: {name} can't be set"):
            await world.administration.set_input("orders", headers={"X-Fine": "1", name: "1"})


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"status_code": 199}, "status_code"),
        ({"status_code": 600}, "status_code"),
        ({"status_code": "200"}, "status_code"),
        ({"status_code": True}, "status_code"),
        ({"body": "x" * 250_001}, "body"),
        ({"body": "ü" * 125_001}, "body"),
        ({"body": "\udcff"}, "body"),
        ({"headers": {"X-A": "a\r\nSet-Cookie: b"}}, "headers"),
        ({"headers": {"X-A": ["fine", "a\nb"]}}, "headers"),
        ({"headers": {"X-A": "a\x00"}}, "headers"),
        ({"headers": {"X-A": "\ud800"}}, "headers"),
        ({"headers": {"X A": "a"}}, "headers"),
        ({"headers": {"": "a"}}, "headers"),
        ({"headers": {"X-A:": "a"}}, "headers"),
        ({"headers": {"X-Ä": "a"}}, "headers"),
        ({"headers": {"X-A": "a" * 20_000}}, "headers"),
        ({"headers": {f"X-{number}": "a" for number in range(101)}}, "headers"),
        ({"headers": {"X-A": 1}}, "headers.X-A"),
        ({"headers": {"X-A": [1]}}, "headers.X-A"),
        ({"headers": ["X-A"]}, "headers"),
        ({"name": " "}, "name"),
        ({"function_id": 5}, "function_id"),
        ({"custom_domain": "https://hooks.example.org"}, "custom_domain"),
        ({"custom_domain": "hooks.example.org/path"}, "custom_domain"),
        ({"custom_domain": "-a.example"}, "custom_domain"),
        ({"custom_domain": "."}, "custom_domain"),
        ({"custom_domain": "a.example.."}, "custom_domain"),
        ({"custom_domain": "hoo\u212as.example"}, "custom_domain"),
        ({"custom_domain": "a" * 254}, "custom_domain"),
        ({"path_prefix": "shop"}, "path_prefix"),
        ({"path_prefix": "/shop?x"}, "path_prefix"),
        ({"path_prefix": "/shop//a"}, "path_prefix"),
        ({"path_prefix": "//"}, "path_prefix"),
        ({"path_prefix": "/shop//"}, "path_prefix"),
        ({"path_prefix": "/shop/../a"}, "path_prefix"),
        ({"path_prefix": "/v1/x"}, "path_prefix"),
        ({"path_prefix": "/healthz"}, "path_prefix"),
        ({"response_from_output": "none"}, "response_from_output"),
        ({"response_from_output": "anyoutput"}, "response_from_output"),
        ({"verify": {"provider": "paypal", "secrets": ["x"]}}, "verify.provider"),
        ({"verify": {"provider": "github", "secrets": []}}, "verify.secrets"),
        ({"verify": {"provider": "github"}}, "verify.secrets"),
        ({"verify": {"provider": "github", "secrets": ["ok", " x"]}}, "verify.secrets[1]"),
        ({"verify": {"provider": "standard-webhooks", "secrets": ["whsec_?"]}}, "verify.secrets[0]"),
        ({"verify": {"provider": "github", "secrets": ["x"], "on_failure": "ignore"}}, "verify.on_failure"),
        ({"verify": "github"}, "verify"),
        ({"rate_limit": {"events": 1.5}}, "rate_limit.events"),
        ({"strip_path_prefix": "yes"}, "strip_path_prefix"),
    ],
)
async def test_bad_answers(open_memory: OpenWorld, options: dict[str, Any], field: str) -> None:
    """Each is refused with the field's name, and the input stays as it was."""
    async with open_memory() as world:
        bucket = await world.administration.create_bucket("orders")
        with pytest.raises(Invalid) as caught:
            await world.administration.set_input("orders", **options)
        assert caught.value.field == field
        assert world.registry.get("bucket", bucket.id) == bucket


@pytest.mark.gen_test
async def test_an_unknown_input(world: World) -> None:
    """What is neither an input's id nor a bucket's is NotFound, and says where to look."""
    with pytest.raises(NotFound, match="relay input list"):
        await world.administration.set_input("nothing", body="")


@pytest.mark.gen_test
async def test_an_input_is_made_and_removed(world: World) -> None:
    """It has a random id, or the one that was chosen; a chosen one is unique over the whole relay."""
    first = await world.administration.create_bucket("orders")
    await world.administration.create_bucket("billing")
    bucket, made = await world.administration.create_input("orders", name="shop", id="shop_1-x", status_code=202)
    assert (made.id, made.name, made.status_code) == ("shop_1-x", "shop", 202)
    assert world.registry.get("bucket", first.id) == bucket
    _, other = await world.administration.create_input("billing", id="", name="")
    assert len(other.id) == 36
    assert other.name
    for taken in ("orders", "billing"):
        with pytest.raises(Conflict, match="input id shop_1-x is taken"):
            await world.administration.create_input(taken, id="shop_1-x")
    for wrong in ("a b", "x" * 65, "ü", "a/b", 5, "a.b"):
        with pytest.raises(Invalid, match="id: must be 1 to 64"):
            await world.administration.create_input("orders", id=wrong)
    assert (await world.administration.delete_input("shop", "orders")).id == "shop_1-x"
    with pytest.raises(NotFound):
        await world.administration.delete_input("shop_1-x")
    _, again = await world.administration.create_input("billing", id="shop_1-x")
    assert again.id == "shop_1-x"


@pytest.mark.gen_test
async def test_an_id_does_not_change(world: World) -> None:
    """A client that sends back what it read changes nothing: not the id, not the times, and no field twice."""
    await world.administration.create_bucket("orders")
    bucket, made = await world.administration.create_input("orders", note={"a": 1})
    world.now += 60
    again, same = await world.administration.set_input(made.id, **input_document(bucket.id, made))
    assert same == made
    assert again == bucket
    assert dict(same.extra) == {"note": {"a": 1}}


@pytest.mark.gen_test
async def test_routes_are_unique(world: World) -> None:
    """A custom domain with a path prefix belongs to one input, however it is written; each may repeat alone."""
    await world.administration.create_bucket("a")
    await world.administration.create_bucket("b")
    _, made = await world.administration.set_input("a", custom_domain="Hooks.Example.org.", path_prefix="/shop/")
    assert (made.custom_domain, made.path_prefix) == ("hooks.example.org", "/shop")
    assert as_given(made) == {"custom_domain": "Hooks.Example.org.", "path_prefix": "/shop/"}
    with pytest.raises(Conflict, match=r"hooks\.example\.org and path_prefix /shop"):
        await world.administration.set_input("b", custom_domain="hooks.example.org", path_prefix="/shop")
    with pytest.raises(Conflict):
        await world.administration.create_input("a", custom_domain="hooks.example.org", path_prefix="/shop")
    await world.administration.set_input("b", custom_domain="hooks.example.org", path_prefix="/v1")
    await world.administration.set_input("a", path_prefix="")
    await world.administration.set_input("b", custom_domain="hooks.example.org", path_prefix="/shop")


@pytest.mark.gen_test
async def test_a_signature_check_is_changed_in_parts(world: World) -> None:
    """What is left out of `verify` and `rate_limit` stays; null switches them off."""
    await world.administration.create_bucket("orders")
    _, made = await world.administration.set_input(
        "orders", verify={"provider": "github", "secrets": ["one", "two"]}, rate_limit={"events": 5, "interval": 60}
    )
    assert made.verify == Verify("github", ("one", "two"), "reject")
    assert "one" not in repr(made)
    _, made = await world.administration.set_input("orders", verify={"on_failure": "mark"}, rate_limit={"events": 6})
    assert made.verify == Verify("github", ("one", "two"), "mark")
    assert made.rate_limit == RateLimit(6, 60)
    _, made = await world.administration.set_input("orders", verify=None, rate_limit=None)
    assert (made.verify, made.rate_limit) == (None, None)
