"""relay.db is written over while senders load its relay: the relay notices and writes nothing more into it, and the way
out of docs/operations.md leads to what the backup had."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

from tests.acceptance.clients import Sender, read_log
from tests.acceptance.relay import TIMEOUT, Relay
from tests.faults.disk import MIB
from tests.faults.load import Load, judge
from tests.faults.outcome import Outcome
from tests.waiting import until

KINDS = ("a backup", "an older copy", "another relay's", "nothing", "a text")
SENDERS = 20
SIZE = 5_000
MOST = 8 * MIB
"""Of new events that may be told 200 before it is noticed: a WAL of 4 MiB in a crowd, begun or whole, when it happens,
and what is on its way."""


def run(folder: Path, times: int) -> Outcome:
    """So many times, with each kind of file in turn. Every other time the relay is stopped right behind it, and has to
    notice by itself the other times."""
    outcome = Outcome()
    foreign = folder / "foreign.db"
    with Relay(folder / "another") as other:
        other.create_bucket("orders")
        assert other.stop() == 0
    shutil.copy(other.data / "relay.db", foreign)
    relay = Relay(folder / "written-over")
    with relay:
        victim = _Victim(folder, relay, foreign, outcome)
        for number in range(times):
            victim.go_through(number, KINDS[number % len(KINDS)], stopped=number % 2 == 1)
        log = asyncio.run(read_log(relay, victim.token, "orders"))
        outcome.expect(relay.stop() == 0, "the relay did not end with 0")
    outcome.figures = {"times written over": times, "starts refused": victim.refused, "restored": times}
    judge(outcome, log, victim.kept)
    outcome.figures |= {"most KB told 200 before it was noticed": victim.most // 1000, "mixed": victim.mixed}
    return outcome


class _Victim:
    """One relay, time after time; `kept` is what each backup that it was restored from has to have. `mixed` is how
    often the file had a part of both in the end."""

    def __init__(self, folder: Path, relay: Relay, foreign: Path, outcome: Outcome) -> None:
        self.token = relay.create_token()
        self.kept: list[Load] = []
        self.most = self.mixed = self.refused = 0
        self._path = relay.create_bucket("orders")
        self._relay = relay
        self._file = relay.data / "relay.db"
        self._wal = relay.data / "relay.db-wal"
        self._backup = folder / "backup.db"
        self._source = folder / "source"
        self._foreign = foreign
        self._outcome = outcome

    def go_through(self, number: int, kind: str, *, stopped: bool) -> None:
        relay, name = self._relay, f"{number}, {kind}"
        self._make_source(kind)
        self.kept.append(self._load(f"{name}, before"))
        asyncio.run(self._fill(self.kept[-1]))
        assert relay.run("backup", "--force", str(self._backup)).returncode == 0
        if kind == "a backup":
            shutil.copy(self._backup, self._source)
        found = asyncio.run(self._write_over(self._load(name), stopped=stopped))
        self._expect(relay.wait() == 0, name, "the relay did not end with 0")
        # Where it was stopped, there may have been no second look.
        words = ("database_unavailable", "relay.db was written over") if stopped else ("relay.db was written over",)
        self._expect(any(each in relay.said() for each in words), name, relay.said())
        self._expect("Traceback" not in relay.said(), name, relay.said())
        # A checkpoint may have been under way as it was copied; once it is known, nothing comes to it.
        held = self._file.read_bytes()
        self.mixed += held != self._source.read_bytes()
        self._expect(found in (None, held), name, "something was copied into a file that was known to be another")
        self._refused_start(name)
        self._restore()

    def _make_source(self, kind: str) -> None:
        if kind == "an older copy":
            assert self._relay.stop() == 0
            shutil.copy(self._file, self._source)
            self._relay.start()
        elif kind == "another relay's":
            shutil.copy(self._foreign, self._source)
        elif kind == "nothing":
            self._source.write_bytes(b"")
        elif kind == "a text":
            self._source.write_text("no database\n" * 9_000)

    def _load(self, name: str) -> Load:
        return Load(self._relay, self._path, name, SENDERS, SIZE)

    async def _fill(self, load: Load) -> None:
        """Until another WAL has begun: with the one that began at an older copy a start would find everything."""
        sending = asyncio.ensure_future(load.run())
        await load.until(1)
        begun = self._head()
        await until(lambda: self._head() != begun, "another WAL")
        sending.cancel()
        await asyncio.wait([sending])

    def _head(self) -> bytes:
        with self._wal.open("rb") as file:
            return file.read(32)

    async def _write_over(self, load: Load, *, stopped: bool) -> bytes | None:
        """Returns what the file was when senders were refused; None where the relay is stopped before that."""
        sending = asyncio.ensure_future(load.run())
        await load.until(100)
        process = await asyncio.create_subprocess_exec("cp", str(self._source), str(self._file))
        async with asyncio.timeout(TIMEOUT):
            assert await process.wait() == 0
        before, found = load.count, None
        if not stopped:
            await sending
            new = (load.count - before) * SIZE
            self.most = max(self.most, new)
            self._expect(new < MOST, load.name, f"{new} bytes were told 200 before it was noticed")
            async with Sender(self._relay, self._path) as sender:
                statuses = {await sender.post(b"later") for _ in range(10)}
            self._expect(statuses == {503}, load.name, f"senders got {statuses} once it was noticed")
            self._expect((await asyncio.to_thread(self._relay.ready))[0] == 503, load.name, "/readyz does not say so")
            # A half-copied file is refused as damaged; the next look, a moment later, knows it as another.
            await until(lambda: "relay.db was written over" in self._relay.said(), "that it was written over")
            found = self._file.read_bytes()
        self._relay.terminate()
        await sending
        self._expect(not load.odd, load.name, f"senders got {sorted(load.odd)}")
        return found

    def _refused_start(self, name: str) -> None:
        relay = self._relay
        if relay.listens():  # it was written over between the look and the checkpoint's first page
            relay.terminate()
        code, said = relay.wait(), relay.said()
        kept = self._wal.exists() and self._wal.stat().st_size > 0
        self._expect((code, kept) == (1, True), name, f"a start ended with {code}, the WAL is there: {kept}; {said}")
        self.refused += code == 1

    def _restore(self) -> None:
        """As docs/operations.md has it under Disaster."""
        damaged = self._relay.data.rename(self._relay.data.with_name("damaged"))
        assert self._relay.run("restore", str(self._backup)).returncode == 0
        shutil.rmtree(damaged)
        self._relay.start()

    def _expect(self, holds: bool, name: str, otherwise: str) -> None:
        self._outcome.expect(holds, f"{name}: {otherwise}")
