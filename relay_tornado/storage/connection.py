"""An SQLite connection with a thread of its own, on which whole functions run, with one thread switch each way.

Only this module uses aiosqlite. It uses two private parts of it (a test pins them): a connection's thread, and
`Connection._execute`, which runs any function there. With the public methods, which run single statements, a commit
would cost a dozen thread switches.
"""

from __future__ import annotations

import asyncio
import errno
import sqlite3
import threading
import types
from collections.abc import Callable, Generator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, cast
from weakref import WeakSet

import aiosqlite

from relay_tornado.errors import NO_THREAD
from relay_tornado.low_memory import run_in_thread
from relay_tornado.storage.damage import unquoted
from relay_tornado.storage.sqlite_compat import guard_schema

T = TypeVar("T")

Factory: TypeAlias = Callable[..., sqlite3.Connection]
"""Makes the raw connection: `sqlite3.Connection`, or a test's class that fails on demand."""

_Steps: TypeAlias = Generator[Any, None, aiosqlite.Connection]
"""The steps of an awaitable in the event loop."""

JOURNAL_LIMIT = 64 << 20
"""The most bytes that the WAL file keeps when it restarts at its beginning."""

BUSY_TIMEOUT = 5000
"""Milliseconds that a statement waits for another connection's lock."""

_STATEMENTS = 256

_INCREMENTAL = 2
"""The number of this auto_vacuum."""

sqlite3.register_adapter(bytes, bytes)
"""Without this, sqlite3 looks for an adapter for each value of bytes, which costs more than binding it."""

_BEGINS = 10.0
"""Seconds until a thread that has not reported counts as not started."""

_JOIN = 2.0

_INTERRUPT = 0.02
"""Seconds between two interrupts of a connection that is to be closed: each ends the one statement that is running."""

_threads: WeakSet[threading.Thread] = WeakSet()
"""Those of all connections."""


class Connection:
    """A connection and its thread. Functions run in the order of their calls."""

    def __init__(self, proxy: aiosqlite.Connection, raw: sqlite3.Connection) -> None:
        self._proxy = proxy
        self._thread = proxy._thread
        _threads.add(self._thread)
        self._raw = raw
        self._closed = False
        self._interrupting: asyncio.TimerHandle | None = None

    @classmethod
    async def writer(cls, path: Path, factory: Factory = sqlite3.Connection) -> Connection:
        """Opens a file, created if it is missing, for reading and writing, with the relay's settings.

        Raises sqlite3.Error, and OSError if no thread can be started; in both cases no thread is left behind.
        """
        return await cls._open(path, "rwc", _prepare_writer, factory)

    @classmethod
    async def reader(cls, path: Path, factory: Factory = sqlite3.Connection) -> Connection:
        """Opens an existing file read-only: nothing done here can change it. Raises the same errors as `writer`."""
        return await cls._open(path, "ro", _prepare_reader, factory)

    @classmethod
    async def _open(
        cls, path: Path, mode: str, prepare: Callable[[sqlite3.Connection], None], factory: Factory
    ) -> Connection:
        opening = asyncio.ensure_future(cls._begin(path, mode, prepare, factory))
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            # Nobody is left to close the connection.
            with suppress(Exception):
                await (await opening).close()
            raise

    @classmethod
    async def _begin(
        cls, path: Path, mode: str, prepare: Callable[[sqlite3.Connection], None], factory: Factory
    ) -> Connection:
        made: list[sqlite3.Connection] = []

        def make(*args: Any, **options: Any) -> sqlite3.Connection:
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
        except BaseException:
            with suppress(RuntimeError):  # it has not begun
                proxy._thread.join(_JOIN)  # it is ending, and has to end before the event loop is closed
            for each in made:
                each.close()
            raise
        connection = cls(proxy, made[-1])
        try:
            await connection.run(prepare)
        except BaseException:
            await connection.close()
            raise
        return connection

    async def run(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """Calls the function with the raw connection on its thread. Returns or raises what the function does.

        If the caller is cancelled, the function still runs to its end.
        """
        execute: Any = self._proxy._execute
        with unquoted():
            return cast(T, await execute(function, self._raw))

    def here(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """Calls the function with the raw connection at once, in the event loop. It must be quick and must not wait,
        and nothing may be running on the thread. Raises what the function raises."""
        return function(self._raw)

    def interrupt(self) -> None:
        """Breaks off what is running and what waits, until the connection is closed: statements raise
        sqlite3.OperationalError, and a transaction is rolled back. May be repeated."""
        if self._interrupting is not None:
            self._interrupting.cancel()
        with suppress(sqlite3.ProgrammingError):  # it is closed
            self._raw.interrupt()
            self._interrupting = asyncio.get_running_loop().call_later(_INTERRUPT, self.interrupt)

    async def close(self) -> None:
        """Waits for what is running, closes the connection and ends the thread. May be repeated. Raises
        sqlite3.Error."""
        if not self._closed:
            self._closed = True
            try:
                await self._proxy.close()
            except asyncio.CancelledError:
                self._thread.join(_JOIN)  # it was told to end, and has to end before the event loop is closed
                raise
            finally:
                if self._interrupting is not None:
                    self._interrupting.cancel()

    def abandon(self) -> None:
        """Closes without `await`, when everything is being cancelled: the thread would keep the process alive.

        Waits a moment for the thread to end, as it needs the event loop for that.
        """
        if not self._closed:
            self._closed = True
            self._proxy.stop()
            self._thread.join(_JOIN)


def serves(thread: threading.Thread | None) -> bool:
    """Whether it is a connection's thread. One that failed, for lack of memory to tell an outcome, leaves whoever waits
    for that to wait for ever."""
    return thread in _threads


async def _begin_thread_of(proxy: aiosqlite.Connection) -> _Steps:
    """The first step of `await proxy`, which starts its thread. That waits until the thread runs, and without memory
    for it waits for ever, so it is called in another thread. Returns the remaining steps. Raises OSError."""
    try:
        async with asyncio.timeout(_BEGINS):
            return await run_in_thread(proxy.__await__, lambda steps: steps.close())
    except BaseException as error:
        proxy.stop()  # a thread that starts later ends at once
        if isinstance(error, RuntimeError | TimeoutError):
            raise OSError(errno.EAGAIN, NO_THREAD) from error
        raise


@types.coroutine
def _go_on(steps: _Steps) -> _Steps:
    return (yield from steps)


def uri(path: Path, mode: str) -> str:
    """The URI with which SQLite opens a file; `mode` is ro, rw or rwc, perhaps with further parameters."""
    return f"{path.absolute().as_uri()}?mode={mode}"


def opened(path: Path, mode: str = "ro", timeout: float = 5.0) -> closing[sqlite3.Connection]:
    """A connection to an existing file for a `with` block, in the calling thread, with SQLite's own settings. `mode` is
    that of `uri`; `timeout` is in seconds, to wait for another connection's lock."""
    return closing(sqlite3.connect(uri(path, mode), uri=True, timeout=timeout))


def keep_statements_in_memory(raw: sqlite3.Connection) -> None:
    """Keeps the statement journals (pages as they were before a statement) in memory, for a writer whose statements
    change little."""
    raw.execute("PRAGMA temp_store = MEMORY")


def _prepare_writer(raw: sqlite3.Connection) -> None:
    # The order matters: the next one writes, after which SQLite would copy a long WAL into the file, unchecked; and
    # auto_vacuum can be chosen only before the first table, and before WAL.
    raw.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT}")
    raw.execute("PRAGMA wal_autocheckpoint = 0")
    if raw.execute("PRAGMA auto_vacuum").fetchone() != (_INCREMENTAL,):  # it would write, which a full disk refuses
        raw.execute("PRAGMA auto_vacuum = INCREMENTAL")
    mode = raw.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise sqlite3.OperationalError(f"the file system does not support SQLite's WAL (journal_mode is {mode})")
    raw.execute("PRAGMA synchronous = FULL")
    raw.execute("PRAGMA foreign_keys = ON")
    raw.execute(f"PRAGMA journal_size_limit = {JOURNAL_LIMIT}")
    guard_schema(raw)
    # Some builds overwrite whatever is deleted: a trim would write as much as it frees, perhaps on a full disk.
    raw.execute("PRAGMA secure_delete = FAST")


def _prepare_reader(raw: sqlite3.Connection) -> None:
    raw.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT}")
    guard_schema(raw)
    # The first read marks the file as in use. A writer that is closed is then not the last connection, which would copy
    # the WAL into the file, whatever that is by now, and delete it.
    raw.execute("SELECT 1 FROM sqlite_schema").fetchone()
