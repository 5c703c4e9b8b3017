"""One SQLite connection with a thread of its own: whole functions run there, with one change of thread each.

The only module that knows aiosqlite, and the only place that uses something of it that is not public: its
`Connection._execute`, which runs any function on the connection's thread (a test pins it). Statement by statement,
as its public methods go, a commit would cost a dozen changes of thread.
"""

from __future__ import annotations

import asyncio
import errno
import sqlite3
import threading
import types
from collections.abc import Callable, Generator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, cast

import aiosqlite

from relay_tornado.errors import NO_THREAD
from relay_tornado.low_memory import run_in_thread
from relay_tornado.storage.damage import unquoted
from relay_tornado.storage.library import guard_schema

T = TypeVar("T")

Factory: TypeAlias = Callable[..., sqlite3.Connection]
"""What makes the raw connection: `sqlite3.Connection`, or a class of a test that fails where told to."""

_Steps: TypeAlias = Generator[Any, None, aiosqlite.Connection]
"""What an awaitable goes through in the loop."""

JOURNAL_LIMIT = 64 << 20
"""Bytes that the WAL file keeps at most when it is used from its start again."""

BUSY_TIMEOUT = 5000
"""Milliseconds that a statement waits for a lock that somebody else holds."""

_STATEMENTS = 256

sqlite3.register_adapter(bytes, bytes)
"""Otherwise sqlite3 looks at each value of bytes for a way to adapt it, in vain, which costs more than binding it."""

_BEGINS = 10.0
"""Seconds until a thread that does not say that it runs counts as none."""

_JOIN = 2.0


class Connection:
    """A connection and its thread. Functions run in the order in which they were given."""

    def __init__(self, proxy: aiosqlite.Connection, raw: sqlite3.Connection, thread: threading.Thread) -> None:
        self._proxy = proxy
        self._thread = thread
        self._raw = raw
        self._closed = False

    @classmethod
    async def writer(cls, path: Path, factory: Factory = sqlite3.Connection) -> Connection:
        """Opens a file, made where it is missing, for reading and writing, with the relay's settings.

        Raises sqlite3.Error, and OSError where no thread can be started; no thread stays behind then.
        """
        return await cls._open(path, "rwc", _prepare_writer, factory)

    @classmethod
    async def reader(cls, path: Path, factory: Factory = sqlite3.Connection) -> Connection:
        """Opens a file that is there, for reading only: nothing done here can change it. Raises what `writer` does."""
        return await cls._open(path, "ro", _prepare_reader, factory)

    @classmethod
    async def _open(
        cls, path: Path, mode: str, prepare: Callable[[sqlite3.Connection], None], factory: Factory
    ) -> Connection:
        opening = asyncio.ensure_future(cls._begin(path, mode, prepare, factory))
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            # Nobody is there to close what comes of it.
            with suppress(Exception):
                await (await opening).close()
            raise

    @classmethod
    async def _begin(
        cls, path: Path, mode: str, prepare: Callable[[sqlite3.Connection], None], factory: Factory
    ) -> Connection:
        made: list[sqlite3.Connection] = []
        threads: list[threading.Thread] = []

        def make(*args: Any, **options: Any) -> sqlite3.Connection:
            threads.append(threading.current_thread())
            made.append(factory(*args, **options))
            return made[-1]

        proxy = aiosqlite.connect(
            uri(path, mode),
            uri=True,
            isolation_level=None,
            cached_statements=_STATEMENTS,
            factory=make,
            check_same_thread=False,  # for `here`
        )
        try:
            await _go_on(await _begin_thread_of(proxy))
        except sqlite3.Error:
            for thread in threads:  # it is on its way out, and must be gone before the loop is
                thread.join()
            raise
        connection = cls(proxy, made[-1], threads[-1])
        try:
            await connection.run(prepare)
        except BaseException:
            await connection.close()
            raise
        return connection

    async def run(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """Calls the function with the raw connection on its thread; what it returns or raises comes out here.

        A cancelled caller leaves early, the function still runs to its end.
        """
        execute: Any = self._proxy._execute
        with unquoted():
            return cast(T, await execute(function, self._raw))

    def here(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """Calls the function with the raw connection at once, in the loop: it must be quick, and wait for nothing, and
        nothing may be running on the thread. Raises what the function raises."""
        return function(self._raw)

    async def close(self) -> None:
        """Waits for what is running, closes and ends the thread. May be repeated. Raises sqlite3.Error."""
        if not self._closed:
            self._closed = True
            try:
                await self._proxy.close()
            except asyncio.CancelledError:
                self._thread.join(_JOIN)  # it is told to end, and must be gone before the loop is
                raise

    def abandon(self) -> None:
        """Closes without `await`, for when everything is being cancelled: the thread would keep the process alive.

        Waits a moment for the thread's end, so that it finds the loop still there.
        """
        if not self._closed:
            self._closed = True
            self._proxy.stop()
            self._thread.join(_JOIN)


async def _begin_thread_of(proxy: aiosqlite.Connection) -> _Steps:
    """What `await proxy` does at once, which is to begin its thread: that waits until it runs, and for ever where there
    is no memory for it, so it is called in another one. Returns what is left to be done. Raises OSError."""
    try:
        async with asyncio.timeout(_BEGINS):
            return await run_in_thread(proxy.__await__, lambda steps: steps.close())
    except BaseException as error:
        proxy.stop()  # one that begins later ends at once
        if isinstance(error, RuntimeError | TimeoutError):
            raise OSError(errno.EAGAIN, NO_THREAD) from error
        raise


@types.coroutine
def _go_on(steps: _Steps) -> _Steps:
    return (yield from steps)


def uri(path: Path, mode: str) -> str:
    """How SQLite is told to open a file: `mode` is ro, rw or rwc."""
    return f"{path.absolute().as_uri()}?mode={mode}"


def keep_statements_in_memory(raw: sqlite3.Connection) -> None:
    """What its pages were before a statement, in case that has to be undone, is in no file: for a writer whose
    statements change little."""
    raw.execute("PRAGMA temp_store = MEMORY")


def _prepare_writer(raw: sqlite3.Connection) -> None:
    # The order matters: auto_vacuum can be chosen only before the first table, and before WAL.
    raw.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT}")
    raw.execute("PRAGMA auto_vacuum = INCREMENTAL")
    mode = raw.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise sqlite3.OperationalError(f"the file system does not support SQLite's WAL (journal_mode is {mode})")
    raw.execute("PRAGMA synchronous = FULL")
    raw.execute("PRAGMA foreign_keys = ON")
    raw.execute(f"PRAGMA journal_size_limit = {JOURNAL_LIMIT}")
    guard_schema(raw)
    raw.execute("PRAGMA wal_autocheckpoint = 0")
    # Some builds overwrite all that is deleted: a trim would write as much as it frees, on a disk that may be full.
    raw.execute("PRAGMA secure_delete = FAST")


def _prepare_reader(raw: sqlite3.Connection) -> None:
    raw.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT}")
    guard_schema(raw)
    # From its first read on it has the file in use: a writer that is closed is not the last one then, which would copy
    # the WAL, whatever the file has become, and delete it.
    raw.execute("SELECT 1 FROM sqlite_schema").fetchone()
