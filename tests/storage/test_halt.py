"""A start that is stopped during its checks: it ends at once, changes nothing, and holds nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from relay_tornado.errors import NO_THREAD, StartupError
from relay_tornado.settings import Settings
from relay_tornado.storage import database_files, halt, start
from relay_tornado.storage.database import Database
from relay_tornado.storage.halt import Halt, Halted
from relay_tornado.storage.witness import Loss
from tests.storage.faults import crash, take_the_first_name
from tests.storage.jobs import names, put
from tests.storage.witnesses import lead
from tests.waiting import until

storage_test = pytest.mark.gen_test(timeout=60)


def held(settings: Settings) -> list[Path]:
    """The files of its directory that this process has open."""
    found: list[Path] = []
    for each in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # what the listing itself had open
            found.append(each.readlink())
    return [path for path in found if path.is_relative_to(settings.data)]


_CHANGED = ("relay.lock", "relay.db-shm")


def contents(settings: Settings) -> dict[str, bytes]:
    """The files that a start might change, by name."""
    return {path.name: path.read_bytes() for path in settings.data.iterdir() if path.name not in _CHANGED}


async def lose(settings: Settings) -> None:
    """Leaves a directory with a WAL, and a witness that is a commit ahead."""
    database = await Database.open(settings)
    await database.write(put("a" + "x" * 9_000))
    await crash(database)
    lead(settings.data)


async def stop(settings: Settings, reached: Callable[[], object], go_on: threading.Event | None = None) -> None:
    """Stops a start once it has `reached` a point, at which it waits to `go_on`. It tells nothing."""
    with capture_logs() as logs:
        starting = asyncio.create_task(Database.open(settings))
        await until(reached)
        starting.cancel()
        if go_on is not None:
            await asyncio.sleep(0)
            go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await starting
    assert logs == []


async def begin_again(settings: Settings) -> None:
    """The next start finds what the stopped one found."""
    with capture_logs() as logs:
        database = await Database.open(settings)
    assert database.loss == Loss(1, 0)
    assert [entry["event"] for entry in logs] == ["committed_work_lost"]
    assert [name.rstrip("x") for name in await database.read(names)] == ["a"]
    await database.close()


@storage_test
@pytest.mark.parametrize("name", ["check", "examine"])
@pytest.mark.parametrize("stops", [1, 3])
async def test_a_stop_waits_for_the_check_that_runs(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, name: str, stops: int
) -> None:
    """The event loop runs meanwhile. The stop waits for the check's end, and takes what it opened with it. So do others
    behind it: each Ctrl-C of a command is one."""
    await lose(settings)
    reached, go_on = threading.Event(), threading.Event()
    real = getattr(start, name)

    def slow(*given: object) -> object:
        reached.set()
        assert go_on.wait(60)
        return real(*given)

    monkeypatch.setattr(start, name, slow)
    starting = asyncio.create_task(Database.open(settings))
    await until(reached.is_set)
    assert held(settings)
    for _ in range(stops):
        starting.cancel()
        await asyncio.sleep(0.05)
    assert not starting.done(), "its lock would be released before the end of the check"
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert held(settings) == []
    monkeypatch.undo()
    await begin_again(settings)


def never_begins(begun: list[Callable[[], object]]) -> Callable[..., asyncio.Future[object]]:
    """Has the work done by a thread that has no memory to begin."""

    def run(work: Callable[[], object]) -> asyncio.Future[object]:
        begun.append(work)
        return asyncio.get_running_loop().create_future()

    return run


def never_tells(begun: list[Callable[[], object]]) -> Callable[..., asyncio.Future[object]]:
    """Has the work done by a thread that has no memory to tell its end."""

    def run(work: Callable[[], object]) -> asyncio.Future[object]:
        begun.append(work)
        work()
        return asyncio.get_running_loop().create_future()

    return run


@storage_test
@pytest.mark.parametrize("lost", [never_begins, never_tells])
@pytest.mark.parametrize("stopped", [False, True])
async def test_a_thread_that_is_lost(
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    lost: Callable[[list[Callable[[], object]]], Callable[..., asyncio.Future[object]]],
    stopped: bool,
) -> None:
    """The start is refused, and a stop ends it; neither waits for ever. The thread does nothing later."""
    done: list[str] = []
    begun: list[Callable[[], object]] = []
    monkeypatch.setattr(halt, "_LOOK", 0.01)
    monkeypatch.setattr(halt, "_LOST", 0.05)
    monkeypatch.setattr(halt, "run_in_thread", lost(begun))
    monkeypatch.setattr(start, "check", lambda path: done.append(path.name))
    starting = asyncio.create_task(Database.open(settings))
    await until(lambda: begun)
    if stopped:
        starting.cancel()
    with pytest.raises(asyncio.CancelledError if stopped else StartupError) as refused:
        await starting
    assert stopped or NO_THREAD in str(refused.value)
    assert not held(settings)
    for work in begun:
        with pytest.raises(Halted):
            work()
    assert done == (["relay.db"] if lost is never_tells else [])


@storage_test
async def test_a_copy_of_the_wal_that_is_halted_leaves_nothing(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No part of it stays, and nothing is told: the next start does both."""
    await lose(settings)
    before = contents(settings)
    check = Halt.check

    def begun() -> bool:
        return bool(list(settings.data.glob("*.lost-*")))

    def slow(halt: Halt) -> None:
        while begun() and not halt.halted():
            time.sleep(0.001)
        check(halt)

    monkeypatch.setattr(Halt, "check", slow)
    await stop(settings, begun)
    assert (contents(settings), held(settings)) == (before, [])
    monkeypatch.undo()
    await begin_again(settings)


@storage_test
async def test_a_copy_of_the_wal_that_is_halted_while_it_is_synced(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not stay, and nothing is told: the next start would make a second one."""
    await lose(settings)
    before, reached, go_on = contents(settings), threading.Event(), threading.Event()
    sync = database_files.sync

    def slow(path: Path) -> None:
        reached.set()
        assert go_on.wait(60)
        sync(path)

    monkeypatch.setattr(database_files, "sync", slow)
    await stop(settings, reached.is_set, go_on)
    assert contents(settings) == before
    monkeypatch.undo()
    await begin_again(settings)


@storage_test
async def test_what_another_program_makes_under_the_name_of_the_copy_stays(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stays as it is, and the copy gets another name."""
    await lose(settings)
    others = take_the_first_name(monkeypatch)
    wal = (settings.data / "relay.db-wal").read_bytes()
    await begin_again(settings)
    copies = {path: path.read_bytes() for path in settings.data.glob("*.lost-*")}
    assert copies.pop(others[0]) == b"another's"
    assert list(copies.values()) == [wal]


def test_a_name_that_is_a_link_to_nothing_is_not_free(tmp_path: Path) -> None:
    """No file can be created there."""
    first = database_files.free_name(tmp_path / "relay.db-wal", "lost")
    first.symlink_to("missing")
    copy, descriptor = database_files.create_free(tmp_path / "relay.db-wal", "lost")
    os.close(descriptor)
    assert copy != first
    assert not copy.is_symlink()
