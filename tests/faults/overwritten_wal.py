"""relay.db-wal is emptied, cut, deleted or replaced by an older copy, beside a relay under load and after a kill -9,
also while a reader holds checkpoints back: what was acknowledged is there, or its loss is told, and no id names two
events."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from relay_tornado.storage.connection import uri
from relay_tornado.storage.database import NAME
from relay_tornado.storage.partial_copy import DAMAGED
from relay_tornado.storage.wal_index import FRAME_HEAD, WalIndex
from tests.acceptance.clients import Subscriber, Webhook, read_log
from tests.acceptance.relay import Relay, wait_for
from tests.faults.disk import MIB
from tests.faults.load import Load
from tests.faults.outcome import Outcome
from tests.waiting import until

RUNNING, KILLED, HELD = "beside a relay", "between two runs", "between two runs, after held back checkpoints"
KINDS = (
    *((kind, RUNNING) for kind in ("emptied", "cut", "an older copy")),
    *((kind, KILLED) for kind in ("emptied", "cut", "an older copy")),
    *((kind, HELD) for kind in ("emptied", "cut", "deleted")),
)
"""What is done to the WAL, and when."""
SENDERS = 20
SIZE = 5_000
MOST = 8 * MIB
"""Of new events that are sent before the relay is stopped. Not each is noticed by then: nothing is lost with a WAL that
was all copied, or with the end of the file, which is from an earlier use of it."""
HELD_BACK = 2_500
"""Events that come while a reader holds checkpoints back: enough for some checkpoints, which can't copy all."""
PAGE = 4096
NOTICED = "relay.db-wal was written over"
CONDEMNED = "may have pages of both files"


def run(folder: Path, times: int) -> Outcome:
    """So many times, with each kind in turn. Each has a directory of its own."""
    outcome = Outcome()
    found: Counter[str] = Counter()
    for number in range(times):
        relay = Relay(folder / f"relay-{number}")
        with relay:
            kind, when = KINDS[number % len(KINDS)]
            _Victim(relay, f"{number}, {kind} {when}", outcome, found).go_through(kind, when)
        shutil.rmtree(relay.data)
    outcome.figures = {"times": times, **{word: found[word] for word in _FIGURES}}
    return outcome


_FIGURES = (
    "noticed while it ran",
    "copied in part",
    "starts refused",
    "may have pages of both",
    "put aside",
    "acknowledged",
    "lost",
    "told",
    "lost untold",
    "ids used twice",
    "cursors misread",
    "damaged",
)


class _Victim:
    """One relay. `found` counts over all of them."""

    def __init__(self, relay: Relay, name: str, outcome: Outcome, found: Counter[str]) -> None:
        self._relay = relay
        self._name = name
        self._outcome = outcome
        self._found = found
        self._path = relay.create_bucket("orders")
        self._token = relay.create_token()
        self._wal = relay.data / f"{NAME}-wal"
        self._old = relay.data.with_name("old-wal")
        self._right: Path | None = None
        """A copy of the WAL as the killed relay left it."""
        self._condemned = False
        """Whether relay.db may have pages of the wrong WAL, so that only a backup helps."""
        self._seen: list[Webhook] = []
        """What subscribers were given, also of what is lost."""

    def go_through(self, kind: str, when: str) -> None:
        loads = [asyncio.run(self._fill()), self._load("under way")]
        if when == RUNNING:
            asyncio.run(self._harm_beside(kind, loads[1]))
            self._expect(self._relay.wait() == 0, "the relay did not end with 0")
        else:
            asyncio.run(self._kill(loads[1], held=when == HELD))
            self._right = shutil.copyfile(self._wal, self._old.with_name("right-wal"))
            self._harm(kind)
        self._start()
        if self._condemned:
            return
        told = self._relay.ready()[1].get("events_missing", 0)
        loads.append(self._load("after"))
        asyncio.run(self._look_at_cursor(self._seen[-1], loads[2]))
        log = asyncio.run(read_log(self._relay, self._token, "orders"))
        self._judge(log, loads, told)
        self._check()
        self._expect(self._relay.stop() == 0, "the relay did not end with 0")
        self._found["put aside"] += len(list(self._relay.data.glob("*.older-*")))

    # the fault

    def _load(self, name: str) -> Load:
        return Load(self._relay, self._path, f"{self._name}, {name}", SENDERS, SIZE)

    async def _fill(self) -> Load:
        """Until another WAL than the one that is kept has begun."""
        load = self._load("before")
        sending = asyncio.ensure_future(load.run())
        await load.until(random.randint(20, 200))
        shutil.copyfile(self._wal, self._old)
        begun = self._head(self._old)
        await until(lambda: self._head(self._wal) != begun, "another WAL")
        sending.cancel()
        await asyncio.wait([sending])
        return load

    def _head(self, wal: Path) -> bytes:
        with wal.open("rb") as file:
            return file.read(32)

    async def _harm_beside(self, kind: str, load: Load) -> None:
        async with Subscriber(self._relay, self._token, "orders", "earliest") as subscriber:
            sending = asyncio.ensure_future(load.run())
            following = asyncio.ensure_future(self._follow(subscriber))
            await load.until(random.randint(20, 200))
            self._harm(kind)
            count = load.count + MOST // SIZE
            await until(lambda: sending.done() or load.count > count, "senders to be refused, or enough events")
            self._found["noticed while it ran"] += NOTICED in self._relay.said()
            self._relay.terminate()
            await asyncio.gather(sending, following)
            self._expect(not load.odd, f"senders got {sorted(load.odd)}")

    async def _kill(self, load: Load, *, held: bool) -> None:
        async with Subscriber(self._relay, self._token, "orders", "earliest") as subscriber:
            sending = asyncio.ensure_future(load.run())
            following = asyncio.ensure_future(self._follow(subscriber))
            await load.until(random.randint(20, 200))
            async with self._holding_back() if held else contextlib.nullcontext():
                if held:
                    await load.until(load.count + HELD_BACK)
                self._relay.kill()
            await asyncio.gather(sending, following)

    @contextlib.asynccontextmanager
    async def _holding_back(self) -> AsyncIterator[None]:
        """Reads as another program does: no checkpoint copies what is committed from now on, nor the earlier state of
        a page that is changed again. The end of this connection, which can't write, leaves the WAL as it is."""
        path = self._relay.data / NAME
        index = WalIndex(path, PAGE)
        try:
            with contextlib.closing(sqlite3.connect(uri(path, "ro"), uri=True, isolation_level=None)) as raw:
                await until(index.uncopied, "something that is to be copied")
                raw.execute("BEGIN")
                raw.execute("SELECT 1 FROM sqlite_schema").fetchone()
                before = self._copied(index)
                yield
                self._found["copied in part"] += before < self._copied(index) and bool(index.uncopied())
        finally:
            index.close()  # not earlier: the process would lose the reader's locks

    def _copied(self, index: WalIndex) -> int:
        """How many frames of the WAL are in the file."""
        frames, uncopied = index.read(), index.uncopied()
        return 0 if frames is None or uncopied is None else frames.number - uncopied // (FRAME_HEAD + PAGE)

    async def _follow(self, subscriber: Subscriber) -> None:
        self._seen += [event async for event in subscriber.webhooks()]

    def _harm(self, kind: str) -> None:
        if kind == "emptied":
            os.truncate(self._wal, 0)
        elif kind == "cut":
            os.truncate(self._wal, random.randrange(self._wal.stat().st_size))
        elif kind == "deleted":
            self._wal.unlink()
        else:
            shutil.copyfile(self._old, self._wal)

    # what comes of it

    def _start(self) -> None:
        """If the start is refused, does what docs/operations.md says: puts the right WAL back, or moves the wrong one
        away if there is none."""
        relay = self._relay
        relay.spawn()
        wait_for(
            lambda: "listening on" in relay.said() or relay.process is None or relay.process.poll() is not None, "it"
        )
        if "listening on" in relay.said():
            return
        self._found["starts refused"] += 1
        self._expect(relay.wait() == 1, f"a start failed: {relay.said()}")
        if CONDEMNED in relay.said() or (DAMAGED in relay.said() and self._right is None):
            # It was written over at the moment of a checkpoint, or after one that was not complete.
            self._condemned = True
            self._found["may have pages of both"] += 1
            self._expect(relay.run("check").returncode != 0, "relay check finds nothing")
            return
        # Without any WAL, a file that an interrupted checkpoint left counts as damaged.
        self._expect(self._wal.name in relay.said(), f"a start was refused, but not for the WAL: {relay.said()}")
        for end in ("-wal", "-shm"):
            file = relay.data / f"{NAME}{end}"
            if file.exists():
                file.rename(relay.data.with_name(f"moved{end}"))
        if self._right is not None:
            shutil.copyfile(self._right, self._wal)
        relay.start()

    async def _look_at_cursor(self, last: Webhook, load: Load) -> None:
        """Subscribes behind the last event that was seen: it is there, or a gap is told. Then new events are sent."""
        async with Subscriber(self._relay, self._token, "orders", last.id) as subscriber:
            answer = subscriber.subscribed
        if answer["gap"] is None:
            right = answer["start"] == last.seq + 1
        else:
            right = answer["gap"]["reason"] == "reset" and answer["start"] <= last.seq
        self._found["cursors misread"] += not right
        self._expect(right, f"the cursor {last.id} was answered with {answer}")
        sending = asyncio.ensure_future(load.run())
        await until(lambda: sending.done() or load.count >= 50, "senders to be refused, or enough events")
        self._expect(not sending.done(), "senders are refused after the start")
        sending.cancel()
        await asyncio.wait([sending])

    def _judge(self, log: Sequence[Webhook], loads: Sequence[Load], told: int) -> None:
        kept, bodies = {event.body for event in log}, {event.id: event.body for event in log}
        acknowledged = [body for load in loads for sender in load.acknowledged for body in sender]
        lost = sum(body not in kept for body in acknowledged)
        missing = sum(load.sent for load in loads) - len(log)
        renamed = sum(bodies.get(event.id, event.body) != event.body for event in self._seen)
        self._expect(
            lost <= told <= missing, f"{lost} acknowledged events are lost, {missing} at most, {told} are told"
        )
        self._expect(len(kept) == len(log), f"{len(log) - len(kept)} events are there twice")
        self._expect(not renamed, f"{renamed} ids name another event than before")
        self._found["acknowledged"] += len(acknowledged)
        self._found["lost"] += lost
        self._found["told"] += told
        self._found["lost untold"] += max(lost - told, 0)
        self._found["ids used twice"] += renamed

    def _check(self) -> None:
        run = self._relay.run("check", "--json")
        findings = json.loads(run.stdout)["findings"]
        self._found["damaged"] += bool(findings)
        self._expect(not findings, f"relay check found {findings}")

    def _expect(self, holds: bool, otherwise: str) -> None:
        self._outcome.expect(holds, f"{self._name}: {otherwise}")
