"""A disk that fails: EIO and ENOSPC in place of each of the first writes and syncs that a relay makes.

strace puts the error in place of the system call, which is not made. It counts by thread, and the relay opens the file
in a new thread after an error, so an early fault comes again and again: such a disk stays broken until the relay is
started without strace.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from relay_tornado.log.sqlite import SqliteEventLog
from relay_tornado.model import NewEvent
from relay_tornado.settings import Settings
from relay_tornado.storage.database import Database
from tests.acceptance.clients import Sender
from tests.acceptance.relay import Relay
from tests.faults.outcome import Outcome
from tests.needs import needs

FAULTY = ("pwrite64", "fdatasync", "fsync", "ftruncate")
ERRORS = ("EIO", "ENOSPC")
SENDERS = 2
POSTS = 60
MOST_COME = 0.9
"""Of the faults: a relay does not always make so many calls of a name in one thread."""
HEALS = 40
"""A fault that comes back only after so many calls leaves a thread that opens the file anew the time to succeed."""

_CALL = re.compile(r"^(\d+) +(pwrite64|fdatasync|fsync|ftruncate)\(")
_PAUSE = 0.02


@dataclass(frozen=True)
class Fault:
    """The error in place of the `place`th call of this name that a thread makes."""

    call: str
    place: int
    error: str

    def words(self) -> str:
        return f"{self.error} at {self.call} {self.place}"


class TracedRelay(Relay):
    """One whose system calls strace follows, and perhaps lets fail."""

    fault: Fault | None = None

    @property
    def trace(self) -> Path:
        return self.data.with_suffix(".strace")

    def command_line(self) -> list[str]:
        strace = [
            "strace",
            "-D",
            "-f",
            "-qq",
            "--seccomp-bpf",
            "-o",
            str(self.trace),
            "-e",
            "trace=" + ",".join(FAULTY),
        ]
        if self.fault is not None:
            strace += ["-e", f"inject={self.fault.call}:error={self.fault.error}:when={self.fault.place}"]
        return [*strace, *super().command_line()]


def needs_strace() -> None:
    """Skips the running test where there is no strace."""
    needs("strace", "install strace")


def run(folder: Path, calls: int, step: int = 1) -> Outcome:
    """Lets every `step`th of the first `calls` writes and syncs fail, each with each error, in a run of its own; and of
    them the one that comes latest in its thread, which is always the one that commits."""
    outcome = Outcome()
    relay = TracedRelay(folder / "failing")
    path = relay.create_bucket("orders")
    template = folder / "template"
    relay.data.rename(template)
    found: Counter[str] = Counter()
    statuses: Counter[int] = Counter()
    first = _first_calls(relay, template, path, calls)
    chosen = list(dict.fromkeys((*first[::step], max(first, key=lambda each: each[1]))))
    with structlog.testing.capture_logs():
        for call, place in chosen:
            for error in ERRORS:
                _one(relay, template, path, Fault(call, place, error), outcome, found, statuses)
    outcome.figures = {
        "faults": len(chosen) * len(ERRORS),
        "came": found["came"],
        "starts refused": found["refused to start"],
        "acknowledged": statuses[200],
        "refusals": f"{statuses[503]} × 503, {statuses[507]} × 507",
        "acknowledged and lost": found["lost"],
        "taken again by itself": f"{found['healed']} of {found['may heal']}",
    }
    outcome.expect(not set(statuses) - {200, 503, 507}, f"senders got {dict(statuses)}")
    faults = len(chosen) * len(ERRORS)
    outcome.expect(found["came"] >= MOST_COME * faults, f"only {found['came']} of {faults} faults came")
    outcome.expect(statuses[200] > 0, "no event was acknowledged")
    outcome.expect(statuses[503] + statuses[507] > 0, "no event was refused")
    return outcome


def _first_calls(relay: TracedRelay, template: Path, path: str, count: int) -> Sequence[tuple[str, int]]:
    """The first writes and syncs of a relay in good health: each call's name, and its place among its thread's."""
    relay.fault = None
    shutil.copytree(template, relay.data)
    with relay:
        asyncio.run(_send(relay, path))
        relay.stop()
    shutil.rmtree(relay.data)
    places: Counter[tuple[str, str]] = Counter()
    calls = []
    for line in relay.trace.read_text().splitlines():
        if (match := _CALL.match(line)) is not None:
            thread, call = match.groups()
            places[thread, call] += 1
            calls.append((call, places[thread, call]))
    assert len(calls) >= count, f"the relay made {len(calls)} writes and syncs, not {count}"
    return calls[:count]


def _one(
    relay: TracedRelay,
    template: Path,
    path: str,
    fault: Fault,
    outcome: Outcome,
    found: Counter[str],
    statuses: Counter[int],
) -> None:
    """One run with a fault, and one more on the disk that is well again."""
    relay.fault = fault
    shutil.copytree(template, relay.data)
    acknowledged: list[bytes] = []
    try:
        try:
            if relay.listens():
                sent = asyncio.run(_send(relay, path))
                statuses.update(status for _, status in sent)
                acknowledged = [body for body, status in sent if status == 200]
                refused = [place for place, (_, status) in enumerate(sent) if status != 200]
                if refused and fault.place > HEALS:
                    found["may heal"] += 1
                    healed = any(status == 200 for _, status in sent[refused[0] :])
                    found["healed"] += healed
                    outcome.expect(healed, f"{fault.words()}: no event was taken afterwards")
                relay.stop()
            else:
                found["refused to start"] += 1
                outcome.expect("Traceback" not in relay.said(), f"{fault.words()}: {relay.said()}")
        finally:
            relay.kill()
        found["came"] += "(INJECTED)" in relay.trace.read_text()
        asyncio.run(_well_again(relay.data, fault, acknowledged, outcome, found))
    finally:
        shutil.rmtree(relay.data)


async def _well_again(
    data: Path, fault: Fault, acknowledged: Sequence[bytes], outcome: Outcome, found: Counter[str]
) -> None:
    """What a start on a disk without faults finds, and that it takes events."""
    settings = Settings(data=data)
    database = await Database.open(settings)
    try:
        outcome.expect(database.loss is None, f"{fault.words()}: the witness told {database.loss}")
        log = await SqliteEventLog.open(database, settings)
        (bucket,) = await log.buckets()
        head = (await log.bounds(bucket)).head
        stored: list[bytes] = []
        while len(stored) < head:
            stored += [event.body for event in await log.read(bucket, len(stored), 256, 1 << 20)]
        lost = set(acknowledged) - set(stored)
        found["lost"] += len(lost)
        outcome.expect(not lost, f"{fault.words()}: {len(lost)} acknowledged events are lost")
        outcome.expect(len(stored) == len(set(stored)), f"{fault.words()}: an event is in the log twice")
        new = await log.append(bucket, NewEvent("input", "POST", b"", b"", b"Host: x\r\n", b"new", "192.0.2.1"))
        outcome.expect(new.seq == head + 1, f"{fault.words()}: a new event got {new.seq} behind {head}")
        await log.close()
    finally:
        await database.close()


async def _send(relay: Relay, path: str) -> list[tuple[bytes, int]]:
    """What each of a number of posts was answered, in the order of the answers; 0 where the connection broke."""
    answers: list[tuple[bytes, int]] = []

    async def send(number: int) -> None:
        count = 0
        while count < POSTS:
            with contextlib.suppress(OSError, EOFError):
                async with Sender(relay, path) as sender:
                    while count < POSTS:
                        count += 1
                        body = b"%d/%d " % (number, count) + b"x" * 300
                        answers.append((body, await sender.post(body)))
                        if answers[-1][1] != 200:
                            await asyncio.sleep(_PAUSE)

    async with asyncio.TaskGroup() as group:
        for number in range(SENDERS):
            group.create_task(send(number))
    return answers
