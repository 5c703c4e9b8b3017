"""Buckets as they are made, changed, found and deleted."""

import asyncio
import dataclasses
from typing import Any
from unittest.mock import Mock

import pytest

from relay_tornado.admin.administration import MAX_BINS
from relay_tornado.admin.buckets import MAX_RECORD
from relay_tornado.errors import BucketGone, Conflict, Invalid, NotFound, Unavailable, Unknown
from relay_tornado.model import DAY, Bucket, BucketAuth, Dedupe, Retention
from relay_tornado.wire.rest import bucket_document
from tests.admin.world import OpenWorld, World, event

ID = "0f8fad5b-d9cb-469f-a165-70867728950e"


@pytest.mark.gen_test
async def test_a_new_bucket_can_be_appended_to(open_world: OpenWorld) -> None:
    """It has one input, the settings' retention, and a log that takes events at once."""
    async with open_world(retention_age=5.0, retention_events=7, retention_bytes=None) as world:
        bucket = await world.administration.create_bucket("orders", description="from the shop")
        assert [each.name for each in bucket.inputs] == ["Default public endpoint"]
        assert bucket.retention == Retention(5.0, 7, None)
        assert (bucket.description, bucket.created_at, bucket.updated_at) == ("from the shop", world.now, world.now)
        assert world.registry.get("bucket", bucket.id) == bucket
        assert (await world.log.append(bucket.id, event())).seq == 1


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("options", "field", "expected"),
    [
        ({"retention": {"max_age": 60}}, "retention", Retention(60.0)),
        ({"retention": {"max_age": None, "max_events": 5}}, "retention", Retention(None, 5)),
        (
            {"retention": {"wait_for_consumers": True, "hard_max_bytes": 1 << 40}},
            "retention",
            Retention(wait_for_consumers=True, hard_max_bytes=1 << 40),
        ),
        ({"dedupe": {"header": "AUTO"}}, "dedupe", Dedupe("auto", DAY)),
        ({"dedupe": {"header": "X-Id", "window": 90.5}}, "dedupe", Dedupe("X-Id", 90.5)),
        ({"dedupe": None}, "dedupe", None),
        ({"auth": {"type": "basic", "username": "u", "password": "p:p"}}, "auth", BucketAuth("basic", "u", "p:p")),
        ({"auth": {"type": "token", "token": "t0k"}}, "auth", BucketAuth("token", token="t0k")),
        ({"auth": {"type": "none", "username": "", "password": "", "token": ""}}, "auth", BucketAuth()),
        ({"large_webhooks": True}, "large_webhooks", True),
        ({"max_body": 10}, "max_body", 10),
        ({"stream": False}, "stream", False),
        ({"description": "two\nlines"}, "description", "two\nlines"),
    ],
)
async def test_options(world: World, options: dict[str, Any], field: str, expected: object) -> None:
    """Each option arrives in the record, whether the bucket is made with it or changed to it."""
    made = await world.administration.create_bucket("made", **options)
    bare = await world.administration.create_bucket("bare")
    changed = await world.administration.set_bucket("bare", **options)
    for bucket in (made, changed, world.registry.get("bucket", bare.id)):
        assert getattr(bucket, field) == expected


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"retention": {"max_age": 0}}, "retention.max_age"),
        ({"retention": {"max_age": -1}}, "retention.max_age"),
        ({"retention": {"max_age": "30"}}, "retention.max_age"),
        ({"retention": {"max_age": True}}, "retention.max_age"),
        ({"retention": {"max_age": float("nan")}}, "retention.max_age"),
        ({"retention": {"max_age": 10**400}}, "retention.max_age"),
        ({"retention": {"max_events": 0}}, "retention.max_events"),
        ({"retention": {"max_events": 1.5}}, "retention.max_events"),
        ({"retention": {"max_bytes": 2**63}}, "retention.max_bytes"),
        ({"retention": {"max_size": 1}}, "retention.max_size"),
        ({"retention": {"wait_for_consumers": 1}}, "retention.wait_for_consumers"),
        ({"retention": {"wait_for_consumers": True, "hard_max_bytes": 5, "max_bytes": 6}}, "retention.hard_max_bytes"),
        ({"retention": {"hard_max_bytes": 1 << 40}}, "retention.hard_max_bytes"),
        ({"retention": None}, "retention"),
        ({"retention": []}, "retention"),
        ({"dedupe": {"window": 60}}, "dedupe.header"),
        ({"dedupe": {"header": "no header"}}, "dedupe.header"),
        ({"dedupe": {"header": "auto", "window": 0}}, "dedupe.window"),
        ({"auth": {"type": "digest"}}, "auth.type"),
        ({"auth": {"type": ["basic"]}}, "auth.type"),
        ({"auth": {"type": "basic", "username": "u"}}, "auth.password"),
        ({"auth": {"type": "basic", "password": "p"}}, "auth.username"),
        ({"auth": {"type": "basic", "username": "u:v", "password": "p"}}, "auth.username"),
        ({"auth": {"type": "basic", "username": "u", "password": "p\n"}}, "auth.password"),
        ({"auth": {"type": "basic", "username": "u", "password": "p", "token": "t"}}, "auth.token"),
        ({"auth": {"type": "token"}}, "auth.token"),
        ({"auth": {"type": "token", "token": "two words"}}, "auth.token"),
        ({"auth": {"type": "token", "token": "ümlaut"}}, "auth.token"),
        ({"auth": {"password": "p"}}, "auth.password"),
        ({"large_webhooks": 1}, "large_webhooks"),
        ({"large_webhooks": "true"}, "large_webhooks"),
        ({"max_body": 0}, "max_body"),
        ({"max_body": 129 << 20}, "max_body"),
        ({"description": "\x1b[2J"}, "description"),
        ({"description": "\ud800"}, "description"),
        ({"description": "x" * 5000}, "description"),
        ({"ephemeral": 1}, "ephemeral"),
        ({"static_ip": "yes"}, "static_ip"),
        ({"rate_limit": {}}, "rate_limit.events"),
        ({"rate_limit": {"events": 0}}, "rate_limit.events"),
        ({"rate_limit": {"events": 1, "interval": 0}}, "rate_limit.interval"),
        ({"rate_limit": {"events": 1, "per": "day"}}, "rate_limit.per"),
        ({"expires_at": 1_800_000_000}, "expires_at"),
        ({"expires_at": 0}, "expires_at"),
        ({"expires_at": "tomorrow"}, "expires_at"),
        ({"expires_at": float("nan")}, "expires_at"),
        ({"expires_at": 1e12}, "expires_at"),
        ({"colour": "\ud800"}, "colour"),
        ({"colour": "x" * 70_000}, "colour"),
    ],
)
async def test_bad_options(open_memory: OpenWorld, options: dict[str, Any], field: str) -> None:
    """Each is refused with the field's name, nothing is made or changed, and the name stays free."""
    async with open_memory() as world:
        with pytest.raises(Invalid) as caught:
            await world.administration.create_bucket("orders", **options)
        assert caught.value.field == field
        assert str(caught.value).startswith(f"{field}: ")
        assert list(await world.log.buckets()) == []
        bucket = await world.administration.create_bucket("orders")
        with pytest.raises(Invalid):
            await world.administration.set_bucket("orders", **options)
        assert world.registry.get("bucket", bucket.id) == bucket


@pytest.mark.gen_test
async def test_refusals_hold_no_secret(world: World) -> None:
    """Neither an error nor a repr shows what senders must bring."""
    for auth in (
        {"type": "basic", "username": "u", "password": "hunter2\n"},
        {"type": "none", "password": "hunter2"},
        {"type": "token", "token": "hunter2 hunter2"},
        {"type": "token", "token": ["hunter2"]},
    ):
        with pytest.raises(Invalid) as caught:
            await world.administration.create_bucket("orders", auth=auth)
        assert "hunter2" not in str(caught.value)
    bucket = await world.administration.create_bucket(
        "orders", auth={"type": "basic", "username": "u", "password": "hunter2"}
    )
    assert "hunter2" not in repr(bucket)


@pytest.mark.gen_test
@pytest.mark.parametrize("name", ["a", "x" * 100, "Zahlungen 💶", "orders.v2", "a,b", "none", "12"])
async def test_good_names(open_memory: OpenWorld, name: str) -> None:
    """What can be printed and is no path, id or wildcard may be a name."""
    async with open_memory() as world:
        bucket = await world.administration.create_bucket(name)
        assert world.administration.find_bucket(name) == bucket


@pytest.mark.gen_test
@pytest.mark.parametrize(
    "name",
    [
        "",
        "*",
        ".",
        "..",
        "x" * 101,
        " a",
        "a ",
        "a/b",
        "a\nb",
        "a\x00",
        "a\x1b[31m",
        "a\u202eb",
        "\ud800",
        ID,
        ID.upper(),
    ],
)
async def test_bad_names(open_memory: OpenWorld, name: str) -> None:
    """A name that could be taken for something else, or steer a terminal, is refused: at first and as a new name."""
    async with open_memory() as world:
        with pytest.raises(Invalid) as caught:
            await world.administration.create_bucket(name)
        assert caught.value.field == "name"
        await world.administration.create_bucket("orders")
        with pytest.raises(Invalid):
            await world.administration.set_bucket("orders", name=name)


@pytest.mark.gen_test
async def test_a_name_that_was_good_once(open_memory: OpenWorld) -> None:
    """It may be sent back with what is changed; to another bucket it is as bad as any."""
    async with open_memory() as world:
        made = await world.administration.create_bucket("orders")
        await world.registry.put("bucket", made.id, dataclasses.replace(made, name=".."))
        changed = await world.administration.set_bucket(made.id, name="..", description="kept")
        assert (changed.name, changed.description) == ("..", "kept")
        await world.administration.create_bucket("other")
        with pytest.raises(Invalid):
            await world.administration.set_bucket("other", name=".")


@pytest.mark.gen_test
async def test_taken_names(world: World) -> None:
    """A name belongs to one bucket: a second one is a Conflict, and leaves no log behind; so is renaming to it."""
    first = await world.administration.create_bucket("orders")
    with pytest.raises(Conflict, match="orders"):
        await world.administration.create_bucket("orders")
    assert set(await world.log.buckets()) == {first.id}
    await world.administration.create_bucket("billing")
    with pytest.raises(Conflict):
        await world.administration.set_bucket("billing", name="orders")
    await world.administration.set_bucket("orders", name="sales")
    assert (await world.administration.set_bucket("billing", name="orders")).name == "orders"


@pytest.mark.gen_test
async def test_a_name_that_is_taken_meanwhile(world: World) -> None:
    """Of several who make a bucket of one name at once, one succeeds, and the others leave no log behind."""
    outcomes = await asyncio.gather(
        *(world.administration.create_bucket("orders") for _ in range(5)), return_exceptions=True
    )
    assert sum(isinstance(each, Conflict) for each in outcomes) == 4
    assert set(await world.log.buckets()) == {bucket.id for bucket in world.administration.list_buckets()}


@pytest.mark.gen_test
async def test_who_is_found_by_a_name_is_not_looked_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """There may be thousands of buckets, and nobody else has a turn meanwhile."""
    bucket = await world.administration.create_bucket("orders")
    monkeypatch.setattr(world.registry, "list", Mock(side_effect=AssertionError("all were looked at")))
    assert world.administration.find_bucket("orders") == bucket
    with pytest.raises(NotFound):
        world.administration.find_bucket("bills")


@pytest.mark.gen_test
async def test_names_and_ids_are_interchangeable(world: World) -> None:
    """A bucket is found by either, everywhere; anything else is NotFound."""
    bucket = await world.administration.create_bucket("orders")
    for reference in ("orders", bucket.id):
        assert world.administration.find_bucket(reference).id == bucket.id
        assert (await world.administration.set_bucket(reference, description=reference)).description == reference
    for call in (
        lambda: world.administration.set_bucket("order", description=""),
        lambda: world.administration.delete_bucket("order"),
        lambda: world.administration.set_input("order", body=""),
    ):
        with pytest.raises(NotFound, match="'order'"):
            await call()


@pytest.mark.gen_test
async def test_what_is_left_out_stays(world: World) -> None:
    """A change touches what it names alone, in the nested parts, too; a change of nothing is none."""
    made = await world.administration.create_bucket(
        "orders",
        description="d",
        auth={"type": "basic", "username": "u", "password": "p"},
        retention={"max_events": 5},
        dedupe={"header": "X-Id", "window": 60},
    )
    world.now += 10
    same = await world.administration.set_bucket("orders", description="d", dedupe={"header": "X-Id"})
    assert same == made
    assert world.registry.revision("bucket", made.id) == 1
    changed = await world.administration.set_bucket(
        "orders", auth={"password": "q"}, retention={"max_age": None}, dedupe={"window": 70}
    )
    assert changed.auth == BucketAuth("basic", "u", "q")
    assert changed.retention == Retention(None, 5)
    assert changed.dedupe == Dedupe("X-Id", 70)
    assert (changed.description, changed.created_at) == (made.description, made.created_at)
    assert changed.updated_at == world.now
    switched = await world.administration.set_bucket("orders", auth={"type": "token", "token": "t"})
    assert switched.auth == BucketAuth("token", token="t")
    assert (await world.administration.set_bucket("orders", auth={"type": "none"})).auth == BucketAuth()


@pytest.mark.gen_test
async def test_retention_is_sent_back_as_it_was(world: World) -> None:
    """hard_max_bytes stays when a bucket waits for consumers no longer, and is refused only where it changes."""
    await world.administration.create_bucket(
        "orders", retention={"wait_for_consumers": True, "hard_max_bytes": 1 << 40}
    )
    now = await world.administration.set_bucket("orders", retention={"wait_for_consumers": False})
    shown = bucket_document(now)["retention"]
    assert shown["hard_max_bytes"] == 1 << 40
    assert await world.administration.set_bucket("orders", retention=shown) == now
    with pytest.raises(Invalid, match="wait_for_consumers"):
        await world.administration.set_bucket("orders", retention={**shown, "hard_max_bytes": 1 << 41})


@pytest.mark.gen_test
async def test_changes_at_once_lose_nothing(world: World) -> None:
    """Each of several concurrent changes to one bucket is in the record at the end."""
    bucket = await world.administration.create_bucket("orders")
    await asyncio.gather(
        world.administration.set_bucket("orders", description="d"),
        world.administration.set_bucket("orders", retention={"max_events": 1}),
        world.administration.set_bucket("orders", retention={"max_bytes": 2}),
        world.administration.set_bucket("orders", max_body=3),
        world.administration.set_input("orders", body="4"),
    )
    found = world.registry.get("bucket", bucket.id)
    assert (found.description, found.max_body, found.inputs[0].body) == ("d", 3, "4")
    assert (found.retention.max_events, found.retention.max_bytes) == (1, 2)


@pytest.mark.gen_test
async def test_changes_of_inputs_and_outputs_at_once_lose_nothing(world: World) -> None:
    """Each begins with what those before it have made, and not with what was there when it was asked for."""
    administration = world.administration
    await administration.create_bucket("orders")
    outputs = [(await administration.create_output("orders", name=name, internal=True))[1] for name in "abc"]
    inputs = [(await administration.create_input("orders", name=name))[1] for name in "de"]
    before = administration.find_bucket("orders")
    await asyncio.gather(
        administration.set_output(outputs[0].id, name="first"),
        administration.delete_output(outputs[1].id),
        administration.disable_output(before, outputs[2], "it was refused"),
        administration.create_output("orders", name="more", internal=True),
        administration.set_input(inputs[0].id, name="first"),
        administration.delete_input(inputs[1].id),
        administration.create_input("orders", name="more"),
        administration.set_output(outputs[2].id, name="last"),
    )
    found = administration.find_bucket("orders")
    assert [(each.n, each.name, each.disabled) for each in found.outputs] == [
        (1, "first", False),
        (3, "last", True),
        (4, "more", False),
    ]
    assert [each.name for each in found.inputs[1:]] == ["first", "more"]


@pytest.mark.gen_test
async def test_one_input_that_somebody_made_is_not_deleted_unasked(world: World) -> None:
    """Not even where it is the only one, as the first was deleted: senders know it."""
    first = await world.administration.create_bucket("orders")
    world.now += 1
    await world.administration.create_input("orders")
    await world.administration.delete_input(first.inputs[0].id)
    with pytest.raises(Conflict):
        await world.administration.delete_bucket("orders")
    await world.administration.delete_bucket("orders", force=True)


@pytest.mark.gen_test
async def test_a_deleted_bucket_is_gone(world: World) -> None:
    """Its log takes nothing more, and its name makes another bucket with another id and input."""
    first = await world.administration.create_bucket("orders")
    await world.log.append(first.id, event())
    assert await world.administration.delete_bucket("orders") == first
    with pytest.raises(BucketGone):
        await world.log.append(first.id, event())
    with pytest.raises(NotFound):
        await world.administration.delete_bucket(first.id)
    second = await world.administration.create_bucket("orders")
    assert second.id != first.id
    assert second.inputs[0].id != first.inputs[0].id
    assert (await world.log.append(second.id, event())).seq == 1


@pytest.mark.gen_test
@pytest.mark.parametrize(("error", "kept"), [(Unavailable, 0), (Unknown, 1)])
async def test_a_bucket_that_can_not_be_stored(
    world: World, monkeypatch: pytest.MonkeyPatch, error: type[Unavailable], kept: int
) -> None:
    """Its log is dropped again, unless it may have been stored after all: then the next start sees which it is."""

    async def refuse(*_: object, **__: object) -> int:
        raise error("the disk failed")

    with monkeypatch.context() as patch:
        patch.setattr(world.registry, "put", refuse)
        with pytest.raises(error):
            await world.administration.create_bucket("orders")
    assert len(await world.log.buckets()) == kept
    await world.administration.reconcile()
    assert list(await world.log.buckets()) == []


@pytest.mark.gen_test
async def test_the_log_is_there_before_the_bucket(world: World) -> None:
    """Whoever hears of a new bucket can append to it; whoever hears that it is gone knows its log goes next."""
    seen: list[set[str]] = []
    logs: set[str] = set()
    create, drop = world.log.create, world.log.drop

    async def noted_create(bucket_id: str, epoch: str, first: int = 1) -> None:
        await create(bucket_id, epoch, first)
        logs.add(bucket_id)

    async def noted_drop(bucket_id: str) -> None:
        logs.discard(bucket_id)
        await drop(bucket_id)

    world.log.create, world.log.drop = noted_create, noted_drop  # type: ignore[method-assign]
    end = world.registry.watch(lambda kind, key: seen.append(set(logs)))
    bucket = await world.administration.create_bucket("orders")
    await world.administration.delete_bucket("orders")
    end()
    assert seen == [{bucket.id}, {bucket.id}]
    assert logs == set()


@pytest.mark.gen_test
async def test_when_it_expires(open_memory: OpenWorld) -> None:
    """What is shown, in whole seconds, is no change where it comes back, even once it is past; null keeps it."""
    async with open_memory() as world:
        bucket = await world.administration.create_bucket("trial", expires_at=world.now + 10.5)
        world.now += 20
        assert await world.administration.set_bucket("trial", expires_at=int(world.now - 20 + 10)) == bucket
        longer = await world.administration.set_bucket("trial", expires_at=world.now + 60)
        assert longer.expires_at == world.now + 60
        kept = await world.administration.set_bucket("trial", expires_at=None)
        assert kept.expires_at is None


async def _filled(world: World, bodies: int, size: int = 250_000) -> Bucket:
    """The bucket "orders" with as many inputs more, whose answers have so many bytes: put, as an older relay did."""
    bucket = await world.administration.create_bucket("orders")
    (first,) = bucket.inputs
    large = (dataclasses.replace(first, id=f"input-{n}", body="x" * size) for n in range(bodies))
    bucket = dataclasses.replace(bucket, inputs=(first, *large))
    await world.registry.put("bucket", bucket.id, bucket)
    return bucket


@pytest.mark.gen_test
async def test_a_record_has_a_bound(world: World) -> None:
    """Whoever would make it larger is told what to do, and nothing is stored; what the relay says itself of an output
    always is."""
    relay = world.administration
    await _filled(world, MAX_RECORD // 250_000)
    _, output = await relay.create_output("orders", destination="https://example.org/", internal=False)
    await relay.create_input("orders", body="x" * (MAX_RECORD % 250_000 - 16_000))
    full = relay.find_bucket("orders")
    for change in (
        relay.create_input("orders", body="x" * 20_000),
        relay.set_input(full.inputs[0].id, body="x" * 20_000),
        relay.create_output("orders", more="x" * 20_000),
        relay.set_output(output.id, more="x" * 20_000),
        relay.set_bucket("orders", more="x" * 20_000),
    ):
        with pytest.raises(Conflict, match=r"'orders', .* would have 4\d{6} bytes; 4194304 are allowed: shorten what"):
            await change
    assert relay.find_bucket("orders") == full
    await relay.disable_output(full, output, "r" * 20_000)
    assert relay.find_bucket("orders").outputs[0].disabled


@pytest.mark.gen_test
async def test_a_record_from_before_its_bound(world: World) -> None:
    """It may be changed, so long as it does not get larger, and made smaller."""
    relay = world.administration
    bucket = await _filled(world, 20)
    world.now += 0.123456
    await relay.set_bucket("orders", suspended=True)
    await relay.set_bucket("orders", suspended=False)
    with pytest.raises(Conflict, match="shorten what"):
        await relay.set_bucket("orders", description="d" * 300)
    with pytest.raises(Conflict, match="shorten what"):
        await relay.create_input("orders")
    await relay.delete_input("input-0")
    await relay.set_input("input-1", body="")
    assert len(relay.find_bucket("orders").inputs) == len(bucket.inputs) - 1
    for n in range(2, 5):
        await relay.set_input(f"input-{n}", body="")
    await relay.create_input("orders")


@pytest.mark.gen_test
async def test_a_bin_ends_a_day_from_now(world: World) -> None:
    """By the clock by which it is found to have ended."""
    assert (await world.administration.create_bin()).expires_at == world.now + DAY


@pytest.mark.gen_test
async def test_what_counts_as_a_bin(world: World) -> None:
    """Neither a bin that is kept, nor a bucket of another name that ends one day."""
    relay = world.administration
    for number in range(MAX_BINS):
        await relay.create_bucket(f"demo-{number}", expires_at=world.now + DAY)
    bins = [await relay.create_bin() for _ in range(MAX_BINS)]
    with pytest.raises(Conflict, match=f"there are {MAX_BINS} request bins already"):
        await relay.create_bin()
    await relay.set_bucket(bins[0].id, expires_at=None)
    await relay.create_bin()
