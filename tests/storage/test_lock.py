"""One process owns a data directory, and says who it is."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest

from relay_tornado import __version__
from relay_tornado.errors import Locked, NotWritable
from relay_tornado.settings import Settings
from relay_tornado.storage.database import Database
from relay_tornado.storage.lock import Lock, Owner, read_owner, serves
from tests.needs import needs_root

HOLDER = """
import pathlib, sys
from relay_tornado.storage.lock import Lock
lock = Lock.acquire(pathlib.Path(sys.argv[1]))
lock.write(pathlib.Path("/run/control"))
print("held", flush=True)
sys.stdin.read()
"""


def hold(directory: Path) -> subprocess.Popen[str]:
    """Another process that holds the lock until its stdin closes."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(directory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    return holder


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    """It is told who holds the directory, and gets it as soon as that one is gone, however it went."""
    for end in ("kill", "terminate"):
        with hold(tmp_path) as holder:
            with pytest.raises(Locked, match=rf"process {holder.pid} \(relay {__version__}\)"):
                Lock.acquire(tmp_path)
            assert read_owner(tmp_path) == Owner(holder.pid, __version__, Path("/run/control"))
            getattr(holder, end)()
            holder.wait(60)
        assert read_owner(tmp_path) is None
        Lock.acquire(tmp_path).release()


def test_a_relay_that_did_not_stop(tmp_path: Path) -> None:
    """The next one knows of it, also if a command ran there in between; of one that stopped nothing is known."""
    with hold(tmp_path) as holder:
        holder.kill()
        holder.wait(60)
    command = Lock.acquire(tmp_path)
    assert command.unstopped == holder.pid
    command.stopped()
    command.release()
    relay = Lock.acquire(tmp_path)
    assert relay.unstopped == holder.pid
    relay.write(Path("/run/control"))
    relay.stopped()
    relay.release()
    after = Lock.acquire(tmp_path)
    assert after.unstopped == 0
    after.release()


@pytest.mark.parametrize(
    "damaged",
    [
        "",
        "7",
        '{"unstopped": "7"}',
        '{"unstopped": 1e999}',
        '{"pid": 1e999, "version": "", "socket": null}',
        "[" * 4000,
    ],
)
def test_a_damaged_lock_tells_nothing(tmp_path: Path, damaged: str) -> None:
    (tmp_path / "relay.lock").write_text(damaged)
    lock = Lock.acquire(tmp_path)
    assert lock.unstopped == 0
    (tmp_path / "relay.lock").write_text(damaged)
    assert read_owner(tmp_path) == Owner(0, "")
    with pytest.raises(Locked, match="in use by another process"):
        Lock.acquire(tmp_path)
    lock.release()


def test_a_lock_that_was_removed(tmp_path: Path) -> None:
    """A directory whose relay.lock was deleted or replaced under its holder is still its holder's, for as long as it
    runs."""
    with hold(tmp_path) as holder:
        (tmp_path / "relay.lock").unlink()
        for _ in range(2):  # the first try makes a new one
            with pytest.raises(Locked, match="in use by another process"):
                Lock.acquire(tmp_path)
        holder.kill()
        holder.wait(60)
    Lock.acquire(tmp_path).release()
    Lock.acquire(tmp_path).release()


def test_the_owner_is_told_from_the_start(tmp_path: Path) -> None:
    """From the moment that the lock is held its holder can be read, and no longer than that."""
    lock = Lock.acquire(tmp_path / "new")
    assert read_owner(tmp_path / "new") == Owner(os.getpid(), __version__, None)
    lock.write(Path("/a/rather/long/path" * 20))
    lock.write(Path("/short"))
    assert read_owner(tmp_path / "new") == Owner(os.getpid(), __version__, Path("/short"))
    lock.write(Path("/short"), 1000)
    assert read_owner(tmp_path / "new") == Owner(os.getpid(), __version__, Path("/short"), 1000)
    lock.release()
    lock.release()
    assert read_owner(tmp_path / "new") is None


def test_which_holder_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relay that is past the checks of its start, and this process; where nobody can tell, what the caller says."""
    assert not serves(tmp_path, unknown=True)
    lock = Lock.acquire(tmp_path)
    assert serves(tmp_path, unknown=False)
    for socket, there in (("null", False), ('"/run/control"', True)):
        (tmp_path / "relay.lock").write_text(f'{{"pid": 1, "version": "0.5.21", "socket": {socket}}}')
        assert serves(tmp_path, unknown=not there) == there
    assert read_owner(tmp_path) == Owner(1, "0.5.21", Path("/run/control"))  # which wrote no reserve
    lock.release()
    for unknown in (False, True):
        with monkeypatch.context() as failing:
            failing.setattr(fcntl, "flock", Mock(side_effect=OSError(errno.ENOLCK, "no locks")))
            assert serves(tmp_path, unknown=unknown) == unknown
    (tmp_path / "relay.lock").unlink()
    (tmp_path / "relay.lock").symlink_to("relay.lock")
    for unknown in (False, True):
        assert serves(tmp_path, unknown=unknown) == unknown


def test_the_disk_is_full_once_it_is_locked(tmp_path: Path) -> None:
    """Who could not write where the control socket is reads which directory that was."""
    lock = Lock.acquire(tmp_path)
    try:
        with Path("/dev/full").open("r+b", buffering=0) as full:
            assert lock._descriptor is not None
            os.dup2(full.fileno(), lock._descriptor)
        with pytest.raises(NotWritable) as refused:
            lock.write(Path("/run/control"))
    finally:
        lock.release()
    assert f"{tmp_path} (No space left on device): the disk is full; free some space" in str(refused.value)


def test_a_directory_that_nobody_uses(tmp_path: Path) -> None:
    """No lock, no owner; what an earlier holder wrote means nothing once it is gone."""
    assert read_owner(tmp_path / "missing") is None
    assert read_owner(tmp_path) is None
    (tmp_path / "relay.lock").write_text("no json")
    assert read_owner(tmp_path) is None
    (tmp_path / "file").touch()
    assert read_owner(tmp_path / "file") is None


def test_a_look_does_not_take_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who only looks for the owner, at that very moment, keeps nobody from starting."""
    Lock.acquire(tmp_path).release()
    looking = os.open(tmp_path / "relay.lock", os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)
    with pytest.raises(Locked):
        Lock.acquire(tmp_path)
    monkeypatch.setattr(time, "sleep", lambda _: os.close(looking))  # the look ends while the lock is waited for
    Lock.acquire(tmp_path).release()


@pytest.mark.gen_test
async def test_a_database_is_opened_once(settings: Settings) -> None:
    """A second Database on the directory is refused, and nothing of it stays behind."""
    database = await Database.open(settings)
    try:
        with pytest.raises(Locked):
            await Database.open(settings)
        database.owner(Path("/control"))
        assert read_owner(settings.data) == Owner(os.getpid(), __version__, Path("/control"), settings.reserve)
        await database.write(lambda raw: None)
    finally:
        await database.close()
    assert read_owner(settings.data) is None


def test_what_is_no_directory(tmp_path: Path) -> None:
    """A file in the way is named, with what to do."""
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(NotWritable, match=r"file.*--data"):
            Lock.acquire(path)


def test_no_descriptor_is_leaked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock that can't be had, one that is released, and a look at its holder leave none open."""

    def tried(folder: Path, refusal: type[Exception]) -> None:
        with pytest.raises(refusal):
            Lock.acquire(folder)

    (tmp_path / "refused" / "relay.lock").mkdir(parents=True)
    lock = Lock.acquire(tmp_path / "held")
    before = set(Path("/proc/self/fd").iterdir())
    tried(tmp_path / "refused", NotWritable)
    tried(tmp_path / "held", Locked)
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda *_, **__: False)
        tried(tmp_path / "not writable", NotWritable)
    assert read_owner(tmp_path / "held") is not None
    Lock.acquire(tmp_path / "free").release()
    assert read_owner(tmp_path / "free") is None
    assert set(Path("/proc/self/fd").iterdir()) <= before
    lock.release()


def test_a_disk_that_is_not_mounted(tmp_path: Path) -> None:
    """A symlink that leads nowhere is told as what it is."""
    link = tmp_path / "data"
    link.symlink_to(tmp_path / "disk")
    with pytest.raises(NotWritable, match=r"data is a symlink to .*/disk, which is not there: mount"):
        Lock.acquire(link)


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused, as two relays could use the directory at once, with what to do."""

    def flock(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(NotWritable, match=r"\(No locks available\): files can't be locked .*; use a local disk, or"):
        Lock.acquire(tmp_path)


def test_a_file_system_that_locks_files_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is used; relay.lock is enough."""
    flock = fcntl.flock

    def files_alone(descriptor: int, operation: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", files_alone)
    lock = Lock.acquire(tmp_path)
    with pytest.raises(Locked):
        Lock.acquire(tmp_path)
    lock.release()


SHORT = """
import os, pathlib, resource, sys
from relay_tornado.errors import NotWritable
from relay_tornado.storage.lock import Lock
first = os.dup(0)
os.close(first)
resource.setrlimit(resource.RLIMIT_NOFILE, (first + int(sys.argv[2]),) * 2)
try:
    Lock.acquire(pathlib.Path(sys.argv[1]))
except NotWritable as error:
    print(error)
"""


@pytest.mark.parametrize("left", [0, 1])
def test_no_descriptor_is_left(tmp_path: Path, left: int) -> None:
    """That has nothing to do with rights, and which limit is to be raised is said."""
    command = [sys.executable, "-c", SHORT, str(tmp_path), str(left)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "(Too many open files): no more files can be opened: " in done.stdout
    assert "raise the limit (`ulimit -n`" in done.stdout
    assert "rights" not in done.stdout


REFUSED = """
import asyncio, os, pathlib, sys
from relay_tornado.errors import NotWritable
from relay_tornado.settings import Settings
from relay_tornado.storage import migrate
from relay_tornado.storage.database import Database
steps, schema = migrate.steps(), migrate.schema()
migrate.steps, migrate.schema = lambda: steps, lambda: schema  # a clone in /root is closed to the other user
os.setuid(65534)
async def open_it():
    await Database.open(Settings(data=pathlib.Path(sys.argv[1])))
    os._exit(0)  # as if it was killed, so that the WAL stays
try:
    asyncio.run(open_it())
except NotWritable as error:
    print(error)
"""


@pytest.fixture
def open_to_all() -> Iterator[Path]:
    """A directory into which every user may look; pytest's own are closed."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def _opened(data: Path) -> str:
    """Opens the directory as another user; returns what keeps that from it."""
    command = [sys.executable, "-c", REFUSED, str(data)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.mark.parametrize("what", ["the parent", "the directory", "relay.db", "relay.witness"])
def test_what_must_not_be_written(open_to_all: Path, what: str) -> None:
    """Missing rights are named as such, whichever file lacks them."""
    needs_root("it becomes another user")
    data = open_to_all / "data"
    if what != "the parent":
        data.mkdir()
        data.chmod(0o755 if what == "the directory" else 0o777)
    if what.startswith("relay"):
        (data / "relay.db").write_bytes(b"")
        (data / "relay.witness").write_bytes(b"")
        for path in data.iterdir():
            path.chmod(0o666)
        (data / what).chmod(0o444)
    said = _opened(data)
    assert "--data" in said
    assert str(data) in said


def _of_another_user(folder: Path) -> Path:
    """A directory in this one that another user has opened."""
    needs_root("it becomes another user")
    data = folder / "data"
    data.mkdir()
    os.chown(data, 65534, 65534)
    assert _opened(data) == ""
    return data


@pytest.mark.parametrize("what", ["relay.lock", "relay.db", "relay.db-wal", "relay.db-shm", "relay.witness"])
@pytest.mark.parametrize("how", ["of root", "closed"])
def test_the_advice_on_rights_mends_them(open_to_all: Path, what: str, how: str) -> None:
    """The file is named, whose it is, and a command after which it opens: also where SQLite's error names none."""
    data = _of_another_user(open_to_all)
    if how == "closed":
        (data / what).chmod(0)
    else:
        os.chown(data / what, 0, 0)
    said = _opened(data)
    assert str(data / what) in said
    _, _, mend = said.partition("chmod " if how == "closed" else "as root, ")
    if how == "closed":
        mend = f"chmod {mend}"
    else:
        assert "uid 0" in said
    subprocess.run(mend, shell=True, check=True, timeout=60)
    assert _opened(data) == ""


def test_the_advice_on_rights_names_every_file(open_to_all: Path) -> None:
    """Also those beside relay.db without which a relay starts, so that one command gives it all of them; but no file
    of somebody else."""
    data = _of_another_user(open_to_all)
    for name in ("search.db", "series.db", "sessions.json", "notes.txt"):
        (data / name).touch(0o600)
    os.chown(data / "relay.db", 0, 0)
    subprocess.run(_opened(data).partition("as root, ")[2], shell=True, check=True, timeout=60)
    assert {path.name for path in data.iterdir() if path.owner() == "root"} == {"notes.txt"}


@pytest.mark.gen_test
async def test_a_refused_start_leaves_no_lock(tmp_path: Path) -> None:
    """After a start that failed the directory is free again."""
    (tmp_path / "relay.db").mkdir()
    with pytest.raises(NotWritable):
        await Database.open(Settings(data=tmp_path))
    assert read_owner(tmp_path) is None


def test_a_directory_that_alone_must_not_be_written(open_to_all: Path) -> None:
    """Where all files are there, who makes another one would be the first to find out, and blame that."""
    data = _of_another_user(open_to_all)
    data.chmod(0o500)
    said = _opened(data)
    assert f"can't write to the data directory {data} (Permission denied): give the user that runs the relay" in said
    data.chmod(0o700)
    assert _opened(data) == ""
