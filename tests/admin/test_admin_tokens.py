"""Tokens: their scope, their secret, and who gets in with them."""

from dataclasses import replace
from typing import Any

import pytest

from relay_tornado.errors import Conflict, Invalid, NotFound, Unauthorized
from relay_tornado.ids import hash_secret, new_secret
from relay_tornado.registry.access import Access
from relay_tornado.wire.rest import token_document
from tests.admin.world import OpenWorld, World


def access_of(world: World) -> Access:
    return Access(world.registry, clock=lambda: world.now)


@pytest.mark.gen_test
async def test_a_token_by_default_reads_everything(world: World) -> None:
    """Without options it is an administrator's; only the hash of its secret is kept."""
    token, secret = await world.administration.create_token()
    assert secret.startswith("sk-rly_")
    assert token.secret_hash == hash_secret(secret)
    assert token.administrator
    assert (token.expires_at, token.created_at) == (None, world.now)
    assert world.registry.get("token", token.key) == token
    assert secret not in repr(token)
    assert token.secret_hash not in repr(token)
    shown = str(token_document(token))
    assert secret not in shown
    assert token.secret_hash not in shown


@pytest.mark.gen_test
async def test_a_scope_is_resolved_when_it_is_given(world: World) -> None:
    """Names become ids: a bucket that is made anew under an old name is not in the scope, a renamed one still is."""
    orders = await world.administration.create_bucket("orders")
    billing = await world.administration.create_bucket("billing")
    token, _ = await world.administration.create_token(buckets=["orders", billing.id], api_access=False)
    assert token.buckets == {orders.id, billing.id}
    assert not token.administrator
    await world.administration.set_bucket("billing", name="bills")
    await world.administration.delete_bucket("orders")
    anew = await world.administration.create_bucket("orders")
    assert token.reads(billing.id)
    assert not token.reads(anew.id)


@pytest.mark.gen_test
async def test_a_scope_may_keep_a_bucket_that_is_gone(world: World) -> None:
    """Whoever changes a token sends the scope that it has, by ids. Nothing else that is not there gets into one."""
    gone, other = [await world.administration.create_bucket(name) for name in ("orders", "billing")]
    token, _ = await world.administration.create_token(buckets=["orders", "billing"])
    await world.administration.delete_bucket("orders")
    changed = await world.administration.set_token(token.key, buckets=[gone.id, other.id])
    assert changed.buckets == {gone.id, other.id}
    assert (await world.administration.set_token(token.key, buckets=["billing"])).buckets == {other.id}
    for unknown in (gone.id, "orders"):
        with pytest.raises(Invalid):
            await world.administration.set_token(token.key, buckets=[unknown, other.id])


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"buckets": ["orders", "nothing"]}, "buckets"),
        ({"buckets": []}, "buckets"),
        ({"buckets": "orders"}, "buckets"),
        ({"buckets": [None]}, "buckets.0"),
        ({"api_access": "enabled"}, "api_access"),
        ({"expires_at": 1e15}, "expires_at"),
        ({"expires_at": "soon"}, "expires_at"),
        ({"description": "\x07"}, "description"),
        ({"secret": "mine"}, "secret"),
    ],
)
async def test_bad_options(open_memory: OpenWorld, options: dict[str, Any], field: str) -> None:
    """Each is refused with the field's name, and no token is made."""
    async with open_memory() as world:
        await world.administration.create_bucket("orders")
        with pytest.raises(Invalid) as caught:
            await world.administration.create_token(**options)
        assert caught.value.field == field
        assert list(world.administration.list_tokens()) == []


@pytest.mark.gen_test
async def test_a_revoked_token_is_removed(world: World) -> None:
    """It is not in the registry any more, which is how it is told from an expired one; a second time it is NotFound."""
    token, _ = await world.administration.create_token()
    other, _ = await world.administration.create_token()
    assert await world.administration.revoke_token(token.key) == token
    assert world.registry.get("token", token.key) is None
    assert list(world.administration.list_tokens()) == [other]
    with pytest.raises(NotFound) as caught:
        await world.administration.revoke_token(token.key)
    assert token.key not in str(caught.value)


@pytest.mark.gen_test
async def test_key_and_secret_let_in(world: World) -> None:
    """Both together do; under the key "whr", and where there is no key, the secret alone does."""
    early, early_secret = await world.administration.create_token()
    access = access_of(world)
    late, late_secret = await world.administration.create_token()
    for token, secret in ((early, early_secret), (late, late_secret)):
        assert access.authenticate(token.key, secret) == token
        assert access.authenticate("whr", secret) == token
        assert access.by_secret(secret) == token


@pytest.mark.gen_test
async def test_every_failure_says_the_same(world: World) -> None:
    """A wrong key, a wrong secret, one of another token, a revoked and an expired one can't be told apart."""
    access = access_of(world)
    token, secret = await world.administration.create_token()
    other, other_secret = await world.administration.create_token()
    revoked, revoked_secret = await world.administration.create_token()
    expired, expired_secret = await world.administration.create_token(expires_at=world.now + 1)
    assert access.authenticate(expired.key, expired_secret) == expired
    world.now += 1
    await world.administration.revoke_token(revoked.key)
    messages = set()
    for key, wrong in (
        ("nobody", secret),
        (token.key.upper(), secret),
        ("", secret),
        (token.key, new_secret()),
        (token.key, ""),
        (token.key, secret + "x"),
        (token.key, token.secret_hash),
        (token.key, other_secret),
        (other.key, secret),
        (revoked.key, revoked_secret),
        (expired.key, expired_secret),
        ("whr", expired_secret),
        ("whr", revoked_secret),
        ("whr", "whr"),
        ("whr", ""),
        ("\ud800", "\ud800"),
        ("ключ", "тайна"),
    ):
        with pytest.raises(Unauthorized) as caught:
            access.authenticate(key, wrong)
        messages.add(str(caught.value))
    assert len(messages) == 1
    assert messages.pop().startswith("the key or secret is wrong")
    assert access.authenticate(token.key, secret) == token


@pytest.mark.gen_test
async def test_access_follows_changes(world: World) -> None:
    """A token whose record changed is found as it is now; with another secret's hash only by that secret."""
    access = access_of(world)
    token, secret = await world.administration.create_token()
    await world.registry.put("token", token.key, replace(token, description="changed"))
    assert access.by_secret(secret).description == "changed"
    rotated = new_secret()
    await world.registry.put("token", token.key, replace(token, secret_hash=hash_secret(rotated)))
    assert access.by_secret(rotated).key == token.key
    with pytest.raises(Unauthorized):
        access.by_secret(secret)
    await world.administration.revoke_token(token.key)
    assert (access._keys, access._hashes) == ({}, {})


@pytest.mark.gen_test
async def test_a_conflict_that_no_other_change_makes_is_told_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change is made again only where the token was changed meanwhile: else it would fail in the same way."""
    await world.administration.create_bucket("orders")
    token, _ = await world.administration.create_token()
    tries = 0

    async def begin(*_: Any) -> Any:
        nonlocal tries
        tries += 1
        raise Conflict("the position is in the way")

    monkeypatch.setattr(world.administration._positions, "begin", begin)
    with pytest.raises(Conflict, match="in the way"):
        await world.administration.set_token(token.key, durable=True)
    assert tries == 1


@pytest.mark.gen_test
async def test_a_token_is_changed(world: World) -> None:
    """What is not named stays, and so does the secret; an `expires_at` that is past ends it at once."""
    bucket = await world.administration.create_bucket("orders")
    token, secret = await world.administration.create_token(description="worker")
    changed = await world.administration.set_token(token.key, buckets=["orders"], api_access=False)
    assert changed == replace(token, buckets=frozenset({bucket.id}), api_access=False)
    access = access_of(world)
    assert access.by_secret(secret) == changed
    await world.administration.set_token(token.key, expires_at=world.now)
    with pytest.raises(Unauthorized):
        access.by_secret(secret)
    with pytest.raises(NotFound):
        await world.administration.set_token("none")


@pytest.mark.gen_test
async def test_a_token_is_rotated(world: World) -> None:
    """The new secret is good, the old one until its grace ends, and at once where there is none."""
    token, first = await world.administration.create_token()
    access = access_of(world)
    rotated, second = await world.administration.rotate_token(token.key, 60.0)
    assert (rotated.key, rotated.secret_hash) == (token.key, hash_secret(second))
    assert second.startswith("sk-rly_")
    assert access.by_secret(first) == access.by_secret(second) == rotated
    world.now += 59.9
    assert access.by_secret(first) == rotated
    world.now += 0.1
    with pytest.raises(Unauthorized):
        access.by_secret(first)
    assert access.by_secret(second) == rotated
    _, third = await world.administration.rotate_token(token.key)
    with pytest.raises(Unauthorized):
        access.by_secret(second)
    assert access.authenticate(token.key, third).key == token.key


@pytest.mark.gen_test
@pytest.mark.parametrize("grace", [-1.0, 366 * 86400.0 + 1, float("nan"), float("inf")])
async def test_a_grace_has_its_bounds(open_memory: OpenWorld, grace: float) -> None:
    """Outside of them nothing is rotated."""
    async with open_memory() as world:
        token, secret = await world.administration.create_token()
        with pytest.raises(Invalid):
            await world.administration.rotate_token(token.key, grace)
        assert access_of(world).by_secret(secret) == token
