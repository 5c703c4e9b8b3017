"""A walk at random over forwarding in memory: destinations that answer when the walk lets them, changes of all kinds,
and a judge who knows what may be sent at each moment, and what has to have been sent in the end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from relay_tornado.admin.consumers import ConsumerAdministration
from relay_tornado.errors import Conflict
from relay_tornado.log.consumers import Terms, output_key
from relay_tornado.log.lineage import position_id
from relay_tornado.model import Output, Retention
from tests.forwarding.walk_judge import Judge
from tests.forwarding.walk_model import Circuit, Sent, Standing, difference
from tests.forwarding.world import B, public

OUTPUTS = 3
PLACES = ("http://one.example", "http://two.example")
_DELAYS = (0.4, 1.1, 3.1, 11.0, 16.0, 50.0, 301.0, 1000.0)
_MOODS = (0.0, 12.0, 12.0, 40.0)
"""How often a destination answers well; all that goes wrong is some 16."""
_RULES = {"match": {"type": "value", "parameter": {"source": "header", "name": "X-Kind"}, "value": "a"}}


class Walk(Judge):
    """`await run(rounds, steps)`."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.steps = self.weights()
        self.mood = self.chance.choice(_MOODS)

    # steps

    def weights(self) -> dict[Callable[[], Awaitable[None]], float]:
        """How often each step comes: some never, so that the others meet more often."""
        often = {self._answer: 30, self._append: 12, self._turn: 14}
        others = {
            self._change: 12, self._seek: 2, self._replay: 3, self._resend: 2, self._give_up: 3, self._trim: 1,
            self._restart: 2, self._clock: 1,
        }  # fmt: skip
        return often | {step: weight * self.chance.choice([0, 0.5, 1, 2]) for step, weight in others.items()}

    async def step(self) -> None:
        steps = self.steps
        [step] = self.chance.choices(list(steps), list(steps.values()))
        await step()
        for _ in range(self.chance.choice([0, 1, 2, 3, 5, 30])):
            await asyncio.sleep(0)
        if self.breach is not None:
            raise self.breach
        for n, standing in self.standing.items():
            if self.output(n).disabled_reason and not standing.gone:
                raise self.fail(f"{n} is disabled: {self.output(n).disabled_reason}")

    async def _answer(self) -> None:
        ready = [each for each in self.pending if not each.answer.done()]
        self.chance.shuffle(ready)
        for asked in ready if self.chance.random() < 0.2 else ready[:1]:
            bad = ["500", "none", "404", "301", "429", "503", "500+", "410"]
            weights = [6, 3, 1, 1, 2, 2, 1, 0.3]
            [kind] = self.chance.choices(["200", *bad], [self.mood, *weights])
            self.answer(asked, kind)

    async def _append(self) -> None:
        if self.chance.random() < 0.05:
            self.mood = self.chance.choice(_MOODS)
        for _ in range(self.chance.choice([1, 1, 2, 5])):
            kind = self.chance.choice([b"a", b"b"])
            seq = len(self.kinds)
            self.kinds.append(kind)
            for standing in self.standing.values():
                standing.events[seq] = Sent(standing.generation)
            await self.w.append(b"%d" % seq, headers=b"X-Kind: " + kind + b"\r\n")
            self.note(f"append {seq}")

    async def _turn(self) -> None:
        await self._pass(self.chance.choice(_DELAYS))

    async def _pass(self, seconds: float) -> None:
        for _ in range(10):  # what was answered is judged by the clock of that moment
            await asyncio.sleep(0)
        self.note(f"turn {seconds}")
        await self.w.turn(seconds)
        for standing in self.standing.values():
            standing.early.clear()
            standing.strays.clear()

    async def _clock(self) -> None:
        step = self.chance.choice([-100.0, -5.0, 5.0, 100.0])
        self.note(f"clock {step}")
        self.w.back -= step
        for standing in self.standing.values():
            for sent in standing.events.values():
                # The relay looks at the clock now and then: if it was set back, they are due as much earlier.
                sent.due = min(sent.due, self.w.day())

    async def _change(self) -> None:
        n = self.chance.randint(1, OUTPUTS)
        before = self.w.bucket.output(n)
        if before is None:
            after = replace(public(f"{PLACES[0]}/{n}", n), retries=self.chance.choice([-1, 0, 1, 9]))
        else:
            options: list[dict[str, Any]] = [
                {"disabled": not before.disabled}, {"paused": not before.paused}, {"retries": 9}, {"retries": -1},
                {"strict_order": not before.strict_order}, {"rules": None if before.rules else _RULES},
                {"destination": f"{self.chance.choice(PLACES)}/{n}"}, {"internal": not before.internal},
                {"throttle": self.chance.choice([None, {"enabled": True, "mode": "concurrency", "max_concurrent": 3}])},
                {"durability": None if before.durability else {"enabled": True, "schedule": "medium"}},
                {"description": str(self.chance.random())}, {"disabled": False, "paused": False},
            ]  # fmt: skip
            after = replace(before, **self.chance.choice(options))
            if after.internal:
                after = replace(after, paused=False)
        gone = before is not None and self.chance.random() < 0.03
        await self.put(n, None if gone else after)

    async def put(self, n: int, after: Output | None) -> None:
        """As the administration does it."""
        before = self.w.bucket.output(n)
        was = before is not None and not before.internal
        will = after is not None and not after.internal
        self.note(f"change {n}: {difference(before, after)}")
        head = len(self.kinds) - 1
        if will and not was:
            await self.w.ledgers.delete(output_key(B, n))
            await self.w.consumers.create(output_key(B, n), head, Terms(), self.w.day())
            self.standing[n] = Standing(head, gone=after is not None and bool(after.disabled_reason))
        elif was and not will:
            del self.standing[n]
            self.pending = [each for each in self.pending if each.n != n]  # they are no longer watched
        self.changing = (before, after) if was and will and before != after else None
        others = tuple(each for each in self.w.bucket.outputs if each.n != n)
        await self.w.change(*others, *(() if after is None else (after,)))

    changing: tuple[Output | None, Output | None] | None = None

    def _changed(self, *_: object) -> None:
        """Called at the moment at which the relay learns of a change."""
        if self.changing is None:
            return
        (before, after), self.changing = self.changing, None
        assert before is not None
        assert after is not None
        standing = self.standing[after.n]
        standing.circuit = Circuit(made_at=self.w.now)
        standing.early |= self.taken(after.n)
        for each in self.pending:
            if each.n == after.n and each.answer.done() and each.seq in standing.events:
                standing.events[each.seq].perhaps = standing.gone = True
        if before.rules != after.rules:
            standing.loose.update(seq for seq, sent in standing.events.items() if not sent.settled or sent.perhaps)
        if before.destination != after.destination:
            for sent in standing.events.values():
                sent.due = 0.0

    def public(self) -> int | None:
        return self.chance.choice(sorted(self.standing)) if self.standing else None

    @property
    def admin(self) -> ConsumerAdministration:
        return ConsumerAdministration(self.w.log, self.w.ledgers, self.w.results)

    async def _seek(self) -> None:
        """As the administration does it, in one step."""
        n = self.public()
        ledger = None if n is None else self.w.ledgers.find(output_key(B, n))
        if n is None or ledger is None:
            return
        head = len(self.kinds) - 1
        floor = self.chance.choice([self.first - 1, head, max(head - self.chance.randrange(6), self.first - 1)])
        self.note(f"seek {n} to {floor}")
        standing = self.standing[n]
        standing.strays |= self.taken(n)
        standing.generation += 1
        standing.floor = floor
        standing.events = {seq: Sent(standing.generation) for seq in range(floor + 1, head + 1)}
        standing.loose.clear()
        ledger.progress.seek(floor)
        ledger.save()
        ledger.tell()

    def taken(self, n: int) -> set[int]:
        """What was taken for an output and is not sent yet."""
        ledger = self.w.ledgers.find(output_key(B, n))
        sent = {each.seq for each in self.pending if each.n == n and each.generation == self.standing[n].generation}
        every = range(1, len(self.kinds))
        return set() if ledger is None else {seq for seq in every if ledger.progress.has_out(seq)} - sent

    async def _replay(self) -> None:
        if (n := self.public()) is not None and len(self.kinds) > 1 and self.w.ledgers.find(output_key(B, n)):
            first = self.chance.randrange(1, len(self.kinds))
            last = min(first + self.chance.randrange(4), len(self.kinds) - 1)
            self.note(f"replay {n} {first}-{last}")
            before = {seq: self._expects(n, seq) for seq in range(first, last + 1)}
            await self.admin.replay(self.w.bucket, f"output:{n}", first=first, last=last)
            self._again(n, [seq for seq in before if seq >= self.first and not before[seq]])

    def _expects(self, n: int, seq: int) -> bool:
        ledger = self.w.ledgers.find(output_key(B, n))
        assert ledger is not None
        return ledger.progress.expects(seq)

    def _again(self, n: int, seqs: list[int]) -> None:
        standing = self.standing[n]
        for seq in seqs:
            out = [each for each in self.pending if each.n == n and each.seq == seq]
            tries = standing.events[seq].tries if out and seq in standing.events else 0
            unheard = any(each.answer.done() for each in out)
            standing.events[seq] = Sent(standing.generation, tries=tries, again=True, perhaps=unheard)
            (standing.loose.add if unheard else standing.loose.discard)(seq)

    async def _resend(self) -> None:
        if (n := self.public()) is not None and self.w.ledgers.find(output_key(B, n)):
            dead = [letter.seq for letter in await self.w.dead(n)]
            before = {seq: self._expects(n, seq) for seq in dead}
            self.note(f"resend {n} {dead}")
            await self.admin.resend(self.w.bucket, f"output:{n}", None)
            self._again(n, [seq for seq in dead if seq >= self.first and not before[seq]])

    async def _give_up(self) -> None:
        n = self.public()
        unsettled = [] if n is None else [s for s, sent in self.standing[n].events.items() if not sent.settled]
        if n is None or not unsettled:
            return
        seq = self.chance.choice([min(unsettled), self.chance.choice(unsettled)])
        if seq < self.first:
            return
        bounds = await self.w.log.bounds(B)
        try:
            await self.admin.give_up(self.w.bucket, f"output:{n}", position_id(bounds, seq))
        except Conflict:
            return
        self.note(f"given up {n} {seq}")
        self.standing[n].events[seq].dead = True

    async def _trim(self) -> None:
        most = self.chance.randrange(12)
        first = max(self.first, len(self.kinds) - most)
        self.note(f"trim below {first}")
        self.first = first
        await self.w.log.trim(B, Retention(max_events=most), None)
        self.w.ledgers.trimmed(B, first)
        for standing in self.standing.values():
            for seq, sent in standing.events.items():
                if seq < first and not sent.done:
                    sent.dead = True

    async def _restart(self) -> None:
        killed = self.chance.random() < 0.5
        self.note("kill" if killed else "stop")
        answered = {(each.n, each.seq) for each in self.pending if each.answer.done()}
        out = {(each.n, each.seq, each.generation) for each in self.pending}
        if killed:
            for n in self.standing:
                ledger = self.w.ledgers.find(output_key(B, n))
                if ledger is not None:
                    ledger.gone = True
        for n, standing in self.standing.items():
            standing.circuit = Circuit()
            standing.early, standing.strays = set(), set()
            for seq, sent in standing.events.items():
                if (n, seq) in answered:
                    sent.perhaps = True
                elif (n, seq, standing.generation) in out and killed and not sent.settled:
                    sent.tries += 1
                    sent.due = 0.0
        await self.w.restart()

    # the end

    async def quiet(self) -> None:
        """Every destination is well: what had to be sent has been, or is dead."""
        self.note("quiet")
        for n in sorted(self.standing):
            await self.put(n, replace(self.output(n), disabled=False, paused=False, description=str(self.w.now)))
        for _ in range(3000):
            for _ in range(10):
                await asyncio.sleep(0)
            if self.breach is not None:
                raise self.breach
            ready = [each for each in self.pending if not each.answer.done()]
            for each in ready:
                self.answer(each, "200")
            if not ready:
                if not any([await self._left(n) for n in self.standing]):
                    break
                for n in sorted(self.standing):
                    if self.output(n).disabled:
                        await self.put(n, replace(self.output(n), disabled=False))
                await self._pass(self.chance.choice([30.0, 1000.0, 4000.0]))
        else:
            raise self.fail(f"nothing goes on: { {n: await self._left(n) for n in self.standing} }")
        for _ in range(50):
            await asyncio.sleep(0)
        for n, standing in self.standing.items():
            letters = {letter.seq: letter for letter in await self.w.dead(n)}
            for seq, sent in standing.events.items():
                if seq < self.first or seq in standing.loose or not self.fits(n, seq):
                    continue
                if not sent.done and seq not in letters:
                    raise self.fail(f"{n} has lost {seq}: {sent}")
                if sent.done and seq in letters and not sent.perhaps and standing.generation == 0:
                    raise self.fail(f"{n} has {letters[seq]} of what was sent: {sent}")
                if seq in letters and not sent.perhaps and not sent.again and standing.generation == 0:
                    letter = letters[seq]
                    if not sent.dead or (letter.reason.startswith("retries") and letter.attempts != sent.tries):
                        raise self.fail(f"{n} gave {seq} up: {letter}, {sent}")
                results = [each.status for each in await self.w.stored(seq, n)]
                if sent.done and not sent.perhaps and results[-1] != "sent":
                    raise self.fail(f"{n} sent {seq}, and its results are {results}")

    async def _left(self, n: int) -> int:
        ledger = self.w.ledgers.find(output_key(B, n))
        return 1 if ledger is None else ledger.progress.pending(len(self.kinds) - 1) + ledger.progress.out

    async def run(self, rounds: int, steps: int) -> None:
        self.w.registry.watch(self._changed)
        await self.w.open()
        try:
            for n in (1, 2):
                await self.put(n, public(f"{PLACES[0]}/{n}", n, retries=self.chance.choice([0, 9])))
            for _ in range(rounds):
                for _ in range(steps):
                    await self.step()
                await self.quiet()
        finally:
            await self.w.forwarding.stop()
            self.w.responses.close()
