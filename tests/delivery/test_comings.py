"""relay_tornado/delivery: buckets that come to fit a subscription, and that leave it."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from relay_tornado.delivery.deliver import Delivery
from relay_tornado.model import Bucket
from relay_tornado.wire import control
from tests.delivery.world import TOKEN, Reader, World, judged_later, quiet, stocked, until


@pytest.mark.gen_test
async def test_a_new_bucket_joins_from_its_first_event() -> None:
    """One that fits what was asked for, by "all" or by its name, and that the token reads; no other."""
    world = World()
    every, _, _ = await world.subscribe()
    named, _, _ = await world.subscribe("orders")
    other, _, _ = await world.subscribe("billing", since="latest")
    world.token = replace(TOKEN, buckets=frozenset({"id-billing"}))
    narrow, _, _ = await world.subscribe()
    await quiet()
    await world.bucket("orders")
    await world.append(2)
    await until(lambda: every.seqs() == named.seqs() == [1, 2])
    await world.append(1)
    await until(lambda: every.seqs() == named.seqs() == [1, 2, 3])
    assert other.messages == narrow.messages == []


@pytest.mark.gen_test
async def test_a_bucket_made_while_positions_are_judged_is_not_missed() -> None:
    """It joins like one that is made later."""
    world = World()
    await world.bucket("a")
    made = asyncio.Event()
    bounds = world.log.bounds

    async def slow(bucket_id: str) -> Any:
        found = await bounds(bucket_id)
        if not made.is_set():
            made.set()
            await world.bucket("b")
            await world.append(1, "id-b")
        return found

    world.log.bounds = slow  # type: ignore[method-assign]
    reader, _, _ = await world.subscribe()
    await until(lambda: reader.seqs("b") == [1])


@pytest.mark.gen_test
async def test_a_bucket_changed_while_positions_are_judged_comes_once() -> None:
    """It is being placed already, and does not join as well."""
    world = await stocked(2)
    gate = judged_later(world)
    subscribing = asyncio.ensure_future(world.subscribe(since="earliest"))
    await quiet()
    await world.change(description="new")
    gate.set()
    reader, _, _ = await subscribing
    await world.append(1)
    await quiet()
    assert reader.seqs() == [1, 2, 3]


@pytest.mark.gen_test
@pytest.mark.parametrize("named", [False, True])
async def test_a_bucket_deleted_while_positions_are_judged(named: bool) -> None:
    """Who asked for it hears that it is not there; who asked for all, nothing of one that nobody named."""
    world = World()
    await world.bucket("a")
    await world.bucket("b")
    bounds = world.log.bounds

    async def slow(bucket_id: str) -> Any:
        found = await bounds(bucket_id)
        if bucket_id == "id-a":
            await world.delete("id-b")
        return found

    world.log.bounds = slow  # type: ignore[method-assign]
    _, _, answers = await world.subscribe(*(("a", "b") if named else ()))
    missing = {"bucket_name": "b", "error": "not_found"}
    assert [answer for answer in answers if "error" in answer] == ([missing] if named else [])
    assert len(answers) == 1 + named


@pytest.mark.gen_test
async def test_a_new_bucket_that_changes_at_once_is_still_new() -> None:
    """Its first event comes although it, or the token, was changed before it was placed."""
    world = World()
    reader, delivery, _ = await world.subscribe()
    bucket = await world.bucket()
    await world.registry.put("bucket", bucket.id, replace(bucket, description="new"))
    delivery.rescope(TOKEN)
    await world.append(2)
    await until(lambda: reader.seqs() == [1, 2])


@pytest.mark.gen_test
async def test_a_bucket_that_comes_into_scope_joins_at_the_position_asked_for() -> None:
    """By its token's new scope or by a new name: latest, unless the subscribe says otherwise."""
    world = World()
    await world.bucket("a")
    bucket = await world.bucket("b")
    await world.append(2, "id-a")
    await world.append(2, "id-b")
    world.token = narrow = replace(TOKEN, buckets=frozenset({"id-a"}))
    stock, delivery, _ = await world.subscribe()
    early, early_delivery, _ = await world.subscribe(since={"*": "earliest"})
    named, _, _ = await world.subscribe("c")
    await quiet()
    wide = replace(narrow, buckets=frozenset({"id-a", "id-b"}))
    delivery.rescope(wide)
    early_delivery.rescope(wide)
    await quiet()
    await world.append(1, "id-b")
    await until(lambda: stock.seqs("b") == [3] and early.seqs("b") == [1, 2, 3])
    world.token = TOKEN
    named, _, _ = await world.subscribe("c")
    await world.registry.put("bucket", "id-b", replace(bucket, name="c"))
    await quiet()
    await world.append(1, "id-b")
    await until(lambda: named.seqs("c") == [4])
    assert stock.seqs("c") == [4]


@pytest.mark.gen_test
async def test_nothing_comes_of_a_bucket_that_leaves_the_scope_before_it_is_placed() -> None:
    """It was about to be placed for a scope that is no longer the token's."""
    world = await stocked(2)
    world.token = narrow = replace(TOKEN, buckets=frozenset())
    reader, delivery, _ = await world.subscribe(since={"*": "earliest"})
    gate = judged_later(world)
    delivery.rescope(TOKEN)
    await quiet()
    delivery.rescope(narrow)
    gate.set()
    await quiet()
    await world.append(1)
    await quiet()
    assert reader.messages == []


@pytest.mark.gen_test
async def test_a_bucket_that_comes_into_scope_during_a_new_subscribe_begins_at_its_head() -> None:
    """As without the second subscribe: only a new bucket begins with its first event."""
    world = await stocked(2)
    world.token = replace(TOKEN, buckets=frozenset())
    reader, first, _ = await world.subscribe()
    gate = judged_later(world)
    first.rescope(TOKEN)
    await quiet()
    subscribing = asyncio.ensure_future(world.subscribe(reader=reader, replaces=first, token=TOKEN))
    await quiet()
    gate.set()
    await subscribing
    await quiet()
    await world.append(1)
    await quiet()
    assert reader.seqs() == [3]


@pytest.mark.gen_test
async def test_a_token_s_new_record_costs_no_look_at_every_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be told to thousands of connections, beside thousands of buckets: of those only the ones that come into
    scope are looked at."""
    world = World()
    for n in range(20):
        await world.bucket(f"b{n}")
    world.token = narrow = replace(TOKEN, buckets=frozenset(f"id-b{n}" for n in range(10)))
    reader, delivery, _ = await world.subscribe()
    await quiet()
    looked_at: list[str] = []
    join = Delivery.join

    def counting(self: Delivery, bucket: Bucket, *, new: bool) -> None:
        looked_at.append(bucket.name)
        join(self, bucket, new=new)

    monkeypatch.setattr(Delivery, "join", counting)
    delivery.rescope(replace(narrow, secret_hash="other", description="rotated"))
    assert looked_at == []
    delivery.rescope(replace(narrow, buckets=frozenset(f"id-b{n}" for n in (0, 1, 2, 4, 5, 6, 7, 8, 9, 15))))
    assert looked_at == ["b15"]
    await quiet()
    for n in (3, 15, 16):
        await world.append(1, f"id-b{n}")
    await until(lambda: reader.seqs("b15") == [1])
    assert reader.seqs("b3") == reader.seqs("b16") == []
    delivery.rescope(TOKEN)
    assert set(looked_at) == {"b3", "b15", *(f"b{n}" for n in range(10, 20))}
    looked_at.clear()
    delivery.rescope(narrow)
    assert looked_at == []


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("since", "kept"),
    [({"b": "{a}-1"}, False), ({"*": "zzzzzzzzzzzz-1"}, False), ("zzzzzzzzzzzz-1", False), ("{a}-1", True)],
)
async def test_an_id_of_another_log_is_told_by_a_bucket_that_comes_into_scope_too(since: Any, kept: bool) -> None:
    """As at the subscribe: it is gap `reset`, unless it is about a bucket that was subscribed to."""
    world = World()
    await world.bucket("a")
    await world.bucket("b")
    await world.append(2, "id-a")
    await world.append(2, "id-b")
    epoch = await world.epoch("id-a")
    world.token = replace(TOKEN, buckets=frozenset({"id-a"}))
    text = json.loads(json.dumps(since).replace("{a}", epoch))
    reader, delivery, _ = await world.subscribe(since=text)
    delivery.rescope(TOKEN)
    await until(lambda: not delivery.busy)
    reset = {"from": None, "to": None, "count": None, "reason": "reset"}
    assert (reader.gaps(), reader.seqs("b")) == (([], []) if kept else ([reset], [1, 2]))


@pytest.mark.gen_test
async def test_an_id_of_a_bucket_that_comes_into_scope_is_honoured() -> None:
    """Bare as it was, and of none of those that were there."""
    world = World()
    await world.bucket("a")
    await world.bucket("b")
    await world.append(3, "id-a")
    epoch = await world.epoch("id-a")
    world.token = replace(TOKEN, buckets=frozenset({"id-b"}))
    reader, delivery, (answer,) = await world.subscribe(since=f"{epoch}-1")
    assert answer["gap"]["reason"] == "reset"
    delivery.rescope(TOKEN)
    await until(lambda: reader.seqs("a") == [2, 3])
    assert [each["status"] for each in reader.statuses()] == ["caught_up"]


@pytest.mark.gen_test
@pytest.mark.parametrize("since", ["earliest", {"last": 5}, {"time": 0}])
async def test_an_ephemeral_bucket_that_comes_into_scope_begins_at_its_head(since: Any) -> None:
    """Whatever was asked for: nothing comes from below it, and that is no gap."""
    world = World()
    await world.bucket("a")
    await world.bucket("brief", ephemeral=True)
    await world.append(2, "id-brief", ephemeral=True)
    world.token = replace(TOKEN, buckets=frozenset({"id-a"}))
    reader, delivery, _ = await world.subscribe(since={"*": since}, on_gap="fail")
    delivery.rescope(TOKEN)
    await until(lambda: not delivery.busy)
    await world.append(1, "id-brief", ephemeral=True)
    await until(lambda: reader.seqs("brief") == [3])
    assert reader.ends == []


@pytest.mark.gen_test
async def test_a_bucket_that_leaves() -> None:
    """Deleted or out of scope: nothing more of it comes, who asked for our additions is told once, others are not."""
    world = World()
    await world.bucket("a")
    await world.bucket("b")
    reader, delivery, _ = await world.subscribe(extended=True)
    stock, _, _ = await world.subscribe()
    await until(lambda: len(reader.statuses()) == 2)
    reader.messages.clear()
    await world.delete("id-a")
    await quiet()
    gone = {"type": "status", "status": "bucket_deleted", "bucket_name": "a", "bucket_id": "id-a"}
    assert reader.messages == [gone]
    delivery.rescope(replace(TOKEN, buckets=frozenset()))
    await world.append(1, "id-b")
    await quiet()
    assert reader.messages == [gone, gone | {"bucket_name": "b", "bucket_id": "id-b"}]
    assert [message["type"] for message in stock.messages] == ["webhook"]
    # A bucket made anew under the old name is another one, and joins.
    await world.bucket("a", "id-a2")
    await world.append(1, "id-a2")
    await until(lambda: stock.seqs("a") == [1])


@pytest.mark.gen_test
async def test_a_bucket_that_is_put_back_is_new() -> None:
    """Nothing is kept of a deleted bucket, not even its name: under the same id it joins from its first event."""
    world = World()
    reader, _, _ = await world.subscribe()
    for _ in range(2):
        await world.bucket("a")
        await world.append(2, "id-a")
        await until(lambda: reader.seqs("a") == [1, 2])
        reader.messages.clear()
        await world.delete("id-a")
        await quiet()


@pytest.mark.gen_test
async def test_nothing_of_a_bucket_comes_after_it_left() -> None:
    """Not from a page that was read before, nor from a pass that was under way."""
    world = World()
    await world.bucket("a")
    await world.bucket("b")
    await world.append(8, "id-a", body=b"x" * 100_000)
    reader = Reader(paused=True)
    await world.subscribe("a", since="earliest", reader=reader)
    await until(lambda: reader.waiting > 0)
    await world.delete("id-a")
    reader.resume()
    await quiet()
    assert 0 < len(reader.seqs("a")) < 3
    assert reader.messages[-1]["status"] == "bucket_deleted"

    first, second = Reader(), Reader()
    await world.subscribe("b", reader=first)
    _, delivery, _ = await world.subscribe("b", reader=second)
    await until(lambda: not delivery.busy)
    send = first.send_now
    first.send_now = lambda data: delivery.unsubscribe(control.Unsubscribe(("b",))) or send(data)  # type: ignore
    await world.append(1, "id-b")
    await until(lambda: first.seqs("b") == [1])
    await quiet()
    assert second.messages == []


@pytest.mark.gen_test
async def test_a_log_that_is_gone_before_its_bucket_is_no_failure() -> None:
    """The reader loses the bucket, not its connection."""
    world = await stocked(3)
    reader = Reader(paused=True)
    await world.subscribe("orders", since="earliest", reader=reader, max_body=10)
    await quiet()
    await world.append(1)
    await world.log.drop("id-orders")
    reader.resume()
    await quiet()
    assert reader.ends == []
