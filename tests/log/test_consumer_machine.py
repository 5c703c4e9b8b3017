"""A consumer over the real stores, side by side: whatever happens, no event is lost, and both tell the same."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from relay_tornado.consumer_changes import RETENTION
from relay_tornado.consumer_progress import Taken
from relay_tornado.log.consumers import Consumers, Key, Stored, Terms
from relay_tornado.log.ledgers import Ledger, Ledgers
from relay_tornado.log.sqlite_consumers import SqliteConsumers
from relay_tornado.model import Retention
from tests.log.memory_consumers import MemoryConsumers
from tests.log.worlds import MemoryWorld, SqliteWorld, event, make

KEY = Key("b", "client", "worker")


class Side:
    """One engine with its store and the consumer in use."""

    def __init__(self, world: MemoryWorld | SqliteWorld, machine: Machine) -> None:
        self.world = world
        self.machine = machine
        self.memory = MemoryConsumers(world.log, lambda: machine.now) if isinstance(world, MemoryWorld) else None
        self.ledger: Ledger

    async def open(self) -> None:
        self.store: Consumers
        if isinstance(self.world, SqliteWorld):
            # No power fails here, and there are some thousand commits.
            await self.world.database._writer._connection.run(lambda raw: raw.execute("PRAGMA synchronous = OFF"))
            self.store = SqliteConsumers(self.world.database, lambda: self.machine.now)
        else:
            assert self.memory is not None
            self.store = self.memory
        self.ledgers = Ledgers(self.store, self.world.log, lambda: self.machine.now)
        self.ledger = await self.ledgers.open(KEY, 0, Terms(max_deliver=3))

    async def restart(self) -> None:
        self.ledger.save()
        await self.store.close()
        await self.world.reopen()
        await self.open()

    async def append(self, count: int) -> None:
        await asyncio.gather(*(self.world.log.append("b", event()) for _ in range(count)))

    async def take(self, limit: int, begin: bool = False) -> list[Taken]:
        head = (await self.world.log.bounds("b")).head
        taken = self.ledger.progress.take(head, limit, self.machine.now)
        if begin:
            for one in taken:
                self.ledger.progress.begin(one)
            self.ledger.save()
        return taken

    async def change(self, name: str, *arguments: Any) -> Any:
        result = getattr(self.ledger.progress, name)(*arguments)
        self.ledger.save()
        return result

    async def trim(self, count: int) -> None:
        await self.world.log.trim("b", Retention(None, count, None), None)
        self.ledgers.trimmed("b", (await self.world.log.bounds("b")).first)

    async def stored(self) -> tuple[Stored, list[tuple[int, int, str]], int]:
        self.ledger.save()
        await self.store.saved()
        stored = await self.store.get(KEY)
        assert stored is not None
        letters = await self.store.dead("b", KEY, 0, 10_000)
        floor = await self.store.floor("b")
        assert floor is not None
        return (
            stored._replace(done=tuple(stored.done), parked=dict(stored.parked), created_at=0.0, updated_at=0.0),
            [(each.seq, each.attempts, each.reason) for each in letters],
            floor,
        )


class Machine(RuleBasedStateMachine):
    """`acked`, `dead` and `gone` (left before it was done) are what each event may become; the rest is to come. `late`
    ones were given up while they were out."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.directory = tempfile.TemporaryDirectory()
        self.now = 100.0
        self.head, self.first = 0, 1
        self.out: list[Taken] = []
        self.begun: set[Taken] = set()
        self.acked: set[int] = set()
        self.dead: set[int] = set()
        self.gone: set[int] = set()
        self.late: set[int] = set()
        self.attempts: dict[int, int] = {}

    def run(self, *awaitables: Awaitable[Any]) -> list[Any]:
        async def all_() -> list[Any]:
            return [await asyncio.wait_for(each, 60) for each in awaitables]

        return self.loop.run_until_complete(all_())

    def both(self, name: str, *arguments: Any) -> Any:
        one, two = self.run(*(getattr(side, name)(*arguments) for side in self.sides))
        assert one == two
        return one

    def progresses(self, name: str, *arguments: Any) -> Any:
        return self.both("change", name, *arguments)

    @initialize()
    def begin(self) -> None:
        world = self.run(SqliteWorld.open(Path(self.directory.name)))[0]
        self.sides = (Side(world, self), Side(MemoryWorld(), self))
        for side in self.sides:
            self.run(make(side.world.log), side.open())

    @rule(count=st.integers(1, 6))
    def append(self, count: int) -> None:
        self.both("append", count)
        self.head += count

    @rule(limit=st.integers(1, 6), begin=st.booleans())
    def read(self, limit: int, begin: bool) -> None:
        if self.first > self.head:
            self.append(limit)
        taken = self.both("take", limit, begin)
        for one in taken:
            assert self.first <= one.seq <= self.head
            assert one.seq not in self.acked | self.dead | self.gone, "it was done with"
            assert one.attempt == self.attempts.get(one.seq, 0) + 1
        self.out += taken
        self.begun |= set(taken) if begin else set()

    def pending(self) -> set[int]:
        return set(range(self.first, self.head + 1)) - self.acked - self.dead

    def some(self, data: st.DataObject) -> Taken:
        return self.out.pop(data.draw(st.integers(0, len(self.out) - 1)))

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def ack(self, data: st.DataObject) -> None:
        one = self.some(data)
        assert self.progresses("done", one)
        self.acked.add(one.seq)
        self.gone.discard(one.seq)
        self.dead.discard(one.seq)

    @precondition(lambda self: self.out)
    @rule(data=st.data(), delay=st.integers(0, 5), last=st.booleans())
    def nak(self, data: st.DataObject, delay: int, last: bool) -> None:
        one = self.some(data)
        if last or one.attempt == 3:
            if self.progresses("bury", one, self.now, "max_deliver"):
                self.dead.add(one.seq)
        elif self.progresses("fail", one, self.now + delay, self.now):
            self.attempts[one.seq] = one.attempt
        else:
            assert one.seq in self.gone | self.late

    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        """What is tried, or comes next, or anything else, which changes nothing."""
        seq = data.draw(st.integers(self.first, self.head + 1))
        if self.progresses("give_up", seq, self.head, self.now) is None:
            waiting = self.pending() - {one.seq for one in self.out}
            assert seq in self.acked | self.dead or seq > min(waiting, default=self.head)
            return
        self.dead.add(seq)
        if any(one.seq == seq for one in self.out):
            self.late.add(seq)
            self.begun = {one for one in self.begun if one.seq != seq}

    @rule(seconds=st.integers(1, 5))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds

    @rule(count=st.integers(0, 8))
    def trim(self, count: int) -> None:
        self.both("trim", max(count, 1))
        self.first = max(self.first, self.head - max(count, 1) + 1)
        self.gone |= set(range(1, self.first)) - self.acked - self.dead
        self.dead = {seq for seq in self.dead if seq >= self.first}

    @precondition(lambda self: self.dead)
    @rule(data=st.data())
    def resend(self, data: st.DataObject) -> None:
        seq = data.draw(st.sampled_from(sorted(self.dead)))
        assert self.progresses("schedule", {seq: self.now}, self.now) == [seq]
        self.dead.discard(seq)
        self.attempts[seq] = 0

    @rule()
    def restart(self) -> None:
        """What was being tried counts as tried."""
        self.both("restart")
        for one in self.begun & set(self.out):
            if one.seq in self.gone:
                continue
            if one.attempt == 3:
                self.dead.add(one.seq)
            else:
                self.attempts[one.seq] = one.attempt
        self.out.clear()
        self.begun.clear()

    @invariant()
    def both_tell_the_same(self) -> None:
        stored, letters, floor = self.both("stored")
        assert {seq for seq, _, reason in letters if reason != RETENTION} == self.dead
        assert {seq for seq, _, reason in letters if reason == RETENTION} <= self.gone
        pending = self.pending()
        assert self.sides[0].ledger.progress.pending(self.head) == len(pending)
        assert floor == min(pending & ({stored.floor + 1} | set(stored.parked)), default=stored.floor + 1)

    def teardown(self) -> None:
        try:
            self.drain()
        finally:
            for side in self.sides:
                self.run(side.store.close(), side.world.close())
            self.loop.close()
            self.directory.cleanup()

    def drain(self) -> None:
        """What is neither acked, dead nor gone comes, each once."""
        self.restart()
        self.now += 100
        came = []
        while taken := self.both("take", 4):
            for one in taken:
                came.append(one.seq)
                assert self.progresses("done", one)
        assert sorted(came) == sorted(set(range(self.first, self.head + 1)) - self.acked - self.dead)
        assert self.both("stored")[0].floor == self.head


TestMachine = Machine.TestCase
TestMachine.settings = settings(
    max_examples=20, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
