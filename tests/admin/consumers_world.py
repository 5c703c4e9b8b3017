"""Consumers of one bucket, in memory, with a clock that a test sets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from tornado.ioloop import IOLoop

from relay_tornado.admin.consumers import ConsumerAdministration
from relay_tornado.consumer_progress import Taken
from relay_tornado.ids import new_epoch
from relay_tornado.log.consumers import Key, Terms
from relay_tornado.log.ledgers import Ledger, Ledgers
from relay_tornado.model import Bucket, NewEvent, Output
from tests.log.memory import MemoryEventLog
from tests.log.memory_consumers import MemoryConsumers
from tests.log.memory_results import MemoryResults

BUCKET = Bucket(
    "b-1", "orders", 0, 0, outputs=(Output("o-0", 2, "inside", 0, 0), Output("o-1", 3, "shop", 0, 0, internal=False))
)


@dataclass
class World:
    """A log with a bucket, consumers, and a clock that is set by hand."""

    now: float = 1_000.0
    epoch: str = field(default_factory=new_epoch)

    def __post_init__(self) -> None:
        self.log = MemoryEventLog(time=lambda: self.now)
        self.store = MemoryConsumers(self.log, lambda: self.now)
        self.results = MemoryResults(self.log)
        self.ledgers = Ledgers(self.store, self.log, lambda: self.now)
        self.consumers = ConsumerAdministration(self.log, self.ledgers, self.results)

    async def events(self, count: int, apart: float = 1.0) -> None:
        for _ in range(count):
            self.now += apart
            await self.log.append(BUCKET.id, NewEvent("in", "POST", b"", b"", b"", b"x", ""))

    async def open(self, name: str = "w", floor: int = 0, kind: Any = "client", **terms: Any) -> Ledger:
        return await self.ledgers.open(Key(BUCKET.id, kind, name), floor, Terms(**terms))

    def id(self, seq: int) -> str:
        return f"{self.epoch}-{seq}"

    def done(self, ledger: Ledger, *seqs: int) -> None:
        """Takes what there is, and is done with these."""
        self._report(ledger, seqs, ledger.progress.done)

    def bury(self, ledger: Ledger, *seqs: int) -> None:
        """Takes what there is, and gives these up."""
        self._report(ledger, seqs, lambda taken: ledger.progress.bury(taken, self.now, "max_deliver"))

    def _report(self, ledger: Ledger, seqs: Sequence[int], outcome: Callable[[Taken], bool]) -> None:
        taken = {each.seq: each for each in ledger.progress.take(1_000_000, 1_000_000, self.now)}
        for seq in seqs:
            assert outcome(taken.pop(seq))
        for each in taken.values():
            ledger.progress.release(each)
        ledger.save()


@pytest.fixture
def world(io_loop: IOLoop) -> Iterator[World]:
    made = World()
    io_loop.run_sync(lambda: made.log.create(BUCKET.id, made.epoch))
    yield made
    io_loop.run_sync(made.log.close)
