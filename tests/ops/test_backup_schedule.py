"""Backups that `relay serve` makes by itself."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from relay_tornado.ops import backup_schedule
from relay_tornado.ops.backup_schedule import Backups, backups, name_at
from relay_tornado.settings import Settings
from tests.acceptance.relay import TIMEOUT, Relay, wait_for
from tests.ops.filling import fill, rows


def test_a_relay_makes_backups(new_relay: Callable[..., Relay], tmp_path: Path) -> None:
    """As soon as it starts and then again and again, the newest so many are kept, and strangers' files left alone."""
    fill(tmp_path / "data", "orders", 20)
    folder = tmp_path / "backups"
    folder.mkdir()
    (folder / "relay-notes.db").write_text("mine")
    old = folder / name_at(1_000_000_000)
    old.write_bytes(b"an older one")
    (folder / f"{old.name}.part").write_bytes(b"of one that was killed")
    relay = new_relay(backup_dir=folder, backup_every="1s", backup_keep=2)
    relay.start()
    wait_for(lambda: len(backups(folder)) == 2 and not old.exists(), "a second backup, and the oldest to leave")
    secret = relay.command("token", "create")["secret"]
    metrics = relay.rest(secret, "GET", "/metrics").splitlines()
    told = dict(line.rsplit(" ", 1) for line in metrics if not line.startswith("#"))
    assert float(told["relay_backup_last_duration_seconds"]) > 0
    assert float(told["relay_backup_last_success"]) == 1
    assert relay.stop() == 0
    left = backups(folder)
    assert len(left) <= 3
    for _, path in left:
        assert rows(path, "SELECT count(*) FROM event") == [(20,)]
        assert path.stat().st_mode & 0o777 == 0o600
    assert not list(folder.glob("*.part*"))
    assert (folder / "relay-notes.db").read_text() == "mine"


def test_a_failure_is_loud_and_retried(new_relay: Callable[..., Relay], tmp_path: Path) -> None:
    """Where the directory can't be made, the relay serves all the same and logs an error; nothing is removed."""
    (tmp_path / "file").write_text("in the way")
    relay = new_relay(backup_dir=tmp_path / "file" / "backups", log_format="json")
    relay.start()
    wait_for(lambda: "backup_failed" in relay.said(), "the failure to be logged")
    assert relay.stop() == 0


class Clock:
    """A wall clock, and sleeping that moves it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, now: float) -> None:
        self.now = now
        self.slept: list[float] = []
        monkeypatch.setattr(asyncio, "sleep", self.sleep)

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        if len(self.slept) > 40:
            raise asyncio.CancelledError


def test_when_the_next_one_is_due(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the newest that lies there, over restarts, too; a newest of the future counts for nothing; a failure is
    tried again after a minute, then after twice as long each time; only a success removes older ones."""
    clock = Clock(monkeypatch, 2_000_000_000.0)
    settings = replace(Settings(), data=tmp_path, backup_every=7200.0, backup_keep=2)
    made: list[float] = []
    failures = [True] * 3

    async def run(arguments: list[str], _: Settings) -> None:
        if len(made) == 1 and failures:
            failures.pop()
            raise backup_schedule._Failed("no room")
        made.append(clock.now)
        if len(made) > 99:
            raise asyncio.CancelledError
        Path(arguments[1]).write_bytes(b"a backup")

    monkeypatch.setattr(backup_schedule, "_run", run)
    (tmp_path / "b").mkdir()
    for at in (clock.now - 7100, clock.now - 14_000, clock.now - 21_000):
        (tmp_path / "b" / name_at(at)).write_bytes(b"older")
    with capture_logs() as logs, pytest.raises(asyncio.CancelledError):
        asyncio.run(Backups(settings, tmp_path / "b", clock).run())
    assert made[0] == 2_000_000_100
    # Due at +7300, then three failures: 60, 120 and 240 s.
    assert made[1] == made[0] + 7200 + 60 + 120 + 240
    assert made[2] == made[1] + 7200
    failed = [each for each in logs if each["event"] == "backup_failed"]
    assert [(each["log_level"], each["reason"], each["again_in"]) for each in failed] == [
        ("error", "no room", seconds) for seconds in (60.0, 120.0, 240.0)
    ]
    assert len(backups(tmp_path / "b")) == 2
    # One that was made "tomorrow" does not keep the next one from being made.
    (tmp_path / "b" / name_at(clock.now + 86_400)).write_bytes(b"of the future")
    before, since = len(made), clock.now
    clock.slept.clear()
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(Backups(settings, tmp_path / "b", clock).run())
    assert before < len(made) < before + 41
    assert made[before] - since <= settings.backup_every


def making(monkeypatch: pytest.MonkeyPatch, clock: Clock, until: int) -> list[float]:
    """Backups are files with little in them. Returns their times, to be; with number `until` all ends."""
    made: list[float] = []

    async def run(arguments: list[str], _: Settings) -> None:
        made.append(clock.now)
        if len(made) == until:
            raise asyncio.CancelledError
        Path(arguments[1]).write_bytes(b"a backup")

    monkeypatch.setattr(backup_schedule, "_run", run)
    return made


def test_names_of_the_future_are_neither_counted_nor_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the others the newest so many are kept; the next one is due as if they were not there."""
    clock = Clock(monkeypatch, 2_000_000_000.0)
    settings = replace(Settings(), data=tmp_path, backup_every=7200.0, backup_keep=2)
    made = making(monkeypatch, clock, until=4)
    future = [tmp_path / name_at(clock.now + 400 * 86_400 + number) for number in range(3)]
    past = [tmp_path / name_at(clock.now - 86_400 - number) for number in range(2)]
    for path in (*future, *past):
        path.write_bytes(b"an older one")
    maker = Backups(settings, tmp_path, clock)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(maker.run())
    assert made == [2_000_000_000.0 + 7200 * number for number in range(4)]
    assert maker.newest == made[2]
    assert {path for _, path in backups(tmp_path)} == {*future, *(tmp_path / name_at(at) for at in made[1:3])}


def test_none_leaves_before_there_are_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With fewer than are to be kept, all of them stay."""
    clock = Clock(monkeypatch, 2_000_000_000.0)
    making(monkeypatch, clock, until=2)
    for number in range(1, 5):
        (tmp_path / name_at(clock.now - number * 100_000)).write_bytes(b"an older one")
    settings = replace(Settings(), data=tmp_path, backup_every=3600.0, backup_keep=6)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(Backups(settings, tmp_path, clock).run())
    assert len(backups(tmp_path)) == 5


def test_what_others_make_there_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backup that is being made by hand under a name like these, and files of other names."""
    clock = Clock(monkeypatch, 2_000_000_000.0)
    making(monkeypatch, clock, until=2)
    by_hand, killed = (tmp_path / f"{name_at(clock.now - number)}.part" for number in (10, 20))
    ends = [killed, killed.with_name(f"{killed.name}-wal")]
    others = [tmp_path / "relay-mineZ.db.part", tmp_path / "relay-mineZ.db.parts"]
    for path in (by_hand, *ends, *others):
        path.write_bytes(b"")
    with by_hand.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(asyncio.CancelledError):
            asyncio.run(Backups(replace(Settings(), data=tmp_path), tmp_path, clock).run())
    assert [path.exists() for path in (by_hand, *ends, *others)] == [True, False, False, True, True]


def test_a_backup_that_was_made_by_hand_is_not_replaced(tmp_path: Path) -> None:
    """Not even where it has the name of this very second."""
    fill(tmp_path / "data", "orders", 3)
    by_hand = tmp_path / name_at(1_000_000_000)
    by_hand.write_bytes(b"mine")
    maker = Backups(replace(Settings(), data=tmp_path / "data"), tmp_path, lambda: 1_000_000_000.0)
    with pytest.raises(backup_schedule._Failed, match="is there already"):
        asyncio.run(maker._make())
    assert by_hand.read_bytes() == b"mine"


def test_a_backup_that_is_taken_away_is_not_made_again_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever moves each one elsewhere gets the next when it is due."""
    clock = Clock(monkeypatch, 2_000_000_000.0)
    settings = replace(Settings(), data=tmp_path, backup_every=7200.0)
    made = making(monkeypatch, clock, until=3)
    older = tmp_path / name_at(clock.now - 8000)
    older.write_bytes(b"an older one")

    async def sleep_and_move(seconds: float) -> None:
        for _, path in backups(tmp_path):
            if path != older:
                path.unlink()
        await clock.sleep(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep_and_move)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(Backups(settings, tmp_path, clock).run())
    assert made == [2_000_000_000.0, 2_000_007_200.0, 2_000_014_400.0]


def test_a_clock_that_is_set_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The backup that was made by the wrong one puts off no other."""
    clock = Clock(monkeypatch, 2_000_000_000.0)
    made = making(monkeypatch, clock, until=3)

    async def sleep_and_set_back(seconds: float) -> None:
        await clock.sleep(seconds - (10_000_000 if len(made) == 1 else 0))

    monkeypatch.setattr(asyncio, "sleep", sleep_and_set_back)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(Backups(replace(Settings(), data=tmp_path, backup_every=3600.0), tmp_path, clock).run())
    assert made == [2_000_000_000.0, 1_990_003_600.0, 1_990_007_200.0]


def test_a_name_that_is_no_time_is_not_ours(tmp_path: Path) -> None:
    """Whatever has the form of one and names no moment is passed over, and so is what is no file."""
    (tmp_path / "notes").write_bytes(b"mine")
    (tmp_path / name_at(1_000_000_001)).mkdir()
    for text in ("20261331T000000", "20260230T000000", "20260101T250000", "00000101T000000"):
        (tmp_path / f"relay-{text}Z.db").write_bytes(b"")
    (tmp_path / name_at(1_000_000_000)).write_bytes(b"")
    assert backups(tmp_path) == [(1_000_000_000, tmp_path / name_at(1_000_000_000))]


def test_nothing_ends_them_silently(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is raised is logged with where it came from, is the problem, and is tried again."""
    clock = Clock(monkeypatch, 2_000_000_000.0)
    made = Backups(replace(Settings(), data=tmp_path), tmp_path, clock)
    problems: list[str] = []

    async def run(arguments: list[str], _: Settings) -> None:
        problems.append(made.problem)
        if len(problems) == 4:
            raise asyncio.CancelledError
        if len(problems) < 3:
            raise ValueError("nobody expected it")
        Path(arguments[1]).write_bytes(b"a backup")

    monkeypatch.setattr(backup_schedule, "_run", run)
    with capture_logs() as logs, pytest.raises(asyncio.CancelledError):
        asyncio.run(made.run())
    assert problems == ["", *["ValueError('nobody expected it')"] * 2, ""]
    assert clock.slept[:2] == [60.0, 120.0]
    assert [each["exc_info"] for each in logs if each["event"] == "backup_failed"] == [True] * 2


def test_a_disk_that_was_away_for_a_while_is_no_failed_backup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once it is there again, and nothing is due, nothing is wrong any more."""
    clock = Clock(monkeypatch, 2_000_000_000.0)
    maker = Backups(replace(Settings(), data=tmp_path, backup_every=86_400.0), tmp_path, clock)
    made = making(monkeypatch, clock, until=2)
    look, problems = maker._look, list[str]()

    def looked(now: float) -> tuple[float | None, int | None]:
        problems.append(maker.problem)
        if len(problems) == 3:
            raise OSError(errno.EIO, "Input/output error", str(tmp_path))
        return look(now)

    monkeypatch.setattr(maker, "_look", looked)
    with capture_logs() as logs, pytest.raises(asyncio.CancelledError):
        asyncio.run(maker.run())
    assert len(made) == 2
    assert [each["again_in"] for each in logs if each["event"] == "backup_failed"] == [60.0]
    assert [bool(each) for each in problems[:6]] == [False, False, False, True, False, False]


def test_an_older_one_that_can_not_be_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That is a warning; the others are removed, and the new one counts."""
    clock = Clock(monkeypatch, 2_000_000_000.0)
    maker = Backups(replace(Settings(), data=tmp_path, backup_keep=1), tmp_path, clock)
    making(monkeypatch, clock, until=2)
    past = [tmp_path / name_at(clock.now - 1_000_000 - number) for number in range(2)]
    for path in past:
        path.write_bytes(b"an older one")
    unlink = Path.unlink

    def unlinked(path: Path, missing_ok: bool = False) -> None:
        if path == past[1]:
            raise OSError(errno.EPERM, "Operation not permitted", str(path))
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", unlinked)
    with capture_logs() as logs, pytest.raises(asyncio.CancelledError):
        asyncio.run(maker.run())
    assert maker.problem == ""
    assert [path for _, path in backups(tmp_path)] == [past[1], tmp_path / name_at(2_000_000_000)]
    assert [(each["event"], each["file"]) for each in logs if "remove" in each["event"]] == [
        ("backup_not_removed", str(past[1])),
        ("backup_removed", str(past[0])),
    ]


@pytest.mark.parametrize("silent", [False, True])
def test_a_disk_that_is_slow_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, silent: bool) -> None:
    """While an older one is being removed the relay goes on; where the disk does not answer at all, the log says so."""
    clock = Clock(monkeypatch, 2_000_000_000.0)
    maker = Backups(replace(Settings(), data=tmp_path, backup_keep=1), tmp_path, clock)
    old = tmp_path / name_at(clock.now - 1_000_000)
    old.write_bytes(b"an older one")
    went_on, unlink = threading.Event(), Path.unlink
    gone: list[bool] = []

    async def run(arguments: list[str], _: Settings) -> None:
        if clock.slept:
            raise asyncio.CancelledError
        Path(arguments[1]).write_bytes(b"a backup")
        monkeypatch.setattr(backup_schedule, "_ANSWERS", 0.05 if silent else TIMEOUT)
        asyncio.get_running_loop().call_later(0.01, went_on.set)

    def unlinked(path: Path, missing_ok: bool = False) -> None:
        if silent:
            wait_for(lambda: any(each["event"] == "backup_failed" for each in logs), "the failure to be told")
        gone.append(silent or went_on.wait(10))
        unlink(path, missing_ok)

    monkeypatch.setattr(backup_schedule, "_run", run)
    monkeypatch.setattr(Path, "unlink", unlinked)

    with capture_logs() as logs, pytest.raises(asyncio.CancelledError):
        asyncio.run(maker.run())
    wait_for(lambda: gone == [True] and not old.exists(), "it to be removed")
    failed = [each["reason"] for each in logs if each["event"] == "backup_failed"]
    assert failed[:1] == ([f"the disk of {tmp_path} gave no answer within 0.05 s"] if silent else [])


def test_a_backup_that_is_taken_away_at_once_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for it may be faster than the relay that looks at its size; that is no failure."""
    clock = Clock(monkeypatch, 2_000_000_000.0)
    settings = replace(Settings(), data=tmp_path, backup_every=7200.0)
    made: list[float] = []

    async def run(arguments: list[str], _: Settings) -> None:
        made.append(clock.now)
        if len(made) == 3:
            raise asyncio.CancelledError

    monkeypatch.setattr(backup_schedule, "_run", run)
    with capture_logs() as logs, pytest.raises(asyncio.CancelledError):
        asyncio.run(Backups(settings, tmp_path, clock).run())
    assert [each["event"] for each in logs] == ["backup_made"] * 2
