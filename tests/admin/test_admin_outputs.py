"""Outputs: how they are made, numbered, changed and removed, and what is refused."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import pytest

from relay_tornado.consumer_progress import AT_ONCE
from relay_tornado.errors import Conflict, Invalid, NoSpace, NotFound
from relay_tornado.log.consumers import output_key
from relay_tornado.model import Bucket
from relay_tornado.wire.destination import parse
from relay_tornado.wire.rest import bucket_document, output_document
from tests.admin.world import OpenWorld, World, event

RULES = {"and": [{"match": {"type": "value", "value": "push", "parameter": {"source": "header", "name": "X-Event"}}}]}
COSTLY = {"type": "regex", "parameter": {"source": "payload"}}


@pytest.mark.gen_test
async def test_numbers_are_never_given_twice(world: World) -> None:
    """Outputs count 1, 2, 3 in their bucket, also after one was removed."""
    await world.administration.create_bucket("orders")
    await world.administration.create_bucket("billing")
    made = [(await world.administration.create_output("orders"))[1] for _ in range(3)]
    assert [each.n for each in made] == [1, 2, 3]
    await world.administration.delete_output(made[2].id)
    await world.administration.delete_output(made[0].id)
    bucket, again = await world.administration.create_output("orders")
    assert again.n == 4
    assert [each.n for each in bucket.outputs] == [2, 4]
    assert (await world.administration.create_output("billing"))[1].n == 1
    with pytest.raises(NotFound):
        await world.administration.set_output(made[0].id, name="x")
    with pytest.raises(NotFound):
        await world.administration.set_output(again.id, "billing", name="x")


@pytest.mark.gen_test
async def test_every_field_arrives(world: World) -> None:
    """Each known field is stored and shown as it was sent, and what is not known is kept and echoed."""
    sent = {
        "name": "worker",
        "description": "on host 7",
        "destination": "https://example.org/hook?x=1",
        "internal": False,
        "disabled": True,
        "lock_path": True,
        "timeout": 180,
        "retries": -1,
        "tls_verification": False,
        "headers": {"X-One": ["1"], "X-Two": ["a", "b"]},
        "rules": RULES,
        "function_id": "f-1",
        "throttle": {"enabled": True, "mode": "rate", "rate": 5, "interval": "second", "deadline": 10**9, "burst": 3},
        "durability": {"enabled": True, "schedule": "custom", "custom_delays": [10**9, 5 * 10**9], "deadline": 0},
        "strict_order": True,
        "secret": "whsec_AAAA",
        "paused": True,
        "color": {"r": [1, None, "x"]},
        "weight": 1.5,
    }
    await world.administration.create_bucket("orders")
    bucket, made = await world.administration.create_output("orders", **sent)
    document = output_document(bucket.id, made)
    assert {name: document[name] for name in sent} == sent
    assert bucket_document(world.registry.get("bucket", bucket.id))["outputs"] == [document]
    world.now += 60
    again, same = await world.administration.set_output(made.id, **document)
    assert (again, same) == (bucket, made)
    _, changed = await world.administration.set_output(made.id, color="red", headers=None, rules=None, throttle=None)
    assert dict(changed.extra) == {"color": "red", "weight": 1.5}
    assert (changed.headers, changed.rules, changed.throttle, changed.updated_at) == ({}, None, None, world.now)


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"name": " "}, "name"),
        ({"timeout": -1}, "timeout"),
        ({"timeout": 180.5}, "timeout"),
        ({"timeout": "10"}, "timeout"),
        ({"timeout": True}, "timeout"),
        ({"timeout": float("nan")}, "timeout"),
        ({"retries": -2}, "retries"),
        ({"retries": 1.5}, "retries"),
        ({"internal": "yes"}, "internal"),
        ({"internal": False}, "destination"),
        ({"internal": False, "destination": "localhost:80"}, "destination"),
        ({"internal": False, "destination": "ftp://example.org"}, "destination"),
        ({"internal": False, "destination": "http://:80"}, "destination"),
        ({"internal": False, "destination": "http://[::1"}, "destination"),
        ({"internal": False, "destination": "http://ex ample/"}, "destination"),
        ({"internal": False, "destination": "http://user:pa ss@example.org/"}, "destination"),
        ({"internal": False, "destination": "http://example.org:0/"}, "destination"),
        ({"internal": False, "destination": "http://a..example.org/"}, "destination"),
        ({"internal": False, "destination": f"http://{'a' * 64}.example.org/"}, "destination"),
        ({"destination": "x" * 2049}, "destination"),
        ({"destination": "a\nb"}, "destination"),
        ({"headers": {"Connection": "close"}}, "headers"),
        ({"headers": {"X": "a\r\nb: c"}}, "headers"),
        ({"headers": {"X": [1]}}, "headers.X"),
        ({"rules": [{}]}, "rules"),
        ({"rules": {"or": []}}, "rules.or"),
        ({"rules": {"and": [{"match": {"type": "regex", "regex": "(", "parameter": {"source": "payload"}}}]}},
         "rules.and[0].match.regex"),
        ({"throttle": []}, "throttle"),
        ({"throttle": {"mode": "slow"}}, "throttle.mode"),
        ({"throttle": {"rate": -1}}, "throttle.rate"),
        ({"throttle": {"enabled": True}}, "throttle.mode"),
        ({"throttle": {"enabled": True, "mode": "", "rate": 5}}, "throttle.mode"),
        ({"throttle": {"enabled": True, "mode": "rate"}}, "throttle.rate"),
        ({"throttle": {"enabled": True, "mode": "rate", "rate": 0}}, "throttle.rate"),
        ({"throttle": {"enabled": True, "mode": "rate", "rate": 1, "max_concurrent": 101}}, "throttle.max_concurrent"),
        ({"throttle": {"enabled": True, "mode": "concurrency"}}, "throttle.max_concurrent"),
        ({"throttle": {"enabled": True, "mode": "concurrency", "max_concurrent": 0}}, "throttle.max_concurrent"),
        ({"throttle": {"enabled": True, "mode": "concurrency", "max_concurrent": 101}}, "throttle.max_concurrent"),
        ({"durability": {"enabled": True, "schedule": "custom"}}, "durability.custom_delays"),
        ({"durability": {"enabled": True, "schedule": "custom", "custom_delays": []}}, "durability.custom_delays"),
        ({"throttle": {"deadline": 1.5}}, "throttle.deadline"),
        ({"durability": {"schedule": "forever"}}, "durability.schedule"),
        ({"secret": "whsec_?"}, "secret"),
        ({"secret": "abc"}, "secret"),
        ({"paused": True}, "paused"),
        ({"secret": "whsec_"}, "secret"),
        ({"durability": {"custom_delays": ["1s"]}}, "durability.custom_delays.0"),
        ({"durability": {"deadline": "1h"}}, "durability.deadline"),
        ({"colour": "\ud800"}, "colour"),
    ],
)  # fmt: skip
async def test_bad_options(open_memory: OpenWorld, options: dict[str, Any], field: str) -> None:
    """Each is refused with the field's name, when an output is made and when it is changed, and nothing changes."""
    async with open_memory() as world:
        await world.administration.create_bucket("orders")
        bucket, made = await world.administration.create_output("orders")
        for change in (
            lambda: world.administration.create_output("orders", **options),
            lambda: world.administration.set_output(made.id, **options),
        ):
            with pytest.raises(Invalid) as caught:
                await change()
            assert caught.value.field == field
            assert str(caught.value).startswith(field.partition("[")[0].partition(".0")[0])
        assert world.registry.get("bucket", bucket.id) == bucket


@pytest.mark.gen_test
async def test_a_name_is_one_output_s(world: World) -> None:
    """Clients look outputs up by their names: no other one of its bucket may be made or called so."""
    for bucket in ("orders", "billing"):
        await world.administration.create_bucket(bucket)
        await world.administration.create_output(bucket, name="worker")
    _, other = await world.administration.create_output("orders", name="other")
    with pytest.raises(Conflict, match="'orders' has an output 'worker' already"):
        await world.administration.create_output("orders", name="worker")
    with pytest.raises(Conflict, match="'orders' has an output 'worker' already"):
        await world.administration.set_output(other.id, name="worker")
    _, same = await world.administration.set_output(other.id, name="other")
    assert same.name == "other"


@pytest.mark.gen_test
async def test_rules_are_set_and_removed(world: World) -> None:
    """None takes them away; errors name the node."""
    await world.administration.create_bucket("orders")
    await world.administration.create_output("orders", name="worker")
    _, changed = await world.administration.set_output("worker", "orders", rules=RULES)
    assert changed.rules == RULES
    with pytest.raises(Invalid, match=r"^rules\.or\[1\]"):
        await world.administration.set_output("worker", "orders", rules={"or": [RULES, {"match": {"type": "x"}}]})
    _, changed = await world.administration.set_output("orders", rules=None)
    assert changed.rules is None


@pytest.mark.gen_test
async def test_an_input_answers_by_itself_when_its_output_goes(world: World) -> None:
    """As the output that `response_from_output` names is removed. Other inputs stay as they are: those that name
    another output, or any."""
    await world.administration.create_bucket("orders")
    (_, gone), (_, stays) = [await world.administration.create_output("orders") for _ in range(2)]
    wanted = {"gone": gone.id, "stays": stays.id, "any": "anyOutput"}
    for name, answering in wanted.items():
        await world.administration.create_input("orders", name=name, response_from_output=answering)
    await world.administration.delete_output(gone.id)
    bucket = world.administration.find_bucket("orders")
    assert {each.name: each.response_from_output for each in bucket.inputs[1:]} == {**wanted, "gone": ""}
    assert [each.id for each in bucket.outputs] == [stays.id]


@pytest.mark.gen_test
async def test_a_bucket_with_more_than_the_default_goes_by_force(world: World) -> None:
    """With an output, or a second input, a bucket is removed only by force."""
    for make in (world.administration.create_output, world.administration.create_input):
        bucket = await world.administration.create_bucket("orders")
        await make("orders")  # type: ignore[operator]
        with pytest.raises(Conflict, match="say force"):
            await world.administration.delete_bucket("orders")
        assert world.registry.get("bucket", bucket.id) is not None
        await world.administration.delete_bucket("orders", force=True)
        assert world.registry.get("bucket", bucket.id) is None


@pytest.mark.gen_test
async def test_what_is_not_understood_of_a_bucket_is_echoed(world: World) -> None:
    """Unknown fields come out as they went in, known ones that are only read do not, and none hides one of ours."""
    bucket = await world.administration.create_bucket(
        "orders", static_ip=True, tags=["a"], id="mine", created_at=5, inputs=[], suspended=True
    )
    document = bucket_document(bucket)
    assert (document["static_ip"], document["tags"], document["suspended"]) == (True, ["a"], False)
    assert document["id"] == bucket.id != "mine"
    assert len(document["inputs"]) == 1
    await world.administration.set_bucket("orders", more="x" * 40_000)
    with pytest.raises(Invalid, match=r"^other: has 80\d+ bytes"):
        await world.administration.set_bucket("orders", other="x" * 40_000)
    changed = await world.administration.set_bucket("orders", **{**document, "tags": None})
    assert bucket_document(changed)["tags"] is None
    assert changed.inputs == bucket.inputs


@pytest.mark.gen_test
async def test_disabled_by_the_relay(world: World) -> None:
    """The reason is shown, can't be set, and goes when the output is enabled again."""
    await world.administration.create_bucket("orders")
    bucket, made = await world.administration.create_output(
        "orders", destination="https://example.org/", internal=False, disabled_reason="mine"
    )
    assert made.disabled_reason == ""
    await world.administration.disable_output(bucket, made, "410 Gone")
    shown = output_document(bucket.id, world.administration.find_output(made.id)[1])
    assert (shown["disabled"], shown["disabled_reason"]) == (True, "410 Gone")
    await world.administration.set_output(made.id, **{**shown, "name": "renamed"})
    assert world.administration.find_output(made.id)[1].disabled_reason == "410 Gone"
    _, enabled = await world.administration.set_output(made.id, disabled=False)
    assert (enabled.disabled, enabled.disabled_reason) == (False, "")


@pytest.mark.gen_test
async def test_a_reason_that_comes_too_late(world: World) -> None:
    """It is about the destination before: the one that the output has by now stays enabled."""
    await world.administration.create_bucket("orders")
    bucket, made = await world.administration.create_output(
        "orders", destination="https://example.org/old", internal=False
    )
    await asyncio.gather(
        world.administration.set_output(made.id, destination="https://example.org/new"),
        world.administration.disable_output(bucket, made, "410 Gone"),
    )
    found = world.administration.find_output(made.id)[1]
    assert (found.destination, found.disabled) == ("https://example.org/new", False)


@pytest.mark.gen_test
async def test_only_what_the_relay_forwards_is_paused(open_memory: OpenWorld) -> None:
    """A paused output that becomes internal is paused no more, and what was stored so before may be sent back."""
    async with open_memory() as world:
        await world.administration.create_bucket("orders")
        url = "https://example.org/"
        bucket, made = await world.administration.create_output("orders", internal=False, destination=url, paused=True)
        assert made.paused
        document = output_document(bucket.id, made)
        for options in ({"internal": True}, {**document, "internal": True}):
            _, changed = await world.administration.set_output(made.id, **options)
            assert (changed.internal, changed.paused) == (True, False)
            with pytest.raises(Invalid, match="paused: an internal output can't be paused"):
                await world.administration.set_output(made.id, paused=True)
            _, made = await world.administration.set_output(made.id, internal=False, paused=True)
            assert (made.internal, made.paused) == (False, True)
        bucket = world.administration.find_bucket("orders")
        stored = dataclasses.replace(bucket, outputs=(dataclasses.replace(made, internal=True),))
        await world.registry.put("bucket", bucket.id, stored)
        document = output_document(bucket.id, stored.outputs[0])
        assert document["paused"] is True
        _, changed = await world.administration.set_output(made.id, **{**document, "description": "new"})
        assert (changed.description, changed.paused) == ("new", False)
        _, again = await world.administration.set_output(made.id, paused=False)
        assert again == changed


@pytest.mark.gen_test
async def test_what_was_taken_before_may_be_sent_back(open_memory: OpenWorld) -> None:
    """An output that is stored with what is refused now is changed in other parts, with all of it sent along; and what
    is not enabled may say nothing."""
    old = {
        "internal": False,
        "destination": "http://ex ample/",
        "throttle": {"enabled": True},
        "durability": {"enabled": True, "schedule": "custom"},
        "secret": "abc",
        "rules": {"or": [{"match": {**COSTLY, "regex": f"[^a]{{1000}}x{number}"}} for number in range(8)]},
    }
    async with open_memory() as world:
        await world.administration.create_bucket("orders")
        bucket, made = await world.administration.create_output(
            "orders",
            throttle={"enabled": False, "mode": "", "rate": 0, "max_concurrent": 0},
            durability={"enabled": False, "schedule": "custom"},
        )
        stored = dataclasses.replace(bucket, outputs=(dataclasses.replace(made, **old),))
        await world.registry.put("bucket", bucket.id, stored)
        document = output_document(bucket.id, stored.outputs[0])
        _, changed = await world.administration.set_output(made.id, **{**document, "description": "new"})
        assert (changed.description, changed.secret, changed.destination) == ("new", "abc", "http://ex ample/")
        with pytest.raises(Invalid, match=r"^rules.*all patterns together compile to over"):
            await world.administration.set_output(made.id, rules={"and": [old["rules"]]})


def test_an_error_about_a_destination_quotes_no_login() -> None:
    """Not even where the password makes it no URL."""
    for url in (
        "http://user:hid/den@example.org/",
        "http://user:hid den@example.org/",
        "http://user:hid[den@example.org/",
    ):
        with pytest.raises(Invalid) as refused:
            parse(url)
        assert "hid" not in str(refused.value), url


@pytest.mark.gen_test
async def test_a_host_that_is_looked_up_as_another_name(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused for a public output, but where it is stored and something else is changed."""
    await world.administration.create_bucket("orders")
    wrong = {"internal": False, "destination": "https://straße.example/hook"}
    with pytest.raises(Invalid, match="another name: write it as it is in ASCII"):
        await world.administration.create_output("orders", **wrong)
    with monkeypatch.context() as patch:
        patch.setattr("relay_tornado.admin.outputs.parse_new", parse)
        _, made = await world.administration.create_output("orders", **wrong)
    _, changed = await world.administration.set_output(made.id, name="other")
    assert (changed.name, changed.destination) == ("other", wrong["destination"])


@pytest.mark.gen_test
async def test_what_is_wanted_is_judged_by_what_is_written(world: World) -> None:
    """Options that follow from the bucket follow from the one that they change, also where another came first."""
    bucket = await world.administration.create_bucket("orders")
    _, output = await world.administration.create_output("orders", name="o")

    def wanted(now: Bucket) -> dict[str, Any]:
        return {"description": f"of {now.description}"}

    for number, changed in enumerate(
        (
            lambda: world.administration.set_output(output.id, bucket.id, wanted),
            lambda: world.administration.set_input(bucket.inputs[0].id, bucket.id, wanted),
            lambda: world.administration.set_bucket(bucket.id, wanted),
        )
    ):
        await asyncio.gather(world.administration.set_bucket("orders", description=f"d-{number}"), changed())
        found = world.administration.find_bucket("orders")
        part = (found.outputs[0], found.inputs[0], found)[number]
        assert part.description == f"of d-{number}"


@pytest.mark.gen_test
async def test_an_output_begins_at_the_head_behind_a_change_that_failed(world: World) -> None:
    """What came in between, while it was not public, is not sent to it."""
    administration = world.administration
    bucket = await administration.create_bucket("orders")
    _, output = await administration.create_output("orders", destination="https://example.org/", internal=True)
    put = world.registry.put

    async def fail(*arguments: object, **options: object) -> None:
        raise NoSpace("the disk is full")

    world.registry.put = fail  # type: ignore[method-assign, assignment]
    with pytest.raises(NoSpace):
        await administration.set_output(output.id, internal=False)
    world.registry.put = put  # type: ignore[method-assign]
    await world.log.append(bucket.id, event())
    await administration.set_output(output.id, internal=False)
    assert [(each.key.name, each.floor) for each in await world.consumers.list(bucket.id)] == [("1", 1)]


@pytest.mark.gen_test
async def test_what_is_made_meanwhile_is_not_deleted_without_force(world: World) -> None:
    """An output that comes while its bucket is being deleted keeps that, as one that was there before does."""
    administration = world.administration
    await administration.create_bucket("orders")
    delete = world.registry.delete

    async def late(*arguments: Any) -> None:
        await administration.create_output("orders")
        await delete(*arguments)

    world.registry.delete = late  # type: ignore[method-assign]
    with pytest.raises(Conflict):
        await administration.delete_bucket("orders")
    assert len(administration.find_bucket("orders").outputs) == 1
    world.registry.delete = delete  # type: ignore[method-assign]
    await administration.delete_bucket("orders", force=True)


@pytest.mark.gen_test
async def test_a_public_output_that_is_not_made_keeps_no_position(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Retention would wait for it until the next start."""
    await world.administration.create_bucket("orders")
    _, internal = await world.administration.create_output("orders", destination="https://example.org/a")
    positions = []

    async def fail(*arguments: object, **options: object) -> None:
        positions.extend(await world.consumers.list())
        raise NoSpace("the disk is full")

    monkeypatch.setattr(world.registry, "put", fail)
    with pytest.raises(NoSpace):
        await world.administration.create_output("orders", internal=False, destination="https://example.org/b")
    with pytest.raises(NoSpace):
        await world.administration.set_output(internal.id, internal=False)
    assert [each.key.name for each in positions] == ["2", "1"]
    assert await world.consumers.list() == []


@pytest.mark.gen_test
async def test_what_waits_for_an_output_that_moved_is_due_at_once(world: World) -> None:
    """Also where nothing forwards now, as no relay runs: with the next one it is tried. No other change does that."""
    administration = world.administration
    bucket = await administration.create_bucket("orders")
    _, output = await administration.create_output("orders", internal=False, destination="https://example.org/a")
    await world.log.append(bucket.id, event())
    key = output_key(bucket.id, output.n)
    async with administration.ledgers.using(key) as ledger:
        (taken,) = ledger.progress.take(1, 1, 0.0)
        ledger.progress.fail(taken, 3600.0, 0.0)
    await world.consumers.saved()

    async def dues() -> list[float]:
        stored = await world.consumers.get(key)
        assert stored is not None
        return [one.due for one in stored.parked.values()]

    await administration.set_output(output.id, timeout=7)
    assert await dues() == [3600.0]
    await administration.set_output(output.id, destination="https://example.org/b")
    assert await dues() == [AT_ONCE]


@pytest.mark.gen_test
async def test_an_output_that_is_public_again_begins_at_the_head(world: World) -> None:
    """It gets nothing of what came while it was internal, nor once more what it had before."""
    administration = world.administration
    bucket, output = await administration.create_output(
        (await administration.create_bucket("orders")).name, internal=False, destination="https://example.org/"
    )
    await world.fill(bucket.id, 2)
    await administration.set_output(output.id, internal=True)
    await world.fill(bucket.id, 3)
    await administration.set_output(output.id, internal=False)
    (position,) = await world.consumers.list()
    assert (position.key, position.floor) == (output_key(bucket.id, output.n), 5)
