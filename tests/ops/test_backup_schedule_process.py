"""The process that makes a scheduled backup: what it is given, how it ends, and what is said of one that fails."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from relay_tornado.ops import backup_schedule
from relay_tornado.ops.backup_schedule import Backups, backups, name_at
from relay_tornado.settings import Settings
from tests.acceptance.relay import TIMEOUT
from tests.ops.filling import fill, rows


def run_once(maker: Backups, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs it until it waits for the next one."""

    async def give_up(_: float) -> None:
        raise asyncio.CancelledError

    monkeypatch.setattr(asyncio, "sleep", give_up)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(maker.run())


def test_a_backup_that_fails_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the command says is the problem; the directory was made, for its owner only."""
    folder = tmp_path / "all" / "backups"
    made = Backups(replace(Settings(), data=tmp_path / "none"), folder)
    run_once(made, monkeypatch)
    assert made.problem.startswith(f"there is no {tmp_path / 'none'}: ")
    assert (made.newest, made.seconds, list(folder.iterdir())) == (None, None, [])
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_backup_has_the_relays_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which may come from its command line, and none of its variables."""
    data, folder = tmp_path / "data", tmp_path / "backups"
    fill(data, "orders", 3)
    monkeypatch.setenv("RELAY_PORT", "none, as --port is given")
    made = Backups(replace(Settings(), data=data), folder)
    run_once(made, monkeypatch)
    assert made.problem == ""
    ((_, path),) = backups(folder)
    assert rows(path, "SELECT count(*) FROM event") == [(3,)]


def test_a_backup_keeps_the_relays_reserve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which may come from its command line, too: a backup takes no space that the relay keeps free."""
    start, given = asyncio.create_subprocess_exec, []

    async def noted(*arguments: str, **options: Any) -> asyncio.subprocess.Process:
        given.append(options["env"])
        return await start(*arguments, **options)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", noted)
    fill(tmp_path / "data", "orders", 1)
    run_once(Backups(replace(Settings(), data=tmp_path / "data", reserve=12_345), tmp_path / "backups"), monkeypatch)
    assert [each["RELAY_RESERVE"] for each in given] == ["12345"]


def test_a_backup_for_which_no_thread_can_be_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """asyncio waits for a process in a thread of its own: what to raise is said, without a traceback."""

    async def fails(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(asyncio, "create_subprocess_exec", fails)
    made = Backups(replace(Settings(), data=tmp_path / "data"), tmp_path / "backups")
    with capture_logs() as logs:
        run_once(made, monkeypatch)
    assert made.problem.startswith("no thread can be started: ")
    assert [(line["event"], line["exc_info"]) for line in logs] == [("backup_failed", False)]


def test_where_memory_is_short_a_backup_ends_and_not_the_relay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel kills it first, which is a backup that failed."""
    scores: list[str] = []
    start = asyncio.create_subprocess_exec

    async def started(program: str, *_: str, **options: Any) -> asyncio.subprocess.Process:
        process = await start(program, "-c", "import time; time.sleep(600)", **options)
        wait = process.communicate

        async def communicate() -> tuple[bytes, bytes]:
            scores.append(Path(f"/proc/{process.pid}/oom_score_adj").read_text())
            process.kill()
            return await wait()

        monkeypatch.setattr(process, "communicate", communicate)
        return process

    monkeypatch.setattr(asyncio, "create_subprocess_exec", started)
    made = Backups(replace(Settings(), data=tmp_path / "data"), tmp_path / "backups")
    with capture_logs() as logs:
        run_once(made, monkeypatch)
    assert scores == ["1000\n"]
    assert [each["event"] for each in logs] == ["backup_failed"]


@pytest.mark.parametrize("ignored", [False, True])
def test_a_relay_that_ends_while_one_is_made_ends_it_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ignored: bool
) -> None:
    """The command is ended and waited for, and that is no failure to be tried again; a deaf one is killed."""
    if not ignored:
        monkeypatch.setattr(backup_schedule, "PATIENCE", TIMEOUT)
    settings = replace(Settings(), data=tmp_path)
    made: list[asyncio.subprocess.Process] = []
    start = asyncio.create_subprocess_exec

    begun = asyncio.Event()

    async def started(program: str, *_: str, **options: Any) -> asyncio.subprocess.Process:
        # In the backup's stead, one that takes for ever. What is ignored stays so in a child.
        if ignored:
            options["preexec_fn"] = lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN)
        made.append(await start(program, "-c", "import time; time.sleep(600)", **options))
        begun.set()
        return made[0]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", started)

    async def main() -> None:
        task = asyncio.create_task(Backups(settings, tmp_path / "b").run())
        await begun.wait()
        task.cancel()
        try:
            await asyncio.wait((task,), timeout=60)
            assert task.cancelled()
            assert made[0].returncode == -(signal.SIGKILL if ignored else signal.SIGTERM)
        finally:
            if made[0].returncode is None:
                made[0].kill()
                await made[0].wait()

    asyncio.run(main())


_STANDS_STILL = """
import fcntl, pathlib, sys, time
part = pathlib.Path(sys.argv[4] + ".part").open("w")
fcntl.flock(part, fcntl.LOCK_EX)
time.sleep(600)
"""


@pytest.mark.parametrize("held", [False, True])
def test_a_backup_that_gets_no_further_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: bool) -> None:
    """As where the disk does not answer. The log says so, and the next one leaves nothing of it; none is begun for as
    long as it does not end (`held`)."""
    data, folder = tmp_path / "data", tmp_path / "b"
    fill(data, "orders", 3)
    monkeypatch.setattr(backup_schedule, "LOOK", 0.05)
    monkeypatch.setattr(backup_schedule, "PATIENCE", 0.2 if held else TIMEOUT)
    used = backup_schedule._used
    # However long it takes to begin, that is not what it is given up for.
    monkeypatch.setattr(backup_schedule, "_used", lambda pid: used(pid) if list(folder.glob("*.part")) else None)
    started: list[asyncio.subprocess.Process] = []
    start = asyncio.create_subprocess_exec

    async def begin(program: str, *arguments: str, **options: Any) -> asyncio.subprocess.Process:
        if started:
            started.append(await start(program, *arguments, **options))
            return started[-1]
        ignore = partial(signal.signal, signal.SIGTERM, signal.SIG_IGN) if held else None
        started.append(await start(program, "-c", _STANDS_STILL, *arguments, **options, preexec_fn=ignore))
        if held:
            monkeypatch.setattr(started[0], "kill", lambda: None)
        return started[0]

    left: list[list[str]] = []
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        left.append(sorted(path.name[-5:] for path in folder.iterdir()))
        if len(slept) == (2 if held else 1):
            monkeypatch.setattr(backup_schedule, "LOOK", TIMEOUT)
            if held:
                started[0].send_signal(signal.SIGKILL)
                await started[0].wait()
        elif len(slept) > 1 and len(started) > 1:
            raise asyncio.CancelledError

    monkeypatch.setattr(asyncio, "create_subprocess_exec", begin)
    monkeypatch.setattr(asyncio, "sleep", sleep)
    maker = Backups(replace(Settings(), data=data), folder)

    async def main() -> None:
        try:
            async with asyncio.timeout(TIMEOUT):
                await maker.run()
        finally:
            if started and started[0].returncode is None:
                started[0].send_signal(signal.SIGKILL)
                await started[0].wait()

    with capture_logs() as logs, pytest.raises(asyncio.CancelledError):
        asyncio.run(main())
    reasons = [each["reason"] for each in logs if each["event"] == "backup_failed"]
    stuck = f"it made no progress for 0.5 s and was ended: the disk of {folder}, or of {data}, does not answer"
    waits = f"process {started[0].pid} of the backup before hangs, and does not end"
    assert reasons == ([stuck, waits] if held else [stuck])
    assert (len(started), maker.problem) == (2, "")
    assert left[:-1] == [[".part"]] * len(reasons)
    assert [path for _, path in backups(folder)] == list(folder.iterdir())


def test_a_process_that_can_not_be_listened_to_has_made_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for want of memory: nobody knows what came of it, so no older one is removed, and it is tried again."""
    folder = tmp_path / "b"
    folder.mkdir()
    older = [folder / name_at(1_000_000_000 + number) for number in range(2)]
    for path in older:
        path.write_bytes(b"an older one")
    made: list[asyncio.subprocess.Process] = []
    start = asyncio.create_subprocess_exec

    async def begin(program: str, *_: str, **options: Any) -> asyncio.subprocess.Process:
        made.append(await start(program, "-c", "import time; time.sleep(600)", **options))
        monkeypatch.setattr(made[0], "communicate", listen)
        return made[0]

    async def listen() -> None:
        raise MemoryError

    monkeypatch.setattr(asyncio, "create_subprocess_exec", begin)
    maker = Backups(replace(Settings(), data=tmp_path / "data", backup_keep=1), folder)

    with capture_logs() as logs:
        run_once(maker, monkeypatch)
    assert made[0].returncode == -signal.SIGTERM, "it is not left behind"
    assert [each["event"] for each in logs] == ["backup_failed"]
    assert sorted(folder.iterdir()) == older
