"""The judge of a walk over forwarding: it knows what may be sent at each moment, and what each answer changes."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from relay_tornado.forwarding.schedule import schedule_of
from relay_tornado.forwarding.throttle import Throttle
from relay_tornado.model import Output
from relay_tornado.outgoing.transport import Answer, Unanswered
from relay_tornado.wire.destination import Destination
from tests.forwarding.walk_model import Asked, Circuit, Sent, Standing, asks_to_wait
from tests.forwarding.world import World


class Wire:
    """Takes the place of `Transport`."""

    judge: Judge

    def __init__(self, *_: Any) -> None:
        self._judge = Wire.judge

    async def send(self, head: bytes, body: bytes, destination: Destination, **_: Any) -> Answer:
        asked = self._judge.asked(int(destination.path[1:]), int(body), f"http://{destination.host}")
        self._judge.pending.append(asked)
        try:
            return await asked.answer
        finally:
            if asked in self._judge.pending:
                self._judge.pending.remove(asked)

    async def close(self) -> None:
        """Nothing is open."""


class Judge:
    """Fails where the relay does what it must not."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.pending: list[Asked] = []
        self.told: list[str] = []
        self.standing: dict[int, Standing] = {}
        self.kinds: list[bytes] = [b""]
        self.first = 1
        Wire.judge = self
        self.w = World()

    # what is sent

    def note(self, what: str) -> None:
        self.told.append(f"{self.w.now - 1_000_000:.1f} {what}")

    def fail(self, what: str) -> AssertionError:
        return AssertionError("\n".join([*self.told[-80:], what]))

    def output(self, n: int) -> Output:
        found = self.w.bucket.output(n)
        assert found is not None
        return found

    def fits(self, n: int, seq: int) -> bool:
        return self.output(n).rules is None or self.kinds[seq] == b"a"

    def at_once(self, n: int) -> int:
        output = self.output(n)
        return 1 if output.strict_order else Throttle(output.throttle).at_once

    def holds(self, n: int, sent: Sent) -> bool:
        output = self.output(n)
        if sent.settled or sent.perhaps or not sent.tries:
            return False
        return output.strict_order or (self.at_once(n) == 1 and sent.tries < schedule_of(output).quick)

    def asked(self, n: int, seq: int, place: str) -> Asked:
        """A request begins: is it one that may?"""
        self.note(f"-> {n}: {seq}")
        output, standing, now = self.w.bucket.output(n), self.standing.get(n), self.w.now
        if output is None or standing is None or output.internal or output.disabled or output.paused:
            raise self.broken(f"{n} sends {seq}, and is {output}")
        if place != output.destination.rpartition("/")[0]:
            raise self.broken(f"{n} sends {seq} to {place}")
        if not self.fits(n, seq):
            raise self.broken(f"{n} sends {seq} against its rules")
        if seq in standing.strays:
            standing.strays.discard(seq)
            return self._begun(n, seq, place, standing, -1)
        sent = standing.events.get(seq)
        if sent is None or (seq <= standing.floor and not sent.again):
            raise self.broken(f"{n} sends {seq}, which is not to be sent")
        if sent.settled and not sent.perhaps:
            raise self.broken(f"{n} sends {seq}, which is {sent}")
        mine = [each for each in self.pending if each.n == n]
        early = seq in standing.early
        standing.early.discard(seq)
        if len(mine) >= self.at_once(n) and not early:
            raise self.broken(f"{n} sends {seq} beside {[each.seq for each in mine]}")
        if any(each.seq == seq and each.generation == standing.generation for each in mine):
            raise self.broken(f"{n} sends {seq} twice at once")
        circuit = standing.circuit
        if now < circuit.held - 0.01 and now != circuit.failed_at:
            raise self.broken(f"{n} sends {seq} before {circuit.held - 1_000_000:.1f}, as it was asked to wait")
        if circuit.opened and (circuit.probing or now < circuit.until - 0.01) and now != circuit.failed_at:
            raise self.broken(f"{n} sends {seq} though its circuit is open: {circuit}")
        if sent.tries and not sent.perhaps and self.w.day() < sent.due - 0.01:
            raise self.broken(f"{n} sends {seq} at {self.w.day()}, before it is due: {sent}")
        if not early:
            self._check_order(n, seq, sent, standing)
        return self._begun(n, seq, place, standing, standing.generation)

    def _begun(self, n: int, seq: int, place: str, standing: Standing, generation: int) -> Asked:
        # What was taken before a change is about the circuit of that time.
        circuit = Circuit() if standing.circuit.made_at == self.w.now else standing.circuit
        probe = circuit.opened and self.w.now >= circuit.until - 0.01
        circuit.probing = circuit.probing or probe
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        return Asked(n, seq, place, answer, circuit, generation, probe)

    def _check_order(self, n: int, seq: int, sent: Sent, standing: Standing) -> None:
        if sent.perhaps:
            return
        held = [other for other, each in standing.events.items() if other != seq and self.holds(n, each)]
        held = [other for other in held if other not in standing.loose and other >= self.first and self.fits(n, other)]
        if self.output(n).strict_order and any(other < seq for other in held):
            raise self.broken(f"{n} sends {seq} before {held}, in strict order")
        if sent.tries or sent.again:
            return
        if held:
            raise self.broken(f"{n} sends {seq} while {held} are held")
        for other in range(max(standing.floor + 1, self.first), seq):
            before = standing.events.get(other)
            if before is None or other in standing.loose or not self.fits(n, other) or before.again:
                continue
            out = any(each.n == n and each.seq == other for each in self.pending)
            if not (before.settled or before.tries or before.perhaps or out):
                raise self.broken(f"{n} sends {seq} before {other}")

    def broken(self, what: str) -> BaseException:
        """The relay catches errors of the transport, so this one is kept."""
        self.breach = self.fail(what)
        return self.breach

    breach: AssertionError | None = None

    # what is answered

    def answer(self, asked: Asked, kind: str) -> None:
        self.note(f"<- {asked.n}: {asked.seq} {kind}")
        output, standing = self.w.bucket.output(asked.n), self.standing.get(asked.n)
        wait = 0.0
        headers: list[tuple[bytes, bytes]] = []
        if kind in ("429", "503", "500+"):
            wait, headers = asks_to_wait(self.chance)
        if kind == "none":
            asked.answer.set_exception(Unanswered("timeout", "it did not answer"))
        else:
            asked.answer.set_result(Answer(int(kind[:3]), headers, b"", ""))
        if standing is None:
            return
        good = kind.startswith("2")
        circuit, now = asked.circuit, self.w.now
        moved = output is None or asked.place != output.destination.rpartition("/")[0]
        if good:
            circuit.succeeded()
        else:
            circuit.failed(now, asked.probe, wait if kind in ("429", "503") else 0.0)
        standing.gone = standing.gone or (kind == "410" and not moved)
        sent = standing.events.get(asked.seq)
        if sent is None or asked.generation != standing.generation:
            return
        if sent.dead and not good:
            return  # it was given up, or retention removed it
        if good:
            sent.done, sent.dead = True, False
            return
        assert output is not None
        sent.tries += 1
        if kind == "410" and not moved:
            sent.dead = True
            return
        if moved:
            sent.due = 0.0
            return
        schedule = schedule_of(output)
        index = sent.tries - schedule.quick
        if index >= len(schedule.delays) and not schedule.again:
            sent.dead = True
            return
        delay = (1.0, 3.0)[sent.tries - 1] if index < 0 else schedule.delays[min(index, len(schedule.delays) - 1)]
        sent.due = self.w.day() + max(delay, wait)
