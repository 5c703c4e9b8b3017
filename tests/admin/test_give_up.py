"""Giving one event up: it becomes a dead letter, for good, and the consumer goes on."""

from __future__ import annotations

import pytest

from relay_tornado.admin.consumers import ConsumerAdministration
from relay_tornado.consumer_progress import Taken
from relay_tornado.errors import Conflict, Invalid, NotFound
from relay_tornado.log.consumers import Key, Terms
from relay_tornado.log.ledgers import Ledger, Ledgers
from relay_tornado.model import Bucket, Retention
from tests.admin.world import World, event

NOW = 1_000.0
KEY_OF = {"client": "worker", "output": "1"}


class Bench:
    """A bucket with six events, a public output and a client's consumer, over either engine."""

    def __init__(self, world: World, bucket: Bucket, epoch: str) -> None:
        self.world = world
        self.bucket = bucket
        self.epoch = epoch
        self.ledgers = Ledgers(world.consumers, world.log, lambda: NOW)
        self.results = world.administration.logs.stored.results
        self.consumers = ConsumerAdministration(world.log, self.ledgers, self.results)

    @classmethod
    async def open(cls, world: World) -> Bench:
        await world.administration.create_bucket("orders")
        await world.administration.create_output(
            "orders", name="shop", internal=False, destination="https://shop.example/", paused=True
        )
        bucket = world.administration.find_bucket("orders")
        places = [await world.log.append(bucket.id, event()) for _ in range(6)]
        return cls(world, bucket, places[0].epoch)

    def id(self, seq: int) -> str:
        return f"{self.epoch}-{seq}"

    async def ledger(self, kind: str = "client", *, receipt: bool = False) -> Ledger:
        key = Key(self.bucket.id, kind, KEY_OF[kind])  # type: ignore[arg-type]
        return await self.ledgers.open(key, 0, Terms(max_deliver=0, receipt=receipt))

    def take(self, ledger: Ledger, count: int, begin: bool = True) -> list[Taken]:
        taken = ledger.progress.take(6, count, NOW)
        for one in taken:
            if begin:
                ledger.progress.begin(one)
        return taken

    async def give_up(self, seq: int, consumer: str = "worker") -> tuple[str, int, str]:
        letter = await self.consumers.give_up(self.bucket, consumer, self.id(seq))
        return letter["id"], letter["attempts"], letter["reason"]

    async def dead(self, consumer: str | None = None) -> list[tuple[int, int, str]]:
        page = await self.consumers.dead(self.bucket, consumer)
        return [(each["seq"], each["attempts"], each["reason"]) for each in page["data"]]


@pytest.mark.gen_test
async def test_an_event_that_waits_for_another_try(world: World) -> None:
    """It is dead with its tries, whoever opens the consumer, and the others are as they were; sent again, it comes."""
    bench = await Bench.open(world)
    ledger = await bench.ledger()
    one, two, three = bench.take(ledger, 3)
    ledger.progress.fail(one, NOW + 500, NOW - 50)
    ledger.progress.fail(two, NOW + 600, NOW)
    ledger.progress.done(three)
    assert await bench.give_up(1) == (bench.id(1), 1, "given_up")
    assert (await bench.consumers.show(bench.bucket, "worker"))["oldest"]["id"] == bench.id(2)
    bench.ledgers.close(ledger)
    anew = Ledgers(world.consumers, world.log, lambda: NOW)
    ledger = await anew.open(ledger.key)
    assert (ledger.progress.floor, set(ledger.progress.parked)) == (3, {2})
    assert [each.seq for each in ledger.progress.take(6, 9, NOW + 700)] == [2, 4, 5, 6]
    anew.close(ledger)
    assert await bench.dead("worker") == [(1, 1, "given_up")]
    assert await bench.consumers.resend(bench.bucket, "worker", None) == {"scheduled": 1, "left": 0, "gone": 0}
    ledger = await bench.ledger()
    assert [(each.seq, each.attempt) for each in bench.take(ledger, 1)] == [(1, 1)]
    bench.ledgers.close(ledger)


@pytest.mark.gen_test
async def test_the_next_event_also_while_nobody_uses_the_consumer(world: World) -> None:
    """One after the other; one whose turn has not come, or that is done with, is refused, and nothing is changed."""
    bench = await Bench.open(world)
    bench.ledgers.close(await bench.ledger())
    for wrong in (2, 6):
        with pytest.raises(Conflict, match="other events come before it"):
            await bench.give_up(wrong)
    assert await bench.give_up(1) == (bench.id(1), 0, "given_up")
    assert await bench.give_up(2) == (bench.id(2), 0, "given_up")
    with pytest.raises(Conflict, match="is done with"):
        await bench.give_up(1)
    assert await bench.dead("worker") == [(1, 0, "given_up"), (2, 0, "given_up")]
    ledger = await bench.ledger()
    assert [each.seq for each in bench.take(ledger, 9)] == [3, 4, 5, 6]
    bench.ledgers.close(ledger)


@pytest.mark.gen_test
@pytest.mark.parametrize("outcome", ["done", "fail", "bury", "release"])
async def test_an_event_in_flight(world: World, outcome: str) -> None:
    """It is dead at once; only if its try succeeds after all, it is done, and no dead letter."""
    bench = await Bench.open(world)
    ledger = await bench.ledger()
    one, two = bench.take(ledger, 2)
    assert await bench.give_up(1) == (bench.id(1), 1, "given_up")
    assert await bench.dead("worker") == [(1, 1, "given_up")]
    assert (ledger.progress.floor, ledger.progress.out) == (1, 1)
    arguments = {"fail": (NOW + 5, NOW), "bury": (NOW, "max_deliver")}.get(outcome, ())
    assert getattr(ledger.progress, outcome)(one, *arguments) == (outcome == "done")
    ledger.progress.done(two)
    ledger.save()
    await world.consumers.saved()
    assert await bench.dead("worker") == ([] if outcome == "done" else [(1, 1, "given_up")])
    assert (ledger.progress.floor, ledger.progress.out, ledger.progress.parked) == (2, 0, {})
    bench.ledgers.close(ledger)


@pytest.mark.gen_test
async def test_one_in_flight_that_is_sent_again_is_in_flight_as_before(world: World) -> None:
    """So it comes again if its try fails, and only then."""
    bench = await Bench.open(world)
    ledger = await bench.ledger()
    (one,) = bench.take(ledger, 1)
    await bench.give_up(1)
    assert (await bench.consumers.resend(bench.bucket, "worker", [bench.id(1)]))["scheduled"] == 1
    assert ledger.progress.take(1, 1, NOW) == []
    assert ledger.progress.fail(one, NOW, NOW)
    assert [each.seq for each in ledger.progress.take(1, 1, NOW)] == [1]
    bench.ledgers.close(ledger)


@pytest.mark.gen_test
async def test_an_output_s_event_counts_as_failed(world: World) -> None:
    """In its log and in the metric; an event that was never tried has no result, and one in flight has its own."""
    bench = await Bench.open(world)
    ledger = await bench.ledger("output")
    one, two = bench.take(ledger, 2)
    ledger.progress.fail(one, NOW + 50, NOW)
    for seq in (1, 2, 3):
        await bench.give_up(seq, "output:shop")
    latest = await bench.results.latest(bench.bucket.id, [1, 2, 3], 1)
    assert {seq: (each.result.status, each.result.retries) for seq, each in latest.items()} == {1: ("failed", 1)}
    assert bench.ledgers.counters.forward_given_up == 3
    assert await bench.dead() == [(1, 1, "given_up"), (2, 1, "given_up"), (3, 0, "given_up")]
    assert ledger.progress.is_dead(two)
    bench.ledgers.close(ledger)


@pytest.mark.gen_test
async def test_what_can_not_be_given_up(world: World) -> None:
    """Another bucket's event, one that retention removed, and whatever a consumer has that is moved by receipts."""
    bench = await Bench.open(world)
    bench.ledgers.close(await bench.ledger())
    with pytest.raises(NotFound, match="no consumer"):
        await bench.give_up(1, "nobody")
    for wrong in ("x", f"{bench.epoch}-99", "k3v9x1q7m2ab-1"):
        with pytest.raises(Invalid, match=r"^id: .* is no event"):
            await bench.consumers.give_up(bench.bucket, "worker", wrong)
    await world.log.trim(bench.bucket.id, Retention(None, 3, None), None)
    with pytest.raises(Conflict, match="is done with"):
        await bench.give_up(2)
    ledger = await bench.ledger(receipt=True)
    await bench.ledgers.agree(ledger, Terms(receipt=True))
    with pytest.raises(Conflict, match="moved by receipts"):
        await bench.give_up(4)
    bench.ledgers.close(ledger)
