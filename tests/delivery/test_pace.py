"""relay_tornado/delivery: how much is written at once, whose turn it is, and what the slow cost the others."""

import asyncio
import time
from dataclasses import replace
from typing import Any

import pytest
from structlog.testing import capture_logs

from relay_tornado import rules
from relay_tornado.delivery import bounds, dispatch, filter_time, selection
from relay_tornado.delivery.bounds import CHUNK, LEAST_CHUNK, WriteBudget
from relay_tornado.delivery.filter_time import FilterTime
from relay_tornado.delivery.frames import FrameCache
from relay_tornado.model import Event
from relay_tornado.rules import Rules
from tests.delivery.world import Reader, World, judged_later, quiet, stocked, until
from tests.hostile import HOSTILE, HOSTILE_BODY

NEVER = {"match": {"type": "value", "value": "x", "parameter": {"source": "header", "name": "X-None"}}}
"""Rules that let nothing through."""


@pytest.mark.gen_test
async def test_writes_are_chunks() -> None:
    """Frames are joined up to the chunk's size; a larger event goes alone."""
    world = await stocked(0)
    await world.append(300, body=b"x" * 2000)
    await world.append(1, body=b"x" * 1_000_000)
    reader, delivery, _ = await world.subscribe("orders", since="earliest")
    await until(lambda: len(reader.seqs()) == 301)
    assert reader.seqs() == list(range(1, 302))
    assert sorted(reader.writes)[-2] <= CHUNK < max(reader.writes)
    assert len(reader.writes) < 12
    await until(lambda: not delivery.busy)
    # A live event over the chunk is no business of the fast path.
    reader.at_once = 0
    await world.append(1, body=b"x" * 1_000_000)
    await until(lambda: len(reader.seqs()) == 302)
    assert reader.at_once == 0


@pytest.mark.gen_test
async def test_buckets_take_turns() -> None:
    """A long replay of one bucket does not hold up another."""
    world = World()
    await world.bucket("a")
    await world.bucket("b")
    await world.append(1500, "id-a", body=b"x" * 1000)
    await world.append(1, "id-b")
    reader, _, _ = await world.subscribe(since="earliest")
    await until(lambda: len(reader.seqs("a")) == 1500)
    names = [message["meta"]["bucket_name"] for message in reader.events()]
    assert names.index("b") < 600


@pytest.mark.gen_test
async def test_the_fast_path_shares_its_frames() -> None:
    """Everybody at one position gets the same bytes, read and encoded once."""
    world = await stocked(0)
    given: list[bytes] = []
    readers = []
    for _ in range(200):
        reader, delivery, _ = await world.subscribe("orders")
        await until(lambda delivery=delivery: not delivery.busy)
        send = reader.send_now
        reader.send_now = lambda data, send=send: given.append(data) or send(data)  # type: ignore
        readers.append(reader)
    await world.append(2)
    await until(lambda: all(reader.seqs() == [1, 2] for reader in readers))
    assert len(given) == 200
    assert len({id(data) for data in given}) < 100


@pytest.mark.gen_test
async def test_the_fast_path_gives_the_loop_back() -> None:
    """A pass over many subscribers is done in slices, and what comes meanwhile is not lost."""
    world = await stocked(0)
    readers = []
    for _ in range(300):
        reader, _, _ = await world.subscribe("orders")
        send = reader.send_now

        def slow(data: bytes, send: Any = send) -> bool:
            until = time.perf_counter() + 50e-6
            while time.perf_counter() < until:
                pass
            return bool(send(data))

        reader.send_now = slow  # type: ignore[method-assign]
        readers.append(reader)
    await until(lambda: not any(delivery.busy for delivery in world.deliveries._live))
    await world.append(1)
    turns = 0
    while not readers[-1].seqs():
        await asyncio.sleep(0)
        turns += 1
        if turns == 2:
            await world.append(1)
    assert turns > 3
    await until(lambda: all(reader.seqs() == [1, 2] for reader in readers))


@pytest.mark.gen_test
async def test_a_crowd_that_leaves_amid_a_pass_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two slices of it all are gone who were in the bucket: the next bucket has its turn at once."""
    monkeypatch.setattr(dispatch, "SLICE", 0.0)
    world = await stocked(0)
    await world.bucket("others")
    crowd = [await world.subscribe("orders") for _ in range(40)]
    other, _, _ = await world.subscribe("others")
    await until(lambda: not any(delivery.busy for delivery in world.deliveries._live))

    def leave() -> None:
        for _, delivery, _ in crowd:
            world.deliveries.end(delivery)

    first = crowd[0][0]
    send = first.send_now

    def last(data: bytes) -> bool:
        asyncio.get_running_loop().call_soon(leave)
        return send(data)

    first.send_now = last  # type: ignore[method-assign]
    with capture_logs() as logs:
        await world.append(1)
        await world.append(1, "id-others")
        await until(lambda: other.seqs("others") == [1], turns=200)
    assert sum(len(reader.seqs()) for reader, _, _ in crowd) < len(crowd)
    assert logs == []


@pytest.mark.gen_test
async def test_a_subscription_that_ends_amid_a_pass_gets_nothing_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that replaces it does, and so the client gets the event once."""
    monkeypatch.setattr(dispatch, "SLICE", -1.0)
    monkeypatch.setattr(dispatch, "_CLOCK_EVERY", 1)
    world = await stocked(0)
    others = [(await world.subscribe("orders"))[0] for _ in range(50)]
    reader, first, _ = await world.subscribe()
    await quiet()
    gate = judged_later(world)
    await world.bucket("new")
    await quiet()
    await world.append(1)
    subscribing = asyncio.ensure_future(world.subscribe("orders", reader=reader, replaces=first))
    await until(lambda: any(other.seqs() for other in others))
    gate.set()
    gate = judged_later(world)
    await until(lambda: all(other.seqs() for other in others))
    await quiet()
    gate.set()
    await subscribing
    await quiet()
    assert reader.seqs() == [1]


@pytest.mark.gen_test
async def test_a_slow_reader_holds_nobody_up() -> None:
    """One that reads nothing keeps one write waiting; another one goes on at the head."""
    world = await stocked(0)
    stuck = Reader()
    await world.subscribe("orders", reader=stuck)
    quick, _, _ = await world.subscribe("orders")
    await quiet()
    stuck.paused = True
    for _ in range(40):
        await world.append(10, body=b"x" * 5000)
        await quiet(3)
    await until(lambda: len(quick.seqs()) == 400)
    assert stuck.waiting <= CHUNK
    assert world.deliveries.budget.outstanding == stuck.waiting
    stuck.resume()
    await until(lambda: stuck.seqs() == list(range(1, 401)))
    await until(lambda: world.deliveries.budget.outstanding == 0)


def test_much_in_flight_makes_smaller_chunks() -> None:
    """Nobody waits for anybody: the chunks shrink to their least, and grow again."""
    budget = WriteBudget(1 << 20)
    assert budget.chunk() == CHUNK
    budget.take(1 << 19)
    assert budget.chunk() == CHUNK
    budget.take(1 << 18)
    assert budget.chunk() == CHUNK // 2
    budget.take(1 << 18)
    assert budget.chunk() == LEAST_CHUNK
    budget.take(1 << 20)
    assert budget.chunk() == LEAST_CHUNK
    budget.give_back(1 << 21)
    assert budget.chunk() == CHUNK


@pytest.mark.gen_test
async def test_many_stuck_readers_stay_within_the_budget() -> None:
    """Each keeps a write, and later ones are small."""
    world = World(replay_buffer=1 << 20)
    await world.bucket()
    await world.append(200, body=b"x" * 5000)
    readers = []
    for _ in range(40):
        reader = Reader(paused=True)
        readers.append(reader)
        await world.subscribe("orders", since="earliest", reader=reader)
    await until(lambda: all(reader.waiting for reader in readers))
    outstanding = world.deliveries.budget.outstanding
    assert outstanding <= (1 << 20) + 40 * LEAST_CHUNK
    assert outstanding == sum(reader.waiting for reader in readers)
    for reader in readers:
        reader.resume()
    await until(lambda: all(len(reader.seqs()) == 200 for reader in readers))


@pytest.mark.gen_test
async def test_delivery_gives_the_loop_back() -> None:
    """Also where everything comes from memory and every write is taken at once."""
    world = await stocked(0)
    await world.append(6000, body=b"x" * 1000)
    reader, _, _ = await world.subscribe("orders", since="earliest")
    turns = 0
    while len(reader.seqs()) < 6000:
        await asyncio.sleep(0)
        turns += 1
    assert turns > 5


@pytest.mark.gen_test
async def test_many_buckets_with_nothing_to_read_give_the_loop_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A subscriber looks at each of them once, and thousands take long."""
    monkeypatch.setattr(bounds, "SLICE", -1.0)
    world = World()
    for n in range(50):
        await world.bucket(f"b{n}")
    _, delivery, _ = await world.subscribe()
    turns = 0
    while delivery.busy:
        await asyncio.sleep(0)
        turns += 1
    assert turns >= 50


@pytest.mark.gen_test
async def test_who_waits_for_its_filter_does_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also amid a page: it sleeps, and does not look again and again whether it may go on."""
    monkeypatch.setattr(filter_time, "rest", lambda seconds: 3600.0)
    monkeypatch.setattr(selection, "SLICE", -1.0)
    world = await stocked(3)
    reader, _, _ = await world.subscribe("orders", since="earliest", filter={"not": NEVER})
    await until(lambda: reader.seqs() == [1])
    await quiet()
    looks: list[str] = []
    monkeypatch.setattr(FilterTime, "wait", lambda self, token: looks.append(token) or 3600.0)
    await quiet()
    assert looks == []


@pytest.mark.gen_test
@pytest.mark.parametrize("consumer", [None, "worker"])
async def test_filters_that_take_long_share_the_time_of_their_token(
    monkeypatch: pytest.MonkeyPatch, consumer: str | None
) -> None:
    """Ten subscribers of a token get no more of the time than one; those of another token, and those without a filter,
    do not wait for them."""
    monkeypatch.setattr(filter_time, "rest", lambda seconds: 3600.0)
    world = await stocked(0)
    readers: dict[str, list[Reader]] = {"one": [], "two": []}
    for key, those in readers.items():
        for number in range(10):
            named = {} if consumer is None else {"consumer": f"{key}-{number}", "ack": "explicit"}
            token = replace(world.token, key=key)
            reader, _, _ = await world.subscribe("orders", token=token, filter={"not": NEVER}, **named)
            those.append(reader)
    plain, _, _ = await world.subscribe("orders")
    await world.append(3)
    await until(lambda: plain.seqs() == [1, 2, 3])
    await until(lambda: all(any(reader.seqs() for reader in those) for those in readers.values()))
    await quiet()
    assert [sum(bool(reader.seqs()) for reader in those) for those in readers.values()] == [1, 1]


@pytest.mark.gen_test
@pytest.mark.parametrize("consumer", [None, "worker"])
async def test_a_quick_filter_does_not_wait_for_a_slow_one_of_its_token(
    monkeypatch: pytest.MonkeyPatch, consumer: str | None
) -> None:
    """Nobody is slower because another client of the same token has a filter that takes long."""
    applied: list[Rules | None] = [None]
    passes = FrameCache.passes

    def noted(self: FrameCache, event: Event, filter: Rules) -> bool:
        applied.append(filter)
        return passes(self, event, filter)

    monkeypatch.setattr(FrameCache, "passes", noted)
    monkeypatch.setattr(filter_time, "rest", lambda seconds: 3600.0 if applied[-1] is slow_one else 0.0)
    slow_one = None
    world = await stocked(0)
    names = [{} if consumer is None else {"consumer": name, "ack": "explicit"} for name in ("quick", "slow")]
    quick, _, _ = await world.subscribe("orders", filter={"not": NEVER}, **names[0])
    await world.append()
    await until(lambda: quick.seqs() == [1])
    slow, delivery, _ = await world.subscribe("orders", since="latest", filter={"not": NEVER}, **names[1])
    slow_one = delivery._selection._rules
    await world.append()
    await until(lambda: slow.seqs() == [2])
    await world.append(2)
    await until(lambda: quick.seqs() == [1, 2, 3, 4])
    await quiet()
    assert slow.seqs() == [2]


@pytest.mark.gen_test
@pytest.mark.parametrize("consumer", [None, "worker"])
async def test_a_filter_that_takes_long_has_a_tenth_of_the_time(
    monkeypatch: pytest.MonkeyPatch, consumer: str | None
) -> None:
    """Whoever asked for it waits for nine times as long as it took before it looks at the next event."""
    monkeypatch.setattr(rules, "_QUICK", 0.0)
    took: list[float] = []
    passes = FrameCache.passes

    def timed(self: FrameCache, event: Event, filter: Rules) -> bool:
        began = time.perf_counter()
        passed = passes(self, event, filter)
        took.append(time.perf_counter() - began)
        return passed

    monkeypatch.setattr(FrameCache, "passes", timed)
    world = await stocked(0)
    await world.append(3, body=HOSTILE_BODY)
    began = time.perf_counter()
    named = {} if consumer is None else {"consumer": consumer}
    reader, _, _ = await world.subscribe("orders", since="earliest", filter={"not": HOSTILE}, **named)
    while len(reader.seqs()) < 3:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    passed = time.perf_counter() - began
    assert passed > 9 * sum(took[:2])
